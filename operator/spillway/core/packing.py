"""Putting replicas on nodes before the scheduler does: by every requested resource, first on what is there, then on new nodes.

First fit decreasing (most GPUs first) into the fullest node that still takes the pod, so that few nodes are needed and some stay
empty. The scheduler may choose otherwise; what it cannot place where there was room is reported, not argued with.
"""

from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from typing import Final

from spillway.core.fleet import Fleet, Standing
from spillway.core.model import InstanceState, Node, NodePool, Pod, PoolState
from spillway.core.scheduling import Constraints, Taint

_UNKNOWN_PRICE: Final = Decimal("Infinity")
_PASSING: Final = "node.kubernetes.io/"  # taints of a node's own state, which go when it is Ready
# These say what `ready` says, and are lifted a moment after it: a Ready node that still has one takes pods very soon.
_LATE: Final = frozenset({"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"})


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
    """A node, or one that is to be: what is free on it. `is_strict` says that a resource not named is not there at all.

    `is_coming` is set for one that boots or is promised, `is_new` for one that is yet to be asked for.
    """

    name: str
    pool: NodePool | None
    free: dict[str, int]
    labels: Mapping[str, str]
    taints: tuple[Taint, ...]
    is_strict: bool
    is_coming: bool = False
    is_new: bool = False
    used: bool = False

    @property
    def pool_name(self) -> str:
        """The name of its pool, empty for a node in none."""
        return self.pool.name if self.pool is not None else ""

    @property
    def level(self) -> int:
        """How many devices are free on it, whatever they are called: the fewer, the fuller."""
        return sum(amount for name, amount in self.free.items() if amount > 0 and _is_device(name))

    def holds(self, demand: Demand) -> int:
        """Return how many pods of *demand* fit, at most as many as it counts."""
        most = demand.count
        for name, amount in demand.requests.items():
            if amount <= 0:
                continue
            free = self.free.get(name)
            if free is None and self.is_strict:
                return 0
            if free is not None:
                most = min(most, max(0, free) // amount)
        return most

    def put(self, demand: Demand, count: int = 1) -> None:
        """Set room aside for *count* pods."""
        self.used = True
        for name, amount in demand.requests.items():
            if name in self.free:
                self.free[name] -= amount * count


def _is_device(resource: str) -> bool:
    return "/" in resource  # cpu, memory and pods have no domain


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """Where demands found room: new nodes by pool, existing nodes that got something, and who found none, by owner and tier.

    `waiting` are the demands that found none, each with the count that did not.
    """

    new_nodes: Mapping[str, int]
    used_nodes: frozenset[str]
    waiting: tuple[Demand, ...] = ()

    @property
    def unplaced(self) -> Mapping[tuple[str, Tier], int]:
        """How many pods found no room, by owner and tier."""
        counts: Counter[tuple[str, Tier]] = Counter()
        for demand in self.waiting:
            counts[demand.owner, demand.tier] += demand.count
        return counts


_Asked = tuple[tuple[str, int], ...]  # requests, by which two demands are the same to a bin


class _Kin:
    """Bins that accept the same pods: of one pool, with the same taints, alike in every label that a demand asks about, and in
    which resources they know of.

    They lie by how much is free, so that a demand passes over full ones; what was looked through in vain for the same requests is
    not looked at again, since room only falls.
    """

    def __init__(self, first: Bin) -> None:
        self.first = first
        self._levels: dict[int, list[tuple[str, Bin]]] = defaultdict(list)
        self._in_vain: dict[tuple[int, _Asked], int] = {}
        self._changes: dict[int, int] = defaultdict(int)

    def is_allowed(self, demand: Demand) -> bool:
        """Whether *demand* may use the pool that they are of."""
        return demand.pools is None or self.first.pool_name in demand.pools

    def add(self, found: Bin) -> None:
        """Take in a bin."""
        level = found.level
        insort(self._levels[level], (found.name, found), key=_by_name)
        self._changes[level] += 1

    def levels(self, devices: _Asked) -> list[int]:
        """Return how much is free on those of them that may take so many devices."""
        free, least = self.first.free, 0
        for name, amount in devices:
            if name in free:
                least += amount
        return [level for level, bins in self._levels.items() if level >= least and bins]

    def take(self, level: int, demand: Demand, asked: _Asked) -> tuple[Bin, int] | None:
        """Put as many pods as fit on the first bin at *level* that takes one; None where none does."""
        if self._in_vain.get((level, asked)) == self._changes[level]:
            return None
        bins = self._levels[level]
        for index, (_, found) in enumerate(bins):
            count = found.holds(demand)
            if count:
                del bins[index]
                found.put(demand, count)
                self.add(found)
                return found, count
        self._in_vain[level, asked] = self._changes[level]
        return None


def _by_name(item: tuple[str, Bin]) -> str:
    return item[0]


class Room:
    """All bins, ordered so that a demand looks at few of them. Build it with `room_of`."""

    def __init__(self, *, unplaceable: Mapping[str, frozenset[tuple[str, str]]] | None = None) -> None:
        self.unplaceable = unplaceable or {}
        self._bins: list[Bin] = []
        self._keys: frozenset[str] = frozenset()
        self._kin: dict[tuple[object, ...], _Kin] = {}
        self._accepted: dict[_Signature, list[_Kin]] = {}
        self._in_vain: dict[tuple[_Signature, frozenset[str] | None, _Asked], int] = {}

    def add(self, found: Bin) -> None:
        """Take in one more bin."""
        self._bins.append(found)
        self._sort_in(found)

    def mind(self, keys: Iterable[str]) -> None:
        """Tell bins apart by these labels, too; to say so once for all demands saves time and changes nothing else."""
        if self._keys.issuperset(keys):
            return
        self._keys = self._keys.union(keys)
        self._kin, self._accepted = {}, {}
        for found in self._bins:
            self._sort_in(found)

    def _sort_in(self, found: Bin) -> None:
        labels = tuple((key, found.labels[key]) for key in sorted(self._keys) if key in found.labels)
        key = (
            found.is_new,
            found.is_coming,
            found.pool_name,
            labels,
            found.taints,
            found.is_strict,
            tuple(sorted(found.free)),
        )
        kin = self._kin.get(key)
        if kin is None:
            kin = self._kin[key] = _Kin(found)
            self._accepted = {}
        kin.add(found)

    def place(self, demand: Demand) -> Bin | None:
        """Put one pod on the fullest bin that takes it; None where none does."""
        filled = self.fill(demand if demand.count == 1 else replace(demand, count=1))
        return filled[0][0] if filled else None

    def fill(self, demand: Demand) -> Sequence[tuple[Bin, int]]:
        """Put as many pods as fit on the fullest bins, and return how many went where.

        Nodes that are there come before those that boot, since the scheduler will use them first, and new ones last.
        """
        asked = tuple(sorted(demand.requests.items()))
        alike = signature_of(demand.constraints), demand.pools, asked
        if self._in_vain.get(alike) == len(self._bins):
            return []
        self.mind(keys_of(demand.constraints))
        allowed = [found for found in self._accepting(demand.constraints) if found.is_allowed(demand)]
        kin = [found for found in allowed if not self._has_refused(found, demand)]
        filled = _fill(kin, demand, asked)
        if len(kin) == len(allowed) and sum(count for _, count in filled) < demand.count:
            self._in_vain[alike] = len(self._bins)
        return filled

    def _accepting(self, constraints: Constraints) -> list[_Kin]:
        """Return the bins that the scheduler would look at, in an order that follows from the bins alone."""
        signature = signature_of(constraints)
        found = self._accepted.get(signature)
        if found is None:
            found = [
                kin
                for _, kin in sorted(self._kin.items(), key=lambda item: item[0])
                if constraints.accepts(kin.first.labels, kin.first.taints)
            ]
            self._accepted[signature] = found
        return found

    def _has_refused(self, kin: _Kin, demand: Demand) -> bool:
        return (demand.template, demand.owner) in self.unplaceable.get(kin.first.pool_name, ())


def _fill(kin: Sequence[_Kin], demand: Demand, asked: _Asked) -> list[tuple[Bin, int]]:
    devices = tuple(item for item in asked if _is_device(item[0]))
    order = [
        (found.first.is_new, found.first.is_coming, level, index)
        for index, found in enumerate(kin)
        for level in found.levels(devices)
    ]
    order.sort()
    filled: list[tuple[Bin, int]] = []
    left = demand.count
    # A bin that was filled takes no more of this demand, so no level has to be looked at twice.
    for *_, level, index in order:
        while left and (taken := kin[index].take(level, replace(demand, count=left), asked)) is not None:
            filled.append(taken)
            left -= taken[1]
        if not left:
            break
    return filled


_Signature = tuple[object, ...]


def signature_of(constraints: Constraints) -> _Signature:
    """Return what two equal constraints have in common; they cannot be hashed themselves."""
    return (
        tuple(sorted(constraints.node_selector.items())),
        constraints.terms,
        constraints.tolerations,
    )


def keys_of(constraints: Constraints) -> frozenset[str]:
    """Return the node labels that *constraints* ask about."""
    asked = {requirement.key for term in constraints.terms for requirement in term}
    return frozenset(asked.union(constraints.node_selector))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a new node of a pool will offer pods, DaemonSets deducted. A resource that is not named is no limit."""

    free: Mapping[str, int]
    labels: Mapping[str, str]
    taints: tuple[Taint, ...]


def shape_of(pool: NodePool, fleet: Fleet, learned: Mapping[str, int]) -> Shape:
    """Return a new node's shape: as the pool says, else as learned from a living node, else its GPUs alone."""
    allocatable = {
        **(pool.allocatable or learned),
        pool.gpu_resource: pool.gpus_per_node,
    }
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

    Nodes in *without* are left out. Nodes that have no device free take no GPU pod and are left out, too: most of a busy fleet.
    """
    room = Room(unplaceable=unplaceable)
    for name, node in fleet.nodes.items():
        standing, pool = fleet.standing[name], fleet.pool_of(name)
        if name in without or standing not in (Standing.GOOD, Standing.BOOTING):
            continue
        if standing is Standing.BOOTING and pool is not None and pool.name in shapes:
            found = _booting_bin(node, pool, shapes[pool.name], fleet.pods_on.get(name, ()))
        elif node.devices:
            found = _bin_of(node, pool, fleet.pods_on.get(name, ()))
        else:
            continue
        if found.level:
            room.add(found)
    for pool in fleet.claims.pools:
        for machine in promised(states.get(pool.name), fleet):
            if pool.name in shapes:
                room.add(_new_bin(pool, shapes[pool.name], name=machine, is_new=False))
    return room


def _bin_of(node: Node, pool: NodePool | None, pods: Iterable[Pod]) -> Bin:
    taints = tuple(taint for taint in node.taints if taint.key not in _LATE)
    return Bin(
        name=node.name,
        pool=pool,
        free=free_on(node, pods),
        labels=node.labels,
        taints=taints,
        is_strict=bool(node.allocatable),
        is_coming=len(taints) < len(node.taints),
    )


def promised(state: PoolState | None, fleet: Fleet) -> tuple[str, ...]:
    """Return machines that the provider has granted and that have no Node yet, by id; none that has taken too long."""
    if state is None:
        return ()
    return tuple(
        found.id
        for found in state.instances
        if found.state in (InstanceState.BOOTING, InstanceState.RUNNING)
        and found.node not in fleet.nodes
        and found.id not in fleet.overdue
    )


def _booting_bin(node: Node, pool: NodePool, shape: Shape, pods: Iterable[Pod]) -> Bin:
    """A node on its way has the room that its pool's nodes have, less what is bound to it; DaemonSets are deducted already."""
    free = dict(shape.free)
    for pod in pods:
        if pod.owner_kind != "DaemonSet":
            for resource, amount in (pod.requests or pod.devices).items():
                if resource in free:
                    free[resource] -= amount
    taints = tuple(taint for taint in node.taints if not taint.key.startswith(_PASSING))
    return Bin(
        name=node.name,
        pool=pool,
        free=free,
        labels=node.labels,
        taints=taints,
        is_strict=False,
        is_coming=True,
    )


def _new_bin(pool: NodePool, shape: Shape, *, name: str, is_new: bool) -> Bin:
    return Bin(
        name=name,
        pool=pool,
        free=dict(shape.free),
        labels=shape.labels,
        taints=shape.taints,
        is_strict=False,
        is_coming=not is_new,
        is_new=is_new,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A pool that may grow by `room` nodes, as `shape`; `size` is how many it has, `chance` that of losing them soon."""

    pool: NodePool
    shape: Shape
    room: int
    size: int
    chance: float = 0.0


def pack(demands: Iterable[Demand], room: Room, offers: Sequence[Offer]) -> Packed:
    """Place every demand, opening new nodes where nothing that is there takes it. Deterministic, whatever the order given.

    A baseline never opens a spot node, and a burst opens nothing else. Among pools the cheapest GPU comes first (an unknown
    price last), then the pool where least is at stake, since spot is lost by pool: by its record of losses and its nodes.
    """
    demands = sorted(demands, key=_order)
    room.mind(frozenset[str]().union(*(keys_of(demand.constraints) for demand in demands)))
    buying = _Buying(room, offers)
    waiting: list[Demand] = []
    used: set[str] = set()
    for demand in demands:
        filled = room.fill(demand)
        used.update(found.name for found, _ in filled if not found.is_new)
        left = demand.count - sum(count for _, count in filled)
        left -= buying.open(demand, left)
        if left:
            waiting.append(replace(demand, count=left))
    return Packed(new_nodes=buying.opened, used_nodes=frozenset(used), waiting=tuple(waiting))


def _order(demand: Demand) -> tuple[object, ...]:
    """By priority, then the largest first; the rest only makes the order the same every time."""
    devices = sum(amount for name, amount in demand.requests.items() if _is_device(name))
    other = sorted((name, -amount) for name, amount in demand.requests.items())
    pools = sorted(demand.pools) if demand.pools is not None else []
    return (
        -demand.priority, -devices, other, demand.tier, demand.owner, demand.template,
        demand.pools is None, pools, repr(signature_of(demand.constraints)),
    )  # fmt: skip


class _Buying:
    """New nodes, opened one by one where they are cheapest."""

    def __init__(self, room: Room, offers: Sequence[Offer]) -> None:
        self.opened: dict[str, int] = {}
        self._room = room
        self._offers = offers
        self._fitting: dict[tuple[object, ...], list[Offer]] = {}

    def open(self, demand: Demand, count: int) -> int:
        """Open the best new nodes that take pods of *demand*, until *count* have a place; return how many got one."""
        left = count
        fitting = self._fitting_offers(demand) if count else []
        while left:
            fitting = [offer for offer in fitting if self._is_left(offer)]
            if not fitting:
                break
            left -= self._open(min(fitting, key=self._rank), replace(demand, count=left))
        return count - left

    def _open(self, offer: Offer, demand: Demand) -> int:
        name = offer.pool.name
        self.opened[name] = self.opened.get(name, 0) + 1
        fresh = _new_bin(offer.pool, offer.shape, name=f"{name} +{self.opened[name]:06d}", is_new=True)
        count = fresh.holds(demand)
        fresh.put(demand, count)
        self._room.add(fresh)
        return count

    def _is_left(self, offer: Offer) -> bool:
        return self.opened.get(offer.pool.name, 0) < offer.room

    def _rank(self, offer: Offer) -> tuple[Decimal, float, int, str]:
        name = offer.pool.name
        size = offer.size + self.opened.get(name, 0)
        return _price_per_gpu(offer.pool), offer.chance * (size + 1), size, name

    def _fitting_offers(self, demand: Demand) -> Sequence[Offer]:
        key = (
            signature_of(demand.constraints),
            demand.pools,
            demand.tier,
            tuple(sorted(demand.requests.items())),
        )
        if key not in self._fitting:
            self._fitting[key] = [
                offer for offer in self._offers if _may_buy(demand, offer.pool) and _fits(demand, offer)
            ]
        refused, pair = self._room.unplaceable, (demand.template, demand.owner)
        return [offer for offer in self._fitting[key] if pair not in refused.get(offer.pool.name, ())]


def _fits(demand: Demand, offer: Offer) -> bool:
    shape = offer.shape
    fresh = _new_bin(offer.pool, shape, name="", is_new=True)
    return fresh.holds(demand) > 0 and demand.constraints.accepts(shape.labels, shape.taints)


def _may_buy(demand: Demand, pool: NodePool) -> bool:
    if demand.pools is not None and pool.name not in demand.pools:
        return False
    return pool.is_spot if demand.tier is Tier.BURST else demand.tier is Tier.FOREIGN or not pool.is_spot


def _price_per_gpu(pool: NodePool) -> Decimal:
    return pool.price.per_hour / pool.gpus_per_node if pool.price is not None else _UNKNOWN_PRICE
