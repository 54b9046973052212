"""From raw API objects to the core's values: only what a decision looks at is kept.

Each function takes the object as the API server sent it, and raises KeyError, TypeError or ValueError where a field that every
stored object has is not there; the reflector leaves such an object out and says so.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from spillway.core.model import Deployment, ForeignAutoscaler, ObjectKey, Pod, PodPhase, ReplicaSet

Raw = Mapping[str, Any]

REVISION = "deployment.kubernetes.io/revision"
MESSAGE_LIMIT = 500

# Resource names that stand for a GPU, or for a slice of one that is scheduled like one.
GPU_RESOURCES = frozenset({
    "nvidia.com/gpu",
    "nvidia.com/gpu.shared",
    "amd.com/gpu",
    "gpu.intel.com/i915",
    "gpu.intel.com/xe",
    "habana.ai/gaudi",
})  # fmt: skip
MIG_PREFIX = "nvidia.com/mig-"

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


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceInfo:
    """A namespace: its labels, for policies that select by them, and whether it is being deleted."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    terminating: bool = False


def namespace_info(raw: Raw) -> NamespaceInfo:
    """Return the namespace; one that is being deleted counts as terminating from the request on."""
    meta = raw["metadata"]
    phase = _part(raw, "status").get("phase")
    return NamespaceInfo(
        name=meta["name"],
        labels=dict(_part(meta, "labels")),
        terminating="deletionTimestamp" in meta or phase == "Terminating",
    )


def deployment(raw: Raw) -> Deployment:
    """Return the Deployment; `replicas` is what the spec asks for, 1 where it is silent, as Kubernetes reads it."""
    meta, spec, status = raw["metadata"], raw["spec"], _part(raw, "status")
    pod_spec = spec["template"]["spec"]
    return Deployment(
        key=_key(meta),
        uid=meta["uid"],
        resource_version=meta["resourceVersion"],
        generation=meta.get("generation", 0),
        observed_generation=status.get("observedGeneration", 0),
        replicas=spec.get("replicas", 1),
        updated_replicas=status.get("updatedReplicas", 0),
        status_replicas=status.get("replicas", 0),
        selector=selector_text(_part(spec, "selector")),
        gpus_per_pod=requested_gpus(pod_spec),
        revision=_revision(meta),
        priority=pod_spec.get("priority") or 0,
        paused=bool(spec.get("paused")),
        failure=_replica_failure(status),
        terminating="deletionTimestamp" in meta,
    )


def replica_set(raw: Raw) -> ReplicaSet:
    """Return the ReplicaSet; `owner_uid` is its Deployment, None for one that stands alone."""
    meta = raw["metadata"]
    owner = _controller(meta, kind="Deployment")
    return ReplicaSet(
        key=_key(meta),
        uid=meta["uid"],
        owner_uid=owner["uid"] if owner else None,
        revision=_revision(meta),
    )


def pod(raw: Raw) -> Pod | None:
    """Return the pod, or None for one that no ReplicaSet controls: it cannot belong to a Deployment."""
    meta = raw["metadata"]
    owner = _controller(meta, kind="ReplicaSet")
    if owner is None:
        return None
    standing = _standing(raw)
    return Pod(
        key=_key(meta),
        uid=meta["uid"],
        owner_uid=owner["uid"],
        phase=standing.phase,
        created_at=_time(meta["creationTimestamp"]),
        since=standing.since or _time(meta["creationTimestamp"]),
        gpus=requested_gpus(raw["spec"]),
        node=raw["spec"].get("nodeName") or None,
        cause=standing.cause,
        message=standing.message[:MESSAGE_LIMIT],
    )


def horizontal_pod_autoscaler(raw: Raw) -> ForeignAutoscaler | None:
    """Return the HPA, or None when it scales neither a Deployment nor a GpuWorkload."""
    return _autoscaler(raw, kind="HorizontalPodAutoscaler", target=raw["spec"]["scaleTargetRef"])


def scaled_object(raw: Raw) -> ForeignAutoscaler | None:
    """Return KEDA's ScaledObject, or None when it scales neither a Deployment (its default kind) nor a GpuWorkload."""
    target = {"kind": "Deployment", "apiVersion": "apps/v1", **raw["spec"]["scaleTargetRef"]}
    return _autoscaler(raw, kind="ScaledObject", target=target)


def requested_gpus(pod_spec: Raw) -> int:
    """Return how many GPUs (or slices) the scheduler sets aside for one pod of this spec.

    Init containers run one after another, before the others and beside the sidecars started until then, so the pod needs the
    larger of both phases. `init 2; main 4 + sidecar 1`: max(2, 5) = 5.
    """
    sidecars = peak = 0
    for container in pod_spec.get("initContainers") or ():
        gpus = _container_gpus(container)
        if container.get("restartPolicy") == "Always":
            sidecars += gpus
            peak = max(peak, sidecars)
        else:
            peak = max(peak, sidecars + gpus)
    running = sum(_container_gpus(container) for container in pod_spec.get("containers") or ())
    return max(peak, sidecars + running)


def selector_text(selector: Raw) -> str:
    """Write a label selector as `kubectl -l` takes it: `app=chat,tier in (a,b),!legacy`."""
    equal = [f"{key}={value}" for key, value in sorted(_part(selector, "matchLabels").items())]
    return ",".join(equal + [_expression(item) for item in selector.get("matchExpressions") or ()])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Standing:
    phase: PodPhase
    since: datetime | None = None
    cause: str = ""
    message: str = ""


def _standing(raw: Raw) -> _Standing:
    """Classify a pod: what ends it comes before what keeps it from running, and that before what it reports itself."""
    meta, status = raw["metadata"], _part(raw, "status")
    ready, scheduled = _condition(status, "Ready"), _condition(status, "PodScheduled")
    if "deletionTimestamp" in meta:
        return _Standing(phase=PodPhase.TERMINATING, since=_deletion_time(meta))
    if status.get("phase") in {"Succeeded", "Failed"}:
        cause, message = status.get("reason", ""), status.get("message", "")
        return _Standing(phase=PodPhase.FINISHED, since=_since(ready), cause=cause, message=message)
    if not raw["spec"].get("nodeName"):
        return _waiting_for_a_node(scheduled)
    return _on_its_node(status, ready=ready, scheduled=scheduled)


def _on_its_node(status: Raw, *, ready: Raw, scheduled: Raw) -> _Standing:
    if _is_lost(status, ready):
        return _Standing(phase=PodPhase.UNKNOWN, since=_since(ready))
    if ready.get("status") == "True":
        return _Standing(phase=PodPhase.READY, since=_since(ready))
    since = _since(ready) or _since(scheduled)
    for container in _container_statuses(status):
        if fault := _fault(container):
            return _Standing(phase=PodPhase.BROKEN, since=since, cause=fault[0], message=fault[1])
    return _Standing(phase=PodPhase.LOADING, since=since)


def _waiting_for_a_node(scheduled: Raw) -> _Standing:
    if scheduled.get("status") != "False" or scheduled.get("reason") != "Unschedulable":
        return _Standing(
            phase=PodPhase.PENDING, cause=scheduled.get("reason", ""), message=scheduled.get("message", "")
        )
    return _Standing(
        phase=PodPhase.UNSCHEDULABLE,
        since=_since(scheduled),
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
    containers_ready = _condition(status, "ContainersReady").get("status") == "True"
    return (
        ready.get("status") == "False"
        and containers_ready
        and ready.get("reason") != "ReadinessGatesNotReady"
    )


def _fault(container: Raw) -> tuple[str, str] | None:
    """Return cause and message when this container keeps its pod from ever turning Ready by itself."""
    if container.get("ready"):
        return None
    waiting = _part(_part(container, "state"), "waiting")
    if waiting.get("reason") in BROKEN_WAITS:
        return waiting["reason"], waiting.get("message", "")
    last = _part(_part(container, "lastState"), "terminated")
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
    return _time(finished) - _time(started) < CRASH_LOOP_RUN


def _container_statuses(status: Raw) -> Iterable[Raw]:
    yield from status.get("initContainerStatuses") or ()
    yield from status.get("containerStatuses") or ()


def _deletion_time(meta: Raw) -> datetime:
    # deletionTimestamp lies ahead, at the end of the grace period; what counts is when the deletion was asked for.
    grace = timedelta(seconds=meta.get("deletionGracePeriodSeconds") or 0)
    return _time(meta["deletionTimestamp"]) - grace


def _autoscaler(raw: Raw, *, kind: str, target: Raw) -> ForeignAutoscaler | None:
    group = target.get("apiVersion", "apps/v1").partition("/")[0]
    if (group, target["kind"]) not in {("apps", "Deployment"), ("spillway.dev", "GpuWorkload")}:
        return None
    return ForeignAutoscaler(
        kind=kind, key=_key(raw["metadata"]), target_kind=target["kind"], target=target["name"]
    )


def _replica_failure(status: Raw) -> str | None:
    failure = _condition(status, "ReplicaFailure")
    if failure.get("status") != "True":
        return None
    return str(failure.get("message") or failure.get("reason") or "ReplicaFailure")[:MESSAGE_LIMIT]


def _container_gpus(container: Raw) -> int:
    # Extended resources need request = limit; a pod template may state only the limit.
    resources = _part(container, "resources")
    amounts = {**_part(resources, "limits"), **_part(resources, "requests")}
    return sum(int(amount) for name, amount in amounts.items() if _is_gpu(name))


def _is_gpu(name: str) -> bool:
    return name in GPU_RESOURCES or name.startswith(MIG_PREFIX)


def _condition(status: Raw, kind: str) -> Raw:
    """Return the condition of this type, empty when it is not there."""
    return next((item for item in status.get("conditions") or () if item.get("type") == kind), {})


def _since(condition: Raw) -> datetime | None:
    moment = condition.get("lastTransitionTime")
    return _time(moment) if moment else None


def _controller(meta: Raw, *, kind: str) -> Raw | None:
    owners = meta.get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller") and owner.get("kind") == kind), None)


def _revision(meta: Raw) -> int:
    text = _part(meta, "annotations").get(REVISION, "")
    return int(text) if text.isdecimal() else 0


def _expression(item: Raw) -> str:
    key, values = item["key"], ",".join(sorted(item.get("values") or ()))
    match item["operator"]:
        case "In":
            return f"{key} in ({values})"
        case "NotIn":
            return f"{key} notin ({values})"
        case "Exists":
            return str(key)
        case "DoesNotExist":
            return f"!{key}"
        case unknown:
            raise ValueError(f"unknown selector operator {unknown!r}")


def _key(meta: Raw) -> ObjectKey:
    return ObjectKey(meta["namespace"], meta["name"])


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _part(raw: Raw, name: str) -> Raw:
    """Return the nested object, empty when it is absent or null."""
    return raw.get(name) or {}
