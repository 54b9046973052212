"""A stored GpuNodePool as the core sees it."""

from decimal import Decimal
from typing import Any

from spillway.api.convert import ConvertedPool, Invalid, to_pool
from spillway.core.model import CapacityType, NodePool, NodePrice

SPEC: dict[str, Any] = {
    "provider": {"type": "External"},
    "capacityType": "Spot",
    "node": {"gpuCount": 8, "selector": {"pool": "h100"}},
}


def convert(**over: Any) -> ConvertedPool | Invalid:  # noqa: ANN401 -- any JSON
    metadata = {"name": "h100", "uid": "u", "creationTimestamp": "2026-11-22T09:00:00Z", "generation": 4}
    return to_pool({"kind": "GpuNodePool", "metadata": metadata, "spec": {**SPEC, **over}})


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
        ),
        generation=4,
    )


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
