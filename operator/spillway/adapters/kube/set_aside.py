"""What the scheduler sets aside for a pod, of every resource, in the units of the core.

`cpu` is in millicores, memory and storage in bytes, everything else in pieces. Requests are rounded up and what a node offers
down, so that no pod is packed where it does not fit.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR
from functools import lru_cache
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from spillway.adapters.kube.raw import Raw, part

Amounts = Mapping[str, int]

CPU = "cpu"
MILLI = 1000
PODS = "pods"
KNOWN = 4096  # texts remembered: a fleet of 20,000 pods has a few hundred different ones

# Resource names that stand for a GPU, or for a slice of one that is scheduled like one.
GPU_RESOURCES = frozenset({
    "nvidia.com/gpu",
    "nvidia.com/gpu.shared",
    "amd.com/gpu",
    "gpu.intel.com/i915",
    "gpu.intel.com/xe",
    "habana.ai/gaudi",
})  # fmt: skip
MIG_PREFIX = "nvidia.com/mig-"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """What one pod takes of a node: of every resource, and of the extended ones alone. Never change the mappings."""

    amounts: Amounts
    devices: Amounts
    gpus: int


def set_aside(pod_spec: Raw) -> SetAside:
    """Return how much of each resource the scheduler sets aside for one pod of this spec; of `pods` always 1.

    Init containers run one after another, before the others and beside the sidecars started until then, so the pod needs the
    larger of both phases. `init 2; main 4 + sidecar 1`: max(2, 5) = 5. What is stated for the whole pod goes before the sum
    of its containers, and the runtime's overhead comes on top. Pods of one template share one value.
    """
    what_counts = [
        [(item.get("resources"), item.get("restartPolicy")) for item in pod_spec.get("initContainers") or ()],
        [item.get("resources") for item in pod_spec.get("containers") or ()],
        pod_spec.get("resources"),
        pod_spec.get("overhead"),
    ]
    return _set_aside(json.dumps(what_counts))


@lru_cache(maxsize=KNOWN)
def _set_aside(text: str) -> SetAside:
    init, containers, whole_pod, overhead = json.loads(text)
    summed = _larger(*_phases(init, containers)) | _wanted(whole_pod)
    total = _added(summed, _amounts(overhead or {}))
    amounts = {name: amount for name, amount in total.items() if amount} | {PODS: 1}
    extended = devices(amounts)
    return SetAside(amounts=amounts, devices=extended, gpus=_gpus(extended))


def _phases(init: Iterable[Any], containers: Iterable[Any]) -> tuple[dict[str, int], dict[str, int]]:
    """Return the most that is needed while init containers run, and what is needed from then on."""
    sidecars: dict[str, int] = {}
    peak: dict[str, int] = {}
    for resources, restart_policy in init:
        wanted = _wanted(resources)
        if restart_policy == "Always":
            sidecars = _added(sidecars, wanted)
            peak = _larger(peak, sidecars)
        else:
            peak = _larger(peak, _added(sidecars, wanted))
    running = sidecars
    for resources in containers:
        running = _added(running, _wanted(resources))
    return peak, running


def devices(amounts: Amounts) -> Amounts:
    """Return the extended resources of *amounts*: those whose names carry somebody's domain; none that come to nothing."""
    return {name: amount for name, amount in amounts.items() if "/" in name and amount}


def offered(allocatable: Raw) -> Amounts:
    """Return what a node offers of each resource, zeros included: they are said, not unknown."""
    return {name: _units(name, str(amount), ROUND_FLOOR) for name, amount in allocatable.items()}


def _gpus(extended: Amounts) -> int:
    return sum(
        amount for name, amount in extended.items() if name in GPU_RESOURCES or name.startswith(MIG_PREFIX)
    )


def _wanted(resources: Raw | None) -> dict[str, int]:
    # Extended resources need request = limit; a pod template may state only the limit.
    return _amounts({**part(resources or {}, "limits"), **part(resources or {}, "requests")})


def _amounts(raw: Raw) -> dict[str, int]:
    return {name: _units(name, str(amount), ROUND_CEILING) for name, amount in raw.items()}


@lru_cache(maxsize=KNOWN)
def _units(resource: str, quantity: str, rounding: str) -> int:
    # 1.5 of cpu: 1500 millicores; 1.5Gi of memory: 1610612736 bytes; 1k of a device: 1000 shares
    amount = parse_quantity(quantity) * (MILLI if resource == CPU else 1)  # type: ignore[no-untyped-call]  # library
    return int(amount.to_integral_value(rounding=rounding))


def _added(one: dict[str, int], other: Amounts) -> dict[str, int]:
    return {**one, **{name: one.get(name, 0) + amount for name, amount in other.items()}} if other else one


def _larger(one: dict[str, int], other: Amounts) -> dict[str, int]:
    return {**one, **{name: max(one.get(name, 0), amount) for name, amount in other.items()}}
