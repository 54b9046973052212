"""Cordons, evictions and drains on a real API server."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from spillway.adapters.kube.client import KubeClient, connect
from spillway.adapters.kube.cordon import cordon_node, delete_node, uncordon_node
from spillway.adapters.kube.errors import Conflict, PreconditionFailed
from spillway.adapters.kube.evictions import (
    DrainBlocked,
    Eviction,
    TwoBudgets,
    drain_node,
    evict,
    evict_doomed,
    pods_on,
)
from spillway.adapters.kube.nodes import node as read_node
from spillway.core.model import (
    CordonCause,
    CordonMark,
    CordonNode,
    DrainNode,
    EvictDoomed,
    ForeignPods,
    ForgetNode,
    ObjectKey,
    PodRef,
    UncordonNode,
)
from spillway.core.scheduling import Taint
from tests.cluster.controlplane import ControlPlane, JsonObject

SOMEBODY_ELSE = "00000000-0000-0000-0000-000000000000"
NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)


@pytest.fixture
async def client(cluster: ControlPlane) -> AsyncIterator[KubeClient]:
    made = await connect(kubeconfig=cluster.kubeconfig)
    yield made
    await made.close()


def ref(pod: JsonObject) -> PodRef:
    meta = pod["metadata"]
    return PodRef(key=ObjectKey(meta["namespace"], meta["name"]), uid=meta["uid"])


def pod_path(pod: JsonObject) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


# Cordons


@pytest.fixture
def machine(cluster: ControlPlane, namespace: str) -> Any:  # noqa: ANN401 - a generator of a node's JSON
    name = f"gpu-{namespace}"
    spot = {"key": "spot", "value": "true", "effect": "NoSchedule"}
    cluster.make_gpu_node(name, labels={"for": namespace}, taints=[spot])
    yield cluster.client.get(f"/api/v1/nodes/{name}")
    cluster.delete_node(name)


def cordoning(
    machine: JsonObject, *, cause: CordonCause = CordonCause.DRAIN, mark: str = "d-1"
) -> CordonNode:
    return CordonNode(
        node=machine["metadata"]["name"], node_uid=machine["metadata"]["uid"], cause=cause, id=mark
    )


def uncordoning(machine: JsonObject) -> UncordonNode:
    return UncordonNode(node=machine["metadata"]["name"], node_uid=machine["metadata"]["uid"])


def stored(cluster: ControlPlane, machine: JsonObject) -> JsonObject:
    return cluster.client.get(f"/api/v1/nodes/{machine['metadata']['name']}")


async def test_a_cordoned_node_says_so_in_three_ways_and_keeps_the_taints_of_others(
    cluster: ControlPlane, machine: JsonObject, client: KubeClient
) -> None:
    version = await cordon_node(client, cordoning(machine), now=lambda: NOW)

    marked = stored(cluster, machine)
    found = read_node(marked)
    assert found.unschedulable
    assert found.mark == CordonMark(cause=CordonCause.DRAIN, id="d-1", since=NOW)
    assert {Taint("spot", "true"), Taint("spillway.dev/cordoned", "drain")} <= set(found.taints)
    assert [taint.since for taint in found.taints if taint.key == "spillway.dev/cordoned"] == [NOW]
    assert int(version) <= int(marked["metadata"]["resourceVersion"])


async def test_a_node_is_as_before_when_our_mark_is_off(
    cluster: ControlPlane, machine: JsonObject, client: KubeClient
) -> None:
    await cordon_node(client, cordoning(machine))
    await uncordon_node(client, uncordoning(machine))

    found = read_node(stored(cluster, machine))
    assert (found.unschedulable, found.mark, Taint("spot", "true") in found.taints) == (False, None, True)
    assert "spillway.dev/cordoned" not in {taint.key for taint in found.taints}
    assert "spillway.dev/cordon" not in stored(cluster, machine)["metadata"]["annotations"]


@pytest.mark.case("node-and-spot E49")
async def test_a_node_that_a_human_cordoned_stays_cordoned_when_our_mark_goes(
    cluster: ControlPlane, machine: JsonObject, client: KubeClient
) -> None:
    cluster.kubectl("cordon", machine["metadata"]["name"])
    await cordon_node(client, cordoning(machine))
    await cordon_node(client, cordoning(machine, cause=CordonCause.INTERRUPTED, mark="i-1"))
    await uncordon_node(client, uncordoning(machine))

    found = read_node(stored(cluster, machine))
    assert (found.unschedulable, found.mark) == (True, None)


@pytest.mark.case("node-and-spot E49")
async def test_a_node_without_our_mark_is_never_uncordoned(
    cluster: ControlPlane, machine: JsonObject, client: KubeClient
) -> None:
    cluster.kubectl("cordon", machine["metadata"]["name"])

    await uncordon_node(client, uncordoning(machine))

    assert read_node(stored(cluster, machine)).unschedulable


async def test_cordoning_twice_writes_once(
    cluster: ControlPlane, machine: JsonObject, client: KubeClient
) -> None:
    await cordon_node(client, cordoning(machine), now=lambda: NOW)
    mark = cluster.audit_mark()

    await cordon_node(client, cordoning(machine), now=lambda: NOW + timedelta(minutes=1))

    writes = [
        event
        for event in cluster.audit_events(verbs={"patch"}, since=mark)
        if event["objectRef"]["resource"] == "nodes" and event["userAgent"].startswith("spillway/")
    ]
    assert writes == []
    assert read_node(stored(cluster, machine)).mark == CordonMark(
        cause=CordonCause.DRAIN, id="d-1", since=NOW
    )


async def test_an_interruption_takes_over_the_mark_of_a_drain(
    cluster: ControlPlane, machine: JsonObject, client: KubeClient
) -> None:
    await cordon_node(client, cordoning(machine))
    await cordon_node(client, cordoning(machine, cause=CordonCause.INTERRUPTED, mark="i-1"), now=lambda: NOW)

    found = read_node(stored(cluster, machine))
    assert found.mark == CordonMark(cause=CordonCause.INTERRUPTED, id="i-1", since=NOW)
    assert [taint.value for taint in found.taints if taint.key == "spillway.dev/cordoned"] == ["interrupted"]


async def test_writes_to_a_node_lose_no_change_that_others_make_meanwhile(
    cluster: ControlPlane, machine: JsonObject, client: KubeClient
) -> None:
    name = machine["metadata"]["name"]

    async def taint_by_others(number: int) -> None:
        step = {
            "op": "add",
            "path": "/spec/taints/-",
            "value": {"key": f"other-{number}", "effect": "NoSchedule"},
        }
        await client.request(
            "PATCH", f"/api/v1/nodes/{name}", body=[step], content_type="application/json-patch+json"
        )

    await asyncio.gather(
        *[taint_by_others(number) for number in range(3)], cordon_node(client, cordoning(machine))
    )

    keys = {taint.key for taint in read_node(stored(cluster, machine)).taints}
    assert {"spot", "other-0", "other-1", "other-2", "spillway.dev/cordoned"} <= keys


async def test_a_node_made_anew_under_the_same_name_is_not_touched(
    cluster: ControlPlane, machine: JsonObject, client: KubeClient
) -> None:
    name = machine["metadata"]["name"]

    with pytest.raises(PreconditionFailed, match="made anew"):
        await cordon_node(client, replace(cordoning(machine), node_uid=SOMEBODY_ELSE))
    with pytest.raises(PreconditionFailed, match="made anew"):
        await uncordon_node(client, replace(uncordoning(machine), node_uid=SOMEBODY_ELSE))
    with pytest.raises(Conflict):
        await delete_node(client, ForgetNode(pool="p", node=name, node_uid=SOMEBODY_ELSE, instance="i"))

    assert stored(cluster, machine)["metadata"]["resourceVersion"]
    assert read_node(stored(cluster, machine)).mark is None


@pytest.mark.case("node-and-spot E51")
async def test_a_node_object_whose_instance_is_gone_is_deleted_once(
    cluster: ControlPlane, machine: JsonObject, client: KubeClient
) -> None:
    meta = machine["metadata"]
    act = ForgetNode(pool="p", node=meta["name"], node_uid=meta["uid"], instance="i")

    await delete_node(client, act)
    await delete_node(client, act)

    assert cluster.client.find(f"/api/v1/nodes/{meta['name']}") is None


# Evictions


def serve(
    cluster: ControlPlane, namespace: str, name: str = "chat", *, replicas: int = 1, grace_seconds: int = 30
) -> None:
    """Run *replicas* pods on the test's own machine, and nowhere else."""
    here = {
        "nodeSelector": {"for": namespace},
        "tolerations": [{"key": "spot", "operator": "Exists"}],
        "terminationGracePeriodSeconds": grace_seconds,
    }
    cluster.make_deployment(namespace, name, replicas=replicas, pod_spec=here)
    cluster.wait_ready_replicas(namespace, name, replicas)


def limit_disruption(cluster: ControlPlane, namespace: str, name: str = "none", *, allowed: int = 0) -> None:
    """Let *allowed* pods of `chat` be disrupted at a time; return when the budget has been counted."""
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"maxUnavailable": allowed, "selector": {"matchLabels": {"app": "chat"}}},
    }
    path = f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets"
    cluster.client.post(path, budget)
    cluster.wait_for(
        lambda: cluster.client.get(f"{path}/{name}").get("status", {}).get("expectedPods"),
        30,
        "the budget is counted",
    )


def draining(cluster: ControlPlane, namespace: str, machine: JsonObject) -> DrainNode:
    sets = cluster.client.get(f"/apis/apps/v1/namespaces/{namespace}/replicasets")["items"]
    return DrainNode(
        pool="p",
        node=machine["metadata"]["name"],
        node_uid=machine["metadata"]["uid"],
        instance="i",
        id="d-1",
        movable=frozenset(owner["metadata"]["uid"] for owner in sets),
        foreign_pods=ForeignPods.BLOCK,
    )


async def test_a_pod_is_evicted_only_if_it_is_still_the_very_one(
    cluster: ControlPlane, namespace: str, machine: JsonObject, client: KubeClient
) -> None:
    serve(cluster, namespace)
    (pod,) = cluster.pods(namespace)
    key = ref(pod).key

    as_another = await evict(client, key, uid=SOMEBODY_ELSE)
    (untouched,) = cluster.pods(namespace)
    as_itself = await evict(client, key, uid=ref(pod).uid, grace=timedelta(seconds=1))
    cluster.wait_for(lambda: cluster.client.find(pod_path(pod)) is None, 30, "the pod is gone")
    once_more = await evict(client, key, uid=ref(pod).uid)

    assert (as_another, as_itself, once_more) == (Eviction.DONE,) * 3
    assert "deletionTimestamp" not in untouched["metadata"]


async def test_a_budget_holds_an_eviction_up(
    cluster: ControlPlane, namespace: str, machine: JsonObject, client: KubeClient
) -> None:
    serve(cluster, namespace)
    limit_disruption(cluster, namespace)
    (pod,) = cluster.pods(namespace)

    assert await evict(client, ref(pod).key, uid=ref(pod).uid) is Eviction.BLOCKED_BY_BUDGET


@pytest.mark.case("node-and-spot E45")
async def test_two_budgets_over_one_pod_block_a_drain_for_good(
    cluster: ControlPlane, namespace: str, machine: JsonObject, client: KubeClient
) -> None:
    serve(cluster, namespace)
    limit_disruption(cluster, namespace, "one", allowed=1)
    limit_disruption(cluster, namespace, "two", allowed=1)
    (pod,) = cluster.pods(namespace)
    await cordon_node(client, cordoning(machine))

    with pytest.raises(TwoBudgets):
        await evict(client, ref(pod).key, uid=ref(pod).uid)
    with pytest.raises(DrainBlocked, match="more than one PodDisruptionBudget"):
        await drain_node(client, draining(cluster, namespace, machine), remove=never)

    assert [found["metadata"]["uid"] for found in cluster.pods(namespace)] == [ref(pod).uid]


@pytest.mark.case("node-and-spot E28")
async def test_a_doomed_pod_is_deleted_past_its_budget_when_its_time_is_up(
    cluster: ControlPlane, namespace: str, machine: JsonObject, client: KubeClient
) -> None:
    serve(cluster, namespace, grace_seconds=2)
    limit_disruption(cluster, namespace)
    (pod,) = cluster.pods(namespace)
    act = EvictDoomed(
        node=machine["metadata"]["name"],
        node_uid=machine["metadata"]["uid"],
        pods=(ref(pod),),
        deadline=datetime.now(UTC) + timedelta(seconds=20),
    )
    mark = cluster.audit_mark()

    await evict_doomed(client, act)

    asked = [
        (event["objectRef"].get("subresource", ""), event["responseStatus"]["code"])
        for event in cluster.audit_events(verbs={"create", "delete"}, since=mark)
        if event["objectRef"].get("name") == ref(pod).key.name and event["userAgent"].startswith("spillway/")
    ]
    assert asked[0] == ("eviction", 429)
    assert asked[-1] == ("", 200)
    cluster.wait_for(lambda: cluster.client.find(pod_path(pod)) is None, 30, "the pod is gone")


async def test_a_drained_node_is_empty_when_its_instance_goes(
    cluster: ControlPlane, namespace: str, machine: JsonObject, client: KubeClient
) -> None:
    serve(cluster, namespace, replicas=2)
    await cordon_node(client, cordoning(machine))
    seen: list[int] = []

    async def remove() -> None:
        seen.append(len(await pods_on(client, machine["metadata"]["name"])))

    await drain_node(client, draining(cluster, namespace, machine), remove=remove)

    assert seen == [0]


async def test_a_pod_that_comes_back_to_a_cordoned_node_ends_the_drain(
    cluster: ControlPlane, namespace: str, machine: JsonObject, client: KubeClient
) -> None:
    anywhere = {"nodeSelector": {"for": namespace}, "tolerations": [{"operator": "Exists"}]}
    cluster.make_deployment(namespace, "chat", pod_spec=anywhere)
    cluster.wait_ready_replicas(namespace, "chat", 1)
    await cordon_node(client, cordoning(machine))

    with pytest.raises(DrainBlocked, match="tolerates every taint"):
        await drain_node(client, draining(cluster, namespace, machine), remove=never)


@pytest.mark.case("node-and-spot E44")
async def test_a_bare_pod_on_the_node_keeps_all_pods_there(
    cluster: ControlPlane, namespace: str, machine: JsonObject, client: KubeClient
) -> None:
    serve(cluster, namespace)
    spec = {
        "nodeName": machine["metadata"]["name"],
        "containers": [{"name": "s", "image": "registry.invalid/s:1"}],
    }
    cluster.client.post(
        f"/api/v1/namespaces/{namespace}/pods", {"metadata": {"name": "by-hand"}, "spec": spec}
    )
    await cordon_node(client, cordoning(machine))

    with pytest.raises(DrainBlocked, match=f"{namespace}/by-hand"):
        await drain_node(client, draining(cluster, namespace, machine), remove=never)

    assert all("deletionTimestamp" not in found["metadata"] for found in cluster.pods(namespace))
    assert len(cluster.pods(namespace)) == 2


@pytest.mark.case("node-and-spot E48")
async def test_a_drain_that_broke_off_is_taken_up_where_it_stands(
    cluster: ControlPlane, namespace: str, machine: JsonObject, client: KubeClient
) -> None:
    serve(cluster, namespace)
    await cordon_node(client, cordoning(machine))
    act, removed = draining(cluster, namespace, machine), []

    async def dies() -> None:
        raise ConnectionError("the operator was killed")

    async def remove() -> None:
        removed.append(act.node)

    with pytest.raises(ConnectionError):
        await drain_node(client, act, remove=dies)
    await drain_node(client, act, remove=remove)

    assert removed == [act.node]


async def never() -> None:
    raise AssertionError("a node with pods on it lost its instance")
