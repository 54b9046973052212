"""What a pass remembers for the next: observations and latches, never intentions.

Losing it costs patience, never safety: without it nothing shrinks until a full window was seen again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from spillway.core.model import Refusal

Peaks = tuple[tuple[datetime, int], ...]
"""(time, replicas) with falling replicas, oldest first: the first of them is the maximum of the time that they reach back."""


def with_peak(peaks: Peaks, replicas: int, *, at: datetime, keeps: timedelta) -> Peaks:
    """Return *peaks* with one more entry: without those older than *keeps*, and those that it covers."""
    kept = [entry for entry in peaks if at - entry[0] <= keeps]
    while kept and kept[-1][1] <= replicas:
        kept.pop()
    return (*kept, (at, replicas))


@dataclass(frozen=True, slots=True, kw_only=True)
class Streaks:
    """Counted collections in a row; a pass on a watch event counts nothing."""

    collected_at: datetime | None = None
    newest_sample: datetime | None = None
    fresh: int = 0
    high: int = 0
    high_since: datetime | None = None
    pegged: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DownWindow:
    """The highest need seen over the window of going down.

    `floors` holds what was needed, so that the first is the maximum. `since` starts the unbroken stretch of observations; `above_low_at` is when utilization last stood at
    or above the low mark.
    """

    since: datetime | None = None
    last: datetime | None = None
    floors: Peaks = ()
    above_low_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Blindness:
    """Since when the signal is unknown, kept while one that came back must prove itself before it counts again."""

    since: datetime | None = None
    recovering: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroWatch:
    """Since when all GPUs read zero, and since when their counters prove that they are measured."""

    since: datetime | None = None
    alive_since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Elasticity:
    """Whether added replicas lower the signal (workload-autoscalers C.4, elasticity guard).

    `before` is (utilization, settled replicas) when an up was asked for, `goal` the count it asked for; `failures` counts
    ups that changed nothing once all of their replicas had settled.
    """

    before: tuple[float, int] | None = None
    goal: int = 0
    failures: int = 0
    refuted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhausted:
    """No node took the pods: the count is capped at `cap` until `until`; each new failure doubles the wait."""

    cap: int
    until: datetime
    steps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthMemory:
    """The load of a workload that bursts, and how it grew within a cold start; `core.growth` fills and reads it.

    `load` is in replicas at 100 %, over the last minute, `raw` of the last collection, None before there was one. `seen` holds
    (time, load) as far back as a cold start. `weights` is the histogram, `scale` the weight of its next entry: it grows where
    the others would fade. `starts` are the seconds that the last pods took from being made to Ready, where a node came for them,
    counted until `started_at`.
    """

    load: float | None = None
    raw: float | None = None
    seen: tuple[tuple[datetime, float], ...] = ()
    weights: tuple[float, ...] = ()
    scale: float = 1.0
    starts: tuple[float, ...] = ()
    started_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitMemory:
    """How a workload with a burst was last laid out: a latch, since two Deployments that overlap cannot tell their count.

    `count` is the number of replicas that stands for the signals, before any overlap: what the last write that landed was to
    bring about. `source` is what the source's `spec.replicas` was then: another value that no act of ours explains is
    somebody's hand. What the source has above its baseline stands in for spot: since `fallback_since`, because of
    `fallback_cause`; the last of it went at `returned_at`. `behind_since` is when the twin was first seen behind its source,
    `refused` the server's sentence on the last write of the twin, empty once one was accepted. `spares` holds what
    was worth having on spot beyond the count, as far back as it is held.
    """

    count: int
    source: int
    fallback_since: datetime | None = None
    fallback_cause: str = ""
    returned_at: datetime | None = None
    behind_since: datetime | None = None
    refused: str = ""
    spares: Peaks = ()

    @property
    def spare(self) -> int:
        """The most that was worth having beyond the count while it is held."""
        return self.spares[0][1] if self.spares else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadMemory:
    """Everything remembered of one workload; keyed by its uid, so a re-created one starts anew.

    `seen` holds (time, spec.replicas) of the last minute, newest last; `busy_value` is the last Fresh utilization;
    `lost_at` is when a busy workload lost its signal.
    """

    first_seen: datetime
    target_uid: str = ""
    seen: tuple[tuple[datetime, int], ...] = ()
    last_down_at: datetime | None = None
    foreign_at: datetime | None = None
    rollout_base: int | None = None
    busy_value: float | None = None
    lost_at: datetime | None = None
    streaks: Streaks = field(default_factory=Streaks)
    window: DownWindow = field(default_factory=DownWindow)
    blindness: Blindness = field(default_factory=Blindness)
    zero: ZeroWatch = field(default_factory=ZeroWatch)
    elasticity: Elasticity = field(default_factory=Elasticity)
    exhausted: Exhausted | None = None
    split: SplitMemory | None = None
    growth: GrowthMemory = field(default_factory=GrowthMemory)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolMemory:
    """What is remembered of a pool, keyed by its uid.

    `refused_at` is the first of `refused_in_a_row` refusals since a node was last granted, and `last_refusal` the time of the
    newest one counted; once they are confirmed the pool is closed until `closed_until`, then asked for one node; `steps`
    counts how often that failed and doubles the wait. `interruptions` are the times of late, `breaker_until` the end of what
    they caused. `granted` is the number of machines last seen, `asked` the size that we last asked for. `allocatable` is what a
    fresh node was seen to offer. `doubted` holds pods that the scheduler leaves without a node although there was room, since
    when; `unplaceable` (template, owner) of those that it did so for too long. `losses` counts how often spot nodes were taken
    back and `held_hours` for how long there were any, both until `recorded_at` and fading by half in a day.
    """

    refused_at: datetime | None = None
    refused_in_a_row: int = 0
    last_refusal: datetime | None = None
    closed_until: datetime | None = None
    steps: int = 0
    granted: int | None = None
    asked: int | None = None
    interruptions: tuple[datetime, ...] = ()
    breaker_until: datetime | None = None
    allocatable: Mapping[str, int] = field(default_factory=dict)
    doubted: Mapping[str, datetime] = field(default_factory=dict)
    unplaceable: frozenset[tuple[str, str]] = frozenset()
    refusals: tuple[Refusal, ...] = ()
    losses: float = 0.0
    held_hours: float = 0.0
    recorded_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeMemory:
    """What is remembered of a node, keyed by its uid.

    `boot_id` tells a machine that came back from the one before. `doomed_since` is when its notice was first seen, `idle_since`
    when it was first seen empty, `blocked_until` when a drain that was blocked by `blocked_by` may be tried again.
    `gone_since` is when its instance was first missing at the provider.
    """

    boot_id: str = ""
    doomed_since: datetime | None = None
    idle_since: datetime | None = None
    blocked_until: datetime | None = None
    blocked_by: str = ""
    gone_since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerMemory:
    """The circuit breaker's latch: open since, and since when so few workloads are lost that it may close."""

    open_since: datetime | None = None
    calm_since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """All that is carried from pass to pass. Empty after a restart or a takeover, then filled by `engine.replay`."""

    workloads: Mapping[str, WorkloadMemory] = field(default_factory=dict)
    breaker: BreakerMemory = field(default_factory=BreakerMemory)
    pools: Mapping[str, PoolMemory] = field(default_factory=dict)
    nodes: Mapping[str, NodeMemory] = field(default_factory=dict)
