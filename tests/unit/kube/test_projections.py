"""What is kept of pods, above all how they are classified, and of autoscalers and namespaces."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from spillway.adapters.kube.projections import (
    NamespaceInfo,
    horizontal_pod_autoscaler,
    namespace_info,
    pod,
    scaled_object,
)
from spillway.core.model import (
    ForeignAutoscaler,
    ObjectKey,
    Pod,
    PodPhase,
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
        owner_kind="ReplicaSet",
        devices={"nvidia.com/gpu": 2},
        requests={"nvidia.com/gpu": 2, "pods": 1},
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


@pytest.mark.parametrize("kind", ["DaemonSet", "Job", "StatefulSet", "Node"])
def test_a_pod_without_gpus_is_kept_whoever_made_it(kind: str) -> None:
    raw = owned_by({"kind": kind, "controller": True, "uid": "x", "name": "owner"})
    raw["spec"]["containers"] = [{"resources": {"requests": {"cpu": "4"}}}]

    found = pod(raw)

    assert found is not None
    assert (found.owner_kind, found.gpus, found.requests) == (kind, 0, {"cpu": 4000, "pods": 1})


def test_a_foreign_pod_that_finished_is_not_kept() -> None:
    assert pod(owned_by(phase="Succeeded")) is None


def spec_of(**more: Any) -> Raw:  # noqa: ANN401 - fields of a pod spec
    raw = make_pod(READY)
    raw["spec"] |= more
    return raw


@pytest.mark.parametrize(
    ("volume", "kept"),
    [
        pytest.param({"hostPath": {"path": "/models"}}, ("v",), id="hostPath"),
        pytest.param({"emptyDir": {}}, ("v",), id="emptyDir on disk"),
        pytest.param({"emptyDir": {"medium": "Memory"}}, (), id="emptyDir in memory"),
        pytest.param({"persistentVolumeClaim": {"claimName": "c"}}, (), id="a claim"),
        pytest.param({"configMap": {"name": "c"}}, (), id="a ConfigMap"),
    ],
)
def test_volumes_that_a_move_would_lose_are_named(volume: Raw, kept: tuple[str, ...]) -> None:
    found = pod(spec_of(volumes=[{"name": "v", **volume}]))

    assert found is not None
    assert found.local_volumes == kept


def test_only_what_speaks_of_moving_a_pod_is_kept_of_its_labels_and_annotations() -> None:
    raw = make_pod(READY)
    raw["metadata"]["labels"] = {"app": "chat", "cluster.x-k8s.io/drain": "wait-completed"}
    raw["metadata"]["annotations"] = {
        "prometheus.io/scrape": "true",
        "karpenter.sh/do-not-disrupt": "30m",
        "controller.kubernetes.io/pod-deletion-cost": "-100",
    }

    found = pod(raw)

    assert found is not None
    assert found.hints == {
        "cluster.x-k8s.io/drain": "wait-completed",
        "karpenter.sh/do-not-disrupt": "30m",
        "controller.kubernetes.io/pod-deletion-cost": "-100",
    }


@pytest.mark.parametrize(
    ("raw", "seconds"),
    [
        pytest.param(make_pod(READY), 30, id="silent"),
        pytest.param(spec_of(terminationGracePeriodSeconds=600), 600, id="from the spec"),
        pytest.param(spec_of(terminationGracePeriodSeconds=0), 0, id="none at all"),
        pytest.param(
            make_pod(READY, deleted="2026-11-22T09:05:30Z")
            | {"spec": {"terminationGracePeriodSeconds": 600}},
            30,
            id="as its deletion grants",
        ),
    ],
)
def test_the_grace_of_a_pod_is_how_long_it_may_take_to_end(raw: Raw, seconds: int) -> None:
    found = pod(raw)

    assert found is not None
    assert found.grace == timedelta(seconds=seconds)


def test_pods_of_one_template_share_what_they_ask_for() -> None:
    asked = {"tolerations": [{"operator": "Exists"}], "nodeSelector": {"pool": "a"}, "priority": 7}

    one, other = pod(spec_of(**asked)), pod(spec_of(**asked))

    assert one is not None
    assert other is not None
    assert one.requests is other.requests
    assert one.constraints is other.constraints
    assert one.priority == 7


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
