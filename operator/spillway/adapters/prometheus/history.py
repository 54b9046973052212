"""One workload's past, minute by minute, for whoever wants to play it again: weeks of it, asked for a day at a time."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from spillway.adapters.prometheus.client import PrometheusClient
from spillway.adapters.prometheus.failures import AnswerTooLarge, PrometheusFailure
from spillway.adapters.prometheus.parse import parse_time, parse_workload_history
from spillway.adapters.prometheus.pod_names import WorkloadPods
from spillway.adapters.prometheus.queries import workload_history
from spillway.adapters.prometheus.settings import PrometheusSettings
from spillway.core.recorded import RecordedInstant

STEP: Final = timedelta(minutes=1)
# A day is 1,440 points: Prometheus refuses more than 11,000, and an answer for hundreds of pods stays within megabytes.
MOST_POINTS: Final = 1440
# Two readings of the energy counter so far apart tell a frozen exporter from one that is scraped every few minutes only.
FROZEN_WINDOW: Final = timedelta(minutes=10)


async def read_history(
    settings: PrometheusSettings,
    pods: WorkloadPods,
    *,
    span: timedelta,
    progress: Callable[[float], None] = lambda _: None,
) -> tuple[RecordedInstant, ...]:
    """Return what was recorded in each minute of the last *span* before Prometheus' own time, in rising time.

    Minutes of which nothing is known are left out. Each request has `settings.timeout`; a range that is too large for one answer
    is halved. *progress* is told the share that was read. Raises PrometheusFailure, which names the range: nothing is half read.
    """
    client = PrometheusClient(settings)
    try:
        clock = await client.instant("vector(time())", parse_time).result()
        query = workload_history(replace(settings, frozen_window=FROZEN_WINDOW), pods, step=STEP)
        read = partial(parse_workload_history, pods=pods)
        end = clock.replace(second=0, microsecond=0)
        total = span // STEP
        left = deque(_days(end, points=total))
        found: list[RecordedInstant] = []
        done = 0
        while left:
            start, last = left.popleft()
            points = (last - start) // STEP + 1
            try:
                exchange = client.span(
                    query, read, start=start, end=last, step=STEP, timeout=settings.timeout
                )
                found += await exchange.result()
            except AnswerTooLarge as failure:
                if points == 1:
                    raise _within(failure, start, last) from failure
                middle = start + (points // 2 - 1) * STEP
                left.extendleft([(middle + STEP, last), (start, middle)])
                continue
            except PrometheusFailure as failure:
                raise _within(failure, start, last) from failure
            done += points
            progress(done / total)
        return tuple(found)
    finally:
        await client.close()


def _days(end: datetime, *, points: int) -> list[tuple[datetime, datetime]]:
    """Cut the *points* minutes up to *end* into ranges that one query holds, the oldest first; both ends belong to a range."""
    # 3,000 points up to 12:00: the oldest 1,440 of them, the next 1,440, and the 120 from 10:01 to 12:00
    first = end - (points - 1) * STEP
    starts = [first + begun * STEP for begun in range(0, points, MOST_POINTS)]
    return [(start, min(start + (MOST_POINTS - 1) * STEP, end)) for start in starts]


def _within(failure: PrometheusFailure, start: datetime, last: datetime) -> PrometheusFailure:
    span = f"{start:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"
    return PrometheusFailure(failure.reason, f"Reading {span}: {failure.message} Nothing was kept.")
