"""Putting replicas on nodes before the scheduler does: by every requested resource, first on what is there, then on new nodes.

First fit decreasing (most GPUs first) into the fullest node that still takes the pod, so that few nodes are needed and some stay
empty. The scheduler may choose otherwise; what it cannot place where there was room is reported, not argued with.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Final

from spillway.core.fleet import Fleet, Standing
from spillway.core.model import InstanceState, Node, NodePool, Pod, PoolState
from spillway.core.scheduling import Constraints, Taint

_UNKNOWN_PRICE: Final = Decimal("Infinity")
_PASSING: Final = "node.kubernetes.io/"  # taints of a node's own state, which go when it is Ready


class Tier(StrEnum):
    """Whose replicas they are: what may be bought for them differs."""

    BASELINE = "Baseline"
    BURST = "Burst"
    FOREIGN = "Foreign"


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """`count` equal pods that need a place. `owner` is a GpuWorkload's uid, or a foreign controller's.

    `pools` names those it may use; None leaves it to `constraints`.
    """

    owner: str
    template: str
    requests: Mapping[str, int]
    constraints: Constraints
    count: int
    tier: Tier
    pools: frozenset[str] | None = None
    priority: int = 0


@dataclass(slots=True, kw_only=True)
class Bin:
    """A node, or one that is to be: what is free on it. `is_strict` says that a resource not named is not there at all."""

    name: str
    pool: NodePool | None
    free: dict[str, int]
    labels: Mapping[str, str]
    taints: tuple[Taint, ...]
    is_strict: bool
    is_new: bool = False
    used: bool = False

    def takes(self, demand: Demand) -> bool:
        """Whether one more pod of *demand* fits."""
        missing = 0 if self.is_strict else None
        for name, amount in demand.requests.items():
            free = self.free.get(name, missing)
            if amount and free is not None and free < amount:
                return False
        return True

    def put(self, demand: Demand) -> None:
        """Set room aside for one pod."""
        self.used = True
        for name, amount in demand.requests.items():
            if name in self.free:
                self.free[name] -= amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """Where demands found room: new nodes by pool, existing nodes that got something, and who found none, by owner and tier."""

    new_nodes: Mapping[str, int]
    used_nodes: frozenset[str]
    unplaced: Mapping[tuple[str, Tier], int]


@dataclass(slots=True)
class Room:
    """All bins, ordered so that a demand looks at few of them. Build it with `room_of`."""

    bins: dict[str, list[Bin]] = field(default_factory=lambda: defaultdict(list))
    unplaceable: Mapping[str, frozenset[tuple[str, str]]] = field(default_factory=dict)

    def add(self, found: Bin) -> None:
        """Take in one more bin."""
        self.bins[found.pool.name if found.pool is not None else ""].append(found)

    def place(self, demand: Demand) -> Bin | None:
        """Put one pod on the fullest bin that takes it; None where none does."""
        best: Bin | None = None
        for found in self._candidates(demand):
            if found.takes(demand) and (best is None or _fullness(found, demand) < _fullness(best, demand)):
                best = found
        if best is not None:
            best.put(demand)
        return best

    def _candidates(self, demand: Demand) -> Iterator[Bin]:
        for name, bins in self.bins.items():
            if demand.pools is not None and name not in demand.pools:
                continue
            if (demand.template, demand.owner) in self.unplaceable.get(name, ()):
                continue
            for found in bins:
                if _has_gpus(found, demand) and demand.constraints.accepts(found.labels, found.taints):
                    yield found


def _has_gpus(found: Bin, demand: Demand) -> bool:
    if found.pool is None:
        return True
    wanted = demand.requests.get(found.pool.gpu_resource, 0)
    return found.free.get(found.pool.gpu_resource, 0) >= wanted


def _fullness(found: Bin, demand: Demand) -> tuple[bool, int, str]:
    """Less is better: an existing node before a new one, then the least free of what the demand asks for."""
    free = sum(found.free.get(name, 0) for name in demand.requests if "/" in name)
    return found.is_new, free, found.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a new node of a pool will offer pods, DaemonSets deducted. A resource that is not named is no limit."""

    free: Mapping[str, int]
    labels: Mapping[str, str]
    taints: tuple[Taint, ...]


def shape_of(pool: NodePool, fleet: Fleet, learned: Mapping[str, int]) -> Shape:
    """Return a new node's shape: as the pool says, else as learned from a living node, else its GPUs alone."""
    allocatable = {**(pool.allocatable or learned), pool.gpu_resource: pool.gpus_per_node}
    overhead = _daemon_overhead(pool, fleet)
    return Shape(
        free={name: amount - overhead.get(name, 0) for name, amount in allocatable.items()},
        labels=fleet.labels_of(pool),
        taints=pool.taints,
    )


def _daemon_overhead(pool: NodePool, fleet: Fleet) -> Mapping[str, int]:
    """Return the most that DaemonSets take on any node of the pool."""
    most: dict[str, int] = {}
    for name in fleet.names_in(pool.name):
        taken: dict[str, int] = defaultdict(int)
        for pod in fleet.pods_on.get(name, ()):
            if pod.owner_kind == "DaemonSet":
                _add(taken, pod)
        for resource, amount in taken.items():
            most[resource] = max(most.get(resource, 0), amount)
    return most


def _add(taken: dict[str, int], pod: Pod) -> None:
    for resource, amount in (pod.requests or pod.devices).items():
        taken[resource] += amount


def free_on(node: Node, pods: Iterable[Pod]) -> dict[str, int]:
    """Return what is left of a node's allocatable after every pod on it, never below zero."""
    free = dict(node.allocatable or node.devices)
    for pod in pods:
        for resource, amount in (pod.requests or pod.devices).items():
            if resource in free:
                free[resource] = max(0, free[resource] - amount)
    return free


def room_of(
    fleet: Fleet,
    *,
    shapes: Mapping[str, Shape],
    states: Mapping[str, PoolState],
    unplaceable: Mapping[str, frozenset[tuple[str, str]]],
    without: frozenset[str] = frozenset(),
) -> Room:
    """Return the room on nodes that stay, on those that boot, and on machines that are promised and have no Node yet.

    Nodes in *without* are left out. Nodes that offer no extended resource hold no GPU pod and are left out, too.
    """
    room = Room(unplaceable=unplaceable)
    for name, node in fleet.nodes.items():
        standing, pool = fleet.standing[name], fleet.pool_of(name)
        if name in without or standing not in (Standing.GOOD, Standing.BOOTING):
            continue
        if standing is Standing.BOOTING and pool is not None and pool.name in shapes:
            room.add(_booting_bin(node, pool, shapes[pool.name]))
        elif node.devices:
            room.add(
                Bin(
                    name=name,
                    pool=pool,
                    free=free_on(node, fleet.pods_on.get(name, ())),
                    labels=node.labels,
                    taints=node.taints,
                    is_strict=bool(node.allocatable),
                )
            )
    for pool in fleet.claims.pools:
        for found in promised(states.get(pool.name), fleet):
            if pool.name in shapes:
                room.add(_new_bin(pool, shapes[pool.name], name=found, is_new=False))
    return room


def promised(state: PoolState | None, fleet: Fleet) -> tuple[str, ...]:
    """Return machines that the provider has granted and that have no Node yet, by id."""
    if state is None:
        return ()
    return tuple(
        found.id
        for found in state.instances
        if found.state in (InstanceState.BOOTING, InstanceState.RUNNING) and found.node not in fleet.nodes
    )


def _booting_bin(node: Node, pool: NodePool, shape: Shape) -> Bin:
    taints = tuple(taint for taint in node.taints if not taint.key.startswith(_PASSING))
    return Bin(
        name=node.name, pool=pool, free=dict(shape.free), labels=node.labels, taints=taints, is_strict=False
    )


def _new_bin(pool: NodePool, shape: Shape, *, name: str, is_new: bool) -> Bin:
    return Bin(
        name=name,
        pool=pool,
        free=dict(shape.free),
        labels=shape.labels,
        taints=shape.taints,
        is_strict=False,
        is_new=is_new,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A pool that may grow by `room` nodes, as `shape`; `size` is how many it has."""

    pool: NodePool
    shape: Shape
    room: int
    size: int


def pack(demands: Iterable[Demand], room: Room, offers: Sequence[Offer]) -> Packed:
    """Place every demand, opening new nodes where nothing that is there takes it. Deterministic, whatever the order given.

    A baseline never opens a spot node, and a burst opens nothing else. Among pools the cheapest GPU comes first (an unknown
    price last), then the pool with the fewest nodes, since spot is lost by pool.
    """
    opened: dict[str, int] = defaultdict(int)
    unplaced: dict[tuple[str, Tier], int] = defaultdict(int)
    used: set[str] = set()
    for demand in sorted(demands, key=_order):
        for _ in range(demand.count):
            found = room.place(demand) or _open(demand, room, offers, opened)
            if found is None:
                unplaced[demand.owner, demand.tier] += 1
            elif not found.is_new:
                used.add(found.name)
    return Packed(new_nodes=dict(opened), used_nodes=frozenset(used), unplaced=dict(unplaced))


def _order(demand: Demand) -> tuple[int, int, str, str, str]:
    gpus = sum(amount for name, amount in demand.requests.items() if "/" in name)
    return -demand.priority, -gpus, demand.tier, demand.owner, demand.template


def _open(demand: Demand, room: Room, offers: Sequence[Offer], opened: dict[str, int]) -> Bin | None:
    """Open the best new node that takes one pod of *demand*, and put it there."""
    fitting = []
    for offer in offers:
        pool = offer.pool
        if opened[pool.name] >= offer.room or not _may_buy(demand, pool):
            continue
        if (demand.template, demand.owner) in room.unplaceable.get(pool.name, ()):
            continue
        fresh = _new_bin(pool, offer.shape, name=f"{pool.name} +{opened[pool.name] + 1}", is_new=True)
        if demand.constraints.accepts(fresh.labels, fresh.taints) and fresh.takes(demand):
            fitting.append((_price_per_gpu(pool), offer.size + opened[pool.name], pool.name, fresh))
    if not fitting:
        return None
    *_, name, fresh = min(fitting, key=lambda item: item[:3])
    fresh.put(demand)
    room.add(fresh)
    opened[name] += 1
    return fresh


def _may_buy(demand: Demand, pool: NodePool) -> bool:
    if demand.pools is not None and pool.name not in demand.pools:
        return False
    return pool.is_spot if demand.tier is Tier.BURST else demand.tier is Tier.FOREIGN or not pool.is_spot


def _price_per_gpu(pool: NodePool) -> Decimal:
    return pool.price.per_hour / pool.gpus_per_node if pool.price is not None else _UNKNOWN_PRICE
