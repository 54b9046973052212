"""One clock for the whole operator: wall time that never jumps, because it is counted on the steady clock."""

from datetime import UTC, datetime, timedelta

from spillway.adapters.kube.clock import Clock, WallClock, elapsed, utc_now


class SteadyClock:
    """UTC as it was at the start plus the time counted since.

    A wall clock that is set back or forth by an hour (NTP, a resumed machine) must not empty or fill a window. Object
    timestamps of the API server are compared with it, so start it on a machine whose time is right.
    """

    def __init__(self, *, steady: Clock = elapsed, wall: WallClock = utc_now) -> None:
        self.steady = steady
        self._started = steady()
        self._wall = wall()

    def now(self) -> datetime:
        """Return the present, timezone-aware."""
        return (self._wall + timedelta(seconds=self.steady() - self._started)).astimezone(UTC)
