"""How long after the sample that completes the up window are the replicas patched?

Every run is one workload on its own: its demand steps from 0.3 to 0.9 of its single replica, which asks for a second one. The
operator is the real process with the chart's token, the API server and Prometheus are real. The runs of a scenario step one after
another, a golden section of the evaluation apart, so that they meet its beat at every phase.

Four moments are taken, none of them from the operator:

- *step*: our own clock, when the demand is set.
- *first sample*: the timestamp, in Prometheus, of the newest scrape behind the first instant at which the mean that the operator
  asks for (its own query, replayed afterwards) stands above the high mark.
- *completing sample*: the first scrape at or after first sample + the up window. That window is `scaleUp.windowSeconds`, and never
  less than one evaluation, since two collections an evaluation apart must both be high. This is the moment at which whoever
  looks at Prometheus knows all that the rule asks for; the operator looks once in an evaluation, hence the aim of one evaluation
  and a second.
- *patched*: when the API server had carried out the PATCH of `deployments/scale`, from its audit log.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from spillway.adapters.prometheus.queries import Part, gpu_activity
from spillway.adapters.prometheus.settings import PrometheusSettings
from tests.bench import figures
from tests.bench.bed import ASK_SECONDS, Bed, RunningOperator, laid_out, run, running_operator

NAME = "bench_reaction"
HIGH = 0.8
QUIET_DEMAND, BUSY_DEMAND = 0.3, 0.9
GOLDEN = 0.618  # of an evaluation between two steps: the phases of any number of runs lie evenly
LEAD_SECONDS = 5  # the mean was low for so long before the first step, or the measurement means nothing
SLACK_SECONDS = 1.0  # the aim is one evaluation and this
GPUS_PER_NODE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One row of the table: what the operator and the workloads are told."""

    name: str
    title: str
    runs: int
    evaluation_seconds: int
    up_window_seconds: int
    signal_window_seconds: int
    settle_seconds: int

    @property
    def window_seconds(self) -> int:
        """Return how long samples must be high before two collections can have seen it."""
        return max(self.up_window_seconds, self.evaluation_seconds)

    @property
    def step_seconds(self) -> int:
        """Return how finely the operator samples its mean: a sixth of it, as `app.wiring` does."""
        return max(1, self.signal_window_seconds // 6)

    @property
    def spec(self) -> dict[str, Any]:
        return {
            "maxReplicas": 4,
            "scaleUp": {"windowSeconds": self.up_window_seconds},
            "readiness": {"settleSeconds": self.settle_seconds},
        }

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "evaluationSeconds": self.evaluation_seconds,
            "signalWindowSeconds": self.signal_window_seconds,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Reaction:
    """The four moments of one run, as Unix times."""

    step: float
    first_sample: float
    completing_sample: float
    patched: float


def scenarios(*, runs: int, slow_runs: int) -> tuple[Scenario, ...]:
    return (
        Scenario(
            name="quick",
            title="evaluation 2 s, windows 1 s",
            runs=runs,
            evaluation_seconds=2,
            up_window_seconds=1,
            signal_window_seconds=1,
            settle_seconds=1,
        ),
        Scenario(
            name="slow",
            title="evaluation 15 s, windows 1 s",
            runs=slow_runs,
            evaluation_seconds=15,
            up_window_seconds=1,
            signal_window_seconds=1,
            settle_seconds=1,
        ),
        Scenario(
            name="shipped",
            title="as shipped: 15 s, up 30 s, mean 60 s",
            runs=slow_runs,
            evaluation_seconds=15,
            up_window_seconds=30,
            signal_window_seconds=60,
            settle_seconds=60,
        ),
    )


def bench(*, runs: int, slow_runs: int) -> None:
    played = scenarios(runs=runs, slow_runs=slow_runs)
    pods = 2 * sum(scenario.runs for scenario in played)
    with laid_out(nodes=math.ceil(pods / GPUS_PER_NODE), gpus_per_node=GPUS_PER_NODE) as bed:
        found = {scenario: _play(bed, scenario) for scenario in played}
    figures.show(
        NAME,
        title="Reaction: completing sample in Prometheus → replicas patched (seconds)",
        header=("scenario", "runs", "step p50", "first p50", "p50", "p99", "aim", "met"),
        rows=[_row(scenario, reactions) for scenario, reactions in found.items()],
        notes=(
            "step, first: from the demand step, and from the first sample that lifts the mean over the mark.",
            "p50, p99: from the sample that completes the up window (at least one evaluation: two collections).",
            "aim: one evaluation + 1 s, for p99 (of so few runs: the slowest). Scrape interval 1 s.",
        ),
        details={"runs": {scenario.name: _details(reactions) for scenario, reactions in found.items()}},
    )


def _play(bed: Bed, scenario: Scenario) -> list[Reaction]:
    """Step every workload of *scenario* once and return what happened."""
    print(f"{scenario.title}: {scenario.runs} runs …", flush=True)
    namespace = f"bench-{scenario.name}"
    bed.cluster.make_namespace(namespace)
    names = [f"run-{number}" for number in range(scenario.runs)]
    for name in names:
        bed.exporter.set_demand(namespace, name, QUIET_DEMAND)
        bed.make_workload(namespace, name, pods=1, spec=scenario.spec)
    for name in names:
        bed.cluster.wait_ready_replicas(namespace, name, 1, seconds=60)
    with running_operator(bed, namespace, settings=scenario.settings) as operator:
        _wait_settled(bed, scenario, namespace)
        began = time.time() - LEAD_SECONDS
        steps = _step_each(bed, scenario, namespace=namespace, names=names)
        patched = _wait_patched(bed, scenario, operator, names=names)
    scrapes = _scrapes(bed, since=began)
    above = _first_above(bed, scenario, namespace=namespace, names=names, start=began)
    bed.cluster.client.delete(f"/api/v1/namespaces/{namespace}")
    return [
        _reaction(scenario, step=steps[name], above=above[name], patched=patched[name], scrapes=scrapes)
        for name in names
    ]


def _wait_settled(bed: Bed, scenario: Scenario, namespace: str) -> None:
    """Wait until every workload is decided on fresh metrics; its pods were quiet for the whole mean by then."""
    path = f"/apis/spillway.dev/v1alpha1/namespaces/{namespace}/gpuworkloads"

    def fresh() -> bool:
        found = bed.cluster.client.get(path)["items"]
        return all(item.get("status", {}).get("state") == "Fresh" for item in found)

    seconds = scenario.settle_seconds + 4 * scenario.evaluation_seconds + 30
    bed.cluster.wait_for(fresh, seconds, f"the metrics of all workloads in {namespace} are fresh")
    time.sleep(LEAD_SECONDS)


def _step_each(bed: Bed, scenario: Scenario, *, namespace: str, names: Sequence[str]) -> Mapping[str, float]:
    """Raise the demands one after another and return when each one rose."""
    steps: dict[str, float] = {}
    pause = scenario.evaluation_seconds * GOLDEN
    start = time.monotonic()
    for number, name in enumerate(names):
        time.sleep(max(0.0, start + number * pause - time.monotonic()))
        steps[name] = time.time()
        bed.exporter.set_demand(namespace, name, BUSY_DEMAND)
    return steps


def _wait_patched(
    bed: Bed, scenario: Scenario, operator: RunningOperator, *, names: Sequence[str]
) -> Mapping[str, float]:
    """Return by workload when the API server had carried out the first write of its replicas."""

    def all_patched() -> Mapping[str, float] | None:
        found: dict[str, float] = {}
        for event in bed.cluster.audit_events(user=operator.account, verbs=("patch",)):
            target = event["objectRef"]
            if target.get("subresource") == "scale" and event["responseStatus"]["code"] == 200:
                found.setdefault(target["name"], datetime.fromisoformat(event["stageTimestamp"]).timestamp())
        return found if found.keys() == set(names) else None

    seconds = scenario.signal_window_seconds + scenario.up_window_seconds + 4 * scenario.evaluation_seconds
    return bed.cluster.wait_for(all_patched, seconds + 10, f"all {len(names)} workloads are scaled up")


def _scrapes(bed: Bed, *, since: float) -> Sequence[float]:
    """Return when Prometheus scraped the exporter, oldest first: the timestamps of all its samples."""
    span = math.ceil(time.time() - since) + 1
    (series,) = _ask(bed, "query", query=f'up{{job="dcgm"}}[{span}s]')
    return [float(at) for at, _ in series["values"]]


def _first_above(
    bed: Bed, scenario: Scenario, *, namespace: str, names: Sequence[str], start: float
) -> Mapping[str, float]:
    """Return by workload the first instant at which the operator's own query answers a mean above the mark.

    A mean over a subquery changes only at whole multiples of its step, so whole seconds miss none of them.
    """
    settings = PrometheusSettings(
        url=bed.prometheus.url,
        window=timedelta(seconds=scenario.signal_window_seconds),
        step=timedelta(seconds=scenario.step_seconds),
    )
    answer = _ask(
        bed,
        "query_range",
        query=gpu_activity(settings),
        start=math.floor(start),
        end=math.floor(time.time()),
        step=1,
    )
    first: dict[str, float] = {}
    for series in answer:
        labels = series["metric"]
        if labels["part"] != Part.MEAN or labels["wl_namespace"] != namespace:
            continue
        name = labels["wl_pod"].rsplit("-", 2)[0]
        moments = [float(at) for at, value in series["values"] if float(value) > HIGH]
        first[name] = min([*moments, first.get(name, math.inf)])
    assert all(first.get(name, math.inf) > start + 1 for name in names), "a workload was busy before its step"
    return first


def _ask(bed: Bed, endpoint: str, **params: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - query values
    reply = bed.session.post(
        f"{bed.prometheus.url}/api/v1/{endpoint}", data=params, timeout=3 * ASK_SECONDS
    ).json()
    assert reply["status"] == "success", reply
    result: list[dict[str, Any]] = reply["data"]["result"]
    return result


def _reaction(
    scenario: Scenario, *, step: float, above: float, patched: float, scrapes: Sequence[float]
) -> Reaction:
    # Scraped at 10.7 s, seen by the mean from 11 s on: the sample is the one of 10.7 s.
    aligned = math.floor(above / scenario.step_seconds) * scenario.step_seconds
    first = max(at for at in scrapes if at <= aligned)
    completing = min(at for at in scrapes if at >= first + scenario.window_seconds)
    return Reaction(step=step, first_sample=first, completing_sample=completing, patched=patched)


def _row(scenario: Scenario, reactions: Sequence[Reaction]) -> tuple[str, ...]:
    waits = [found.patched - found.completing_sample for found in reactions]
    p99, aim = figures.quantile(waits, 0.99), scenario.evaluation_seconds + SLACK_SECONDS
    return (
        scenario.title,
        str(len(reactions)),
        f"{figures.quantile([found.patched - found.step for found in reactions], 0.5):.1f}",
        f"{figures.quantile([found.patched - found.first_sample for found in reactions], 0.5):.1f}",
        f"{figures.quantile(waits, 0.5):.2f}",
        f"{p99:.2f}",
        f"{aim:.0f}",
        figures.verdict(value=p99, aim=aim),
    )


def _details(reactions: Sequence[Reaction]) -> list[dict[str, float]]:
    return [
        {
            "from_step": round(found.patched - found.step, 3),
            "from_first_sample": round(found.patched - found.first_sample, 3),
            "from_completing_sample": round(found.patched - found.completing_sample, 3),
        }
        for found in reactions
    ]


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--runs", type=int, default=50, help="runs at an evaluation of 2 s")
    options.add_argument("--slow-runs", type=int, default=5, help="runs at the shipped evaluation of 15 s")
    given = options.parse_args()
    return run(lambda: bench(runs=given.runs, slow_runs=given.slow_runs))


if __name__ == "__main__":
    sys.exit(main())
