"""A large fleet laid down by hand: the objects that controllers, scheduler and kubelets would have made, many at a time."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from tests.bench.bed import WORKLOADS
from tests.cluster.client import Client, JsonObject
from tests.cluster.controlplane import ControlPlane, gpu_deployment

# With these running, the API server would spend minutes on the steps between; none of them may undo what is laid down.
IDLE_CONTROLLERS = (
    "deployment",
    "replicaset",
    "pod-garbage-collector",
    "node-lifecycle",
)
THREADS = 16
GPUS_PER_NODE = 64
HASH = "5d4f8c7b9"
APPS = "/apis/apps/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One workload of the fleet: how many pods run on which node, and what its GpuWorkload says besides its target."""

    namespace: str
    name: str
    pods: int
    node: str
    spec: JsonObject


def lay_down(
    cluster: ControlPlane, *, workloads: int, pods_each: int, namespaces: int, spec: JsonObject
) -> list[Member]:
    """Make *workloads* Deployments of *pods_each* Running one-GPU pods, each with its GpuWorkload; return them.

    The control plane must run without `IDLE_CONTROLLERS`. Nobody plays the nodes and pods: they stay as they are.
    """
    per_node = GPUS_PER_NODE // pods_each
    members = [
        Member(
            namespace=f"team-{number % namespaces}",
            name=f"model-{number}",
            pods=pods_each,
            node=f"fleet-{number // per_node}",
            spec=spec,
        )
        for number in range(workloads)
    ]
    for number in range(namespaces):
        cluster.make_namespace(f"team-{number}")
    own = threading.local()  # a client serves one thread at a time

    def begin_thread() -> None:
        own.client = cluster.observer_client()

    with ThreadPoolExecutor(THREADS, initializer=begin_thread) as pool:
        nodes = {member.node for member in members}
        list(pool.map(lambda node: _make_node(own.client, node), nodes))
        list(pool.map(lambda member: _make_member(own.client, member), members))
    return members


def _make_node(client: Client, name: str) -> None:
    resources = {"cpu": "192", "memory": "2Ti", "pods": "110", "nvidia.com/gpu": str(GPUS_PER_NODE)}
    labels = {"kubernetes.io/hostname": name, "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    client.post("/api/v1/nodes", {"metadata": {"name": name, "labels": labels}})
    status = {"capacity": resources, "allocatable": resources, "conditions": [_condition("Ready")]}
    client.patch(f"/api/v1/nodes/{name}/status", {"status": status})


def _make_member(client: Client, member: Member) -> None:
    deployment = _make_deployment(client, member)
    replica_set = _make_replica_set(client, member, deployment)
    for number in range(member.pods):
        _make_pod(client, member, replica_set, number=number)
    _report_ready(client, member)
    body = {
        "apiVersion": "spillway.dev/v1alpha1",
        "kind": "GpuWorkload",
        "metadata": {"name": member.name},
        "spec": {"targetRef": {"name": member.name}, **member.spec},
    }
    client.post(f"{WORKLOADS}/namespaces/{member.namespace}/gpuworkloads", body)


def _make_deployment(client: Client, member: Member) -> JsonObject:
    manifest = gpu_deployment(member.name, replicas=member.pods)
    manifest["metadata"]["annotations"] = {"deployment.kubernetes.io/revision": "1"}
    return client.post(f"{APPS}/namespaces/{member.namespace}/deployments", manifest)


def _make_replica_set(client: Client, member: Member, deployment: JsonObject) -> JsonObject:
    template = deployment["spec"]["template"]
    labels = {**template["metadata"]["labels"], "pod-template-hash": HASH}
    manifest = {
        "metadata": {
            "name": f"{member.name}-{HASH}",
            "labels": labels,
            "annotations": {"deployment.kubernetes.io/revision": "1"},
            "ownerReferences": [_owner(deployment, version="apps/v1", kind="Deployment")],
        },
        "spec": {
            "replicas": member.pods,
            "selector": {"matchLabels": labels},
            "template": {**template, "metadata": {**template["metadata"], "labels": labels}},
        },
    }
    return client.post(f"{APPS}/namespaces/{member.namespace}/replicasets", manifest)


def _make_pod(client: Client, member: Member, replica_set: JsonObject, *, number: int) -> None:
    template = replica_set["spec"]["template"]
    manifest = {
        "metadata": {
            "name": f"{_name(replica_set)}-{number:05}",
            "labels": template["metadata"]["labels"],
            "annotations": template["metadata"]["annotations"],
            "ownerReferences": [_owner(replica_set, version="apps/v1", kind="ReplicaSet")],
        },
        "spec": {**template["spec"], "nodeName": member.node},
    }
    made = client.post(f"/api/v1/namespaces/{member.namespace}/pods", manifest)
    kinds = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    status = {
        "phase": "Running",
        "hostIP": "10.1.0.1",
        "podIP": f"10.2.{number}.1",
        "startTime": _now(),
        "conditions": [_condition(kind) for kind in kinds],
        "containerStatuses": [_container(made["spec"]["containers"][0])],
    }
    client.patch(f"/api/v1/namespaces/{member.namespace}/pods/{_name(made)}/status", {"status": status})


def _report_ready(client: Client, member: Member) -> None:
    """Say in the Deployment's status that all of its pods are there."""
    counts = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
    status = {"observedGeneration": 1, **dict.fromkeys(counts, member.pods)}
    client.patch(f"{APPS}/namespaces/{member.namespace}/deployments/{member.name}/status", {"status": status})


def _container(container: JsonObject) -> JsonObject:
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": f"{container['image']}@sha256:{'0' * 64}",
        "containerID": f"containerd://{'0' * 64}",
        "ready": True,
        "started": True,
        "restartCount": 0,
        "state": {"running": {"startedAt": _now()}},
    }


def _condition(kind: str) -> JsonObject:
    return {"type": kind, "status": "True", "lastTransitionTime": _now()}


def _owner(body: JsonObject, *, version: str, kind: str) -> JsonObject:
    metadata = body["metadata"]
    return {
        "apiVersion": version,
        "kind": kind,
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _name(body: JsonObject) -> str:
    name: str = body["metadata"]["name"]
    return name


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
