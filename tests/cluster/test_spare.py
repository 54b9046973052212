"""Replicas to spare on the real control plane: kept on spot by worth, told of, and no reason for a stand-in when spot is lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.controlplane import ControlPlane
from tests.cluster.exporter import Exporter
from tests.cluster.fleet_laws import lawful
from tests.cluster.fleet_scene import BurstWorkload, FleetScene, played_fleet
from tests.cluster.operator_chart import Helm
from tests.cluster.prometheus import Prometheus

BASELINE = 2


@pytest.fixture(scope="module")
def fleet(
    cluster: ControlPlane, exporter: Exporter, prometheus: Prometheus, helm: Helm, crds: list[str]
) -> Iterator[FleetScene]:
    with played_fleet(cluster, exporter, prometheus, helm, settings={}) as fleet:
        yield fleet


@pytest.fixture(autouse=True)
def pools(fleet: FleetScene) -> Iterator[dict[str, str]]:
    """The on-demand pool `od` and the spot pools `a` and `b`; machines of 8 GPUs, and pods of 4."""
    with lawful(fleet) as pools:
        yield pools


@pytest.fixture
def llm(fleet: FleetScene) -> BurstWorkload:
    """A workload with the shipped target of missed load, in a burst of 5 replicas' worth."""
    found = fleet.burst(
        baseline=BASELINE, replicas=BASELINE, demand=1.0, capacity={"missedLoadPercent": "0.1"}
    )
    found.serves(BASELINE, 0, seconds=60)
    found.workload.offer(5.0)
    found.until(lambda: spare(found) > 0 and settled(found), 120, "replicas to spare serve on spot")
    return found


def spare(llm: BurstWorkload) -> int:
    capacity = llm.workload.status.get("capacity") or {}
    return int(capacity.get("spareReplicas") or 0)


def settled(llm: BurstWorkload) -> bool:
    """Whether all that is set serves, and some of it is to spare."""
    desired = llm.workload.status.get("desiredReplicas", 0)
    return llm.tiers == llm.ready() and sum(llm.tiers) > desired >= 5


def test_spares_are_kept_on_spot_beyond_the_count_and_the_baseline_stays(llm: BurstWorkload) -> None:
    desired = llm.workload.status["desiredReplicas"]

    assert llm.tiers == (BASELINE, desired - BASELINE + spare(llm))
    assert sum(llm.tiers) <= 16


def test_a_lost_spot_node_that_spares_make_up_for_is_replaced_on_spot_alone(
    fleet: FleetScene, llm: BurstWorkload
) -> None:
    mark = fleet.scene.cluster.audit_mark()
    lost = max(fleet.market.pools[1:], key=lambda pool: len(fleet.market.running(pool)))

    fleet.market.reclaim(lost, count=1)
    llm.until(lambda: settled(llm) and not doomed(fleet, lost), 120, "what was lost is replaced")

    assert all(count == BASELINE for count in llm.workload.writes(mark))


def doomed(fleet: FleetScene, pool: str) -> bool:
    return any(machine.get("endsAt") for machine in fleet.market.machines(pool))


def test_a_restarted_operator_does_not_take_spares_for_the_count(
    fleet: FleetScene, llm: BurstWorkload
) -> None:
    before = llm.workload.status["desiredReplicas"]

    fleet.scene.operator.kill()
    fleet.scene.operator.start()
    llm.until(lambda: settled(llm), 90, "all serves again")

    assert llm.workload.status["desiredReplicas"] <= before
