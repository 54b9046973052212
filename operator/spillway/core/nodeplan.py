"""What becomes of nodes in a pass: surveyed before any workload is decided, sized and drained after all of them are."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from spillway.core import capacity as sizing
from spillway.core.drain import DrainPlan, plan_drains
from spillway.core.fleet import Fleet, survey
from spillway.core.memory import Memory, NodeMemory, PoolMemory
from spillway.core.model import Act, Mode, Snapshot
from spillway.core.orders import Order
from spillway.core.packing import Demand
from spillway.core.plan import PoolDecision, PoolReason
from spillway.core.tiers import Capacity, demands_of
from spillway.core.twin import twins_by_source


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesPlan:
    """Decisions by pool, the acts on pools and nodes, and what is remembered of both."""

    decisions: Mapping[str, PoolDecision]
    acts: tuple[Act, ...]
    pool_memories: Mapping[str, PoolMemory]
    node_memories: Mapping[str, NodeMemory]
    wake_at: datetime | None = None


def survey_capacity(snapshot: Snapshot, memory: Memory, *, now: datetime) -> Capacity:
    """Return what all workloads are laid out on. After a restart a pool's latches are those of its status."""
    fleet = survey(snapshot, memory.nodes, now)
    outlooks = sizing.outlook(snapshot, fleet, _with_stored(memory.pools, snapshot), now)
    return Capacity(
        fleet=fleet,
        outlooks=outlooks,
        places=sizing.places_coming(snapshot, fleet, outlooks),
        twins=twins_by_source(snapshot.deployments.values()),
        refusing=_refusing(outlooks),
    )


def _refusing(outlooks: Mapping[str, sizing.PoolOutlook]) -> Mapping[tuple[str, str], tuple[str, ...]]:
    by_kin: dict[tuple[str, str], tuple[str, ...]] = {}
    for name, found in outlooks.items():
        for kin in found.memory.unplaceable:
            by_kin[kin] = (*by_kin.get(kin, ()), name)
    return by_kin


def _with_stored(memories: Mapping[str, PoolMemory], snapshot: Snapshot) -> Mapping[str, PoolMemory]:
    stored = {
        uid: PoolMemory(breaker_until=found.breaker_until, closed_until=found.closed_until, steps=found.steps)
        for uid, found in snapshot.stored_pools.items()
        if uid not in memories
    }
    return {**stored, **memories}


def plan_nodes(
    snapshot: Snapshot, capacity: Capacity, orders: Iterable[Order], *, now: datetime
) -> NodesPlan:
    """Size pools for what all orders want together, then let go of nodes that nobody needs."""
    orders = tuple(orders)
    fleet = capacity.fleet
    pools = sizing.plan_pools(
        snapshot,
        fleet,
        capacity.outlooks,
        tuple(_demands(orders, snapshot, fleet)),
        places=capacity.places,
        now=now,
    )
    drains = plan_drains(
        snapshot,
        fleet,
        targets=pools.targets,
        used_nodes=pools.used_nodes,
        movable=_movable(orders, snapshot),
        now=now,
    )
    return NodesPlan(
        decisions={name: _with_drains(found, drains) for name, found in pools.decisions.items()},
        acts=(*pools.acts, *drains.acts),
        pool_memories=pools.memories,
        node_memories=drains.memory,
        wake_at=drains.wake_at,
    )


def _demands(orders: Iterable[Order], snapshot: Snapshot, fleet: Fleet) -> Iterator[Demand]:
    """Yield what every workload that may act needs; one that only observes buys nothing. Without a pool to size nobody asks."""
    if not any(pool.is_sizable for pool in snapshot.pools):
        return
    for order in orders:
        if order.is_active:
            yield from demands_of(
                order.tiers, baseline=order.baseline, burst=order.burst, fleet=fleet, pools=snapshot.pools
            )


def _movable(orders: Iterable[Order], snapshot: Snapshot) -> frozenset[str]:
    """Return the ReplicaSets whose pods a voluntary drain may evict: those of active workloads in mode Enforce."""
    if not any(pool.is_sizable for pool in snapshot.pools):
        return frozenset()
    deployments = {
        uid
        for order in orders
        if order.is_active and order.decision.mode is Mode.ENFORCE
        for uid in (order.tiers.source.uid, order.tiers.twin.uid if order.tiers.twin is not None else "")
        if uid
    }
    return frozenset(found.uid for found in snapshot.replica_sets if found.owner_uid in deployments)


def _with_drains(decision: PoolDecision, drains: DrainPlan) -> PoolDecision:
    """Tell of drains where nothing happens with the pool that matters more."""
    draining = drains.draining.get(decision.name, ())
    decision = replace(decision, draining=draining)
    if decision.reason not in (PoolReason.STEADY, PoolReason.AT_MIN):
        return decision
    blocked = drains.blocked.get(decision.name)
    if blocked is not None:
        return replace(decision, reason=PoolReason.DRAIN_BLOCKED, message=blocked)
    if draining:
        nodes = "node that nobody needs is" if len(draining) == 1 else "nodes that nobody needs are"
        message = f"{len(draining)} {nodes} being drained: {', '.join(draining)}"
        return replace(decision, reason=PoolReason.SHRINKING, message=message)
    return decision
