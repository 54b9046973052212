"""The cost series that Prometheus reads."""

from datetime import timedelta

import pytest
from prometheus_client import generate_latest
from tests.builders import NOW, make_node, make_pod, make_pods, make_pool, make_snapshot

from spillway.api.convert import Converted, ConvertedPool, CostLabels
from spillway.app.metrics import Metrics
from spillway.core.cost import draw_bill
from spillway.core.model import CapacityType, Node, NodePool, Pod, Snapshot

TICK = timedelta(seconds=15)
LLM = (
    '{application="chat",capacity_type="on-demand",currency="USD",gpu_model="H100",managed="true",'
    'model="llama",namespace="chat",team="red",workload="llm"}'
)
BATCH = (
    '{application="",capacity_type="on-demand",currency="USD",gpu_model="H100",managed="false",'
    'model="",namespace="chat",team="",workload="batch"}'
)


def fleet(
    pods: tuple[Pod, ...] = make_pods(3), *, node: Node | None = None, pool: NodePool | None = None
) -> Snapshot:
    """3 of 8 GPUs of a node at 40 USD an hour: 15 USD, unless told otherwise."""
    return make_snapshot(pods=pods, nodes=(node or make_node(),), pools=(pool or make_pool(),))


def observe(metrics: Metrics, snapshot: Snapshot, *, after: float = 0) -> None:
    labels = CostLabels(model="llama", application="chat", team="red")
    converted = {
        workload.key: Converted(
            workload=workload, generation=1, provenance=(), cost=labels, policy=None, policy_conflicts=()
        )
        for workload in snapshot.workloads
    }
    pools = {pool.name: ConvertedPool(pool=pool, generation=1) for pool in snapshot.pools}
    metrics.costs.observe(draw_bill(snapshot), converted, pools, now=NOW + timedelta(seconds=after))


def page(metrics: Metrics) -> dict[str, float]:
    lines = generate_latest(metrics.registry).decode().splitlines()
    return {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if "#" not in line)
    }


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(tick=TICK)


def test_a_workload_shows_what_it_costs_an_hour(metrics: Metrics) -> None:
    observe(metrics, fleet())

    assert page(metrics)[f"spillway_workload_hourly_cost{LLM}"] == 15


def test_the_counter_adds_what_was_paid_between_two_passes(metrics: Metrics) -> None:
    observe(metrics, fleet())
    observe(metrics, fleet(), after=12)

    # 15 USD an hour for 12 s.
    assert page(metrics)[f"spillway_workload_cost_total{LLM}"] == pytest.approx(0.05)


@pytest.mark.case("metrics-and-cost E61")
def test_a_gap_is_charged_for_three_ticks_at_most(metrics: Metrics) -> None:
    observe(metrics, fleet())
    observe(metrics, fleet(), after=86_400)

    # 15 USD an hour for 45 s.
    assert page(metrics)[f"spillway_workload_cost_total{LLM}"] == pytest.approx(0.1875)


@pytest.mark.case("metrics-and-cost E72")
def test_each_price_is_charged_for_its_own_interval(metrics: Metrics) -> None:
    observe(metrics, fleet())
    observe(metrics, fleet(node=make_node(price="80")), after=12)
    observe(metrics, fleet(), after=24)

    # 12 s at 15 and 12 s at 30 USD an hour: 0.05 + 0.10.
    assert page(metrics)[f"spillway_workload_cost_total{LLM}"] == pytest.approx(0.15)


def test_pods_of_no_workload_stand_under_their_controller(metrics: Metrics) -> None:
    observe(metrics, fleet((make_pod(owner_uid="job", owner_name="batch"),)))

    assert page(metrics)[f"spillway_workload_hourly_cost{BATCH}"] == 5


def test_the_total_of_a_foreign_payer_outlives_it_by_an_hour(metrics: Metrics) -> None:
    series = f"spillway_workload_cost_total{BATCH}"
    observe(metrics, fleet((make_pod(owner_uid="job", owner_name="batch"),)))
    observe(metrics, fleet(()), after=12)
    soon = page(metrics)
    observe(metrics, fleet(()), after=3700)

    assert (series in soon, series in page(metrics)) == (True, False)


@pytest.mark.case("metrics-and-cost E86")
def test_series_of_a_deleted_workload_are_gone(metrics: Metrics) -> None:
    observe(metrics, fleet())
    observe(metrics, make_snapshot(()), after=15)

    assert not [name for name in page(metrics) if 'workload="llm"' in name and 'managed="true"' in name]


def test_the_total_of_a_workload_stays_while_it_holds_nothing(metrics: Metrics) -> None:
    observe(metrics, fleet())
    observe(metrics, fleet(()), after=12)
    observe(metrics, fleet(()), after=7200)

    assert page(metrics)[f"spillway_workload_cost_total{LLM}"] == pytest.approx(0.05)


def test_an_unknown_price_has_no_series_and_is_counted(metrics: Metrics) -> None:
    observe(metrics, fleet(pool=make_pool(price=None)))

    found = page(metrics)
    assert f"spillway_workload_hourly_cost{LLM}" not in found
    assert found['spillway_price_missing_nodes{node_pool="h100"}'] == 1


@pytest.mark.case("metrics-and-cost E74")
def test_costs_and_idle_make_up_the_price_of_the_nodes(metrics: Metrics) -> None:
    observe(metrics, fleet())

    found = page(metrics)
    idle = found['spillway_idle_hourly_cost{currency="USD",kind="unallocated",node_pool="h100"}']
    assert found[f"spillway_workload_hourly_cost{LLM}"] + idle == 40


def test_a_pool_counts_its_nodes_by_state(metrics: Metrics) -> None:
    observe(metrics, fleet(node=make_node(ready=False), pool=make_pool(capacity_type=CapacityType.SPOT)))

    labels = 'capacity_type="spot",node_pool="h100"'
    found = page(metrics)
    assert [
        found[f'spillway_node_pool_nodes{{{labels},state="{state}"}}']
        for state in ("ready", "not_ready", "cordoned")
    ] == [0, 1, 0]


def test_a_standby_shows_no_costs(metrics: Metrics) -> None:
    observe(metrics, fleet())
    metrics.costs.forget()

    assert not [name for name in page(metrics) if name.startswith(("spillway_workload_", "spillway_idle_"))]
