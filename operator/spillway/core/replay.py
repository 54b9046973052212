"""Windows refilled from recorded metrics after a restart or takeover, so that patience is not lost with the process."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from spillway.core.memory import DownWindow, Memory, WorkloadMemory
from spillway.core.model import Deployment, ObjectKey, Pod, PodPhase, ReplicaSet, Snapshot, Workload
from spillway.core.observe import EPSILON, N_MINUS_ONE_SHARE, replicas_for
from spillway.core.replicas import pods_by_deployment
from spillway.core.signal import DOWN_COVERAGE
from spillway.core.twin import twins_by_source

GOING = frozenset({PodPhase.TERMINATING, PodPhase.UNKNOWN, PodPhase.BROKEN})  # may have served a moment ago

History = Mapping[tuple[str, str], tuple[tuple[datetime, float], ...]]


def replay(snapshot: Snapshot, history: History, now: datetime) -> Memory:
    """Return the memory that watching *history* would have left: down windows and the last busy value.

    `history` holds (time, mean utilization 0..1) per (namespace, pod), at the collection step or finer. Pods that are gone are
    recognised by their ReplicaSet's name and, like those on their way out, only add load. Streaks, step budgets and proofs of zero start empty.
    """
    by_owner = _by_replica_set_name(history)
    pods = pods_by_deployment(snapshot)
    names = _replica_set_names(snapshot.replica_sets)
    twins = twins_by_source(snapshot.deployments.values())
    memories = {}
    for workload in snapshot.workloads:
        deployment = snapshot.deployments.get(workload.target_key)
        if deployment is None:
            continue
        twin = twins.get(deployment.uid)
        # What runs on spot is load of the same workload.
        uids = (deployment.uid, twin.uid) if twin is not None else (deployment.uid,)
        recorded = [
            (name, points)
            for uid in uids
            for owner in names.get(uid, ())
            for name, points in by_owner.get(owner, ())
        ]
        alive = {pod.key.name: pod for uid in uids for pod, _ in pods.get(uid, ())}
        memories[workload.uid] = _replay_one(
            workload, deployment, recorded, alive, max_gap=snapshot.stale_after, now=now
        )
    return Memory(workloads=memories)


def _by_replica_set_name(
    history: History,
) -> Mapping[ObjectKey, list[tuple[str, tuple[tuple[datetime, float], ...]]]]:
    grouped = defaultdict(list)
    for (namespace, pod), points in history.items():
        # A pod of a ReplicaSet is named <replica set>-<5 characters>.
        grouped[ObjectKey(namespace, pod.rpartition("-")[0])].append((pod, points))
    return grouped


def _replica_set_names(replica_sets: Iterable[ReplicaSet]) -> Mapping[str, list[ObjectKey]]:
    grouped = defaultdict(list)
    for replica_set in replica_sets:
        if replica_set.owner_uid is not None:
            grouped[replica_set.owner_uid].append(replica_set.key)
    return grouped


@dataclass(slots=True)
class _Moment:
    """What was recorded at one time: the load of pods that counted, and how many were ready or on their way out."""

    load: float = 0.0
    ready: int = 0
    gone: int = 0


def _replay_one(
    workload: Workload,
    deployment: Deployment,
    recorded: Iterable[tuple[str, tuple[tuple[datetime, float], ...]]],
    alive: Mapping[str, Pod],
    *,
    max_gap: timedelta,
    now: datetime,
) -> WorkloadMemory:
    moments: dict[datetime, _Moment] = defaultdict(_Moment)
    for name, points in recorded:
        pod = alive.get(name)
        is_gone = pod is None or pod.phase in GOING
        for at, value in points:
            if is_gone or (pod is not None and _had_settled(pod, workload, at)):
                moment = moments[at]
                moment.load += value
                moment.gone += is_gone
                moment.ready += not is_gone
    ready = [pod for pod in alive.values() if pod.phase is PodPhase.READY]
    return _fold(workload, deployment, moments, ready, max_gap=max_gap, now=now)


def _had_settled(pod: Pod, workload: Workload, at: datetime) -> bool:
    return pod.phase is PodPhase.READY and at - pod.since >= workload.readiness.settle


def _fold(
    workload: Workload,
    deployment: Deployment,
    moments: Mapping[datetime, _Moment],
    ready: Sequence[Pod],
    *,
    max_gap: timedelta,
    now: datetime,
) -> WorkloadMemory:
    rules = workload.gpu_activity
    window, busy = DownWindow(), None
    for at, moment in sorted(moments.items()):
        settled = sum(1 for pod in ready if _had_settled(pod, workload, at))
        unsettled = sum(1 for pod in ready if pod.since <= at) - settled
        missing = max(0, settled - moment.ready)
        if moment.ready < DOWN_COVERAGE * settled:
            window = DownWindow()
            continue
        if window.last is None or at - window.last > max_gap:
            window = DownWindow(since=at)
        measured = moment.ready + moment.gone + missing
        mean = (moment.load + missing * rules.high) / measured
        busy = mean if moment.load > 0 else busy
        is_above = rules.low is not None and mean >= rules.low - EPSILON
        # As in watching, pods that only just turned Ready are taken to be as busy as the others.
        entry = (at, replicas_for(mean * (measured + unsettled) / (N_MINUS_ONE_SHARE * rules.high)))
        window = _with(window, entry, above_low_at=at if is_above else window.above_low_at)
    return WorkloadMemory(first_seen=now, target_uid=deployment.uid, window=window, busy_value=busy)


def _with(window: DownWindow, entry: tuple[datetime, int], *, above_low_at: datetime | None) -> DownWindow:
    kept = [old for old in window.floors if old[1] > entry[1]]
    return DownWindow(since=window.since, last=entry[0], floors=(*kept, entry), above_low_at=above_low_at)
