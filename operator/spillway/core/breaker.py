"""The fleet-wide circuit breaker: nothing shrinks while many busy workloads lose their metrics at once."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from spillway.core.memory import BreakerMemory, WorkloadMemory
from spillway.core.plan import BreakerView

OPEN_SHARE = 0.30  # of the active workloads, workload-autoscalers C.3
OPEN_COUNT = 3
OPEN_WITHIN = timedelta(minutes=2)
CLOSE_SHARE = 0.15
CLOSE_AFTER = timedelta(minutes=2)


def advance_breaker(
    breaker: BreakerMemory, workloads: Iterable[WorkloadMemory], *, now: datetime
) -> tuple[BreakerMemory, BreakerView]:
    """Open when over 30 % (and 3 or more) of the busy workloads lost their signal within 2 min; close after 2 min below 15 %.

    A workload is active when its last sure utilization was above 0, so proven zeros (a quiet night) do not count as lost.
    """
    active = [memory for memory in workloads if memory.busy_value]
    lost = [memory.lost_at for memory in active if memory.lost_at is not None]
    recent = sum(1 for at in lost if now - at <= OPEN_WITHIN)
    if recent >= OPEN_COUNT and recent > OPEN_SHARE * len(active):
        breaker = BreakerMemory(open_since=breaker.open_since or now)
    elif breaker.open_since is not None:
        breaker = _closing(breaker, is_calm=len(lost) < CLOSE_SHARE * max(1, len(active)), now=now)
    return breaker, BreakerView(is_open=breaker.open_since is not None, lost=len(lost), active=len(active))


def _closing(breaker: BreakerMemory, *, is_calm: bool, now: datetime) -> BreakerMemory:
    if not is_calm:
        return replace(breaker, calm_since=None)
    calm_since = breaker.calm_since or now
    if now - calm_since >= CLOSE_AFTER:
        return BreakerMemory()
    return replace(breaker, calm_since=calm_since)
