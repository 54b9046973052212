"""How many replicas are worth their money, on spot and on demand."""

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.builders import NOW, seconds

from spillway.core.growth import growth_of, prior
from spillway.core.memory import GrowthMemory
from spillway.core.spare import (
    Holding,
    Outlook,
    burst_worth_having,
    in_words,
    loss_chance,
    noted,
    price_ratio,
    stand_ins_worth_having,
    with_floating,
    worth_asked,
)

HOUR = timedelta(hours=1)


def outlook(
    *counts: int, load: float = 8.0, chance: float = 0.05, room: int = 9, target: float = 0.001
) -> Outlook:
    """A load that grows as the prior says, and so many replicas in each of the pools a, b, c …"""
    growth = growth_of(GrowthMemory(load=load, raw=load, weights=prior()))
    assert growth is not None
    asked = worth_asked(target)
    holdings = tuple(
        Holding(pool="abcdefghi"[index], count=count, chance=chance, room=room)
        for index, count in enumerate(counts)
    )
    return Outlook(growth=growth, holdings=holdings, spot_worth=asked, on_demand_worth=asked * 8)


def spot_for(view: Outlook, *, need: int = 8, most: int = 40) -> int:
    return burst_worth_having(view, on_demand=1, need=need, most=most)


def test_spare_is_kept_for_growth_and_loss() -> None:
    assert spot_for(outlook(8, 0, 0)) > 8


def test_the_more_may_be_lost_at_once_the_more_is_kept() -> None:
    assert spot_for(outlook(12, 0)) > spot_for(outlook(4, 4, 4, 0))


def test_a_pool_that_is_lost_more_often_asks_for_more() -> None:
    assert spot_for(outlook(6, 6, chance=0.3)) > spot_for(outlook(6, 6, chance=0.01))


def test_a_smaller_target_keeps_more() -> None:
    found = [spot_for(outlook(4, 4, 4, target=target)) for target in (0.01, 0.001, 0.0001)]

    assert found == sorted(found)
    assert found[0] < found[-1]


def test_never_fewer_than_are_needed_nor_more_than_there_may_be() -> None:
    assert spot_for(outlook(0, 0, load=1.0), need=8) == 8
    assert spot_for(outlook(8, 0, load=30.0), most=9) == 9


def test_pools_without_room_are_not_asked() -> None:
    assert spot_for(outlook(4, 4, load=20.0, room=0)) == 8


def test_what_is_worth_having_is_a_fixed_point() -> None:
    view = outlook(3, 3, 3)
    more = with_floating(view, spot_for(view) - view.spot)

    assert spot_for(more) == more.spot


def test_stand_ins_are_bought_only_where_spot_is_far_from_enough() -> None:
    enough, short = outlook(6, 6), outlook(2, 2)

    assert stand_ins_worth_having(enough, on_demand=1, most=8) == 0
    assert stand_ins_worth_having(short, on_demand=1, most=8) > 2


def test_a_stand_in_needs_less_worth_to_stay_than_to_come() -> None:
    view = outlook(4, 4)

    assert view.return_worth < view.on_demand_worth


def test_floating_replicas_go_where_least_is_at_stake() -> None:
    view = replace(
        outlook(2, 2, 2),
        holdings=(
            Holding(pool="a", count=2, chance=0.3, room=5),
            Holding(pool="b", count=2, chance=0.1, room=5),
            Holding(pool="c", count=0, chance=0.2, room=0),
        ),
    )

    found = with_floating(view, 3)

    assert [holding.count for holding in found.holdings] == [2, 5, 0]


@pytest.mark.parametrize(
    ("losses", "hours", "expected"),
    [
        pytest.param(0, 0, 4 / 8, id="nothing known: one loss in eight hours"),
        pytest.param(0, 32, 4 / 40, id="a day and more without one"),
        pytest.param(3, 8, 1.0, id="three in eight hours: never above 1"),
    ],
)
def test_the_chance_of_a_loss_follows_from_the_pools_record(
    losses: float, hours: float, expected: float
) -> None:
    assert loss_chance(losses=losses, held_hours=hours, gap=HOUR) == pytest.approx(expected)


class TestHeld:
    """Surplus waits before it goes."""

    def test_the_most_of_the_last_minutes_counts(self) -> None:
        entries = noted((), 3, cold_start=seconds(0), now=NOW)
        entries = noted(entries, 1, cold_start=seconds(0), now=NOW + seconds(299))

        assert entries[0][1] == 3

    def test_after_them_it_is_let_go(self) -> None:
        entries = noted((), 3, cold_start=seconds(0), now=NOW)
        entries = noted(entries, 1, cold_start=seconds(0), now=NOW + seconds(301))

        assert entries[0][1] == 1

    def test_a_slower_start_holds_longer(self) -> None:
        entries = noted((), 3, cold_start=seconds(600), now=NOW)
        entries = noted(entries, 1, cold_start=seconds(600), now=NOW + seconds(600))

        assert entries[0][1] == 3


def test_prices_that_are_not_known_are_taken_for_the_usual_ones() -> None:
    assert price_ratio({True: 1.0, False: 2.5}) == 2.5
    assert price_ratio({False: 2.5}) == pytest.approx(3.33)


def test_it_says_in_words_what_is_kept_to_spare_for() -> None:
    told = in_words(outlook(4, 2, chance=0.05), cold_start=seconds(240))

    # 4 * 240 / 3600 / 0.05 = 5.3 h
    assert told == (
        "load 8.0 may reach 10.5 in the 240 s a new replica takes; most is at stake in a: 4 replicas, lost about every 5 h"
    )
