"""How `explain` tells what stands on demand, what on spot, and why."""

from tests.builders import (
    make_capacity,
    make_deployment,
    make_node,
    make_pods,
    make_pool,
    make_snapshot,
    make_workload,
)
from tests.unit.app.test_explain import text

from spillway.core.model import CapacityType
from spillway.core.scheduling import Taint

SPOT = make_pool(
    "spot-a", capacity_type=CapacityType.SPOT, taints=(Taint("spot", "true", "NoSchedule"),), max_nodes=4
)


def test_a_burst_shows_both_tiers_and_the_finding_behind_each_condition() -> None:
    printed = text(
        make_snapshot(
            make_workload(capacity=make_capacity(2)), nodes=(make_node(),), pools=(make_pool(), SPOT)
        )
    )

    assert (
        "  tiers     4 on demand, 2 of them for spot: 4 ready\n"
        "            2 on spot: 0 ready, 2 booting\n"
        "  pools     spot-a  External: 0 nodes, 0 needed. Its provider is External: somebody else makes and removes its nodes\n"
        "  burst     Bursting: What is above the baseline goes to spot (spot-a)\n"
        "  fallback  Returning: 2 of 2 replicas above the baseline run on demand"
    ) in printed
    assert "\n  baseline  Isolated: Taints or labels keep the baseline off spot-a\n" in printed


def test_spot_that_is_on_its_way_is_not_said_to_carry_replicas() -> None:
    printed = text(
        make_snapshot(
            make_workload(replicas=4, capacity=make_capacity(2)),
            make_deployment(replicas=2),
            pods=make_pods(2),
            nodes=(make_node(),),
            pools=(make_pool(), SPOT),
        )
    )

    assert "  fallback  NotNeeded: What is above the baseline is on spot or on its way there" in printed


def test_a_workload_that_never_bursts_says_nothing_of_tiers() -> None:
    assert "tiers" not in text(make_snapshot())
