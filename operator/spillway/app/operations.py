"""Acts on their way: one task per target, each with a precondition and a deadline, known until the caches show the result."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from spillway.adapters.kube.errors import KubeError
from spillway.adapters.kube.versions import has_reached
from spillway.core.model import Act, Deployment, ObjectKey, Operation, OperationState, SetReplicas

log = logging.getLogger(__name__)

WRITE_SECONDS = 5.0


class HoldsLease(Protocol):
    """The one question before every write."""

    def held_for(self, deadline: float) -> bool:
        """Whether the Lease is surely ours until *deadline*, on the steady clock."""


@dataclass(slots=True)
class _Running:
    operation: Operation
    since: float
    resource_version: str | None = None
    task: asyncio.Task[None] | None = None


class Operations:
    """Runs acts and says where each stands. A failure stops only its own chain; a refused write has spent nothing."""

    def __init__(
        self,
        set_replicas: Callable[[SetReplicas], Awaitable[str]],
        *,
        lease: HoldsLease,
        steady: Callable[[], float],
        give_up_seconds: float,
        wake: Callable[[str], None],
    ) -> None:
        self._set_replicas = set_replicas
        self._lease = lease
        self._steady = steady
        self._give_up_seconds = give_up_seconds
        self._wake = wake
        self._running: dict[ObjectKey, _Running] = {}

    def start(self, act: Act) -> None:
        """Begin an act unless its target has one under way or the Lease may end before the write does."""
        if act.target in self._running:
            return
        if not self._lease.held_for(self._steady() + WRITE_SECONDS):
            log.warning("not writing %s: the Lease is not ours for long enough", act.target)
            return
        running = _Running(operation=Operation(act=act, state=OperationState.RUNNING), since=self._steady())
        self._running[act.target] = running
        running.task = asyncio.create_task(self._run(act, running), name=f"scale {act.target}")

    async def _run(self, act: Act, running: _Running) -> None:
        try:
            running.resource_version = await self._set_replicas(act)
            running.operation = Operation(act=act, state=OperationState.AWAITING_CACHE)
        except KubeError as exc:
            # A write that may have happened is settled by the cache, like one that did; only its version is unknown.
            running.operation = Operation(act=act, state=OperationState.FAILED, error=str(exc))
            log.warning("scaling %s from %d to %d failed: %s", act.target, act.before, act.to, exc)
        finally:
            self._wake("operation")

    def collect(self, deployments: Callable[[ObjectKey], Deployment | None]) -> tuple[Operation, ...]:
        """Return every operation as of now; one that ended is returned this once and then forgotten."""
        answer = []
        for target, running in list(self._running.items()):
            running.operation = self._advance(running, deployments(target))
            if running.operation.state in (OperationState.LANDED, OperationState.FAILED):
                del self._running[target]
            answer.append(running.operation)
        return tuple(answer)

    def _advance(self, running: _Running, deployment: Deployment | None) -> Operation:
        operation = running.operation
        if operation.state is not OperationState.AWAITING_CACHE:
            return operation
        if deployment is None or deployment.uid != operation.act.target_uid:
            return Operation(act=operation.act, state=OperationState.FAILED, error="the target is gone")
        if has_reached(deployment.resource_version, running.resource_version or ""):
            return Operation(act=operation.act, state=OperationState.LANDED)
        if self._steady() - running.since > self._give_up_seconds:
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
