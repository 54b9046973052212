"""Laws of a fleet through random load and trouble: people, failing acts, restarts and a market that takes back what it gave."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import seconds
from tests.fleetline import Fleetline

from spillway.adapters.cloud.simulated import Market
from spillway.core.model import (
    Act,
    CancelUnfulfilled,
    CordonNode,
    DrainNode,
    GrowPool,
    SetReplicas,
    UncordonNode,
)

laws = settings(max_examples=10, derandomize=True, deadline=None, database=None)

BASELINE = 2
QUIET = 1.1  # what two replicas carry, and one does not
WRITES: tuple[type[Act], ...] = (
    SetReplicas,
    GrowPool,
    CancelUnfulfilled,
    CordonNode,
    UncordonNode,
    DrainNode,
)


@dataclass(frozen=True)
class Turn:
    """A load, one thing that happens, and for how long nothing else does."""

    load: float
    fault: str
    pool: str
    minutes: int


faults = st.sampled_from(
    [""] * 4
    + ["refuse", "accept", "reclaim", "take back", "vanish", "never boot", "boot", "resize"]
    + ["cordon", "fail", "succeed", "restart", "restart"]
)
histories = st.lists(
    st.builds(
        Turn,
        load=st.sampled_from([0.4, QUIET, 3.0, 6.0, 9.0]),
        fault=faults,
        pool=st.sampled_from(["a", "b", "demand"]),
        minutes=st.sampled_from([1, 3, 12]),
    ),
    min_size=4,
    max_size=12,
)


def meddle(line: Fleetline, turn: Turn) -> None:
    if turn.fault in PEOPLE:
        PEOPLE[turn.fault](line)
    elif turn.fault:
        MARKET[turn.fault](line.market, turn.pool, line.now)


def cordon(line: Fleetline) -> None:
    if line.nodes:
        line.cordon(min(line.nodes))


def reclaim(market: Market, pool: str, now: datetime) -> None:
    if pool != "demand":
        market.reclaim(pool, now=now, count=2)


def resize(market: Market, pool: str, now: datetime) -> None:
    market.resize(pool, market.describe(pool, now=now).desired + 1, now=now)


MARKET: Mapping[str, Callable[[Market, str, datetime], object]] = {
    "refuse": lambda market, pool, now: market.refuse(pool, now=now),
    "accept": lambda market, pool, now: market.accept(pool, now=now),
    "reclaim": reclaim,
    "take back": lambda market, pool, now: market.cancel_notice(pool, now=now),
    "vanish": lambda market, pool, now: market.vanish(pool, now=now, count=1),
    "never boot": lambda market, pool, now: market.never_boot(pool, now=now),
    "boot": lambda market, pool, now: market.set_boot(pool, None, now=now),
    "resize": resize,
}
PEOPLE: Mapping[str, Callable[[Fleetline], object]] = {
    "cordon": cordon,
    "fail": lambda line: line.fail(*WRITES),
    "succeed": lambda line: line.fail(),
    "restart": lambda line: line.restart(),
}


def played(history: list[Turn]) -> Fleetline:
    line = Fleetline(baseline=BASELINE).run("2m")
    for turn in history:
        meddle(line, turn)
        line.demand = turn.load
        line.run(f"{turn.minutes}m")
    return line


@laws
@given(histories)
def test_the_baseline_stands_at_every_moment_in_which_writes_succeed(history: list[Turn]) -> None:
    for found in played([turn for turn in history if turn.fault != "fail"]).moments:
        assert found.source >= min(found.desired, BASELINE)


@laws
@given(histories)
def test_no_pass_asks_for_more_nodes_than_replicas_that_have_no_place(history: list[Turn]) -> None:
    line = Fleetline(baseline=BASELINE).run("2m")
    for turn in history:
        meddle(line, turn)
        line.demand = turn.load
        for _ in range(turn.minutes * 12):
            before = line.last.machines
            line.run("5s")
            grown = sum(act.to - before[act.pool] for act in line.last.acts if isinstance(act, GrowPool))
            assert grown <= max(0, homeless(line))


def homeless(line: Fleetline) -> int:
    """Return how many of the replicas that are laid out do not serve on nodes that stay."""
    placement = line.decision.placement
    assert placement is not None
    assert placement.split is not None
    split = placement.split
    return split.baseline + split.burst - split.good_baseline - split.good_burst


@laws
@given(histories)
def test_no_pool_leaves_its_bounds_but_by_another_hand(history: list[Turn]) -> None:
    for found in played(history).moments:
        for act in found.acts:
            if isinstance(act, GrowPool | CancelUnfulfilled):
                assert 0 <= act.to <= 12


@laws
@given(histories)
def test_a_node_that_a_person_cordoned_is_theirs(history: list[Turn]) -> None:
    line = Fleetline(baseline=BASELINE).run("5m")
    theirs = min(line.nodes)
    line.cordon(theirs)
    for turn in history:
        meddle(line, turn)
        line.demand = turn.load
        line.run(f"{turn.minutes}m")

    touched = {
        act.node
        for found in line.moments
        for act in found.acts
        if isinstance(act, CordonNode | UncordonNode | DrainNode)
    }
    assert theirs not in touched


@settings(laws, max_examples=5)
@given(histories)
def test_once_all_is_quiet_nothing_is_left_over(history: list[Turn]) -> None:
    line = played([turn for turn in history if turn.fault not in ("cordon", "never boot", "resize")])
    line.fail()
    for pool in ("a", "b", "demand"):
        line.market.accept(pool, now=line.now)
    line.demand = QUIET

    line.run("4h")

    assert line.last.serving == (BASELINE, 0)
    assert line.counts == (BASELINE, 0)
    assert line.marks == frozenset()
    assert sum(line.last.machines.values()) == BASELINE
    assert all(node.ready for node in line.nodes.values())
    # Nothing that could still be done: the last minutes passed without an act.
    assert not any(found.acts for found in line.moments if found.at > line.last.at - seconds(600))
