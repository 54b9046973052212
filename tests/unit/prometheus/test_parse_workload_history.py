"""One workload's past from a range query's matrix: means, readiness and wishes, joined minute by minute."""

from collections.abc import Iterable
from datetime import UTC, datetime

import pytest

from spillway.adapters.prometheus.failures import PrometheusFailure
from spillway.adapters.prometheus.parse import parse_workload_history
from spillway.adapters.prometheus.pod_names import WorkloadPods
from spillway.core.recorded import RecordedInstant

PODS = WorkloadPods(namespace="team", deployment="chat")
ONE, TWO = "chat-7d9f8c6b5-x2x4z", "chat-7d9f8c6b5-bcdfg"
BURST = "chat-burst-7d9f8c6b5-x2x4z"
T0 = 1_780_003_600


def at(minute: int) -> datetime:
    return datetime.fromtimestamp(T0 + 60 * minute, UTC)


def series(part: str, values: Iterable[object], **labels: str) -> dict[str, object]:
    points = [[T0 + 60 * minute, str(value)] for minute, value in enumerate(values) if value is not None]
    return {"metric": {"part": part, **labels}, "values": points}


def of_pod(part: str, pod: str, *values: object) -> dict[str, object]:
    return series(part, values, wl_namespace="team", wl_pod=pod)


def test_without_readiness_every_pod_with_a_mean_serves() -> None:
    found = parse_workload_history([of_pod("mean", ONE, 0.5), of_pod("mean", TWO, 0.25)], PODS)

    assert found == (RecordedInstant(at=at(0), sampled=2, serving=2, busy=0.75),)


def test_where_readiness_is_recorded_only_ready_pods_serve() -> None:
    found = parse_workload_history(
        [
            of_pod("mean", ONE, 0.5),
            of_pod("mean", TWO, 0.75),
            of_pod("ready", ONE, 1),
            of_pod("ready", TWO, 0),
        ],
        PODS,
    )

    assert found == (RecordedInstant(at=at(0), sampled=2, ready=1, serving=1, busy=0.5),)


def test_pods_that_were_ready_without_a_mean_count_as_ready() -> None:
    found = parse_workload_history(
        [of_pod("mean", ONE, 0.5), of_pod("ready", ONE, 1), of_pod("ready", TWO, 1)], PODS
    )

    assert found == (RecordedInstant(at=at(0), sampled=1, ready=2, serving=1, busy=0.5),)


def test_readiness_counts_from_the_minute_on_in_which_it_is_recorded() -> None:
    found = parse_workload_history([of_pod("mean", ONE, 0.5, 0.5), of_pod("ready", ONE, None, 0)], PODS)

    assert [(each.ready, each.serving) for each in found] == [(None, 1), (0, 0)]


def test_burst_pods_are_counted_apart() -> None:
    found = parse_workload_history([of_pod("mean", ONE, 0.5), of_pod("mean", BURST, 0.5)], PODS)

    assert (found[0].sampled, found[0].sampled_burst) == (2, 1)


def test_minutes_come_in_rising_time_whatever_the_order_of_series() -> None:
    found = parse_workload_history(
        [of_pod("mean", ONE, None, None, 0.5), series("asked", [2]), of_pod("mean", TWO, None, 0.25)], PODS
    )

    assert [each.at for each in found] == [at(0), at(1), at(2)]
    assert [each.asked for each in found] == [2, None, None]


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-0.1", "1.06"])
def test_a_mean_that_is_no_fraction_is_unknown(value: str) -> None:
    assert parse_workload_history([of_pod("mean", ONE, value)], PODS) == ()


def test_a_mean_a_little_over_one_is_one() -> None:
    assert parse_workload_history([of_pod("mean", ONE, 1.04)], PODS)[0].busy == 1.0


def test_nothing_recorded_is_nothing() -> None:
    assert parse_workload_history([], PODS) == ()


@pytest.mark.parametrize(
    ("element", "said"),
    [
        pytest.param(series("clusters", [1, 2]), "of 2 clusters", id="two clusters at any time"),
        pytest.param(series("median", [1]), "unknown part 'median'", id="unknown part"),
        pytest.param(series("mean", [1]), "names no pod", id="no pod"),
        pytest.param({"metric": {"part": "asked"}}, "without 'values'", id="no values"),
        pytest.param({"metric": {"part": "asked"}, "values": 3}, "values are int", id="values no list"),
    ],
)
def test_what_is_no_past_of_one_workload_is_refused(element: object, said: str) -> None:
    with pytest.raises(PrometheusFailure, match=said):
        parse_workload_history([element], PODS)
