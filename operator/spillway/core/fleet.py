"""How every node stands at one moment, and which pods are on it; what a decision about nodes looks at."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from spillway.core.claims import Claims, claim_nodes
from spillway.core.interruption import Notice, NoticeKind, is_passing, read_notice
from spillway.core.memory import NodeMemory
from spillway.core.model import CordonCause, Node, NodePool, Pod, PodPhase, Snapshot
from spillway.core.scheduling import Taint

HOSTNAME: Final = "kubernetes.io/hostname"
STUCK: Final = timedelta(seconds=60)  # terminating for so long beyond its grace, a pod counts no more
BOOTS_WITHIN: Final = timedelta(seconds=600)  # 3 to 8 minutes, says node-and-spot 2.2
_STAYS_TO_THE_END: Final = frozenset({"DaemonSet", "Node"})  # a Node owns its mirror pods


class Standing(StrEnum):
    """How a node stands. Only GOOD and BOOTING ones are supply; a STALLED one has been booting for too long to wait for it."""

    GOOD = "Good"
    BOOTING = "Booting"
    SUSPECTED = "Suspected"
    DOOMED = "Doomed"
    DRAINING = "Draining"
    CORDONED = "Cordoned"
    STALLED = "Stalled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All nodes by name. `pods_on` holds every unfinished pod bound to a node, `memory` what is remembered by node uid.

    `overdue` are machines, by id, that were granted too long ago and have no Node yet. `gone` names nodes that exist no more
    although pods on them are still listed.
    """

    claims: Claims
    nodes: Mapping[str, Node]
    standing: Mapping[str, Standing]
    notices: Mapping[str, Notice]
    pods_on: Mapping[str, tuple[Pod, ...]]
    memory: Mapping[str, NodeMemory]
    pool_labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    by_pool: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    pool_taints: Mapping[str, frozenset[tuple[Taint, ...]]] = field(default_factory=dict)
    overdue: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()

    def names_in(self, pool: str) -> tuple[str, ...]:
        """Return the nodes of a pool by name."""
        return self.by_pool.get(pool, ())

    def taints_of(self, pool: NodePool) -> frozenset[tuple[Taint, ...]]:
        """Return the different sets of lasting taints on the nodes of *pool*; before it has any, those that its spec names."""
        return self.pool_taints.get(pool.name) or frozenset({pool.taints})

    def pool_of(self, node: str) -> NodePool | None:
        """Return the pool that a node belongs to; None for one in no pool, in two, or unknown."""
        return self.claims.pool_of.get(node)

    def is_doomed(self, node: str | None) -> bool:
        """Whether pods on *node* are as good as lost; False for no node, and for one that is not known (yet)."""
        return node is not None and (self.standing.get(node) is Standing.DOOMED or node in self.gone)

    def labels_of(self, pool: NodePool) -> Mapping[str, str]:
        """Return the labels that a node of *pool* will have: those that all of its nodes share, or at least its selector."""
        return self.pool_labels.get(pool.name, pool.selector)


def survey(snapshot: Snapshot, memory: Mapping[str, NodeMemory], now: datetime) -> Fleet:
    """Return how every node stands, nodes and pools by name, so that nothing follows from the order of a listing.

    A node NotReady for longer than `timers.node_lost` is counted lost; ages below zero, from clocks that differ, are none.
    """
    nodes = sorted(snapshot.nodes, key=lambda node: node.name)
    claims = claim_nodes(nodes, tuple(sorted(snapshot.pools, key=lambda pool: pool.name)))
    pods_on = _pods_by_node(snapshot.pods)
    standing: dict[str, Standing] = {}
    notices: dict[str, Notice] = {}
    kept: dict[str, NodeMemory] = {}
    pool_labels: dict[str, Mapping[str, str]] = {}
    by_pool: dict[str, list[str]] = defaultdict(list)
    pool_taints: dict[str, set[tuple[Taint, ...]]] = defaultdict(set)
    for node in nodes:
        pool = claims.pool_of.get(node.name)
        notice = read_notice(node)
        if notice is not None:
            notices[node.name] = notice
        stand = _stand(node, pool, notice, lost_after=snapshot.timers.node_lost, now=now)
        if stand is Standing.BOOTING and _is_overdue(node.created_at, snapshot, now=now):
            stand = Standing.STALLED
        standing[node.name] = stand
        kept[node.uid] = _remember(memory.get(node.uid), node, stand, pods_on.get(node.name, ()), now=now)
        if pool is not None:
            by_pool[pool.name].append(node.name)
            pool_labels[pool.name] = _shared(pool_labels.get(pool.name), node.labels)
            pool_taints[pool.name].add(tuple(taint for taint in node.taints if not is_passing(taint)))
    return Fleet(
        claims=claims,
        nodes={node.name: node for node in nodes},
        standing=standing,
        notices=notices,
        pods_on=pods_on,
        memory=kept,
        pool_labels=pool_labels,
        by_pool={name: tuple(found) for name, found in by_pool.items()},
        pool_taints={name: frozenset(found) for name, found in pool_taints.items()},
        overdue=frozenset(
            found.id
            for state in snapshot.pool_states.values()
            for found in state.granted
            if not found.node and _is_overdue(found.since, snapshot, now=now)
        ),
        gone=_gone(pods_on, standing, settled=snapshot.timers.node_lost, now=now),
    )


def _gone(
    pods_on: Mapping[str, tuple[Pod, ...]],
    standing: Mapping[str, Standing],
    *,
    settled: timedelta,
    now: datetime,
) -> frozenset[str]:
    """Return the nodes that were deleted while pods on them still say Ready: until they are collected, 40 s or more later.

    A pod cannot be Ready for so long on a node that is only not seen yet. Where no node is seen at all, none is known to be gone.
    """
    if not standing:
        return frozenset()
    return frozenset(
        node
        for node, pods in pods_on.items()
        if node not in standing and any(_has_served(pod, settled, now) for pod in pods)
    )


def _has_served(pod: Pod, settled: timedelta, now: datetime) -> bool:
    return pod.phase is PodPhase.READY and now - pod.since >= settled


def _is_overdue(since: datetime | None, snapshot: Snapshot, *, now: datetime) -> bool:
    return since is not None and now - since >= snapshot.timers.node_boot


def _shared(known: Mapping[str, str] | None, labels: Mapping[str, str]) -> Mapping[str, str]:
    """Return what is alike in both; a name or a zone of one node says nothing of the next."""
    if known is None:
        return {key: value for key, value in labels.items() if key != HOSTNAME}
    return {key: value for key, value in known.items() if labels.get(key) == value}


def _pods_by_node(pods: Iterable[Pod]) -> Mapping[str, tuple[Pod, ...]]:
    grouped: dict[str, list[Pod]] = defaultdict(list)
    for pod in pods:
        if pod.node is not None and pod.phase is not PodPhase.FINISHED:
            grouped[pod.node].append(pod)
    return {node: tuple(found) for node, found in grouped.items()}


def _stand(
    node: Node, pool: NodePool | None, notice: Notice | None, *, lost_after: timedelta, now: datetime
) -> Standing:
    if notice is not None and notice.kind is NoticeKind.HARD:
        return Standing.DOOMED
    if not node.ready:
        return _stand_unready(node, notice, lost_after=lost_after, now=now)
    if node.mark is not None and node.mark.cause is CordonCause.DRAIN:
        return Standing.DRAINING
    if node.unschedulable:
        return Standing.CORDONED
    # A device plugin that has not reported yet: the GPUs come a little after the node.
    has_gpus = pool is None or node.devices.get(pool.gpu_resource)
    return Standing.GOOD if has_gpus else Standing.BOOTING


def _stand_unready(node: Node, notice: Notice | None, *, lost_after: timedelta, now: datetime) -> Standing:
    if not _was_ever_ready(node, now=now):
        return Standing.BOOTING
    since = notice.since if notice is not None else None
    return Standing.DOOMED if since is not None and now - since >= lost_after else Standing.SUSPECTED


def _was_ever_ready(node: Node, *, now: datetime) -> bool:
    """Whether a node that is not Ready has been: a kubelet registers its node NotReady, and keeps to that until it is Ready.

    Its clock may be wrong while it starts, so a young node that has shown no device yet is booting whatever it says.
    """
    ready = next((found for found in node.conditions if found.type == "Ready"), None)
    if ready is None:
        return False
    if not node.devices and node.created_at is not None and now - node.created_at < BOOTS_WITHIN:
        return False
    if ready.status == "Unknown" or ready.since is None or node.created_at is None:
        return True
    return ready.since > node.created_at + timedelta(seconds=1)


def _remember(
    known: NodeMemory | None, node: Node, stand: Standing, pods: Iterable[Pod], *, now: datetime
) -> NodeMemory:
    """Bring a node's memory up to date; a machine that came back under its name starts anew."""
    memory = known if known is not None and known.boot_id in ("", node.boot_id) else NodeMemory()
    doomed = (memory.doomed_since or now) if stand is Standing.DOOMED else None
    idle = (memory.idle_since or now) if is_empty(pods, now=now) else None
    changed = (memory.boot_id, memory.doomed_since, memory.idle_since) != (node.boot_id, doomed, idle)
    if not changed:
        return memory
    return replace(memory, boot_id=node.boot_id, doomed_since=doomed, idle_since=idle)


def is_empty(pods: Iterable[Pod], *, now: datetime) -> bool:
    """Whether no pod is on a node but those that leave with it."""
    return all(leaves_by_itself(pod, now) for pod in pods)


def leaves_by_itself(pod: Pod, now: datetime) -> bool:
    """Whether a drain need not mind *pod*: of a DaemonSet, a mirror pod, finished, or stuck while it terminates."""
    if pod.owner_kind in _STAYS_TO_THE_END or pod.phase is PodPhase.FINISHED:
        return True
    return pod.phase is PodPhase.TERMINATING and now - pod.since > STUCK + pod.grace
