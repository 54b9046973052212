"""A recorded past as demand: what is known, what is held, what is cut out, and what really ran beside it."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from spillway.core.recorded import RecordedInstant
from spillway.sim.history import (
    Gaps,
    History,
    HistoryError,
    document,
    history_of,
    really_ran,
    sentences,
    verdict,
)
from spillway.sim.results import Results, table
from spillway.sim.world import Scenario, Score, Terms

T0 = datetime(2026, 11, 1, tzinfo=UTC)
NO_GAP = Gaps(count=0, minutes=0, longest=0)


def minute(number: int, *, busy: float = 1.0, pods: int = 2, **facts: int | None) -> RecordedInstant:
    """Return what was recorded in a minute, counted from 1: one that ends as minute 1 began at T0."""
    return RecordedInstant(
        at=T0 + number * timedelta(minutes=1),
        **{"sampled": pods, "serving": pods, "ready": pods, "busy": busy, **facts},  # type: ignore[arg-type]
    )


def past(numbers: Iterable[int], **facts: float) -> History:
    return history_of([minute(number, **facts) for number in numbers])  # type: ignore[arg-type]


def without(*missing: int, of: int = 40) -> list[int]:
    return [number for number in range(1, of + 1) if number not in missing]


def test_each_minute_is_one_value_of_the_demand() -> None:
    history = history_of([minute(1, busy=0.5), minute(2, busy=1.5), minute(3, busy=0.25)])

    assert (history.demand.times, history.demand.values) == ((0, 60, 120), (0.5, 1.5, 0.25))
    assert history.demand.seconds == 180
    assert (history.begins, history.ends) == (T0, T0 + timedelta(minutes=3))


def test_a_gap_of_ten_minutes_is_played_as_the_minute_before() -> None:
    found = [minute(1, busy=1.5, pods=3), *(minute(number) for number in range(12, 40))]

    history = history_of(found)

    assert history.demand.values[:12] == (1.5,) * 11 + (1.0,)
    assert [each.replicas for each in history.minutes[:12]] == [3] * 11 + [2]
    assert (history.held, history.cut) == (Gaps(count=1, minutes=10, longest=10), NO_GAP)


def test_a_gap_of_eleven_minutes_is_cut_out() -> None:
    history = past([1, *range(13, 41)])

    assert len(history.minutes) == 29
    assert (history.held, history.cut) == (NO_GAP, Gaps(count=1, minutes=11, longest=11))


def test_gaps_are_counted_and_the_longest_told() -> None:
    history = past(without(3, 7, 8, *range(20, 32), of=60))

    assert history.held == Gaps(count=2, minutes=3, longest=2)
    assert history.cut == Gaps(count=1, minutes=12, longest=12)
    assert history.seen_share == pytest.approx(45 / 60)


def test_what_comes_before_the_first_known_minute_and_after_the_last_is_no_gap() -> None:
    unknown = [minute(1, busy=0, serving=0), minute(9, busy=0, serving=0)]

    history = history_of([unknown[0], minute(4), minute(5), unknown[1]])

    assert (len(history.minutes), history.seen_share) == (2, 1.0)


def test_pods_that_were_ready_without_samples_are_a_gap_and_no_idle_time() -> None:
    blind = [minute(number, busy=0, sampled=0, serving=0) for number in range(3, 6)]

    history = history_of([minute(1), minute(2), *blind, minute(6)])

    assert history.demand.values == (1.0,) * 6
    assert history.held.minutes == 3


def test_a_workload_that_was_set_to_zero_had_no_load_and_that_is_told() -> None:
    stopped = [RecordedInstant(at=T0 + number * timedelta(minutes=1), asked=0) for number in (3, 4)]

    history = history_of([minute(1), minute(2), *stopped])

    assert history.demand.values == (1, 1, 0, 0)
    assert (history.stopped_share, history.seen_share) == (0.5, 1.0)
    assert any("Set to 0 replicas for 50.0 % of the time" in told for told in sentences(history))


def test_the_share_of_time_with_full_gpus_is_told() -> None:
    history = history_of([minute(1, busy=1.9), minute(2, busy=1.89), minute(3, busy=2), minute(4)])

    assert history.pegged_share == 0.5
    assert any(
        "GPUs were full (mean of 95 % or more) for 50.0 % of the time" in told for told in sentences(history)
    )


def test_a_held_minute_is_not_said_to_be_full() -> None:
    history = history_of([minute(1, busy=2), minute(3, busy=2)])

    assert history.pegged_share == pytest.approx(2 / 3)


def test_without_readiness_that_is_told() -> None:
    history = history_of([minute(1, ready=None)])

    assert any("No kube_pod_status_ready was recorded" in told for told in sentences(history))


def test_the_time_and_its_gaps_are_told() -> None:
    told = next(sentences(past(without(3, *range(20, 31), of=60))))

    assert told == (
        "Recorded 2026-11-01 00:00 UTC to 2026-11-01 01:00 UTC, 80.0 % of it seen. Gaps of up to 10 min (1 gap, 1 min in all, "
        "the longest 1 min) are played as the minute before, longer ones (1 gap, 11 min in all, the longest 11 min) are cut out."
    )


def test_a_part_of_the_past_has_the_gaps_of_that_part() -> None:
    history = past(without(3, of=2880))

    assert history.part(start_days=0, days=1).held.count == 1
    assert history.part(start_days=1, days=7).held.count == 0
    assert len(history.part(start_days=1, days=7).minutes) == 1440


@pytest.mark.parametrize(
    ("instants", "said"),
    [
        pytest.param([], "nothing was recorded of its pods", id="nothing"),
        pytest.param(
            [minute(1, sampled=0, serving=0)],
            "Ready in 1 minutes and none of them had a GPU sample",
            id="blind",
        ),
        pytest.param(
            [RecordedInstant(at=T0, asked=3)], "known in 1 minutes and no pod of it served", id="never up"
        ),
        pytest.param(
            [minute(1), minute(2), minute(60)],
            "only 5 % was recorded; 50 % or more are needed",
            id="mostly unknown",
        ),
    ],
)
def test_a_past_that_tells_too_little_is_refused(instants: list[RecordedInstant], said: str) -> None:
    with pytest.raises(HistoryError, match=said):
        history_of(instants)


# What really ran

TERMS = Terms(on_demand_price=Decimal(4), spot_price=Decimal(1))


def ran(*instants: RecordedInstant, scale: float = 1.0) -> Score:
    """Return what really ran, after two hours of two replicas that are not scored."""
    first = [minute(number) for number in range(1, 121)]
    history = history_of([*first, *instants])
    return really_ran(history, Scenario(demand=history.demand, spot=None, terms=TERMS), scale=scale)


def hour(**facts: int) -> list[RecordedInstant]:
    return [minute(number, **facts) for number in range(121, 181)]  # type: ignore[arg-type]


def test_what_really_ran_is_priced_on_demand_from_the_third_hour_on() -> None:
    score = ran(*hour(pods=3))

    assert (score.policy, score.cost_usd) == ("really-ran", pytest.approx(12.0))
    assert (score.on_demand_hours, score.spot_hours) == (pytest.approx(3.0), 0)


def test_burst_replicas_are_priced_as_spot() -> None:
    score = ran(*hour(pods=3, sampled_burst=2))

    assert (score.on_demand_hours, score.spot_hours) == (pytest.approx(1.0), pytest.approx(2.0))
    assert score.cost_usd == pytest.approx(6.0)


def test_replicas_that_load_are_paid() -> None:
    assert ran(*hour(pods=3, ready=2, serving=2)).on_demand_hours == pytest.approx(3.0)


def test_what_really_ran_is_multiplied_as_the_demand_is() -> None:
    assert ran(*hour(pods=3), scale=2).cost_usd == pytest.approx(24.0)


def test_what_nobody_recorded_is_unknown_and_not_zero() -> None:
    score = ran(*hour())

    assert (score.missed_load_share, score.overloaded_minutes_share, score.losses) == (None, None, None)
    assert table(Results(scores=(score,))).splitlines()[1].split()[5:9] == ["-", "-", "2", "-"]


def test_starts_and_turns_are_counted_where_the_count_changed() -> None:
    later = [minute(121 + index, pods=pods) for index, pods in enumerate([3, 2, 2, 4])]

    score = ran(*later)

    # from 0 to 2, to 3, to 2, to 4
    assert (score.starts, score.flaps) == (5, 2)


OWN = Score(
    policy="spillway", cost_usd=9.0, cost_share_of_static_peak=1, missed_load_share=0.0012,
    overloaded_minutes_share=0, starts=0, losses=0, flaps=0, on_demand_hours=0, spot_hours=0,
)  # fmt: skip
SAID = (
    "Spillway would have cost 9 $ where 12 $ really ran: 25 % less. It would have missed 0.120 % of the load."
)


def test_the_verdict_compares_spillway_with_what_really_ran() -> None:
    real = ran(*hour(pods=3))

    assert verdict(past(range(1, 100)), [OWN, real], policy="spillway") == SAID
    assert verdict(past(range(1, 100)), [real], policy="spillway") is None


def test_gpus_that_were_full_too_often_prove_nothing() -> None:
    full = [minute(number, busy=2.0 if number <= 6 else 1.0) for number in range(1, 101)]

    said = verdict(history_of(full), [OWN, ran(*hour(pods=3))], policy="spillway")

    assert said == f"{SAID} The GPUs were full too often for this to prove it."
    assert verdict(history_of(full[2:]), [OWN, ran(*hour(pods=3))], policy="spillway") == SAID


def test_the_document_says_what_was_known() -> None:
    assert document(past(without(3, *range(20, 32), of=60))) == {
        "begins": "2026-11-01T00:00:00+00:00",
        "ends": "2026-11-01T01:00:00+00:00",
        "days_played": pytest.approx(48 / 1440),
        "seen_share": pytest.approx(47 / 60),
        "held_gaps": {"count": 1, "minutes": 1, "longest_minutes": 1},
        "cut_gaps": {"count": 1, "minutes": 12, "longest_minutes": 12},
        "pegged_share": 0,
        "stopped_share": 0,
        "mean_load": 1.0,
        "busy_share": 0.5,
        "knows_readiness": True,
    }
