"""From raw API objects to the core's values: only what a decision looks at is kept.

Each function takes the object as the API server sent it, and raises KeyError, TypeError or ValueError where a field that every
stored object has is not there; the reflector leaves such an object out and says so.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

from spillway.api.names import PRICE_ANNOTATION
from spillway.core.model import (
    CapacityType,
    Deployment,
    ForeignAutoscaler,
    Node,
    ObjectKey,
    Pod,
    PodPhase,
    ReplicaSet,
)

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

# Quantities are stored in their shortest form: 1000 shares of a device come back as "1k".
SUFFIXES = MappingProxyType({"k": 10**3, "M": 10**6, "G": 10**9})

# What platforms write on their nodes, first match first. Where a platform labels spot alone, as AKS does, the rest stays unknown.
CAPACITY_LABELS = (
    ("karpenter.sh/capacity-type", "spot", CapacityType.SPOT),
    ("karpenter.sh/capacity-type", "on-demand", CapacityType.ON_DEMAND),
    ("karpenter.sh/capacity-type", "reserved", CapacityType.RESERVED),
    ("eks.amazonaws.com/capacityType", "SPOT", CapacityType.SPOT),
    ("eks.amazonaws.com/capacityType", "ON_DEMAND", CapacityType.ON_DEMAND),
    ("cloud.google.com/gke-spot", "true", CapacityType.SPOT),
    ("cloud.google.com/gke-provisioning", "spot", CapacityType.SPOT),
    ("cloud.google.com/gke-provisioning", "standard", CapacityType.ON_DEMAND),
    ("kubernetes.azure.com/scalesetpriority", "spot", CapacityType.SPOT),
)
MODEL_LABELS = (
    "nvidia.com/gpu.product",
    "karpenter.k8s.aws/instance-gpu-name",
    "karpenter.azure.com/sku-gpu-name",
    "eks.amazonaws.com/instance-gpu-name",
    "cloud.google.com/gke-accelerator",
)

# A CronJob names each Job after itself and the minute; the name without it is what pays.
CRON_SUFFIX = re.compile(r"-[0-9]{8,}$")

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
    owner = _controller(meta) or {}
    return ReplicaSet(
        key=_key(meta),
        uid=meta["uid"],
        owner_uid=owner["uid"] if owner.get("kind") == "Deployment" else None,
        revision=_revision(meta),
    )


def node(raw: Raw) -> Node:
    """Return the node; one that has not yet said that it is Ready is not."""
    meta, status = raw["metadata"], _part(raw, "status")
    labels = dict(_part(meta, "labels"))
    return Node(
        name=meta["name"],
        ready=_condition(status, "Ready").get("status") == "True",
        unschedulable=bool(_part(raw, "spec").get("unschedulable")),
        labels=labels,
        devices=_devices(_part(status, "allocatable")),
        capacity_type=_capacity_type(labels),
        gpu_model=next((labels[key] for key in MODEL_LABELS if labels.get(key)), ""),
        price_annotation=_part(meta, "annotations").get(PRICE_ANNOTATION),
    )


def pod(raw: Raw) -> Pod | None:
    """Return the pod, or None for one that can neither belong to a Deployment nor hold a GPU, or holds none any more."""
    meta = raw["metadata"]
    owner = _controller(meta) or {}
    devices = requested_devices(raw["spec"])
    is_replica = owner.get("kind") == "ReplicaSet"
    standing = _standing(raw)
    if not is_replica and (not devices or standing.phase is PodPhase.FINISHED):
        return None
    return Pod(
        key=_key(meta),
        uid=meta["uid"],
        owner_uid=owner.get("uid", ""),
        owner_name=_payer_name(owner),
        devices=devices,
        phase=standing.phase,
        created_at=_time(meta["creationTimestamp"]),
        since=standing.since or _time(meta["creationTimestamp"]),
        gpus=_gpus(devices),
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
    """Return how many GPUs (or slices) the scheduler sets aside for one pod of this spec."""
    return _gpus(requested_devices(pod_spec))


def requested_devices(pod_spec: Raw) -> Mapping[str, int]:
    """Return how much of each extended resource the scheduler sets aside for one pod of this spec.

    Init containers run one after another, before the others and beside the sidecars started until then, so the pod needs the
    larger of both phases. `init 2; main 4 + sidecar 1`: max(2, 5) = 5.
    """
    sidecars: dict[str, int] = {}
    peak: dict[str, int] = {}
    for container in pod_spec.get("initContainers") or ():
        wanted = _container_devices(container)
        if container.get("restartPolicy") == "Always":
            sidecars = _added(sidecars, wanted)
            peak = _larger(peak, sidecars)
        else:
            peak = _larger(peak, _added(sidecars, wanted))
    running = sidecars
    for container in pod_spec.get("containers") or ():
        running = _added(running, _container_devices(container))
    return _larger(peak, running)


def _added(one: dict[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {**one, **{name: one.get(name, 0) + amount for name, amount in other.items()}} if other else one


def _larger(one: dict[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {**one, **{name: max(one.get(name, 0), amount) for name, amount in other.items()}}


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


def _container_devices(container: Raw) -> Mapping[str, int]:
    # Extended resources need request = limit; a pod template may state only the limit.
    resources = _part(container, "resources")
    return _devices({**_part(resources, "limits"), **_part(resources, "requests")})


def _devices(amounts: Raw) -> Mapping[str, int]:
    """Return the extended resources: those whose names carry somebody's domain."""
    found = ((name, _whole(str(amount))) for name, amount in amounts.items() if "/" in name)
    return {name: amount for name, amount in found if amount}


def _whole(quantity: str) -> int:
    number, suffix = (quantity[:-1], quantity[-1]) if quantity[-1:] in SUFFIXES else (quantity, "")
    return int(number) * SUFFIXES.get(suffix, 1)


def _gpus(devices: Mapping[str, int]) -> int:
    return sum(amount for name, amount in devices.items() if _is_gpu(name))


def _capacity_type(labels: Mapping[str, str]) -> CapacityType:
    found = (kind for key, value, kind in CAPACITY_LABELS if labels.get(key) == value)
    return next(found, CapacityType.UNKNOWN)


def _is_gpu(name: str) -> bool:
    return name in GPU_RESOURCES or name.startswith(MIG_PREFIX)


def _condition(status: Raw, kind: str) -> Raw:
    """Return the condition of this type, empty when it is not there."""
    return next((item for item in status.get("conditions") or () if item.get("type") == kind), {})


def _since(condition: Raw) -> datetime | None:
    moment = condition.get("lastTransitionTime")
    return _time(moment) if moment else None


def _controller(meta: Raw) -> Raw | None:
    return next((owner for owner in meta.get("ownerReferences") or () if owner.get("controller")), None)


def _payer_name(owner: Raw) -> str:
    name = str(owner.get("name", ""))
    return CRON_SUFFIX.sub("", name) if owner.get("kind") == "Job" else name


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
