"""Laws of what the count does while metrics are wrong, gone or noisy, on a fleet in simulated time."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tests.builders import seconds
from tests.fleetline import Fleetline, Moment

from spillway.core.model import CordonNode, DrainNode
from spillway.core.signal import Collected, Collection, DeviceSample, Liveness, NotCollected, SignalReason

# Not shrunk: a story takes a third of a second to play, and is told in full by its few arguments.
laws = settings(
    max_examples=12, derandomize=True, deadline=None, database=None, phases=[Phase.explicit, Phase.generate]
)
few = settings(laws, max_examples=3)

DOWN_WINDOW = seconds(300)  # scaleDown.windowSeconds as it ships
SETTLED = "15m"  # by then a constant demand has the count that it will keep
NOISE = 0.15


@dataclass(frozen=True)
class Outage:
    """One way for metrics to be wrong, and for how long; what is still told is *share* of the truth."""

    kind: str
    share: float
    minutes: int
    seed: int


def every(change: Callable[[DeviceSample], DeviceSample]) -> Callable[[Collected, Outage], Collection]:
    """Tell each device's sample otherwise, and its share of the truth."""

    def tell(found: Collected, outage: Outage) -> Collection:
        low = {
            key: tuple(change(_scaled(sample, outage.share)) for sample in samples)
            for key, samples in found.pods.items()
        }
        return replace(found, pods=low)

    return tell


def _scaled(sample: DeviceSample, share: float) -> DeviceSample:
    return replace(sample, mean=None if sample.mean is None else sample.mean * share)


def failed(reason: SignalReason) -> Callable[[Collected, Outage], Collection]:
    return lambda found, _: NotCollected(since=found.at, reason=reason, message="no usable answer")


def lost(found: Collected, outage: Outage) -> Collection:
    """A quarter to two thirds of the pods have no series; which ones, the seed says."""
    told = every(lambda sample: sample)(found, outage)
    assert isinstance(told, Collected)
    names = sorted(told.pods)
    random.Random(outage.seed).shuffle(names)  # noqa: S311 -- any repeatable order
    kept = names[: int(len(names) * (0.35 + outage.seed / 20))]
    return replace(told, pods={name: told.pods[name] for name in kept})


def stale(found: Collected, outage: Outage) -> Collection:
    """Samples come late, and their newest is always a little older than what still counts."""
    late = found.at - seconds(90)
    return every(lambda sample: replace(sample, sampled_at=late))(found, outage)


def rejected(found: Collected, outage: Outage) -> Collection:
    """Every newest value is NaN or beyond what the metric can be."""
    told = every(lambda sample: replace(sample, mean=None))(found, outage)
    assert isinstance(told, Collected)
    return replace(told, rejected=dict.fromkeys(told.pods, 1))


KINDS: Mapping[str, Callable[[Collected, Outage], Collection]] = {
    "unreachable": failed(SignalReason.PROMETHEUS_UNREACHABLE),
    "query fails": failed(SignalReason.PROMETHEUS_ERROR),
    "partial answer": failed(SignalReason.PROMETHEUS_PARTIAL),
    "no series": lambda found, _: replace(found, pods={}),
    "some pods": lost,
    "not a number": rejected,
    "stale": stale,
    "age query fails": every(lambda sample: replace(sample, sampled_at=None)),
    "frozen": every(lambda sample: replace(sample, liveness=Liveness.FLAT)),
    "contradictory": every(lambda sample: replace(sample, disagrees=True)),
    "zero at once": every(lambda sample: replace(sample, mean=0.0, liveness=Liveness.ABSENT)),
}


def outages(*kinds: str, minutes: tuple[int, ...]) -> st.SearchStrategy[Outage]:
    return st.builds(
        Outage,
        kind=st.sampled_from(kinds),
        share=st.sampled_from([0.0, 0.05, 0.3]),
        minutes=st.sampled_from(minutes),
        seed=st.integers(0, 8),
    )


def settled_line(demand: float) -> Fleetline:
    line = Fleetline()
    line.demand = demand
    return line.run(SETTLED)


def meet(line: Fleetline, outage: Outage) -> None:
    """Play the outage."""
    tell = KINDS[outage.kind]
    line.measure(lambda found: tell(found, outage))
    line.run(f"{outage.minutes}m")
    line.measure()


def shrinks(moments: list[Moment]) -> list[tuple[Moment, Moment]]:
    """Every two moments between which something was taken away: a replica of the whole count, or a machine."""
    return [
        (before, after)
        for before, after in pairwise(moments)
        if after.source + after.twin < before.source + before.twin
        or any(after.machines[pool] < count for pool, count in before.machines.items())
        or any(isinstance(act, CordonNode | DrainNode) for act in after.acts)
    ]


DEMANDS = st.sampled_from([3.0, 5.2, 7.7])


@pytest.mark.parametrize("kind", KINDS)
@few
@given(data=st.data(), demand=DEMANDS)
def test_no_outage_of_the_metrics_takes_anything_away(kind: str, data: st.DataObject, demand: float) -> None:
    line = settled_line(demand)
    settled = line.last

    meet(line, data.draw(outages(kind, minutes=(12, 20))))

    assert shrinks([settled, *line.since(settled)]) == []


@laws
@given(
    demand=DEMANDS,
    story=st.lists(outages(*KINDS, minutes=(1, 4, 12)), min_size=2, max_size=5),
    gap=st.sampled_from(["0m", "1m", "6m"]),
)
def test_no_row_of_outages_takes_anything_away(demand: float, story: list[Outage], gap: str) -> None:
    line = settled_line(demand)
    settled = line.last

    for outage in story:
        meet(line, outage)
        line.run(gap)

    assert shrinks([settled, *line.since(settled)]) == []


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3])
def test_the_same_low_values_take_replicas_away_where_they_are_sound(share: float) -> None:
    line = settled_line(5.2)
    settled = line.last

    sound = every(lambda sample: sample)
    line.measure(lambda found: sound(found, Outage(kind="", share=share, minutes=20, seed=0)))
    line.run("20m")

    assert shrinks(line.since(settled))


@laws
@given(demand=st.floats(0.5, 9.0), steps=st.sampled_from([1, 3, 12, 30]), seed=st.integers(0, 1000))
def test_noise_of_15_percent_turns_the_count_once_in_a_down_window(
    demand: float, steps: int, seed: int
) -> None:
    """The noise is drawn anew every so many steps of 5 s."""
    noise, line = random.Random(seed), Fleetline()  # noqa: S311 -- repeatable noise
    for _ in range(720 // steps):
        line.demand = demand * (1 + noise.uniform(-NOISE, NOISE))
        line.run(f"{5 * steps}s")

    turns = turning_points(line.moments)
    assert all(later.at - earlier.at > DOWN_WINDOW for earlier, later in pairwise(turns))


def turning_points(moments: list[Moment]) -> list[Moment]:
    """Return the moments in which the whole count moved the other way than the time before."""
    moves = [
        (after, after.source + after.twin > before.source + before.twin)
        for before, after in pairwise(moments)
        if after.source + after.twin != before.source + before.twin
    ]
    return [after for (_, was_up), (after, is_up) in pairwise(moves) if was_up != is_up]
