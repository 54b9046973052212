"""The sentence with which an Event tells why replicas move."""

from tests.builders import decide_one, make_capacity, make_node, make_pool, make_snapshot, make_workload

from spillway.app.act_events import why_replicas_move
from spillway.core.model import CapacityType
from spillway.core.plan import Decision

SPOT = make_pool("spot-a", capacity_type=CapacityType.SPOT)


def burst(**over: float) -> Decision:
    """Four replicas on demand of which two belong on spot."""
    workload = make_workload(capacity=make_capacity(2))
    return decide_one(make_snapshot(workload, nodes=(make_node(),), pools=(make_pool(), SPOT), **over))


def test_a_count_that_changes_is_told_by_its_cause() -> None:
    assert why_replicas_move(burst(utilization=0.9)).startswith("GPU utilization 90% is above 80%")


def test_replicas_that_stand_in_under_a_count_that_stays_are_told_by_the_fallback() -> None:
    assert why_replicas_move(burst(utilization=0.6)).startswith(
        "2 of 2 replicas above the baseline run on demand"
    )


def test_an_act_without_a_decision_has_nothing_to_tell() -> None:
    assert why_replicas_move(None) == ""
