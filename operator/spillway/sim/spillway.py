"""Spillway itself as a policy of the simulator: the shipped defaults, or a GpuWorkload exactly as one would apply it."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from spillway.api.convert import Converted, to_workload
from spillway.core.model import (
    CapacityType,
    Mode,
    NodePool,
    NodePrice,
    ProviderType,
    Workload,
)
from spillway.sim.cluster import GPU, NAMESPACE, SPOT_TAINT, SimCluster
from spillway.sim.world import ON_DEMAND, START, Scenario

NAME: Final = "spillway"
EVALUATION: Final = timedelta(seconds=15)  # the operator's setting evaluationSeconds
HOLD: Final = timedelta(seconds=15)  # confirmSeconds


def fleet(scenario: Scenario, workload: Workload | None = None) -> SimCluster:
    """Return what `world.play` plays: one workload on the scenario's pools, decided by `core.engine` and `core.confirm`.

    Without *workload* it is a GpuWorkload of nothing but a target, a burst and one baseline replica.
    """
    return SimCluster(
        workload=replace(workload or shipped(scenario), max_replicas=scenario.most),
        pools=tuple(_pools(scenario)),
        market=scenario.market(),
        load_time=scenario.terms.load_time,
        evaluation=EVALUATION,
        hold=HOLD,
        now=START,
    )


def shipped(scenario: Scenario) -> Workload:
    """Return a workload of the shipped defaults: every setting that can be left out is."""
    spec = {
        "targetRef": {"name": "model"},
        "maxReplicas": scenario.most,
        "capacity": {"baselineReplicas": 1, "burst": "WhenAvailable"},
    }
    return workload_of(spec)


def workload_of(spec: Mapping[str, Any]) -> Workload:
    """Return a workload by its spec, as the API server would store it. Raises ValueError with the problem's sentence."""
    metadata = {
        "name": "model",
        "namespace": NAMESPACE,
        "uid": "simulated",
        "generation": 1,
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    found = to_workload({"metadata": metadata, "spec": spec}, policies=(), namespace_labels={})
    if not isinstance(found, Converted):
        raise ValueError(found.message)
    return found.workload


def _pools(scenario: Scenario) -> list[NodePool]:
    terms = scenario.terms
    found = [_pool(ON_DEMAND, CapacityType.ON_DEMAND, scenario)]
    found[0] = replace(found[0], price=NodePrice(currency="USD", per_hour=terms.on_demand_price))
    for zone in scenario.zones:
        spot = _pool(zone, CapacityType.SPOT, scenario)
        price = NodePrice(currency="USD", per_hour=terms.spot_price)
        found.append(replace(spot, price=price, taints=(SPOT_TAINT,)))
    return found


def _pool(name: str, kind: CapacityType, scenario: Scenario) -> NodePool:
    return NodePool(
        name=name,
        uid=name,
        selector={"pool": name, "kind": "spot" if kind is CapacityType.SPOT else ON_DEMAND},
        capacity_type=kind,
        gpu_resource=GPU,
        gpus_per_node=1,
        mode=Mode.ENFORCE,
        provider=ProviderType.KWOK,
        max_nodes=scenario.most,
    )
