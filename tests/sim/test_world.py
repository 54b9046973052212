"""What a policy is judged by, in worlds small enough to be reckoned by hand: three hours, the third of them scored."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from spillway.sim.traces import Demand, Spot
from spillway.sim.world import PeerFleet, Scenario, Score, Seen, Terms, play, whole

HOUR = 3600.0


class Wants:
    """A policy that wants the same all the time, and keeps what it has seen."""

    name = "wants"

    def __init__(self, **wanted: int) -> None:
        self.wanted: Mapping[str, int] = {name.replace("_", "-"): count for name, count in wanted.items()}
        self.seen: list[Seen] = []

    def decide(self, seen: Seen) -> Mapping[str, int]:
        self.seen.append(seen)
        return self.wanted


def steps(*points: tuple[float, float]) -> Demand:
    """Load by hour; a last point at three hours less a minute makes it last three hours."""
    end = (3 * HOUR - 60, points[-1][1])
    times = [(hour * HOUR, load) for hour, load in points]
    times += [(end[0] - 60, end[1]), end]
    return Demand(times=tuple(at for at, _ in times), values=tuple(load for _, load in times))


def zone(*points: tuple[float, int]) -> Spot:
    return Spot(seconds=24 * HOUR, zones={"a": tuple((hour * HOUR, count) for hour, count in points)})


def scored(scenario: Scenario, peer: Wants) -> Score:
    return play(scenario, PeerFleet(scenario, peer), name=peer.name, keep_series=True)


def test_what_serves_all_the_time_costs_its_price_and_misses_nothing() -> None:
    score = scored(Scenario(demand=steps((0, 2.0)), spot=None), Wants(on_demand=2))

    # two machines for the third hour at 3.06
    assert score.cost_usd == pytest.approx(6.12)
    assert score.cost_share_of_static_peak == pytest.approx(1.0)
    assert (score.missed_load_share, score.overloaded_minutes_share) == (0, 0)
    assert score.on_demand_hours == pytest.approx(2.0)


def test_load_above_what_serves_is_missed() -> None:
    score = scored(Scenario(demand=steps((0, 2.0), (2.5, 3.0)), spot=None), Wants(on_demand=2))

    # half an hour of 2 and half an hour of 3 are 2.5 replica hours; 0.5 of them found none
    assert score.missed_load_share == pytest.approx(0.2)
    assert score.overloaded_minutes_share == pytest.approx(0.5)
    assert score.cost_share_of_static_peak == pytest.approx(2 / 3)


def test_the_first_two_hours_count_for_nothing() -> None:
    score = scored(Scenario(demand=steps((0, 9.0), (2.0, 2.0)), spot=None), Wants(on_demand=2))

    assert score.missed_load_share == 0
    assert score.cost_usd == pytest.approx(6.12)


@pytest.mark.parametrize(
    ("cold_start", "not_yet", "serves"),
    [pytest.param(240, 180, 240, id="240 s"), pytest.param(600, 540, 600, id="600 s")],
)
def test_a_machine_serves_a_cold_start_after_its_grant(cold_start: int, not_yet: int, serves: int) -> None:
    terms = Terms(cold_start=timedelta(seconds=cold_start))
    score = scored(Scenario(demand=steps((0, 1.0)), spot=None, terms=terms), Wants(on_demand=1))

    ready = {seconds: on_demand for seconds, _, on_demand, _ in score.series}
    assert (ready[not_yet], ready[serves]) == (0, 1)


def test_a_zone_that_ends_takes_its_machines_after_their_notice_and_they_are_paid_until_then() -> None:
    scenario = Scenario(demand=steps((0, 2.0)), spot=zone((0, 2), (2.5, 0)))
    score = scored(scenario, Wants(a=2))

    # 1680 s of the 3600 are left when the notice of 120 s has run out; two machines for 1920 s at 0.918
    assert score.losses == 2
    assert score.missed_load_share == pytest.approx(1680 / 3600)
    assert score.cost_usd == pytest.approx(0.9792)


def test_without_a_notice_machines_go_at_once() -> None:
    scenario = Scenario(demand=steps((0, 2.0)), spot=zone((0, 2), (2.5, 0)), terms=Terms(notice=timedelta(0)))

    assert scored(scenario, Wants(a=2)).missed_load_share == pytest.approx(0.5)


def test_a_notice_is_seen_once_as_a_loss_and_stays_seen_as_doomed() -> None:
    peer = Wants(a=2)
    scored(Scenario(demand=steps((0, 2.0)), spot=zone((0, 2), (2.5, 0))), peer)

    lost = [seen.seconds for seen in peer.seen if seen.lost]
    doomed = [seen.seconds for seen in peer.seen if seen.doomed["a"] == 2]
    assert lost == [9000.0]
    assert doomed == [9000.0 + 10 * step for step in range(12)]


def test_a_request_that_finds_nothing_is_refused_after_a_minute_and_costs_nothing() -> None:
    peer = Wants(a=1)
    score = scored(Scenario(demand=steps((0, 1.0)), spot=zone((0, 0))), peer)

    refused = [seen.seconds for seen in peer.seen if "a" in seen.refused]
    assert refused[:2] == [60.0, 120.0]
    assert (score.cost_usd, score.missed_load_share) == (0, 1)


def test_utilization_saturates_and_what_found_no_replica_waits() -> None:
    peer = Wants(on_demand=2)
    scored(Scenario(demand=steps((0, 1.0), (2.0, 3.0)), spot=None), peer)

    calm, short = (next(seen for seen in peer.seen if seen.seconds == at) for at in (7000.0, 8000.0))
    assert (calm.utilization, calm.running, calm.waiting) == (0.5, 1.0, 0.0)
    assert (short.utilization, short.running, short.waiting) == (1.0, 2.0, 1.0)


def test_no_policy_gets_more_than_three_times_the_peak() -> None:
    score = scored(Scenario(demand=steps((0, 2.0)), spot=None), Wants(on_demand=100))

    assert max(on_demand for _, _, on_demand, _ in score.series) == 6


def test_prices_are_those_of_the_terms() -> None:
    scenario = Scenario(demand=steps((0, 2.0)), spot=zone((0, 9)), terms=Terms(spot_price=Decimal(1)))

    assert scored(scenario, Wants(a=2)).cost_usd == pytest.approx(2.0)


def test_progress_grows_to_the_whole() -> None:
    scenario = Scenario(demand=steps((0, 1.0)), spot=None)
    told: list[float] = []

    play(scenario, PeerFleet(scenario, Wants(on_demand=1)), name="wants", progress=told.append)

    assert told == pytest.approx([0.0, 1 / 3, 2 / 3, 1.0])


@pytest.mark.parametrize(
    ("load", "replicas"),
    [
        pytest.param(0.0, 0, id="nothing"),
        pytest.param(0.1, 1, id="a little"),
        pytest.param(2.0000000001, 2, id="float noise"),
        pytest.param(2.01, 3, id="more than two"),
    ],
)
def test_load_is_carried_by_whole_replicas(load: float, replicas: int) -> None:
    assert whole(load) == replicas


def test_the_series_is_kept_only_where_it_is_asked_for() -> None:
    scenario = Scenario(demand=steps((0, 1.0)), spot=None)
    bare = play(scenario, PeerFleet(scenario, Wants(on_demand=1)), name="wants")

    assert bare == replace(scored(scenario, Wants(on_demand=1)), series=())
