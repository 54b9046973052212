"""Whole time-lines of a fleet: load spills onto spot, spot goes and comes back, nodes empty and go, and nothing falls below need."""

from itertools import pairwise

import pytest
from tests.builders import seconds
from tests.fleetline import Fleetline, Moment

from spillway.core.model import (
    CancelUnfulfilled,
    CordonNode,
    DrainNode,
    ForgetNode,
    GrowPool,
    UncordonNode,
)
from spillway.core.plan import CloseReason, FallbackReason

BASELINE = 2
QUIET = 1.1  # what two replicas carry, and one does not


def burst(demand: float = 6.0, **over: object) -> Fleetline:
    """A fleet that has settled on a burst: 6 replicas' load at 80 % is 8, of which 2 are the baseline."""
    line = Fleetline(baseline=BASELINE, **over)  # type: ignore[arg-type]  # as Fleetline's own
    line.run("6m")
    line.demand = demand
    return line.wait("20m", lambda line: line.last.ready >= 8).run("3m")


def spot_of(moment: Moment) -> dict[str, int]:
    return {name: count for name, count in moment.machines.items() if name != "demand"}


def test_a_burst_spreads_over_the_spot_pools_and_the_baseline_stays() -> None:
    line = burst()

    assert line.counts == (2, 6)
    assert line.last.serving == (2, 6)
    assert spot_of(line.last) == {"a": 3, "b": 3}


def test_no_pass_asks_for_more_nodes_than_are_decided() -> None:
    line = burst()

    assert all(sum(found.machines.values()) <= found.desired for found in line.moments)


class TestRefusal:
    """Spot says no."""

    def refused(self) -> Fleetline:
        line = Fleetline(baseline=BASELINE)
        line.run("6m")
        for pool in ("a", "b"):
            line.market.refuse(pool, now=line.now)
        line.demand = 6.0
        return line.wait("3m", lambda line: line.last.desired > BASELINE)

    @pytest.mark.case("node-and-spot E11")
    def test_stand_ins_are_asked_for_within_half_a_minute_of_the_refusal(self) -> None:
        line = self.refused()
        asked = line.last.at

        line.wait("1m", lambda line: line.last.source > BASELINE)

        assert line.last.at - asked <= seconds(35)
        assert line.fallback is FallbackReason.SPOT_REFUSED

    def test_the_market_is_not_left_with_requests_and_is_asked_for_one_node_now_and_then(self) -> None:
        line = self.refused().run("5m")
        before = line.last

        line.run("40m")

        assert all(sum(spot_of(found).values()) <= 2 for found in line.since(before))
        assert any(sum(spot_of(found).values()) > 0 for found in line.since(before))

    @pytest.mark.case("node-and-spot E22")
    def test_when_spot_comes_back_stand_ins_go_one_at_a_time_and_none_is_missed(self) -> None:
        line = self.refused().wait("10m", lambda line: line.last.ready >= 8)
        full = line.last
        for pool in ("a", "b"):
            line.market.accept(pool, now=line.now)

        line.wait("4h", lambda line: line.counts == (2, 6))

        sources = [found.source for found in line.since(full)]
        assert min(found.ready for found in line.since(full)) >= 8
        assert all(later >= earlier - 1 for earlier, later in pairwise(sources))


class TestInterruption:
    """Spot takes nodes back."""

    def test_all_spot_lost_at_once_is_stood_in_for_in_the_same_pass(self) -> None:
        line = burst()
        for pool in ("a", "b"):
            line.market.reclaim(pool, now=line.now)

        line.run("10s")

        assert line.counts == (8, 6)
        assert line.last.machines["demand"] == 8
        assert line.fallback is FallbackReason.INTERRUPTED

    @pytest.mark.case("node-and-spot E27")
    def test_replacements_serve_before_the_noticed_nodes_end(self) -> None:
        line = burst(boot=60, load=30)
        before = line.last
        line.market.reclaim("a", now=line.now)

        line.run("5m")

        assert min(found.ready for found in line.since(before)) >= 8

    @pytest.mark.case("node-and-spot E30")
    def test_a_notice_that_is_taken_back_leaves_no_mark_and_no_twin_too_many(self) -> None:
        line = burst(return_stable=60, min_residency=60)
        line.market.reclaim("a", now=line.now)
        line.run("15s")
        assert line.marks

        line.market.cancel_notice("a", now=line.now)

        line.run("30s")
        assert line.marks == frozenset()
        line.wait("90m", lambda line: line.counts == (2, 6))

    @pytest.mark.case("node-and-spot E33")
    def test_nodes_that_vanish_without_a_word_are_replaced_after_a_minute_and_forgotten(self) -> None:
        line = burst()
        line.demand = 4.6  # six replicas carry it
        line.run("2m")
        line.market.vanish("a", now=line.now, count=2)
        line.run("50s")
        assert line.counts == (2, 6)

        line.wait("30s", lambda line: line.counts == (4, 6))

        line.wait("3m", lambda line: all(node.ready for node in line.nodes.values()))
        assert len({act.node for act in line.acts(ForgetNode) if isinstance(act, ForgetNode)}) == 2

    @pytest.mark.case("node-and-spot E61")
    def test_a_node_that_its_provider_ends_by_itself_is_replaced_like_a_lost_one(self) -> None:
        line = burst()
        before = line.last
        line.market.reclaim("a", now=line.now, count=1, notice=seconds(0))

        line.wait("3m", lambda line: line.last.at > before.at and line.last.serving == (2, 6))

        assert {found.source for found in line.since(before)} == {BASELINE}
        assert spot_of(line.last) == spot_of(before)

    @pytest.mark.case("node-and-spot E32")
    def test_node_after_node_lost_opens_the_breaker_and_what_is_left_runs_on_demand(self) -> None:
        line = burst(spot=("a",))
        for _ in range(3):
            line.market.reclaim("a", now=line.now, count=1, notice=seconds(10))
            line.run("1m")

        closed = line.pools["a"].closed

        assert closed is not None
        assert closed.reason is CloseReason.BREAKER_OPEN
        before = line.last
        line.run("20m")
        assert line.last.ready >= 8
        assert all(found.machines["a"] <= before.machines["a"] for found in line.since(before))


class TestBoot:
    """Machines that take their time."""

    @pytest.mark.case("node-and-spot E12")
    def test_a_boot_of_seven_minutes_is_waited_for_without_a_stand_in(self) -> None:
        line = Fleetline(baseline=BASELINE, boot=420).run("15m")
        before = line.last
        line.demand = 6.0

        line.wait("30m", lambda line: line.last.ready >= 8)

        assert {found.source for found in line.since(before)} == {BASELINE}

    def test_machines_that_never_boot_are_stood_in_for_after_their_deadline(self) -> None:
        line = Fleetline(baseline=BASELINE, spot=("a",)).run("6m")
        line.market.never_boot("a", now=line.now)
        line.demand = 6.0
        line.wait("3m", lambda line: line.last.desired > BASELINE)

        line.run("9m")
        assert line.last.source == BASELINE

        line.wait("12m", lambda line: line.last.ready >= 8)
        assert line.fallback is FallbackReason.BOOT_DEADLINE

    @pytest.mark.case("node-and-spot E13")
    def test_a_pool_that_boots_nothing_is_not_filled_with_machines(self) -> None:
        line = Fleetline(baseline=BASELINE, spot=("a",)).run("6m")
        line.market.never_boot("a", now=line.now)
        line.demand = 6.0

        line.run("55m")

        # One is asked for when it is first wanted, and one each ten minutes from then on.
        assert line.last.machines["a"] <= 6

    @pytest.mark.case("node-and-spot E18")
    def test_what_a_pool_at_its_maximum_does_not_hold_is_stood_in_for_at_once(self) -> None:
        line = burst(spot=("a",), spot_nodes=3)

        assert line.counts == (5, 6)
        assert line.last.serving == (5, 3)
        assert line.fallback is FallbackReason.POOL_MAX


class TestFall:
    """The load falls."""

    def test_burst_goes_before_baseline_and_its_nodes_follow(self) -> None:
        line = burst()
        before = line.last
        line.demand = QUIET

        line.wait("3h", lambda line: sum(line.last.machines.values()) <= BASELINE).run("10s")

        assert line.counts[1] == 0
        assert all(found.source == BASELINE or found.twin == 0 for found in line.since(before))
        assert all(found.ready >= found.demand for found in line.since(before))
        assert line.marks == frozenset()

    def test_nodes_that_are_wanted_again_are_given_back_and_not_bought_anew(self) -> None:
        line = burst()
        line.demand = 1.5
        line.wait("2h", lambda line: bool(line.marks))
        machines = line.last.machines

        line.demand = 6.0
        line.wait("10m", lambda line: line.last.ready >= 8)

        assert line.marks == frozenset()
        assert sum(machines.values()) <= 8
        assert line.acts(UncordonNode) or line.acts(DrainNode)

    @pytest.mark.case("node-and-spot E49")
    def test_a_node_that_a_person_cordoned_is_neither_drained_nor_given_back(self) -> None:
        line = burst()
        theirs = min(name for name in line.nodes if name.startswith("a-"))
        line.cordon(theirs)
        line.demand = QUIET

        line.run("3h")

        touched = {
            act.node
            for kind in (CordonNode, DrainNode, UncordonNode)
            for act in line.acts(kind)
            if isinstance(act, CordonNode | DrainNode | UncordonNode)
        }
        assert theirs not in touched
        assert line.nodes[theirs].unschedulable

    def test_acts_that_fail_cost_time_and_nothing_else(self) -> None:
        line = burst()
        line.demand = QUIET
        line.fail(DrainNode, CordonNode, GrowPool, CancelUnfulfilled)
        line.run("40m")
        assert line.last.ready >= BASELINE

        line.fail()

        line.wait("2h", lambda line: sum(line.last.machines.values()) <= BASELINE)


RESTARTS = ["5s", "20s", "45s", "70s", "2m", "3m30s", "6m", "11m", "25m"]


class TestRestart:
    """The operator is killed at any moment and finds its way back."""

    @pytest.mark.parametrize("when", RESTARTS)
    def test_in_a_burst(self, when: str) -> None:
        line = Fleetline(baseline=BASELINE).run("6m")
        line.demand = 6.0
        line.run(when).restart()

        line.wait("30m", lambda line: line.last.ready >= 8).run("5m")

        assert line.counts == (2, 6)
        assert all(sum(found.machines.values()) <= 9 for found in line.moments)

    @pytest.mark.case("node-and-spot E8")
    @pytest.mark.parametrize("when", RESTARTS)
    def test_in_a_fallback(self, when: str) -> None:
        line = burst()
        for pool in ("a", "b"):
            line.market.refuse(pool, now=line.now)
            line.market.reclaim(pool, now=line.now)
        line.run(when).restart()
        before = line.last

        line.run("15m")

        assert line.last.ready >= 8
        assert all(8 <= found.source <= 9 for found in line.since(before)[6:])

    @pytest.mark.case("node-and-spot E48")
    @pytest.mark.parametrize("when", RESTARTS)
    def test_in_a_drain(self, when: str) -> None:
        line = burst()
        line.demand = QUIET
        line.wait("2h", lambda line: bool(line.marks)).run(when).restart()

        line.wait("3h", lambda line: sum(line.last.machines.values()) <= BASELINE and not line.marks)

        assert line.counts[1] == 0
        assert all(found.ready >= BASELINE for found in line.moments[-100:])
