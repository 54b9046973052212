"""Asking Prometheus from asyncio without ever holding up the event loop or piling up requests."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar

from prometheus_api_client import PrometheusConnect

from spillway.adapters.prometheus.failures import PrometheusFailure
from spillway.adapters.prometheus.settings import PrometheusSettings
from spillway.adapters.prometheus.transport import BearerToken, BoundedSession, Deadline, under
from spillway.core.signal import SignalReason

# Its own few threads: a hanging Prometheus must not use up those that others share.
_THREADS = 4

T = TypeVar("T")
Read = Callable[[list[object]], T]


class Exchange(Generic[T]):
    """One query on its way in a thread, which also reads the answer: a large one would hold up the event loop."""

    def __init__(self, *, future: asyncio.Future[T], deadline: Deadline, url: str) -> None:
        self._future = future
        self._deadline = deadline
        self._url = url
        self._started = time.monotonic()
        # An answer nobody waits for any more may fail; that is no news.
        future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    def is_running(self) -> bool:
        """Whether its thread is still busy; past the deadline only while a name is being resolved."""
        return not self._future.done()

    def elapsed(self) -> timedelta:
        """Time since it began."""
        return timedelta(seconds=time.monotonic() - self._started)

    async def result(self) -> T:
        """Return what was read from the answer; raises PrometheusFailure at the latest when the deadline passes."""
        seconds = self._deadline.remaining_seconds()
        try:
            await asyncio.wait({self._future}, timeout=seconds)
        finally:
            self._deadline.end()
        if not self._future.done():
            raise self._overdue()
        try:
            return self._future.result()
        except PrometheusFailure:
            raise
        except asyncio.CancelledError:
            raise PrometheusFailure(SignalReason.NOT_COLLECTED, "The query was called off.") from None

    def _overdue(self) -> PrometheusFailure:
        return PrometheusFailure(
            SignalReason.PROMETHEUS_TIMEOUT,
            f"Prometheus at {self._url} did not answer within {self.elapsed().total_seconds():.1f} s; check its load, "
            "or raise prometheus.timeoutSeconds.",
        )


class PrometheusClient:
    """Starts queries at one Prometheus. Make it, and end it with `close()`, inside one event loop."""

    def __init__(self, settings: PrometheusSettings) -> None:
        self._url = settings.url.rstrip("/")
        self._timeout = settings.timeout
        self._session = BoundedSession(
            url=self._url,
            token=BearerToken(settings.bearer_token_file),
            tenant=settings.tenant,
            ca_file=settings.ca_file,
            max_bytes=settings.max_bytes,
        )
        self._library = PrometheusConnect(url=self._url, session=self._session, method="POST")
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="prometheus")
        self._deadlines: set[Deadline] = set()

    def instant(self, query: str, read: Read[T]) -> Exchange[T]:
        """Start an instant query, evaluated at the server's own time; *read* makes the result from the elements."""
        limits = self._limits(self._timeout)
        return self._start(lambda: read(self._library.custom_query(query, params=limits)), self._timeout)

    def span(
        self,
        query: str,
        read: Read[T],
        *,
        start: datetime,
        end: datetime,
        step: timedelta,
        timeout: timedelta,
    ) -> Exchange[T]:
        """Start a range query; times are taken to the full second, both ends belong to it."""
        return self._start(
            lambda: read(
                self._library.custom_query_range(
                    query,
                    start_time=start.astimezone(UTC),
                    end_time=end.astimezone(UTC),
                    step=f"{step.total_seconds():g}",
                    params=self._limits(timeout),
                )
            ),
            timeout,
        )

    async def close(self) -> None:
        """End what is under way and let the threads go; does not wait for a server."""
        for deadline in self._deadlines:
            deadline.end()
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._session.close()

    def _start(self, ask: Callable[[], T], timeout: timedelta) -> Exchange[T]:
        deadline = Deadline(timeout.total_seconds())

        def answer() -> T:
            with under(deadline):
                return ask()

        future = asyncio.get_running_loop().run_in_executor(self._executor, answer)
        self._deadlines.add(deadline)
        future.add_done_callback(lambda _: self._deadlines.discard(deadline))
        return Exchange(future=future, deadline=deadline, url=self._url)

    @staticmethod
    def _limits(timeout: timedelta) -> dict[str, str]:
        """Ask the server to give up when we do."""
        return {"timeout": f"{timeout.total_seconds():g}"}
