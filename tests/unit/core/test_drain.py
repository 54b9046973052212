"""Which node goes, in which steps, and what stops it; what is done on a node that is taken back."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from tests.builders import (
    JUST_NOW,
    LONG_AGO,
    NOW,
    make_node,
    make_operation,
    make_pod,
    make_pods,
    make_pool,
    make_snapshot,
    seconds,
)

from spillway.core.drain import DrainPlan, blocker, choose_victims, plan_drains
from spillway.core.fleet import is_empty, survey
from spillway.core.memory import NodeMemory
from spillway.core.model import (
    CapacityType,
    CordonCause,
    CordonMark,
    CordonNode,
    DrainNode,
    DrainRules,
    EvictDoomed,
    ForeignPods,
    ForgetNode,
    Instance,
    InstanceState,
    Mode,
    Node,
    NodeCondition,
    NodePool,
    ObjectKey,
    Operation,
    OperationState,
    Pod,
    PodPhase,
    PodRef,
    PoolState,
    ProviderType,
    UncordonNode,
)
from spillway.core.scheduling import Constraints, Taint

OLD = NOW - LONG_AGO
OURS = frozenset({"replicaset-llm-1"})
SPOT_ITN = "aws-node-termination-handler/spot-itn"
POOL = make_pool(mode=Mode.ENFORCE, provider=ProviderType.KWOK, max_nodes=50)
RULES = POOL.drain


def machine(name: str = "node-1", **over: Any) -> Node:  # noqa: ANN401 -- fields of Node
    return make_node(name, **{"uid": f"uid-{name}", "created_at": OLD, "boot_id": "boot-1", **over})


def machines(count: int, **over: Any) -> tuple[Node, ...]:  # noqa: ANN401 -- fields of Node
    return tuple(machine(f"node-{index}", **over) for index in range(1, count + 1))


def marked(
    name: str = "node-1",
    *,
    cause: CordonCause = CordonCause.DRAIN,
    ago: float = 30,
    was_unschedulable: bool = False,
    **over: Any,  # noqa: ANN401 -- fields of Node
) -> Node:
    """A node that we cordoned so many seconds ago."""
    mark = CordonMark(
        cause=cause,
        id=f"h100-uid-{name}",
        since=NOW - seconds(ago),
        was_unschedulable=was_unschedulable,
    )
    return machine(name, **{"unschedulable": True, "mark": mark, **over})


def noticed(name: str = "node-1", *, said: float = 20, **over: Any) -> Node:  # noqa: ANN401 -- fields of Node
    return machine(name, taints=(Taint(SPOT_ITN, since=NOW - seconds(said)),), **over)


def settled(index: int = 0, node: str = "node-1", **over: Any) -> Pod:  # noqa: ANN401 -- fields of Pod
    """One of our pods that has served for hours."""
    return make_pod(index, node=node, **over)


def heard(nodes: Iterable[Node], **over: Any) -> PoolState:  # noqa: ANN401 -- fields of PoolState
    instances = tuple(
        Instance(id=f"i-{node.name}", state=InstanceState.RUNNING, since=OLD, node=node.name)
        for node in nodes
    )
    return PoolState(**{"at": NOW, "desired": len(instances), "instances": instances, **over})


def plan(
    *nodes: Node,
    pods: tuple[Pod, ...] = (),
    pool: NodePool = POOL,
    pools: tuple[NodePool, ...] = (),
    state: PoolState | None = None,
    states: Mapping[str, PoolState] | None = None,
    targets: Mapping[str, int] | None = None,
    target: int | None = None,
    used: frozenset[str] | None = None,
    memory: Mapping[str, NodeMemory] | None = None,
    now: datetime = NOW,
    **over: Any,  # noqa: ANN401 -- fields of Snapshot
) -> DrainPlan:
    """What happens to nodes that have been idle for hours unless something is on them, and of which as many are needed."""
    if states is None:
        states = {pool.name: state or heard(nodes)}
    if memory is None:
        memory = {node.uid: NodeMemory(boot_id=node.boot_id, idle_since=OLD) for node in nodes}
    snapshot = make_snapshot(pods=pods, nodes=nodes, pools=pools or (pool,), pool_states=states, **over)
    fleet = survey(snapshot, memory, now)
    holding = frozenset(name for name, found in fleet.pods_on.items() if not is_empty(found, now=now))
    return plan_drains(
        snapshot,
        fleet,
        targets={pool.name: len(holding) if target is None else target} if targets is None else targets,
        used_nodes=holding if used is None else used,
        movable=OURS,
        now=now,
    )


def cordon(name: str = "node-1", cause: CordonCause = CordonCause.DRAIN, pool: str = "h100") -> CordonNode:
    return CordonNode(node=name, node_uid=f"uid-{name}", cause=cause, id=f"{pool}-uid-{name}", pool=pool)


def drain(name: str = "node-1", **over: Any) -> DrainNode:  # noqa: ANN401 -- fields of DrainNode
    values: dict[str, Any] = {
        "pool": "h100",
        "node": name,
        "node_uid": f"uid-{name}",
        "instance": f"i-{name}",
        "id": f"h100-uid-{name}",
        "movable": OURS,
        "foreign_pods": ForeignPods.BLOCK,
    }
    return DrainNode(**{**values, **over})


def running(act: CordonNode | DrainNode, state: OperationState = OperationState.RUNNING) -> Operation:
    return Operation(act=act, state=state)


def kept(found: DrainPlan) -> bool:
    """Whether the one node of the plan was given back."""
    return [type(act) for act in found.acts] == [UncordonNode]


# The first step: the cordon of a node that nobody needs


def test_a_node_that_nobody_needs_is_cordoned() -> None:
    found = plan(machine())

    assert (found.acts, found.draining, found.blocked) == ((cordon(),), {"h100": ("node-1",)}, {})


@pytest.mark.parametrize(
    "over",
    [
        pytest.param({"target": 1}, id="needed"),
        pytest.param({"targets": {}}, id="nobody knows whether it is needed"),
        pytest.param({"used": frozenset({"node-1"})}, id="something is to be placed on it"),
        pytest.param({"memory": {}}, id="not idle for long, as after a restart"),
        pytest.param({"pool": replace(POOL, mode=Mode.OBSERVE)}, id="pool in Observe"),
        pytest.param({"pool": replace(POOL, mode=Mode.SCALE_UP_ONLY)}, id="pool in ScaleUpOnly"),
        pytest.param({"pool": replace(POOL, provider=ProviderType.EXTERNAL)}, id="somebody else's pool"),
        pytest.param({"states": {}}, id="provider never heard"),
        pytest.param({"state": heard(machines(1), error="timed out")}, id="provider does not answer"),
        pytest.param({"state": heard(machines(1), at=NOW - seconds(61))}, id="provider heard long ago"),
        pytest.param({"state": heard(())}, id="no machine known for it"),
        pytest.param({"sees_all_pods": False}, id="pods of other namespaces unseen"),
        pytest.param({"operations": (running(cordon()),)}, id="the cordon is under way"),
    ],
)
def test_a_node_stays_while(over: dict[str, Any]) -> None:
    assert plan(machine(), **over).acts == ()


@pytest.mark.parametrize(
    "node",
    [
        pytest.param(machine(created_at=NOW - seconds(119)), id="it is young"),
        pytest.param(machine(created_at=None), id="its age is unknown"),
        pytest.param(machine(gpus=0), id="it boots"),
        pytest.param(
            machine(annotations={"cluster-autoscaler.kubernetes.io/scale-down-disabled": "true"}),
            id="its owner forbids it",
        ),
        pytest.param(
            machine(annotations={"karpenter.sh/do-not-disrupt": "true"}),
            id="its owner forbids it, to Karpenter",
        ),
        pytest.param(
            machine(taints=(Taint("aws-node-termination-handler/rebalance-recommendation"),)),
            id="advice says that it goes by itself",
        ),
    ],
)
def test_no_drain_begins_on_a_node_while(node: Node) -> None:
    assert plan(node).acts == ()


@pytest.mark.case("node-and-spot E49")
def test_a_node_that_somebody_cordoned_is_left_alone() -> None:
    assert plan(machine(unschedulable=True)).acts == ()


RIVAL = make_pool("rival", selector={"rack": "7"}, mode=Mode.ENFORCE, provider=ProviderType.KWOK, max_nodes=9)


@pytest.mark.parametrize("name", ["node-1", "node-2"])
def test_no_node_goes_of_a_pool_that_shares_one_with_another_pool(name: str) -> None:
    shared = machine("node-1", labels={"pool": "h100", "rack": "7"})

    found = plan(shared, machine("node-2"), pools=(POOL, RIVAL))

    assert [act for act in found.acts if act.node == name] == []


@pytest.mark.parametrize("act", [UncordonNode(node="node-1", node_uid="uid-node-1"), drain()])
def test_no_drain_begins_on_a_node_while_another_act_on_it_is_under_way(
    act: UncordonNode | DrainNode,
) -> None:
    under_way = Operation(act=act, state=OperationState.AWAITING_CACHE)

    assert plan(machine(), operations=(under_way,)).acts == ()


def test_a_mark_of_a_notice_that_is_gone_is_taken_off_before_the_node_may_go() -> None:
    found = plan(marked(cause=CordonCause.INTERRUPTED, unschedulable=False))

    assert kept(found)


def test_an_idle_node_goes_when_its_time_is_over_and_the_plan_says_when_to_look() -> None:
    since = NOW - RULES.idle + seconds(1)
    memory = {"uid-node-1": NodeMemory(boot_id="boot-1", idle_since=since)}

    early = plan(machine(), memory=memory)
    later = plan(machine(), memory=memory, now=NOW + seconds(1))

    assert (early.acts, early.wake_at) == ((), NOW + seconds(1))
    assert later.acts == (cordon(),)


@pytest.mark.case("node-and-spot E43")
def test_daemons_and_mirror_pods_do_not_keep_a_node() -> None:
    daemon, mirror = settled(1, owner_kind="DaemonSet", gpus=0), settled(2, owner_kind="Node", gpus=0)

    assert plan(machine(), pods=(daemon, mirror)).acts == (cordon(),)


@pytest.mark.case("node-and-spot E47")
def test_a_pod_that_is_stuck_while_it_terminates_does_not_keep_a_node() -> None:
    stuck = settled(phase=PodPhase.TERMINATING, since=NOW - seconds(300))

    assert plan(machine(), pods=(stuck,)).acts == (cordon(),)


@pytest.mark.case("node-and-spot E50")
def test_no_drain_begins_in_a_pool_at_its_minimum() -> None:
    assert plan(*machines(2), pool=replace(POOL, min_nodes=2)).acts == ()


@pytest.mark.case("node-and-spot E54")
@pytest.mark.parametrize(
    ("nodes", "going", "min_nodes", "cordons"),
    [
        pytest.param(20, 0, 0, 2, id="a tenth of 20"),
        pytest.param(9, 0, 0, 1, id="one, if a tenth is none"),
        pytest.param(300, 0, 0, 10, id="10 at once at most"),
        pytest.param(300, 8, 0, 2, id="those under way counted"),
        pytest.param(300, 10, 0, 0, id="as many as may go are going"),
        pytest.param(20, 0, 19, 1, id="down to the minimum"),
        pytest.param(20, 2, 18, 0, id="the minimum reached by those that are going"),
    ],
)
def test_many_idle_nodes_go_a_few_at_a_time(nodes: int, going: int, min_nodes: int, cordons: int) -> None:
    leaving = tuple(marked(f"node-{index}", ago=2) for index in range(1, going + 1))
    others = machines(nodes)[going:]

    found = plan(*leaving, *others, pool=replace(POOL, min_nodes=min_nodes, max_nodes=300))

    assert [type(act) for act in found.acts] == [CordonNode] * cordons
    assert len(found.draining.get("h100", ())) == going + cordons


def test_cordons_under_way_count_against_the_minimum() -> None:
    under_way = (running(cordon("node-1"), OperationState.AWAITING_CACHE),)

    found = plan(*machines(20), pool=replace(POOL, min_nodes=19), operations=under_way)

    assert (found.acts, found.draining) == ((), {"h100": ("node-1",)})


def test_the_nodes_that_have_been_idle_longest_go_first() -> None:
    idle = {"uid-node-1": 700, "uid-node-2": 900, "uid-node-3": 800}
    memory = {uid: NodeMemory(boot_id="boot-1", idle_since=NOW - seconds(ago)) for uid, ago in idle.items()}

    assert plan(*machines(3), memory=memory).acts == (cordon("node-2"),)


def test_a_machine_that_is_not_running_is_none_that_the_pool_could_live_on() -> None:
    nodes = machines(3)
    state = heard(nodes)
    stopping = replace(state.instances[2], state=InstanceState.STOPPING)

    found = plan(*nodes, state=replace(state, instances=(*state.instances[:2], stopping)), target=2)

    assert found.acts == ()


# The second step: the drain


def test_a_cordon_settles_before_the_drain() -> None:
    early = plan(marked(ago=4))
    later = plan(marked(ago=5))

    assert (early.acts, early.wake_at, early.draining) == ((), NOW + seconds(1), {"h100": ("node-1",)})
    assert later.acts == (drain(),)


@pytest.mark.case("node-and-spot E48")
def test_an_operator_that_remembers_nothing_goes_on_with_the_drain_that_the_node_is_marked_with() -> None:
    assert plan(marked(), memory={}).acts == (drain(),)


def test_a_machine_is_found_by_its_id_before_its_provider_knows_the_node() -> None:
    state = PoolState(
        at=NOW, desired=1, instances=(Instance(id="i-7", state=InstanceState.RUNNING, since=OLD),)
    )

    assert plan(marked(provider_id="kwok://h100/i-7"), state=state).acts == (drain(instance="i-7"),)


@pytest.mark.parametrize(
    "over",
    [
        pytest.param({"states": {}}, id="its provider is not heard"),
        pytest.param({"state": heard(machines(1), error="503")}, id="its provider does not answer"),
        pytest.param({"state": heard(())}, id="its machine is not known"),
        pytest.param({"operations": (running(drain()),)}, id="it runs already"),
    ],
)
def test_a_drain_waits_while(over: dict[str, Any]) -> None:
    found = plan(marked(), **over)

    assert (found.acts, found.draining) == ((), {"h100": ("node-1",)})


def test_a_drain_waits_while_its_node_is_silent() -> None:
    silent = NodeCondition(type="Ready", status="Unknown", since=NOW - seconds(20))

    assert plan(marked(ready=False, conditions=(silent,))).acts == ()


def test_a_machine_that_stops_is_waited_for_beyond_every_time_limit() -> None:
    node = marked(ago=7200)
    stopping = Instance(id="i-node-1", state=InstanceState.STOPPING, since=NOW, node="node-1")

    found = plan(node, state=PoolState(at=NOW, desired=0, instances=(stopping,)))

    assert (found.acts, found.draining) == ((), {"h100": ("node-1",)})


# What stops a drain


@pytest.mark.case("node-and-spot E40")
@pytest.mark.parametrize("phase", [PodPhase.LOADING, PodPhase.READY])
def test_a_gpu_pod_that_slipped_in_before_the_cordon_keeps_its_node(phase: PodPhase) -> None:
    found = plan(marked(), pods=(settled(phase=phase, since=NOW - seconds(40)),))

    assert found.acts == (
        UncordonNode(
            node="node-1",
            node_uid="uid-node-1",
            why="a GPU pod came to it before the cordon, or is not as it was",
        ),
    )
    assert (found.blocked, found.draining) == ({}, {})


@pytest.mark.parametrize(
    "over",
    [
        pytest.param({"target": 1}, id="the pool needs it"),
        pytest.param({"pool": replace(POOL, min_nodes=1)}, id="the minimum was raised"),
        pytest.param({"used": frozenset({"node-1"})}, id="something is to be placed on it"),
    ],
)
def test_a_node_that_is_needed_again_is_given_back_and_must_be_idle_anew(over: dict[str, Any]) -> None:
    found = plan(marked(), **over)

    assert kept(found)
    assert found.blocked == {}
    assert found.memory["uid-node-1"].idle_since is None


def test_only_as_many_nodes_as_are_needed_are_given_back() -> None:
    found = plan(marked("node-1"), marked("node-2"), machine("node-3"), target=2)

    assert [(type(act), act.node) for act in found.acts] == [(UncordonNode, "node-1"), (DrainNode, "node-2")]


@pytest.mark.case("node-and-spot E44")
def test_a_drain_that_met_a_pod_it_may_not_move_is_undone_and_not_tried_again_for_a_while() -> None:
    failed = Operation(
        act=drain(), state=OperationState.FAILED, error="blocked", blocked="pod db/db-0 has no controller"
    )

    found = plan(marked(), operations=(failed,))
    memory = found.memory["uid-node-1"]

    assert kept(found)
    assert found.blocked == {"h100": "node-1 is kept: pod db/db-0 has no controller"}
    assert (memory.blocked_until, memory.blocked_by) == (NOW + seconds(300), "pod db/db-0 has no controller")


def test_a_back_off_that_could_not_be_written_to_the_node_is_written_by_the_next_pass_and_does_not_grow() -> (
    None
):
    memory = NodeMemory(boot_id="boot-1", blocked_until=NOW + seconds(200), blocked_by="pod db/db-0 stays")

    found = plan(marked(), memory={"uid-node-1": memory})

    assert kept(found)
    assert found.memory["uid-node-1"].blocked_until == NOW + seconds(200)


@pytest.mark.parametrize(("blocked_for", "acts"), [(1, ()), (0, (cordon(),))])
def test_a_node_that_backs_off_is_no_candidate(blocked_for: int, acts: tuple[CordonNode, ...]) -> None:
    memory = NodeMemory(
        boot_id="boot-1",
        idle_since=OLD,
        blocked_until=NOW + seconds(blocked_for),
        blocked_by="pod db/db-0 stays",
    )

    found = plan(machine(), memory={"uid-node-1": memory})

    assert found.acts == acts
    assert found.blocked == ({} if acts else {"h100": "node-1 is kept: pod db/db-0 stays"})


def test_a_drain_that_only_ran_out_of_time_goes_on() -> None:
    failed = Operation(act=drain(), state=OperationState.FAILED, error="3 pods have not left yet")

    assert plan(marked(), operations=(failed,)).acts == (drain(),)


@pytest.mark.parametrize(("ago", "is_kept"), [(599, False), (600, True)])
def test_a_drain_that_does_not_end_is_undone(ago: int, is_kept: bool) -> None:
    found = plan(marked(ago=ago))

    assert kept(found) is is_kept
    assert found.blocked == (
        {"h100": "node-1 is kept: its drain did not end within drain.timeoutSeconds (600 s)"}
        if is_kept
        else {}
    )


def test_a_drain_that_does_not_end_is_undone_even_while_its_provider_is_silent() -> None:
    assert kept(plan(marked(ago=600), states={}))


@pytest.mark.case("node-and-spot E44")
def test_a_foreign_pod_on_a_node_that_is_drained_keeps_it() -> None:
    foreign = settled(owner_uid="statefulset-db", owner_kind="StatefulSet", gpus=0)

    found = plan(marked(), pods=(foreign,), target=0, used=frozenset())

    assert kept(found)
    assert "belongs to no GpuWorkload in mode Enforce" in found.blocked["h100"]


@pytest.mark.case("node-and-spot E48")
@pytest.mark.parametrize(
    "over",
    [
        pytest.param({"pool": replace(POOL, mode=Mode.OBSERVE)}, id="Observe"),
        pytest.param({"pool": replace(POOL, mode=Mode.SCALE_UP_ONLY)}, id="ScaleUpOnly"),
        pytest.param({"pool": replace(POOL, provider=ProviderType.EXTERNAL)}, id="External"),
        pytest.param({"pool": replace(POOL, selector={"pool": "other"})}, id="the pool is gone"),
        pytest.param({"sees_all_pods": False}, id="not all pods are seen any more"),
    ],
)
def test_our_cordon_does_not_outlive_our_right_to_drain(over: dict[str, Any]) -> None:
    assert kept(plan(marked(), **over))


@pytest.mark.case("node-and-spot E49")
def test_our_mark_is_taken_off_where_somebody_else_had_cordoned_the_node() -> None:
    assert kept(plan(marked(was_unschedulable=True)))


def test_a_node_that_somebody_uncordoned_is_theirs_to_keep() -> None:
    assert kept(plan(marked(unschedulable=False)))


# Nodes that hold pods


def test_a_node_goes_whose_pods_fit_on_others_that_hold_some_already() -> None:
    pods = (settled(1, "node-1"), *make_pods(3, start=2, node="node-2"))

    found = plan(*machines(2), pods=pods)

    assert (found.acts, found.draining) == ((cordon("node-1"),), {"h100": ("node-1",)})


def test_a_node_whose_pods_move_goes_on_being_drained_although_its_pods_count_as_needing_it() -> None:
    pods = (settled(1, "node-1"), *make_pods(3, start=2, node="node-2"))

    assert plan(marked("node-1"), machine("node-2"), pods=pods).acts == (drain("node-1"),)


def test_one_node_that_holds_pods_goes_at_a_time() -> None:
    pods = tuple(settled(index, f"node-{index}") for index in range(1, 31))

    first = plan(*machines(30), pods=pods)
    next_ = plan(marked("node-1"), *machines(30)[1:], pods=pods)

    assert first.acts == (cordon("node-1"),)
    assert next_.acts == (drain("node-1"),)


def test_empty_nodes_go_before_those_that_hold_pods() -> None:
    pods = (settled(1, "node-1"), settled(2, "node-2"))

    assert plan(*machines(3), pods=pods).acts == (cordon("node-3"),)


def test_a_node_that_holds_pods_waits_until_the_empty_ones_of_its_pool_are_gone() -> None:
    pods = tuple(settled(index, f"node-{index}") for index in range(1, 20))

    assert plan(*machines(20), pods=pods).acts == (cordon("node-20"),)


@pytest.mark.parametrize(
    ("pods", "over"),
    [
        pytest.param((settled(1), *make_pods(8, start=2, node="node-2")), {}, id="the other is full"),
        pytest.param((settled(1),), {}, id="the other is empty and would only be filled instead"),
        pytest.param((settled(1), settled(2, "node-2")), {"target": 3}, id="more nodes are needed"),
        pytest.param(
            (settled(1), settled(2, "node-2")),
            {"pool": replace(POOL, min_nodes=2)},
            id="the pool is at its minimum",
        ),
        pytest.param(
            (settled(1), settled(2, "node-2"), make_pod(3, PodPhase.PENDING, node=None)),
            {},
            id="a pod waits for room",
        ),
        pytest.param(
            (settled(1), settled(2, "node-2")),
            {"operations": (make_operation(before=2, to=3),)},
            id="a count is on its way up",
        ),
        pytest.param(
            (settled(1, since=NOW - JUST_NOW), settled(2, "node-2", since=NOW - JUST_NOW)),
            {},
            id="they just came",
        ),
        pytest.param(
            (
                settled(1, phase=PodPhase.LOADING, since=OLD),
                settled(2, "node-2", phase=PodPhase.BROKEN, since=OLD),
            ),
            {},
            id="they do not serve",
        ),
        pytest.param(
            (settled(1, owner_uid="theirs"), settled(2, "node-2", owner_uid="theirs")),
            {},
            id="they are not ours",
        ),
        pytest.param(
            (
                settled(1, constraints=Constraints(node_selector={"zone": "a"})),
                settled(2, "node-2", constraints=Constraints(node_selector={"zone": "a"})),
            ),
            {},
            id="they do not go there",
        ),
    ],
)
def test_no_node_that_holds_pods_goes_while(pods: tuple[Pod, ...], over: dict[str, Any]) -> None:
    found = plan(*machines(2, labels={"pool": "h100"}), pods=pods, **({"target": 2} | over))

    assert [act for act in found.acts if act.node in {pod.node for pod in pods}] == []


def test_a_pod_fits_by_everything_that_it_requests() -> None:
    big = {"nvidia.com/gpu": 1, "memory": 60, "pods": 1}
    nodes = machines(2, allocatable={"nvidia.com/gpu": 8, "memory": 100, "pods": 110})
    pods = (settled(1, "node-1", requests=big), settled(2, "node-2", requests=big))

    assert plan(*nodes, pods=pods).acts == ()
    assert plan(*nodes, pods=tuple(replace(pod, requests={**big, "memory": 50}) for pod in pods)).acts == (
        cordon("node-1"),
    )


def test_pods_on_demand_do_not_move_to_spot_to_empty_a_node() -> None:
    spot = make_pool(
        "spot", capacity_type=CapacityType.SPOT, mode=Mode.ENFORCE, provider=ProviderType.KWOK, max_nodes=9
    )
    nodes = (machine("node-1"), machine("node-2", labels={"pool": "spot"}))
    states = {"h100": heard(nodes[:1]), "spot": heard(nodes[1:])}
    pods = (settled(1, "node-1"), settled(2, "node-2", owner_uid="theirs"))

    found = plan(*nodes, pods=pods, pools=(POOL, spot), states=states, targets={"h100": 1, "spot": 1})

    assert found.acts == ()


def test_a_full_node_is_kept_when_the_room_for_its_pods_is_gone() -> None:
    pods = (settled(1, "node-1"), *make_pods(8, start=2, node="node-2"))

    found = plan(marked("node-1"), machine("node-2"), pods=pods)

    assert kept(found)
    assert found.acts[0] == UncordonNode(
        node="node-1", node_uid="uid-node-1", why="its pods have no room elsewhere any more"
    )


def test_a_full_node_that_is_kept_is_no_reason_to_let_an_empty_one_go() -> None:
    pods = (settled(1, "node-1"), *make_pods(8, start=2, node="node-2"))

    found = plan(marked("node-1"), machine("node-2"), machine("node-3"), pods=pods, target=3)

    assert [(type(act), act.node) for act in found.acts] == [(UncordonNode, "node-1")]


def test_a_lost_node_that_was_draining_is_no_reason_to_let_another_one_go() -> None:
    silent = NodeCondition(type="Ready", status="Unknown", since=NOW - seconds(60))
    lost = marked("node-1", ready=False, conditions=(silent,))

    found = plan(lost, machine("node-2"), pods=(settled(1, "node-1"),), used=frozenset(), target=1)

    assert found.acts == ()


def test_a_foreign_pod_that_uses_a_gpu_is_what_the_node_is_for() -> None:
    found = plan(machine(), pods=(settled(1, "node-1", owner_uid="theirs"),))

    assert (found.acts, found.blocked) == ((), {})


@pytest.mark.case("node-and-spot E44")
def test_a_small_foreign_pod_that_holds_a_whole_node_is_named() -> None:
    foreign = settled(1, "node-1", gpus=0, owner_uid="", key=ObjectKey("ops", "shell"))

    found = plan(*machines(1), pods=(foreign,))

    assert found.acts == ()
    assert found.blocked == {
        "h100": "node-1 is kept: pod ops/shell belongs to no GpuWorkload in mode Enforce, and drain.foreignPods is Block"
    }


def test_a_foreign_pod_moves_where_the_pool_says_so() -> None:
    pool = replace(POOL, drain=DrainRules(foreign_pods=ForeignPods.EVICT))
    pods = (settled(1, "node-1", owner_uid="theirs"), *make_pods(3, start=2, node="node-2"))

    assert plan(*machines(2), pods=pods, pool=pool).acts == (cordon("node-1"),)
    assert plan(marked("node-1"), machine("node-2"), pods=pods, pool=pool).acts == (
        drain("node-1", foreign_pods=ForeignPods.EVICT),
    )


# Nodes that are taken back


@pytest.mark.case("node-and-spot E27")
def test_a_noticed_node_is_cordoned_at_once_and_then_our_pods_on_it_are_evicted_before_it_ends() -> None:
    pods = (settled(1), settled(2, owner_uid="theirs"), settled(3, owner_kind="DaemonSet", owner_uid="ds"))
    interrupted = noticed(
        unschedulable=True, mark=CordonMark(cause=CordonCause.INTERRUPTED, id="h100-uid-node-1", since=NOW)
    )

    first = plan(noticed(said=20), pods=pods)
    then = plan(interrupted, pods=pods)

    assert first.acts == (cordon(cause=CordonCause.INTERRUPTED),)
    assert then.acts == (
        EvictDoomed(
            node="node-1",
            node_uid="uid-node-1",
            pods=(PodRef(pods[0].key, pods[0].uid),),
            deadline=NOW + seconds(100),
        ),
    )


def interrupted(*, said: float | None = 20, **over: Any) -> Node:  # noqa: ANN401 -- fields of Node
    """A node with a notice and our mark for it."""
    since = None if said is None else NOW - seconds(said)
    return marked(cause=CordonCause.INTERRUPTED, taints=(Taint(SPOT_ITN, since=since),), **over)


@pytest.mark.case("node-and-spot E86")
@pytest.mark.parametrize(
    ("said", "first_seen", "left"),
    [
        pytest.param(None, 30, 90, id="no time is given: from when it was first seen"),
        pytest.param(-120, 30, 120, id="said in the future by a fast clock: from now"),
        pytest.param(50, 30, 70, id="from when it was said"),
    ],
)
def test_the_end_is_counted_from_the_notice(said: float | None, first_seen: float, left: float) -> None:
    memory = NodeMemory(boot_id="boot-1", doomed_since=NOW - seconds(first_seen))

    found = plan(interrupted(said=said), pods=(settled(),), memory={"uid-node-1": memory})

    assert [act.deadline for act in found.acts if isinstance(act, EvictDoomed)] == [NOW + seconds(left)]


@pytest.mark.parametrize(
    ("node", "pods"),
    [
        pytest.param(interrupted(said=120), (settled(),), id="its time is over"),
        pytest.param(interrupted(), (), id="nothing is on it"),
        pytest.param(interrupted(), (settled(owner_uid="theirs"),), id="nothing of ours is on it"),
        pytest.param(interrupted(), (settled(phase=PodPhase.TERMINATING),), id="its pods leave already"),
    ],
)
def test_nothing_more_is_done_on_a_noticed_node_when(node: Node, pods: tuple[Pod, ...]) -> None:
    assert plan(node, pods=pods).acts == ()


@pytest.mark.case("node-and-spot E36")
@pytest.mark.parametrize(
    "node",
    [
        pytest.param(machine(taints=(Taint("karpenter.sh/disrupted"),)), id="Karpenter"),
        pytest.param(machine(taints=(Taint("ToBeDeletedByClusterAutoscaler"),)), id="cluster-autoscaler"),
        pytest.param(machine(terminating=True), id="whoever deletes the Node"),
        pytest.param(
            machine(
                ready=False,
                conditions=(
                    NodeCondition(
                        type="Ready",
                        status="False",
                        reason="KubeletNotReady",
                        message="node is shutting down",
                        since=NOW,
                    ),
                ),
            ),
            id="the kubelet",
            marks=pytest.mark.case("node-and-spot E29"),
        ),
        pytest.param(noticed(unschedulable=True), id="whoever cordoned it, as termination handlers do"),
    ],
)
def test_a_node_that_somebody_else_drains_is_only_accounted_for(node: Node) -> None:
    assert plan(node, pods=(settled(),)).acts == ()


@pytest.mark.case("node-and-spot E35")
def test_several_signals_of_one_end_are_one_act() -> None:
    unready = NodeCondition(type="Ready", status="Unknown", since=NOW - seconds(90))
    node = machine(
        ready=False,
        taints=(Taint(SPOT_ITN), Taint("aws-node-termination-handler/rebalance-recommendation")),
        conditions=(unready,),
    )

    assert plan(node, pods=(settled(),)).acts == (cordon(cause=CordonCause.INTERRUPTED),)


@pytest.mark.parametrize(
    "pool",
    [
        pytest.param(replace(POOL, mode=Mode.SCALE_UP_ONLY), id="ScaleUpOnly"),
        pytest.param(replace(POOL, provider=ProviderType.EXTERNAL), id="External"),
    ],
)
def test_nodes_of_pools_that_are_not_ours_to_act_on_are_not_cordoned(pool: NodePool) -> None:
    assert plan(noticed(), pods=(settled(),), pool=pool).acts == ()


def test_a_node_in_a_drain_that_gets_a_notice_is_marked_for_that_instead() -> None:
    node = marked(taints=(Taint(SPOT_ITN),))

    assert plan(node).acts == (cordon(cause=CordonCause.INTERRUPTED),)


@pytest.mark.case("node-and-spot E30")
def test_a_notice_that_was_taken_back_gives_the_node_back() -> None:
    found = plan(marked(cause=CordonCause.INTERRUPTED), pods=(settled(),))

    assert found.acts == (
        UncordonNode(node="node-1", node_uid="uid-node-1", why="the notice was taken back"),
    )


@pytest.mark.case("node-and-spot E34")
def test_a_machine_that_came_back_under_the_name_has_the_whole_notice_of_its_own() -> None:
    before = NodeMemory(boot_id="boot-0", doomed_since=NOW - seconds(110))

    found = plan(interrupted(said=None), pods=(settled(),), memory={"uid-node-1": before})

    assert [act.deadline for act in found.acts if isinstance(act, EvictDoomed)] == [NOW + seconds(120)]


@pytest.mark.case("node-and-spot E33")
@pytest.mark.parametrize("silent_for", [20, 300])
def test_a_node_that_fell_silent_is_neither_cordoned_nor_emptied(silent_for: int) -> None:
    silent = NodeCondition(type="Ready", status="Unknown", since=NOW - seconds(silent_for))

    assert plan(machine(ready=False, conditions=(silent,)), pods=(settled(),)).acts == ()


@pytest.mark.case("node-and-spot E39")
def test_an_on_demand_node_that_fails_does_not_let_an_idle_one_go() -> None:
    silent = NodeCondition(type="Ready", status="Unknown", since=NOW - seconds(300))
    lost = machine("node-1", ready=False, conditions=(silent,))

    assert plan(lost, machine("node-2"), pods=(settled(1, "node-1"),), target=1).acts == ()


# Nodes whose machine is gone


def silent_node(**over: Any) -> Node:  # noqa: ANN401 -- fields of Node
    silent = NodeCondition(type="Ready", status="Unknown", since=NOW - seconds(300))
    return machine(ready=False, conditions=(silent,), provider_id="kwok://h100/i-node-1", **over)


@pytest.mark.case("node-and-spot E51")
def test_the_node_of_a_machine_that_is_proven_gone_is_forgotten_after_a_minute() -> None:
    first = plan(silent_node(), state=heard(()))
    early = plan(silent_node(), state=heard(()), memory=first.memory, now=NOW + seconds(59))
    later = plan(silent_node(), state=heard(()), memory=first.memory, now=NOW + seconds(60))

    assert (first.acts, first.memory["uid-node-1"].gone_since) == ((), NOW)
    assert early.acts == ()
    assert later.acts == (
        ForgetNode(pool="h100", node="node-1", node_uid="uid-node-1", instance="kwok://h100/i-node-1"),
    )


@pytest.mark.case("node-and-spot E51")
@pytest.mark.parametrize(
    ("node", "over"),
    [
        pytest.param(silent_node(), {"states": {}}, id="its provider is not heard"),
        pytest.param(silent_node(), {"state": heard((), error="503")}, id="its provider does not answer"),
        pytest.param(silent_node(), {}, id="its machine is there"),
        pytest.param(
            silent_node(),
            {
                "state": PoolState(
                    at=NOW,
                    desired=1,
                    instances=(Instance(id="i-node-1", state=InstanceState.BOOTING, since=NOW),),
                )
            },
            id="its machine is there and has no name yet",
        ),
        pytest.param(machine(), {"state": heard(())}, id="it still reports"),
        pytest.param(silent_node(terminating=True), {"state": heard(())}, id="it is being deleted"),
        pytest.param(
            silent_node(),
            {"state": heard(()), "pool": replace(POOL, mode=Mode.SCALE_UP_ONLY)},
            id="ScaleUpOnly",
        ),
    ],
)
def test_a_node_is_not_forgotten_while(node: Node, over: dict[str, Any]) -> None:
    memory = {"uid-node-1": NodeMemory(boot_id="boot-1", gone_since=OLD)}

    assert plan(node, memory=memory, **over).acts == ()


def test_no_node_is_forgotten_of_a_pool_that_shares_one_with_another_pool() -> None:
    memory = {"uid-node-1": NodeMemory(boot_id="boot-1", gone_since=OLD), "uid-node-2": NodeMemory()}
    shared = machine("node-2", labels={"pool": "h100", "rack": "7"})

    assert plan(silent_node(), shared, state=heard(()), pools=(POOL, RIVAL), memory=memory).acts == ()


def test_our_mark_goes_from_a_node_that_is_gone_where_it_may_not_be_forgotten() -> None:
    node = replace(silent_node(), unschedulable=True, mark=marked().mark)
    quiet = replace(
        node, conditions=(NodeCondition(type="Ready", status="Unknown", since=NOW - seconds(20)),)
    )
    memory = {"uid-node-1": NodeMemory(boot_id="boot-1", gone_since=OLD)}

    assert kept(plan(quiet, state=heard(()), pool=replace(POOL, mode=Mode.OBSERVE), memory=memory))


def test_a_machine_that_was_only_missing_for_a_moment_is_missed_anew() -> None:
    before = {"uid-node-1": NodeMemory(boot_id="boot-1", gone_since=OLD)}

    assert plan(silent_node(), memory=before).memory["uid-node-1"].gone_since is None
    assert plan(machine(), state=heard(()), memory=before).memory["uid-node-1"].gone_since is None


# Pods that may not be moved


def why_not(pod: Pod, foreign_pods: ForeignPods = ForeignPods.BLOCK) -> str:
    return blocker(pod, movable=OURS, foreign_pods=foreign_pods, now=NOW)


@pytest.mark.parametrize(
    "pod",
    [
        pytest.param(settled(), id="ours"),
        pytest.param(settled(local_volumes=("cache",)), id="ours with a cache on disk"),
        pytest.param(settled(owner_uid="ds", owner_kind="DaemonSet"), id="of a DaemonSet"),
        pytest.param(settled(owner_uid="node", owner_kind="Node"), id="a mirror pod"),
        pytest.param(settled(owner_uid="", phase=PodPhase.TERMINATING), id="leaving already"),
        pytest.param(settled(owner_uid="", phase=PodPhase.FINISHED), id="finished"),
    ],
)
def test_nothing_keeps_a_pod_that_is(pod: Pod) -> None:
    assert why_not(pod) == ""


@pytest.mark.case("node-and-spot E46")
@pytest.mark.parametrize(
    ("text", "runs_for", "is_kept"),
    [
        ("true", 7200, True),
        ("30m", 1799, True),
        ("30m", 1800, False),
        ("1h30m", 5399, True),
        ("1h30m", 5400, False),
        ("1.5h", 5399, True),
        ("90m0s", 5401, False),
        ("500ms", 1, False),
        ("999999999999999h", 7200, True),
        ("false", 1, False),
        ("30", 1, False),
        ("half an hour", 1, False),
        ("-5m", 1, False),
        ("", 1, False),
    ],
)
def test_a_pod_may_ask_not_to_be_disrupted_for_a_time(text: str, runs_for: int, is_kept: bool) -> None:
    pod = settled(hints={"karpenter.sh/do-not-disrupt": text}, created_at=NOW - seconds(runs_for))

    assert bool(why_not(pod)) is is_kept


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        ("cluster-autoscaler.kubernetes.io/safe-to-evict", "false"),
        ("spotinst.io/restrict-scale-down", "true"),
        ("cluster.x-k8s.io/drain", "wait-completed"),
    ],
)
@pytest.mark.parametrize("foreign_pods", list(ForeignPods))
def test_what_a_pod_asks_of_other_autoscalers_holds_for_us_too(
    hint: str, value: str, foreign_pods: ForeignPods
) -> None:
    assert why_not(settled(hints={hint: value}), foreign_pods) == (
        f"pod chat/llm-r1-00000 asks to be left alone ({hint}: {value})"
    )
    assert why_not(settled(hints={hint: "other"}), foreign_pods) == ""


FOREIGN: dict[str, Any] = {"owner_uid": "replicaset-theirs", "owner_kind": "ReplicaSet"}
SAFE = "cluster-autoscaler.kubernetes.io/safe-to-evict"
SAFE_VOLUMES = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"


@pytest.mark.case("node-and-spot E44")
@pytest.mark.parametrize(
    ("pod", "why"),
    [
        pytest.param(settled(**FOREIGN), "", id="has a controller"),
        pytest.param(settled(owner_uid=""), "has no controller that would make it again", id="bare"),
        pytest.param(
            settled(owner_uid="", hints={SAFE: "true"}),
            "has no controller that would make it again",
            id="bare, said safe",
        ),
        pytest.param(settled(**FOREIGN, namespace="kube-system"), "is of the system", id="of the system"),
        pytest.param(
            settled(**FOREIGN, local_volumes=("data", "logs")),
            "keeps data on the node (volume data)",
            id="local data",
        ),
        pytest.param(
            settled(**FOREIGN, local_volumes=("data",), hints={SAFE: "true"}), "", id="local data, said safe"
        ),
        pytest.param(
            settled(**FOREIGN, local_volumes=("data", "logs"), hints={SAFE_VOLUMES: "data, logs"}),
            "",
            id="every volume said safe",
        ),
        pytest.param(
            settled(**FOREIGN, local_volumes=("data", "logs"), hints={SAFE_VOLUMES: "data"}),
            "keeps data on the node (volume logs)",
            id="one volume not said safe",
        ),
    ],
)
def test_a_foreign_pod_may_be_moved_where_the_pool_says_so_unless_it(pod: Pod, why: str) -> None:
    assert why_not(pod, ForeignPods.EVICT) == (why and f"pod {pod.key} {why}")
    assert "drain.foreignPods is Block" in why_not(pod, ForeignPods.BLOCK)


# Which pods go when a Deployment shrinks


def victims(*pods: Pod, count: int, nodes: tuple[Node, ...] = (), others: tuple[Pod, ...] = ()) -> list[str]:
    snapshot = make_snapshot(pods=(*pods, *others), nodes=nodes or machines(3), pools=(POOL,))
    return [found.uid[-1] for found in choose_victims(pods, count, survey(snapshot, {}, NOW))]


def test_what_serves_least_goes_first() -> None:
    pods = (
        settled(1),
        settled(2, phase=PodPhase.BROKEN),
        settled(3, phase=PodPhase.LOADING),
        make_pod(4, PodPhase.UNSCHEDULABLE, node=None),
    )

    assert victims(*pods, count=4) == ["4", "3", "2", "1"]


def test_pods_on_nodes_that_are_lost_or_drained_go_before_others() -> None:
    pods = (settled(1, "node-1"), settled(2, "node-2"), settled(3, "node-3"))
    nodes = (machine("node-1"), marked("node-2"), noticed("node-3"))

    assert victims(*pods, count=3, nodes=nodes) == ["3", "2", "1"]


def test_the_pod_goes_whose_node_is_nearest_to_empty() -> None:
    pods = (settled(1, "node-1"), settled(2, "node-1"), settled(3, "node-2"), settled(4, "node-3"))
    daemons = tuple(settled(50 + index, "node-3", owner_kind="DaemonSet", of="daemon") for index in range(3))
    foreign = tuple(settled(60 + index, "node-2", of="theirs") for index in range(3))

    assert victims(*pods, count=1, others=(*daemons, *foreign)) == ["4"]
    assert victims(*pods, count=3, others=(*daemons, *foreign)) == ["4", "1", "2"]


def test_a_node_is_emptied_before_another_is_begun() -> None:
    minutes = {1: 1, 2: 30, 3: 2, 4: 3}
    pods = tuple(
        settled(index, f"node-{1 + index % 2}", created_at=NOW - seconds(60 * age))
        for index, age in minutes.items()
    )

    assert victims(*pods, count=2) == ["1", "3"]


def test_the_newest_goes_first_where_all_else_is_equal() -> None:
    pods = tuple(settled(index, created_at=NOW - seconds(60 * index)) for index in (2, 1, 3))

    assert victims(*pods, count=2) == ["1", "2"]


def test_of_spot_pools_the_one_that_holds_most_gives_first() -> None:
    pools = tuple(
        make_pool(name, selector={"pool": name}, capacity_type=CapacityType.SPOT) for name in ("a", "b")
    )
    nodes = tuple(machine(f"node-{index}", labels={"pool": pool}) for index, pool in enumerate("aabbb", 1))
    pods = tuple(settled(index, node=f"node-{index}") for index in range(1, 6))
    fleet = survey(make_snapshot(pods=pods, nodes=nodes, pools=pools), {}, NOW)

    gone = choose_victims(pods, 1, fleet)

    assert gone[0].uid[-1] in "345"


def test_pods_that_are_leaving_are_no_victims() -> None:
    pods = (settled(1), settled(2, phase=PodPhase.TERMINATING), settled(3, phase=PodPhase.FINISHED))

    assert victims(*pods, count=3) == ["1"]


@pytest.mark.case("node-and-spot E41")
@pytest.mark.case("node-and-spot E42")
def test_a_node_is_kept_by_its_pods_whatever_their_gpus_do() -> None:
    """Idle is a node that holds nothing; a warm model at 0 % goes when its workload shrinks, and unknown metrics free nobody."""
    found = plan(machine(), pods=(settled(),))

    assert found.acts == ()
