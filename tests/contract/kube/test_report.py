"""What status writes may take of the API server's time, against recorded answers on a moved clock."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from aiohttp import web

from spillway.adapters.kube.client import KubeClient
from spillway.adapters.kube.write import set_replicas
from spillway.api.convert import Invalid
from spillway.api.problems import Problem
from spillway.app.report import PARALLEL_REPORTS, Reporter
from spillway.app.snapshots import View
from spillway.core.cost import Bill
from spillway.core.memory import Memory
from spillway.core.model import ObjectKey
from spillway.core.plan import BreakerView, Plan
from tests.builders import make_act, make_snapshot
from tests.contract.kube.server import Answer, ScriptedApi, body, client_of, hang

pytestmark = pytest.mark.looptime

NOW = datetime(2026, 11, 22, 9, 21, 14, tzinfo=UTC)
STORED = body({"metadata": {"resourceVersion": "7"}})
FLEET = 100
NOTHING_DECIDED = Plan(
    decisions={}, acts=(), memory=Memory(), breaker=BreakerView(is_open=False, lost=0, active=0)
)


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
    api: ScriptedApi, lease: Held | None = None
) -> AsyncIterator[tuple[Reporter, KubeClient]]:
    client = client_of(api)
    reporter = Reporter(
        client,
        lease=lease or Held(),
        identity="me",
        steady=asyncio.get_running_loop().time,
        wall=lambda: NOW,
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
