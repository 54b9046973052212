"""The only writes Spillway makes to other people's clusters, each with a precondition and safe to repeat."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from spillway.adapters.kube.client import JsonObject, KubeClient
from spillway.adapters.kube.clock import WallClock, seconds_time, utc_now
from spillway.adapters.kube.resources import DEPLOYMENTS, EVENTS, Resource
from spillway.core.model import ObjectKey, SetReplicas

JSON_PATCH = "application/json-patch+json"
WRITE_SECONDS = (
    5.0  # below the Lease's margin, so that a write cannot outlive the leadership it was sent under
)
EVENT_MESSAGE_LIMIT = 1024  # the server refuses a longer one
EVENT_NAMESPACE = "default"  # where kubectl describe looks for events about cluster-scoped objects


class EventType(StrEnum):
    """The two types Kubernetes knows."""

    NORMAL = "Normal"
    WARNING = "Warning"


async def set_replicas(
    client: KubeClient, act: SetReplicas, *, timeout_seconds: float = WRITE_SECONDS
) -> str:
    """Write the count through the Deployment's scale subresource; return the resourceVersion this gave the Deployment.

    The server itself tests that it is still the same Deployment standing at `act.before`. Raises `NotFound` when it is gone,
    `PreconditionFailed` when either test fails (decide again on what is there now), `Forbidden`, `Conflict`,
    `TooManyRequests`, and others of `KubeError`; where `error.may_have_happened`, only the cache can tell.
    """
    scale = await client.request(
        "PATCH",
        DEPLOYMENTS.path(namespace=act.target.namespace, name=act.target.name, subresource="scale"),
        body=_scale_patch(act),
        content_type=JSON_PATCH,
        timeout_seconds=timeout_seconds,
    )
    return str(scale["metadata"]["resourceVersion"])


async def replace_status(
    client: KubeClient,
    resource: Resource,
    key: ObjectKey,
    *,
    uid: str,
    status: Mapping[str, Any],
    resource_version: str | None = None,
    timeout_seconds: float = WRITE_SECONDS,
) -> str:
    """Replace an object's whole status, if it is still the object with this *uid*; return its new resourceVersion.

    With *resource_version* also only if nothing else was written since. An object that went is never brought back. The whole
    status, so that a field we no longer write does not stay for ever. Raises `NotFound`, `PreconditionFailed` (another uid or
    version, or a status that the schema refuses) and others of `KubeError`.
    """
    patch = [_test("/metadata/uid", uid)]
    if resource_version is not None:
        patch.append(_test("/metadata/resourceVersion", resource_version))
    patch.append({"op": "add", "path": "/status", "value": dict(status)})
    written = await client.request(
        "PATCH",
        resource.path(namespace=key.namespace, name=key.name, subresource="status"),
        body=patch,
        content_type=JSON_PATCH,
        timeout_seconds=timeout_seconds,
    )
    return str(written["metadata"]["resourceVersion"])


async def post_event(
    client: KubeClient,
    resource: Resource,
    key: ObjectKey,
    *,
    uid: str,
    reason: str,
    message: str,
    type: EventType = EventType.NORMAL,  # noqa: A002  # the API's own word
    instance: str = "",
    now: WallClock = utc_now,
    timeout_seconds: float = WRITE_SECONDS,
) -> None:
    """Post an Event about an object, as `kubectl describe` shows it; *instance* is the identity of this operator.

    *reason* is a PascalCase word. A message beyond 1,024 characters is cut. Events are not merged here: post on change only.
    Raises a `KubeError`; nothing but the Event is lost then.
    """
    moment = seconds_time(now())
    namespace = key.namespace or EVENT_NAMESPACE
    event = {
        "apiVersion": EVENTS.api_version,
        "kind": EVENTS.kind,
        "metadata": {"generateName": f"{key.name}.", "namespace": namespace},
        "involvedObject": _reference(resource, key, uid),
        "type": type.value,
        "reason": reason,
        "message": _cut(message),
        "source": {"component": "spillway"},
        "reportingComponent": "spillway.dev/operator",
        "reportingInstance": instance,
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "count": 1,
    }
    await client.request(
        "POST", EVENTS.path(namespace=namespace), body=event, timeout_seconds=timeout_seconds
    )


def _scale_patch(act: SetReplicas) -> Sequence[JsonObject]:
    # A scale at 0 carries no /spec/replicas at all, and a test of a missing path passes only against null.
    before = act.before or None
    return [
        _test("/metadata/uid", act.target_uid),
        _test("/spec/replicas", before),
        {"op": "add", "path": "/spec/replicas", "value": act.to},  # "replace" would need the path to be there
    ]


def _test(path: str, value: object) -> JsonObject:
    return {"op": "test", "path": path, "value": value}


def _reference(resource: Resource, key: ObjectKey, uid: str) -> JsonObject:
    reference = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "name": key.name,
        "uid": uid,
    }
    return {**reference, "namespace": key.namespace} if key.namespace else reference


def _cut(message: str) -> str:
    return message if len(message) <= EVENT_MESSAGE_LIMIT else message[: EVENT_MESSAGE_LIMIT - 1] + "…"
