"""What holds in every world that the simulator plays, whatever is wanted in it: machines and money come from nowhere else."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spillway.sim import spillway
from spillway.sim.bound import bound
from spillway.sim.traces import Demand, Spot
from spillway.sim.world import ON_DEMAND, SCORED_FROM, PeerFleet, Scenario, Score, Seen, Terms, play

MINUTES = 135  # two hours that are not scored and a quarter of one that is
DAY = 86400.0
PRICES = {ON_DEMAND: 3.06, "a": 0.918, "b": 0.918}
few = settings(max_examples=25, deadline=None)


class Whim:
    """Wants what it is told to, minute by minute, and keeps what it has seen."""

    name = "whim"

    def __init__(self, wanted: Mapping[str, Sequence[int]]) -> None:
        self.wanted = wanted
        self.seen: list[Seen] = []

    def __repr__(self) -> str:
        return f"Whim({ {pool: _changes(counts) for pool, counts in self.wanted.items()} })"

    def decide(self, seen: Seen) -> Mapping[str, int]:
        self.seen.append(seen)
        return {pool: self.at(pool, seen.seconds) for pool in self.wanted}

    def at(self, pool: str, seconds: float) -> int:
        """Return what it wants of a pool at a time; nothing before the first."""
        counts = self.wanted[pool]
        return counts[min(len(counts) - 1, int(seconds // 60))] if seconds >= 0 else 0


def _changes(counts: Sequence[int]) -> dict[int, int]:
    return {minute: count for minute, count in enumerate(counts) if not minute or count != counts[minute - 1]}


@st.composite
def by_minute(draw: st.DrawFn, most: int, *, least: int = 0) -> tuple[int, ...]:
    """Counts by minute that hold for a while, and change more often towards the end."""
    changes = draw(st.dictionaries(st.integers(1, MINUTES - 1), st.integers(least, most), max_size=12))
    counts = [draw(st.integers(least, most))]
    for minute in range(1, MINUTES):
        counts.append(changes.get(minute, counts[-1]))
    return tuple(counts)


@st.composite
def worlds(draw: st.DrawFn) -> Scenario:
    """A load of 1 to 5 replicas, two zones of 0 to 4 machines, some notice or none."""
    loads = draw(by_minute(5, least=1))
    terms = Terms(
        cold_start=timedelta(seconds=draw(st.sampled_from((60, 240, 600)))),
        notice=timedelta(seconds=draw(st.sampled_from((0, 30, 120)))),
    )
    spot = Spot(seconds=DAY, zones={zone: points(draw(by_minute(4))) for zone in ("a", "b")})
    demand = Demand(times=tuple(60.0 * minute for minute in range(MINUTES)), values=tuple(map(float, loads)))
    return Scenario(demand=demand, spot=spot, terms=terms)


def points(counts: Sequence[int]) -> tuple[tuple[float, int], ...]:
    return tuple((60.0 * minute, count) for minute, count in enumerate(counts))


whims = st.fixed_dictionaries({pool: by_minute(4) for pool in PRICES}).map(Whim)


def scored(scenario: Scenario, whim: Whim) -> Score:
    return play(scenario, PeerFleet(scenario, whim), name=whim.name)


def staying(seen: Seen, zone: str) -> int:
    """Machines of a zone that were not told of their end."""
    return seen.ready[zone] + seen.starting[zone] - seen.doomed[zone]


FOUR_THREE_TWO = Scenario(
    demand=Demand(times=(0.0, 60.0 * MINUTES - 60), values=(2.0, 2.0)),
    spot=Spot(seconds=DAY, zones={"a": ((0.0, 4), (3600.0, 3), (3660.0, 2)), "b": ((0.0, 0),)}),
)


@given(scenario=worlds(), wanted=st.integers(1, 4))
@example(scenario=FOUR_THREE_TWO, wanted=4)
@few
def test_a_zone_that_shrinks_takes_what_it_has_no_room_for_and_no_more(
    scenario: Scenario, wanted: int
) -> None:
    whim = Whim(dict.fromkeys(PRICES, (wanted,)))
    scored(scenario, whim)

    assert scenario.spot is not None
    for zone in scenario.zones:
        before = 0
        for seen in whim.seen:
            room = scenario.spot.at(zone, seen.seconds)
            assert min(before, room) <= staying(seen, zone) <= room
            before = staying(seen, zone)


@given(scenario=worlds(), whim=whims)
@few
def test_nothing_serves_before_it_was_wanted_for_a_cold_start(scenario: Scenario, whim: Whim) -> None:
    scored(scenario, whim)

    cold = scenario.terms.cold_start.total_seconds()
    for pool in ("a", "b"):  # the first replicas are given, on demand
        most = 0
        for seen in whim.seen:
            most = max(most, whim.at(pool, seen.seconds - cold))
            assert seen.ready[pool] <= most


@given(scenario=worlds(), whim=whims)
@few
def test_load_is_served_or_missed(scenario: Scenario, whim: Whim) -> None:
    score = scored(scenario, whim)

    counted = [seen for seen in whim.seen if seen.seconds >= SCORED_FROM]
    loads = [scenario.demand.at(seen.seconds) for seen in counted]
    served = sum(min(load, seen.total_ready) for load, seen in zip(loads, counted, strict=True))
    assert served + score.missed_load_share * sum(loads) == pytest.approx(sum(loads))


@given(scenario=worlds(), whim=whims)
@few
def test_what_serves_or_starts_is_paid(scenario: Scenario, whim: Whim) -> None:
    score = scored(scenario, whim)

    least = 0.0
    for pool, price in PRICES.items():
        held = [(seen.seconds, seen.ready[pool] + seen.starting[pool]) for seen in whim.seen]
        kept = sum(min(count, whim.at(pool, at)) for at, count in held if at >= SCORED_FROM)
        # what was granted up to the first scored step was paid for a minute by then, and is seen a step later
        paid_before = sum(
            6 * max(0, count - before)
            for (_, before), (at, count) in pairwise(held)
            if SCORED_FROM - 60 < at <= SCORED_FROM + 10
        )
        least += (kept - paid_before) * price * 10 / 3600
    assert score.cost_usd >= least - 1e-9


@given(scenario=worlds())
@settings(max_examples=6, deadline=None)
def test_spillway_keeps_its_baseline_and_pays_no_less_than_the_bound(scenario: Scenario) -> None:
    score = play(scenario, spillway.fleet(scenario), name=spillway.NAME, keep_series=True)

    cold = scenario.terms.cold_start.total_seconds()
    serving = [(on_demand, spot) for seconds, _, on_demand, spot in score.series if seconds >= 2 * cold]
    assert min(on_demand for on_demand, _ in serving) >= 1
    assert max(sum(both) for both in serving) <= scenario.most
    if score.missed_load_share == 0:
        assert score.cost_usd >= bound(scenario, baseline=1).cost_usd - 1e-6


@given(world=worlds(), offset=st.integers(0, 2000), minute=st.integers(0, 3000))
def test_a_shifted_market_is_the_same_market_later(world: Scenario, offset: int, minute: int) -> None:
    assert world.spot is not None
    shifted = world.spot.shifted(offset * 60.0)

    assert all(
        shifted.at(zone, minute * 60.0) == world.spot.at(zone, (minute + offset) * 60.0)
        for zone in world.zones
    )


@given(world=worlds(), start=st.integers(0, 60), minutes=st.integers(2, 60), second=st.integers(0, 3599))
def test_a_part_of_demand_is_the_same_demand_earlier(
    world: Scenario, start: int, minutes: int, second: int
) -> None:
    part = world.demand.part(start=start * 60.0, seconds=minutes * 60.0)

    assert part.seconds == minutes * 60
    at = second % part.seconds
    assert part.at(at) == world.demand.at(start * 60.0 + at)
