"""Writes of replicas, status and Events, each with a precondition and safe to repeat; other writes lie beside this file."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Any

from spillway.adapters.kube.client import JsonObject, KubeClient, Query
from spillway.adapters.kube.clock import WallClock, seconds_time, utc_now
from spillway.adapters.kube.errors import NotFound, PreconditionFailed
from spillway.adapters.kube.resources import DEPLOYMENTS, EVENTS, PODS, Resource
from spillway.core.model import (
    DELETION_COST,
    DELETION_COST_ANNOTATION,
    ClearDeletionCost,
    ObjectKey,
    PodRef,
    SetReplicas,
)

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
WRITE_SECONDS = (
    5.0  # below the Lease's margin, so that a write cannot outlive the leadership it was sent under
)
EVENT_MESSAGE_LIMIT = 1024  # the server refuses a longer one
EVENT_NAMESPACE = "default"  # where kubectl describe looks for events about cluster-scoped objects


class JointLimit:
    """Sends the requests of one write, which together may take no longer than *seconds*."""

    def __init__(self, client: KubeClient, seconds: float) -> None:
        self._client = client
        self._ends_at = asyncio.get_running_loop().time() + seconds

    @property
    def seconds_left(self) -> float:
        """What is left for all further requests."""
        return max(0.0, self._ends_at - asyncio.get_running_loop().time())

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: object = None,
        content_type: str = "application/json",
    ) -> JsonObject:
        """As `KubeClient.request`, with what is left of the limit."""
        return await self._client.request(
            method,
            path,
            query=query,
            body=body,
            content_type=content_type,
            timeout_seconds=self.seconds_left,
        )


class EventType(StrEnum):
    """The two types Kubernetes knows."""

    NORMAL = "Normal"
    WARNING = "Warning"


async def set_replicas(
    client: KubeClient, act: SetReplicas, *, timeout_seconds: float = WRITE_SECONDS
) -> str:
    """Write the count through the Deployment's scale subresource; return the resourceVersion this gave the Deployment.

    `act.victims` are marked by their deletion cost first: without that the count stays, since others would go. The server itself tests that it is still the same Deployment standing at `act.before`. Raises `NotFound` when it is gone,
    `PreconditionFailed` when either test fails (decide again on what is there now), `Forbidden`, `Conflict`,
    `TooManyRequests`, and others of `KubeError`; where `error.may_have_happened`, only the cache can tell.
    """
    limit = JointLimit(client, timeout_seconds)
    await mark_victims(limit, act.victims)
    scale = await limit.request(
        "PATCH",
        DEPLOYMENTS.path(namespace=act.target.namespace, name=act.target.name, subresource="scale"),
        body=_scale_patch(act),
        content_type=JSON_PATCH,
    )
    return str(scale["metadata"]["resourceVersion"])


async def mark_victims(limit: JointLimit, victims: Sequence[PodRef]) -> None:
    """Give these pods our deletion cost, so that a ReplicaSet that shrinks takes them first. One that is gone is fine.

    Raises the first `KubeError` of another kind; pods marked until then are cleared when they outlive the reduction.
    """
    await _on_each(victims, lambda victim: _mark(limit, victim))


async def clear_deletion_costs(
    client: KubeClient, act: ClearDeletionCost, *, timeout_seconds: float = WRITE_SECONDS
) -> None:
    """Take our deletion cost off these pods. One that is gone, or that carries another cost by now, is fine.

    Raises the first `KubeError` of another kind.
    """
    limit = JointLimit(client, timeout_seconds)
    await _on_each(act.pods, lambda found: _clear(limit, found))


async def _on_each(pods: Sequence[PodRef], write: Callable[[PodRef], Awaitable[None]]) -> None:
    """Write to all of them side by side; raise the first error only after the rest had their turn."""
    answers = await asyncio.gather(*[write(found) for found in pods], return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer


async def _mark(limit: JointLimit, victim: PodRef) -> None:
    # A merge patch makes the annotations where there are none; a uid that is not the stored one is refused with 422.
    meta = {"uid": victim.uid, "annotations": {DELETION_COST_ANNOTATION: str(DELETION_COST)}}
    with suppress(NotFound, PreconditionFailed):
        await limit.request("PATCH", _pod_path(victim.key), body={"metadata": meta}, content_type=MERGE_PATCH)


async def _clear(limit: JointLimit, found: PodRef) -> None:
    where = "/metadata/annotations/" + DELETION_COST_ANNOTATION.replace("/", "~1")
    patch = [
        test_of("/metadata/uid", found.uid),
        test_of(where, str(DELETION_COST)),
        {"op": "remove", "path": where},
    ]
    with suppress(NotFound, PreconditionFailed):
        await limit.request("PATCH", _pod_path(found.key), body=patch, content_type=JSON_PATCH)


def _pod_path(key: ObjectKey) -> str:
    return PODS.path(namespace=key.namespace, name=key.name)


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
    patch = [test_of("/metadata/uid", uid)]
    if resource_version is not None:
        patch.append(test_of("/metadata/resourceVersion", resource_version))
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
        test_of("/metadata/uid", act.target_uid),
        test_of("/spec/replicas", before),
        {"op": "add", "path": "/spec/replicas", "value": act.to},  # "replace" would need the path to be there
    ]


def test_of(path: str, value: object) -> JsonObject:
    """Return the step of a JSON patch that refuses the whole patch with 422 unless *value* stands at *path*."""
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
