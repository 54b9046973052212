"""Evictions, and the two chains of them: a drain that asks and gives up, and the end of a node that asks and then insists.

See node-and-spot C.5 and C.6. Both read the node's pods live: a cache may not know of one that just came.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

from spillway.adapters.kube.client import KubeClient
from spillway.adapters.kube.clock import Clock, WallClock, elapsed, utc_now
from spillway.adapters.kube.errors import (
    Conflict,
    KubeError,
    NotFound,
    PreconditionFailed,
    ServerError,
    TooManyRequests,
)
from spillway.adapters.kube.nodes import node as read_node
from spillway.adapters.kube.pods import pod as read_pod
from spillway.adapters.kube.resources import NODES, PODS, Call, describe_call
from spillway.adapters.kube.write import WRITE_SECONDS
from spillway.core.drain import blocker
from spillway.core.fleet import leaves_by_itself
from spillway.core.model import DrainNode, EvictDoomed, ObjectKey, Pod, PodPhase

Sleep = Callable[[float], Awaitable[None]]
MayWrite = Callable[[], bool]
"""Asked before every single write of a chain, which may outlive the Lease that it began under."""

DRAIN_SECONDS = 30.0  # then the next pass looks at everything anew
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 10.0
LIST_PAGE = 500
CRITICAL_PRIORITY = 2_000_000_000  # system-cluster-critical and above leave last
NOTICE_MARGIN = timedelta(seconds=10)  # left for the kubelet to report before the machine ends
LAST_CALL = timedelta(seconds=15)  # beyond its grace: then a budget is no longer waited for
MANY_BUDGETS = "more than one PodDisruptionBudget"  # the server has no machine word for it


class TwoBudgets(KubeError):
    """More than one PodDisruptionBudget covers the pod: the API server evicts it never, so asking again is of no use."""


class DrainStopped(KubeError):
    """A drain that did not come to its end; the node and everything on it stay."""

    def __init__(self, node: str, message: str) -> None:
        super().__init__(Call(verb="drain", resource="nodes"), message)
        self.args = (f"cannot drain node {node}: {self.message}",)


class DrainBlocked(DrainStopped):
    """There is a pod that may not be moved; `message` names it and says why."""


class DrainUnfinished(DrainStopped):
    """The time of one attempt is over; the next one takes it up where it stands."""


class Eviction(StrEnum):
    """What came of asking for an eviction."""

    DONE = "Done"
    BLOCKED_BY_BUDGET = "BlockedByBudget"


async def evict(
    client: KubeClient,
    key: ObjectKey,
    *,
    uid: str,
    grace: timedelta | None = None,
    timeout_seconds: float = WRITE_SECONDS,
) -> Eviction:
    """Ask the API server to evict this very pod; without *grace* the pod's own grace period holds.

    A pod that is gone, or another one by now, is done. Raises `TwoBudgets` where asking again cannot help, and others of
    `KubeError`.
    """
    options = {"preconditions": {"uid": uid}, **_grace_option(grace)}
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"namespace": key.namespace, "name": key.name},
        "deleteOptions": options,
    }
    path = PODS.path(namespace=key.namespace, name=key.name, subresource="eviction")
    try:
        await client.request("POST", path, body=body, timeout_seconds=timeout_seconds)
    except TooManyRequests:
        return Eviction.BLOCKED_BY_BUDGET
    except (NotFound, Conflict):
        return Eviction.DONE
    except ServerError as exc:
        if MANY_BUDGETS not in exc.message:
            raise
        raise TwoBudgets(
            exc.call, f"more than one PodDisruptionBudget covers pod {key}; leave it one", code=exc.code
        ) from exc
    return Eviction.DONE


async def pods_on(client: KubeClient, node: str, *, timeout_seconds: float = WRITE_SECONDS) -> Sequence[Pod]:
    """Return every unfinished pod that is bound to the node, from the server's store and not from any cache.

    Raises a `KubeError`; KeyError, TypeError or ValueError for a pod that cannot be read, since it must not be overlooked.
    """
    query: dict[str, str | int] = {"fieldSelector": f"spec.nodeName={node}", "limit": LIST_PAGE}
    found: list[Pod] = []
    while True:
        page = await client.request("GET", PODS.path(), query=query, timeout_seconds=timeout_seconds)
        read = (read_pod(raw) for raw in page.get("items") or ())
        found += [item for item in read if item is not None and item.phase is not PodPhase.FINISHED]
        following = page["metadata"].get("continue")
        if not following:
            return found
        query["continue"] = following


async def drain_node(
    client: KubeClient,
    act: DrainNode,
    *,
    remove: Callable[[], Awaitable[None]],
    may_write: MayWrite = lambda: True,
    now: WallClock = utc_now,
    clock: Clock = elapsed,
    sleep: Sleep = asyncio.sleep,
) -> None:
    """Empty the node by evictions and then *remove* its instance; safe to begin again wherever an earlier attempt ended.

    Nothing is evicted while any pod on it may not be. Raises `DrainBlocked` for such a pod and for one that comes meanwhile, `DrainUnfinished` after
    `DRAIN_SECONDS` or when *may_write* says no, `PreconditionFailed` when the node is another one or no longer carries the mark
    `act.id`, and others of `KubeError`, and whatever *remove* raises.
    """
    await _check_mark(client, act)
    ends_at, pause = clock() + DRAIN_SECONDS, FIRST_PAUSE_SECONDS
    known: frozenset[str] | None = None
    while True:
        here = await pods_on(client, act.node)
        known = known if known is not None else frozenset(found.uid for found in here)
        staying, leaving = _sorted(here, now())
        _refuse_newcomers(act, staying, known)
        _refuse_blocked(act, staying, now())
        if not staying and not leaving:
            break
        held_up = [
            found for found in _next_to_go(staying) if not await _evicted(client, act, found, may_write)
        ]
        if clock() + pause > ends_at:
            raise DrainUnfinished(act.node, _what_is_left(held_up, (*staying, *leaving)))
        await sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS) if held_up else FIRST_PAUSE_SECONDS
    await _check_mark(client, act)
    _ask(may_write, act.node)
    await remove()


async def _check_mark(client: KubeClient, act: DrainNode) -> None:
    path = NODES.path(name=act.node)
    found = read_node(await client.request("GET", path, timeout_seconds=WRITE_SECONDS))
    if found.uid != act.node_uid:
        why = "it was made anew under the same name"
    elif found.mark is None or not found.mark.id or found.mark.id != act.id:
        why = f"it does not carry our mark {act.id}"
    elif not found.unschedulable:
        why = "somebody uncordoned it"
    else:
        return
    raise PreconditionFailed(describe_call("GET", path), f"node {act.node} is not as expected: {why}")


def _sorted(pods: Iterable[Pod], now: datetime) -> tuple[list[Pod], list[Pod]]:
    """Return the pods that are to be moved, and those that are on their way; what leaves by itself is in neither."""
    waited_for = [found for found in pods if not leaves_by_itself(found, now)]
    leaving = [found for found in waited_for if found.phase is PodPhase.TERMINATING]
    return [found for found in waited_for if found.phase is not PodPhase.TERMINATING], leaving


def _refuse_newcomers(act: DrainNode, staying: Iterable[Pod], known: frozenset[str]) -> None:
    """End a drain that would go on for ever: evict a pod that tolerates every taint, and its successor comes back here."""
    for found in staying:
        if found.uid not in known:
            raise DrainBlocked(
                act.node,
                f"pod {found.key} came to the cordoned node, so it tolerates every taint and would come again",
            )


def _refuse_blocked(act: DrainNode, staying: Iterable[Pod], now: datetime) -> None:
    for found in staying:
        why = blocker(found, movable=act.movable, foreign_pods=act.foreign_pods, now=now)
        if why:
            raise DrainBlocked(act.node, why)


def _next_to_go(staying: Sequence[Pod]) -> Sequence[Pod]:
    """Return the ordinary pods; those that the cluster itself leans on only once no other is left."""
    ordinary = [found for found in staying if found.priority < CRITICAL_PRIORITY]
    return ordinary or staying


async def _evicted(client: KubeClient, act: DrainNode, found: Pod, may_write: MayWrite) -> bool:
    _ask(may_write, act.node)
    try:
        return await evict(client, found.key, uid=found.uid) is Eviction.DONE
    except TwoBudgets as exc:
        raise DrainBlocked(act.node, exc.message) from exc


def _ask(may_write: MayWrite, node: str) -> None:
    if not may_write():
        raise DrainUnfinished(node, "the Lease is not ours for long enough")


def _what_is_left(held_up: Sequence[Pod], others: Sequence[Pod]) -> str:
    if held_up:
        return f"a PodDisruptionBudget does not let pod {held_up[0].key} go, and {len(held_up) - 1} others like it"
    return f"{len(others)} pods have not left yet, pod {others[0].key} among them"


async def evict_doomed(
    client: KubeClient,
    act: EvictDoomed,
    *,
    may_write: MayWrite = lambda: True,
    now: WallClock = utc_now,
    sleep: Sleep = asyncio.sleep,
) -> None:
    """Evict these pods of a node that ends at `act.deadline`, each with a grace that ends before the node does.

    A budget is asked until the notice leaves just the grace and `LAST_CALL`; then the pod is deleted, since the machine takes
    it anyway. Pods that are gone or leaving are done. Raises the first `KubeError` after every pod had its turn.
    """
    wanted = {found.uid for found in act.pods}
    here = await pods_on(client, act.node)
    chain = _LastCall(client, act, may_write=may_write, now=now, sleep=sleep)
    ended = await asyncio.gather(
        *[
            chain.move(found)
            for found in here
            if found.uid in wanted and found.phase is not PodPhase.TERMINATING
        ],
        return_exceptions=True,
    )
    for answer in ended:
        if isinstance(answer, BaseException):
            raise answer


class _LastCall:
    """Moves pods off one node that has a deadline."""

    def __init__(
        self, client: KubeClient, act: EvictDoomed, *, may_write: MayWrite, now: WallClock, sleep: Sleep
    ) -> None:
        self._client = client
        self._act = act
        self._may_write = may_write
        self._now = now
        self._sleep = sleep

    async def move(self, found: Pod) -> None:
        """Ask until the budget agrees or the time is up, then insist."""
        pause, may_ask = FIRST_PAUSE_SECONDS, True
        while True:
            _ask(self._may_write, self._act.node)
            left = self._act.deadline - self._now()
            grace = grace_within(found.grace, left)
            if may_ask:
                try:
                    if await evict(self._client, found.key, uid=found.uid, grace=grace) is Eviction.DONE:
                        return
                except TwoBudgets:
                    may_ask = False  # the pod serves on until the last moment
            if left <= grace + LAST_CALL:
                await _delete(self._client, found, grace)
                return
            until_last_call = (left - grace - LAST_CALL).total_seconds()
            await self._sleep(min(pause, until_last_call) if may_ask else until_last_call)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def grace_within(own: timedelta, left: timedelta) -> timedelta:
    """Return how long a pod may take to end: its own grace, but no more than the notice leaves, and at least a second.

    600 s of its own and 120 s left: 110 s.
    """
    return max(timedelta(seconds=1), min(own, left - NOTICE_MARGIN))


async def _delete(client: KubeClient, found: Pod, grace: timedelta) -> None:
    options = {"preconditions": {"uid": found.uid}, **_grace_option(grace)}
    path = PODS.path(namespace=found.key.namespace, name=found.key.name)
    try:
        await client.request("DELETE", path, body=options, timeout_seconds=WRITE_SECONDS)
    except (NotFound, Conflict):
        return


def _grace_option(grace: timedelta | None) -> dict[str, int]:
    return {} if grace is None else {"gracePeriodSeconds": int(grace.total_seconds())}
