"""Unknown is not zero: what happens while the signal is gone, and when it comes back."""

import pytest
from tests.builders import make_workload, reasons
from tests.timeline import Timeline

from spillway.core.plan import Cause, LimitReason
from spillway.core.signal import Liveness


@pytest.mark.case("workload-autoscalers D1")
def test_an_outage_of_hours_never_lowers_the_count() -> None:
    line = Timeline(replicas=4, util=0.05)

    line.at("4m", outage=True)

    line.at("3h").expect(
        replicas=4, state="Degraded", signal="PrometheusUnreachable", cause=Cause.METRICS_UNKNOWN
    )


@pytest.mark.case("workload-autoscalers D2")
def test_pods_without_any_series_hold_the_count() -> None:
    line = Timeline(replicas=4, util=0.05)

    line.at("4m", reporting=0.0)

    line.at("1h").expect(replicas=4, state="Degraded", signal="MetricsMissing")


def test_unknown_turns_degraded_after_its_time() -> None:
    line = Timeline(make_workload(blind_after=180)).at("1m", outage=True)

    line.at("3m45s").expect(state="Unknown")
    line.at("4m").expect(state="Degraded")


def test_degraded_raises_to_the_configured_count_by_up_steps() -> None:
    line = Timeline(make_workload(blind_replicas=9), replicas=2).at("1m", outage=True)

    line.at("3m45s").expect(replicas=2)
    line.at("4m").expect(replicas=6, cause=Cause.METRICS_MISSING_FLOOR, limits=["UpStepLimit"])
    line.at("5m15s").expect(replicas=9)
    line.at("1h").expect(replicas=9)


def test_the_configured_count_never_lowers() -> None:
    line = Timeline(make_workload(blind_replicas=2), replicas=4).at("1m", outage=True)

    line.at("1h").expect(replicas=4)


@pytest.mark.case("workload-autoscalers D43")
@pytest.mark.parametrize(
    ("over", "replicas", "limit"),
    [
        pytest.param({"blind_replicas": 20, "max_replicas": 6}, 6, "MaxReplicas", id="above the maximum"),
        pytest.param({"blind_replicas": 1, "min_replicas": 4}, 4, None, id="below the minimum"),
    ],
)
def test_the_configured_count_stays_within_the_bounds(
    over: dict[str, int], replicas: int, limit: str | None
) -> None:
    line = Timeline(make_workload(**over), replicas=4).at("1m", outage=True)
    line.at("30m").expect(replicas=replicas)

    assert (limit in [str(reason) for reason in reasons(line.decision)]) is (limit is not None)


def test_one_good_collection_is_not_yet_believed() -> None:
    line = Timeline(replicas=4).at("1m", outage=True)

    line.at("10m", outage=False, util=0.95).expect(state="Unknown", signal="MetricsRecovering", replicas=4)
    line.at("10m15s").expect(state="Fresh")


def test_a_short_gap_needs_no_proof() -> None:
    line = Timeline(replicas=4).at("1m", outage=True)

    line.at("2m", outage=False).expect(state="Fresh")


@pytest.mark.case("workload-autoscalers D42")
def test_metrics_that_return_low_wait_a_new_window() -> None:
    line = Timeline(make_workload(blind_replicas=6), replicas=4, util=0.5).at("10m", outage=True)
    line.at("20m").expect(replicas=6)

    line.at("30m", outage=False, util=0.1)

    line.at("30m15s").expect(replicas=6, limits=["DownStepLimit", "DownWindow"])
    line.at("35m").expect(replicas=6)
    line.at("36m").expect(replicas=5)


def test_pending_pods_of_a_fallback_are_not_taken_back_at_once_when_metrics_return() -> None:
    line = Timeline(make_workload(blind_replicas=6), replicas=4, util=0.3, room=4).at("10m", outage=True)
    line.at("20m").expect(replicas=6, unschedulable=2)

    line.at("22m", outage=False)

    line.at("24m").expect(replicas=6, cause=Cause.PENDING_CANCELLED, limits=["DownWindow"])


def test_a_signal_that_flickers_is_still_degraded_in_time() -> None:
    line = Timeline(make_workload(blind_replicas=6), replicas=4).at("1m", outage=True)

    for minute in (3, 5, 7):
        line.at(f"{minute}m", outage=False)
        line.at(f"{minute}m15s", outage=True)

    line.at("7m30s").expect(replicas=6)


def test_growth_goes_on_with_half_of_the_pods_reporting() -> None:
    line = Timeline(replicas=4, util=1.0, reporting=0.9).at("5m")

    line.change(reporting=0.75)

    line.at("6m").expect(state="Partial")
    assert line.replicas > 4


def test_coverage_under_half_moves_nothing() -> None:
    line = Timeline(replicas=4, util=1.0, reporting=0.25)

    line.at("10m").expect(replicas=4, state="Low", signal="MetricsLowCoverage")


def test_partial_coverage_shrinks_only_with_missing_pods_taken_as_busy() -> None:
    line = Timeline(replicas=10, util=0.05, reporting=0.9)

    # 9 idle pods and one assumed at 80 %: .045 + .08 = 12.5 %, so ceil(10 * .125 / .72) = 2 would carry it
    line.at("5m30s").expect(state="Partial", replicas=8, proposal=2)


def test_partial_coverage_under_four_fifths_shrinks_nothing() -> None:
    line = Timeline(replicas=10, util=0.05, reporting=0.7)

    line.at("1h").expect(replicas=10, state="Partial")


@pytest.mark.case("workload-autoscalers D7")
def test_contradicting_metrics_block_going_down_only() -> None:
    line = Timeline(replicas=4, util=0.1, disagrees=True)

    line.at("20m").expect(replicas=4, state="Suspect", signal="MetricsContradictory")
    assert LimitReason.METRICS_HOLD in reasons(line.decision)

    line.at("21m", util=0.9).at("22m")
    assert line.replicas > 4


def test_contradiction_that_ends_has_run_the_down_window_meanwhile() -> None:
    line = Timeline(replicas=4, util=0.1, disagrees=True).at("20m", disagrees=False)

    line.at("20m30s").expect(replicas=3)


def test_zero_everywhere_at_once_is_suspect_and_holds() -> None:
    line = Timeline(replicas=4, util=0.5).at("10m", util=0.0)

    line.expect(state="Suspect", signal="MetricsZeroAtOnce")
    line.at("14m45s").expect(replicas=4, state="Suspect")


def test_zero_is_believed_after_a_window_of_moving_counters() -> None:
    line = Timeline(replicas=4, util=0.5).at("10m", util=0.0)

    line.at("15m").expect(state="Zero")
    line.at("15m30s").expect(replicas=3)


@pytest.mark.parametrize("reporting", [1.0, 0.9], ids=["all pods", "one pod missing"])
def test_zero_without_moving_counters_is_never_believed(reporting: float) -> None:
    line = Timeline(replicas=10, util=0.5).at("10m", util=0.0, liveness=Liveness.ABSENT, reporting=reporting)

    line.at("3h").expect(replicas=10, state="Suspect", signal="MetricsZeroAtOnce")


def test_suspicion_ends_with_the_first_work() -> None:
    line = Timeline(replicas=4, util=0.5).at("10m", util=0.0, liveness=Liveness.ABSENT)

    line.at("20m", util=0.05).expect(state="Fresh")


@pytest.mark.case("workload-autoscalers D8")
@pytest.mark.case("metrics-and-cost E37")
def test_a_frozen_exporter_holds_whatever_it_repeats() -> None:
    line = Timeline(replicas=4, util=0.5).at("10m", util=0.05, liveness=Liveness.FLAT)

    line.at("1h").expect(replicas=4, state="Degraded", signal="MetricsFrozen")


def test_pods_that_only_load_are_no_loss_of_metrics() -> None:
    line = Timeline(make_workload(blind_replicas=8, blind_after=60), replicas=1, util=0.5)

    line.at("5m", ready_after=400).somebody_sets(0).somebody_sets(2)

    line.at("10m").expect(replicas=2, state="Unknown", signal="NoSettledPods")


@pytest.mark.case("workload-autoscalers D45")
def test_pods_that_all_lost_readiness_hold_the_count() -> None:
    line = Timeline(replicas=3, ready_after=100_000).somebody_sets(0).somebody_sets(3)

    line.at("9m").expect(replicas=3, signal="NoSettledPods")
