"""To what size every pool is asked to grow, and what is taken back, from what all workloads want at this moment."""

from collections.abc import Iterable
from typing import Any

import pytest
from tests.builders import (
    NOW,
    make_deployment,
    make_node,
    make_pod,
    make_pool,
    make_snapshot,
    make_workload,
    seconds,
)

from spillway.core.capacity import PoolsPlan, outlook, plan_pools
from spillway.core.fleet import survey
from spillway.core.memory import PoolMemory
from spillway.core.model import (
    CancelUnfulfilled,
    CapacityType,
    CordonCause,
    CordonMark,
    GrowPool,
    Instance,
    InstanceState,
    Mode,
    Node,
    NodePool,
    Operation,
    OperationState,
    Pod,
    PodPhase,
    PoolAct,
    PoolState,
    ProviderType,
    Refusal,
    RefusalKind,
)
from spillway.core.packing import Demand, Tier
from spillway.core.plan import PoolReason
from spillway.core.scheduling import Constraints, Taint, Toleration

GPU = "nvidia.com/gpu"
SPOT = Taint(key="spot", value="true")
TOLERATES_SPOT = Constraints(tolerations=(Toleration(key="spot", operator="Exists"),))
NOTICE = Taint(key="aws-node-termination-handler/spot-itn", effect="NoExecute")


def pool(name: str = "h100", **over: Any) -> NodePool:  # noqa: ANN401 -- fields of NodePool
    values: dict[str, Any] = {"provider": ProviderType.KWOK, "mode": Mode.ENFORCE, "max_nodes": 10}
    return make_pool(name, **{**values, **over})


def spot(name: str = "spot-a", **over: Any) -> NodePool:  # noqa: ANN401 -- fields of NodePool
    return pool(name, **{"capacity_type": CapacityType.SPOT, "taints": (SPOT,), **over})


def node(index: int, *, of: str = "h100", **over: Any) -> Node:  # noqa: ANN401 -- fields of Node
    values: dict[str, Any] = {
        "uid": f"uid-{of}-{index}",
        "labels": {"pool": of},
        "allocatable": {GPU: 8, "pods": 110},
        "created_at": NOW - seconds(7200),
    }
    return make_node(f"{of}-{index}", **{**values, **over})


def full(index: int, *, of: str = "h100", gpus: int = 8, **over: Any) -> Pod:  # noqa: ANN401 -- fields of Pod
    """A pod that fills a node."""
    return make_pod(
        index, of=f"filler-{of}", node=f"{of}-{index}", gpus=gpus, requests={GPU: gpus, "pods": 1}, **over
    )


def state(desired: int, granted: int, *, of: str = "h100", booting: int = 0, **over: Any) -> PoolState:  # noqa: ANN401
    """*granted* machines of which the last *booting* have no Node yet."""
    machines = tuple(
        Instance(
            id=f"i-{of}-{index}",
            state=InstanceState.BOOTING if index >= granted - booting else InstanceState.RUNNING,
            since=NOW - seconds(60),
            node="" if index >= granted - booting else f"{of}-{index}",
        )
        for index in range(granted)
    )
    return PoolState(**{"at": NOW, "desired": desired, "instances": machines, **over})


def demand(count: int, gpus: int = 8, *, owner: str = "llm", **over: Any) -> Demand:  # noqa: ANN401 -- fields of Demand
    values: dict[str, Any] = {
        "owner": owner,
        "template": "t1",
        "requests": {GPU: gpus, "pods": 1},
        "constraints": Constraints(),
        "count": count,
        "tier": Tier.BASELINE,
    }
    return Demand(**{**values, **over})


def burst(count: int, gpus: int = 8, **over: Any) -> Demand:  # noqa: ANN401 -- fields of Demand
    return demand(count, gpus, **{"tier": Tier.BURST, "constraints": TOLERATES_SPOT, **over})


def planned(
    *demands: Demand,
    pools: Iterable[NodePool] | None = None,
    states: dict[str, PoolState] | None = None,
    memory: PoolMemory | None = None,
    **over: Any,  # noqa: ANN401 -- fields of Snapshot
) -> PoolsPlan:
    pools = tuple(pools or (pool(),))
    values: dict[str, Any] = {
        "pools": pools,
        "pool_states": states if states is not None else {found.name: state(0, 0) for found in pools},
        "pods": (),
    }
    snapshot = make_snapshot((), (), **{**values, **over})
    fleet = survey(snapshot, {}, NOW)
    memories = {found.uid: memory for found in pools if memory is not None}
    return plan_pools(snapshot, fleet, outlook(snapshot, fleet, memories, NOW), demands, places={}, now=NOW)


def grow(before: int, to: int, *, of: str = "h100") -> GrowPool:
    return GrowPool(pool=of, pool_uid=f"pool-{of}", before=before, to=to)


def cancel(before: int, to: int, *, of: str = "h100") -> CancelUnfulfilled:
    return CancelUnfulfilled(pool=of, pool_uid=f"pool-{of}", before=before, to=to)


def test_a_pool_grows_at_once_by_what_is_wanted() -> None:
    found = planned(demand(3))

    assert found.acts == (grow(0, 3),)
    assert found.targets == {"h100": 3}
    assert found.decisions["h100"].reason is PoolReason.GROWING


@pytest.mark.case("node-and-spot E9")
def test_two_workloads_that_share_a_pool_add_up_and_share_nodes() -> None:
    found = planned(demand(3, gpus=4, owner="chat"), demand(3, gpus=4, owner="code"))

    assert found.acts == (grow(0, 3),)  # 24 GPUs on nodes of 8


@pytest.mark.parametrize("where", [OperationState.RUNNING, OperationState.AWAITING_CACHE])
@pytest.mark.case("node-and-spot E9")
def test_a_pool_that_is_being_resized_is_not_asked_twice(where: OperationState) -> None:
    under_way = Operation(act=grow(0, 3), state=where)

    assert planned(demand(3), operations=(under_way,)).acts == ()


def test_machines_that_are_promised_carry_what_is_wanted() -> None:
    found = planned(demand(3), states={"h100": state(3, 3, booting=3)})

    assert (found.acts, found.targets) == ((), {"h100": 3})
    assert found.decisions["h100"].reason is PoolReason.BOOTING


def test_what_is_asked_for_and_not_granted_yet_is_not_asked_for_again() -> None:
    found = planned(demand(3), states={"h100": state(3, 1, booting=1)})

    assert found.acts == ()
    assert found.decisions["h100"].reason is PoolReason.GROWING


def test_nothing_is_asked_for_before_every_pool_was_heard_once() -> None:
    """The node that is wanted may be on its way in the other one, asked for before a restart."""
    pools = (spot("spot-a"), spot("spot-b"))

    assert planned(burst(1), pools=pools, states={"spot-b": state(0, 0)}).acts == ()


def test_a_pool_whose_provider_only_ever_failed_does_not_hold_up_the_others() -> None:
    pools = (spot("spot-a"), spot("spot-b"))
    failed = state(0, 0, at=NOW - seconds(86400), error="503: try later")

    found = planned(burst(1), pools=pools, states={"spot-a": failed, "spot-b": state(0, 0)})

    assert found.acts == (grow(0, 1, of="spot-b"),)


def machine(index: int, *, ago: float, node: str = "", of: str = "h100") -> Instance:
    """One that was granted *ago* seconds ago, and runs once it has a node."""
    kind = InstanceState.RUNNING if node else InstanceState.BOOTING
    return Instance(id=f"i-{of}-{index}", state=kind, since=NOW - seconds(ago), node=node)


@pytest.mark.case("node-and-spot E13")
@pytest.mark.parametrize(
    ("newest", "to"),
    [
        pytest.param((), 4, id="one is tried anew"),
        pytest.param((machine(3, ago=60),), None, id="none while another one boots"),
        pytest.param((machine(3, ago=900, node="h100-9"),), 5, id="one that came before them proves nothing"),
        pytest.param((machine(3, ago=700, node="h100-3"),), 7, id="all, once one came"),
    ],
)
def test_where_machines_never_became_nodes_one_is_tried_at_a_time(
    newest: tuple[Instance, ...], to: int | None
) -> None:
    hung = tuple(machine(index, ago=800) for index in range(3))
    machines = (*hung, *newest)
    nodes = tuple(
        make_node(found.node, uid=found.node, gpus=1, created_at=found.since)  # too small for what is wanted
        for found in newest
        if found.node
    )
    told = PoolState(at=NOW, desired=len(machines), instances=machines)

    found = planned(demand(3), states={"h100": told}, nodes=nodes)

    assert found.acts == (() if to is None else (grow(len(machines), to),))


def test_free_nodes_are_used_before_any_is_bought() -> None:
    found = planned(demand(2), nodes=(node(0), node(1)), states={"h100": state(2, 2)})

    assert found.acts == ()
    assert found.used_nodes == {"h100-0", "h100-1"}


@pytest.mark.parametrize("key", ["not-ready", "unreachable"])
def test_a_node_that_turned_ready_a_moment_ago_is_not_bought_twice(key: str) -> None:
    ready = node(0, taints=(Taint(key=f"node.kubernetes.io/{key}"),))  # its controller lifts it later

    plan = planned(demand(1), nodes=[ready], states={"h100": state(1, 1)})

    assert plan.acts == ()


def test_a_node_under_pressure_is_no_room() -> None:
    pressed = node(0, taints=(Taint(key="node.kubernetes.io/memory-pressure"),))

    plan = planned(demand(1), nodes=[pressed], states={"h100": state(1, 1)})

    assert [act.to for act in plan.acts if isinstance(act, GrowPool)] == [2]


def test_nodes_that_nobody_needs_are_not_in_the_target_and_not_taken_here() -> None:
    found = planned(nodes=(node(0), node(1), node(2)), pods=(full(1),), states={"h100": state(3, 3)})

    assert (found.acts, found.targets, found.used_nodes) == ((), {"h100": 1}, {"h100-1"})


@pytest.mark.parametrize(
    ("limits", "wanted", "acts"),
    [
        pytest.param({"min_nodes": 2}, 0, (grow(0, 2),), id="minNodes are kept without demand"),
        pytest.param({"min_nodes": 2}, 1, (grow(0, 2),), id="demand within minNodes"),
        pytest.param({"min_nodes": 2}, 3, (grow(0, 3),), id="demand above minNodes"),
        pytest.param({"headroom_nodes": 1}, 0, (grow(0, 1),), id="headroom without demand"),
        pytest.param({"headroom_nodes": 1}, 3, (grow(0, 4),), id="headroom on top of demand"),
        pytest.param({"min_nodes": 2, "headroom_nodes": 1}, 1, (grow(0, 2),), id="headroom within minNodes"),
        pytest.param({"max_nodes": 4}, 9, (grow(0, 4),), id="no more than maxNodes"),
        pytest.param({"max_nodes": 4, "headroom_nodes": 3}, 3, (grow(0, 4),), id="headroom within maxNodes"),
    ],
)
def test_the_size_lies_within_the_pools_own_bounds(
    limits: dict[str, int], wanted: int, acts: tuple[PoolAct, ...]
) -> None:
    assert planned(demand(wanted), pools=(pool(**limits),)).acts == acts


@pytest.mark.case("node-and-spot E18")
def test_at_its_maximum_a_pool_says_so_and_what_is_left_over() -> None:
    nodes, pods = (node(0), node(1)), (full(0), full(1))

    found = planned(
        demand(3), pools=(pool(max_nodes=2),), nodes=nodes, pods=pods, states={"h100": state(2, 2)}
    )

    assert (found.acts, found.unplaced) == ((), {("llm", Tier.BASELINE): 3})
    assert found.decisions["h100"].reason is PoolReason.AT_MAX
    assert found.decisions["h100"].message == (
        "2 nodes, 2 needed, and 3 more if it might have them. "
        "It has 2 nodes and maxNodes is 2. Raise spec.maxNodes to let it grow"
    )


def test_a_pool_at_its_maximum_that_is_enough_is_steady() -> None:
    nodes, pods = (node(0), node(1)), (full(0), full(1))

    found = planned(pools=(pool(max_nodes=2),), nodes=nodes, pods=pods, states={"h100": state(2, 2)})

    assert found.decisions["h100"].reason is PoolReason.STEADY


@pytest.mark.case("node-and-spot E19")
def test_what_a_refused_pool_does_not_give_another_is_asked_for() -> None:
    closed = PoolMemory(closed_until=NOW + seconds(600), steps=1)
    pools = (spot("zone-a", price="10"), spot("zone-b", price="20"))
    snapshot = make_snapshot(
        (), (), pods=(), pools=pools, pool_states={found.name: state(0, 0) for found in pools}
    )
    fleet = survey(snapshot, {}, NOW)
    outlooks = outlook(snapshot, fleet, {"pool-zone-a": closed}, NOW)

    found = plan_pools(snapshot, fleet, outlooks, (burst(2),), places={}, now=NOW)

    assert found.acts == (grow(0, 2, of="zone-b"),)
    assert found.decisions["zone-a"].reason is PoolReason.REFUSED


@pytest.mark.case("node-and-spot E23")
def test_a_half_open_pool_is_asked_for_one_node_however_many_are_wanted() -> None:
    found = planned(burst(5), pools=(spot(),), memory=PoolMemory(closed_until=NOW - seconds(1), steps=1))

    assert found.acts == (grow(0, 1, of="spot-a"),)
    assert found.decisions["spot-a"].reason is PoolReason.PROBING


def test_a_half_open_pool_that_nobody_needs_is_not_asked() -> None:
    assert planned(pools=(spot(),), memory=PoolMemory(closed_until=NOW - seconds(1), steps=1)).acts == ()


def test_a_lost_node_is_replaced_in_the_same_pass() -> None:
    doomed = node(0, taints=(NOTICE,))

    found = planned(demand(1), nodes=(doomed, node(1)), pods=(full(0), full(1)), states={"h100": state(2, 2)})

    assert found.acts == (grow(2, 3),)  # the provider still counts the one that goes
    assert found.targets == {"h100": 2}


def test_a_replacement_that_is_on_its_way_is_not_asked_for_again() -> None:
    doomed = node(0, taints=(NOTICE,))

    found = planned(
        demand(1), nodes=(doomed, node(1)), pods=(full(0), full(1)), states={"h100": state(3, 3, booting=1)}
    )

    assert found.acts == ()


def test_once_the_lost_node_is_gone_what_replaced_it_is_all_that_is_asked_for() -> None:
    told = PoolState(at=NOW, desired=3, instances=state(3, 3, booting=1).instances[1:])

    found = planned(
        demand(1),
        nodes=(node(1),),
        pods=(full(1),),
        states={"h100": told},
        memory=PoolMemory(granted=3, asked=3),
    )

    assert found.acts == (cancel(3, 2),)


@pytest.mark.case("node-and-spot E57")
def test_a_size_that_was_lowered_behind_our_back_is_asserted_again_in_one_pass() -> None:
    # The provider dropped the node that it took back from its own count as well.
    told = PoolState(at=NOW, desired=1, instances=state(2, 2).instances[1:])
    memory = PoolMemory(granted=2, asked=2)

    found = planned(demand(1), nodes=(node(1),), pods=(full(1),), states={"h100": told}, memory=memory)

    assert found.acts == (grow(1, 2),)


@pytest.mark.case("node-and-spot E57")
def test_an_open_breaker_asserts_nothing() -> None:
    memory = PoolMemory(granted=2, breaker_until=NOW + seconds(60), interruptions=(NOW - seconds(5),) * 3)

    found = planned(burst(2), pools=(spot(),), memory=memory)

    assert found.acts == ()
    assert found.decisions["spot-a"].reason is PoolReason.BREAKER_OPEN


@pytest.mark.case("node-and-spot E53")
def test_what_somebody_else_asked_for_stays_and_ours_is_counted_from_there() -> None:
    kept = planned(
        nodes=(node(0),), pods=(full(0),), states={"h100": state(2, 1)}, memory=PoolMemory(granted=1, asked=1)
    )
    used = planned(
        demand(2),
        nodes=(node(0),),
        pods=(full(0),),
        states={"h100": state(2, 1)},
        memory=PoolMemory(granted=1, asked=1),
    )

    assert (kept.acts, used.acts) == ((), (grow(2, 3),))


@pytest.mark.parametrize(
    ("wanted", "told", "act"),
    [
        pytest.param(0, state(5, 2), (cancel(5, 2),), id="nobody wants them any more"),
        pytest.param(1, state(5, 2), (cancel(5, 3),), id="one of them is still wanted"),
        pytest.param(3, state(5, 2), (), id="all are still wanted"),
        pytest.param(0, state(2, 2), (), id="nothing is open"),
    ],
)
def test_requests_that_nobody_wants_any_more_are_taken_back(
    wanted: int, told: PoolState, act: tuple[PoolAct, ...]
) -> None:
    found = planned(
        demand(wanted),
        nodes=(node(0), node(1)),
        pods=(full(0), full(1)),
        states={"h100": told},
        memory=PoolMemory(granted=2, asked=5),
    )

    assert found.acts == act


def test_a_dry_market_is_not_left_with_open_requests() -> None:
    refusals = tuple(
        Refusal(at=NOW - seconds(age), kind=RefusalKind.CAPACITY, code="ICE", message="none")
        for age in (20, 5)
    )

    found = planned(
        burst(5),
        pools=(spot(),),
        states={"spot-a": state(5, 0, refusals=refusals)},
        memory=PoolMemory(granted=0, asked=5),
    )

    assert found.acts == (cancel(5, 0, of="spot-a"),)
    assert found.decisions["spot-a"].reason is PoolReason.REFUSED


@pytest.mark.parametrize(
    ("told", "over"),
    [
        pytest.param({}, {}, id="never heard"),
        pytest.param({"h100": state(5, 0, error="503")}, {}, id="an error"),
        pytest.param({"h100": state(5, 0, at=NOW - seconds(61))}, {}, id="long ago"),
    ],
)
@pytest.mark.case("node-and-spot E62")
def test_nothing_is_asked_of_a_provider_that_does_not_answer(
    told: dict[str, PoolState], over: dict[str, Any]
) -> None:
    found = planned(demand(3), states=told, memory=PoolMemory(granted=0, asked=5), **over)

    assert found.acts == ()
    assert found.decisions["h100"].reason is PoolReason.PROVIDER_UNAVAILABLE
    assert found.decisions["h100"].desired is None


@pytest.mark.parametrize("mode", [Mode.SCALE_UP_ONLY, Mode.ENFORCE])
def test_a_pool_grows_in_both_modes_that_act(mode: Mode) -> None:
    assert planned(demand(1), pools=(pool(mode=mode),)).acts == (grow(0, 1),)


def test_a_pool_that_is_only_observed_says_what_it_would_have_and_takes_nothing_from_the_others() -> None:
    pools = (pool("cheap", price="1", mode=Mode.OBSERVE), pool("dear", price="9", max_nodes=1))

    found = planned(demand(3), pools=pools)

    assert found.acts == (grow(0, 1, of="dear"),)
    assert found.targets == {"cheap": 2, "dear": 1}
    assert found.decisions["cheap"].message.startswith("0 nodes, 2 needed")


@pytest.mark.parametrize(
    "over",
    [
        pytest.param({"unschedulable": True}, id="by somebody"),
        pytest.param(
            {"unschedulable": True, "mark": CordonMark(cause=CordonCause.DRAIN, id="d", since=NOW)},
            id="by a drain",
        ),
    ],
)
def test_a_cordoned_node_that_still_holds_pods_is_no_reason_to_buy_one(over: dict[str, Any]) -> None:
    nodes = (node(0, **over), node(1))

    assert planned(nodes=nodes, pods=(full(0), full(1)), states={"h100": state(2, 2)}).acts == ()


def test_headroom_is_not_what_is_cordoned() -> None:
    nodes = (node(0, unschedulable=True), node(1))

    found = planned(
        pools=(pool(headroom_nodes=1),), nodes=nodes, pods=(full(1),), states={"h100": state(2, 2)}
    )

    assert found.acts == (grow(2, 3),)


def test_a_node_that_is_only_suspected_is_not_replaced_yet() -> None:
    silent = node(0, ready=False)

    assert planned(nodes=(silent,), pods=(full(0),), states={"h100": state(1, 1)}).acts == ()


def foreign(index: int = 0, **over: Any) -> Pod:  # noqa: ANN401 -- fields of Pod
    values: dict[str, Any] = {
        "node": None,
        "gpus": 8,
        "requests": {GPU: 8},
        "owner_uid": "job-1",
        "owner_kind": "Job",
    }
    return make_pod(index, PodPhase.UNSCHEDULABLE, of="job", **{**values, **over})


def test_pods_of_others_that_fit_only_our_pools_are_wanted_too_up_to_the_maximum() -> None:
    found = planned(pools=(pool(max_nodes=2),), pods=tuple(foreign(index) for index in range(3)))

    assert found.acts == (grow(0, 2),)
    assert found.unplaced == {("job-1", Tier.FOREIGN): 1}


def test_pods_of_others_that_a_node_outside_our_pools_accepts_are_not_ours_to_house() -> None:
    outside = make_node("theirs", labels={"pool": "theirs"}, uid="theirs", allocatable={GPU: 8, "pods": 110})
    holder = make_pod(9, of="other", node="theirs", gpus=8, requests={GPU: 8})

    assert planned(pods=(foreign(), holder), nodes=(outside,)).acts == ()


def test_pods_of_others_may_use_spot_where_they_tolerate_it() -> None:
    pods = (foreign(constraints=TOLERATES_SPOT),)

    assert planned(pools=(spot(),), pods=pods).acts == (grow(0, 1, of="spot-a"),)


def test_pending_pods_of_a_workload_are_not_counted_beside_its_demand() -> None:
    waiting = make_pod(0, PodPhase.UNSCHEDULABLE, node=None, gpus=8, requests={GPU: 8})
    snapshot = make_snapshot(
        make_workload(),
        make_deployment(),
        pods=(waiting,),
        pools=(pool(),),
        pool_states={"h100": state(0, 0)},
    )
    fleet = survey(snapshot, {}, NOW)

    found = plan_pools(
        snapshot,
        fleet,
        outlook(snapshot, fleet, {}, NOW),
        (demand(1, owner="deployment-llm"),),
        places={},
        now=NOW,
    )

    assert found.acts == (grow(0, 1),)


def test_a_workload_that_only_observes_buys_nothing_for_its_pending_pods() -> None:
    waiting = make_pod(0, PodPhase.UNSCHEDULABLE, node=None, gpus=8, requests={GPU: 8})
    snapshot = make_snapshot(
        make_workload(mode=Mode.OBSERVE), pods=(waiting,), pools=(pool(),), pool_states={"h100": state(0, 0)}
    )
    fleet = survey(snapshot, {}, NOW)

    assert plan_pools(snapshot, fleet, outlook(snapshot, fleet, {}, NOW), (), places={}, now=NOW).acts == ()


def test_other_pools_go_on_while_one_provider_is_silent() -> None:
    pools = (pool("a", price="1"), pool("b", price="9"))

    found = planned(demand(2), pools=pools, states={"a": state(0, 0, error="403"), "b": state(0, 0)})

    assert found.acts == (grow(0, 2, of="b"),)
