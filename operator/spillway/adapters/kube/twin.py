"""The burst twin in the cluster: its manifest, made from the live source, and the writes that make, change and delete it.

See node-and-spot C.3. The source itself is only ever read here.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from typing import Any, TypeVar

from spillway.adapters.kube.client import JsonObject, KubeClient
from spillway.adapters.kube.deployments import REVISION, template_hash
from spillway.adapters.kube.errors import Conflict, KubeError, NotFound, PreconditionFailed
from spillway.adapters.kube.raw import Raw, part
from spillway.adapters.kube.resources import DEPLOYMENTS, describe_call
from spillway.adapters.kube.write import MERGE_PATCH, WRITE_SECONDS, JointLimit
from spillway.api.names import (
    CLASS_BURST,
    CLASS_LABEL,
    FIELD_MANAGER,
    HANDOVER_ANNOTATION,
    OWNED_BY_LABEL,
    POOLS_ANNOTATION,
    TEMPLATE_ANNOTATION,
)
from spillway.core.model import ApplyTwin, DeleteTwin, HandOverTwin, ObjectKey, TwinPool
from spillway.core.scheduling import Taint

T = TypeVar("T")

ZONE_LABEL = "topology.kubernetes.io/zone"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
REVISIONS_KEPT = 2
TRIES = 5  # a status that its controller writes between our look and our write is no reason to give up
COPIED = ("strategy", "minReadySeconds", "progressDeadlineSeconds")

# By these labels tools find what they manage, and prune what they find and did not make.
TRACKING_LABELS = frozenset({"app.kubernetes.io/instance", MANAGED_BY_LABEL})
TRACKING_DOMAINS = (
    "argocd.argoproj.io",
    "kustomize.toolkit.fluxcd.io",
    "helm.toolkit.fluxcd.io",
    "fluxcd.io",
    "helm.sh",
    "meta.helm.sh",
    "applyset.kubernetes.io",
    "kapp.k14s.io",
    "objectset.rio.cattle.io",
    "config.k8s.io",
    "configmanagement.gke.io",
    "configsync.gke.io",
    "pulumi.com",
    "skaffold.dev",
)


class NameTaken(KubeError):
    """A Deployment that is not ours already has the twin's name."""


async def apply_twin(client: KubeClient, act: ApplyTwin, *, timeout_seconds: float = WRITE_SECONDS) -> str:
    """Make the twin of a Deployment, or put it whole in step with its source; return the twin's new resourceVersion.

    What the source says is read live. A twin that exists keeps its count. It is replaced and not patched, so that what others
    wrote on it vanishes. Raises `NotFound` when source or twin is gone, `PreconditionFailed` when either is another object by
    now or the source's template is not `act.template`, `NameTaken` when the name belongs to somebody else, `Conflict` when the
    twin does not hold still or is there already (decide again), and others of `KubeError`.
    """
    limit = JointLimit(client, timeout_seconds)
    source = await _read(limit, act.source, uid=act.source_uid)
    if template_hash(source["spec"]["template"]) != act.template:
        raise _refuse(act.source, "its pod template has changed since this was decided")
    manifest = twin_manifest(source, act)
    if not act.twin_uid:
        return await _create(limit, manifest, act.twin)
    return await _holding_still(lambda: _replace_as_seen(limit, manifest, act))


async def hand_over_twin(
    client: KubeClient, act: HandOverTwin, *, timeout_seconds: float = WRITE_SECONDS
) -> str:
    """Note on the twin what its source must reach before the twin may go; return the twin's new resourceVersion.

    Raises `NotFound` when it is gone, `PreconditionFailed` when it is another one by now, and others of `KubeError`.
    """
    meta = {"uid": act.twin_uid, "annotations": {HANDOVER_ANNOTATION: str(act.replicas)}}
    written = await client.request(
        "PATCH",
        _path(act.twin),
        query={"fieldManager": FIELD_MANAGER},
        body={"metadata": meta},
        content_type=MERGE_PATCH,
        timeout_seconds=timeout_seconds,
    )
    return str(written["metadata"]["resourceVersion"])


async def delete_twin(client: KubeClient, act: DeleteTwin, *, timeout_seconds: float = WRITE_SECONDS) -> None:
    """Delete the twin and, in the background, its pods; never orphan them: the source would adopt their ReplicaSet.

    One that is gone is fine. The server tests that nothing changed since we saw it stand at `act.before`. Raises
    `PreconditionFailed` when it is another one, carries no label of ours or stands elsewhere, `Conflict` when it does not hold
    still, and others of `KubeError`.
    """
    limit = JointLimit(client, timeout_seconds)
    with suppress(NotFound):
        await _holding_still(lambda: _delete_as_seen(limit, act))


async def _holding_still(attempt: Callable[[], Awaitable[T]]) -> T:
    """Try again from the look on where somebody wrote between look and write; raise `Conflict` in the end."""
    for _ in range(TRIES - 1):
        with suppress(Conflict):
            return await attempt()
    return await attempt()


async def _replace_as_seen(limit: JointLimit, manifest: JsonObject, act: ApplyTwin) -> str:
    twin = await _read(limit, act.twin, uid=act.twin_uid)
    if OWNED_BY_LABEL not in part(twin["metadata"], "labels"):
        raise _taken(act.twin)
    written = await limit.request(
        "PUT", _path(act.twin), query={"fieldManager": FIELD_MANAGER}, body=kept_of_twin(manifest, twin)
    )
    return str(written["metadata"]["resourceVersion"])


async def _delete_as_seen(limit: JointLimit, act: DeleteTwin) -> None:
    twin = await _read(limit, act.twin, uid=act.twin_uid)
    if OWNED_BY_LABEL not in part(twin["metadata"], "labels"):
        raise _refuse(act.twin, f"it carries no label {OWNED_BY_LABEL}")
    stands_at = twin["spec"].get("replicas", 1)
    if stands_at != act.before:
        raise _refuse(act.twin, f"it stands at {stands_at} and not at {act.before} replicas")
    preconditions = {"uid": act.twin_uid, "resourceVersion": twin["metadata"]["resourceVersion"]}
    options = {"propagationPolicy": "Background", "preconditions": preconditions}
    await limit.request("DELETE", _path(act.twin), body=options)


def twin_manifest(source: Raw, act: ApplyTwin) -> JsonObject:
    """Return the whole twin of *source*: its template with one more label, kept on the act's spot pools.

    Of the source's labels those are left out by which tools track what they deployed; of its annotations all, since they tell
    tools what to do with the source. What is paused at the source is not paused here.
    """
    spec = source["spec"]
    return {
        "apiVersion": DEPLOYMENTS.api_version,
        "kind": DEPLOYMENTS.kind,
        "metadata": _twin_meta(source["metadata"], act),
        "spec": {
            "replicas": act.replicas,
            "revisionHistoryLimit": REVISIONS_KEPT,
            "selector": _twin_selector(spec["selector"]),
            "template": twin_template(spec["template"], spec["selector"], act.pools),
            **{name: deepcopy(spec[name]) for name in COPIED if name in spec},
        },
    }


def twin_template(template: Raw, selector: Raw, pools: Sequence[TwinPool]) -> JsonObject:
    """Return the pod template of a twin: that of the source, required onto the *pools*, tolerating their taints."""
    copy: JsonObject = deepcopy(dict(template))
    meta = copy["metadata"] = dict(copy.get("metadata") or {})
    meta["labels"] = {**part(meta, "labels"), CLASS_LABEL: CLASS_BURST}
    spec = copy["spec"]
    affinity = spec["affinity"] = dict(spec.get("affinity") or {})
    affinity["nodeAffinity"] = _onto(part(affinity, "nodeAffinity"), pools)
    spec["tolerations"] = _tolerations(spec.get("tolerations") or (), pools)
    if not spec.get("topologySpreadConstraints"):
        spec["topologySpreadConstraints"] = [_spread_over_zones(selector)]
    return copy


def kept_of_twin(manifest: JsonObject, twin: Raw) -> JsonObject:
    """Return *manifest* as what is to replace *twin*: with the count, finalizers and revision that this one has.

    The list of who owns which field is begun anew: an owner of a field that we leave as it is would stay in it for ever.
    """
    meta, stored = manifest["metadata"], twin["metadata"]
    revision = part(stored, "annotations").get(REVISION)
    kept: dict[str, Any] = {
        name: stored[name] for name in ("uid", "resourceVersion", "finalizers") if name in stored
    }
    annotations = {**meta["annotations"], **({REVISION: revision} if revision is not None else {})}
    return {
        **manifest,
        "metadata": {**meta, **kept, "annotations": annotations, "managedFields": [{}]},
        "spec": {**manifest["spec"], "replicas": twin["spec"].get("replicas", 1)},
    }


def _twin_meta(source_meta: Raw, act: ApplyTwin) -> JsonObject:
    labels = {name: value for name, value in part(source_meta, "labels").items() if not _is_tracking(name)}
    owner = {
        "apiVersion": DEPLOYMENTS.api_version,
        "kind": DEPLOYMENTS.kind,
        "name": act.source.name,
        "uid": act.source_uid,
        "controller": False,
        "blockOwnerDeletion": False,
    }
    return {
        "namespace": act.twin.namespace,
        "name": act.twin.name,
        "labels": {**labels, OWNED_BY_LABEL: act.workload_uid, MANAGED_BY_LABEL: FIELD_MANAGER},
        "annotations": {
            TEMPLATE_ANNOTATION: act.template,
            POOLS_ANNOTATION: ",".join(pool.name for pool in act.pools),
        },
        "ownerReferences": [owner],
    }


def _is_tracking(label: str) -> bool:
    domain = label.partition("/")[0]
    return label in TRACKING_LABELS or any(
        domain == known or domain.endswith(f".{known}") for known in TRACKING_DOMAINS
    )


def _twin_selector(selector: Raw) -> JsonObject:
    return {
        **deepcopy(dict(selector)),
        "matchLabels": {**part(selector, "matchLabels"), CLASS_LABEL: CLASS_BURST},
    }


def _onto(node_affinity: Raw, pools: Sequence[TwinPool]) -> JsonObject:
    """Return the affinity whose required terms are the source's, each ANDed with each pool: terms are ORed."""
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    terms = part(node_affinity, required).get("nodeSelectorTerms") or [{}]
    on_pools = [_on_pool(term, pool.selector) for term in terms for pool in pools]
    return {**node_affinity, required: {"nodeSelectorTerms": on_pools}}


def _on_pool(term: Raw, selector: Mapping[str, str]) -> JsonObject:
    of_pool = [{"key": key, "operator": "In", "values": [value]} for key, value in sorted(selector.items())]
    return {**term, "matchExpressions": [*(term.get("matchExpressions") or ()), *of_pool]}


def _tolerations(stated: Iterable[Raw], pools: Sequence[TwinPool]) -> list[Raw]:
    wanted = [_tolerating(taint) for pool in pools for taint in pool.taints]
    result: list[Raw] = []
    for toleration in (*stated, *wanted):
        if toleration not in result:
            result.append(toleration)
    return result


def _tolerating(taint: Taint) -> JsonObject:
    if not taint.value:
        return {"key": taint.key, "operator": "Exists", "effect": taint.effect}
    return {"key": taint.key, "operator": "Equal", "value": taint.value, "effect": taint.effect}


def _spread_over_zones(selector: Raw) -> JsonObject:
    # Spot is lost zone by zone. Only a wish: capacity goes before an even spread.
    return {
        "maxSkew": 1,
        "topologyKey": ZONE_LABEL,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": _twin_selector(selector),
    }


async def _create(limit: JointLimit, manifest: JsonObject, key: ObjectKey) -> str:
    try:
        made = await limit.request(
            "POST",
            DEPLOYMENTS.path(namespace=key.namespace),
            query={"fieldManager": FIELD_MANAGER},
            body=manifest,
        )
    except Conflict:
        existing = await limit.request("GET", _path(key))
        if OWNED_BY_LABEL not in part(existing["metadata"], "labels"):
            raise _taken(key) from None
        raise  # ours, from a write whose answer was lost or of another workload: the cache will show it
    return str(made["metadata"]["resourceVersion"])


async def _read(limit: JointLimit, key: ObjectKey, *, uid: str) -> Raw:
    """Return the live Deployment; one that is being deleted counts as gone."""
    found = await limit.request("GET", _path(key))
    if found["metadata"]["uid"] != uid:
        raise _refuse(key, "it was made anew under the same name")
    if "deletionTimestamp" in found["metadata"]:
        raise NotFound(describe_call("GET", _path(key)), f"Deployment {key} is being deleted")
    return found


def _refuse(key: ObjectKey, why: str) -> PreconditionFailed:
    return PreconditionFailed(describe_call("GET", _path(key)), f"Deployment {key} is not as expected: {why}")


def _taken(key: ObjectKey) -> NameTaken:
    return NameTaken(
        describe_call("POST", DEPLOYMENTS.path(namespace=key.namespace)),
        f"Deployment {key} exists and carries no label {OWNED_BY_LABEL}; rename or delete it to let Spillway burst",
    )


def _path(key: ObjectKey) -> str:
    return DEPLOYMENTS.path(namespace=key.namespace, name=key.name)
