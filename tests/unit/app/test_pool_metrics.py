"""The series about tiers and pools that Prometheus reads."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.builders import NOW, make_snapshot, seconds
from tests.unit.app.test_metrics import COST, TICK, observe, page
from tests.unit.app.test_status import decide

from spillway.api.convert import Converted, CostLabels
from spillway.app.metrics import Metrics
from spillway.core.model import Mode, Refusal, RefusalKind
from spillway.core.plan import (
    BurstReason,
    CapacityView,
    CloseReason,
    Decision,
    FallbackReason,
    Finding,
    IsolationReason,
    PoolDecision,
    PoolReason,
    SplitView,
)

LABELS = '{node_pool="spot-a"}'


def pool(*refused: float, **over: Any) -> Mapping[str, PoolDecision]:  # noqa: ANN401 -- fields of PoolDecision
    """The plan of one pool that was refused at these seconds."""
    values: dict[str, Any] = {
        "name": "spot-a",
        "mode": Mode.ENFORCE,
        "size": 2,
        "desired": 3,
        "target": 4,
        "reason": PoolReason.GROWING,
        "message": "2 nodes, 4 needed",
        "refusals": tuple(refusal(NOW + seconds(at)) for at in refused),
    }
    return {"spot-a": PoolDecision(**{**values, **over})}


def refusal(at: datetime) -> Refusal:
    return Refusal(at=at, kind=RefusalKind.CAPACITY, code="Stockout", message="none left")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(tick=TICK)


def test_a_pool_shows_what_it_wants_and_what_it_was_asked_for(metrics: Metrics) -> None:
    metrics.pools.observe(pool())

    found = page(metrics)
    assert found[f"spillway_node_pool_target_nodes{LABELS}"] == 4
    assert found[f"spillway_node_pool_desired_nodes{LABELS}"] == 3


def test_what_a_silent_provider_was_asked_for_has_no_series(metrics: Metrics) -> None:
    metrics.pools.observe(pool(desired=None))

    assert f"spillway_node_pool_desired_nodes{LABELS}" not in page(metrics)


def test_nodes_on_their_way_show_by_where_they_go(metrics: Metrics) -> None:
    metrics.pools.observe(pool(booting=2, draining=("a",), doomed=("b", "c", "d")))

    found = page(metrics)
    shown = [
        found[f'spillway_node_pool_changing_nodes{{node_pool="spot-a",state="{state}"}}']
        for state in ("booting", "draining", "doomed")
    ]
    assert shown == [2, 1, 3]


def test_a_closed_pool_shows_why_and_an_open_one_shows_nothing(metrics: Metrics) -> None:
    metrics.pools.observe(pool(closed=Finding(reason=CloseReason.REFUSED, message="no")))
    closed = page(metrics)
    metrics.pools.observe(pool())

    series = 'spillway_node_pool_closed{node_pool="spot-a",reason="Refused"}'
    assert (closed[series], series in page(metrics)) == (1, False)


def test_each_refusal_counts_once_though_plans_repeat_it(metrics: Metrics) -> None:
    for refused in ((), (1,), (1,), (1, 2, 3), (2, 3, 4)):
        metrics.pools.observe(pool(*refused))

    assert page(metrics)[f"spillway_node_pool_refusals_total{LABELS}"] == 4


def test_refusals_of_before_a_takeover_are_not_counted_anew(metrics: Metrics) -> None:
    metrics.pools.observe(pool(1, 2))
    metrics.pools.observe(pool(1, 2, 3))

    assert page(metrics)[f"spillway_node_pool_refusals_total{LABELS}"] == 1


def test_each_lost_node_counts_once_at_its_notice(metrics: Metrics) -> None:
    for doomed in ((), ("a",), ("a", "b"), ("b",), ()):
        metrics.pools.observe(pool(doomed=doomed))

    assert page(metrics)[f"spillway_node_pool_interruptions_total{LABELS}"] == 2


def test_series_of_a_deleted_pool_are_gone(metrics: Metrics) -> None:
    metrics.pools.observe(pool(1))
    metrics.pools.observe({})

    assert not [name for name in page(metrics) if "spot-a" in name]


def test_a_standby_shows_no_pools(metrics: Metrics) -> None:
    metrics.pools.observe(pool(1))
    metrics.pools.forget()

    assert not [name for name in page(metrics) if name.startswith("spillway_node_pool_")]


SPLIT = SplitView(baseline=3, burst=5, fallback=1, baseline_now=3, burst_now=5, good_baseline=3, good_burst=4)


def burst(split: SplitView) -> CapacityView:
    return CapacityView(
        split=split,
        burst=Finding(reason=BurstReason.BURSTING, message=""),
        fallback=Finding(reason=FallbackReason.SPOT_REFUSED, message=""),
        isolation=Finding(reason=IsolationReason.ISOLATED, message=""),
    )


def decided(metrics: Metrics, split: SplitView | None, *, after: float = 0) -> None:
    """Observe one workload that is laid out like this."""
    snapshot = make_snapshot()
    (workload,) = snapshot.workloads
    decision: Decision = replace(decide(snapshot), placement=burst(split) if split else None)
    labels = CostLabels(model="llama", application="chat", team="red")
    converted = Converted(
        workload=workload, generation=1, provenance=(), cost=labels, policy=None, policy_conflicts=()
    )
    metrics.workloads.observe(
        {workload.key: decision}, {workload.key: converted}, now=NOW + timedelta(seconds=after)
    )


def test_a_burst_shows_its_tiers_and_what_serves_in_each(metrics: Metrics) -> None:
    decided(metrics, SPLIT)

    found = page(metrics)

    def shown(family: str) -> dict[str, float]:
        tiers = ("on-demand", "burst", "fallback")
        names = {tier: f'{family}{{namespace="chat",tier="{tier}",workload="llm"}}' for tier in tiers}
        return {tier: found[name] for tier, name in names.items() if name in found}

    assert shown("spillway_workload_tier_replicas") == {"on-demand": 3, "burst": 5, "fallback": 1}
    assert shown("spillway_workload_tier_ready_replicas") == {"on-demand": 3, "burst": 4}


def test_stand_ins_are_charged_for_the_time_they_stood(metrics: Metrics) -> None:
    decided(metrics, replace(SPLIT, fallback=2))
    decided(metrics, replace(SPLIT, fallback=0), after=15)
    decided(metrics, replace(SPLIT, fallback=0), after=30)

    assert page(metrics)[f"spillway_workload_fallback_replica_seconds_total{COST}"] == 30


def test_a_workload_that_never_bursts_has_no_tiers(metrics: Metrics) -> None:
    observe(metrics, make_snapshot())
    observe(metrics, make_snapshot(), after=15)

    assert not [name for name in page(metrics) if "tier" in name or "fallback" in name]


def test_acts_are_counted_by_kind_and_result(metrics: Metrics) -> None:
    metrics.count_act("GrowPool", "Landed")
    metrics.count_act("GrowPool", "Failed")
    metrics.count_act("GrowPool", "Landed")

    found = page(metrics)
    assert found['spillway_acts_total{kind="GrowPool",result="Landed"}'] == 2
    assert found['spillway_acts_total{kind="GrowPool",result="Failed"}'] == 1
