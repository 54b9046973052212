"""Spillway in simulated time: the real decisions on a real market, hours in seconds."""

from dataclasses import replace

import pytest

from spillway.sim import spillway
from spillway.sim.traces import Demand, Spot
from spillway.sim.world import Scenario, Score, play

HOUR = 3600.0


def steady(load: float, hours: float = 3) -> Demand:
    """One load for so long; the last of two points holds as long as the first."""
    return Demand(times=(0.0, hours * HOUR / 2), values=(load, load))


def zones(**counts: int) -> Spot:
    """Zones with so many instances for ever."""
    return Spot(seconds=24 * HOUR, zones={name: ((0.0, count),) for name, count in counts.items()})


def score_of(scenario: Scenario) -> Score:
    return play(scenario, spillway.fleet(scenario), name=spillway.NAME)


def test_a_steady_load_runs_on_its_baseline_and_on_spot() -> None:
    score = score_of(Scenario(demand=steady(6.0), spot=zones(a=20, b=20)))

    assert score.missed_load_share == 0
    assert score.spot_hours > 4 * score.on_demand_hours


def test_without_a_spot_trace_everything_runs_on_demand() -> None:
    score = score_of(Scenario(demand=steady(3.0), spot=None))

    assert (score.missed_load_share, score.spot_hours) == (0, 0)


def test_where_spot_has_nothing_to_give_the_load_is_carried_on_demand() -> None:
    score = score_of(Scenario(demand=steady(4.0), spot=zones(a=0, b=0)))

    assert (score.missed_load_share, score.spot_hours) == (0, 0)


def test_what_one_zone_takes_back_is_replaced_before_load_is_missed() -> None:
    spot = replace(zones(a=20, b=20), zones={"a": ((0.0, 20), (2.2 * HOUR, 0)), "b": ((0.0, 20),)})

    score = score_of(Scenario(demand=steady(6.0), spot=spot))

    # Losses are told 120 s before and a start takes 240 s, so some is missed: less than the gap for half of the replicas.
    assert score.losses > 0
    assert score.missed_load_share < 0.5 * 120 / HOUR


def test_the_same_scenario_gives_the_same_score() -> None:
    scenario = Scenario(demand=steady(2.0, hours=2.2), spot=zones(a=4, b=4))

    assert score_of(scenario) == score_of(scenario)


def test_a_workload_that_breaks_a_rule_is_refused_by_its_field() -> None:
    with pytest.raises(ValueError, match=r"spec\.capacity\.baselineReplicas"):
        spillway.workload_of(
            {"targetRef": {"name": "m"}, "maxReplicas": 2, "capacity": {"baselineReplicas": 3}}
        )
