"""The end of the story in numbers: the operator's own, counted from what it said, or billed by the cloud."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from tests.cluster.demo.story import BLIND_STATES, Act, Moment

GPUS_PER_NODE = 4
ON_DEMAND_PRICE = Decimal("27.52")  # of a node an hour, as deploy/examples/demo has it
HOUR = Decimal(3600)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What was used, against on-demand nodes for the peak all the time."""

    seconds: float
    first: int
    peak: int
    last: int
    ups: int
    downs: int
    nodes_peak: int
    nodes_last: int
    replica_minutes: float
    billed: Decimal
    workload_cost: float
    static_nodes: int
    static_cost: Decimal
    reclaimed_stand_ins: int
    refused_stand_ins: int
    replaced_seconds: float
    blind_seconds: float
    blind_replicas: int
    blind_nodes: int
    blind_reason: str

    @property
    def saved_percent(self) -> Decimal:
        """How much less was billed than for the static fleet."""
        return 100 * (1 - self.billed / self.static_cost)


def sum_up(moments: Sequence[Moment]) -> Summary:
    """Return the figures of a story that was played to its end; one replica holds one GPU."""
    first, last = moments[0], moments[-1]
    seconds = last.seconds - first.seconds
    peak = max(moment.current for moment in moments)
    static_nodes = math.ceil(peak / GPUS_PER_NODE)
    blind = [moment for moment in moments if moment.state in BLIND_STATES and moment.act is Act.BLIND]
    return Summary(
        seconds=seconds,
        first=first.current,
        peak=peak,
        last=last.current,
        ups=last.ups - first.ups,
        downs=last.downs - first.downs,
        nodes_peak=max(moment.nodes for moment in moments),
        nodes_last=last.nodes,
        replica_minutes=(last.replica_seconds - first.replica_seconds) / 60,
        billed=last.ledger - first.ledger,
        workload_cost=last.workload_cost - first.workload_cost,
        static_nodes=static_nodes,
        static_cost=static_nodes * ON_DEMAND_PRICE * Decimal(seconds) / HOUR,
        reclaimed_stand_ins=_most_stand_ins(moments, Act.RECLAIM),
        refused_stand_ins=_most_stand_ins(moments, Act.REFUSE),
        replaced_seconds=_seconds_of(moments, Act.RECLAIM),
        blind_seconds=blind[-1].seconds - blind[0].seconds,
        blind_replicas=min(moment.current for moment in blind),
        blind_nodes=min(moment.nodes for moment in blind),
        blind_reason=blind[-1].reason,
    )


def _most_stand_ins(moments: Sequence[Moment], act: Act) -> int:
    return max((moment.tiers.stand_ins for moment in moments if moment.act is act), default=0)


def _seconds_of(moments: Sequence[Moment], act: Act) -> float:
    times = [moment.seconds for moment in moments if moment.act is act]
    return times[-1] - times[0] if times else 0.0


def summary_lines(found: Summary) -> Iterator[str]:
    """Yield the summary for people, at most 100 columns wide."""
    minutes, seconds = divmod(round(found.seconds), 60)
    hourly = found.billed / Decimal(found.seconds) * HOUR
    static_hourly = found.static_nodes * ON_DEMAND_PRICE
    yield f"The story in numbers ({minutes} min {seconds} s)"
    yield (
        f"  replicas      {found.first} → {found.peak} → {found.last}, in {found.ups} increases and "
        f"{found.downs} reductions; {found.replica_minutes:.1f} replica-minutes served"
    )
    yield f"  nodes         up to {found.nodes_peak} Ready, {found.nodes_last} at the end"
    yield (
        f"  taken back    {found.reclaimed_stand_ins} replicas stood in on demand at once; "
        f"all was as before after {found.replaced_seconds:.0f} s"
    )
    yield f"  refused       {found.refused_stand_ins} replicas stood in on demand until spot was back"
    yield (
        f"  blind         {found.blind_seconds:.0f} s without GPU metrics: {found.blind_replicas} replicas and "
        f"{found.blind_nodes} nodes stayed ({found.blind_reason})"
    )
    yield f"  billed        ${found.billed:.2f}, on average ${hourly:.2f} an hour, by the ledger of spillway market"
    yield (
        f"  static fleet  ${found.static_cost:.2f}, ${static_hourly:.2f} an hour: {found.static_nodes} on-demand nodes "
        f"for the peak all the time"
    )
    yield f"  saved         {found.saved_percent:.0f} %"
    yield (
        f"  llm-chat      ${found.workload_cost:.2f} for the GPUs that its pods held, by spillway_workload_cost_total"
    )


NEXT_STEPS = """\
What to try next
  make cluster              the same control plane left running: play with kubectl and spillway run
  docs/quickstart.md        your own Deployment, first in mode Observe, then for real
  docs/burst.md             baseline, burst, fallback and return, and how to read them
  docs/market.md            the same cloud, to play with by hand
  make test                 every test, on the same real parts"""
