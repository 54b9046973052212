"""Letting nodes go: which one, in which steps, and what stops it; and what is done on a node that is being taken back.

Each pass derives the next step from the mark on the node and from what is on it, so an operator that was killed between two steps
goes on, or takes its mark back: cordon with our taint → look for pods that slipped in → evict → remove exactly this machine.
A voluntary drain never forces anything. See node-and-spot C.5 and C.6.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from types import MappingProxyType
from typing import Final

from spillway.core.fleet import Fleet, Standing, is_empty, leaves_by_itself
from spillway.core.interruption import NoticeKind
from spillway.core.memory import NodeMemory
from spillway.core.model import (
    CordonCause,
    CordonMark,
    CordonNode,
    DrainNode,
    EvictDoomed,
    ForeignPods,
    ForgetNode,
    Instance,
    InstanceState,
    Mode,
    Node,
    NodeAct,
    NodePool,
    OperationState,
    Pod,
    PodPhase,
    PodRef,
    SetReplicas,
    Snapshot,
    UncordonNode,
)
from spillway.core.packing import free_on

EMPTY_AT_ONCE: Final = 10  # as cluster-autoscaler
FULL_AT_ONCE: Final = 1
FLEET_SHARE: Final = 10  # percent of the nodes in pools that one pass may cordon, at least one
FULL_TRIES: Final = 10  # nodes looked at in one pass for whether their pods fit elsewhere

_NODE_BLOCKS: Final = ("cluster-autoscaler.kubernetes.io/scale-down-disabled", "karpenter.sh/do-not-disrupt")


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainPlan:
    """The acts on nodes, what is remembered of each by uid, and by pool what stands in the way and which nodes are going."""

    acts: tuple[NodeAct, ...]
    memory: Mapping[str, NodeMemory]
    blocked: Mapping[str, str]
    draining: Mapping[str, tuple[str, ...]]
    wake_at: datetime | None = None


def plan_drains(
    snapshot: Snapshot,
    fleet: Fleet,
    *,
    targets: Mapping[str, int],
    used_nodes: frozenset[str],
    movable: frozenset[str],
    now: datetime,
) -> DrainPlan:
    """Return the next step for every node that is to go, is going, or is lost.

    `targets` says how many nodes each pool needs, those counted that hold something; `used_nodes` which hold something or will;
    `movable` the ReplicaSets whose pods may be evicted. Nothing voluntary happens in a pool that is not Enforce, that has no
    target, or whose provider is not heard.
    """
    drains = _Drains(snapshot, fleet, targets=targets, used_nodes=used_nodes, movable=movable, now=now)
    acts = tuple(drains.acts())
    return DrainPlan(
        acts=acts,
        memory=drains.memory,
        blocked=drains.blocked,
        draining={pool: tuple(found) for pool, found in drains.draining.items()},
        wake_at=drains.wake_at,
    )


class _Drains:
    """One pass over all nodes, with its counts of what may still be begun."""

    def __init__(
        self,
        snapshot: Snapshot,
        fleet: Fleet,
        *,
        targets: Mapping[str, int],
        used_nodes: frozenset[str],
        movable: frozenset[str],
        now: datetime,
    ) -> None:
        self.snapshot = snapshot
        self.fleet = fleet
        self.targets = targets
        self.used_nodes = used_nodes
        self.movable = movable
        self.now = now
        self.memory = dict(fleet.memory)
        self.blocked: dict[str, str] = {}
        self.draining: dict[str, list[str]] = defaultdict(list)
        self.wake_at: datetime | None = None
        self._under_way = {
            found.act.subject: found.act for found in snapshot.operations if found.is_under_way
        }
        self._refused = {
            found.act.node: found.blocked
            for found in snapshot.operations
            if found.state is OperationState.FAILED and isinstance(found.act, DrainNode) and found.blocked
        }
        self._machines = {
            name: _Machines(state.instances)
            for name, state in snapshot.pool_states.items()
            if not state.error and now - state.at <= snapshot.timers.pool_stale
        }
        self._drained = {pool.name for pool in fleet.claims.pools if self._is_drained(pool)}
        self._going = [name for name in fleet.nodes if self._is_going(name)]
        self._full = {name for name in self._going if self._holds(name)}
        self._supply = Counter(
            pool.name for name in fleet.nodes if (pool := fleet.pool_of(name)) and self._is_supply(name, pool)
        )

    def acts(self) -> Iterator[NodeAct]:
        """Yield what is to be done, at most one act for each node that has none under way."""
        for name, node in self.fleet.nodes.items():
            if f"node {name}" in self._under_way:
                self._note_going(name)
                continue
            act = self._step(node, self.fleet.pool_of(name))
            if act is not None:
                yield act
        yield from self._begin()

    def _step(self, node: Node, pool: NodePool | None) -> NodeAct | None:
        """Return the next step for a node that carries our mark, is lost, or outlived its machine."""
        if pool is not None and self._is_gone(node, pool) and self._may_forget(node, pool):
            return _forget(node, pool)
        if self.fleet.standing[node.name] is Standing.DOOMED:
            return self._on_doomed(node, pool)
        if node.mark is None:
            return None
        if node.mark.cause is CordonCause.INTERRUPTED:
            return _uncordon(node, "the notice was taken back") if node.ready else None
        return self._on_draining(node, pool, node.mark)

    # What is counted

    def _is_drained(self, pool: NodePool) -> bool:
        """Whether nodes of the pool are ours to let go at all, whatever its provider says at the moment."""
        return (
            pool.is_sizable
            and pool.mode is Mode.ENFORCE
            and self.snapshot.sees_all_pods
            and not self.fleet.claims.rivals.get(pool.name)
        )

    def _is_going(self, name: str) -> bool:
        mark = self.fleet.nodes[name].mark
        if mark is not None and mark.cause is CordonCause.DRAIN:
            return True
        act = self._under_way.get(f"node {name}")
        return isinstance(act, CordonNode | DrainNode)

    def _is_supply(self, name: str, pool: NodePool) -> bool:
        """Whether a node is well, stays, and is a machine that its provider knows, where that is heard."""
        if self.fleet.standing[name] is not Standing.GOOD or self._is_going(name):
            return False
        if pool.name not in self._machines:
            return True
        machine = self._machine(self.fleet.nodes[name], pool)
        return machine is not None and machine.state is InstanceState.RUNNING

    def _is_empty(self, name: str) -> bool:
        return is_empty(self.fleet.pods_on.get(name, ()), now=self.now)

    def _holds(self, name: str) -> bool:
        """Whether pods on a node count it as needed; those on a lost one need another."""
        return self.fleet.standing[name] is not Standing.DOOMED and not self._is_empty(name)

    def _least(self, pool: NodePool) -> int | None:
        """Return how many nodes the pool needs once those that are going with their pods are gone; None for unknown."""
        target = self.targets.get(pool.name)
        if target is None:
            return None
        leaving = sum(1 for name in self._full if self.fleet.pool_of(name) is pool)
        # 4 nodes needed, one of them only for pods that are moving off it: 3
        return max(pool.min_nodes, target - leaving)

    def _has_spare(self, pool: NodePool, *, holding: int = 0) -> bool:
        """Whether one node more can go; *holding* is 1 where the target counts that very node, for the pods on it."""
        least = self._least(pool)
        return least is not None and self._supply[pool.name] > max(pool.min_nodes, least - holding)

    def _machine(self, node: Node, pool: NodePool) -> Instance | None:
        machines = self._machines.get(pool.name)
        return machines.of(node) if machines is not None else None

    def _note_going(self, name: str) -> None:
        pool = self.fleet.pool_of(name)
        if pool is not None and self._is_going(name):
            self.draining[pool.name].append(name)

    # Nodes that go because nobody needs them

    def _on_draining(self, node: Node, pool: NodePool | None, mark: CordonMark) -> NodeAct | None:
        if pool is None or pool.name not in self._drained:
            return _uncordon(node, "its pool is not drained any more")
        machine = self._machine(node, pool)
        if machine is not None and machine.state is InstanceState.STOPPING:
            self._note_going(node.name)
            return None
        why = self._obstacle(node, pool, mark)
        if why:
            self._back_off(node, pool, why)
            return self._kept(node, pool, why)
        why = self._change_of_mind(node, pool, mark)
        if why:
            self.memory[node.uid] = replace(self.memory[node.uid], idle_since=None)
            return self._kept(node, pool, why)
        self._note_going(node.name)
        return self._drain(node, pool, mark, machine)

    def _drain(
        self, node: Node, pool: NodePool, mark: CordonMark, machine: Instance | None
    ) -> DrainNode | None:
        """Return the drain itself, once the cordon has settled and while it is known what there is to remove."""
        settled_at = mark.since + self.snapshot.timers.cordon_settle
        self._wake(settled_at)
        self._wake(mark.since + pool.drain.timeout)
        if self.now < settled_at or machine is None or not node.ready:
            return None
        return DrainNode(
            pool=pool.name,
            node=node.name,
            node_uid=node.uid,
            instance=machine.id,
            id=mark.id,
            movable=self.movable,
            foreign_pods=pool.drain.foreign_pods,
        )

    def _kept(self, node: Node, pool: NodePool, why: str) -> UncordonNode:
        """Take a node back, and count it as staying for the rest of this pass."""
        self._going.remove(node.name)
        self._full.discard(node.name)
        if node.ready and self._machine(node, pool) is not None:
            self._supply[pool.name] += 1
        return _uncordon(node, why)

    def _obstacle(self, node: Node, pool: NodePool, mark: CordonMark) -> str:
        """Why a drain that has begun cannot end with its node going; empty while it can."""
        memory = self.memory[node.uid]
        if node.name in self._refused:
            return self._refused[node.name]
        if memory.blocked_until is not None and self.now < memory.blocked_until:
            return memory.blocked_by
        if mark.was_unschedulable or not node.unschedulable:
            return "somebody else set or lifted its cordon"
        if self.now - mark.since >= pool.drain.timeout:
            seconds = int(pool.drain.timeout.total_seconds())
            return f"its drain did not end within drain.timeoutSeconds ({seconds} s)"
        pods = self.fleet.pods_on.get(node.name, ())
        return self._what_blocks(pods, pool)

    def _change_of_mind(self, node: Node, pool: NodePool, mark: CordonMark) -> str:
        """Why a drain that could go on is not wanted any more; empty while it is."""
        is_full = node.name in self._full
        least = self._least(pool)
        if (not is_full and node.name in self.used_nodes) or (
            least is not None and self._supply[pool.name] < least
        ):
            return "it is needed again"
        # What was on it when it was chosen had been there for long: younger than that came in between.
        newest = max((pod.since for pod in self._moving(node) if pod.gpus), default=None)
        if newest is not None and newest > mark.since - pool.drain.idle:
            return "a GPU pod came to it before the cordon, or is not as it was"
        if is_full and not self._fits_elsewhere(node, pool):
            return "its pods have no room elsewhere any more"
        return ""

    def _what_blocks(self, pods: Iterable[Pod], pool: NodePool) -> str:
        """Return what a drain may not move, the same each pass where several pods block it; empty where nothing does."""
        found = (
            blocker(pod, movable=self.movable, foreign_pods=pool.drain.foreign_pods, now=self.now)
            for pod in pods
        )
        return min(filter(None, found), default="")

    def _moving(self, node: Node) -> list[Pod]:
        """Return the pods that a drain would have to evict."""
        pods = self.fleet.pods_on.get(node.name, ())
        return [
            pod
            for pod in pods
            if pod.phase is not PodPhase.TERMINATING and not leaves_by_itself(pod, self.now)
        ]

    def _back_off(self, node: Node, pool: NodePool, why: str) -> None:
        memory = self.memory[node.uid]
        until = memory.blocked_until
        if until is None or until <= self.now:
            until = self.now + self.snapshot.timers.drain_back_off
        self.memory[node.uid] = replace(memory, blocked_until=until, blocked_by=why, idle_since=None)
        self.blocked.setdefault(pool.name, f"{node.name} is kept: {why}")

    # Nodes that may go now

    def _begin(self) -> Iterator[CordonNode]:
        """Yield cordons of nodes that may go now: empty ones first, then at most one whose pods fit elsewhere."""
        share = max(1, len(self.fleet.claims.pool_of) * FLEET_SHARE // 100)
        left = min(EMPTY_AT_ONCE - len(self._going), share)
        pools = [
            pool
            for pool in self.fleet.claims.pools
            if pool.name in self._drained and pool.name in self._machines
        ]
        for pool in pools:
            for node in self._idle(pool):
                if left > 0 and self._has_spare(pool):
                    left -= 1
                    yield self._cordon(node, pool)
        if left > 0 and len(self._full) < FULL_AT_ONCE and self._is_calm():
            yield from self._begin_with_pods(pools)

    def _begin_with_pods(self, pools: Sequence[NodePool]) -> Iterator[CordonNode]:
        for pool in pools:
            if self.draining.get(pool.name) or not self._has_spare(pool, holding=1):
                continue
            for node in self._emptiest(pool):
                if self._fits_elsewhere(node, pool):
                    self._full.add(node.name)
                    yield self._cordon(node, pool)
                    return

    def _is_calm(self) -> bool:
        """Whether no pod waits for room and no count is on its way up: then what looks free is free."""
        grows = any(isinstance(act, SetReplicas) and act.is_growth for act in self._under_way.values())
        return not grows and not any(
            pod.gpus and pod.node is None and pod.phase in (PodPhase.PENDING, PodPhase.UNSCHEDULABLE)
            for pod in self.snapshot.pods
        )

    def _cordon(self, node: Node, pool: NodePool) -> CordonNode:
        self._supply[pool.name] -= 1
        self._going.append(node.name)
        self.draining[pool.name].append(node.name)
        return _cordon(node, pool, CordonCause.DRAIN)

    def _idle(self, pool: NodePool) -> Iterator[Node]:
        """Yield nodes that nobody has used for long, the longest idle one first."""
        found = []
        for node in self._candidates(pool):
            since = self.memory[node.uid].idle_since
            if since is None or node.name in self.used_nodes:
                continue
            if self.now - since >= pool.drain.idle:
                found.append((since, node.name, node))
            else:
                self._wake(since + pool.drain.idle)
        for *_, node in sorted(found, key=lambda item: item[:2]):
            yield node

    def _emptiest(self, pool: NodePool) -> Iterator[Node]:
        """Yield nodes whose pods may all be moved and serve for long, the one with the fewest GPUs in use first."""
        found = []
        for node in self._candidates(pool):
            moving = self._moving(node)
            pods = self.fleet.pods_on.get(node.name, ())
            why = self._what_blocks(pods, pool)
            if why and not any(pod.gpus for pod in moving):
                self.blocked.setdefault(pool.name, f"{node.name} is kept: {why}")
            if moving and not why and self._are_settled(pods, pool):
                found.append((sum(pod.gpus for pod in moving), node.name, node))
        for *_, node in sorted(found, key=lambda item: item[:2])[:FULL_TRIES]:
            yield node

    def _are_settled(self, pods: Sequence[Pod], pool: NodePool) -> bool:
        """Whether what is on a node has served there for long, so that nothing is moved twice in a row."""
        return all(
            pod.phase is PodPhase.READY and self.now - pod.since >= pool.drain.idle
            for pod in pods
            if not leaves_by_itself(pod, self.now)
        )

    def _candidates(self, pool: NodePool) -> Iterator[Node]:
        """Yield the pool's nodes that are well, old enough, and that nobody asked to be left alone."""
        for name in self.fleet.names_in(pool.name):
            node = self.fleet.nodes[name]
            if not self._is_supply(name, pool) or name in self.fleet.notices or node.mark is not None:
                continue
            if f"node {name}" in self._under_way:
                continue
            if any(node.annotations.get(key, "").lower() == "true" for key in _NODE_BLOCKS):
                continue
            if self._is_rested(node, pool):
                yield node

    def _is_rested(self, node: Node, pool: NodePool) -> bool:
        """Whether a node is old enough, and its last drain that was blocked long enough ago."""
        if node.created_at is None:
            return False
        old_at = node.created_at + pool.drain.min_node_age
        if self.now < old_at:
            self._wake(old_at)
            return False
        memory = self.memory[node.uid]
        if memory.blocked_until is None or self.now >= memory.blocked_until:
            return True
        self._wake(memory.blocked_until)
        if self._has_spare(pool, holding=1):
            self.blocked.setdefault(pool.name, f"{node.name} is kept: {memory.blocked_by}")
        return False

    def _fits_elsewhere(self, node: Node, pool: NodePool) -> bool:
        """Whether every pod that would move finds room on nodes that hold something and stay: then one node less is needed."""
        homes = list(self._homes(node, pool))
        taken: dict[str, dict[str, int]] = {}
        for pod in sorted(self._moving(node), key=lambda pod: (-pod.gpus, pod.uid)):
            home = next(
                (name for name in homes if self._takes(name, taken.get(name, self._rooms[name]), pod)), None
            )
            if home is None:
                return False
            free = taken.setdefault(home, dict(self._rooms[home]))
            for resource, amount in (pod.requests or pod.devices).items():
                free[resource] = free.get(resource, 0) - amount
        return True

    def _homes(self, leaving: Node, pool: NodePool) -> Iterator[str]:
        """Yield the nodes that could take the pods of *leaving*. What is on demand never moves to spot by our hand."""
        for name in self._rooms:
            home = self.fleet.pool_of(name)
            if home is None or name == leaving.name or (home.is_spot and not pool.is_spot):
                continue
            if not self._is_going(name) and name not in self.draining.get(home.name, ()):
                yield name

    @cached_property
    def _rooms(self) -> Mapping[str, dict[str, int]]:
        """What is free on nodes of pools that are well, hold something, and have a GPU left."""
        rooms = {}
        for name, pool in self.fleet.claims.pool_of.items():
            if self.fleet.standing[name] is not Standing.GOOD or name in self.fleet.notices:
                continue
            node, pods = self.fleet.nodes[name], self.fleet.pods_on.get(name, ())
            used = sum(pod.devices.get(pool.gpu_resource, 0) for pod in pods)
            if used < node.devices.get(pool.gpu_resource, 0) and not self._is_empty(name):
                rooms[name] = free_on(node, pods)
        return rooms

    def _takes(self, name: str, free: Mapping[str, int], pod: Pod) -> bool:
        node = self.fleet.nodes[name]
        missing = 0 if node.allocatable else None  # where only devices are known, nothing else is a limit
        for resource, amount in (pod.requests or pod.devices).items():
            left = free.get(resource, missing)
            if amount and left is not None and left < amount:
                return False
        return pod.constraints.accepts(node.labels, node.taints)

    # Nodes that are taken back

    def _on_doomed(self, node: Node, pool: NodePool | None) -> NodeAct | None:
        """Cordon a node whose end is said and whose pods nobody else moves, then move ours; one act, however many signals."""
        notice = self.fleet.notices.get(node.name)
        if pool is None or notice is None or notice.kind is not NoticeKind.HARD:
            return None
        is_theirs = notice.others_drain or (node.unschedulable and node.mark is None)
        if is_theirs or not pool.is_sizable or pool.mode is not Mode.ENFORCE:
            return None
        if node.mark is None or node.mark.cause is not CordonCause.INTERRUPTED:
            return _cordon(node, pool, CordonCause.INTERRUPTED)
        said = notice.since or self.memory[node.uid].doomed_since or self.now
        return self._evict(node, deadline=min(said, self.now) + notice.usual)

    def _evict(self, node: Node, *, deadline: datetime) -> EvictDoomed | None:
        pods = sorted(
            PodRef(pod.key, pod.uid)
            for pod in self.fleet.pods_on.get(node.name, ())
            if pod.owner_uid in self.movable and pod.phase is not PodPhase.TERMINATING
        )
        if not pods or self.now >= deadline:
            return None
        return EvictDoomed(node=node.name, node_uid=node.uid, pods=tuple(pods), deadline=deadline)

    # Nodes whose machine is gone

    def _is_gone(self, node: Node, pool: NodePool) -> bool:
        """Note since when the provider has no machine for this node; only one that also stopped reporting is gone."""
        if not node.ready and pool.name not in self._machines:
            return False  # not heard: what was known stays known
        is_missing = not node.ready and self._machine(node, pool) is None
        known = self.memory[node.uid].gone_since
        since = (known or self.now) if is_missing else None
        if since != known:
            self.memory[node.uid] = replace(self.memory[node.uid], gone_since=since)
        if since is None:
            return False
        self._wake(since + self.snapshot.timers.gone)
        return self.now - since >= self.snapshot.timers.gone

    def _may_forget(self, node: Node, pool: NodePool) -> bool:
        return (
            pool.mode is Mode.ENFORCE
            and pool.is_sizable
            and not node.terminating
            and not self.fleet.claims.rivals.get(pool.name)
        )

    def _wake(self, at: datetime) -> None:
        if at > self.now:
            self.wake_at = at if self.wake_at is None else min(self.wake_at, at)


class _Machines:
    """What one provider has, found by a node's name or, before it knows that, by the end of the node's provider id."""

    def __init__(self, instances: Sequence[Instance]) -> None:
        self._by_node = {found.node: found for found in instances if found.node}
        self._by_id = {found.id: found for found in instances}

    def of(self, node: Node) -> Instance | None:
        """Return the machine of *node*; None where the provider has none."""
        return self._by_node.get(node.name) or self._by_id.get(node.provider_id.rpartition("/")[2])


def _cordon(node: Node, pool: NodePool, cause: CordonCause) -> CordonNode:
    return CordonNode(
        node=node.name, node_uid=node.uid, cause=cause, id=f"{pool.name}-{node.uid}", pool=pool.name
    )


def _uncordon(node: Node, why: str) -> UncordonNode:
    return UncordonNode(node=node.name, node_uid=node.uid, why=why)


def _forget(node: Node, pool: NodePool) -> ForgetNode:
    return ForgetNode(pool=pool.name, node=node.name, node_uid=node.uid, instance=node.provider_id)


def blocker(pod: Pod, *, movable: frozenset[str], foreign_pods: ForeignPods, now: datetime) -> str:
    """Return why a voluntary drain may not move *pod*, as a sentence that names it; empty where it may, or leaves by itself.

    `movable` holds the ReplicaSets of GpuWorkloads in mode Enforce; every other pod blocks unless *foreign_pods* says Evict. What a
    pod says of itself (node-and-spot C.6.3) holds for all of them; an exemption that has run out, or makes no sense, is none.
    """
    if leaves_by_itself(pod, now) or pod.phase is PodPhase.TERMINATING:
        return ""
    hint = _hinted(pod, now=now)
    if hint:
        return f"pod {pod.key} asks to be left alone ({hint})"
    if pod.owner_uid in movable:
        return ""
    if foreign_pods is ForeignPods.BLOCK:
        return f"pod {pod.key} belongs to no GpuWorkload in mode Enforce, and drain.foreignPods is Block"
    return _foreign_blocker(pod)


def _foreign_blocker(pod: Pod) -> str:
    if not pod.owner_uid:
        return f"pod {pod.key} has no controller that would make it again"
    if pod.key.namespace == "kube-system":
        return f"pod {pod.key} is of the system"
    if pod.hints.get("cluster-autoscaler.kubernetes.io/safe-to-evict", "").lower() == "true":
        return ""
    listed = pod.hints.get("cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes", "")
    kept = {name.strip() for name in listed.split(",")}
    lost = [name for name in pod.local_volumes if name not in kept]
    return f"pod {pod.key} keeps data on the node (volume {lost[0]})" if lost else ""


def _hinted(pod: Pod, *, now: datetime) -> str:
    hints = pod.hints
    if not hints:
        return ""
    if _is_exempt(hints.get("karpenter.sh/do-not-disrupt", ""), since=pod.created_at, now=now):
        return "karpenter.sh/do-not-disrupt"
    for key, value in (
        ("cluster-autoscaler.kubernetes.io/safe-to-evict", "false"),
        ("spotinst.io/restrict-scale-down", "true"),
        ("cluster.x-k8s.io/drain", "wait-completed"),
    ):
        if hints.get(key, "").lower() == value:
            return f"{key}: {value}"
    return ""


_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)")
_DURATION: Final = re.compile(rf"\+?(?:{_PART.pattern})+")
_SECONDS: Final[Mapping[str, float]] = MappingProxyType(
    {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
)


def _is_exempt(text: str, *, since: datetime, now: datetime) -> bool:
    """Read `true`, or a Go duration from the pod's start such as `1h30m`; anything else is ignored, as Karpenter does."""
    text = text.strip()
    if text.lower() == "true":
        return True
    if _DURATION.fullmatch(text) is None:
        return False
    seconds = sum(float(amount) * _SECONDS[unit] for amount, unit in _PART.findall(text))
    return (now - since).total_seconds() < seconds


_SERVES: Final[Mapping[PodPhase, int]] = MappingProxyType({PodPhase.READY: 2, PodPhase.BROKEN: 1})
_LEAVES: Final[Mapping[Standing, int]] = MappingProxyType({Standing.DOOMED: 0, Standing.DRAINING: 1})


def _pool_name(pod: Pod, fleet: Fleet) -> str:
    pool = fleet.pool_of(pod.node) if pod.node is not None else None
    return pool.name if pool is not None and pool.is_spot else ""


def choose_victims(pods: Sequence[Pod], count: int, fleet: Fleet) -> tuple[PodRef, ...]:
    """Return which *count* of a Deployment's pods should go: what serves least first, then what empties a node soonest.

    Pods without a node, then loading, then broken ones; of those that serve, the ones on nodes that are lost or drained; then
    node by node, the one with the fewest pods first, in the pool that holds most of them: it would take most with it. The newest
    goes first where all else is equal.
    """
    live = [pod for pod in pods if pod.phase not in (PodPhase.TERMINATING, PodPhase.FINISHED)]
    crowd: dict[str | None, int] = {None: 0}
    newest: dict[str | None, float] = defaultdict(float)
    at_stake = Counter(_pool_name(pod, fleet) for pod in live)
    for pod in live:
        if pod.node is not None and pod.node not in crowd:
            crowd[pod.node] = sum(
                found.owner_kind != "DaemonSet" for found in fleet.pods_on.get(pod.node, ())
            )
        newest[pod.node] = max(newest[pod.node], pod.created_at.timestamp())

    def rank(pod: Pod) -> tuple[bool, int, int, int, int, float, str, float, str]:
        standing = fleet.standing.get(pod.node or "", Standing.GOOD)
        return (
            pod.node is not None,
            _SERVES.get(pod.phase, 0),
            _LEAVES.get(standing, 2),
            crowd[pod.node],
            -at_stake[_pool_name(pod, fleet)],
            -newest[pod.node],
            pod.node or "",
            -pod.created_at.timestamp(),
            pod.uid,
        )

    return tuple(PodRef(pod.key, pod.uid) for pod in sorted(live, key=rank)[:count])
