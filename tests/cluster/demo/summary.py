"""The end of the story in numbers: all of them the operator's own, or counted from what it said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tests.cluster.demo.story import BLIND_STATES, Act, Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What was used, against a fleet that stands at the peak all the time; minutes of the time watched."""

    seconds: float
    first: int
    peak: int
    last: int
    ups: int
    downs: int
    replica_minutes: float
    serving_gpu_minutes: float
    loading_gpu_minutes: float
    static_gpu_minutes: float
    blind_seconds: float
    blind_replicas: int
    blind_demand: float
    blind_reason: str

    @property
    def gpu_minutes(self) -> float:
        """GPU-minutes held: a pod that loads its model holds its GPU too."""
        return self.serving_gpu_minutes + self.loading_gpu_minutes

    @property
    def saved_percent(self) -> float:
        """How much less that is than the static fleet's."""
        return 100 * (1 - self.gpu_minutes / self.static_gpu_minutes)


def sum_up(moments: Sequence[Moment], *, gpus_per_replica: int = 1) -> Summary:
    """Return the figures of a story that was played to its end."""
    first, last = moments[0], moments[-1]
    peak = max(moment.current for moment in moments)
    loading = sum((b.seconds - a.seconds) * a.loading for a, b in pairwise(moments))
    blind = [moment for moment in moments if moment.state in BLIND_STATES and moment.act is Act.BLIND]
    return Summary(
        seconds=last.seconds - first.seconds,
        first=first.current,
        peak=peak,
        last=last.current,
        ups=last.ups - first.ups,
        downs=last.downs - first.downs,
        replica_minutes=(last.replica_seconds - first.replica_seconds) / 60,
        serving_gpu_minutes=(last.gpu_seconds - first.gpu_seconds) / 60,
        loading_gpu_minutes=loading * gpus_per_replica / 60,
        static_gpu_minutes=(last.seconds - first.seconds) * peak * gpus_per_replica / 60,
        blind_seconds=blind[-1].seconds - blind[0].seconds,
        blind_replicas=min(moment.current for moment in blind),
        blind_demand=max(moment.demand for moment in blind),
        blind_reason=blind[-1].reason,
    )


def summary_lines(found: Summary) -> Iterator[str]:
    """Yield the summary for people, at most 100 columns wide."""
    minutes, seconds = divmod(round(found.seconds), 60)
    yield f"The story in numbers ({minutes} min {seconds} s; the counters are those of the operator's /metrics)"
    yield f"  replicas      {found.first} → {found.peak} → {found.last}, {found.ups} increases and {found.downs} reductions"
    yield f"  serving       {found.replica_minutes:.1f} replica-minutes, {found.serving_gpu_minutes:.1f} GPU-minutes"
    yield f"  loading       {found.loading_gpu_minutes:.1f} GPU-minutes more, while models were loaded"
    yield (
        f"  static fleet  {found.static_gpu_minutes:.1f} GPU-minutes for {found.peak} replicas all the time; "
        f"this was {found.saved_percent:.0f} % less"
    )
    yield (
        f"  blind         {found.blind_seconds:.0f} s without GPU metrics under a demand of {found.blind_demand:g} replicas: "
        f"all {found.blind_replicas} stayed"
    )
    yield f"                ({found.blind_reason}, said the operator)"


NEXT_STEPS = """\
What to try next
  make cluster              the same control plane left running: play with kubectl and spillway run
  docs/quickstart.md        your own Deployment, first in mode Observe, then for real
  docs/concepts.md          why unknown is not zero, and how a decision is made
  make test                 every test, on the same real parts"""
