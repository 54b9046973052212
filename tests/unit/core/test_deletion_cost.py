"""Marks on the pods that are to go first: set with a reduction, taken off what outlived it, never before it is over."""

from dataclasses import replace

from tests.builders import (
    make_deployment,
    make_operation,
    make_pods,
    make_pool,
    make_snapshot,
    plan_of,
)

from spillway.core.model import (
    DELETION_COST,
    DELETION_COST_ANNOTATION,
    Act,
    ClearDeletionCost,
    OperationState,
    Pod,
    PodPhase,
    PodRef,
    ProviderType,
    SetReplicas,
)

SIZED = make_pool(provider=ProviderType.KWOK, max_nodes=10)


def marked(pod: Pod) -> Pod:
    return replace(pod, hints={DELETION_COST_ANNOTATION: str(DELETION_COST)})


def acts_on(*pods: Pod, replicas: int = 4, busy: bool = False) -> tuple[Act, ...]:
    operations = (make_operation(OperationState.RUNNING, before=5, to=4),) if busy else ()
    snapshot = make_snapshot(deployment=make_deployment(replicas=replicas), pods=pods, operations=operations)
    return plan_of(snapshot).acts


def test_a_pod_that_outlived_its_reduction_loses_its_mark() -> None:
    kept, survivor = make_pods(3), marked(make_pods(1, start=3)[0])

    assert acts_on(*kept, survivor) == (ClearDeletionCost(pods=(PodRef(survivor.key, survivor.uid),)),)


def test_a_mark_stays_while_the_replica_set_has_more_pods_than_it_was_told() -> None:
    kept, victim = make_pods(4), marked(make_pods(1, start=4)[0])

    assert acts_on(*kept, victim) == ()


def test_a_mark_stays_while_the_reduction_is_written() -> None:
    kept, victim = make_pods(3), marked(make_pods(1, start=3)[0])

    assert acts_on(*kept, victim, busy=True) == ()


def test_a_victim_that_is_going_is_left_alone() -> None:
    kept, victim = make_pods(4), marked(make_pods(1, PodPhase.TERMINATING, start=4)[0])

    assert acts_on(*kept, victim) == ()


def test_a_cost_that_somebody_else_set_is_theirs() -> None:
    kept = make_pods(3)
    theirs = replace(make_pods(1, start=3)[0], hints={DELETION_COST_ANNOTATION: "-7"})

    assert acts_on(*kept, theirs) == ()


def test_victims_are_named_where_nodes_can_be_sized_and_nowhere_else() -> None:
    pods = make_pods(4)
    idle = {"pods": pods, "utilization": 0.1}

    sized = plan_of(make_snapshot(pools=(SIZED,), **idle)).acts
    plain = plan_of(make_snapshot(**idle)).acts

    assert [len(act.victims) for act in (*sized, *plain) if isinstance(act, SetReplicas)] == [1, 0]
