"""What is said of a pool: its figures, and the first thing that a person should look at."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.builders import NOW, make_node, make_pods, make_pool, make_snapshot

from spillway.api.convert import ConvertedPool, Invalid
from spillway.api.problems import Problem
from spillway.app.pools import invalid_pool_status, pool_status
from spillway.app.status import StatusUpdate
from spillway.core.cost import draw_bill
from spillway.core.model import (
    CapacityType,
    Mode,
    Node,
    NodePool,
    ObjectKey,
    ProviderType,
    Refusal,
    RefusalKind,
)
from spillway.core.plan import CloseReason, Finding, PoolDecision, PoolReason

Status = Mapping[str, Any]
ZONE_A = make_pool("zone-a", selector={"zone": "a"})


def write(
    *nodes: Node,
    pool: NodePool | None = None,
    others: tuple[NodePool, ...] = (),
    pods: int = 3,
    stored: Status | None = None,
    after: float = 0,
    sees_all_pods: bool = True,
) -> StatusUpdate:
    pool = pool or make_pool()
    bill = draw_bill(
        make_snapshot(pods=make_pods(pods), nodes=nodes, pools=(pool, *others), sees_all_pods=sees_all_pods)
    )
    return pool_status(
        ConvertedPool(pool=pool, generation=2),
        bill.pools[pool.name],
        stored=stored or {},
        now=NOW + timedelta(seconds=after),
    )


def said(update: StatusUpdate, kind: str = "Ready") -> tuple[str, str, str]:
    found = next(item for item in update.status["conditions"] if item["type"] == kind)
    return found["status"], found["reason"], found["message"]


def test_a_status_has_nodes_gpus_and_cost() -> None:
    status = dict(write(make_node(), make_node("node-2", unschedulable=True)).status)
    del status["conditions"]

    assert status == {
        "observedGeneration": 2,
        "nodes": {"ready": 1, "notReady": 0, "cordoned": 1},
        "gpusAllocatable": 16,
        "gpusAllocated": 3,
        "gpusIdle": 13,
        "hourlyCost": "80.00",
        "currency": "USD",
        "priceSource": "pool price",
    }


def test_the_same_facts_write_nothing_again() -> None:
    first = write(make_node())

    assert write(make_node(), stored=first.status, after=600).changed is False


def test_a_pool_in_order_says_so() -> None:
    assert said(write(make_node())) == ("True", "Observed", "1 node observed and priced")


def test_a_pool_without_nodes_costs_nothing_and_names_its_labels() -> None:
    update = write()

    assert said(update) == ("True", "NoNodes", "No node has the labels pool=h100")
    assert (update.status["hourlyCost"], update.status["priceSource"]) == ("0.00", "pool price")


def test_a_node_without_a_price_leaves_the_cost_of_the_pool_unknown() -> None:
    update = write(make_node(price="16"), make_node("node-2"), pool=make_pool(price=None))

    status, reason, message = said(update)
    assert (status, reason) == ("True", "PriceUnknown")
    assert message.startswith("1 of 2 nodes have no price. Set spec.price.perNodeHour")
    assert "hourlyCost" not in update.status
    assert update.status["priceSource"] == "node annotation (1), unknown (1)"


@pytest.mark.case("metrics-and-cost E81")
def test_a_bad_annotation_is_named_with_its_node_and_the_way_out() -> None:
    status, reason, message = said(write(make_node(price="abc"), make_node("node-2", price="1,2")))

    assert (status, reason) == ("False", "PriceAnnotationInvalid")
    assert message == (
        "Ignored the annotation spillway.dev/price-per-hour of node node-1: 'abc' is no price; "
        "write one such as 29.40 or 29.40 EUR; 1 node more like it"
    )


def test_a_pool_that_shares_nodes_names_the_other_and_counts_them() -> None:
    shared = make_node(labels={"pool": "h100", "zone": "a"})
    update = write(shared, make_node("node-2"), others=(ZONE_A,))

    sentence = (
        "It shares 1 node with pool zone-a; a node that two pools select belongs to neither. "
        "Narrow one spec.node.selector"
    )
    assert said(update, "Conflict") == ("True", "PoolConflict", sentence)
    assert said(update) == ("False", "Conflict", sentence)


def test_the_sentence_follows_the_count_of_shared_nodes() -> None:
    def shared(name: str) -> Node:
        return make_node(name, labels={"pool": "h100", "zone": "a"})

    first = write(shared("a"), others=(ZONE_A,))

    second = write(shared("a"), shared("b"), others=(ZONE_A,), stored=first.status)

    assert said(second, "Conflict")[2].startswith("It shares 2 nodes with pool zone-a")
    assert second.turned == ()


def test_where_some_namespaces_are_watched_nothing_is_said_of_free_gpus() -> None:
    update = write(make_node(), sees_all_pods=False)

    assert said(update)[1] == "PodsPartlySeen"
    assert {"gpusAllocated", "gpusIdle"}.isdisjoint(update.status)


def test_an_invalid_pool_says_why_and_keeps_no_old_figures() -> None:
    problem = Problem(field="spec.node.selector", message="spec.node.selector: required")
    invalid = Invalid(key=ObjectKey("", "h100"), uid="u", generation=3, problems=(problem,))

    update = invalid_pool_status(invalid, stored=write(make_node()).status, now=NOW)

    assert said(update) == ("False", "Invalid", "spec.node.selector: required")
    assert "hourlyCost" not in update.status


SPOT = make_pool(
    "spot-a",
    selector={"pool": "h100"},
    capacity_type=CapacityType.SPOT,
    provider=ProviderType.KWOK,
    mode=Mode.ENFORCE,
    max_nodes=6,
)
PLAN = PoolDecision(
    name="spot-a",
    mode=Mode.ENFORCE,
    size=3,
    desired=3,
    target=2,
    reason=PoolReason.STEADY,
    message="3 nodes, 2 needed",
)


def planned(*nodes: Node, stored: Status | None = None, **plan: Any) -> StatusUpdate:  # noqa: ANN401 -- fields of PoolDecision
    """Write the status of a pool that is sized, by a plan with these fields."""
    bill = draw_bill(make_snapshot(pods=(), nodes=nodes, pools=(SPOT,)))
    return pool_status(
        ConvertedPool(pool=SPOT, generation=2),
        bill.pools["spot-a"],
        replace(PLAN, **plan),
        nodes={node.name: node for node in nodes},
        stored=stored or {},
        now=NOW,
    )


def test_a_sized_pool_says_what_it_was_asked_for_and_what_it_is_to_have() -> None:
    status = planned(make_node()).status

    shown = {name: status[name] for name in ("mode", "desiredNodes", "targetNodes")}
    assert shown == {"mode": "Enforce", "desiredNodes": 3, "targetNodes": 2}


def test_what_a_silent_provider_was_asked_for_is_left_out() -> None:
    assert "desiredNodes" not in planned(make_node(), desired=None).status


def test_every_node_counts_once_by_what_becomes_of_it() -> None:
    update = planned(
        make_node("serves"),
        make_node("human", unschedulable=True),
        make_node("sick", ready=False),
        make_node("boots", ready=False),
        make_node("drained", unschedulable=True),
        make_node("noticed"),
        make_node("lost", ready=False),
        booting=3,  # one of them there as a node, two only promised
        booting_nodes=("boots",),
        draining=("drained",),
        doomed=("noticed", "lost"),
    )

    assert update.status["nodes"] == {
        "ready": 1,
        "notReady": 1,
        "cordoned": 1,
        "booting": 3,
        "draining": 1,
        "doomed": 2,
    }


def test_a_drained_node_that_is_taken_back_counts_as_taken_back_only() -> None:
    update = planned(make_node(unschedulable=True), draining=("node-1",), doomed=("node-1",))

    counts = update.status["nodes"]
    assert (counts["cordoned"], counts["draining"], counts["doomed"]) == (0, 0, 1)


def test_latches_stand_in_the_status_so_that_a_restart_reads_them() -> None:
    until = NOW + timedelta(minutes=10, milliseconds=1)
    refusal = Refusal(
        at=NOW + timedelta(milliseconds=7),
        kind=RefusalKind.CAPACITY,
        code="InsufficientInstanceCapacity",
        message="none in zone a",
        zone="a",
    )

    status = planned(closed_until=until, steps=2, breaker_until=until, refusals=(refusal,)).status

    assert {name: status[name] for name in ("closedUntil", "failedProbes", "breakerOpenUntil")} == {
        "closedUntil": "2026-03-01T12:10:00Z",
        "failedProbes": 2,
        "breakerOpenUntil": "2026-03-01T12:10:00Z",
    }
    assert status["lastRefusals"] == [
        {
            "time": "2026-03-01T12:00:00Z",
            "kind": "Capacity",
            "code": "InsufficientInstanceCapacity",
            "message": "none in zone a",
            "zone": "a",
        }
    ]


def closed(why: CloseReason, **plan: Any) -> Mapping[str, Any]:  # noqa: ANN401 -- as above
    return {"reason": PoolReason(why.value), "closed": Finding(reason=why, message="why"), **plan}


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        pytest.param({}, ("True", "Steady"), id="at rest"),
        pytest.param({"reason": PoolReason.GROWING}, ("True", "Growing"), id="growing"),
        pytest.param(closed(CloseReason.REFUSED), ("False", "Refused"), id="refused"),
        pytest.param(closed(CloseReason.BREAKER_OPEN), ("False", "BreakerOpen"), id="breaker"),
        pytest.param(closed(CloseReason.AT_MAX), ("False", "AtMax"), id="more than maxNodes is wanted"),
        pytest.param(
            closed(CloseReason.AT_MAX, reason=PoolReason.STEADY),
            ("True", "Steady"),
            id="at maxNodes, and no more is wanted",
        ),
        pytest.param(closed(CloseReason.EXTERNAL), ("Unknown", "External"), id="somebody else's"),
        pytest.param(closed(CloseReason.OBSERVED), ("Unknown", "Observed"), id="observed"),
        pytest.param({"reason": PoolReason.DRAIN_BLOCKED}, ("True", "DrainBlocked"), id="a drain is blocked"),
    ],
)
def test_whether_more_nodes_could_be_had(plan: Mapping[str, Any], expected: tuple[str, str]) -> None:
    assert said(planned(make_node(), **plan), "CapacityAvailable")[:2] == expected


def test_a_provider_that_stays_silent_writes_nothing_again() -> None:
    silent = closed(CloseReason.PROVIDER_UNAVAILABLE)
    first = planned(make_node(), **silent, message="Its provider was last heard 61 s ago")

    later = planned(
        make_node(), **silent, message="Its provider was last heard 76 s ago", stored=first.status
    )

    assert not later.changed


def test_a_pool_in_a_mode_that_sizes_it_says_so() -> None:
    assert said(planned(make_node())) == ("True", "Operating", "1 node sized in mode Enforce")
