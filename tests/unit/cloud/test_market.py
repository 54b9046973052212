"""The market in simulated time: what it grants, refuses, takes back and bills."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from tests.builders import NOW, seconds

from spillway.adapters.cloud.base import (
    AlreadyGranted,
    AtMaximum,
    AtMinimum,
    CloudError,
    DesiredChanged,
    InstanceNotFound,
    PoolNotFound,
    Rejected,
    WrongNode,
)
from spillway.adapters.cloud.simulated import BootDelay, Market, PoolSpec, StateMismatch
from spillway.core.model import CapacityType, InstanceState, PoolState, RefusalKind

SPOT = PoolSpec(
    name="spot",
    capacity_type=CapacityType.SPOT,
    max_nodes=10,
    boot=BootDelay.fixed(seconds(100)),
    retry=seconds(30),
    notice=seconds(120),
)


def after(span: float) -> datetime:
    return NOW + seconds(span)


def market_of(**changes: Any) -> Market:  # noqa: ANN401 - fields of PoolSpec
    return Market([replace(SPOT, **changes)], now=NOW)


def grown(to: int, **changes: Any) -> Market:  # noqa: ANN401
    """A market whose pool was asked for *to* machines at NOW."""
    market = market_of(**changes)
    market.grow("spot", to=to, before=0, token="first", now=NOW)
    return market


def seen(market: Market, span: float) -> PoolState:
    return market.describe("spot", now=after(span))


def states(market: Market, span: float) -> list[str]:
    return [str(instance.state) for instance in seen(market, span).instances]


# Granting and booting


def test_a_machine_boots_for_its_delay_and_then_runs() -> None:
    market = grown(1)

    assert states(market, 0) == ["Booting"]
    assert states(market, 99) == ["Booting"]
    assert states(market, 100) == ["Running"]
    assert seen(market, 500).instances[0].since == after(100)


def test_a_machine_has_its_node_from_when_it_runs() -> None:
    market = grown(1)

    assert seen(market, 99).instances[0].node == ""
    instance = seen(market, 100).instances[0]
    assert instance.node == f"spot-{instance.id}"


@pytest.mark.parametrize("spread", [seconds(0), seconds(60)], ids=["fixed", "spread"])
def test_boot_delays_lie_between_their_bounds_and_come_again_with_the_seed(spread: Any) -> None:  # noqa: ANN401
    delay = BootDelay(least=seconds(100), most=seconds(100) + spread)
    ends = []
    for _ in range(2):
        market = grown(10, boot=delay)
        ends.append([machine.due_at for machine in market.machines("spot")])

    assert ends[0] == ends[1]
    assert all(end is not None and after(100) <= end <= after(100) + spread for end in ends[0])
    assert len(set(ends[0])) == (1 if spread == seconds(0) else 10)


def test_a_request_waits_for_its_answer() -> None:
    market = grown(1, answer=seconds(60))

    assert states(market, 59) == ["Requested"]
    assert states(market, 60) == ["Booting"]


def test_machines_are_spread_over_the_zones() -> None:
    market = grown(4, zones=("a", "b"))

    assert sorted(machine.zone for machine in market.machines("spot")) == ["a", "a", "b", "b"]


def test_a_pool_starts_with_its_minimum() -> None:
    assert seen(market_of(min_nodes=2), 0).desired == 2


def test_a_pool_can_start_above_its_minimum() -> None:
    assert states(market_of(min_nodes=1, start_nodes=3), 100) == ["Running"] * 3


@pytest.mark.case("node-and-spot D.6")
def test_gpus_show_after_their_own_delay() -> None:
    market = grown(1, gpu_delay=seconds(40))
    market.advance(after(100))

    assert market.machines("spot")[0].gpus_at == after(140)


@pytest.mark.case("node-and-spot D.6")
def test_a_pool_may_accept_and_never_boot() -> None:
    market = market_of()
    market.never_boot("spot", now=NOW)
    market.grow("spot", to=1, before=0, token="a", now=NOW)
    market.set_boot("spot", None, now=after(10))
    market.grow("spot", to=2, before=1, token="b", now=after(10))

    assert states(market, 10_000) == ["Booting", "Running"]


def test_a_changed_boot_delay_holds_for_later_machines() -> None:
    market = grown(1)
    market.set_boot("spot", BootDelay.fixed(seconds(7)), now=after(1))
    market.grow("spot", to=2, before=1, token="b", now=after(1))

    assert states(market, 8) == ["Booting", "Running"]


# Refusing


@pytest.mark.case("node-and-spot D.6")
def test_a_refusing_pool_keeps_the_size_and_tries_again() -> None:
    market = market_of()
    market.refuse("spot", times=2, now=NOW)
    market.grow("spot", to=3, before=0, token="a", now=NOW)

    dry = seen(market, 59)
    assert (dry.desired, dry.unfulfilled) == (3, 3)
    assert [(refusal.at, refusal.kind, refusal.code) for refusal in dry.refusals] == [
        (NOW, RefusalKind.CAPACITY, "InsufficientInstanceCapacity"),
        (after(30), RefusalKind.CAPACITY, "InsufficientInstanceCapacity"),
    ]
    assert "cannot launch 3 machines in zone-a" in dry.refusals[0].message
    assert states(market, 60) == ["Booting"] * 3


def test_a_pool_that_accepts_again_tries_at_once() -> None:
    market = market_of()
    market.refuse("spot", now=NOW)
    market.grow("spot", to=1, before=0, token="a", now=NOW)
    market.accept("spot", now=after(10))

    assert states(market, 10) == ["Booting"]


@pytest.mark.case("node-and-spot D.6")
def test_a_pool_may_grant_a_part() -> None:
    market = grown(5, capacity=2)

    state = seen(market, 0)
    assert (len(state.granted), state.unfulfilled, len(state.refusals)) == (2, 3, 1)


@pytest.mark.case("node-and-spot D.6")
def test_a_zone_that_refuses_leaves_the_others_open() -> None:
    market = market_of(zones=("a", "b"))
    market.refuse("spot", zones=("a",), now=NOW)
    market.grow("spot", to=2, before=0, token="a", now=NOW)

    state = seen(market, 0)
    assert [instance.zone for instance in state.granted] == ["b", "b"]
    assert [refusal.zone for refusal in state.refusals] == ["a"]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("InsufficientInstanceCapacity", RefusalKind.CAPACITY),
        ("VcpuLimitExceeded", RefusalKind.QUOTA),
        ("UnauthorizedOperation", RefusalKind.PERMISSION),
        ("InternalFailure", RefusalKind.OTHER),
    ],
)
def test_a_code_tells_what_kind_of_refusal_it_is(code: str, kind: RefusalKind) -> None:
    market = market_of()
    market.refuse("spot", code=code, now=NOW)
    market.grow("spot", to=1, before=0, token="a", now=NOW)

    assert [refusal.kind for refusal in seen(market, 0).refusals] == [kind]


def test_a_pool_remembers_its_last_refusals_only() -> None:
    market = market_of()
    market.refuse("spot", now=NOW)
    market.grow("spot", to=1, before=0, token="a", now=NOW)

    refusals = seen(market, 30 * 99).refusals
    assert len(refusals) == 20
    assert (refusals[0].at, refusals[-1].at) == (after(30 * 80), after(30 * 99))


def test_a_raised_limit_is_used_at_once() -> None:
    market = grown(5, capacity=2)
    market.limit("spot", 4, now=after(1))

    assert seen(market, 1).unfulfilled == 1


def test_a_lowered_limit_takes_no_machine_back() -> None:
    market = grown(3)
    market.limit("spot", 0, now=after(1))

    assert len(seen(market, 1).granted) == 3


# Growing, removing, cancelling


def test_one_token_grows_once() -> None:
    market = grown(2)
    market.grow("spot", to=2, before=0, token="first", now=after(599))

    assert seen(market, 599).desired == 2


@pytest.mark.case("node-and-spot D.6")
def test_a_size_that_somebody_changed_is_kept() -> None:
    market = grown(2)
    market.resize("spot", 3, now=after(1))

    with pytest.raises(DesiredChanged) as refused:
        market.grow("spot", to=4, before=2, token="b", now=after(2))

    assert (refused.value.desired, seen(market, 2).desired) == (3, 3)


@pytest.mark.case("node-and-spot E52")
def test_one_token_removes_one_machine_and_never_a_second() -> None:
    market = grown(3)
    first, second, third = seen(market, 100).instances
    gone = {"instance": first.id, "node": first.node, "token": "r"}
    market.remove("spot", **gone, now=after(100))

    market.remove("spot", **gone, now=after(101))
    with pytest.raises(Rejected, match="token r was used"):
        market.remove("spot", instance=second.id, node=second.node, token="r", now=after(102))

    state = seen(market, 102)
    assert state.desired == 2
    assert state.instances == (second, third)


def test_removing_what_is_gone_lowers_no_size() -> None:
    market = grown(2)
    gone = seen(market, 100).instances[0]
    market.remove("spot", instance=gone.id, node=gone.node, token="a", now=after(100))

    with pytest.raises(InstanceNotFound):
        market.remove("spot", instance=gone.id, node=gone.node, token="b", now=after(101))

    assert seen(market, 101).desired == 1


def test_a_machine_whose_node_is_another_is_not_removed() -> None:
    market = grown(2)
    first, second = seen(market, 100).instances

    with pytest.raises(WrongNode):
        market.remove("spot", instance=first.id, node=second.node, token="a", now=after(100))

    assert len(seen(market, 100).instances) == 2


def test_a_pool_at_its_minimum_removes_nothing() -> None:
    market = market_of(min_nodes=1)
    only = seen(market, 100).instances[0]

    with pytest.raises(AtMinimum):
        market.remove("spot", instance=only.id, node=only.node, token="a", now=after(100))

    assert states(market, 100) == ["Running"]


def test_a_removed_machine_stops_in_its_own_time() -> None:
    market = grown(1, stop=seconds(20))
    machine = seen(market, 100).instances[0]
    market.remove("spot", instance=machine.id, node=machine.node, token="a", now=after(100))

    assert (states(market, 119), seen(market, 119).desired) == (["Stopping"], 0)
    assert states(market, 120) == []


def test_cancelling_takes_back_requests_and_no_machine() -> None:
    market = grown(5, capacity=2)
    market.cancel_unfulfilled("spot", to=2, before=5, token="c", now=after(1))

    state = seen(market, 1)
    assert (state.desired, len(state.granted), state.unfulfilled) == (2, 2, 0)
    assert seen(market, 1000).refusals == state.refusals


def test_what_was_granted_meanwhile_is_not_cancelled() -> None:
    market = grown(3, capacity=1)
    market.limit("spot", 2, now=after(1))

    with pytest.raises(AlreadyGranted):
        market.cancel_unfulfilled("spot", to=1, before=3, token="c", now=after(2))

    assert len(seen(market, 2).granted) == 2


Change = Callable[[Market], None]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        pytest.param(
            lambda m: m.grow("spot", to=11, before=2, token="t", now=NOW), AtMaximum, id="above the maximum"
        ),
        pytest.param(
            lambda m: m.grow("spot", to=1, before=2, token="t", now=NOW), Rejected, id="growing downwards"
        ),
        pytest.param(
            lambda m: m.cancel_unfulfilled("spot", to=3, before=2, token="t", now=NOW),
            Rejected,
            id="cancelling upwards",
        ),
        pytest.param(
            lambda m: m.cancel_unfulfilled("spot", to=1, before=2, token="t", now=NOW),
            AlreadyGranted,
            id="cancelling machines",
        ),
        pytest.param(
            lambda m: m.cancel_unfulfilled("spot", to=2, before=3, token="t", now=NOW),
            DesiredChanged,
            id="cancelling on an old size",
        ),
        pytest.param(
            lambda m: m.grow("other", to=1, before=0, token="t", now=NOW), PoolNotFound, id="of no pool"
        ),
        pytest.param(lambda m: m.refuse("spot", zones=("z",), now=NOW), Rejected, id="in no zone"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(change: Change, error: type[CloudError]) -> None:
    market = grown(2)
    before = market.record()

    with pytest.raises(error):
        change(market)

    assert market.record() == before


def test_a_refused_change_does_not_use_its_token_up() -> None:
    market = grown(2)
    with pytest.raises(DesiredChanged):
        market.grow("spot", to=4, before=3, token="t", now=NOW)

    market.grow("spot", to=4, before=2, token="t", now=NOW)

    assert seen(market, 0).desired == 4


def test_requests_can_be_cancelled_to_the_minimum_only() -> None:
    market = grown(3, min_nodes=0, capacity=0)
    strict = Market([replace(SPOT, min_nodes=1, capacity=0)], now=NOW)

    market.cancel_unfulfilled("spot", to=0, before=3, token="c", now=NOW)
    with pytest.raises(AtMinimum):
        strict.cancel_unfulfilled("spot", to=0, before=1, token="c", now=NOW)


# Taking back


@pytest.mark.case("node-and-spot D.6")
def test_a_reclaimed_machine_is_told_runs_on_and_ends_at_its_deadline() -> None:
    market = grown(1)
    market.limit("spot", 0, now=after(200))
    told = market.reclaim("spot", now=after(200))

    machine = market.machines("spot")[0]
    assert told == (machine.id,)
    assert machine.notice is not None
    assert (machine.notice.at, machine.notice.ends_at) == (after(200), after(320))
    assert states(market, 319) == ["Running"]
    assert states(market, 320) == ["Requested"]


def test_a_machine_that_was_taken_is_replaced_where_there_is_room() -> None:
    market = grown(2)
    taken = market.reclaim("spot", count=1, now=after(200))

    state = seen(market, 320)
    assert state.desired == 2
    assert taken[0] not in {instance.id for instance in state.instances}
    assert [instance.state for instance in state.instances] == [InstanceState.RUNNING, InstanceState.BOOTING]


@pytest.mark.case("node-and-spot D.6")
def test_a_rebalanced_machine_goes_at_once_and_another_zone_takes_its_place() -> None:
    market = grown(2, zones=("a", "b"))
    in_a = next(instance for instance in seen(market, 100).instances if instance.zone == "a")
    market.limit("spot", 0, zone="a", now=after(100))
    market.reclaim("spot", instances=(in_a.id,), notice=seconds(0), now=after(100))

    state = seen(market, 100)
    assert state.desired == 2
    assert [instance.zone for instance in state.granted] == ["b", "b"]


def test_all_machines_of_one_zone_can_be_taken() -> None:
    market = grown(4, zones=("a", "b"))
    told = market.reclaim("spot", zone="a", now=after(100))

    assert {m.id for m in market.machines("spot") if m.zone == "a"} == set(told)


def test_a_machine_whose_notice_is_taken_back_stays() -> None:
    market = grown(1)
    told = market.reclaim("spot", now=after(200))
    assert market.cancel_notice("spot", now=after(210)) == told

    assert states(market, 1000) == ["Running"]


def test_a_machine_that_was_told_is_not_told_again() -> None:
    market = grown(2)
    first = market.reclaim("spot", count=1, now=after(200))
    second = market.reclaim("spot", count=1, now=after(210))

    assert set(first).isdisjoint(second)


@pytest.mark.case("node-and-spot D.6")
def test_a_machine_that_vanishes_leaves_its_node_behind() -> None:
    market = grown(1)
    machine = seen(market, 100).instances[0]
    market.vanish("spot", now=after(200))

    assert market.pool_record("spot").ghosts == {machine.node: after(200)}
    assert machine.id not in {instance.id for instance in seen(market, 200).instances}


@pytest.mark.case("node-and-spot D.6")
def test_a_removed_machine_may_leave_its_node_behind() -> None:
    market = grown(1)
    market.leave_nodes("spot", True, now=after(100))
    machine = seen(market, 100).instances[0]
    market.remove("spot", instance=machine.id, node=machine.node, token="a", now=after(100))

    assert market.pool_record("spot").ghosts == {machine.node: after(100)}


@pytest.mark.case("node-and-spot D.6")
def test_a_machine_comes_back_under_its_name_with_a_new_boot_id_and_no_notice() -> None:
    market = grown(1)
    seen(market, 100)
    before = market.machines("spot")[0]
    market.reclaim("spot", now=after(200))
    market.reboot("spot", now=after(210))

    booting = market.machines("spot")[0]
    assert (booting.state, booting.notice) == (InstanceState.BOOTING, None)
    assert states(market, 310) == ["Running"]
    reborn = market.machines("spot")[0]
    assert (reborn.node, reborn.id) == (before.node, before.id)
    assert reborn.boot_id != before.boot_id


def test_a_foreign_shrink_takes_requests_first_and_then_the_oldest() -> None:
    market = grown(3, capacity=2)
    old, young, _ = market.machines("spot")

    market.resize("spot", 2, now=after(1))
    assert [machine.id for machine in market.machines("spot")] == [old.id, young.id]

    market.resize("spot", 1, now=after(2))
    assert [machine.id for machine in market.machines("spot")] == [young.id]


def test_no_machine_of_that_name_can_be_taken() -> None:
    with pytest.raises(InstanceNotFound):
        grown(1).reclaim("spot", instances=("i-none",), now=after(1))


# Billing


@pytest.mark.parametrize(
    ("ends", "billed"), [pytest.param(10, 60, id="the least"), pytest.param(250, 250, id="by the second")]
)
def test_a_machine_is_billed_from_its_grant_to_its_end(ends: float, billed: float) -> None:
    market = grown(1, price_per_hour=Decimal(36))
    machine = seen(market, ends).instances[0]
    name = market.machines("spot")[0].node
    market.remove("spot", instance=machine.id, node=name, token="a", now=after(ends))

    bill = market.ledger(now=after(9000))["spot"]
    # 36 an hour is 0.01 a second.
    assert (bill.machine_time, bill.cost) == (seconds(billed), Decimal(int(billed)) / 100)


def test_a_running_machine_is_billed_so_far() -> None:
    assert grown(2).ledger(now=after(300))["spot"].machine_time == seconds(600)


def test_a_request_that_is_never_granted_costs_nothing() -> None:
    assert grown(2, capacity=0).ledger(now=after(300))["spot"].machine_time == seconds(0)


def test_a_taken_machine_is_billed_to_its_loss() -> None:
    market = grown(1)
    market.limit("spot", 0, now=after(200))
    market.reclaim("spot", now=after(200))

    assert market.ledger(now=after(9000))["spot"].machine_time == seconds(320)


def test_without_a_price_the_cost_is_unknown() -> None:
    assert grown(1).ledger(now=after(300))["spot"].cost is None


# Going on after a restart


def test_a_market_goes_on_where_its_record_stands() -> None:
    market = grown(3, capacity=2)
    market.reclaim("spot", count=1, now=after(50))
    market.refuse("spot", times=3, now=after(60))

    again = Market([replace(SPOT, capacity=2)], now=after(400), record=market.record())

    market.advance(after(400))
    assert again.record() == market.record()


def test_a_record_keeps_its_tokens() -> None:
    again = Market([SPOT], now=after(300), record=grown(2).record())
    again.grow("spot", to=2, before=0, token="first", now=after(300))

    assert seen(again, 300).desired == 2


def test_a_record_with_machines_of_an_unknown_pool_is_refused() -> None:
    with pytest.raises(StateMismatch, match="machines in spot"):
        Market([replace(SPOT, name="other")], now=after(1), record=grown(1).record())


def test_a_pool_needs_a_zone_and_a_pause_between_tries() -> None:
    with pytest.raises(ValueError, match="no zone"):
        replace(SPOT, zones=())
    with pytest.raises(ValueError, match="above 0"):
        replace(SPOT, retry=seconds(0))
