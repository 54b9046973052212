"""The pages that dcgm-exporter and vLLM serve, in Prometheus text format; metric names and units are data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Quantity = Literal["utilization", "engine_active", "framebuffer_used", "framebuffer_free", "power", "energy"]
IDLE_WATTS, BUSY_WATTS = 70.0, 700.0  # an H100 board
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRef:
    namespace: str
    name: str
    container: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one GPU measures, in base units: fractions, bytes, watts, joules.

    *raw* replaces what is written for a quantity, whatever its unit: a broken driver reports no number of ours.
    """

    node: str
    index: int
    model: str
    pod: PodRef | None
    quantities: Mapping[Quantity, float]
    raw: Mapping[Quantity, str] = field(default_factory=dict)

    @property
    def uuid(self) -> str:
        digest = hashlib.sha256(f"{self.node}/{self.index}".encode()).hexdigest()
        return f"GPU-{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    quantity: Quantity
    name: str
    kind: Literal["gauge", "counter"]
    write: Callable[[float], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """How one generation of dcgm-exporter writes things."""

    host_label: str
    driver_label: str
    driver: str
    metrics: tuple[Metric, ...]


def _whole(value: float) -> str:
    return str(round(value))


def _decimal(value: float) -> str:
    return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.3f}"


# Up to 4.8: percent as an integer, MiB, millijoules. GR_ENGINE_ACTIVE is a fraction in both.
OLD = Schema(
    host_label="Hostname",
    driver_label="DCGM_FI_DRIVER_VERSION",
    driver="570.00",
    metrics=(
        Metric(
            quantity="utilization", name="DCGM_FI_DEV_GPU_UTIL", kind="gauge", write=lambda v: _whole(v * 100)
        ),
        Metric(quantity="engine_active", name="DCGM_FI_PROF_GR_ENGINE_ACTIVE", kind="gauge", write=_decimal),
        Metric(
            quantity="framebuffer_used",
            name="DCGM_FI_DEV_FB_USED",
            kind="gauge",
            write=lambda v: _whole(v / MIB),
        ),
        Metric(
            quantity="framebuffer_free",
            name="DCGM_FI_DEV_FB_FREE",
            kind="gauge",
            write=lambda v: _whole(v / MIB),
        ),
        Metric(quantity="power", name="DCGM_FI_DEV_POWER_USAGE", kind="gauge", write=_decimal),
        Metric(
            quantity="energy",
            name="DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
            kind="counter",
            write=lambda v: _whole(v * 1000),
        ),
    ),
)
# From 4.9: ratios and base units.
NEW = Schema(
    host_label="hostname",
    driver_label="DCGM_FI_SYSTEM_DRIVER_VERSION",
    driver="590.00",
    metrics=(
        Metric(quantity="utilization", name="DCGM_FI_DEV_GPU_UTIL_RATIO", kind="gauge", write=_decimal),
        Metric(
            quantity="engine_active", name="DCGM_FI_PROF_GR_ENGINE_UTIL_RATIO", kind="gauge", write=_decimal
        ),
        Metric(quantity="framebuffer_used", name="DCGM_FI_DEV_FB_USED_BYTES", kind="gauge", write=_whole),
        Metric(quantity="framebuffer_free", name="DCGM_FI_DEV_FB_FREE_BYTES", kind="gauge", write=_whole),
        Metric(quantity="power", name="DCGM_FI_DEV_BOARD_POWER_WATTS", kind="gauge", write=_decimal),
        Metric(quantity="energy", name="DCGM_FI_DEV_GPU_ENERGY_JOULES_TOTAL", kind="counter", write=_decimal),
    ),
)


def dcgm_page(readings: Iterable[Reading], schema_of: Callable[[str], Schema]) -> str:
    """Return the page of all *readings*; *schema_of* names the schema that a node's exporter speaks."""
    lines: dict[str, list[str]] = {}
    for reading in readings:
        schema = schema_of(reading.node)
        labels = _labels(reading, schema)
        for metric in schema.metrics:
            series = lines.setdefault(metric.name, [f"# TYPE {metric.name} {metric.kind}"])
            value = reading.raw.get(metric.quantity) or metric.write(reading.quantities[metric.quantity])
            series.append(f"{metric.name}{labels} {value}")
    return "".join("\n".join(series) + "\n" for series in lines.values())


def _labels(reading: Reading, schema: Schema) -> str:
    pairs = {
        "gpu": str(reading.index),
        "UUID": reading.uuid,
        "pci_bus_id": f"00000000:{16 + reading.index:02X}:00.0",
        "device": f"nvidia{reading.index}",
        "modelName": reading.model.replace("-", " "),
        schema.host_label: reading.node,
        schema.driver_label: schema.driver,
    }
    if reading.pod is not None:
        pairs |= {
            "container": reading.pod.container,
            "namespace": reading.pod.namespace,
            "pod": reading.pod.name,
        }
    return _braces(pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReading:
    """What one pod of an inference engine says about its queue."""

    pod: PodRef
    model: str
    running: float
    waiting: float
    kv_cache_fraction: float


def vllm_page(readings: Iterable[EngineReading]) -> str:
    """Return vLLM's queue series, labelled by pod as a PodMonitor's relabelling leaves them."""
    rows = list(readings)
    columns: tuple[tuple[str, Callable[[EngineReading], float]], ...] = (
        ("vllm:num_requests_running", lambda r: r.running),
        ("vllm:num_requests_waiting", lambda r: r.waiting),
        ("vllm:kv_cache_usage_perc", lambda r: r.kv_cache_fraction),  # a fraction, despite its name
    )
    lines = []
    for name, value_of in columns:
        lines.append(f"# TYPE {name} gauge")
        for row in rows:
            labels = {
                "namespace": row.pod.namespace,
                "pod": row.pod.name,
                "model_name": row.model,
                "engine": "0",
            }
            lines.append(f"{name}{_braces(labels)} {_decimal(value_of(row))}")
    return "\n".join(lines) + "\n"


def _braces(pairs: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{key}="{value}"' for key, value in pairs.items()) + "}"
