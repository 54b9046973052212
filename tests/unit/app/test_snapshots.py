"""What a snapshot is made of, and when a conversion must be made anew."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from tests.builders import NOW, not_collected

from spillway.adapters.kube.client import KubeClient
from spillway.app.caches import Caches
from spillway.app.snapshots import SnapshotBuilder, Timings, View, versions_of
from spillway.core.model import FleetTimers, Mode, ObjectKey, PoolState, StoredPool, StoredSplit

Raw = Mapping[str, Any]


def stored(uid: str = "a", version: str = "1") -> Raw:
    return {"metadata": {"uid": uid, "resourceVersion": version}}


def test_an_unchanged_set_has_the_same_versions() -> None:
    assert versions_of([stored()]) == versions_of([stored()])


def test_a_written_object_has_another_version() -> None:
    assert versions_of([stored(version="2")]) != versions_of([stored(version="1")])


def test_an_object_made_anew_under_the_same_version_differs() -> None:
    assert versions_of([stored(uid="b")]) != versions_of([stored(uid="a")])


CREATED = "2026-03-01T09:00:00Z"


def stored_workload(status: Raw | None = None, *, uid: str = "w-1") -> Raw:
    return {
        "metadata": {
            "name": "llm",
            "namespace": "chat",
            "uid": uid,
            "resourceVersion": "1",
            "generation": 1,
            "creationTimestamp": CREATED,
        },
        "spec": {"targetRef": {"name": "llm"}, "maxReplicas": 8},
        "status": status or {},
    }


def stored_pool(
    name: str = "spot-a", *, labels: Mapping[str, str] | None = None, status: Raw | None = None
) -> Raw:
    return {
        "metadata": {
            "name": name,
            "uid": f"uid-{name}",
            "resourceVersion": "1",
            "generation": 1,
            "creationTimestamp": CREATED,
            "labels": dict(labels or {}),
        },
        "spec": {
            "mode": "Enforce",
            "capacityType": "Spot",
            "provider": {"type": "Kwok", "kwok": {"pool": f"{name}-there"}},
            "node": {"gpuResource": "nvidia.com/gpu", "gpuCount": 8, "selector": {"pool": name}},
            "maxNodes": 4,
        },
        "status": status or {},
    }


def build(
    *workloads: Raw,
    pools: tuple[Raw, ...] = (),
    pool_selector: Mapping[str, str] | None = None,
    fleet_mode: Mode = Mode.ENFORCE,
    timings: Timings | None = None,
    pool_states: Mapping[str, PoolState] | None = None,
) -> tuple[SnapshotBuilder, View]:
    """Return the builder and its view of caches that hold these objects."""
    caches = Caches(cast("KubeClient", None), wake=lambda _: None, clock=lambda: 0.0)  # it is never run
    caches.workloads._objects.update({ObjectKey("chat", raw["metadata"]["name"]): raw for raw in workloads})
    caches.pools._objects.update({ObjectKey("", raw["metadata"]["name"]): raw for raw in pools})
    builder = SnapshotBuilder(caches, timings=timings or Timings(), pool_selector=pool_selector)
    view = builder.build(
        activity=not_collected(),
        collection=1,
        operations=(),
        fleet_mode=fleet_mode,
        pool_states=pool_states,
    )
    return builder, view


def test_what_a_status_holds_of_a_burst_is_read_back() -> None:
    status = {
        "desiredReplicas": 8,
        "capacity": {"fallbackSince": "2026-03-01T11:40:00Z", "fallbackReason": "SpotRefused"},
    }

    _, view = build(stored_workload(status))

    assert view.snapshot.stored_splits == {
        "w-1": StoredSplit(
            count=8,
            fallback_since=datetime(2026, 3, 1, 11, 40, tzinfo=UTC),
            fallback_cause="SpotRefused",
        )
    }


@pytest.mark.parametrize(
    "status",
    [
        pytest.param({}, id="never decided"),
        pytest.param({"desiredReplicas": 8}, id="never burst"),
        pytest.param({"capacity": {"burstReplicas": 3}}, id="without a count"),
        pytest.param({"capacity": "x", "desiredReplicas": 8}, id="garbled"),
    ],
)
def test_a_status_without_a_burst_holds_none(status: Raw) -> None:
    assert build(stored_workload(status))[1].snapshot.stored_splits == {}


def test_a_time_that_cannot_be_read_is_no_latch() -> None:
    status = {"desiredReplicas": 8, "capacity": {"fallbackSince": "yesterday"}}

    assert build(stored_workload(status))[1].snapshot.stored_splits == {"w-1": StoredSplit(count=8)}


def test_what_a_status_holds_of_a_pool_is_read_back() -> None:
    status = {
        "closedUntil": "2026-03-01T12:10:00Z",
        "breakerOpenUntil": "2026-03-01T13:00:00Z",
        "failedProbes": 2,
    }

    _, view = build(pools=(stored_pool(status=status), stored_pool("calm")))

    assert view.snapshot.stored_pools == {
        "uid-spot-a": StoredPool(
            breaker_until=datetime(2026, 3, 1, 13, tzinfo=UTC),
            closed_until=datetime(2026, 3, 1, 12, 10, tzinfo=UTC),
            steps=2,
        )
    }


def test_pools_without_the_labels_of_the_selector_are_somebody_elses() -> None:
    ours, theirs = stored_pool("ours", labels={"team": "ml", "gpu": "h100"}), stored_pool("theirs")

    _, view = build(pools=(ours, theirs), pool_selector={"team": "ml"})

    assert [pool.name for pool in view.snapshot.pools] == ["ours"]


def test_the_collector_is_told_of_pools_by_their_names_at_the_provider() -> None:
    builder, _ = build(pools=(stored_pool(),))

    assert [(pool.name, name) for pool, name in builder.pools()] == [("spot-a", "spot-a-there")]


def test_the_fleet_mode_holds_for_pools_too() -> None:
    _, view = build(pools=(stored_pool(),), fleet_mode=Mode.OBSERVE)

    assert [pool.mode for pool in view.snapshot.pools] == [Mode.OBSERVE]


def test_what_providers_said_and_the_timers_of_nodes_are_in_the_snapshot() -> None:
    said = {"spot-a": PoolState(at=NOW, desired=2)}
    timers = FleetTimers(node_lost=timedelta(seconds=9))

    _, view = build(pools=(stored_pool(),), pool_states=said, timings=Timings(fleet=timers))

    assert (view.snapshot.pool_states, view.snapshot.timers) == (said, timers)


def test_a_workload_that_cannot_be_used_still_stands_by_its_uid() -> None:
    broken = stored_workload(uid="w-2") | {"spec": {"targetRef": {"name": "llm"}, "maxReplicas": 0}}

    _, view = build(broken)

    assert view.snapshot.workloads == ()
    assert view.snapshot.stored_workloads == {"w-2"}
