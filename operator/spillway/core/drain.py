"""Letting nodes go: which one, in which steps, and what stops it; and what is done on a node that is being taken back.

Each pass derives the next step from the mark on the node and from what is on it, so an operator that was killed between two steps
goes on, or takes its mark back: cordon with our taint → look for pods that slipped in → evict → remove exactly this machine.
A voluntary drain never forces anything. See node-and-spot C.5 and C.6.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from spillway.core.fleet import Fleet, Standing, is_empty, leaves_by_itself
from spillway.core.interruption import Notice, NoticeKind
from spillway.core.memory import NodeMemory
from spillway.core.model import (
    CordonCause,
    CordonNode,
    DrainNode,
    EvictDoomed,
    ForeignPods,
    ForgetNode,
    Mode,
    Node,
    NodeAct,
    NodePool,
    OperationState,
    Pod,
    PodPhase,
    PodRef,
    PoolState,
    Snapshot,
    UncordonNode,
)
from spillway.core.packing import Demand, Tier, room_of

EMPTY_AT_ONCE: Final = 10
FULL_AT_ONCE: Final = 1
FLEET_SHARE: Final = 10  # percent of all nodes that may be cordoned in one pass, at least one
EVICTION_MARGIN: Final = timedelta(seconds=10)

_DURATION: Final = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_NODE_BLOCKS: Final = ("cluster-autoscaler.kubernetes.io/scale-down-disabled",)


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

    `targets` says how many nodes each pool needs, `used_nodes` which hold something or will, `movable` the ReplicaSets whose pods
    may be evicted. Nothing voluntary happens in a pool that is not Enforce, or whose provider is not heard.
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
        self._busy = {found.act.subject for found in snapshot.operations if found.is_under_way}
        self._failed = {
            found.act.node: found
            for found in snapshot.operations
            if found.state is OperationState.FAILED and isinstance(found.act, DrainNode)
        }
        self._supply = Counter(
            pool.name
            for name, standing in fleet.standing.items()
            if standing in (Standing.GOOD, Standing.SUSPECTED) and (pool := fleet.pool_of(name)) is not None
        )
        self._instances = {
            name: {found.node: found for found in state.instances if found.node}
            for name, state in snapshot.pool_states.items()
        }

    def acts(self) -> Iterator[NodeAct]:
        """Yield what is to be done, at most one act for each node that has none under way."""
        for name, node in self.fleet.nodes.items():
            act = self._step(name, node)
            if act is not None and act.subject not in self._busy:
                yield act
        yield from self._begin()

    def _step(self, name: str, node: Node) -> NodeAct | None:
        """Return the next step for a node that carries our mark, is lost, or outlived its machine."""
        pool = self.fleet.pool_of(name)
        if self._is_gone(node, pool):
            return self._forget(node, pool)
        if self.fleet.standing[name] is Standing.DOOMED:
            return self._on_doomed(node, pool)
        if node.mark is None:
            return None
        if node.mark.cause is CordonCause.INTERRUPTED:
            return _uncordon(node, "the notice was taken back")
        return self._on_draining(node, pool)

    # Nodes that go because nobody needs them

    def _on_draining(self, node: Node, pool: NodePool | None) -> NodeAct | None:
        mark = node.mark
        if mark is None:
            return None
        if pool is None or not self._may_drain(pool):
            return _uncordon(node, "its pool is not drained any more")
        why = self._stop(node, pool)
        if why:
            self._back_off(node, why)
            self.blocked[pool.name] = f"{node.name} is kept: {why}"
            return _uncordon(node, why)
        self.draining[pool.name].append(node.name)
        settled_at = mark.since + self.snapshot.timers.cordon_settle
        if self.now < settled_at:
            self._wake(settled_at)
            return None
        instance = self._instances.get(pool.name, {}).get(node.name)
        if instance is None:
            return None
        return DrainNode(
            pool=pool.name,
            node=node.name,
            node_uid=node.uid,
            instance=instance.id,
            id=mark.id,
            movable=self.movable,
            foreign_pods=pool.drain.foreign_pods,
        )

    def _stop(self, node: Node, pool: NodePool) -> str:
        """Why a drain that has begun ends without its node going; empty while it goes on."""
        failed = self._failed.get(node.name)
        if failed is not None and failed.blocked:
            return failed.blocked
        mark = node.mark
        if mark is not None and self.now - mark.since > pool.drain.timeout:
            seconds = int(pool.drain.timeout.total_seconds())
            return f"it was not empty after drain.timeoutSeconds ({seconds} s)"
        if self._supply[pool.name] < max(pool.min_nodes, self.targets.get(pool.name, 0)):
            self._supply[pool.name] += 1
            return "it is needed again"
        pods = self.fleet.pods_on.get(node.name, ())
        return next(
            (why for pod in pods if (why := self._why_not(pod, pool))),
            "",
        )

    def _why_not(self, pod: Pod, pool: NodePool) -> str:
        return blocker(pod, movable=self.movable, foreign_pods=pool.drain.foreign_pods, now=self.now)

    def _back_off(self, node: Node, why: str) -> None:
        memory = self.memory.get(node.uid, NodeMemory())
        until = self.now + self.snapshot.timers.drain_back_off
        self.memory[node.uid] = replace(memory, blocked_until=until, blocked_by=why, idle_since=None)

    def _begin(self) -> Iterator[CordonNode]:
        """Yield cordons of nodes that may go now: empty ones first, then at most one whose pods fit elsewhere."""
        going = sum(len(found) for found in self.draining.values())
        share = max(1, len(self.fleet.nodes) * FLEET_SHARE // 100)
        left = min(EMPTY_AT_ONCE - going, share)
        for pool in self.snapshot.pools:
            if not self._may_drain(pool):
                continue
            for node in self._empty(pool):
                if left > 0 and self._spare(pool):
                    left -= 1
                    yield self._cordon(node, pool)
        if not going and left > 0:
            yield from self._begin_with_pods()

    def _begin_with_pods(self) -> Iterator[CordonNode]:
        for pool in self.snapshot.pools:
            if not self._may_drain(pool) or self._has_begun(pool):
                continue
            for node in self._movable_nodes(pool):
                if self._fits_elsewhere(node):
                    yield self._cordon(node, pool)
                    return

    def _has_begun(self, pool: NodePool) -> bool:
        return bool(self.draining.get(pool.name))

    def _cordon(self, node: Node, pool: NodePool) -> CordonNode:
        self._supply[pool.name] -= 1
        self.draining[pool.name].append(node.name)
        return CordonNode(
            node=node.name,
            node_uid=node.uid,
            cause=CordonCause.DRAIN,
            id=f"{pool.name}-{node.uid}",
            pool=pool.name,
        )

    def _spare(self, pool: NodePool) -> bool:
        """Whether the pool has a node more than it needs, and than its minimum."""
        state = self.snapshot.pool_states[pool.name]
        least = max(pool.min_nodes, self.targets.get(pool.name, 0))
        return self._supply[pool.name] > least and len(state.granted) > pool.min_nodes

    def _empty(self, pool: NodePool) -> Iterator[Node]:
        for node in self._candidates(pool):
            since = self.memory[node.uid].idle_since
            if since is None or node.name in self.used_nodes:
                continue
            if self.now - since >= pool.drain.idle:
                yield node
            else:
                self._wake(since + pool.drain.idle)

    def _movable_nodes(self, pool: NodePool) -> Iterator[Node]:
        """Yield nodes with pods that may all be moved, the one with the fewest first."""
        found = [
            (len(pods), node.name, node)
            for node in self._candidates(pool)
            if (pods := self._moving(node))
            and not any(self._why_not(pod, pool) for pod in self.fleet.pods_on[node.name])
        ]
        for *_, node in sorted(found, key=lambda item: item[:2]):
            yield node

    def _moving(self, node: Node) -> list[Pod]:
        pods = self.fleet.pods_on.get(node.name, ())
        return [pod for pod in pods if not leaves_by_itself(pod, self.now)]

    def _candidates(self, pool: NodePool) -> Iterator[Node]:
        """Yield the pool's nodes that are well, old enough, and that nobody asked to be left alone."""
        for name in self.fleet.names_in(pool.name):
            node = self.fleet.nodes[name]
            if self.fleet.standing[name] is not Standing.GOOD or name in self.fleet.notices:
                continue
            if any(node.annotations.get(key, "").lower() == "true" for key in _NODE_BLOCKS):
                continue
            if name not in self._instances.get(pool.name, {}):
                continue
            memory = self.memory[node.uid]
            if memory.blocked_until is not None and self.now < memory.blocked_until:
                self.blocked.setdefault(pool.name, f"{name} is kept: {memory.blocked_by}")
                continue
            if node.created_at is not None and self.now - node.created_at >= pool.drain.min_node_age:
                yield node

    def _may_drain(self, pool: NodePool) -> bool:
        return (
            pool.is_sizable
            and pool.mode is Mode.ENFORCE
            and self.snapshot.sees_all_pods
            and pool.name not in self.fleet.claims.rivals
            and _is_heard(self.snapshot.pool_states.get(pool.name), self.snapshot, now=self.now)
        )

    def _fits_elsewhere(self, node: Node) -> bool:
        """Whether every pod that would move finds room on nodes that hold something already, so that one node less is needed."""
        empty = frozenset(
            name for name in self.fleet.nodes if is_empty(self.fleet.pods_on.get(name, ()), now=self.now)
        )
        room = room_of(self.fleet, shapes={}, states={}, unplaceable={}, without=empty | {node.name})
        return all(
            room.place(
                Demand(
                    owner=pod.owner_uid,
                    template="",
                    requests=pod.requests or pod.devices,
                    constraints=pod.constraints,
                    count=1,
                    tier=Tier.FOREIGN,
                )
            )
            is not None
            for pod in self._moving(node)
        )

    # Nodes that are taken back

    def _on_doomed(self, node: Node, pool: NodePool | None) -> NodeAct | None:
        notice = self.fleet.notices.get(node.name)
        if pool is None or notice is None or notice.kind is not NoticeKind.HARD:
            return None
        if notice.others_drain or not pool.is_sizable or pool.mode is not Mode.ENFORCE:
            return None
        if node.mark is None or node.mark.cause is not CordonCause.INTERRUPTED:
            return CordonNode(
                node=node.name,
                node_uid=node.uid,
                cause=CordonCause.INTERRUPTED,
                id=f"{pool.name}-{node.uid}",
                pool=pool.name,
            )
        return self._evict(node, notice)

    def _evict(self, node: Node, notice: Notice) -> EvictDoomed | None:
        pods = tuple(
            PodRef(pod.key, pod.uid)
            for pod in self.fleet.pods_on.get(node.name, ())
            if pod.owner_uid in self.movable and pod.phase is not PodPhase.TERMINATING
        )
        since = notice.since or self.memory[node.uid].doomed_since or self.now
        deadline = min(since, self.now) + notice.usual
        if not pods or self.now >= deadline:
            return None
        return EvictDoomed(node=node.name, node_uid=node.uid, pods=pods, deadline=deadline)

    # Nodes whose machine is gone

    def _is_gone(self, node: Node, pool: NodePool | None) -> bool:
        """Note since when the provider has no machine for this node; only one that also stopped reporting is gone."""
        state = self.snapshot.pool_states.get(pool.name) if pool is not None else None
        if pool is None or node.ready or not _is_heard(state, self.snapshot, now=self.now):
            return False
        memory = self.memory[node.uid]
        missing = node.name not in self._instances.get(pool.name, {})
        since = (memory.gone_since or self.now) if missing else None
        if since != memory.gone_since:
            self.memory[node.uid] = replace(memory, gone_since=since)
        return since is not None and self.now - since >= self.snapshot.timers.gone

    def _forget(self, node: Node, pool: NodePool | None) -> ForgetNode | None:
        if pool is None or pool.mode is not Mode.ENFORCE or not pool.is_sizable or node.terminating:
            return None
        return ForgetNode(pool=pool.name, node=node.name, node_uid=node.uid, instance=node.provider_id)

    def _wake(self, at: datetime) -> None:
        self.wake_at = at if self.wake_at is None else min(self.wake_at, at)


def _is_heard(state: PoolState | None, snapshot: Snapshot, *, now: datetime) -> bool:
    return state is not None and not state.error and now - state.at <= snapshot.timers.pool_stale


def _uncordon(node: Node, why: str) -> UncordonNode:
    return UncordonNode(node=node.name, node_uid=node.uid, why=why)


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
    kept = set(pod.hints.get("cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes", "").split(","))
    lost = [name for name in pod.local_volumes if name not in kept]
    if lost and pod.hints.get("cluster-autoscaler.kubernetes.io/safe-to-evict") != "true":
        return f"pod {pod.key} keeps data on the node (volume {lost[0]})"
    return ""


def _hinted(pod: Pod, *, now: datetime) -> str:
    hints = pod.hints
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


def _is_exempt(text: str, *, since: datetime, now: datetime) -> bool:
    """Read `true`, or a Go duration from the pod's start such as `30m`; anything else is ignored, as Karpenter does."""
    if text.strip().lower() == "true":
        return True
    found = _DURATION.fullmatch(text.strip())
    if found is None or not any(found.groups()):
        return False
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return now < since + timedelta(hours=hours, minutes=minutes, seconds=seconds)


def choose_victims(pods: Sequence[Pod], count: int, fleet: Fleet) -> tuple[PodRef, ...]:
    """Return which *count* of a Deployment's pods should go: what serves least first, then what empties a node soonest.

    Pods without a node, then not Ready ones, then those on lost nodes; then pods with the fewest neighbours, the newest first.
    """
    live = [pod for pod in pods if pod.phase not in (PodPhase.TERMINATING, PodPhase.FINISHED)]
    neighbours = Counter(pod.node for pod in live if pod.node is not None)

    def rank(pod: Pod) -> tuple[bool, bool, bool, int, float, str]:
        crowd = len(fleet.pods_on.get(pod.node, ())) if pod.node is not None else 0
        return (
            pod.node is not None,
            pod.phase is PodPhase.READY,
            not fleet.is_doomed(pod.node),
            max(crowd, neighbours[pod.node or ""]),
            -pod.created_at.timestamp(),
            pod.uid,
        )

    return tuple(PodRef(pod.key, pod.uid) for pod in sorted(live, key=rank)[:count])
