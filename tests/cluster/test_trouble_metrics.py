"""Metrics that stop, lie or come in part: nothing shrinks, and the condition says which trouble and what to check."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from tests.cluster.client import JsonObject
from tests.cluster.controlplane import ControlPlane
from tests.cluster.exporter import Exporter, Fault
from tests.cluster.faults import Action, Answer, Cut, Drip, Hang, html_error
from tests.cluster.operator_chart import Helm
from tests.cluster.processes import wait_until
from tests.cluster.prometheus import Prometheus
from tests.cluster.scene import SECONDS, SHORT_WINDOWS, Scene, Workload, make_scene, played

FOUR_WANT_TWO = 1.2
# Longer than a reduction takes that nothing holds: the window of 4 s, the confirmation, and the steps between.
HOLD_SECONDS = 9.0
BLIND_SECONDS = 4.5  # the same for a window of 2 s
CROWD = 24  # busy workloads beside the broken ones, so that no circuit breaker does the holding for the thing under test
QUERY = r"/api/v1/query$"


# Exporters that fail, each in a namespace of its own, all at the same time


@dataclass(slots=True)
class Part:
    """A workload in the storm: which fault befalls it, and what was seen."""

    workload: Workload
    fault: Fault | None
    counts: set[int] = field(default_factory=set)
    condition: JsonObject = field(default_factory=dict)
    limits: list[str] = field(default_factory=list)


FAULTS = (Fault.VANISH, Fault.NAN, Fault.SENTINEL, Fault.FREEZE, Fault.HALF_MISSING, Fault.MISSING_POD_LABEL)
Storm = dict[Fault | None, Part]


@pytest.fixture(scope="module", autouse=True)
def both_schemas(exporter: Exporter) -> Iterator[None]:
    """Every second node speaks the names of dcgm-exporter 4.9 in all of these tests."""
    exporter.schema = "mixed"
    yield
    exporter.schema = "old"


@pytest.fixture(scope="module")
def stage(
    cluster: ControlPlane, exporter: Exporter, prometheus: Prometheus, helm: Helm, crds: list[str]
) -> Iterator[dict[Fault | None, Scene]]:
    """A scene for each fault, one without any, and a busy crowd, all under one operator."""
    with ExitStack() as stack:
        scenes: dict[Fault | None, Scene] = {
            fault: stack.enter_context(make_scene(cluster, exporter, nodes=2))
            for fault in (*FAULTS, Fault.PROF_ZERO)
        }
        scenes[None] = stack.enter_context(
            played(cluster, exporter, prometheus, helm, others=list(scenes.values()))
        )
        yield scenes


@pytest.fixture(scope="module")
def parts(stage: dict[Fault | None, Scene]) -> Storm:
    """The workloads, at four quiet replicas each."""
    # What profiling counters say is judged over minutes, so these lie from the start.
    stage[None].exporter.set_fault(Fault.PROF_ZERO, stage[Fault.PROF_ZERO].namespace)
    parts = {fault: Part(scene.workload(replicas=4), fault) for fault, scene in stage.items()}
    for number in range(CROWD):
        stage[None].workload(name=f"crowd-{number}", replicas=1)
    return parts


@pytest.fixture(scope="module")
def lone(
    cluster: ControlPlane, exporter: Exporter, prometheus: Prometheus, helm: Helm, crds: list[str]
) -> Iterator[Scene]:
    """A scene whose operator reaches Prometheus through a proxy; it looks after so few that no circuit breaker opens."""
    with played(cluster, exporter, prometheus, helm, through_proxies=True) as scene:
        yield scene


@pytest.fixture(scope="module")
def chat(lone: Scene) -> Workload:
    """The workload that loses Prometheus in every way."""
    rules = {**SHORT_WINDOWS["scaleDown"], "windowSeconds": 2}
    return lone.workload(replicas=4, scaleDown=rules, whenMetricsMissing={"afterSeconds": 600})


@pytest.fixture(scope="module")
def storm(parts: Storm, chat: Workload, exporter: Exporter) -> Storm:
    """Break every exporter while the load falls, watch for longer than any reduction takes, mend them."""
    for part in parts.values():
        part.workload.past_takeover()
        part.workload.decides("WithinBand", 20)
    _break(parts, exporter)
    end = time.monotonic() + HOLD_SECONDS
    while time.monotonic() < end:
        for part in parts.values():
            part.counts.add(part.workload.replicas)
    for part in parts.values():
        part.condition = part.workload.condition("MetricsAvailable")
        part.limits = part.workload.limits()
        exporter.set_fault(None, part.workload.namespace)
    return parts


def _break(parts: Storm, exporter: Exporter) -> None:
    for part in parts.values():
        exporter.set_fault(part.fault, part.workload.namespace)
        if part.fault is not Fault.FREEZE:
            part.workload.offer(FOUR_WANT_TWO)
    frozen = parts[Fault.FREEZE].workload
    frozen.offer(FOUR_WANT_TWO)


def test_a_workload_that_is_measured_well_shrinks_meanwhile(storm: Storm) -> None:
    storm[None].workload.reaches(2, seconds=5)


@pytest.mark.parametrize(
    ("fault", "status", "reason", "advice"),
    [
        pytest.param(
            Fault.VANISH, "False", "MetricsMissing", "Check that dcgm-exporter runs on their nodes",
            id="no series at all", marks=pytest.mark.case("workload-autoscalers D2"),
        ),
        pytest.param(
            Fault.NAN, "False", "MetricsOutOfRange", "Check the GPUs with nvidia-smi",
            id="NaN", marks=pytest.mark.case("workload-autoscalers D3"),
        ),
        pytest.param(
            Fault.SENTINEL, "False", "MetricsOutOfRange", "Check the GPUs with nvidia-smi",
            id="4294967295", marks=pytest.mark.case("metrics-and-cost E30"),
        ),
        pytest.param(
            Fault.FREEZE, "False", "MetricsFrozen", "Restart dcgm-exporter on their nodes",
            id="a frozen exporter", marks=pytest.mark.case("workload-autoscalers D8"),
        ),
        pytest.param(
            Fault.MISSING_POD_LABEL, "False", "MetricsMissing", "that its pod labels arrive",
            id="no pod labels", marks=pytest.mark.case("workload-autoscalers D11"),
        ),
        pytest.param(
            Fault.PROF_ZERO, "False", "MetricsContradictory", "re-arm profiling by restarting dcgm-exporter",
            id="profiling says zero", marks=pytest.mark.case("workload-autoscalers D7"),
        ),
        pytest.param(
            Fault.HALF_MISSING, "True", "MetricsPartial", "2 of 4 pods report GPU metrics",
            id="half of the pods", marks=pytest.mark.case("metrics-and-cost E41"),
        ),
    ],
)  # fmt: skip
def test_nothing_shrinks_on_metrics_that_cannot_be_trusted(
    storm: Storm, fault: Fault, status: str, reason: str, advice: str
) -> None:
    part = storm[fault]

    assert part.counts == {4}
    assert (part.condition["status"], part.condition["reason"]) == (status, reason)
    assert advice in part.condition["message"]
    assert "CircuitBreaker" not in part.limits


@pytest.mark.parametrize("fault", FAULTS)
def test_metrics_that_come_back_are_believed_again(storm: Storm, fault: Fault) -> None:
    storm[fault].workload.reaches(2)


# Many at once


@pytest.mark.case("workload-autoscalers D24")
def test_nothing_shrinks_anywhere_while_many_lose_their_metrics_at_once(
    storm: Storm, exporter: Exporter
) -> None:
    healthy, crowd = storm[Fault.VANISH].workload, storm[None].workload.namespace
    healthy.reaches(2)
    healthy.offer(1.2)
    exporter.set_fault(Fault.VANISH, crowd)
    wait_until(
        lambda: healthy.operator.metrics().count("spillway_circuit_breaker_open 1.0"),
        SECONDS,
        "the circuit breaker opens",
    )

    healthy.offer(0.1)

    healthy.decides("CircuitBreaker")
    healthy.stays(2, seconds=HOLD_SECONDS)


@pytest.mark.case("metrics-and-cost E3")
def test_both_dcgm_schemas_at_once_count_every_gpu_once(lone: Scene, chat: Workload) -> None:
    both = lone.workload(replicas=4)
    both.decides("WithinBand")

    both.until(
        lambda: both.decision()["signal"]["text"] == "0.60/0.80 100% cov", 15, "each GPU is counted once"
    )
    assert both.decision()["signal"]["message"] == "4 of 4 pods report GPU metrics"
    both.stays(4, seconds=3)
    lone.strike(keep=[chat.name])


def test_a_count_for_blind_times_is_raised_to_and_kept(
    lone: Scene, chat: Workload, exporter: Exporter
) -> None:
    floor = lone.workload(replicas=2, whenMetricsMissing={"afterSeconds": 2, "replicas": 5})
    floor.decides("WithinBand")

    exporter.set_fault(Fault.VANISH, lone.namespace)

    floor.reaches(5)
    floor.stays(5, seconds=2)
    exporter.set_fault(None, lone.namespace)
    lone.strike(keep=[chat.name])


# Prometheus that fails


def prometheus_says(document: JsonObject) -> Answer:
    return Answer(status=200, body=json.dumps(document).encode())


EMPTY = {"status": "success", "data": {"resultType": "vector", "result": []}}


# A condition keeps its sentence while its reason stands, so troubles of one reason do not follow each other here.
@pytest.mark.parametrize(
    ("action", "reason", "advice"),
    [
        pytest.param(
            prometheus_says({"status": "error", "error": "out of memory"}), "PrometheusError", "out of memory",
            id="an error in a 200",
        ),
        pytest.param(Answer(status=401), "PrometheusUnauthorized", "check prometheus.bearerTokenFile", id="401"),
        pytest.param(Answer(status=503), "PrometheusError", "check its load and limits", id="503"),
        pytest.param(
            prometheus_says({**EMPTY, "warnings": ["store-1 is down"]}), "PrometheusPartialAnswer",
            "store-1 is down", id="a part of the stores",
        ),
        pytest.param(html_error(200), "PrometheusError", "whether a login page", id="a page in a 200"),
        pytest.param(
            prometheus_says(EMPTY), "PrometheusPartialAnswer", "lacks the part that is always there",
            id="an empty vector",
        ),
        pytest.param(Drip(bytes_per_second=30), "PrometheusTimeout", "did not answer within 2.0 s", id="a drip"),
        pytest.param(Cut(after_bytes=100), "PrometheusError", "broke off", id="half an answer"),
        pytest.param(Hang(), "PrometheusTimeout", "did not answer within 2.0 s", id="silence"),
    ],
)  # fmt: skip
@pytest.mark.case("workload-autoscalers D1")
def test_nothing_shrinks_while_prometheus_fails(
    lone: Scene, chat: Workload, action: Action, reason: str, advice: str
) -> None:
    chat.past_takeover()
    lone.operator.prometheus.add(action, path=QUERY)
    chat.offer(FOUR_WANT_TWO)

    condition = chat.says("MetricsAvailable", "False", reason)

    assert advice in condition["message"]
    chat.stays(4, seconds=BLIND_SECONDS)


def test_nothing_shrinks_while_prometheus_is_gone_and_all_goes_on_when_it_is_back(
    lone: Scene, chat: Workload, prometheus: Prometheus
) -> None:
    chat.past_takeover()
    prometheus.stop()
    try:
        chat.offer(FOUR_WANT_TWO)
        lone.operator.prometheus.clear()
        lone.operator.prometheus.cut_open()
        condition = chat.says("MetricsAvailable", "False", "PrometheusUnreachable")
        assert "check prometheus.url" in condition["message"]
        chat.stays(4, seconds=BLIND_SECONDS)
        assert lone.operator.is_healthy()
    finally:
        prometheus.start()

    chat.reaches(2)
    chat.says("MetricsAvailable", "True", "MetricsFresh")
