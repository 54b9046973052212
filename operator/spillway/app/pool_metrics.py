"""The series of /metrics about tiers and pools: what runs on demand and on spot, what stands in, what pools want and lose."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from spillway.core.plan import Decision, PoolDecision, SplitView

POOL: Final = ("node_pool",)
TIER: Final = ("namespace", "workload", "tier")


class PoolMetrics(Collector):
    """Series per pool, made from the last plan when they are read; only the leader has any."""

    def __init__(self) -> None:
        self._pools: Mapping[str, PoolDecision] = {}
        self._refusals: dict[str, int] = {}
        self._interruptions: dict[str, int] = {}
        self._last_refusal: dict[str, datetime | None] = {}
        self._doomed: dict[str, frozenset[str]] = {}

    def observe(self, pools: Mapping[str, PoolDecision]) -> None:
        """Take the plan's pools, and count refusals and lost nodes that the last plan did not have.

        What is there when a pool is first seen happened before this operator began to count.
        """
        for gone in self._refusals.keys() - pools.keys():
            for kept in (self._refusals, self._interruptions, self._last_refusal, self._doomed):
                kept.pop(gone, None)
        for name, found in pools.items():
            is_known = name in self._refusals
            seen = self._last_refusal.get(name)
            fresh = [refusal.at for refusal in found.refusals if seen is None or refusal.at > seen]
            lost = frozenset(found.doomed) - self._doomed.get(name, frozenset())
            self._refusals[name] = self._refusals.get(name, 0) + (len(fresh) if is_known else 0)
            self._interruptions[name] = self._interruptions.get(name, 0) + (len(lost) if is_known else 0)
            self._last_refusal[name] = max(fresh, default=seen)
            self._doomed[name] = frozenset(found.doomed)
        self._pools = pools

    def forget(self) -> None:
        """Drop all series: this operator leads no longer."""
        self._pools = {}
        for kept in (self._refusals, self._interruptions, self._last_refusal, self._doomed):
            kept.clear()

    def collect(self) -> Iterable[Metric]:
        """Yield the families; called by the registry when the page is read."""
        target = GaugeMetricFamily(
            "spillway_node_pool_target_nodes", "Nodes that the plan wants, as of the last pass.", labels=POOL
        )
        desired = GaugeMetricFamily(
            "spillway_node_pool_desired_nodes",
            "Nodes that the provider was last asked for; no series while it is not heard.",
            labels=POOL,
        )
        changing = GaugeMetricFamily(
            "spillway_node_pool_changing_nodes",
            "Nodes on their way in or out: booting (promised ones too), draining, or doomed.",
            labels=(*POOL, "state"),
        )
        closed = GaugeMetricFamily(
            "spillway_node_pool_closed",
            "1 while the pool takes no more nodes, by why.",
            labels=(*POOL, "reason"),
        )
        refusals = CounterMetricFamily(
            "spillway_node_pool_refusals", "Answers of the provider that gave no node.", labels=POOL
        )
        lost = CounterMetricFamily(
            "spillway_node_pool_interruptions",
            "Nodes that were taken back or lost, counted at the notice.",
            labels=POOL,
        )
        for name, found in self._pools.items():
            target.add_metric((name,), found.target)
            changing.add_metric((name, "booting"), found.booting)
            changing.add_metric((name, "draining"), len(found.draining))
            changing.add_metric((name, "doomed"), len(found.doomed))
            if found.desired is not None:
                desired.add_metric((name,), found.desired)
            if found.closed is not None:
                closed.add_metric((name, found.closed.reason.value), 1)
            refusals.add_metric((name,), self._refusals.get(name, 0))
            lost.add_metric((name,), self._interruptions.get(name, 0))
        yield from (target, desired, changing, closed, refusals, lost)


def tier_gauges(decisions: Iterable[Decision]) -> Iterator[Metric]:
    """Yield the tiers of every workload that bursts: `on-demand` holds the stand-ins, which `fallback` tells apart."""
    wanted = GaugeMetricFamily(
        "spillway_workload_tier_replicas",
        "Replicas wanted by tier: on-demand, burst, fallback (the part of on-demand that stands in for spot) and spare (the part of "
        "burst beyond the count).",
        labels=TIER,
    )
    ready = GaugeMetricFamily(
        "spillway_workload_tier_ready_replicas",
        "Pods of each tier that serve on nodes that stay.",
        labels=TIER,
    )
    for decision in decisions:
        split = split_of(decision)
        if split is None:
            continue
        key = (decision.key.namespace, decision.key.name)
        for tier, count in (
            ("on-demand", split.baseline),
            ("burst", split.burst),
            ("fallback", split.fallback),
            ("spare", split.spare),
        ):
            wanted.add_metric((*key, tier), count)
        ready.add_metric((*key, "on-demand"), split.good_baseline)
        ready.add_metric((*key, "burst"), split.good_burst)
    yield from (wanted, ready)


def split_of(decision: Decision) -> SplitView | None:
    """Return how a count is laid out on demand and on spot; None where one Deployment carries it."""
    return decision.placement.split if decision.placement is not None else None
