"""Nodes for the machines of a market: made when a machine joins, marked when it is told of its end, deleted when it is gone.

kwok plays their kubelets. What a Node should be follows from the market alone and what is written from that and the live Node,
so a market process that was killed finds its way back.
"""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from spillway.adapters.cloud.simulated import Machine, Market, NodeShape, NoticeStyle, PoolSpec
from spillway.adapters.kube.client import JsonObject, KubeClient
from spillway.adapters.kube.clock import seconds_time
from spillway.adapters.kube.errors import KubeError, NotFound
from spillway.adapters.kube.resources import NODES
from spillway.api.names import GROUP
from spillway.core.model import InstanceState

log = logging.getLogger(__name__)

POOL_LABEL: Final = f"{GROUP}/market-pool"
"""On a Node that a market made: the name of its pool."""

KWOK_ANNOTATION: Final = "kwok.x-k8s.io/node"
AWS_NOTICE_TAINT: Final = "aws-node-termination-handler/spot-itn"
MERGE_PATCH: Final = "application/merge-patch+json"
STRATEGIC_PATCH: Final = "application/strategic-merge-patch+json"

Conditions = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a Node should be. `lives` is whether its kubelet does; `notice` is how its end is told, None if it is not."""

    name: str
    pool: str
    machine: str
    shape: NodeShape
    zone: str
    boot_id: str = ""
    lives: bool = True
    has_gpus: bool = True
    notice: NoticeStyle | None = None

    @property
    def is_played(self) -> bool:
        """Whether kwok plays it; a kubelet that is shutting down says so itself, and nobody must say otherwise."""
        return self.lives and self.notice is not NoticeStyle.GCP


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One request about a Node."""

    method: str
    subresource: str | None = None
    body: object = None
    content_type: str = "application/json"


class NodeKeeper:
    """Brings the Nodes of *market* in step with its machines, as far as the API server lets it."""

    def __init__(self, client: KubeClient, market: Market) -> None:
        self._client = client
        self._market = market
        self._done: dict[str, Wish | None] = {}  # None: there is a Node, and what became of it is not known
        self._has_looked = False

    async def step(self, now: datetime) -> bool:
        """Write what differs; return whether all is in step. A Node that cannot be written is tried again next time."""
        if not self._has_looked and not await self._find_earlier():
            return False
        wishes = {wish.name: wish for wish in wishes_of(self._market, now)}
        odd = [wish for name, wish in wishes.items() if self._done.get(name) != wish]
        surplus = [name for name in self._done if name not in wishes]
        settled = await asyncio.gather(
            *(self._isolated(wish.name, wish, now) for wish in odd),
            *(self._isolated(name, None, now) for name in surplus),
        )
        return all(settled)

    async def _find_earlier(self) -> bool:
        """Find the Nodes that an earlier process made for these pools; False where the API server does not say."""
        try:
            answer = await self._client.request("GET", NODES.path(), query={"labelSelector": POOL_LABEL})
        except KubeError as exc:
            log.warning("no node is made yet: %s", exc)
            return False
        for node in answer["items"]:
            if node["metadata"]["labels"][POOL_LABEL] in self._market.names:
                self._done[node["metadata"]["name"]] = None
        self._has_looked = True
        return True

    async def _isolated(self, name: str, wish: Wish | None, now: datetime) -> bool:
        try:
            return await (self._delete(name) if wish is None else self._bring_about(wish, now))
        except KubeError as exc:
            log.warning("node %s is not yet as the market wants it: %s", name, exc)
            return False

    async def _delete(self, name: str) -> bool:
        try:
            await self._client.request("DELETE", NODES.path(name=name))
            log.info("deleted node %s", name)
        except NotFound:
            pass  # somebody was faster
        del self._done[name]
        return True

    async def _bring_about(self, wish: Wish, now: datetime) -> bool:
        live = await self._find(wish.name)
        if live is None and (not wish.lives or wish.name in self._done):
            self._done[wish.name] = wish  # deleted by somebody else, and nothing brings it back
            return True
        for write in writes_for(live, wish, now):
            await self._client.request(
                write.method,
                NODES.path() if live is None else NODES.path(name=wish.name, subresource=write.subresource),
                body=write.body,
                content_type=write.content_type,
            )
            log.info("node %s: %s %s", wish.name, write.method, write.subresource or "")
        self._done[wish.name] = wish if live is not None and is_settled(live, wish) else None
        return self._done[wish.name] is not None

    async def _find(self, name: str) -> JsonObject | None:
        try:
            return await self._client.request("GET", NODES.path(name=name))
        except NotFound:
            return None


def wishes_of(market: Market, now: datetime) -> Iterator[Wish]:
    """Yield what each Node of *market* should be at *now*; a machine that has not joined has none."""
    for name in market.names:
        spec, record = market.spec(name), market.pool_record(name)
        for machine in record.machines:
            if machine.joined:
                yield _wish(spec, machine, now)
        for ghost in record.ghosts:
            yield Wish(name=ghost, pool=name, machine="", shape=spec.node, zone="", lives=False)


def writes_for(live: JsonObject | None, wish: Wish, now: datetime) -> Iterator[Write]:
    """Yield what makes a Node as wished out of *live*, None where there is none; nothing if it is so already."""
    if live is None:
        yield Write(method="POST", body=node_of(wish))
        return
    if patch := _patch_of(live, wish):
        # The version makes it fail where somebody else has changed the taints since: merging lists replaces them.
        patch.setdefault("metadata", {})["resourceVersion"] = live["metadata"]["resourceVersion"]
        yield Write(method="PATCH", body=patch, content_type=MERGE_PATCH)
    if status := _status_of(live, wish, now):
        body = {"status": status}
        yield Write(method="PATCH", subresource="status", body=body, content_type=STRATEGIC_PATCH)


def is_settled(live: JsonObject, wish: Wish) -> bool:
    """Whether *live* is as wished, once what `writes_for` yields is written: kwok has made it Ready, if it is to."""
    return not wish.is_played or _condition(live, "Ready").get("status") == "True"


def node_of(wish: Wish) -> JsonObject:
    """Return the manifest of a Node as it joins."""
    shape = wish.shape
    labels = {
        "kubernetes.io/hostname": wish.name,
        "topology.kubernetes.io/zone": wish.zone,
        POOL_LABEL: wish.pool,
        **({"nvidia.com/gpu.product": shape.gpu_model} if shape.gpu_model else {}),
        **shape.labels,
    }
    taints = [{"key": taint.key, "value": taint.value, "effect": taint.effect} for taint in shape.taints]
    resources = _resources(wish)
    return {
        "apiVersion": NODES.api_version,
        "kind": NODES.kind,
        "metadata": {"name": wish.name, "labels": labels, "annotations": {KWOK_ANNOTATION: "fake"}},
        "spec": {"providerID": f"kwok://{wish.pool}/{wish.machine}", "taints": taints},
        "status": {"capacity": resources, "allocatable": resources},
    }


def _wish(spec: PoolSpec, machine: Machine, now: datetime) -> Wish:
    return Wish(
        name=machine.node,
        pool=spec.name,
        machine=machine.id,
        shape=spec.node,
        zone=machine.zone,
        boot_id=machine.boot_id,
        lives=machine.state is not InstanceState.BOOTING,
        has_gpus=machine.gpus_at is not None and machine.gpus_at <= now,
        notice=None if machine.notice is None else spec.notice_style,
    )


def _resources(wish: Wish) -> dict[str, str]:
    shape = wish.shape
    gpus = {shape.gpu_resource: str(shape.gpus)} if wish.has_gpus and shape.gpus else {}
    return {**shape.allocatable, **gpus}


def _patch_of(live: JsonObject, wish: Wish) -> JsonObject:
    patch: JsonObject = {}
    annotations = live["metadata"].get("annotations") or {}
    if (annotations.get(KWOK_ANNOTATION) == "fake") != wish.is_played:
        patch["metadata"] = {"annotations": {KWOK_ANNOTATION: "fake" if wish.is_played else None}}
    taints = live["spec"].get("taints") or []
    others = [taint for taint in taints if taint["key"] != AWS_NOTICE_TAINT]
    if wish.lives and (len(others) != len(taints)) != (wish.notice is NoticeStyle.AWS):
        told = {"key": AWS_NOTICE_TAINT, "value": f"spot-itn-{wish.machine}", "effect": "NoSchedule"}
        patch["spec"] = {"taints": [*others, told] if wish.notice is NoticeStyle.AWS else others}
    return patch


def _status_of(live: JsonObject, wish: Wish, now: datetime) -> JsonObject:
    status: JsonObject = {}
    is_ready = _condition(live, "Ready").get("status") == "True"
    shown = live["status"].get("allocatable") or {}
    shows_gpus = wish.shape.gpu_resource in shown
    if wish.lives and wish.shape.gpus and shows_gpus != wish.has_gpus:
        gpus = {wish.shape.gpu_resource: str(wish.shape.gpus) if wish.has_gpus else None}
        status |= {"capacity": gpus, "allocatable": gpus}
    # kwok writes an empty boot id when it makes the Node Ready, so ours comes after it.
    boot_id = (live["status"].get("nodeInfo") or {}).get("bootID", "")
    if wish.lives and is_ready and boot_id != wish.boot_id:
        status["nodeInfo"] = {"bootID": wish.boot_id}
    if conditions := list(_changed_conditions(live, wish, now)):
        status["conditions"] = conditions
    return status


def _changed_conditions(live: JsonObject, wish: Wish, now: datetime) -> Iterable[dict[str, str]]:
    at = seconds_time(now)
    for kind, condition in _told_conditions(live, wish).items():
        if _condition(live, kind).get("status") != condition["status"]:
            yield {"type": kind, **condition, "lastHeartbeatTime": at, "lastTransitionTime": at}


def _told_conditions(live: JsonObject, wish: Wish) -> Conditions:
    """Return the conditions that only we write; the rest is kwok's."""
    if not wish.lives:
        message = "Kubelet stopped posting node status."
        return {"Ready": {"status": "Unknown", "reason": "NodeStatusUnknown", "message": message}}
    told: dict[str, Mapping[str, str]] = {}
    if wish.notice is NoticeStyle.GCP:
        told["Ready"] = {"status": "False", "reason": "KubeletNotReady", "message": "node is shutting down"}
    preempted = wish.notice is NoticeStyle.AZURE
    if preempted or _condition(live, "PreemptionScheduled"):
        told["PreemptionScheduled"] = {
            "status": str(preempted),
            "reason": "PreemptScheduled" if preempted else "NoPreemption",
            "message": "the machine will be taken back" if preempted else "the machine stays",
        }
    return told


def _condition(live: JsonObject, kind: str) -> Mapping[str, Any]:
    found = (item for item in live["status"].get("conditions") or [] if item["type"] == kind)
    return next(found, {})
