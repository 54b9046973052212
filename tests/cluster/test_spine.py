"""The spine: a GpuWorkload scales a Deployment from real DCGM series on a real control plane, and says why."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from spillway.api import names
from tests.cluster.controlplane import ControlPlane
from tests.cluster.exporter import Exporter
from tests.cluster.metrics_api import MetricsApi
from tests.cluster.operator_chart import Helm
from tests.cluster.operator_process import PROGRAM
from tests.cluster.prometheus import Prometheus
from tests.cluster.scene import SHORT_WINDOWS, Scene, Workload, played

MakePolicy = Callable[..., None]

# 3.6 replicas' worth on 4 replicas is 90 %: ceil(4 * .9 / .8) = 5, which then run at 72 %.
FOUR_WANT_FIVE = 3.6
# 1.1 replicas' worth on 4 is 27 %, on 3 37 %: 2 would run at 55 %, 1 could not carry it.
FOUR_WANT_TWO = 1.1


@pytest.fixture(scope="module")
def scene(
    cluster: ControlPlane, exporter: Exporter, prometheus: Prometheus, helm: Helm, crds: list[str]
) -> Iterator[Scene]:
    with played(cluster, exporter, prometheus, helm) as scene:
        yield scene


@pytest.fixture(scope="module", autouse=True)
def elders(scene: Scene) -> dict[str, Workload]:
    """Workloads that the operator knows for long enough to shrink them by the time their tests come."""
    return {
        "falling": scene.workload(replicas=4),
        "never down": scene.workload(replicas=4, mode="ScaleUpOnly"),
        "without its policy": scene.workload(replicas=4, policyRef={"name": "nowhere"}),
        "above its guardrail": scene.workload(replicas=4, name="guarded"),
        "bystander": scene.workload(replicas=4),
    }


@pytest.fixture(autouse=True)
def alone(scene: Scene, elders: dict[str, Workload]) -> Iterator[None]:
    """Clear the scene of what the test made: the next one wants the GPUs."""
    yield
    scene.strike(keep=[elder.name for elder in elders.values()])


@pytest.fixture
def policy(cluster: ControlPlane, scene: Scene) -> Iterator[MakePolicy]:
    """Makes GpuPolicies that end with the test."""
    made = []

    def apply(name: str, **spec: Any) -> None:  # noqa: ANN401 - any JSON
        full = f"{scene.namespace}-{name}"
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.POLICY_KIND,
            "metadata": {"name": full},
            "spec": spec,
        }
        made.append(cluster.client.path_of(cluster.client.apply(body)))

    yield apply
    for path in made:
        cluster.client.delete(path)


def here(scene: Scene) -> dict[str, Any]:
    """Return the selector of the scene's namespace."""
    return {"matchLabels": {"kubernetes.io/metadata.name": scene.namespace}}


def spillway(*args: str) -> str:
    """Run the command line as a user does and return what it prints."""
    done = subprocess.run([PROGRAM, *args], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Growing


def test_busy_gpus_get_the_replicas_that_their_load_needs(scene: Scene) -> None:
    chat = scene.workload(replicas=4, maxReplicas=5)

    chat.offer(FOUR_WANT_FIVE)

    chat.reaches(5)
    scene.cluster.wait_ready_replicas(scene.namespace, chat.name, 5)


def test_two_lines_of_spec_are_enough(scene: Scene, policy: MakePolicy) -> None:
    policy("short", namespaceSelector=here(scene), defaults=dict(SHORT_WINDOWS))
    scene.deployment("two-lines", replicas=4, demand=FOUR_WANT_FIVE)

    chat = scene.adopt("two-lines", short=False, maxReplicas=5)

    chat.reaches(5)
    assert chat.stored["spec"] == {
        "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "two-lines"},
        "maxReplicas": 5,
    }


def test_a_burst_that_pegs_every_gpu_grows_step_by_step_and_settles(scene: Scene) -> None:
    chat = scene.workload(replicas=1, maxReplicas=6)

    chat.offer(3)

    chat.grows_to(4)
    scene.cluster.wait_ready_replicas(scene.namespace, chat.name, chat.replicas)


def test_growth_ends_at_the_maximum_and_says_so(scene: Scene) -> None:
    chat = scene.workload(replicas=2, maxReplicas=3, demand=9)

    chat.reaches(3)

    assert "maxReplicas is 3" in chat.says("ScalingLimited", "True", "MaxReplicas")["message"]


def test_a_guardrail_stops_the_growth_of_a_workload_at_its_gpus(scene: Scene, policy: MakePolicy) -> None:
    policy("rail", namespaceSelector=here(scene), guardrails={"maxGpusPerWorkload": 6})
    chat = scene.workload(replicas=2, demand=8, deployment={"gpus": 2})

    chat.reaches(3)

    assert "maxGpusPerWorkload 6" in chat.says("ScalingLimited", "True", "GpuLimitWorkload")["message"]
    chat.stays(3, seconds=2)


@pytest.mark.case("workload-autoscalers D71")
def test_two_workloads_never_exceed_the_gpus_of_their_namespace(scene: Scene, policy: MakePolicy) -> None:
    standing = sum(d["spec"]["replicas"] * _gpus(d) for d in _deployments(scene))
    policy("rail", namespaceSelector=here(scene), guardrails={"maxGpusPerNamespace": standing + 5})
    chat = scene.workload(name="first", replicas=2, demand=8)
    code = scene.workload(name="second", replicas=2, demand=8)

    chat.until(lambda: chat.replicas + code.replicas == 5, 45, "one of them gets the last GPU")

    chat.watch(lambda: chat.replicas + code.replicas == 5, 3, "the budget is kept")
    # Which of them gets it is the core's to say; here either may have watched its load for longer.
    chat.until(
        lambda: any("GpuLimitNamespace" in workload.limits() for workload in (chat, code)),
        45,
        "the limit is named",
    )


def _deployments(scene: Scene) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = scene.cluster.client.get(
        f"/apis/apps/v1/namespaces/{scene.namespace}/deployments"
    )["items"]
    return found


def _gpus(deployment: dict[str, Any]) -> int:
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    return int(container.get("resources", {}).get("limits", {}).get("nvidia.com/gpu", 0))


# Saying why


def test_status_tells_the_count_the_signal_and_the_decision(scene: Scene) -> None:
    chat = scene.workload(replicas=4, demand=FOUR_WANT_FIVE, maxReplicas=5)

    chat.reaches(5)

    status = chat.until(
        lambda: chat.status if chat.status.get("readyReplicas") == 5 else None, 30, "5 ready in status"
    )
    assert (status["replicas"], status["desiredReplicas"], status["mode"]) == (5, 5, "Enforce")
    assert (status["target"], status["selector"]) == (f"Deployment/{chat.name}", f"app={chat.name}")
    assert status["observedGeneration"] == 1
    assert "lastScaleTime" in status
    grown = [record for record in status["decisions"] if (record["from"], record["to"]) == (4, 5)]
    assert grown[0]["reason"] == "UtilizationHigh"
    assert "is above 80%: 4 ready replicas need 5" in grown[0]["message"]


def test_a_healthy_workload_is_ready_in_every_condition(scene: Scene) -> None:
    chat = scene.workload(replicas=2)

    chat.says("MetricsAvailable", "True", "MetricsFresh")

    chat.says("Ready", "True", "Operating")
    chat.says("ScalingActive", "True", "Active")
    chat.says("CapacityAvailable", "True", "AllScheduled")
    chat.says("Conflict", "False", "NoConflict")


def test_every_write_of_replicas_is_an_event_with_its_reason(scene: Scene) -> None:
    chat = scene.workload(replicas=4, demand=FOUR_WANT_FIVE, maxReplicas=5)

    chat.reaches(5)

    event = chat.until(lambda: chat.events("ScaledUp"), 15, "an Event tells of it")[0]
    assert event["message"].startswith(f"{chat.name}: 4 → 5 replicas. GPU utilization 9")


def test_kubectl_get_shows_the_decision_in_columns(scene: Scene) -> None:
    chat = scene.workload(replicas=2)
    chat.says("MetricsAvailable", "True", "MetricsFresh")
    # A hold that only changed its limiter is stored once a minute at most.
    chat.until(lambda: chat.status.get("reason") == "WithinBand", 80, "the decision is stored")

    table = scene.cluster.kubectl("-n", scene.namespace, "get", "gpuw", chat.name, "-o", "wide")

    header, row = (line.split() for line in table.splitlines())
    assert {"NAME", "TARGET", "MODE"} <= set(header)
    assert {chat.name, f"Deployment/{chat.name}", "Enforce", "WithinBand"} <= set(row)


def test_explain_tells_signal_proposal_limits_and_where_settings_came_from(scene: Scene) -> None:
    chat = scene.workload(replicas=2, maxReplicas=3, demand=9)
    chat.reaches(3)
    chat.until(
        lambda: chat.decision()["replicas"]["settled"] == 3 and "MaxReplicas" in chat.limits(),
        30,
        "the maximum limits what three settled replicas ask for",
    )

    text = spillway("explain", chat.name, "-n", scene.namespace, "--operator-url", scene.operator.url)

    assert f"{scene.namespace}/{chat.name} → Deployment/{chat.name}" in text
    assert "1.00/0.80 100% cov, Fresh" in text
    assert "maxReplicas is 3" in text
    assert "scaleUp.windowSeconds" in text


def test_explain_falls_back_on_status_and_says_so(scene: Scene, elders: dict[str, Workload]) -> None:
    chat = elders["bystander"]

    text = spillway(
        "explain", chat.name, "-n", scene.namespace, "--kubeconfig", str(scene.cluster.kubeconfig)
    )

    assert text.startswith("The operator cannot be asked (")
    assert "MetricsAvailable   True     MetricsFresh" in text


def test_explain_in_json_is_the_live_decision(scene: Scene, elders: dict[str, Workload]) -> None:
    chat = elders["bystander"]

    text = spillway(
        "explain", chat.name, "-n", scene.namespace, "--operator-url", scene.operator.url, "-o", "json"
    )

    assert json.loads(text).keys() == chat.decision().keys()


# Who else may say how many


def test_kubectl_scale_pins_the_count(scene: Scene) -> None:
    chat = scene.workload(replicas=2, minReplicas=2, maxReplicas=6)
    chat.says("Ready", "True")

    scene.cluster.kubectl("-n", scene.namespace, "scale", "gpuworkload", chat.name, "--replicas=5")

    chat.reaches(5)
    chat.says("ScalingActive", "True", "Pinned")


def test_a_pin_beyond_the_maximum_is_clamped_and_says_so(scene: Scene) -> None:
    chat = scene.workload(replicas=2, maxReplicas=3)
    chat.says("Ready", "True")

    chat.patch(replicas=20)

    chat.reaches(3)
    chat.says("ScalingLimited", "True", "MaxReplicas")


def test_a_lowered_pin_shrinks_at_once_whatever_the_load(scene: Scene) -> None:
    chat = scene.workload(replicas=4, demand=3.9, mode="Observe")
    chat.says("Ready", "True")

    chat.patch(replicas=2, mode="Enforce")

    chat.reaches(2, seconds=20)


def test_removing_the_pin_returns_control_to_the_signals(scene: Scene) -> None:
    chat = scene.workload(replicas=4, demand=FOUR_WANT_FIVE, mode="Observe", maxReplicas=5)
    chat.patch(replicas=4, mode="Enforce")
    chat.says("ScalingActive", "True", "Pinned")

    chat.patch(replicas=None)

    chat.reaches(5)


def test_a_real_hpa_drives_the_count_through_the_scale_subresource(scene: Scene) -> None:
    cluster = scene.cluster
    chat = scene.workload(replicas=2, demand=0)
    chat.patch(replicas=2)
    chat.until(lambda: chat.status.get("selector"), 20, "the scale subresource has its selector")

    with MetricsApi(
        scene.namespace, value=6, cert_file=cluster.cert_file, key_file=cluster.key_file
    ) as metrics:
        metrics.register(cluster.client)
        cluster.client.apply(_hpa(scene.namespace, chat.name))

        chat.reaches(3)

        chat.says("Conflict", "False")
        cluster.client.delete(
            f"/apis/autoscaling/v2/namespaces/{scene.namespace}/horizontalpodautoscalers/{chat.name}"
        )


def test_an_hpa_without_a_first_count_is_told_how_to_set_it(scene: Scene) -> None:
    chat = scene.workload(replicas=2)

    scene.cluster.client.apply(_hpa(scene.namespace, chat.name))

    message = chat.says("Conflict", "True", "ScaleUnset")["message"]
    assert f"patch gpuworkload {chat.name}" in message


def _hpa(namespace: str, name: str) -> dict[str, Any]:
    """Return an HPA on a GpuWorkload: a queue of 6 at 2 a replica is 3 replicas."""
    target = {"type": "AverageValue", "averageValue": "2"}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "scaleTargetRef": {"apiVersion": names.API_VERSION, "kind": names.WORKLOAD_KIND, "name": name},
            "maxReplicas": 8,
            "metrics": [{"type": "External", "external": {"metric": {"name": "queue"}, "target": target}}],
        },
    }


@pytest.mark.case("workload-autoscalers D89")
def test_a_paused_workload_is_decided_but_not_scaled_until_it_goes_on(scene: Scene) -> None:
    chat = scene.workload(replicas=4, maxReplicas=5)
    chat.annotate(paused="true")
    chat.says("ScalingActive", "False", "Paused")

    chat.offer(FOUR_WANT_FIVE)
    chat.until(lambda: chat.decision().get("desired") == 5, 30, "the live decision wants 5")
    chat.stays(4, seconds=2)
    chat.annotate(paused=None)

    chat.reaches(5)


# Shrinking; by now the operator has watched the elders for long enough


def test_idle_gpus_are_given_back_down_to_what_the_load_needs(elders: dict[str, Workload]) -> None:
    chat = elders["falling"]

    chat.offer(FOUR_WANT_TWO)

    chat.shrinks_to(2)
    chat.stays(2, seconds=3)
    chat.until(lambda: chat.events("ScaledDown"), 15, "an Event tells of it")


def test_scale_up_only_never_shrinks(elders: dict[str, Workload]) -> None:
    chat = elders["never down"]
    chat.past_takeover()

    chat.offer(FOUR_WANT_TWO)

    chat.says("ScalingLimited", "True", "ScaleUpOnly")
    chat.stays(4, seconds=4)


def test_a_missing_policy_is_named_and_nothing_shrinks(elders: dict[str, Workload]) -> None:
    chat = elders["without its policy"]
    chat.past_takeover()
    assert "nowhere" in chat.says("Ready", "False", "PolicyNotFound")["message"]

    chat.offer(FOUR_WANT_TWO)

    chat.decides("PolicyNotFound")
    chat.stays(4, seconds=4)


def test_a_guardrail_below_what_stands_shrinks_nothing(
    scene: Scene, elders: dict[str, Workload], policy: MakePolicy
) -> None:
    chat = elders["above its guardrail"]
    chat.past_takeover()

    policy("rail", namespaceSelector=here(scene), guardrails={"maxGpusPerWorkload": 2})

    chat.stays(4, seconds=4)


@pytest.mark.case("workload-autoscalers D82")
def test_deleting_a_gpuworkload_leaves_its_deployment_at_its_count(elders: dict[str, Workload]) -> None:
    chat = elders["above its guardrail"]
    chat.past_takeover()
    chat.offer(FOUR_WANT_TWO)

    chat.delete()

    chat.until(lambda: not chat.decision(), 20, "the operator has let go of it")
    chat.stays(4, seconds=6)
