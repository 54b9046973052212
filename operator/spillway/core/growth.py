"""How much a workload's load grows while a new replica comes up: learned from the workload itself.

Every collection compares the load with what it was one cold start ago; the logarithm of the ratio goes into a histogram whose
older entries fade. From it follows how much load a count would probably miss. Before anything was learned a lognormal stands
there, worth two hours. How long a cold start takes is measured, too. See docs/design/0011-spare.md.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from math import exp, log
from statistics import median
from typing import Final

from spillway.core.fleet import Fleet
from spillway.core.memory import GrowthMemory
from spillway.core.model import Pod, PodPhase

BIN: Final = 0.03
LOWEST: Final = -0.51  # below 0.6 times the load it does not matter how far it fell
BINS: Final = 64  # up to 4 times the load within one cold start
FADES_BY_HALF: Final = timedelta(days=2)
PRIOR_SPREAD: Final = 0.15  # of the logarithm, before anything was learned
PRIOR_WORTH: Final = timedelta(hours=2)
FULL: Final = 0.99  # from here on utilization says that the load is at least what is ready, not how much more
FULL_GROWTH: Final = 1.07  # a collection
FULL_STEP: Final = 0.15  # replicas a collection, for small loads
FULL_MOST: Final = 1.3  # times what is ready
SMOOTHED_OVER: Final = timedelta(seconds=60)
RARE: Final = 0.05
LARGEST_SCALE: Final = 1e6  # after 40 days: then all weights are brought down by it
LEAST: Final = 0.01  # replicas: a load of nothing has no ratio to grow by
FIRST_COLD_START: Final = timedelta(seconds=240)  # node, driver, image and model, until it was measured
MEASURED: Final = 9  # of which the middle one counts
LONGEST: Final = timedelta(seconds=600)  # what takes longer waited for capacity
_EDGES: Final = tuple(exp(LOWEST + BIN * (index + 1)) for index in range(BINS))


def observe_load(
    memory: GrowthMemory, *, utilization: float, serving: float, at: datetime, cold_start: timedelta
) -> GrowthMemory:
    """Note one collection: mean GPU utilization of so many serving replicas. *cold_start* is how far back it is compared with.

    Callers pass only what is Fresh or Partial. At full utilization the load is what it was before and a little more.
    """
    raw = _load(memory, utilization, serving)
    seen = (*memory.seen, (at, raw))
    smoothed = _mean([load for when, load in seen if at - when < SMOOTHED_OVER])
    then = [entry for entry in memory.seen if at - entry[0] >= cold_start]
    weights, scale = memory.weights or prior(), memory.scale
    if then:
        scale /= _fading(at - memory.seen[-1][0])
        weights = _with(weights, log(raw / max(LEAST, then[-1][1])), scale)
        if scale > LARGEST_SCALE:
            weights, scale = tuple(weight / scale for weight in weights), 1.0
    kept = tuple(seen[max(0, len(then) - 1) :])
    return replace(memory, load=smoothed, raw=raw, seen=kept, weights=weights, scale=scale)


def _load(memory: GrowthMemory, utilization: float, serving: float) -> float:
    if utilization < FULL or memory.raw is None:
        return max(LEAST, utilization * serving)
    # 10 serve, load was 9.9: min(1.3 * 10, 1.07 * 9.9 + 0.15) = 10.7
    return max(memory.raw, min(FULL_MOST * max(1.0, serving), FULL_GROWTH * memory.raw + FULL_STEP))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _fading(elapsed: timedelta) -> float:
    return float(0.5 ** (elapsed / FADES_BY_HALF))


def _with(weights: tuple[float, ...], growth: float, weight: float) -> tuple[float, ...]:
    index = min(BINS - 1, max(0, int((growth - LOWEST) / BIN)))
    return (*weights[:index], weights[index] + weight, *weights[index + 1 :])


@cache
def prior() -> tuple[float, ...]:
    """Return the histogram before anything was learned, in weights of collections 15 s apart."""
    heights = [exp(-(((LOWEST + BIN * (index + 0.5)) / PRIOR_SPREAD) ** 2) / 2) for index in range(BINS)]
    worth = PRIOR_WORTH / timedelta(seconds=15)
    return tuple(height / sum(heights) * worth for height in heights)


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """The load, in replicas at 100 %, and how it may grow within one cold start.

    `chances` holds for each bin the chance of growth in it or above, `means` the same times the growth.
    """

    load: float
    chances: tuple[float, ...]
    means: tuple[float, ...]

    def missed(self, count: int) -> float:
        """Return the load that *count* replicas would miss on average, one cold start from now, in replicas."""
        if count <= 0:
            return max(0.0, self.load * self.means[0] - count)
        above = bisect_right(_EDGES, count / self.load)
        if above >= BINS:
            return 0.0
        return max(0.0, self.load * self.means[above] - count * self.chances[above])

    @property
    def likely_most(self) -> float:
        """Return the load that is exceeded one cold start from now in one of twenty cases, at least what it is now."""
        for index, chance in enumerate(self.chances):
            if chance < RARE:
                return self.load * max(1.0, _EDGES[max(0, index - 1)])
        return self.load * _EDGES[-1]

    def worth(self, count: int) -> float:
        """Return how much of one more replica than *count* would be used on average, 0 to 1."""
        return self.missed(count) - self.missed(count + 1)


def growth_of(memory: GrowthMemory) -> Growth | None:
    """Return what is known of the load; None before it was ever seen."""
    if memory.load is None:
        return None
    weights = memory.weights or prior()
    total = sum(weights)
    chances, means = [0.0] * BINS, [0.0] * BINS
    chance = mean = 0.0
    for index in range(BINS - 1, -1, -1):
        share = weights[index] / total
        chance += share
        mean += share * _EDGES[index]
        chances[index], means[index] = chance, mean
    return Growth(load=max(LEAST, memory.load), chances=tuple(chances), means=tuple(means))


def observe_starts(memory: GrowthMemory, pods: Iterable[Pod], fleet: Fleet) -> GrowthMemory:
    """Note how long pods took from being made to Ready for which a node had to come."""
    fresh = [
        pod
        for pod in pods
        if pod.phase is PodPhase.READY and (memory.started_at is None or pod.since > memory.started_at)
    ]
    if not fresh:
        return memory
    took = [
        (pod.since - pod.created_at).total_seconds()
        for pod in fresh
        if pod.node is not None
        and (node := fleet.nodes.get(pod.node)) is not None
        and node.created_at is not None
        and node.created_at > pod.created_at
    ]
    counted = tuple(seconds for seconds in took if seconds <= LONGEST.total_seconds())
    return replace(
        memory,
        starts=(*memory.starts, *counted)[-MEASURED:],
        started_at=max(pod.since for pod in fresh),
    )


def cold_start_of(memory: GrowthMemory) -> timedelta:
    """Return how long a new replica takes to serve: the middle one of the last that were measured."""
    if not memory.starts:
        return FIRST_COLD_START
    return timedelta(seconds=median(memory.starts))
