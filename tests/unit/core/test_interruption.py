"""What the cluster says of a node's end, in the words of every platform."""

import pytest
from tests.builders import NOW, make_node, seconds

from spillway.core.interruption import Notice, NoticeKind, read_notice
from spillway.core.model import Node, NodeCondition
from spillway.core.scheduling import NO_EXECUTE, Taint

AGO = NOW - seconds(20)
SPOT_ITN = "aws-node-termination-handler/spot-itn"


def tainted(*keys: str) -> Node:
    return make_node(taints=tuple(Taint(key, since=AGO) for key in keys))


def with_condition(kind: str, status: str = "True", reason: str = "", message: str = "") -> Node:
    condition = NodeCondition(type=kind, status=status, reason=reason, message=message, since=AGO)
    return make_node(ready=kind != "Ready", conditions=(condition,))


@pytest.mark.parametrize(
    ("key", "usual", "others_drain"),
    [
        (SPOT_ITN, 120, False),
        ("aws-node-termination-handler/asg-lifecycle-termination", 120, False),
        ("karpenter.sh/disrupted", 0, True),
        ("ToBeDeletedByClusterAutoscaler", 0, True),
        ("cloud.google.com/impending-node-termination", 30, True),
        ("remediator.kubernetes.azure.com/unschedulable", 30, True),
        ("remediator.aks.microsoft.com/unschedulable", 30, True),
        ("node.kubernetes.io/out-of-service", 0, True),
        ("node.cloudprovider.kubernetes.io/shutdown", 0, True),
    ],
)
def test_a_taint_that_tells_of_the_end_is_a_hard_notice(key: str, usual: int, others_drain: bool) -> None:
    assert read_notice(tainted(key)) == Notice(
        node="node-1",
        cause=key,
        kind=NoticeKind.HARD,
        since=AGO,
        usual=seconds(usual),
        others_drain=others_drain,
    )


@pytest.mark.parametrize(
    "node",
    [
        pytest.param(with_condition("PreemptionScheduled"), id="Azure's own agent"),
        pytest.param(
            with_condition("VMEventScheduled", reason="PreemptScheduled"), id="problem detector, Preempt"
        ),
        pytest.param(
            with_condition("VMEventScheduled", message="Redeploy in 9 min"), id="problem detector, Redeploy"
        ),
        pytest.param(
            with_condition("Ready", "False", "KubeletNotReady", "node is shutting down"),
            id="kubelet shuts down",
        ),
    ],
)
def test_a_condition_that_tells_of_the_end_is_a_hard_notice_and_the_kubelet_drains(node: Node) -> None:
    notice = read_notice(node)

    assert notice is not None
    assert (notice.kind, notice.usual, notice.others_drain) == (NoticeKind.HARD, seconds(30), True)


@pytest.mark.case("node-and-spot E31")
def test_a_rebalance_recommendation_is_an_advice() -> None:
    notice = read_notice(tainted("aws-node-termination-handler/rebalance-recommendation"))

    assert notice is not None
    assert notice.kind is NoticeKind.ADVISORY


@pytest.mark.case("node-and-spot E33")
@pytest.mark.parametrize("status", ["False", "Unknown"])
def test_a_node_that_is_not_ready_is_only_suspected(status: str) -> None:
    notice = read_notice(with_condition("Ready", status, "NodeStatusUnknown", "Kubelet stopped posting"))

    assert notice is not None
    assert (notice.kind, notice.since) == (NoticeKind.SUSPECTED, AGO)


@pytest.mark.parametrize(
    "node",
    [
        pytest.param(make_node(), id="nothing said"),
        pytest.param(with_condition("VMEventScheduled", reason="FreezeScheduled"), id="a freeze of seconds"),
        pytest.param(with_condition("PreemptionScheduled", status="False"), id="no preemption scheduled"),
        pytest.param(with_condition("Ready", status="True"), id="Ready"),
        pytest.param(
            make_node(taints=(Taint("spillway.dev/interrupted", "interrupted"),)), id="our own mark"
        ),
        pytest.param(
            tainted("nvidia.com/gpu", "DeletionCandidateOfClusterAutoscaler"), id="taints of other kinds"
        ),
    ],
)
def test_nothing_else_is_a_notice(node: Node) -> None:
    assert read_notice(node) is None


def test_a_node_that_is_being_deleted_is_lost_and_its_deleter_drains_it() -> None:
    notice = read_notice(make_node(terminating=True, taints=(Taint(SPOT_ITN),)))

    assert notice == Notice(node="node-1", cause="deletion", kind=NoticeKind.HARD, others_drain=True)


@pytest.mark.case("node-and-spot E35")
def test_of_several_signals_the_surest_is_the_notice() -> None:
    rebalance = Taint("aws-node-termination-handler/rebalance-recommendation")
    unready = NodeCondition(type="Ready", status="Unknown", since=AGO)

    notice = read_notice(
        make_node(ready=False, taints=(rebalance, Taint(SPOT_ITN, effect=NO_EXECUTE)), conditions=(unready,))
    )

    assert notice is not None
    assert (notice.cause, notice.kind, notice.others_drain) == (SPOT_ITN, NoticeKind.HARD, False)


@pytest.mark.case("node-and-spot E36")
@pytest.mark.parametrize("keys", [(SPOT_ITN, "karpenter.sh/disrupted"), ("karpenter.sh/disrupted", SPOT_ITN)])
def test_whoever_drains_already_is_heard_in_whatever_order_the_taints_come(keys: tuple[str, str]) -> None:
    notice = read_notice(tainted(*keys))

    assert notice is not None
    assert notice.others_drain
