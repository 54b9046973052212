"""How long `decide` takes with nodes and pools: 5,000 workloads, 2,000 nodes, 20,000 pods and 20 pools, quiet and in a storm.

A fifth of the workloads bursts onto spot. In the storm every 21st node is being taken back, so that replacements are
packed and pools grown in the same pass. The snapshot is made outside the measurement.
"""

import gc
import statistics
import time
from dataclasses import replace

from spillway.core import engine
from spillway.core.memory import Memory
from spillway.core.model import (
    CapacityType,
    Deployment,
    Instance,
    InstanceState,
    Mode,
    Node,
    NodePool,
    Pod,
    PoolState,
    ProviderType,
    ReplicaSet,
    Snapshot,
    Workload,
)
from spillway.core.scheduling import Constraints, Taint, Toleration
from tests.bench import figures
from tests.builders import (
    NOW,
    make_capacity,
    make_deployment,
    make_memory,
    make_node,
    make_pod,
    make_pool,
    make_replica_set,
    make_samples,
    make_snapshot,
    make_twin,
    make_workload,
)

RUNS = 5
AIM_SECONDS = 1.5  # for the largest (issue 4)
SIZES = (500, 1_000, 5_000)
PODS = 4  # of each workload
BURSTS = 5  # every fifth
GPUS_PER_NODE = 10
POOLS = 20
SPOT = Taint("spot", "true")
NOTICE = Taint("aws-node-termination-handler/spot-itn", "", since=NOW)
ON_SPOT = Constraints(tolerations=(Toleration(key="spot", value="true"),))


def pools() -> list[NodePool]:
    """Return ten on-demand and ten spot pools that may be sized."""
    return [
        make_pool(
            f"pool-{number}",
            capacity_type=CapacityType.SPOT if number % 2 else CapacityType.ON_DEMAND,
            taints=(SPOT,) if number % 2 else (),
            gpus_per_node=GPUS_PER_NODE,
            provider=ProviderType.KWOK,
            mode=Mode.ENFORCE,
            max_nodes=1_000,
        )
        for number in range(POOLS)
    ]


class Fleet:
    """Lays pods on nodes until each is full; on-demand and spot apart."""

    def __init__(self, found: list[NodePool]) -> None:
        self.pools = found
        self.nodes: dict[str, Node] = {}
        self.pods: list[Pod] = []
        self._open: dict[bool, tuple[str, int]] = {}

    def place(self, pod: Pod, *, spot: bool) -> None:
        """Put one pod of one GPU on the open node of its kind."""
        name, left = self._open.get(spot, ("", 0))
        if not left:
            kind = [pool for pool in self.pools if pool.is_spot is spot]
            pool = kind[len(self.nodes) // 5 % len(kind)]
            name, left = f"node-{len(self.nodes)}", GPUS_PER_NODE
            self.nodes[name] = make_node(
                name,
                gpus=GPUS_PER_NODE,
                uid=name,
                labels={"pool": pool.name},
                taints=(SPOT,) if spot else (),
                created_at=NOW - (NOW - NOW.replace(year=NOW.year - 1)),
                allocatable={"nvidia.com/gpu": GPUS_PER_NODE, "pods": 110},
            )
        self._open[spot] = (name, left - 1)
        self.pods.append(
            replace(pod, node=name, requests={"nvidia.com/gpu": 1, "pods": 1}, owner_kind="ReplicaSet")
        )

    def states(self) -> dict[str, PoolState]:
        """Return what the providers would say."""
        by_pool: dict[str, list[Instance]] = {pool.name: [] for pool in self.pools}
        for name, node in self.nodes.items():
            by_pool[node.labels["pool"]].append(
                Instance(id=name, state=InstanceState.RUNNING, since=NOW, node=name)
            )
        return {
            name: PoolState(at=NOW, desired=len(found), instances=tuple(found))
            for name, found in by_pool.items()
        }


def snapshot_of(size: int, *, storm: bool) -> tuple[Snapshot, Memory]:
    """Return *size* workloads with four pods each on full nodes, every fifth with two of them on spot."""
    fleet = Fleet(pools())
    workloads: list[Workload] = []
    deployments: list[Deployment] = []
    sets: list[ReplicaSet] = []
    for number in range(size):
        name, namespace = f"w{number}", f"team-{number // 20}"
        bursts = number % BURSTS == 0
        workload = make_workload(
            name, namespace=namespace, **({"capacity": make_capacity(2)} if bursts else {})
        )
        source = make_deployment(name, 2 if bursts else PODS, namespace=namespace)
        workloads.append(workload)
        deployments.append(source)
        sets.append(make_replica_set(name, namespace=namespace))
        for index in range(source.replicas):
            fleet.place(make_pod(index, of=name, namespace=namespace), spot=False)
        if bursts:
            twin = make_twin(name, 2, namespace=namespace, constraints=ON_SPOT)
            deployments.append(twin)
            sets.append(make_replica_set(f"{name}-burst", namespace=namespace))
            for index in range(2):
                fleet.place(make_pod(index, of=f"{name}-burst", namespace=namespace), spot=True)
    nodes = list(fleet.nodes.values())
    if storm:
        nodes = [
            replace(node, taints=(*node.taints, NOTICE)) if number % 21 == 0 else node
            for number, node in enumerate(nodes)
        ]
    snapshot = make_snapshot(
        workloads,
        deployments,
        pods=fleet.pods,
        activity=make_samples(fleet.pods, 0.6),
        replica_sets=tuple(sets),
        nodes=tuple(nodes),
        pools=tuple(fleet.pools),
        pool_states=fleet.states(),
    )
    return snapshot, make_memory(*workloads)


def measure(size: int, *, storm: bool) -> tuple[float, Snapshot, int]:
    """Return the median CPU seconds of a pass, the snapshot, and how many acts it gave."""
    snapshot, memory = snapshot_of(size, storm=storm)
    times = []
    for _ in range(RUNS):
        gc.collect()
        start = time.process_time()
        plan = engine.decide(snapshot, memory, NOW)
        times.append(time.process_time() - start)
    return statistics.median(times), snapshot, len(plan.acts)


def main() -> None:
    """Show one row for each size and weather."""
    rows = []
    for size in SIZES:
        for storm in (False, True):
            seconds, snapshot, acts = measure(size, storm=storm)
            rows.append(
                (
                    f"{size:,} {'storm' if storm else 'quiet'}",
                    f"{len(snapshot.nodes):,}",
                    f"{len(snapshot.pods):,}",
                    f"{seconds:.3f}",
                    f"{seconds / size * 1e6:.0f}",
                    str(acts),
                )
            )
    figures.show(
        "bench_nodes",
        title=f"One call of decide() with {POOLS} pools that are sized",
        header=("workloads", "nodes", "pods", "CPU s", "µs each", "acts"),
        rows=rows,
        notes=(
            f"aim: the largest in under {AIM_SECONDS:g} s: {figures.verdict(value=seconds, aim=AIM_SECONDS)}; linear.",
            "storm: every 21st node is taken back.",
        ),
    )


if __name__ == "__main__":
    main()
