"""What a node costs an hour and where the figure comes from: its annotation, else its pool's price, else unknown."""

import re
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum
from typing import Final

from spillway.core.model import Node, NodePool, NodePrice

# A GPU-hour is sold for no less and no more; outside lie typing slips, and totals or cents given as prices an hour.
LEAST_PER_GPU_HOUR: Final = Decimal("0.01")
MOST_PER_GPU_HOUR: Final = Decimal(200)

# For nodes in no pool, which name neither.
USUAL_RESOURCE: Final = "nvidia.com/gpu"
USUAL_CURRENCY: Final = "USD"

_ANNOTATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(?: ([A-Z]{3}))?")
_CENT: Final = Decimal("0.01")


class PriceSource(StrEnum):
    """Where a price came from, in the order of precedence."""

    ANNOTATION = "node annotation"
    POOL = "pool price"


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceTag:
    """A node's price and where it came from."""

    price: NodePrice
    source: PriceSource


@dataclass(frozen=True, slots=True, kw_only=True)
class BadPrice:
    """A price annotation that is not used, and why."""

    node: str
    message: str


def price_of(node: Node, pool: NodePool | None) -> tuple[PriceTag | None, BadPrice | None]:
    """Return what *node* costs, None for unknown, and what is wrong with its annotation if that cannot be used."""
    listed = pool.price if pool is not None else None
    tag = PriceTag(price=listed, source=PriceSource.POOL) if listed is not None else None
    if node.price_annotation is None:
        return tag, None
    read = _read_annotation(node, node.price_annotation, pool)
    if isinstance(read, BadPrice):
        return tag, read
    return PriceTag(price=read, source=PriceSource.ANNOTATION), None


def is_sane(amount: Decimal, *, gpus: int) -> bool:
    """Whether *amount*, for an hour of a node with *gpus* GPUs, lies in the range that GPUs are rented for."""
    return LEAST_PER_GPU_HOUR * gpus <= amount <= MOST_PER_GPU_HOUR * gpus


def money(amount: Decimal) -> str:
    """Return *amount* with two decimals, or with four where two would show a cost as nothing."""
    step = _CENT if amount >= _CENT or not amount else _CENT * _CENT
    return str(amount.quantize(step, rounding=ROUND_HALF_UP))


def _read_annotation(node: Node, text: str, pool: NodePool | None) -> NodePrice | BadPrice:
    """Read `29.40` or `29.40 EUR`; a pool has one currency, which the annotations of its nodes must keep to."""
    read = _ANNOTATION.fullmatch(text.strip())
    if read is None:
        return BadPrice(
            node=node.name, message=f"{text[:40]!r} is no price; write one such as 29.40 or 29.40 EUR"
        )
    currency = pool.currency if pool is not None else USUAL_CURRENCY
    price = NodePrice(currency=read[2] or currency, per_hour=Decimal(read[1]))
    gpus = pool.gpus_per_node if pool is not None else max(1, node.devices.get(USUAL_RESOURCE, 0))
    if not is_sane(price.per_hour, gpus=gpus):
        message = (
            f"{read[1]} for {gpus} GPUs is outside the {LEAST_PER_GPU_HOUR} to {MOST_PER_GPU_HOUR} that a GPU can cost; "
            "write the price of one whole node for one hour"
        )
        return BadPrice(node=node.name, message=message)
    if pool is not None and price.currency != currency:
        message = f"{text.strip()} is not in {currency}, the currency of pool {pool.name}; convert it"
        return BadPrice(node=node.name, message=message)
    return price
