"""Whose pods are whose, and what each counts as."""

from datetime import timedelta

import pytest
from tests.builders import NOW, make_deployment, make_pod, make_pods, make_snapshot, make_workload, seconds

from spillway.core.model import PodPhase
from spillway.core.plan import CapacityReason
from spillway.core.replicas import Replicas, capacity_finding, classify, is_rolling_out, pods_by_deployment


def classes(*pods: object, revision: int = 1) -> Replicas:
    return classify(
        [(pod, int(pod.owner_uid[-1])) for pod in pods],  # type: ignore[attr-defined]
        revision=revision,
        rules=make_workload().readiness,
        pending_timeout=seconds(900),
        now=NOW,
    )


@pytest.mark.parametrize(
    ("pod", "counted_as"),
    [
        pytest.param(make_pod(since=NOW - seconds(60)), "settled", id="Ready for exactly the settle time"),
        pytest.param(make_pod(since=NOW - seconds(59)), "unsettled", id="Ready just now"),
        pytest.param(make_pod(phase=PodPhase.PENDING), "loading", id="not scheduled yet"),
        pytest.param(
            make_pod(phase=PodPhase.LOADING, since=NOW - seconds(600)), "loading", id="at its grace"
        ),
        pytest.param(
            make_pod(phase=PodPhase.LOADING, since=NOW - seconds(601)), "broken", id="past its grace"
        ),
        pytest.param(make_pod(phase=PodPhase.UNKNOWN), "loading", id="on a lost node"),
        pytest.param(make_pod(phase=PodPhase.UNSCHEDULABLE), "unschedulable", id="no node fits"),
        pytest.param(make_pod(phase=PodPhase.BROKEN), "broken", id="crash loop"),
    ],
)
def test_a_pod_counts_as_one_thing(pod: object, counted_as: str) -> None:
    found = classes(pod)

    sizes = {
        name: len(getattr(found, name))
        for name in ("settled", "unsettled", "loading", "unschedulable", "broken")
        if getattr(found, name)
    }
    assert sizes == {counted_as: 1}


@pytest.mark.case("workload-autoscalers D51")
def test_the_time_without_a_node_is_not_taken_from_the_load_grace() -> None:
    waited = make_pod(phase=PodPhase.LOADING, since=NOW - seconds(20), created_at=NOW - timedelta(hours=1))

    assert classes(waited).counts.loading == 1


def test_a_pod_that_lost_readiness_after_hours_of_service_is_not_broken() -> None:
    overloaded = make_pod(
        phase=PodPhase.LOADING, since=NOW - seconds(20), created_at=NOW - timedelta(hours=9)
    )

    assert not classes(overloaded, *make_pods(1, start=1)).revision_broken


@pytest.mark.case("workload-autoscalers D54")
def test_a_terminating_pod_is_neither_supply_nor_waiting() -> None:
    found = classes(make_pod(phase=PodPhase.TERMINATING), make_pod(1))

    assert (found.ready, found.terminating, len(found.loading)) == (1, 1, 0)


@pytest.mark.case("workload-autoscalers D53")
def test_finished_pods_lying_around_belong_to_nobody() -> None:
    snapshot = make_snapshot(pods=[make_pod(0, PodPhase.FINISHED), make_pod(1)])

    assert [pod.key.name for pod, _ in pods_by_deployment(snapshot)["deployment-llm"]] == ["llm-r1-00001"]


@pytest.mark.case("workload-autoscalers D52")
def test_a_foreign_pod_is_nobodys_whatever_its_labels() -> None:
    snapshot = make_snapshot(pods=[make_pod(0, owner_uid="replicaset-of-somebody-else"), make_pod(1)])

    assert len(pods_by_deployment(snapshot)["deployment-llm"]) == 1


@pytest.mark.parametrize(
    ("pods", "is_broken"),
    [
        pytest.param([make_pod(0), make_pod(1, PodPhase.BROKEN)], True, id="half of them"),
        pytest.param(
            [*make_pods(2), make_pod(2, PodPhase.BROKEN)], False, id="one sick pod among healthy ones"
        ),
        pytest.param([make_pod(0), make_pod(1, PodPhase.BROKEN, revision=2)], True, id="the newest one only"),
        pytest.param([make_pod(0, PodPhase.LOADING)], False, id="still loading"),
        pytest.param([*make_pods(8), *make_pods(2, PodPhase.BROKEN, start=8)], True, id="two in a row"),
        pytest.param(
            [*make_pods(8, since=NOW - seconds(10)), *make_pods(2, PodPhase.BROKEN, start=8)],
            False,
            id="two, and others came up since",
        ),
    ],
)
def test_a_revision_is_broken_when_half_of_it_does_not_come_up(
    pods: list[object], *, is_broken: bool
) -> None:
    newest = 2 if any(pod.key.name.startswith("llm-r2") for pod in pods) else 1  # type: ignore[attr-defined]

    assert classes(*pods, revision=newest).revision_broken is is_broken


def test_broken_pods_of_an_old_revision_do_not_break_the_new_one() -> None:
    found = classes(make_pod(0, PodPhase.BROKEN), make_pod(1, revision=2), revision=2)

    assert not found.revision_broken


@pytest.mark.parametrize(
    ("over", "is_rolling"),
    [
        pytest.param({}, False, id="at rest"),
        pytest.param({"generation": 2}, True, id="controller behind"),
        pytest.param({"updated_replicas": 2}, True, id="half updated"),
        pytest.param({"replicas": 8, "updated_replicas": 4, "status_replicas": 4}, False, id="only growing"),
        pytest.param({"status_replicas": 8}, False, id="old pods still going"),
    ],
)
def test_a_rollout_is_told_from_growth(over: dict[str, int], *, is_rolling: bool) -> None:
    assert (
        is_rolling_out(
            make_deployment(replicas=4, **over) if "replicas" not in over else make_deployment(**over)
        )
        is is_rolling
    )


@pytest.mark.parametrize(
    ("pods", "failure", "reason"),
    [
        pytest.param([make_pod()], None, None, id="nothing"),
        pytest.param(
            [make_pod(phase=PodPhase.UNSCHEDULABLE)], None, CapacityReason.UNSCHEDULABLE, id="no node"
        ),
        pytest.param([make_pod()], "exceeded quota", CapacityReason.REPLICA_FAILURE, id="quota"),
        pytest.param(
            [make_pod(phase=PodPhase.BROKEN, cause="CrashLoopBackOff")],
            None,
            CapacityReason.REVISION_BROKEN,
            id="revision",
        ),
        pytest.param(
            [*make_pods(3), make_pod(3, PodPhase.BROKEN)], None, CapacityReason.PODS_BROKEN, id="one pod"
        ),
    ],
)
@pytest.mark.case("workload-autoscalers D59")
def test_what_keeps_replicas_from_serving_is_named(
    pods: list[object], failure: str | None, reason: CapacityReason | None
) -> None:
    finding = capacity_finding(classes(*pods), make_deployment(failure=failure))

    assert (finding.reason if finding else None) is reason


@pytest.mark.parametrize(
    "cause", ["ImagePullBackOff", "OOMKilled", "CrashLoopBackOff", "CreateContainerConfigError"]
)
@pytest.mark.case("workload-autoscalers D47")
def test_a_broken_pod_is_reported_with_its_cause(cause: str) -> None:
    finding = capacity_finding(classes(make_pod(phase=PodPhase.BROKEN, cause=cause)), make_deployment())

    assert finding is not None
    assert cause in finding.message


def test_a_pod_whose_node_is_on_its_way_is_no_trouble() -> None:
    waiting = make_pods(2, PodPhase.UNSCHEDULABLE, node=None, message="0/3 nodes are available")
    replicas = classify(
        [(pod, 1) for pod in waiting],
        revision=1,
        rules=make_workload().readiness,
        pending_timeout=seconds(900),
        now=NOW,
    )

    one = capacity_finding(replicas, make_deployment(), awaited={waiting[0].uid})
    none = capacity_finding(replicas, make_deployment(), awaited={pod.uid for pod in waiting})

    assert one is not None
    assert one.message == "1 pods of llm find no node: 0/3 nodes are available"
    assert none is None
