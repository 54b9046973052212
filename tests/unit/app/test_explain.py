"""What `explain` and `top` are told, as JSON and as text."""

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import ClientSession
from tests.builders import (
    NOW,
    make_node,
    make_pods,
    make_pool,
    make_snapshot,
    make_workload,
    not_collected,
    plan_of,
)
from tests.cluster.processes import free_port

from spillway.api.convert import Converted, ConvertedPool, CostLabels, Invalid
from spillway.api.policies import Effective
from spillway.api.problems import Problem
from spillway.app.explain import explain, top
from spillway.app.loop import LastPass
from spillway.app.metrics import Metrics
from spillway.app.server import Pages
from spillway.app.snapshots import View
from spillway.cli.explain import render
from spillway.core.confirm import confirm
from spillway.core.cost import draw_bill
from spillway.core.model import ObjectKey, Snapshot

LLM = ObjectKey("chat", "llm")


def last_pass(snapshot: Snapshot, *, invalid: tuple[Invalid, ...] = ()) -> LastPass:
    plan = plan_of(snapshot)
    hold = timedelta(seconds=15)
    pending = confirm(plan.acts, {}, now=NOW, collection=1, hold=hold).pending
    converted = {
        workload.key: Converted(
            workload=workload,
            generation=1,
            provenance=(Effective(path="maxReplicas", value=10, source="spec"),),
            cost=CostLabels(),
            policy=None,
            policy_conflicts=(),
        )
        for workload in snapshot.workloads
    }
    pools = {pool.name: ConvertedPool(pool=pool, generation=1) for pool in snapshot.pools}
    view = View(snapshot=snapshot, raw={}, converted=converted, invalid=invalid, pools=pools)
    bill = draw_bill(snapshot)
    return LastPass(plan=plan, view=view, at=NOW, bill=bill, pending=pending, hold=hold)


def text(snapshot: Snapshot) -> str:
    document = explain(last_pass(snapshot), LLM)
    assert document is not None
    return "\n".join(render(document, now=NOW))


def test_an_explanation_is_plain_json() -> None:
    document = explain(last_pass(make_snapshot(utilization=0.9)), LLM)

    assert json.loads(json.dumps(document)) == document


def test_a_growth_shows_signal_proposal_and_result() -> None:
    document = explain(last_pass(make_snapshot(utilization=0.9)), LLM)

    assert document is not None
    shown = (document["signal"]["text"], document["proposal"]["replicas"], document["desired"])
    assert shown == ("0.90/0.80 100% cov", 5, 5)


def test_each_limiter_shows_what_it_changed_and_until_when() -> None:
    printed = text(make_snapshot(make_workload(replicas=40)))

    assert "limits    MaxReplicas 40 → 10: maxReplicas is 10" in printed


def test_a_reduction_on_hold_says_when_it_goes() -> None:
    printed = text(make_snapshot(make_workload(replicas=2)))

    assert (
        "next      set 2 replicas at 2026-03-01T12:00:15Z (in 15 s), if every pass agrees until then"
        in printed
    )


def test_blindness_is_explained_by_its_cause() -> None:
    printed = text(make_snapshot(activity=not_collected()))

    assert "signal    unknown, Unknown\n            Prometheus did not answer within 5 s" in printed


def test_every_setting_names_where_it_came_from() -> None:
    printed = text(make_snapshot())

    assert [line.split() for line in printed.splitlines()][-1] == ["maxReplicas", "10", "spec"]


def test_an_invalid_workload_is_explained_by_its_problems() -> None:
    problem = Problem(field="spec.maxReplicas", message="spec.maxReplicas is 0; set 1 to 10000")
    invalid = Invalid(key=LLM, uid="u", generation=1, problems=(problem,))
    document = explain(last_pass(make_snapshot(()), invalid=(invalid,)), LLM)

    assert document is not None
    assert list(render(document, now=NOW))[1] == "  spec.maxReplicas is 0; set 1 to 10000"


def test_an_unknown_workload_has_no_explanation() -> None:
    assert explain(last_pass(make_snapshot()), ObjectKey("chat", "other")) is None


def priced(**over: Any) -> Snapshot:  # noqa: ANN401 -- fields of make_snapshot
    """Four replicas on a node of 8 GPUs at 40 USD an hour."""
    return make_snapshot(nodes=(make_node(),), pools=(make_pool(),), **over)


def test_a_cost_names_pool_terms_and_source() -> None:
    printed = text(priced())

    assert (
        "cost      20.00 USD an hour\n              20.00 USD  4 GPUs on h100 (OnDemand, H100), by the pool price"
        in printed
    )


def test_gpus_without_a_price_are_explained_as_unknown() -> None:
    printed = text(priced(pods=(*make_pods(3), *make_pods(1, start=3, node="elsewhere"))))

    assert "cost      15.00 USD + unknown (1 of 4 GPUs) an hour" in printed
    assert "unknown  1 GPU on nodes without a price" in printed


def test_a_cost_without_any_price_is_unknown_in_one_line() -> None:
    assert "cost      unknown: 4 GPUs on nodes without a price; see docs/pools.md" in text(make_snapshot())


def test_top_shows_what_each_workload_and_pool_costs() -> None:
    document = top(last_pass(priced()))

    row, pool = document["workloads"][0], document["pools"][0]
    assert (row["hourlyCost"], row["priceSource"]) == ("20.00 USD", "pool price")
    assert (pool["name"], pool["hourlyCost"], pool["idleHourlyCost"]) == (
        "h100",
        "40.00",
        {"unallocated": "20.00"},
    )


def test_top_has_a_row_for_each_workload() -> None:
    rows = top(last_pass(make_snapshot((make_workload("a"), make_workload("b")))))["workloads"]

    assert [row["name"] for row in rows] == ["a", "b"]


async def ask(path: str, last: LastPass | None) -> tuple[int, Mapping[str, Any]]:
    pages = Pages(
        registry=Metrics(tick=timedelta(seconds=15)).registry,
        last=lambda: last,
        waiting=lambda: "another operator holds the Lease",
    )
    port = free_port()
    await pages.start(address="127.0.0.1", port=port)
    try:
        async with ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as response:
            return response.status, await response.json()
    finally:
        await pages.stop()


@pytest.mark.parametrize(
    ("path", "code"),
    [
        pytest.param("/decisions/chat/llm", 200, id="known"),
        pytest.param("/decisions/chat/none", 404, id="unknown"),
        pytest.param("/top", 200, id="top"),
    ],
)
async def test_the_leader_answers(path: str, code: int) -> None:
    status, _ = await ask(path, last_pass(make_snapshot()))

    assert status == code


async def test_a_standby_answers_why_it_does_not_decide() -> None:
    answer = await ask("/decisions/chat/llm", None)

    assert answer == (503, {"error": "this operator is not deciding: another operator holds the Lease"})
