"""Kubernetes quantities, as pools state them, in the units of the core."""

import re
from decimal import Decimal
from types import MappingProxyType
from typing import Final

CPU: Final = "cpu"
PATTERN: Final = r"^[0-9]{1,12}(\.[0-9]{1,6})?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
"""The usual forms of `resource.Quantity`; exponents and signs are left out, which nobody writes by hand."""

_FACTORS: Final = MappingProxyType(
    {"": Decimal(1), "m": Decimal("0.001")}
    | {unit: Decimal(1000) ** power for power, unit in enumerate(("k", "M", "G", "T", "P"), start=1)}
    | {unit: Decimal(1024) ** power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi"), start=1)}
)
_MILLI: Final = 1000


def units(resource: str, quantity: str) -> int:
    """Return *quantity* of *resource* in whole units, rounded down: a node offers no half of one.

    CPU is counted in millicores, memory and storage in bytes, everything else in pieces. Raises ValueError for a text that
    `PATTERN` refuses.
    """
    found = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", quantity)
    if found is None or not re.match(PATTERN, quantity):
        raise ValueError(quantity)
    # 1.5 Gi of memory: 1.5 * 1024 ** 3 = 1610612736; 1.5 of cpu: 1500 millicores
    amount = Decimal(found[1]) * _FACTORS[found[2]]
    return int(amount * _MILLI) if resource == CPU else int(amount)
