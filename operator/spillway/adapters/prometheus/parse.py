"""From Prometheus' JSON to values of the core, with nothing taken on trust."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from spillway.adapters.prometheus.failures import PrometheusFailure
from spillway.adapters.prometheus.pod_names import WorkloadPods
from spillway.adapters.prometheus.profiles import DCGM, MetricProfile
from spillway.adapters.prometheus.queries import NAMESPACE, PART, POD, HistoryPart, Part
from spillway.core.recorded import RecordedInstant
from spillway.core.signal import Collected, DeviceSample, Liveness, SignalReason

HIGHEST_FRACTION = (
    1.05  # The query clamps at 1; a recording rule in its place may overshoot as the gauges do.
)

PodKey = tuple[str, str]
DeviceKey = tuple[str, str]


def parse_activity(result: Iterable[object], profile: MetricProfile = DCGM) -> Collected:
    """Return what the batched query answered, `result` being the elements of its vector.

    A device is named `UUID/GPU_I_ID`. A mean that is not a number in 0..1.05 becomes None and counts as rejected, as does a
    device whose newest raw sample is out of range. A sample time that is no number becomes None: the age is unknown.
    Elements that name no pod are left out.

    Raises PrometheusFailure when an element is malformed, when the answer has no `evaluated` part (then it is not whole), or
    when it mixes several clusters.
    """
    parts = _Parts(profile=profile)
    for element in result:
        labels, time, value = _sample(element, key="value")
        parts.add(labels, time, value)
    return parts.collected()


def parse_history(result: Iterable[object]) -> dict[PodKey, list[tuple[datetime, float]]]:
    """Return (time, mean) per pod in rising time, `result` being the series of the range query's matrix.

    Points that are not a number in 0..1.05 are left out: unknown. Raises PrometheusFailure when a series is malformed.
    """
    history: dict[PodKey, list[tuple[datetime, float]]] = {}
    for series in result:
        labels = _labels(series)
        pod = _pod(labels)
        known = [(_instant(time), min(value, 1.0)) for time, value in _points(series) if _is_fraction(value)]
        if pod is not None:
            history[pod] = known
    return history


def parse_workload_history(result: Iterable[object], pods: WorkloadPods) -> tuple[RecordedInstant, ...]:
    """Return what was recorded of one workload, in rising time, `result` being the series of the range query's matrix.

    Means that are not a number in 0..1.05 are left out: unknown. Instants of which nothing is known are left out. Raises
    PrometheusFailure when a series is malformed, of an unknown part, or when several clusters are mixed.
    """
    past = _Past(burst=re.compile(pods.burst_pattern()))
    for series in result:
        labels = _labels(series)
        past.add(labels, _points(series))
    return past.instants()


def parse_time(result: Iterable[object]) -> datetime:
    """Return the evaluation time of an instant query that always answers one element; raises PrometheusFailure."""
    for element in result:
        _, time, _ = _sample(element, key="value")
        return _instant(time)
    raise _malformed("nothing for vector(time()), which always has a value")


@dataclass(slots=True, kw_only=True)
class _Parts:
    """The answer sorted by part, gathered element by element."""

    profile: MetricProfile
    evaluated: datetime | None = None
    means: dict[tuple[PodKey, DeviceKey], float] = field(default_factory=dict)
    sampled: dict[tuple[PodKey, DeviceKey], float] = field(default_factory=dict)
    rejected: set[tuple[PodKey, DeviceKey]] = field(default_factory=set)
    alive: dict[DeviceKey, float] = field(default_factory=dict)
    disagrees: set[DeviceKey] = field(default_factory=set)
    unattributed: int = 0

    def add(self, labels: Mapping[str, str], time: float, value: float) -> None:
        """Sort one element into its part."""
        try:
            part = Part(labels.get(PART, ""))
        except ValueError:
            raise _malformed(f"a series of the unknown part {labels.get(PART, '')!r}") from None
        device = (labels.get(self.profile.device, ""), labels.get(self.profile.device_slice, ""))
        match part:
            case Part.EVALUATED:
                self.evaluated = _instant(time)
            case Part.UNATTRIBUTED:
                self.unattributed = int(value) if math.isfinite(value) else 0
            case Part.CLUSTERS:
                _refuse_many_clusters(value)
            case Part.ALIVE:
                self.alive[device] = value
            case Part.DISAGREES:
                self.disagrees.add(device)
            case Part.MEAN | Part.SAMPLED | Part.REJECTED:
                self._add_of_pod(part, labels, device, value)

    def _add_of_pod(self, part: Part, labels: Mapping[str, str], device: DeviceKey, value: float) -> None:
        pod = _pod(labels)
        if pod is None:
            return
        key = (pod, device)
        if part is Part.SAMPLED:
            self.sampled[key] = value
        elif part is Part.MEAN and _is_fraction(value):
            self.means[key] = min(value, 1.0)
        else:
            self.rejected.add(key)

    def collected(self) -> Collected:
        """Join the parts; raises PrometheusFailure when the one part that is always there is missing."""
        if self.evaluated is None:
            raise PrometheusFailure(
                SignalReason.PROMETHEUS_PARTIAL,
                "Prometheus' answer lacks the part that is always there, so others may be missing too; "
                "check what stands between Spillway and Prometheus.",
            )
        pods: defaultdict[PodKey, list[DeviceSample]] = defaultdict(list)
        for pod, device in sorted({*self.means, *self.sampled, *self.rejected}):
            pods[pod].append(self._device_sample(pod, device))
        return Collected(
            at=self.evaluated,
            pods={pod: tuple(samples) for pod, samples in pods.items()},
            rejected=Counter(pod for pod, _ in self.rejected),
            unattributed=self.unattributed,
        )

    def _device_sample(self, pod: PodKey, device: DeviceKey) -> DeviceSample:
        sampled = self.sampled.get((pod, device))
        return DeviceSample(
            device="/".join(device),
            mean=self.means.get((pod, device)),
            sampled_at=_instant(sampled) if sampled is not None and math.isfinite(sampled) else None,
            liveness=self._liveness(device),
            disagrees=device in self.disagrees,
        )

    def _liveness(self, device: DeviceKey) -> Liveness:
        # Some exporters report the energy of a sliced GPU once for the whole board, others once per slice.
        value = self.alive.get(device, self.alive.get((device[0], "")))
        if value is None or not math.isfinite(value):
            return Liveness.ABSENT
        return Liveness.RISING if value > 0 else Liveness.FLAT


@dataclass(slots=True, kw_only=True)
class _Past:
    """One workload's past, gathered series by series and joined by time."""

    burst: re.Pattern[str]
    means: defaultdict[float, dict[PodKey, float]] = field(default_factory=lambda: defaultdict(dict))
    ready: defaultdict[float, dict[PodKey, bool]] = field(default_factory=lambda: defaultdict(dict))
    asked: dict[float, int] = field(default_factory=dict)

    def add(self, labels: Mapping[str, str], points: Iterator[tuple[float, float]]) -> None:
        """Take in one series."""
        pod = _pod(labels)
        match labels.get(PART, ""):
            case HistoryPart.CLUSTERS:
                _refuse_many_clusters(max((value for _, value in points), default=0))
            case HistoryPart.ASKED:
                self.asked.update((time, int(value)) for time, value in points if math.isfinite(value))
            case HistoryPart.MEAN if pod is not None:
                for time, value in points:
                    if _is_fraction(value):
                        self.means[time][pod] = min(value, 1.0)
            case HistoryPart.READY if pod is not None:
                for time, value in points:
                    self.ready[time][pod] = value == 1
            case part:
                raise _malformed(f"a series of the unknown part {part!r}, or one that names no pod")

    def instants(self) -> tuple[RecordedInstant, ...]:
        """Join the parts by time."""
        times = sorted({*self.means, *self.ready, *self.asked})
        return tuple(self._instant(time) for time in times)

    def _instant(self, time: float) -> RecordedInstant:
        means, ready = self.means.get(time, {}), self.ready.get(time)
        serving = [mean for pod, mean in means.items() if ready is None or ready.get(pod)]
        return RecordedInstant(
            at=_instant(time),
            sampled=len(means),
            sampled_burst=sum(1 for _, pod in means if self.burst.fullmatch(pod)),
            ready=None if ready is None else sum(ready.values()),
            serving=len(serving),
            busy=sum(serving),
            asked=self.asked.get(time),
        )


def _refuse_many_clusters(count: float) -> None:
    if count > 1:
        raise PrometheusFailure(
            SignalReason.PROMETHEUS_ERROR,
            f"This Prometheus holds GPU series of {count:g} clusters, and pods of the same name would be taken for one; "
            'set prometheus.clusterMatcher, for instance to cluster="NAME".',
        )


def _sample(element: object, *, key: str) -> tuple[Mapping[str, str], float, float]:
    time, value = _point(_field(element, key))
    return _labels(element), time, value


def _points(series: object) -> Iterator[tuple[float, float]]:
    """The samples of one series of a matrix."""
    points = _field(series, "values")
    if not isinstance(points, list):
        raise _malformed(f"a series whose values are {_kind(points)}, not a list")
    return (_point(point) for point in points)


def _labels(element: object) -> Mapping[str, str]:
    labels = _field(element, "metric")
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise _malformed("a series whose metric is not an object of texts")
    return labels


def _field(element: object, name: str) -> object:
    if not isinstance(element, dict) or name not in element:
        raise _malformed(f"an element without {name!r}")
    return element[name]


def _point(point: object) -> tuple[float, float]:
    """A pair of a number and a number in text; "NaN" and "+Inf" are numbers here, and rejected by whoever uses them."""
    if not isinstance(point, list) or len(point) != 2:
        raise _malformed("a sample that is not a pair of time and value")
    time, value = point
    if isinstance(time, bool) or not isinstance(time, int | float) or not math.isfinite(time):
        raise _malformed(f"a sample time of {_kind(time)}, not a number")
    if not isinstance(value, str):
        raise _malformed(f"a sample value of {_kind(value)}, not text")
    try:
        return float(time), float(value)
    except ValueError:
        raise _malformed(f"the sample value {value[:40]!r}, not a number") from None


def _pod(labels: Mapping[str, str]) -> PodKey | None:
    namespace, pod = labels.get(NAMESPACE, ""), labels.get(POD, "")
    return (namespace, pod) if namespace and pod else None


def _is_fraction(value: float) -> bool:
    return 0 <= value <= HIGHEST_FRACTION


def _instant(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):
        raise _malformed(f"the time {seconds:g}, outside any calendar") from None


def _kind(value: object) -> str:
    return type(value).__name__


def _malformed(what: str) -> PrometheusFailure:
    return PrometheusFailure(
        SignalReason.PROMETHEUS_ERROR,
        f"Prometheus' answer holds {what}; check what stands between Spillway and Prometheus.",
    )
