"""What holds for every node that may go, whatever the fleet looks like."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import LONG_AGO, NOW, make_node, make_pod, make_pool, make_snapshot, seconds

from spillway.core.drain import DrainPlan, choose_victims, plan_drains
from spillway.core.fleet import Fleet, Standing, is_empty, leaves_by_itself, survey
from spillway.core.memory import NodeMemory
from spillway.core.model import (
    CordonCause,
    CordonMark,
    CordonNode,
    DrainNode,
    EvictDoomed,
    ForeignPods,
    ForgetNode,
    Instance,
    InstanceState,
    Mode,
    Node,
    NodeCondition,
    NodePool,
    Operation,
    OperationState,
    Pod,
    PodPhase,
    PoolState,
    ProviderType,
    Snapshot,
    UncordonNode,
)
from spillway.core.scheduling import Taint

laws = settings(max_examples=60, derandomize=True, deadline=None, database=None)

OLD = NOW - LONG_AGO
OURS = frozenset({"replicaset-llm-1"})
POOLS = ("a", "b")
STATES = st.sampled_from([InstanceState.RUNNING] * 5 + [InstanceState.BOOTING, InstanceState.STOPPING, None])


@dataclass(frozen=True)
class Scene:
    """A fleet at one moment, and what is wanted of it."""

    snapshot: Snapshot
    memory: Mapping[str, NodeMemory]
    targets: Mapping[str, int]

    @property
    def fleet(self) -> Fleet:
        return survey(self.snapshot, self.memory, NOW)

    def plan(self) -> DrainPlan:
        fleet = self.fleet
        return plan_drains(
            self.snapshot,
            fleet,
            targets=self.targets,
            used_nodes=frozenset(name for name in fleet.nodes if holds(fleet, name)),
            movable=OURS,
            now=NOW,
        )

    def machines(self, pool: str) -> Mapping[str, InstanceState] | None:
        """What the provider of a pool has, by node; None where it is not heard."""
        state = self.snapshot.pool_states.get(pool)
        if state is None or state.error or NOW - state.at > seconds(60):
            return None
        return {found.node: found.state for found in state.instances}


def holds(fleet: Fleet, name: str) -> bool:
    """Whether pools are sized for what is on a node: a lost one is no supply."""
    is_lost = fleet.standing[name] is Standing.DOOMED
    return not is_lost and not is_empty(fleet.pods_on.get(name, ()), now=NOW)


def _mark(cause: CordonCause, ago: float = 30, *, was_unschedulable: bool = False) -> CordonMark:
    return CordonMark(
        cause=cause, id="drain-1", since=NOW - seconds(ago), was_unschedulable=was_unschedulable
    )


def _silent(ago: float) -> dict[str, Any]:
    return {
        "ready": False,
        "conditions": (NodeCondition(type="Ready", status="Unknown", since=NOW - seconds(ago)),),
    }


def _ours(mark: CordonMark, **over: Any) -> dict[str, Any]:  # noqa: ANN401 -- fields of Node
    return {"unschedulable": True, "mark": mark, **over}


SPOT_ITN = (Taint("aws-node-termination-handler/spot-itn", since=NOW - seconds(20)),)
DRAIN, INTERRUPTED = CordonCause.DRAIN, CordonCause.INTERRUPTED
NODES: list[dict[str, Any]] = [
    *[{}] * 12,
    {"created_at": NOW - seconds(599)},
    {"created_at": NOW - seconds(600)},
    {"unschedulable": True},
    {"taints": (Taint("aws-node-termination-handler/rebalance-recommendation"),)},
    {"taints": (Taint("karpenter.sh/disrupted"),)},
    {"taints": SPOT_ITN},
    {"taints": SPOT_ITN, "unschedulable": True},
    _silent(20),
    _silent(60),
    _ours(_mark(DRAIN)),
    _ours(_mark(DRAIN)),
    _ours(_mark(DRAIN, 4)),
    _ours(_mark(DRAIN, 600)),
    _ours(_mark(DRAIN, was_unschedulable=True)),
    _ours(_mark(DRAIN), unschedulable=False),
    _ours(_mark(DRAIN), **_silent(20)),
    _ours(_mark(DRAIN), **_silent(60)),
    _ours(_mark(DRAIN), taints=SPOT_ITN),
    _ours(_mark(INTERRUPTED)),
    _ours(_mark(INTERRUPTED), unschedulable=False),
    _ours(_mark(INTERRUPTED), taints=SPOT_ITN),
    _ours(_mark(INTERRUPTED), **_silent(20)),
]
_OWN: dict[str, Any] = {"owner_uid": "replicaset-llm-1", "owner_kind": "ReplicaSet"}
PODS: list[dict[str, Any]] = [
    *[_OWN] * 6,
    {**_OWN, "gpus": 8},
    {**_OWN, "gpus": 0},
    {**_OWN, "phase": PodPhase.LOADING},
    {**_OWN, "since": NOW - seconds(40)},
    {**_OWN, "phase": PodPhase.TERMINATING},
    {**_OWN, "phase": PodPhase.TERMINATING, "since": OLD},
    {"owner_uid": "ds", "owner_kind": "DaemonSet", "gpus": 0},
    {"owner_uid": "", "gpus": 0},
    {"owner_uid": "replicaset-theirs-1", "owner_kind": "ReplicaSet"},
]
MEMORIES = [
    *[NodeMemory(boot_id="boot", idle_since=OLD)] * 5,
    NodeMemory(),
    NodeMemory(boot_id="boot", idle_since=OLD, gone_since=OLD),
    NodeMemory(boot_id="boot", idle_since=OLD, blocked_until=NOW + seconds(1), blocked_by="pod x/y stays"),
    NodeMemory(boot_id="boot", idle_since=OLD, blocked_until=NOW - seconds(1), blocked_by="pod x/y stays"),
]


def _node(index: int, pool: str, over: Mapping[str, Any]) -> Node:
    values = {"labels": {"pool": pool}, "created_at": OLD, "uid": f"uid-{index}", "boot_id": "boot", **over}
    return make_node(f"node-{index}", **values)


@st.composite
def pods(draw: st.DrawFn, count: int) -> tuple[Pod, ...]:
    places = draw(st.lists(st.integers(0, count - 1), max_size=8)) if count else []
    kinds = [draw(st.sampled_from(PODS)) for _ in places]
    return tuple(
        make_pod(
            index,
            **{"since": OLD if "phase" not in kind else NOW - seconds(20), "node": f"node-{place}", **kind},
        )
        for index, (place, kind) in enumerate(zip(places, kinds, strict=True))
    )


@st.composite
def pools(draw: st.DrawFn, name: str) -> NodePool:
    return make_pool(
        name,
        mode=draw(st.sampled_from([Mode.ENFORCE] * 6 + [Mode.OBSERVE, Mode.SCALE_UP_ONLY])),
        provider=draw(st.sampled_from([ProviderType.KWOK] * 6 + [ProviderType.EXTERNAL])),
        min_nodes=draw(st.sampled_from([0, 0, 1, 3])),
        max_nodes=40,
    )


@st.composite
def states(draw: st.DrawFn, pool: str, found: tuple[Node, ...]) -> PoolState | None:
    if draw(st.sampled_from([False] * 8 + [True])):
        return None
    instances = tuple(
        Instance(id=f"i-{node.name}", state=state, since=OLD, node=node.name)
        for node in found
        if node.labels["pool"] == pool and (state := draw(STATES)) is not None
    )
    return PoolState(
        at=NOW - seconds(draw(st.sampled_from([0, 0, 0, 60, 61]))),
        desired=len(instances),
        instances=instances,
        error=draw(st.sampled_from([""] * 8 + ["503"])),
    )


def act_on(node: Node, kind: str) -> Operation:
    values: dict[str, Any] = {"node": node.name, "node_uid": node.uid, "id": "x", "pool": node.labels["pool"]}
    if kind == "cordon":
        act: CordonNode | DrainNode = CordonNode(cause=CordonCause.DRAIN, **values)
    else:
        act = DrainNode(instance="i", movable=OURS, foreign_pods=ForeignPods.BLOCK, **values)
    state = OperationState.FAILED if kind == "blocked" else OperationState.RUNNING
    return Operation(act=act, state=state, blocked="pod x/y stays" if kind == "blocked" else "")


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    count = draw(st.sampled_from([0, 1, 2, 3, 5, 8, 20, 24]))
    found = tuple(
        _node(index, draw(st.sampled_from(POOLS)), draw(st.sampled_from(NODES))) for index in range(count)
    )
    on_them = draw(pods(count))
    known = {name: state for name in POOLS if (state := draw(states(name, found))) is not None}
    kinds = [draw(st.sampled_from([None] * 6 + ["cordon", "drain", "blocked"])) for _ in found]
    operations = tuple(
        act_on(node, kind) for node, kind in zip(found, kinds, strict=True) if kind is not None
    )
    snapshot = make_snapshot(
        pods=on_them,
        nodes=found,
        pools=tuple(draw(pools(name)) for name in POOLS),
        pool_states=known,
        operations=operations,
        sees_all_pods=draw(st.sampled_from([True] * 8 + [False])),
    )
    targets = {name: draw(st.sampled_from([0, 0, 0, 1, 2, 5])) for name in POOLS}
    fleet = survey(snapshot, {}, NOW)
    for name in POOLS:  # as pools are sized: whatever holds a pod counts
        targets[name] += sum(holds(fleet, node) for node in fleet.names_in(name))
    return Scene(
        snapshot=snapshot,
        memory={node.uid: draw(st.sampled_from(MEMORIES)) for node in found},
        targets=targets,
    )


def voluntary(plan: DrainPlan) -> list[CordonNode | DrainNode]:
    return [
        act
        for act in plan.acts
        if isinstance(act, DrainNode) or (isinstance(act, CordonNode) and act.cause is CordonCause.DRAIN)
    ]


@laws
@given(scenes())
def test_no_node_is_acted_on_twice_nor_while_an_act_on_it_is_under_way(scene: Scene) -> None:
    acts = scene.plan().acts
    under_way = {found.act.subject for found in scene.snapshot.operations if found.is_under_way}

    assert max(Counter(act.subject for act in acts).values(), default=1) == 1
    assert under_way.isdisjoint(act.subject for act in acts)


@laws
@given(scenes())
def test_a_node_that_somebody_else_cordoned_is_never_touched_while_its_machine_is_there(scene: Scene) -> None:
    fleet = scene.fleet

    for act in scene.plan().acts:
        node = fleet.nodes[act.node]
        assert isinstance(act, ForgetNode) or not node.unschedulable or node.mark is not None


@laws
@given(scenes())
def test_nothing_voluntary_happens_without_the_right_to_it_and_a_provider_that_answers(scene: Scene) -> None:
    fleet = scene.fleet

    for act in voluntary(scene.plan()):
        pool = fleet.pool_of(act.node)
        assert pool is not None
        assert (pool.mode, pool.provider, scene.snapshot.sees_all_pods) == (
            Mode.ENFORCE,
            ProviderType.KWOK,
            True,
        )
        assert (scene.machines(pool.name) or {}).get(act.node) in {
            InstanceState.RUNNING,
            InstanceState.BOOTING,
        }


@laws
@given(scenes())
def test_no_node_goes_that_holds_a_pod_which_is_not_ours_to_move(scene: Scene) -> None:
    fleet = scene.fleet

    for act in voluntary(scene.plan()):
        for pod in fleet.pods_on.get(act.node, ()):
            is_left = leaves_by_itself(pod, NOW) or pod.phase is PodPhase.TERMINATING
            assert is_left or pod.owner_uid in OURS


@laws
@given(scenes())
def test_what_is_left_is_never_less_than_the_minimum_and_what_is_needed(scene: Scene) -> None:
    fleet, plan = scene.fleet, scene.plan()
    given_back = {act.node for act in plan.acts if isinstance(act, UncordonNode)}

    for pool in scene.snapshot.pools:
        begun = [act.node for act in plan.acts if isinstance(act, CordonNode) and act in voluntary(plan)]
        begun = [name for name in begun if fleet.pool_of(name) is pool]
        leaving = set(plan.draining.get(pool.name, ()))
        machines = scene.machines(pool.name) or {}
        staying = {
            name
            for name in fleet.names_in(pool.name)
            if name not in leaving
            and machines.get(name) is InstanceState.RUNNING
            and (fleet.standing[name] is Standing.GOOD or (name in given_back and fleet.nodes[name].ready))
        }
        moving = [name for name in leaving if holds(fleet, name)]
        least = max(pool.min_nodes, scene.targets[pool.name] - len(moving))
        assert not begun or len(staying) >= least


@laws
@given(scenes())
def test_a_drain_goes_on_only_where_enough_nodes_stay_without_it(scene: Scene) -> None:
    fleet, plan = scene.fleet, scene.plan()

    for act in plan.acts:
        if isinstance(act, DrainNode):
            leaving = plan.draining[act.pool]
            machines = scene.machines(act.pool) or {}
            running = [name for name, state in machines.items() if state is InstanceState.RUNNING]
            pool = fleet.pool_of(act.node)
            assert pool is not None
            assert len([name for name in running if name not in leaving]) >= pool.min_nodes


@laws
@given(scenes())
def test_few_go_at_once_and_few_are_begun_in_one_pass(scene: Scene) -> None:
    fleet, plan = scene.fleet, scene.plan()
    begun = [act for act in voluntary(plan) if isinstance(act, CordonNode)]
    full = [act for act in begun if not is_empty(fleet.pods_on.get(act.node, ()), now=NOW)]

    assert len(begun) <= max(1, len(fleet.nodes) // 10)
    assert len(full) <= 1
    assert not begun or sum(len(found) for found in plan.draining.values()) <= 10


@laws
@given(scenes())
def test_only_nodes_that_are_well_and_unmarked_begin_to_go(scene: Scene) -> None:
    fleet = scene.fleet

    for act in voluntary(scene.plan()):
        if isinstance(act, CordonNode):
            assert fleet.standing[act.node] is Standing.GOOD
            assert act.node not in fleet.notices
            assert fleet.nodes[act.node].mark is None


@laws
@given(scenes())
def test_every_cordon_of_ours_is_taken_off_once_the_pools_are_not_ours_to_drain(scene: Scene) -> None:
    """An operator may be killed after any act: what it left on a node goes on, or is undone."""
    pools = tuple(replace(pool, mode=Mode.OBSERVE) for pool in scene.snapshot.pools)
    over = replace(scene, snapshot=replace(scene.snapshot, pools=pools, operations=()))
    fleet = over.fleet

    undone = {act.node for act in over.plan().acts if isinstance(act, UncordonNode)}
    marked = {
        name
        for name, node in fleet.nodes.items()
        if node.mark is not None
        and fleet.standing[name] is not Standing.DOOMED
        and (node.ready or node.mark.cause is CordonCause.DRAIN)
    }

    assert undone == marked


@laws
@given(scenes())
def test_only_pods_of_ours_are_evicted_from_a_node_that_is_lost_and_only_in_time(scene: Scene) -> None:
    fleet = scene.fleet

    for act in scene.plan().acts:
        if isinstance(act, EvictDoomed):
            on_it = {pod.uid: pod for pod in fleet.pods_on[act.node]}
            assert fleet.is_doomed(act.node)
            assert act.deadline > NOW
            assert all(on_it[ref.uid].owner_uid in OURS for ref in act.pods)


@laws
@given(scenes())
def test_the_same_fleet_gives_the_same_plan(scene: Scene) -> None:
    """A destructive act waits until several passes in a row proposed it, so the choice must not wander."""
    assert scene.plan() == scene.plan()


@laws
@given(scenes(), st.integers(0, 9))
def test_victims_are_as_many_as_asked_each_once_and_more_asked_for_never_spares_one(
    scene: Scene, count: int
) -> None:
    fleet, found = scene.fleet, scene.snapshot.pods
    alive = sum(pod.phase is not PodPhase.TERMINATING for pod in found)

    fewer, more = choose_victims(found, count, fleet), choose_victims(found, count + 1, fleet)

    assert len(set(fewer)) == len(fewer) == min(count, alive)
    assert more[: len(fewer)] == fewer
