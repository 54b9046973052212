"""The model of GpuNodePool in `spillway.dev/v1alpha1`, in the manner of `v1alpha1`.

No policy defaults a pool, so its built-ins are schema defaults, which the API server shows in the stored object.
"""

from decimal import Decimal
from enum import StrEnum
from typing import Annotated, ClassVar, Final

from pydantic import Field, StringConstraints

from spillway.api import names
from spillway.api.markers import ApiModel, Form, Kind, PrinterColumn, Rule
from spillway.api.v1alpha1 import AGE_COLUMN, Conditions, CostLabel, LabelValue, Short, Whole
from spillway.core.prices import (
    LEAST_PER_GPU_HOUR,
    MOST_PER_GPU_HOUR,
    USUAL_CURRENCY,
    USUAL_RESOURCE,
    is_sane,
)

MAX_GPUS_PER_NODE: Final = 1024

Amount = Annotated[
    str,
    StringConstraints(max_length=17, pattern=r"^[0-9]{1,9}(\.[0-9]{1,6})?$"),
    Form("an amount in quotes such as '29.40'"),
]
Currency = Annotated[
    str, StringConstraints(max_length=3, pattern=r"^[A-Z]{3}$"), Form("three capitals such as USD")
]
ResourceName = Annotated[
    str,
    StringConstraints(max_length=253, pattern=r"^[a-z0-9.-]+/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"),
    Form("a resource name such as nvidia.com/gpu"),
]


class ProviderType(StrEnum):
    """Who makes and removes the nodes of a pool."""

    EXTERNAL = "External"


class PoolCapacityType(StrEnum):
    """On which terms the nodes of a pool are rented."""

    ON_DEMAND = "OnDemand"
    SPOT = "Spot"
    RESERVED = "Reserved"


class Provider(ApiModel):
    """Who makes and removes the nodes."""

    type: ProviderType = Field(
        description="External: somebody else does, such as a person, Karpenter or cluster-autoscaler. Spillway observes and "
        "prices the nodes and never changes them."
    )


class NodeShape(ApiModel):
    """Which nodes belong to the pool and what one of them offers."""

    selector: Annotated[dict[str, LabelValue], Field(min_length=1, max_length=16)] = Field(
        description="Labels that a node must have, all of them, to belong to the pool. A node that two pools select belongs to "
        "neither, and both report Conflict."
    )
    gpu_resource: ResourceName = Field(
        default=USUAL_RESOURCE,
        description="Resource that pods ask for to get a GPU of these nodes, or a share of one. The price is split by it alone.",
    )
    gpu_count: Whole = Field(
        ge=1, le=MAX_GPUS_PER_NODE, description="How many of gpuResource a healthy node offers."
    )
    gpu_model: CostLabel | None = Field(
        default=None, description="GPU model, such as H100-80GB: a label of the cost metrics."
    )


class Price(ApiModel):
    """What a whole node costs an hour, running idle or busy."""

    currency: Currency = Field(
        default=USUAL_CURRENCY, description="Currency. Amounts in two currencies are never added."
    )
    per_node_hour: Amount = Field(
        description="Price of one whole node for one hour, before discountPercent. For each GPU of the node it must be from "
        f"{LEAST_PER_GPU_HOUR} to {MOST_PER_GPU_HOUR}. The node annotation {names.PRICE_ANNOTATION} goes before it."
    )
    discount_percent: Whole | None = Field(
        default=None,
        ge=0,
        le=100,
        description="Percent taken off perNodeHour, for commitments and negotiated rates. Unset: none.",
    )


_NEXT: Final = (
    f"divided by node.gpuCount is outside the {LEAST_PER_GPU_HOUR} to {MOST_PER_GPU_HOUR} that a GPU can cost: "
    "set the price of one whole node for one hour, or correct node.gpuCount"
)


def _told(spec: "GpuNodePoolSpec") -> str:
    return f"{spec.price.per_node_hour if spec.price else ''} {_NEXT}"


class GpuNodePoolSpec(ApiModel):
    """A group of like nodes with GPUs."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            # CEL has binary fractions only; in millionths, which is as fine as amounts can be, half a unit makes up for that.
            cel="!has(self.price) || (double(self.price.perNodeHour) * 1000000.0 + 0.5 >= 10000.0 * double(self.node.gpuCount)"
            " && double(self.price.perNodeHour) * 1000000.0 - 0.5 <= 200000000.0 * double(self.node.gpuCount))",
            holds=lambda spec: (
                spec.price is None or is_sane(Decimal(spec.price.per_node_hour), gpus=spec.node.gpu_count)
            ),
            message=f"perNodeHour {_NEXT}",
            field=".price.perNodeHour",
            # Without the count: string(number) counts as text of any length, and the API server refuses the schema.
            message_cel=f"self.price.perNodeHour + ' {_NEXT}'",
            told=_told,
        ),
    )

    provider: Provider = Field(description="Who makes and removes the nodes.")
    capacity_type: PoolCapacityType = Field(
        description="On which terms the nodes are rented: a label of the cost metrics."
    )
    node: NodeShape = Field(description="Which nodes belong to the pool and what one of them offers.")
    price: Price | None = Field(
        default=None,
        description="What a node costs. Without it costs of this pool are unknown, which is not zero.",
    )


class NodeCounts(ApiModel):
    """The pool's nodes; each counts once."""

    ready: Whole | None = Field(default=None, ge=0, description="Nodes that are Ready and take pods.")
    not_ready: Whole | None = Field(default=None, ge=0, description="Nodes that are not Ready.")
    cordoned: Whole | None = Field(default=None, ge=0, description="Nodes that are Ready and cordoned.")


class GpuNodePoolStatus(ApiModel):
    """What is. Rewritten when it changes, not on every pass."""

    observed_generation: Whole | None = Field(
        default=None, ge=0, description="metadata.generation that this status speaks about."
    )
    nodes: NodeCounts | None = Field(default=None, description="The pool's nodes; each counts once.")
    gpus_allocatable: Whole | None = Field(default=None, ge=0, description="GPUs that the nodes offer.")
    gpus_allocated: Whole | None = Field(
        default=None,
        ge=0,
        description="GPUs that pods hold. Absent where the operator sees the pods of some namespaces only.",
    )
    gpus_idle: Whole | None = Field(
        default=None,
        ge=0,
        description="GPUs of Ready nodes, cordoned ones too, that no pod holds. Absent where gpusAllocated is.",
    )
    hourly_cost: Short | None = Field(
        default=None,
        description="What all nodes together cost an hour, as a decimal number. Absent where the price of any node is unknown.",
    )
    currency: Short | None = Field(default=None, description="Currency of hourlyCost.")
    price_source: Short | None = Field(
        default=None, description="Where the prices came from, with how many nodes have each."
    )
    conditions: Conditions | None = Field(default=None, description="The state by aspect.")


GPU_NODE_POOL: Final = Kind(
    kind=names.POOL_KIND,
    plural=names.POOL_PLURAL,
    short=names.POOL_SHORT,
    is_namespaced=False,
    description="GpuNodePool names a group of GPU nodes and their price. Spillway observes and prices them; it never sizes, "
    "cordons or labels a node.",
    spec=GpuNodePoolSpec,
    status=GpuNodePoolStatus,
    columns=(
        PrinterColumn(name="Type", path=".spec.capacityType", description="On which terms nodes are rented."),
        PrinterColumn(name="Model", path=".spec.node.gpuModel", description="GPU model.", priority=1),
        PrinterColumn(
            name="Nodes", path=".status.nodes.ready", type="integer", description="Nodes that take pods."
        ),
        PrinterColumn(
            name="Not-Ready", path=".status.nodes.notReady", type="integer", description="Nodes not Ready."
        ),
        PrinterColumn(
            name="Cordoned",
            path=".status.nodes.cordoned",
            type="integer",
            description="Nodes Ready and cordoned.",
            priority=1,
        ),
        PrinterColumn(
            name="GPUs", path=".status.gpusAllocatable", type="integer", description="GPUs offered."
        ),
        PrinterColumn(
            name="Used", path=".status.gpusAllocated", type="integer", description="GPUs that pods hold."
        ),
        PrinterColumn(name="Idle", path=".status.gpusIdle", type="integer", description="GPUs nobody holds."),
        PrinterColumn(name="$/H", path=".status.hourlyCost", description="Cost of all nodes, an hour."),
        PrinterColumn(name="Currency", path=".status.currency", description="Currency of the cost."),
        PrinterColumn(
            name="Price-Source",
            path=".status.priceSource",
            description="Where the prices came from.",
            priority=1,
        ),
        PrinterColumn(
            name="Reason",
            path='.status.conditions[?(@.type=="Ready")].reason',
            description="What is known of the pool, in a word.",
        ),
        AGE_COLUMN,
    ),
)
