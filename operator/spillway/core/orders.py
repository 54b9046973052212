"""From what was decided for each workload to the writes of replicas and twins that bring it about."""

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from datetime import datetime

from spillway.core.drain import choose_victims
from spillway.core.model import (
    DELETION_COST,
    DELETION_COST_ANNOTATION,
    Act,
    ClearDeletionCost,
    Deployment,
    Mode,
    Pod,
    PodPhase,
    PodRef,
    ReplicaAct,
    SetReplicas,
    Snapshot,
)
from spillway.core.placement import Layout
from spillway.core.plan import Decision
from spillway.core.replicas import pods_by_deployment
from spillway.core.tiers import Capacity, PodsOf, Tiers
from spillway.core.twin import TwinCase, hand_over, next_write


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One workload's decision and how it is laid out; `layout` is None where the source alone carries it."""

    tiers: Tiers
    decision: Decision
    layout: Layout | None
    rolling: bool

    @property
    def baseline(self) -> int:
        """What the source is to be set to."""
        return self.layout.view.baseline if self.layout is not None else self.decision.desired

    @property
    def burst(self) -> int:
        """What the twin is to be set to."""
        return self.layout.view.burst if self.layout is not None else 0

    @property
    def is_active(self) -> bool:
        """Whether anything may be written for it."""
        return self.decision.inactive is None


def orders_to_acts(
    orders: Sequence[Order], snapshot: Snapshot, capacity: Capacity, *, now: datetime
) -> Iterator[Act]:
    """Yield the writes of replicas and twins, at most one for each Deployment that has none under way.

    Victims are named only where nodes can be sized: elsewhere nothing is gained by choosing them.
    """
    busy = {operation.act.subject for operation in snapshot.operations if operation.is_under_way}
    pods = pods_by_deployment(snapshot)
    empties_nodes = any(pool.is_sizable for pool in snapshot.pools)
    shrinking: set[str] = set()
    for order in orders:
        for act in _acts_of(order, now=now):
            if act.subject in busy:
                continue
            lowered = act if isinstance(act, SetReplicas) and not act.is_growth else None
            if lowered is not None:
                shrinking.add(lowered.target_uid)
                act = _with_victims(lowered, pods, capacity) if empties_nodes else lowered  # noqa: PLW2901
            yield act
    yield from _handovers(snapshot, pods, capacity, busy=busy)
    yield from _cleared_costs(pods, shrinking=shrinking, busy=busy, snapshot=snapshot)


def _acts_of(order: Order, *, now: datetime) -> Iterator[ReplicaAct]:
    if not order.is_active:
        return
    tiers, wanted = order.tiers, order.decision.desired
    if order.layout is None:
        if order.decision.desired != order.decision.current:
            yield _set(order, tiers.source, order.decision.desired, count=None)
        return
    write = next_write(
        TwinCase(
            workload=tiers.workload,
            source=tiers.source,
            twin=tiers.twin,
            replicas=order.burst,
            count=wanted,
            can_burst=tiers.can_burst,
            pools=tiers.pools,
            rolling=order.rolling,
            behind_since=order.layout.memory.behind_since,
            now=now,
        )
    )
    if order.baseline != tiers.source.replicas and _may(order, tiers.source, order.baseline):
        yield _set(order, tiers.source, order.baseline, count=wanted)
    if write is not None:
        yield write
    elif (
        tiers.twin is not None and order.burst != tiers.twin.replicas and _may(order, tiers.twin, order.burst)
    ):
        yield _set(order, tiers.twin, order.burst, count=wanted)


def _may(order: Order, deployment: Deployment, to: int) -> bool:
    """ScaleUpOnly lowers nothing, stand-ins and burst replicas included."""
    return to > deployment.replicas or order.decision.mode is Mode.ENFORCE


def _set(order: Order, deployment: Deployment, to: int, *, count: int | None) -> SetReplicas:
    return SetReplicas(
        workload=order.decision.key,
        target=deployment.key,
        target_uid=deployment.uid,
        before=deployment.replicas,
        to=to,
        count=count,
    )


def _with_victims(act: SetReplicas, pods: PodsOf, capacity: Capacity) -> SetReplicas:
    own = [pod for pod, _ in pods.get(act.target_uid, ())]
    victims = choose_victims(own, act.before - act.to, capacity.fleet)
    return SetReplicas(
        workload=act.workload,
        target=act.target,
        target_uid=act.target_uid,
        before=act.before,
        to=act.to,
        victims=victims,
        count=act.count,
    )


def _handovers(
    snapshot: Snapshot, pods: PodsOf, capacity: Capacity, *, busy: Set[str]
) -> Iterator[ReplicaAct]:
    """Yield the next step for each twin whose GpuWorkload is gone and whose source no other one scales."""
    sources = {deployment.uid: deployment for deployment in snapshot.deployments.values()}
    targeted = {workload.target_key for workload in snapshot.workloads}
    for source_uid, twin in capacity.twins.items():
        source = sources.get(source_uid)
        facts = twin.twin
        if source is None or facts is None or source.key in targeted or source.terminating:
            continue
        if facts.workload_uid in snapshot.stored_workloads:
            continue
        if f"deployment {source.key}" in busy or f"deployment {twin.key}" in busy:
            continue
        act = hand_over(
            twin,
            source,
            good_source=_serving(pods.get(source.uid, ()), capacity),
            good_burst=_serving(pods.get(twin.uid, ()), capacity),
        )
        if act is not None:
            yield act


def _serving(pods: Iterable[tuple[Pod, int]], capacity: Capacity) -> int:
    return capacity.good(pod for pod, _ in pods)


def _cleared_costs(
    pods: PodsOf, *, shrinking: Set[str], busy: Set[str], snapshot: Snapshot
) -> Iterator[ClearDeletionCost]:
    """Yield one act for all pods that outlived the reduction which marked them.

    A reduction is over once the ReplicaSet has taken as many pods as it was told: until then the mark still chooses.
    """
    touched = {uid for uid, found in pods.items() if any(_is_marked(pod) for pod, _ in found)}
    if not touched or "deletion costs" in busy:
        return
    marked: list[PodRef] = []
    for deployment in snapshot.deployments.values():
        if deployment.uid not in touched - shrinking or f"deployment {deployment.key}" in busy:
            continue
        live = [pod for pod, _ in pods.get(deployment.uid, ()) if pod.phase is not PodPhase.TERMINATING]
        if len(live) <= deployment.replicas:
            marked += [PodRef(pod.key, pod.uid) for pod in live if _is_marked(pod)]
    if marked:
        yield ClearDeletionCost(pods=tuple(marked))


def _is_marked(pod: Pod) -> bool:
    return bool(pod.hints) and pod.hints.get(DELETION_COST_ANNOTATION) == str(DELETION_COST)
