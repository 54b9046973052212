"""What is remembered of a target: counts seen, foreign changes, acts of ours, a re-created object."""

from dataclasses import replace

import pytest
from tests.builders import (
    NOW,
    decide_one,
    make_act,
    make_deployment,
    make_memory,
    make_operation,
    make_snapshot,
    make_workload,
    plan_of,
    reasons,
    seconds,
)
from tests.timeline import Timeline

from spillway.core.memory import WorkloadMemory
from spillway.core.model import Operation, OperationState
from spillway.core.plan import Cause, InactiveReason, LimitReason


def remembered(*, found: int, operations: tuple[Operation, ...] = (), last_seen: int = 4) -> WorkloadMemory:
    """Return the memory after a pass that finds *found* replicas where it last saw 4."""
    snapshot = make_snapshot(deployment=make_deployment(replicas=found), operations=operations)
    return plan_of(snapshot, make_memory(replicas=last_seen)).memory.workloads["workload-llm"]


@pytest.mark.parametrize(
    ("operations", "is_foreign"),
    [
        pytest.param((), True, id="no act at all"),
        pytest.param((make_operation(OperationState.RUNNING, to=6),), False, id="our act, still running"),
        pytest.param((make_operation(OperationState.AWAITING_CACHE, to=6),), False, id="our act, seen early"),
        pytest.param((make_operation(OperationState.LANDED, to=6),), False, id="our act, landed"),
        pytest.param((make_operation(OperationState.FAILED, to=6),), True, id="our act was refused"),
        pytest.param(
            (make_operation(OperationState.LANDED, to=5),), True, id="somebody wrote right after us"
        ),
    ],
)
@pytest.mark.case("workload-autoscalers D76")
def test_a_change_that_no_act_of_ours_explains_is_foreign(
    operations: tuple[Operation, ...], *, is_foreign: bool
) -> None:
    assert (remembered(found=6, operations=operations).foreign_at is not None) is is_foreign


@pytest.mark.case("workload-autoscalers D76")
def test_a_foreign_count_holds_for_a_full_window_and_is_then_reconciled() -> None:
    line = Timeline(replicas=2, util=0.1).at("10m").expect(replicas=1)

    line.somebody_sets(5)

    line.at("15m").expect(replicas=5)
    assert LimitReason.FOREIGN_CHANGE in reasons(line.decision)
    line.at("17m").expect(replicas=4)


def test_a_foreign_change_does_not_stop_growth() -> None:
    line = Timeline(replicas=2, util=0.9).at("15s").somebody_sets(3)

    line.at("3m")

    assert line.replicas > 3


@pytest.mark.case("workload-autoscalers D74")
def test_a_re_created_target_is_watched_anew() -> None:
    snapshot = make_snapshot(utilization=0.1)
    memory = make_memory(target_uid="an-older-deployment", busy_value=0.5)

    plan = plan_of(snapshot, memory)
    found = plan.memory.workloads["workload-llm"]

    assert plan.decisions[snapshot.workloads[0].key].desired == 4
    assert (found.first_seen, found.window.since, found.streaks.fresh) == (NOW, NOW, 1)


@pytest.mark.case("workload-autoscalers D74")
@pytest.mark.parametrize(
    ("snapshot", "reason"),
    [
        pytest.param(make_snapshot(deployment=()), InactiveReason.TARGET_NOT_FOUND, id="no such Deployment"),
        pytest.param(
            make_snapshot(deployment=make_deployment(terminating=True)),
            InactiveReason.TARGET_TERMINATING,
            id="being deleted",
        ),
        pytest.param(
            make_snapshot(deployment=make_deployment(gpus_per_pod=0)),
            InactiveReason.TARGET_REQUESTS_NO_GPU,
            id="asks for no GPU",
        ),
        pytest.param(
            make_snapshot(terminating_namespaces=frozenset({"chat"})),
            InactiveReason.NAMESPACE_TERMINATING,
            id="namespace going",
        ),
        pytest.param(
            make_snapshot(make_workload(target="elsewhere"), make_deployment(namespace="other")),
            InactiveReason.TARGET_NOT_FOUND,
            id="only in another namespace",
        ),
    ],
)
@pytest.mark.case("workload-autoscalers D83")
def test_a_target_that_cannot_be_scaled_is_left_alone_and_named(
    snapshot: object, reason: InactiveReason
) -> None:
    plan = plan_of(snapshot)  # type: ignore[arg-type]
    (decision,) = plan.decisions.values()

    assert plan.acts == ()
    assert decision.inactive is not None
    assert (decision.inactive.reason, decision.cause) == (reason, Cause.NOT_DECIDED)


@pytest.mark.case("workload-autoscalers D83")
def test_one_broken_workload_leaves_the_others_to_go_on() -> None:
    broken, sound = make_workload("broken"), make_workload("sound")
    snapshot = make_snapshot([broken, sound], make_deployment("sound"), utilization=0.9)

    assert [act.workload.name for act in plan_of(snapshot).acts] == ["sound"]


def test_a_target_that_is_missing_for_a_moment_keeps_its_memory() -> None:
    memory = make_memory()

    assert plan_of(make_snapshot(deployment=()), memory).memory.workloads == memory.workloads


def test_a_deleted_workload_leaves_no_memory() -> None:
    memory = make_memory(make_workload(), make_workload("deleted"))

    assert list(plan_of(make_snapshot(), memory).memory.workloads) == ["workload-llm"]


@pytest.mark.parametrize("state", [OperationState.RUNNING, OperationState.AWAITING_CACHE])
def test_a_second_pass_with_the_act_under_way_emits_nothing(state: OperationState) -> None:
    snapshot = make_snapshot(utilization=0.9)
    first = plan_of(snapshot)
    again = make_snapshot(utilization=0.9, operations=(Operation(act=first.acts[0], state=state),))

    assert len(first.acts) == 1
    assert plan_of(again, first.memory, now=NOW + seconds(1)).acts == ()


def test_an_act_that_failed_is_decided_again() -> None:
    snapshot = make_snapshot(utilization=0.9)
    first = plan_of(snapshot)
    failed = Operation(act=first.acts[0], state=OperationState.FAILED, error="409")
    again = make_snapshot(utilization=0.9, operations=(failed,))

    assert plan_of(again, first.memory, now=NOW + seconds(1)).acts == (make_act(before=4, to=5),)


def test_a_failed_act_has_spent_nothing_of_the_step_budget() -> None:
    workload = make_workload(up={"max_increase_percent": 1, "max_increase_replicas": 1})
    failed = make_operation(OperationState.FAILED, before=4, to=5)

    decision = decide_one(make_snapshot(workload, utilization=1.0, operations=(failed,)))

    assert decision.desired == 5


@pytest.mark.case("workload-autoscalers D49")
def test_a_paused_deployment_is_scaled_like_any_other() -> None:
    assert decide_one(make_snapshot(deployment=make_deployment(paused=True), utilization=0.9)).desired == 5


@pytest.mark.case("workload-autoscalers D38")
def test_after_a_restart_without_history_nothing_shrinks_before_a_full_window() -> None:
    line = Timeline(replicas=4, util=0.1).at("2m30s")

    line.restart(with_history=False)

    line.at("7m30s").expect(replicas=4)
    line.at("8m30s").expect(replicas=3)


def test_after_a_takeover_no_step_down_is_taken_for_a_minute() -> None:
    line = Timeline(make_workload(down={"window": seconds(30), "cooldown": seconds(0)}), replicas=4, util=0.1)

    line.at("45s").expect(replicas=4)
    assert LimitReason.TAKEOVER in reasons(line.decision)
    line.at("1m30s").expect(replicas=3)


@pytest.mark.case("workload-autoscalers D80")
def test_a_defect_met_by_one_workload_leaves_the_others_decided() -> None:
    poisoned = replace(make_workload("bad"), readiness=None)  # type: ignore[arg-type]  # what no parser lets through
    snapshot = make_snapshot(
        (poisoned, make_workload("good")), (make_deployment("bad"), make_deployment("good")), utilization=0.9
    )

    plan = plan_of(snapshot)

    bad, good = (plan.decisions[workload.key] for workload in snapshot.workloads)
    assert (bad.inactive.reason if bad.inactive else None, good.desired) == (InactiveReason.INTERNAL_ERROR, 5)


def test_a_workload_that_meets_a_defect_keeps_what_it_remembers() -> None:
    poisoned = replace(make_workload(), readiness=None)  # type: ignore[arg-type]  # what no parser lets through
    memory = make_memory(poisoned)

    plan = plan_of(make_snapshot(poisoned), memory)

    assert plan.memory.workloads == memory.workloads
