"""How many replicas the signal asks for, before any limit: proportional up, N−1 safe down, pending first."""

import math
from dataclasses import dataclass

from spillway.core.memory import WorkloadMemory
from spillway.core.model import Workload
from spillway.core.observe import EPSILON, replicas_for, safe_share
from spillway.core.plan import Cause, Limit, LimitReason
from spillway.core.replicas import Replicas
from spillway.core.signal import Assessment, SignalState

PEG_GROWTH = 1.5  # a full GPU cannot say how much more is wanted; grow by half and look again
PEG_COLLECTIONS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A count with its cause. `is_cancel` marks taking back pods that never found a node, which costs nothing."""

    replicas: int
    cause: Cause
    message: str
    limits: tuple[Limit, ...] = ()
    is_cancel: bool = False


def propose(
    *,
    workload: Workload,
    assessment: Assessment,
    memory: WorkloadMemory,
    replicas: Replicas,
    current: int,
    excess: float = 1.0,
) -> Proposal:
    """Return what the signal alone would give, from the value that its state allows reading.

    `excess` is what serves by the count, more than 1 where replicas to spare take their share of the load.

    Unknown and Low propose the current count; Degraded proposes at least `blind.replicas` if that is set.
    """
    match assessment.state:
        case SignalState.UNKNOWN | SignalState.LOW:
            return Proposal(replicas=current, cause=Cause.METRICS_UNKNOWN, message=assessment.message)
        case SignalState.DEGRADED:
            return _propose_blind(workload, assessment, current=current)
        case _:
            return _propose_seeing(workload, assessment, memory, replicas, current=current, excess=excess)


def _propose_blind(workload: Workload, assessment: Assessment, *, current: int) -> Proposal:
    floor = workload.blind.replicas
    if floor is None or floor <= current:
        return Proposal(replicas=current, cause=Cause.METRICS_UNKNOWN, message=assessment.message)
    seconds = int(workload.blind.after.total_seconds())
    message = f"{assessment.message.rstrip('.')}. Unknown for over {seconds} s: raising to whenMetricsMissing.replicas {floor}"
    return Proposal(replicas=floor, cause=Cause.METRICS_MISSING_FLOOR, message=message)


def _propose_seeing(
    workload: Workload,
    assessment: Assessment,
    memory: WorkloadMemory,
    replicas: Replicas,
    *,
    current: int,
    excess: float,
) -> Proposal:
    high, low = workload.gpu_activity.high, workload.gpu_activity.low
    up, down = assessment.value_up, assessment.value_down
    if up is not None and up * excess > high + EPSILON:
        return _propose_up(up, high=high, excess=excess, memory=memory, replicas=replicas)
    if down is None:
        return _within(assessment, current=current, high=high, low=low)
    share = safe_share(workload)
    floor = replicas_for(down * replicas.ready / (share * high))
    kept = max(floor, without_pending(replicas, pending=len(replicas.unschedulable), current=current))
    if replicas.unschedulable and kept < current:
        return _propose_cancel(down, kept=kept, replicas=replicas, current=current)
    if low is not None and down * excess >= low - EPSILON:
        return _within(assessment, current=current, high=high, low=low)
    return _propose_down(
        down, floor=floor, share=share, high=high, low=low, replicas=replicas, current=current
    )


def _propose_up(
    value: float, *, high: float, excess: float, memory: WorkloadMemory, replicas: Replicas
) -> Proposal:
    # 5 replicas at 90 % with high mark 80 %: ceil(5 * .9 / .8) = 6
    # The mean is of the last minute, and a pod that turned Ready 15 s ago has carried load for a quarter of it: counting it
    # whole would order it a second time (docs/design/0005-load-of-new-replicas.md).
    needed = replicas_for(replicas.sharing * value / high)
    cause = Cause.UTILIZATION_HIGH
    those = "1 ready replica needs" if replicas.ready == 1 else f"{replicas.ready} ready replicas need"
    of_count = f", {value * excess:.0%} without those to spare," if excess > 1 else ""
    message = f"GPU utilization {value:.0%}{of_count} is above {high:.0%}: {those} {needed}"
    if memory.streaks.pegged >= PEG_COLLECTIONS:
        # 4 settled replicas at 100 %: ceil(1.5 * 4) = 6; ones that just turned Ready have not taken their share yet
        pegged = math.ceil(PEG_GROWTH * len(replicas.settled))
        if pegged > needed:
            needed, cause = pegged, Cause.UTILIZATION_PEGGED
            message = (
                f"GPUs are full ({value:.0%}): growing {len(replicas.settled)} of them by half to {needed}"
            )
    # Broken pods hold a place in the count but serve nothing.
    return Proposal(replicas=needed + len(replicas.broken), cause=cause, message=message)


def without_pending(replicas: Replicas, *, pending: int, current: int) -> int:
    """Return the count that drops *pending* pods without a node and no other one.

    During a rollout such a pod may be a surge pod, which is no part of the count: 4 serve, 1 surges, 4 stay.
    """
    return min(current, max(current - pending, replicas.standing))


def _propose_cancel(value: float, *, kept: int, replicas: Replicas, current: int) -> Proposal:
    pending = len(replicas.unschedulable)
    message = (
        f"Load fell to {value:.0%} while {pending} pods wait for a node: taking back {current - kept} of them"
    )
    return Proposal(replicas=kept, cause=Cause.PENDING_CANCELLED, message=message, is_cancel=True)


def _propose_down(
    value: float,
    *,
    floor: int,
    share: float,
    high: float,
    low: float | None,
    replicas: Replicas,
    current: int,
) -> Proposal:
    # 2 replicas at 39 %: one would carry 78 %, below high 80 % but above 0.9 * 80 % = 72 %, so both stay
    wanted = min(current, replicas_for(replicas.ready * value / high))
    mark = f"below {low:.0%}" if low is not None else f"low for high mark {high:.0%}"
    message = f"GPU utilization {value:.0%} is {mark}: {max(floor, 1)} of {current} replicas would carry it"
    if wanted == current:
        message = f"GPU utilization {value:.0%} is {mark}, and {current} is the fewest that carry it"
        return Proposal(replicas=current, cause=Cause.WITHIN_BAND, message=message)
    limits: tuple[Limit, ...] = ()
    kept = min(current, floor)
    if kept > wanted:
        safe = share * high
        note = (
            f"{wanted} replicas would run above {safe:.0%}, too close to the high mark; {kept} stay below it"
        )
        limits = (Limit(reason=LimitReason.N_MINUS_ONE, before=wanted, after=kept, message=note),)
    return Proposal(replicas=wanted, cause=Cause.UTILIZATION_LOW, message=message, limits=limits)


def _within(assessment: Assessment, *, current: int, high: float, low: float | None) -> Proposal:
    band = f"{low:.0%} and {high:.0%}" if low is not None else f"0% and {high:.0%}"
    value = assessment.mean if assessment.mean is not None else 0.0
    return Proposal(
        replicas=current,
        cause=Cause.WITHIN_BAND,
        message=f"GPU utilization {value:.0%} is between {band}: {current} fit",
    )
