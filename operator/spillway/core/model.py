"""What the decision looks at: frozen values, made by `api.convert` and `adapters`, read by `core`.

Times are timezone-aware UTC `datetime`; durations are `timedelta`; shares and utilizations are fractions (0.8, not 80).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from spillway.core.scheduling import ANYWHERE, Constraints, Taint
from spillway.core.signal import Collection


class Mode(StrEnum):
    """How much Spillway may do for one workload; the members are ordered from weakest to strongest."""

    OBSERVE = "Observe"
    SCALE_UP_ONLY = "ScaleUpOnly"
    ENFORCE = "Enforce"


@dataclass(frozen=True, slots=True, order=True)
class ObjectKey:
    """Namespace and name of an object; compares and sorts by both."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleUpRules:
    """When and how fast replicas may be added."""

    window: timedelta
    max_increase_percent: int
    max_increase_replicas: int
    cooldown: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleDownRules:
    """When and how fast replicas may be removed."""

    window: timedelta
    max_decrease_percent: int
    max_decrease_replicas: int
    cooldown: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuActivityRules:
    """The utilization band, as fractions in (0, 1]. `low` only restricts going down; None leaves it to the N−1 check."""

    high: float
    low: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlindRules:
    """What to do while the signal is unknown: after `after`, raise to `replicas` if set; never lower."""

    after: timedelta
    replicas: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadinessRules:
    """How long a Ready pod settles before it counts, and how long a pod may load before it counts as broken."""

    settle: timedelta
    load_grace: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Guardrails:
    """What every applying policy allows at most; None is no limit. They stop growth and never shrink."""

    max_gpus_per_workload: int | None = None
    max_gpus_per_namespace: int | None = None
    spot_allowed: bool = True
    gpu_models: frozenset[str] | None = None


class Burst(StrEnum):
    """Whether replicas above the baseline go onto spot."""

    NEVER = "Never"
    WHEN_AVAILABLE = "WhenAvailable"


class FallbackPolicy(StrEnum):
    """What stands in for spot replicas that cannot be had."""

    ON_DEMAND = "OnDemand"
    WAIT = "Wait"


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackRules:
    """When on-demand replicas stand in for spot, and when they go again (node-and-spot C.4)."""

    policy: FallbackPolicy
    refused_confirm: timedelta
    provision_timeout: timedelta
    boot_deadline: timedelta
    return_probe: timedelta
    return_stable: timedelta
    min_residency: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityRules:
    """How replicas are split: `baseline` of them on demand, the rest on spot where `burst` says so.

    `pool_selector` chooses pools by their labels; empty means every pool that the template fits. `missed_load` is the share of all
    load that may go unserved: the less, the more replicas are kept to spare. None keeps none.
    """

    baseline: int
    burst: Burst
    fallback: FallbackRules
    pool_selector: Mapping[str, str] = field(default_factory=dict)
    missed_load: float | None = None


_AT_ONCE = timedelta(0)
NO_BURST = CapacityRules(
    baseline=0,
    burst=Burst.NEVER,
    fallback=FallbackRules(
        policy=FallbackPolicy.ON_DEMAND,
        refused_confirm=_AT_ONCE,
        provision_timeout=_AT_ONCE,
        boot_deadline=_AT_ONCE,
        return_probe=_AT_ONCE,
        return_stable=_AT_ONCE,
        min_residency=_AT_ONCE,
    ),
)
"""For a workload that never bursts: no timer of it is ever looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One GpuWorkload after policy merge: what its owner asked for, in the units of the core.

    `replicas` is the pin (or what HPA and `kubectl scale` write); None leaves the count to the signals.
    `mode` is what holds after guardrails and the fleet setting; `asked_mode` is what the spec or policy said.
    `unresolved` names the reason why settings could not be resolved (a missing policy): nothing shrinks then.
    """

    key: ObjectKey
    uid: str
    created_at: datetime
    target: str
    min_replicas: int
    max_replicas: int
    scale_up: ScaleUpRules
    scale_down: ScaleDownRules
    gpu_activity: GpuActivityRules
    blind: BlindRules
    readiness: ReadinessRules
    replicas: int | None = None
    mode: Mode = Mode.ENFORCE
    asked_mode: Mode = Mode.ENFORCE
    paused: bool = False
    guardrails: Guardrails = field(default_factory=Guardrails)
    capacity: CapacityRules = NO_BURST
    unresolved: str | None = None

    @property
    def target_key(self) -> ObjectKey:
        """The Deployment it scales; always in the workload's own namespace."""
        return ObjectKey(self.key.namespace, self.target)


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinFacts:
    """What the labels, annotations and managed fields of a burst twin say about it.

    `workload_uid` is the GpuWorkload that it was made for, `source_uid` the Deployment that owns it, `template` the hash of
    the source's template that it was made from, `pools` names the spot pools in its affinity, `edited_by` the field manager
    other than ours that owns a part of its spec (empty: none). `handover` is what its source is to be set to before a twin
    that nobody wants any more may go, None while it is wanted.
    """

    workload_uid: str
    source_uid: str
    template: str
    pools: tuple[str, ...] = ()
    edited_by: str = ""
    handover: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A Deployment as the API server's cache shows it.

    `gpus_per_pod` is what one pod requests of GPU resources, 0 when it requests none. `revision` is the
    `deployment.kubernetes.io/revision` annotation (0 when absent). `failure` is the message of the ReplicaFailure condition
    (a quota, an admission refusal), None when pods can be made. `requests` is what the scheduler sets aside for one pod:
    `cpu` in millicores, `memory` and `ephemeral-storage` in bytes, `pods` (always 1), and each extended resource;
    `constraints` says where it may go. `template` is a hash of the pod template. `burst_obstacles` are sentences on why a
    copy of the template could not run beside it (a host port, a claim that one pod alone may hold). `twin` is set for
    Deployments that Spillway made itself.
    """

    key: ObjectKey
    uid: str
    resource_version: str
    generation: int
    observed_generation: int
    replicas: int
    updated_replicas: int
    status_replicas: int
    selector: str
    gpus_per_pod: int
    revision: int = 0
    priority: int = 0
    paused: bool = False
    failure: str | None = None
    terminating: bool = False
    requests: Mapping[str, int] = field(default_factory=dict)
    constraints: Constraints = ANYWHERE
    template: str = ""
    burst_obstacles: tuple[str, ...] = ()
    twin: TwinFacts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSet:
    """A ReplicaSet, only for the way from a pod to its Deployment and revision."""

    key: ObjectKey
    uid: str
    owner_uid: str | None
    revision: int


class PodPhase(StrEnum):
    """Where a pod stands, from its status; who may count it is decided in `core.replicas`."""

    UNSCHEDULABLE = "Unschedulable"
    PENDING = "Pending"
    LOADING = "Loading"
    READY = "Ready"
    BROKEN = "Broken"
    UNKNOWN = "Unknown"
    TERMINATING = "Terminating"
    FINISHED = "Finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod as the API server's cache shows it.

    `since` is the last transition of the condition that gave the phase (Ready, PodScheduled) or the creation time.
    `cause` is a short machine word for Broken and Unschedulable (`CrashLoopBackOff`, `ImagePullBackOff`, …), `message` the
    cluster's own sentence. `owner_uid` and `owner_name` are the controller's, empty for a bare pod; a ReplicaSet leads on to
    its Deployment. `gpus` sums what it holds of every GPU resource, `devices` holds each extended resource by name.
    `requests` and `constraints` are as of `Deployment`. `owner_kind` is the controller's kind (`DaemonSet`, `Job`, `Node` for
    a mirror pod, empty for a bare pod). `local_volumes` names hostPath volumes and emptyDirs on disk, which a move would
    lose. `hints` holds those annotations and labels that say something about moving the pod, and its deletion cost.
    `grace` is its terminationGracePeriodSeconds.
    """

    key: ObjectKey
    uid: str
    owner_uid: str
    phase: PodPhase
    created_at: datetime
    since: datetime
    gpus: int
    node: str | None = None
    cause: str = ""
    message: str = ""
    owner_name: str = ""
    owner_kind: str = ""
    devices: Mapping[str, int] = field(default_factory=dict)
    requests: Mapping[str, int] = field(default_factory=dict)
    constraints: Constraints = ANYWHERE
    priority: int = 0
    local_volumes: tuple[str, ...] = ()
    hints: Mapping[str, str] = field(default_factory=dict)
    grace: timedelta = timedelta(seconds=30)


DELETION_COST_ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
DELETION_COST = (
    -100
)  # small on purpose: Karpenter reads a node of pods with large negative costs as an empty one


@dataclass(frozen=True, slots=True, order=True)
class PodRef:
    """One very pod: a later one of the same name has another uid."""

    key: ObjectKey
    uid: str


class CapacityType(StrEnum):
    """On which terms nodes are rented. `UNKNOWN` is for nodes outside every pool whose labels do not tell."""

    ON_DEMAND = "OnDemand"
    SPOT = "Spot"
    RESERVED = "Reserved"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCondition:
    """One condition of a node that may tell of its end."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    since: datetime | None = None


class CordonCause(StrEnum):
    """Why we cordoned a node; the value of our taint."""

    DRAIN = "drain"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True, kw_only=True)
class CordonMark:
    """Our own mark on a node: the annotation beside our taint. `id` names the drain, so that a restart finds its way back.

    `was_unschedulable` says that somebody else had cordoned it before us: then it stays so when our mark goes.
    """

    cause: CordonCause
    id: str
    since: datetime
    was_unschedulable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node as the API server's cache shows it.

    `devices` is what it offers of each extended resource, empty while no device plugin has reported. `capacity_type` and
    `gpu_model` are what its labels say, for nodes in no pool. `price_annotation` is the raw text of our price annotation, None
    without one. `allocatable` is what it offers of every resource, in the units of `Deployment.requests`. `provider_id` leads
    to the instance, `boot_id` changes when a machine comes back under the same name. `mark` is ours, None on nodes that we
    did not touch.
    """

    name: str
    ready: bool
    unschedulable: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    devices: Mapping[str, int] = field(default_factory=dict)
    capacity_type: CapacityType = CapacityType.UNKNOWN
    gpu_model: str = ""
    price_annotation: str | None = None
    uid: str = ""
    resource_version: str = ""
    created_at: datetime | None = None
    provider_id: str = ""
    boot_id: str = ""
    zone: str = ""
    allocatable: Mapping[str, int] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    conditions: tuple[NodeCondition, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    terminating: bool = False
    mark: CordonMark | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePrice:
    """What one whole node costs an hour, discount deducted, in `currency` (three letters). Never a float: it is money."""

    currency: str
    per_hour: Decimal


class ProviderType(StrEnum):
    """Who makes and removes the nodes of a pool."""

    EXTERNAL = "External"
    KWOK = "Kwok"


class ForeignPods(StrEnum):
    """Whether a voluntary drain may evict pods that no GpuWorkload in mode Enforce owns."""

    BLOCK = "Block"
    EVICT = "Evict"


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainRules:
    """When an idle node goes, and how long its drain may take. The built-ins are `api.nodepools`'."""

    min_node_age: timedelta = timedelta(seconds=120)
    idle: timedelta = timedelta(seconds=120)
    timeout: timedelta = timedelta(seconds=600)
    foreign_pods: ForeignPods = ForeignPods.BLOCK


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolBreakerRules:
    """How many interruptions within what time close a pool for growth, and for how long."""

    interruptions: int = 3
    within: timedelta = timedelta(seconds=1800)
    open_for: timedelta = timedelta(seconds=600)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePool:
    """One GpuNodePool: which nodes it means by their labels, what they are, and what its owner says that they cost.

    `gpus_per_node` counts `gpu_resource` on a healthy node. `price` is None where the owner gave none: unknown, not zero; then
    `currency` still says in which money prices on its nodes are read. `labels` are the object's own, for poolSelectors.
    `allocatable` is what a fresh node offers of every resource; empty where nobody said, then it is learned from a node.
    `taints` are those that its nodes come with.
    """

    name: str
    uid: str
    selector: Mapping[str, str]
    capacity_type: CapacityType
    gpu_resource: str
    gpus_per_node: int
    gpu_model: str = ""
    currency: str = "USD"
    price: NodePrice | None = None
    mode: Mode = Mode.OBSERVE
    provider: ProviderType = ProviderType.EXTERNAL
    labels: Mapping[str, str] = field(default_factory=dict)
    min_nodes: int = 0
    max_nodes: int = 0
    headroom_nodes: int = 0
    allocatable: Mapping[str, int] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    drain: DrainRules = field(default_factory=DrainRules)
    breaker: PoolBreakerRules = field(default_factory=PoolBreakerRules)

    @property
    def is_sizable(self) -> bool:
        """Whether its provider can be asked for nodes at all."""
        return self.provider is not ProviderType.EXTERNAL

    @property
    def is_spot(self) -> bool:
        """Whether its nodes may be taken back at short notice."""
        return self.capacity_type is CapacityType.SPOT


class InstanceState(StrEnum):
    """Where a machine of a pool stands, in its provider's eyes. `REQUESTED` is asked for and not granted."""

    REQUESTED = "Requested"
    BOOTING = "Booting"
    RUNNING = "Running"
    STOPPING = "Stopping"


_GRANTED = frozenset({InstanceState.BOOTING, InstanceState.RUNNING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One machine. `node` is the name of its Node, empty until it has one; `since` is when it reached its state."""

    id: str
    state: InstanceState
    since: datetime
    node: str = ""
    zone: str = ""


class RefusalKind(StrEnum):
    """Why a provider gave no node. `CAPACITY`, `QUOTA` and `PERMISSION` are refusals; `OTHER` proves nothing."""

    CAPACITY = "Capacity"
    QUOTA = "Quota"
    PERMISSION = "Permission"
    OTHER = "Other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One answer of a provider that gave no node: `code` is its own word, `message` its own sentence."""

    at: datetime
    kind: RefusalKind
    code: str
    message: str
    zone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolState:
    """What a pool's provider last said, at `at`. `desired` is what it was asked for, by us or anybody.

    `refusals` are those it remembers, oldest first. `error` is set where it could not be asked: then the rest is what it said
    before, and nothing may be concluded from it.
    """

    at: datetime
    desired: int
    instances: tuple[Instance, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    error: str = ""

    @property
    def granted(self) -> tuple[Instance, ...]:
        """The machines that exist or are being made, and are to stay: what `desired` counts once all are granted."""
        return tuple(found for found in self.instances if found.state in _GRANTED)

    @property
    def unfulfilled(self) -> int:
        """How many nodes were asked for and not granted."""
        return max(0, self.desired - len(self.granted))


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSplit:
    """The latches of a burst as a GpuWorkload's status holds them; read where memory has none, after a restart."""

    count: int
    spare: int = 0
    fallback_since: datetime | None = None
    fallback_cause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPool:
    """The latches of a pool as its status holds them; read where memory has none, after a restart."""

    breaker_until: datetime | None = None
    closed_until: datetime | None = None
    steps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetTimers:
    """Timers about nodes that belong to no pool; from the settings.

    `node_lost`: a node NotReady for so long is counted lost. `node_boot`: a machine that is no usable node by then is no supply. `cordon_settle`: between our cordon and looking for pods that
    slipped in. `drain_back_off`: after a drain that was blocked. `gone`: a Node object outlives its instance by so much at
    most. `pool_stale`: what a provider said that long ago counts no more. `packing_refused`: a pod unschedulable for so long
    although there was room for it was packed wrongly.
    """

    node_lost: timedelta = timedelta(seconds=60)
    node_boot: timedelta = timedelta(seconds=600)
    cordon_settle: timedelta = timedelta(seconds=5)
    drain_back_off: timedelta = timedelta(seconds=300)
    gone: timedelta = timedelta(seconds=60)
    pool_stale: timedelta = timedelta(seconds=60)
    packing_refused: timedelta = timedelta(seconds=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignAutoscaler:
    """An HPA or KEDA ScaledObject; `target_kind` is `Deployment` or `GpuWorkload`, else it is of no interest here."""

    kind: str
    key: ObjectKey
    target_kind: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything one pass may look at, frozen. `activity` is the latest answer of the GpuActivity query, or its failure.

    `collection` counts finished collections, failed ones too. `operations` holds every act that runs, waits for its cache,
    or ended since the last pass. `evaluation` is how far apart two counted collections must be; `stale_after` is the oldest
    sample that still counts; `pending_timeout` is how long a pod may find no node before its claim is released.
    `sees_all_pods` is False where only some namespaces are watched: then a GPU that looks free may be held by a pod unseen,
    and no pool is sized. `pool_states` holds by pool name what each provider last said; a pool without one is unknown.
    `stored_workloads` are the uids of all GpuWorkloads, those included that cannot be used: their twins are no orphans.
    `stored_splits` and `stored_pools` hold by uid what each object's status says of its latches.
    """

    workloads: tuple[Workload, ...]
    deployments: Mapping[ObjectKey, Deployment]
    replica_sets: tuple[ReplicaSet, ...]
    pods: tuple[Pod, ...]
    activity: Collection
    autoscalers: tuple[ForeignAutoscaler, ...] = ()
    operations: tuple["Operation", ...] = ()
    nodes: tuple[Node, ...] = ()
    pools: tuple[NodePool, ...] = ()
    pool_states: Mapping[str, PoolState] = field(default_factory=dict)
    stored_workloads: frozenset[str] = frozenset()
    stored_splits: Mapping[str, StoredSplit] = field(default_factory=dict)
    stored_pools: Mapping[str, StoredPool] = field(default_factory=dict)
    sees_all_pods: bool = True
    terminating_namespaces: frozenset[str] = frozenset()
    collection: int = 0
    evaluation: timedelta = timedelta(seconds=15)
    stale_after: timedelta = timedelta(seconds=75)
    pending_timeout: timedelta = timedelta(seconds=900)
    timers: FleetTimers = field(default_factory=FleetTimers)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetReplicas:
    """Write `to` through the Deployment's scale subresource, if it still stands at `before` and is still `target_uid`.

    `victims` are marked first by their deletion cost, so that the ReplicaSet takes these and not others. `count` is the
    workload's whole count that this write brings about, where that is not `to`: None for a workload without a twin.
    """

    workload: ObjectKey
    target: ObjectKey
    target_uid: str
    before: int
    to: int
    victims: tuple[PodRef, ...] = ()
    count: int | None = None

    @property
    def is_growth(self) -> bool:
        """Growth goes at once; everything else waits out the confirm hold."""
        return self.to > self.before

    @property
    def subject(self) -> str:
        """What it acts on; one act at a time on each."""
        return f"deployment {self.target}"

    @property
    def confirm_key(self) -> tuple[str, str]:
        """By what two proposals of it are the same one."""
        return "lower-replicas", self.target_uid


class TwinChange(StrEnum):
    """Why a twin is written."""

    CREATE = "Create"
    TEMPLATE = "Template"
    POOLS = "Pools"
    EDITED = "Edited"
    ADOPT = "Adopt"


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinPool:
    """What a burst pod needs to land on one spot pool: the pool's node labels, and tolerations for its taints."""

    name: str
    selector: Mapping[str, str]
    taints: tuple[Taint, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyTwin:
    """Make the burst twin of a Deployment, or bring it in step with its source.

    Refused if the source is no longer `source_uid`, or its template no longer `template`. `replicas` is what the twin is to
    stand at; it never starts above it. `twin_uid` is that of the twin to change, empty to make one. `edited_by` names the field
    manager whose edit is put back.
    """

    workload: ObjectKey
    workload_uid: str
    source: ObjectKey
    source_uid: str
    template: str
    twin: ObjectKey
    twin_uid: str
    replicas: int
    pools: tuple[TwinPool, ...]
    why: TwinChange
    count: int | None = None
    edited_by: str = ""

    @property
    def is_growth(self) -> bool:
        """It never lowers a count: at once."""
        return True

    @property
    def subject(self) -> str:
        """What it acts on."""
        return f"deployment {self.twin}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HandOverTwin:
    """Note on a twin whose GpuWorkload is gone what its source must be set to before it goes, so that a restart finds it."""

    twin: ObjectKey
    twin_uid: str
    replicas: int

    @property
    def is_growth(self) -> bool:
        """It takes nothing away."""
        return True

    @property
    def subject(self) -> str:
        """What it acts on."""
        return f"deployment {self.twin}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteTwin:
    """Delete a twin that stands at no replicas, or whose pods have all been replaced, if it is still `twin_uid`."""

    workload: ObjectKey
    twin: ObjectKey
    twin_uid: str
    before: int

    @property
    def is_growth(self) -> bool:
        """It takes pods away: never at once."""
        return False

    @property
    def subject(self) -> str:
        """What it acts on."""
        return f"deployment {self.twin}"

    @property
    def confirm_key(self) -> tuple[str, str]:
        """By what two proposals of it are the same one."""
        return "delete-twin", self.twin_uid


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearDeletionCost:
    """Take our deletion cost off pods that outlived the reduction it was set for."""

    pods: tuple[PodRef, ...]

    @property
    def is_growth(self) -> bool:
        """It takes nothing away."""
        return True

    @property
    def subject(self) -> str:
        """What it acts on."""
        return "deletion costs"


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowPool:
    """Ask a pool's provider for `to` nodes in all, if it was last asked for `before`."""

    pool: str
    pool_uid: str
    before: int
    to: int

    @property
    def is_growth(self) -> bool:
        """At once."""
        return True

    @property
    def subject(self) -> str:
        """What it acts on."""
        return f"pool {self.pool}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelUnfulfilled:
    """Take back nodes that were asked for and not granted, down to `to`; no machine goes by it."""

    pool: str
    pool_uid: str
    before: int
    to: int

    @property
    def is_growth(self) -> bool:
        """No capacity is lost: at once."""
        return True

    @property
    def subject(self) -> str:
        """What it acts on."""
        return f"pool {self.pool}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CordonNode:
    """Mark a node `unschedulable` with our taint and annotation, if it is still `node_uid`."""

    node: str
    node_uid: str
    cause: CordonCause
    id: str
    pool: str = ""

    @property
    def is_growth(self) -> bool:
        """At once where the node is lost anyway; a voluntary one waits."""
        return self.cause is CordonCause.INTERRUPTED

    @property
    def subject(self) -> str:
        """What it acts on."""
        return f"node {self.node}"

    @property
    def confirm_key(self) -> tuple[str, str]:
        """By what two proposals of it are the same one."""
        return "cordon", self.node_uid


@dataclass(frozen=True, slots=True, kw_only=True)
class UncordonNode:
    """Take our mark off a node, and its `unschedulable` unless somebody else had set that before us."""

    node: str
    node_uid: str
    why: str = ""

    @property
    def is_growth(self) -> bool:
        """At once."""
        return True

    @property
    def subject(self) -> str:
        """What it acts on."""
        return f"node {self.node}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainNode:
    """Empty a node that carries our mark `id` and remove exactly its instance.

    The list of pods is read live. Of the pods on it only those of the ReplicaSets in `movable` may be evicted, and others
    where `foreign_pods` says so; any other live pod ends it with nothing removed.
    """

    pool: str
    node: str
    node_uid: str
    instance: str
    id: str
    movable: frozenset[str]
    foreign_pods: ForeignPods

    @property
    def is_growth(self) -> bool:
        """Never at once."""
        return False

    @property
    def subject(self) -> str:
        """What it acts on."""
        return f"node {self.node}"

    @property
    def confirm_key(self) -> tuple[str, str]:
        """By what two proposals of it are the same one."""
        return "drain", self.node_uid


@dataclass(frozen=True, slots=True, kw_only=True)
class EvictDoomed:
    """Evict these pods of a node that ends at `deadline`, each with a grace that fits what is left of the notice."""

    node: str
    node_uid: str
    pods: tuple[PodRef, ...]
    deadline: datetime

    @property
    def is_growth(self) -> bool:
        """At once: the node is lost anyway."""
        return True

    @property
    def subject(self) -> str:
        """What it acts on."""
        return f"node {self.node}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetNode:
    """Delete the Node object of an instance that its provider no longer has."""

    pool: str
    node: str
    node_uid: str
    instance: str

    @property
    def is_growth(self) -> bool:
        """Never at once."""
        return False

    @property
    def subject(self) -> str:
        """What it acts on."""
        return f"node {self.node}"

    @property
    def confirm_key(self) -> tuple[str, str]:
        """By what two proposals of it are the same one."""
        return "forget-node", self.node_uid


ReplicaAct = SetReplicas | ApplyTwin | HandOverTwin | DeleteTwin
PoolAct = GrowPool | CancelUnfulfilled
NodeAct = CordonNode | UncordonNode | DrainNode | EvictDoomed | ForgetNode
HeldAct = SetReplicas | DeleteTwin | CordonNode | DrainNode | ForgetNode
"""Acts that may have to wait out the confirm hold; they carry a `confirm_key`."""
Act = ReplicaAct | ClearDeletionCost | PoolAct | NodeAct


class OperationState(StrEnum):
    """Where an act stands. `LANDED` and `FAILED` are seen by exactly one pass."""

    RUNNING = "Running"
    AWAITING_CACHE = "AwaitingCache"
    LANDED = "Landed"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An act on its way. While Running or AwaitingCache its subject is not decided again; Failed has spent nothing.

    `error` says why it failed. `blocked` is set where a drain met a pod that it may not move: that pod and why.
    """

    act: Act
    state: OperationState
    error: str = ""
    blocked: str = ""

    @property
    def is_under_way(self) -> bool:
        """Whether its subject is not to be acted on again yet."""
        return self.state in (OperationState.RUNNING, OperationState.AWAITING_CACHE)
