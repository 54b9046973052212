"""Memory and CPU of one operator that looks after 1,000 workloads with 4,000 pods, and how long its passes take.

All objects are real ones in the real API server, as controllers, scheduler and kubelets leave them behind; the bench writes them
itself, which takes one minute instead of five. The operator is the real process with the chart's token and the shipped settings; Prometheus scrapes 4,032
GPUs every 15 s. The operator starts beside all of that, decides every workload on fresh metrics, and is then watched
for two minutes in which nothing changes but the utilization: resident memory now and at its highest since the start, CPU time,
and the lengths of its passes from the histogram on its /metrics page.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench import figures
from tests.bench.bed import Bed, RunningOperator, Series, laid_out, run, running_operator
from tests.bench.fleet import IDLE_CONTROLLERS, lay_down

NAME = "bench_memory"
NAMESPACES = 10
PODS_PER_WORKLOAD = 4
HOME = "bench-operator"
DEMAND, NOISE = 2.4, 0.02  # of 4 replicas: 60 %, which neither grows nor shrinks them
SPEC = {"maxReplicas": 8, "readiness": {"settleSeconds": 1}}
WATCHED_SECONDS = 120
DECIDED_SECONDS = 180
CALMING_SECONDS = 30  # the first statuses are written
MEMORY_LIMIT_MIB = 512  # resources.limits.memory of the chart
PASS_SECONDS = 1.0  # what issue 3 allows a decision on five times as many
HISTOGRAM = "spillway_pass_duration_seconds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the operator used, from its process and its own page."""

    resident_mib: float
    highest_mib: float
    cpu_share: float
    passes: int
    mean_seconds: float
    quantiles: Mapping[float, float]


def bench(*, workloads: int, seconds: int) -> None:
    with laid_out(scrape_interval="15s", left_out=IDLE_CONTROLLERS) as bed:
        began = time.monotonic()
        _lay_down(bed, workloads=workloads)
        print(f"{workloads} workloads laid down in {time.monotonic() - began:.0f} s", flush=True)
        bed.prometheus.wait_scraped(seconds=60)
        bed.cluster.make_namespace(HOME)
        with running_operator(bed, HOME, settings={"watchNamespaces": []}) as operator:
            began = time.monotonic()
            bed.wait_decided(workloads, seconds=DECIDED_SECONDS)
            start = time.monotonic() - began
            time.sleep(CALMING_SECONDS)
            usage = _watch(operator, seconds=seconds)
    _show(usage, workloads=workloads, start=start, seconds=seconds)


def _lay_down(bed: Bed, *, workloads: int) -> None:
    bed.exporter.noise = NOISE
    members = lay_down(
        bed.cluster, workloads=workloads, pods_each=PODS_PER_WORKLOAD, namespaces=NAMESPACES, spec=SPEC
    )
    for member in members:
        bed.exporter.set_demand(member.namespace, member.name, DEMAND)


def _watch(operator: RunningOperator, *, seconds: int) -> Usage:
    pid = operator.process.pid
    before, cpu, began = operator.samples(), _cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)
    cpu_share = (_cpu_seconds(pid) - cpu) / (time.monotonic() - began)
    memory = _memory_mib(pid)
    after = operator.samples()
    passes = _grown(before, after, f"{HISTOGRAM}_count")
    return Usage(
        resident_mib=memory["VmRSS"],
        highest_mib=memory["VmHWM"],
        cpu_share=cpu_share,
        passes=round(passes),
        mean_seconds=_grown(before, after, f"{HISTOGRAM}_sum") / passes,
        quantiles={share: _quantile(_buckets(before, after), share) for share in (0.5, 0.99)},
    )


def _memory_mib(pid: int) -> dict[str, float]:
    """Return the memory lines of /proc: VmRSS is resident now, VmHWM was its highest."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")}


def _cpu_seconds(pid: int) -> float:
    # The program's name stands in brackets and may hold blanks; utime and stime are the 12th and 13th fields after it.
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _grown(before: Mapping[Series, float], after: Mapping[Series, float], name: str) -> float:
    return sum(value - before.get(series, 0.0) for series, value in after.items() if series[0] == name)


def _buckets(before: Mapping[Series, float], after: Mapping[Series, float]) -> list[tuple[float, float]]:
    """Return (upper bound, passes up to it) of the time between, rising."""
    return sorted(
        (float(dict(series[1])["le"]), value - before.get(series, 0.0))
        for series, value in after.items()
        if series[0] == f"{HISTOGRAM}_bucket"
    )


def _quantile(buckets: Sequence[tuple[float, float]], share: float) -> float:
    """Return the quantile as Prometheus does: evenly spread inside its bucket."""
    rank, lower, below = share * buckets[-1][1], 0.0, 0.0
    for upper, count in buckets:
        if count >= rank:
            return lower + (upper - lower) * (rank - below) / (count - below)
        lower, below = upper, count
    raise AssertionError("no pass was made")


def _show(usage: Usage, *, workloads: int, start: float, seconds: int) -> None:
    p99 = usage.quantiles[0.99]
    limit, longest = f"{MEMORY_LIMIT_MIB} MiB", f"{PASS_SECONDS * 1000:.0f} ms"
    rows = [
        ("memory now", f"{usage.resident_mib:.0f} MiB", limit, _met(usage.resident_mib, MEMORY_LIMIT_MIB)),
        ("memory, highest", f"{usage.highest_mib:.0f} MiB", limit, _met(usage.highest_mib, MEMORY_LIMIT_MIB)),
        ("CPU", f"{usage.cpu_share:.1%} of a core", "", ""),
        ("passes", str(usage.passes), "", ""),
        ("pass, mean", f"{usage.mean_seconds * 1000:.0f} ms", "", ""),
        ("pass, p50", f"{usage.quantiles[0.5] * 1000:.0f} ms", "", ""),
        ("pass, p99", f"{p99 * 1000:.0f} ms", longest, _met(p99, PASS_SECONDS)),
        ("start until all are decided", f"{start:.0f} s", "", ""),
    ]
    figures.show(
        NAME,
        title=f"One operator, {workloads} workloads, {workloads * PODS_PER_WORKLOAD} pods, over {seconds} s (as shipped)",
        header=("", "found", "aim", "met"),
        rows=rows,
        notes=(
            "aim: the chart's memory limit; a pass as long as a decision on 5,000 workloads may take.",
            "p50, p99: evenly spread inside the histogram's buckets; the mean is exact.",
        ),
    )


def _met(value: float, aim: float) -> str:
    return figures.verdict(value=value, aim=aim)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--workloads", type=int, default=1000)
    options.add_argument(
        "--seconds", type=int, default=WATCHED_SECONDS, help="how long the operator is watched"
    )
    given = options.parse_args()
    return run(lambda: bench(workloads=given.workloads, seconds=given.seconds))


if __name__ == "__main__":
    sys.exit(main())
