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

OWNED_BY_LABEL: Final = f"{GROUP}/owned-by"
"""On a burst twin: the uid of the GpuWorkload that it was made for. Spillway writes no Deployment without it."""

CLASS_LABEL: Final = f"{GROUP}/capacity-class"
"""On a twin's pods and in its selector, so that its pods are told from its source's."""

CLASS_BURST: Final = "burst"

TEMPLATE_ANNOTATION: Final = f"{GROUP}/source-template"
"""On a twin: the hash of the source's pod template that it was made from."""

POOLS_ANNOTATION: Final = f"{GROUP}/pools"
"""On a twin: the names of the spot pools in its affinity, parted by commas."""

HANDOVER_ANNOTATION: Final = f"{GROUP}/handover"
"""On a twin whose GpuWorkload is gone: the count that its source must reach before it may go."""

CORDON_TAINT: Final = f"{GROUP}/cordoned"
"""On a node that Spillway cordoned: the taint's key; its value says why, its effect is NoSchedule."""

CORDON_ANNOTATION: Final = f"{GROUP}/cordon"
"""Beside that taint: which drain it is, since when, and whether somebody else had cordoned the node before."""

FIELD_MANAGER: Final = "spillway"
"""The name behind every write in `managedFields` and events."""
