"""Acts on their way: one task per subject, each with a precondition and a deadline, known until the caches show the result."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, assert_never

from spillway.adapters.cloud.base import CloudError
from spillway.adapters.kube.errors import KubeError
from spillway.adapters.kube.evictions import DrainBlocked
from spillway.adapters.kube.versions import has_reached
from spillway.app.acts import (
    DeploymentAt,
    DeploymentGone,
    Done,
    Landing,
    MayWrite,
    NodeAt,
    NodeGone,
    PoolHeard,
)
from spillway.core.model import (
    Act,
    CancelUnfulfilled,
    Deployment,
    DrainNode,
    GrowPool,
    Node,
    ObjectKey,
    Operation,
    OperationState,
)

log = logging.getLogger(__name__)

WRITE_SECONDS = 5.0
BACK_OFF_MOST_SECONDS = 30.0


class HoldsLease(Protocol):
    """The one question before every write."""

    def held_for(self, deadline: float) -> bool:
        """Whether the Lease is surely ours until *deadline*, on the steady clock."""


class CarriesOut(Protocol):
    """What does the acts."""

    async def carry_out(self, act: Act, may_write: MayWrite) -> Landing:
        """Do *act* and say by what it will be seen; raises `KubeError` or `CloudError`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the caches show, as far as acts change it. `heard` is when each pool's provider last answered, on the steady clock."""

    deployments: Mapping[ObjectKey, Deployment]
    nodes: Mapping[ObjectKey, Node]
    heard: Callable[[str], float]


@dataclass(slots=True)
class _Running:
    operation: Operation
    landing: Landing | None = None
    ended_at: float = 0.0
    retry_after: float = 0.0
    task: asyncio.Task[None] | None = None


class Operations:
    """Runs acts and says where each stands. A failure stops only its own chain; a refused write has spent nothing."""

    def __init__(
        self,
        executor: CarriesOut,
        *,
        lease: HoldsLease,
        steady: Callable[[], float],
        give_up_seconds: float,
        wake: Callable[[str], None],
        ask_pool: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._executor = executor
        self._lease = lease
        self._steady = steady
        self._give_up_seconds = give_up_seconds
        self._wake = wake
        self._ask_pool = ask_pool
        self._running: dict[str, _Running] = {}
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, float] = {}

    def start(self, act: Act) -> None:
        """Begin an act unless its subject has one under way or is backing off, or the Lease may end before the write does."""
        if act.subject in self._running or self._steady() < self._not_before.get(act.subject, 0.0):
            return
        if not self._may_write():
            log.warning("not acting on %s: the Lease is not ours for long enough", act.subject)
            return
        running = _Running(operation=Operation(act=act, state=OperationState.RUNNING))
        self._running[act.subject] = running
        running.task = asyncio.create_task(self._run(act, running), name=f"act on {act.subject}")

    def _may_write(self) -> bool:
        return self._lease.held_for(self._steady() + WRITE_SECONDS)

    async def _run(self, act: Act, running: _Running) -> None:
        try:
            running.landing = await self._executor.carry_out(act, self._may_write)
            running.ended_at = self._steady()
            running.operation = Operation(act=act, state=OperationState.AWAITING_CACHE)
            if isinstance(running.landing, PoolHeard):
                self._ask_pool(running.landing.pool)
        except (KubeError, CloudError) as exc:
            # A write that may have happened is settled by the cache, like one that did; only its version is unknown.
            blocked = exc.message if isinstance(exc, DrainBlocked) else ""
            running.operation = Operation(
                act=act, state=OperationState.FAILED, error=str(exc), blocked=blocked
            )
            running.retry_after = getattr(exc, "retry_after", None) or 0.0
            log.warning("%s on %s failed: %s", type(act).__name__, act.subject, exc)
            if isinstance(act, GrowPool | CancelUnfulfilled | DrainNode):
                self._ask_pool(act.pool)  # what failed may have happened
        except Exception as exc:
            # A defect in one chain must not leave its subject under way for ever.
            log.exception("%s on %s failed by a defect", type(act).__name__, act.subject)
            running.operation = Operation(
                act=act, state=OperationState.FAILED, error=f"{type(exc).__name__}: {exc}"
            )
        finally:
            self._wake("operation")

    def collect(self, seen: Seen) -> tuple[Operation, ...]:
        """Return every operation as of now; one that ended is returned this once and then forgotten."""
        answer = []
        for subject, running in list(self._running.items()):
            running.operation = self._advance(running, seen)
            if not running.operation.is_under_way:
                del self._running[subject]
                self._back_off(subject, running)
            answer.append(running.operation)
        return tuple(answer)

    def _back_off(self, subject: str, running: _Running) -> None:
        """Let the first failure be tried again at once, since it is mostly a conflict; wait longer after each further one."""
        if running.operation.state is OperationState.LANDED:
            self._failures.pop(subject, None)
            self._not_before.pop(subject, None)
            return
        failures = self._failures[subject] = self._failures.get(subject, 0) + 1
        wait = min(BACK_OFF_MOST_SECONDS, 2.0 ** (failures - 2)) if failures > 1 else 0.0
        self._not_before[subject] = self._steady() + max(wait, running.retry_after)

    def _advance(self, running: _Running, seen: Seen) -> Operation:
        operation, landing = running.operation, running.landing
        if operation.state is not OperationState.AWAITING_CACHE or landing is None:
            return operation
        state = _state(landing, seen, ended_at=running.ended_at)
        if state is OperationState.LANDED:
            return Operation(act=operation.act, state=state)
        if state is OperationState.FAILED:
            return Operation(act=operation.act, state=state, error="the object is gone")
        if self._steady() - running.ended_at > self._give_up_seconds:
            return Operation(
                act=operation.act, state=OperationState.FAILED, error="the cache never showed the write"
            )
        return operation

    async def stop(self, *, seconds: float = WRITE_SECONDS) -> None:
        """Let writes that are under way end, at most for *seconds*; then call them off."""
        tasks = [running.task for running in self._running.values() if running.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
        self._running.clear()
        self._failures.clear()
        self._not_before.clear()


def _state(landing: Landing, seen: Seen, *, ended_at: float) -> OperationState:  # noqa: PLR0911  # one a kind
    """Return whether the caches show it by now, or that its object is gone."""
    match landing:
        case Done():
            return OperationState.LANDED
        case DeploymentAt(key=key, uid=uid, version=version):
            found = seen.deployments.get(key)
            if found is None:  # one just made is not there yet; one that was there went
                return OperationState.FAILED if uid else OperationState.AWAITING_CACHE
            if uid and found.uid != uid:
                return OperationState.FAILED
            return _reached(has_reached(found.resource_version, version))
        case DeploymentGone(key=key, uid=uid):
            found = seen.deployments.get(key)
            return _reached(found is None or found.uid != uid or found.terminating)
        case NodeAt(name=name, uid=uid, version=version):
            node = seen.nodes.get(ObjectKey("", name))
            if node is None or node.uid != uid:
                return OperationState.FAILED
            return _reached(has_reached(node.resource_version, version))
        case NodeGone(name=name, uid=uid):
            node = seen.nodes.get(ObjectKey("", name))
            return _reached(node is None or node.uid != uid)
        case PoolHeard(pool=pool):
            return _reached(seen.heard(pool) >= ended_at)
        case _:
            assert_never(landing)


def _reached(is_seen: bool) -> OperationState:
    return OperationState.LANDED if is_seen else OperationState.AWAITING_CACHE
