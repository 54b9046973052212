"""What `explain` and `top` are told of tiers and pools, as plain data."""

import json

from tests.builders import NOW, make_capacity, make_node, make_pool, make_snapshot, make_workload
from tests.unit.app.test_explain import LLM, last_pass

from spillway.app.explain import explain, top
from spillway.core.model import CapacityType, Mode, NodePool, PoolState, ProviderType, Snapshot
from spillway.core.scheduling import Taint

SPOT = make_pool(
    "spot-a",
    capacity_type=CapacityType.SPOT,
    provider=ProviderType.KWOK,
    mode=Mode.ENFORCE,
    taints=(Taint("spot", "true", "NoSchedule"),),
    max_nodes=4,
)


def burst(pool: NodePool = SPOT, *, heard: bool = True) -> Snapshot:
    """Four replicas on demand of which two belong on spot; the spot pool has no node yet."""
    return make_snapshot(
        make_workload(capacity=make_capacity(2)),
        nodes=(make_node(),),
        pools=(make_pool(), pool),
        pool_states={"spot-a": PoolState(at=NOW, desired=0)} if heard else {},
    )


def test_a_burst_is_explained_with_its_tiers_and_the_finding_behind_each_condition() -> None:
    document = explain(last_pass(burst()), LLM)

    assert document is not None
    placement = document["placement"]
    tiers = {name: placement["tiers"][name] for name in ("onDemand", "fallback", "burst", "pools")}
    assert tiers == {"onDemand": 4, "fallback": 2, "burst": 2, "pools": ["spot-a"]}
    assert (placement["burst"]["active"], placement["burst"]["reason"]) == (True, "Bursting")
    assert (placement["fallback"]["active"], placement["fallback"]["reason"]) == (True, "Returning")
    assert (placement["baselineIsolated"]["active"], placement["baselineIsolated"]["reason"]) == (
        True,
        "Isolated",
    )
    assert json.loads(json.dumps(document)) == document


def test_a_burst_is_explained_with_why_each_of_its_pools_grows() -> None:
    document = explain(last_pass(burst()), LLM)

    assert document is not None
    (pool,) = document["placement"]["pools"]
    assert (pool["name"], pool["target"], pool["reason"]) == ("spot-a", 1, "Growing")
    assert pool["why"] == "0 nodes, 1 needed: asked for 0, now for 1; growing at once"


def test_a_burst_is_explained_with_why_a_pool_does_not_grow() -> None:
    document = explain(last_pass(burst(heard=False)), LLM)

    assert document is not None
    (pool,) = document["placement"]["pools"]
    assert (pool["reason"], pool["desired"]) == ("ProviderUnavailable", None)
    assert "has not been heard yet" in pool["why"]


def test_a_workload_that_never_bursts_is_explained_without_a_placement() -> None:
    document = explain(last_pass(make_snapshot()), LLM)

    assert document is not None
    assert document["placement"] is None


def test_top_shows_the_tiers_of_a_burst_and_none_of_others() -> None:
    rows = {
        "burst": top(last_pass(burst()))["workloads"][0]["tiers"],
        "plain": top(last_pass(make_snapshot()))["workloads"][0]["tiers"],
    }

    assert (rows["burst"]["onDemand"], rows["burst"]["fallback"], rows["burst"]["burst"]) == (4, 2, 2)
    assert rows["plain"] is None


def test_top_shows_what_a_pool_was_asked_for_and_what_it_is_to_have() -> None:
    row = {found["name"]: found for found in top(last_pass(burst()))["pools"]}["spot-a"]

    shown = {name: row[name] for name in ("mode", "size", "desired", "target", "booting", "reason")}
    assert shown == {
        "mode": "Enforce",
        "size": 0,
        "desired": 0,
        "target": 1,
        "booting": 0,
        "reason": "Growing",
    }
