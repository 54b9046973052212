"""What an act that ended is told as: on which object, and with which words."""

import pytest
from tests.builders import NAMESPACE

from spillway.adapters.kube.write import EventType
from spillway.app.act_events import ActEvent, event_of
from spillway.core.model import (
    ApplyTwin,
    DrainNode,
    ForeignPods,
    ObjectKey,
    Operation,
    OperationState,
    TwinChange,
)

LLM = ObjectKey(NAMESPACE, "llm")


def put_back(edited_by: str) -> ApplyTwin:
    return ApplyTwin(
        workload=LLM,
        workload_uid="workload-llm",
        source=LLM,
        source_uid="deployment-llm",
        template="t1",
        twin=ObjectKey(NAMESPACE, "llm-burst"),
        twin_uid="deployment-llm-burst",
        replicas=3,
        pools=(),
        why=TwinChange.EDITED,
        edited_by=edited_by,
    )


@pytest.mark.parametrize(
    ("edited_by", "who"),
    [
        pytest.param("kubectl-edit", "kubectl-edit", id="known"),
        pytest.param("", "somebody", id="unknown"),
    ],
)
@pytest.mark.case("node-and-spot E69")
def test_the_event_about_a_twin_that_was_put_back_names_its_editor(edited_by: str, who: str) -> None:
    told = event_of(Operation(act=put_back(edited_by), state=OperationState.LANDED))

    assert told == ActEvent(
        reason="BurstReverted",
        message=f"llm-burst: put back after {who} edited it; change llm instead",
        workload=LLM,
    )


def test_a_drain_that_a_pod_blocks_is_a_warning_on_its_pool() -> None:
    act = DrainNode(
        pool="h100",
        node="h100-1",
        node_uid="uid-1",
        instance="i-1",
        id="h100-uid-1",
        movable=frozenset(),
        foreign_pods=ForeignPods.BLOCK,
    )
    failed = Operation(act=act, state=OperationState.FAILED, error="blocked", blocked="pod chat/tool stays")

    told = event_of(failed)

    assert told == ActEvent(
        reason="DrainBlocked",
        message="h100-1 is kept: pod chat/tool stays",
        type=EventType.WARNING,
        pool="h100",
    )
