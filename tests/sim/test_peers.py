"""Peers do what their own documentation says: its worked examples, and a short run of each in the world."""

from collections.abc import Mapping

import pytest

from spillway.sim.peers import (
    Clock,
    DayAhead,
    Hpa,
    HpaBehavior,
    Kpa,
    Mixed,
    Nodes,
    Pods,
    WindowMax,
    Zones,
    hpa_desired,
    keda_desired,
    on_demand_beside,
    peers,
    percentile,
    spothedge_sweep,
)
from spillway.sim.traces import Demand, Spot
from spillway.sim.world import ON_DEMAND, PeerFleet, Scenario, Score, Seen, play

HOUR = 3600.0
NAMES = {
    "static-peak",
    "static-p95",
    "hpa-0.5",
    "hpa-0.7",
    "hpa-0.8",
    "keda-queue",
    "knative-kpa",
    "spot-only",
    "mix-10",
    "spothedge-0.8-1",
    "spothedge-0.7-2",
    "day-ahead",
}


def pods(
    seconds: float = 0.0,
    *,
    ready: int,
    replicas: int | None = None,
    utilization: float = 0.5,
    load: float = 0.0,
) -> Pods:
    return Pods(
        seconds=seconds,
        replicas=ready if replicas is None else replicas,
        ready=ready,
        utilization=utilization,
        load=load,
    )


def seen(
    *,
    ready: Mapping[str, int] | None = None,
    starting: Mapping[str, int] | None = None,
    refused: frozenset[str] = frozenset(),
    utilization: float = 0.5,
    seconds: float = 0.0,
) -> Seen:
    return Seen(
        seconds=seconds,
        utilization=utilization,
        running=0.0,
        waiting=0.0,
        ready=ready or {},
        starting=starting or {},
        doomed={},
        refused=refused,
        lost=frozenset(),
    )


def wave() -> Demand:
    """Four hours that rise from 2 to 8 replicas and fall again."""
    values = (2.0, 4.0, 8.0, 6.0, 3.0, 2.0, 4.0, 3.0)
    return Demand(times=tuple(1800.0 * index for index in range(8)), values=values)


def roomy(**counts: int) -> Spot:
    return Spot(seconds=24 * HOUR, zones={name: ((0.0, count),) for name, count in counts.items()})


def score_of(scenario: Scenario, name: str) -> Score:
    return play(scenario, PeerFleet(scenario, peers(scenario)[name]()), name=name)


@pytest.mark.parametrize(
    ("found", "target", "expected"),
    [
        pytest.param(pods(ready=3, utilization=0.9), 0.6, 5, id="90 over 60 of 3"),
        pytest.param(pods(ready=1, utilization=0.8), 0.4, 2, id="twice the target doubles"),
        pytest.param(pods(ready=4, utilization=0.2), 0.4, 2, id="half the target halves"),
        pytest.param(pods(ready=10, utilization=0.55), 0.5, 10, id="at the tolerance"),
        pytest.param(pods(ready=10, utilization=0.56), 0.5, 12, id="above the tolerance"),
        pytest.param(pods(ready=10, utilization=0.45), 0.5, 10, id="below, within the tolerance"),
        pytest.param(pods(ready=10, replicas=15, utilization=1.0), 0.7, 15, id="growth is on its way"),
        pytest.param(pods(ready=10, replicas=12, utilization=1.0), 0.7, 15, id="more than is on its way"),
        pytest.param(pods(ready=0, replicas=3, utilization=1.0), 0.7, 3, id="no pod that reports"),
    ],
)
def test_hpa_computes_what_its_documentation_says(found: Pods, target: float, expected: int) -> None:
    assert hpa_desired(found, target) == expected


def test_hpa_grows_by_four_or_by_double_whichever_is_more() -> None:
    assert HpaBehavior().settle(0.0, current=2, recommended=20) == 6
    assert HpaBehavior().settle(0.0, current=7, recommended=20) == 14


def test_hpa_shrinks_to_the_highest_recommendation_of_five_minutes() -> None:
    behavior = HpaBehavior()

    behavior.settle(0.0, current=10, recommended=10)
    behavior.settle(15.0, current=10, recommended=6)

    assert behavior.settle(300.0, current=10, recommended=2) == 10
    assert behavior.settle(315.0, current=10, recommended=2) == 6
    assert behavior.settle(330.0, current=6, recommended=2) == 2


def test_hpa_acts_at_its_sync_only() -> None:
    hpa = Hpa(0.5)

    assert hpa.replicas(pods(0.0, ready=4, utilization=0.5)) == 4
    assert hpa.replicas(pods(10.0, ready=4, utilization=1.0)) == 4
    assert hpa.replicas(pods(20.0, ready=4, utilization=1.0)) == 8


def test_periods_of_15_s_come_due_at_the_next_step_of_10_s() -> None:
    clock = Clock(15.0)

    assert [at for at in range(0, 70, 10) if clock.is_due(at)] == [0, 20, 30, 50, 60]


def test_the_highest_of_a_window_forgets_what_is_older() -> None:
    window = WindowMax(20.0)

    assert [window.note(at, value) for at, value in ((0, 5), (10, 3), (20, 1), (30, 1), (40, 1))] == [
        5,
        5,
        5,
        3,
        1,
    ]


@pytest.mark.parametrize(
    ("load", "replicas", "target", "expected"),
    [
        pytest.param(30, 1, 10, 3, id="30 messages of 10"),
        pytest.param(31, 3, 10, 3, id="within the tolerance"),
        pytest.param(34, 3, 10, 4, id="above the tolerance"),
    ],
)
def test_keda_divides_the_queue_by_its_target(
    load: float, replicas: int, target: float, expected: int
) -> None:
    assert keda_desired(load=load, replicas=replicas, target=target) == expected


def test_keda_goes_to_zero_after_its_cooldown_and_wakes_at_a_poll() -> None:
    scenario = Scenario(demand=Demand(times=(0.0,), values=(1.0,)), spot=None)
    peer = peers(scenario)["keda-queue"]()
    wanted = {}

    for at in range(0, 1300, 10):
        busy = at == 0 or at >= 1210
        found = seen(ready={ON_DEMAND: 1}, seconds=at)
        wanted[at] = peer.decide(
            Seen(
                seconds=at,
                utilization=0.7 if busy else 0.0,
                running=0.7 if busy else 0.0,
                waiting=0.0,
                ready=found.ready,
                starting={},
                doomed={},
                refused=frozenset(),
                lost=frozenset(),
            )
        )[ON_DEMAND]

    # Idle from 10 s: no pod from 300 s on, no machine ten minutes later; a poll is due at 1230 s.
    assert [wanted[at] for at in (290, 890, 900, 1220, 1230)] == [1, 1, 0, 0, 1]


def test_kpa_divides_what_is_in_flight_by_70_percent_of_the_concurrency() -> None:
    # 100 in flight, containerConcurrency 10: 100 / 7 = 14.3.
    kpa = Kpa(target=7.0)

    assert kpa.replicas(pods(ready=14, load=100.0)) == 15


def test_kpa_takes_the_mean_of_its_stable_window_while_it_does_not_panic() -> None:
    kpa = Kpa(target=0.5)
    for at in range(0, 60, 10):
        kpa.replicas(pods(at, ready=10, load=5.0))

    # Five samples of 5 and one of 8: 33 / 6 / 0.5 = 11.
    assert kpa.replicas(pods(60, ready=10, load=8.0)) == 11


def test_kpa_panics_at_twice_what_is_ready_and_does_not_shrink_for_a_stable_window() -> None:
    kpa = Kpa(target=1.0)
    for at in range(0, 60, 10):
        kpa.replicas(pods(at, ready=4, load=4.0))

    wanted = [
        kpa.replicas(pods(60, ready=4, load=8.0)),
        kpa.replicas(pods(70, ready=4, replicas=8, load=4.0)),
        kpa.replicas(pods(120, ready=8, replicas=8, load=4.0)),
        kpa.replicas(pods(130, ready=8, replicas=8, load=4.0)),
    ]

    assert wanted == [8, 8, 8, 4]


def test_kpa_gives_up_at_most_half_at_once() -> None:
    assert Kpa(target=1.0).replicas(pods(ready=9, load=1.0)) == 4


@pytest.mark.parametrize(
    ("target", "extra", "ready_spot", "expected"),
    [
        pytest.param(2, 0, 0, 2, id="none ready"),
        pytest.param(2, 0, 1, 1, id="one lost"),
        pytest.param(2, 0, 2, 0, id="all ready"),
        pytest.param(4, 2, 3, 3, id="with extra"),
        pytest.param(4, 2, 0, 4, id="never above the target"),
        pytest.param(2, 0, 5, 0, id="never below zero"),
    ],
)
def test_spothedge_covers_on_demand_what_is_not_ready_on_spot(
    target: int, extra: int, ready_spot: int, expected: int
) -> None:
    assert on_demand_beside(target=target, extra=extra, ready_spot=ready_spot) == expected


def test_spot_is_spread_over_zones_and_a_refusal_moves_it() -> None:
    zones = Zones(("a", "b", "c"))

    assert zones.place(seen(), 6) == {"a": 2, "b": 2, "c": 2}
    assert zones.place(seen(ready={"b": 2, "c": 2}, refused=frozenset({"a"})), 6) == {"a": 0, "b": 3, "c": 3}


def test_a_zone_that_loses_a_machine_gets_no_new_one() -> None:
    zones = Zones(("a", "b", "c"))
    zones.place(seen(), 3)
    zones.place(seen(ready={"a": 1, "b": 1, "c": 1}), 3)

    assert zones.place(seen(ready={"b": 1, "c": 1}), 3) == {"a": 0, "b": 2, "c": 1}


def test_fewer_than_two_zones_unmarked_open_all_again() -> None:
    zones = Zones(("a", "b"))
    zones.place(seen(), 2)

    assert zones.place(seen(ready={"b": 1}, refused=frozenset({"a"})), 2) == {"a": 1, "b": 1}


def test_what_is_let_go_on_spot_is_what_starts() -> None:
    zones = Zones(("a", "b"))
    zones.place(seen(), 4)

    assert zones.place(seen(ready={"a": 2}, starting={"b": 2}), 3) == {"a": 2, "b": 1}


def test_without_spot_zones_nothing_is_placed() -> None:
    assert Zones(()).place(seen(), 3) == {}


def test_a_mix_of_ten_percent_rounds_its_on_demand_share_up() -> None:
    mix = Mixed(("a", "b"), on_demand_percent=10)

    assert mix.place(seen(), 11) == {ON_DEMAND: 2, "a": 5, "b": 4}


def test_a_machine_that_no_pod_needs_is_paid_for_ten_more_minutes() -> None:
    nodes = Nodes()

    wanted = [nodes.place(seen(seconds=at), count)[ON_DEMAND] for at, count in ((0, 5), (10, 3), (600, 3))]

    assert wanted == [5, 5, 5]
    assert nodes.place(seen(seconds=610), 3) == {ON_DEMAND: 3}


def test_a_scaler_sees_only_as_many_ready_as_it_has_pods() -> None:
    found = Nodes().pods(seen(ready={ON_DEMAND: 8}, utilization=0.25), 4)

    assert (found.ready, found.unready, found.utilization) == (4, 0, 0.5)


def test_a_day_ahead_plan_wants_yesterdays_highest_until_a_start_is_done() -> None:
    plan = DayAhead(ahead_seconds=240.0, target=0.5)
    for minute in range(1440):
        plan.replicas(pods(minute * 60, ready=1, load=3.0 if minute == 10 else 1.0))

    wanted = [plan.replicas(pods((1440 + minute) * 60, ready=1, load=0.0)) for minute in range(12)]

    # The load of 3 at minute 10 needs 6, asked for from minute 6 on.
    assert wanted == [2, 2, 2, 2, 2, 2, 6, 6, 6, 6, 6, 2]


def test_the_95th_percentile_counts_time_not_points() -> None:
    demand = Demand(times=(0.0, 900.0, 960.0), values=(1.0, 9.0, 5.0))

    # 900 s at 1, 60 s at 9, 60 s at 5: 95 % of 1020 s is 969 s, reached by the 60 s at 9.
    assert percentile(demand, 0.95) == 9.0
    assert percentile(demand, 0.94) == 5.0


def test_all_peers_are_there_by_name_and_fresh_at_each_call() -> None:
    found = peers(Scenario(demand=wave(), spot=roomy(a=4)))

    assert set(found) == NAMES
    assert all(make().name == name and make() is not make() for name, make in found.items())


def test_the_sweep_has_every_target_with_every_extra() -> None:
    found = spothedge_sweep(Scenario(demand=wave(), spot=roomy(a=4)))

    assert len(found) == 35
    assert {"spothedge-0.5-0", "spothedge-0.9-6", "spothedge-0.7-2"} <= set(found)
    assert all(make().name == name for name, make in found.items())


def test_static_peak_costs_its_whole_share_and_misses_nothing() -> None:
    score = score_of(Scenario(demand=wave(), spot=None), "static-peak")

    assert score.cost_share_of_static_peak == pytest.approx(1.0, abs=1e-3)
    assert score.missed_load_share == 0


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_peer_carries_a_steady_load_where_spot_is_plenty(name: str) -> None:
    demand = Demand(times=(0.0, 1.25 * HOUR), values=(5.0, 5.0))

    score = score_of(Scenario(demand=demand, spot=roomy(a=20, b=20)), name)

    assert score.missed_load_share == 0


def test_spothedge_falls_back_to_on_demand_where_spot_is_gone_and_spot_only_misses() -> None:
    gone = Spot(seconds=24 * HOUR, zones=dict.fromkeys("ab", ((0.0, 20), (2.2 * HOUR, 0))))
    demand = Demand(times=(0.0, 2 * HOUR), values=(5.0, 5.0))
    scenario = Scenario(demand=demand, spot=gone)

    hedged, alone = score_of(scenario, "spothedge-0.7-2"), score_of(scenario, "spot-only")

    # Of two hours that count, spot is gone for 1 h 46 min; on demand is there 240 s after it went.
    assert hedged.missed_load_share < 0.04
    assert alone.missed_load_share > 0.85
