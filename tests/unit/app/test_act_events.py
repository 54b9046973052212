"""What people are told of an act that ended: on which object, under which reason, in which words."""

from dataclasses import replace

import pytest
from tests.builders import NOW, make_act

from spillway.adapters.kube.write import EventType
from spillway.app.act_events import ActEvent, event_of
from spillway.core.model import (
    Act,
    ApplyTwin,
    CancelUnfulfilled,
    ClearDeletionCost,
    CordonCause,
    CordonNode,
    DeleteTwin,
    DrainNode,
    EvictDoomed,
    ForeignPods,
    ForgetNode,
    GrowPool,
    HandOverTwin,
    ObjectKey,
    Operation,
    OperationState,
    TwinChange,
    TwinPool,
    UncordonNode,
)

LLM = ObjectKey("chat", "llm")
BURST = ObjectKey("chat", "llm-burst")
APPLY = ApplyTwin(
    workload=LLM,
    workload_uid="w",
    source=LLM,
    source_uid="d",
    template="t1",
    twin=BURST,
    twin_uid="",
    replicas=3,
    pools=(TwinPool(name="spot-a", selector={}), TwinPool(name="spot-b", selector={})),
    why=TwinChange.CREATE,
)
GROW = GrowPool(pool="spot-a", pool_uid="p", before=1, to=3)
CANCEL = CancelUnfulfilled(pool="spot-a", pool_uid="p", before=3, to=1)
CORDON = CordonNode(node="node-1", node_uid="n", cause=CordonCause.INTERRUPTED, id="i", pool="spot-a")
DRAIN = DrainNode(
    pool="spot-a",
    node="node-1",
    node_uid="n",
    instance="i-1",
    id="i",
    movable=frozenset(),
    foreign_pods=ForeignPods.BLOCK,
)
FORGET = ForgetNode(pool="spot-a", node="node-1", node_uid="n", instance="i-1")
DELETE = DeleteTwin(workload=LLM, twin=BURST, twin_uid="t", before=0)


def landed(act: Act, why: str = "") -> ActEvent | None:
    return event_of(Operation(act=act, state=OperationState.LANDED), why=why)


def failed(act: Act, error: str = "no answer", *, blocked: str = "") -> ActEvent | None:
    return event_of(Operation(act=act, state=OperationState.FAILED, error=error, blocked=blocked))


def on_workload(reason: str, message: str, kind: EventType = EventType.NORMAL) -> ActEvent:
    return ActEvent(reason=reason, message=message, workload=LLM, type=kind)


def on_pool(reason: str, message: str, kind: EventType = EventType.NORMAL) -> ActEvent:
    return ActEvent(reason=reason, message=message, pool="spot-a", type=kind)


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        pytest.param(
            replace(make_act(before=2, to=5), target=BURST),
            on_workload("ScaledUp", "llm-burst: 2 → 5 replicas. 0.92 is above 0.80"),
            id="the twin goes up",
        ),
        pytest.param(
            make_act(before=5, to=4),
            on_workload("ScaledDown", "llm: 5 → 4 replicas. 0.92 is above 0.80"),
            id="the source goes down",
        ),
    ],
)
def test_a_count_that_was_written_says_from_what_to_what_and_why(act: Act, expected: ActEvent) -> None:
    assert landed(act, "0.92 is above 0.80") == expected


@pytest.mark.parametrize(
    ("why", "reason", "text"),
    [
        pytest.param(TwinChange.CREATE, "BurstCreated", "made with 3 replicas for spot", id="made"),
        pytest.param(
            TwinChange.TEMPLATE, "BurstUpdated", "brought in step with the template of llm", id="rollout"
        ),
        pytest.param(
            TwinChange.POOLS, "BurstUpdated", "made for the spot pools of now: spot-a, spot-b", id="pools"
        ),
        pytest.param(
            TwinChange.EDITED,
            "BurstReverted",
            "put back after somebody edited it; change llm instead",
            id="edited",
        ),
        pytest.param(
            TwinChange.ADOPT, "BurstAdopted", "taken over from a GpuWorkload that is gone", id="adopted"
        ),
    ],
)
def test_each_change_of_a_twin_has_its_own_words(why: TwinChange, reason: str, text: str) -> None:
    assert landed(replace(APPLY, why=why)) == on_workload(reason, f"llm-burst: {text}")


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        pytest.param(
            DELETE,
            on_workload("BurstDeleted", "llm-burst: deleted; nothing runs on spot any more"),
            id="twin deleted",
        ),
        pytest.param(
            GROW, on_pool("PoolGrown", "Asked for 3 nodes; it was asked for 1 before"), id="pool grown"
        ),
        pytest.param(
            CANCEL,
            on_pool(
                "RequestCancelled",
                "Asks for 1 node instead of 3: the others were not granted, or are not needed any more",
            ),
            id="request cancelled",
        ),
        pytest.param(
            CORDON,
            on_pool(
                "NodeInterrupted",
                "node-1 is being taken back; its replicas count as lost and replacements are asked for",
                EventType.WARNING,
            ),
            id="notice",
        ),
        pytest.param(
            DRAIN, on_pool("NodeRemoved", "node-1 was empty and is removed (instance i-1)"), id="node removed"
        ),
        pytest.param(
            FORGET, on_pool("NodeForgotten", "Node node-1 is deleted: its machine is gone"), id="node gone"
        ),
    ],
)
def test_what_was_done_is_told_where_people_look(act: Act, expected: ActEvent) -> None:
    assert landed(act) == expected


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(replace(CORDON, cause=CordonCause.DRAIN), id="a cordon of ours: the removal tells it"),
        pytest.param(UncordonNode(node="node-1", node_uid="n"), id="uncordon"),
        pytest.param(ClearDeletionCost(pods=()), id="deletion cost"),
        pytest.param(HandOverTwin(twin=BURST, twin_uid="t", replicas=4), id="handover"),
        pytest.param(EvictDoomed(node="node-1", node_uid="n", pods=(), deadline=NOW), id="eviction"),
    ],
)
def test_a_step_on_the_way_is_told_to_nobody(act: Act) -> None:
    assert landed(act) is None


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        pytest.param(
            make_act(before=4, to=6),
            on_workload("ScaleFailed", "llm: 4 → 6 replicas was refused: no answer", EventType.WARNING),
            id="replicas",
        ),
        pytest.param(
            APPLY,
            on_workload("BurstWriteFailed", "llm-burst could not be written: no answer", EventType.WARNING),
            id="twin",
        ),
        pytest.param(
            DELETE,
            on_workload("BurstWriteFailed", "llm-burst could not be written: no answer", EventType.WARNING),
            id="twin not deleted",
        ),
        pytest.param(
            GROW,
            on_pool(
                "PoolResizeFailed", "Asking for 3 nodes instead of 1 failed: no answer", EventType.WARNING
            ),
            id="pool",
        ),
        pytest.param(CORDON, on_pool("NodeWriteFailed", "node-1: no answer", EventType.WARNING), id="cordon"),
        pytest.param(DRAIN, on_pool("DrainUnfinished", "node-1: no answer", EventType.WARNING), id="drain"),
    ],
)
def test_a_failure_is_a_warning_with_the_error(act: Act, expected: ActEvent) -> None:
    assert failed(act) == expected


def test_a_blocked_drain_names_the_pod_that_keeps_the_node() -> None:
    event = failed(DRAIN, blocked="pod ns/by-hand has no controller")

    assert event == on_pool(
        "DrainBlocked", "node-1 is kept: pod ns/by-hand has no controller", EventType.WARNING
    )
