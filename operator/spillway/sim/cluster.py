"""A small cluster in simulated time: what `core.engine.decide` is shown, and what its acts come to.

One Deployment and its twin, replicas of one GPU each, the market in process. Pods go onto nodes with room that accept them, load
for a while and serve; a node that is taken back is told so first. GPU utilization saturates at 1. Unchanged objects are shared
between steps.
"""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from spillway.adapters.cloud.base import CloudError
from spillway.adapters.cloud.simulated import Market
from spillway.adapters.cloud.simulated.machines import Machine
from spillway.core import engine
from spillway.core.confirm import Key, Pending, confirm
from spillway.core.memory import Memory
from spillway.core.model import (
    Act,
    ApplyTwin,
    CancelUnfulfilled,
    CordonMark,
    CordonNode,
    DeleteTwin,
    Deployment,
    DrainNode,
    EvictDoomed,
    FleetTimers,
    GrowPool,
    Node,
    NodePool,
    ObjectKey,
    Operation,
    OperationState,
    Pod,
    PodPhase,
    ReplicaSet,
    SetReplicas,
    Snapshot,
    TwinFacts,
    UncordonNode,
    Workload,
)
from spillway.core.plan import Plan
from spillway.core.scheduling import Constraints, Taint, Toleration
from spillway.core.signal import (
    Collected,
    Collection,
    DeviceSample,
    Liveness,
    NotCollected,
    SignalReason,
)

GPU: Final = "nvidia.com/gpu"
SPOT_TAINT: Final = Taint("spot", "true")
NOTICE_TAINT: Final = Taint("aws-node-termination-handler/spot-itn")
ONE: Final[Mapping[str, int]] = {GPU: 1, "pods": 1}
ON_SPOT: Final = Constraints(tolerations=(Toleration(key="spot", value="true"),))
NAMESPACE: Final = "sim"
SOURCE: Final = "source"
BURST: Final = "burst"
WINDOW: Final = timedelta(seconds=60)  # the operator's setting signalWindowSeconds
_NOT_YET: Final = NotCollected(
    since=datetime.min.replace(tzinfo=UTC), reason=SignalReason.NOT_COLLECTED, message="Not collected yet"
)


@dataclass(slots=True)
class _Replica:
    """A live pod: which Deployment it is of, its node, and when it serves."""

    pod: Pod
    tier: str
    serves_at: datetime | None = None


@dataclass(slots=True)
class SimCluster:
    """One workload on pools of *market*. `step` plays ten seconds or so; `ready` is what serves.

    Utilization is read every `scrape`, or in every step where steps are longer; its mean over `window` is collected with each
    evaluation, and passes between two of them see the older one. `timers` are the operator's about nodes.
    """

    workload: Workload
    pools: tuple[NodePool, ...]
    market: Market
    load_time: timedelta
    evaluation: timedelta
    hold: timedelta
    now: datetime
    window: timedelta = WINDOW
    scrape: timedelta = timedelta(0)
    timers: FleetTimers = field(default_factory=FleetTimers)
    memory: Memory = field(default_factory=Memory)
    plan: Plan | None = None
    _pending: Mapping[Key, Pending] = field(default_factory=dict)
    _operations: tuple[Operation, ...] = ()
    _replicas: dict[str, _Replica] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)
    _twin: TwinFacts | None = None
    _marks: dict[str, CordonMark] = field(default_factory=dict)
    _nodes: dict[str, Node] = field(default_factory=dict)
    _readings: deque[tuple[datetime, float]] = field(default_factory=deque)
    _collection: int = 0
    _activity: Collection = _NOT_YET
    _serial: int = 0
    _due: datetime | None = None

    @property
    def counts(self) -> Mapping[str, int]:
        """What the Deployment and its twin are set to, by tier."""
        return self._counts

    @property
    def marks(self) -> Mapping[str, CordonMark]:
        """Our marks on nodes."""
        return self._marks

    @property
    def source(self) -> ObjectKey:
        """The Deployment that the workload names."""
        return self.workload.target_key

    @property
    def ready(self) -> int:
        """Replicas that serve."""
        return sum(self.serving())

    def serving(self) -> tuple[int, int]:
        """Replicas that serve on demand, and on spot."""
        tiers = [found.tier for found in self._replicas.values() if found.pod.phase is PodPhase.READY]
        spot = tiers.count(BURST)
        return len(tiers) - spot, spot

    def begin(self, replicas: int) -> None:
        """Begin with so many replicas of the source, asked for and not yet there."""
        self._counts[SOURCE] = max(replicas, self.workload.min_replicas)
        self._due = self.now

    def step(self, now: datetime, load: float) -> None:
        """Let everything happen until *now* under *load*, and decide where an evaluation is due or something happened."""
        self.now = now
        self.market.advance(now)
        changed = self._see_nodes()
        changed |= self._keep_counts()
        changed |= self._schedule()
        changed |= self._serve()
        self._read(load)
        # What was carried out in the last pass shows now, as an event of the watch does.
        if self._due is None or now >= self._due or changed or self._operations:
            self._decide()

    def _read(self, load: float) -> None:
        if self._readings and self.now - self._readings[-1][0] < self.scrape:
            return
        ready = self.ready
        self._readings.append((self.now, min(1.0, load / ready) if ready else 1.0))
        while self._readings[0][0] <= self.now - self.window:
            self._readings.popleft()

    # What the cluster does by itself

    def _see_nodes(self) -> bool:
        """Make Nodes of machines that run, and lose what was on those that went."""
        seen: dict[str, Node] = {}
        for pool in self.pools:
            for machine in self.market.machines(pool.name):
                if machine.joined:
                    node = self._node(pool, machine)
                    seen[node.name] = node
        gone = self._nodes.keys() - seen.keys()
        changed = bool(gone) or any(self._nodes.get(name) is not node for name, node in seen.items())
        self._nodes = seen
        for uid, found in list(self._replicas.items()):
            if found.pod.node in gone:
                del self._replicas[uid]
        for name in gone:
            self._marks.pop(name, None)
        return changed

    def _node(self, pool: NodePool, machine: Machine) -> Node:
        known = self._nodes.get(machine.node)
        mark = self._marks.get(machine.node)
        taints = (*pool.taints, *((NOTICE_TAINT,) if machine.notice is not None else ()))
        if known is not None and known.taints == taints and known.mark == mark:
            return known
        return Node(
            name=machine.node,
            uid=machine.id,
            ready=True,
            unschedulable=mark is not None,
            labels=pool.selector,
            devices={GPU: pool.gpus_per_node},
            allocatable={GPU: pool.gpus_per_node, "pods": 110},
            taints=taints,
            mark=mark,
            created_at=machine.since,
            provider_id=machine.id,
        )

    def _keep_counts(self) -> bool:
        """Make and end pods as ReplicaSets do: those without a node go first, then the newest."""
        changed = False
        for tier, count in self._counts.items():
            own = [found for found in self._replicas.values() if found.tier == tier]
            for _ in range(count - len(own)):
                self._add(tier)
                changed = True
            surplus = len(own) - count
            if surplus > 0:
                for found in sorted(own, key=_goes_first)[:surplus]:
                    del self._replicas[found.pod.uid]
                changed = True
        return changed

    def _add(self, tier: str) -> None:
        self._serial += 1
        name = f"{tier}-{self._serial}"
        self._replicas[name] = _Replica(
            pod=Pod(
                key=ObjectKey(NAMESPACE, name),
                uid=name,
                owner_uid=f"rs-{tier}",
                owner_kind="ReplicaSet",
                phase=PodPhase.UNSCHEDULABLE,
                created_at=self.now,
                since=self.now,
                gpus=1,
                devices={GPU: 1},
                requests=ONE,
                constraints=ON_SPOT_ONLY if tier == BURST else Constraints(),
            ),
            tier=tier,
        )

    def _schedule(self) -> bool:
        waiting = [found for found in self._replicas.values() if found.pod.node is None]
        if not waiting:
            return False
        taken = Counter(found.pod.node for found in self._replicas.values())
        room = {
            name: node.allocatable[GPU] - taken[name]
            for name, node in sorted(self._nodes.items())
            if not node.unschedulable
        }
        changed = False
        for found in waiting:
            fitting = [name for name, left in room.items() if left > 0 and _takes(self._nodes[name], found)]
            if not fitting:
                continue
            node = max(fitting, key=room.__getitem__)  # the emptiest, as the scheduler's own scores have it
            room[node] -= 1
            found.pod = replace(found.pod, node=node, phase=PodPhase.LOADING, since=self.now)
            found.serves_at = self.now + self.load_time
            changed = True
        return changed

    def _serve(self) -> bool:
        changed = False
        for found in self._replicas.values():
            if found.serves_at is not None and self.now >= found.serves_at:
                found.pod = replace(found.pod, phase=PodPhase.READY, since=self.now)
                found.serves_at = None
                changed = True
        return changed

    # What the operator does

    def _decide(self) -> None:
        if self._due is None or self.now >= self._due:
            self._due = self.now + self.evaluation
            self._collect()
        snapshot = self._snapshot()
        plan = engine.decide(snapshot, self.memory, self.now)
        confirmed = confirm(
            plan.acts, self._pending, now=self.now, collection=self._collection, hold=self.hold
        )
        self.plan, self.memory, self._pending = plan, plan.memory, confirmed.pending
        self._operations = tuple(self._carry_out(act) for act in confirmed.acts)

    def _collect(self) -> None:
        """Collect anew, as the operator does with each evaluation."""
        mean = sum(value for _, value in self._readings) / len(self._readings)
        sampled_at, _ = self._readings[-1]
        sample = (DeviceSample(device="gpu", mean=mean, sampled_at=sampled_at, liveness=Liveness.RISING),)
        ready = [found.pod.key for found in self._replicas.values() if found.pod.phase is PodPhase.READY]
        self._activity = Collected(at=self.now, pods={(key.namespace, key.name): sample for key in ready})
        self._collection += 1

    def _snapshot(self) -> Snapshot:
        states = {pool.name: self.market.describe(pool.name, now=self.now) for pool in self.pools}
        pods = tuple(found.pod for found in self._replicas.values())
        return Snapshot(
            workloads=(self.workload,),
            deployments=self._deployments(),
            replica_sets=_REPLICA_SETS,
            pods=pods,
            activity=self._activity,
            collection=self._collection,
            operations=self._operations,
            nodes=tuple(self._nodes.values()),
            pools=self.pools,
            pool_states=states,
            evaluation=self.evaluation,
            timers=self.timers,
        )

    def _deployments(self) -> Mapping[ObjectKey, Deployment]:
        found = {self.source: self._deployment(SOURCE, self.source, None)}
        if self._twin is not None:
            key = ObjectKey(NAMESPACE, f"{self.source.name}-burst")
            found[key] = self._deployment(BURST, key, self._twin)
        return found

    def _deployment(self, tier: str, key: ObjectKey, twin: TwinFacts | None) -> Deployment:
        count = self._counts.get(tier, 0)
        return Deployment(
            key=key,
            uid=f"deployment-{tier}",
            resource_version="1",
            generation=1,
            observed_generation=1,
            replicas=count,
            updated_replicas=count,
            status_replicas=count,
            selector="app=sim",
            gpus_per_pod=1,
            revision=1,
            requests=ONE,
            constraints=ON_SPOT_ONLY if twin is not None else Constraints(),
            template="sim",
            twin=twin,
        )

    def _carry_out(self, act: Act) -> Operation:
        try:
            self._do(act)
        except CloudError as exc:
            return Operation(act=act, state=OperationState.FAILED, error=str(exc))
        return Operation(act=act, state=OperationState.LANDED)

    def _do(self, act: Act) -> None:
        match act:
            case SetReplicas():
                self._set(act)
            case ApplyTwin():
                self._counts[BURST] = act.replicas
                self._twin = TwinFacts(
                    workload_uid=act.workload_uid,
                    source_uid=act.source_uid,
                    template=act.template,
                    pools=tuple(pool.name for pool in act.pools),
                )
            case DeleteTwin():
                self._counts.pop(BURST, None)
                self._twin = None
            case GrowPool():
                self.market.grow(act.pool, to=act.to, before=act.before, token=self._token(), now=self.now)
            case CancelUnfulfilled():
                self.market.cancel_unfulfilled(
                    act.pool, to=act.to, before=act.before, token=self._token(), now=self.now
                )
            case CordonNode():
                self._marks[act.node] = CordonMark(cause=act.cause, id=act.id, since=self.now)
            case UncordonNode():
                self._marks.pop(act.node, None)
            case EvictDoomed():
                pass  # pods serve on until their machine goes, as a notice lets them
            case DrainNode():
                self._drain(act)
            case _:
                pass

    def _set(self, act: SetReplicas) -> None:
        tier = SOURCE if act.target == self.source else BURST
        self._counts[tier] = act.to
        for victim in act.victims[: act.before - act.to]:
            self._replicas.pop(victim.uid, None)

    def _drain(self, act: DrainNode) -> None:
        for uid, found in list(self._replicas.items()):
            if found.pod.node == act.node:
                del self._replicas[uid]
        self.market.remove(act.pool, instance=act.instance, node=act.node, token=act.id, now=self.now)

    def _token(self) -> str:
        self._serial += 1
        return f"t{self._serial}"


ON_SPOT_ONLY: Final = replace(ON_SPOT, node_selector={"kind": "spot"})
_REPLICA_SETS: Final = tuple(
    ReplicaSet(
        key=ObjectKey(NAMESPACE, f"rs-{tier}"), uid=f"rs-{tier}", owner_uid=f"deployment-{tier}", revision=1
    )
    for tier in (SOURCE, BURST)
)


def _goes_first(found: _Replica) -> tuple[bool, bool, float]:
    """As a ReplicaSet chooses: without a node, then not Ready, then the newest."""
    pod = found.pod
    return pod.node is not None, pod.phase is PodPhase.READY, -pod.created_at.timestamp()


def _takes(node: Node, found: _Replica) -> bool:
    return found.pod.constraints.accepts(node.labels, node.taints)
