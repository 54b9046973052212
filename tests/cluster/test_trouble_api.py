"""Trouble on the side of Kubernetes: a server that goes, lies or refuses, targets that vanish, pods that do not come up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from spillway.api import names
from tests.cluster.client import ApiError, JsonObject
from tests.cluster.controlplane import ControlPlane
from tests.cluster.exporter import Exporter
from tests.cluster.faults import Action, Delay, kube_error
from tests.cluster.operator_chart import Helm, InstallChart
from tests.cluster.operator_process import StartOperator
from tests.cluster.processes import wait_until
from tests.cluster.prometheus import Prometheus
from tests.cluster.scene import SHORT_WINDOWS, Scene, Workload, played

SCALE = r"/deployments/[^/]+/scale"
WATCH = r"[?&]watch="
ELDERS_WINDOW_SECONDS = 8
FOUR_WANT_FIVE = 3.6
FOUR_WANT_TWO = 1.2
# What an operator may write where it may change nothing.
REPORTS = {("gpuworkloads", "status"), ("gpupolicies", "status"), ("events", ""), ("leases", "")}


@pytest.fixture(scope="module")
def scene(
    cluster: ControlPlane, exporter: Exporter, prometheus: Prometheus, helm: Helm, crds: list[str]
) -> Iterator[Scene]:
    with played(
        cluster, exporter, prometheus, helm, settings={"cacheMaxAgeSeconds": 8}, through_proxies=True
    ) as scene:
        yield scene


@pytest.fixture(scope="module", autouse=True)
def elder(scene: Scene) -> Workload:
    """Known to the operator for long enough to be shrunk when its tests come."""
    rules = {**SHORT_WINDOWS["scaleDown"], "windowSeconds": ELDERS_WINDOW_SECONDS}
    return scene.workload(replicas=4, scaleDown=rules)


@pytest.fixture(autouse=True)
def alone(scene: Scene, elder: Workload) -> Iterator[None]:
    yield
    scene.operator.api.clear()
    scene.strike(keep=[elder.name])


# Requests that fail


@pytest.mark.case("workload-autoscalers D79")
def test_cut_watches_are_opened_again_and_miss_nothing(scene: Scene) -> None:
    chat = scene.workload(replicas=4, maxReplicas=5)
    chat.decides("WithinBand")

    assert scene.operator.api.cut_open(WATCH) > 5
    chat.offer(FOUR_WANT_FIVE)

    chat.reaches(5)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(kube_error(410, "Expired", "too old resource version"), id="410"),
        pytest.param(kube_error(429, "TooManyRequests", retry_after_seconds=1), id="429"),
    ],
)
@pytest.mark.case("workload-autoscalers D79")
def test_watches_that_are_refused_for_a_while_end_in_the_right_count(scene: Scene, answer: Action) -> None:
    chat = scene.workload(replicas=4, maxReplicas=5)
    chat.decides("WithinBand")
    refused = scene.operator.api.add(answer, method="GET", path=WATCH, times=10)

    scene.operator.api.cut_open(WATCH)
    chat.until(lambda: refused.hits == 10, 30, "ten watches were refused")
    chat.offer(FOUR_WANT_FIVE)

    chat.reaches(5)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(kube_error(409, "Conflict", "the object has been modified"), id="409"),
        pytest.param(kube_error(422, "Invalid", "the server rejected our request"), id="422"),
        pytest.param(kube_error(429, "TooManyRequests", retry_after_seconds=1), id="429"),
    ],
)
@pytest.mark.case("workload-autoscalers D77")
def test_a_refused_write_is_told_and_decided_again(scene: Scene, answer: Action) -> None:
    chat = scene.workload(replicas=4, maxReplicas=5)
    mark = scene.cluster.audit_mark()
    scene.operator.api.add(answer, method="PATCH", path=SCALE, times=1)

    chat.offer(FOUR_WANT_FIVE)

    chat.reaches(5)
    assert chat.writes(mark) == [5]
    event = chat.until(lambda: chat.events("ScaleFailed"), 15, "an Event tells of the refusal")[0]
    assert "4 → 5 replicas was refused" in event["message"]


@pytest.mark.case("workload-autoscalers D76")
def test_a_person_who_is_faster_than_a_write_wins(scene: Scene) -> None:
    chat = scene.workload(replicas=4, maxReplicas=5)
    chat.decides("WithinBand")
    mark = scene.cluster.audit_mark()
    slow = scene.operator.api.add(Delay(1.5), method="PATCH", path=SCALE, times=1)

    chat.offer(FOUR_WANT_FIVE)
    chat.until(lambda: slow.hits, 30, "a write is on its way")
    chat.scale_target(6)

    refused = chat.until(
        lambda: [
            e
            for e in scene.operator.writes(mark, resource="deployments")
            if e["responseStatus"]["code"] == 422
        ],
        15,
        "the server refuses the write",
    )
    assert refused
    chat.stays(6, seconds=3)
    assert chat.writes(mark) == []


@pytest.mark.case("workload-autoscalers D74")
def test_a_deployment_deleted_and_made_anew_under_a_write_is_not_touched_by_it(scene: Scene) -> None:
    chat = scene.workload(replicas=4, maxReplicas=5)
    chat.decides("WithinBand")
    mark = scene.cluster.audit_mark()
    slow = scene.operator.api.add(Delay(1.5), method="PATCH", path=SCALE, times=1)

    chat.offer(FOUR_WANT_FIVE)
    chat.until(lambda: slow.hits, 30, "a write is on its way")
    scene.cluster.client.delete(chat.target_path, propagationPolicy="Background")
    scene.deployment(chat.name, replicas=4)

    chat.until(
        lambda: [
            e
            for e in scene.operator.writes(mark, resource="deployments")
            if e["responseStatus"]["code"] == 422
        ],
        15,
        "the server refuses the write",
    )
    chat.stays(4, seconds=2)
    assert chat.writes(mark) == []


def test_a_gpuworkload_deleted_under_a_write_harms_no_other(scene: Scene) -> None:
    gone = scene.workload(replicas=4, maxReplicas=5)
    chat = scene.workload(replicas=4, maxReplicas=5)
    for workload in (gone, chat):
        workload.decides("WithinBand")
    slow = scene.operator.api.add(Delay(1), method="PATCH", path=f"/{gone.name}/scale", times=1)

    gone.offer(FOUR_WANT_FIVE)
    gone.until(lambda: slow.hits, 30, "a write is on its way")
    gone.delete()
    chat.offer(FOUR_WANT_FIVE)

    chat.reaches(5)
    assert "a pass failed" not in scene.operator.log()


# Targets


@pytest.mark.case("workload-autoscalers D74")
def test_a_missing_target_is_named_and_taken_up_when_it_comes(scene: Scene) -> None:
    chat = scene.adopt("not-there-yet", maxReplicas=5)
    message = chat.says("Ready", "False", "TargetNotFound")["message"]
    assert f"Deployment not-there-yet does not exist in namespace {scene.namespace}" in message

    scene.deployment("not-there-yet", replicas=4, demand=FOUR_WANT_FIVE)

    chat.reaches(5)
    chat.says("Ready", "True", "Operating")


def test_a_target_that_asks_for_no_gpu_is_told_what_to_add(scene: Scene) -> None:
    chat = scene.workload(replicas=2, deployment={"gpus": 0})

    message = chat.says("Ready", "False", "TargetRequestsNoGpu")["message"]

    assert f"{chat.name} requests no nvidia.com/gpu; GPU activity cannot be attributed" in message
    assert chat.replicas == 2


@pytest.mark.case("workload-autoscalers D75")
def test_of_two_gpuworkloads_on_one_target_the_older_goes_on(scene: Scene) -> None:
    older = scene.workload(name="older", replicas=4, maxReplicas=5)
    older.decides("WithinBand")
    time.sleep(1.1)  # creation times count in seconds
    younger = scene.adopt("older", name="another", maxReplicas=8, minReplicas=7)

    message = younger.says("Conflict", "True", "DuplicateWorkload")["message"]
    assert "GpuWorkload older is older" in message
    older.offer(FOUR_WANT_FIVE)

    older.reaches(5)
    older.stays(5, seconds=2)
    older.says("Conflict", "False")


@pytest.mark.case("workload-autoscalers D75")
def test_nothing_is_written_while_an_hpa_scales_the_target(scene: Scene) -> None:
    chat = scene.workload(replicas=4, maxReplicas=5)
    hpa = scene.cluster.client.apply(_hpa_on(scene, chat.name))

    message = chat.says("Conflict", "True", "HpaOnTarget")["message"]
    assert f"HorizontalPodAutoscaler {chat.name} also scales Deployment {chat.name}" in message
    chat.offer(FOUR_WANT_FIVE)
    chat.until(lambda: chat.decision().get("desired") == 5, 30, "5 would be right")
    chat.stays(4, seconds=2)
    scene.cluster.client.delete(scene.cluster.client.path_of(hpa))

    chat.reaches(5)


def _hpa_on(scene: Scene, name: str) -> JsonObject:
    target = {"type": "AverageValue", "averageValue": "2"}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": scene.namespace},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "maxReplicas": 8,
            "metrics": [{"type": "External", "external": {"metric": {"name": "none"}, "target": target}}],
        },
    }


@pytest.mark.case("workload-autoscalers D88")
def test_a_target_that_a_person_set_to_zero_stays_there(scene: Scene) -> None:
    chat = scene.workload(replicas=2)
    chat.decides("WithinBand")

    chat.scale_target(0)

    assert (
        "set to 0 replicas by somebody else" in chat.says("ScalingActive", "False", "ScaledToZero")["message"]
    )
    chat.stays(0, seconds=3)


# Pods that do not come


@pytest.fixture
def two_gpus(scene: Scene) -> Iterator[JsonObject]:
    """A node with two GPUs, and the pod spec that leads there and nowhere else."""
    name = f"{scene.namespace}-small"
    scene.cluster.make_gpu_node(name, gpus=2, labels={"spillway-test.dev/small": scene.namespace})
    yield {"nodeSelector": {"spillway-test.dev/small": scene.namespace}}
    scene.cluster.delete_node(name)


@pytest.mark.case("workload-autoscalers D31")
def test_a_full_cluster_is_asked_once_and_let_go_when_the_load_falls(
    scene: Scene, two_gpus: JsonObject
) -> None:
    chat = scene.workload(replicas=2, demand=8, deployment={"pod_spec": two_gpus})

    chat.reaches(3)
    assert (
        "Insufficient nvidia.com/gpu" in chat.says("CapacityAvailable", "False", "Unschedulable")["message"]
    )
    chat.stays(3, seconds=4)
    chat.offer(1.0)

    chat.reaches(2, seconds=25)


@pytest.mark.case("workload-autoscalers D46")
def test_a_revision_that_crashes_is_not_grown(scene: Scene) -> None:
    chat = scene.workload(replicas=4)
    chat.decides("WithinBand")

    roll_out(scene, chat, labels={"spillway-test.dev/crash": "true"})
    message = chat.says("CapacityAvailable", "False", "RevisionBroken")["message"]
    assert "CrashLoopBackOff" in message
    chat.offer(FOUR_WANT_FIVE)

    chat.decides("RevisionBroken")
    chat.stays(4, seconds=4)


@pytest.mark.case("workload-autoscalers D48")
def test_a_rollout_in_a_burst_counts_no_surge_pods_and_shrinks_nothing(scene: Scene) -> None:
    chat = scene.workload(replicas=4, maxReplicas=5, deployment={"ready_after": "1s"})
    chat.decides("WithinBand")
    mark = scene.cluster.audit_mark()

    roll_out(scene, chat, surge="100%", annotations={"restarted": "now"})
    chat.offer(FOUR_WANT_FIVE)

    chat.reaches(5)
    scene.cluster.wait_ready_replicas(scene.namespace, chat.name, 5)
    chat.stays(5, seconds=2)
    assert chat.writes(mark) == [5]


def roll_out(scene: Scene, workload: Workload, *, surge: str = "25%", **metadata: Any) -> None:  # noqa: ANN401
    """Change the pod template of *workload*'s Deployment."""
    strategy = {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": 0}}
    spec = {"strategy": strategy, "template": {"metadata": metadata}}
    scene.cluster.client.patch(workload.target_path, {"spec": spec}, kind="strategic")


# What may be written


@pytest.mark.case("workload-autoscalers D41")
def test_in_observe_only_status_events_and_the_lease_are_written(scene: Scene) -> None:
    mark = scene.cluster.audit_mark()
    scene.operator.set_fleet_mode("Observe")
    try:
        chat = scene.workload(replicas=4, maxReplicas=5, demand=FOUR_WANT_FIVE)

        chat.says("ScalingActive", "False", "ObserveOnly")
        chat.until(
            lambda: chat.status.get("desiredReplicas") == 5, 30, "status tells what it would have done"
        )

        chat.stays(4, seconds=3)
        written = {
            (event["objectRef"]["resource"], event["objectRef"].get("subresource", ""))
            for event in scene.operator.writes(mark)
        }
        assert written <= REPORTS
        assert {("gpuworkloads", "status"), ("leases", "")} <= written
    finally:
        scene.operator.set_fleet_mode("Enforce")
    chat.reaches(5)


def test_a_workload_in_observe_is_left_alone_while_others_are_scaled(scene: Scene) -> None:
    shown = scene.workload(replicas=4, maxReplicas=5, demand=FOUR_WANT_FIVE, mode="Observe")
    chat = scene.workload(replicas=4, maxReplicas=5, demand=FOUR_WANT_FIVE)

    chat.reaches(5)
    shown.until(lambda: shown.status.get("desiredReplicas") == 5, 30, "status tells what it would have done")

    assert shown.replicas == 4


@contextmanager
def lax_schema(cluster: ControlPlane) -> Iterator[None]:
    """Let the server take any GpuWorkload, as before a rule was added."""
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{names.WORKLOAD_PLURAL}.{names.GROUP}"
    strict = cluster.client.get(path)["spec"]["versions"][0]["schema"]
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    replace_schema(cluster, path, {"openAPIV3Schema": anything})
    try:
        yield
    finally:
        replace_schema(cluster, path, strict)


def replace_schema(cluster: ControlPlane, path: str, schema: JsonObject) -> None:
    change = {"op": "replace", "path": "/spec/versions/0/schema", "value": schema}
    cluster.client.patch(path, [change], kind="json")


@pytest.mark.case("workload-autoscalers D81")
def test_an_invalid_object_from_an_older_schema_is_named_and_the_others_go_on(scene: Scene) -> None:
    chat = scene.workload(replicas=4, maxReplicas=5)
    scene.deployment("odd", replicas=2)
    with lax_schema(scene.cluster):

        def accepted() -> Workload | None:
            try:
                return scene.adopt("odd", maxReplicas=3, minReplicas=9)
            except ApiError:
                return None

        odd = wait_until(accepted, 20, "the server takes an invalid object")

    message = odd.says("Ready", "False", "Invalid")["message"]
    assert "minReplicas" in message
    chat.offer(FOUR_WANT_FIVE)
    chat.reaches(5)
    assert odd.replicas == 2


# People; by now the operator has watched the elder for long enough


@pytest.mark.case("workload-autoscalers D76")
def test_a_count_set_by_a_person_stands_for_a_full_window(elder: Workload) -> None:
    elder.past_takeover()
    elder.offer(FOUR_WANT_TWO)
    elder.scale_target(6)

    elder.stays(6, seconds=ELDERS_WINDOW_SECONDS)

    elder.until(lambda: elder.replicas < 6, 30, "what is not needed is given back afterwards")


# The server goes


@pytest.mark.case("workload-autoscalers D79")
def test_while_the_api_server_is_away_it_waits_healthy_and_goes_on_afterwards(scene: Scene) -> None:
    cluster, operator = scene.cluster, scene.operator
    chat = scene.workload(replicas=4, maxReplicas=5)
    idle = scene.workload(replicas=4)
    for workload in (chat, idle):
        workload.decides("WithinBand")
    mark = cluster.audit_mark()

    cluster.stop_apiserver()
    try:
        chat.offer(FOUR_WANT_FIVE)
        idle.offer(FOUR_WANT_TWO)
        operator.until(
            lambda: operator.decision(scene.namespace, chat.name) is None, 40, "it decides no longer"
        )
        assert operator.is_healthy()
    finally:
        cluster.start_apiserver()

    chat.reaches(5)
    idle.stays(4, seconds=4)
    assert chat.writes(mark) == [5]
    assert "a pass failed" not in operator.log()


def test_a_namespace_with_gpuworkloads_goes_when_the_operator_is_dead(
    scene: Scene, namespace: str, install_chart: InstallChart, start_operator: StartOperator
) -> None:
    chart = install_chart(scene.namespace, settings={"watchNamespaces": [namespace]})
    operator = start_operator(chart)
    scene.cluster.make_deployment(namespace, "llm", pod_spec=scene.pod_spec)
    body = {
        "apiVersion": names.API_VERSION,
        "kind": names.WORKLOAD_KIND,
        "metadata": {"name": "llm", "namespace": namespace},
        "spec": {"targetRef": {"name": "llm"}, "maxReplicas": 3},
    }
    stored = scene.cluster.client.path_of(scene.cluster.client.apply(body))
    operator.until(lambda: scene.cluster.client.get(stored).get("status"), 45, "the operator looks after it")
    operator.kill()

    scene.cluster.client.delete(f"/api/v1/namespaces/{namespace}")

    wait_until(
        lambda: scene.cluster.client.find(f"/api/v1/namespaces/{namespace}") is None, 60, "the namespace goes"
    )
