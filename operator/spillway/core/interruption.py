"""What the cluster says of a node's coming end: taints and conditions of every platform, read as one kind of notice.

Sources: node-and-spot C.5 and 2.2. A notice counts the node's replicas as lost at once; what is merely suspected counts only after
a while; an advice changes nothing by itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from spillway.core.model import Node, NodeCondition
from spillway.core.scheduling import Taint


class NoticeKind(StrEnum):
    """How sure the end is."""

    HARD = "Hard"
    SUSPECTED = "Suspected"
    ADVISORY = "Advisory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A node's coming end. `cause` is the taint key or the condition that says so.

    `since` is when it was said, where the API tells. `usual` is how long that cause leaves, zero where it leaves nothing.
    `others_drain` says that somebody else moves the pods already (the kubelet, Karpenter, cluster-autoscaler): a second hand
    would only shorten their grace.
    """

    node: str
    cause: str
    kind: NoticeKind
    since: datetime | None = None
    usual: timedelta = timedelta(0)
    others_drain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cause:
    kind: NoticeKind = NoticeKind.HARD
    usual: timedelta = timedelta(0)
    others_drain: bool = False


_AWS: Final = timedelta(seconds=120)
_SHORT: Final = timedelta(seconds=30)  # GCP and Azure

_TAINTS: Final[Mapping[str, _Cause]] = MappingProxyType(
    {
        "aws-node-termination-handler/spot-itn": _Cause(usual=_AWS),
        "aws-node-termination-handler/asg-lifecycle-termination": _Cause(usual=_AWS),
        "aws-node-termination-handler/rebalance-recommendation": _Cause(kind=NoticeKind.ADVISORY),
        "karpenter.sh/disrupted": _Cause(others_drain=True),
        "ToBeDeletedByClusterAutoscaler": _Cause(others_drain=True),
        "cloud.google.com/impending-node-termination": _Cause(usual=_SHORT, others_drain=True),
        "remediator.kubernetes.azure.com/unschedulable": _Cause(usual=_SHORT, others_drain=True),
        "remediator.aks.microsoft.com/unschedulable": _Cause(usual=_SHORT, others_drain=True),
        "node.kubernetes.io/out-of-service": _Cause(others_drain=True),
        "node.cloudprovider.kubernetes.io/shutdown": _Cause(others_drain=True),
    }
)
_PREEMPTING: Final = ("Preempt", "Redeploy")  # a Freeze is a pause of seconds


_PASSING: Final = ("node.kubernetes.io/", "spillway.dev/")


def is_passing(taint: Taint) -> bool:
    """Whether a taint tells of a node's state for now, not of what it is: it comes and goes, and its pool is not known by it."""
    return taint.key in _TAINTS or taint.key.startswith(_PASSING)


def read_notice(node: Node) -> Notice | None:
    """Return the surest thing that is said of the node's end, None while nothing is.

    A node that is not Ready is only suspected: `core.fleet` counts it lost after a while. Our own taint is no notice: it may be
    left over from one that was taken back.
    """
    if node.terminating:
        return Notice(node=node.name, cause="deletion", kind=NoticeKind.HARD, others_drain=True)
    found = [*_from_taints(node), *_from_conditions(node)]
    surest = min(found, key=lambda notice: _ORDER[notice.kind], default=None)
    if surest is None or surest.others_drain:
        return surest
    # Two may say it: if one of them drains, we only account.
    drained = any(notice.others_drain for notice in found if notice.kind is surest.kind)
    return replace(surest, others_drain=drained)


_ORDER: Final = {NoticeKind.HARD: 0, NoticeKind.SUSPECTED: 1, NoticeKind.ADVISORY: 2}


def _from_taints(node: Node) -> list[Notice]:
    return [
        Notice(
            node=node.name,
            cause=taint.key,
            kind=cause.kind,
            since=taint.since,
            usual=cause.usual,
            others_drain=cause.others_drain,
        )
        for taint in node.taints
        if (cause := _TAINTS.get(taint.key)) is not None
    ]


def _from_conditions(node: Node) -> list[Notice]:
    found = []
    for condition in node.conditions:
        notice = _from_condition(node.name, condition)
        if notice is not None:
            found.append(notice)
    return found


def _from_condition(name: str, condition: NodeCondition) -> Notice | None:
    if condition.type == "Ready":
        return _from_ready(name, condition)
    if condition.status != "True":
        return None
    is_preemption = condition.type == "PreemptionScheduled" or (
        condition.type == "VMEventScheduled"
        and any(word in condition.reason or word in condition.message for word in _PREEMPTING)
    )
    if not is_preemption:
        return None
    return Notice(
        node=name,
        cause=condition.type,
        kind=NoticeKind.HARD,
        since=condition.since,
        usual=_SHORT,
        others_drain=True,
    )


def _from_ready(name: str, condition: NodeCondition) -> Notice | None:
    if condition.status == "True":
        return None
    if condition.reason == "KubeletNotReady" and "node is shutting down" in condition.message:
        return Notice(
            node=name,
            cause="node is shutting down",
            kind=NoticeKind.HARD,
            since=condition.since,
            usual=_SHORT,
            others_drain=True,
        )
    return Notice(
        node=name, cause="NotReady", kind=NoticeKind.SUSPECTED, since=condition.since, others_drain=True
    )
