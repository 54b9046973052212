"""Whose pods are whose, and what each can do: ready, settled, loading, unschedulable, broken."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta

from spillway.core.model import Deployment, Pod, PodPhase, ReadinessRules, ReplicaSet, Snapshot
from spillway.core.plan import CapacityReason, Finding, ReplicaCounts

BROKEN_IN_A_ROW = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicas:
    """The live pods of one target. Finished pods are left out; terminating ones are neither supply nor demand.

    `revision_broken` says that the newest revision does not come up, so growing it would only make more broken pods. `waiting_long` are unschedulable for longer than the timeout.
    `sharing` counts ready pods by how much of the settle time they have served: by that many the measured mean was shared.
    """

    settled: tuple[Pod, ...] = ()
    unsettled: tuple[Pod, ...] = ()
    loading: tuple[Pod, ...] = ()
    unschedulable: tuple[Pod, ...] = ()
    broken: tuple[Pod, ...] = ()
    terminating: int = 0
    waiting_long: int = 0
    revision_broken: bool = False
    last_ready_at: datetime | None = None
    sharing: float = 0.0

    @property
    def ready(self) -> int:
        """Pods that serve, settled or not."""
        return len(self.settled) + len(self.unsettled)

    @property
    def standing(self) -> int:
        """Pods that hold a place, whether they serve or not; all but those that find no node."""
        return self.ready + len(self.loading) + len(self.broken)

    @property
    def counts(self) -> ReplicaCounts:
        """The same in numbers, for people."""
        return ReplicaCounts(
            ready=self.ready,
            settled=len(self.settled),
            loading=len(self.loading),
            unschedulable=len(self.unschedulable),
            broken=len(self.broken),
            terminating=self.terminating,
        )


def pods_by_deployment(snapshot: Snapshot) -> Mapping[str, list[tuple[Pod, int]]]:
    """Group pods by the uid of the Deployment that owns their ReplicaSet, each with its revision.

    Ownership goes by ownerReferences only: a pod that merely matches the selector belongs to nobody here.
    """
    owners: dict[str, ReplicaSet] = {rs.uid: rs for rs in snapshot.replica_sets}
    grouped: dict[str, list[tuple[Pod, int]]] = defaultdict(list)
    for pod in snapshot.pods:
        owner = owners.get(pod.owner_uid)
        if owner is not None and owner.owner_uid is not None and pod.phase is not PodPhase.FINISHED:
            grouped[owner.owner_uid].append((pod, owner.revision))
    return grouped


def classify(
    pods: Iterable[tuple[Pod, int]],
    *,
    revision: int,
    rules: ReadinessRules,
    pending_timeout: timedelta,
    now: datetime,
) -> Replicas:
    """Sort one target's pods by what they can do. A pod that loads for longer than its grace counts as broken.

    The grace runs from when the pod stopped being Ready or got its node: hours of service or of waiting use none of it.
    """
    settled: list[Pod] = []
    unsettled: list[Pod] = []
    loading: list[Pod] = []
    unschedulable: list[Pod] = []
    broken: list[Pod] = []
    newest: list[Pod] = []
    terminating = 0
    for pod, pod_revision in pods:
        if pod_revision == revision and pod.phase is not PodPhase.TERMINATING:
            newest.append(pod)
        match pod.phase:
            case PodPhase.TERMINATING:
                terminating += 1
            case PodPhase.READY:
                (settled if now - pod.since >= rules.settle else unsettled).append(pod)
            case PodPhase.UNSCHEDULABLE:
                unschedulable.append(pod)
            case PodPhase.BROKEN:
                broken.append(pod)
            case PodPhase.LOADING if now - pod.since > rules.load_grace:
                broken.append(pod)
            case _:
                # Not scheduled yet, loading, or on a node that went silent: supply on its way, no evidence of load.
                loading.append(pod)
    return Replicas(
        settled=tuple(settled),
        unsettled=tuple(unsettled),
        loading=tuple(loading),
        unschedulable=tuple(unschedulable),
        broken=tuple(broken),
        terminating=terminating,
        waiting_long=sum(1 for pod in unschedulable if now - pod.since > pending_timeout),
        revision_broken=bool(broken) and _does_not_come_up(newest, {pod.uid for pod in broken}),
        last_ready_at=max((pod.since for pod in (*settled, *unsettled)), default=None),
        sharing=len(settled) + sum(max(0.0, (now - pod.since) / rules.settle) for pod in unsettled),
    )


def _does_not_come_up(pods: Sequence[Pod], broken: Set[str]) -> bool:
    """Whether a revision is sick rather than one of its pods: none serves, half are broken, or all newer ones were.

    Two that were started after the last one turned Ready and broke say that a third would break, too.
    """
    sick = [pod for pod in pods if pod.uid in broken]
    last_ready_at = max((pod.since for pod in pods if pod.phase is PodPhase.READY), default=None)
    if not sick or last_ready_at is None:
        return bool(sick)
    in_a_row = sum(1 for pod in sick if pod.created_at > last_ready_at)
    return len(sick) * 2 >= len(pods) or in_a_row >= BROKEN_IN_A_ROW


def is_rolling_out(deployment: Deployment) -> bool:
    """Whether a new template is still being brought out, by the Deployment's own account."""
    behind = deployment.observed_generation < deployment.generation
    return behind or deployment.updated_replicas < min(deployment.replicas, deployment.status_replicas)


def capacity_finding(
    replicas: Replicas, deployment: Deployment, *, awaited: Set[str] = frozenset()
) -> Finding[CapacityReason] | None:
    """Name the first thing that keeps asked-for replicas from serving, in the cluster's own words; None if nothing does.

    Pods in *awaited*, by uid, have a place coming: a node that boots for them is no trouble.
    """
    name = deployment.key.name
    if replicas.revision_broken:
        pod = replicas.broken[0]
        message = (
            f"{len(replicas.broken)} pods of revision {deployment.revision} do not come up ({_ailment(pod)}); "
            f"not growing it. Look at: kubectl -n {pod.key.namespace} logs {pod.key.name} --previous"
        )
        return Finding(reason=CapacityReason.REVISION_BROKEN, message=message)
    if deployment.failure is not None:
        return Finding(
            reason=CapacityReason.REPLICA_FAILURE,
            message=f"The cluster refuses to create pods of {name}: {deployment.failure}",
        )
    waiting = [pod for pod in replicas.unschedulable if pod.uid not in awaited]
    if waiting:
        pod = min(waiting, key=lambda pod: pod.since)
        message = f"{len(waiting)} pods of {name} find no node: {pod.message or pod.cause}"
        return Finding(reason=CapacityReason.UNSCHEDULABLE, message=message)
    if replicas.broken:
        pod = replicas.broken[0]
        message = f"{len(replicas.broken)} pods of {name} do not come up ({_ailment(pod)}): {pod.key.name}"
        return Finding(reason=CapacityReason.PODS_BROKEN, message=message)
    return None


def _ailment(pod: Pod) -> str:
    return pod.cause or "still loading after its grace"
