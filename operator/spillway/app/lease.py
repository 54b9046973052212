"""One writer at a time: a Lease of our own, believed only as long as our own clock can vouch for it."""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from spillway.adapters.kube.client import JsonObject, KubeClient
from spillway.adapters.kube.clock import Clock, WallClock, elapsed, micro_time, utc_now
from spillway.adapters.kube.errors import Conflict, KubeError, NotFound
from spillway.adapters.kube.resources import LEASES

log = logging.getLogger(__name__)

NOT_HELD = float("-inf")
JITTER = 0.2  # spreads candidates that would otherwise knock in step
SHORTEST_REQUEST_SECONDS = 0.5  # even with the deadline this near, an answer is worth asking for


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTimings:
    """Seconds: others may take over `duration` after they saw the last renewal; we stop writing `renew_deadline` after we sent it.

    The difference is for clocks that run at different speeds and for a write that is still on its way to the server, so it
    should not be smaller than the longest write. Raises ValueError where the order is not retry < renew_deadline < duration.
    """

    duration: float = 15.0
    renew_deadline: float = 10.0
    retry: float = 2.0
    request: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.retry < self.renew_deadline < self.duration:
            raise ValueError(
                f"lease timings need retry ({self.retry:g} s) < renew deadline ({self.renew_deadline:g} s) "
                f"< duration ({self.duration:g} s)"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What another holder last wrote, and when our own clock saw it change: its clock may be wrong, a change cannot be."""

    spec: Mapping[str, Any]
    at: float


class Lease:
    """Takes, renews and gives back a coordination.k8s.io Lease; `held_for` is to be asked before every write.

    *identity* must be new for each start of the process: a predecessor's writes may still be on their way. *on_gain* and
    *on_lose* are called in turns, from `run`; they must be quick. A process that was stopped and resumed finds itself not
    holding at once, since `held_for` asks the clock and not the loop.
    """

    def __init__(
        self,
        client: KubeClient,
        *,
        namespace: str,
        name: str,
        identity: str,
        timings: LeaseTimings | None = None,
        on_gain: Callable[[], None],
        on_lose: Callable[[], None],
        clock: Clock = elapsed,
        wall: WallClock = utc_now,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.identity = identity
        self.problem: str | None = None
        self._client = client
        self._namespace = namespace
        self._name = name
        self._timings = timings or LeaseTimings()
        self._on_gain = on_gain
        self._on_lose = on_lose
        self._clock = clock
        self._wall = wall
        self._chance = chance
        self._held_until = NOT_HELD
        self._leading = False
        self._ours: JsonObject | None = None  # the Lease as our last write left it
        self._seen: _Seen | None = None

    @property
    def held_until(self) -> float:
        """The moment on the injected clock up to which nobody else may write; minus infinity when we do not hold it."""
        return self._held_until

    @property
    def holder(self) -> str:
        """Who holds it as far as we have seen, empty when nobody or unknown; for logs and metrics, not for decisions."""
        if self._leading:
            return self.identity
        return str(self._seen.spec.get("holderIdentity") or "") if self._seen else ""

    def held_for(self, deadline: float) -> bool:
        """Say whether it is surely ours from now until *deadline* (on the injected clock): a write's own deadline."""
        return max(self._clock(), deadline) < self._held_until

    async def run(self) -> None:
        """Try to take it and keep it until cancelled; then it counts as lost, but stays ours on the server until `release`."""
        try:
            while True:
                await self._attempt()
                await asyncio.sleep(self._pause())
        finally:
            self._lose()

    async def release(self) -> None:
        """Give it back, so that the next candidate need not wait; call it after `run` ended and all writes are done.

        Does nothing when it is not ours. A failure is logged only: the Lease then runs out by itself.
        """
        self._lose()
        try:
            # Read anew: a renewal that was cancelled on its way may have succeeded.
            current = await self._client.request("GET", self._path, timeout_seconds=self._timings.request)
            if (current.get("spec") or {}).get("holderIdentity") != self.identity:
                return
            given_back = {**current["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
            await self._put({**current, "spec": given_back})
            log.info("gave the lease %s back", self._name)
        except KubeError as exc:
            log.warning("could not give the lease back, it runs out by itself: %s", exc)

    async def _attempt(self) -> None:
        """Renew or take it once; lose it when its time is over or somebody else has it."""
        self._lose_if_over()
        sent_at = self._clock()
        try:
            written = await self._write()
        except KubeError as exc:
            self._note_problem(str(exc))
        else:
            self.problem = None
            if written is None:
                self._lose()
            else:
                self._hold(written, sent_at)
        self._lose_if_over()

    async def _write(self) -> JsonObject | None:
        """Return the Lease as we have just written it, or None when another holder's time is not over."""
        if self._ours is not None:
            try:
                return await self._put(self._renewed(self._ours))
            except (Conflict, NotFound):
                self._ours = None  # somebody wrote or deleted it: look before doing anything
        try:
            current = await self._client.request("GET", self._path, timeout_seconds=self._request_seconds())
        except NotFound:
            return await self._create()
        return await self._take_over(current)

    async def _create(self) -> JsonObject | None:
        lease = {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"namespace": self._namespace, "name": self._name},
            "spec": self._spec(transitions=0),
        }
        try:
            return await self._client.request(
                "POST",
                LEASES.path(namespace=self._namespace),
                body=lease,
                timeout_seconds=self._request_seconds(),
            )
        except Conflict:
            return None  # another candidate was faster; the next attempt looks at what it wrote

    async def _take_over(self, current: JsonObject) -> JsonObject | None:
        spec = current.get("spec") or {}
        if spec.get("holderIdentity") == self.identity:
            return await self._put(self._renewed(current))
        if not self._is_free(spec):
            return None
        transitions = int(spec.get("leaseTransitions") or 0) + 1
        try:
            return await self._put({**current, "spec": self._spec(transitions=transitions)})
        except (Conflict, NotFound):
            return None

    def _is_free(self, spec: Mapping[str, Any]) -> bool:
        """Say whether the holder gave it back, or let its own duration pass on *our* clock without a change."""
        if self._seen is None or self._seen.spec != spec:
            self._seen = _Seen(spec=spec, at=self._clock())
        if not spec.get("holderIdentity"):
            return True
        duration = float(spec.get("leaseDurationSeconds") or self._timings.duration)
        return self._clock() - self._seen.at > duration

    async def _put(self, lease: JsonObject) -> JsonObject:
        """Write it, if nobody has since the resourceVersion it carries."""
        return await self._client.request(
            "PUT", self._path, body=lease, timeout_seconds=self._request_seconds()
        )

    def _hold(self, written: JsonObject, sent_at: float) -> None:
        self._ours = written
        # From the sending, not the answer: others count from when the server wrote it, which is somewhere in between.
        self._held_until = sent_at + self._timings.renew_deadline
        if self._leading or self._clock() >= self._held_until:
            return
        self._leading = True
        log.info("holding the lease %s as %s", self._name, self.identity)
        self._on_gain()

    def _lose_if_over(self) -> None:
        if self._clock() >= self._held_until:
            self._lose()

    def _lose(self) -> None:
        self._held_until = NOT_HELD
        if not self._leading:
            return
        self._leading = False
        log.info("not holding the lease %s any more", self._name)
        self._on_lose()

    def _renewed(self, lease: JsonObject) -> JsonObject:
        renewal = {
            "renewTime": micro_time(self._wall()),
            "leaseDurationSeconds": ceil(self._timings.duration),
        }
        return {**lease, "spec": {**lease["spec"], **renewal}}

    def _spec(self, *, transitions: int) -> JsonObject:
        now = micro_time(self._wall())
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": ceil(self._timings.duration),
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": transitions,
        }

    def _request_seconds(self) -> float:
        """Never wait for an answer beyond our time: the loss must be noticed when it happens."""
        if not self._leading:
            return self._timings.request
        left = self._held_until - self._clock()
        return max(SHORTEST_REQUEST_SECONDS, min(self._timings.request, left))

    def _pause(self) -> float:
        return self._timings.retry * (1.0 if self._leading else 1.0 + JITTER * self._chance())

    def _note_problem(self, message: str) -> None:
        if self.problem is None:
            log.warning("cannot renew or take the lease %s: %s", self._name, message)
        self.problem = message

    @property
    def _path(self) -> str:
        return LEASES.path(namespace=self._namespace, name=self._name)
