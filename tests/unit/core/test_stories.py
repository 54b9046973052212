"""Whole time-lines: how the count follows a load through noise, steps, starts and restarts."""

import math
from itertools import pairwise

import pytest
from tests.builders import make_workload, reasons, seconds
from tests.timeline import Timeline

from spillway.core.plan import LimitReason


def test_a_busy_target_grows_and_an_idle_one_shrinks() -> None:
    line = Timeline(replicas=2, util=0.6).at("6m", util=0.9)

    line.at("6m15s").expect(replicas=2, reason="UpWindow")
    line.at("6m30s").expect(replicas=3, reason="UtilizationHigh")
    line.at("7m", util=0.1).at("11m30s").expect(replicas=3)
    line.at("40m").expect(replicas=1)


@pytest.mark.case("workload-autoscalers D27")
@pytest.mark.parametrize("period", [150, 300, 600])
def test_an_oscillating_load_turns_the_direction_at_most_once_a_window(period: int) -> None:
    line = Timeline(make_workload(max_replicas=30), replicas=8)

    for step in range(4 * 3600 // 15):
        line.change(demand=4.0 + 2.5 * math.sin(2 * math.pi * step * 15 / period))
        line.step()

    turns = [later[0] for earlier, later in pairwise(zip_directions(line)) if earlier[1] != later[1]]
    assert all(later - earlier >= 300 for earlier, later in pairwise(turns))


def zip_directions(line: Timeline) -> list[tuple[int, int]]:
    return [(at, 1 if act.is_growth else -1) for at, act in line.writes]


@pytest.mark.case("workload-autoscalers D28")
def test_sawtooth_noise_around_the_high_mark_causes_few_writes() -> None:
    line = Timeline(make_workload(max_replicas=30), replicas=8, util=0.6).at("6m")

    for step in range(3600 // 15):
        # −15 % … +15 % around a load that puts 8 replicas exactly at the high mark
        line.change(demand=6.4 * (0.85 + 0.30 * (step % 8) / 7))
        line.step()

    assert len(line.writes) <= 4
    assert -1 not in line.directions


@pytest.mark.case("workload-autoscalers D29")
@pytest.mark.parametrize("ready_after", [40, 300])
@pytest.mark.parametrize("demand", [2.0, 3.0, 4.0])
def test_a_step_of_load_overshoots_by_one_step_at_most(demand: float, ready_after: int) -> None:
    line = Timeline(make_workload(max_replicas=40), replicas=2, util=0.3, ready_after=ready_after).at("6m")

    line.change(demand=demand).at("1h")

    need = math.ceil(demand / 0.8)
    assert max(line.counts) <= math.ceil(1.5 * need)


@pytest.mark.parametrize("ready_after", [40, 300])
@pytest.mark.parametrize(
    ("replicas", "demand", "needed"),
    [(1, 1.3, 2), (10, 9.0, 12), (20, 18.0, 23), (2, 6.0, 8)],
)
def test_replicas_that_just_turned_ready_are_not_ordered_again(
    replicas: int, demand: float, needed: int, ready_after: int
) -> None:
    line = Timeline(make_workload(max_replicas=40), replicas=replicas, util=0.6, ready_after=ready_after).at(
        "6m"
    )

    line.change(demand=demand).at("1h")

    assert max(line.counts) == needed


@pytest.mark.case("workload-autoscalers D29")
def test_slow_starts_do_not_double_the_count_again_and_again() -> None:
    line = Timeline(make_workload(max_replicas=40), replicas=2, util=0.6, ready_after=600).at("6m", util=1.0)

    line.at("15m").expect(replicas=3)


@pytest.mark.case("workload-autoscalers D36")
def test_five_evaluations_in_a_minute_spend_one_step() -> None:
    workload = make_workload(
        down={
            "window": seconds(15),
            "cooldown": seconds(0),
            "max_decrease_percent": 20,
            "max_decrease_replicas": 0,
        },
        min_replicas=2,
    )
    line = Timeline(workload, replicas=10, util=0.05, confirm_seconds=0).at("10m")

    for earlier, later in pairwise(range(0, len(line.counts), 4)):
        assert line.counts[later] >= line.counts[earlier] - max(2, line.counts[earlier] // 5)


@pytest.mark.case("workload-autoscalers D36")
def test_up_steps_do_not_compound_within_a_minute() -> None:
    workload = make_workload(max_replicas=64, blind_replicas=64, blind_after=60)
    line = Timeline(workload, replicas=2).at("1m", outage=True)

    line.at("5m")

    assert [act.to for _, act in line.writes] == [6, 12, 24]


@pytest.mark.case("workload-autoscalers D46")
def test_old_pods_keep_serving_while_a_new_revision_crashes() -> None:
    line = Timeline(replicas=4, util=0.9).at("15s", crash=True).at("1h")

    assert line.replicas <= 6
    line.expect(ready=4, capacity="RevisionBroken")


@pytest.mark.case("workload-autoscalers D38")
def test_a_restart_in_mid_window_neither_flaps_nor_forgets_the_window() -> None:
    watched = Timeline(replicas=4, util=0.1)
    restarted = Timeline(replicas=4, util=0.1).at("2m30s").restart()

    watched.at("10m")
    restarted.at("10m")

    assert {act.is_growth for _, act in restarted.writes} == {False}
    assert restarted.writes[0][0] >= 300
    assert restarted.writes[0][0] - watched.writes[0][0] <= 60


@pytest.mark.case("workload-autoscalers D38")
def test_a_restart_under_load_changes_nothing() -> None:
    line = Timeline(replicas=4, util=0.75).at("20m").restart()

    line.at("1h").expect(replicas=4, writes=0)


@pytest.mark.case("workload-autoscalers D39")
@pytest.mark.parametrize("jump", [-3600, 3600])
def test_a_clock_that_jumps_an_hour_lowers_nothing(jump: int) -> None:
    line = Timeline(replicas=4, util=0.1).at("2m")

    line._now += seconds(jump)
    line.step()

    line.expect(replicas=4)
    assert line.writes == []


@pytest.mark.case("workload-autoscalers D39")
@pytest.mark.parametrize("jump", [-1800, 3600])
def test_growth_does_not_wait_for_a_clock_to_catch_up(jump: int) -> None:
    line = Timeline(replicas=2, util=0.1).at("8m").expect(replicas=1)

    line._now += seconds(jump)
    line.change(util=0.9)
    for _ in range(6):
        line.step()

    assert line.replicas > 1


def test_a_watch_event_counts_no_collection_and_no_window() -> None:
    line = Timeline(replicas=4, util=0.9).at("15s")
    before = line.memory.workloads["workload-llm"]

    for _ in range(20):
        line.wake(after=2)

    after = line.memory.workloads["workload-llm"]
    assert (after.streaks, after.window) == (before.streaks, before.window)
    line.expect(replicas=4, reason="UpWindow")


def test_a_collection_without_newer_samples_counts_nothing() -> None:
    line = Timeline(replicas=4, util=0.9).at("15s")
    before = line.memory.workloads["workload-llm"].streaks
    repeated = line._collect()

    line._now += seconds(20)
    line._pass(type(repeated)(at=line._now, pods=repeated.pods))

    assert line.memory.workloads["workload-llm"].streaks == before


def test_a_steady_load_writes_nothing() -> None:
    line = Timeline(replicas=4, util=0.6).at("2h")

    line.expect(writes=0)
    assert not any(reasons(found) for found in line.decisions)


def test_a_decision_carries_the_numbers_that_led_to_it() -> None:
    line = Timeline(replicas=4, util=0.9).at("30s")
    decision = line.decision

    assert (decision.current, decision.proposal, decision.desired) == (4, 5, 5)
    assert (decision.signal.value, decision.signal.coverage, decision.signal.age_seconds) == (
        pytest.approx(0.9),
        1.0,
        5.0,
    )
    assert "90%" in decision.why
    assert LimitReason.UP_WINDOW not in reasons(decision)
