"""What a pass remembers for the next: observations and latches, never intentions.

Losing it costs patience, never safety: without it nothing shrinks until a full window was seen again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


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

    `floors` holds (time, replicas) with falling replicas: an entry that a later, higher one covers is dropped, so that the first
    is the maximum. `since` starts the unbroken stretch of observations; `above_low_at` is when utilization last stood at
    or above the low mark.
    """

    since: datetime | None = None
    last: datetime | None = None
    floors: tuple[tuple[datetime, int], ...] = ()
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
