"""Spot that is taken back, clouds that fail, and an operator that is killed between two acts of a burst."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pytest

from tests.cluster.client import JsonObject
from tests.cluster.controlplane import ControlPlane
from tests.cluster.exporter import Exporter
from tests.cluster.faults import Hang, Lose
from tests.cluster.fleet_laws import deleted_pods, evicted_pods, lawful, marked, noted_until, pool_says
from tests.cluster.fleet_scene import (
    FLEET_LABEL,
    SHORT_FALLBACK,
    BurstWorkload,
    FleetScene,
    played_fleet,
    settle,
)
from tests.cluster.market_process import ApiFaultKind
from tests.cluster.operator_chart import Helm
from tests.cluster.operator_process import FAST
from tests.cluster.prometheus import Prometheus

Pools = dict[str, str]
QUERY = r"/api/v1/query"
SUCCESSION_SECONDS = FAST["leaseDurationSeconds"] + 45
# Many losses in a row are the subject of one test; in the others a breaker would hide what is looked at.
NO_BREAKER = {"breaker": {"interruptions": 100, "withinSeconds": 1, "openSeconds": 1}}

QUICK_RETURN = {**SHORT_FALLBACK, "returnStableSeconds": 1, "minResidencySeconds": 1}


@pytest.fixture(scope="module")
def fleet(
    cluster: ControlPlane, exporter: Exporter, prometheus: Prometheus, helm: Helm, crds: list[str]
) -> Iterator[FleetScene]:
    with played_fleet(cluster, exporter, prometheus, helm, through_proxies=True) as fleet:
        yield fleet


@pytest.fixture(autouse=True)
def pools(fleet: FleetScene) -> Iterator[Pools]:
    with lawful(fleet, insists=True, **NO_BREAKER) as pools:
        yield pools
        fleet.scene.operator.api.clear()
        fleet.scene.operator.prometheus.clear()


def spot(fleet: FleetScene) -> tuple[str, ...]:
    return fleet.market.pools[1:]


def machines(fleet: FleetScene) -> int:
    """Count the spot machines, those that boot included."""
    return sum(len(fleet.market.machines(pool)) for pool in spot(fleet))


def bursting(fleet: FleetScene, *, burst: int, **options: Any) -> BurstWorkload:  # noqa: ANN401 - as of FleetScene.burst
    """Return a workload that serves with two replicas on demand and *burst* on spot."""
    llm = fleet.burst(baseline=2, replicas=2, capacity={"fallback": QUICK_RETURN}, **options)
    llm.workload.patch(replicas=2 + burst)
    llm.serves(2, burst, seconds=60)
    return llm


def pool_with_machines(fleet: FleetScene) -> str:
    """Return the market's name of a spot pool that has a running machine."""
    return next(pool for pool in spot(fleet) if fleet.market.running(pool))


# Spot that is taken back


def test_all_spot_taken_back_within_ten_seconds_is_stood_in_for_at_once(fleet: FleetScene) -> None:
    llm = bursting(fleet, burst=6)

    for pool in spot(fleet):
        fleet.market.refuse(pool)
        fleet.market.reclaim(pool, notice_seconds=10)
    llm.until(lambda: llm.workload.replicas == 8, 10, "on demand is asked for all six before spot is gone")
    llm.workload.says("FallbackActive", "True", "Interrupted")
    llm.until(lambda: llm.ready()[0] == 8, 45, "eight serve on demand")

    for pool in spot(fleet):
        fleet.market.accept(pool)
    llm.until(lambda: llm.ready() == (2, 6), 120, "spot carries its six again")
    llm.serves(2, 6, seconds=60)


@pytest.mark.case("node-and-spot E27")
def test_a_notice_is_acted_on_while_prometheus_hangs(fleet: FleetScene) -> None:
    llm = bursting(fleet, burst=2)
    pool = pool_with_machines(fleet)
    (doomed,) = fleet.market.running(pool)
    fleet.scene.operator.prometheus.add(Hang(), path=QUERY)
    settle(6)  # the signal is missing by now

    fleet.market.reclaim(pool, notice_seconds=15)
    started = time.monotonic()
    llm.until(
        lambda: llm.workload.replicas == 4 and machines(fleet) > 1,
        10,
        "both replicas and their node are replaced",
    )

    assert time.monotonic() - started < 5
    llm.until(lambda: doomed in marked(fleet), 10, "the node is cordoned")
    llm.serves(2, 2, seconds=90)


@pytest.mark.case("node-and-spot E33")
@pytest.mark.case("node-and-spot E51")
def test_a_node_that_vanishes_is_replaced_and_forgotten(fleet: FleetScene) -> None:
    llm = bursting(fleet, burst=2)
    pool = pool_with_machines(fleet)
    (lost,) = fleet.market.running(pool)

    fleet.market.vanish(pool, 1)

    llm.until(lambda: sum(llm.ready()) == 4, 45, "four serve again")
    llm.until(
        lambda: fleet.client.find(f"/api/v1/nodes/{lost}") is None,
        45,
        "the Node of the machine that is gone is deleted",
    )
    llm.serves(2, 2, seconds=90)


@pytest.mark.case("node-and-spot E39")
def test_an_on_demand_node_that_vanishes_is_replaced_and_opens_no_breaker(
    fleet: FleetScene, pools: Pools
) -> None:
    llm = fleet.burst(baseline=2, replicas=2)
    llm.serves(2, 0)
    pool = fleet.market.pools[0]
    (lost,) = fleet.market.running(pool)

    fleet.market.vanish(pool, 1)

    llm.until(
        lambda: lost not in fleet.market.running(pool) and fleet.market.running(pool), 30, "another one runs"
    )
    llm.until(lambda: fleet.client.find(f"/api/v1/nodes/{lost}") is None, 45, "the lost Node is deleted")
    llm.serves(2, 0, seconds=60)
    assert "breakerOpenUntil" not in fleet.pool_status(pools["od"])


@pytest.mark.case("node-and-spot E30")
def test_a_notice_that_is_taken_back_rolls_back(fleet: FleetScene) -> None:
    llm = bursting(fleet, burst=2)
    pool = pool_with_machines(fleet)
    (node,) = fleet.market.running(pool)
    fleet.market.reclaim(pool, notice_seconds=90)
    llm.until(lambda: node in marked(fleet), 15, "the node is cordoned")
    llm.workload.says("FallbackActive", "True", "Interrupted")

    fleet.market.cancel_notice(pool)

    llm.until(lambda: node not in marked(fleet), 15, "the cordon is lifted")
    llm.serves(2, 2, seconds=90)


@pytest.mark.case("node-and-spot E32")
@pytest.mark.case("node-and-spot E23")
def test_a_pool_that_loses_node_after_node_is_left_alone_for_a_while(fleet: FleetScene) -> None:
    rules = {"breaker": {"interruptions": 2, "withinSeconds": 60, "openSeconds": 12}}
    fleet.strike()
    weak = fleet.pool("a", capacity_type="Spot", market_pool=f"{fleet.namespace}-a", **rules)
    fleet.pool("od", capacity_type="OnDemand", market_pool=fleet.market.pools[0])
    llm = bursting(fleet, burst=4)
    pool = spot(fleet)[0]

    fleet.market.reclaim(pool, notice_seconds=2)

    pool_says(fleet, weak, "BreakerOpen", 20)
    llm.until(lambda: llm.ready()[0] == 6, 45, "on demand carries all")
    llm.workload.watch(lambda: len(fleet.market.machines(pool)) <= 2, 4, "nothing more is asked of it")
    llm.until(lambda: fleet.market.machines(pool), 30, "it is probed")
    llm.serves(2, 4, seconds=120)


@contextmanager
def budget(fleet: FleetScene, llm: BurstWorkload) -> Iterator[None]:
    """Let no pod of *llm* go, on demand or on spot."""
    path = f"/apis/policy/v1/namespaces/{fleet.namespace}/poddisruptionbudgets"
    spec = {"maxUnavailable": 0, "selector": {"matchLabels": {"app": llm.name}}}
    fleet.client.post(path, {"metadata": {"name": llm.name}, "spec": spec})
    try:
        llm.until(
            lambda: fleet.client.get(f"{path}/{llm.name}").get("status", {}).get("currentHealthy") == 4,
            20,
            "the budget is counted",
        )
        yield
    finally:
        fleet.client.delete(f"{path}/{llm.name}")


@pytest.mark.case("node-and-spot E28")
def test_a_budget_is_asked_until_the_last_call_before_the_node_ends(fleet: FleetScene) -> None:
    # The taint of AWS leaves 120 s. Grace 95 s and the last call of 15 s: nobody waits for the budget after 10 s.
    pod = {
        "tolerations": [],
        "nodeSelector": {FLEET_LABEL: fleet.namespace},
        "terminationGracePeriodSeconds": 95,
    }
    llm = bursting(fleet, burst=2, deployment={"pod_spec": pod})
    pool = pool_with_machines(fleet)
    with budget(fleet, llm):
        mark = fleet.scene.cluster.audit_mark()
        fleet.market.reclaim(pool, notice_seconds=25)
        llm.until(lambda: len(deleted_pods(fleet, since=mark)) == 2, 24, "both are deleted in the end")

    pods = fleet.scene.operator.writes(mark, resource="pods")
    evictions = [event for event in pods if event["objectRef"].get("subresource") == "eviction"]
    deletions = [event for event in pods if event["verb"] == "delete"]
    assert {event["responseStatus"]["code"] for event in evictions} == {429}
    waited = moment(deletions[0]) - moment(evictions[0])
    assert 5 <= waited.total_seconds() <= 15
    assert {event["requestObject"]["gracePeriodSeconds"] for event in deletions} == {95}
    llm.serves(2, 2, seconds=60)


def moment(event: JsonObject) -> datetime:
    return datetime.fromisoformat(event["stageTimestamp"])


@contextmanager
def tainted(fleet: FleetScene, node: str, key: str) -> Iterator[None]:
    """Put a taint on a node as another program does, and take it off again."""
    path = f"/api/v1/nodes/{node}"

    def others() -> list[JsonObject]:
        return [item for item in fleet.client.get(path)["spec"].get("taints") or [] if item["key"] != key]

    fleet.client.patch(path, {"spec": {"taints": [*others(), {"key": key, "effect": "NoSchedule"}]}})
    try:
        yield
    finally:
        fleet.client.patch(path, {"spec": {"taints": others()}})


@pytest.mark.case("node-and-spot E31")
def test_an_advice_to_rebalance_moves_nothing(fleet: FleetScene) -> None:
    llm = bursting(fleet, burst=2)
    (node,) = fleet.market.running(pool_with_machines(fleet))
    mark = fleet.scene.cluster.audit_mark()

    with tainted(fleet, node, "aws-node-termination-handler/rebalance-recommendation"):
        llm.workload.watch(lambda: llm.tiers == llm.ready() == (2, 2), 5, "all stays as it is")

    assert fleet.scene.operator.writes(mark, resource="nodes") == []
    assert machines(fleet) == 1


@pytest.mark.case("node-and-spot E36")
def test_a_node_that_another_program_drains_is_only_accounted_for(fleet: FleetScene) -> None:
    llm = bursting(fleet, burst=2)
    (node,) = fleet.market.running(pool_with_machines(fleet))
    mark = fleet.scene.cluster.audit_mark()

    with tainted(fleet, node, "karpenter.sh/disrupted"):
        llm.until(
            lambda: llm.workload.replicas == 4 and machines(fleet) == 2, 15, "both replicas are replaced"
        )
        settle(3)

        assert node not in marked(fleet)
        assert evicted_pods(fleet, since=mark) == []
    llm.serves(2, 2, seconds=60)


# A cloud that fails


@pytest.mark.case("node-and-spot E62")
@pytest.mark.case("node-and-spot E52")
@pytest.mark.parametrize("kind", ["Throttle", "Fail", "Hang", "LoseAnswer"])
def test_an_api_that_fails_costs_time_and_no_node_too_many(fleet: FleetScene, kind: ApiFaultKind) -> None:
    llm = fleet.burst(baseline=2, replicas=2)
    llm.serves(2, 0)
    for pool in spot(fleet):
        fleet.market.api_fault(pool, kind, 2)
    llm.workload.patch(replicas=4)
    seen = noted_until(llm, lambda: machines(fleet), lambda: llm.ready()[1] == 2, 90, "the burst serves")
    llm.serves(2, 2, seconds=60)

    assert max(seen) == 1


def test_an_api_that_describes_the_past_asks_for_no_node_twice(fleet: FleetScene) -> None:
    llm = fleet.burst(baseline=2, replicas=2)
    llm.serves(2, 0)
    for pool in spot(fleet):
        fleet.market.api_fault(pool, "Stale", calls=["describe"])
    settle(2)
    llm.workload.patch(replicas=4)
    seen = noted_until(llm, lambda: machines(fleet), lambda: llm.ready()[1] == 2, 60, "the burst serves")
    llm.workload.watch(lambda: machines(fleet) == 1, 5, "it stays at one node")
    for pool in spot(fleet):
        fleet.market.mend_api(pool)
    llm.serves(2, 2, seconds=60)

    assert max(seen) == 1


def test_a_market_that_is_killed_takes_nothing_down_with_it(fleet: FleetScene, pools: Pools) -> None:
    llm = bursting(fleet, burst=2)
    before = {node for pool in fleet.market.pools for node in fleet.market.running(pool)}
    fleet.market.kill()
    mark = fleet.scene.cluster.audit_mark()

    pool_says(fleet, pools["a"], "ProviderUnavailable", 30)
    llm.workload.patch(replicas=2)
    llm.serves(2, 0)
    settle(6)  # longer than an idle node is kept where its provider is heard
    assert [event["objectRef"]["name"] for event in fleet.scene.operator.writes(mark, resource="nodes")] == []

    fleet.market.start()
    assert before == {node for pool in fleet.market.pools for node in fleet.market.running(pool)}
    llm.until(lambda: machines(fleet) == 0, 60, "the idle spot node goes once its provider is heard")
    llm.workload.patch(replicas=4)
    llm.serves(2, 2, seconds=60)


# An operator that is killed between two acts


def killed_at(fleet: FleetScene, llm: BurstWorkload, *, method: str, path: str) -> None:
    """Kill the operator once its next write of this kind is done and before it hears so; start it again."""
    operator = fleet.scene.operator
    rule = operator.api.add(Lose(), method=method, path=path)
    llm.until(lambda: rule.hits, 60, f"it writes {path}")
    operator.kill()
    operator.api.clear()
    operator.start()


@pytest.mark.case("node-and-spot E8")
def test_one_killed_as_it_makes_the_twin_makes_one(fleet: FleetScene) -> None:
    llm = fleet.burst(baseline=2, replicas=2)
    llm.serves(2, 0)

    llm.workload.patch(replicas=4)
    killed_at(fleet, llm, method="POST", path=r"/deployments(\?|$)")

    fleet.scene.operator.wait_deciding(SUCCESSION_SECONDS)
    llm.serves(2, 2, seconds=60)
    llm.workload.watch(lambda: machines(fleet) == 1, 3, "there is one node")


def test_one_killed_after_it_asked_for_a_node_asks_for_no_second(fleet: FleetScene) -> None:
    llm = fleet.burst(baseline=2, replicas=2)
    llm.serves(2, 0)
    for pool in spot(fleet):
        fleet.market.api_fault(pool, "LoseAnswer", calls=["grow"])
        fleet.market.set_boot(pool, 15)  # it still boots when the next operator looks

    llm.workload.patch(replicas=4)
    llm.until(lambda: machines(fleet) == 1, 30, "the market has made one")
    fleet.scene.operator.kill()
    for pool in spot(fleet):
        fleet.market.mend_api(pool)
    fleet.scene.operator.start()

    fleet.scene.operator.wait_deciding(SUCCESSION_SECONDS)
    llm.workload.watch(lambda: machines(fleet) == 1, 3, "there is one node")
    llm.serves(2, 2, seconds=60)
    assert machines(fleet) == 1


@pytest.mark.case("node-and-spot E8")
def test_one_killed_as_it_falls_back_stands_in_once(fleet: FleetScene) -> None:
    llm = bursting(fleet, burst=4)
    for pool in spot(fleet):
        fleet.market.refuse(pool)
    mark = fleet.scene.cluster.audit_mark()

    for pool in spot(fleet):
        fleet.market.reclaim(pool, notice_seconds=20)
    killed_at(fleet, llm, method="PATCH", path=rf"/deployments/{llm.name}/scale")

    fleet.scene.operator.wait_deciding(SUCCESSION_SECONDS)
    llm.until(lambda: llm.ready()[0] == 6, 60, "on demand serves all six")
    llm.workload.watch(lambda: llm.tiers == (6, 4), 4, "and no more are asked for")
    for pool in spot(fleet):
        fleet.market.accept(pool)
    llm.serves(2, 4, seconds=120)
    counts = llm.workload.writes(mark)
    assert max(counts) == 6
    assert counts[counts.index(6) :] == sorted(counts[counts.index(6) :], reverse=True)
