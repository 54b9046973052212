"""How a load is learned, and how much of it a count would miss."""

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.builders import NOW, make_node, make_pod, make_snapshot, seconds

from spillway.core.fleet import Fleet, survey
from spillway.core.growth import Growth, cold_start_of, growth_of, observe_load, observe_starts, prior
from spillway.core.memory import GrowthMemory
from spillway.core.model import Pod, PodPhase

COLD = seconds(60)


def learn(*loads: float, serving: float = 10.0, memory: GrowthMemory | None = None) -> GrowthMemory:
    """Note one load after the other, 15 s apart, as the utilization of so many replicas."""
    memory = memory or GrowthMemory()
    for index, load in enumerate(loads):
        at = NOW + timedelta(seconds=15 * index)
        memory = observe_load(
            memory, utilization=min(1.0, load / serving), serving=serving, at=at, cold_start=COLD
        )
    return memory


def known(memory: GrowthMemory) -> Growth:
    found = growth_of(memory)
    assert found is not None
    return found


def test_a_load_that_was_never_seen_is_not_known() -> None:
    assert growth_of(GrowthMemory()) is None


def test_the_load_is_utilization_times_what_serves_over_the_last_minute() -> None:
    assert learn(2.0, 5.0, 5.0, 6.0, 8.0).load == pytest.approx((5 + 5 + 6 + 8) / 4)


def test_at_full_utilization_the_load_is_taken_to_have_grown_a_little() -> None:
    memory = learn(9.8, 12.0, 12.0)

    # 9.8 * 1.07 + 0.15 = 10.636, then 10.636 * 1.07 + 0.15 = 11.53
    assert memory.raw == pytest.approx(11.53, abs=0.01)


def test_at_full_utilization_the_load_is_never_taken_for_more_than_a_third_above_what_serves() -> None:
    assert learn(*[20.0] * 40).raw == pytest.approx(13.0)


def test_nothing_is_learned_before_a_cold_start_has_passed() -> None:
    assert learn(5.0, 5.0, 5.0, 5.0).weights == prior()


def test_a_load_that_stands_still_teaches_that_it_does() -> None:
    calm, wild = learn(*[5.0] * 400), learn(*[5.0, 5.0, 5.0, 5.0, 8.0, 8.0, 8.0, 8.0] * 50)

    assert known(calm).missed(6) < known(wild).missed(6)


def test_what_was_learned_long_ago_counts_less() -> None:
    wild = learn(*[4.0, 4.0, 4.0, 4.0, 8.0, 8.0, 8.0, 8.0] * 50)
    since = NOW + timedelta(days=8)
    calm = replace(wild, seen=((since, 5.0),))
    for index in range(1, 40):
        at = since + timedelta(seconds=15 * index)
        calm = observe_load(calm, utilization=0.5, serving=10.0, at=at, cold_start=COLD)

    assert known(calm).missed(6) / known(calm).load < known(wild).missed(6) / known(wild).load


def test_more_replicas_never_miss_more_and_each_is_worth_less_than_the_last() -> None:
    growth = known(learn(*[5.0, 6.0, 4.0] * 60))

    missed = [growth.missed(count) for count in range(20)]
    worth = [growth.worth(count) for count in range(20)]

    assert missed == sorted(missed, reverse=True)
    assert worth == sorted(worth, reverse=True)
    assert all(0 <= found <= 1 + 1e-9 for found in worth)


def test_without_a_replica_all_of_the_load_is_missed() -> None:
    growth = known(learn(*[5.0] * 40))

    assert growth.missed(0) == pytest.approx(5.0, rel=0.1)


def ready(*, made: float, since: float, node: str = "gpu-0") -> Pod:
    return replace(
        make_pod(0, PodPhase.READY, node=node),
        created_at=NOW + timedelta(seconds=made),
        since=NOW + timedelta(seconds=since),
    )


def fleet_of(*, node_made: float) -> Fleet:
    node = make_node("gpu-0", created_at=NOW + timedelta(seconds=node_made))
    return survey(make_snapshot(nodes=(node,)), {}, NOW)


class TestColdStart:
    """How long a new replica takes to serve."""

    def test_it_is_four_minutes_until_one_was_measured(self) -> None:
        assert cold_start_of(GrowthMemory()) == seconds(240)

    def test_a_pod_for_which_a_node_came_measures_it(self) -> None:
        fleet = fleet_of(node_made=60)

        memory = observe_starts(GrowthMemory(), [ready(made=0, since=150)], fleet)

        assert cold_start_of(memory) == seconds(150)

    def test_a_pod_on_a_node_that_was_there_measures_nothing(self) -> None:
        fleet = fleet_of(node_made=-3600)

        memory = observe_starts(GrowthMemory(), [ready(made=0, since=80)], fleet)

        assert cold_start_of(memory) == seconds(240)

    def test_a_pod_is_measured_once(self) -> None:
        fleet = fleet_of(node_made=60)
        pod = ready(made=0, since=150)

        once = observe_starts(GrowthMemory(), [pod], fleet)

        assert observe_starts(once, [pod], fleet) == once

    def test_a_pod_that_waited_for_capacity_for_long_is_no_measure(self) -> None:
        fleet = fleet_of(node_made=60)

        memory = observe_starts(GrowthMemory(), [ready(made=0, since=3000)], fleet)

        assert cold_start_of(memory) == seconds(240)
