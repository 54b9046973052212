"""The limits between a proposal and what is done, in the fixed order of workload-autoscalers C.5.

Each limiter is a function from a count to a `Limit` or None; the first ones that change the count explain the decision.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from spillway.core.demand import Proposal
from spillway.core.memory import WorkloadMemory
from spillway.core.model import Mode, Workload
from spillway.core.observe import STEP_PERIOD
from spillway.core.plan import Cause, Limit, LimitReason
from spillway.core.replicas import Replicas
from spillway.core.signal import BLIND_STATES, Assessment, SignalState

UP_COLLECTIONS = 2
JITTER = timedelta(
    seconds=1
)  # collections come some ms early or late; a window must not wait a whole one for that


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """All that the limiters of one workload look at. `current` is the count that stands."""

    workload: Workload
    current: int
    replicas: Replicas
    assessment: Assessment
    memory: WorkloadMemory
    proposal: Proposal
    rolling: bool
    breaker_open: bool
    now: datetime

    @property
    def is_blind_raise(self) -> bool:
        """Raising to a configured count because nothing can be measured: no window can apply to it."""
        return self.proposal.cause is Cause.METRICS_MISSING_FLOOR


Limiter = Callable[[Situation, int], Limit | None]


def limit_signal(situation: Situation) -> tuple[int, tuple[Limit, ...]]:
    """Apply every limit before GPU budget and bounds; return the count and each limit that changed it."""
    proposal = situation.proposal
    count = proposal.limits[-1].after if proposal.limits else proposal.replicas
    count, limits = _apply((*SIGNAL_LIMITERS, limit_by_instruction), situation, count)
    return count, (*proposal.limits, *limits)


def limit_pin(situation: Situation) -> tuple[int, tuple[Limit, ...]]:
    """Apply the limits that also hold for a pin, before GPU budget and bounds; a pin needs no window and no step."""
    return _apply((limit_by_policy, limit_by_instruction), situation, situation.proposal.replicas)


def _apply(limiters: tuple[Limiter, ...], situation: Situation, count: int) -> tuple[int, tuple[Limit, ...]]:
    limits: list[Limit] = []
    for limiter in limiters:
        limit = limiter(situation, count)
        if limit is not None:
            count = limit.after
            limits.append(limit)
    return count, tuple(limits)


def _hold(
    s: Situation, count: int, reason: LimitReason, message: str, until: datetime | None = None
) -> Limit:
    return Limit(reason=reason, before=count, after=s.current, message=message, until=until)


def limit_by_metrics(s: Situation, count: int) -> Limit | None:
    """The permission table: who may move what in which state."""
    if count == s.current or s.is_blind_raise:
        return None
    going_down = count < s.current
    state = s.assessment.state
    if state in BLIND_STATES or (going_down and state is SignalState.SUSPECT):
        return _hold(s, count, LimitReason.METRICS_HOLD, s.assessment.message)
    return None


def limit_by_breaker(s: Situation, count: int) -> Limit | None:
    """Nothing shrinks while many busy workloads lost their metrics at once."""
    if count >= s.current or not s.breaker_open:
        return None
    message = (
        "Many workloads lost their GPU metrics at once; nothing shrinks until they are back. Check Prometheus"
    )
    return _hold(s, count, LimitReason.CIRCUIT_BREAKER, message)


def limit_by_policy(s: Situation, count: int) -> Limit | None:
    """Nothing shrinks on settings that may be the wrong ones."""
    if count >= s.current or s.workload.unresolved is None:
        return None
    return _hold(s, count, LimitReason.POLICY_NOT_FOUND, s.workload.unresolved)


def limit_by_elasticity(s: Situation, count: int) -> Limit | None:
    """A signal that two ups did not lower asks for no more."""
    if count <= s.current or not s.memory.elasticity.refuted or s.is_blind_raise:
        return None
    message = (
        "Two increases did not lower GPU utilization, so it does not show how many replicas are needed; "
        "growing again once it has been below the high mark"
    )
    return _hold(s, count, LimitReason.SIGNAL_INELASTIC, message)


def limit_by_supply(s: Situation, count: int) -> Limit | None:
    """Replicas that are still loading or waiting for a node are on their way: do not ask twice."""
    if (
        s.proposal.cause not in (Cause.UTILIZATION_HIGH, Cause.UTILIZATION_PEGGED)
        or s.proposal.replicas > s.current
    ):
        return None
    starting = s.current - s.replicas.ready - len(s.replicas.broken)
    still = f"{starting} of them still starting" if starting > 0 else "the newest of them only just Ready"
    message = f"{count} are needed and {s.current} are asked for, {still}"
    return _hold(s, count, LimitReason.CAPACITY_IN_FLIGHT, message)


def limit_by_exhaustion(s: Situation, count: int) -> Limit | None:
    """After a release for want of nodes, growth beyond what found a place waits out the back-off."""
    exhausted = s.memory.exhausted
    if exhausted is None or s.now >= exhausted.until or count <= max(s.current, exhausted.cap):
        return None
    after = max(s.current, exhausted.cap)
    message = f"No node took more than {exhausted.cap} pods; asking again at {exhausted.until:%H:%M:%S} UTC"
    return Limit(
        reason=LimitReason.CAPACITY_EXHAUSTED,
        before=count,
        after=after,
        message=message,
        until=exhausted.until,
    )


def limit_up_step(s: Situation, count: int) -> Limit | None:
    """At most the larger of percent and count per 60 s, counted from the lowest replicas seen in that time."""
    if count <= s.current:
        return None
    rules = s.workload.scale_up
    base = min((replicas for _, replicas in s.memory.seen), default=s.current)
    room = max(rules.max_increase_replicas, math.ceil(base * rules.max_increase_percent / 100))
    highest = max(s.current, base + room)
    if count <= highest:
        return None
    message = f"At most +{room} replicas in 60 s from {base}"
    return Limit(
        reason=LimitReason.UP_STEP, before=count, after=highest, message=message, until=_budget_back(s)
    )


def limit_down_step(s: Situation, count: int) -> Limit | None:
    """At most the larger of percent and count per 60 s; pods that found no node are no part of it."""
    if count >= s.current or s.proposal.is_cancel:
        return None
    return step_down(s, count)


def step_down(s: Situation, count: int) -> Limit | None:
    """Spend the budget of one down step, counted from the highest replicas seen in 60 s; at takeover it is spent."""
    if s.now - s.memory.first_seen < STEP_PERIOD:
        until = s.memory.first_seen + STEP_PERIOD
        return _hold(s, count, LimitReason.TAKEOVER, "Just took over; shrinking waits 60 s", until)
    rules = s.workload.scale_down
    base = max((replicas for _, replicas in s.memory.seen), default=s.current)
    room = max(rules.max_decrease_replicas, base * rules.max_decrease_percent // 100)
    lowest = min(s.current, base - room)
    if count >= lowest:
        return None
    message = f"At most −{room} replicas in 60 s from {base}"
    return Limit(
        reason=LimitReason.DOWN_STEP, before=count, after=lowest, message=message, until=_budget_back(s)
    )


def _budget_back(s: Situation) -> datetime | None:
    return s.memory.seen[-1][0] + STEP_PERIOD if len(s.memory.seen) > 1 else None


def limit_up_window(s: Situation, count: int) -> Limit | None:
    """Utilization must stand above the high mark for the window and for two collections."""
    if count <= s.current or s.is_blind_raise:
        return None
    streaks, window = s.memory.streaks, s.workload.scale_up.window
    since, at = streaks.high_since, streaks.collected_at
    lasted = at - since if since is not None and at is not None else timedelta(0)
    if streaks.high >= UP_COLLECTIONS and lasted >= window - JITTER:
        return None
    seconds = int(window.total_seconds())
    message = (
        f"Above the high mark for {int(lasted.total_seconds())} s of {seconds} s ({streaks.high} collections)"
    )
    return _hold(s, count, LimitReason.UP_WINDOW, message, s.now + max(window - lasted, timedelta(0)))


def limit_down_window(s: Situation, count: int) -> Limit | None:
    """Go no lower than the highest need of the whole window, and only if utilization was low for all of it.

    Taking back pods that found no node waits for no low window, but for a watched one: after a restart, an outage or somebody
    else's change nobody can say yet that the pods are not wanted.
    """
    if count >= s.current:
        return None
    window, length = s.memory.window, s.workload.scale_down.window
    seconds = int(length.total_seconds())
    if window.since is None or window.last is None or window.last - window.since < length:
        return _hold_for_window(s, count, seconds=seconds)
    if s.proposal.is_cancel:
        return None
    if window.above_low_at is not None and window.last - window.above_low_at < length:
        until = s.now + (length - (window.last - window.above_low_at))
        return _hold(
            s,
            count,
            LimitReason.DOWN_WINDOW,
            f"Low for {_seconds(window.last - window.above_low_at)} of {seconds} s",
            until,
        )
    highest = min(s.current, max((floor for _, floor in window.floors), default=s.current))
    if count >= highest:
        return None
    return Limit(
        reason=LimitReason.DOWN_WINDOW,
        before=count,
        after=highest,
        message=f"{highest} were needed in the last {seconds} s",
    )


def _hold_for_window(s: Situation, count: int, *, seconds: int) -> Limit:
    window, foreign_at = s.memory.window, s.memory.foreign_at
    seen = (
        window.last - window.since if window.last is not None and window.since is not None else timedelta(0)
    )
    until = s.now + s.workload.scale_down.window - seen
    if foreign_at is not None and s.now - foreign_at < s.workload.scale_down.window:
        message = f"Somebody else set {s.current} replicas; shrinking waits a full window of {seconds} s"
        return _hold(s, count, LimitReason.FOREIGN_CHANGE, message, until)
    message = f"Metrics seen for {_seconds(seen)} of {seconds} s"
    return _hold(s, count, LimitReason.DOWN_WINDOW, message, until)


def _seconds(duration: timedelta) -> int:
    return int(duration.total_seconds())


def limit_by_cooldown(s: Situation, count: int) -> Limit | None:
    """No down while a replica loads and until a while after the last one turned Ready; no up right after a down."""
    if count < s.current and not s.proposal.is_cancel:
        if s.replicas.loading:
            message = f"{len(s.replicas.loading)} replicas are still loading; shrinking waits for them"
            return _hold(s, count, LimitReason.DOWN_COOLDOWN, message)
        ready_at, wait = s.replicas.last_ready_at, s.workload.scale_down.cooldown
        if ready_at is not None and s.now - ready_at < wait:
            message = f"A replica turned Ready {_seconds(s.now - ready_at)} s ago; shrinking waits {_seconds(wait)} s"
            return _hold(s, count, LimitReason.DOWN_COOLDOWN, message, ready_at + wait)
    if count > s.current and not s.is_blind_raise:
        down_at, wait = s.memory.last_down_at, s.workload.scale_up.cooldown
        if down_at is not None and timedelta(0) <= s.now - down_at < wait:
            message = (
                f"Replicas were lowered {_seconds(s.now - down_at)} s ago; growing waits {_seconds(wait)} s"
            )
            return _hold(s, count, LimitReason.UP_COOLDOWN, message, down_at + wait)
    return None


def limit_by_rollout(s: Situation, count: int) -> Limit | None:
    """A rollout freezes downs and allows one step up in all; a revision that does not come up is not grown."""
    if count > s.current and s.replicas.revision_broken:
        ailment = s.replicas.broken[0].cause or "still loading after its grace"
        message = (
            f"{len(s.replicas.broken)} pods of the newest revision do not come up ({ailment}); not growing it"
        )
        return _hold(s, count, LimitReason.REVISION_BROKEN, message)
    if not s.rolling or count == s.current:
        return None
    if count < s.current:
        return _hold(
            s, count, LimitReason.ROLLOUT_IN_PROGRESS, "A rollout is under way; shrinking waits for its end"
        )
    rules = s.workload.scale_up
    base = s.current if s.memory.rollout_base is None else s.memory.rollout_base
    highest = base + max(rules.max_increase_replicas, math.ceil(base * rules.max_increase_percent / 100))
    if count <= highest:
        return None
    message = f"A rollout is under way: at most one step above its {base} replicas"
    return Limit(
        reason=LimitReason.ROLLOUT_IN_PROGRESS, before=count, after=max(s.current, highest), message=message
    )


SIGNAL_LIMITERS: tuple[Limiter, ...] = (
    limit_by_metrics,
    limit_by_breaker,
    limit_by_policy,
    limit_by_elasticity,
    limit_by_supply,
    limit_by_exhaustion,
    limit_up_step,
    limit_down_step,
    limit_up_window,
    limit_down_window,
    limit_by_cooldown,
    limit_by_rollout,
)


def limit_by_gpus(
    count: int, *, current: int, gpus_per_pod: int, allowed_gpus: int | None, reason: LimitReason, whose: str
) -> Limit | None:
    """Stop growth at a GPU guardrail; a guardrail never shrinks what already stands above it."""
    if allowed_gpus is None or count <= current:
        return None
    highest = max(current, allowed_gpus // gpus_per_pod)
    if count <= highest:
        return None
    message = f"{count} replicas need {count * gpus_per_pod} GPUs; {whose} leaves {max(allowed_gpus, 0)}"
    return Limit(reason=reason, before=count, after=highest, message=message)


def limit_by_instruction(s: Situation, count: int) -> Limit | None:
    """A lowered maxReplicas is an order, not a guess: it shrinks in any metric state, by down steps without a window.

    A count below the maximum, such as a pin, is left alone. Settings that may be the wrong ones shrink nothing.
    """
    allowed = s.workload.max_replicas
    if s.current <= allowed or count <= allowed:
        return None
    step = step_down(s, allowed) if s.workload.unresolved is None else limit_by_policy(s, allowed)
    reachable = allowed if step is None else step.after
    after = max(allowed, min(count, reachable))
    if after == count and count < s.current:
        return None
    message = f"maxReplicas is {allowed}" + ("" if step is None else f"; {step.message}")
    return Limit(
        reason=LimitReason.MAX_REPLICAS,
        before=count,
        after=after,
        message=message,
        until=step.until if step else None,
    )


def limit_by_bounds(workload: Workload, count: int, *, current: int) -> Limit | None:
    """Keep the count between minReplicas and maxReplicas; the maximum wins.

    A target that stands above the maximum is `limit_by_instruction`'s: it comes down in steps.
    """
    highest = max(workload.max_replicas, current)
    lowest = min(workload.min_replicas, workload.max_replicas)
    if count > highest:
        message = f"maxReplicas is {workload.max_replicas}"
        return Limit(reason=LimitReason.MAX_REPLICAS, before=count, after=highest, message=message)
    if count < lowest:
        message = f"minReplicas is {workload.min_replicas}"
        return Limit(reason=LimitReason.MIN_REPLICAS, before=count, after=lowest, message=message)
    return None


def limit_by_mode(workload: Workload, count: int, *, current: int) -> Limit | None:
    """ScaleUpOnly never lowers."""
    if workload.mode is not Mode.SCALE_UP_ONLY or count >= current:
        return None
    return Limit(
        reason=LimitReason.SCALE_UP_ONLY,
        before=count,
        after=current,
        message="mode ScaleUpOnly never lowers the count",
    )
