"""GPU guardrails: who gets the last GPU, and that a guardrail never shrinks."""

from datetime import timedelta

import pytest
from tests.builders import (
    NOW,
    make_deployment,
    make_operation,
    make_snapshot,
    make_workload,
    plan_of,
    reasons,
)

from spillway.core.model import Workload
from spillway.core.plan import LimitReason, Plan


def race(*rivals: tuple[Workload, int], replicas: int = 2, gpus: int = 1, utilization: float = 0.9) -> Plan:
    """Decide workloads with the given pod priority that all want one more replica."""
    workloads = [workload for workload, _ in rivals]
    deployments = [
        make_deployment(workload.target, replicas, priority=priority, gpus_per_pod=gpus)
        for workload, priority in rivals
    ]
    return plan_of(make_snapshot(workloads, deployments, utilization=utilization))


def rival(name: str, *, budget: int = 5, age: int = 1, **over: int) -> Workload:
    return make_workload(name, max_namespace_gpus=budget, created_at=NOW - timedelta(days=age), **over)


@pytest.mark.case("workload-autoscalers D71")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param((rival("b", age=1), 10), (rival("a", age=9), 0), id="pod priority first"),
        pytest.param((rival("b", age=9), 0), (rival("a", age=1), 0), id="then age"),
        pytest.param((rival("a"), 0), (rival("b"), 0), id="then name"),
    ],
)
@pytest.mark.parametrize("order", [1, -1], ids=["listed first", "listed last"])
def test_the_last_gpu_goes_to_one_by_a_fixed_order(
    first: tuple[Workload, int], second: tuple[Workload, int], order: int
) -> None:
    plan = race(*[first, second][::order])

    assert [(act.workload.name, act.to) for act in plan.acts] == [(first[0].key.name, 3)]
    assert reasons(plan.decisions[second[0].key])[-1] is LimitReason.GPU_LIMIT_NAMESPACE


def test_a_workload_stops_at_its_own_limit() -> None:
    plan = race((make_workload(max_gpus=12), 0), replicas=2, gpus=4, utilization=1.0)

    assert [act.to for act in plan.acts] == [3]


def test_a_limit_that_is_not_a_multiple_of_a_pods_gpus_rounds_down() -> None:
    plan = race((make_workload(max_gpus=11), 0), replicas=2, gpus=4)

    assert plan.acts == ()
    assert reasons(plan.decisions[make_workload().key])[-1] is LimitReason.GPU_LIMIT_WORKLOAD


@pytest.mark.parametrize("over", [{"max_gpus": 1}, {"max_namespace_gpus": 1}, {"max_gpus": 0}])
@pytest.mark.parametrize("utilization", [0.6, 0.95])
def test_a_guardrail_below_what_stands_shrinks_nothing(over: dict[str, int], utilization: float) -> None:
    assert plan_of(make_snapshot(make_workload(**over), utilization=utilization)).acts == ()


def test_a_guardrail_also_stops_growth_that_the_minimum_asks_for() -> None:
    workload = make_workload(min_replicas=8, max_gpus=6)

    assert [act.to for act in plan_of(make_snapshot(workload)).acts] == [6]


def test_a_guardrail_also_stops_growth_to_a_pin() -> None:
    workload = make_workload(replicas=8, max_gpus=6)

    assert [act.to for act in plan_of(make_snapshot(workload)).acts] == [6]


def test_growth_under_way_counts_against_the_budget() -> None:
    growing, waiting = rival("a", budget=6), rival("b", budget=6)
    snapshot = make_snapshot(
        [growing, waiting],
        [make_deployment("a", 2), make_deployment("b", 2)],
        utilization=0.9,
        operations=(make_operation(before=2, to=4, of="a"),),
    )

    assert plan_of(snapshot).acts == ()


def test_what_one_workload_gives_back_is_not_given_away_before_it_is_free() -> None:
    pinned, hungry = rival("a", budget=4, replicas=1), rival("b", budget=4, replicas=3)

    plan = race((pinned, 0), (hungry, 0))

    assert [(act.workload.name, act.to) for act in plan.acts] == [("a", 1)]


def test_two_gpu_workloads_on_one_target_count_its_gpus_once() -> None:
    older, younger = rival("a", budget=3, age=2), rival("b", budget=3, target="a")
    snapshot = make_snapshot([older, younger], make_deployment("a", 2), utilization=0.9)

    assert [(act.workload.name, act.to) for act in plan_of(snapshot).acts] == [("a", 3)]


def test_what_is_only_observed_takes_nothing_from_the_budget() -> None:
    paused, active = rival("a", budget=5, age=9, paused=True), rival("b")

    plan = race((paused, 0), (active, 0))

    assert [(act.workload.name, act.to) for act in plan.acts] == [("b", 3)]


def test_namespaces_have_budgets_of_their_own() -> None:
    here = rival("a", budget=3)
    there = make_workload("a", namespace="search", uid="other", max_namespace_gpus=3)
    snapshot = make_snapshot(
        [here, there],
        [make_deployment("a", 2), make_deployment("a", 2, namespace="search")],
        utilization=0.9,
    )

    assert len(plan_of(snapshot).acts) == 2
