"""The frozen view that one pass decides on, built from the caches."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from spillway.adapters.kube.projections import NamespaceInfo
from spillway.api.convert import Converted, ConvertedPool, Invalid, to_policy, to_pool, to_workload
from spillway.api.policies import Policy
from spillway.app.caches import Caches
from spillway.core.model import (
    FleetTimers,
    Mode,
    NodePool,
    ObjectKey,
    Operation,
    PoolState,
    Snapshot,
    StoredPool,
    StoredSplit,
)
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
    fleet: FleetTimers = field(default_factory=FleetTimers)


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

    `sees_all_pods` says whether the caches cover every namespace. GpuNodePools without the labels of `pool_selector` are
    somebody else's.
    """

    def __init__(
        self,
        caches: Caches,
        *,
        timings: Timings,
        sees_all_pods: bool = True,
        pool_selector: Mapping[str, str] | None = None,
    ) -> None:
        self._caches = caches
        self._timings = timings
        self._sees_all_pods = sees_all_pods
        self._pool_selector = dict(pool_selector or {})
        self._pool_mode = Mode.ENFORCE
        self._policies: tuple[Policy, ...] = ()
        self._invalid_policies: tuple[Invalid, ...] = ()
        self._policy_source: Versions = ()
        self._pools: dict[str, ConvertedPool] = {}
        self._invalid_pools: tuple[Invalid, ...] = ()
        self._pool_source: Versions = ()
        self._known: dict[ObjectKey, tuple[object, Converted | Invalid]] = {}

    def pools(self) -> tuple[tuple[NodePool, str], ...]:
        """Return the pools of now, each with its name at its provider."""
        self._read_pools(self._pool_mode)
        return tuple((found.pool, found.provider_pool) for found in self._pools.values())

    def build(
        self,
        *,
        activity: Collection,
        collection: int,
        operations: tuple[Operation, ...],
        fleet_mode: Mode,
        pool_states: Mapping[str, PoolState] | None = None,
    ) -> View:
        """Return the view of this moment. Invalid objects are left out of the snapshot and reported apart."""
        caches = self._caches
        self._read_policies()
        self._read_pools(fleet_mode)
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
            pool_states=dict(pool_states or {}),
            stored_workloads=frozenset(found["metadata"]["uid"] for found in raw.values()),
            stored_splits=_stored_splits(raw.values()),
            stored_pools=_stored_pools(caches.pools.store.values()),
            timers=self._timings.fleet,
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

    def _read_pools(self, fleet_mode: Mode) -> None:
        stored = {key: found for key, found in self._caches.pools.store.items() if self._is_ours(found)}
        source = versions_of(stored.values())
        if source == self._pool_source and fleet_mode is self._pool_mode:
            return
        read = [to_pool(found, fleet_mode=fleet_mode) for found in stored.values()]
        self._pools = {found.pool.name: found for found in read if isinstance(found, ConvertedPool)}
        self._invalid_pools = tuple(found for found in read if isinstance(found, Invalid))
        self._pool_source, self._pool_mode = source, fleet_mode

    def _is_ours(self, pool: Raw) -> bool:
        labels = pool["metadata"].get("labels") or {}
        return self._pool_selector.items() <= labels.items()

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


def _stored_splits(stored: Iterable[Raw]) -> Mapping[str, StoredSplit]:
    """Return by uid what each GpuWorkload's status holds of its burst; one that never burst holds nothing."""
    found = {}
    for raw in stored:
        status = raw.get("status") or {}
        capacity, count = status.get("capacity"), status.get("desiredReplicas")
        if isinstance(capacity, Mapping) and isinstance(count, int):
            found[raw["metadata"]["uid"]] = StoredSplit(
                count=count,
                spare=int(capacity.get("spareReplicas") or 0),
                fallback_since=_time(capacity.get("fallbackSince")),
                fallback_cause=str(capacity.get("fallbackReason") or ""),
            )
    return found


def _stored_pools(stored: Iterable[Raw]) -> Mapping[str, StoredPool]:
    found = {}
    for raw in stored:
        status = raw.get("status") or {}
        latches = StoredPool(
            breaker_until=_time(status.get("breakerOpenUntil")),
            closed_until=_time(status.get("closedUntil")),
            steps=status.get("failedProbes") or 0,
        )
        if latches != StoredPool():
            found[raw["metadata"]["uid"]] = latches
    return found


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text)) if text else None
    except ValueError:
        return None


def versions_of(stored: Iterable[Raw]) -> Versions:
    """Return what changes whenever any of the objects does: uid and resourceVersion of each."""
    return tuple((raw["metadata"]["uid"], raw["metadata"]["resourceVersion"]) for raw in stored)
