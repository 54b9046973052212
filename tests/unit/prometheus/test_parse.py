"""What becomes of an answer; `activity.json` was recorded from a real Prometheus 3.11 over a cluster with every oddity."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from spillway.adapters.prometheus.failures import PrometheusFailure
from spillway.adapters.prometheus.parse import parse_activity, parse_history, parse_time
from spillway.core.signal import Collected, DeviceSample, Liveness, SignalReason

RECORDED = json.loads(Path(__file__).with_name("activity.json").read_text())["data"]["result"]
SECONDS = 1780003600
AT = datetime.fromtimestamp(SECONDS, UTC)

Element = dict[str, Any]


def element(part: str, value: object, **labels: str) -> Element:
    named = {"wl_namespace": "team", "wl_pod": "chat-1", "UUID": "GPU-a"} | labels
    return {"metric": {"part": part} | named, "value": [SECONDS, value]}


def parsed(*elements: object) -> Collected:
    return parse_activity([*elements, {"metric": {"part": "evaluated"}, "value": [SECONDS, str(SECONDS)]}])


def only_sample(collected: Collected) -> DeviceSample:
    ((sample,),) = collected.pods.values()
    return sample


def test_a_recorded_answer_becomes_samples_by_pod() -> None:
    def fresh(device: str, mean: float, liveness: Liveness, *, disagrees: bool = False) -> DeviceSample:
        return DeviceSample(device=device, mean=mean, sampled_at=AT, liveness=liveness, disagrees=disagrees)

    assert parse_activity(RECORDED) == Collected(
        at=AT,
        pods={
            ("gpu-operator", "dcgm-xyz"): (fresh("GPU-free/", 0.0, Liveness.ABSENT),),
            ("team", "chat-1"): (
                fresh("GPU-a/", 0.4, Liveness.RISING),
                fresh("GPU-c/", 0.99, Liveness.ABSENT, disagrees=True),
            ),
            ("team", "chat-2"): (fresh("GPU-new/", 0.5833333333333334, Liveness.FLAT),),
            ("team", "embed-0"): (fresh("GPU-mig/7", 0.5, Liveness.RISING),),
            ("team", "embed-1"): (fresh("GPU-mig/8", 0.0, Liveness.RISING),),
        },
        rejected={("team", "chat-2"): 1},
        unattributed=1,
    )


@pytest.mark.case("metrics-and-cost E33")
@pytest.mark.case("workload-autoscalers D3")
@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "-0.2", "1.06", "4294967295", "9.22e18"])
def test_a_mean_that_is_no_fraction_is_unknown_and_counts_as_rejected(value: str) -> None:
    collected = parsed(element("mean", value), element("sampled", str(SECONDS)))

    assert only_sample(collected).mean is None
    assert collected.rejected == {("team", "chat-1"): 1}


@pytest.mark.parametrize(("value", "mean"), [("0", 0.0), ("1", 1.0), ("1.05", 1.0), ("0.731", 0.731)])
def test_a_small_overshoot_reads_as_full(value: str, mean: float) -> None:
    assert only_sample(parsed(element("mean", value))).mean == mean


def test_other_devices_stay_known_when_one_is_rejected() -> None:
    collected = parsed(element("mean", "NaN"), element("mean", "0.5", UUID="GPU-b"))

    assert [sample.mean for sample in collected.pods[("team", "chat-1")]] == [None, 0.5]


def test_a_mean_without_a_sample_time_has_no_age() -> None:
    assert only_sample(parsed(element("mean", "0.5"))).sampled_at is None


@pytest.mark.parametrize("value", ["NaN", "+Inf"])
def test_a_sample_time_that_is_no_number_is_no_age(value: str) -> None:
    assert only_sample(parsed(element("mean", "0.5"), element("sampled", value))).sampled_at is None


@pytest.mark.case("workload-autoscalers D14")
@pytest.mark.case("metrics-and-cost E58")
def test_ages_are_differences_of_prometheus_own_times() -> None:
    collected = parsed(element("mean", "0.5"), element("sampled", str(SECONDS - 40.5)))

    age = collected.at - (only_sample(collected).sampled_at or collected.at)
    assert age.total_seconds() == 40.5


def test_a_device_with_samples_but_no_mean_is_still_listed() -> None:
    assert only_sample(parsed(element("sampled", str(SECONDS)))).mean is None


@pytest.mark.parametrize(
    ("value", "liveness"),
    [("1", Liveness.RISING), ("0", Liveness.FLAT), ("NaN", Liveness.ABSENT)],
)
def test_liveness_follows_the_energy_counter(value: str, liveness: Liveness) -> None:
    collected = parsed(element("mean", "0.5"), element("alive", value))

    assert only_sample(collected).liveness is liveness


def test_a_slice_without_an_energy_counter_of_its_own_has_its_boards() -> None:
    collected = parsed(element("mean", "0.5", GPU_I_ID="7"), element("alive", "0"))

    assert only_sample(collected).liveness is Liveness.FLAT


@pytest.mark.case("workload-autoscalers D11")
@pytest.mark.parametrize("missing", [{"wl_pod": ""}, {"wl_namespace": ""}], ids=["pod", "namespace"])
def test_a_sample_that_names_no_pod_belongs_to_nobody(missing: dict[str, str]) -> None:
    assert parsed(element("mean", "0.5", **missing)).pods == {}


def test_an_answer_without_its_clock_is_partial() -> None:
    with pytest.raises(PrometheusFailure) as refused:
        parse_activity([element("mean", "0.5")])

    assert refused.value.reason is SignalReason.PROMETHEUS_PARTIAL


@pytest.mark.case("metrics-and-cost E59")
def test_series_of_two_clusters_are_refused() -> None:
    with pytest.raises(PrometheusFailure, match=r"2 clusters.*prometheus\.clusterMatcher"):
        parsed(element("clusters", "2"))


def test_one_cluster_label_is_no_reason_to_refuse() -> None:
    assert parsed(element("clusters", "1")).pods == {}


@pytest.mark.case("metrics-and-cost E34")
@pytest.mark.parametrize(
    "broken",
    [
        pytest.param("text", id="no object"),
        pytest.param({"value": [1, "1"]}, id="no labels"),
        pytest.param({"metric": [], "value": [1, "1"]}, id="labels in a list"),
        pytest.param({"metric": {"part": 7}, "value": [1, "1"]}, id="label of a number"),
        pytest.param({"metric": {"part": "mean"}}, id="no value"),
        pytest.param({"metric": {"part": "mean"}, "value": [1]}, id="array too short"),
        pytest.param({"metric": {"part": "mean"}, "value": [1, 0.5]}, id="value not in text"),
        pytest.param({"metric": {"part": "mean"}, "value": [1, "busy"]}, id="value no number"),
        pytest.param({"metric": {"part": "mean"}, "value": ["1", "0.5"]}, id="time in text"),
        pytest.param({"metric": {"part": "mean"}, "value": [True, "0.5"]}, id="time a boolean"),
        pytest.param({"metric": {"part": "surprise"}, "value": [1, "1"]}, id="unknown part"),
        pytest.param({"metric": {"part": "evaluated"}, "value": [1e300, "1"]}, id="time beyond calendars"),
    ],
)
def test_one_malformed_element_spoils_the_answer(broken: object) -> None:
    with pytest.raises(PrometheusFailure) as refused:
        parsed(broken)

    assert refused.value.reason is SignalReason.PROMETHEUS_ERROR
    assert "check what stands between" in refused.value.message


def test_history_keeps_known_points_and_leaves_gaps() -> None:
    labels = {"wl_namespace": "team", "wl_pod": "chat-1"}
    points = [[SECONDS, "0.25"], [SECONDS + 15, "NaN"], [SECONDS + 30, "1.02"], [SECONDS + 45, "9"]]

    history = parse_history([{"metric": labels, "values": points}, {"metric": {}, "values": points}])

    assert history == {
        ("team", "chat-1"): [(AT, 0.25), (datetime.fromtimestamp(SECONDS + 30, UTC), 1.0)],
    }


def test_history_without_a_list_of_values_is_refused() -> None:
    with pytest.raises(PrometheusFailure):
        parse_history([{"metric": {}, "values": "none"}])


def test_the_servers_clock_is_read() -> None:
    assert parse_time([{"metric": {}, "value": [SECONDS, "1"]}]) == AT


def test_a_server_without_a_clock_is_refused() -> None:
    with pytest.raises(PrometheusFailure):
        parse_time([])
