"""Our mark on nodes: put on, taken off again, and the end of a Node whose instance is gone."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from spillway.adapters.kube.client import JsonObject, KubeClient
from spillway.adapters.kube.clock import WallClock, seconds_time, utc_now
from spillway.adapters.kube.constraints import taints_of
from spillway.adapters.kube.errors import Conflict, NotFound, PreconditionFailed
from spillway.adapters.kube.nodes import cordon_mark, mark_text
from spillway.adapters.kube.raw import Raw, part
from spillway.adapters.kube.resources import NODES, describe_call
from spillway.adapters.kube.write import JSON_PATCH, WRITE_SECONDS, JointLimit, test_of
from spillway.api.names import CORDON_ANNOTATION, CORDON_TAINT
from spillway.core.model import CordonMark, CordonNode, ForgetNode, UncordonNode
from spillway.core.scheduling import NO_SCHEDULE

TRIES = 5  # kubelets and node controllers write nodes all the time
PatchStep = dict[str, Any]


async def cordon_node(
    client: KubeClient, act: CordonNode, *, now: WallClock = utc_now, timeout_seconds: float = WRITE_SECONDS
) -> str:
    """Make the node unschedulable and put our taint and annotation on it; return the Node's resourceVersion.

    Taints of others stay. Whether somebody had cordoned it before is noted once, with our first mark. A node that carries this
    very mark is left alone. Raises `NotFound`, `PreconditionFailed` when it is another node by now or does not hold still, and
    others of `KubeError`.
    """

    def steps(raw: Raw) -> list[PatchStep]:
        before = _mark_of(raw)
        is_same = before is not None and (before.cause, before.id) == (act.cause, act.id)
        if is_same and _is_cordoned(raw):
            return []
        if before is None:
            already = bool(raw["spec"].get("unschedulable"))
            before = CordonMark(cause=act.cause, id=act.id, since=now(), was_unschedulable=already)
        mark = replace(before, cause=act.cause, id=act.id, since=before.since if is_same else now())
        return _marking(raw, mark)

    return await _change(client, act.node, uid=act.node_uid, steps=steps, seconds=timeout_seconds)


async def uncordon_node(
    client: KubeClient, act: UncordonNode, *, timeout_seconds: float = WRITE_SECONDS
) -> str:
    """Take our mark off the node, and its cordon unless somebody else had set that before us; return the resourceVersion.

    A node without our mark is left alone, cordoned or not. Raises as `cordon_node`.
    """
    return await _change(client, act.node, uid=act.node_uid, steps=_unmarking, seconds=timeout_seconds)


async def delete_node(client: KubeClient, act: ForgetNode, *, timeout_seconds: float = WRITE_SECONDS) -> None:
    """Delete the Node object if it is still `act.node_uid`; one that is gone is fine.

    Raises `Conflict` when a machine came back under this name, and others of `KubeError`.
    """
    try:
        await client.request(
            "DELETE",
            NODES.path(name=act.node),
            body={"preconditions": {"uid": act.node_uid}},
            timeout_seconds=timeout_seconds,
        )
    except NotFound:
        return


def _marking(raw: Raw, mark: CordonMark) -> list[PatchStep]:
    taint = {
        "key": CORDON_TAINT,
        "value": mark.cause.value,
        "effect": NO_SCHEDULE,
        "timeAdded": seconds_time(mark.since),
    }
    annotations = [] if raw["metadata"].get("annotations") else [_put("/metadata/annotations", {})]
    return [
        *annotations,
        _put(_ANNOTATION_PATH, mark_text(mark)),
        _put("/spec/unschedulable", True),
        _put("/spec/taints", [*_taints_of_others(raw), taint]),
    ]


def _unmarking(raw: Raw) -> list[PatchStep]:
    mark = _mark_of(raw)
    taints, others = raw["spec"].get("taints") or [], _taints_of_others(raw)
    steps = [_put("/spec/taints", others)] if len(others) < len(taints) else []
    if CORDON_ANNOTATION in part(raw["metadata"], "annotations"):
        steps.append({"op": "remove", "path": _ANNOTATION_PATH})
    if mark is not None and not mark.was_unschedulable:
        steps.append(_put("/spec/unschedulable", False))
    return steps


async def _change(
    client: KubeClient, name: str, *, uid: str, steps: Callable[[Raw], list[PatchStep]], seconds: float
) -> str:
    """Read the node, patch it if it is still as read, and begin again where somebody was faster."""
    limit, path = JointLimit(client, seconds), NODES.path(name=name)
    for tries_left in reversed(range(TRIES)):
        raw = await limit.request("GET", path)
        if raw["metadata"]["uid"] != uid:
            raise PreconditionFailed(
                describe_call("GET", path), f"node {name} was made anew under the same name"
            )
        wanted = steps(raw)
        if not wanted:
            return str(raw["metadata"]["resourceVersion"])
        try:
            written = await _patch(limit, path, raw, wanted)
        except (PreconditionFailed, Conflict):
            if not tries_left:
                raise
        else:
            return str(written["metadata"]["resourceVersion"])
    raise AssertionError("the last try returns or raises")


async def _patch(limit: JointLimit, path: str, raw: Raw, steps: list[PatchStep]) -> JsonObject:
    meta = raw["metadata"]
    unchanged = [
        test_of("/metadata/uid", meta["uid"]),
        test_of("/metadata/resourceVersion", meta["resourceVersion"]),
    ]
    return await limit.request("PATCH", path, body=[*unchanged, *steps], content_type=JSON_PATCH)


def _mark_of(raw: Raw) -> CordonMark | None:
    return cordon_mark(part(raw["metadata"], "annotations"), taints_of(raw["spec"].get("taints") or ()))


def _is_cordoned(raw: Raw) -> bool:
    ours = any(taint["key"] == CORDON_TAINT for taint in raw["spec"].get("taints") or ())
    return ours and bool(raw["spec"].get("unschedulable"))


def _taints_of_others(raw: Raw) -> list[Any]:
    return [taint for taint in raw["spec"].get("taints") or () if taint["key"] != CORDON_TAINT]


def _put(path: str, value: object) -> PatchStep:
    return {"op": "add", "path": path, "value": value}


_ANNOTATION_PATH = "/metadata/annotations/" + CORDON_ANNOTATION.replace("/", "~1")
