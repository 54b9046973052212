"""The law of the bill: what everybody pays and what is idle add up to the price of every node."""

from collections import defaultdict
from collections.abc import Mapping
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import make_deployment, make_node, make_pod, make_pool, make_snapshot, make_workload

from spillway.core.cost import Bill, draw_bill
from spillway.core.model import Node, Pod, PodPhase, Snapshot

TOLERANCE = Decimal("1e-9")
NAMES = ("n0", "n1", "n2")
POOLS = (
    make_pool("a", price="55.04"),
    make_pool("b", price="9.37", currency="EUR"),
    make_pool("mig", price="31.7", gpu_resource="nvidia.com/mig-1g.10gb", gpus_per_node=7),
    make_pool("free", price=None),
)
PRICES = st.sampled_from([None, "29.405", "7 EUR", "abc", "3333333"])


@st.composite
def nodes(draw: st.DrawFn, name: str) -> Node:
    labels = {"pool": draw(st.sampled_from(["a", "b", "mig", "free", "none"]))}
    devices = {
        "nvidia.com/gpu": draw(st.integers(0, 9)),
        "nvidia.com/mig-1g.10gb": draw(st.integers(0, 7)),
    }
    ready, price = draw(st.booleans()), draw(PRICES)
    return make_node(name, labels=labels, devices=devices, ready=ready, price=price)


@st.composite
def pods(draw: st.DrawFn, index: int) -> Pod:
    whole, sliced = draw(st.integers(0, 4)), draw(st.integers(0, 3))
    owner = draw(st.sampled_from(["replicaset-llm-1", "replicaset-batch-1", "statefulset", ""]))
    return make_pod(
        index,
        draw(st.sampled_from(PodPhase)),
        owner_uid=owner,
        node=draw(st.sampled_from([None, *NAMES, "gone"])),
        gpus=whole + sliced,
        devices={"nvidia.com/gpu": whole, "nvidia.com/mig-1g.10gb": sliced},
    )


@st.composite
def fleets(draw: st.DrawFn, most_nodes: int = 3) -> Snapshot:
    names = NAMES[: draw(st.integers(1, most_nodes))]
    count = draw(st.integers(0, 12))
    return make_snapshot(
        make_workload(),
        (make_deployment(), make_deployment("batch")),
        nodes=tuple(draw(nodes(name)) for name in names),
        pods=tuple(draw(pods(index)) for index in range(count)),
        pools=POOLS,
        sees_all_pods=draw(st.booleans()),
    )


def spent(bill: Bill) -> Mapping[str, Decimal]:
    """Return what payers pay and what is idle, by currency."""
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for cost in bill.payers.values():
        for currency, amount in cost.totals.items():
            sums[currency] += amount
    for pool in (*bill.pools.values(), bill.outside):
        for (currency, _), amount in pool.idle.items():
            sums[currency] += amount
    return sums


def priced(bill: Bill) -> Mapping[str, Decimal]:
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for pool in (*bill.pools.values(), bill.outside):
        for currency, amount in pool.costs.items():
            sums[currency] += amount
    return sums


@pytest.mark.case("metrics-and-cost E74")
@given(fleets(most_nodes=1))
def test_payers_and_idle_make_up_the_price_of_a_node(fleet: Snapshot) -> None:
    bill = draw_bill(fleet)

    paid, price = spent(bill), priced(bill)

    assert paid.keys() == price.keys()
    assert all(abs(paid[currency] - price[currency]) < TOLERANCE for currency in price)


@pytest.mark.case("metrics-and-cost E74")
@given(fleets())
def test_payers_and_idle_make_up_the_price_of_the_fleet(fleet: Snapshot) -> None:
    bill = draw_bill(fleet)

    paid, price = spent(bill), priced(bill)

    assert all(abs(paid[currency] - price[currency]) < TOLERANCE for currency in price)


@given(fleets())
def test_nobody_pays_less_than_nothing_and_nothing_is_idle_below_it(fleet: Snapshot) -> None:
    bill = draw_bill(fleet)

    assert all(line.per_hour >= 0 for cost in bill.payers.values() for line in cost.lines)
    idle = [amount for pool in (*bill.pools.values(), bill.outside) for amount in pool.idle.values()]
    assert all(amount >= 0 for amount in idle)


@given(fleets())
def test_every_gpu_that_is_held_is_paid_for_or_unknown(fleet: Snapshot) -> None:
    bill = draw_bill(fleet)

    holding = [pod for pod in fleet.pods if pod.node is not None and pod.phase is not PodPhase.FINISHED]
    assert sum(cost.gpus for cost in bill.payers.values()) == sum(pod.gpus for pod in holding)


@given(fleets())
def test_the_order_of_pods_and_nodes_makes_no_difference(fleet: Snapshot) -> None:
    turned = make_snapshot(
        fleet.workloads,
        tuple(fleet.deployments.values()),
        nodes=tuple(reversed(fleet.nodes)),
        pods=tuple(reversed(fleet.pods)),
        pools=fleet.pools,
        sees_all_pods=fleet.sees_all_pods,
    )

    before, after = draw_bill(fleet), draw_bill(turned)

    assert {payer: str(cost) for payer, cost in before.payers.items()} == {
        payer: str(cost) for payer, cost in after.payers.items()
    }
