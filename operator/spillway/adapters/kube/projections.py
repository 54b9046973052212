"""From raw API objects to the core's values: only what a decision looks at is kept.

Each function takes the object as the API server sent it, and raises KeyError, TypeError or ValueError where a field that every
stored object has is not there; the reflector leaves such an object out and says so. Pods, nodes and Deployments have their own
files beside this one, and their functions are given here with the rest.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from spillway.adapters.kube.deployments import deployment, replica_set
from spillway.adapters.kube.nodes import node
from spillway.adapters.kube.pods import pod
from spillway.adapters.kube.raw import Raw, key_of, part
from spillway.core.model import ForeignAutoscaler

__all__ = [
    "NamespaceInfo",
    "deployment",
    "horizontal_pod_autoscaler",
    "namespace_info",
    "node",
    "pod",
    "replica_set",
    "scaled_object",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceInfo:
    """A namespace: its labels, for policies that select by them, and whether it is being deleted."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    terminating: bool = False


def namespace_info(raw: Raw) -> NamespaceInfo:
    """Return the namespace; one that is being deleted counts as terminating from the request on."""
    meta = raw["metadata"]
    phase = part(raw, "status").get("phase")
    return NamespaceInfo(
        name=meta["name"],
        labels=dict(part(meta, "labels")),
        terminating="deletionTimestamp" in meta or phase == "Terminating",
    )


def horizontal_pod_autoscaler(raw: Raw) -> ForeignAutoscaler | None:
    """Return the HPA, or None when it scales neither a Deployment nor a GpuWorkload."""
    return _autoscaler(raw, kind="HorizontalPodAutoscaler", target=raw["spec"]["scaleTargetRef"])


def scaled_object(raw: Raw) -> ForeignAutoscaler | None:
    """Return KEDA's ScaledObject, or None when it scales neither a Deployment (its default kind) nor a GpuWorkload."""
    target = {"kind": "Deployment", "apiVersion": "apps/v1", **raw["spec"]["scaleTargetRef"]}
    return _autoscaler(raw, kind="ScaledObject", target=target)


def _autoscaler(raw: Raw, *, kind: str, target: Raw) -> ForeignAutoscaler | None:
    group = target.get("apiVersion", "apps/v1").partition("/")[0]
    if (group, target["kind"]) not in {("apps", "Deployment"), ("spillway.dev", "GpuWorkload")}:
        return None
    return ForeignAutoscaler(
        kind=kind, key=key_of(raw["metadata"]), target_kind=target["kind"], target=target["name"]
    )
