"""What an exporter calls things: metric names, units and labels as data, so that no query hard-codes them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityMetric:
    """One utilization gauge. `highest` is its largest believable raw value; raw ÷ `divisor` is the fraction in 0..1.

    `whole_numbers` marks percent gauges that only ever carry integers: a fraction proves that something on the way
    rescaled the series without renaming it, so the sample has no known unit. `slices` says whether the gauge measures MIG
    slices; where it does not, only series of whole GPUs are read. `kernel_time` marks the gauges that say "some kernel was
    resident", as opposed to the profiling ones; the two kinds are held against each other.
    """

    name: str
    divisor: int
    highest: float
    whole_numbers: bool
    slices: bool
    kernel_time: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PodLabels:
    """The labels that name a device's pod in one way of scraping."""

    namespace: str
    pod: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricProfile:
    """Everything a query must know about one family of exporters.

    `activity` is in order of preference: where two gauges report the same device at the same instant, the first one counts.
    `energy` are counters that always rise on a live device, `power` gauges that nearly always move. `pod_labels` are in
    rising precedence. `device` and `device_slice` together name a physical device.
    """

    name: str
    activity: tuple[ActivityMetric, ...]
    energy: tuple[str, ...]
    power: tuple[str, ...]
    device: str
    device_slice: str
    pod_labels: tuple[PodLabels, ...]


def _percent(name: str) -> ActivityMetric:
    return ActivityMetric(
        name=name, divisor=100, highest=100, whole_numbers=True, slices=False, kernel_time=True
    )


def _ratio(name: str, *, slices: bool) -> ActivityMetric:
    # The profiler's averaging overshoots a little; 1.05 still reads as "full". A percent under a ratio's name is far above.
    return ActivityMetric(
        name=name, divisor=1, highest=1.05, whole_numbers=False, slices=slices, kernel_time=not slices
    )


# Both schemas at once: while an exporter DaemonSet rolls from 4.8 to 4.9, half the nodes speak each.
# The DEV gauges come first because the PROF ones are known to fall silent at 0 for weeks; DEV is void on MIG slices.
DCGM = MetricProfile(
    name="dcgm",
    activity=(
        _percent("DCGM_FI_DEV_GPU_UTIL"),
        _ratio("DCGM_FI_DEV_GPU_UTIL_RATIO", slices=False),
        _ratio("DCGM_FI_PROF_GR_ENGINE_ACTIVE", slices=True),
        _ratio("DCGM_FI_PROF_GR_ENGINE_UTIL_RATIO", slices=True),
    ),
    energy=("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "DCGM_FI_DEV_GPU_ENERGY_JOULES_TOTAL"),
    power=("DCGM_FI_DEV_POWER_USAGE", "DCGM_FI_DEV_BOARD_POWER_WATTS"),
    device="UUID",
    device_slice="GPU_I_ID",
    # With honorLabels false the workload is in exported_*, and plain pod names the exporter: so exported_* wins.
    pod_labels=(
        PodLabels(namespace="namespace", pod="pod"),
        PodLabels(namespace="exported_namespace", pod="exported_pod"),
    ),
)
