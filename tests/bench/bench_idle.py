"""What an idle operator asks of the API server and of Prometheus in a minute, with 100 workloads.

The operator runs with the chart's own settings, on the whole cluster. Every workload has one pod whose utilization wavers around
60 %, so that every pass reads other numbers and decides the same. After the operator has written nothing but its Lease for a
while, two minutes are counted, three times the 40 s after which it opens every watch anew: from the API server's audit log by
the operator's account, from Prometheus' own request counter, and for comparison from the operator's counters.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Mapping
from datetime import datetime

from tests.bench import figures
from tests.bench.bed import Bed, RunningOperator, Series, laid_out, page_samples, run, running_operator
from tests.cluster.client import JsonObject
from tests.cluster.processes import wait_until

NAME = "bench_idle"
NAMESPACE = "bench-idle"
GPUS_PER_NODE = 8
DEMAND, NOISE = 0.6, 0.05  # of one replica: below the high mark of 80 % and above the low one of 40 %
CALM_SECONDS = (
    75  # so long without a write first: a status follows a minute late when only its limiter changed
)
COUNTED_SECONDS = 120
LEASE = "leases"
READS = frozenset({"get", "list", "watch"})
SPEC = {"maxReplicas": 4, "readiness": {"settleSeconds": 1}}

Asked = tuple[str, str]  # verb and resource


def bench(*, workloads: int, seconds: int) -> None:
    with laid_out(nodes=math.ceil(workloads / GPUS_PER_NODE), gpus_per_node=GPUS_PER_NODE) as bed:
        bed.exporter.noise = NOISE
        bed.cluster.make_namespace(NAMESPACE)
        for number in range(workloads):
            bed.exporter.set_demand(NAMESPACE, f"idle-{number}", DEMAND)
            bed.make_workload(NAMESPACE, f"idle-{number}", pods=1, spec=SPEC)
        bed.wait_ready_pods(workloads, seconds=120)
        with running_operator(bed, NAMESPACE, settings={"watchNamespaces": []}) as operator:
            bed.wait_decided(workloads, seconds=120)
            _wait_calm(bed, operator)
            audited, counted, queries = _count(bed, operator, seconds=seconds)
    minutes = seconds / 60
    _show(workloads, audited=audited, counted=counted, queries=queries, minutes=minutes)


def _wait_calm(bed: Bed, operator: RunningOperator) -> None:
    """Wait until the operator has written nothing but its Lease for a while."""

    def is_calm() -> bool:
        written = [
            datetime.fromisoformat(event["stageTimestamp"]).timestamp()
            for event in bed.cluster.audit_events(user=operator.account)
            if _is_write(*_asked(event))
        ]
        return time.time() - max(written) >= CALM_SECONDS

    wait_until(is_calm, 4 * CALM_SECONDS, "the operator writes nothing but its Lease", every=2)


def _count(
    bed: Bed, operator: RunningOperator, *, seconds: int
) -> tuple[Counter[Asked], Counter[Asked], float]:
    """Return what was asked in *seconds*: by the audit log, by the operator's own counters, and of Prometheus."""
    mark, own, heard = bed.cluster.audit_mark(), operator.samples(), _queries_heard(bed)
    time.sleep(seconds)
    audited = _audited(bed, operator, since=mark)
    queries = _queries_heard(bed) - heard
    return audited, _counted(before=own, after=operator.samples()), queries


def _audited(bed: Bed, operator: RunningOperator, *, since: int) -> Counter[Asked]:
    return Counter(_asked(event) for event in bed.cluster.audit_events(user=operator.account, since=since))


def _asked(event: JsonObject) -> Asked:
    """Return verb and resource, with the subresource; a path outside the API (`/version`) is its own resource."""
    target = event.get("objectRef", {"resource": event["requestURI"]})
    return event["verb"], "/".join(filter(None, (target["resource"], target.get("subresource"))))


def _counted(*, before: Mapping[Series, float], after: Mapping[Series, float]) -> Counter[Asked]:
    counts: Counter[Asked] = Counter()
    for (name, labels), value in after.items():
        if name == "spillway_kubernetes_requests_total":
            said = dict(labels)
            counts[said["verb"], said["resource"]] += round(value - before.get((name, labels), 0.0))
    return counts


def _queries_heard(bed: Bed) -> float:
    """Return how many queries Prometheus has answered since its start; the bench itself asks none."""
    return sum(
        value
        for (name, labels), value in page_samples(bed.session, f"{bed.prometheus.url}/metrics").items()
        if name == "prometheus_http_requests_total" and "/api/v1/query" in dict(labels)["handler"]
    )


def _writes(asked: Counter[Asked]) -> int:
    return sum(count for (verb, resource), count in asked.items() if _is_write(verb, resource))


def _is_write(verb: str, resource: str) -> bool:
    return verb not in READS and resource != LEASE


def _show(
    workloads: int, *, audited: Counter[Asked], counted: Counter[Asked], queries: float, minutes: float
) -> None:
    asked = sorted(audited.keys() | {key for key, count in counted.items() if count})
    rows = [
        (
            f"{verb} {resource}",
            f"{audited[verb, resource] / minutes:g}",
            f"{counted[verb, resource] / minutes:g}",
        )
        for verb, resource in asked
    ]
    writes = _writes(audited)
    rows += [
        ("API server, all", f"{audited.total() / minutes:g}", f"{counted.total() / minutes:g}"),
        ("Prometheus queries", f"{queries / minutes:g}", ""),
        ("writes but the Lease", f"{writes / minutes:g}", ""),
    ]
    figures.show(
        NAME,
        title=f"Requests of an idle operator in a minute, {workloads} workloads (as shipped)",
        header=("request", "a minute", "own counter"),
        rows=rows,
        notes=(
            f"aim: 0 writes but the Lease: {figures.verdict(value=writes, aim=0)}. Counted over {minutes:g} minutes.",
            "a minute: the API server's audit log and Prometheus' own counter; own counter: the operator's /metrics.",
        ),
    )


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--workloads", type=int, default=100)
    options.add_argument("--seconds", type=int, default=COUNTED_SECONDS, help="how long is counted")
    given = options.parse_args()
    return run(lambda: bench(workloads=given.workloads, seconds=given.seconds))


if __name__ == "__main__":
    sys.exit(main())
