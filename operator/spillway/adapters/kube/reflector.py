"""One watch cache for every kind: list, then watch, and know at every moment how old the knowledge is."""

import asyncio
import json
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from spillway.adapters.kube.client import JsonObject, KubeClient, Lines, Query
from spillway.adapters.kube.clock import Clock, elapsed
from spillway.adapters.kube.errors import (
    BadRequest,
    Forbidden,
    Gone,
    KubeError,
    NotFound,
    TimedOut,
    TooManyRequests,
    Unreachable,
    error_for,
)
from spillway.adapters.kube.resources import Call, Resource, describe_call
from spillway.adapters.kube.versions import is_older
from spillway.core.model import ObjectKey

log = logging.getLogger(__name__)

T = TypeVar("T")
Projection = Callable[[Mapping[str, Any]], T | None]
OnChange = Callable[[T | None, T | None], None]

QUICK_SECONDS = 1.0  # a watch that ends sooner, without a line, has proven nothing: back off
RESTORE_SECONDS = 5.0  # how long an older state must stand before it is taken as a restored backup
RETRY_AFTER_CAP = (
    60.0  # a server that asks for more would make us blind for longer than any decision may wait
)
EVENT_TYPES = frozenset({"ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"})
BACKOFF_DOUBLINGS = 10  # 2 ** 10 is beyond every cap; a larger exponent only overflows


@dataclass(frozen=True, slots=True, kw_only=True)
class ReflectorTimings:
    """How patient a reflector is; all in seconds.

    The server is asked to end each watch after `watch` (at least three quarters of it), and a watch that is opened again from
    where it stood proves that we are in step: so an idle kind never looks older than `watch`. Keep it well below the age at
    which decisions stop. A stream that says nothing for `watch` + `grace` is given up as hung. `backoff` doubles with each
    failure up to `backoff_cap`, for missing rights up to `forbidden`; a missing kind is asked for again after `absent`.
    """

    watch: float = 40.0
    grace: float = 5.0
    open: float = 10.0
    page: float = 30.0
    backoff: float = 0.5
    backoff_cap: float = 10.0
    forbidden: float = 30.0
    absent: float = 300.0
    page_size: int = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why a cache cannot be brought in step: the request that fails, and a sentence for a person."""

    call: Call
    message: str
    forbidden: bool = False


class WentBack(KubeError):
    """The server answered with a state older than one it has shown before: a stale server, or etcd restored from a backup."""


class Garbage(KubeError):
    """A watch line that is no Kubernetes event, or a page that is no list."""


class Reflector(Generic[T]):
    """Keeps every object of one kind as the value *project* makes of it, and says since when it is in step.

    *project* takes the raw object and returns None for one that is not to be kept. *on_change(old, new)* is called after the
    store changed, only when old and new differ; old is None for a new object, new is None for one that went. It must be
    quick, and must not raise. *namespaces* limits it to these (one watch each); None or empty means all, as for a
    cluster-scoped kind. An *optional* kind may be missing on the server: then the store is empty and counts as in step.
    """

    def __init__(
        self,
        client: KubeClient,
        resource: Resource,
        project: Projection[T],
        *,
        namespaces: Iterable[str] | None = None,
        optional: bool = False,
        on_change: OnChange[T] | None = None,
        timings: ReflectorTimings | None = None,
        clock: Clock = elapsed,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.resource = resource
        self._objects: dict[ObjectKey, T] = {}
        setup = _Setup(
            client=client,
            resource=resource,
            project=project,
            optional=optional,
            on_change=on_change or _ignore,
            timings=timings or ReflectorTimings(),
            clock=clock,
            chance=chance,
        )
        scope = sorted(set(namespaces or ())) if resource.namespaced else []
        self._streams = {
            namespace: _Stream(setup, self._objects, namespace=namespace) for namespace in scope or [""]
        }

    @property
    def store(self) -> Mapping[ObjectKey, T]:
        """The objects by key, live and read-only; cluster-scoped kinds have an empty namespace."""
        return MappingProxyType(self._objects)

    @property
    def synced(self) -> bool:
        """Whether every object has been listed at least once; stays True when the server goes away later."""
        return all(stream.first_list.is_set() for stream in self._streams.values())

    @property
    def absent(self) -> bool:
        """Whether the server does not have this kind at all (optional kinds only)."""
        return any(stream.absent for stream in self._streams.values())

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What keeps it from being in step right now, at most one per namespace; empty when all is well."""
        return tuple(stream.problem for stream in self._streams.values() if stream.problem)

    def age(self, now: float, *, namespace: str | None = None) -> timedelta:
        """Return how long ago the store was last known to be in step with the server; *now* is of the injected clock.

        The oldest of all watches, or the one that covers *namespace*. `timedelta.max` before the first list, and for a
        namespace that is not watched at all. An absent kind is always in step.
        """
        if namespace is None or "" in self._streams:
            return max(stream.age(now) for stream in self._streams.values())
        stream = self._streams.get(namespace)
        return timedelta.max if stream is None else stream.age(now)

    async def wait_synced(self) -> None:
        """Return once `synced`; has no limit of its own."""
        for stream in self._streams.values():
            await stream.first_list.wait()

    async def run(self) -> None:
        """Keep the store in step until cancelled."""
        async with asyncio.TaskGroup() as group:
            for namespace, stream in self._streams.items():
                group.create_task(stream.run(), name=f"watch {self.resource.plural} {namespace or '*'}")


def _ignore(_old: object, _new: object) -> None:
    """Stand in for a caller that wants to hear of no change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setup(Generic[T]):
    client: KubeClient
    resource: Resource
    project: Projection[T]
    optional: bool
    on_change: OnChange[T]
    timings: ReflectorTimings
    clock: Clock
    chance: Callable[[], float]


class _Stream(Generic[T]):
    """The list and the watch of one kind in one namespace, or in all; writes into the reflector's dictionary."""

    def __init__(self, setup: _Setup[T], objects: dict[ObjectKey, T], *, namespace: str) -> None:
        self.first_list = asyncio.Event()
        self.absent = False
        self.problem: Problem | None = None
        self._setup = setup
        self._timings = setup.timings
        self._objects = objects
        self._namespace = namespace
        self._path = setup.resource.path(namespace=namespace)
        self._in_step_at: float | None = None
        self._version: str | None = None  # None: nothing to continue from, so list
        self._newest = ""  # the newest version ever shown; outlives a relist
        self._went_back_at: float | None = None
        self._disturbed = False  # the last watch did not end as agreed
        self._failures = 0
        self._last_failure: type[KubeError] | None = None

    def age(self, now: float) -> timedelta:
        if self.absent:
            return timedelta(0)
        if self._in_step_at is None:
            return timedelta.max
        return timedelta(seconds=max(0.0, now - self._in_step_at))

    async def run(self) -> None:
        while True:
            try:
                await self._follow()
            except KubeError as exc:
                self._disturbed = True
                await asyncio.sleep(self._note_failure(exc))

    async def _follow(self) -> None:
        """List where there is nothing to continue from, then watch until the watch ends."""
        if self._version is None:
            self._version = await self._list()
        elif self._disturbed:
            # A server restored from a backup serves a watch from our newer version without a word, and without events.
            self._refuse_older(_version_of(await self._page({"limit": 1})))
        self._disturbed = False
        await self._watch(self._version)

    async def _list(self) -> str:
        """Replace what the store holds by what the server has now; return the version to watch from."""
        asked_at = self._setup.clock()  # all pages show the state at the first one
        listed: dict[ObjectKey, T] = {}
        query: dict[str, str | int] = {"limit": self._timings.page_size}
        while True:
            page = await self._page(query)
            self._project_page(page, listed)
            more = page["metadata"].get("continue")
            if not more:
                break
            query["continue"] = more
        version = _version_of(page)
        self._refuse_older(version)
        self._replace(listed)
        self._newest = version
        self.absent = False
        self.first_list.set()
        self._note_in_step(asked_at)
        return version

    async def _page(self, query: Query) -> JsonObject:
        page = await self._setup.client.request(
            "GET", self._path, query=query, timeout_seconds=self._timings.page
        )
        if "resourceVersion" not in (page.get("metadata") or {}):
            raise Garbage(self._call("list"), "the answer is no list: it has no resourceVersion")
        return page

    def _project_page(self, page: JsonObject, listed: dict[ObjectKey, T]) -> None:
        for raw in page.get("items") or ():
            key = _key_of(raw)
            value = self._projected(key, raw)
            if value is not None:
                listed[key] = value

    def _refuse_older(self, version: str) -> None:
        """Raise `WentBack` for a state older than one already shown, until it has stood for a while.

        These reads are answered by a quorum of etcd, so an older state that lasts is a restored backup, and then it is the
        truth: refusing it for ever would need a restart by hand.
        """
        if not is_older(version, than=self._newest):
            self._went_back_at = None
            return
        now = self._setup.clock()
        if self._went_back_at is None:
            self._went_back_at = now
        if now - self._went_back_at < RESTORE_SECONDS or self._version is not None:
            raise WentBack(
                self._call("list"), f"the server is at version {version}, but was at {self._newest}"
            )
        log.warning("%s: taking the older state at version %s as restored", self._path, version)
        self._went_back_at = None

    def _replace(self, listed: Mapping[ObjectKey, T]) -> None:
        mine = (key for key in self._objects if not self._namespace or key.namespace == self._namespace)
        for key in [key for key in mine if key not in listed]:
            self._set(key, None)
        for key, value in listed.items():
            self._set(key, value)

    async def _watch(self, version: str) -> None:
        """Follow the events after *version* until the server ends the watch as agreed; raise `KubeError` otherwise."""
        seconds = max(1, round(self._timings.watch * (0.75 + 0.25 * self._setup.chance())))
        query: Query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": seconds,
        }
        asked_at = self._setup.clock()
        async with self._setup.client.stream(
            self._path, query=query, timeout_seconds=self._timings.open
        ) as lines:
            self._note_in_step(asked_at)
            heard = await self._read(lines, seconds + self._timings.grace)
        lasted = self._setup.clock() - asked_at
        if not heard and lasted < min(QUICK_SECONDS, seconds):
            raise Unreachable(self._call("watch"), "the server ends every watch at once", sent=True)
        # One that ended early comes from a server that shut down, and another one may answer next.
        self._disturbed = lasted < seconds - QUICK_SECONDS
        self._failures = 0

    async def _read(self, lines: Lines, limit: float) -> bool:
        """Take lines until the stream ends; return whether there was any."""
        heard = False
        try:
            async with asyncio.timeout(limit):
                async for line in lines:
                    self._take(line)
                    heard = True
        except TimeoutError as exc:
            raise TimedOut(
                self._call("watch"), f"the watch was to end by itself, but hung for {limit:g} s"
            ) from exc
        return heard

    def _take(self, line: bytes) -> None:
        kind, raw = self._parse(line)
        if kind == "ERROR":
            code = raw.get("code")
            raise error_for(
                self._call("watch"),
                code=code if isinstance(code, int) and code >= 400 else 500,
                message=str(raw.get("message", "the watch reports an error without a message")),
            )
        version = _version_of(raw)
        if is_older(version, than=self._newest):
            raise WentBack(self._call("watch"), f"an event of version {version} came after {self._newest}")
        if kind != "BOOKMARK":
            key = _key_of(raw)
            self._set(key, None if kind == "DELETED" else self._projected(key, raw))
        self._version = self._newest = version
        self._failures = 0
        self._note_in_step(self._setup.clock())

    def _parse(self, line: bytes) -> tuple[str, JsonObject]:
        try:
            event = json.loads(line)
            kind, raw = event["type"], event["object"]
            if kind != "ERROR":
                _version_of(raw), _key_of(raw)
        except (ValueError, KeyError, TypeError) as exc:
            raise Garbage(self._call("watch"), f"a line is no event: {line[:100]!r}") from exc
        if kind not in EVENT_TYPES:
            raise Garbage(self._call("watch"), f"unknown event type {kind!r}")
        return kind, raw

    def _projected(self, key: ObjectKey, raw: JsonObject) -> T | None:
        try:
            return self._setup.project(raw)
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            # One object that we cannot read must not hide all others.
            log.warning("%s %s is left out, since it cannot be read: %r", self._setup.resource.kind, key, exc)
            return None

    def _set(self, key: ObjectKey, new: T | None) -> None:
        old = self._objects.get(key)
        if old == new:
            return
        if new is None:
            del self._objects[key]
        else:
            self._objects[key] = new
        self._setup.on_change(old, new)

    def _note_in_step(self, moment: float) -> None:
        self._in_step_at = moment
        if self.problem is not None:
            log.info("%s: in step again", self._path)
        self.problem = None

    def _note_failure(self, error: KubeError) -> float:
        """Remember what is wrong; return how many seconds to wait before the next try."""
        if isinstance(error, NotFound) and self._setup.optional:
            self._note_absent()
            return self._timings.absent
        if isinstance(error, Gone | Garbage | WentBack | NotFound | BadRequest):
            self._version = None
        self._count_failure(error)
        forbidden = isinstance(error, Forbidden)
        # A single cut or expired watch is everyday life, and heals by itself.
        if forbidden or self._failures > 1:
            if self.problem is None:
                log.warning("%s", error)
            self.problem = Problem(call=error.call, message=str(error), forbidden=forbidden)
        return self._pause(error)

    def _count_failure(self, error: KubeError) -> None:
        """Count failures in a row. A server that comes back begins with refusals, since it has not read its roles yet, and with
        expired versions: that must not wait as long as the silence before it had come to.
        """
        is_back = isinstance(error, Forbidden | Gone) and type(error) is not self._last_failure
        self._failures = 1 if is_back else self._failures + 1
        self._last_failure = type(error)

    def _note_absent(self) -> None:
        self.absent = True
        self.problem = None
        self._version = None
        self._newest = ""
        self._failures = 0
        self._replace({})
        self.first_list.set()

    def _pause(self, error: KubeError) -> float:
        doubled = self._timings.backoff * 2.0 ** min(self._failures - 1, BACKOFF_DOUBLINGS)
        cap = self._timings.forbidden if isinstance(error, Forbidden) else self._timings.backoff_cap
        pause = min(cap, doubled) * (0.5 + 0.5 * self._setup.chance())
        asked = error.retry_after if isinstance(error, TooManyRequests) else None
        return max(pause, min(asked or 0.0, RETRY_AFTER_CAP))

    def _call(self, verb: str) -> Call:
        return describe_call("GET", self._path, watch=verb == "watch")


def _key_of(raw: Mapping[str, Any]) -> ObjectKey:
    meta = raw["metadata"]
    return ObjectKey(meta.get("namespace") or "", meta.get("name") or "")


def _version_of(raw: Mapping[str, Any]) -> str:
    return str(raw["metadata"]["resourceVersion"])
