"""GPU activity of the whole cluster, as the core wants it: collected now, or replayed from Prometheus' history."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeVar

from spillway.adapters.prometheus.client import Exchange, PrometheusClient
from spillway.adapters.prometheus.failures import AnswerTooLarge, PrometheusFailure
from spillway.adapters.prometheus.parse import PodKey, parse_activity, parse_history, parse_time
from spillway.adapters.prometheus.profiles import DCGM, MetricProfile
from spillway.adapters.prometheus.queries import activity_history, gpu_activity
from spillway.adapters.prometheus.settings import PrometheusSettings
from spillway.core.signal import Collected, NotCollected, SignalReason

T = TypeVar("T")
PodHistory = Mapping[PodKey, tuple[tuple[datetime, float], ...]]

# Prometheus refuses ranges of more than 11,000 points a series.
_MOST_POINTS = 10_000
# History is asked for once at a start or takeover and covers many evaluations, so it may take longer than one.
_HISTORY_PATIENCE = 6


class QueryObserver(Protocol):
    """Is told how each query went."""

    def on_query(self, result: str, seconds: float) -> None:
        """Take note of a query that ended after *seconds*; *result* is `Success` or the value of a SignalReason."""


class _Nobody:
    def on_query(self, result: str, seconds: float) -> None:
        """Take no note."""


class ActivitySource:
    """Asks one Prometheus for GPU activity. To be made and used inside one event loop; end it with `close()`."""

    def __init__(
        self,
        settings: PrometheusSettings,
        *,
        profile: MetricProfile = DCGM,
        observer: QueryObserver | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._profile = profile
        self._observer = observer or _Nobody()
        self._now = now
        self._client = PrometheusClient(settings)
        self._query = gpu_activity(settings, profile)
        self._exchange: Exchange[Collected] | None = None
        self._failing_since: datetime | None = None

    async def collect(self) -> Collected | NotCollected:
        """Ask once, within `settings.timeout`.

        Nothing is retried: the next evaluation asks again. While an earlier question is still on its way this returns
        NotCollected at once, so that questions to a hanging server never pile up. `NotCollected.since` is when the first
        failure in a row was seen.
        """
        try:
            collected = await self._collect()
        except PrometheusFailure as failure:
            return self._not_collected(failure)
        self._failing_since = None
        return collected

    async def history(self, *, window: timedelta, step: timedelta) -> PodHistory | NotCollected:
        """Return (time, mean over its devices) per pod for the last *window*, a point every *step* (at least 1 s).

        An instant at which a device was unknown, stale or frozen has no part in its pod's mean; where nothing was known
        there is no point. Times are Prometheus' own. A span that is too large for one answer is asked for in pieces.
        """
        if step < timedelta(seconds=1) or window < step:
            raise ValueError(
                f"history needs a step of at least 1 s and a window of at least a step, not {step}, {window}"
            )
        try:
            return await self._history(window=window, step=step)
        except PrometheusFailure as failure:
            return NotCollected(since=self._now(), reason=failure.reason, message=failure.message)

    async def close(self) -> None:
        """End what is under way; does not wait for the server."""
        await self._client.close()

    async def _collect(self) -> Collected:
        if self._exchange is not None and self._exchange.is_running():
            raise PrometheusFailure(
                SignalReason.PROMETHEUS_TIMEOUT,
                f"The last query to {self._settings.url} has been under way for "
                f"{self._exchange.elapsed().total_seconds():.0f} s; check the name service and Prometheus' load.",
            )
        self._exchange = self._client.instant(
            self._query, lambda result: parse_activity(result, self._profile)
        )
        return await self._answer(self._exchange)

    def _not_collected(self, failure: PrometheusFailure) -> NotCollected:
        self._failing_since = self._failing_since or self._now()
        return NotCollected(since=self._failing_since, reason=failure.reason, message=failure.message)

    async def _answer(self, exchange: Exchange[T]) -> T:
        result = SignalReason.NOT_COLLECTED.value
        try:
            answer = await exchange.result()
            result = "Success"
        except PrometheusFailure as failure:
            result = failure.reason.value
            raise
        finally:
            self._observer.on_query(result, exchange.elapsed().total_seconds())
        return answer

    async def _history(self, *, window: timedelta, step: timedelta) -> PodHistory:
        clock = await self._answer(self._client.instant("vector(time())", parse_time))
        end = clock.replace(microsecond=0)
        query = activity_history(self._settings, step=step, profile=self._profile)
        history: dict[PodKey, list[tuple[datetime, float]]] = {}
        for first, last in _pieces(points=window // step + 1):
            piece = await self._piece(query, end=end, step=step, first=first, last=last)
            for pod, points in piece.items():
                history.setdefault(pod, []).extend(points)
        return {pod: tuple(points) for pod, points in history.items()}

    async def _piece(
        self, query: str, *, end: datetime, step: timedelta, first: int, last: int
    ) -> dict[PodKey, list[tuple[datetime, float]]]:
        """The points `first` to `last` before *end*, first being the older; in two halves where one is too large."""
        exchange = self._client.span(
            query,
            parse_history,
            start=end - first * step,
            end=end - last * step,
            step=step,
            timeout=self._settings.timeout * _HISTORY_PATIENCE,
        )
        try:
            return await self._answer(exchange)
        except AnswerTooLarge:
            if first == last:
                raise
        middle = (first + last + 1) // 2
        older = await self._piece(query, end=end, step=step, first=first, last=middle)
        newer = await self._piece(query, end=end, step=step, first=middle - 1, last=last)
        for pod, points in newer.items():
            older.setdefault(pod, []).extend(points)
        return older


def _pieces(*, points: int) -> list[tuple[int, int]]:
    """Cut *points*, numbered backwards from the end (0), into spans (first, last) that one range query may hold."""
    # 25,000 points: 24,999 to 15,000, then 14,999 to 5,000, then 4,999 to 0
    return [(first, max(first - _MOST_POINTS + 1, 0)) for first in range(points - 1, -1, -_MOST_POINTS)]
