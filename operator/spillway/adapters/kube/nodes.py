"""From a raw node to the core's `Node`, and our own mark on it, both ways."""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime

from spillway.adapters.kube.clock import micro_time
from spillway.adapters.kube.constraints import taints_of
from spillway.adapters.kube.raw import Raw, condition, optional_time, part, since, time_of
from spillway.adapters.kube.set_aside import devices, offered
from spillway.api.names import CORDON_ANNOTATION, CORDON_TAINT, PRICE_ANNOTATION
from spillway.core.model import CapacityType, CordonCause, CordonMark, Node, NodeCondition
from spillway.core.scheduling import Taint

ZONE_LABEL = "topology.kubernetes.io/zone"
TELLING_CONDITIONS = frozenset({"Ready", "PreemptionScheduled", "VMEventScheduled"})
TELLING_ANNOTATIONS = (  # beside our own, which have fields of their own
    "cluster-autoscaler.kubernetes.io/scale-down-disabled",
    "karpenter.sh/do-not-disrupt",
)

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


def node(raw: Raw) -> Node:
    """Return the node; one that has not yet said that it is Ready is not."""
    meta, spec, status = raw["metadata"], part(raw, "spec"), part(raw, "status")
    labels, annotations = dict(part(meta, "labels")), part(meta, "annotations")
    allocatable = offered(part(status, "allocatable"))
    taints = taints_of(spec.get("taints") or ())
    return Node(
        name=meta["name"],
        uid=meta.get("uid", ""),
        resource_version=meta.get("resourceVersion", ""),
        created_at=optional_time(meta.get("creationTimestamp")),
        ready=condition(status, "Ready").get("status") == "True",
        unschedulable=bool(spec.get("unschedulable")),
        labels=labels,
        devices=devices(allocatable),
        allocatable=allocatable,
        capacity_type=_capacity_type(labels),
        gpu_model=next((labels[key] for key in MODEL_LABELS if labels.get(key)), ""),
        price_annotation=annotations.get(PRICE_ANNOTATION),
        provider_id=spec.get("providerID") or "",
        boot_id=part(status, "nodeInfo").get("bootID") or "",
        zone=labels.get(ZONE_LABEL, ""),
        taints=taints,
        conditions=_conditions(status.get("conditions") or ()),
        annotations={name: annotations[name] for name in TELLING_ANNOTATIONS if name in annotations},
        terminating="deletionTimestamp" in meta,
        mark=cordon_mark(annotations, taints),
    )


def cordon_mark(annotations: Raw, taints: Iterable[Taint]) -> CordonMark | None:
    """Return our mark on a node, None without one.

    Our taint with an annotation that is gone or garbled is still ours, but of no drain that anybody could take up, and whether
    somebody else had cordoned the node is unknown: it counts as cordoned, so that it is not uncordoned for them.
    """
    text = annotations.get(CORDON_ANNOTATION)
    try:
        return _read_mark(text) if text is not None else _mark_of_taint(taints)
    except (ValueError, KeyError, TypeError):
        return _mark_of_taint(taints)


def mark_text(mark: CordonMark) -> str:
    """Write a mark as our annotation holds it; `cordon_mark` reads it back."""
    fields = {"cause": mark.cause.value, "id": mark.id, "since": micro_time(mark.since)}
    if mark.was_unschedulable:
        return json.dumps({**fields, "wasUnschedulable": True}, separators=(",", ":"))
    return json.dumps(fields, separators=(",", ":"))


def _read_mark(text: str) -> CordonMark:
    raw = json.loads(text)
    return CordonMark(
        cause=CordonCause(raw["cause"]),
        id=str(raw["id"]),
        since=_aware(time_of(raw["since"])),
        was_unschedulable=bool(raw.get("wasUnschedulable", False)),
    )


def _aware(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone")
    return moment


def _mark_of_taint(taints: Iterable[Taint]) -> CordonMark | None:
    ours = next((taint for taint in taints if taint.key == CORDON_TAINT), None)
    if ours is None or ours.since is None or ours.value not in set(CordonCause):
        return None
    return CordonMark(cause=CordonCause(ours.value), id="", since=ours.since, was_unschedulable=True)


def _conditions(raw_conditions: Iterable[Raw]) -> tuple[NodeCondition, ...]:
    return tuple(
        NodeCondition(
            type=item["type"],
            status=item.get("status") or "Unknown",
            reason=item.get("reason") or "",
            message=item.get("message") or "",
            since=since(item),
        )
        for item in raw_conditions
        if item.get("type") in TELLING_CONDITIONS
    )


def _capacity_type(labels: Mapping[str, str]) -> CapacityType:
    found = (kind for key, value, kind in CAPACITY_LABELS if labels.get(key) == value)
    return next(found, CapacityType.UNKNOWN)
