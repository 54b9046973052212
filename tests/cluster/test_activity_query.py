"""What the GPU activity query makes of every kind of series, evaluated by a real Prometheus over made-up histories."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from spillway.adapters.prometheus.failures import PrometheusFailure
from spillway.adapters.prometheus.parse import parse_activity
from spillway.adapters.prometheus.queries import activity_history, gpu_activity
from spillway.adapters.prometheus.settings import PrometheusSettings
from spillway.core.signal import Collected, DeviceSample, Liveness
from tests.cluster.binaries import Binaries
from tests.cluster.prometheus import Prometheus
from tests.cluster.recordings import LENGTH, Series, openmetrics, rising, series

UTIL, UTIL_RATIO = "DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_GPU_UTIL_RATIO"
PROF, PROF_RATIO = "DCGM_FI_PROF_GR_ENGINE_ACTIVE", "DCGM_FI_PROF_GR_ENGINE_UTIL_RATIO"
ENERGY, ENERGY_JOULES = "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "DCGM_FI_DEV_GPU_ENERGY_JOULES_TOTAL"
POWER = "DCGM_FI_DEV_POWER_USAGE"

EXPORTER = {"job": "dcgm", "instance": "10.0.0.1:9400", "namespace": "gpu-operator", "pod": "dcgm-xyz"}
FREE = EXPORTER | {"UUID": "GPU-a", "Hostname": "node-a"}
CHAT = FREE | {"exported_namespace": "team", "exported_pod": "chat-1"}
POD = ("team", "chat-1")
END = int(time.time()) // 3600 * 3600 - 7200

RECORDINGS: dict[str, tuple[Series, ...]] = {}
Ask = Callable[[str], Collected]


def recording(name: str, *parts: Series) -> str:
    assert name not in RECORDINGS, f"two recordings are called {name}"
    RECORDINGS[name] = parts
    return name


def settings(name: str) -> PrometheusSettings:
    return PrometheusSettings(url="http://prometheus", cluster_matcher=f'cluster="{name}"')


def sample(
    mean: float | None, *, age: float = 0, liveness: Liveness = Liveness.ABSENT, disagrees: bool = False
) -> tuple[object, ...]:
    return (mean, age, liveness, disagrees)


@pytest.fixture(scope="module")
def past(built: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with Prometheus(built, tmp_path_factory.mktemp("past")) as prometheus:
        prometheus.backfill(openmetrics(RECORDINGS, end=END))
        yield prometheus


@pytest.fixture
def ask(past: Prometheus) -> Ask:
    def answer(name: str) -> Collected:
        return _collected(past, gpu_activity(settings(name)))

    return answer


def _collected(prometheus: Prometheus, query: str) -> Collected:
    samples = prometheus.query(query, at=END)
    return parse_activity({"metric": s.labels, "value": [s.at, repr(s.value)]} for s in samples)


def seen(collected: Collected, pod: tuple[str, str] = POD) -> dict[str, tuple[object, ...]]:
    """Return mean (to 6 digits), age in seconds, liveness and disagreement by device."""
    return {s.device: _facts(s, collected) for s in collected.pods.get(pod, ())}


def _facts(s: DeviceSample, collected: Collected) -> tuple[object, ...]:
    age = (collected.at - s.sampled_at).total_seconds() if s.sampled_at else None
    return (None if s.mean is None else round(s.mean, 6), age, s.liveness, s.disagrees)


# Names, units and labels

OLD = recording("old", series(UTIL, 40, **CHAT), series(PROF, 0.3, **CHAT), series(ENERGY, rising(), **CHAT))
NEW = recording(
    "new",
    series(UTIL_RATIO, 0.3, **CHAT),
    series(PROF_RATIO, 0.2, **CHAT),
    series(ENERGY_JOULES, rising(), **CHAT),
)


@pytest.mark.case("metrics-and-cost E1")
def test_old_names_are_percent(ask: Ask) -> None:
    assert seen(ask(OLD)) == {"GPU-a/": sample(0.4, liveness=Liveness.RISING)}


@pytest.mark.case("metrics-and-cost E2")
def test_new_names_are_ratios(ask: Ask) -> None:
    assert seen(ask(NEW)) == {"GPU-a/": sample(0.3, liveness=Liveness.RISING)}


OTHER = CHAT | {"exported_pod": "chat-2", "UUID": "GPU-b", "instance": "10.0.0.2:9400", "pod": "dcgm-uvw"}
MIXED = recording(
    "mixed", series(UTIL, 40, **CHAT), series(PROF, 0.3, **CHAT), series(UTIL_RATIO, 0.7, **OTHER)
)


@pytest.mark.case("metrics-and-cost E3")
@pytest.mark.case("workload-autoscalers D4")
def test_both_schemas_side_by_side_give_one_value_for_each_device(ask: Ask) -> None:
    answer = ask(MIXED)

    assert seen(answer) == {"GPU-a/": sample(0.4)}
    assert seen(answer, ("team", "chat-2")) == {"GPU-b/": sample(0.7)}


HALF = LENGTH // 2
ROLLED = recording(
    "rolled",
    series(UTIL, [40] * HALF + [None] * HALF, **CHAT),
    series(PROF, [0.4] * HALF + [None] * HALF, **CHAT),
    series(UTIL_RATIO, [None] * HALF + [0.4] * HALF, **CHAT),
    series(PROF_RATIO, [None] * HALF + [0.4] * HALF, **CHAT),
)
ROLLING = recording(
    "rolling",
    series(UTIL, [40] * (LENGTH - 2) + [None] * 2, **CHAT),
    series(UTIL_RATIO, [None] * (LENGTH - 2) + [0.4] * 2, **CHAT),
    series(ENERGY, [*rising()[:-2], None, None], **CHAT),
    series(ENERGY_JOULES, [None] * (LENGTH - 2) + [7, 9], **CHAT),
)


@pytest.mark.case("workload-autoscalers D4")
@pytest.mark.parametrize("name", [ROLLED, ROLLING])
def test_an_exporter_that_is_upgraded_inside_the_window_does_not_break_the_query(ask: Ask, name: str) -> None:
    ((mean, *_),) = seen(ask(name)).values()

    assert mean == 0.4


def test_an_upgrade_is_a_sign_of_life(ask: Ask) -> None:
    assert seen(ask(ROLLING))["GPU-a/"][2] is Liveness.RISING


RELABELLED = recording(
    "relabelled",
    series(UTIL, [40] * (LENGTH - 2), age_seconds=30, **CHAT, DCGM_FI_DRIVER_VERSION="550.1"),
    series(
        UTIL,
        [40] * 2,
        **{k: v for k, v in CHAT.items() if k != "Hostname"},
        hostname="node-a",
        DCGM_FI_DRIVER_VERSION="570.2",
    ),
    series(ENERGY, [*rising()[:-2], None, None], **CHAT, DCGM_FI_DRIVER_VERSION="550.1"),
    series(ENERGY, [None] * (LENGTH - 2) + rising()[-2:], **CHAT, DCGM_FI_DRIVER_VERSION="570.2"),
)


@pytest.mark.case("metrics-and-cost E7")
@pytest.mark.case("metrics-and-cost E8")
def test_a_host_or_driver_label_that_changes_leaves_the_device_the_same(ask: Ask) -> None:
    assert seen(ask(RELABELLED)) == {"GPU-a/": sample(0.4, liveness=Liveness.RISING)}


HONOURED = {**EXPORTER, "UUID": "GPU-a", "namespace": "team", "pod": "chat-1"}
UP = series("up", 1, **EXPORTER)
BOTH_WAYS = recording(
    "both-ways",
    UP,
    series(UTIL, 40, **HONOURED),
    series(UTIL, 50, **(CHAT | {"UUID": "GPU-b", "exported_pod": "chat-2"})),
    series(UTIL, 0, **(FREE | {"UUID": "GPU-c"})),
)


@pytest.mark.case("workload-autoscalers D10")
@pytest.mark.case("metrics-and-cost E9")
def test_the_pod_is_found_whether_labels_are_honoured_or_not(ask: Ask) -> None:
    answer = ask(BOTH_WAYS)

    assert seen(answer) == {"GPU-a/": sample(0.4)}
    assert seen(answer, ("team", "chat-2")) == {"GPU-b/": sample(0.5)}


@pytest.mark.case("workload-autoscalers D11")
@pytest.mark.case("metrics-and-cost E10")
def test_a_device_under_its_exporters_pod_is_counted_as_unattributed(ask: Ask) -> None:
    assert ask(BOTH_WAYS).unattributed == 1


NAMELESS = recording("nameless", series(UTIL, 40, job="dcgm", instance="a", UUID="GPU-a"))


@pytest.mark.case("workload-autoscalers D11")
def test_a_device_without_any_pod_is_counted_and_belongs_to_nobody(ask: Ask) -> None:
    answer = ask(NAMELESS)

    assert (answer.pods, answer.unattributed) == ({}, 1)


# Duplicates and sharing

TWICE = recording(
    "twice",
    series(UTIL, 40, **CHAT, prometheus_replica="a"),
    series(UTIL, 40, **CHAT, prometheus_replica="b"),
    series(UTIL, 80, **(CHAT | {"UUID": "GPU-b"}), prometheus_replica="a"),
    series(UTIL, 80, **(CHAT | {"UUID": "GPU-b"}), prometheus_replica="b"),
    series(UTIL_RATIO, 0.4, **(CHAT | {"job": "managed-dcgm"})),
)


@pytest.mark.case("workload-autoscalers D15")
@pytest.mark.case("metrics-and-cost E15")
def test_replicas_and_second_exporters_count_a_device_once(ask: Ask) -> None:
    assert seen(ask(TWICE)) == {"GPU-a/": sample(0.4), "GPU-b/": sample(0.8)}


XIDS = recording(
    "xids",
    series(UTIL, 40, **CHAT),
    series("DCGM_FI_DEV_XID_ERRORS", 31, **CHAT, err_code="31"),
    series("DCGM_FI_DEV_XID_ERRORS", 79, **CHAT, err_code="79"),
)


@pytest.mark.case("metrics-and-cost E18")
def test_error_series_add_no_devices(ask: Ask) -> None:
    assert seen(ask(XIDS)) == {"GPU-a/": sample(0.4)}


SLICE = CHAT | {"GPU_I_ID": "7"}
IDLE_SLICE = CHAT | {"GPU_I_ID": "8", "exported_pod": "chat-2"}
MIG = recording(
    "mig",
    series(UTIL, 0, **SLICE),
    series(PROF, 0.5, **SLICE),
    series(UTIL, 0, **IDLE_SLICE),
    series(PROF, 0, **IDLE_SLICE),
    series(ENERGY, rising(), **FREE),
)


@pytest.mark.case("workload-autoscalers D9")
@pytest.mark.case("metrics-and-cost E22")
def test_slices_are_judged_by_the_profiling_gauge_alone(ask: Ask) -> None:
    answer = ask(MIG)

    assert seen(answer) == {"GPU-a/7": sample(0.5, liveness=Liveness.RISING)}
    assert seen(answer, ("team", "chat-2")) == {"GPU-a/8": sample(0.0, liveness=Liveness.RISING)}


MIG_WITHOUT_PROF = recording("mig-without-prof", series(UTIL, 0, **SLICE))


@pytest.mark.case("metrics-and-cost E23")
def test_slices_without_a_profiling_gauge_are_not_seen_as_idle(ask: Ask) -> None:
    assert ask(MIG_WITHOUT_PROF).pods == {}


SHARED = recording(
    "shared",
    series(UTIL, 60, **CHAT, vgpu="0"),
    series(UTIL, 30, **(CHAT | {"exported_pod": "chat-2"}), vgpu="1"),
    series(UTIL, 90, **FREE),
)


@pytest.mark.case("metrics-and-cost E26")
def test_processes_on_a_shared_device_keep_their_own_share(ask: Ask) -> None:
    answer = ask(SHARED)

    assert seen(answer) == {"GPU-a/": sample(0.6)}
    assert seen(answer, ("team", "chat-2")) == {"GPU-a/": sample(0.3)}


# Bad values

OUT_OF_RANGE = (4294967295, 808334905, 1000, 9.22e18, -1, math.inf, math.nan)
for bad in OUT_OF_RANGE:
    recording(f"sentinel-{bad}", series(UTIL, [10] * (LENGTH - 2) + [bad, 10], **CHAT))
    recording(f"sentinel-now-{bad}", series(UTIL, [10] * (LENGTH - 1) + [bad], **CHAT))


@pytest.mark.case("workload-autoscalers D3")
@pytest.mark.case("metrics-and-cost E30")
@pytest.mark.parametrize("value", OUT_OF_RANGE)
def test_one_sample_out_of_range_leaves_the_mean_of_the_others(ask: Ask, value: float) -> None:
    answer = ask(f"sentinel-{value}")

    assert seen(answer) == {"GPU-a/": sample(0.1)}
    assert answer.rejected == {}


@pytest.mark.case("workload-autoscalers D3")
@pytest.mark.parametrize("value", OUT_OF_RANGE)
def test_a_newest_sample_out_of_range_is_reported(ask: Ask, value: float) -> None:
    answer = ask(f"sentinel-now-{value}")

    assert seen(answer) == {"GPU-a/": sample(0.1)}
    assert answer.rejected == {POD: 1}


FALLING_BACK = recording("falling-back", series(UTIL, 4294967295, **CHAT), series(PROF, 0.6, **CHAT))


def test_another_gauge_stands_in_for_one_out_of_range(ask: Ask) -> None:
    answer = ask(FALLING_BACK)

    assert seen(answer) == {"GPU-a/": sample(0.6)}
    assert answer.rejected == {POD: 1}


FLICKERING = recording(
    "flickering", series(UTIL, [10, 10, 4294967295, 10] * (LENGTH // 4), **CHAT), series(PROF, 0.1, **CHAT)
)


def test_gauges_that_take_turns_inside_one_window_do_not_break_the_query(ask: Ask) -> None:
    assert seen(ask(FLICKERING)) == {"GPU-a/": sample(0.1)}


PERCENT_AS_RATIO = recording("percent-as-ratio", series(UTIL_RATIO, 55, **CHAT))


@pytest.mark.case("metrics-and-cost E4")
@pytest.mark.case("workload-autoscalers D5")
def test_a_percent_under_a_ratios_name_is_rejected(ask: Ask) -> None:
    answer = ask(PERCENT_AS_RATIO)

    assert seen(answer) == {"GPU-a/": sample(None)}
    assert answer.rejected == {POD: 1}


RATIO_AS_PERCENT = recording("ratio-as-percent", series(UTIL, 0.9, **CHAT))


@pytest.mark.case("metrics-and-cost E5")
@pytest.mark.case("workload-autoscalers D5")
def test_a_fraction_under_a_percents_name_is_rejected_and_never_scaled(ask: Ask) -> None:
    answer = ask(RATIO_AS_PERCENT)

    assert seen(answer) == {"GPU-a/": sample(None)}
    assert answer.rejected == {POD: 1}


SOMETIMES_A_FRACTION = recording(
    "sometimes-a-fraction", series(UTIL, [0.37, 1] * ((LENGTH - 8) // 2) + [1] * 8, **CHAT)
)


@pytest.mark.case("metrics-and-cost E5")
def test_a_fraction_earlier_on_makes_whole_values_suspect(ask: Ask) -> None:
    assert seen(ask(SOMETIMES_A_FRACTION)) == {"GPU-a/": sample(0.01, disagrees=True)}


FULL_AS_ONE = recording("full-as-one", series(UTIL, 1, **CHAT), series(PROF, 0.97, **CHAT))


@pytest.mark.case("metrics-and-cost E6")
def test_one_percent_beside_a_busy_profiler_is_suspect(ask: Ask) -> None:
    assert seen(ask(FULL_AS_ONE)) == {"GPU-a/": sample(0.01, disagrees=True)}


SILENT_PROFILER = recording("silent-profiler", series(UTIL, 99, **CHAT), series(PROF, 0, **CHAT))
SILENT_PROFILER_NEW = recording(
    "silent-profiler-new", series(UTIL_RATIO, 0.99, **CHAT), series(PROF_RATIO, 0, **CHAT)
)


@pytest.mark.case("workload-autoscalers D7")
@pytest.mark.case("metrics-and-cost E35")
@pytest.mark.parametrize("name", [SILENT_PROFILER, SILENT_PROFILER_NEW])
def test_a_silent_profiler_beside_a_busy_gpu_is_suspect_and_not_idle(ask: Ask, name: str) -> None:
    assert seen(ask(name)) == {"GPU-a/": sample(0.99, disagrees=True)}


BUSY_SLICE = recording("busy-slice", series(UTIL, 0, **SLICE), series(PROF, 0.9, **SLICE))


def test_slices_never_disagree(ask: Ask) -> None:
    assert seen(ask(BUSY_SLICE)) == {"GPU-a/7": sample(0.9)}


# Freshness


STUCK = [*rising()[:20], *[777_777.0] * (LENGTH - 20)]
FROZEN = recording("frozen", series(UTIL, 40, **CHAT), series(ENERGY, STUCK, **CHAT))


@pytest.mark.case("workload-autoscalers D8")
@pytest.mark.case("metrics-and-cost E37")
def test_an_energy_counter_that_stands_still_tells_of_a_frozen_exporter(ask: Ask) -> None:
    assert seen(ask(FROZEN)) == {"GPU-a/": sample(0.4, liveness=Liveness.FLAT)}


recording("power-moves", series(UTIL, 40, **CHAT), series(POWER, [300, 301] * (LENGTH // 2), **CHAT))
recording("power-rests", series(UTIL, 40, **CHAT), series(POWER, 300, **CHAT))


@pytest.mark.parametrize(
    ("name", "liveness"), [("power-moves", Liveness.RISING), ("power-rests", Liveness.ABSENT)]
)
def test_power_can_prove_life_but_not_its_end(ask: Ask, name: str, liveness: Liveness) -> None:
    assert seen(ask(name)) == {"GPU-a/": sample(0.4, liveness=liveness)}


BLANK_ENERGY = recording(
    "blank-energy", series(UTIL, 40, **CHAT), series(ENERGY, 9223372036854775794, **CHAT)
)


@pytest.mark.case("metrics-and-cost E31")
def test_a_blank_energy_counter_is_no_frozen_one(ask: Ask) -> None:
    assert seen(ask(BLANK_ENERGY)) == {"GPU-a/": sample(0.4)}


NEW_POD = recording(
    "new-pod",
    series(UTIL, [40, 40, 40], **CHAT),
    series(ENERGY, [*rising()[:-3], None, None, None], **FREE),
    series(ENERGY, [None] * (LENGTH - 3) + rising()[-3:], **CHAT),
)


def test_a_new_pod_on_an_old_device_inherits_its_liveness(ask: Ask) -> None:
    assert seen(ask(NEW_POD)) == {"GPU-a/": sample(0.4, liveness=Liveness.RISING)}


NEW_DEVICE = recording("new-device", series(UTIL, [40] * 3, **CHAT), series(ENERGY, [5, 5, 5], **CHAT))


def test_a_device_younger_than_the_window_is_not_called_frozen(ask: Ask) -> None:
    assert seen(ask(NEW_DEVICE)) == {"GPU-a/": sample(0.4)}


OLD_SAMPLE = recording("old-sample", series(UTIL, 40, age_seconds=100, **CHAT))


@pytest.mark.case("metrics-and-cost E47")
@pytest.mark.case("workload-autoscalers D14")
def test_a_sample_keeps_its_own_age_although_the_mean_lingers(ask: Ask) -> None:
    assert seen(ask(OLD_SAMPLE)) == {"GPU-a/": sample(0.4, age=100)}


LONG_AGO = recording("long-ago", series(UTIL, 40, age_seconds=360, **CHAT))


@pytest.mark.case("workload-autoscalers D14")
def test_a_sample_six_minutes_old_has_no_mean_but_still_an_age(ask: Ask) -> None:
    assert seen(ask(LONG_AGO)) == {"GPU-a/": sample(None, age=360)}


# The whole


@pytest.mark.case("metrics-and-cost E59")
def test_without_a_matcher_several_clusters_are_refused(past: Prometheus) -> None:
    with pytest.raises(PrometheusFailure, match=r"prometheus\.clusterMatcher"):
        _collected(past, gpu_activity(PrometheusSettings(url="http://prometheus")))


def test_the_answer_is_timed_by_the_server(ask: Ask) -> None:
    assert ask(OLD).at.timestamp() == END


def history(past: Prometheus, name: str) -> list[float]:
    """Return the replayed mean of the pod as of now, as a list of at most one."""
    query = activity_history(settings(name), step=timedelta(seconds=15))
    answer = past.query(query, at=END)
    return [round(s.value, 6) for s in answer if (s.labels["wl_namespace"], s.labels["wl_pod"]) == POD]


@pytest.mark.parametrize(
    ("name", "means"),
    [
        pytest.param(OLD, [0.4], id="old names"),
        pytest.param(NEW, [0.3], id="new names"),
        pytest.param(TWICE, [0.6], id="mean over the pod's devices"),
        pytest.param(ROLLED, [0.4], id="upgraded exporter"),
        pytest.param(FROZEN, [], id="frozen"),
        pytest.param(OLD_SAMPLE, [], id="stale"),
        pytest.param(PERCENT_AS_RATIO, [], id="out of range"),
    ],
)
def test_history_holds_only_what_could_be_trusted(past: Prometheus, name: str, means: list[float]) -> None:
    assert history(past, name) == means
