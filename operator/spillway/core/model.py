"""What the decision looks at: frozen values, made by `api.convert` and `adapters`, read by `core`.

Times are timezone-aware UTC `datetime`; durations are `timedelta`; shares and utilizations are fractions (0.8, not 80).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

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
    unresolved: str | None = None

    @property
    def target_key(self) -> ObjectKey:
        """The Deployment it scales; always in the workload's own namespace."""
        return ObjectKey(self.key.namespace, self.target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A Deployment as the API server's cache shows it.

    `gpus_per_pod` is what one pod requests of GPU resources, 0 when it requests none. `revision` is the
    `deployment.kubernetes.io/revision` annotation (0 when absent). `failure` is the message of the ReplicaFailure condition
    (a quota, an admission refusal), None when pods can be made.
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
    devices: Mapping[str, int] = field(default_factory=dict)


class CapacityType(StrEnum):
    """On which terms nodes are rented. `UNKNOWN` is for nodes outside every pool whose labels do not tell."""

    ON_DEMAND = "OnDemand"
    SPOT = "Spot"
    RESERVED = "Reserved"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node as the API server's cache shows it.

    `devices` is what it offers of each extended resource, empty while no device plugin has reported. `capacity_type` and
    `gpu_model` are what its labels say, for nodes in no pool. `price_annotation` is the raw text of our price annotation, None
    without one.
    """

    name: str
    ready: bool
    unschedulable: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    devices: Mapping[str, int] = field(default_factory=dict)
    capacity_type: CapacityType = CapacityType.UNKNOWN
    gpu_model: str = ""
    price_annotation: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePrice:
    """What one whole node costs an hour, discount deducted, in `currency` (three letters). Never a float: it is money."""

    currency: str
    per_hour: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePool:
    """One GpuNodePool: which nodes it means by their labels, what they are, and what its owner says that they cost.

    `gpus_per_node` counts `gpu_resource` on a healthy node. `price` is None where the owner gave none: unknown, not zero; then
    `currency` still says in which money prices on its nodes are read.
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
    `sees_all_pods` is False where only some namespaces are watched: then a GPU that looks free may be held by a pod unseen.
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
    sees_all_pods: bool = True
    terminating_namespaces: frozenset[str] = frozenset()
    collection: int = 0
    evaluation: timedelta = timedelta(seconds=15)
    stale_after: timedelta = timedelta(seconds=75)
    pending_timeout: timedelta = timedelta(seconds=900)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetReplicas:
    """Write `to` through the Deployment's scale subresource, if it still stands at `before` and is still `target_uid`."""

    workload: ObjectKey
    target: ObjectKey
    target_uid: str
    before: int
    to: int

    @property
    def is_growth(self) -> bool:
        """Growth goes at once; everything else waits out the confirm hold."""
        return self.to > self.before


Act = SetReplicas


class OperationState(StrEnum):
    """Where an act stands. `LANDED` and `FAILED` are seen by exactly one pass."""

    RUNNING = "Running"
    AWAITING_CACHE = "AwaitingCache"
    LANDED = "Landed"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An act on its way. While Running or AwaitingCache its target is not decided again; Failed has spent nothing."""

    act: Act
    state: OperationState
    error: str = ""
