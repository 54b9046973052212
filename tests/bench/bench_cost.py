"""How long `draw_bill` takes and what it holds, as the fleet grows: four pods a workload, ten on a node, 100 nodes a pool.

Run it by hand: `python -m tests.bench.bench_cost`. The snapshot is made outside the measurement. Half of the workloads hold GPUs in
two pools, and one node in fifty has a price annotation.
"""

import gc
import statistics
import time
import tracemalloc

from spillway.core.cost import draw_bill
from spillway.core.model import Snapshot
from tests.builders import make_deployment, make_node, make_pod, make_pool, make_snapshot, make_workload

PODS = 4
PODS_ON_NODE = 10
NODES_IN_POOL = 100
RUNS = 5
SIZES = (100, 1_000, 5_000)


def fleet(size: int) -> Snapshot:
    """Return *size* workloads in namespaces of 20, their pods spread over nodes of ten."""
    workloads = [make_workload(f"w{n}", namespace=f"team-{n // 20}") for n in range(size)]
    deployments = [make_deployment(w.target, PODS, namespace=w.key.namespace) for w in workloads]
    count = size * PODS // PODS_ON_NODE
    names = [f"node-{n}" for n in range(count)]
    pods = [
        make_pod(i, of=w.target, namespace=w.key.namespace, node=names[(n * 7 + i * (n % 2) * 131) % count])
        for n, w in enumerate(workloads)
        for i in range(PODS)
    ]
    nodes = [
        make_node(name, labels={"pool": f"p{n // NODES_IN_POOL}"}, price="30" if n % 50 == 0 else None)
        for n, name in enumerate(names)
    ]
    pools = [make_pool(f"p{n}") for n in range(max(1, count // NODES_IN_POOL))]
    return make_snapshot(workloads, deployments, pods=pods, nodes=tuple(nodes), pools=tuple(pools))


def measure(size: int) -> tuple[float, float]:
    """Return the median CPU seconds of a bill and its peak memory in MiB, the snapshot left out."""
    snapshot = fleet(size)
    times = []
    for _ in range(RUNS):
        gc.collect()
        start = time.process_time()
        draw_bill(snapshot)
        times.append(time.process_time() - start)
    tracemalloc.start()
    draw_bill(snapshot)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return statistics.median(times), peak / 2**20


def main() -> None:
    """Print one line for each size."""
    print(
        f"{'workloads':>9}  {'pods':>6}  {'nodes':>6}  {'pools':>5}  {'CPU s':>8}  {'µs each':>8}  {'peak MiB':>8}"
    )
    for size in SIZES:
        nodes = size * PODS // PODS_ON_NODE
        seconds, peak = measure(size)
        print(
            f"{size:>9,}  {size * PODS:>6,}  {nodes:>6,}  {max(1, nodes // NODES_IN_POOL):>5}  "
            f"{seconds:>8.3f}  {seconds / size * 1e6:>8.0f}  {peak:>8.1f}"
        )


if __name__ == "__main__":
    main()
