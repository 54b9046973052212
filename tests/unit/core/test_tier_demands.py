"""What the tiers of a workload still need a place for."""

from collections.abc import Mapping

import pytest
from tests.builders import (
    NOW,
    make_deployment,
    make_node,
    make_pods,
    make_pool,
    make_snapshot,
    make_twin,
    make_workload,
)

from spillway.core.burst import BurstPods, Stand
from spillway.core.fleet import survey
from spillway.core.model import Pod, PodPhase
from spillway.core.packing import Tier
from spillway.core.tiers import Tiers, demands_of

FLEET = survey(make_snapshot((), (), pods=(), nodes=(make_node(),)), {}, NOW)
SPOT = make_pool("spot-a")


def needed(
    source_pods: tuple[Pod, ...],
    burst_pods: Mapping[Stand, tuple[Pod, ...]] | None = None,
    *,
    baseline: int,
    burst: int = 0,
    replicas: int | None = None,
) -> dict[Tier, int]:
    """Return how many places each tier asks for; source and twin are set to what is wanted unless *replicas* says otherwise."""
    tiers = Tiers(
        workload=make_workload(),
        source=make_deployment(replicas=baseline if replicas is None else replicas),
        twin=make_twin(replicas=burst),
        pools=(SPOT,),
        source_pods=source_pods,
        burst=BurstPods(by_stand=burst_pods or {}),
    )
    found = demands_of(tiers, baseline=baseline, burst=burst, fleet=FLEET, pools=(SPOT,))
    return {demand.tier: demand.count for demand in found}


def waiting(count: int, **over: object) -> tuple[Pod, ...]:
    return make_pods(count, PodPhase.UNSCHEDULABLE, start=100, node=None, **over)


@pytest.mark.parametrize(
    ("pods", "expected"),
    [
        pytest.param(make_pods(2), {}, id="all have a node"),
        pytest.param(make_pods(1), {Tier.BASELINE: 1}, id="one is not made yet"),
        pytest.param((*make_pods(1), *waiting(1)), {Tier.BASELINE: 1}, id="one waits"),
        pytest.param(
            (*make_pods(2), *waiting(1, revision=2)), {Tier.BASELINE: 1}, id="one more of a rollout"
        ),
        pytest.param(
            (*make_pods(2), *waiting(2, revision=2)), {Tier.BASELINE: 2}, id="two more of a rollout"
        ),
        pytest.param((*make_pods(1), *waiting(2, revision=2)), {Tier.BASELINE: 2}, id="one old, two new"),
    ],
)
def test_pods_that_a_rollout_has_beyond_its_replicas_need_a_place_too(
    pods: tuple[Pod, ...], expected: dict[Tier, int]
) -> None:
    assert needed(pods, baseline=2) == expected


def test_a_rollout_of_the_twin_needs_places_for_its_surge() -> None:
    stands = {Stand.GOOD: make_pods(3), Stand.BOOTING: waiting(1, revision=2)}

    assert needed(make_pods(2), stands, baseline=2, burst=3) == {Tier.BURST: 1}


def test_pods_that_a_reduction_will_delete_need_no_place() -> None:
    assert needed((*make_pods(2), *waiting(3)), baseline=2, replicas=5) == {}
