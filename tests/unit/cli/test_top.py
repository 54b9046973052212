"""`spillway top`, as a person reads it."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner, Result
from tests.cluster.processes import free_port

from spillway.cli import tables
from spillway.cli.main import main

WORKLOAD = {
    "namespace": "chat",
    "name": "llm",
    "mode": "ScaleUpOnly",
    "current": 4,
    "desired": 6,
    "ready": 3,
    "tiers": None,
    "signal": "0.83/0.80 100% cov",
    "state": "Fresh",
    "reason": "UtilizationHigh",
    "hourlyCost": "29.40 USD",
    "priceSource": "pool price",
}
POOL = {
    "name": "h100-spot",
    "capacityType": "Spot",
    "target": 4,
    "reason": "Growing",
    "nodes": {"ready": 3, "not_ready": 1, "cordoned": 0},
    "gpusAllocatable": 32,
    "gpusAllocated": 12,
    "hourlyCost": "117.60",
    "idleHourlyCost": {"unallocated": "44.10", "not_ready": "29.40"},
    "currency": "USD",
    "priceSource": "pool price",
}
DOCUMENT: dict[str, Any] = {
    "at": "2026-03-01T12:00:00Z",
    "breakerOpen": False,
    "workloads": [WORKLOAD],
    "pools": [POOL],
}


def lines(**over: Any) -> list[str]:  # noqa: ANN401 -- any JSON
    return tables.plain({**DOCUMENT, **over}).splitlines()


def test_a_workload_is_one_line_from_count_to_cost() -> None:
    head, row = lines()[:2]

    assert head.split() == (
        ["WORKLOAD", "MODE", "NOW", "WANT", "READY", "SPOT", "SIGNAL", "STATE", "REASON", "$/H"]
    )
    assert " ".join(row.split()) == (
        "chat/llm UpOnly 4 6 3 0.83/0.80 100% Fresh UtilizationHigh 29.40 USD (pool)"
    )


@pytest.mark.parametrize(
    ("tiers", "shown"),
    [
        pytest.param({"burst": 8, "readyBurst": 8, "fallback": 0}, "8/8", id="spot carries the burst"),
        pytest.param({"burst": 8, "readyBurst": 4, "fallback": 4}, "4/8+4", id="four stand in"),
        pytest.param({"burst": 0, "readyBurst": 0, "fallback": 0}, "0/0", id="no burst is needed"),
    ],
)
def test_a_burst_shows_what_is_ready_of_what_is_wanted_on_spot_and_what_stands_in(
    tiers: dict[str, int], shown: str
) -> None:
    row = lines(workloads=[{**WORKLOAD, "tiers": tiers}])[1]

    assert f" 3 {shown} 0.83/0.80" in " ".join(row.split())


def test_a_pool_is_one_line_from_nodes_to_idle_cost() -> None:
    head, row = lines()[-2:]

    assert head.split("  ")[0] == "POOL"
    assert " ".join(row.split()) == (
        "h100-spot Spot 3, 1 not ready 4 12/32 117.60 USD 73.50 USD pool price Growing"
    )


@pytest.mark.parametrize(
    ("nodes", "plan", "shown"),
    [
        pytest.param({"ready": 1}, {"booting": 2, "desired": 3, "target": 3}, "1, 2 booting 3", id="growing"),
        pytest.param({"ready": 1}, {"desired": 1, "target": 2}, "1 2 (asked 1)", id="not asked for yet"),
        pytest.param(
            {"ready": 1, "cordoned": 2},
            {"draining": ["n-1"], "doomed": ["n-2"], "desired": 3, "target": 1},
            "1, 1 draining, 1 doomed 1 (asked 3)",
            id="going",
        ),
        pytest.param(
            {"ready": 2},
            {"draining": ["n-1"], "desired": 2, "target": 2},
            "1, 1 draining 2",
            id="not cordoned yet",
        ),
        pytest.param(
            {"ready": 1, "not_ready": 1}, {"booting": 1, "target": 2}, "1, 1 booting 2", id="not Ready yet"
        ),
        pytest.param(
            {"ready": 1, "cordoned": 1}, {"target": 1}, "1, 1 cordoned 1", id="cordoned by somebody"
        ),
    ],
)
def test_a_node_counts_once_as_what_becomes_of_it(
    nodes: dict[str, int], plan: dict[str, Any], shown: str
) -> None:
    row = lines(pools=[{**POOL, "nodes": {"ready": 0, "not_ready": 0, "cordoned": 0, **nodes}, **plan}])[-1]

    assert f"h100-spot Spot {shown} 12/32" in " ".join(row.split())


def test_a_document_of_an_operator_that_knows_no_tiers_or_targets_is_shown() -> None:
    workload = {key: value for key, value in WORKLOAD.items() if key != "tiers"}
    pool = {key: value for key, value in POOL.items() if key not in ("target", "reason")}

    printed = lines(workloads=[workload], pools=[pool])

    assert "chat/llm" in printed[1]
    assert "h100-spot Spot 3, 1 not ready ? 12/32" in " ".join(printed[-1].split())


def test_what_is_unknown_is_not_shown_as_zero() -> None:
    pool = {**POOL, "hourlyCost": None, "gpusAllocated": None, "idleHourlyCost": {}, "priceSource": "unknown"}

    assert " ".join(lines(pools=[pool])[-1].split()) == (
        "h100-spot Spot 3, 1 not ready 4 ?/32 unknown unknown unknown Growing"
    )


def test_idle_cost_is_unknown_where_not_every_pod_is_seen() -> None:
    row = lines(pools=[{**POOL, "idleHourlyCost": {"unseen": "44.10"}}])[-1]

    assert "117.60 USD" in row
    assert " unknown " in row


def test_nothing_idle_is_written_as_an_amount() -> None:
    row = lines(pools=[{**POOL, "idleHourlyCost": {}}])[-1]

    assert "117.60 USD 0.00 USD pool price" in " ".join(row.split())


def test_long_names_and_costs_stay_within_100_columns() -> None:
    workload = {
        **WORKLOAD,
        "namespace": "a-team-with-a-long-name",
        "name": "llama-3-1-405b-instruct-fp8-production-eu-west",
        "reason": "TargetRequestsNoGpu",
        "signal": "0.83/0.80 100% cov",
        "hourlyCost": "118.40 USD + unknown (20 of 54 GPUs)",
        "priceSource": "node annotation, pool price",
    }
    pool = {**POOL, "name": "a-pool-with-a-name-of-sixty-three-characters-" + "x" * 18}

    assert max(len(line) for line in lines(workloads=[workload], pools=[pool])) <= 100


def test_an_empty_cluster_says_what_to_make() -> None:
    printed = lines(workloads=[], pools=[])

    assert printed[0].startswith("No GpuWorkloads. Make one:")
    assert printed[-1].startswith("No GpuNodePools, so costs are unknown. Make one:")


def test_an_open_breaker_stands_above_the_tables() -> None:
    assert "nothing shrinks anywhere" in lines(breakerOpen=True)[0]


# From a running operator


@pytest.fixture
async def operator() -> AsyncIterator[str]:
    """A page like the operator's own; the operator itself is asked in tests/cluster."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text=json.dumps(DOCUMENT), content_type="application/json")

    app = web.Application()
    app.add_routes([web.get("/top", answer)])
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield f"http://127.0.0.1:{port}"
    await runner.cleanup()


async def run(*args: str) -> Result:
    """Run the command beside the event loop that serves the page."""
    return await asyncio.to_thread(CliRunner().invoke, main, ["top", *args])


async def test_off_a_terminal_it_prints_once_and_ends(operator: str) -> None:
    answer = await run("--operator-url", operator)

    assert (answer.exit_code, answer.output.splitlines()[1].split()[0]) == (0, "chat/llm")


async def test_a_namespace_leaves_out_the_others(operator: str) -> None:
    answer = await run("--operator-url", operator, "-n", "search")

    assert answer.output.startswith("No GpuWorkloads.")


async def test_an_operator_that_does_not_answer_is_an_error_with_the_next_step() -> None:
    answer = await run("--operator-url", f"http://127.0.0.1:{free_port()}")

    assert answer.exit_code == 1
    assert "Check --operator-url" in answer.output
