"""A scene with nodes that come and go: a market, GpuNodePools over its machines, and an operator that may size them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from spillway.api import names
from tests.cluster.client import JsonObject
from tests.cluster.controlplane import ControlPlane
from tests.cluster.exporter import WORKLOAD_LABEL, Exporter
from tests.cluster.market_process import MarketProcess, on_demand_pool, running_market, spot_pool
from tests.cluster.operator_chart import Helm, installed_chart
from tests.cluster.operator_process import running_operator
from tests.cluster.prometheus import Prometheus
from tests.cluster.scene import SECONDS, Scene, Workload, make_scene

POOLS = f"/apis/{names.GROUP}/{names.VERSION}/{names.POOL_PLURAL}"
FLEET_LABEL = "spillway-test.dev/fleet"
SPOT_PRICE, ON_DEMAND_PRICE = "12.00", "40.00"

# Every timer about nodes as short as it may be, so that a test takes seconds.
SHORT_NODE_TIMERS: Mapping[str, Any] = {
    "poolCollectSeconds": 1,
    "poolStaleSeconds": 5,
    "nodeLostSeconds": 3,
    "nodeGoneSeconds": 3,
    "cordonSettleSeconds": 1,
    "drainBackOffSeconds": 3,
    "packingRefusedSeconds": 3,
}
SHORT_DRAIN: Mapping[str, Any] = {"minNodeAgeSeconds": 1, "idleSeconds": 2, "timeoutSeconds": 30}
SHORT_FALLBACK: Mapping[str, Any] = {
    "refusedConfirmSeconds": 2,
    "provisionTimeoutSeconds": 15,
    "bootDeadlineSeconds": 20,
    "returnProbeSeconds": 4,
    "returnStableSeconds": 3,
    "minResidencySeconds": 3,
}


class FleetScene:
    """Workloads with a burst, on machines of a market."""

    def __init__(self, scene: Scene, market: MarketProcess) -> None:
        self.scene = scene
        self.market = market
        self.namespace = scene.namespace
        self._made: list[str] = []

    @property
    def client(self) -> Any:  # noqa: ANN401 - Client, which the scene's cluster has
        return self.scene.cluster.client

    def pool(self, name: str, *, capacity_type: str, market_pool: str, **spec: Any) -> str:  # noqa: ANN401 - any JSON
        """Make a GpuNodePool in mode Enforce over a pool of the market; *spec* is laid over its spec. Return its name."""
        full = f"{self.namespace}-{name}"
        taints = [{"key": "spot", "value": "true", "effect": "NoSchedule"}] if capacity_type == "Spot" else []
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.POOL_KIND,
            "metadata": {"name": full, "labels": {FLEET_LABEL: self.namespace}},
            "spec": {
                "mode": "Enforce",
                "provider": {"type": "Kwok", "kwok": {"pool": market_pool}},
                "capacityType": capacity_type,
                "node": {
                    "gpuCount": 8,
                    "gpuModel": "H100",
                    "selector": {"pool": market_pool, FLEET_LABEL: self.namespace},
                    "taints": taints,
                },
                "minNodes": 0,
                "maxNodes": 6,
                "price": {"perNodeHour": SPOT_PRICE if capacity_type == "Spot" else ON_DEMAND_PRICE},
                "drain": dict(SHORT_DRAIN),
                **spec,
            },
        }
        self.client.apply(body)
        self._made.append(full)
        return full

    def pool_status(self, name: str) -> JsonObject:
        status: JsonObject = self.client.get(f"{POOLS}/{name}").get("status") or {}
        return status

    def burst(
        self,
        *,
        baseline: int = 2,
        replicas: int = 2,
        demand: float | None = None,
        gpus: int = 4,
        **spec: Any,  # noqa: ANN401
    ) -> BurstWorkload:
        """Make a Deployment of pods with *gpus* GPUs, kept off spot by the taint alone, and a GpuWorkload that bursts."""
        capacity = {
            "baselineReplicas": baseline,
            "burst": "WhenAvailable",
            "missedLoadPercent": "100",  # none to spare, so that counts are exact; tests of spares say otherwise
            "fallback": dict(SHORT_FALLBACK),
            **spec.pop("capacity", {}),
        }
        name = f"llm-{uuid.uuid4().hex[:6]}"
        deployment = {
            "gpus": gpus,
            "pod_labels": {WORKLOAD_LABEL: name},  # the twin's pods share its load
            "pod_spec": {"tolerations": [], "nodeSelector": {FLEET_LABEL: self.namespace}},
            **spec.pop("deployment", {}),
        }
        made = self.scene.workload(
            name=name,
            replicas=replicas,
            demand=demand,
            deployment=deployment,
            **{"minReplicas": baseline or 1, "maxReplicas": 16, "capacity": capacity, **spec},
        )
        return BurstWorkload(made, self)

    def strike(self) -> None:
        """Delete every workload and pool of the scene; the market's machines stay with it."""
        self.scene.strike()
        for name in self._made:
            self.client.delete(f"{POOLS}/{name}")
        self._made.clear()


class BurstWorkload:
    """A workload whose count stands on two Deployments."""

    def __init__(self, workload: Workload, fleet: FleetScene) -> None:
        self.workload = workload
        self.fleet = fleet
        self.name = workload.name
        self.twin_path = f"/apis/apps/v1/namespaces/{workload.namespace}/deployments/{workload.name}-burst"

    @property
    def twin(self) -> JsonObject | None:
        found: JsonObject | None = self.fleet.client.find(self.twin_path)
        return found

    @property
    def burst(self) -> int:
        """What the twin is set to; 0 without one."""
        twin = self.twin
        return 0 if twin is None else int(twin["spec"]["replicas"])

    @property
    def tiers(self) -> tuple[int, int]:
        """What source and twin are set to."""
        return self.workload.replicas, self.burst

    def ready(self) -> tuple[int, int]:
        """Return the Ready replicas of source and twin."""
        twin = self.twin
        return (
            self.workload.target["status"].get("readyReplicas", 0),
            0 if twin is None else twin["status"].get("readyReplicas", 0),
        )

    def reaches(self, source: int, burst: int, seconds: float = SECONDS) -> None:
        """Wait until source and twin are set to these counts."""
        self.until(
            lambda: self.tiers == (source, burst), seconds, f"{self.name} is set to {source} + {burst}"
        )

    def serves(self, source: int, burst: int, seconds: float = SECONDS) -> None:
        """Wait until exactly so many replicas of source and twin are Ready, and no more are asked for."""
        self.until(
            lambda: self.tiers == self.ready() == (source, burst),
            seconds,
            f"{self.name} serves with {source} + {burst}",
        )

    def until(self, predicate: Any, seconds: float, what: str) -> Any:  # noqa: ANN401
        """Return the first truthy answer; on failure show tiers, pools, and the operator's log."""
        try:
            return self.workload.until(predicate, seconds, what)
        except AssertionError as exc:
            exc.add_note(self.report())
            raise

    def report(self) -> str:
        """Say what is known of it and of the pools, for a failure."""
        placement = self.workload.decision().get("placement")
        pools = [
            (item["metadata"]["name"], item.get("status", {}).get("conditions"))
            for item in self.fleet.client.get(POOLS)["items"]
        ]
        machines = {pool: self.fleet.market.machines(pool) for pool in self.fleet.market.pools}
        return (
            f"tiers {self.tiers}, ready {self.ready()}\n  {placement}\n  pools {pools}\n  machines {machines}"
        )


@contextmanager
def played_fleet(
    cluster: ControlPlane,
    exporter: Exporter,
    prometheus: Prometheus,
    helm: Helm,
    *,
    spot: Sequence[str] = ("a", "b"),
    settings: Mapping[str, Any] | None = None,
    market_settings: Mapping[str, Any] | None = None,
    through_proxies: bool = False,
) -> Iterator[FleetScene]:
    """Set up a namespace, a market with an on-demand pool `od` and the *spot* pools, and an operator that may size them.

    Market pools are named NAMESPACE-od, NAMESPACE-a, …; make GpuNodePools over them with `FleetScene.pool`.
    """
    with make_scene(cluster, exporter, nodes=0) as scene:
        tag = scene.namespace
        labels = {FLEET_LABEL: tag}
        pools = [on_demand_pool(f"{tag}-od", labels=labels, **(market_settings or {}))]
        pools += [spot_pool(f"{tag}-{name}", labels=labels, **(market_settings or {})) for name in spot]
        with (
            running_market(cluster, pools) as market,
            installed_chart(
                cluster,
                helm,
                scene.namespace,
                settings={
                    "watchNamespaces": [],
                    "poolSelector": {FLEET_LABEL: tag},
                    "kwok": {"url": market.url},
                },
            ) as chart,
            running_operator(
                cluster,
                chart,
                prometheus,
                settings={**SHORT_NODE_TIMERS, **(settings or {})},
                through_proxies=through_proxies,
            ) as operator,
        ):
            scene.operator = operator
            operator.wait_deciding()
            fleet = FleetScene(scene, market)
            yield fleet
            fleet.strike()


def standard_pools(fleet: FleetScene, *, spot: Sequence[str] = ("a", "b"), **spec: Any) -> dict[str, str]:  # noqa: ANN401
    """Make GpuNodePools over the on-demand pool and the *spot* ones; return their names by the market's short ones."""
    tag = fleet.namespace
    made = {"od": fleet.pool("od", capacity_type="OnDemand", market_pool=f"{tag}-od", **spec)}
    for name in spot:
        made[name] = fleet.pool(name, capacity_type="Spot", market_pool=f"{tag}-{name}", **spec)
    return made


def settle(seconds: float) -> None:
    """Give the operator time to do what it must not do."""
    time.sleep(seconds)
