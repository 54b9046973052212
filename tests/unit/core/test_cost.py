"""Who pays for which part of which node."""

from decimal import Decimal

import pytest
from tests.builders import (
    NAMESPACE,
    NOW,
    make_deployment,
    make_node,
    make_pod,
    make_pods,
    make_pool,
    make_replica_set,
    make_snapshot,
    make_twin,
    make_workload,
)

from spillway.core.cost import (
    BARE_PODS,
    NO_POOL,
    Bill,
    CostLine,
    IdleKind,
    NodeTally,
    Payer,
    PayerCost,
    Terms,
    draw_bill,
)
from spillway.core.model import CapacityType, Node, NodePool, ObjectKey, Pod, PodPhase
from spillway.core.prices import PriceSource

LLM = ObjectKey(NAMESPACE, "llm")
H100 = Terms(
    pool="h100",
    capacity_type=CapacityType.ON_DEMAND,
    gpu_model="H100",
    currency="USD",
    source=PriceSource.POOL,
)


def bill_for(
    pods: tuple[Pod, ...] = (),
    *,
    nodes: tuple[Node, ...] = (make_node(),),
    pools: tuple[NodePool, ...] = (make_pool(),),
    sees_all_pods: bool = True,
) -> Bill:
    return draw_bill(make_snapshot(pods=pods, nodes=nodes, pools=pools, sees_all_pods=sees_all_pods))


def cost_of(bill: Bill, name: str = "llm") -> str:
    cost = bill.of_workload(ObjectKey(NAMESPACE, name))
    assert cost is not None
    return str(cost)


# What a workload pays


def test_a_workload_pays_its_share_of_the_node() -> None:
    bill = bill_for(make_pods(3))

    # 40 USD for 8 GPUs: 5 USD each.
    line = CostLine(terms=H100, gpus=3, per_hour=Decimal(15))
    assert bill.of_workload(LLM) == PayerCost(lines=(line,))


def test_a_discount_is_taken_off_before_it_is_shared() -> None:
    bill = bill_for(make_pods(2), pools=(make_pool(price="28"),))

    assert cost_of(bill) == "7.00 USD"


def test_shares_on_two_pools_stand_apart() -> None:
    nodes = (make_node(), make_node("node-2", labels={"pool": "spot"}))
    pools = (make_pool(), make_pool("spot", price="16", capacity_type=CapacityType.SPOT))
    bill = bill_for((make_pod(0), make_pod(1, node="node-2", gpus=2)), nodes=nodes, pools=pools)

    found = bill.of_workload(LLM)
    assert found is not None
    assert [(line.terms.pool, line.gpus, line.per_hour) for line in found.lines] == [
        ("h100", 1, Decimal(5)),
        ("spot", 2, Decimal(4)),
    ]


@pytest.mark.case("metrics-and-cost E76")
@pytest.mark.parametrize(
    ("phase", "node", "expected"),
    [
        pytest.param(PodPhase.PENDING, None, "0.00", id="pending"),
        pytest.param(PodPhase.UNSCHEDULABLE, None, "0.00", id="finds no node"),
        pytest.param(PodPhase.FINISHED, "node-1", "0.00", id="finished"),
        pytest.param(PodPhase.LOADING, "node-1", "5.00 USD", id="loading"),
        pytest.param(PodPhase.BROKEN, "node-1", "5.00 USD", id="crash-looping"),
        pytest.param(PodPhase.TERMINATING, "node-1", "5.00 USD", id="terminating until it is gone"),
    ],
)
def test_a_pod_pays_from_its_binding_until_it_is_gone(
    phase: PodPhase, node: str | None, expected: str
) -> None:
    assert cost_of(bill_for((make_pod(phase=phase, node=node),))) == expected


def test_what_runs_on_spot_is_paid_by_the_same_workload_at_its_own_price() -> None:
    spot = make_pool("spot", price="16", capacity_type=CapacityType.SPOT)
    bill = draw_bill(
        make_snapshot(
            deployment=(make_deployment(replicas=2), make_twin(replicas=2)),
            replica_sets=(make_replica_set(), make_replica_set("llm-burst")),
            pods=(*make_pods(2), *make_pods(2, of="llm-burst", node="spot-1")),
            nodes=(make_node(), make_node("spot-1", labels={"pool": "spot"})),
            pools=(make_pool(), spot),
        )
    )

    # 2 GPUs of 8 at 40, and 2 of 8 at 16
    assert cost_of(bill) == "14.00 USD"
    assert [
        (line.terms.capacity_type, line.gpus) for line in bill.payers[Payer(NAMESPACE, "llm", True)].lines
    ] == [
        (CapacityType.ON_DEMAND, 2),
        (CapacityType.SPOT, 2),
    ]


def test_a_workload_without_a_target_has_no_cost() -> None:
    bill = draw_bill(make_snapshot(make_workload("lost", target="nowhere")))

    assert bill.of_workload(ObjectKey(NAMESPACE, "lost")) is None


def test_of_two_workloads_on_one_target_the_older_pays() -> None:
    younger = make_workload("second", target="llm", created_at=NOW)
    bill = draw_bill(make_snapshot((younger, make_workload()), nodes=(make_node(),), pools=(make_pool(),)))

    assert (cost_of(bill), bill.of_workload(younger.key)) == ("20.00 USD", None)


# Unknown is not zero


def test_gpus_of_a_pool_without_a_price_are_unknown() -> None:
    bill = bill_for(make_pods(2), pools=(make_pool(price=None),))

    assert cost_of(bill) == "unknown"


def test_gpus_on_a_node_in_no_pool_are_unknown() -> None:
    bill = bill_for((make_pod(0), make_pod(1, node="elsewhere")))

    assert cost_of(bill) == "5.00 USD + unknown (1 of 2 GPUs)"


@pytest.mark.case("metrics-and-cost E29")
def test_slices_on_a_pool_that_is_priced_by_whole_gpus_are_unknown() -> None:
    bill = bill_for((make_pod(devices={"nvidia.com/mig-1g.10gb": 1}),))

    assert cost_of(bill) == "unknown"


@pytest.mark.case("metrics-and-cost E67")
def test_nodes_without_a_price_are_counted_and_in_no_sum() -> None:
    nodes = (make_node(), make_node("node-2", price="16"))
    pool = bill_for(nodes=nodes, pools=(make_pool(price=None),)).pools["h100"]

    assert (pool.costs, pool.unpriced) == ({"USD": Decimal(16)}, 1)


# Prices


def test_a_node_annotation_goes_before_the_pools_price() -> None:
    bill = bill_for(make_pods(1), nodes=(make_node(price="16"),))

    assert (cost_of(bill), bill.pools["h100"].sources) == ("2.00 USD", {PriceSource.ANNOTATION: 1})


def test_a_node_in_no_pool_is_priced_by_its_annotation_alone() -> None:
    node = make_node(labels={}, price="16 EUR", capacity_type=CapacityType.SPOT, gpu_model="L4")
    found = bill_for(make_pods(1), nodes=(node,)).of_workload(LLM)

    assert found is not None
    assert found.lines[0].terms == Terms(
        pool=NO_POOL,
        capacity_type=CapacityType.SPOT,
        gpu_model="L4",
        currency="EUR",
        source=PriceSource.ANNOTATION,
    )


@pytest.mark.case("metrics-and-cost E68")
@pytest.mark.case("metrics-and-cost E81")
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("abc", "'abc' is no price", id="no number"),
        pytest.param("1,2", "'1,2' is no price", id="comma"),
        pytest.param("-3", "'-3' is no price", id="negative"),
        pytest.param("", "'' is no price", id="blank"),
        pytest.param("0", "0 for 8 GPUs is outside the 0.01 to 200", id="zero"),
        pytest.param("380000000", "380000000 for 8 GPUs is outside", id="3.8e8"),
        pytest.param("16 EUR", "16 EUR is not in USD", id="another currency than the pool's"),
    ],
)
def test_a_bad_annotation_is_ignored_and_found(text: str, problem: str) -> None:
    bill = bill_for(make_pods(1), nodes=(make_node(price=text),))

    (bad,) = bill.pools["h100"].bad_prices
    assert (cost_of(bill), bad.node) == ("5.00 USD", "node-1")
    assert problem in bad.message


@pytest.mark.case("metrics-and-cost E78")
def test_two_currencies_are_never_added() -> None:
    nodes = (make_node(), make_node("node-2", labels={"pool": "spot"}))
    pools = (make_pool(), make_pool("spot", price="16", currency="EUR"))
    bill = bill_for((make_pod(0), make_pod(1, node="node-2")), nodes=nodes, pools=pools)

    assert cost_of(bill) == "2.00 EUR + 5.00 USD"


# Idle


def test_what_nobody_holds_is_unallocated() -> None:
    pool = bill_for(make_pods(3)).pools["h100"]

    assert pool.idle == {("USD", IdleKind.UNALLOCATED): Decimal(25)}
    assert (pool.allocatable, pool.allocated, pool.idle_gpus) == (8, 3, 5)


def test_what_nobody_holds_of_a_node_that_is_not_ready_is_not_ready() -> None:
    pool = bill_for(make_pods(3), nodes=(make_node(ready=False),)).pools["h100"]

    assert pool.idle == {("USD", IdleKind.NOT_READY): Decimal(25)}
    assert pool.idle_gpus == 0


@pytest.mark.case("metrics-and-cost E73")
def test_a_node_whose_plugin_reports_no_gpu_costs_its_whole_price_as_not_ready() -> None:
    pool = bill_for(nodes=(make_node(gpus=0),)).pools["h100"]

    assert pool.idle == {("USD", IdleKind.NOT_READY): Decimal(40)}


def test_a_plugin_that_restarts_does_not_make_its_pods_dearer() -> None:
    bill = bill_for(make_pods(3), nodes=(make_node(gpus=0),))

    assert cost_of(bill) == "15.00 USD"


def test_pods_that_hold_more_than_a_node_offers_pay_its_price_and_no_more() -> None:
    bill = bill_for(make_pods(8), nodes=(make_node(gpus=7),))

    assert (cost_of(bill), bill.pools["h100"].idle) == ("40.00 USD", {("USD", IdleKind.UNALLOCATED): 0})


@pytest.mark.case("metrics-and-cost E27")
def test_a_time_sliced_gpu_is_split_by_its_shares() -> None:
    bill = bill_for(make_pods(1), nodes=(make_node(gpus=4),), pools=(make_pool(price="4", gpus_per_node=1),))

    assert (cost_of(bill), bill.pools["h100"].costs) == ("1.00 USD", {"USD": Decimal(4)})


def test_where_some_namespaces_are_watched_free_gpus_are_unknown() -> None:
    pool = bill_for(make_pods(3), sees_all_pods=False).pools["h100"]

    assert pool.idle == {("USD", IdleKind.UNSEEN): Decimal(25)}
    assert (pool.allocated, pool.idle_gpus) == (None, None)


# Foreign pods


@pytest.mark.parametrize(
    ("owner", "payer"),
    [
        pytest.param({"owner_uid": "sts", "owner_name": "db"}, "db", id="another controller"),
        pytest.param({"owner_uid": "", "owner_name": ""}, BARE_PODS, id="bare pod"),
        pytest.param({"owner_uid": "gone", "owner_name": "old-77f"}, "old-77f", id="unknown ReplicaSet"),
    ],
)
def test_a_foreign_pod_pays_under_its_controller(owner: dict[str, str], payer: str) -> None:
    bill = bill_for((make_pod(**owner),))

    assert str(bill.payers[Payer(NAMESPACE, payer, False)]) == "5.00 USD"


def test_a_deployment_without_a_workload_pays_under_its_own_name() -> None:
    snapshot = make_snapshot((), make_deployment("batch", 2), nodes=(make_node(),), pools=(make_pool(),))

    assert str(draw_bill(snapshot).payers[Payer(NAMESPACE, "batch", False)]) == "10.00 USD"


# Pools


def test_nodes_count_once_by_state() -> None:
    nodes = (
        make_node("a"),
        make_node("b", ready=False, unschedulable=True),
        make_node("c", unschedulable=True),
        make_node("d", labels={"pool": "other"}),
    )

    assert bill_for(nodes=nodes).pools["h100"].nodes == NodeTally(ready=1, not_ready=1, cordoned=1)


def test_a_node_that_two_pools_select_belongs_to_neither() -> None:
    node = make_node(labels={"pool": "h100", "zone": "a"})
    zone = make_pool("zone-a", selector={"zone": "a"})
    bill = bill_for(make_pods(1), nodes=(node, make_node("node-2")), pools=(make_pool(), zone))

    assert (bill.pools["h100"].nodes.total, bill.pools["zone-a"].nodes.total) == (1, 0)
    assert (bill.pools["h100"].rivals, bill.pools["zone-a"].rivals) == ({"zone-a": 1}, {"h100": 1})
    assert (cost_of(bill), bill.outside.unpriced) == ("unknown", 1)


def test_a_pool_asks_for_all_of_its_labels() -> None:
    pool = make_pool(selector={"pool": "h100", "zone": "a"})

    assert bill_for(pools=(pool,)).pools["h100"].nodes.total == 0


def test_nodes_without_gpus_in_no_pool_are_of_no_interest() -> None:
    assert bill_for(nodes=(make_node(labels={}, gpus=0),)).outside.nodes.total == 0


def test_a_cost_below_a_cent_is_not_shown_as_nothing() -> None:
    bill = bill_for(
        make_pods(1), nodes=(make_node(gpus=56),), pools=(make_pool(price="0.1", gpus_per_node=1),)
    )

    assert cost_of(bill) == "0.0018 USD"
