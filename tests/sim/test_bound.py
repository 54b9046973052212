"""The clairvoyant bound: cases by hand, the closed form, and what policies really pay."""

import os
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spillway.sim.bound import (
    BoundUnavailable,
    Optimum,
    Problem,
    Zone,
    bound,
    on_demand_only,
    optimum,
    problem_of,
)
from spillway.sim.peers import peers
from spillway.sim.traces import Demand, Spot, read_demand
from spillway.sim.world import PeerFleet, Scenario, Terms, play

HOUR = 3600.0
TRACES = Path(os.environ.get("SPILLWAY_TRACES", Path(__file__).parents[3] / "shared" / "traces"))
M_LARGE = TRACES / "demand_servegen_mlarge_60s.csv.gz"


def steady(load: float, hours: float) -> Demand:
    """One load; of two points each holds for half of the time."""
    return Demand(times=(0.0, hours * HOUR / 2), values=(load, load))


def open_always(minutes: int, count: int) -> Zone:
    return Zone(grants=(count,) * minutes, holds=(count,) * minutes)


@pytest.mark.parametrize(
    ("need", "cold", "expected"),
    [
        pytest.param([1, 0, 0, 0, 1], 2, 4, id="a long gap is started through"),
        pytest.param([1, 0, 0, 0, 1], 4, 5, id="a short gap is kept"),
        pytest.param([0, 0, 0, 1], 2, 3, id="the first start is paid within the window"),
        pytest.param([0, 1], 4, 2, id="or was begun before it"),
        pytest.param([1, 0, 0], 2, 1, id="what follows costs nothing"),
        pytest.param([2, 1, 2], 5, 6, id="each level alone"),
        pytest.param([0, 0], 2, 0, id="nothing to carry"),
        pytest.param([3, 0, 3], 0, 6, id="without a cold start"),
    ],
)
def test_on_demand_alone_costs_what_it_costs_by_hand(need: list[int], cold: int, expected: int) -> None:
    assert on_demand_only(need, cold=cold) == expected


@given(
    need=st.lists(st.integers(0, 4), min_size=1, max_size=30),
    cold=st.integers(0, 6),
    baseline=st.integers(0, 2),
)
@settings(max_examples=100, deadline=None)
def test_the_linear_program_equals_the_closed_form_on_demand_alone(
    need: list[int], cold: int, baseline: int
) -> None:
    found = optimum(Problem(need=tuple(need), cold=cold, on_demand_price=1.0, baseline=baseline))

    expected = on_demand_only([max(count, baseline) for count in need], cold=cold)
    assert found.cost == pytest.approx(expected, abs=1e-6)
    assert found.is_whole


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        # Four minutes of one replica, a minute of cold start, on demand 1 a minute, spot 0.3.
        pytest.param(open_always(4, 1), 1.2, id="always there"),
        pytest.param(open_always(4, 0), 4.0, id="never there"),
        # Two minutes on spot, the third and fourth on demand, started in the second.
        pytest.param(Zone(grants=(1, 1, 0, 0), holds=(1, 1, 0, 0)), 3.6, id="taken after two minutes"),
        # Three minutes on spot, the fourth on demand, started in the third.
        pytest.param(Zone(grants=(1, 1, 0, 0), holds=(1, 1, 1, 0)), 2.9, id="taken with a notice of one"),
        # Three minutes on demand while spot starts in the third.
        pytest.param(Zone(grants=(0, 0, 1, 1), holds=(0, 0, 1, 1)), 3.6, id="there from the third on"),
        # Nothing is granted any more, so what was let go would not come back; what is held stays.
        pytest.param(Zone(grants=(0, 0, 0, 0), holds=(1, 1, 0, 0)), 3.6, id="held and not granted"),
    ],
)
def test_spot_beside_on_demand_costs_what_it_costs_by_hand(zone: Zone, expected: float) -> None:
    problem = Problem(need=(1, 1, 1, 1), cold=1, on_demand_price=1.0, spot_price=0.3, zones=(zone,))

    found = optimum(problem)

    assert found == Optimum(cost=pytest.approx(expected, abs=1e-6), is_whole=True)


def test_a_zone_holds_no_more_than_it_has() -> None:
    problem = Problem(
        need=(3, 3), cold=1, on_demand_price=1.0, spot_price=0.3, zones=(open_always(2, 1), open_always(2, 1))
    )

    # Two on spot, one on demand, for two minutes.
    assert optimum(problem).cost == pytest.approx(2 * (0.6 + 1.0), abs=1e-6)


def test_what_starts_takes_a_place_in_its_zone() -> None:
    # One place: held through, or let go and started again, never both; the gap of three is bridged by one start.
    problem = Problem(
        need=(1, 0, 0, 0, 1), cold=2, on_demand_price=1.0, spot_price=0.5, zones=(open_always(5, 1),)
    )

    assert optimum(problem).cost == pytest.approx(2.0, abs=1e-6)


def test_the_baseline_is_paid_on_demand_also_where_spot_would_do() -> None:
    problem = Problem(
        need=(2, 2), cold=1, on_demand_price=1.0, spot_price=0.3, zones=(open_always(2, 5),), baseline=1
    )

    assert optimum(problem).cost == pytest.approx(2 * (1.0 + 0.3), abs=1e-6)


def test_a_notice_lets_a_zone_hold_what_it_no_longer_grants() -> None:
    # Nothing is there from 2 h 3 min on, told two minutes before the end.
    spot = Spot(seconds=24 * HOUR, zones={"a": ((0.0, 2), (2 * HOUR + 180, 0))})
    scenario = Scenario(demand=steady(1.0, 2 + 7 / 60), spot=spot)

    problem = problem_of(scenario, baseline=0)

    assert problem.zones == (Zone(grants=(2, 2, 2, 0, 0, 0, 0), holds=(2, 2, 2, 2, 2, 0, 0)),)
    assert problem.need == (1, 1, 1, 1, 1, 1, 1)
    assert problem.cold == 4


def test_a_steady_load_where_spot_is_plenty_costs_its_spot_price() -> None:
    scenario = Scenario(demand=steady(4.0, 3), spot=Spot(seconds=24 * HOUR, zones={"a": ((0.0, 10),)}))

    found = bound(scenario, baseline=1)

    # One hour that counts: 4 x 0.918, with the baseline 3.06 + 3 x 0.918, on demand 4 x 3.06.
    assert found.free_cost_usd == pytest.approx(3.672, abs=1e-6)
    assert found.cost_usd == pytest.approx(5.814, abs=1e-6)
    assert found.on_demand_cost_usd == pytest.approx(12.24, abs=1e-6)
    assert found.is_whole


def test_a_static_fleet_attains_the_bound_of_a_steady_load_on_demand() -> None:
    scenario = Scenario(demand=steady(3.0, 3), spot=None)

    score = play(scenario, PeerFleet(scenario, peers(scenario)["static-peak"]()), name="static-peak")

    assert score.cost_usd == pytest.approx(bound(scenario, baseline=0).cost_usd, abs=0.05)


@pytest.mark.parametrize("seconds_of_notice", [0, 120])
def test_no_peer_that_misses_nothing_pays_less_than_the_bound(seconds_of_notice: int) -> None:
    demand = Demand(
        times=tuple(1800.0 * index for index in range(10)),
        values=(2.0, 3.0, 4.0, 5.0, 4.0, 4.0, 3.0, 3.0, 2.0, 2.0),
    )
    spot = Spot(
        seconds=24 * HOUR,
        zones={
            "a": ((0.0, 9), (3 * HOUR, 0), (3.5 * HOUR, 9)),
            "b": ((0.0, 9),),
            "c": ((0.0, 0), (2.5 * HOUR, 4)),
        },
    )
    terms = Terms(notice=timedelta(seconds=seconds_of_notice))
    scenario = Scenario(demand=demand, spot=spot, terms=terms)
    least = bound(scenario, baseline=0).cost_usd

    scores = [
        play(scenario, PeerFleet(scenario, make()), name=name) for name, make in peers(scenario).items()
    ]
    passed = [score for score in scores if score.missed_load_share == 0]

    assert {score.policy for score in passed} >= {"static-peak", "hpa-0.5", "spothedge-0.7-2"}
    assert all(score.cost_usd >= least for score in passed)


def test_a_demand_that_ends_before_scores_begin_is_refused() -> None:
    with pytest.raises(ValueError, match="scores begin at 7200 s"):
        bound(Scenario(demand=steady(1.0, 1), spot=None), baseline=0)


def test_without_scipy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)

    with pytest.raises(BoundUnavailable, match=r"spillway\[sim\]"):
        optimum(Problem(need=(1,), cold=1, on_demand_price=1.0))


@pytest.mark.skipif(not M_LARGE.exists(), reason="the trace of m-large is not at hand (SPILLWAY_TRACES)")
@pytest.mark.parametrize(("cold_seconds", "expected"), [(240, 0.376), (600, 0.386)])
def test_a_week_of_m_large_on_demand_alone_costs_what_the_field_report_found(
    cold_seconds: int, expected: float
) -> None:
    demand = read_demand(M_LARGE).part(start=0.0, seconds=7 * 24 * HOUR).scaled_to(10)
    terms = Terms(cold_start=timedelta(seconds=cold_seconds))
    scenario = Scenario(demand=demand, spot=None, terms=terms)

    problem = problem_of(scenario, baseline=0)

    static_peak = scenario.peak * len(problem.need)
    share = on_demand_only(problem.need, cold=problem.cold) / static_peak
    assert share == pytest.approx(expected, abs=1e-3)
