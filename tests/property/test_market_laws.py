"""Laws of the market: whatever is asked of it and whatever befalls it, its books are right."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from tests.builders import NOW, seconds

from spillway.adapters.cloud.base import CloudError
from spillway.adapters.cloud.simulated import BootDelay, Market, MarketRecord, PoolSpec
from spillway.core.model import PoolState

POOLS = (
    PoolSpec(
        name="spot",
        zones=("a", "b"),
        min_nodes=1,
        max_nodes=6,
        capacity=2,
        boot=BootDelay(least=seconds(20), most=seconds(90)),
        notice=seconds(30),
        stop=seconds(10),
        retry=seconds(30),
    ),
    PoolSpec(name="steady", max_nodes=4, boot=BootDelay.fixed(seconds(50)), answer=seconds(15)),
)
SAVED = TypeAdapter(MarketRecord)


@dataclass(frozen=True)
class Step:
    """Something that is done to a market after a while."""

    wait: timedelta
    what: str
    pool: str
    number: int

    def do(self, market: Market, now: datetime) -> None:
        """Do it; what the market refuses is not done."""
        market.advance(now)  # the doings choose among the machines that there are
        try:
            DOINGS[self.what](market, self, now)
        except CloudError:
            return


def _grow(market: Market, step: Step, now: datetime) -> None:
    before = market.describe(step.pool, now=now).desired
    market.grow(step.pool, to=before + step.number, before=before, token=f"g{now}", now=now)


def _cancel(market: Market, step: Step, now: datetime) -> None:
    state = market.describe(step.pool, now=now)
    to = max(0, state.desired - step.number)
    market.cancel_unfulfilled(step.pool, to=to, before=state.desired, token=f"c{now}", now=now)


def _remove(market: Market, step: Step, now: datetime) -> None:
    machines = [found for found in market.machines(step.pool) if found.exists]
    if machines:
        chosen = machines[step.number % len(machines)]
        market.remove(step.pool, instance=chosen.id, node=chosen.node, token=f"r{now}", now=now)


def _never_boot(market: Market, step: Step, now: datetime) -> None:
    if step.number == 0:
        market.never_boot(step.pool, now=now)
    else:
        market.set_boot(step.pool, None, now=now)


DOINGS: dict[str, Callable[[Market, Step, datetime], None]] = {
    "grow": _grow,
    "cancel": _cancel,
    "remove": _remove,
    "never boot": _never_boot,
    "refuse": lambda m, s, now: m.refuse(s.pool, times=s.number or None, now=now),
    "accept": lambda m, s, now: m.accept(s.pool, now=now),
    "limit": lambda m, s, now: m.limit(s.pool, s.number, now=now),
    "reclaim": lambda m, s, now: _ignore(m.reclaim(s.pool, count=s.number, now=now)),
    "cancel notice": lambda m, s, now: _ignore(m.cancel_notice(s.pool, now=now)),
    "vanish": lambda m, s, now: _ignore(m.vanish(s.pool, count=s.number, now=now)),
    "reboot": lambda m, s, now: _ignore(m.reboot(s.pool, count=s.number, now=now)),
    "resize": lambda m, s, now: m.resize(s.pool, s.number, now=now),
}
STEPS = st.lists(
    st.builds(
        Step,
        wait=st.integers(0, 120).map(seconds),
        what=st.sampled_from(sorted(DOINGS)),
        pool=st.sampled_from([pool.name for pool in POOLS]),
        number=st.integers(0, 4),
    ),
    max_size=25,
)


def _ignore(_: object) -> None:
    """The doing counts, not what it returns."""


def played(steps: list[Step], *, every: int | None = None) -> tuple[Market, datetime]:
    """Return a market that lived through *steps* and an hour more, looked at each *every* seconds or only when needed."""
    market, now = Market(POOLS, now=NOW, seed=3), NOW
    for step in [*steps, Step(seconds(3600), "accept", "spot", 0)]:
        until = now + step.wait
        while every is not None and now < until:
            now = min(until, now + seconds(every))
            market.advance(now)
        now = until
        step.do(market, now)
    market.advance(now)
    return market, now


def states(market: Market, now: datetime) -> list[PoolState]:
    return [market.describe(pool.name, now=now) for pool in POOLS]


@given(STEPS)
def test_the_machines_that_count_are_always_those_asked_for(steps: list[Step]) -> None:
    market, now = Market(POOLS, now=NOW), NOW
    for step in steps:
        now += step.wait
        step.do(market, now)
        for pool in POOLS:
            record = market.pool_record(pool.name)
            assert sum(machine.counts for machine in record.machines) == record.desired
            assert len({machine.id for machine in record.machines}) == len(record.machines)


@given(STEPS, st.integers(1, 40))
def test_it_does_not_matter_how_often_a_market_is_looked_at(steps: list[Step], every: int) -> None:
    (seldom, end), (often, same_end) = played(steps), played(steps, every=every)

    assert end == same_end
    assert states(seldom, end) == states(often, end)
    assert seldom.ledger(now=end) == often.ledger(now=end)


@given(STEPS)
def test_a_bill_never_falls(steps: list[Step]) -> None:
    market, now = Market(POOLS, now=NOW), NOW
    before = market.ledger(now=now)
    for step in steps:
        now += step.wait
        step.do(market, now)
        bills = market.ledger(now=now)
        assert all(bills[name].machine_time >= before[name].machine_time for name in bills)
        before = bills


@given(STEPS)
def test_a_saved_market_goes_on_as_if_it_had_never_stopped(steps: list[Step]) -> None:
    cut = len(steps) // 2
    market, now = Market(POOLS, now=NOW), NOW
    for step in steps[:cut]:
        now += step.wait
        step.do(market, now)
    market.advance(now)
    record = SAVED.validate_json(SAVED.dump_json(market.record()))
    again = Market(POOLS, now=now, record=record)
    assert again.record() == market.record()
    for step in steps[cut:]:
        now += step.wait
        step.do(market, now)
        step.do(again, now)

    assert again.record() == market.record()


@given(STEPS, st.integers(0, 1000))
def test_the_fate_of_one_pool_is_none_of_another(steps: list[Step], seed: int) -> None:
    alone = Market(POOLS[:1], now=NOW, seed=seed)
    together = Market(POOLS, now=NOW, seed=seed)
    now = NOW
    for step in steps:
        now += step.wait
        step.do(together, now)
        if step.pool == "spot":
            step.do(alone, now)

    assert alone.describe("spot", now=now) == together.describe("spot", now=now)


@given(STEPS)
def test_api_calls_keep_a_pool_within_its_bounds(steps: list[Step]) -> None:
    market, now = Market(POOLS, now=NOW), NOW
    for step in [step for step in steps if step.what != "resize"]:
        now += step.wait
        step.do(market, now)
        assert 1 <= market.describe("spot", now=now).desired <= 6


@pytest.mark.case("node-and-spot E52")
@given(STEPS, st.sampled_from(["grow", "cancel", "remove"]), st.integers(0, 4))
def test_a_change_sent_twice_has_one_effect(steps: list[Step], what: str, number: int) -> None:
    once, now = played(steps)
    twice, _ = played(steps)
    record = once.record()
    change = Step(seconds(0), what, "spot", number)
    arguments = _sent(once, change, now)
    _sent(twice, change, now)
    if arguments is not None:
        getattr(twice, arguments[0])("spot", **arguments[1])

    assert replace(twice.record(), tokens=()) == replace(once.record(), tokens=())
    assert once.record().at == record.at


def _sent(market: Market, step: Step, now: datetime) -> tuple[str, dict[str, object]] | None:
    """Send one change and return it so that it can be sent again; None where it was refused or there is none."""
    state = market.describe(step.pool, now=now)
    machines = [found for found in market.machines(step.pool) if found.exists]
    arguments: dict[str, object] = {"token": "once", "now": now}
    if step.what == "remove":
        if not machines:
            return None
        chosen = machines[step.number % len(machines)]
        call, arguments = "remove", {**arguments, "instance": chosen.id, "node": chosen.node}
    elif step.what == "grow":
        to = state.desired + step.number
        call, arguments = "grow", {**arguments, "to": to, "before": state.desired}
    else:
        to = state.desired - step.number
        call, arguments = "cancel_unfulfilled", {**arguments, "to": to, "before": state.desired}
    try:
        getattr(market, call)(step.pool, **arguments)
    except CloudError:
        return None
    return call, arguments
