"""Baseline on demand, burst on spot, on the real control plane with machines that come and go, are refused, and never come."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest

from tests.cluster.controlplane import ControlPlane
from tests.cluster.exporter import Exporter
from tests.cluster.fleet_laws import lawful, noted_until, patch_pool, pool_says
from tests.cluster.fleet_scene import FleetScene, played_fleet
from tests.cluster.operator_chart import Helm
from tests.cluster.prometheus import Prometheus

Pools = dict[str, str]


@pytest.fixture(scope="module")
def fleet(
    cluster: ControlPlane, exporter: Exporter, prometheus: Prometheus, helm: Helm, crds: list[str]
) -> Iterator[FleetScene]:
    settings = {"nodeBootSeconds": 25}  # a little longer than the workloads' bootDeadlineSeconds
    with played_fleet(cluster, exporter, prometheus, helm, settings=settings) as fleet:
        yield fleet


@pytest.fixture(autouse=True)
def pools(fleet: FleetScene) -> Iterator[Pools]:
    """The on-demand pool `od` and the spot pools `a` and `b`; machines of 8 GPUs, and pods of 4."""
    with lawful(fleet) as pools:
        yield pools


def spot(fleet: FleetScene) -> tuple[str, ...]:
    """The market's names of its spot pools."""
    return fleet.market.pools[1:]


def spot_machines(fleet: FleetScene) -> int:
    return sum(len(fleet.market.machines(pool)) for pool in spot(fleet))


def test_a_burst_lands_on_spot_and_goes_again(fleet: FleetScene) -> None:
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
    assert spot_nodes <= {node for pool in spot(fleet) for node in fleet.market.running(pool)}
    assert len(fleet.market.running(f"{fleet.namespace}-od")) == on_demand_before

    llm.workload.offer(1.0)
    llm.workload.past_takeover()
    llm.serves(2, 0, seconds=120)
    llm.until(lambda: not any(fleet.market.running(pool) for pool in spot(fleet)), 60, "spot is empty")


@pytest.mark.case("node-and-spot E11")
@pytest.mark.case("node-and-spot E22")
def test_refused_spot_is_stood_in_for_and_comes_back_one_step_at_a_time(fleet: FleetScene) -> None:
    for pool in spot(fleet):
        fleet.market.refuse(pool)
    llm = fleet.burst(baseline=2, replicas=2)
    llm.serves(2, 0)
    mark = fleet.scene.cluster.audit_mark()

    llm.workload.patch(replicas=5)
    llm.reaches(5, 3, seconds=30)
    llm.workload.says("FallbackActive", "True", "SpotRefused")
    llm.until(lambda: llm.ready() == (5, 0), 45, "on demand serves all five")

    for pool in spot(fleet):
        fleet.market.accept(pool)
    ready = noted_until(
        llm, lambda: sum(llm.ready()), lambda: llm.tiers == (2, 3), 90, "on demand stands in no more"
    )
    llm.serves(2, 3)

    assert min(ready) >= 5
    counts = llm.workload.writes(mark)
    assert counts[0] == 5
    assert all(before - after == 1 for before, after in pairwise(counts)), counts


@pytest.mark.case("node-and-spot E20")
def test_an_error_that_nobody_knows_is_no_refusal_until_the_provisioning_times_out(fleet: FleetScene) -> None:
    for pool in spot(fleet):
        fleet.market.refuse(pool, code="SomethingOdd")
    llm = fleet.burst(baseline=2, replicas=2)
    llm.serves(2, 0)

    llm.workload.patch(replicas=4)
    llm.reaches(2, 2)
    llm.workload.watch(lambda: llm.tiers == (2, 2), 8, "what proves nothing is waited out")

    llm.until(lambda: llm.ready() == (4, 0), 45, "on demand stands in after provisionTimeoutSeconds")
    llm.workload.says("FallbackActive", "True", "ProvisionTimeout")


@pytest.mark.case("node-and-spot E16")
def test_where_on_demand_is_refused_too_both_are_asked_for_once(fleet: FleetScene) -> None:
    llm = fleet.burst(baseline=2, replicas=2)
    llm.serves(2, 0)
    for pool in fleet.market.pools:
        fleet.market.refuse(pool)
    mark = fleet.scene.cluster.audit_mark()

    llm.workload.patch(replicas=4)
    llm.reaches(4, 2)
    llm.workload.watch(lambda: llm.tiers == (4, 2), 10, "nothing goes to and fro")
    llm.workload.says("CapacityAvailable", "False")

    assert llm.workload.writes(mark) == [4]
    for pool in fleet.market.pools:
        fleet.market.accept(pool)
    llm.serves(2, 2, seconds=90)


@pytest.mark.case("node-and-spot E5")
def test_a_lowered_baseline_moves_to_spot_one_step_at_a_time(fleet: FleetScene) -> None:
    llm = fleet.burst(baseline=4, replicas=4)
    llm.workload.patch(replicas=4)
    llm.serves(4, 0)
    mark = fleet.scene.cluster.audit_mark()

    llm.workload.patch(capacity={"baselineReplicas": 2})
    ready = noted_until(llm, lambda: sum(llm.ready()), lambda: llm.tiers == (2, 2), 60, "two are on spot")
    llm.serves(2, 2)

    assert min(ready) >= 4
    assert llm.workload.writes(mark) == [3, 2]


@pytest.mark.case("node-and-spot E18")
def test_a_spot_pool_at_its_maximum_is_stood_in_for(fleet: FleetScene, pools: Pools) -> None:
    for name in ("a", "b"):
        patch_pool(fleet, pools[name], maxNodes=1)
    llm = fleet.burst(baseline=2, replicas=2)
    llm.serves(2, 0)

    llm.workload.patch(replicas=8)

    llm.until(lambda: llm.ready() == (4, 4), 60, "two pools of one node carry four, on demand the other two")
    llm.workload.says("FallbackActive", "True", "PoolMax")
    assert [len(fleet.market.machines(pool)) for pool in spot(fleet)] == [1, 1]
    pool_says(fleet, pools["a"], "AtMax")


@pytest.mark.case("node-and-spot E17")
def test_what_a_partial_fill_leaves_out_is_stood_in_for(fleet: FleetScene) -> None:
    for pool in spot(fleet):
        fleet.market.limit(pool, 1)
    llm = fleet.burst(baseline=2, replicas=2)
    llm.serves(2, 0)

    llm.workload.patch(replicas=9)

    llm.until(
        lambda: llm.ready() == (5, 4), 60, "four of seven fit on spot, and on demand carries three more"
    )
    assert llm.tiers == (5, 7)


@pytest.mark.case("node-and-spot E12")
@pytest.mark.case("node-and-spot E13")
def test_spot_that_never_boots_is_waited_for_until_its_deadline_and_then_tried_anew(
    fleet: FleetScene,
) -> None:
    for pool in spot(fleet):
        fleet.market.never_boot(pool)
    llm = fleet.burst(baseline=2, replicas=2)
    llm.serves(2, 0)

    llm.workload.patch(replicas=4)
    llm.reaches(2, 2)
    llm.until(lambda: spot_machines(fleet) == 1, 20, "one machine is granted")
    llm.workload.watch(
        lambda: llm.tiers == (2, 2) and spot_machines(fleet) == 1, 12, "a slow boot is no refusal"
    )
    llm.until(lambda: llm.ready() == (4, 0), 45, "on demand stands in after bootDeadlineSeconds")
    llm.workload.says("FallbackActive", "True", "BootDeadline")

    for pool in spot(fleet):
        fleet.market.set_boot(pool, 1)
    llm.serves(2, 2, seconds=90)


@pytest.mark.case("node-and-spot E12")
def test_a_slow_boot_within_its_deadline_is_no_reason_to_stand_in(fleet: FleetScene) -> None:
    for pool in spot(fleet):
        fleet.market.set_boot(pool, 10)
    llm = fleet.burst(baseline=2, replicas=2)
    llm.serves(2, 0)
    mark = fleet.scene.cluster.audit_mark()

    llm.workload.patch(replicas=4)
    llm.serves(2, 2)

    assert llm.workload.writes(mark) == []


@pytest.mark.case("node-and-spot E9")
def test_two_workloads_share_a_spot_pool_without_a_node_too_many(fleet: FleetScene, pools: Pools) -> None:
    first, second = (fleet.burst(baseline=2, replicas=2) for _ in range(2))
    first.serves(2, 0)
    second.serves(2, 0)

    for llm in (first, second):
        llm.workload.patch(replicas=5)
    seen = noted_until(
        first,
        lambda: spot_machines(fleet),
        lambda: first.ready() == second.ready() == (2, 3),
        60,
        "both serve",
    )
    first.workload.watch(lambda: spot_machines(fleet) == 3, 4, "six pods are on three nodes")

    assert max(seen) == 3


@pytest.mark.case("node-and-spot E15")
def test_no_stand_in_is_made_for_pods_that_a_quota_refuses(fleet: FleetScene) -> None:
    llm = fleet.burst(baseline=2, replicas=2)
    llm.serves(2, 0)
    path = f"/api/v1/namespaces/{fleet.namespace}/resourcequotas"
    quota = {"metadata": {"name": "gpus"}, "spec": {"hard": {"requests.nvidia.com/gpu": "8"}}}
    fleet.client.post(path, quota)
    try:
        used = {"requests.nvidia.com/gpu": "8"}
        llm.until(
            lambda: fleet.client.get(f"{path}/gpus").get("status", {}).get("used") == used,
            20,
            "it is counted",
        )

        llm.workload.patch(replicas=4)

        llm.reaches(2, 2)
        llm.workload.says("BurstActive", "False", "PodsNotCreated")
        llm.workload.watch(lambda: llm.tiers == (2, 2), 8, "on demand the same pods would be refused, too")
    finally:
        fleet.client.delete(f"{path}/gpus")
    llm.serves(2, 2, seconds=60)


@pytest.mark.case("node-and-spot E4")
def test_a_raised_baseline_keeps_spot_until_it_is_ready_on_demand(fleet: FleetScene) -> None:
    llm = fleet.burst(baseline=2, replicas=2)
    llm.workload.patch(replicas=5)
    llm.serves(2, 3)

    llm.workload.patch(capacity={"baselineReplicas": 4})
    ready = noted_until(
        llm, lambda: sum(llm.ready()), lambda: llm.tiers == (4, 1), 60, "the baseline has grown"
    )
    llm.serves(4, 1)

    assert min(ready) >= 5


def test_burst_never_moves_everything_back_without_a_gap(fleet: FleetScene) -> None:
    llm = fleet.burst(baseline=2, replicas=2)
    llm.workload.patch(replicas=5)
    llm.serves(2, 3)

    llm.workload.patch(capacity={"burst": "Never"})
    ready = noted_until(
        llm, lambda: sum(llm.ready()), lambda: llm.twin is None, 60, "the burst Deployment is gone"
    )

    assert min(ready) >= 5
    assert llm.ready() == (5, 0)
