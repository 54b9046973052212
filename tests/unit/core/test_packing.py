"""Putting pods on nodes before the scheduler does: by every resource, on what is there first, then where nodes are cheapest."""

from collections.abc import Mapping
from typing import Any

import pytest
from tests.builders import NOW, make_node, make_pod, make_pool, make_snapshot, seconds

from spillway.core.fleet import Fleet, survey
from spillway.core.model import (
    CapacityType,
    Instance,
    InstanceState,
    Node,
    NodePool,
    Pod,
    PodPhase,
    PoolState,
)
from spillway.core.packing import Demand, Offer, Packed, Tier, free_on, pack, room_of, shape_of
from spillway.core.scheduling import Constraints, Requirement, Taint, Toleration

GPU = "nvidia.com/gpu"
SPOT = Taint(key="spot", value="true")
TOLERATES_SPOT = Constraints(tolerations=(Toleration(key="spot", operator="Exists"),))
WHOLE = {GPU: 8, "cpu": 64_000, "memory": 512, "pods": 110}


def make_demand(count: int = 1, gpus: int = 1, *, owner: str = "llm", **over: Any) -> Demand:  # noqa: ANN401 -- fields of Demand
    values: dict[str, Any] = {
        "owner": owner,
        "template": "t1",
        "requests": {GPU: gpus, "pods": 1},
        "constraints": Constraints(),
        "count": count,
        "tier": Tier.BASELINE,
    }
    return Demand(**{**values, **over})


def burst(count: int = 1, gpus: int = 1, **over: Any) -> Demand:  # noqa: ANN401 -- fields of Demand
    return make_demand(count, gpus, tier=Tier.BURST, constraints=TOLERATES_SPOT, **over)


def spot_pool(name: str = "spot-a", **over: Any) -> NodePool:  # noqa: ANN401 -- fields of NodePool
    return make_pool(name, capacity_type=CapacityType.SPOT, taints=(SPOT,), **over)


def node(name: str = "node-1", *, pool: str = "h100", gpus: int = 8, **over: Any) -> Node:  # noqa: ANN401 -- fields of Node
    values = {"uid": f"uid-{name}", "labels": {"pool": pool}, "allocatable": {**WHOLE, GPU: gpus}}
    return make_node(name, gpus=gpus, **{**values, **over})


def fleet_of(
    nodes: tuple[Node, ...] = (), pods: tuple[Pod, ...] = (), pools: tuple[NodePool, ...] = ()
) -> Fleet:
    return survey(make_snapshot((), (), pods=pods, nodes=nodes, pools=pools), {}, NOW)


def packed(
    *demands: Demand,
    nodes: tuple[Node, ...] = (),
    pods: tuple[Pod, ...] = (),
    pools: tuple[NodePool, ...] = (),
    room: int | Mapping[str, int] = 10,
    states: Mapping[str, PoolState] | None = None,
    unplaceable: Mapping[str, frozenset[tuple[str, str]]] | None = None,
    learned: Mapping[str, int] | None = None,
    chances: Mapping[str, float] | None = None,
) -> Packed:
    fleet = fleet_of(nodes, pods, pools)
    shapes = {pool.name: shape_of(pool, fleet, learned or {}) for pool in pools}
    offers = [
        Offer(
            pool=pool,
            shape=shapes[pool.name],
            room=room if isinstance(room, int) else room.get(pool.name, 0),
            size=len(fleet.names_in(pool.name)),
            chance=(chances or {}).get(pool.name, 0.0),
        )
        for pool in pools
    ]
    found = room_of(fleet, shapes=shapes, states=states or {}, unplaceable=unplaceable or {})
    return pack(demands, found, offers)


def test_pods_go_onto_free_gpus_before_a_node_is_bought() -> None:
    found = packed(make_demand(8), nodes=(node(),), pools=(make_pool(),))

    assert found == Packed(new_nodes={}, used_nodes=frozenset({"node-1"}))


def test_what_does_not_fit_opens_as_few_nodes_as_it_needs() -> None:
    found = packed(make_demand(17), nodes=(node(),), pools=(make_pool(),))  # 8 there, 9 more on two new ones

    assert found.new_nodes == {"h100": 2}


def test_gpus_that_pods_hold_are_not_given_twice() -> None:
    holder = make_pod(gpus=7, requests={GPU: 7, "pods": 1})

    found = packed(make_demand(1, gpus=2), nodes=(node(),), pods=(holder,), pools=(make_pool(),))

    assert (found.new_nodes, found.used_nodes) == ({"h100": 1}, frozenset())


@pytest.mark.parametrize(
    ("requests", "nodes"),
    [
        pytest.param({GPU: 1, "cpu": 8_000}, 1, id="8 pods fill GPUs and CPU"),
        pytest.param({GPU: 1, "cpu": 32_000}, 4, id="CPU for 2 pods a node"),
        pytest.param({GPU: 1, "memory": 200}, 4, id="memory for 2 pods a node"),
        pytest.param({GPU: 8}, 8, id="a node each"),
        pytest.param({GPU: 3}, 4, id="2 pods of 3 GPUs a node"),
        pytest.param({GPU: 0}, 1, id="a request of nothing is none"),
    ],
)
def test_every_requested_resource_limits_how_many_share_a_node(requests: dict[str, int], nodes: int) -> None:
    found = packed(make_demand(8, requests=requests), pools=(make_pool(allocatable=WHOLE),))

    assert found.new_nodes == {"h100": nodes}


def test_a_pod_larger_than_any_node_buys_nothing() -> None:
    demand = make_demand(2, gpus=16)

    found = packed(demand, pools=(make_pool(),))

    assert found == Packed(new_nodes={}, used_nodes=frozenset(), waiting=(demand,))


def test_large_pods_are_placed_before_small_ones_fill_the_gaps() -> None:
    # 4 + 4 and 2 + 2 + 2 + 2 make two nodes; small ones first would leave no gap of 4 and need a third
    demands = (make_demand(4, gpus=2, owner="a"), make_demand(2, gpus=4, owner="b"))

    assert packed(*demands, pools=(make_pool(),)).new_nodes == {"h100": 2}


def test_the_fullest_node_is_filled_first_so_that_others_stay_empty() -> None:
    holder = make_pod(node="half", gpus=4, requests={GPU: 4, "pods": 1})

    found = packed(make_demand(4), nodes=(node("empty"), node("half")), pods=(holder,), pools=(make_pool(),))

    assert found.used_nodes == {"half"}


def test_a_higher_priority_gets_the_last_room() -> None:
    demands = (make_demand(8, owner="low"), make_demand(8, owner="high", priority=100))

    found = packed(*demands, nodes=(node(),), pools=(make_pool(),), room=0)

    assert found.unplaced == {("low", Tier.BASELINE): 8}


def test_daemon_sets_are_deducted_from_nodes_that_are_still_to_come() -> None:
    # An agent of 8 CPUs on the node that is there: 56 are left on a new one, so one pod of 32 fits and no second one.
    daemon = make_pod(gpus=0, owner_kind="DaemonSet", requests={"cpu": 8_000, "pods": 1})
    demand = make_demand(3, requests={GPU: 1, "cpu": 32_000, "pods": 1})

    found = packed(demand, nodes=(node(),), pods=(daemon,), pools=(make_pool(allocatable=WHOLE),))

    assert found.new_nodes == {"h100": 2}


def test_the_largest_daemon_overhead_of_a_pool_counts() -> None:
    pods = tuple(
        make_pod(index, node=f"node-{index}", gpus=0, owner_kind="DaemonSet", requests={"cpu": cpu})
        for index, cpu in ((1, 1_000), (2, 3_000), (2, 2_000))
    )
    fleet = fleet_of((node("node-1"), node("node-2")), pods, (pool := make_pool(allocatable=WHOLE),))

    assert shape_of(pool, fleet, {}).free == {GPU: 8, "cpu": 59_000, "memory": 512, "pods": 110}


@pytest.mark.parametrize(
    ("said", "learned", "expected"),
    [
        pytest.param({"cpu": 10}, {"cpu": 99}, {GPU: 8, "cpu": 10}, id="what the pool says"),
        pytest.param({}, {"cpu": 99, GPU: 8}, {GPU: 8, "cpu": 99}, id="what a node showed"),
        pytest.param({}, {}, {GPU: 8}, id="its GPUs alone"),
    ],
)
def test_a_new_node_is_as_the_pool_says_or_as_a_node_showed(
    said: dict[str, int], learned: dict[str, int], expected: dict[str, int]
) -> None:
    pool = make_pool(allocatable=said)

    assert shape_of(pool, fleet_of(pools=(pool,)), learned).free == expected


def test_a_resource_that_nobody_has_measured_yet_is_no_limit() -> None:
    demand = make_demand(1, requests={GPU: 1, "memory": 10**15})

    assert packed(demand, pools=(make_pool(),)).new_nodes == {"h100": 1}


def test_a_resource_that_a_living_node_lacks_is_none() -> None:
    demand = make_demand(1, requests={GPU: 1, "rdma/hca": 1})

    found = packed(demand, nodes=(node(),), pools=(make_pool(allocatable=WHOLE | {"rdma/hca": 8}),))

    assert (found.used_nodes, found.new_nodes) == (frozenset(), {"h100": 1})


@pytest.mark.case("node-and-spot E77")
def test_a_mig_pool_takes_as_many_pods_as_its_nodes_offer_slices() -> None:
    slices = "nvidia.com/mig-1g.10gb"
    pool = make_pool(gpu_resource=slices, gpus_per_node=7)

    assert packed(make_demand(15, requests={slices: 1}), pools=(pool,)).new_nodes == {"h100": 3}


@pytest.mark.case("node-and-spot E79")
def test_a_node_with_other_gpus_than_its_pool_says_is_filled_as_it_is() -> None:
    small = node("small", gpus=4)

    found = packed(make_demand(8), nodes=(small, node("usual")), pools=(make_pool(),), room=0)

    assert found.used_nodes == {"small", "usual"}
    assert packed(make_demand(13), nodes=(small, node("usual")), pools=(make_pool(),)).new_nodes == {
        "h100": 1
    }


@pytest.mark.case("node-and-spot E81")
def test_a_node_with_a_bad_gpu_takes_seven_pods_and_new_ones_are_still_thought_whole() -> None:
    found = packed(make_demand(15), nodes=(node(gpus=7),), pools=(make_pool(),), learned={GPU: 7})

    assert found.new_nodes == {"h100": 1}


@pytest.mark.parametrize(
    ("tier", "pools", "bought"),
    [
        pytest.param(Tier.BASELINE, (spot_pool(),), {}, id="a baseline buys no spot, though it tolerates it"),
        pytest.param(Tier.BURST, (make_pool(),), {}, id="a burst buys spot only"),
        pytest.param(
            Tier.BURST, (make_pool(), spot_pool(price="90")), {"spot-a": 1}, id="a burst on dear spot"
        ),
        pytest.param(Tier.FOREIGN, (spot_pool(),), {"spot-a": 1}, id="others take what accepts them"),
    ],
)
def test_each_tier_buys_only_what_it_may(
    tier: Tier, pools: tuple[NodePool, ...], bought: dict[str, int]
) -> None:
    demand = make_demand(1, tier=tier, constraints=TOLERATES_SPOT)

    assert packed(demand, pools=pools).new_nodes == bought


def test_a_taint_that_is_not_tolerated_keeps_pods_out_of_a_pool() -> None:
    found = packed(
        make_demand(1, tier=Tier.FOREIGN),
        nodes=(node("spot", pool="spot-a", taints=(SPOT,)),),
        pools=(spot_pool(),),
    )

    assert found.unplaced == {("llm", Tier.FOREIGN): 1}


def test_node_labels_and_affinity_choose_the_pool() -> None:
    wants_b = Constraints(terms=((Requirement(key="pool", operator="In", values=("b",)),),))
    pools = (make_pool("a", price="1"), make_pool("b", price="9"))

    found = packed(make_demand(1, constraints=wants_b), nodes=(node("node-a", pool="a"),), pools=pools)

    assert (found.used_nodes, found.new_nodes) == (frozenset(), {"b": 1})


@pytest.mark.parametrize(
    ("key", "value", "bought"),
    [
        pytest.param("gpu.product", "H100", {"h100": 1}, id="what all nodes have alike"),
        pytest.param("zone", "a", {}, id="a zone that only some are in"),
        pytest.param("kubernetes.io/hostname", "node-1", {}, id="the name of one"),
    ],
)
def test_a_new_node_is_thought_to_have_what_all_of_its_pool_have_alike(
    key: str, value: str, bought: dict[str, int]
) -> None:
    nodes = tuple(
        node(
            name,
            labels={"pool": "h100", "gpu.product": "H100", "zone": zone, "kubernetes.io/hostname": name},
        )
        for name, zone in (("node-1", "a"), ("node-2", "b"))
    )
    pods = tuple(make_pod(index, node=f"node-{index}", gpus=8, requests={GPU: 8}) for index in (1, 2))
    demand = make_demand(1, constraints=Constraints(node_selector={key: value}))

    assert packed(demand, nodes=nodes, pods=pods, pools=(make_pool(),)).new_nodes == bought


def test_the_name_of_the_only_node_of_a_pool_is_none_of_the_next() -> None:
    only = node(labels={"pool": "h100", "kubernetes.io/hostname": "node-1"})
    pinned = make_demand(9, constraints=Constraints(node_selector={"kubernetes.io/hostname": "node-1"}))

    found = packed(pinned, nodes=(only,), pools=(make_pool(),))

    assert (found.new_nodes, found.unplaced) == ({}, {("llm", Tier.BASELINE): 1})


def test_a_demand_uses_only_the_pools_it_is_allowed() -> None:
    pools = (make_pool("a"), make_pool("b"))

    found = packed(make_demand(9, pools=frozenset({"b"})), nodes=(node("node-a", pool="a"),), pools=pools)

    assert found.new_nodes == {"b": 2}


def test_a_pod_that_the_scheduler_refused_is_not_packed_there_again() -> None:
    pools = (spot_pool("spot-a", price="1"), spot_pool("spot-b", price="9"))
    there = node("node-a", pool="spot-a", taints=(SPOT,))
    refused = {"spot-a": frozenset({("t1", "llm")})}

    found = packed(burst(1), burst(1, owner="other"), nodes=(there,), pools=pools, unplaceable=refused)

    assert (found.used_nodes, found.new_nodes) == ({"node-a"}, {"spot-b": 1})


@pytest.mark.parametrize(
    ("pools", "bought"),
    [
        pytest.param((make_pool("a", price="40"), make_pool("b", price="30")), "b", id="the cheaper one"),
        pytest.param(
            (make_pool("a", price="40", gpus_per_node=8), make_pool("b", price="30", gpus_per_node=4)), "a", id="by GPU"
        ),
        pytest.param((make_pool("a", price=None), make_pool("b", price="90")), "b", id="an unknown price is no low one"),
        pytest.param((make_pool("b"), make_pool("a")), "a", id="by name at last"),
    ],
)  # fmt: skip
def test_the_cheapest_gpu_is_bought_first(pools: tuple[NodePool, ...], bought: str) -> None:
    assert packed(make_demand(1), pools=pools).new_nodes == {bought: 1}


def test_equal_prices_are_spread_since_spot_is_lost_by_pool() -> None:
    pools = (spot_pool("spot-a"), spot_pool("spot-b"), spot_pool("spot-c"))

    found = packed(burst(5, gpus=8), nodes=(node("there", pool="spot-b", taints=(SPOT,)),), pods=(
        make_pod(node="there", gpus=8, requests={GPU: 8}),), pools=pools)  # fmt: skip

    assert found.new_nodes == {"spot-a": 2, "spot-b": 1, "spot-c": 2}


def test_a_pool_that_is_lost_more_often_gets_fewer() -> None:
    pools = (spot_pool("spot-a"), spot_pool("spot-b"))

    found = packed(burst(4, gpus=8), pools=pools, chances={"spot-a": 0.3, "spot-b": 0.1})

    # 0.1, 0.2, then 0.3 of both: the smaller pool first, then the other
    assert found.new_nodes == {"spot-a": 1, "spot-b": 3}


def test_a_full_pool_passes_on_to_the_next_and_the_rest_stays_unplaced() -> None:
    pools = (spot_pool("spot-a", price="1"), spot_pool("spot-b", price="9"))

    found = packed(burst(7, gpus=8), pools=pools, room={"spot-a": 2, "spot-b": 3})

    assert found.new_nodes == {"spot-a": 2, "spot-b": 3}
    assert found.unplaced == {("llm", Tier.BURST): 2}


def test_a_node_that_boots_takes_pods_although_its_gpus_do_not_show_yet() -> None:
    booting = node(
        gpus=0, ready=False, taints=(Taint(key="node.kubernetes.io/not-ready"),), created_at=NOW - seconds(60)
    )

    found = packed(make_demand(8), nodes=(booting,), pools=(make_pool(),))

    assert (found.used_nodes, found.new_nodes) == ({"node-1"}, {})


def test_a_pod_bound_to_a_node_that_boots_takes_its_room() -> None:
    booting = node(gpus=0, ready=False, created_at=NOW - seconds(60))
    bound = make_pod(phase=PodPhase.PENDING, gpus=6, requests={GPU: 6, "pods": 1})

    found = packed(make_demand(3), nodes=(booting,), pods=(bound,), pools=(make_pool(),))

    assert found.new_nodes == {"h100": 1}


def test_a_machine_that_is_promised_is_room_before_it_has_a_node() -> None:
    machines = (
        Instance(id="i-1", state=InstanceState.BOOTING, since=NOW),
        Instance(id="i-2", state=InstanceState.REQUESTED, since=NOW),
        Instance(id="i-3", state=InstanceState.STOPPING, since=NOW),
        Instance(id="i-4", state=InstanceState.RUNNING, since=NOW, node="node-1"),
    )
    state = PoolState(at=NOW, desired=3, instances=machines)

    found = packed(make_demand(24), nodes=(node(),), pools=(make_pool(),), states={"h100": state})

    assert found.new_nodes == {
        "h100": 1
    }  # 8 on node-1, 8 on i-1; asked for is not granted, and what stops is none


def test_a_node_that_is_there_is_filled_before_a_fuller_one_that_boots() -> None:
    booting = node("a-boots", gpus=0, ready=False, created_at=NOW - seconds(60))
    bound = make_pod(node="a-boots", phase=PodPhase.PENDING, gpus=4, requests={GPU: 4, "pods": 1})

    found = packed(make_demand(4), nodes=(booting, node("b-is-there")), pods=(bound,), pools=(make_pool(),))

    assert found.used_nodes == {"b-is-there"}


@pytest.mark.parametrize(
    "over",
    [
        pytest.param({"unschedulable": True}, id="cordoned"),
        pytest.param({"terminating": True}, id="going"),
        pytest.param({"taints": (Taint(key="aws-node-termination-handler/spot-itn"),)}, id="noticed"),
    ],
)
def test_a_node_that_takes_no_pods_is_no_room(over: dict[str, Any]) -> None:
    assert packed(make_demand(1), nodes=(node(**over),), pools=(make_pool(),)).new_nodes == {"h100": 1}


def test_a_node_outside_every_pool_takes_what_it_accepts() -> None:
    found = packed(make_demand(8), nodes=(node("others", pool="none-of-ours"),), pools=(make_pool(),))

    assert (found.used_nodes, found.new_nodes) == ({"others"}, {})


def test_free_room_is_never_below_zero() -> None:
    pods = [make_pod(index, gpus=6, requests={GPU: 6}) for index in range(2)]

    assert free_on(node(), pods)[GPU] == 0
