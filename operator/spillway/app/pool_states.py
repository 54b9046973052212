"""What each pool's provider last said: asked every few seconds and after every change, each pool on its own."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from spillway.adapters.cloud.base import CloudError, Provider
from spillway.core.model import NodePool, PoolState, ProviderType

log = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 6.0  # one second beyond a provider's own limit, for one that breaks its word
UNHEARD: Final = timedelta(
    days=1
)  # how old the state of a provider that never answered is: beyond every limit


class PoolCollector:
    """Keeps the last state of every pool with a provider. A failure of one touches no other.

    `pools` gives the pools of now with the name that each has at its provider; `providers` who answers for each type.
    """

    def __init__(
        self,
        pools: Callable[[], Iterable[tuple[NodePool, str]]],
        providers: Mapping[ProviderType, Provider],
        *,
        interval: timedelta,
        now: Callable[[], datetime],
        steady: Callable[[], float],
        wake: Callable[[str], None],
    ) -> None:
        self._pools = pools
        self._providers = providers
        self._interval = interval
        self._now = now
        self._steady = steady
        self._wake = wake
        self._states: dict[str, PoolState] = {}
        self._heard: dict[str, float] = {}
        self._asked: set[str] = set()
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._hurry = asyncio.Event()

    def latest(self) -> Mapping[str, PoolState]:
        """Return what is known by pool name; a pool that was never heard is absent, or has an error and no age."""
        names = {pool.name for pool, _ in self._pools()}
        return {name: state for name, state in self._states.items() if name in names}

    def heard(self, pool: str) -> float:
        """Return when the last answer that is held was asked for, on the steady clock; minus infinity for none."""
        return self._heard.get(pool, float("-inf"))

    def ask(self, pool: str) -> None:
        """Ask about *pool* now, not only at its turn: something was changed there."""
        self._asked.add(pool)
        self._hurry.set()

    def provider_of(self, pool: str) -> tuple[Provider, str] | None:
        """Return who answers for *pool* and its name there; None for a pool without a provider that is set up."""
        for found, name in self._pools():
            if found.name == pool:
                provider = self._providers.get(found.provider)
                return (provider, name) if provider is not None else None
        return None

    async def run(self) -> None:
        """Ask for ever. Pools that somebody asked about go at once, the others every interval."""
        due = self._steady()
        while True:
            wanted, self._asked = self._asked, set()
            self._hurry.clear()
            everyone = self._steady() >= due
            if everyone:
                due = self._steady() + self._interval.total_seconds()
            for pool, name in self._pools():
                if everyone or pool.name in wanted:
                    self._begin(pool, name)
            try:
                await asyncio.wait_for(self._hurry.wait(), timeout=max(0.0, due - self._steady()))
            except TimeoutError:
                continue

    def _begin(self, pool: NodePool, name: str) -> None:
        running = self._asking.get(pool.name)
        if running is not None and not running.done():
            # The answer on its way may be of before the change.
            self._asked.add(pool.name)
            running.add_done_callback(lambda _: self._hurry.set())
            return
        if pool.provider is ProviderType.EXTERNAL:
            return
        self._asking[pool.name] = asyncio.create_task(self._ask(pool, name), name=f"ask pool {pool.name}")

    async def _ask(self, pool: NodePool, name: str) -> None:
        provider = self._providers.get(pool.provider)
        if provider is None:
            self._failed(pool.name, "the setting kwok.url is not set, so nobody can be asked")
            return
        started = self._steady()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                state = await provider.describe(name)
        except (CloudError, TimeoutError) as exc:
            self._failed(pool.name, str(exc) or f"no answer within {ANSWER_SECONDS:g} s")
            return
        known = self._states.get(pool.name)
        self._states[pool.name], self._heard[pool.name] = state, started
        if known is None or known.error or _told(known) != _told(state):
            self._wake("pool state")

    def _failed(self, pool: str, why: str) -> None:
        """Keep what was said before: its age grows until it counts no more."""
        known = self._states.get(pool) or PoolState(at=self._now() - UNHEARD, desired=0)
        if known.error != why:
            log.warning("the provider of pool %s cannot be asked: %s", pool, why)
            self._states[pool] = replace(known, error=why)
            self._wake("pool state")


def _told(state: PoolState) -> object:
    return state.desired, state.instances, state.refusals
