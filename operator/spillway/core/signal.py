"""What is known of GPU activity: samples with ages, and the state they add up to."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
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


BLIND_STATES = frozenset({SignalState.UNKNOWN, SignalState.LOW, SignalState.DEGRADED})
"""The states in which nothing may be read from the samples, neither up nor down."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """What the samples of one workload's settled pods add up to.

    `value_up` assumes 0 for pods without samples, None below half coverage; `value_down` assumes the high mark, None below
    0.8 coverage. Whether they may move anything is the state's to say.
    `mean` is over pods with samples. `all_alive` says that every device used has a rising counter.
    """

    state: SignalState
    reason: SignalReason
    message: str
    mean: float | None = None
    value_up: float | None = None
    value_down: float | None = None
    coverage: float = 0.0
    oldest: timedelta | None = None
    newest_sample: datetime | None = None
    all_alive: bool = False


HALF = 0.5
DOWN_COVERAGE = 0.8  # below it, missing pods could hide too much load (workload-autoscalers C.3)


def assess(
    collection: Collection,
    *,
    pods: Sequence[tuple[tuple[str, str], int]],
    high: float,
    stale_after: timedelta,
) -> Assessment:
    """Judge the settled pods' samples: Fresh, Partial, Low, Suspect or Unknown, by the table of workload-autoscalers C.3.

    `pods` are ((namespace, name), GPUs) of the settled Ready pods. Degraded, Zero and "all zero at once" need memory and
    are decided by `core.observe`. Without settled pods or samples the answer is Unknown, never 0.
    """
    if isinstance(collection, NotCollected):
        return Assessment(state=SignalState.UNKNOWN, reason=collection.reason, message=collection.message)
    if not pods:
        return Assessment(
            state=SignalState.UNKNOWN,
            reason=SignalReason.NO_SETTLED_PODS,
            message="No pod has been Ready for long enough to be measured",
        )
    readings = [_read_pod(collection, key=key, gpus=gpus, stale_after=stale_after) for key, gpus in pods]
    known = [reading for reading in readings if reading.value is not None]
    coverage = len(known) / len(readings)
    if not known:
        return _unknown(readings, coverage=0.0)
    total = sum(reading.value for reading in known if reading.value is not None)
    missing = len(readings) - len(known)
    found = _Found(
        mean=total / len(known),
        up=total / len(readings),
        down=(total + missing * high) / len(readings),
        coverage=coverage,
        oldest=max(reading.age for reading in known),
        newest=max(reading.newest for reading in known if reading.newest is not None),
        all_alive=all(reading.alive for reading in known),
    )
    return _judge(found, readings=readings, known=len(known))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    mean: float
    up: float
    down: float
    coverage: float
    oldest: timedelta
    newest: datetime
    all_alive: bool


def _judge(found: _Found, *, readings: Sequence["_PodReading"], known: int) -> Assessment:
    disagreeing = sum(1 for reading in readings if reading.disagrees)
    if found.coverage < HALF:
        state, reason = SignalState.LOW, SignalReason.LOW_COVERAGE
        message = f"Only {known} of {len(readings)} pods report GPU metrics ({_commonest(readings)}); holding"
    elif disagreeing:
        state, reason = SignalState.SUSPECT, SignalReason.CONTRADICTORY
        message = (
            f"{disagreeing} pods: one activity metric says busy, the other says zero. Not shrinking; "
            "re-arm profiling by restarting dcgm-exporter on their nodes"
        )
    elif known < len(readings):
        state, reason = SignalState.PARTIAL, SignalReason.PARTIAL
        message = f"{known} of {len(readings)} pods report GPU metrics ({_commonest(readings)})"
    else:
        state, reason = SignalState.FRESH, SignalReason.FRESH
        message = f"{known} of {known} pods report GPU metrics"
    return Assessment(
        state=state,
        reason=reason,
        message=message,
        mean=found.mean,
        value_up=None if state is SignalState.LOW else found.up,
        value_down=found.down if found.coverage >= DOWN_COVERAGE else None,
        coverage=found.coverage,
        oldest=found.oldest,
        newest_sample=found.newest,
        all_alive=found.all_alive,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _PodReading:
    """One pod's value, or the reason why it has none."""

    value: float | None = None
    reason: SignalReason = SignalReason.MISSING
    age: timedelta = timedelta(0)
    newest: datetime | None = None
    alive: bool = False
    disagrees: bool = False


def _read_pod(
    collection: Collected, *, key: tuple[str, str], gpus: int, stale_after: timedelta
) -> _PodReading:
    samples = collection.pods.get(key, ())
    rejected = collection.rejected.get(key, 0) > 0
    values, reasons, ages, newest = [], [], [], []
    for sample in samples:
        reason = _device_reason(sample, rejected=rejected, at=collection.at, stale_after=stale_after)
        reasons.append(reason)
        if reason is SignalReason.FRESH and sample.mean is not None and sample.sampled_at is not None:
            values.append(sample.mean)
            ages.append(collection.at - sample.sampled_at)
            newest.append(sample.sampled_at)
    # A pod is known when at least half of its GPUs are (tensor-parallel ranks move together).
    if not values or len(values) < HALF * gpus:
        bad = next((reason for reason in reasons if reason is not SignalReason.FRESH), None)
        return _PodReading(reason=bad or (SignalReason.OUT_OF_RANGE if rejected else SignalReason.MISSING))
    return _PodReading(
        value=sum(values) / len(values),
        reason=SignalReason.FRESH,
        age=max(ages),
        newest=max(newest),
        alive=all(sample.liveness is Liveness.RISING for sample in samples),
        disagrees=any(sample.disagrees for sample in samples),
    )


def _device_reason(
    sample: DeviceSample, *, rejected: bool, at: datetime, stale_after: timedelta
) -> SignalReason:
    if sample.mean is None:
        # Without a rejected value the series only ended: its last sample has left the window and may still be young enough.
        return SignalReason.OUT_OF_RANGE if rejected else SignalReason.STALE
    if sample.sampled_at is None or at - sample.sampled_at > stale_after:
        return SignalReason.STALE
    if sample.liveness is Liveness.FLAT:
        return SignalReason.FROZEN
    return SignalReason.FRESH


def _commonest(readings: Sequence[_PodReading]) -> SignalReason:
    bad = Counter(reading.reason for reading in readings if reading.value is None)
    return bad.most_common(1)[0][0] if bad else SignalReason.FRESH


ADVICE = {
    SignalReason.MISSING: "Prometheus has no GPU metrics for these pods. Check that dcgm-exporter runs on their nodes and "
    "that its pod labels arrive",
    SignalReason.STALE: "GPU metrics of these pods are too old. Check the dcgm-exporter target in Prometheus",
    SignalReason.FROZEN: "GPU energy counters stand still, so the exporter repeats old values. Restart dcgm-exporter "
    "on their nodes",
    SignalReason.OUT_OF_RANGE: "GPU metrics are outside their legal range. Check the GPUs with nvidia-smi and restart "
    "dcgm-exporter on their nodes",
}


def _unknown(readings: Sequence[_PodReading], *, coverage: float) -> Assessment:
    reason = _commonest(readings)
    message = f"0 of {len(readings)} pods have usable GPU metrics; holding. {ADVICE[reason]}"
    return Assessment(state=SignalState.UNKNOWN, reason=reason, message=message, coverage=coverage)
