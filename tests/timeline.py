"""A small world in simulated time, so that a test reads as a time-line: `line.at("5m", util=.1).expect(replicas=4)`.

The world plays the part of the cluster and of Prometheus: pods find a node or not, load for a while, turn Ready, report their
utilization; what is confirmed lands before the next pass. Decisions come from the real `decide` and `confirm`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from spillway.core import engine
from spillway.core.confirm import Key, Pending, confirm
from spillway.core.memory import Memory
from spillway.core.model import (
    ForeignAutoscaler,
    Operation,
    OperationState,
    Pod,
    PodPhase,
    SetReplicas,
    Snapshot,
    Workload,
)
from spillway.core.plan import Decision, Plan
from spillway.core.replay import replay
from spillway.core.signal import Collected, Collection, DeviceSample, Liveness, NotCollected, SignalReason

from .builders import NOW, make_deployment, make_pod, make_replica_set, make_workload, seconds

STEP = seconds(15)
SMOOTHED = 4  # collections in the 60 s over which a utilization is a mean
UNITS = {"s": 1, "m": 60, "h": 3600}
COUNTS = frozenset({"ready", "settled", "loading", "unschedulable", "broken", "terminating"})


def span(text: str) -> timedelta:
    """Read `90s`, `5m`, `1h30m`."""
    parts = re.findall(r"(\d+)([smh])", text)
    assert "".join(number + unit for number, unit in parts) == text, text
    return timedelta(seconds=sum(int(number) * UNITS[unit] for number, unit in parts))


@dataclass(slots=True)
class World:
    """What the next passes find. `util` is every serving pod's utilization, else `demand` ÷ serving pods, smoothed over 60 s.

    `room` is how many pods find a node; `reporting` the share of pods with samples; `outage` makes the query fail.
    """

    util: float | None = 0.6
    demand: float | None = None
    ready_after: float = 40
    room: int = 1000
    reporting: float = 1.0
    outage: bool = False
    liveness: Liveness = Liveness.RISING
    disagrees: bool = False
    crash: bool = False
    autoscalers: tuple[ForeignAutoscaler, ...] = ()


@dataclass(slots=True)
class _LivePod:
    name: int
    revision: int
    created_at: datetime
    scheduled_at: datetime | None = None
    ready_at: datetime | None = None
    crashed: bool = False
    readings: list[tuple[datetime, float]] = field(default_factory=list)


class Timeline:
    """Passes every 15 s from 0 on; `at` plays up to a moment, changes the world there and makes that pass."""

    def __init__(
        self,
        workload: Workload | None = None,
        *,
        replicas: int = 4,
        pending_timeout: float = 900,
        confirm_seconds: float = 15,
        **world: Any,  # noqa: ANN401 -- fields of World
    ) -> None:
        self.workload = workload or make_workload()
        self.deployment = make_deployment(self.workload.target, replicas)
        self.world = World(**world)
        self.memory = Memory()
        self.pending: Mapping[Key, Pending] = {}
        self.writes: list[tuple[int, SetReplicas]] = []
        self.counts: list[int] = []
        self.decisions: list[Decision] = []
        self.history: dict[tuple[str, str], list[tuple[datetime, float]]] = {}
        self._pending_timeout = seconds(pending_timeout)
        self._hold = seconds(confirm_seconds)
        self._now = NOW - STEP
        self._collection = 0
        self._landed: tuple[Operation, ...] = ()
        self._names = 0
        self._pods = [
            self._started(NOW - timedelta(hours=1), ready_at=NOW - timedelta(minutes=50))
            for _ in range(replicas)
        ]
        self.plan: Plan | None = None

    @property
    def elapsed(self) -> int:
        """Seconds since the start."""
        return int((self._now - NOW).total_seconds())

    @property
    def decision(self) -> Decision:
        return self.decisions[-1]

    @property
    def replicas(self) -> int:
        return self.deployment.replicas

    @property
    def directions(self) -> list[int]:
        """+1 or −1 for each write, in order."""
        return [1 if act.is_growth else -1 for _, act in self.writes]

    def at(self, when: str, **changes: Any) -> "Timeline":  # noqa: ANN401 -- fields of World
        """Play every pass before *when* in the old world, then the one at *when* in the changed world."""
        goal = NOW + span(when)
        while self._now + STEP < goal:
            self.step()
        self.change(**changes)
        self.step()
        return self

    def change(self, **changes: Any) -> "Timeline":  # noqa: ANN401 -- fields of World
        """Change the world without a pass; `util` and `demand` take each other's place."""
        if "util" in changes:
            self.world.demand = None
        for name, value in changes.items():
            assert hasattr(self.world, name), name
            setattr(self.world, name, value)
        return self

    def configure(self, **over: Any) -> "Timeline":  # noqa: ANN401 -- fields of Workload
        """The owner edits the GpuWorkload."""
        self.workload = replace(self.workload, **over)
        return self

    def somebody_sets(self, replicas: int) -> "Timeline":
        """A human scales the Deployment behind the operator's back."""
        self._set_replicas(replicas)
        return self

    def roll_out(self) -> "Timeline":
        """A new template: the next `finish_rollout` replaces the pods; until then the Deployment says it is behind."""
        self.deployment = replace(
            self.deployment, updated_replicas=0, revision=self.deployment.revision + 1, generation=2
        )
        return self

    def finish_rollout(self) -> "Timeline":
        self.deployment = replace(
            self.deployment, updated_replicas=self.deployment.replicas, observed_generation=2
        )
        return self

    def restart(self, *, with_history: bool = True) -> "Timeline":
        """The operator dies and comes back: memory is gone, and refilled from recorded metrics if there are any."""
        self.pending = {}
        self._landed = ()
        self._now += STEP
        snapshot = self._snapshot(self._collect())
        self._now -= STEP
        history = {pod: tuple(points) for pod, points in self.history.items()} if with_history else {}
        self.memory = replay(snapshot, history, self._now)
        return self

    def step(self) -> Plan:
        """One collection and one pass, 15 s after the last."""
        self._now += STEP
        self._collection += 1
        self._tend_pods()
        self._record()
        return self._pass(self._collect())

    def wake(self, *, after: float = 1) -> Plan:
        """A pass on a watch event: time moved a little, and the collection is the same."""
        activity = self._collect()
        now = self._now
        self._now = now + seconds(after)
        plan = self._pass(activity)
        self._now = now
        return plan

    def expect(self, **expected: Any) -> "Timeline":  # noqa: ANN401 -- compared with what is found
        """Compare what stands after the last pass: replicas, reason, state, cause, desired, limits, wrote, …"""
        found = {name: self._find(name) for name in expected}
        assert found == expected, f"at {self.elapsed} s: {self.decision.why}"
        return self

    def _find(self, name: str) -> Any:  # noqa: ANN401 -- whatever the test asks for
        found = {
            "replicas": lambda: self.replicas,
            "state": lambda: str(self.decision.signal.state),
            "signal": lambda: str(self.decision.signal.reason),
            "limits": lambda: [str(limit.reason) for limit in self.decision.limits],
            "wrote": lambda: bool(self.writes) and self.writes[-1][0] == self.elapsed,
            "writes": lambda: len(self.writes),
        }
        if name in found:
            return found[name]()
        if name in {"inactive", "capacity", "conflict"}:
            finding = getattr(self.decision, name)
            return None if finding is None else str(finding.reason)
        return getattr(self.decision.counts if name in COUNTS else self.decision, name)

    def _pass(self, activity: Collection) -> Plan:
        plan = engine.decide(self._snapshot(activity), self.memory, self._now)
        self.plan, self.memory = plan, plan.memory
        self.decisions.append(plan.decisions[self.workload.key])
        confirmed = confirm(
            plan.acts, self.pending, now=self._now, collection=self._collection, hold=self._hold
        )
        self.pending = confirmed.pending
        self._landed = tuple(Operation(act=act, state=OperationState.LANDED) for act in confirmed.acts)
        for act in confirmed.acts:
            assert act.before == self.replicas
            self.writes.append((self.elapsed, act))
            self._set_replicas(act.to)
        self.counts.append(self.replicas)
        return plan

    def _set_replicas(self, count: int) -> None:
        ready = sorted(self._pods, key=lambda pod: (pod.scheduled_at is not None, pod.ready_at is not None))
        self._pods = ready[max(0, len(ready) - count) :]
        self._pods += [self._started(self._now) for _ in range(count - len(self._pods))]
        rolling = self.deployment.updated_replicas < self.deployment.replicas
        updated = self.deployment.updated_replicas if rolling else count
        self.deployment = replace(
            self.deployment, replicas=count, status_replicas=count, updated_replicas=updated
        )

    def _started(self, now: datetime, *, ready_at: datetime | None = None) -> _LivePod:
        self._names += 1
        return _LivePod(
            name=self._names,
            revision=self.deployment.revision,
            created_at=now,
            scheduled_at=now if ready_at is not None else None,
            ready_at=ready_at,
        )

    def _tend_pods(self) -> None:
        placed = sum(1 for pod in self._pods if pod.scheduled_at is not None)
        for pod in self._pods:
            if pod.scheduled_at is None and placed < self.world.room:
                pod.scheduled_at, placed = self._now, placed + 1
                pod.crashed = self.world.crash
            if pod.scheduled_at is None or pod.ready_at is not None or pod.crashed:
                continue
            if self._now - pod.scheduled_at >= seconds(self.world.ready_after):
                pod.ready_at = self._now

    def _record(self) -> None:
        serving = [pod for pod in self._pods if pod.ready_at is not None]
        for pod in serving:
            value = self.world.util
            if self.world.demand is not None:
                value = min(1.0, self.world.demand / len(serving))
            if value is not None:
                pod.readings = [*pod.readings, (self._now, value)][-SMOOTHED:]
        if self.world.outage:
            return
        for pod, mean in self._reporting():
            key = (self.workload.key.namespace, self._pod(pod).key.name)
            self.history.setdefault(key, []).append((self._now, mean))

    def _reporting(self) -> list[tuple[_LivePod, float]]:
        serving = sorted((pod for pod in self._pods if pod.readings), key=lambda pod: pod.name)
        count = round(self.world.reporting * len(serving))
        return [(pod, self._measured(pod)) for pod in serving[:count]]

    def _measured(self, pod: _LivePod) -> float:
        if self.world.demand is None:
            return pod.readings[-1][1]
        return sum(value for _, value in pod.readings) / len(pod.readings)

    def _collect(self) -> Collection:
        if self.world.outage:
            return NotCollected(
                since=self._now, reason=SignalReason.PROMETHEUS_UNREACHABLE, message="Prometheus is away"
            )
        samples = {}
        for pod, mean in self._reporting():
            key = self._pod(pod).key
            samples[(key.namespace, key.name)] = (
                DeviceSample(
                    device=f"gpu-{pod.name}",
                    mean=mean,
                    sampled_at=self._now - seconds(5),
                    liveness=self.world.liveness,
                    disagrees=self.world.disagrees,
                ),
            )
        return Collected(at=self._now, pods=samples)

    def _snapshot(self, activity: Collection) -> Snapshot:
        revisions = {pod.revision for pod in self._pods} | {self.deployment.revision}
        return Snapshot(
            workloads=(self.workload,),
            deployments={self.deployment.key: self.deployment},
            replica_sets=tuple(
                make_replica_set(self.workload.target, revision=revision) for revision in revisions
            ),
            pods=tuple(self._pod(pod) for pod in self._pods),
            activity=activity,
            autoscalers=self.world.autoscalers,
            operations=self._landed,
            collection=self._collection,
            pending_timeout=self._pending_timeout,
        )

    def _pod(self, pod: _LivePod) -> Pod:
        if pod.scheduled_at is None:
            phase, since = PodPhase.UNSCHEDULABLE, pod.created_at
        elif pod.crashed:
            phase, since = PodPhase.BROKEN, pod.scheduled_at
        elif pod.ready_at is None:
            phase, since = PodPhase.LOADING, pod.scheduled_at
        else:
            phase, since = PodPhase.READY, pod.ready_at
        return make_pod(
            pod.name,
            phase,
            of=self.workload.target,
            revision=pod.revision,
            since=since,
            created_at=pod.created_at,
            node=None if pod.scheduled_at is None else "node-1",
        )
