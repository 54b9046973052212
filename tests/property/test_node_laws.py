"""What holds for every pass over workloads that burst and the nodes that they share, whatever stands there."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from random import Random
from typing import Any, TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import (
    LONG_AGO,
    NOW,
    make_capacity,
    make_deployment,
    make_node,
    make_pod,
    make_pool,
    make_replica_set,
    make_samples,
    make_snapshot,
    make_twin,
    make_workload,
    make_workload_memory,
    not_collected,
    seconds,
)

from spillway.core import engine
from spillway.core.memory import Memory, NodeMemory, PoolMemory, SplitMemory
from spillway.core.model import (
    Act,
    Burst,
    CapacityType,
    CordonCause,
    CordonMark,
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
    Refusal,
    RefusalKind,
    SetReplicas,
    Snapshot,
    StoredSplit,
    Workload,
)
from spillway.core.plan import Decision, InactiveReason, Plan
from spillway.core.scheduling import Constraints, Requirement, Taint, Toleration

laws = settings(max_examples=40, derandomize=True, deadline=None, database=None)

T = TypeVar("T")
OLD = NOW - LONG_AGO
GPU = "nvidia.com/gpu"
GPUS = 4  # on each node
SPOT = Taint("spot", "true")
NOTICE = Taint("aws-node-termination-handler/spot-itn")
ON_SPOT = Constraints(
    terms=((Requirement(key="kind", operator="In", values=("spot",)),),),
    tolerations=(Toleration(key="spot", value="true", effect="NoSchedule"),),
)
KINDS: Mapping[str, CapacityType] = {
    "demand": CapacityType.ON_DEMAND,
    "spot-a": CapacityType.SPOT,
    "spot-b": CapacityType.SPOT,
}


@dataclass(frozen=True)
class Scene:
    """A fleet at one moment, and what is remembered of it."""

    snapshot: Snapshot
    memory: Memory

    def plan(self) -> Plan:
        return engine.decide(self.snapshot, self.memory, NOW)

    def deployment(self, act: SetReplicas) -> Deployment:
        return self.snapshot.deployments[act.target]

    def workload(self, act: SetReplicas) -> Workload:
        return next(found for found in self.snapshot.workloads if found.key == act.workload)


def often(draw: st.DrawFn, usual: T, *others: T) -> T:
    return draw(st.sampled_from([usual] * (4 + len(others)) + list(others)))


@st.composite
def pools(draw: st.DrawFn, name: str) -> NodePool:
    return make_pool(
        name,
        capacity_type=KINDS[name],
        selector={"pool": name},
        gpus_per_node=GPUS,
        taints=(SPOT,) if KINDS[name] is CapacityType.SPOT else (),
        mode=often(draw, Mode.ENFORCE, Mode.OBSERVE, Mode.SCALE_UP_ONLY),
        provider=often(draw, ProviderType.KWOK, ProviderType.EXTERNAL),
        min_nodes=often(draw, 0, 1),
        max_nodes=draw(st.sampled_from([2, 5, 20])),
        price=draw(st.sampled_from([None, "10", "40"])),
    )


@st.composite
def nodes(draw: st.DrawFn, pool: NodePool) -> tuple[Node, ...]:
    found = []
    for index in range(draw(st.integers(0, 4))):
        mark = often(draw, None, None, CordonCause.DRAIN, CordonCause.INTERRUPTED)
        taints = (*pool.taints, *often(draw, (), (NOTICE,)))
        found.append(
            make_node(
                f"{pool.name}-{index}",
                uid=f"uid-{pool.name}-{index}",
                labels={"pool": pool.name, "kind": "spot" if pool.is_spot else "demand"},
                gpus=often(draw, GPUS, 0),
                allocatable={GPU: GPUS, "pods": 110},
                taints=taints,
                ready=often(draw, True, False),
                unschedulable=mark is not None or often(draw, False, True),
                mark=None if mark is None else CordonMark(cause=mark, id="x", since=NOW - seconds(30)),
                created_at=OLD,
                boot_id="boot",
            )
        )
    return tuple(found)


@st.composite
def states(draw: st.DrawFn, pool: NodePool, found: Sequence[Node]) -> PoolState:
    machines = [
        Instance(id=f"i-{node.name}", state=often(draw, InstanceState.RUNNING, *InstanceState), since=OLD, node=node.name)
        for node in found
    ]  # fmt: skip
    machines += [
        Instance(id=f"i-{pool.name}-new-{index}", state=InstanceState.BOOTING, since=NOW - seconds(60))
        for index in range(often(draw, 0, 1, 2))
    ]
    refusal = Refusal(at=NOW - seconds(20), kind=RefusalKind.CAPACITY, code="ICE", message="none")
    return PoolState(
        at=NOW - seconds(often(draw, 0, 61)),
        desired=len(machines) + often(draw, 0, 1, 3),
        instances=tuple(machines),
        refusals=often(draw, (), (refusal,), (refusal, refusal)),
        error=often(draw, "", "503"),
    )


@st.composite
def workloads(draw: st.DrawFn, name: str) -> Workload:
    return make_workload(
        name,
        mode=often(draw, Mode.ENFORCE, Mode.OBSERVE, Mode.SCALE_UP_ONLY),
        max_replicas=draw(st.sampled_from([4, 10, 30])),
        paused=often(draw, False, True),
        replicas=often(draw, None, 1, 6),
        guardrails=Guardrails(
            spot_allowed=often(draw, True, False),
            gpu_models=often(draw, None, frozenset({"L4"})),
        ),
        capacity=make_capacity(
            draw(st.integers(0, 4)),
            burst=often(draw, Burst.WHEN_AVAILABLE, Burst.NEVER),
            policy=often(draw, FallbackPolicy.ON_DEMAND, FallbackPolicy.WAIT),
        ),
    )


@st.composite
def pods_of(draw: st.DrawFn, deployment: Deployment, places: Sequence[str]) -> tuple[Pod, ...]:
    is_twin = deployment.twin is not None
    found = []
    for index in range(max(0, deployment.replicas + often(draw, 0, -1, 1))):
        phase = often(draw, PodPhase.READY, *PodPhase)
        has_node = phase not in (PodPhase.UNSCHEDULABLE, PodPhase.PENDING) and bool(places)
        found.append(
            make_pod(
                index,
                phase,
                of=deployment.key.name,
                revision=often(draw, 1, 2),
                since=NOW - seconds(draw(st.sampled_from([5, 100, 250, 7200]))),
                node=draw(st.sampled_from(places)) if has_node else None,
                constraints=ON_SPOT if is_twin else Constraints(),
                requests={GPU: 1, "pods": 1},
                owner_kind="ReplicaSet",
            )
        )
    return tuple(found)


@st.composite
def families(draw: st.DrawFn, name: str, places: Mapping[CapacityType, Sequence[str]]) -> dict[str, Any]:
    """A workload with its Deployment, its twin, their pods, and what is remembered of them."""
    workload = draw(workloads(name))
    source = make_deployment(
        name, replicas=draw(st.integers(0, 6)), template=often(draw, "t1", "t2"), requests={GPU: 1, "pods": 1}
    )
    deployments = [source]
    if often(draw, True, False, False):
        deployments.append(
            make_twin(
                name,
                replicas=draw(st.integers(0, 8)),
                constraints=ON_SPOT,
                requests=source.requests,
                edited_by=often(draw, "", "kubectl-edit"),
                handover=often(draw, None, 3),
                failure=often(draw, None, "exceeded quota"),
            )
        )
    kinds = (CapacityType.ON_DEMAND, CapacityType.SPOT)
    pods = [
        pod
        for found, kind in zip(deployments, kinds, strict=False)
        for pod in draw(pods_of(found, places[kind]))
    ]
    stands = sum(found.replicas for found in deployments)
    split = SplitMemory(
        count=draw(st.integers(0, stands)),
        source=source.replicas + often(draw, 0, 1, -1),
        fallback_since=often(draw, None, NOW - seconds(60), OLD),
        fallback_cause=often(draw, "", "SpotRefused", "Interrupted"),
    )
    return {
        "workload": workload,
        "deployments": deployments,
        "pods": pods,
        "memory": make_workload_memory(workload, replicas=split.count, split=often(draw, split, None)),
        "stored": StoredSplit(count=split.count, fallback_since=split.fallback_since),
    }


@st.composite
def own_acts(
    draw: st.DrawFn, found: Sequence[Deployment], pools: Sequence[NodePool]
) -> tuple[Operation, ...]:
    acts: list[Act] = [
        SetReplicas(
            workload=one.key,
            target=one.key,
            target_uid=one.uid,
            before=one.replicas,
            to=one.replicas + draw(st.sampled_from([-1, 1])),
            count=draw(st.integers(0, 8)),
        )
        for one in found
        if not draw(st.integers(0, 5))
    ]
    acts += [
        GrowPool(pool=pool.name, pool_uid=pool.uid, before=1, to=2)
        for pool in pools
        if not draw(st.integers(0, 8))
    ]
    return tuple(Operation(act=act, state=draw(st.sampled_from(OperationState))) for act in acts)


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    found = tuple(draw(pools(name)) for name in KINDS)
    by_pool = {pool.name: draw(nodes(pool)) for pool in found}
    places = {
        kind: [node.name for pool in found if pool.capacity_type is kind for node in by_pool[pool.name]]
        for kind in (CapacityType.ON_DEMAND, CapacityType.SPOT)
    }
    everyone = [draw(families(name, places)) for name in ("llm", "tts")[: draw(st.integers(1, 2))]]
    deployments = [one for family in everyone for one in family["deployments"]]
    pods = tuple(pod for family in everyone for pod in family["pods"])
    level = draw(st.sampled_from([None, 0.05, 0.4, 0.75, 0.95, 1.0]))
    is_restart = often(draw, False, True)
    snapshot = make_snapshot(
        tuple(family["workload"] for family in everyone),
        tuple(deployments),
        pods=pods,
        replica_sets=tuple(
            make_replica_set(one.key.name, revision=revision) for one in deployments for revision in (1, 2)
        ),
        activity=not_collected() if level is None else make_samples(pods, level),
        nodes=tuple(node for pool in found for node in by_pool[pool.name]),
        pools=found,
        pool_states={
            pool.name: draw(states(pool, by_pool[pool.name])) for pool in found if often(draw, True, False)
        },
        operations=draw(own_acts(deployments, found)),
        stored_splits={family["workload"].uid: family["stored"] for family in everyone},
        sees_all_pods=often(draw, True, False),
    )
    memory = Memory(
        workloads={family["workload"].uid: family["memory"] for family in everyone},
        pools={pool.uid: draw(latches()) for pool in found},
        nodes={
            node.uid: NodeMemory(boot_id="boot", idle_since=OLD)
            for pool in found
            for node in by_pool[pool.name]
        },
    )
    return Scene(snapshot=snapshot, memory=Memory() if is_restart else memory)


@st.composite
def latches(draw: st.DrawFn) -> PoolMemory:
    times: list[datetime | None] = [NOW - seconds(5), NOW + seconds(60)]
    return PoolMemory(
        closed_until=often(draw, None, *times), breaker_until=often(draw, None, *times), granted=0, asked=2
    )


@laws
@given(scenes())
def test_no_fleet_is_beyond_what_spillway_can_decide(scene: Scene) -> None:
    for decision in scene.plan().decisions.values():
        assert decision.inactive is None or decision.inactive.reason is not InactiveReason.INTERNAL_ERROR


@laws
@given(scenes())
def test_the_baseline_is_never_laid_out_below_what_it_is_to_be_whatever_happens_on_spot(scene: Scene) -> None:
    decisions = scene.plan().decisions
    for workload in scene.snapshot.workloads:
        decision = decisions[workload.key]
        view = decision.placement.split if decision.placement is not None else None
        if view is not None:
            assert view.baseline >= min(decision.desired, workload.capacity.baseline)
            assert view.baseline + view.burst >= decision.desired
            assert (
                0
                <= view.fallback
                <= max(0, decision.desired - min(decision.desired, workload.capacity.baseline))
            )


@laws
@given(scenes())
def test_no_write_takes_the_baseline_below_what_it_is_to_be(scene: Scene) -> None:
    plan = scene.plan()
    targets = {found.target_key: found for found in scene.snapshot.workloads}
    for act in plan.acts:
        if isinstance(act, SetReplicas) and not act.is_growth and act.target in targets:
            workload = targets[act.target]
            assert act.to >= min(plan.decisions[workload.key].desired, workload.capacity.baseline)


@laws
@given(scenes())
def test_only_a_workload_that_may_shrink_is_shrunk_and_only_one_that_may_act_acts(scene: Scene) -> None:
    for act in scene.plan().acts:
        if isinstance(act, SetReplicas) and not act.is_growth:
            workload = scene.workload(act)
            assert workload.mode is Mode.ENFORCE
            assert not workload.paused


@laws
@given(scenes())
def test_each_write_starts_from_what_stands(scene: Scene) -> None:
    for act in scene.plan().acts:
        if isinstance(act, SetReplicas):
            assert (act.before, act.target_uid) == (scene.deployment(act).replicas, scene.deployment(act).uid)
            assert act.to != act.before


@laws
@given(scenes())
def test_nothing_is_acted_on_twice_nor_while_an_act_on_it_is_under_way(scene: Scene) -> None:
    subjects = Counter(act.subject for act in scene.plan().acts)
    busy = {found.act.subject for found in scene.snapshot.operations if found.is_under_way}

    assert max(subjects.values(), default=1) == 1
    assert busy.isdisjoint(subjects)


@laws
@given(scenes())
def test_the_same_fleet_gives_the_same_plan(scene: Scene) -> None:
    assert scene.plan() == scene.plan()


def mixed(found: Sequence[T], random: Random) -> tuple[T, ...]:
    return tuple(random.sample(found, len(found)))


def by_subject(acts: Sequence[Act]) -> Mapping[str, Act]:
    return {act.subject: act for act in acts}


def without_examples(plan: Plan) -> Mapping[ObjectKey, Decision]:
    """Decisions less the sentence that names one of several pods."""
    return {key: replace(found, capacity=None) for key, found in plan.decisions.items()}


@laws
@given(scenes(), st.randoms(use_true_random=False))
def test_the_order_in_which_things_are_listed_decides_nothing(scene: Scene, random: Random) -> None:
    seen = scene.snapshot
    shuffled = replace(
        seen,
        workloads=mixed(seen.workloads, random),
        deployments=dict(mixed(list(seen.deployments.items()), random)),
        replica_sets=mixed(seen.replica_sets, random),
        pods=mixed(seen.pods, random),
        nodes=mixed(seen.nodes, random),
        pools=mixed(seen.pools, random),
    )

    one, other = scene.plan(), replace(scene, snapshot=shuffled).plan()

    assert by_subject(one.acts) == by_subject(other.acts)
    assert without_examples(one) == without_examples(other)
    assert one.pools == other.pools
    assert one.memory == other.memory


@laws
@given(scenes())
def test_a_pass_that_nothing_came_of_is_followed_by_the_same_acts(scene: Scene) -> None:
    plan = scene.plan()
    still = replace(scene.snapshot, operations=tuple(o for o in scene.snapshot.operations if o.is_under_way))

    again = engine.decide(still, plan.memory, NOW)
    once_more = engine.decide(still, again.memory, NOW)

    assert again.acts == once_more.acts
