"""What one pass adds to the memory of a workload: streaks, the down window, blindness, zeros, foreign changes."""

import math
from dataclasses import replace
from datetime import datetime, timedelta

from spillway.core.memory import Blindness, DownWindow, Streaks, WorkloadMemory, ZeroWatch, with_peak
from spillway.core.model import Burst, Snapshot, Workload
from spillway.core.signal import BLIND_STATES, Assessment, Collected, SignalReason, SignalState

EPSILON = 1e-9  # float noise: 8.000000001 replicas are 8
N_MINUS_ONE_SHARE = 0.9  # what remains must stay below 0.9 × high (workload-autoscalers C.4)
PEGGED = 0.95  # from here on a utilization says "full", not how much more is wanted
STEP_PERIOD = timedelta(seconds=60)
COUNTED_SHARE = 0.8  # collections jitter; one that comes 12 s after the last still counts at 15 s
RECOVERY_COLLECTIONS = 2
# Nothing was lost: the first query still runs, or all pods have just started.
NOT_YET = frozenset({SignalReason.NOT_COLLECTED, SignalReason.NO_SETTLED_PODS})
SURE_STATES = frozenset({SignalState.FRESH, SignalState.PARTIAL})


def replicas_for(load: float) -> int:
    """Return the fewest whole replicas that carry *load* (in replicas at 100 %), forgiving float noise."""
    return math.ceil(load - EPSILON)


def safe_share(workload: Workload) -> float:
    """Return the share of the high mark below which those that stay must run; all of it where replicas are kept to spare."""
    capacity = workload.capacity
    keeps_spare = capacity.burst is Burst.WHEN_AVAILABLE and capacity.missed_load is not None
    return 1.0 if keeps_spare else N_MINUS_ONE_SHARE


def is_counted(memory: WorkloadMemory, snapshot: Snapshot, assessment: Assessment) -> bool:
    """Whether this pass brings a new evaluation: a collection far enough from the last one, with newer samples."""
    if not isinstance(snapshot.activity, Collected):
        return False
    streaks = memory.streaks
    if streaks.collected_at is None:
        return True
    if snapshot.activity.at - streaks.collected_at < snapshot.evaluation * COUNTED_SHARE:
        return False
    if assessment.newest_sample is None or streaks.newest_sample is None:
        return True
    return assessment.newest_sample > streaks.newest_sample


def observe_target(
    memory: WorkloadMemory,
    *,
    count: int,
    is_foreign: bool,
    rolling: bool,
    now: datetime,
) -> WorkloadMemory:
    """Note the count that stands; with *is_foreign* a change of it was somebody else's, and downs wait a full window."""
    seen = memory.seen
    previous = seen[-1][1] if seen else count
    if count != previous and is_foreign:
        memory = replace(memory, foreign_at=now, window=DownWindow())
    if count < previous:
        memory = replace(memory, last_down_at=now)
    if count != previous or not seen:
        seen = (*seen, (now, count))
    seen = _of_the_last_minute(seen, now=now)
    base = memory.rollout_base
    base = (count if base is None else min(base, count)) if rolling else None
    if (seen, base) == (memory.seen, memory.rollout_base):
        return memory
    return replace(memory, seen=seen, rollout_base=base)


def _of_the_last_minute(
    seen: tuple[tuple[datetime, int], ...], *, now: datetime
) -> tuple[tuple[datetime, int], ...]:
    """Drop entries that were replaced more than a step period ago; an entry holds until the next one begins."""
    start = 0
    while start + 1 < len(seen) and now - seen[start + 1][0] >= STEP_PERIOD:
        start += 1
    return seen[start:]


def observe_signal(
    memory: WorkloadMemory,
    *,
    assessment: Assessment,
    workload: Workload,
    snapshot: Snapshot,
    ready: int,
    excess: float,
    now: datetime,
) -> tuple[WorkloadMemory, Assessment]:
    """Bring streaks, window, blindness and zeros up to date; return the assessment with what only memory can tell.

    That is: Degraded after `blind.after` of unknown, Suspect while all GPUs read zero at once without proof, Zero when
    proven for a whole down window, and Unknown while a recovered signal has not shown two collections in a row.
    `excess` is what serves by the count, where replicas to spare serve too: by it the count would be fuller.
    """
    at = now
    if isinstance(snapshot.activity, Collected):
        at = snapshot.activity.at
        memory = _since_set_back(memory, at=at)
    counted = is_counted(memory, snapshot, assessment)
    usable = assessment.state not in BLIND_STATES
    streaks = _streaks(memory.streaks, assessment, workload, excess=excess, at=at, counted=counted)
    memory = replace(memory, streaks=streaks)
    memory = _blindness(memory, assessment, stale_after=snapshot.stale_after, usable=usable, now=now)
    if counted and usable:
        memory = replace(
            memory,
            window=_window(
                memory.window,
                assessment=assessment,
                workload=workload,
                at=at,
                max_gap=snapshot.stale_after,
                ready=ready,
            ),
        )
    memory, assessment = _zero(memory, assessment, workload=workload, at=at, counted=counted)
    assessment = _with_blindness(assessment, memory.blindness, workload=workload, now=now)
    return _loss(memory, assessment, counted=counted, now=now), assessment


def _since_set_back(memory: WorkloadMemory, *, at: datetime) -> WorkloadMemory:
    """Start anew when Prometheus' clock was set back: times in the future would hold everything until it catches up."""
    if memory.streaks.collected_at is None or at >= memory.streaks.collected_at:
        return memory
    return replace(memory, streaks=Streaks(), window=DownWindow(), zero=ZeroWatch())


def _streaks(
    streaks: Streaks,
    assessment: Assessment,
    workload: Workload,
    *,
    excess: float,
    at: datetime,
    counted: bool,
) -> Streaks:
    value = assessment.value_up
    if value is None:
        return Streaks(
            collected_at=at if counted else streaks.collected_at, newest_sample=streaks.newest_sample
        )
    if not counted:
        return streaks
    is_high = value * excess > workload.gpu_activity.high + EPSILON
    return Streaks(
        collected_at=at,
        newest_sample=assessment.newest_sample,
        fresh=streaks.fresh + 1,
        high=streaks.high + 1 if is_high else 0,
        high_since=(streaks.high_since or at) if is_high else None,
        pegged=streaks.pegged + 1 if value >= PEGGED else 0,
    )


def _blindness(
    memory: WorkloadMemory, assessment: Assessment, *, stale_after: timedelta, usable: bool, now: datetime
) -> WorkloadMemory:
    blindness = memory.blindness
    if not usable:
        # Pods that still load are no loss of metrics: a slow start must not look like an outage.
        is_lost = assessment.reason is not SignalReason.NO_SETTLED_PODS
        since = (blindness.since or now) if is_lost else None
        return replace(memory, blindness=replace(blindness, since=since))
    was_long = blindness.since is not None and now - blindness.since > stale_after
    if not was_long and not blindness.recovering:
        return memory if blindness.since is None else replace(memory, blindness=Blindness())
    if memory.streaks.fresh >= RECOVERY_COLLECTIONS:
        return replace(memory, blindness=Blindness(), window=DownWindow())
    # `since` stays until then: a signal that flickers is as good as none.
    return replace(memory, blindness=replace(blindness, recovering=True))


def _window(
    window: DownWindow,
    *,
    assessment: Assessment,
    workload: Workload,
    at: datetime,
    max_gap: timedelta,
    ready: int,
) -> DownWindow:
    """Add one observation of need. A gap longer than *max_gap*, or too little coverage, starts the window anew."""
    value = assessment.value_down
    if value is None:
        return DownWindow()
    if window.last is None or at - window.last > max_gap:
        window = DownWindow(since=at)
    rules = workload.gpu_activity
    floor = replicas_for(value * ready / (safe_share(workload) * rules.high))
    floors = with_peak(window.floors, floor, at=at, keeps=workload.scale_down.window)
    above_low = rules.low is not None and value >= rules.low - EPSILON
    return replace(window, last=at, floors=floors, above_low_at=at if above_low else window.above_low_at)


def _zero(
    memory: WorkloadMemory, assessment: Assessment, *, workload: Workload, at: datetime, counted: bool
) -> tuple[WorkloadMemory, Assessment]:
    """A sudden zero everywhere may be a broken exporter. It is believed once counters moved through a whole down window."""
    if assessment.state not in SURE_STATES or assessment.mean is None or assessment.mean > 0:
        return memory if memory.zero.since is None else replace(memory, zero=ZeroWatch()), assessment
    zero = memory.zero
    if counted:
        alive = (zero.alive_since or at) if assessment.all_alive else None
        zero = ZeroWatch(since=zero.since or at, alive_since=alive)
        memory = replace(memory, zero=zero)
    proof = zero.alive_since if memory.busy_value else zero.since
    if proof is not None and at - proof >= workload.scale_down.window:
        if assessment.state is SignalState.PARTIAL:
            return memory, assessment
        return replace(memory, busy_value=0.0), replace(assessment, state=SignalState.ZERO)
    if not memory.busy_value:
        return memory, assessment
    seconds = int(workload.scale_down.window.total_seconds())
    message = (
        f"All GPUs fell to zero at once; believed after {seconds} s of moving energy counters"
        if assessment.all_alive
        else "All GPUs fell to zero at once and no energy counter proves that they are measured; holding. "
        "Export DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION, or check dcgm-exporter"
    )
    suspect = replace(
        assessment, state=SignalState.SUSPECT, reason=SignalReason.ZERO_AT_ONCE, message=message
    )
    return memory, suspect


def _with_blindness(
    assessment: Assessment, blindness: Blindness, *, workload: Workload, now: datetime
) -> Assessment:
    if blindness.recovering:
        if assessment.state in BLIND_STATES:
            return _degraded(assessment, blindness, workload=workload, now=now)
        return replace(
            assessment,
            state=SignalState.UNKNOWN,
            reason=SignalReason.RECOVERING,
            message=f"GPU metrics are back; acting again after {RECOVERY_COLLECTIONS} good collections",
        )
    return _degraded(assessment, blindness, workload=workload, now=now)


def _degraded(
    assessment: Assessment, blindness: Blindness, *, workload: Workload, now: datetime
) -> Assessment:
    if blindness.since is None or assessment.state is not SignalState.UNKNOWN:
        return assessment
    if now - blindness.since < workload.blind.after:
        return assessment
    return replace(assessment, state=SignalState.DEGRADED)


def _loss(memory: WorkloadMemory, assessment: Assessment, *, counted: bool, now: datetime) -> WorkloadMemory:
    """Keep the last value that was surely real, and when a busy workload lost its signal (for the circuit breaker)."""
    busy, lost = memory.busy_value, memory.lost_at
    if assessment.state in SURE_STATES:
        busy, lost = assessment.mean if counted and assessment.mean else busy, None
    elif assessment.state is SignalState.ZERO or not busy:
        lost = None
    elif assessment.reason not in NOT_YET:
        lost = lost or now
    if (busy, lost) == (memory.busy_value, memory.lost_at):
        return memory
    return replace(memory, busy_value=busy, lost_at=lost)
