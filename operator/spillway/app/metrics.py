"""What Spillway says of itself on /metrics: its loop, its questions to others, and every workload's numbers."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from spillway import __version__
from spillway.adapters.kube.resources import Call
from spillway.api.convert import Converted, CostLabels
from spillway.app.cost_metrics import GAP_TICKS, CostMetrics
from spillway.app.pool_metrics import PoolMetrics, split_of, tier_gauges
from spillway.core.model import ObjectKey
from spillway.core.plan import Decision

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series per counter that nobody reads

KEY = ("namespace", "workload")
COST = (*KEY, "team", "application", "model")


@dataclass(slots=True)
class _Ledger:
    """What one workload has used since this operator began to lead."""

    labels: CostLabels
    replica_seconds: float = 0.0
    gpu_seconds: float = 0.0
    fallback_seconds: float | None = None
    ups: int = 0
    downs: int = 0


@dataclass(slots=True)
class _Watched:
    decision: Decision
    ledger: _Ledger = field(default_factory=lambda: _Ledger(labels=CostLabels()))


class WorkloadMetrics(Collector):
    """Series per workload, made from the last decisions when they are read, so that those of deleted ones are gone.

    Only the leader watches workloads, so only the leader has series.
    """

    def __init__(self, *, tick: timedelta) -> None:
        self._longest = tick * GAP_TICKS
        self._watched: dict[str, _Watched] = {}
        self._at: datetime | None = None

    def observe(
        self,
        decisions: Mapping[ObjectKey, Decision],
        converted: Mapping[ObjectKey, Converted],
        *,
        now: datetime,
    ) -> None:
        """Charge the time since the last pass to what was ready then, and take the new decisions."""
        elapsed = min(now - self._at, self._longest).total_seconds() if self._at is not None else 0.0
        self._at = now
        for watched in self._watched.values():
            ready = watched.decision.counts.ready
            watched.ledger.replica_seconds += ready * elapsed
            watched.ledger.gpu_seconds += ready * watched.decision.gpus_per_pod * elapsed
            split = split_of(watched.decision)
            if split is not None:
                known_seconds = watched.ledger.fallback_seconds or 0.0
                watched.ledger.fallback_seconds = known_seconds + split.fallback * elapsed
        before, self._watched = self._watched, {}
        for key, decision in decisions.items():
            known = before.get(decision.uid)
            ledger = known.ledger if known is not None else _Ledger(labels=CostLabels())
            ledger.labels = converted[key].cost
            self._watched[decision.uid] = _Watched(decision=decision, ledger=ledger)

    def scaled(self, key: ObjectKey, *, up: bool) -> None:
        """Count a write of replicas that landed."""
        for watched in self._watched.values():
            if watched.decision.key == key:
                watched.ledger.ups += up
                watched.ledger.downs += not up

    def forget(self) -> None:
        """Drop all series: this operator leads no longer."""
        self._watched.clear()
        self._at = None

    def collect(self) -> Iterable[Metric]:
        """Yield the families; called by the registry when the page is read."""
        watched = tuple(self._watched.values())
        yield from _replica_gauges(watched)
        yield from tier_gauges(item.decision for item in watched)
        yield from _signal_gauges(watched)
        yield from _counters(watched)


def _replica_gauges(watched: Iterable[_Watched]) -> Iterator[Metric]:
    gauges: dict[str, tuple[str, Callable[[Decision], int]]] = {
        "desired_replicas": ("Replicas wanted after every limit.", lambda d: d.desired),
        "desired_replicas_unclamped": ("Replicas the signal alone asks for.", lambda d: d.proposal),
        "current_replicas": ("Replicas the target is set to.", lambda d: d.current),
        "ready_replicas": ("Pods that are Ready.", lambda d: d.counts.ready),
        "loading_replicas": ("Pods that are starting or loading.", lambda d: d.counts.loading),
        "unschedulable_replicas": ("Pods that find no node.", lambda d: d.counts.unschedulable),
        "broken_replicas": ("Pods that do not come up.", lambda d: d.counts.broken),
    }
    for name, (text, read) in gauges.items():
        family = GaugeMetricFamily(f"spillway_workload_{name}", text, labels=KEY)
        for item in watched:
            family.add_metric(_key(item), read(item.decision))
        yield family
    blocked = GaugeMetricFamily(
        "spillway_workload_scale_blocked",
        "1 while the count is held, by the reason that holds it first.",
        labels=(*KEY, "reason"),
    )
    for item in watched:
        decision = item.decision
        if decision.inactive is not None or (decision.limits and decision.desired == decision.current):
            blocked.add_metric((*_key(item), decision.reason), 1)
    yield blocked


def _signal_gauges(watched: Iterable[_Watched]) -> Iterator[Metric]:
    """An unknown value has no series: absent is the only honest number for it."""
    value = GaugeMetricFamily(
        "spillway_workload_gpu_utilization_ratio",
        "Mean GPU utilization the decision used, 0 to 1.",
        labels=KEY,
    )
    coverage = GaugeMetricFamily(
        "spillway_workload_signal_coverage_ratio",
        "Share of settled pods with valid samples.",
        labels=(*KEY, "signal"),
    )
    age = GaugeMetricFamily(
        "spillway_workload_signal_age_seconds", "Age of the oldest sample used.", labels=(*KEY, "signal")
    )
    for item in watched:
        view = item.decision.signal
        if view.value is not None:
            value.add_metric(_key(item), view.value)
        coverage.add_metric((*_key(item), "gpu"), view.coverage)
        if view.age_seconds is not None:
            age.add_metric((*_key(item), "gpu"), view.age_seconds)
    yield from (value, coverage, age)


def _counters(watched: Iterable[_Watched]) -> Iterator[Metric]:
    replicas = CounterMetricFamily(
        "spillway_workload_replica_seconds",
        "Time that Ready replicas stood, summed over replicas.",
        labels=COST,
    )
    gpus = CounterMetricFamily(
        "spillway_workload_gpu_seconds",
        "Time that GPUs of Ready replicas were held, summed over GPUs.",
        labels=COST,
    )
    fallback = CounterMetricFamily(
        "spillway_workload_fallback_replica_seconds",
        "Time that on-demand replicas stood in for spot, summed over replicas; no series for what never burst.",
        labels=COST,
    )
    scaled = CounterMetricFamily(
        "spillway_scale_writes", "Writes of the replica count that landed.", labels=(*KEY, "direction")
    )
    for item in watched:
        labels = item.ledger.labels
        cost = (*_key(item), labels.team, labels.application, labels.model)
        replicas.add_metric(cost, item.ledger.replica_seconds)
        gpus.add_metric(cost, item.ledger.gpu_seconds)
        if item.ledger.fallback_seconds is not None:
            fallback.add_metric(cost, item.ledger.fallback_seconds)
        scaled.add_metric((*_key(item), "up"), item.ledger.ups)
        scaled.add_metric((*_key(item), "down"), item.ledger.downs)
    yield from (replicas, gpus, fallback, scaled)


def _key(item: _Watched) -> tuple[str, str]:
    return (item.decision.key.namespace, item.decision.key.name)


class Metrics:
    """Every series of the operator, in a registry of its own."""

    def __init__(self, *, tick: timedelta) -> None:
        self.registry = CollectorRegistry()
        self.workloads = WorkloadMetrics(tick=tick)
        self.registry.register(self.workloads)
        self.costs = CostMetrics(tick=tick)
        self.registry.register(self.costs)
        self.pools = PoolMetrics()
        self.registry.register(self.pools)
        build = Gauge("spillway_build_info", "1, with the version.", ("version",), registry=self.registry)
        build.labels(__version__).set(1)
        self.leader = Gauge("spillway_leader", "1 on the operator that writes.", registry=self.registry)
        self.passes = Counter(
            "spillway_passes", "Passes of the decision loop.", ("result",), registry=self.registry
        )
        self.pass_seconds = Histogram(
            "spillway_pass_duration_seconds",
            "Snapshot, decision and report of one pass.",
            registry=self.registry,
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
        )
        self.last_pass = Gauge(
            "spillway_last_evaluation_timestamp_seconds",
            "When the loop last finished a pass.",
            registry=self.registry,
        )
        self.cache_age = Gauge(
            "spillway_cache_age_seconds",
            "How long ago each watch cache was known to be in step.",
            ("kind",),
            registry=self.registry,
        )
        self.breaker = Gauge(
            "spillway_circuit_breaker_open", "1 while nothing may shrink anywhere.", registry=self.registry
        )
        self.invalid = Gauge(
            "spillway_invalid_objects", "Stored objects that break a rule.", ("kind",), registry=self.registry
        )
        self.queries = Counter(
            "spillway_prometheus_queries",
            "Queries to Prometheus.",
            ("signal", "result"),
            registry=self.registry,
        )
        self.query_seconds = Histogram(
            "spillway_prometheus_query_duration_seconds",
            "Time per query.",
            ("signal",),
            registry=self.registry,
        )
        self.acts = Counter(
            "spillway_acts",
            "Acts that ended, by kind (SetReplicas, GrowPool, DrainNode, …) and result (Landed or Failed).",
            ("kind", "result"),
            registry=self.registry,
        )
        self.requests = Counter(
            "spillway_kubernetes_requests",
            "Requests to the API server.",
            ("verb", "resource", "code"),
            registry=self.registry,
        )

    def count_act(self, kind: str, result: str) -> None:
        """Count an act that ended."""
        self.acts.labels(kind, result).inc()

    def count_request(self, call: Call, code: str) -> None:
        """Count one exchange with the API server."""
        self.requests.labels(call.verb, call.resource, code).inc()

    def on_query(self, result: str, seconds: float) -> None:
        """Count one query of GPU activity."""
        self.queries.labels("gpu", result).inc()
        self.query_seconds.labels("gpu").observe(seconds)
