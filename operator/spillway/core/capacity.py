"""Pools: whether each may grow, and to what size, from what all workloads want together at this moment.

A refusal closes a pool for a while and then lets one node be asked for; too many interruptions do the same for longer. What a
provider does not say proves nothing, and nothing is asked of one that does not answer. See node-and-spot C.4 and D.
"""

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Final

from spillway.core.fleet import Fleet, Standing, is_empty
from spillway.core.growth import FIRST_COLD_START
from spillway.core.memory import PoolMemory
from spillway.core.model import (
    Burst,
    CancelUnfulfilled,
    CordonCause,
    Deployment,
    GrowPool,
    Mode,
    NodePool,
    Operation,
    OperationState,
    Pod,
    PodPhase,
    PoolAct,
    PoolState,
    RefusalKind,
    Snapshot,
)
from spillway.core.packing import (
    Bin,
    Demand,
    Offer,
    Packed,
    Room,
    Shape,
    Tier,
    pack,
    promised,
    room_of,
    shape_of,
    signature_of,
)
from spillway.core.plan import CloseReason, Finding, PoolDecision, PoolReason
from spillway.core.spare import loss_chance

REFUSALS_CONFIRM: Final = 2
REFUSED_CONFIRM: Final = timedelta(seconds=30)  # while no workload says otherwise
RETURN_PROBE: Final = timedelta(seconds=600)
PROBE_MOST: Final = 6  # ten minutes become an hour at most
LOSS_WINDOW: Final = timedelta(minutes=10)  # more than half of a pool lost within it opens the breaker, too
RECORDED_EVERY: Final = timedelta(minutes=1)
RECORD_FADES: Final = timedelta(days=1)
_PROOFS: Final = frozenset({RefusalKind.CAPACITY, RefusalKind.QUOTA, RefusalKind.PERMISSION})
_UNSIZED: Final = frozenset({CloseReason.EXTERNAL, CloseReason.OBSERVED, CloseReason.PODS_PARTLY_SEEN})
_SUPPLY: Final = frozenset({Standing.GOOD, Standing.BOOTING, Standing.SUSPECTED})


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOutlook:
    """Whether a pool may grow now. `room` is how many more machines it may have; `probing` says that it is asked for one only.

    `state` is None where the provider has not said anything of late. `size` counts machines that stay or boot. `closed` says why
    it takes no more nodes, until `closed_until` where that is known. `hung` counts machines that took too long to become nodes.
    """

    pool: NodePool
    memory: PoolMemory
    state: PoolState | None
    shape: Shape
    size: int
    room: int
    closed: Finding[CloseReason] | None = None
    closed_until: datetime | None = None
    probing: bool = False
    hung: int = 0

    def loss_chance(self, gap: timedelta) -> float:
        """Return the weighted chance that its nodes are taken back within *gap*; none of a pool that is not spot."""
        if not self.pool.is_spot:
            return 0.0
        return loss_chance(losses=self.memory.losses, held_hours=self.memory.held_hours, gap=gap)


def outlook(
    snapshot: Snapshot, fleet: Fleet, memories: Mapping[str, PoolMemory], now: datetime
) -> Mapping[str, PoolOutlook]:
    """Return how every pool stands, with its memory brought up to date."""
    patience = _patience(snapshot)
    known = {pool.name: memories.get(pool.uid, PoolMemory()) for pool in snapshot.pools}
    if any(memory.unplaceable for memory in known.values()):
        current = _current(snapshot)
        known = {name: _without_past(memory, current) for name, memory in known.items()}
    return {
        pool.name: _outlook(pool, snapshot, fleet, known[pool.name], patience, now=now)
        for pool in snapshot.pools
    }


def _current(snapshot: Snapshot) -> frozenset[tuple[str, str]]:
    """Return every (template, owner) of which there may be pods now."""
    deployments = ((_template(found), found.uid) for found in snapshot.deployments.values())
    return frozenset(deployments).union(("", pod.owner_uid or pod.uid) for pod in snapshot.pods)


def _without_past(memory: PoolMemory, current: frozenset[tuple[str, str]]) -> PoolMemory:
    """Forget what was refused of templates that are no more: another one may be accepted."""
    kept = memory.unplaceable & current
    return memory if kept == memory.unplaceable else replace(memory, unplaceable=kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Patience:
    refused_confirm: timedelta
    return_probe: timedelta


def _patience(snapshot: Snapshot) -> _Patience:
    """A pool is shared, so the least patient of the workloads that burst sets the pace."""
    rules = [
        workload.capacity.fallback
        for workload in snapshot.workloads
        if workload.capacity.burst is Burst.WHEN_AVAILABLE
    ]
    return _Patience(
        refused_confirm=min((found.refused_confirm for found in rules), default=REFUSED_CONFIRM),
        return_probe=min((found.return_probe for found in rules), default=RETURN_PROBE),
    )


def _outlook(
    pool: NodePool,
    snapshot: Snapshot,
    fleet: Fleet,
    memory: PoolMemory,
    patience: _Patience,
    *,
    now: datetime,
) -> PoolOutlook:
    told = snapshot.pool_states.get(pool.name)
    is_known = told is not None and not told.error and now - told.at <= snapshot.timers.pool_stale
    state = told if is_known else None
    memory = _with_asked(memory, snapshot.operations, state, pool)
    memory = _with_refusals(memory, state, patience, pool, now=now)
    memory = _with_interruptions(memory, pool, fleet, now=now)
    learned = _learned(memory, pool, fleet)
    if learned is not memory.allocatable:
        memory = replace(memory, allocatable=learned)
    size = len(state.granted) if state is not None else len(fleet.names_in(pool.name))
    closed, until = _closed(pool, snapshot, fleet, memory, told=told, is_known=is_known, size=size, now=now)
    hung = _hung(pool, state, fleet)
    probing = closed is None and (memory.closed_until is not None or hung > 0)
    room = 0 if closed is not None else max(0, pool.max_nodes - size)
    if hung and _coming(pool, state, fleet):
        room = 0  # the one that is tried boots
    return PoolOutlook(
        pool=pool,
        memory=memory,
        state=state,
        shape=shape_of(pool, fleet, memory.allocatable),
        size=size,
        room=min(room, 1) if probing else room,
        closed=closed,
        closed_until=until,
        probing=probing,
        hung=hung,
    )


def _hung(pool: NodePool, state: PoolState | None, fleet: Fleet) -> int:
    """Return how many machines took too long to become usable nodes; none, once one that was granted after them is one.

    They are paid for and stay, since what is no node cannot be drained: were all of them asked for anew each time, a pool that
    boots nothing would fill with them.
    """
    if state is None:
        return 0
    names = fleet.names_in(pool.name)
    hung = [found.since for found in state.granted if found.id in fleet.overdue]
    hung += _created(names, Standing.STALLED, fleet)
    came = _created(names, Standing.GOOD, fleet)
    return 0 if hung and came and max(came) > max(hung) else len(hung)


def _created(names: Iterable[str], standing: Standing, fleet: Fleet) -> list[datetime]:
    found = (fleet.nodes[name].created_at for name in names if fleet.standing[name] is standing)
    return [at for at in found if at is not None]


def _coming(pool: NodePool, state: PoolState | None, fleet: Fleet) -> int:
    """Return how many machines boot or are promised."""
    booting = sum(1 for name in fleet.names_in(pool.name) if fleet.standing[name] is Standing.BOOTING)
    return booting + len(promised(state, fleet))


def _with_asked(
    memory: PoolMemory, operations: Iterable[Operation], state: PoolState | None, pool: NodePool
) -> PoolMemory:
    """Note what we asked for last; a size below it, after a node was removed, is all that is left of that."""
    is_quiet = True
    for operation in operations:
        act = operation.act
        if isinstance(act, GrowPool | CancelUnfulfilled) and act.pool == pool.name:
            is_quiet = False
            if operation.state is OperationState.LANDED:
                memory = replace(memory, asked=act.to)
    if is_quiet and state is not None and memory.asked is not None and state.desired < memory.asked:
        return replace(memory, asked=state.desired)
    return memory


def _with_refusals(
    memory: PoolMemory, state: PoolState | None, patience: _Patience, pool: NodePool, *, now: datetime
) -> PoolMemory:
    """Count refusals since the last node was granted; a node that is granted ends them."""
    if state is None:
        return memory
    granted = len(state.granted)
    if memory.granted is not None and granted > memory.granted:
        memory = replace(memory, refused_at=None, refused_in_a_row=0, closed_until=None, steps=0)
    is_closed = memory.closed_until is not None and now < memory.closed_until
    # After a restart those are left out that a pause would have made up for.
    seen = memory.last_refusal or now - patience.return_probe
    fresh = [found for found in state.refusals if found.at > seen]
    if granted != memory.granted:
        memory = replace(memory, granted=granted)
    if fresh:
        memory = replace(memory, last_refusal=fresh[-1].at, refusals=(*memory.refusals, *fresh)[-3:])
    if is_closed or not state.unfulfilled:
        # Nothing is being asked that an answer could be to: what was refused before says nothing of the next request.
        is_clear = memory.refused_at is None and not memory.refused_in_a_row
        return memory if is_clear else replace(memory, refused_at=None, refused_in_a_row=0)
    proofs = [found for found in fresh if found.kind in _PROOFS]
    if proofs:
        in_a_row = memory.refused_in_a_row + len(proofs)
        memory = replace(memory, refused_at=memory.refused_at or now, refused_in_a_row=in_a_row)
    return _confirmed(memory, patience, pool, now=now)


def _confirmed(memory: PoolMemory, patience: _Patience, pool: NodePool, *, now: datetime) -> PoolMemory:
    """Close the pool once refusals are sure: two in a row, or one that stands; a refused probe is sure at once."""
    if memory.refused_at is None:
        return memory
    stands = now - memory.refused_at >= patience.refused_confirm
    is_sure = memory.refused_in_a_row >= REFUSALS_CONFIRM or stands or memory.closed_until is not None
    if not is_sure:
        return memory
    wait = patience.return_probe * min(2**memory.steps, PROBE_MOST) * _jitter(pool.name, memory.steps)
    return replace(
        memory, closed_until=now + wait, steps=memory.steps + 1, refused_at=None, refused_in_a_row=0
    )


def _jitter(name: str, step: int) -> float:
    """Return 0.8 to 1.2, the same for the same pool and step, so that many pools are not probed at once."""
    digest = hashlib.blake2b(f"{name}/{step}".encode(), digest_size=2).digest()
    return 0.8 + 0.4 * int.from_bytes(digest) / 65535


def _with_interruptions(memory: PoolMemory, pool: NodePool, fleet: Fleet, *, now: datetime) -> PoolMemory:
    """Count each lost spot node once, when it is first seen; too many open the breaker."""
    if memory.breaker_until is not None and now >= memory.breaker_until:
        # Half open: one node is asked for, and only one that comes closes it.
        until = max(memory.breaker_until, memory.closed_until or memory.breaker_until)
        memory = replace(memory, breaker_until=None, interruptions=(), closed_until=until)
    if not pool.is_spot:
        return memory
    names = fleet.names_in(pool.name)
    lost = sum(1 for name in names if _is_newly_lost(name, fleet, now=now))
    memory = _with_record(memory, lost=lost > 0, holds=bool(names), now=now)
    kept = tuple(at for at in memory.interruptions if now - at <= pool.breaker.within)
    if not lost and kept == memory.interruptions:
        return memory
    times = (*kept, *[now] * lost)
    memory = replace(memory, interruptions=times)
    alive = sum(1 for name in names if fleet.standing[name] in _SUPPLY)
    of_late = sum(1 for at in times if now - at <= LOSS_WINDOW)
    # 6 nodes, 4 of them lost within ten minutes: 4 > half of 6
    most = of_late >= REFUSALS_CONFIRM and of_late * 2 > alive + of_late
    if lost and (len(times) >= pool.breaker.interruptions or most):
        return replace(memory, breaker_until=now + pool.breaker.open_for)
    return memory


def _with_record(memory: PoolMemory, *, lost: bool, holds: bool, now: datetime) -> PoolMemory:
    """Keep the record of a spot pool: nodes lost at once are one loss, and each hour with any node is one held."""
    if memory.recorded_at is None:
        return replace(memory, recorded_at=now) if holds else memory
    elapsed = max(timedelta(0), now - memory.recorded_at)
    if elapsed < RECORDED_EVERY and not lost:
        return memory
    fading = 0.5 ** (elapsed / RECORD_FADES)
    return replace(
        memory,
        losses=memory.losses * fading + lost,
        held_hours=memory.held_hours * fading + (elapsed / timedelta(hours=1) if holds else 0.0),
        recorded_at=now,
    )


def _is_newly_lost(name: str, fleet: Fleet, *, now: datetime) -> bool:
    """Whether *name* is seen to be lost for the first time; one that we are removing goes because we said so."""
    node = fleet.nodes[name]
    known = fleet.memory.get(node.uid)
    is_ours = node.mark is not None and node.mark.cause is CordonCause.DRAIN
    return known is not None and known.doomed_since == now and not is_ours


def _learned(memory: PoolMemory, pool: NodePool, fleet: Fleet) -> Mapping[str, int]:
    """Return what a fresh node offers, as the largest seen of each resource on nodes that work."""
    if pool.allocatable:
        return memory.allocatable
    learned = dict(memory.allocatable)
    for name in fleet.names_in(pool.name):
        if fleet.standing[name] is Standing.GOOD:
            for resource, amount in fleet.nodes[name].allocatable.items():
                learned[resource] = max(learned.get(resource, 0), amount)
    return learned if learned != memory.allocatable else memory.allocatable


def _closed(
    pool: NodePool,
    snapshot: Snapshot,
    fleet: Fleet,
    memory: PoolMemory,
    *,
    told: PoolState | None,
    is_known: bool,
    size: int,
    now: datetime,
) -> tuple[Finding[CloseReason] | None, datetime | None]:
    """Why the pool takes no more nodes, the first that holds, and until when that is known."""
    standing = _not_ours(pool, snapshot, fleet)
    if standing is not None:
        return standing, None
    if not is_known:
        return Finding(reason=CloseReason.PROVIDER_UNAVAILABLE, message=_silence(told, now=now)), None
    if memory.breaker_until is not None:
        message = (
            f"{len(memory.interruptions)} of its nodes were taken back lately (breaker.interruptions "
            f"{pool.breaker.interruptions}); it is asked for no node until {memory.breaker_until:%H:%M:%S} UTC"
        )
        return Finding(reason=CloseReason.BREAKER_OPEN, message=message), memory.breaker_until
    if memory.closed_until is not None and now < memory.closed_until:
        message = f"{_last_refusal(memory)}; asking for one node again at {memory.closed_until:%H:%M:%S} UTC"
        return Finding(reason=CloseReason.REFUSED, message=message), memory.closed_until
    if size >= pool.max_nodes:
        message = f"It has {size} nodes and maxNodes is {pool.max_nodes}. Raise spec.maxNodes to let it grow"
        return Finding(reason=CloseReason.AT_MAX, message=message), None
    return None, None


def _not_ours(pool: NodePool, snapshot: Snapshot, fleet: Fleet) -> Finding[CloseReason] | None:
    if not pool.is_sizable:
        message = "Its provider is External: somebody else makes and removes its nodes"
        return Finding(reason=CloseReason.EXTERNAL, message=message)
    rivals = fleet.claims.rivals.get(pool.name)
    if rivals:
        message = f"It shares nodes with {', '.join(sorted(rivals))}; narrow one spec.node.selector"
        return Finding(reason=CloseReason.SHARED_NODES, message=message)
    if not snapshot.sees_all_pods:
        message = "Only the pods of watchNamespaces are seen, so what is free is unknown. Watch all namespaces to size it"
        return Finding(reason=CloseReason.PODS_PARTLY_SEEN, message=message)
    if pool.mode is Mode.OBSERVE:
        message = "mode Observe: it is watched and priced, not sized. Set spec.mode to size it"
        return Finding(reason=CloseReason.OBSERVED, message=message)
    return None


def _silence(told: PoolState | None, *, now: datetime) -> str:
    if told is None:
        return "Its provider has not been heard yet; nothing is asked of it. Check the setting kwok.url and the operator's log"
    age = max(0, int((now - told.at).total_seconds()))
    why = told.error or "no answer"
    return f"Its provider was last heard {age} s ago ({why}); nothing is asked of it and nothing is removed"


def _last_refusal(memory: PoolMemory) -> str:
    if not memory.refusals:
        return "Its provider refused nodes"
    last = memory.refusals[-1]
    return f"Its provider refused a node at {last.at:%H:%M:%S} UTC ({last.code}: {last.message.rstrip('.')})"


def places_coming(snapshot: Snapshot, fleet: Fleet, outlooks: Mapping[str, PoolOutlook]) -> Mapping[str, Bin]:
    """Return where pods without a node have room, by uid: on nodes that stay, that boot, or that are promised."""
    return dict(_foreseen(snapshot, fleet, outlooks))


def _foreseen(
    snapshot: Snapshot, fleet: Fleet, outlooks: Mapping[str, PoolOutlook]
) -> Iterator[tuple[str, Bin]]:
    pending = [pod for pod in snapshot.pods if _is_pending(pod)]
    if not pending:
        return
    room = _room(fleet, outlooks)
    for pods, demand in _alike(pending, _kinships(snapshot)):
        left = iter(pods)
        for found, count in room.fill(demand):
            for pod in islice(left, count):
                yield pod.uid, found


def _alike(pods: Iterable[Pod], kinships: Mapping[str, Deployment]) -> Iterator[tuple[Sequence[Pod], Demand]]:
    """Yield pods that are the same to the scheduler, oldest first, with what they need; by priority, then by the oldest."""
    groups: dict[Hashable, list[Pod]] = defaultdict(list)
    for pod in sorted(pods, key=lambda pod: (-pod.priority, pod.created_at, pod.uid)):
        requests = tuple(sorted((pod.requests or pod.devices).items()))
        owner = pod.owner_uid or pod.uid
        groups[owner, pod.priority, requests, signature_of(pod.constraints)].append(pod)
    for found in groups.values():
        demand = _demand_of(found[0], kinships.get(found[0].owner_uid))
        yield found, replace(demand, count=len(found))


def _is_pending(pod: Pod) -> bool:
    return pod.node is None and pod.phase in (PodPhase.PENDING, PodPhase.UNSCHEDULABLE) and pod.gpus > 0


def _kinships(snapshot: Snapshot) -> Mapping[str, Deployment]:
    """Return the Deployment of every ReplicaSet that has one, by the ReplicaSet's uid."""
    deployments = {found.uid: found for found in snapshot.deployments.values()}
    return {
        found.uid: deployments[found.owner_uid]
        for found in snapshot.replica_sets
        if found.owner_uid in deployments
    }


def _demand_of(pod: Pod, deployment: Deployment | None) -> Demand:
    template = _template(deployment) if deployment is not None else ""
    return Demand(
        owner=deployment.uid if deployment is not None else pod.owner_uid or pod.uid,
        template=template,
        requests=pod.requests or pod.devices,
        constraints=pod.constraints,
        count=1,
        tier=Tier.FOREIGN,
        priority=pod.priority,
    )


def _template(deployment: Deployment) -> str:
    return deployment.twin.template if deployment.twin is not None else deployment.template


def _room(fleet: Fleet, outlooks: Mapping[str, PoolOutlook]) -> Room:
    return room_of(
        fleet,
        shapes={name: found.shape for name, found in outlooks.items()},
        states={name: found.state for name, found in outlooks.items() if found.state is not None},
        unplaceable={name: found.memory.unplaceable for name, found in outlooks.items()},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolsPlan:
    """What becomes of all pools: decisions, acts, memories by uid.

    `targets` says how many nodes each pool needs, `used_nodes` which of those that are there hold something or will. `unplaced`
    counts pods that found no room anywhere, by owner and tier.
    """

    decisions: Mapping[str, PoolDecision]
    acts: tuple[PoolAct, ...]
    memories: Mapping[str, PoolMemory]
    targets: Mapping[str, int]
    used_nodes: frozenset[str]
    unplaced: Mapping[tuple[str, Tier], int]


def plan_pools(
    snapshot: Snapshot,
    fleet: Fleet,
    outlooks: Mapping[str, PoolOutlook],
    demands: Sequence[Demand],
    *,
    places: Mapping[str, Bin],
    now: datetime,
) -> PoolsPlan:
    """Size every pool for *demands* and for foreign pods that fit nowhere else. Growth only; `core.drain` lets nodes go.

    A size is always a whole one, counted from what the provider was last asked for, whoever asked. A node that is lost is no
    supply, so its replacement is asked for at once; what is asked for and not granted is taken back when nobody wants it. No pool
    is asked for anything before every pool has been heard once. `places` says where pods without a node have room (`places_coming`).
    """
    doubts = _with_doubts(snapshot, fleet, outlooks, places, now=now)
    room = _room(fleet, outlooks)
    packed = pack(
        (*demands, *_foreign(snapshot, fleet, outlooks, demands)),
        room,
        [_offer(found, found.room) for found in outlooks.values() if found.room],
    )
    missing = sum(demand.count for demand in packed.waiting)
    wishes = [_offer(found, more) for found in outlooks.values() if (more := _imaginary_room(found, missing))]
    imagined = pack(packed.waiting, room, wishes).new_nodes if wishes else {}
    occupied = _occupied(fleet, now=now)
    busy = {operation.act.subject for operation in snapshot.operations if operation.is_under_way}
    all_heard = not _unheard(snapshot, outlooks)
    decisions: dict[str, PoolDecision] = {}
    acts: list[PoolAct] = []
    targets: dict[str, int] = {}
    for name, found in outlooks.items():
        sizes = _sizes(found, fleet, packed, occupied, imagined=imagined.get(name, 0))
        targets[name] = sizes.target
        act = _resize(found, sizes) if all_heard else None
        decisions[name] = _decide(found, fleet, sizes, act)
        if act is not None and act.subject not in busy:
            acts.append(act)
    return PoolsPlan(
        decisions=decisions,
        acts=tuple(acts),
        memories={found.pool.uid: doubts.get(name, found.memory) for name, found in outlooks.items()},
        targets=targets,
        used_nodes=packed.used_nodes | occupied,
        unplaced=packed.unplaced,
    )


def _unheard(snapshot: Snapshot, outlooks: Mapping[str, PoolOutlook]) -> bool:
    """Whether the provider of a pool has neither answered nor failed since the operator started.

    For these seconds machines may be on their way that nobody has told of, and one more elsewhere would be one too many.
    """
    return any(
        found.pool.is_sizable and found.pool.mode is not Mode.OBSERVE and name not in snapshot.pool_states
        for name, found in outlooks.items()
    )


def _offer(found: PoolOutlook, room: int) -> Offer:
    return Offer(
        pool=found.pool,
        shape=found.shape,
        room=room,
        size=found.size,
        chance=found.loss_chance(FIRST_COLD_START),
    )


def _imaginary_room(found: PoolOutlook, missing: int) -> int:
    """Return how many nodes more a pool would be asked for if it might be sized, or might be larger."""
    if found.closed is None:
        return 0
    if found.closed.reason is CloseReason.AT_MAX:
        return missing
    return max(0, found.pool.max_nodes - found.size) if found.closed.reason in _UNSIZED else 0


def _occupied(fleet: Fleet, *, now: datetime) -> frozenset[str]:
    """Return the nodes that hold a pod which does not leave with them; lost ones hold nothing that counts."""
    return frozenset(
        name
        for name, standing in fleet.standing.items()
        if standing is not Standing.DOOMED and not is_empty(fleet.pods_on.get(name, ()), now=now)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """What one pool has and needs: `supply` stays or comes, `target` is needed, `more` are to be had beyond what is granted.

    `denied` would be wanted of a pool that may not be sized, or not be larger.
    """

    supply: int
    target: int
    more: int
    booting: int
    denied: int


def _sizes(
    found: PoolOutlook, fleet: Fleet, packed: Packed, occupied: frozenset[str], *, imagined: int
) -> _Sizes:
    pool = found.pool
    names = fleet.names_in(pool.name)
    coming = promised(found.state, fleet)
    # A cordoned node that holds something carries it until it is empty: neither room nor a gap to be filled.
    supply = sum(1 for name in names if fleet.standing[name] in _SUPPLY or name in occupied) + len(coming)
    used = sum(1 for name in (*names, *coming) if name in occupied or name in packed.used_nodes)
    new = packed.new_nodes.get(pool.name, 0)
    target = max(pool.min_nodes, used + new + imagined + pool.headroom_nodes)
    # 3 nodes stay, 2 of them used, 2 new ones wanted, headroom 1: max(2, 5 - 3) = 2 more
    more = min(found.room, max(new, target - supply))
    return _Sizes(
        supply=supply,
        target=min(target, max(pool.max_nodes, used)),
        more=more,
        booting=_coming(pool, found.state, fleet),
        denied=imagined,
    )


def _resize(found: PoolOutlook, sizes: _Sizes) -> PoolAct | None:
    """Return the next size to ask for; None where nothing is to change, or nothing may be asked."""
    state, pool = found.state, found.pool
    if state is None or not pool.is_sizable or pool.mode is Mode.OBSERVE:
        return None
    to = len(state.granted) + sizes.more
    if to > state.desired and found.closed is None:
        return GrowPool(pool=pool.name, pool_uid=pool.uid, before=state.desired, to=to)
    # What somebody else asked for beyond us is theirs, and after a restart nobody knows which part is ours.
    ours = found.memory.asked
    if ours is None or state.desired > ours or not state.unfulfilled or to >= state.desired:
        return None
    to = max(to, pool.min_nodes, len(state.granted))
    if to >= state.desired:
        return None
    return CancelUnfulfilled(pool=pool.name, pool_uid=pool.uid, before=state.desired, to=to)


def _decide(found: PoolOutlook, fleet: Fleet, sizes: _Sizes, act: PoolAct | None) -> PoolDecision:
    pool = found.pool
    names = fleet.names_in(pool.name)
    reason, message = _verdict(found, sizes, act)
    return PoolDecision(
        name=pool.name,
        mode=pool.mode,
        size=found.size,
        desired=found.state.desired if found.state is not None else None,
        target=sizes.target,
        reason=reason,
        message=message,
        closed=found.closed,
        closed_until=found.memory.closed_until,
        steps=found.memory.steps,
        booting=sizes.booting,
        booting_nodes=tuple(name for name in names if fleet.standing[name] is Standing.BOOTING),
        draining=tuple(name for name in names if fleet.standing[name] is Standing.DRAINING),
        doomed=tuple(name for name in names if fleet.standing[name] is Standing.DOOMED),
        refusals=found.memory.refusals,
        interruptions=len(found.memory.interruptions),
        breaker_until=found.memory.breaker_until,
        packing_refused=len(found.memory.unplaceable),
    )


def _verdict(found: PoolOutlook, sizes: _Sizes, act: PoolAct | None) -> tuple[PoolReason, str]:
    closed = found.closed
    told = f"{found.size} {'node' if found.size == 1 else 'nodes'}, {sizes.target} needed"
    if found.hung:
        told += f"; {found.hung} took too long to become usable, so one is tried at a time. Look at why they do not boot"
    if closed is not None and closed.reason is CloseReason.AT_MAX and sizes.denied:
        return PoolReason.AT_MAX, f"{told}, and {sizes.denied} more if it might have them. {closed.message}"
    if closed is not None and closed.reason is not CloseReason.AT_MAX:
        return PoolReason(closed.reason.value), f"{told}. {closed.message}"
    if isinstance(act, GrowPool):
        reason = PoolReason.PROBING if found.probing else PoolReason.GROWING
        why = "one node, to see whether it can be had again" if found.probing else "growing at once"
        return reason, f"{told}: asked for {act.before}, now for {act.to}; {why}"
    return _at_rest(found, sizes, told)


def _at_rest(found: PoolOutlook, sizes: _Sizes, told: str) -> tuple[PoolReason, str]:
    if found.state is not None and found.state.unfulfilled:
        refused = f". {_last_refusal(found.memory)}" if found.memory.refusals else ""
        message = f"{told}; {found.state.unfulfilled} are asked for and not granted yet{refused}"
        return PoolReason.GROWING, message
    if sizes.booting:
        return PoolReason.BOOTING, f"{told}; {sizes.booting} {'is' if sizes.booting == 1 else 'are'} booting"
    least = found.pool.min_nodes
    if least and sizes.target == least == found.size:
        return PoolReason.AT_MIN, f"{told}; minNodes is {least}"
    return PoolReason.STEADY, told


def _foreign(
    snapshot: Snapshot,
    fleet: Fleet,
    outlooks: Mapping[str, PoolOutlook],
    demands: Sequence[Demand],
) -> Iterator[Demand]:
    """Yield pending pods of others that no node outside our pools accepts, and a node of one of ours would."""
    ours = {demand.owner for demand in demands} | _targets(snapshot)
    pending = [pod for pod in snapshot.pods if pod.phase is PodPhase.UNSCHEDULABLE and _is_pending(pod)]
    if not pending:
        return
    sized = {name: found for name, found in outlooks.items() if found.pool.is_sizable}
    elsewhere = [
        node
        for name, node in fleet.nodes.items()
        if node.devices and ((pool := fleet.pool_of(name)) is None or pool.name not in sized)
    ]
    kinships = _kinships(snapshot)
    others = [pod for pod in pending if (kin := kinships.get(pod.owner_uid)) is None or kin.uid not in ours]
    for _, demand in _alike(others, kinships):
        accepts = demand.constraints.accepts
        if any(accepts(node.labels, node.taints) for node in elsewhere):
            continue
        fitting = frozenset(
            name for name, found in sized.items() if accepts(found.shape.labels, found.shape.taints)
        )
        if fitting:
            yield replace(demand, pools=fitting)


def _targets(snapshot: Snapshot) -> frozenset[str]:
    """Return the Deployments that GpuWorkloads scale, twins included: what they need is decided, not seen."""
    named = {workload.target_key for workload in snapshot.workloads}
    return frozenset(
        found.uid for key, found in snapshot.deployments.items() if key in named or found.twin is not None
    )


def _with_doubts(
    snapshot: Snapshot,
    fleet: Fleet,
    outlooks: Mapping[str, PoolOutlook],
    places: Mapping[str, Bin],
    *,
    now: datetime,
) -> Mapping[str, PoolMemory]:
    """Return the memories of pools on which the scheduler leaves pods waiting although there is room for them.

    Only a node that has been Ready for as long proves anything, and only a pod that was left for as long.
    """
    doubted: dict[str, dict[str, datetime]] = defaultdict(dict)
    refused: dict[str, set[tuple[str, str]]] = defaultdict(set)
    limit = snapshot.timers.packing_refused
    kinships = _kinships(snapshot) if places else {}
    pods = {
        pod.uid: pod for pod in snapshot.pods if pod.uid in places and pod.phase is PodPhase.UNSCHEDULABLE
    }
    for uid, found in places.items():
        pod, pool = pods.get(uid), found.pool
        if pod is None or pool is None or fleet.standing.get(found.name) is not Standing.GOOD:
            continue
        since = outlooks[pool.name].memory.doubted.get(uid, now)
        doubted[pool.name][uid] = since
        if now - since >= limit:
            demand = _demand_of(pod, kinships.get(pod.owner_uid))
            refused[pool.name].add((demand.template, demand.owner))
    changed = {}
    for name, outlook_ in outlooks.items():
        memory = outlook_.memory
        if doubted.get(name, {}) != memory.doubted or refused.get(name):
            changed[name] = replace(
                memory,
                doubted=doubted.get(name, {}),
                unplaceable=memory.unplaceable | refused.get(name, set()),
            )
    return changed
