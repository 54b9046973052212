"""What is known of GPU activity: samples with ages, and the state they add up to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class SignalReason(StrEnum):
    """Why a signal is what it is; also the reasons of the condition MetricsAvailable."""

    FRESH = "MetricsFresh"
    PARTIAL = "MetricsPartial"
    LOW_COVERAGE = "MetricsLowCoverage"
    STALE = "MetricsStale"
    FROZEN = "MetricsFrozen"
    OUT_OF_RANGE = "MetricsOutOfRange"
    MISSING = "MetricsMissing"
    CONTRADICTORY = "MetricsContradictory"
    ZERO_AT_ONCE = "MetricsZeroAtOnce"
    RECOVERING = "MetricsRecovering"
    NO_SETTLED_PODS = "NoSettledPods"
    PROMETHEUS_UNREACHABLE = "PrometheusUnreachable"
    PROMETHEUS_TIMEOUT = "PrometheusTimeout"
    PROMETHEUS_ERROR = "PrometheusError"
    PROMETHEUS_PARTIAL = "PrometheusPartialAnswer"
    PROMETHEUS_UNAUTHORIZED = "PrometheusUnauthorized"
    NOT_COLLECTED = "NotCollectedYet"


class SignalState(StrEnum):
    """The states of the permission table (workload-autoscalers C.3)."""

    FRESH = "Fresh"
    PARTIAL = "Partial"
    LOW = "Low"
    UNKNOWN = "Unknown"
    SUSPECT = "Suspect"
    DEGRADED = "Degraded"
    ZERO = "Zero"


class Liveness(StrEnum):
    """Whether a device's counters prove that its exporter still measures: energy rose, stood still, or is not exported."""

    RISING = "Rising"
    FLAT = "Flat"
    ABSENT = "Absent"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSample:
    """One GPU (or MIG slice) of one pod at the evaluation instant.

    `mean` is the 60 s mean utilization in 0..1, None when no sample of the window was in range. `sampled_at` is the newest
    raw sample's own timestamp, None when the age query had no answer (the value is then unknown). `disagrees` is True when
    one activity metric says busy and the other says zero.
    """

    device: str
    mean: float | None
    sampled_at: datetime | None
    liveness: Liveness = Liveness.ABSENT
    disagrees: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """A usable answer: samples per (namespace, pod name), evaluated at `at` by Prometheus' clock.

    `rejected` counts devices with samples outside their legal range, by pod; `unattributed` counts GPU series that carry no pod.
    """

    at: datetime
    pods: Mapping[tuple[str, str], tuple[DeviceSample, ...]]
    rejected: Mapping[tuple[str, str], int] = field(default_factory=dict)
    unattributed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NotCollected:
    """No usable answer since `since`: why, in a closed reason and a sentence for a person."""

    since: datetime
    reason: SignalReason
    message: str


Collection = Collected | NotCollected
