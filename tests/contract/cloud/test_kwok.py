"""The client of a market against the market's own server over loopback HTTP, and against servers that answer nonsense."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from spillway.adapters.cloud.base import (
    AlreadyGranted,
    AtMaximum,
    AtMinimum,
    CloudError,
    DesiredChanged,
    InstanceNotFound,
    NotPermitted,
    PoolNotFound,
    ProviderUnavailable,
    Rejected,
    Throttled,
    WrongNode,
)
from spillway.adapters.cloud.kwok import KwokProvider
from spillway.adapters.cloud.simulated import Market, PoolSpec
from spillway.adapters.cloud.wire import CODES, read_error, write_error
from spillway.cli.market.server import MarketServer
from tests.builders import NOW, seconds

PATIENCE = 0.3  # seconds that a client under test waits for an answer that never comes
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Served:
    """A market of pool `p` (1 to 5 nodes, two of them running) behind its server, a client, and a clock to turn."""

    def __init__(self) -> None:
        self.now = NOW
        self.market = Market(
            [PoolSpec(name="p", zones=("a", "b"), min_nodes=1, max_nodes=5, start_nodes=2)], now=NOW
        )
        self.saves = 0
        self.url = ""
        self.client: KwokProvider

    def save(self) -> None:
        self.saves += 1

    async def control(self, **body: Any) -> tuple[int, dict[str, Any]]:  # noqa: ANN401
        return await self.ask("POST", "/pools/p/faults", body)

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.url + path, json=body) as response,
        ):
            return response.status, await response.json()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    served = Served()
    server = MarketServer(served.market, now=lambda: served.now, saved=served.save)
    served.url = await server.start(host="127.0.0.1", port=0)
    served.client = KwokProvider(served.url, now=lambda: served.now, timeout_seconds=PATIENCE)
    yield served
    await served.client.close()
    await server.stop()


async def test_a_pool_comes_over_the_wire_as_it_is(served: Served) -> None:
    await served.control(do="Refuse")
    await served.client.grow("p", to=3, before=2, token="t")
    served.now += seconds(5)

    assert await served.client.describe("p") == served.market.describe("p", now=served.now)


async def test_a_state_is_of_when_it_was_asked_for(served: Served) -> None:
    moments = iter([NOW + seconds(1), NOW + seconds(99)])
    client = KwokProvider(served.url, now=lambda: next(moments))

    state = await client.describe("p")
    await client.close()

    assert state.at == NOW + seconds(1)


async def test_growing_removing_and_cancelling_reach_the_market(served: Served) -> None:
    await served.client.grow("p", to=4, before=2, token="a")
    first = (await served.client.describe("p")).instances[0]
    await served.client.remove("p", instance=first.id, node=first.node, token="b")
    await served.control(do="Refuse")
    await served.client.grow("p", to=5, before=3, token="c")
    await served.client.cancel_unfulfilled("p", to=3, before=5, token="d")

    state = served.market.describe("p", now=NOW)
    assert (state.desired, len(state.granted), state.unfulfilled) == (3, 3, 0)
    assert first.id not in {instance.id for instance in state.instances}


async def test_what_is_answered_was_saved_before(served: Served) -> None:
    await served.client.grow("p", to=4, before=2, token="a")

    assert served.saves > 0


Call = Callable[[KwokProvider], Awaitable[object]]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        pytest.param(lambda c: c.describe("q"), PoolNotFound, id="no such pool"),
        pytest.param(lambda c: c.describe("../ledger"), PoolNotFound, id="a name that is a path"),
        pytest.param(lambda c: c.grow("p", to=6, before=2, token="t"), AtMaximum, id="above the maximum"),
        pytest.param(lambda c: c.grow("p", to=1, before=2, token="t"), Rejected, id="growing downwards"),
        pytest.param(
            lambda c: c.cancel_unfulfilled("p", to=1, before=2, token="t"), AlreadyGranted, id="granted"
        ),
    ],
)
async def test_a_refusal_comes_over_the_wire_as_its_type(
    served: Served, call: Call, error: type[CloudError]
) -> None:
    with pytest.raises(error) as refused:
        await call(served.client)

    assert not refused.value.may_have_happened


@pytest.mark.case("node-and-spot E53")
async def test_a_changed_size_says_what_it_is_now(served: Served) -> None:
    await served.control(do="Resize", to=3)

    with pytest.raises(DesiredChanged) as refused:
        await served.client.grow("p", to=4, before=2, token="t")

    assert refused.value.desired == 3
    assert (await served.client.describe("p")).desired == 3


async def test_removing_needs_the_right_node_and_stops_at_the_minimum(served: Served) -> None:
    first, second = (await served.client.describe("p")).instances
    with pytest.raises(WrongNode):
        await served.client.remove("p", instance=first.id, node=second.node, token="a")
    await served.client.remove("p", instance=first.id, node=first.node, token="b")
    with pytest.raises(AtMinimum):
        await served.client.remove("p", instance=second.id, node=second.node, token="c")


async def test_removing_what_is_gone_is_success(served: Served) -> None:
    await served.client.remove("p", instance="gone", node="p-gone", token="t")

    assert (await served.client.describe("p")).desired == 2


@pytest.mark.case("node-and-spot E62")
@pytest.mark.parametrize(
    ("kind", "error", "may_have_happened"),
    [
        ("Throttle", Throttled, False),
        ("Forbid", NotPermitted, False),
        ("Fail", ProviderUnavailable, True),
        ("Hang", ProviderUnavailable, True),
    ],
)
async def test_a_fault_of_the_api_changes_nothing_and_comes_as_its_type(
    served: Served, kind: str, error: type[CloudError], may_have_happened: bool
) -> None:
    await served.control(do="ApiFault", kind=kind, times=1)

    with pytest.raises(error) as failed:
        await served.client.grow("p", to=4, before=2, token="t")

    assert failed.value.may_have_happened == may_have_happened
    assert (await served.client.describe("p")).desired == 2


async def test_a_throttled_call_says_how_long_to_wait(served: Served) -> None:
    await served.control(do="ApiFault", kind="Throttle")

    with pytest.raises(Throttled) as failed:
        await served.client.describe("p")

    assert failed.value.retry_after == 2


@pytest.mark.case("node-and-spot E52")
async def test_a_removal_that_times_out_is_described_and_asked_again_with_one_effect(served: Served) -> None:
    first, second = (await served.client.describe("p")).instances
    await served.control(do="ApiFault", kind="LoseAnswer", times=1, calls=["remove"])

    with pytest.raises(ProviderUnavailable) as lost:
        await served.client.remove("p", instance=first.id, node=first.node, token="t")
    assert lost.value.may_have_happened
    assert (await served.client.describe("p")).instances == (second,)

    await served.client.remove("p", instance=first.id, node=first.node, token="t")
    assert (await served.client.describe("p")).instances == (second,)


@pytest.mark.case("node-and-spot D.6")
async def test_a_stale_answer_shows_the_past_until_it_is_mended(served: Served) -> None:
    await served.control(do="ApiFault", kind="Stale")
    await served.client.grow("p", to=5, before=2, token="t")

    assert (await served.client.describe("p")).desired == 2
    await served.control(do="ApiFault", kind=None)
    assert (await served.client.describe("p")).desired == 5


# The control side


@pytest.mark.case("node-and-spot D.6")
async def test_machines_are_taken_with_notice_and_given_back(served: Served) -> None:
    _, told = await served.control(do="Reclaim", count=1, noticeSeconds=30)
    _, shown = await served.ask("GET", "/pools/p/machines")

    ends = {machine["id"]: machine["endsAt"] for machine in shown["machines"]}
    assert ends[told["instances"][0]] == "2026-03-01T12:00:30+00:00"
    assert await served.control(do="CancelNotice") == (200, told)


@pytest.mark.case("node-and-spot D.6")
@pytest.mark.parametrize(
    ("controls", "desired", "granted"),
    [
        pytest.param([{"do": "Limit", "machines": 1}], 4, 2, id="a limit in each zone"),
        pytest.param([{"do": "Limit", "machines": 1, "zone": "a"}], 4, 4, id="a limit in one zone"),
        pytest.param([{"do": "Refuse", "times": 1}], 4, 4, id="one refusal, one zone"),
        pytest.param([{"do": "Refuse"}, {"do": "Accept"}], 4, 4, id="refused, then accepted"),
        pytest.param([{"do": "Vanish", "count": 1}], 4, 4, id="vanished, then replaced"),
    ],
)
async def test_a_control_shows_in_what_is_granted(
    served: Served, controls: list[dict[str, Any]], desired: int, granted: int
) -> None:
    for control in controls:
        assert (await served.control(**control))[0] == 200
    await served.client.grow("p", to=4, before=2, token="t")

    state = await served.client.describe("p")
    assert (state.desired, len(state.granted)) == (desired, granted)


@pytest.mark.parametrize(
    ("controls", "running"),
    [
        pytest.param([{"do": "NeverBoot"}], 2, id="never"),
        pytest.param([{"do": "Boot", "leastSeconds": 50}], 2, id="slower"),
        pytest.param([{"do": "NeverBoot"}, {"do": "Boot"}], 3, id="as the file says again"),
        pytest.param([{"do": "Boot", "leastSeconds": 50}, {"do": "Reboot", "count": 1}], 1, id="one more"),
    ],
)
async def test_a_control_shows_in_what_runs(
    served: Served, controls: list[dict[str, Any]], running: int
) -> None:
    for control in controls:
        assert (await served.control(**control))[0] == 200
    await served.client.grow("p", to=3, before=2, token="t")

    served.now += seconds(49)
    states = [str(instance.state) for instance in (await served.client.describe("p")).instances]
    assert states.count("Running") == running


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/pools/p/faults", {"do": "Explode"}, "Rejected"),
        ("/pools/p/faults", {"do": "Refuse", "time": 3}, "Rejected"),
        ("/pools/p/grow", {"to": "4", "before": 2, "token": "t"}, "Rejected"),
        ("/pools/p/grow", {"to": 4, "before": 2}, "Rejected"),
        ("/pools/q/faults", {"do": "Accept"}, "PoolNotFound"),
        ("/nothing", {}, "Not Found"),
    ],
)
async def test_a_wrong_request_is_refused_in_json(served: Served, path: str, body: object, code: str) -> None:
    status, answer = await served.ask("POST", path, body)

    assert 400 <= status < 500
    assert answer["error"]["code"] == code
    assert served.market.describe("p", now=NOW).desired == 2


async def test_the_ledger_bills_what_ran(served: Served) -> None:
    served.now += seconds(100)

    assert await served.ask("GET", "/ledger") == (
        200,
        {"pools": {"p": {"machineSeconds": 200.0, "cost": None}}},
    )


async def test_the_list_shows_every_pool_also_while_the_api_is_broken(served: Served) -> None:
    await served.control(do="ApiFault", kind="Fail")

    status, answer = await served.ask("GET", "/pools")
    assert (status, answer["pools"]) == (
        200,
        [{"name": "p", "capacityType": "OnDemand", "desired": 2, "granted": 2, "maxNodes": 5}],
    )


# Servers that are no market


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[KwokProvider]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    client = KwokProvider(
        f"http://{host}:{port}", now=lambda: NOW, timeout_seconds=PATIENCE, max_bytes=10_000
    )
    yield client
    await client.close()
    await runner.cleanup()


def body(text: str, status: int = 200) -> Answer:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text=text, status=status)

    return answer


INSTANCE = {"id": "1", "state": "Running", "since": "2026-03-01T12:00:00Z"}


def pool(**changes: object) -> str:
    return json.dumps({"desired": 1, "instances": [INSTANCE], "refusals": [], **changes})


async def test_a_pool_of_a_newer_market_is_understood() -> None:
    async with answering(body(pool(novelty=True))) as client:
        assert (await client.describe("p")).desired == 1


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("<html>", id="a page"),
        pytest.param("[]", id="a list"),
        pytest.param('{"instances": [], "refusals": []}', id="no desired"),
        pytest.param(pool(desired="1"), id="a number in quotes"),
        pytest.param(pool(desired=-1), id="below zero"),
        pytest.param(pool(desired=1.5), id="half a node"),
        pytest.param(pool(desired=True), id="a truth"),
        pytest.param(pool(instances=None), id="no list of instances"),
        pytest.param(pool(instances=[{**INSTANCE, "state": "Sleeping"}]), id="an unknown state"),
        pytest.param(pool(instances=[{**INSTANCE, "since": "2026-03-01T12:00:00"}]), id="no time zone"),
        pytest.param(pool(instances=[INSTANCE, INSTANCE]), id="an instance twice"),
        pytest.param(pool(instances=[{**INSTANCE, "id": ""}]), id="an instance without a name"),
        pytest.param(pool(padding="x" * 20_000), id="too large"),
    ],
)
async def test_an_answer_that_is_no_pool_is_no_answer(text: str) -> None:
    async with answering(body(text)) as client:
        with pytest.raises(ProviderUnavailable):
            await client.describe("p")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (301, ProviderUnavailable),
        (400, Rejected),
        (401, NotPermitted),
        (403, NotPermitted),
        (404, ProviderUnavailable),
        (429, Throttled),
        (500, ProviderUnavailable),
        (502, ProviderUnavailable),
    ],
)
async def test_a_status_without_our_words_goes_by_its_number(status: int, error: type[CloudError]) -> None:
    async with answering(body("no", status)) as client:
        with pytest.raises(error):
            await client.remove("p", instance="1", node="p-1", token="t")


async def test_an_answer_that_drips_ends_with_the_deadline() -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.05)

    started = time.monotonic()
    async with answering(drip) as client:
        with pytest.raises(ProviderUnavailable, match="no whole answer"):
            await client.describe("p")
    assert time.monotonic() - started < 5


async def test_an_answer_that_breaks_off_may_have_happened() -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"{")
        assert request.transport is not None
        request.transport.abort()
        return response

    async with answering(cut) as client:
        with pytest.raises(ProviderUnavailable) as broken:
            await client.grow("p", to=2, before=1, token="t")
    assert broken.value.may_have_happened


async def test_where_nobody_listens_nothing_happened() -> None:
    client = KwokProvider("http://127.0.0.1:1", now=lambda: NOW)

    with pytest.raises(ProviderUnavailable) as failed:
        await client.grow("p", to=2, before=1, token="t")
    await client.close()

    assert not failed.value.may_have_happened


def test_every_error_comes_back_as_it_was() -> None:
    for kind in CODES:
        error = kind("p", "why", desired=3) if kind is DesiredChanged else kind("p", "why")
        status, document = write_error(error)
        back = read_error("p", status=status, body=json.dumps(document).encode())
        assert (type(back), back.message, vars(back)) == (kind, "why", vars(error))


def test_a_missing_machine_is_told_from_a_missing_page() -> None:
    status, document = write_error(InstanceNotFound("p", "gone"))

    assert isinstance(read_error("p", status=status, body=json.dumps(document).encode()), InstanceNotFound)
    assert isinstance(read_error("p", status=404, body=b"nginx"), ProviderUnavailable)
