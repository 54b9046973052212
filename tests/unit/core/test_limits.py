"""Each limit at its edge, the order of limits, and the N−1 check."""

import pytest
from tests.builders import (
    NOW,
    decide_one,
    make_deployment,
    make_memory,
    make_pods,
    make_snapshot,
    make_workload,
    reasons,
    seconds,
)

from spillway.core.memory import DownWindow, Streaks
from spillway.core.plan import Cause, LimitReason


@pytest.mark.case("workload-autoscalers D25")
@pytest.mark.parametrize(
    "utilization",
    [
        pytest.param(0.8, id="at high"),
        pytest.param(0.8 + 9e-10, id="high plus noise"),
        pytest.param(0.8000000001, id="ratio 1.0000000001"),
        pytest.param(0.4, id="at low"),
        pytest.param(0.4 - 9e-10, id="low less noise"),
        pytest.param(0.6, id="between"),
    ],
)
def test_within_the_band_and_float_noise_nothing_is_done(utilization: float) -> None:
    decision = decide_one(make_snapshot(utilization=utilization))

    assert (decision.proposal, decision.desired, decision.cause) == (4, 4, Cause.WITHIN_BAND)


@pytest.mark.parametrize(
    ("replicas", "utilization", "proposal"),
    [
        pytest.param(4, 0.81, 5, id="4 at 81 % need 4.05"),
        pytest.param(4, 0.9, 5, id="4 at 90 % need 4.5"),
        pytest.param(9, 0.9, 11, id="9 at 90 % need 10.125"),
        pytest.param(8, 0.9, 9, id="8 at 90 % need exactly 9"),
        pytest.param(1, 0.81, 2, id="1 at 81 %"),
    ],
)
def test_going_up_is_proportional_and_rounds_up(replicas: int, utilization: float, proposal: int) -> None:
    decision = decide_one(
        make_snapshot(
            make_workload(max_replicas=50), make_deployment(replicas=replicas), utilization=utilization
        )
    )

    assert (decision.proposal, decision.desired) == (proposal, proposal)


@pytest.mark.case("workload-autoscalers D26")
@pytest.mark.parametrize(
    ("replicas", "utilization", "desired", "limits"),
    [
        pytest.param(1, 0.5, 1, (), id="one replica between the marks"),
        pytest.param(2, 0.41, 2, (), id="two just above low"),
        pytest.param(2, 0.39, 2, (LimitReason.N_MINUS_ONE,), id="two at 39 %: one would carry 78 %"),
        pytest.param(2, 0.36, 1, (), id="two at 36 %: one carries exactly 72 %"),
        pytest.param(1, 0.0, 1, (LimitReason.MIN_REPLICAS,), id="the last one stays"),
    ],
)
def test_what_remains_must_stay_below_nine_tenths_of_high(
    replicas: int, utilization: float, desired: int, limits: tuple[LimitReason, ...]
) -> None:
    snapshot = make_snapshot(deployment=make_deployment(replicas=replicas), utilization=utilization)

    decision = decide_one(snapshot, make_memory(replicas=replicas, need=0, busy_value=None))

    assert decision.desired == desired
    assert tuple(reason for reason in reasons(decision) if reason is not LimitReason.DOWN_STEP) == limits


def test_without_a_low_mark_the_n_minus_one_check_decides() -> None:
    assert decide_one(make_snapshot(make_workload(low=None), utilization=0.53)).desired == 3
    assert decide_one(make_snapshot(make_workload(low=None), utilization=0.55)).desired == 4


@pytest.mark.parametrize(
    ("percent", "count", "desired"),
    [(100, 4, 20), (10, 4, 14), (10, 0, 11), (1, 3, 13)],
    ids=["percent wins", "count wins", "percent alone", "one percent rounds up but count is larger"],
)
def test_an_up_step_is_the_larger_of_percent_and_count(percent: int, count: int, desired: int) -> None:
    workload = make_workload(
        max_replicas=100,
        blind_replicas=90,
        up={"max_increase_percent": percent, "max_increase_replicas": count},
    )
    long_blind = make_memory(replicas=10, **_blind())

    decision = decide_one(
        make_snapshot(workload, make_deployment(replicas=10), pods=make_pods(10), utilization=None),
        long_blind,
    )

    assert (decision.desired, reasons(decision)) == (desired, (LimitReason.UP_STEP,))


def _blind() -> dict[str, object]:
    from spillway.core.memory import Blindness

    return {"blindness": Blindness(since=NOW - seconds(3600)), "busy_value": None}


@pytest.mark.parametrize(
    ("percent", "count", "desired"),
    [(20, 1, 8), (5, 3, 7), (5, 0, 10), (9, 1, 9)],
    ids=["percent wins", "count wins", "percent rounds down to nothing", "one at least"],
)
def test_a_down_step_is_the_larger_of_percent_and_count(percent: int, count: int, desired: int) -> None:
    workload = make_workload(down={"max_decrease_percent": percent, "max_decrease_replicas": count})
    snapshot = make_snapshot(workload, make_deployment(replicas=10), utilization=0.1)

    assert decide_one(snapshot, make_memory(replicas=10)).desired == desired


@pytest.mark.case("workload-autoscalers D36")
def test_a_step_counts_from_the_highest_count_of_the_last_minute() -> None:
    workload = make_workload()
    seen = ((NOW - seconds(7200), 10), (NOW - seconds(45), 9), (NOW - seconds(30), 8))
    snapshot = make_snapshot(workload, make_deployment(replicas=8), utilization=0.1)

    # 20 % of 10 is 2, and two are gone already
    assert decide_one(snapshot, make_memory(seen=seen)).desired == 8


@pytest.mark.case("workload-autoscalers D36")
def test_a_count_that_stood_more_than_a_minute_ago_no_longer_binds() -> None:
    seen = ((NOW - seconds(7200), 10), (NOW - seconds(60), 8))
    snapshot = make_snapshot(make_workload(), make_deployment(replicas=8), utilization=0.1)

    assert decide_one(snapshot, make_memory(seen=seen)).desired == 7


@pytest.mark.parametrize(
    ("streak", "is_held"),
    [
        pytest.param({"high": 0, "high_since": None}, True, id="first high collection"),
        pytest.param({"high": 1, "high_since": NOW - seconds(15)}, True, id="15 of 30 s"),
        pytest.param({"high": 1, "high_since": NOW - seconds(30)}, False, id="30 s, two collections"),
        pytest.param({"high": 1, "high_since": NOW - seconds(29.99)}, False, id="a collection some ms early"),
    ],
)
def test_growth_waits_for_the_up_window(streak: dict[str, object], *, is_held: bool) -> None:
    last = NOW - seconds(15)
    streaks = Streaks(collected_at=last, newest_sample=last - seconds(5), fresh=9, **streak)  # type: ignore[arg-type]

    decision = decide_one(make_snapshot(utilization=0.9), make_memory(streaks=streaks))

    assert (reasons(decision) == (LimitReason.UP_WINDOW,)) is is_held


def test_a_short_up_window_still_needs_two_collections() -> None:
    last = NOW - seconds(15)
    streaks = Streaks(collected_at=last, newest_sample=last - seconds(5), fresh=9)

    decision = decide_one(
        make_snapshot(make_workload(up={"window": seconds(1)}), utilization=0.9), make_memory(streaks=streaks)
    )

    assert reasons(decision) == (LimitReason.UP_WINDOW,)


@pytest.mark.parametrize(
    ("window", "desired"),
    [
        pytest.param({"since": NOW - seconds(285)}, 4, id="not watched for all of it"),
        pytest.param({"since": NOW - seconds(300)}, 3, id="watched for exactly all of it"),
        pytest.param({"floors": ((NOW - seconds(200), 4),)}, 4, id="all were needed meanwhile"),
        pytest.param({"floors": ((NOW - seconds(301), 4),)}, 3, id="needed before it"),
        pytest.param({"above_low_at": NOW - seconds(299)}, 4, id="above low meanwhile"),
        pytest.param({"above_low_at": NOW - seconds(300)}, 3, id="above low before it"),
        pytest.param({"last": NOW - seconds(76)}, 4, id="with a gap before now"),
    ],
)
def test_going_down_takes_the_highest_need_of_the_window(window: dict[str, object], desired: int) -> None:
    values = {"since": NOW - seconds(9999), "last": NOW - seconds(15), **window}

    decision = decide_one(make_snapshot(utilization=0.1), make_memory(window=DownWindow(**values)))  # type: ignore[arg-type]

    assert (decision.desired, LimitReason.DOWN_WINDOW in reasons(decision)) == (desired, desired == 4)


@pytest.mark.parametrize(("age", "desired"), [(299, 4), (300, 3)])
def test_going_down_waits_after_the_last_replica_turned_ready(age: float, desired: int) -> None:
    pods = [*make_pods(3), *make_pods(1, start=3, since=NOW - seconds(age))]

    assert decide_one(make_snapshot(pods=pods, utilization=0.1)).desired == desired


@pytest.mark.parametrize(("age", "desired"), [(59, 4), (60, 5)])
def test_going_up_waits_after_a_reduction(age: float, desired: int) -> None:
    memory = make_memory(last_down_at=NOW - seconds(age))

    assert decide_one(make_snapshot(utilization=0.9), memory).desired == desired


def test_a_rollout_freezes_going_down() -> None:
    decision = decide_one(make_snapshot(deployment=make_deployment(updated_replicas=1), utilization=0.1))

    assert (decision.desired, reasons(decision)[-1]) == (4, LimitReason.ROLLOUT_IN_PROGRESS)


def test_a_rollout_allows_one_step_up_in_all() -> None:
    deployment = make_deployment(replicas=8, updated_replicas=1)
    memory = make_memory(replicas=8, rollout_base=4)

    decision = decide_one(make_snapshot(deployment=deployment, utilization=0.95), memory)

    assert (decision.desired, reasons(decision)) == (8, (LimitReason.ROLLOUT_IN_PROGRESS,))


@pytest.mark.parametrize(("pegged", "desired"), [(0, 5), (1, 6)], ids=["once", "twice"])
def test_full_gpus_grow_by_half_at_the_second_look(pegged: int, desired: int) -> None:
    last = NOW - seconds(15)
    streaks = Streaks(
        collected_at=last,
        newest_sample=last - seconds(5),
        fresh=9,
        high=9,
        high_since=NOW - seconds(99),
        pegged=pegged,
    )

    assert decide_one(make_snapshot(utilization=1.0), make_memory(streaks=streaks)).desired == desired


@pytest.mark.case("workload-autoscalers D37")
def test_every_limit_that_changed_the_count_is_reported_in_the_fixed_order() -> None:
    workload = make_workload(max_replicas=40)
    snapshot = make_snapshot(workload, make_deployment(replicas=20, updated_replicas=1), utilization=0.2)
    memory = make_memory(
        replicas=20,
        window=DownWindow(
            since=NOW - seconds(9999), last=NOW - seconds(15), floors=((NOW - seconds(99), 18),)
        ),
    )

    decision = decide_one(snapshot, memory)

    # 20 at 20 % need 4 / .8 = 5; N−1 safe are 4 / .72 = 6; a step is 20 %; 18 were needed; a rollout freezes the rest
    assert [(limit.reason, limit.before, limit.after) for limit in decision.limits] == [
        (LimitReason.N_MINUS_ONE, 5, 6),
        (LimitReason.DOWN_STEP, 6, 16),
        (LimitReason.DOWN_WINDOW, 16, 18),
        (LimitReason.ROLLOUT_IN_PROGRESS, 18, 20),
    ]
    order = list(LimitReason)
    assert list(reasons(decision)) == sorted(reasons(decision), key=order.index)


def test_a_limit_that_changes_nothing_is_not_reported() -> None:
    assert decide_one(make_snapshot(utilization=0.6)).limits == ()


def test_the_plan_asks_to_be_woken_when_a_limit_runs_out() -> None:
    from tests.builders import plan_of

    plan = plan_of(make_snapshot(utilization=0.9), make_memory(last_down_at=NOW - seconds(40)))

    assert plan.wake_at == NOW + seconds(20)
