"""What a market does wrong on demand: towards those who want machines, and towards those who call its API."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from spillway.adapters.cloud.base import NotPermitted, ProviderUnavailable, Throttled
from spillway.core.model import RefusalKind

NO_CAPACITY: Final = "InsufficientInstanceCapacity"
RETRY_AFTER_SECONDS: Final = 2.0

# The words of AWS, which the core need not know; every other one proves nothing about capacity.
_KINDS: Final[Mapping[str, RefusalKind]] = MappingProxyType(
    {
        NO_CAPACITY: RefusalKind.CAPACITY,
        "UnfulfillableCapacity": RefusalKind.CAPACITY,
        "MaxSpotInstanceCountExceeded": RefusalKind.QUOTA,
        "VcpuLimitExceeded": RefusalKind.QUOTA,
        "UnauthorizedOperation": RefusalKind.PERMISSION,
    }
)


def refusal_kind(code: str) -> RefusalKind:
    """Return what kind of refusal *code* is; a word that the market does not know is `OTHER`."""
    return _KINDS.get(code, RefusalKind.OTHER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """Refuse the next `times` tries, None for all until cleared, in `zones`, empty for all of them."""

    code: str = NO_CAPACITY
    times: int | None = None
    zones: tuple[str, ...] = ()

    def meets(self, zone: str) -> bool:
        """Whether a try in *zone* is refused."""
        return not self.zones or zone in self.zones

    def used(self) -> "Refuse | None":
        """Return what is left after one refusal, None where it is used up."""
        if self.times is None:
            return self
        return replace(self, times=self.times - 1) if self.times > 1 else None


class ApiFaultKind(StrEnum):
    """What a call meets in place of the API. Only `LOSE_ANSWER` changes something before it fails."""

    THROTTLE = "Throttle"  # 429
    FAIL = "Fail"  # 503
    HANG = "Hang"  # never answered, nothing done
    LOSE_ANSWER = "LoseAnswer"  # done, and never answered
    FORBID = "Forbid"  # 403, as with revoked credentials
    STALE = "Stale"  # describe answers what was true when the fault began


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiFault:
    """Meet the next `times` calls, None for all until cleared, of the names in `calls`, empty for all of them."""

    kind: ApiFaultKind
    times: int | None = None
    calls: tuple[str, ...] = ()

    def meets(self, call: str) -> bool:
        """Whether it stands in the way of *call*; a stale answer only describes."""
        if self.kind is ApiFaultKind.STALE and call != "describe":
            return False
        return not self.calls or call in self.calls

    def used(self) -> "ApiFault | None":
        """Return what is left after one call, None where it is used up."""
        if self.times is None:
            return self
        return replace(self, times=self.times - 1) if self.times > 1 else None


def refuse_call(kind: ApiFaultKind | None, pool: str) -> None:
    """Raise what a caller gets whose call is refused at the door; the kinds that let it in first raise nothing here."""
    if kind is ApiFaultKind.THROTTLE:
        raise Throttled(
            pool, "the market says that there are too many calls", retry_after=RETRY_AFTER_SECONDS
        )
    if kind is ApiFaultKind.FAIL:
        raise ProviderUnavailable(pool, "the market answers 503")
    if kind is ApiFaultKind.FORBID:
        raise NotPermitted(pool, "the market no longer accepts these credentials")
