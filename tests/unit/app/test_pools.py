"""What is said of a pool: its figures, and the first thing that a person should look at."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from tests.builders import NOW, make_node, make_pods, make_pool, make_snapshot

from spillway.api.convert import ConvertedPool, Invalid
from spillway.api.problems import Problem
from spillway.app.pools import invalid_pool_status, pool_status
from spillway.app.status import StatusUpdate
from spillway.core.cost import draw_bill
from spillway.core.model import Node, NodePool, ObjectKey

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
