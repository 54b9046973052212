"""From a layout to writes: one for each Deployment, none where somebody else may not be, and a twin that outlived its GpuWorkload."""

from typing import Any

import pytest
from tests.builders import (
    NAMESPACE,
    make_capacity,
    make_deployment,
    make_memory,
    make_node,
    make_pods,
    make_pool,
    make_snapshot,
    make_twin,
    make_workload,
    plan_of,
)

from spillway.core.memory import Memory, SplitMemory
from spillway.core.model import (
    Act,
    ApplyTwin,
    CapacityType,
    DeleteTwin,
    Deployment,
    FallbackPolicy,
    HandOverTwin,
    Mode,
    Node,
    ObjectKey,
    Operation,
    OperationState,
    Pod,
    PodPhase,
    ProviderType,
    SetReplicas,
    Snapshot,
    Workload,
)
from spillway.core.scheduling import Constraints, Requirement

SOURCE, TWIN = ObjectKey(NAMESPACE, "llm"), ObjectKey(NAMESPACE, "llm-burst")
ON_SPOT = Constraints(terms=((Requirement(key="pool", operator="In", values=("spot-a",)),),))
REFUSING = make_pool(
    "spot-a", capacity_type=CapacityType.SPOT, provider=ProviderType.KWOK
)  # mode Observe: never sized
STARTED = make_capacity(2)
Written = tuple[str, int, int]


def bursting(mode: Mode = Mode.ENFORCE, **over: Any) -> Workload:  # noqa: ANN401 -- fields of Workload
    return make_workload(capacity=STARTED, mode=mode, max_replicas=20, **over)


def on_spot(ready: int, refused: int = 0) -> tuple[Pod, ...]:
    own: dict[str, Any] = {"of": "llm-burst", "constraints": ON_SPOT}
    waiting = make_pods(refused, PodPhase.UNSCHEDULABLE, start=ready, **{**own, "node": None})
    return (*make_pods(ready, **{**own, "node": "spot-1"}), *waiting)


def nodes(*pods: Pod) -> tuple[Node, ...]:
    """A node on demand with room, and one on spot without."""
    taken = sum(pod.node == "spot-1" for pod in pods)
    return make_node(), make_node("spot-1", uid="spot-1", gpus=taken, labels={"pool": "spot-a"})


def acts(
    workload: Workload,
    source: Deployment,
    twin: Deployment | None,
    *pods: Pod,
    count: int,
    **over: Any,  # noqa: ANN401 -- fields of Snapshot
) -> tuple[Act, ...]:
    memory = make_memory(workload, replicas=count, split=SplitMemory(count=count, source=source.replicas))
    deployments = (source,) if twin is None else (source, twin)
    snapshot = make_snapshot(
        workload, deployments, pods=pods, **{"pools": (REFUSING,), "nodes": nodes(*pods), **over}
    )
    return plan_of(snapshot, memory).acts


def writes(found: tuple[Act, ...]) -> list[Written]:
    """Every write of replicas as (Deployment, before, to)."""
    return [(act.target.name, act.before, act.to) for act in found if isinstance(act, SetReplicas)]


def test_a_workload_without_a_burst_is_written_once() -> None:
    plan = plan_of(make_snapshot(utilization=0.95))

    assert [(act.before, act.to, act.count) for act in plan.acts if isinstance(act, SetReplicas)] == [
        (4, 5, None)
    ]


def test_a_burst_is_first_made_with_its_replicas_and_the_baseline_stays() -> None:
    (act,) = acts(bursting(), make_deployment(replicas=2), None, *make_pods(2), count=2, utilization=0.95)

    # 2 at 95 % with target 80 %: ceil(2 * .95 / .8) = 3
    assert isinstance(act, ApplyTwin)
    assert (act.twin, act.replicas, act.count) == (TWIN, 1, 3)


def test_growth_of_a_burst_goes_to_the_twin_alone() -> None:
    found = acts(
        bursting(),
        make_deployment(replicas=2),
        make_twin(replicas=4),
        *make_pods(2),
        *on_spot(4),
        count=6,
        utilization=0.95,
    )

    # 6 at 95 % with target 80 %: ceil(6 * .95 / .8) = 8, of which 2 are the baseline
    assert writes(found) == [("llm-burst", 4, 6)]


def test_what_spot_refuses_is_covered_on_the_source_and_the_twin_keeps_asking() -> None:
    found = acts(
        bursting(), make_deployment(replicas=2), make_twin(), *make_pods(2), *on_spot(5, refused=3), count=10
    )

    assert writes(found) == [("llm", 2, 5)]


def test_a_stand_in_is_our_own_write_and_carries_the_count_that_stands() -> None:
    (act,) = acts(
        bursting(), make_deployment(replicas=2), make_twin(), *make_pods(2), *on_spot(5, refused=3), count=10
    )

    assert isinstance(act, SetReplicas)
    assert act.count == 10


def test_a_fall_of_the_load_is_taken_from_the_twin() -> None:
    found = acts(
        bursting(),
        make_deployment(replicas=2),
        make_twin(),
        *make_pods(2),
        *on_spot(8),
        count=10,
        utilization=0.3,
    )

    assert writes(found) == [("llm-burst", 8, 6)]


class TestModes:
    """What a mode forbids is forbidden on both Deployments."""

    @pytest.mark.parametrize(
        ("mode", "written"),
        [
            pytest.param(Mode.ENFORCE, [("llm-burst", 8, 6)], id="Enforce"),
            pytest.param(Mode.SCALE_UP_ONLY, [], id="ScaleUpOnly"),
            pytest.param(Mode.OBSERVE, [], id="Observe"),
        ],
    )
    def test_only_enforce_lowers_the_twin(self, mode: Mode, written: list[Written]) -> None:
        found = acts(
            bursting(mode),
            make_deployment(replicas=2),
            make_twin(),
            *make_pods(2),
            *on_spot(8),
            count=10,
            utilization=0.3,
        )

        assert writes(found) == written

    @pytest.mark.parametrize(
        ("mode", "written"),
        [
            pytest.param(Mode.ENFORCE, [("llm", 5, 4)], id="Enforce"),
            pytest.param(Mode.SCALE_UP_ONLY, [], id="ScaleUpOnly"),
        ],
    )
    def test_only_enforce_lets_stand_ins_go_or_what_they_stood_in_for(
        self, mode: Mode, written: list[Written]
    ) -> None:
        found = acts(
            bursting(mode), make_deployment(replicas=5), make_twin(), *make_pods(5), *on_spot(8), count=10
        )

        assert writes(found) == written

    @pytest.mark.parametrize("mode", [Mode.ENFORCE, Mode.SCALE_UP_ONLY, Mode.OBSERVE])
    def test_stand_ins_are_raised_by_whoever_may_grow(self, mode: Mode) -> None:
        found = acts(
            bursting(mode),
            make_deployment(replicas=2),
            make_twin(),
            *make_pods(2),
            *on_spot(5, refused=3),
            count=10,
        )

        assert writes(found) == ([] if mode is Mode.OBSERVE else [("llm", 2, 5)])

    def test_a_paused_workload_keeps_its_twin_as_it_is(self) -> None:
        found = acts(
            bursting(paused=True),
            make_deployment(replicas=2),
            make_twin(edited_by="kubectl-edit"),
            *make_pods(2),
            *on_spot(5, refused=3),
            count=10,
        )

        assert found == ()

    def test_wait_raises_nothing_on_demand(self) -> None:
        waits = make_workload(capacity=make_capacity(policy=FallbackPolicy.WAIT), max_replicas=20)

        found = acts(
            waits, make_deployment(replicas=2), make_twin(), *make_pods(2), *on_spot(5, refused=3), count=10
        )

        assert "llm" not in {name for name, _, _ in writes(found)}


def own_write(of: ObjectKey, before: int, to: int, state: OperationState) -> Operation:
    act = SetReplicas(
        workload=SOURCE, target=of, target_uid=f"deployment-{of.name}", before=before, to=to, count=10
    )
    return Operation(act=act, state=state)


@pytest.mark.parametrize("state", [OperationState.RUNNING, OperationState.AWAITING_CACHE])
@pytest.mark.parametrize(
    ("busy", "written"),
    [
        pytest.param(own_write(SOURCE, 2, 4, OperationState.RUNNING), [], id="the source"),
        pytest.param(own_write(TWIN, 8, 9, OperationState.RUNNING), [("llm", 2, 5)], id="the twin"),
    ],
)
def test_a_deployment_with_a_write_under_way_is_not_written_and_the_other_is(
    busy: Operation, written: list[Written], state: OperationState
) -> None:
    found = acts(
        bursting(),
        make_deployment(replicas=2),
        make_twin(),
        *make_pods(2),
        *on_spot(5, refused=3),
        count=10,
        operations=(Operation(act=busy.act, state=state),),
    )

    assert writes(found) == written


def test_a_twin_that_must_be_mended_is_mended_before_its_count_moves() -> None:
    found = acts(
        bursting(),
        make_deployment(replicas=2),
        make_twin(edited_by="kubectl-edit"),
        *make_pods(2),
        *on_spot(8),
        count=10,
        utilization=0.3,
    )

    assert [type(act) for act in found] == [ApplyTwin]
    assert [act.replicas for act in found if isinstance(act, ApplyTwin)] == [8]


def test_what_a_raised_baseline_carries_is_taken_off_the_twin() -> None:
    found = acts(
        make_workload(capacity=make_capacity(10), max_replicas=20),
        make_deployment(replicas=10),
        make_twin(replicas=2),
        *make_pods(10),
        *on_spot(2),
        count=10,
    )

    assert writes(found) == [("llm-burst", 2, 0)]


def test_an_empty_twin_that_may_not_be_used_any_more_is_deleted() -> None:
    found = acts(
        bursting(), make_deployment(replicas=2), make_twin(replicas=0), *make_pods(2), count=2, pools=()
    )

    assert [type(act) for act in found] == [DeleteTwin]


class TestHandover:
    """A twin whose GpuWorkload is gone serves until its source does."""

    def acts(self, twin: Deployment, *, source: int = 2, **over: Any) -> tuple[Act, ...]:  # noqa: ANN401 -- fields of Snapshot
        workloads = over.pop("workloads", ())
        deployment = over.pop("deployment", make_deployment(replicas=source))
        pods = (*make_pods(source), *on_spot(6, refused=2))
        snapshot: Snapshot = make_snapshot(
            workloads,
            (deployment, twin),
            pods=pods,
            pools=(REFUSING,),
            nodes=nodes(*pods),
            **over,
        )
        return plan_of(snapshot, Memory()).acts

    @pytest.mark.case("node-and-spot E74")
    def test_first_what_the_source_must_reach_is_written_on_the_twin(self) -> None:
        # 2 stand, 6 of the twin's 8 serve: 8
        assert self.acts(make_twin()) == (
            HandOverTwin(twin=TWIN, twin_uid="deployment-llm-burst", replicas=8),
        )

    @pytest.mark.case("node-and-spot E74")
    def test_then_the_source_is_raised(self) -> None:
        assert writes(self.acts(make_twin(handover=8))) == [("llm", 2, 8)]

    @pytest.mark.case("node-and-spot E74")
    def test_then_the_twin_goes(self) -> None:
        assert [type(act) for act in self.acts(make_twin(handover=8), source=8)] == [DeleteTwin]

    def test_a_workload_that_is_only_unusable_keeps_its_twin(self) -> None:
        assert self.acts(make_twin(), stored_workloads=frozenset({"workload-llm"})) == ()

    def test_a_workload_made_anew_on_the_same_target_takes_the_twin_over(self) -> None:
        anew = make_workload("other", target="llm", capacity=STARTED)

        found = self.acts(make_twin(), workloads=(anew,), stored_workloads=frozenset({anew.uid}))

        assert [act.workload_uid for act in found if isinstance(act, ApplyTwin)] == ["workload-other"]
        assert not any(isinstance(act, HandOverTwin | DeleteTwin) for act in found)

    @pytest.mark.parametrize("of", [SOURCE, TWIN])
    def test_nothing_is_done_while_a_write_of_either_is_under_way(self, of: ObjectKey) -> None:
        busy = own_write(of, 2, 8, OperationState.AWAITING_CACHE)

        assert self.acts(make_twin(), operations=(busy,)) == ()

    @pytest.mark.case("node-and-spot E67")
    def test_a_source_that_is_being_deleted_takes_its_twin_along(self) -> None:
        going = make_deployment(replicas=2, terminating=True)

        assert self.acts(make_twin(), deployment=going) == ()
