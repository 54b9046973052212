"""A workload by tier, as a pass decides it: what bursts and why not, what is kept off spot, what still counts as supply."""

from typing import Any

import pytest
from tests.builders import (
    NAMESPACE,
    NOW,
    decide_one,
    make_capacity,
    make_deployment,
    make_memory,
    make_node,
    make_pod,
    make_pods,
    make_pool,
    make_replica_set,
    make_snapshot,
    make_twin,
    make_workload,
    plan_of,
    reasons,
)

from spillway.core.memory import SplitMemory
from spillway.core.model import (
    ApplyTwin,
    Burst,
    CapacityType,
    Deployment,
    FallbackPolicy,
    GrowPool,
    Guardrails,
    Instance,
    InstanceState,
    Mode,
    Node,
    NodePool,
    ObjectKey,
    Operation,
    OperationState,
    Pod,
    PodPhase,
    PoolState,
    ProviderType,
    TwinChange,
    Workload,
)
from spillway.core.plan import (
    BurstReason,
    CapacityReason,
    CapacityView,
    Decision,
    IsolationReason,
    LimitReason,
)
from spillway.core.scheduling import Constraints, Requirement, Taint, Toleration

SPOT = Taint("spot", "true")
TOLERATES = Constraints(tolerations=(Toleration(key="spot", operator="Exists"),))
ON_SPOT = Constraints(
    terms=((Requirement(key="pool", operator="In", values=("spot-a",)),),), tolerations=TOLERATES.tolerations
)
BURSTS = make_workload(capacity=make_capacity())


def spot(name: str = "spot-a", **over: Any) -> NodePool:  # noqa: ANN401 -- fields of NodePool
    values: dict[str, Any] = {
        "capacity_type": CapacityType.SPOT,
        "taints": (SPOT,),
        "provider": ProviderType.KWOK,
        "mode": Mode.ENFORCE,
        "max_nodes": 20,
    }
    return make_pool(name, **{**values, **over})


def spot_node(name: str = "spot-a-1", **over: Any) -> Node:  # noqa: ANN401 -- fields of Node
    return make_node(name, **{"uid": name, "labels": {"pool": "spot-a"}, "taints": (SPOT,), **over})


def twin_pods(
    count: int,
    phase: PodPhase = PodPhase.READY,
    *,
    start: int = 0,
    **over: Any,  # noqa: ANN401 -- fields of Pod
) -> tuple[Pod, ...]:
    return make_pods(
        count, phase, start=start, **{"of": "llm-burst", "node": "spot-a-1", "constraints": ON_SPOT, **over}
    )


def decided(
    workload: Workload = BURSTS,
    source: Deployment | None = None,
    *others: Deployment,
    pools: tuple[NodePool, ...] = (spot(),),
    nodes: tuple[Node, ...] = (make_node(), spot_node()),
    count: int | None = None,
    **over: Any,  # noqa: ANN401 -- fields of Snapshot
) -> Decision:
    """The decision on a source of two replicas; what stands is *count*, where its latch says something else than the source."""
    source = source or make_deployment(replicas=2)
    stands = source.replicas if count is None else count
    memory = make_memory(workload, replicas=stands, split=SplitMemory(count=stands, source=source.replicas))
    snapshot = make_snapshot(workload, (source, *others), pools=pools, nodes=nodes, **over)
    return decide_one(snapshot, memory)


def placed(*args: Any, **over: Any) -> CapacityView:  # noqa: ANN401 -- as `decided`
    found = decided(*args, **over).placement
    assert found is not None
    return found


class TestBurstReason:
    """Why replicas above the baseline are on spot, or are not."""

    def of(self, *args: Any, **over: Any) -> tuple[BurstReason, bool]:  # noqa: ANN401 -- as `decided`
        found = placed(*args, **over)
        return found.burst.reason, found.bursts

    def test_a_workload_that_never_bursts_says_nothing_of_it(self) -> None:
        plain = make_workload(capacity=make_capacity(burst=Burst.NEVER))

        assert decided(plain).placement is None

    def test_it_never_bursts_any_more_while_a_twin_is_left(self) -> None:
        plain = make_workload(capacity=make_capacity(burst=Burst.NEVER))

        assert self.of(plain, None, make_twin(replicas=2), count=4) == (BurstReason.BURST_NEVER, False)

    def test_a_guardrail_forbids_spot(self) -> None:
        forbidden = make_workload(capacity=make_capacity(), guardrails=Guardrails(spot_allowed=False))

        assert self.of(forbidden) == (BurstReason.SPOT_FORBIDDEN, False)

    def test_the_template_cannot_run_twice(self) -> None:
        source = make_deployment(replicas=2, burst_obstacles=("host port 8080 of container server",))

        found = placed(BURSTS, source).burst

        assert found.reason is BurstReason.TEMPLATE_CANNOT_BURST
        assert "host port 8080" in found.message

    def test_no_spot_pool_fits(self) -> None:
        assert self.of(pools=(make_pool(),)) == (BurstReason.NO_SPOT_POOL, False)

    def test_a_deployment_of_somebody_else_has_the_name(self) -> None:
        assert self.of(BURSTS, None, make_deployment("llm-burst")) == (BurstReason.TWIN_NAME_TAKEN, False)

    def test_the_baseline_is_enough(self) -> None:
        assert self.of() == (BurstReason.NO_BURST_NEEDED, False)

    def test_it_bursts(self) -> None:
        pods = (*make_pods(2), *twin_pods(8))

        assert self.of(BURSTS, None, make_twin(), count=10, pods=pods) == (BurstReason.BURSTING, True)

    def test_its_pools_changed(self) -> None:
        pools = (spot(), spot("spot-b"))
        pods = (*make_pods(2), *twin_pods(8))

        found = self.of(BURSTS, None, make_twin(), count=10, pods=pods, pools=pools)

        assert found == (BurstReason.POOLS_CHANGED, True)

    def test_the_cluster_creates_no_pods(self) -> None:
        twin = make_twin(failure="exceeded quota: gpus")

        assert self.of(BURSTS, None, twin, count=10) == (BurstReason.PODS_NOT_CREATED, False)

    def test_the_twin_could_not_be_written(self) -> None:
        act = ApplyTwin(
            workload=BURSTS.key,
            workload_uid=BURSTS.uid,
            source=ObjectKey(NAMESPACE, "llm"),
            source_uid="deployment-llm",
            template="t1",
            twin=ObjectKey(NAMESPACE, "llm-burst"),
            twin_uid="",
            replicas=8,
            pools=(),
            why=TwinChange.CREATE,
            count=10,
        )
        failed = Operation(act=act, state=OperationState.FAILED, error="forbidden by webhook x")

        found = placed(count=10, operations=(failed,)).burst

        assert found.reason is BurstReason.TWIN_REFUSED
        assert "forbidden by webhook x" in found.message

    def test_nothing_is_written_so_none_is_made(self) -> None:
        watched = make_workload(capacity=make_capacity(), mode=Mode.OBSERVE)

        assert self.of(watched, count=10) == (BurstReason.MODE_FORBIDS, False)


class TestIsolation:
    """Whether the baseline is kept off spot."""

    def of(self, *args: Any, **over: Any) -> tuple[IsolationReason, bool]:  # noqa: ANN401 -- as `decided`
        found = placed(*args, **over)
        return found.isolation.reason, found.is_isolated

    def test_by_taints_that_it_does_not_tolerate(self) -> None:
        assert self.of() == (IsolationReason.ISOLATED, True)

    def test_by_labels_that_its_template_asks_for(self) -> None:
        off_spot = Constraints(terms=((Requirement(key="pool", operator="NotIn", values=("spot-a",)),),))
        bare = (make_node(), spot_node(taints=()))

        # A template that accepts no spot node cannot burst there either: the twin has its affinity, too.
        found = self.of(BURSTS, make_deployment(replicas=2, constraints=off_spot), nodes=bare)

        assert found == (IsolationReason.NO_SPOT_POOL, True)

    def test_not_where_spot_nodes_carry_no_taint_whatever_the_pool_says(self) -> None:
        bare = (make_node(), spot_node(taints=()))

        assert self.of(nodes=bare) == (IsolationReason.SPOT_POOL_UNTAINTED, False)

    def test_not_where_one_of_many_spot_nodes_carries_no_taint(self) -> None:
        mixed = (make_node(), spot_node(), spot_node("spot-a-2", taints=()))

        assert self.of(nodes=mixed) == (IsolationReason.SPOT_POOL_UNTAINTED, False)

    def test_not_where_the_template_tolerates_the_taint(self) -> None:
        source = make_deployment(replicas=2, constraints=TOLERATES)

        assert self.of(BURSTS, source) == (IsolationReason.BASELINE_TOLERATES_SPOT, False)

    def test_not_where_a_baseline_pod_is_on_spot_already(self) -> None:
        pods = (make_pod(0), make_pod(1, node="spot-a-1"))

        found = placed(pods=pods).isolation

        assert found.reason is IsolationReason.BASELINE_ON_SPOT
        assert "1 baseline pods run on spot nodes, llm-r1-00001 on spot-a-1" in found.message

    def test_a_baseline_pod_that_is_leaving_spot_is_no_stray(self) -> None:
        pods = (*make_pods(2), make_pod(2, PodPhase.TERMINATING, node="spot-a-1"))

        assert self.of(pods=pods) == (IsolationReason.ISOLATED, True)

    def test_without_a_spot_pool_there_is_nothing_to_be_kept_off(self) -> None:
        assert self.of(pools=()) == (IsolationReason.NO_SPOT_POOL, True)


class TestGuardrails:
    """What a policy forbids stops growth, and never takes anything away at once."""

    def test_where_spot_is_forbidden_what_runs_there_moves_back_before_it_goes(self) -> None:
        forbidden = make_workload(capacity=make_capacity(), guardrails=Guardrails(spot_allowed=False))

        found = placed(forbidden, None, make_twin(), count=10, pods=(*make_pods(2), *twin_pods(8)))

        assert found.split is not None
        assert (found.split.baseline, found.split.burst) == (10, 8)

    def test_pools_that_are_not_seen_any_more_move_nothing(self) -> None:
        found = placed(BURSTS, None, make_twin(), count=10, pods=(*make_pods(2), *twin_pods(8)), pools=())

        assert found.burst.reason is BurstReason.NO_SPOT_POOL
        assert found.split is not None
        assert (found.split.baseline, found.split.burst) == (2, 8)

    @pytest.mark.parametrize(
        ("models", "pools", "desired"),
        [
            pytest.param({"L4"}, (make_pool(),), 4, id="no pool of an allowed model"),
            pytest.param({"L4", "H100"}, (make_pool(),), 5, id="a pool of an allowed model"),
            pytest.param({"L4"}, (make_pool(), make_pool("l4", gpu_model="L4")), 5, id="one of two"),
            pytest.param({"L4"}, (), 5, id="no pool at all, so nobody knows"),
            pytest.param({"L4"}, (make_pool(taints=(SPOT,)),), 5, id="a pool that the template does not fit"),
        ],
    )
    def test_nothing_grows_onto_a_model_that_is_not_allowed(
        self, models: set[str], pools: tuple[NodePool, ...], desired: int
    ) -> None:
        allowed = make_workload(guardrails=Guardrails(gpu_models=frozenset(models)))

        found = decide_one(make_snapshot(allowed, pools=pools, utilization=0.95))

        assert found.desired == desired
        assert (LimitReason.GPU_MODEL_FORBIDDEN in reasons(found)) == (desired == 4)

    def test_what_stands_on_a_forbidden_model_stays(self) -> None:
        allowed = make_workload(guardrails=Guardrails(gpu_models=frozenset({"L4"})))

        assert decide_one(make_snapshot(allowed, pools=(make_pool(),))).desired == 4

    def test_nodes_are_bought_of_allowed_models_only_even_if_they_cost_more(self) -> None:
        allowed = make_workload(guardrails=Guardrails(gpu_models=frozenset({"L4"})))
        sized: dict[str, Any] = {"provider": ProviderType.KWOK, "mode": Mode.ENFORCE, "max_nodes": 5}
        pools = (make_pool("h100", price="1", **sized), make_pool("l4", price="9", gpu_model="L4", **sized))

        plan = plan_of(
            make_snapshot(
                allowed,
                pods=make_pods(4, PodPhase.UNSCHEDULABLE, node=None),
                pools=pools,
                pool_states={name: PoolState(at=NOW, desired=0) for name in ("h100", "l4")},
            )
        )

        assert [act.pool for act in plan.acts if isinstance(act, GrowPool)] == ["l4"]


class TestSupply:
    """Pods on their way are not ordered twice; ones that will not come are not waited for where something stands in."""

    @pytest.mark.parametrize(
        ("policy", "most", "unschedulable"),
        [
            pytest.param(FallbackPolicy.ON_DEMAND, 20, 4, id="a node may still come"),
            pytest.param(FallbackPolicy.ON_DEMAND, 1, 0, id="none will, and others stand in"),
            pytest.param(FallbackPolicy.WAIT, 1, 4, id="none will, and nothing stands in"),
        ],
    )
    def test_refused_burst_pods_count_only_where_nothing_stands_in_for_them(
        self, policy: FallbackPolicy, most: int, unschedulable: int
    ) -> None:
        found = decided(
            make_workload(capacity=make_capacity(policy=policy), max_replicas=20),
            None,
            make_twin(),
            count=10,
            pods=(*make_pods(2), *twin_pods(4), *twin_pods(4, PodPhase.UNSCHEDULABLE, start=4, node=None)),
            pools=(spot(max_nodes=most, gpus_per_node=4),),
            nodes=(make_node(), spot_node(gpus=4)),
            pool_states={"spot-a": running("spot-a-1")},
        )

        assert (found.counts.ready, found.counts.unschedulable) == (6, unschedulable)

    def test_a_new_revision_of_the_twin_that_does_not_come_up_is_the_sources_too(self) -> None:
        sets = (make_replica_set(), make_replica_set("llm-burst", revision=7))
        pods = (*make_pods(2), *twin_pods(8, PodPhase.BROKEN, revision=7))

        found = decided(BURSTS, None, make_twin(revision=7), count=10, pods=pods, replica_sets=sets)

        assert found.capacity is not None
        assert found.capacity.reason is CapacityReason.REVISION_BROKEN


@pytest.mark.case("node-and-spot E7")
def test_at_the_maximum_only_what_moves_or_stands_in_exceeds_it() -> None:
    full = make_workload(capacity=make_capacity(5), max_replicas=10)

    found = placed(full, None, make_twin(), count=10, pods=(*make_pods(2), *twin_pods(8)), utilization=0.99)

    # The baseline was raised from 2 to 5: 3 replicas come before 3 burst replicas go, nothing else is above 10.
    assert found.split is not None
    assert (found.split.baseline, found.split.burst, found.split.fallback) == (5, 8, 0)


def running(*nodes: str) -> PoolState:
    machines = (Instance(id=f"i-{name}", state=InstanceState.RUNNING, since=NOW, node=name) for name in nodes)
    return PoolState(at=NOW, desired=len(nodes), instances=tuple(machines))


def test_a_notice_counts_a_burst_replica_as_lost_and_asks_for_both_replacements_in_the_same_pass() -> None:
    taken = spot_node("spot-a-2", taints=(SPOT, Taint("aws-node-termination-handler/spot-itn")))
    pods = (*make_pods(2), *twin_pods(4), *twin_pods(4, start=4, node="spot-a-2"))
    sized = make_pool(provider=ProviderType.KWOK, mode=Mode.ENFORCE, max_nodes=5)
    snapshot = make_snapshot(
        BURSTS,
        (make_deployment(replicas=2), make_twin(constraints=ON_SPOT)),
        pods=pods,
        pools=(spot(gpus_per_node=4), sized),
        nodes=(make_node(gpus=2), spot_node(gpus=4), taken),
        pool_states={
            "spot-a": running("spot-a-1", "spot-a-2"),
            "h100": running("node-1"),
        },
    )
    memory = make_memory(BURSTS, replicas=10, split=SplitMemory(count=10, source=2))

    plan = plan_of(snapshot, memory, now=NOW)

    found = plan.decisions[BURSTS.key].placement
    assert found is not None
    assert found.split is not None
    assert (found.split.good_burst, found.split.doomed, found.split.fallback) == (4, 4, 4)
    assert {act.pool for act in plan.acts if isinstance(act, GrowPool)} == {"h100", "spot-a"}
