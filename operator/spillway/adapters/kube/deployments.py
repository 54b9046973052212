"""From raw Deployments and ReplicaSets to the core's values; from a twin also what Spillway wrote on it."""

import hashlib
import json
from collections.abc import Iterator

from spillway.adapters.kube.constraints import constraints_of
from spillway.adapters.kube.raw import Raw, condition, controller, key_of, part
from spillway.adapters.kube.set_aside import set_aside
from spillway.api.names import (
    FIELD_MANAGER,
    HANDOVER_ANNOTATION,
    OWNED_BY_LABEL,
    POOLS_ANNOTATION,
    TEMPLATE_ANNOTATION,
)
from spillway.core.model import Deployment, ReplicaSet, TwinFacts

REVISION = "deployment.kubernetes.io/revision"
MESSAGE_LIMIT = 500
HASH_BYTES = 10


def deployment(raw: Raw) -> Deployment:
    """Return the Deployment; `replicas` is what the spec asks for, 1 where it is silent, as Kubernetes reads it."""
    meta, spec, status = raw["metadata"], raw["spec"], part(raw, "status")
    pod_spec = spec["template"]["spec"]
    taken = set_aside(pod_spec)
    return Deployment(
        key=key_of(meta),
        uid=meta["uid"],
        resource_version=meta["resourceVersion"],
        generation=meta.get("generation", 0),
        observed_generation=status.get("observedGeneration", 0),
        replicas=spec.get("replicas", 1),
        updated_replicas=status.get("updatedReplicas", 0),
        status_replicas=status.get("replicas", 0),
        selector=selector_text(part(spec, "selector")),
        gpus_per_pod=taken.gpus,
        revision=_revision(meta),
        priority=pod_spec.get("priority") or 0,
        paused=bool(spec.get("paused")),
        failure=_replica_failure(status),
        terminating="deletionTimestamp" in meta,
        requests=taken.amounts,
        constraints=constraints_of(pod_spec),
        template=template_hash(spec["template"]),
        burst_obstacles=burst_obstacles(pod_spec),
        twin=_twin_facts(meta),
    )


def replica_set(raw: Raw) -> ReplicaSet:
    """Return the ReplicaSet; `owner_uid` is its Deployment, None for one that stands alone."""
    meta = raw["metadata"]
    owner = controller(meta) or {}
    return ReplicaSet(
        key=key_of(meta),
        uid=meta["uid"],
        owner_uid=owner["uid"] if owner.get("kind") == "Deployment" else None,
        revision=_revision(meta),
    )


def template_hash(template: Raw) -> str:
    """Return what tells two pod templates apart: 20 hex digits of everything in it, whatever the order of its fields."""
    meta = {name: value for name, value in part(template, "metadata").items() if value is not None}
    # Older servers write `creationTimestamp: null` into it, newer ones leave it out.
    text = json.dumps({**template, "metadata": meta}, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=HASH_BYTES).hexdigest()


def burst_obstacles(pod_spec: Raw) -> tuple[str, ...]:
    """Return a sentence on each thing that keeps a copy of this template from running beside it; none is good."""
    return (*_ports(pod_spec), *_claims(pod_spec), *_volumes(pod_spec))


def _ports(pod_spec: Raw) -> Iterator[str]:
    for container in (*(pod_spec.get("initContainers") or ()), *(pod_spec.get("containers") or ())):
        for port in container.get("ports") or ():
            if port.get("hostPort"):
                yield (
                    f"container {container.get('name')} takes port {port['hostPort']} of its node, "
                    "which one pod alone may have; use a Service instead"
                )


def _claims(pod_spec: Raw) -> Iterator[str]:
    for claim in pod_spec.get("resourceClaims") or ():
        if claim.get("resourceClaimName"):
            yield (
                f"resource claim {claim['resourceClaimName']} exists once and binds its pods to where its devices are; "
                "use a resourceClaimTemplateName, so that each pod gets its own"
            )


def _volumes(pod_spec: Raw) -> Iterator[str]:
    for volume in pod_spec.get("volumes") or ():
        if claim := part(volume, "persistentVolumeClaim").get("claimName"):
            yield (
                f"volume {volume['name']} uses claim {claim}, which one node alone may hold unless it is ReadWriteMany; "
                "give burst pods their own storage, such as an ephemeral volume"
            )


def _twin_facts(meta: Raw) -> TwinFacts | None:
    """Return what Spillway wrote on a Deployment of its own, None for any other."""
    workload_uid = part(meta, "labels").get(OWNED_BY_LABEL)
    if not workload_uid:
        return None
    annotations = part(meta, "annotations")
    handover = annotations.get(HANDOVER_ANNOTATION, "")
    return TwinFacts(
        workload_uid=workload_uid,
        source_uid=_source_uid(meta),
        template=annotations.get(TEMPLATE_ANNOTATION, ""),
        pools=tuple(name for name in annotations.get(POOLS_ANNOTATION, "").split(",") if name),
        edited_by=_foreign_editor(meta),
        handover=int(handover) if handover.isdecimal() else None,
    )


def _source_uid(meta: Raw) -> str:
    owners = meta.get("ownerReferences") or ()
    return next((owner["uid"] for owner in owners if owner.get("kind") == "Deployment"), "")


def _foreign_editor(meta: Raw) -> str:
    """Return who else owns a part of the spec. The count apart: whoever sets it through `scale` edits nothing of ours."""
    for entry in meta.get("managedFields") or ():
        if entry.get("manager") != FIELD_MANAGER and _owned_spec(entry) - {"f:replicas", "."}:
            return str(entry.get("manager") or "unknown")
    return ""


def _owned_spec(entry: Raw) -> set[str]:
    return set(part(part(entry, "fieldsV1"), "f:spec"))


def selector_text(selector: Raw) -> str:
    """Write a label selector as `kubectl -l` takes it: `app=chat,tier in (a,b),!legacy`."""
    equal = [f"{key}={value}" for key, value in sorted(part(selector, "matchLabels").items())]
    return ",".join(equal + [_expression(item) for item in selector.get("matchExpressions") or ()])


def _replica_failure(status: Raw) -> str | None:
    failure = condition(status, "ReplicaFailure")
    if failure.get("status") != "True":
        return None
    return str(failure.get("message") or failure.get("reason") or "ReplicaFailure")[:MESSAGE_LIMIT]


def _revision(meta: Raw) -> int:
    text = part(meta, "annotations").get(REVISION, "")
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
