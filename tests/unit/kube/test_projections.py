"""What is kept of the API's objects, above all: how a pod is classified."""

from datetime import UTC, datetime
from typing import Any

import pytest

from spillway.adapters.kube.projections import (
    NamespaceInfo,
    deployment,
    horizontal_pod_autoscaler,
    namespace_info,
    node,
    pod,
    replica_set,
    requested_devices,
    requested_gpus,
    scaled_object,
    selector_text,
)
from spillway.core.model import (
    CapacityType,
    Deployment,
    ForeignAutoscaler,
    Node,
    ObjectKey,
    Pod,
    PodPhase,
    ReplicaSet,
)

Raw = dict[str, Any]

CREATED = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
SCHEDULED = datetime(2026, 11, 22, 9, 1, tzinfo=UTC)
CHANGED = datetime(2026, 11, 22, 9, 2, tzinfo=UTC)


def at(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(kind: str, status: str, *, since: datetime = CHANGED, **more: str) -> Raw:
    return {"type": kind, "status": status, "lastTransitionTime": at(since), **more}


SCHEDULED_TRUE = condition("PodScheduled", "True", since=SCHEDULED)


def make_pod(
    *conditions: Raw,
    node: str = "node-1",
    phase: str = "Running",
    containers: tuple[Raw, ...] = (),
    init: tuple[Raw, ...] = (),
    deleted: str = "",
    **status: str,
) -> Raw:
    meta: Raw = {
        "namespace": "ns",
        "name": "chat-1",
        "uid": "pod-uid",
        "creationTimestamp": at(CREATED),
        "ownerReferences": [{"kind": "ReplicaSet", "controller": True, "uid": "set-uid", "name": "chat-77f"}],
    }
    if deleted:
        meta |= {"deletionTimestamp": deleted, "deletionGracePeriodSeconds": 30}
    return {
        "metadata": meta,
        "spec": {
            "nodeName": node,
            "containers": [{"resources": {"limits": {"nvidia.com/gpu": "2"}}}],
        },
        "status": {
            "phase": phase,
            "conditions": list(conditions),
            "containerStatuses": list(containers),
            "initContainerStatuses": list(init),
            **status,
        },
    }


def waiting(reason: str, message: str = "") -> Raw:
    return {"name": "server", "ready": False, "state": {"waiting": {"reason": reason, "message": message}}}


def crashed(
    reason: str, *, restarts: int = 3, code: int = 1, ran: tuple[str, str] = ("09:00:00", "09:00:20")
) -> Raw:
    started, finished = (f"2026-11-22T{moment}Z" for moment in ran)
    last = {"reason": reason, "exitCode": code, "startedAt": started, "finishedAt": finished}
    return {
        "name": "server",
        "ready": False,
        "restartCount": restarts,
        "state": {"running": {}},
        "lastState": {"terminated": last},
    }


READY = condition("Ready", "True")
NOT_READY = condition("Ready", "False", reason="ContainersNotReady")


@pytest.mark.parametrize(
    ("raw", "phase", "since"),
    [
        pytest.param(make_pod(READY, SCHEDULED_TRUE), PodPhase.READY, CHANGED, id="ready"),
        pytest.param(make_pod(NOT_READY, SCHEDULED_TRUE), PodPhase.LOADING, CHANGED, id="not ready yet"),
        pytest.param(make_pod(SCHEDULED_TRUE), PodPhase.LOADING, SCHEDULED, id="the kubelet has not spoken yet"),
        pytest.param(make_pod(node="", phase="Pending"), PodPhase.PENDING, CREATED, id="no verdict yet"),
        pytest.param(
            make_pod(condition("PodScheduled", "False", reason="SchedulingGated"), node="", phase="Pending"),
            PodPhase.PENDING,
            CREATED,
            id="gated",
        ),
        pytest.param(
            make_pod(condition("PodScheduled", "False", reason="Unschedulable"), node="", phase="Pending"),
            PodPhase.UNSCHEDULABLE,
            CHANGED,
            id="unschedulable",
        ),
        pytest.param(
            make_pod(READY, SCHEDULED_TRUE, deleted="2026-11-22T09:05:30Z"),
            PodPhase.TERMINATING,
            datetime(2026, 11, 22, 9, 5, tzinfo=UTC),
            id="terminating since the request",
            marks=pytest.mark.case("workload-autoscalers D54"),
        ),
        pytest.param(
            make_pod(NOT_READY, phase="Failed", reason="Evicted"),
            PodPhase.FINISHED,
            CHANGED,
            id="evicted",
            marks=pytest.mark.case("workload-autoscalers D53"),
        ),
        pytest.param(make_pod(NOT_READY, phase="Succeeded"), PodPhase.FINISHED, CHANGED, id="succeeded"),
        pytest.param(
            make_pod(condition("Ready", "Unknown")),
            PodPhase.UNKNOWN,
            CHANGED,
            id="readiness unknown",
            marks=pytest.mark.case("workload-autoscalers D55"),
        ),
        pytest.param(
            make_pod(condition("Ready", "False"), condition("ContainersReady", "True")),
            PodPhase.UNKNOWN,
            CHANGED,
            id="marked by the node controller",
            marks=pytest.mark.case("workload-autoscalers D55"),
        ),
        pytest.param(
            make_pod(
                condition("Ready", "False", reason="ReadinessGatesNotReady"), condition("ContainersReady", "True")
            ),
            PodPhase.LOADING,
            CHANGED,
            id="held by a readiness gate",
        ),
    ],
)  # fmt: skip
def test_a_pod_stands_where_its_status_says(raw: Raw, phase: PodPhase, since: datetime) -> None:
    found = pod(raw)

    assert found is not None
    assert (found.phase, found.since) == (phase, since)


@pytest.mark.case("workload-autoscalers D47")
@pytest.mark.parametrize(
    "reason",
    [
        "CrashLoopBackOff",
        "ImagePullBackOff",
        "ErrImagePull",
        "InvalidImageName",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    ],
)
@pytest.mark.parametrize("where", ["containers", "init"])
def test_a_container_that_cannot_start_breaks_its_pod(reason: str, where: str) -> None:
    found = pod(make_pod(NOT_READY, SCHEDULED_TRUE, phase="Pending", **{where: (waiting(reason, "why"),)}))  # type: ignore[arg-type]

    assert found is not None
    assert (found.phase, found.cause, found.message) == (PodPhase.BROKEN, reason, "why")


@pytest.mark.parametrize(
    ("container", "phase"),
    [
        pytest.param(waiting("ContainerCreating"), PodPhase.LOADING, id="being created"),
        pytest.param(waiting("PodInitializing"), PodPhase.LOADING, id="init containers run"),
        pytest.param(crashed("OOMKilled", restarts=1), PodPhase.BROKEN, id="killed for memory once"),
        pytest.param(crashed("Error"), PodPhase.BROKEN, id="between two crashes"),
        pytest.param(crashed("Error", restarts=1), PodPhase.LOADING, id="crashed once"),
        pytest.param(crashed("Completed", code=0), PodPhase.LOADING, id="ended well"),
        pytest.param(
            crashed("Error", ran=("01:00:00", "08:00:00")), PodPhase.LOADING, id="crashed after hours of service"
        ),
        pytest.param({"name": "sidecar", "ready": True, "restartCount": 9}, PodPhase.LOADING, id="another's past"),
    ],
)  # fmt: skip
def test_a_crash_loop_is_told_from_a_restart(container: Raw, phase: PodPhase) -> None:
    found = pod(make_pod(NOT_READY, SCHEDULED_TRUE, containers=(container,)))

    assert found is not None
    assert found.phase is phase


def test_a_pod_that_serves_is_ready_whatever_it_went_through() -> None:
    found = pod(make_pod(READY, SCHEDULED_TRUE, containers=(crashed("OOMKilled") | {"ready": True},)))

    assert found is not None
    assert found.phase is PodPhase.READY


def test_a_pod_is_kept_whole() -> None:
    verdict = condition("PodScheduled", "False", reason="Unschedulable", message="0/3 nodes: no GPU left")

    assert pod(make_pod(verdict, node="", phase="Pending")) == Pod(
        key=ObjectKey("ns", "chat-1"),
        uid="pod-uid",
        owner_uid="set-uid",
        phase=PodPhase.UNSCHEDULABLE,
        created_at=CREATED,
        since=CHANGED,
        gpus=2,
        node=None,
        cause="Unschedulable",
        message="0/3 nodes: no GPU left",
        owner_name="chat-77f",
        devices={"nvidia.com/gpu": 2},
    )


def owned_by(*owners: Raw, **more: Any) -> Raw:  # noqa: ANN401 - fields of make_pod
    raw = make_pod(READY, **more)
    raw["metadata"]["ownerReferences"] = list(owners)
    return raw


@pytest.mark.case("workload-autoscalers D52")
@pytest.mark.parametrize(
    ("owners", "payer"),
    [
        pytest.param([], ("", ""), id="none"),
        pytest.param(
            [{"kind": "StatefulSet", "controller": True, "uid": "x", "name": "db"}], ("x", "db"), id="another kind"
        ),
        pytest.param([{"kind": "ReplicaSet", "uid": "x", "name": "chat-77f"}], ("", ""), id="no controller"),
        pytest.param(
            [{"kind": "Job", "controller": True, "uid": "x", "name": "nightly-29712960"}],
            ("x", "nightly"),
            id="a CronJob's Job pays under the CronJob's name",
        ),
    ],
)  # fmt: skip
def test_a_foreign_pod_is_kept_while_it_holds_gpus(owners: list[Raw], payer: tuple[str, str]) -> None:
    found = pod(owned_by(*owners))

    assert found is not None
    assert ((found.owner_uid, found.owner_name), found.gpus) == (payer, 2)


def test_a_foreign_pod_without_gpus_is_not_kept() -> None:
    raw = owned_by()
    raw["spec"]["containers"] = [{"resources": {"requests": {"cpu": "4"}}}]

    assert pod(raw) is None


def test_a_foreign_pod_that_finished_is_not_kept() -> None:
    assert pod(owned_by(phase="Succeeded")) is None


def container(**gpus: int) -> Raw:
    names = {"nvidia": "nvidia.com/gpu", "mig": "nvidia.com/mig-1g.5gb", "amd": "amd.com/gpu"}
    return {"resources": {"requests": {names[name]: str(amount) for name, amount in gpus.items()}}}


@pytest.mark.case("metrics-and-cost E77")
@pytest.mark.parametrize(
    ("init", "main", "expected"),
    [
        pytest.param([], [container(nvidia=2), container(nvidia=1)], 3, id="containers add up"),
        pytest.param([container(nvidia=4)], [container(nvidia=1)], 4, id="a larger init container rules"),
        pytest.param([container(nvidia=1)], [container(nvidia=4)], 4, id="a smaller one does not"),
        pytest.param(
            [container(nvidia=1) | {"restartPolicy": "Always"}], [container(nvidia=4)], 5, id="a sidecar stays"
        ),
        pytest.param(
            [container(nvidia=1) | {"restartPolicy": "Always"}, container(nvidia=6)],
            [container(nvidia=4)],
            7,
            id="an init container runs beside an earlier sidecar",
        ),
        pytest.param([], [container(mig=2, nvidia=1)], 3, id="slices count like GPUs"),
        pytest.param([], [container(amd=8)], 8, id="AMD"),
        pytest.param([], [{"resources": {"limits": {"nvidia.com/gpu": 2}}}], 2, id="limits alone, as a number"),
        pytest.param([], [{"resources": {"requests": {"cpu": "500m"}}}], 0, id="no GPU at all"),
        pytest.param([], [{}], 0, id="no resources"),
    ],
)  # fmt: skip
def test_gpus_are_what_the_scheduler_sets_aside(init: list[Raw], main: list[Raw], expected: int) -> None:
    assert requested_gpus({"initContainers": init, "containers": main}) == expected


@pytest.mark.case("metrics-and-cost E77")
def test_each_device_is_set_aside_by_its_own_larger_phase() -> None:
    wanted = requested_devices(
        {"initContainers": [container(nvidia=1)], "containers": [container(mig=1, nvidia=0)]}
    )

    assert wanted == {"nvidia.com/gpu": 1, "nvidia.com/mig-1g.5gb": 1}


def make_node(*conditions: Raw, labels: Raw | None = None, **spec: Any) -> Raw:  # noqa: ANN401
    return {
        "metadata": {"name": "n1", "labels": labels or {}},
        "spec": spec,
        "status": {
            "conditions": list(conditions),
            "allocatable": {"cpu": "96", "nvidia.com/gpu": "8", "example.com/fuse": "1k", "memory": "1Ti"},
        },
    }


def test_a_node_is_kept_with_its_devices_labels_and_price() -> None:
    raw = make_node(READY, labels={"pool": "a", "nvidia.com/gpu.product": "H100"}, unschedulable=True)
    raw["metadata"]["annotations"] = {"spillway.dev/price-per-hour": "29.40"}

    assert node(raw) == Node(
        name="n1",
        ready=True,
        unschedulable=True,
        labels={"pool": "a", "nvidia.com/gpu.product": "H100"},
        devices={"nvidia.com/gpu": 8, "example.com/fuse": 1000},
        gpu_model="H100",
        price_annotation="29.40",
    )


@pytest.mark.parametrize(
    "conditions",
    [
        pytest.param((), id="nothing said yet"),
        pytest.param((condition("Ready", "False"),), id="not ready"),
        pytest.param((condition("Ready", "Unknown"),), id="silent"),
    ],
)
def test_a_node_is_ready_only_when_it_says_so(conditions: tuple[Raw, ...]) -> None:
    assert node(make_node(*conditions)).ready is False


@pytest.mark.case("metrics-and-cost E82")
@pytest.mark.parametrize(
    ("label", "value", "expected"),
    [
        ("karpenter.sh/capacity-type", "spot", CapacityType.SPOT),
        ("karpenter.sh/capacity-type", "on-demand", CapacityType.ON_DEMAND),
        ("karpenter.sh/capacity-type", "reserved", CapacityType.RESERVED),
        ("eks.amazonaws.com/capacityType", "SPOT", CapacityType.SPOT),
        ("eks.amazonaws.com/capacityType", "ON_DEMAND", CapacityType.ON_DEMAND),
        ("cloud.google.com/gke-spot", "true", CapacityType.SPOT),
        ("cloud.google.com/gke-provisioning", "standard", CapacityType.ON_DEMAND),
        ("kubernetes.azure.com/scalesetpriority", "spot", CapacityType.SPOT),
        ("example.com/lifecycle", "spot", CapacityType.UNKNOWN),
    ],
)
def test_the_capacity_type_of_a_node_is_what_its_platform_labels_say(
    label: str, value: str, expected: CapacityType
) -> None:
    assert node(make_node(READY, labels={label: value})).capacity_type is expected


def make_deployment(**spec: Any) -> Raw:  # noqa: ANN401
    return {
        "metadata": {
            "namespace": "ns",
            "name": "chat",
            "uid": "deployment-uid",
            "resourceVersion": "17",
            "generation": 4,
            "annotations": {"deployment.kubernetes.io/revision": "6"},
        },
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": "chat"}},
            "template": {"spec": {"containers": [container(nvidia=2)]}},
            **spec,
        },
        "status": {"observedGeneration": 4, "replicas": 5, "updatedReplicas": 2},
    }


def test_a_deployment_is_kept_whole() -> None:
    assert deployment(make_deployment()) == Deployment(
        key=ObjectKey("ns", "chat"),
        uid="deployment-uid",
        resource_version="17",
        generation=4,
        observed_generation=4,
        replicas=3,
        updated_replicas=2,
        status_replicas=5,
        selector="app=chat",
        gpus_per_pod=2,
        revision=6,
    )


def test_a_deployment_at_zero_is_not_one_that_leaves_its_count_open() -> None:
    silent = make_deployment()
    del silent["spec"]["replicas"]

    assert deployment(make_deployment(replicas=0)).replicas == 0
    assert deployment(silent).replicas == 1


def test_a_deployment_that_may_not_make_pods_says_why() -> None:
    raw = make_deployment()
    raw["status"]["conditions"] = [condition("ReplicaFailure", "True", message="exceeded quota: gpu")]

    assert deployment(raw).failure == "exceeded quota: gpu"


def test_a_deployment_that_nobody_has_looked_at_yet_has_no_status() -> None:
    raw = make_deployment()
    del raw["status"]

    found = deployment(raw)

    assert (found.observed_generation, found.status_replicas, found.failure) == (0, 0, None)


def test_a_replica_set_leads_from_its_pods_to_its_deployment() -> None:
    raw = {
        "metadata": {
            "namespace": "ns",
            "name": "chat-7f",
            "uid": "set-uid",
            "annotations": {"deployment.kubernetes.io/revision": "6"},
            "ownerReferences": [{"kind": "Deployment", "controller": True, "uid": "deployment-uid"}],
        }
    }

    assert replica_set(raw) == ReplicaSet(
        key=ObjectKey("ns", "chat-7f"), uid="set-uid", owner_uid="deployment-uid", revision=6
    )


def autoscaler(**target: str) -> Raw:
    return {"metadata": {"namespace": "ns", "name": "auto"}, "spec": {"scaleTargetRef": target}}


@pytest.mark.case("workload-autoscalers D75")
@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ({"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat"}, "Deployment"),
        ({"apiVersion": "spillway.dev/v1alpha1", "kind": "GpuWorkload", "name": "chat"}, "GpuWorkload"),
    ],
)
def test_an_hpa_on_what_we_scale_is_kept(target: dict[str, str], kind: str) -> None:
    assert horizontal_pod_autoscaler(autoscaler(**target)) == ForeignAutoscaler(
        kind="HorizontalPodAutoscaler", key=ObjectKey("ns", "auto"), target_kind=kind, target="chat"
    )


def test_a_scaled_object_means_a_deployment_unless_it_says_otherwise() -> None:
    found = scaled_object(autoscaler(name="chat"))

    assert found is not None
    assert (found.target_kind, found.target) == ("Deployment", "chat")


@pytest.mark.parametrize(
    "target",
    [
        {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "chat"},
        {"apiVersion": "argoproj.io/v1alpha1", "kind": "Deployment", "name": "chat"},
    ],
)
def test_an_autoscaler_of_something_else_is_of_no_interest(target: dict[str, str]) -> None:
    assert horizontal_pod_autoscaler(autoscaler(**target)) is None
    assert scaled_object(autoscaler(**target)) is None


def test_a_namespace_under_deletion_is_terminating_at_once() -> None:
    raw = {"metadata": {"name": "ns", "labels": {"team": "a"}, "deletionTimestamp": at(CHANGED)}}

    assert namespace_info(raw) == NamespaceInfo(name="ns", labels={"team": "a"}, terminating=True)


def test_a_selector_is_written_as_kubectl_takes_it() -> None:
    selector = {
        "matchLabels": {"b": "2", "a": "1"},
        "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["y", "x"]},
            {"key": "zone", "operator": "NotIn", "values": ["z"]},
            {"key": "gpu", "operator": "Exists"},
            {"key": "legacy", "operator": "DoesNotExist"},
        ],
    }

    assert selector_text(selector) == "a=1,b=2,tier in (x,y),zone notin (z),gpu,!legacy"
