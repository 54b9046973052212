"""A stored GpuNodePool as the core sees it."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from spillway.api.convert import ConvertedPool, Invalid, to_pool
from spillway.api.quantities import units
from spillway.core.model import (
    CapacityType,
    DrainRules,
    ForeignPods,
    Mode,
    NodePool,
    NodePrice,
    PoolBreakerRules,
    ProviderType,
)
from spillway.core.scheduling import Taint

SPEC: dict[str, Any] = {
    "provider": {"type": "External"},
    "capacityType": "Spot",
    "node": {"gpuCount": 8, "selector": {"pool": "h100"}},
}


METADATA: dict[str, Any] = {
    "name": "h100", "uid": "u", "creationTimestamp": "2026-11-22T09:00:00Z", "generation": 4,
}  # fmt: skip


def convert(**over: Any) -> ConvertedPool | Invalid:  # noqa: ANN401 -- any JSON
    return to_pool({"kind": "GpuNodePool", "metadata": METADATA, "spec": {**SPEC, **over}})


def pool(**over: Any) -> NodePool:  # noqa: ANN401 -- any JSON
    found = convert(**over)
    assert isinstance(found, ConvertedPool)
    return found.pool


def test_the_shortest_pool_counts_nvidia_gpus_and_has_an_unknown_price() -> None:
    assert convert() == ConvertedPool(
        pool=NodePool(
            name="h100",
            uid="u",
            selector={"pool": "h100"},
            capacity_type=CapacityType.SPOT,
            gpu_resource="nvidia.com/gpu",
            gpus_per_node=8,
            price=None,
            mode=Mode.OBSERVE,
            provider=ProviderType.EXTERNAL,
        ),
        generation=4,
        provider_pool="",
    )


KWOK: dict[str, Any] = {"provider": {"type": "Kwok"}, "maxNodes": 20}


def test_a_sized_pool_is_converted_with_every_field() -> None:
    node = {
        "gpuCount": 8,
        "gpuModel": "H100-80GB",
        "selector": {"pool": "h100"},
        "taints": [{"key": "spot", "value": "true", "effect": "NoSchedule"}],
        "allocatable": {"cpu": "95.5", "memory": "1Ki"},
    }

    found = pool(
        **KWOK,
        mode="Enforce",
        node=node,
        minNodes=1,
        headroomNodes=2,
        drain={"minNodeAgeSeconds": 1, "idleSeconds": 2, "timeoutSeconds": 3, "foreignPods": "Evict"},
        breaker={"interruptions": 4, "withinSeconds": 5, "openSeconds": 6},
    )

    assert found == NodePool(
        name="h100",
        uid="u",
        selector={"pool": "h100"},
        capacity_type=CapacityType.SPOT,
        gpu_resource="nvidia.com/gpu",
        gpus_per_node=8,
        gpu_model="H100-80GB",
        mode=Mode.ENFORCE,
        provider=ProviderType.KWOK,
        min_nodes=1,
        max_nodes=20,
        headroom_nodes=2,
        allocatable={"pods": 110, "cpu": 95_500, "memory": 1024, "nvidia.com/gpu": 8},
        taints=(Taint("spot", "true", "NoSchedule"),),
        drain=DrainRules(
            min_node_age=timedelta(seconds=1),
            idle=timedelta(seconds=2),
            timeout=timedelta(seconds=3),
            foreign_pods=ForeignPods.EVICT,
        ),
        breaker=PoolBreakerRules(interruptions=4, within=timedelta(seconds=5), open_for=timedelta(seconds=6)),
    )


def test_the_built_in_timers_of_a_pool_are_the_cores() -> None:
    found = pool(drain={}, breaker={})

    assert (found.drain, found.breaker) == (DrainRules(), PoolBreakerRules())


def test_the_labels_of_a_pool_are_kept_for_selectors() -> None:
    metadata = {**METADATA, "labels": {"gpu": "h100"}}

    found = to_pool({"kind": "GpuNodePool", "metadata": metadata, "spec": SPEC})

    assert isinstance(found, ConvertedPool)
    assert found.pool.labels == {"gpu": "h100"}


@pytest.mark.parametrize(
    ("provider", "name"),
    [
        pytest.param({"type": "Kwok"}, "h100", id="the name of the pool itself"),
        pytest.param({"type": "Kwok", "kwok": {"pool": "market-a"}}, "market-a", id="another name"),
        pytest.param({"type": "External"}, "", id="nobody to ask"),
    ],
)
def test_a_pool_knows_what_its_provider_calls_it(provider: dict[str, Any], name: str) -> None:
    found = convert(provider=provider, maxNodes=1)

    assert isinstance(found, ConvertedPool)
    assert found.provider_pool == name


@pytest.mark.parametrize(
    ("own", "fleet", "in_force"),
    [
        pytest.param("Enforce", Mode.OBSERVE, Mode.OBSERVE, id="lowered"),
        pytest.param("ScaleUpOnly", Mode.ENFORCE, Mode.SCALE_UP_ONLY, id="never raised"),
    ],
)
def test_the_operators_mode_caps_a_pool(own: str, fleet: Mode, in_force: Mode) -> None:
    found = to_pool(
        {"kind": "GpuNodePool", "metadata": METADATA, "spec": {**SPEC, "mode": own}}, fleet_mode=fleet
    )

    assert isinstance(found, ConvertedPool)
    assert found.pool.mode is in_force


@pytest.mark.parametrize(
    ("resource", "quantity", "amount"),
    [
        ("cpu", "96", 96_000),
        ("cpu", "95500m", 95_500),
        ("cpu", "0.5", 500),
        ("memory", "1900Gi", 2_040_109_465_600),
        ("memory", "1.5Gi", 1_610_612_736),
        ("memory", "64M", 64_000_000),
        ("memory", "1500m", 1),
        ("rdma/ib", "8", 8),
        ("rdma/ib", "1k", 1000),
    ],
)
def test_a_quantity_is_read_in_the_cores_units(resource: str, quantity: str, amount: int) -> None:
    assert units(resource, quantity) == amount


@pytest.mark.parametrize("quantity", ["", "Gi", "-1", "1e3", "1 Gi", "1.Gi", "1g"])
def test_what_is_no_quantity_is_refused(quantity: str) -> None:
    with pytest.raises(ValueError, match="^" + quantity.replace(".", r"\.") + "$"):
        units("memory", quantity)


def test_a_price_is_read_exactly() -> None:
    price = {"currency": "EUR", "perNodeHour": "29.405"}

    assert pool(price=price).price == NodePrice(currency="EUR", per_hour=Decimal("29.405"))


def test_a_discount_is_deducted() -> None:
    # 31.50 less 10 % is 28.35.
    assert pool(price={"perNodeHour": "31.50", "discountPercent": 10}).price == NodePrice(
        currency="USD", per_hour=Decimal("28.35")
    )


def test_a_price_outside_the_range_makes_the_pool_invalid_with_the_value_and_the_next_step() -> None:
    found = convert(price={"perNodeHour": "21462"})

    assert isinstance(found, Invalid)
    assert found.message == (
        "spec.price.perNodeHour: 21462 divided by node.gpuCount is outside the 0.01 to 200 that a GPU can cost: "
        "set the price of one whole node for one hour, or correct node.gpuCount"
    )
