"""How long `decide` takes and what it holds: 100, 1,000 and 5,000 workloads with four pods each.

The snapshot is made outside the measurement; half of the workloads are
within their band, the others move, so that limits and acts are paid for, too.
"""

import gc
import statistics
import time
import tracemalloc

from spillway.core import engine
from spillway.core.memory import Memory
from spillway.core.model import Snapshot
from tests.bench import figures
from tests.builders import (
    NOW,
    make_deployment,
    make_memory,
    make_pod,
    make_samples,
    make_snapshot,
    make_workload,
)

PODS = 4
RUNS = 5
SIZES = (100, 1_000, 5_000)
AIM_SECONDS = 1.0  # for the largest


def fleet(size: int) -> tuple[Snapshot, Memory]:
    """Return *size* workloads in namespaces of 20, all watched for hours."""
    workloads = [
        make_workload(f"w{n}", namespace=f"team-{n // 20}", max_namespace_gpus=200) for n in range(size)
    ]
    deployments = [make_deployment(w.target, PODS, namespace=w.key.namespace) for w in workloads]
    pods = [make_pod(i, of=w.target, namespace=w.key.namespace) for w in workloads for i in range(PODS)]
    half = size // 2 * PODS
    calm, busy = make_samples(pods[:half], 0.6), make_samples(pods[half:], 0.9)
    answer = type(calm)(at=NOW, pods={**calm.pods, **busy.pods})
    snapshot = make_snapshot(workloads, deployments, pods=pods, activity=answer)
    return snapshot, make_memory(*workloads)


def measure(size: int) -> tuple[float, float]:
    """Return the median CPU seconds of a pass and its peak memory in MiB, the snapshot left out."""
    snapshot, memory = fleet(size)
    times = []
    for _ in range(RUNS):
        gc.collect()
        start = time.process_time()
        engine.decide(snapshot, memory, NOW)
        times.append(time.process_time() - start)
    tracemalloc.start()
    engine.decide(snapshot, memory, NOW)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return statistics.median(times), peak / 2**20


def main() -> None:
    """Show one row for each size."""
    rows = []
    for size in SIZES:
        seconds, peak = measure(size)
        each = f"{seconds / size * 1e6:.0f}"
        rows.append((f"{size:,}", f"{size * PODS:,}", f"{seconds:.3f}", each, f"{peak:.1f}"))
    figures.show(
        "bench_decide",
        title="One call of decide()",
        header=("workloads", "pods", "CPU s", "µs each", "peak MiB"),
        rows=rows,
        notes=(
            f"aim: the largest in under {AIM_SECONDS:g} s: {figures.verdict(value=seconds, aim=AIM_SECONDS)}; linear.",
        ),
    )


if __name__ == "__main__":
    main()
