"""The cost series of /metrics: what every payer pays an hour and has paid, what is idle, and what has no price."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from spillway.api.convert import Converted, ConvertedPool, CostLabels
from spillway.core.cost import NO_POOL, Bill, Payer, PayerCost, PoolBill
from spillway.core.model import CapacityType, ObjectKey

GAP_TICKS: Final = (
    3  # a longer gap than this many evaluations is not charged: nobody watched (metrics-and-cost E61)
)
HOUR: Final = timedelta(hours=1)
# Unmanaged payers come and go with their pods. Their totals stay for a while, so that the last minutes are scraped, too.
KEPT: Final = HOUR

LABELS: Final = (
    "namespace",
    "workload",
    "team",
    "application",
    "model",
    "capacity_type",
    "gpu_model",
    "currency",
    "managed",
)
CAPACITY_NAMES: Final = {
    CapacityType.ON_DEMAND: "on-demand",
    CapacityType.SPOT: "spot",
    CapacityType.RESERVED: "reserved",
    CapacityType.UNKNOWN: "unknown",
}


@dataclass(frozen=True, slots=True)
class _Kind:
    """What tells two series of one payer apart."""

    capacity_type: CapacityType
    gpu_model: str
    currency: str


@dataclass(slots=True)
class _Total:
    """What one series has cost since this operator began to lead, and when it last cost anything."""

    amount: float = 0.0
    seen: datetime | None = None


class CostMetrics(Collector):
    """Series made from the last bill when they are read, so that those of objects that went are gone.

    Only the leader draws bills, so only the leader has series.
    """

    def __init__(self, *, tick: timedelta) -> None:
        self._longest = tick * GAP_TICKS
        self._bill = Bill()
        self._pools: Mapping[str, ConvertedPool] = {}
        self._labels: Mapping[ObjectKey, CostLabels] = {}
        self._rates: Mapping[tuple[Payer, _Kind], float] = {}
        self._totals: dict[tuple[Payer, _Kind], _Total] = {}
        self._at: datetime | None = None

    def observe(
        self,
        bill: Bill,
        converted: Mapping[ObjectKey, Converted],
        pools: Mapping[str, ConvertedPool],
        *,
        now: datetime,
    ) -> None:
        """Charge the time since the last bill by the rates of that bill, and take the new one."""
        elapsed = min(now - self._at, self._longest) if self._at is not None else timedelta(0)
        self._at = now
        for key, rate in self._rates.items():
            total = self._totals.setdefault(key, _Total())
            total.amount += rate * (elapsed / HOUR)
            total.seen = now
        self._bill, self._pools = bill, pools
        self._labels = {key: found.cost for key, found in converted.items()}
        self._rates = _rates(bill)
        self._drop_gone(now)

    def forget(self) -> None:
        """Drop all series: this operator leads no longer."""
        self._bill, self._pools, self._labels, self._rates = Bill(), {}, {}, {}
        self._totals.clear()
        self._at = None

    def collect(self) -> Iterable[Metric]:
        """Yield the families; called by the registry when the page is read."""
        yield from self._costs()
        yield from _idle(self._bill)
        yield from _nodes(self._bill, self._pools)

    def _costs(self) -> Iterator[Metric]:
        hourly = GaugeMetricFamily(
            "spillway_workload_hourly_cost",
            "Cost an hour of the GPUs that pods hold, by their share of the node's price. "
            "Pods of no GpuWorkload stand under their controller, managed=false.",
            labels=LABELS,
        )
        for (payer, kind), rate in self._rates.items():
            hourly.add_metric(self._label_values(payer, kind), rate)
        total = CounterMetricFamily(
            "spillway_workload_cost",
            "The same, summed over the time that this operator has watched.",
            labels=LABELS,
        )
        for (payer, kind), sum_ in self._totals.items():
            total.add_metric(self._label_values(payer, kind), sum_.amount)
        yield from (hourly, total)

    def _label_values(self, payer: Payer, kind: _Kind) -> tuple[str, ...]:
        known = self._labels.get(ObjectKey(payer.namespace, payer.name)) if payer.managed else None
        named = known or CostLabels()
        return (
            payer.namespace,
            payer.name,
            named.team,
            named.application,
            named.model,
            CAPACITY_NAMES[kind.capacity_type],
            kind.gpu_model,
            kind.currency,
            "true" if payer.managed else "false",
        )

    def _drop_gone(self, now: datetime) -> None:
        gone = [key for key, total in self._totals.items() if self._is_gone(key[0], total, now)]
        for key in gone:
            del self._totals[key]

    def _is_gone(self, payer: Payer, total: _Total, now: datetime) -> bool:
        if payer.managed:
            return ObjectKey(payer.namespace, payer.name) not in self._labels
        return total.seen is not None and now - total.seen > KEPT


def _rates(bill: Bill) -> Mapping[tuple[Payer, _Kind], float]:
    rates: dict[tuple[Payer, _Kind], float] = {}
    for payer, cost in bill.payers.items():
        for kind, amount in _by_kind(cost):
            rates[payer, kind] = rates.get((payer, kind), 0.0) + amount
    return rates


def _by_kind(cost: PayerCost) -> Iterator[tuple[_Kind, float]]:
    for line in cost.lines:
        terms = line.terms
        yield _Kind(terms.capacity_type, terms.gpu_model, terms.currency), float(line.per_hour)


def _idle(bill: Bill) -> Iterator[Metric]:
    family = GaugeMetricFamily(
        "spillway_idle_hourly_cost",
        "Part of the node prices, an hour, that no pod pays for: unallocated, not_ready, or unseen where only some "
        "namespaces are watched.",
        labels=("node_pool", "kind", "currency"),
    )
    for name, pool in _with_outside(bill):
        for (currency, kind), amount in pool.idle.items():
            family.add_metric((name, kind.value, currency), float(amount))
    yield family


def _nodes(bill: Bill, pools: Mapping[str, ConvertedPool]) -> Iterator[Metric]:
    nodes = GaugeMetricFamily(
        "spillway_node_pool_nodes",
        "Nodes of each pool: ready, not_ready or cordoned.",
        labels=("node_pool", "capacity_type", "state"),
    )
    for name, pool in bill.pools.items():
        capacity = CAPACITY_NAMES[pools[name].pool.capacity_type]
        tally = pool.nodes
        for state, count in (
            ("ready", tally.ready),
            ("not_ready", tally.not_ready),
            ("cordoned", tally.cordoned),
        ):
            nodes.add_metric((name, capacity, state), count)
    unpriced = GaugeMetricFamily(
        "spillway_price_missing_nodes",
        f"GPU nodes without a price, which are in no sum; `{NO_POOL}` stands for those that no pool selects.",
        labels=("node_pool",),
    )
    for name, pool in _with_outside(bill):
        unpriced.add_metric((name,), pool.unpriced)
    yield from (nodes, unpriced)


def _with_outside(bill: Bill) -> Iterator[tuple[str, PoolBill]]:
    yield from bill.pools.items()
    yield NO_POOL, bill.outside
