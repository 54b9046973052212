"""The frozen view that one pass decides on, built from the caches."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from spillway.adapters.kube.projections import NamespaceInfo
from spillway.api.convert import Converted, ConvertedPool, Invalid, to_policy, to_pool, to_workload
from spillway.api.policies import Policy
from spillway.app.caches import Caches
from spillway.core.model import Mode, ObjectKey, Operation, Snapshot
from spillway.core.signal import Collection

Raw = Mapping[str, Any]
Versions = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """The operator's own timers, from its settings."""

    evaluation: timedelta = timedelta(seconds=15)
    stale_after: timedelta = timedelta(seconds=75)
    pending_timeout: timedelta = timedelta(seconds=900)
    confirm: timedelta = timedelta(seconds=15)
    cache_max_age: timedelta = timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A snapshot, and what the report needs to speak about the same objects: raw, converted or invalid."""

    snapshot: Snapshot
    raw: Mapping[ObjectKey, Raw]
    converted: Mapping[ObjectKey, Converted]
    invalid: tuple[Invalid, ...]
    policies: Mapping[str, Policy] = field(default_factory=dict)
    raw_policies: Mapping[str, Raw] = field(default_factory=dict)
    invalid_policies: tuple[Invalid, ...] = ()
    namespaces: tuple[NamespaceInfo, ...] = ()
    pools: Mapping[str, ConvertedPool] = field(default_factory=dict)
    raw_pools: Mapping[str, Raw] = field(default_factory=dict)
    invalid_pools: tuple[Invalid, ...] = ()


class SnapshotBuilder:
    """Builds views; remembers conversions, since objects change far less often than passes run.

    `sees_all_pods` says whether the caches cover every namespace.
    """

    def __init__(self, caches: Caches, *, timings: Timings, sees_all_pods: bool = True) -> None:
        self._caches = caches
        self._timings = timings
        self._sees_all_pods = sees_all_pods
        self._policies: tuple[Policy, ...] = ()
        self._invalid_policies: tuple[Invalid, ...] = ()
        self._policy_source: Versions = ()
        self._pools: dict[str, ConvertedPool] = {}
        self._invalid_pools: tuple[Invalid, ...] = ()
        self._pool_source: Versions = ()
        self._known: dict[ObjectKey, tuple[object, Converted | Invalid]] = {}

    def build(
        self, *, activity: Collection, collection: int, operations: tuple[Operation, ...], fleet_mode: Mode
    ) -> View:
        """Return the view of this moment. Invalid objects are left out of the snapshot and reported apart."""
        caches = self._caches
        self._read_policies()
        self._read_pools()
        converted: dict[ObjectKey, Converted] = {}
        invalid: list[Invalid] = []
        raw = dict(caches.workloads.store)
        for key, found in raw.items():
            match self._convert(key, found, fleet_mode):
                case Converted() as good:
                    converted[key] = good
                case Invalid() as bad:
                    invalid.append(bad)
        self._known = {key: kept for key, kept in self._known.items() if key in raw}
        namespaces = caches.namespaces.store
        snapshot = Snapshot(
            workloads=tuple(item.workload for item in converted.values()),
            deployments=dict(caches.deployments.store),
            replica_sets=tuple(caches.replica_sets.store.values()),
            pods=tuple(caches.pods.store.values()),
            autoscalers=(*caches.hpas.store.values(), *caches.scaled_objects.store.values()),
            terminating_namespaces=frozenset(info.name for info in namespaces.values() if info.terminating),
            activity=activity,
            collection=collection,
            operations=operations,
            nodes=tuple(caches.nodes.store.values()),
            pools=tuple(found.pool for found in self._pools.values()),
            sees_all_pods=self._sees_all_pods,
            evaluation=self._timings.evaluation,
            stale_after=self._timings.stale_after,
            pending_timeout=self._timings.pending_timeout,
        )
        return View(
            snapshot=snapshot,
            raw=raw,
            converted=converted,
            invalid=tuple(invalid),
            policies={policy.name: policy for policy in self._policies},
            raw_policies={key.name: found for key, found in caches.policies.store.items()},
            invalid_policies=self._invalid_policies,
            namespaces=tuple(namespaces.values()),
            pools=self._pools,
            raw_pools={key.name: found for key, found in caches.pools.store.items()},
            invalid_pools=self._invalid_pools,
        )

    def _read_policies(self) -> None:
        stored = self._caches.policies.store
        source = versions_of(stored.values())
        if source == self._policy_source:
            return
        read = [to_policy(found) for found in stored.values()]
        self._policies = tuple(policy for policy in read if isinstance(policy, Policy))
        self._invalid_policies = tuple(policy for policy in read if isinstance(policy, Invalid))
        self._policy_source = source

    def _read_pools(self) -> None:
        stored = self._caches.pools.store
        source = versions_of(stored.values())
        if source == self._pool_source:
            return
        read = [to_pool(found) for found in stored.values()]
        self._pools = {found.pool.name: found for found in read if isinstance(found, ConvertedPool)}
        self._invalid_pools = tuple(found for found in read if isinstance(found, Invalid))
        self._pool_source = source

    def _convert(self, key: ObjectKey, raw: Raw, fleet_mode: Mode) -> Converted | Invalid:
        info = self._caches.namespaces.store.get(ObjectKey("", key.namespace))
        labels = info.labels if info is not None else {}
        meta = raw["metadata"]
        basis = (
            meta.get("uid"),
            meta.get("generation"),
            meta.get("annotations"),
            labels,
            fleet_mode,
            self._policies,
        )
        known = self._known.get(key)
        if known is not None and known[0] == basis:
            return known[1]
        answer = to_workload(raw, policies=self._policies, namespace_labels=labels, fleet_mode=fleet_mode)
        self._known[key] = (basis, answer)
        return answer


def versions_of(stored: Iterable[Raw]) -> Versions:
    """Return what changes whenever any of the objects does: uid and resourceVersion of each."""
    return tuple((raw["metadata"]["uid"], raw["metadata"]["resourceVersion"]) for raw in stored)
