"""Collecting GPU activity on its own beat, into a place that knows how old it is."""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

from spillway.core.signal import Collection, NotCollected, SignalReason

log = logging.getLogger(__name__)


class CollectsActivity(Protocol):
    """What the collector asks: one answer for the whole cluster."""

    async def collect(self) -> Collection:
        """Return the newest samples, or why there are none; never raises for trouble with Prometheus."""


class ActivityCollector:
    """Asks once per evaluation interval and keeps the last answer.

    `serial` counts finished collections, failed ones too. When the collector itself stalls, `latest` says so: an old answer
    is never handed out as a new one.
    """

    def __init__(
        self,
        source: CollectsActivity,
        *,
        interval: timedelta,
        now: Callable[[], datetime],
        wake: Callable[[str], None],
    ) -> None:
        self.serial = 0
        self._source = source
        self._interval = interval
        self._now = now
        self._wake = wake
        self._started = now()
        self._finished_at: datetime | None = None
        self._latest: Collection = NotCollected(
            since=self._started,
            reason=SignalReason.NOT_COLLECTED,
            message="GPU metrics have not been collected yet; holding",
        )

    def latest(self) -> Collection:
        """Return the last answer, or NotCollected when even the collector has been silent for over two intervals."""
        now = self._now()
        finished = self._finished_at or self._started
        if now - finished <= 2 * self._interval + timedelta(seconds=10):
            return self._latest
        seconds = int((now - finished).total_seconds())
        return NotCollected(
            since=finished,
            reason=SignalReason.PROMETHEUS_TIMEOUT,
            message=f"Nothing was collected from Prometheus for {seconds} s; holding",
        )

    async def run(self) -> None:
        """Collect until cancelled; the beat does not drift with the time an answer takes."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            self._take(await self._source.collect())
            due = max(due + self._interval.total_seconds(), loop.time())
            await asyncio.sleep(due - loop.time())

    def _take(self, answer: Collection) -> None:
        if type(answer) is not type(self._latest):
            log.info("GPU metrics: %s", answer.message if isinstance(answer, NotCollected) else "collected")
        # An outage keeps its beginning, however many collections fail in it.
        if isinstance(answer, NotCollected) and isinstance(self._latest, NotCollected):
            answer = NotCollected(since=self._latest.since, reason=answer.reason, message=answer.message)
        self._latest = answer
        self._finished_at = self._now()
        self.serial += 1
        self._wake("collection")
