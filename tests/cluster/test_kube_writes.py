"""Twins and deletion costs on a real API server."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from spillway.adapters.kube.client import KubeClient, connect
from spillway.adapters.kube.deployments import deployment as read_deployment
from spillway.adapters.kube.errors import Conflict, NotFound, PreconditionFailed
from spillway.adapters.kube.twin import NameTaken, apply_twin, delete_twin, hand_over_twin
from spillway.adapters.kube.write import clear_deletion_costs, set_replicas
from spillway.core.model import (
    ApplyTwin,
    ClearDeletionCost,
    DeleteTwin,
    Deployment,
    HandOverTwin,
    ObjectKey,
    PodRef,
    SetReplicas,
    TwinChange,
    TwinPool,
)
from spillway.core.scheduling import Taint
from tests.cluster.controlplane import ControlPlane, JsonObject

SOMEBODY_ELSE = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
async def client(cluster: ControlPlane) -> AsyncIterator[KubeClient]:
    made = await connect(kubeconfig=cluster.kubeconfig)
    yield made
    await made.close()


def path_of(namespace: str, name: str) -> str:
    return f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}"


def projected(cluster: ControlPlane, namespace: str, name: str) -> Deployment:
    return read_deployment(cluster.deployment(namespace, name))


def making(source: Deployment, pool: str = "spot", *, replicas: int = 2, uid: str = "") -> ApplyTwin:
    return ApplyTwin(
        workload=source.key,
        workload_uid="workload-uid",
        source=source.key,
        source_uid=source.uid,
        template=source.template,
        twin=ObjectKey(source.key.namespace, f"{source.key.name}-burst"),
        twin_uid=uid,
        replicas=replicas,
        pools=(TwinPool(name=pool, selector={"pool": pool}, taints=(Taint("spot", "true"),)),),
        why=TwinChange.CREATE,
    )


# Twins


async def test_burst_pods_land_on_spot_and_their_source_keeps_its_own(
    cluster: ControlPlane, namespace: str, client: KubeClient
) -> None:
    spot_taint = {"key": "spot", "value": "true", "effect": "NoSchedule"}
    cluster.make_gpu_node(f"spot-{namespace}", labels={"pool": namespace}, taints=[spot_taint])
    cluster.make_gpu_node(f"plain-{namespace}", labels={"plain": namespace})
    cluster.make_deployment(namespace, "chat", replicas=1, pod_spec={"tolerations": []})

    await apply_twin(client, making(projected(cluster, namespace, "chat"), namespace))

    try:
        cluster.wait_ready_replicas(namespace, "chat-burst", 2)
        cluster.wait_ready_replicas(namespace, "chat", 1)
        burst = cluster.pods(namespace, "spillway.dev/capacity-class=burst")
        plain = cluster.pods(namespace, "!spillway.dev/capacity-class")
    finally:
        cluster.delete_node(f"spot-{namespace}")
        cluster.delete_node(f"plain-{namespace}")
    assert {pod["spec"]["nodeName"] for pod in burst} == {f"spot-{namespace}"}
    assert [pod["spec"]["nodeName"] != f"spot-{namespace}" for pod in plain] == [True]


async def test_a_twin_tells_what_it_is_and_that_nobody_edited_it(
    cluster: ControlPlane, namespace: str, client: KubeClient
) -> None:
    cluster.make_deployment(namespace, "chat", replicas=0)
    source = projected(cluster, namespace, "chat")

    version = await apply_twin(client, making(source))

    twin = cluster.deployment(namespace, "chat-burst")
    facts = read_deployment(twin).twin
    assert facts is not None
    assert (facts.workload_uid, facts.source_uid, facts.template, facts.pools, facts.edited_by) == (
        "workload-uid", source.uid, source.template, ("spot",), "",
    )  # fmt: skip
    assert version.isdecimal()
    (owner,) = twin["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"], owner["blockOwnerDeletion"]) == (source.uid, False, False)


async def test_the_controllers_notes_on_a_twin_are_no_edits(
    cluster: ControlPlane, namespace: str, client: KubeClient
) -> None:
    cluster.make_deployment(namespace, "chat", replicas=0)
    await apply_twin(client, making(projected(cluster, namespace, "chat"), replicas=1))

    def observed() -> bool:
        twin = projected(cluster, namespace, "chat-burst")
        return (
            twin.revision == 1 and twin.observed_generation == twin.generation and twin.status_replicas == 1
        )

    cluster.wait_for(observed, 30, "the controller looked at the twin")
    meta = cluster.deployment(namespace, "chat-burst")["metadata"]
    facts = projected(cluster, namespace, "chat-burst").twin
    assert "kube-controller-manager" in {entry["manager"] for entry in meta["managedFields"]}
    assert facts is not None
    assert facts.edited_by == ""


@pytest.mark.case("node-and-spot E69")
async def test_an_edited_twin_is_put_back_and_keeps_its_count(
    cluster: ControlPlane, namespace: str, client: KubeClient
) -> None:
    cluster.make_deployment(namespace, "chat", replicas=0)
    source = projected(cluster, namespace, "chat")
    await apply_twin(client, making(source, replicas=2))
    cluster.kubectl("-n", namespace, "scale", "deployment", "chat-burst", "--replicas=3")
    counted = projected(cluster, namespace, "chat-burst")
    cluster.kubectl(
        "-n", namespace, "set", "image", "deployment/chat-burst", "server=registry.invalid/other:1"
    )
    cluster.kubectl("-n", namespace, "set", "env", "deployment/chat-burst", "EXTRA=1")
    edited = projected(cluster, namespace, "chat-burst")

    await apply_twin(client, replace(making(source), twin_uid=edited.uid, why=TwinChange.EDITED))

    twin = cluster.deployment(namespace, "chat-burst")
    restored = read_deployment(twin)
    (container,) = twin["spec"]["template"]["spec"]["containers"]
    assert [found.twin and bool(found.twin.edited_by) for found in (counted, edited, restored)] == [
        False,
        True,
        False,
    ]
    assert container["image"] == "registry.invalid/model-server:1"
    assert "env" not in container
    assert restored.replicas == 3


async def test_an_editor_who_changed_nothing_of_ours_is_forgotten_too(
    cluster: ControlPlane, namespace: str, client: KubeClient
) -> None:
    cluster.make_deployment(namespace, "chat", replicas=0)
    source = projected(cluster, namespace, "chat")
    await apply_twin(client, making(source))
    twin = cluster.deployment(namespace, "chat-burst")
    shared = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "chat-burst", "namespace": namespace},
        "spec": {
            "minReadySeconds": 0,
            "selector": twin["spec"]["selector"],
            "template": twin["spec"]["template"],
        },
    }
    cluster.client.apply(shared, manager="co-owner")
    edited = projected(cluster, namespace, "chat-burst")

    await apply_twin(client, replace(making(source), twin_uid=edited.uid, why=TwinChange.EDITED))

    restored = projected(cluster, namespace, "chat-burst")
    assert edited.twin is not None
    assert edited.twin.edited_by == "co-owner"
    assert restored.twin is not None
    assert restored.twin.edited_by == ""


@pytest.mark.case("node-and-spot E68")
async def test_a_twin_that_somebody_deleted_is_made_again(
    cluster: ControlPlane, namespace: str, client: KubeClient
) -> None:
    cluster.make_deployment(namespace, "chat", replicas=0)
    act = making(projected(cluster, namespace, "chat"), replicas=2)
    await apply_twin(client, act)
    first = cluster.deployment(namespace, "chat-burst")
    cluster.client.delete(path_of(namespace, "chat-burst"))

    await apply_twin(client, act)

    again = cluster.deployment(namespace, "chat-burst")
    assert again["metadata"]["uid"] != first["metadata"]["uid"]
    assert (again["spec"]["selector"], again["spec"]["replicas"]) == (first["spec"]["selector"], 2)


async def test_a_twin_follows_the_template_of_its_source_in_a_new_revision(
    cluster: ControlPlane, namespace: str, client: KubeClient
) -> None:
    cluster.make_deployment(namespace, "chat", replicas=0)
    await apply_twin(client, making(projected(cluster, namespace, "chat"), replicas=1))
    cluster.wait_for(
        lambda: projected(cluster, namespace, "chat-burst").revision == 1, 30, "its first revision"
    )
    cluster.kubectl("-n", namespace, "set", "image", "deployment/chat", "server=registry.invalid/newer:2")
    source, twin = projected(cluster, namespace, "chat"), projected(cluster, namespace, "chat-burst")

    await apply_twin(client, replace(making(source), twin_uid=twin.uid, why=TwinChange.TEMPLATE))

    cluster.wait_for(
        lambda: projected(cluster, namespace, "chat-burst").revision == 2, 30, "its second revision"
    )
    changed = cluster.deployment(namespace, "chat-burst")
    assert changed["spec"]["template"]["spec"]["containers"][0]["image"] == "registry.invalid/newer:2"


async def test_writing_a_twin_again_as_it_is_rolls_nothing_out(
    cluster: ControlPlane, namespace: str, client: KubeClient
) -> None:
    cluster.make_deployment(namespace, "chat", replicas=0)
    act = making(projected(cluster, namespace, "chat"), replicas=1)
    await apply_twin(client, act)
    before = projected(cluster, namespace, "chat-burst")

    await apply_twin(client, replace(act, twin_uid=before.uid))

    assert projected(cluster, namespace, "chat-burst").generation == before.generation


async def test_a_source_that_moved_on_refuses_its_twin(
    cluster: ControlPlane, namespace: str, client: KubeClient
) -> None:
    cluster.make_deployment(namespace, "chat", replicas=0)
    source = projected(cluster, namespace, "chat")

    with pytest.raises(PreconditionFailed, match="template has changed"):
        await apply_twin(client, replace(making(source), template="of-yesterday"))
    with pytest.raises(PreconditionFailed, match="made anew"):
        await apply_twin(client, replace(making(source), source_uid=SOMEBODY_ELSE))
    with pytest.raises(NotFound):
        await apply_twin(client, replace(making(source), source=ObjectKey(namespace, "other")))

    assert cluster.client.find(path_of(namespace, "chat-burst")) is None


async def test_a_deployment_of_somebody_else_is_never_taken_for_a_twin(
    cluster: ControlPlane, namespace: str, client: KubeClient
) -> None:
    cluster.make_deployment(namespace, "chat", replicas=0)
    theirs = cluster.make_deployment(namespace, "chat-burst", replicas=0)
    source, uid = projected(cluster, namespace, "chat"), theirs["metadata"]["uid"]

    with pytest.raises(
        NameTaken, match=f"{namespace}/chat-burst exists and carries no label spillway.dev/owned-by"
    ):
        await apply_twin(client, making(source))
    with pytest.raises(NameTaken):
        await apply_twin(client, making(source, uid=uid))
    with pytest.raises(PreconditionFailed, match="no label"):
        await delete_twin(
            client,
            DeleteTwin(workload=source.key, twin=ObjectKey(namespace, "chat-burst"), twin_uid=uid, before=0),
        )

    assert cluster.deployment(namespace, "chat-burst")["metadata"]["uid"] == uid


async def test_a_twin_that_is_there_already_is_not_made_twice(
    cluster: ControlPlane, namespace: str, client: KubeClient
) -> None:
    cluster.make_deployment(namespace, "chat", replicas=0)
    act = making(projected(cluster, namespace, "chat"))
    await apply_twin(client, act)

    with pytest.raises(Conflict):
        await apply_twin(client, act)


async def test_a_handover_is_noted_on_the_twin_and_gone_when_it_is_wanted_again(
    cluster: ControlPlane, namespace: str, client: KubeClient
) -> None:
    cluster.make_deployment(namespace, "chat", replicas=0)
    act = making(projected(cluster, namespace, "chat"))
    await apply_twin(client, act)
    twin = projected(cluster, namespace, "chat-burst")

    await hand_over_twin(client, HandOverTwin(twin=twin.key, twin_uid=twin.uid, replicas=5))
    noted = projected(cluster, namespace, "chat-burst").twin
    await apply_twin(client, replace(act, twin_uid=twin.uid, workload_uid="another", why=TwinChange.ADOPT))
    adopted = projected(cluster, namespace, "chat-burst").twin

    assert noted is not None
    assert adopted is not None
    assert (noted.handover, noted.edited_by) == (5, "")
    assert (adopted.handover, adopted.workload_uid) == (None, "another")
    with pytest.raises(PreconditionFailed):
        await hand_over_twin(client, HandOverTwin(twin=twin.key, twin_uid=SOMEBODY_ELSE, replicas=5))


async def test_a_twin_is_deleted_with_its_pods_only_where_it_stands_as_decided(
    cluster: ControlPlane, namespace: str, client: KubeClient
) -> None:
    cluster.make_deployment(namespace, "chat", replicas=0)
    await apply_twin(client, making(projected(cluster, namespace, "chat"), replicas=2))
    cluster.wait_for(lambda: len(cluster.pods(namespace)) == 2, 30, "the twin has its pods")
    twin = projected(cluster, namespace, "chat-burst")
    act = DeleteTwin(workload=twin.key, twin=twin.key, twin_uid=twin.uid, before=2)

    with pytest.raises(PreconditionFailed, match="stands at 2 and not at 0"):
        await delete_twin(client, replace(act, before=0))
    with pytest.raises(PreconditionFailed, match="made anew"):
        await delete_twin(client, replace(act, twin_uid=SOMEBODY_ELSE))
    await delete_twin(client, act)
    await delete_twin(client, act)

    assert cluster.client.find(path_of(namespace, "chat-burst")) is None
    cluster.wait_for(lambda: not cluster.pods(namespace), 30, "its pods go with it")


# Victims


async def test_a_deployment_that_shrinks_gives_up_the_victim(
    cluster: ControlPlane, namespace: str, client: KubeClient
) -> None:
    cluster.make_gpu_node(f"node-{namespace}", labels={"for": namespace})
    cluster.make_deployment(namespace, "chat", replicas=3, pod_spec={"nodeSelector": {"for": namespace}})
    cluster.wait_ready_replicas(namespace, "chat", 3)
    oldest, *others = sorted(cluster.pods(namespace), key=lambda pod: pod["metadata"]["name"])
    gone = PodRef(key=ObjectKey(namespace, "chat-long-gone"), uid="x")
    reborn = replace(ref(others[0]), uid=SOMEBODY_ELSE)
    target = projected(cluster, namespace, "chat")
    act = SetReplicas(
        workload=target.key,
        target=target.key,
        target_uid=target.uid,
        before=3,
        to=2,
        victims=(gone, reborn, ref(oldest)),
    )

    await set_replicas(client, act)

    cluster.wait_ready_replicas(namespace, "chat", 2)
    left = {pod["metadata"]["name"] for pod in cluster.pods(namespace)}
    cluster.delete_node(f"node-{namespace}")
    assert left == {pod["metadata"]["name"] for pod in others}


async def test_only_our_own_deletion_cost_is_taken_off_again(
    cluster: ControlPlane, namespace: str, client: KubeClient
) -> None:
    cluster.make_deployment(namespace, "chat", replicas=2, gpus=0)
    cluster.wait_for(lambda: len(cluster.pods(namespace)) == 2, 30, "two pods")
    ours, theirs = cluster.pods(namespace)
    cost = "controller.kubernetes.io/pod-deletion-cost"
    for pod, value in ((ours, "-100"), (theirs, "7")):
        cluster.client.patch(pod_path(pod), {"metadata": {"annotations": {cost: value}}})
    gone = PodRef(key=ObjectKey(namespace, "chat-long-gone"), uid="x")

    await clear_deletion_costs(client, ClearDeletionCost(pods=(ref(ours), gone, ref(theirs))))

    left = [
        cluster.client.get(pod_path(pod))["metadata"].get("annotations", {}).get(cost)
        for pod in (ours, theirs)
    ]
    assert left == [None, "7"]


def ref(pod: JsonObject) -> PodRef:
    meta = pod["metadata"]
    return PodRef(key=ObjectKey(meta["namespace"], meta["name"]), uid=meta["uid"])


def pod_path(pod: JsonObject) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
