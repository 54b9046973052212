"""A fleet in simulated time, so that a test reads as a time-line: `line.demand = 6; line.run("10m"); line.market.reclaim("a", …)`.

The cluster and the market are those of `spillway simulate`, with what a story needs beside: people who cordon, Nodes that outlive
their machine, acts that fail, an operator that is killed and finds its way back from what status holds. Every step is kept, so that
a story can say what held all the time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from spillway.adapters.cloud.simulated import BootDelay, Market, PoolSpec
from spillway.core.memory import Memory
from spillway.core.model import (
    Act,
    CapacityType,
    ForgetNode,
    Mode,
    Node,
    NodeCondition,
    NodePool,
    NodePrice,
    Operation,
    OperationState,
    PodPhase,
    ProviderType,
    Snapshot,
    StoredPool,
    StoredSplit,
)
from spillway.core.plan import Decision, FallbackReason, Plan, PoolDecision
from spillway.core.signal import Collected, Collection
from spillway.sim.cluster import BURST, GPU, NAMESPACE, SOURCE, SPOT_TAINT, SimCluster

from .builders import NOW, make_capacity, make_workload, seconds
from .timeline import span

STEP = seconds(5)
ON_DEMAND = "demand"
PRICES = {CapacityType.ON_DEMAND: "4", CapacityType.SPOT: "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What was there after one step. `serving` counts replicas that serve, as (on demand, on spot)."""

    at: timedelta
    demand: float
    serving: tuple[int, int]
    source: int
    twin: int
    desired: int
    machines: Mapping[str, int]
    acts: tuple[Act, ...]

    @property
    def ready(self) -> int:
        """Replicas that serve."""
        return sum(self.serving)


@dataclass(slots=True)
class _Cluster(SimCluster):
    """The simulator's cluster, with people, Nodes that stay behind, acts that fail, and a status that outlives the operator."""

    cordoned: set[str] = field(default_factory=set)
    failing: tuple[type[Act], ...] = ()
    stored_splits: Mapping[str, StoredSplit] = field(default_factory=dict)
    stored_pools: Mapping[str, StoredPool] = field(default_factory=dict)
    tell: Callable[[Collected], Collection] | None = None
    _ghosts: dict[str, Node] = field(default_factory=dict)
    _forgotten: set[str] = field(default_factory=set)

    @property
    def nodes(self) -> Mapping[str, Node]:
        """All Nodes, those that outlived their machine included."""
        return self._nodes

    def restart(self) -> None:
        """Kill the operator between two passes and start it anew: acts under way are forgotten, those that were carried out are not."""
        self.memory = Memory()
        self._operations, self._pending = (), {}

    def _see_nodes(self) -> bool:
        before, held = dict(self._nodes), dict(self._replicas)
        # Called by its class: a class with slots is made anew, and super() would look in the old one.
        changed = SimCluster._see_nodes(self)
        left_behind = {name for pool in self.pools for name in self.market.pool_record(pool.name).ghosts}
        for name in before.keys() - self._nodes.keys():
            if name in left_behind - self._ghosts.keys() - self._forgotten:
                self._ghosts[name] = _silent(before[name], since=self.now)
        for uid, found in held.items():
            if found.pod.node in self._ghosts:
                found.pod = replace(found.pod, phase=PodPhase.UNKNOWN, since=self._since(found.pod.node))
                self._replicas[uid] = found
        self._nodes = {**self._nodes, **self._ghosts}
        for name in self.cordoned & self._nodes.keys():
            self._nodes[name] = replace(self._nodes[name], unschedulable=True)
        return changed

    def _since(self, node: str) -> datetime:
        return self._ghosts[node].conditions[0].since or self.now

    def _snapshot(self) -> Snapshot:
        found = SimCluster._snapshot(self)
        activity = found.activity
        if self.tell is not None and isinstance(activity, Collected):
            activity = self.tell(activity)
        return replace(
            found, activity=activity, stored_splits=self.stored_splits, stored_pools=self.stored_pools
        )

    def _carry_out(self, act: Act) -> Operation:
        if isinstance(act, self.failing):
            return Operation(act=act, state=OperationState.FAILED, error="503 Service Unavailable")
        if isinstance(act, ForgetNode):
            self._ghosts.pop(act.node, None)
            self._forgotten.add(act.node)
            self._replicas = {uid: kept for uid, kept in self._replicas.items() if kept.pod.node != act.node}
        return SimCluster._carry_out(self, act)


def _silent(node: Node, *, since: datetime) -> Node:
    condition = NodeCondition(type="Ready", status="Unknown", reason="NodeStatusUnknown", since=since)
    return replace(node, ready=False, conditions=(condition,))


class Fleetline:
    """One workload that bursts, an on-demand pool and spot pools, played in steps of 5 s from 0 on.

    `demand` is the load in replicas that it keeps busy. Nodes hold one replica each, boot for *boot* and load for *load* seconds.
    """

    def __init__(
        self,
        *,
        baseline: int = 2,
        spot: Sequence[str] = ("a", "b"),
        most: int = 12,
        spot_nodes: int = 12,
        on_demand_nodes: int = 12,
        boot: float = 60,
        load: float = 30,
        pools: Mapping[str, Any] | None = None,
        **timers: Any,  # noqa: ANN401 -- timers of make_capacity, in seconds
    ) -> None:
        workload = make_workload(
            namespace=NAMESPACE, capacity=make_capacity(baseline, **timers), max_replicas=most
        )
        sizes = {ON_DEMAND: on_demand_nodes, **dict.fromkeys(spot, spot_nodes)}
        self._cluster = _Cluster(
            workload=workload,
            pools=tuple(_pool(name, most, **(pools or {})) for name, most in sizes.items()),
            market=Market([_spec(name, most, boot) for name, most in sizes.items()], now=NOW),
            load_time=seconds(load),
            evaluation=seconds(15),
            hold=seconds(15),
            now=NOW,
        )
        self.demand = 0.5 * baseline
        self.moments: list[Moment] = []
        self._cluster.begin(baseline)

    # What happens in it

    @property
    def market(self) -> Market:
        """Whose machines they are: refuse, reclaim, vanish, resize."""
        return self._cluster.market

    @property
    def now(self) -> datetime:
        """The moment that was played last."""
        return self._cluster.now

    def run(self, text: str) -> "Fleetline":
        """Play on for a time like `10m`."""
        for _ in range(int(span(text) / STEP)):
            self._step()
        return self

    def wait(self, text: str, until: Callable[["Fleetline"], bool]) -> "Fleetline":
        """Play until something holds; a wait in vain for *text* fails and says where it stood."""
        for _ in range(int(span(text) / STEP)):
            if until(self):
                return self
            self._step()
        raise AssertionError(f"not within {text}: {self.last}")

    def restart(self) -> "Fleetline":
        """Kill the operator and start it anew; it finds what its status held."""
        self._store()
        self._cluster.restart()
        return self

    def fail(self, *acts: type[Act]) -> None:
        """Let every act of these kinds fail from now on; none lets all of them succeed again."""
        self._cluster.failing = acts

    def measure(self, tell: Callable[[Collected], Collection] | None = None) -> None:
        """Let the operator see from now on what *tell* makes of each answer about the GPUs; None lets it see the truth again."""
        self._cluster.tell = tell

    def cordon(self, node: str) -> None:
        """Cordon a node as a person does."""
        self._cluster.cordoned.add(node)

    # What is there

    @property
    def last(self) -> Moment:
        """The last moment."""
        return self.moments[-1]

    @property
    def counts(self) -> tuple[int, int]:
        """What the Deployment and its twin are set to."""
        return self.last.source, self.last.twin

    @property
    def plan(self) -> Plan:
        """The last plan."""
        assert self._cluster.plan is not None
        return self._cluster.plan

    @property
    def decision(self) -> Decision:
        """The last decision."""
        return self.plan.decisions[self._cluster.workload.key]

    @property
    def fallback(self) -> FallbackReason:
        """Why on-demand replicas stand in for spot, or do not."""
        assert self.decision.placement is not None
        return self.decision.placement.fallback.reason

    @property
    def pools(self) -> Mapping[str, PoolDecision]:
        """What is to become of each pool."""
        return self.plan.pools

    @property
    def nodes(self) -> Mapping[str, Node]:
        """All Nodes by name."""
        return self._cluster.nodes

    @property
    def marks(self) -> frozenset[str]:
        """Nodes that carry our mark."""
        return frozenset(self._cluster.marks)

    def acts(self, kind: type[Act]) -> list[Act]:
        """Every act of a kind that any pass proposed."""
        return [act for moment in self.moments for act in moment.acts if isinstance(act, kind)]

    def since(self, moment: Moment) -> list[Moment]:
        """All moments after one."""
        return [found for found in self.moments if found.at > moment.at]

    def _step(self) -> None:
        before = self._cluster.plan
        self._cluster.step(self._cluster.now + STEP, self.demand)
        plan = self._cluster.plan
        counts = self._cluster.counts
        self.moments.append(
            Moment(
                at=self._cluster.now - NOW,
                demand=self.demand,
                serving=self._cluster.serving(),
                source=counts[SOURCE],
                twin=counts.get(BURST, 0),
                desired=self.decision.desired,
                machines={
                    pool.name: self.market.describe(pool.name, now=self.now).desired
                    for pool in self._cluster.pools
                },
                acts=plan.acts if plan is not None and plan is not before else (),
            )
        )

    def _store(self) -> None:
        """Keep what status would hold: `app.status` and `app.pools` write these latches as they change."""
        placement = self.decision.placement
        split = placement.split if placement is not None else None
        if placement is not None and split is not None:
            stored = StoredSplit(
                count=self.decision.desired,
                fallback_since=split.fallback_since,
                fallback_cause=placement.fallback.reason if split.fallback else "",
            )
            self._cluster.stored_splits = {self._cluster.workload.uid: stored}
        self._cluster.stored_pools = {
            pool.uid: StoredPool(
                breaker_until=found.breaker_until, closed_until=found.closed_until, steps=found.steps
            )
            for pool in self._cluster.pools
            if (found := self.pools.get(pool.name)) is not None
        }


def _kind(name: str) -> CapacityType:
    return CapacityType.ON_DEMAND if name == ON_DEMAND else CapacityType.SPOT


def _spec(name: str, most: int, boot: float) -> PoolSpec:
    return PoolSpec(
        name=name,
        capacity_type=_kind(name),
        max_nodes=most,
        boot=BootDelay.fixed(seconds(boot)),
        retry=seconds(15),
    )


def _pool(name: str, most: int, **over: Any) -> NodePool:  # noqa: ANN401 -- fields of NodePool
    kind = _kind(name)
    is_spot = kind is CapacityType.SPOT
    values: dict[str, Any] = {
        "name": name,
        "uid": f"pool-{name}",
        "selector": {"pool": name, "kind": "spot" if is_spot else "on-demand"},
        "capacity_type": kind,
        "gpu_resource": GPU,
        "gpus_per_node": 1,
        "mode": Mode.ENFORCE,
        "provider": ProviderType.KWOK,
        "max_nodes": most,
        "taints": (SPOT_TAINT,) if is_spot else (),
        "price": NodePrice(currency="USD", per_hour=Decimal(PRICES[kind])),
    }
    return NodePool(**{**values, **over})
