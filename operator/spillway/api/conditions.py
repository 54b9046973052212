"""Condition types, and the closed list of reasons that each may carry. What a reason means stands in `reason_texts`."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from spillway.core import plan
from spillway.core.signal import SignalReason


class ConditionType(StrEnum):
    """The aspects of an object's state. A type keeps its meaning for ever."""

    READY = "Ready"
    METRICS_AVAILABLE = "MetricsAvailable"
    SCALING_ACTIVE = "ScalingActive"
    SCALING_LIMITED = "ScalingLimited"
    CAPACITY_AVAILABLE = "CapacityAvailable"
    BURST_ACTIVE = "BurstActive"
    FALLBACK_ACTIVE = "FallbackActive"
    BASELINE_ISOLATED = "BaselineIsolated"
    CONFLICT = "Conflict"


class ReadyReason(StrEnum):
    """Reasons of Ready: fine, or the first trouble found; the other conditions say more."""

    OPERATING = "Operating"
    ACCEPTED = "Accepted"
    INVALID = "Invalid"
    POLICY_NOT_FOUND = "PolicyNotFound"
    NAMESPACE_TERMINATING = "NamespaceTerminating"
    TARGET_NOT_FOUND = "TargetNotFound"
    TARGET_TERMINATING = "TargetTerminating"
    TARGET_REQUESTS_NO_GPU = "TargetRequestsNoGpu"
    CONFLICT = "Conflict"
    METRICS_UNAVAILABLE = "MetricsUnavailable"
    CAPACITY_UNAVAILABLE = "CapacityUnavailable"
    OBSERVED = "Observed"
    NO_NODES = "NoNodes"
    PRICE_UNKNOWN = "PriceUnknown"
    PRICE_ANNOTATION_INVALID = "PriceAnnotationInvalid"
    PODS_PARTLY_SEEN = "PodsPartlySeen"
    INTERNAL_ERROR = "InternalError"


class ScalingActiveReason(StrEnum):
    """Reasons of ScalingActive beside `core.plan.InactiveReason`, which says why nothing is written."""

    ACTIVE = "Active"
    PINNED = "Pinned"
    INVALID = "Invalid"


class ScalingLimitedReason(StrEnum):
    """Reasons of ScalingLimited beside `core.plan.LimitReason`; True carries the first limiter that changed the count."""

    NOT_LIMITED = "NotLimited"


class CapacityAvailableReason(StrEnum):
    """Reasons of CapacityAvailable beside `core.plan`'s: `CapacityReason` says why replicas do not serve, the others how a pool
    stands and why it takes no more nodes."""

    ALL_SCHEDULED = "AllScheduled"
    LOADING = "Loading"
    UNKNOWN = "TargetUnknown"


class NoConflictReason(StrEnum):
    """Reasons of Conflict beside `core.plan.ConflictReason`, which says who else writes the same replicas."""

    NO_CONFLICT = "NoConflict"
    POLICY_CONFLICT = "PolicyConflict"
    POOL_CONFLICT = "PoolConflict"


REASONS: Final[Mapping[ConditionType, tuple[type[StrEnum], ...]]] = MappingProxyType(
    {
        ConditionType.READY: (ReadyReason,),
        ConditionType.METRICS_AVAILABLE: (SignalReason,),
        ConditionType.SCALING_ACTIVE: (ScalingActiveReason, plan.InactiveReason),
        ConditionType.SCALING_LIMITED: (ScalingLimitedReason, plan.LimitReason),
        ConditionType.CAPACITY_AVAILABLE: (
            CapacityAvailableReason,
            plan.CapacityReason,
            plan.PoolReason,
            plan.CloseReason,
        ),
        ConditionType.BURST_ACTIVE: (plan.BurstReason,),
        ConditionType.FALLBACK_ACTIVE: (plan.FallbackReason,),
        ConditionType.BASELINE_ISOLATED: (plan.IsolationReason,),
        ConditionType.CONFLICT: (NoConflictReason, plan.ConflictReason),
    }
)
"""Every reason that a condition may carry; nothing else may be written."""


def reasons_of(condition: ConditionType) -> tuple[str, ...]:
    """Return the reasons of *condition*, each once, in the order of the field reference."""
    return tuple(dict.fromkeys(member.value for listed in REASONS[condition] for member in listed))
