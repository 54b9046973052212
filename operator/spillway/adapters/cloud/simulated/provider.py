"""The market as a `Provider`, in process: for the simulator and for tests that want no network."""

import contextlib
from collections.abc import Callable
from datetime import datetime

from spillway.adapters.cloud.base import CALL_SECONDS, InstanceNotFound, ProviderUnavailable
from spillway.adapters.cloud.simulated.faults import ApiFaultKind, refuse_call
from spillway.adapters.cloud.simulated.market import Market
from spillway.core.model import PoolState


class SimulatedProvider:
    """Asks a market directly, at the time that *now* says. A call that would hang fails at once: no time passes here."""

    def __init__(self, market: Market, *, now: Callable[[], datetime]) -> None:
        self._market = market
        self._now = now

    async def describe(self, pool: str) -> PoolState:
        """As of `Provider`."""
        kind = self._knock(pool, "describe")
        state = self._market.describe(pool, now=self._now(), is_stale=kind is ApiFaultKind.STALE)
        _lose_answer(kind, pool)
        return state

    async def grow(self, pool: str, *, to: int, before: int, token: str) -> None:
        """As of `Provider`."""
        kind = self._knock(pool, "grow")
        self._market.grow(pool, to=to, before=before, token=token, now=self._now())
        _lose_answer(kind, pool)

    async def remove(self, pool: str, *, instance: str, node: str, token: str) -> None:
        """As of `Provider`."""
        kind = self._knock(pool, "remove")
        with contextlib.suppress(InstanceNotFound):
            self._market.remove(pool, instance=instance, node=node, token=token, now=self._now())
        _lose_answer(kind, pool)

    async def cancel_unfulfilled(self, pool: str, *, to: int, before: int, token: str) -> None:
        """As of `Provider`."""
        kind = self._knock(pool, "cancel")
        self._market.cancel_unfulfilled(pool, to=to, before=before, token=token, now=self._now())
        _lose_answer(kind, pool)

    def _knock(self, pool: str, call: str) -> ApiFaultKind | None:
        kind = self._market.take_api_fault(pool, call)
        refuse_call(kind, pool)
        if kind is ApiFaultKind.HANG:
            raise _no_answer(pool)
        return kind


def _lose_answer(kind: ApiFaultKind | None, pool: str) -> None:
    if kind is ApiFaultKind.LOSE_ANSWER:
        raise _no_answer(pool)


def _no_answer(pool: str) -> ProviderUnavailable:
    return ProviderUnavailable(pool, f"no answer from the market within {CALL_SECONDS:g} s")
