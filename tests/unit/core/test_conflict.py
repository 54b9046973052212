"""Other writers of the same replicas."""

from datetime import timedelta

import pytest
from tests.builders import (
    NAMESPACE,
    NOW,
    make_act,
    make_capacity,
    make_deployment,
    make_hpa,
    make_snapshot,
    make_twin,
    make_workload,
    plan_of,
)

from spillway.core.model import ForeignAutoscaler, ObjectKey
from spillway.core.plan import ConflictReason, InactiveReason


@pytest.mark.case("workload-autoscalers D75")
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("HorizontalPodAutoscaler", ConflictReason.HPA_ON_TARGET),
        ("ScaledObject", ConflictReason.SCALED_OBJECT_ON_TARGET),
    ],
)
def test_another_autoscaler_on_the_target_stops_every_write(kind: str, reason: ConflictReason) -> None:
    workload = make_workload(replicas=2)

    plan = plan_of(make_snapshot(workload, autoscalers=(make_hpa(kind=kind),)))
    decision = plan.decisions[workload.key]

    assert plan.acts == ()
    assert decision.conflict is not None
    assert decision.inactive is not None
    assert (decision.conflict.reason, decision.inactive.reason) == (reason, InactiveReason.CONFLICT)
    assert "their-scaler" in decision.why


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")], ids=["listed first", "listed last"])
@pytest.mark.case("workload-autoscalers D75")
def test_of_two_gpu_workloads_on_one_target_the_older_goes_on(names: tuple[str, str]) -> None:
    ages = {"a": timedelta(days=1), "b": timedelta(days=2)}
    workloads = [make_workload(name, target="llm", created_at=NOW - ages[name]) for name in names]

    plan = plan_of(make_snapshot(workloads, utilization=0.9))

    assert [act.workload.name for act in plan.acts] == ["b"]
    loser = plan.decisions[ObjectKey(NAMESPACE, "a")]
    assert loser.conflict is not None
    assert loser.conflict.reason is ConflictReason.DUPLICATE_WORKLOAD


def test_of_two_gpu_workloads_of_one_age_the_first_name_goes_on() -> None:
    workloads = [make_workload(name, target="llm") for name in ("b", "a")]

    assert [act.workload.name for act in plan_of(make_snapshot(workloads, utilization=0.9)).acts] == ["a"]


def test_an_hpa_on_a_gpu_workload_that_sets_its_replicas_is_no_conflict() -> None:
    workload = make_workload(replicas=6)

    plan = plan_of(make_snapshot(workload, autoscalers=(make_hpa(target_kind="GpuWorkload"),)))

    assert plan.acts == (make_act(before=4, to=6),)
    assert plan.decisions[workload.key].conflict is None


def test_an_hpa_on_a_gpu_workload_without_replicas_is_told_to_set_them_once() -> None:
    workload = make_workload()

    plan = plan_of(
        make_snapshot(workload, autoscalers=(make_hpa(target_kind="GpuWorkload"),), utilization=0.9)
    )
    decision = plan.decisions[workload.key]

    assert decision.conflict is not None
    assert decision.conflict.reason is ConflictReason.SCALE_UNSET
    assert "patch gpuworkload llm" in decision.conflict.message
    assert plan.acts == (make_act(before=4, to=5),)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(make_hpa("another-deployment"), id="another target"),
        pytest.param(make_hpa(target_kind="StatefulSet"), id="another kind"),
        pytest.param(
            ForeignAutoscaler(
                kind="HorizontalPodAutoscaler",
                key=ObjectKey("another-namespace", "hpa"),
                target_kind="Deployment",
                target="llm",
            ),
            id="another namespace",
        ),
    ],
)
def test_an_autoscaler_of_something_else_is_no_conflict(other: ForeignAutoscaler) -> None:
    workload = make_workload()

    assert plan_of(make_snapshot(workload, autoscalers=(other,))).decisions[workload.key].conflict is None


def test_a_conflict_that_ends_lets_it_go_on() -> None:
    snapshot = make_snapshot(utilization=0.9, autoscalers=(make_hpa(),))
    held = plan_of(snapshot)

    assert held.acts == ()
    assert len(plan_of(make_snapshot(deployment=make_deployment(), utilization=0.9), held.memory).acts) == 1


@pytest.mark.case("node-and-spot E72")
def test_another_autoscaler_on_the_burst_twin_stops_every_write_too() -> None:
    workload = make_workload(capacity=make_capacity(2))
    snapshot = make_snapshot(
        workload,
        (make_deployment(replicas=2), make_twin(replicas=4)),
        autoscalers=(make_hpa("llm-burst"),),
    )

    plan = plan_of(snapshot)

    assert plan.acts == ()
    assert "also scales Deployment llm-burst" in plan.decisions[workload.key].why
