"""The PromQL that reads GPU activity: one instant query for a whole cluster, and the range queries that replay it.

Pure text: nothing here talks to a server. No text of a tenant ever enters these queries; what does is the cluster matcher, checked
in `settings`, and the names that a person gave to read one workload's past, quoted.

Two traps shape every expression. Functions over a subquery drop the metric's name, and two series that then look alike fail
the *whole* query, so every branch of an `or` inside a subquery drops its name by arithmetic first. And `timestamp()` is only
true on a bare selector: around a filter or a division it returns the time of the evaluation.
"""

from collections.abc import Iterable
from datetime import timedelta
from enum import StrEnum

from spillway.adapters.prometheus.pod_names import WorkloadPods
from spillway.adapters.prometheus.profiles import DCGM, ActivityMetric, MetricProfile
from spillway.adapters.prometheus.settings import PrometheusSettings

PART = "part"
NAMESPACE = "wl_namespace"
POD = "wl_pod"

BUSY_FRACTION = 0.2  # metrics-and-cost C10: one gauge above this …
SILENT_PROFILER_FRACTION = 0.005  # … while the profiler never reached this, is a profiler that fell silent.
IDLE_KERNEL_FRACTION = (
    0.01  # One percent of an integer gauge: what a full GPU reads when percent became a ratio.
)

# How finely a failed scrape's last good one is looked for, and so by how much an age may be overstated then.
_AGE_STEP = timedelta(seconds=15)
# A year of a 1.2 kW device is 4e13 mJ; the exporters' blank sentinel is 9.2e18.
_ENERGY_LIMIT = "1e16"


class Part(StrEnum):
    """The pieces of the batched answer; each series says in the label `part` which one it belongs to."""

    MEAN = "mean"
    SAMPLED = "sampled"
    ALIVE = "alive"
    DISAGREES = "disagrees"
    REJECTED = "rejected"
    UNATTRIBUTED = "unattributed"
    CLUSTERS = "clusters"
    EVALUATED = "evaluated"


class HistoryPart(StrEnum):
    """The pieces of one workload's past: per pod its mean and whether it was Ready, and what its Deployments were set to."""

    MEAN = "mean"
    READY = "ready"
    ASKED = "asked"
    CLUSTERS = "clusters"


def quote(value: str) -> str:
    """Return *value* as a PromQL string literal, so that nothing in it can end the literal.

    Raises ValueError for a NUL or a lone surrogate, which no label value can hold.
    """
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("a label value is text without NUL or surrogates")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'


def gpu_activity(settings: PrometheusSettings, profile: MetricProfile = DCGM) -> str:
    """Return the instant query that answers everything about GPU activity of the whole cluster at once.

    `mean`: fraction busy per pod and device over the window. `sampled`: when the newest raw sample was taken (Unix
    seconds). `alive` per device: 1 the device still measures, 0 its energy counter stood still, absent when neither can be
    told. `disagrees` per device: its gauges contradict each other. `rejected`: the newest raw value is outside its range.
    `unattributed`: how many devices name no pod. `clusters`: how many values the label `cluster` has, only where no cluster
    matcher is set. `evaluated` is always there, so an answer without it is not whole.

    The parts are one query on purpose: when a part fails, all fail, and no failure can look like "no data".
    """
    build = _Expressions(settings=settings, profile=profile)
    parts = {
        Part.MEAN: build.mean(step=settings.step),
        Part.SAMPLED: build.sampled(),
        Part.ALIVE: build.alive(),
        Part.DISAGREES: build.disagrees(),
        Part.REJECTED: build.rejected(),
        Part.UNATTRIBUTED: build.unattributed(),
        Part.EVALUATED: "vector(time())",
    }
    if not settings.cluster_matcher.strip():
        parts[Part.CLUSTERS] = build.clusters()
    # `or` drops what has the same labels on its left side; the part label keeps the pieces apart.
    return "\nor\n".join(
        f'label_replace({expression}, "{PART}", "{part}", "", "")' for part, expression in parts.items()
    )


def activity_history(settings: PrometheusSettings, *, step: timedelta, profile: MetricProfile = DCGM) -> str:
    """Return the range query for the mean per pod over its devices; a device's untrustworthy instants are left out.

    Untrustworthy is a newest sample older than `stale_after`, or an energy counter that stood still. *step* is the distance
    of the points asked for; a coarse one lets the inner samples be coarser, too.
    """
    build = _Expressions(settings=settings, profile=profile)
    inner_step = max(settings.step, min(step, settings.window) / 4)
    fresh = f"(time() - {build.sampled()}) <= {_seconds(settings.stale_after)}"
    device = f"{profile.device}, {profile.device_slice}"
    return (
        f"avg by ({NAMESPACE}, {POD}) (\n{build.mean(step=inner_step)}\n"
        f"and on ({NAMESPACE}, {POD}, {device}) ({fresh})\n"
        f"unless on ({device}) ({build.alive()} == 0)\n)"
    )


def workload_history(
    settings: PrometheusSettings, pods: WorkloadPods, *, step: timedelta, profile: MetricProfile = DCGM
) -> str:
    """Return the range query for one workload's past, its burst twin included.

    `mean` per pod: fraction busy over its devices and the window; a frozen device has no part in it. `ready` per pod: 1 or 0, as
    kube-state-metrics said. `asked`: what its Deployments were set to. `clusters`: how many values the label `cluster` has among
    its pods, only where no cluster matcher is set. A part that nothing recorded has no series.

    Only series of these pods are selected, by name, so that a year of a large cluster stays cheap to read.
    """
    build = _Expressions(settings=settings, profile=profile)
    parts = {
        HistoryPart.MEAN: build.mean_of_pods(pods, step=max(settings.step, min(step, settings.window) / 4)),
        HistoryPart.READY: build.ready(pods),
        HistoryPart.ASKED: build.asked(pods),
    }
    if not settings.cluster_matcher.strip():
        parts[HistoryPart.CLUSTERS] = build.clusters(build.named(pods))
    return "\nor\n".join(
        f'label_replace({expression}, "{PART}", "{part}", "", "")' for part, expression in parts.items()
    )


class _Expressions:
    """Builds the parts for one profile, with the cluster matcher in every selector."""

    def __init__(self, *, settings: PrometheusSettings, profile: MetricProfile) -> None:
        self._settings = settings
        self._profile = profile
        self._by_device = f"max by ({profile.device}, {profile.device_slice})"
        self._by_pod = f"max by ({NAMESPACE}, {POD}, {profile.device}, {profile.device_slice})"

    def mean(self, *, step: timedelta) -> str:
        """Per pod and device, so that a second exporter or Prometheus replica cannot count a device twice."""
        activity = _first_of(self._fraction(metric) for metric in self._profile.activity)
        window = f"{_duration(self._settings.window)}:{_duration(step)}"
        return f"{self._by_pod} ({self._with_pod(f'avg_over_time({activity}[{window}])')})"

    def sampled(self) -> str:
        """The newest sample now, else the newest one before a failed scrape cut the series off.

        Without the second look one failed scrape would make a device unknown at once, and with many exporters some
        scrape always fails.
        """
        selectors = [self._activity(metric) for metric in self._profile.activity]
        step = min(_AGE_STEP, self._settings.step)
        window = f"{_duration(self._settings.stale_after + step)}:{_duration(step)}"
        now = [f"timestamp({selector})" for selector in selectors]
        before = [f"max_over_time(timestamp({selector})[{window}])" for selector in selectors]
        return f"{self._by_pod} ({self._with_pod(_first_of(now + before))})"

    def alive(self) -> str:
        """By device and not by series: a new pod on an old device has a new series, but the same counter."""
        window = _duration(self._settings.frozen_window)
        energy_now = self._energy("")
        energy_then = self._energy(f" offset {window}")
        changes = _first_of(f"changes({self._select(name)}[{window}])" for name in self._profile.power)
        # Power of an idle device can be truly constant, so only its movement says anything.
        power_moved = f"({self._by_device} ({changes}) > bool 0) == 1"
        return f"(({energy_now} != bool {energy_then}) or ({power_moved}))"

    def disagrees(self) -> str:
        """Whole GPUs only: on MIG slices the kernel-time gauges are void and read a constant 0.

        One raw sample out of range hides the device's peak, and with it the contradiction, until it leaves the window. That
        is cheaper by far than looking at each sample, and `rejected` has seen it by then.
        """
        gauges = self._profile.activity
        kernel = self._peak(metric for metric in gauges if metric.kernel_time)
        profiler = self._peak(metric for metric in gauges if not metric.kernel_time)
        return (
            f"(({kernel} > {BUSY_FRACTION} and {profiler} < {SILENT_PROFILER_FRACTION})"
            f" or ({profiler} > {BUSY_FRACTION} and {kernel} <= {IDLE_KERNEL_FRACTION})"
            f" or {self._rescaled()})"
        )

    def rejected(self) -> str:
        """Devices whose newest raw value has no believable meaning; NaN is no number that any range holds."""
        illegal = _first_of(
            f"({self._activity(metric)} unless ({_believable(metric, self._activity(metric))}))"
            for metric in self._profile.activity
        )
        return f"{self._by_pod} ({self._with_pod(illegal)})"

    def unattributed(self) -> str:
        """Devices that name no pod but at most their exporter's.

        Prometheus puts the exporter's own pod on a series that has none. That is told from a workload's pod by the
        target's `up`, which carries the same job, instance and pod.
        """
        plain, exported = self._profile.pod_labels[0], self._profile.pod_labels[-1]
        target = f"job, instance, {plain.namespace}, {plain.pod}"
        own = f'{exported.pod}=""'
        anonymous = [
            f"({self._activity(metric, own)} and on ({target}) {self._select('up')})"
            for metric in self._profile.activity
        ]
        nameless = [self._activity(metric, f'{own}, {plain.pod}=""') for metric in self._profile.activity]
        device = f"{self._profile.device}, {self._profile.device_slice}"
        return f"count(count by ({device}) ({_first_of(anonymous + nameless)}))"

    def clusters(self, among: Iterable[tuple[str, ...]] = ((),)) -> str:
        """Equal pod names of two clusters would merge, so more than one value must be refused."""
        selectors = (
            self._activity(metric, 'cluster!=""', *matchers)
            for matchers in among
            for metric in self._profile.activity
        )
        return f"count(count by (cluster) ({_first_of(selectors)}))"

    def named(self, pods: WorkloadPods) -> list[tuple[str, ...]]:
        """Matchers on the pod's name, one set for each way of scraping; where several labels hold a pod, the last one counts."""
        return self._matchers(pods.namespace, POD, pods.pattern())

    def mean_of_pods(self, pods: WorkloadPods, *, step: timedelta) -> str:
        """Per pod, over its devices that were alive."""
        fractions = (
            self._fraction(metric, *matchers)
            for metric in self._profile.activity
            for matchers in self.named(pods)
        )
        window = f"{_duration(self._settings.window)}:{_duration(step)}"
        means = f"{self._by_pod} ({self._with_pod(f'avg_over_time({_first_of(fractions)}[{window}])')})"
        device = f"{self._profile.device}, {self._profile.device_slice}"
        return f"avg by ({NAMESPACE}, {POD}) ({means} unless on ({device}) ({self.alive()} == 0))"

    def ready(self, pods: WorkloadPods) -> str:
        """Per pod, the kinder of two answers where kube-state-metrics runs twice."""
        selectors = (
            self._select("kube_pod_status_ready", 'condition="true"', *matchers)
            for matchers in self.named(pods)
        )
        return f"max by ({NAMESPACE}, {POD}) ({self._with_pod(_first_of(selectors))})"

    def asked(self, pods: WorkloadPods) -> str:
        """Both Deployments together; the twin's has no series while there is none."""
        found = self._matchers(pods.namespace, "deployment", pods.deployment_pattern())
        selectors = (self._select("kube_deployment_spec_replicas", *matchers) for matchers in found)
        return f"sum(max by (deployment) ({_first_of(selectors)}))"

    def _matchers(self, namespace: str, name: str, pattern: str) -> list[tuple[str, ...]]:
        """Matchers for each way of scraping on the namespace and on *name*, which is POD or a label of the exporter's own."""
        ways = self._profile.pod_labels
        return [
            (
                f"{way.namespace}={quote(namespace)}",
                f"{way.pod if name == POD else name}=~{quote(pattern)}",
                *(f'{later.namespace}=""' for later in ways[index + 1 :]),
            )
            for index, way in enumerate(ways)
        ]

    def _select(self, name: str, *matchers: str) -> str:
        inside = ", ".join(
            text for text in (self._settings.cluster_matcher.strip().rstrip(","), *matchers) if text
        )
        return f"{name}{{{inside}}}"

    def _activity(self, metric: ActivityMetric, *matchers: str, whole: bool = False) -> str:
        """A matcher on the empty value also takes series without the label: whole GPUs."""
        if whole or not metric.slices:
            matchers = (f'{self._profile.device_slice}=""', *matchers)
        return self._select(metric.name, *matchers)

    def _fraction(self, metric: ActivityMetric, *matchers: str) -> str:
        """Believable samples as a fraction in 0..1, without the metric's name."""
        believable = _believable(metric, self._activity(metric, *matchers))
        return f"clamp_max(({believable}) / {metric.divisor}, 1)"

    def _energy(self, offset: str) -> str:
        counters = _first_of(
            f"({self._select(name)}{offset} > 0 < {_ENERGY_LIMIT})" for name in self._profile.energy
        )
        return f"{self._by_device} ({counters})"

    def _peak(self, metrics: Iterable[ActivityMetric]) -> str:
        peaks = _first_of(
            f"(max_over_time({self._over_disagreement(metric)}) >= 0 <= {metric.highest:g}) / {metric.divisor}"
            for metric in metrics
        )
        return f"{self._by_device} ({peaks})"

    def _rescaled(self) -> str:
        """Devices with a fraction where only whole numbers can be: integers sum up to an integer."""
        fractions = _first_of(
            f"(sum_over_time({self._over_disagreement(metric)}) % 1 > 0)"
            for metric in self._profile.activity
            if metric.whole_numbers
        )
        return f"{self._by_device} ({fractions})"

    def _over_disagreement(self, metric: ActivityMetric) -> str:
        selector = self._activity(metric, whole=True)
        return f"{selector}[{_duration(self._settings.disagreement_window)}]"

    def _with_pod(self, expression: str) -> str:
        """Copy the pod's name from whichever labels hold it; the last ones applied win."""
        for labels in self._profile.pod_labels:
            for to, source in ((NAMESPACE, labels.namespace), (POD, labels.pod)):
                expression = f'label_replace({expression}, "{to}", "$1", "{source}", "(.+)")'
        return expression


def _believable(metric: ActivityMetric, raw: str) -> str:
    in_range = f"{raw} >= 0 <= {metric.highest:g}"
    return f"({in_range}) unless ({raw} % 1 > 0)" if metric.whole_numbers else in_range


def _first_of(expressions: Iterable[str]) -> str:
    """Join alternatives: of series with the same labels, the first expression's counts."""
    return f"({' or '.join(expressions)})"


def _duration(span: timedelta) -> str:
    return f"{round(span.total_seconds() * 1000)}ms"


def _seconds(span: timedelta) -> str:
    return f"{span.total_seconds():g}"
