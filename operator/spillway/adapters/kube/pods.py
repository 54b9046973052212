"""From a raw pod to the core's `Pod`, above all: how it is classified."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from sys import intern
from types import MappingProxyType

from spillway.adapters.kube.constraints import constraints_of
from spillway.adapters.kube.raw import Raw, condition, controller, key_of, part, since, time_of
from spillway.adapters.kube.set_aside import set_aside
from spillway.core.model import DELETION_COST_ANNOTATION, Pod, PodPhase

MESSAGE_LIMIT = 500

# A CronJob names each Job after itself and the minute; the name without it is what pays.
CRON_SUFFIX = re.compile(r"-[0-9]{8,}$")

# Annotations and labels that say something about moving a pod; platforms disagree on which of the two theirs is.
HINTS = (
    "karpenter.sh/do-not-disrupt",
    "cluster-autoscaler.kubernetes.io/safe-to-evict",
    "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes",
    "spotinst.io/restrict-scale-down",
    "cluster.x-k8s.io/drain",
    DELETION_COST_ANNOTATION,
)

BROKEN_WAITS = frozenset({
    "CrashLoopBackOff",
    "ImagePullBackOff",
    "ErrImagePull",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
})  # fmt: skip

# The kubelet forgets its crash back-off after a run of 10 minutes, so a shorter one is part of the same loop.
CRASH_LOOP_RUN = timedelta(minutes=10)
CRASH_LOOP_RESTARTS = 2


NO_HINTS: Mapping[str, str] = MappingProxyType({})  # one for all: most of 20,000 pods have none
DEFAULT_GRACE_SECONDS = 30  # what the API server fills in


def pod(raw: Raw) -> Pod | None:
    """Return the pod, or None for one that is finished, unless it belongs to a ReplicaSet: those tell of broken revisions.

    Every other one is kept, since all of them take room on nodes and stand in the way of a drain. `grace` of one that is being
    deleted is what its deletion grants, so that it should be gone at `since + grace`. Names that many pods share are interned.
    """
    meta, spec = raw["metadata"], raw["spec"]
    owner = controller(meta)
    standing = _standing(raw)
    if standing.phase is PodPhase.FINISHED and owner.get("kind") != "ReplicaSet":
        return None
    taken = set_aside(spec)
    return Pod(
        key=key_of(meta),
        uid=meta["uid"],
        owner_uid=intern(owner.get("uid", "")),
        owner_name=intern(_payer_name(owner)),
        owner_kind=intern(owner.get("kind", "")),
        devices=taken.devices,
        requests=taken.amounts,
        constraints=constraints_of(spec),
        priority=spec.get("priority") or 0,
        phase=standing.phase,
        created_at=time_of(meta["creationTimestamp"]),
        since=standing.since or time_of(meta["creationTimestamp"]),
        gpus=taken.gpus,
        node=intern(spec["nodeName"]) if spec.get("nodeName") else None,
        cause=standing.cause,
        message=standing.message[:MESSAGE_LIMIT],
        local_volumes=_local_volumes(spec),
        hints=_hints(meta),
        grace=timedelta(seconds=_grace_seconds(meta, spec)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Standing:
    phase: PodPhase
    since: datetime | None = None
    cause: str = ""
    message: str = ""


def _standing(raw: Raw) -> _Standing:
    """Classify a pod: what ends it comes before what keeps it from running, and that before what it reports itself."""
    meta, status = raw["metadata"], part(raw, "status")
    ready, scheduled = condition(status, "Ready"), condition(status, "PodScheduled")
    if "deletionTimestamp" in meta:
        return _Standing(phase=PodPhase.TERMINATING, since=_deletion_time(meta))
    if status.get("phase") in {"Succeeded", "Failed"}:
        cause, message = status.get("reason", ""), status.get("message", "")
        return _Standing(phase=PodPhase.FINISHED, since=since(ready), cause=cause, message=message)
    if not raw["spec"].get("nodeName"):
        return _waiting_for_a_node(scheduled)
    return _on_its_node(status, ready=ready, scheduled=scheduled)


def _on_its_node(status: Raw, *, ready: Raw, scheduled: Raw) -> _Standing:
    if _is_lost(status, ready):
        return _Standing(phase=PodPhase.UNKNOWN, since=since(ready))
    if ready.get("status") == "True":
        return _Standing(phase=PodPhase.READY, since=since(ready))
    unready_since = since(ready) or since(scheduled)
    for container in _container_statuses(status):
        if fault := _fault(container):
            return _Standing(phase=PodPhase.BROKEN, since=unready_since, cause=fault[0], message=fault[1])
    return _Standing(phase=PodPhase.LOADING, since=unready_since)


def _waiting_for_a_node(scheduled: Raw) -> _Standing:
    if scheduled.get("status") != "False" or scheduled.get("reason") != "Unschedulable":
        return _Standing(
            phase=PodPhase.PENDING, cause=scheduled.get("reason", ""), message=scheduled.get("message", "")
        )
    return _Standing(
        phase=PodPhase.UNSCHEDULABLE,
        since=since(scheduled),
        cause="Unschedulable",
        message=scheduled.get("message", ""),
    )


def _is_lost(status: Raw, ready: Raw) -> bool:
    """Say whether the pod's node stopped reporting.

    Today's node controller then sets Ready to False and leaves the containers' own condition as the kubelet last wrote it;
    only a readiness gate gives the same picture, and says so.
    """
    if ready.get("status") == "Unknown" or status.get("phase") == "Unknown":
        return True
    containers_ready = condition(status, "ContainersReady").get("status") == "True"
    return (
        ready.get("status") == "False"
        and containers_ready
        and ready.get("reason") != "ReadinessGatesNotReady"
    )


def _fault(container: Raw) -> tuple[str, str] | None:
    """Return cause and message when this container keeps its pod from ever turning Ready by itself."""
    if container.get("ready"):
        return None
    waiting = part(part(container, "state"), "waiting")
    if waiting.get("reason") in BROKEN_WAITS:
        return waiting["reason"], waiting.get("message", "")
    last = part(part(container, "lastState"), "terminated")
    if not container.get("restartCount") or not last:
        return None
    if last.get("reason") == "OOMKilled":
        return "OOMKilled", f"container {container.get('name')} was killed for exceeding its memory limit"
    # Between two crashes a looping container runs for a moment and would look as if it were loading.
    looping = container["restartCount"] >= CRASH_LOOP_RESTARTS and _ran_shortly(last)
    if looping and last.get("exitCode") != 0:
        return (
            "CrashLoopBackOff",
            f"container {container.get('name')} exits with {last.get('exitCode')} again and again",
        )
    return None


def _ran_shortly(terminated: Raw) -> bool:
    started, finished = terminated.get("startedAt"), terminated.get("finishedAt")
    if not started or not finished:
        return False
    return time_of(finished) - time_of(started) < CRASH_LOOP_RUN


def _container_statuses(status: Raw) -> Iterable[Raw]:
    yield from status.get("initContainerStatuses") or ()
    yield from status.get("containerStatuses") or ()


def _deletion_time(meta: Raw) -> datetime:
    # deletionTimestamp lies ahead, at the end of the grace period; what counts is when the deletion was asked for.
    grace = timedelta(seconds=meta.get("deletionGracePeriodSeconds") or 0)
    return time_of(meta["deletionTimestamp"]) - grace


def _local_volumes(spec: Raw) -> tuple[str, ...]:
    return tuple(volume["name"] for volume in spec.get("volumes") or () if _is_local(volume))


def _is_local(volume: Raw) -> bool:
    empty_dir = volume.get("emptyDir")
    return "hostPath" in volume or (empty_dir is not None and empty_dir.get("medium") != "Memory")


def _hints(meta: Raw) -> Mapping[str, str]:
    found = {**part(meta, "labels"), **part(meta, "annotations")}
    return {name: found[name] for name in HINTS if name in found} or NO_HINTS


def _grace_seconds(meta: Raw, spec: Raw) -> int:
    granted = meta.get("deletionGracePeriodSeconds")
    if granted is None:
        granted = spec.get("terminationGracePeriodSeconds")
    return DEFAULT_GRACE_SECONDS if granted is None else int(granted)


def _payer_name(owner: Raw) -> str:
    name = str(owner.get("name", ""))
    return CRON_SUFFIX.sub("", name) if owner.get("kind") == "Job" else name
