"""What must hold on a fleet whatever befalls it, watched while a test plays trouble and checked when it is over.

    with lawful(fleet) as pools:      # GpuNodePools of its own; all is calm again afterwards
        ...

The laws: a source never stands below what is wanted of its baseline; the operator deletes no pod that it could ask for (so no
PodDisruptionBudget is broken by it), unless the node ends; no cordon of ours outlives its reason.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from spillway.api import names
from tests.cluster.client import JsonObject
from tests.cluster.fleet_scene import POOLS, BurstWorkload, FleetScene, standard_pools
from tests.cluster.scene import SECONDS

SAMPLE_SECONDS = 0.15
CALM_SECONDS = 60


class BaselineWatch:
    """Samples every source from a thread of its own; `breaches` tells what was seen below its baseline."""

    def __init__(self, fleet: FleetScene) -> None:
        self.breaches: list[str] = []
        self.samples = 0
        self._fleet = fleet
        self._client = fleet.scene.cluster.observer_client()
        self._reached: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="baseline watch", daemon=True)

    def __enter__(self) -> BaselineWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(10)
        self._client.close()

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            try:
                self._look()
                self.samples += 1
            except Exception as exc:  # noqa: BLE001  # a thread that dies in silence would see no breach
                self.breaches.append(f"the watch failed: {exc!r}")
                return

    def _look(self) -> None:
        space = self._fleet.namespace
        workloads = self._client.get(
            f"/apis/{names.GROUP}/{names.VERSION}/namespaces/{space}/{names.WORKLOAD_PLURAL}"
        )["items"]
        deployments = self._client.get(f"/apis/apps/v1/namespaces/{space}/deployments")["items"]
        counts = {found["metadata"]["name"]: found["spec"]["replicas"] for found in deployments}
        for workload in workloads:
            least, target = _least(workload), workload["spec"]["targetRef"]["name"]
            count = counts.get(target)
            if count is None:
                continue
            if count >= least:
                self._reached.add(f"{target} {least}")
            elif f"{target} {least}" in self._reached:
                self.breaches.append(f"{target} stood at {count} with {least} wanted on demand")


def _least(workload: JsonObject) -> int:
    """Return what surely is to be on demand: its baseline, but no more than is wanted at all."""
    spec = workload["spec"]
    wanted = spec.get("replicas", spec.get("minReplicas", 1))
    baseline: int = spec.get("capacity", {}).get("baselineReplicas", spec.get("minReplicas", 1))
    return min(int(wanted), baseline)


@contextmanager
def lawful(fleet: FleetScene, *, insists: bool = False, **spec: Any) -> Iterator[dict[str, str]]:  # noqa: ANN401 - any JSON
    """Make pools for one test over all of the market's, watch the laws, and leave an empty fleet behind; yield the pools.

    *spec* is laid over that of each pool. With *insists* pods may be deleted, since a node's end waits for no budget.
    """
    short = [pool.removeprefix(f"{fleet.namespace}-") for pool in fleet.market.pools[1:]]
    pools = standard_pools(fleet, spot=short, **spec)
    mark = fleet.scene.cluster.audit_mark()
    try:
        with BaselineWatch(fleet) as watch:
            yield pools
        assert watch.samples, "the watch saw nothing"
        assert not watch.breaches, watch.breaches
        deleted = deleted_pods(fleet, since=mark)
        assert insists or not deleted, deleted
        no_cordon_is_left(fleet)
    finally:
        clear(fleet)


def deleted_pods(fleet: FleetScene, *, since: int) -> list[str]:
    """Return the pods that the operator deleted instead of asking for their eviction."""
    events = fleet.scene.operator.writes(since, resource="pods")
    return [event["objectRef"].get("name", "") for event in events if event["verb"].startswith("delete")]


def evicted_pods(fleet: FleetScene, *, since: int) -> list[str]:
    """Return the pod behind each answer to an eviction that the operator asked for, refused or not, in order."""
    events = fleet.scene.operator.writes(since, resource="pods")
    return [
        event["objectRef"]["name"] for event in events if event["objectRef"].get("subresource") == "eviction"
    ]


def is_marked(node: JsonObject) -> bool:
    """Whether a node carries the operator's own cordon."""
    taints = {taint["key"] for taint in node["spec"].get("taints") or []}
    annotations = node["metadata"].get("annotations") or {}
    return names.CORDON_TAINT in taints or names.CORDON_ANNOTATION in annotations


def all_nodes(fleet: FleetScene) -> list[JsonObject]:
    """Return the Nodes of every pool of the market."""
    return [node for pool in fleet.market.pools for node in fleet.market.nodes(pool)]


def marked(fleet: FleetScene) -> list[str]:
    """Return the nodes that carry the operator's own cordon now."""
    return [node["metadata"]["name"] for node in all_nodes(fleet) if is_marked(node)]


def no_cordon_is_left(fleet: FleetScene) -> None:
    """Wait until every cordon of ours is lifted, or gone with its node."""
    try:
        fleet.scene.operator.until(lambda: not marked(fleet), CALM_SECONDS, "no cordon of ours is left")
    except AssertionError as exc:
        states = {pool: fleet.market.machines(pool) for pool in fleet.market.pools}
        found = [node for node in all_nodes(fleet) if is_marked(node)]
        exc.add_note(
            f"still cordoned: {[(n['metadata'], n['spec'], n['status'].get('conditions')) for n in found]}\n{states}"
        )
        raise


def clear(fleet: FleetScene) -> None:
    """End every workload, fault and machine of a test."""
    market = fleet.market
    fleet.strike()
    for pool in market.pools:
        market.mend_api(pool)
        market.accept(pool)
        market.limit(pool, None)
        market.set_boot(pool, 1)
        market.leave_nodes(pool, False)
        market.foreign_resize(pool, 0)
    fleet.client.delete(f"/api/v1/namespaces/{fleet.namespace}/pods", gracePeriodSeconds=0)
    fleet.scene.cluster.wait_for(lambda: not _machines_left(fleet), CALM_SECONDS, "every machine is gone")
    fleet.client.delete(
        "/api/v1/nodes", labelSelector=f"spillway.dev/market-pool in ({','.join(market.pools)})"
    )


def _machines_left(fleet: FleetScene) -> list[str]:
    return [machine["id"] for pool in fleet.market.pools for machine in fleet.market.machines(pool)]


def pool_says(fleet: FleetScene, pool: str, reason: str, seconds: float = SECONDS) -> JsonObject:
    """Wait until the pool's CapacityAvailable has this reason, and return the condition."""

    def found() -> JsonObject | None:
        for condition in fleet.pool_status(pool).get("conditions") or []:
            if (condition["type"], condition["reason"]) == ("CapacityAvailable", reason):
                return dict(condition)
        return None

    condition: JsonObject = fleet.scene.operator.until(found, seconds, f"{pool} says {reason}")
    return condition


def pool_events(fleet: FleetScene, pool: str, reason: str) -> list[JsonObject]:
    """Return the Events about a GpuNodePool with this reason."""
    query = f"involvedObject.kind={names.POOL_KIND},involvedObject.name={pool}"
    found = fleet.client.get("/api/v1/namespaces/default/events", fieldSelector=query)["items"]
    return [event for event in found if event["reason"] == reason]


def noted_until(
    llm: BurstWorkload, read: Callable[[], int], predicate: Callable[[], Any], seconds: float, what: str
) -> list[int]:
    """Wait for *predicate* and return every figure that *read* gave meanwhile."""
    figures: list[int] = []

    def holds() -> bool:
        figures.append(read())
        return bool(predicate())

    llm.until(holds, seconds, what)
    return figures


def patch_pool(fleet: FleetScene, pool: str, **spec: object) -> None:
    """Merge *spec* into a pool's."""
    fleet.client.patch(f"{POOLS}/{pool}", {"spec": spec})
