"""The page that Prometheus reads."""

from datetime import timedelta

import pytest
from prometheus_client import generate_latest
from tests.builders import NOW, make_deployment, make_snapshot, make_workload, not_collected

from spillway.api.convert import Converted, CostLabels
from spillway.app.metrics import Metrics
from spillway.core import engine
from spillway.core.memory import Memory
from spillway.core.model import Snapshot

TICK = timedelta(seconds=15)


def observe(metrics: Metrics, snapshot: Snapshot, *, after: float = 0) -> None:
    now = NOW + timedelta(seconds=after)
    converted = {
        workload.key: Converted(
            workload=workload,
            generation=1,
            provenance=(),
            cost=CostLabels(model="llama", application="chat", team="red"),
            policy=None,
            policy_conflicts=(),
        )
        for workload in snapshot.workloads
    }
    metrics.workloads.observe(engine.decide(snapshot, Memory(), now).decisions, converted, now=now)


def page(metrics: Metrics) -> dict[str, float]:
    lines = generate_latest(metrics.registry).decode().splitlines()
    return {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if "#" not in line)
    }


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(tick=TICK)


COST = '{application="chat",model="llama",namespace="chat",team="red",workload="llm"}'
KEY = '{namespace="chat",workload="llm"}'


def test_ready_replicas_are_charged_for_the_time_they_stood(metrics: Metrics) -> None:
    observe(metrics, make_snapshot())
    observe(metrics, make_snapshot(), after=15)

    assert page(metrics)[f"spillway_workload_replica_seconds_total{COST}"] == 60


def test_gpu_seconds_count_every_gpu_of_a_replica(metrics: Metrics) -> None:
    snapshot = make_snapshot(deployment=make_deployment(gpus_per_pod=8))
    observe(metrics, snapshot)
    observe(metrics, snapshot, after=15)

    assert page(metrics)[f"spillway_workload_gpu_seconds_total{COST}"] == 4 * 8 * 15


@pytest.mark.case("metrics-and-cost E61")
def test_a_long_gap_is_charged_for_three_ticks_at_most(metrics: Metrics) -> None:
    observe(metrics, make_snapshot())
    observe(metrics, make_snapshot(), after=3600)

    assert page(metrics)[f"spillway_workload_replica_seconds_total{COST}"] == 4 * 45


@pytest.mark.case("metrics-and-cost E86")
def test_series_of_a_deleted_workload_are_gone(metrics: Metrics) -> None:
    observe(metrics, make_snapshot())
    observe(metrics, make_snapshot(()), after=15)

    assert not [name for name in page(metrics) if 'workload="llm"' in name]


def test_an_unknown_utilization_has_no_series(metrics: Metrics) -> None:
    observe(metrics, make_snapshot(activity=not_collected()))

    assert f"spillway_workload_gpu_utilization_ratio{KEY}" not in page(metrics)


def test_a_held_count_names_what_holds_it(metrics: Metrics) -> None:
    observe(metrics, make_snapshot(make_workload(paused=True)))

    blocked = 'spillway_workload_scale_blocked{namespace="chat",reason="Paused",workload="llm"}'
    assert page(metrics)[blocked] == 1


def test_a_standby_shows_no_workloads(metrics: Metrics) -> None:
    observe(metrics, make_snapshot())
    metrics.workloads.forget()

    assert not [name for name in page(metrics) if 'workload="llm"' in name]
