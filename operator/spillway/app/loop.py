"""The loop: snapshot, decide, confirm, act, report. It awaits no network; everything slow runs beside it."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from spillway.adapters.kube.clock import Clock
from spillway.app.activity import ActivityCollector
from spillway.app.caches import Caches
from spillway.app.metrics import Metrics
from spillway.app.operations import HoldsLease, Operations, Seen
from spillway.app.pool_states import PoolCollector, doubted
from spillway.app.report import Reporter
from spillway.app.snapshots import SnapshotBuilder, Timings, View
from spillway.app.wakeup import Leadership, Wakeup
from spillway.core import confirm, engine
from spillway.core.cost import Bill, draw_bill
from spillway.core.memory import Memory
from spillway.core.model import (
    Act,
    ApplyTwin,
    DeleteTwin,
    Mode,
    Operation,
    OperationState,
    SetReplicas,
    Snapshot,
)
from spillway.core.plan import Decision, Plan
from spillway.core.replay import History, replay
from spillway.core.signal import NotCollected

log = logging.getLogger(__name__)

DEBOUNCE_SECONDS = 0.25  # a rollout or a reclaim comes as a burst of events; decide once for all of them
ENDED = frozenset({OperationState.LANDED, OperationState.FAILED})
STALL_EVALUATIONS = 4  # passes missed in a row before the probe fails


class ReadsHistory(Protocol):
    """Where windows are refilled from after a takeover."""

    async def history(self, *, window: timedelta, step: timedelta) -> History | NotCollected:
        """Return recorded utilization per pod over the last *window*."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastPass:
    """The outcome that `explain` and `top` read: plan, view, cost, when it was made, and what waits to be confirmed."""

    plan: Plan
    view: View
    at: datetime
    bill: Bill = field(default_factory=Bill)
    pending: Mapping[confirm.Key, confirm.Pending] = field(default_factory=dict)
    hold: timedelta = timedelta(0)


@dataclass(slots=True, kw_only=True)
class Loop:
    """Drives the decisions of one operator. Make it in `app.wiring`; `run` goes on until cancelled."""

    caches: Caches
    builder: SnapshotBuilder
    activity: ActivityCollector
    pool_states: PoolCollector
    history: ReadsHistory
    operations: Operations
    reporter: Reporter
    lease: HoldsLease
    leadership: Leadership
    wakeup: Wakeup
    metrics: Metrics
    timings: Timings
    fleet_mode: Callable[[], Mode]
    now: Callable[[], datetime]
    steady: Clock
    wall: Callable[[], datetime]
    last: LastPass | None = None
    waiting: str = "starting"
    _memory: Memory | None = None
    _refill: asyncio.Task[History | NotCollected] | None = None
    _pending: Mapping[confirm.Key, confirm.Pending] = field(default_factory=dict)
    _why: dict[str, Decision] = field(default_factory=dict)
    _term: int = 0
    _beat: float = 0.0

    def _begin_term(self) -> None:
        """Forget everything of the last term: another operator may have written since."""
        self._term = self.leadership.term
        self.metrics.leader.set(self.leadership.leads)
        self.metrics.workloads.forget()
        self.metrics.costs.forget()
        self.metrics.pools.forget()
        self._memory = None
        if self._refill is not None:
            self._refill.cancel()
            self._refill = None
        self._pending = {}
        self._why.clear()
        self.last = None
        self.reporter.forget()

    @property
    def stalled_seconds(self) -> float:
        """How long the loop has not come round, beyond its longest lawful wait; 0 while it is alive."""
        limit = self.timings.evaluation.total_seconds() * STALL_EVALUATIONS
        return max(0.0, self.steady() - self._beat - limit)

    async def run(self) -> None:
        """Run passes until cancelled: on each wake-up, when the plan's own time comes, and at every evaluation."""
        self._beat = self.steady()
        while True:
            await self.wakeup.wait(seconds=self._patience())
            started = self.steady()
            result = self._one_pass()
            self._beat = self.steady()
            lasted = self._beat - started
            self.metrics.passes.labels(result).inc()
            self.metrics.pass_seconds.observe(lasted)
            await asyncio.sleep(max(DEBOUNCE_SECONDS, 2 * lasted))

    def _patience(self) -> float:
        """Seconds until time alone could change something, one evaluation at most."""
        seconds = self.timings.evaluation.total_seconds()
        wake_at = self._wake_at()
        return seconds if wake_at is None else min(seconds, (wake_at - self.now()).total_seconds())

    def _wake_at(self) -> datetime | None:
        times = [found.since + self.timings.confirm for found in self._pending.values()]
        if self.last is not None and self.last.plan.wake_at is not None:
            times.append(self.last.plan.wake_at)
        ahead = [at for at in times if at > self.now()]
        return min(ahead, default=None)

    def _one_pass(self) -> str:
        """Run one pass and return how it ended. A bug in it is logged and does not end the loop: the next pass is fresh."""
        try:
            return self._decide_and_act()
        except Exception:  # the loop is the operator: it must outlive one bad pass
            log.exception("a pass failed; nothing was decided in it")
            self._pending = {}
            return "error"

    def _decide_and_act(self) -> str:
        if self._term != self.leadership.term:
            self._begin_term()
        obstacle = self._obstacle()
        if obstacle is not None:
            if obstacle != self.waiting:
                log.warning("not deciding: %s", obstacle)
            self.waiting = obstacle
            self._pending = {}
            return "waiting"
        if self.waiting:
            log.info("deciding")
            self.waiting = ""
        view = self._view()
        memory = self._memory or self._refilled(view)
        if memory is None:
            return "refilling"
        self._pass(view, memory)
        return "ok"

    def _obstacle(self) -> str | None:
        """Why no plan may be made now; None when all is well."""
        ages = self.caches.ages()
        for kind, age in ages.items():
            self.metrics.cache_age.labels(kind).set(min(age, timedelta(days=365)).total_seconds())
        if not self.lease.held_for(self.steady()):
            return "the Lease is not ours; another operator may hold it"
        if not self.caches.synced:
            return self._unsynced()
        oldest = max(self.caches.kinds_for_decisions, key=lambda kind: ages[kind])
        if ages[oldest] > self.timings.cache_max_age:
            limit = int(self.timings.cache_max_age.total_seconds())
            return (
                f"the {oldest} cache is older than {limit} s; check the API server and the operator's rights"
            )
        return None

    def _unsynced(self) -> str:
        problems = self.caches.problems
        if problems:
            return f"not every kind could be listed: {problems[0].message}"
        return "the caches are being filled"

    def _view(self) -> View:
        operations = self.operations.collect(
            Seen(
                deployments=self.caches.deployments.store,
                nodes=self.caches.nodes.store,
                heard=self.pool_states.heard,
            )
        )
        for operation in operations:
            self._note(operation)
        self.pool_states.ask_unheard()
        return self.builder.build(
            activity=self.activity.latest(),
            collection=self.activity.serial,
            operations=operations,
            fleet_mode=self.fleet_mode(),
            pool_states=doubted(
                self.pool_states.latest(), self.caches.pools_blinded_by(self.timings.cache_max_age)
            ),
        )

    def _note(self, operation: Operation) -> None:
        """Tell of an act that ended; every one is seen ended exactly once."""
        if operation.state not in ENDED:
            return
        act = operation.act
        self.metrics.count_act(type(act).__name__, operation.state.value)
        if operation.state is OperationState.LANDED:
            log.info("%s on %s is done", type(act).__name__, act.subject)
        self.reporter.note(operation, self._why.pop(act.subject, None))
        if operation.state is OperationState.LANDED and isinstance(act, SetReplicas):
            self.metrics.workloads.scaled(act.workload, up=act.is_growth)

    def _refilled(self, view: View) -> Memory | None:
        """Replay recorded metrics into the windows; None while they are being read.

        Without history the windows start empty, and nothing shrinks until they are full.
        """
        windows = [workload.scale_down.window for workload in view.snapshot.workloads]
        if not windows:
            return Memory()
        if self._refill is None:
            self._refill = asyncio.create_task(
                self.history.history(
                    window=max(windows) + self.timings.stale_after, step=self.timings.evaluation
                ),
                name="read history",
            )
            self._refill.add_done_callback(lambda _: self.wakeup.wake("history"))
        if not self._refill.done():
            return None
        history = self._refill.result()
        self._refill = None
        if isinstance(history, NotCollected):
            log.warning("windows start empty, since history could not be read: %s", history.message)
            return Memory()
        return replay(view.snapshot, history, self.now())

    def _pass(self, view: View, memory: Memory) -> None:
        now = self.now()
        plan = engine.decide(view.snapshot, memory, now)
        confirmed = confirm.confirm(
            plan.acts,
            self._pending,
            now=now,
            collection=view.snapshot.collection,
            hold=self.timings.confirm,
        )
        self._memory, self._pending = plan.memory, confirmed.pending
        for act in confirmed.acts:
            decision = _decision_behind(act, plan)
            if decision is not None:
                self._why[act.subject] = decision
            self.operations.start(act)
        bill = _bill(view.snapshot) if self.caches.knows_nodes else Bill()
        self.last = LastPass(
            plan=plan, view=view, at=now, bill=bill, pending=confirmed.pending, hold=self.timings.confirm
        )
        self._tell(plan, view, bill, now=now)

    def _tell(self, plan: Plan, view: View, bill: Bill, *, now: datetime) -> None:
        wall = self.wall()
        self.reporter.report(plan, view, bill, now=wall)
        self.metrics.workloads.observe(plan.decisions, view.converted, now=now)
        self.metrics.costs.observe(bill, view.converted, view.pools, now=now)
        self.metrics.pools.observe(plan.pools)
        self.metrics.breaker.set(plan.breaker.is_open)
        self.metrics.invalid.labels("GpuWorkload").set(len(view.invalid))
        self.metrics.invalid.labels("GpuPolicy").set(len(view.invalid_policies))
        self.metrics.invalid.labels("GpuNodePool").set(len(view.invalid_pools))
        self.metrics.last_pass.set(wall.timestamp())


def _decision_behind(act: Act, plan: Plan) -> Decision | None:
    """Return the decision on the workload that *act* is about; None for acts on nodes and pools, and for a twin left behind."""
    match act:
        case SetReplicas(workload=key) | ApplyTwin(workload=key) | DeleteTwin(workload=key):
            return plan.decisions.get(key)
        case _:
            return None


def _bill(snapshot: Snapshot) -> Bill:
    """Return who pays what; a defect there costs the figures of this pass and no decision."""
    try:
        return draw_bill(snapshot)
    except Exception:  # money is told, not acted on: it must not keep replicas from being scaled
        log.exception("what the fleet costs is unknown in this pass")
        return Bill()
