"""Telling people: status, Events and logs, each only when there is news."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from spillway.adapters.kube import write
from spillway.adapters.kube.client import KubeClient
from spillway.adapters.kube.clock import Clock, WallClock
from spillway.adapters.kube.errors import KubeError, NotFound
from spillway.adapters.kube.resources import Resource
from spillway.adapters.kube.write import EventType
from spillway.api.conditions import ConditionType, ReadyReason
from spillway.api.convert import Converted, ConvertedPool, Invalid
from spillway.api.policies import rivals_by_policy
from spillway.app import pools, status
from spillway.app.act_events import ActEvent, event_of, why_replicas_move
from spillway.app.caches import POLICIES, POOLS, WORKLOADS
from spillway.app.operations import WRITE_SECONDS, HoldsLease
from spillway.app.snapshots import View
from spillway.app.status import StatusUpdate, Stored, Verdict
from spillway.core.cost import Bill, PayerCost, PoolBill
from spillway.core.model import Act, ApplyTwin, Node, ObjectKey, Operation, OperationState, SetReplicas
from spillway.core.plan import Decision, FallbackReason, InactiveReason, Plan, PoolDecision
from spillway.core.prices import BadPrice

log = logging.getLogger(__name__)

Raw = Mapping[str, Any]

# Turning to this is worth an Event: something a person may have to do.
TROUBLE = {
    ConditionType.CONFLICT: "True",
    ConditionType.METRICS_AVAILABLE: "False",
    ConditionType.SCALING_ACTIVE: "False",
    ConditionType.CAPACITY_AVAILABLE: "False",
    ConditionType.FALLBACK_ACTIVE: "True",
    ConditionType.BASELINE_ISOLATED: "False",
}

# Somebody wants it so, or it gets better: no warning.
CALM = frozenset({InactiveReason.OBSERVE.value, InactiveReason.PAUSED.value, FallbackReason.RETURNING.value})

# An act that goes on failing for one reason is told of this often at most.
SAME_FAILURE = timedelta(minutes=5)

# A start writes one status per workload. A quarter of the client's slots, so that writes of replicas never wait behind them.
PARALLEL_REPORTS = 4


@dataclass(slots=True)
class _Told:
    """What was last stored for one object, whether a write is on its way, and whether replicas landed since."""

    stored: Stored
    busy: bool = False
    scaled: bool = False


class Reporter:
    """Writes status and Events in tasks of their own, so that a pass never waits for them.

    Nothing is written without the Lease. What could not be written is written by a later pass: each compares with what was
    stored last, so the first difference brings it up again.
    """

    def __init__(
        self, client: KubeClient, *, lease: HoldsLease, identity: str, steady: Clock, wall: WallClock
    ) -> None:
        self._client = client
        self._lease = lease
        self._identity = identity
        self._steady = steady
        self._wall = wall
        self._told: dict[str, _Told] = {}
        self._said: dict[str, tuple[int, str]] = {}
        self._failures: dict[str, tuple[ActEvent, datetime]] = {}
        self._bad_prices: frozenset[BadPrice] = frozenset()
        self._pool_uids: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(PARALLEL_REPORTS)

    def report(self, plan: Plan, view: View, bill: Bill, *, now: datetime) -> None:
        """Write what changed for every workload, policy and pool of the view."""
        for key, decision in plan.decisions.items():
            self._log(decision)
            make = partial(_workload_status, decision, view.converted[key], bill.of_workload(key), now)
            self._store(WORKLOADS, key, view.raw[key], make)
        for invalid in view.invalid:
            self._store(WORKLOADS, invalid.key, view.raw[invalid.key], partial(_invalid_status, invalid, now))
        self._report_policies(view, now=now)
        self._report_pools(plan, view, bill, now=now)
        self._forget_all_but(view)

    def note(self, operation: Operation, decision: Decision | None) -> None:
        """Post an Event about an act that ended, and remember that a write of replicas landed."""
        act = operation.act
        told = self._told.get(decision.uid) if decision is not None else None
        if told is not None and operation.state is OperationState.LANDED and _changes_a_count(act):
            told.scaled = True
        event = event_of(operation, why=why_replicas_move(decision))
        if event is None or self._was_told(operation, event):
            return
        if event.workload is not None and decision is not None:
            self._post(
                WORKLOADS,
                event.workload,
                decision.uid,
                reason=event.reason,
                message=event.message,
                type=event.type,
            )
        elif event.pool in self._pool_uids:
            uid = self._pool_uids[event.pool]
            key = ObjectKey("", event.pool)
            self._post(POOLS, key, uid, reason=event.reason, message=event.message, type=event.type)

    def _was_told(self, operation: Operation, event: ActEvent) -> bool:
        """Whether the same failure of an act on the same subject was told of lately."""
        subject, now = operation.act.subject, self._wall()
        if operation.state is not OperationState.FAILED:
            self._failures.pop(subject, None)
            return False
        last = self._failures.get(subject)
        if last is not None and last[0] == event and now - last[1] < SAME_FAILURE:
            return True
        self._failures[subject] = event, now
        return False

    def forget(self) -> None:
        """Forget what was stored: another operator may have written since."""
        self._told.clear()
        self._said.clear()
        self._failures.clear()

    async def stop(self, *, seconds: float = WRITE_SECONDS) -> None:
        """Let writes that are under way end, at most for *seconds*."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=seconds)
            for task in late:
                task.cancel()

    def _report_policies(self, view: View, *, now: datetime) -> None:
        labels = {namespace.name: namespace.labels for namespace in view.namespaces}
        rivals = rivals_by_policy(tuple(view.policies.values()), labels)
        for name, policy in view.policies.items():
            make = partial(_policy_status, policy.generation, None, rivals.get(name, ()), now)
            self._store(POLICIES, ObjectKey("", name), view.raw_policies[name], make)
        for invalid in view.invalid_policies:
            make = partial(_policy_status, invalid.generation, invalid.message, (), now)
            self._store(POLICIES, invalid.key, view.raw_policies[invalid.key.name], make)

    def _report_pools(self, plan: Plan, view: View, bill: Bill, *, now: datetime) -> None:
        self._pool_uids = {name: found.pool.uid for name, found in view.pools.items()}
        nodes = {node.name: node for node in view.snapshot.nodes}
        for name, found in bill.pools.items():
            make = partial(_pool_status, view.pools[name], found, plan.pools.get(name), now, nodes=nodes)
            self._store(POOLS, ObjectKey("", name), view.raw_pools[name], make)
        for invalid in view.invalid_pools:
            make = partial(_invalid_pool_status, invalid, now)
            self._store(POOLS, invalid.key, view.raw_pools[invalid.key.name], make)
        self._log_bad_prices(frozenset(bill.outside.bad_prices))

    def _log_bad_prices(self, found: frozenset[BadPrice]) -> None:
        """Nodes in no pool have no status of ours that could say it."""
        for bad in found - self._bad_prices:
            log.warning("ignored the price annotation of node %s: %s", bad.node, bad.message)
        self._bad_prices = found

    def _store(
        self, resource: Resource, key: ObjectKey, raw: Raw, make: Callable[[_Told], StatusUpdate]
    ) -> None:
        uid = raw["metadata"]["uid"]
        told = self._told.setdefault(uid, _Told(stored=raw.get("status") or {}))
        if told.busy:
            return
        update = make(told)
        if not update.changed or not self._may_write():
            return
        told.busy = True
        self._spawn(self._write(resource, key, uid, told, update))

    async def _write(
        self, resource: Resource, key: ObjectKey, uid: str, told: _Told, update: StatusUpdate
    ) -> None:
        # Replicas that land while this waits for its turn belong to the next status.
        scaled, told.scaled = told.scaled, False
        is_stored = await self._write_in_turn(resource, key, uid, told, update)
        told.busy = False
        if not is_stored:
            told.scaled |= scaled
            return
        before, told.stored = told.stored, update.status
        for verdict in update.turned:
            if _is_trouble(resource, verdict):
                self._post_verdict(resource, key, uid, verdict)
            elif _ends_fallback(verdict, before):
                self._post(resource, key, uid, reason="FallbackEnded", message=verdict.message)

    async def _write_in_turn(
        self, resource: Resource, key: ObjectKey, uid: str, told: _Told, update: StatusUpdate
    ) -> bool:
        """Say whether the status was written; not if the Lease or the object went while it waited."""
        try:
            async with self._slots:
                if not self._may_write() or self._told.get(uid) is not told:
                    return False
                await write.replace_status(self._client, resource, key, uid=uid, status=update.status)
        except NotFound:
            return False
        except KubeError as exc:
            log.warning("status of %s %s not written: %s", resource.kind, key, exc)
            return False
        return True

    def _post_verdict(self, resource: Resource, key: ObjectKey, uid: str, verdict: Verdict) -> None:
        kind = EventType.NORMAL if verdict.reason.value in CALM else EventType.WARNING
        self._post(resource, key, uid, reason=verdict.reason.value, message=verdict.message, type=kind)

    def _post(
        self,
        resource: Resource,
        key: ObjectKey,
        uid: str,
        *,
        reason: str,
        message: str,
        type: EventType = EventType.NORMAL,  # noqa: A002  # the API's own word
    ) -> None:
        if not self._may_write():
            return
        self._spawn(self._post_quietly(resource, key, uid, reason=reason, message=message, type=type))

    async def _post_quietly(
        self,
        resource: Resource,
        key: ObjectKey,
        uid: str,
        *,
        reason: str,
        message: str,
        type: EventType,  # noqa: A002  # the API's own word
    ) -> None:
        try:
            async with self._slots:
                if not self._may_write():
                    return
                await write.post_event(
                    self._client,
                    resource,
                    key,
                    uid=uid,
                    reason=reason,
                    message=message,
                    type=type,
                    instance=self._identity,
                    now=self._wall,
                )
        except KubeError as exc:
            log.info("event %s about %s not posted: %s", reason, key, exc)

    def _may_write(self) -> bool:
        return self._lease.held_for(self._steady() + WRITE_SECONDS)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _log(self, decision: Decision) -> None:
        """One line when the result or its reason changes; steady state is silent."""
        line = (decision.desired, decision.reason)
        if decision.in_flight or self._said.get(decision.uid) == line:
            return
        self._said[decision.uid] = line
        log.info(
            "%s: %d → %d replicas, %s: %s",
            decision.key,
            decision.current,
            decision.desired,
            decision.reason,
            decision.why,
            extra={
                "workload": str(decision.key),
                "current": decision.current,
                "desired": decision.desired,
                "reason": decision.reason,
                "proposal": decision.proposal,
                "limiters": [limit.reason.value for limit in decision.limits],
            },
        )

    def _forget_all_but(self, view: View) -> None:
        stored = (*view.raw.values(), *view.raw_policies.values(), *view.raw_pools.values())
        alive = {raw["metadata"]["uid"] for raw in stored}
        for uid in self._told.keys() - alive:
            del self._told[uid]
        for uid in self._said.keys() - alive:
            del self._said[uid]


def _changes_a_count(act: Act) -> bool:
    """Whether replicas are written by it: a twin that is made is, one that is brought in step is not."""
    return isinstance(act, SetReplicas) or (isinstance(act, ApplyTwin) and act.count is not None)


def _is_trouble(resource: Resource, verdict: Verdict) -> bool:
    """Whether *verdict* is worth an Event. Of a pool, whose other aspects have no condition, Ready itself may tell it."""
    if TROUBLE.get(verdict.type) == verdict.status:
        return True
    is_pools_own = (
        resource is POOLS and verdict.type is ConditionType.READY and verdict.status == status.FALSE
    )
    return is_pools_own and verdict.reason is not ReadyReason.CONFLICT


def _ends_fallback(verdict: Verdict, before: Stored) -> bool:
    """Whether spot carries again what stood in for it: the good end of a trouble that was told of."""
    if verdict.type is not ConditionType.FALLBACK_ACTIVE or verdict.status != status.FALSE:
        return False
    return any(
        found.get("type") == verdict.type.value and found.get("status") == status.TRUE
        for found in before.get("conditions") or ()
        if isinstance(found, Mapping)
    )


def _workload_status(
    decision: Decision, converted: Converted, cost: PayerCost | None, now: datetime, told: _Told
) -> StatusUpdate:
    return status.workload_status(
        decision, converted, stored=told.stored, scaled=told.scaled, now=now, cost=cost
    )


def _pool_status(
    pool: ConvertedPool,
    bill: PoolBill,
    plan: PoolDecision | None,
    now: datetime,
    told: _Told,
    *,
    nodes: Mapping[str, Node],
) -> StatusUpdate:
    return pools.pool_status(pool, bill, plan, nodes=nodes, stored=told.stored, now=now)


def _invalid_pool_status(invalid: Invalid, now: datetime, told: _Told) -> StatusUpdate:
    return pools.invalid_pool_status(invalid, stored=told.stored, now=now)


def _invalid_status(invalid: Invalid, now: datetime, told: _Told) -> StatusUpdate:
    return status.invalid_status(invalid, stored=told.stored, now=now)


def _policy_status(
    generation: int, problem: str | None, rivals: Sequence[str], now: datetime, told: _Told
) -> StatusUpdate:
    return status.policy_status(
        generation=generation, problem=problem, rivals=rivals, stored=told.stored, now=now
    )
