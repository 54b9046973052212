"""The clock that durations are measured on, and the wall clock that people read."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], float]
"""Seconds on a clock that never runs backwards; only differences mean anything."""

WallClock = Callable[[], datetime]
"""The present as a timezone-aware UTC datetime; it may jump, so it is for showing and never for measuring."""


def elapsed() -> float:
    """Return seconds since some fixed moment, counting the time in which the machine was suspended.

    Linux leaves suspended time out of `time.monotonic()`: a node that was frozen for an hour would believe that its Lease
    and its caches are fresh. Where the kernel has no such clock, `time.monotonic()` stands in.
    """
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


def utc_now() -> datetime:
    """Return the wall clock's present in UTC."""
    return datetime.now(UTC)


def micro_time(moment: datetime) -> str:
    """Write *moment* as Kubernetes' MicroTime: RFC 3339 in UTC, always six decimals."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def seconds_time(moment: datetime) -> str:
    """Write *moment* as Kubernetes' Time: RFC 3339 in UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
