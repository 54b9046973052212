"""Baseline on demand, burst on spot, on the real control plane with machines that come and go."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.controlplane import ControlPlane
from tests.cluster.exporter import Exporter
from tests.cluster.fleet_scene import FleetScene, played_fleet, standard_pools
from tests.cluster.operator_chart import Helm
from tests.cluster.prometheus import Prometheus


@pytest.fixture
def fleet(
    cluster: ControlPlane, exporter: Exporter, prometheus: Prometheus, helm: Helm, crds: list[str]
) -> Iterator[FleetScene]:
    with played_fleet(cluster, exporter, prometheus, helm) as fleet:
        yield fleet


def test_a_burst_lands_on_spot_and_goes_again(fleet: FleetScene) -> None:
    standard_pools(fleet)
    llm = fleet.burst(baseline=2, replicas=2, demand=1.0)
    llm.serves(2, 0)
    on_demand_before = len(fleet.market.running(f"{fleet.namespace}-od"))

    llm.workload.offer(4.4)
    llm.until(lambda: sum(llm.ready()) >= 6, 60, "six replicas serve")

    assert llm.workload.replicas == 2
    spot_nodes = {
        pod["spec"]["nodeName"]
        for pod in fleet.scene.cluster.pods(fleet.namespace, "spillway.dev/capacity-class=burst")
    }
    assert spot_nodes <= {node for pool in fleet.market.pools[1:] for node in fleet.market.running(pool)}
    assert len(fleet.market.running(f"{fleet.namespace}-od")) == on_demand_before

    llm.workload.offer(1.0)
    llm.workload.past_takeover()
    llm.serves(2, 0, seconds=120)
    llm.until(
        lambda: not any(fleet.market.running(pool) for pool in fleet.market.pools[1:]), 60, "spot is empty"
    )
