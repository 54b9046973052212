"""What is written to tell people, and what it may take of the API server's time: recorded answers on a moved clock."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web

from spillway.adapters.kube.client import KubeClient
from spillway.adapters.kube.write import set_replicas
from spillway.api.convert import Converted, ConvertedPool, CostLabels, Invalid
from spillway.api.problems import Problem
from spillway.app.report import PARALLEL_REPORTS, Reporter
from spillway.app.snapshots import View
from spillway.core.cost import Bill, draw_bill
from spillway.core.memory import Memory
from spillway.core.model import GrowPool, ObjectKey, Operation, OperationState
from spillway.core.plan import (
    BreakerView,
    BurstReason,
    CapacityView,
    FallbackReason,
    Finding,
    IsolationReason,
    Plan,
    SplitView,
)
from tests.builders import decide_one, make_act, make_pool, make_snapshot
from tests.contract.kube.server import Answer, ScriptedApi, body, client_of, hang

pytestmark = pytest.mark.looptime

NOW = datetime(2026, 11, 22, 9, 21, 14, tzinfo=UTC)
STORED = body({"metadata": {"resourceVersion": "7"}})
FLEET = 100
NOTHING_DECIDED = Plan(
    decisions={}, acts=(), memory=Memory(), breaker=BreakerView(is_open=False, lost=0, active=0)
)


def stored_raw(name: str, *, uid: str) -> Mapping[str, Any]:
    return {"metadata": {"name": name, "uid": uid}}


class Held:
    """A Lease that somebody may take away."""

    until = 1_000.0

    def held_for(self, deadline: float) -> bool:
        return deadline < self.until


def fleet_with_news() -> View:
    """A view of many workloads whose status has to be written: each breaks a rule."""
    keys = [ObjectKey("ns", f"w{number}") for number in range(FLEET)]
    problem = Problem(field="spec.maxReplicas", message="must be at least 1")
    return View(
        snapshot=make_snapshot(),
        raw={key: {"metadata": {"uid": key.name}} for key in keys},
        converted={},
        invalid=tuple(Invalid(key=key, uid=key.name, generation=1, problems=(problem,)) for key in keys),
    )


def slowly_stored() -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(1)
        return await STORED(request)

    return answer


@asynccontextmanager
async def reporting(
    api: ScriptedApi, lease: Held | None = None, *, wall: Callable[[], datetime] = lambda: NOW
) -> AsyncIterator[tuple[Reporter, KubeClient]]:
    client = client_of(api)
    reporter = Reporter(
        client,
        lease=lease or Held(),
        identity="me",
        steady=asyncio.get_running_loop().time,
        wall=wall,
    )
    try:
        yield reporter, client
    finally:
        await reporter.stop(seconds=0.1)
        await client.close()


async def test_many_statuses_wait_for_their_turn_and_not_on_their_time(api: ScriptedApi) -> None:
    api.writes(*[slowly_stored() for _ in range(FLEET)])

    async with reporting(api) as (reporter, _):
        reporter.report(NOTHING_DECIDED, fleet_with_news(), Bill(), now=NOW)
        await reporter.stop(seconds=60)

    statuses = [path for path in api.requests if path.endswith("/status")]
    assert len(statuses) == len(set(statuses)) == FLEET


async def test_statuses_that_hang_leave_room_for_a_write_of_replicas(api: ScriptedApi) -> None:
    api.writes(*[hang()] * PARALLEL_REPORTS, STORED)

    async with reporting(api) as (reporter, client):
        reporter.report(NOTHING_DECIDED, fleet_with_news(), Bill(), now=NOW)
        await asyncio.sleep(1)

        assert await set_replicas(client, make_act()) == "7"


async def test_a_status_that_waited_until_the_lease_was_lost_is_not_written(api: ScriptedApi) -> None:
    api.writes(*[slowly_stored() for _ in range(FLEET)])
    lease = Held()

    async with reporting(api, lease) as (reporter, _):
        reporter.report(NOTHING_DECIDED, fleet_with_news(), Bill(), now=NOW)
        await asyncio.sleep(0.5)
        lease.until = 0.0
        await reporter.stop(seconds=60)

    assert len(api.requests) == PARALLEL_REPORTS


POOL = stored_raw("spot-a", uid="uid-spot-a")
GROW = GrowPool(pool="spot-a", pool_uid="uid-spot-a", before=1, to=3)


def fleet_with_a_pool() -> View:
    """A view of one pool that has no nodes yet."""
    pool = make_pool("spot-a", uid="uid-spot-a")
    return View(
        snapshot=make_snapshot((), pods=(), pools=(pool,)),
        raw={},
        converted={},
        invalid=(),
        pools={"spot-a": ConvertedPool(pool=pool, generation=1)},
        raw_pools={"spot-a": POOL},
    )


def events(api: ScriptedApi) -> list[tuple[str, str, str, str]]:
    """Return kind of the object, its name, type and reason of every Event that was posted."""
    posted = [sent for sent in api.written if isinstance(sent, dict) and sent.get("kind") == "Event"]
    return [
        (sent["involvedObject"]["kind"], sent["involvedObject"]["name"], sent["type"], sent["reason"])
        for sent in posted
    ]


def failed(message: str = "no answer") -> Operation:
    return Operation(act=GROW, state=OperationState.FAILED, error=message)


async def test_what_was_done_to_a_pool_is_told_on_the_pool(api: ScriptedApi) -> None:
    api.writes(*[STORED] * 2)
    view = fleet_with_a_pool()

    async with reporting(api) as (reporter, _):
        reporter.report(NOTHING_DECIDED, view, draw_bill(view.snapshot), now=NOW)
        reporter.note(Operation(act=GROW, state=OperationState.LANDED), None)
        await reporter.stop(seconds=60)

    assert events(api) == [("GpuNodePool", "spot-a", "Normal", "PoolGrown")]
    told = next(sent for sent in api.written if isinstance(sent, dict))
    assert told["involvedObject"]["uid"] == "uid-spot-a"
    assert told["message"] == "Asked for 3 nodes; it was asked for 1 before"


async def test_an_act_on_a_pool_that_went_is_told_to_nobody(api: ScriptedApi) -> None:
    async with reporting(api) as (reporter, _):
        reporter.note(Operation(act=GROW, state=OperationState.LANDED), None)
        await reporter.stop(seconds=60)

    assert api.written == []


@pytest.mark.parametrize(
    ("again", "minutes", "told"),
    [
        pytest.param(failed(), 4, 1, id="the same within 5 minutes"),
        pytest.param(failed(), 6, 2, id="the same after that"),
        pytest.param(failed("throttled"), 4, 2, id="another error"),
    ],
)
async def test_a_failure_that_repeats_is_told_once_in_a_while(
    api: ScriptedApi, again: Operation, minutes: float, told: int
) -> None:
    api.writes(*[STORED] * 3)
    view = fleet_with_a_pool()
    moment = [NOW]

    async with reporting(api, wall=lambda: moment[0]) as (reporter, _):
        reporter.report(NOTHING_DECIDED, view, draw_bill(view.snapshot), now=NOW)
        reporter.note(failed(), None)
        moment[0] += timedelta(minutes=minutes)
        reporter.note(again, None)
        await reporter.stop(seconds=60)

    assert events(api) == [("GpuNodePool", "spot-a", "Warning", "PoolResizeFailed")] * told


async def test_a_success_in_between_makes_the_next_failure_news(api: ScriptedApi) -> None:
    api.writes(*[STORED] * 4)
    view = fleet_with_a_pool()

    async with reporting(api) as (reporter, _):
        reporter.report(NOTHING_DECIDED, view, draw_bill(view.snapshot), now=NOW)
        for operation in (failed(), Operation(act=GROW, state=OperationState.LANDED), failed()):
            reporter.note(operation, None)
        await reporter.stop(seconds=60)

    assert [reason for *_, reason in events(api)] == ["PoolResizeFailed", "PoolGrown", "PoolResizeFailed"]


LLM = ObjectKey("chat", "llm")


def fallback(cause: FallbackReason | None) -> CapacityView:
    """A burst of 6, of which two stand in for spot because of *cause*; None for a burst that spot carries."""
    held = 0 if cause is None else 2
    split = SplitView(baseline=2 + held, burst=6, fallback=held, baseline_now=2, burst_now=6)
    told = Finding(reason=cause or FallbackReason.NOT_NEEDED, message=f"{held} of 6 run on demand")
    return CapacityView(
        split=split,
        burst=Finding(reason=BurstReason.BURSTING, message="6 replicas are to run on spot"),
        fallback=told,
        isolation=Finding(reason=IsolationReason.ISOLATED, message="Taints keep the baseline off"),
        bursts=True,
        falls_back=cause is not None,
    )


async def told_of(api: ScriptedApi, *causes: FallbackReason | None) -> list[tuple[str, str]]:
    """Report a fallback in these states, one pass after the other; return type and reason of what was posted."""
    api.writes(*[STORED] * 20)
    snapshot = make_snapshot()
    (workload,) = snapshot.workloads
    converted = Converted(
        workload=workload, generation=1, provenance=(), cost=CostLabels(), policy=None, policy_conflicts=()
    )
    view = View(
        snapshot=snapshot,
        raw={LLM: stored_raw("llm", uid=workload.uid)},
        converted={LLM: converted},
        invalid=(),
    )
    decision = decide_one(snapshot)
    async with reporting(api) as (reporter, _):
        for cause in causes:
            plan = replace(NOTHING_DECIDED, decisions={LLM: replace(decision, placement=fallback(cause))})
            reporter.report(plan, view, Bill(), now=NOW)
            await asyncio.sleep(1)
        await reporter.stop(seconds=60)
    return [(kind, reason) for _, _, kind, reason in events(api)]


async def test_a_fallback_is_told_when_it_begins_turns_and_ends(api: ScriptedApi) -> None:
    told = await told_of(api, None, FallbackReason.SPOT_REFUSED, FallbackReason.RETURNING, None)

    assert told == [("Warning", "SpotRefused"), ("Normal", "Returning"), ("Normal", "FallbackEnded")]


async def test_a_burst_that_never_fell_back_has_no_end_of_it_to_tell(api: ScriptedApi) -> None:
    assert await told_of(api, None, None) == []
