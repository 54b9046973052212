"""How every node stands, and what is remembered of it."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from tests.builders import LONG_AGO, NOW, make_node, make_pod, make_pool, make_snapshot, seconds

from spillway.core import capacity
from spillway.core.fleet import Fleet, Standing, leaves_by_itself, survey
from spillway.core.memory import NodeMemory
from spillway.core.model import (
    CapacityType,
    CordonCause,
    CordonMark,
    Instance,
    InstanceState,
    Node,
    NodeCondition,
    Pod,
    PodPhase,
    PoolState,
    Snapshot,
)
from spillway.core.scheduling import Taint

OLD = NOW - LONG_AGO
YOUNG = NOW - seconds(60)
NOTICED = (Taint("aws-node-termination-handler/spot-itn"),)


def machine(name: str = "node-1", **over: Any) -> Node:  # noqa: ANN401 -- fields of Node
    return make_node(name, **{"uid": f"uid-{name}", "created_at": OLD, "boot_id": "boot-1", **over})


def unready(since: datetime, *, status: str = "Unknown", **over: Any) -> Node:  # noqa: ANN401 -- fields of Node
    condition = NodeCondition(type="Ready", status=status, since=since)
    return machine(ready=False, conditions=(condition,), **over)


def seen(*nodes: Node, pods: tuple[Pod, ...] = (), **over: Any) -> Snapshot:  # noqa: ANN401 -- fields of Snapshot
    return make_snapshot(pods=pods, nodes=nodes, pools=over.pop("pools", (make_pool(),)), **over)


def standing_of(node: Node, *, memory: NodeMemory | None = None, now: datetime = NOW) -> Standing:
    return survey(seen(node), {node.uid: memory} if memory else {}, now).standing[node.name]


def remembered(
    node: Node, memory: NodeMemory, *, pods: tuple[Pod, ...] = (), now: datetime = NOW
) -> NodeMemory:
    return survey(seen(node, pods=pods), {"uid-node-1": memory}, now).memory[node.uid]


def mark(cause: CordonCause = CordonCause.DRAIN) -> CordonMark:
    return CordonMark(cause=cause, id="h100-uid-node-1", since=NOW)


@pytest.mark.parametrize(
    ("node", "standing"),
    [
        pytest.param(machine(), Standing.GOOD, id="Ready with its GPUs"),
        pytest.param(
            machine(gpus=0, created_at=YOUNG),
            Standing.BOOTING,
            id="Ready, its device plugin has not reported",
        ),
        pytest.param(machine(gpus=0), Standing.STALLED, id="Ready for long without a device"),
        pytest.param(machine(gpus=0, labels={}), Standing.GOOD, id="Ready in no pool: nobody waits for GPUs"),
        pytest.param(
            unready(YOUNG, status="False", gpus=0, created_at=YOUNG),
            Standing.BOOTING,
            id="registered, not yet Ready",
        ),
        pytest.param(unready(OLD, status="False", gpus=0), Standing.STALLED, id="registered, never Ready"),
        pytest.param(
            machine(ready=False, gpus=0, created_at=YOUNG), Standing.BOOTING, id="has not said anything yet"
        ),
        pytest.param(machine(taints=NOTICED), Standing.DOOMED, id="a hard notice"),
        pytest.param(machine(terminating=True), Standing.DOOMED, id="being deleted"),
        pytest.param(
            machine(taints=NOTICED, unschedulable=True, mark=mark()), Standing.DOOMED, id="noticed in a drain"
        ),
        pytest.param(machine(unschedulable=True, mark=mark()), Standing.DRAINING, id="our drain"),
        pytest.param(machine(unschedulable=True), Standing.CORDONED, id="somebody's cordon"),
        pytest.param(
            machine(unschedulable=True, mark=mark(CordonCause.INTERRUPTED)),
            Standing.CORDONED,
            id="our cordon, the notice is gone",
        ),
    ],
)
def test_a_node_stands_by_what_is_said_of_it(node: Node, standing: Standing) -> None:
    assert standing_of(node) is standing


@pytest.mark.case("node-and-spot E31")
def test_an_advice_changes_nothing() -> None:
    node = machine(taints=(Taint("aws-node-termination-handler/rebalance-recommendation"),))

    assert standing_of(node) is Standing.GOOD


@pytest.mark.case("node-and-spot E33")
@pytest.mark.parametrize(
    ("unready_for", "standing"), [(20, Standing.SUSPECTED), (59, Standing.SUSPECTED), (60, Standing.DOOMED)]
)
def test_a_node_that_falls_silent_is_lost_after_a_minute(unready_for: int, standing: Standing) -> None:
    assert standing_of(unready(NOW - seconds(unready_for))) is standing


@pytest.mark.case("node-and-spot E33")
def test_a_node_that_was_lost_and_came_back_is_good_again() -> None:
    memory = NodeMemory(boot_id="boot-1", doomed_since=NOW - seconds(30))

    assert standing_of(machine(), memory=memory) is Standing.GOOD
    assert remembered(machine(), memory).doomed_since is None


@pytest.mark.case("node-and-spot E86")
def test_a_change_that_a_fast_clock_puts_into_the_future_has_no_age() -> None:
    assert standing_of(unready(NOW + seconds(120))) is Standing.SUSPECTED


@pytest.mark.case("node-and-spot E86")
@pytest.mark.parametrize(("age", "standing"), [(90, Standing.BOOTING), (700, Standing.DOOMED)])
def test_a_booting_machine_whose_clock_is_wrong_is_not_lost(age: int, standing: Standing) -> None:
    created = NOW - seconds(age)
    node = unready(created + seconds(30), status="False", gpus=0, created_at=created)

    assert standing_of(node) is standing


@pytest.mark.case("node-and-spot E39")
def test_an_on_demand_node_is_lost_like_any_other_and_opens_no_breaker() -> None:
    pool = make_pool(
        capacity_type=CapacityType.ON_DEMAND, breaker=replace(make_pool().breaker, interruptions=1)
    )
    snapshot = seen(unready(NOW - seconds(60)), pools=(pool,))

    fleet = survey(snapshot, {}, NOW)

    assert fleet.is_doomed("node-1")
    assert capacity.outlook(snapshot, fleet, {}, NOW)["h100"].memory.breaker_until is None


@pytest.mark.case("node-and-spot E34")
@pytest.mark.parametrize(
    "node",
    [
        pytest.param(machine(boot_id="boot-2"), id="booted anew"),
        pytest.param(machine(uid="uid-2", boot_id="boot-2"), id="made anew"),
    ],
)
def test_nothing_is_remembered_of_the_machine_that_had_the_name_before(node: Node) -> None:
    before = NodeMemory(
        boot_id="boot-1",
        doomed_since=OLD,
        idle_since=OLD,
        blocked_until=NOW,
        blocked_by="a pod",
        gone_since=OLD,
    )

    assert remembered(node, before) == NodeMemory(boot_id="boot-2", idle_since=NOW)


def test_the_time_of_a_notice_is_when_it_was_first_seen() -> None:
    node = machine(taints=NOTICED)
    first = survey(seen(node), {}, NOW).memory

    later = survey(seen(node), first, NOW + seconds(15)).memory

    assert later["uid-node-1"].doomed_since == NOW


def test_nothing_is_remembered_of_a_node_that_is_gone() -> None:
    assert survey(seen(), {"uid-node-1": NodeMemory(idle_since=OLD)}, NOW).memory == {}


@pytest.mark.parametrize(
    ("pod", "is_idle"),
    [
        pytest.param(make_pod(), False, id="a GPU pod"),
        pytest.param(make_pod(gpus=0), False, id="a pod without a GPU"),
        pytest.param(make_pod(phase=PodPhase.BROKEN), False, id="a broken pod"),
        pytest.param(make_pod(phase=PodPhase.FINISHED), True, id="a finished pod"),
        pytest.param(make_pod(owner_kind="DaemonSet"), True, id="of a DaemonSet"),
        pytest.param(make_pod(owner_kind="Node"), True, id="a mirror pod"),
        pytest.param(make_pod(phase=PodPhase.TERMINATING), False, id="leaving"),
        pytest.param(make_pod(node="node-2"), True, id="a pod on another node"),
    ],
)
@pytest.mark.case("node-and-spot E43")
def test_a_node_is_idle_while_only_pods_that_leave_with_it_are_on_it(pod: Pod, is_idle: bool) -> None:
    memory = remembered(machine(), NodeMemory(boot_id="boot-1", idle_since=OLD), pods=(pod,))

    assert memory.idle_since == (OLD if is_idle else None)


@pytest.mark.case("node-and-spot E47")
@pytest.mark.parametrize(("deleted_ago", "is_left_behind"), [(89, False), (90, False), (91, True)])
def test_a_pod_counts_no_more_a_minute_after_it_should_be_gone(
    deleted_ago: int, is_left_behind: bool
) -> None:
    pod = make_pod(phase=PodPhase.TERMINATING, since=NOW - seconds(deleted_ago), grace=seconds(30))

    assert leaves_by_itself(pod, NOW) is is_left_behind


def test_every_unfinished_pod_is_found_on_its_node() -> None:
    pods = (
        make_pod(0),
        make_pod(1, node="node-2"),
        make_pod(2),
        make_pod(3, PodPhase.FINISHED),
        make_pod(4, node=None),
    )

    fleet = survey(seen(machine("node-1"), machine("node-2"), pods=pods), {}, NOW)

    assert {node: [pod.uid for pod in found] for node, found in fleet.pods_on.items()} == {
        "node-1": ["llm-r1-00000", "llm-r1-00002"],
        "node-2": ["llm-r1-00001"],
    }


def test_a_node_that_two_pools_select_is_in_neither() -> None:
    both = machine(labels={"pool": "h100", "zone": "a"})
    pools = (make_pool(), make_pool("zone-a", selector={"zone": "a"}))

    fleet: Fleet = survey(seen(both, machine("node-2"), pools=pools), {}, NOW)

    assert (fleet.pool_of("node-1"), fleet.pool_of("node-2")) == (None, pools[0])
    assert fleet.names_in("h100") == ("node-2",)


@pytest.mark.parametrize("name", [None, "unheard-of"])
def test_no_node_and_an_unknown_node_are_not_lost(name: str | None) -> None:
    assert not survey(seen(), {}, NOW).is_doomed(name)


@pytest.mark.parametrize(
    ("ready_for", "nodes", "is_lost"),
    [
        pytest.param(60, ("node-1",), True, id="Ready for longer than any cache lags"),
        pytest.param(59, ("node-1",), False, id="its node may not be seen yet"),
        pytest.param(3600, ("node-1", "node-2"), False, id="its node is there"),
        pytest.param(3600, (), False, id="no node is seen at all"),
    ],
)
def test_a_pod_that_says_ready_on_a_node_that_was_deleted_is_lost(
    ready_for: int, nodes: tuple[str, ...], is_lost: bool
) -> None:
    pod = make_pod(node="node-2", since=NOW - seconds(ready_for))
    snapshot = make_snapshot(nodes=tuple(map(make_node, nodes)), pods=(pod,))

    assert survey(snapshot, {}, NOW).is_doomed("node-2") is is_lost


def test_a_pool_is_known_by_the_lasting_taints_of_its_nodes() -> None:
    spot, notice = Taint("spot", "true"), Taint("aws-node-termination-handler/spot-itn")
    nodes = (
        make_node("a", uid="a", taints=(spot,)),
        make_node("b", uid="b", taints=(spot, notice, Taint("spillway.dev/cordoned", "interrupted"))),
        make_node("c", uid="c", taints=(Taint("node.kubernetes.io/unschedulable"),)),
    )
    pool = make_pool(taints=(spot,))

    fleet = survey(make_snapshot(nodes=nodes, pools=(pool,)), {}, NOW)

    assert fleet.taints_of(pool) == {(spot,), ()}


def test_a_pool_without_nodes_is_known_by_the_taints_that_it_names() -> None:
    pool = make_pool(taints=(Taint("spot", "true"),))

    assert survey(make_snapshot(pools=(pool,)), {}, NOW).taints_of(pool) == {(Taint("spot", "true"),)}


@pytest.mark.case("node-and-spot E13")
@pytest.mark.parametrize(
    ("ago", "node", "is_overdue"),
    [
        pytest.param(599, "", False, id="still in time"),
        pytest.param(600, "", True, id="granted too long ago"),
        pytest.param(600, "node-1", False, id="it has a Node: that one tells"),
    ],
)
def test_a_machine_that_never_becomes_a_node_is_overdue(ago: float, node: str, is_overdue: bool) -> None:
    machine = Instance(id="i-1", state=InstanceState.BOOTING, since=NOW - seconds(ago), node=node)
    states = {"h100": PoolState(at=NOW, desired=1, instances=(machine,))}

    found = survey(make_snapshot(pools=(make_pool(),), pool_states=states), {}, NOW)

    assert (machine.id in found.overdue) is is_overdue
