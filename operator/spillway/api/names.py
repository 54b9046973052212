"""The names other programs meet: group, kinds, plurals, annotation, field manager. Chosen once; a change breaks users."""

from typing import Final

GROUP: Final = "spillway.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
CATEGORY: Final = "spillway"

WORKLOAD_KIND: Final = "GpuWorkload"
WORKLOAD_PLURAL: Final = "gpuworkloads"
WORKLOAD_SHORT: Final = "gpuw"

POLICY_KIND: Final = "GpuPolicy"
POLICY_PLURAL: Final = "gpupolicies"
POLICY_SHORT: Final = "gpup"

POOL_KIND: Final = "GpuNodePool"
POOL_PLURAL: Final = "gpunodepools"
POOL_SHORT: Final = "gpunp"

PAUSED_ANNOTATION: Final = f"{GROUP}/paused"
"""On a GpuWorkload: any value but "false" pauses it, so that a typing slip errs on the side of leaving things alone."""

PRICE_ANNOTATION: Final = f"{GROUP}/price-per-hour"
"""On a Node: what the whole node costs an hour, such as "29.40" or "29.40 EUR"; it goes before the pool's price."""

FIELD_MANAGER: Final = "spillway"
"""The name behind every write in `managedFields` and events."""
