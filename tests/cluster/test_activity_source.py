"""GPU activity read from a real Prometheus that scrapes the stand-in exporter, in health and in every fault."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import certifi
import pytest

from spillway.adapters.prometheus import ActivitySource, PrometheusSettings
from spillway.core.signal import Collected, DeviceSample, Liveness, NotCollected, SignalReason
from tests.cluster.controlplane import ControlPlane
from tests.cluster.exporter import Exporter, Fault, SchemaName
from tests.cluster.faults import FaultProxy
from tests.cluster.prometheus import Prometheus

NAMESPACE = "activity"
NODES = ("activity-a", "activity-b")
# Prometheus scrapes every second here, so windows are seconds where they are minutes in a cluster.
STALE_AFTER = timedelta(seconds=4)


@pytest.fixture(scope="module")
def workload(cluster: ControlPlane, exporter: Exporter) -> Iterator[str]:
    """The namespace of two replicas, on a node each, with 1.5 replicas' worth of work."""
    for name in NODES:
        cluster.make_gpu_node(name, gpus=1, labels={"activity": "true"})
    cluster.make_namespace(NAMESPACE)
    cluster.make_deployment(NAMESPACE, "llm", replicas=2, pod_spec={"nodeSelector": {"activity": "true"}})
    cluster.wait_ready_replicas(NAMESPACE, "llm", 2)
    exporter.set_demand(NAMESPACE, "llm", 1.5)
    yield NAMESPACE
    exporter.forget(NAMESPACE)
    cluster.client.delete(f"/api/v1/namespaces/{NAMESPACE}")
    for name in NODES:
        cluster.delete_node(name)


@pytest.fixture
def busy(workload: str, exporter: Exporter) -> Iterator[str]:
    """The workload's namespace; faults end with the test."""
    yield workload
    exporter.set_fault(None)
    exporter.set_fault(None, workload)


@pytest.fixture
async def source(prometheus: Prometheus) -> AsyncIterator[ActivitySource]:
    source = ActivitySource(
        PrometheusSettings(
            url=prometheus.url,
            timeout=timedelta(seconds=3),
            window=timedelta(seconds=2),
            step=timedelta(seconds=1),
            frozen_window=timedelta(seconds=3),
            disagreement_window=timedelta(seconds=4),
            stale_after=STALE_AFTER,
        )
    )
    yield source
    await source.close()


def copy(source: Path, to: Path) -> None:
    shutil.copyfile(source, to)


Points = tuple[tuple[datetime, float], ...]
Check = Callable[[Collected], bool]


async def until(source: ActivitySource, check: Check, seconds: float = 20) -> Collected:
    """Collect until *check* holds, and return that answer; fail with the last one."""
    answer: object = None
    for _ in range(int(seconds / 0.2)):
        answer = await source.collect()
        if isinstance(answer, Collected) and check(answer):
            return answer
        await asyncio.sleep(0.2)
    raise AssertionError(f"not seen within {seconds} s; the last answer was {answer}")


def devices(answer: Collected, namespace: str) -> list[DeviceSample]:
    return [device for pod, samples in answer.pods.items() if pod[0] == namespace for device in samples]


def all_devices(namespace: str, check: Callable[[DeviceSample], bool]) -> Check:
    return lambda answer: (
        len(devices(answer, namespace)) == 2 and all(check(device) for device in devices(answer, namespace))
    )


def reads(mean: float) -> Callable[[DeviceSample], bool]:
    return lambda device: device.mean is not None and abs(device.mean - mean) < 0.02


def is_fine(device: DeviceSample) -> bool:
    return reads(0.75)(device) and device.liveness is Liveness.RISING and not device.disagrees


@pytest.fixture
async def settled(busy: str, source: ActivitySource) -> str:
    """The namespace, once every device is seen in good health."""
    await until(source, all_devices(busy, is_fine))
    return busy


@pytest.fixture
def fault(exporter: Exporter, settled: str) -> Callable[[Fault], None]:
    return lambda kind: exporter.set_fault(kind, settled)


@pytest.mark.parametrize("schema", ["old", "new", "mixed"])
@pytest.mark.case("metrics-and-cost E3")
@pytest.mark.case("workload-autoscalers D4")
async def test_every_schema_gives_the_same_utilization(
    busy: str, exporter: Exporter, source: ActivitySource, schema: SchemaName
) -> None:
    before, exporter.schema = exporter.schema, schema
    try:
        answer = await until(source, all_devices(busy, is_fine))
    finally:
        exporter.schema = before

    assert answer.rejected == {}


@pytest.mark.case("metrics-and-cost E9")
@pytest.mark.case("metrics-and-cost E10")
@pytest.mark.case("workload-autoscalers D10")
async def test_honoured_labels_give_the_same_pods(
    settled: str, cluster: ControlPlane, exporter: Exporter, prometheus: Prometheus, source: ActivitySource
) -> None:
    prometheus.set_targets((exporter.target(honor_labels=True), exporter.engine_target()))
    try:
        prometheus.wait_scraped()
        answer = await until(source, all_devices(settled, is_fine))
    finally:
        prometheus.set_targets((exporter.target(), exporter.engine_target()))

    found = {pod for pod in answer.pods if pod[0] == settled}
    assert found == {(settled, pod["metadata"]["name"]) for pod in cluster.pods(settled)}


async def test_a_sample_is_as_old_as_its_scrape(settled: str, source: ActivitySource) -> None:
    answer = await until(source, all_devices(settled, is_fine))

    ages = [answer.at - d.sampled_at for d in devices(answer, settled) if d.sampled_at]
    assert len(ages) == 2
    assert all(timedelta(0) <= age < timedelta(seconds=3) for age in ages)


@pytest.mark.case("workload-autoscalers D8")
@pytest.mark.case("metrics-and-cost E37")
async def test_a_frozen_exporter_is_told_from_a_busy_one(
    settled: str, fault: Callable[[Fault], None], source: ActivitySource
) -> None:
    fault(Fault.FREEZE)

    await until(source, all_devices(settled, lambda d: reads(0.75)(d) and d.liveness is Liveness.FLAT))


@pytest.mark.case("metrics-and-cost E38")
@pytest.mark.case("workload-autoscalers D2")
async def test_series_that_vanish_age_and_are_then_unknown(
    settled: str, fault: Callable[[Fault], None], source: ActivitySource
) -> None:
    fault(Fault.VANISH)

    await until(source, all_devices(settled, lambda d: d.mean is None and d.sampled_at is not None))
    await until(source, lambda answer: devices(answer, settled) == [])


@pytest.mark.case("metrics-and-cost E42")
async def test_an_exporter_that_is_down_ages_and_is_then_unknown(
    settled: str, exporter: Exporter, source: ActivitySource
) -> None:
    exporter.fault = Fault.DOWN

    await until(source, all_devices(settled, lambda d: d.mean is None and d.sampled_at is not None))
    await until(source, lambda answer: devices(answer, settled) == [])


async def test_zeros_on_live_devices_are_zeros(
    settled: str, fault: Callable[[Fault], None], source: ActivitySource
) -> None:
    fault(Fault.ZEROS)

    await until(source, all_devices(settled, lambda d: d.mean == 0 and d.liveness is Liveness.RISING))


@pytest.mark.case("workload-autoscalers D7")
@pytest.mark.case("metrics-and-cost E35")
async def test_a_silent_profiler_makes_devices_suspect(
    settled: str, fault: Callable[[Fault], None], source: ActivitySource
) -> None:
    fault(Fault.PROF_ZERO)

    await until(source, all_devices(settled, lambda d: reads(0.75)(d) and d.disagrees))


@pytest.mark.case("workload-autoscalers D3")
@pytest.mark.case("metrics-and-cost E30")
@pytest.mark.parametrize("kind", [Fault.SENTINEL, Fault.NAN])
async def test_values_out_of_range_are_rejected_and_never_averaged(
    settled: str, fault: Callable[[Fault], None], source: ActivitySource, kind: Fault
) -> None:
    fault(kind)

    answer = await until(source, all_devices(settled, lambda d: d.mean is None))

    assert sum(count for pod, count in answer.rejected.items() if pod[0] == settled) == 2


@pytest.mark.case("workload-autoscalers D11")
async def test_devices_that_lose_their_pod_label_are_counted_as_unattributed(
    settled: str, fault: Callable[[Fault], None], source: ActivitySource
) -> None:
    before = await until(source, all_devices(settled, is_fine))

    fault(Fault.MISSING_POD_LABEL)

    await until(
        source,
        lambda answer: devices(answer, settled) == [] and answer.unattributed >= before.unattributed + 2,
    )


@pytest.mark.case("metrics-and-cost E41")
async def test_half_the_pods_missing_leaves_the_other_half(
    settled: str, fault: Callable[[Fault], None], source: ActivitySource
) -> None:
    fault(Fault.HALF_MISSING)

    answer = await until(source, lambda answer: len(devices(answer, settled)) == 1)

    assert reads(0.75)(devices(answer, settled)[0])


@pytest.mark.case("workload-autoscalers D1")
async def test_a_prometheus_that_hangs_is_a_timeout_and_heals(
    settled: str, prometheus: Prometheus, source: ActivitySource
) -> None:
    prometheus.pause()
    try:
        answer = await source.collect()
    finally:
        prometheus.resume()

    assert isinstance(answer, NotCollected)
    assert answer.reason is SignalReason.PROMETHEUS_TIMEOUT
    await until(source, all_devices(settled, is_fine))


@pytest.mark.case("workload-autoscalers D1")
async def test_a_prometheus_that_is_down_is_unreachable_and_heals(
    settled: str, prometheus: Prometheus, source: ActivitySource
) -> None:
    prometheus.stop()
    try:
        answer = await source.collect()
    finally:
        prometheus.start()

    assert isinstance(answer, NotCollected)
    assert answer.reason is SignalReason.PROMETHEUS_UNREACHABLE
    await until(source, all_devices(settled, is_fine), seconds=30)


@pytest.mark.case("workload-autoscalers D19")
async def test_a_rotated_ca_is_trusted_without_a_restart(
    settled: str, cluster: ControlPlane, prometheus: Prometheus, tmp_path: Path
) -> None:
    ca_file = tmp_path / "ca.crt"
    copy(Path(certifi.where()), ca_file)
    with FaultProxy(prometheus.url, cert_file=cluster.cert_file, key_file=cluster.key_file) as proxy:
        source = ActivitySource(PrometheusSettings(url=proxy.url, ca_file=ca_file))
        before = await source.collect()
        copy(cluster.ca_file, ca_file)
        after = await source.collect()
        await source.close()

    assert isinstance(before, NotCollected)
    assert before.reason is SignalReason.PROMETHEUS_UNREACHABLE
    assert "certificate verify failed" in before.message
    assert "prometheus.caFile" in before.message
    assert isinstance(after, Collected)


async def test_history_replays_what_was_seen(settled: str, source: ActivitySource) -> None:
    points = await replayed(source, settled, count=4)

    for of_pod in points:
        times = [at for at, _ in of_pod]
        assert [(b - a).total_seconds() for a, b in pairwise(times)] == [1, 1, 1]
        assert all(abs(mean - 0.75) < 0.02 for _, mean in of_pod)


async def replayed(source: ActivitySource, namespace: str, *, count: int) -> list[Points]:
    """Return the points of both pods once each has *count* of them: recording them takes time."""
    points: list[Points] = []
    for _ in range(100):
        history = await source.history(window=timedelta(seconds=count - 1), step=timedelta(seconds=1))
        assert not isinstance(history, NotCollected)
        points = [of_pod for pod, of_pod in history.items() if pod[0] == namespace]
        if [len(of_pod) for of_pod in points] == [count, count]:
            return points
        await asyncio.sleep(0.2)
    raise AssertionError(f"no whole history; the last one was {points}")
