"""The model of GpuNodePool in `spillway.dev/v1alpha1`, in the manner of `v1alpha1`.

No policy defaults a pool, so its built-ins are schema defaults, which the API server shows in the stored object.
"""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final

from pydantic import Field, StringConstraints

from spillway.api import names, quantities
from spillway.api.markers import ApiModel, AtomicList, Form, Kind, PrinterColumn, Rule
from spillway.api.v1alpha1 import (
    AGE_COLUMN,
    MAX_SECONDS,
    Conditions,
    CostLabel,
    DnsName,
    LabelKey,
    LabelValue,
    Long,
    Short,
    Whole,
)
from spillway.core.model import ForeignPods, Mode, ProviderType, RefusalKind
from spillway.core.prices import (
    LEAST_PER_GPU_HOUR,
    MOST_PER_GPU_HOUR,
    USUAL_CURRENCY,
    USUAL_RESOURCE,
    is_sane,
)

MAX_GPUS_PER_NODE: Final = 1024
MAX_NODES: Final = 10_000
KEPT_REFUSALS: Final = 3

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


Quantity = Annotated[
    str,
    StringConstraints(max_length=21, pattern=quantities.PATTERN),
    Form("a quantity in quotes such as '96' or '1900Gi'"),
]


def _seconds(built_in: int, text: str) -> Any:  # noqa: ANN401  as pydantic's own Field
    return Field(default=built_in, ge=1, le=MAX_SECONDS, description=text)


class PoolCapacityType(StrEnum):
    """On which terms the nodes of a pool are rented."""

    ON_DEMAND = "OnDemand"
    SPOT = "Spot"
    RESERVED = "Reserved"


class TaintEffect(StrEnum):
    """What a taint does to pods that do not tolerate it."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class Kwok(ApiModel):
    """A pool of the market process that `spillway market` runs, whose nodes kwok plays. For trials and tests."""

    pool: DnsName | None = Field(
        default=None, description="Name of the pool at the market. Unset: the name of this GpuNodePool."
    )


class Provider(ApiModel):
    """Who makes and removes the nodes."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.kwok) || self.type == 'Kwok'",
            holds=lambda provider: provider.kwok is None or provider.type is ProviderType.KWOK,
            message="kwok belongs to type Kwok: set type to Kwok, or remove kwok",
            field=".kwok",
        ),
    )

    type: ProviderType = Field(
        description="External: somebody else does, such as a person, Karpenter or cluster-autoscaler. Spillway observes and "
        "prices the nodes and never asks for one, nor removes one. Kwok: the market process of `spillway market` does, and "
        "Spillway asks it as far as mode allows."
    )
    kwok: Kwok | None = Field(default=None, description="Settings of a Kwok provider.")


class NodeTaint(ApiModel):
    """What nodes of the pool keep pods away by."""

    key: LabelKey = Field(description="Key of the taint.")
    value: LabelValue = Field(default="", description="Value of the taint.")
    effect: TaintEffect = Field(description="What it does to pods that do not tolerate it.")


class NodeShape(ApiModel):
    """Which nodes belong to the pool and what one of them offers."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.allocatable) || ('cpu' in self.allocatable && 'memory' in self.allocatable)",
            holds=lambda node: node.allocatable is None or {"cpu", "memory"} <= node.allocatable.keys(),
            message="allocatable needs cpu and memory: add both, or remove allocatable to learn it from a first node",
            field=".allocatable",
        ),
        Rule(
            cel="!has(self.allocatable) || !(self.gpuResource in self.allocatable)",
            holds=lambda node: node.allocatable is None or node.gpu_resource not in node.allocatable,
            message="gpuCount says how many GPUs a node offers: remove gpuResource from allocatable",
            field=".allocatable",
        ),
    )

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
        default=None,
        description="GPU model, such as H100-80GB: a label of the cost metrics, and what guardrails.gpuModels allows.",
    )
    taints: Annotated[tuple[NodeTaint, ...], AtomicList(), Field(max_length=16)] | None = Field(
        default=None,
        description="Taints that a new node comes with. Burst pods tolerate those of their spot pools; a spot pool without any "
        "cannot keep the baseline off its nodes.",
    )
    allocatable: Annotated[dict[str, Quantity], Field(min_length=1, max_length=32)] | None = Field(
        default=None,
        description="What a fresh node offers of every resource but gpuResource, as its `status.allocatable` shows: cpu and memory, "
        "and others where pods ask for them; what is left out it does not have, but for 110 pods. Unset: learned from a node, "
        "so that a pool without one begins with a single node.",
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


class Drain(ApiModel):
    """When an idle node goes, and what may stand in its way."""

    min_node_age_seconds: Whole = _seconds(120, "Seconds that a node stays at least.")
    idle_seconds: Whole = _seconds(
        120, "Seconds that a node must have been without pods, those of DaemonSets apart."
    )
    timeout_seconds: Whole = _seconds(
        600, "Seconds after which a drain that does not end is given up and the node takes pods again."
    )
    foreign_pods: ForeignPods = Field(
        default=ForeignPods.BLOCK,
        description="Pods that no GpuWorkload in mode Enforce owns: Block keeps their node. Evict moves them too, by eviction, "
        "which minds PodDisruptionBudgets.",
    )


class Breaker(ApiModel):
    """When spot is taken back so often that no more of it is asked for."""

    interruptions: Whole = Field(
        default=3,
        ge=1,
        le=100,
        description="Interruptions within withinSeconds that close the pool for growth.",
    )
    within_seconds: Whole = _seconds(1800, "Seconds in which interruptions are counted.")
    open_seconds: Whole = _seconds(
        600, "Seconds for which the pool then stays closed. After them one node is tried."
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
        Rule(
            cel="self.provider.type == 'External' || has(self.maxNodes)",
            holds=lambda spec: spec.provider.type is ProviderType.EXTERNAL or spec.max_nodes is not None,
            message="maxNodes is required unless the provider is External: set it to the most nodes that you would pay for",
            field=".maxNodes",
        ),
        Rule(
            cel="!has(self.maxNodes) || self.minNodes <= self.maxNodes",
            holds=lambda spec: spec.max_nodes is None or spec.min_nodes <= spec.max_nodes,
            message="minNodes must not exceed maxNodes: lower minNodes or raise maxNodes",
            field=".minNodes",
        ),
        Rule(
            cel="!has(self.maxNodes) || self.headroomNodes <= self.maxNodes",
            holds=lambda spec: spec.max_nodes is None or spec.headroom_nodes <= spec.max_nodes,
            message="headroomNodes must not exceed maxNodes: lower headroomNodes or raise maxNodes",
            field=".headroomNodes",
        ),
    )

    mode: Mode = Field(
        default=Mode.OBSERVE,
        description="How much Spillway may do with the nodes: Observe only reports, ScaleUpOnly asks for nodes and never removes "
        "one, Enforce does both. An External pool is never sized, whatever this says.",
    )
    provider: Provider = Field(description="Who makes and removes the nodes.")
    capacity_type: PoolCapacityType = Field(
        description="On which terms the nodes are rented: a label of the cost metrics."
    )
    node: NodeShape = Field(description="Which nodes belong to the pool and what one of them offers.")
    min_nodes: Whole = Field(
        default=0, ge=0, le=MAX_NODES, description="Nodes that always stay, idle or not."
    )
    max_nodes: Whole | None = Field(
        default=None,
        ge=0,
        le=MAX_NODES,
        description="Nodes that are never exceeded. Required unless the provider is External.",
    )
    headroom_nodes: Whole = Field(
        default=0,
        ge=0,
        le=MAX_NODES,
        description="Nodes to have ready beyond those that are needed, within maxNodes. They are paid for while idle.",
    )
    drain: Drain | None = Field(
        default=None, description="When an idle node goes, and what may stand in its way."
    )
    breaker: Breaker | None = Field(
        default=None, description="When spot is taken back so often that no more of it is asked for."
    )
    price: Price | None = Field(
        default=None,
        description="What a node costs. Without it costs of this pool are unknown, which is not zero.",
    )


class NodeCounts(ApiModel):
    """The pool's nodes; each counts once."""

    ready: Whole | None = Field(default=None, ge=0, description="Nodes that are Ready and take pods.")
    not_ready: Whole | None = Field(default=None, ge=0, description="Nodes that are not Ready.")
    cordoned: Whole | None = Field(
        default=None, ge=0, description="Nodes that are Ready and that somebody else cordoned."
    )
    booting: Whole | None = Field(
        default=None, ge=0, description="Nodes on their way: promised, or without usable GPUs yet."
    )
    draining: Whole | None = Field(
        default=None, ge=0, description="Nodes that Spillway empties to remove them."
    )
    doomed: Whole | None = Field(
        default=None, ge=0, description="Nodes that are taken back or lost; they count as no supply."
    )


class PoolRefusal(ApiModel):
    """One answer of the provider that gave no node."""

    time: datetime = Field(description="When it was given.")
    kind: RefusalKind = Field(
        description="Capacity, Quota and Permission close the pool for a while; Other proves nothing."
    )
    code: Short | None = Field(default=None, description="The provider's own word.")
    message: Long | None = Field(default=None, description="The provider's own sentence.")
    zone: Short | None = Field(default=None, description="Zone that it is about, where the provider says so.")


class GpuNodePoolStatus(ApiModel):
    """What is. Rewritten when it changes, not on every pass."""

    observed_generation: Whole | None = Field(
        default=None, ge=0, description="metadata.generation that this status speaks about."
    )
    mode: Short | None = Field(
        default=None,
        description="Mode in force after the operator's setting.",
    )
    nodes: NodeCounts | None = Field(default=None, description="The pool's nodes; each counts once.")
    desired_nodes: Whole | None = Field(
        default=None,
        ge=0,
        description="Nodes that the provider was last asked for, by whomever. Absent where it does not say.",
    )
    target_nodes: Whole | None = Field(
        default=None,
        ge=0,
        description="Nodes wanted now; where the pool may not be sized, what would be asked for.",
    )
    closed_until: datetime | None = Field(
        default=None, description="Until when no node is asked for after refusals; then one is tried."
    )
    failed_probes: Whole | None = Field(
        default=None, ge=0, description="How often in a row a pool that refused has refused the one node too."
    )
    breaker_open_until: datetime | None = Field(
        default=None, description="Until when no node is asked for after interruptions; then one is tried."
    )
    last_refusals: (
        Annotated[tuple[PoolRefusal, ...], AtomicList(), Field(max_length=KEPT_REFUSALS)] | None
    ) = Field(default=None, description="The provider's last refusals, oldest first.")
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
    description="GpuNodePool names a group of GPU nodes and their price. Spillway observes and prices them, and sizes the group "
    "where spec.mode and the provider allow it. Deleting it leaves the nodes as they are.",
    spec=GpuNodePoolSpec,
    status=GpuNodePoolStatus,
    columns=(
        PrinterColumn(name="Type", path=".spec.capacityType", description="On which terms nodes are rented."),
        PrinterColumn(name="Mode", path=".status.mode", description="Mode in force."),
        PrinterColumn(name="Model", path=".spec.node.gpuModel", description="GPU model.", priority=1),
        PrinterColumn(
            name="Nodes", path=".status.nodes.ready", type="integer", description="Nodes that take pods."
        ),
        PrinterColumn(
            name="Desired",
            path=".status.targetNodes",
            type="integer",
            description="Nodes wanted now.",
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
            name="Capacity",
            path='.status.conditions[?(@.type=="CapacityAvailable")].reason',
            description="What becomes of the pool's size, in a word.",
        ),
        PrinterColumn(
            name="Reason",
            path='.status.conditions[?(@.type=="Ready")].reason',
            description="What is known of the pool, in a word.",
        ),
        AGE_COLUMN,
    ),
)
