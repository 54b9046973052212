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

_Source = tuple[str, ProviderType, str]  # which pool, who is asked, and by what name


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
        self._states: dict[_Source, PoolState] = {}
        self._heard: dict[str, float] = {}
        self._asked: set[str] = set()
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._hurry = asyncio.Event()

    def latest(self) -> Mapping[str, PoolState]:
        """Return what is known by pool name; a pool that was never heard is absent, or has an error and an age beyond every limit.

        What was said of a pool before it was made anew, or named another one at its provider, is not of this one.
        """
        sources = {pool.name: _source(pool, name) for pool, name in self._pools()}
        return {name: self._states[found] for name, found in sources.items() if found in self._states}

    def heard(self, pool: str) -> float:
        """Return when the last answer that is held was asked for, on the steady clock; minus infinity for none."""
        return self._heard.get(pool, float("-inf"))

    def ask(self, pool: str) -> None:
        """Ask about *pool* now, not only at its turn: something was changed there."""
        self._asked.add(pool)
        self._hurry.set()

    def ask_unheard(self) -> None:
        """Ask about pools that are new, rather than at their turn: until then nothing may be decided on them."""
        for pool, name in self._pools():
            running = self._asking.get(pool.name)
            is_asked = running is not None and not running.done()
            is_heard = _source(pool, name) in self._states
            if not (is_asked or is_heard or pool.provider is ProviderType.EXTERNAL):
                self.ask(pool.name)

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
                self._forget_gone()
            for pool, name in self._pools():
                if everyone or pool.name in wanted:
                    self._begin(pool, name, again=pool.name in wanted)
            try:
                await asyncio.wait_for(self._hurry.wait(), timeout=max(0.0, due - self._steady()))
            except TimeoutError:
                continue

    def _forget_gone(self) -> None:
        current = {_source(pool, name) for pool, name in self._pools()}
        for gone in self._states.keys() - current:
            del self._states[gone]

    def _begin(self, pool: NodePool, name: str, *, again: bool) -> None:
        """Ask, unless an answer is on its way; that may be of before a change, so then *again* asks once more after it."""
        if pool.provider is ProviderType.EXTERNAL:
            return
        running = self._asking.get(pool.name)
        if running is not None and not running.done():
            if again:
                self._asked.add(pool.name)
                running.add_done_callback(lambda _: self._hurry.set())
            return
        self._asking[pool.name] = asyncio.create_task(self._ask(pool, name), name=f"ask pool {pool.name}")

    async def _ask(self, pool: NodePool, name: str) -> None:
        provider = self._providers.get(pool.provider)
        if provider is None:
            self._failed(pool, name, "the setting kwok.url is not set, so nobody can be asked")
            return
        started = self._steady()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                state = await provider.describe(name)
        except (CloudError, TimeoutError) as exc:
            self._failed(pool, name, str(exc) or f"no answer within {ANSWER_SECONDS:g} s")
        except Exception as exc:
            # A defect that shows with one pool must not leave it looking well, nor touch another.
            log.exception("asking about pool %s failed by a defect", pool.name)
            self._failed(pool, name, f"{type(exc).__name__}: {exc}")
        else:
            self._answered(pool, name, state, started=started)

    def _answered(self, pool: NodePool, name: str, state: PoolState, *, started: float) -> None:
        source = _source(pool, name)
        known = self._states.get(source)
        self._states[source], self._heard[pool.name] = state, started
        if known is None or known.error or _told(known) != _told(state):
            self._wake("pool state")

    def _failed(self, pool: NodePool, name: str, why: str) -> None:
        """Keep what was said before: its age grows until it counts no more."""
        source = _source(pool, name)
        known = self._states.get(source) or PoolState(at=self._now() - UNHEARD, desired=0)
        if known.error != why:
            log.warning("the provider of pool %s cannot be asked: %s", pool.name, why)
            self._states[source] = replace(known, error=why)
            self._wake("pool state")


def doubted(states: Mapping[str, PoolState], why: str) -> Mapping[str, PoolState]:
    """Return *states* as ones of which nothing may be concluded because of *why*; unchanged where there is no why.

    Where the nodes are not seen, every machine would look like one that boots.
    """
    return {name: replace(state, error=why) for name, state in states.items()} if why else states


def _source(pool: NodePool, name: str) -> _Source:
    return pool.uid, pool.provider, name


def _told(state: PoolState) -> object:
    return state.desired, state.instances, state.refusals
