"""What a pass decided: a decision per workload with every number that led to it, and the acts to carry out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Generic, TypeVar

from spillway.core.memory import Memory
from spillway.core.model import Act, Mode, ObjectKey, Refusal
from spillway.core.signal import SignalReason, SignalState


class LimitReason(StrEnum):
    """Everything that may change a proposal, in the fixed order in which it is applied (workload-autoscalers C.5)."""

    N_MINUS_ONE = "NMinusOne"
    METRICS_HOLD = "MetricsHold"
    CIRCUIT_BREAKER = "CircuitBreaker"
    POLICY_NOT_FOUND = "PolicyNotFound"
    SIGNAL_INELASTIC = "SignalInelastic"
    CAPACITY_IN_FLIGHT = "CapacityInFlight"
    CAPACITY_EXHAUSTED = "CapacityExhausted"
    UP_STEP = "UpStepLimit"
    DOWN_STEP = "DownStepLimit"
    TAKEOVER = "Takeover"
    UP_WINDOW = "UpWindow"
    DOWN_WINDOW = "DownWindow"
    FOREIGN_CHANGE = "ForeignChange"
    UP_COOLDOWN = "UpCooldown"
    DOWN_COOLDOWN = "DownCooldown"
    ROLLOUT_IN_PROGRESS = "RolloutInProgress"
    REVISION_BROKEN = "RevisionBroken"
    MIN_REPLICAS = "MinReplicas"
    MAX_REPLICAS = "MaxReplicas"
    GPU_LIMIT_WORKLOAD = "GpuLimitWorkload"
    GPU_LIMIT_NAMESPACE = "GpuLimitNamespace"
    GPU_MODEL_FORBIDDEN = "GpuModelForbidden"
    SCALE_UP_ONLY = "ScaleUpOnly"


class Cause(StrEnum):
    """What the proposal follows from, before any limit."""

    UTILIZATION_HIGH = "UtilizationHigh"
    UTILIZATION_PEGGED = "UtilizationPegged"
    UTILIZATION_LOW = "UtilizationLow"
    WITHIN_BAND = "WithinBand"
    PENDING_CANCELLED = "PendingCancelled"
    PENDING_RELEASED = "PendingReleased"
    METRICS_MISSING_FLOOR = "MetricsMissingFloor"
    METRICS_UNKNOWN = "MetricsUnknown"
    PINNED = "Pinned"
    NOT_DECIDED = "NotDecided"


class InactiveReason(StrEnum):
    """Why Spillway writes no replicas for a workload whatever its signal says."""

    OBSERVE = "ObserveOnly"
    PAUSED = "Paused"
    TARGET_NOT_FOUND = "TargetNotFound"
    TARGET_REQUESTS_NO_GPU = "TargetRequestsNoGpu"
    TARGET_TERMINATING = "TargetTerminating"
    NAMESPACE_TERMINATING = "NamespaceTerminating"
    SCALED_TO_ZERO = "ScaledToZero"
    CONFLICT = "Conflict"
    INTERNAL_ERROR = "InternalError"


class ConflictReason(StrEnum):
    """Who else writes the same replicas, or what keeps two writers apart."""

    HPA_ON_TARGET = "HpaOnTarget"
    SCALED_OBJECT_ON_TARGET = "ScaledObjectOnTarget"
    DUPLICATE_WORKLOAD = "DuplicateWorkload"
    SCALE_UNSET = "ScaleUnset"


class CapacityReason(StrEnum):
    """Why replicas that were asked for do not serve."""

    UNSCHEDULABLE = "Unschedulable"
    REPLICA_FAILURE = "ReplicaFailure"
    REVISION_BROKEN = "RevisionBroken"
    PODS_BROKEN = "PodsBroken"
    EXHAUSTED = "CapacityExhausted"
    PACKING_REFUSED = "PackingRefused"


class BurstReason(StrEnum):
    """Whether replicas above the baseline run on spot, and if not, why not. The first two mean that the burst works."""

    BURSTING = "Bursting"
    POOLS_CHANGED = "PoolsChanged"
    NO_BURST_NEEDED = "NoBurstNeeded"
    BURST_NEVER = "BurstNever"
    SPOT_FORBIDDEN = "SpotForbidden"
    NO_SPOT_POOL = "NoSpotPool"
    TEMPLATE_CANNOT_BURST = "TemplateCannotBurst"
    TWIN_NAME_TAKEN = "TwinNameTaken"
    TWIN_REFUSED = "TwinRefused"
    PODS_NOT_CREATED = "PodsNotCreated"
    MODE_FORBIDS = "ModeForbids"


class FallbackReason(StrEnum):
    """Why on-demand replicas stand in for spot, or do not."""

    NOT_NEEDED = "NotNeeded"
    SPOT_REFUSED = "SpotRefused"
    POOL_MAX = "PoolMax"
    BREAKER_OPEN = "BreakerOpen"
    PACKING_REFUSED = "PackingRefused"
    TWIN_REFUSED = "TwinRefused"
    PROVISION_TIMEOUT = "ProvisionTimeout"
    BOOT_DEADLINE = "BootDeadline"
    INTERRUPTED = "Interrupted"
    RETURNING = "Returning"
    WAITING = "Waiting"
    BURST_BROKEN = "BurstBroken"


class IsolationReason(StrEnum):
    """Whether baseline replicas are kept off spot nodes."""

    ISOLATED = "Isolated"
    NO_SPOT_POOL = "NoSpotPool"
    SPOT_POOL_UNTAINTED = "SpotPoolUntainted"
    BASELINE_TOLERATES_SPOT = "BaselineToleratesSpot"
    BASELINE_ON_SPOT = "BaselineOnSpot"


class PoolReason(StrEnum):
    """What happens with a pool, in a word."""

    STEADY = "Steady"
    GROWING = "Growing"
    SHRINKING = "Shrinking"
    BOOTING = "Booting"
    AT_MAX = "AtMax"
    AT_MIN = "AtMin"
    REFUSED = "Refused"
    PROBING = "Probing"
    BREAKER_OPEN = "BreakerOpen"
    PROVIDER_UNAVAILABLE = "ProviderUnavailable"
    DRAIN_BLOCKED = "DrainBlocked"
    OBSERVED = "Observed"
    EXTERNAL = "External"
    PODS_PARTLY_SEEN = "PodsPartlySeen"
    SHARED_NODES = "SharedNodes"


class CloseReason(StrEnum):
    """Why a pool takes no more nodes for now."""

    EXTERNAL = "External"
    OBSERVED = "Observed"
    PODS_PARTLY_SEEN = "PodsPartlySeen"
    SHARED_NODES = "SharedNodes"
    PROVIDER_UNAVAILABLE = "ProviderUnavailable"
    REFUSED = "Refused"
    BREAKER_OPEN = "BreakerOpen"
    AT_MAX = "AtMax"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One limiter that changed the count, and until when it will if that is known."""

    reason: LimitReason
    before: int
    after: int
    message: str
    until: datetime | None = None


R = TypeVar("R", bound=StrEnum)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding(Generic[R]):
    """A closed reason and the sentence that goes with it: numbers first, then the next step."""

    reason: R
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaCounts:
    """The target's live pods by what they can do; `settled` pods are the part of `ready` whose samples count."""

    ready: int = 0
    settled: int = 0
    loading: int = 0
    unschedulable: int = 0
    broken: int = 0
    terminating: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalView:
    """The GPU activity that the decision used.

    `value` is the mean utilization in 0..1 over pods with samples, None when unknown; `coverage` the share of settled pods
    that have a valid sample; `age_seconds` that of the oldest sample used.
    """

    state: SignalState
    reason: SignalReason
    message: str
    value: float | None = None
    coverage: float = 0.0
    age_seconds: float | None = None
    high: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitView:
    """How a workload's count is laid out on demand and on spot.

    `baseline` and `burst` are what the Deployment and its twin are to be set to, `fallback` the part of `baseline` that
    stands in for spot, `spare` the part of `burst` beyond the count, kept because spot is lost and load grows; `spare_why` says by how much. The `…_now` figures are what they are set to, `good_…` their replicas that serve on nodes that stay.
    `booting`, `refused`, `doomed` and `broken` sort the burst replicas that do not.
    """

    baseline: int
    burst: int
    fallback: int
    baseline_now: int
    burst_now: int
    good_baseline: int = 0
    good_burst: int = 0
    booting: int = 0
    refused: int = 0
    doomed: int = 0
    broken: int = 0
    spare: int = 0
    spare_why: str = ""
    fallback_since: datetime | None = None
    twin: str = ""
    pools: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityView:
    """What a workload's capacity settings came to, one finding for each condition; `is_true` says its status."""

    split: SplitView | None
    burst: Finding[BurstReason]
    fallback: Finding[FallbackReason]
    isolation: Finding[IsolationReason]
    bursts: bool = False
    falls_back: bool = False
    is_isolated: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Why one workload stands at its count.

    `current` is the count that stands: the target's `spec.replicas`, and with a burst both Deployments less what overlaps;
    `proposal` is what cause alone would give; `desired` what is left after every limit. `inactive` says why `desired` is not written; then it shows what would have been done.
    """

    key: ObjectKey
    uid: str
    mode: Mode
    current: int
    proposal: int
    desired: int
    cause: Cause
    message: str
    signal: SignalView
    counts: ReplicaCounts = field(default_factory=ReplicaCounts)
    limits: tuple[Limit, ...] = ()
    inactive: Finding[InactiveReason] | None = None
    conflict: Finding[ConflictReason] | None = None
    capacity: Finding[CapacityReason] | None = None
    target_uid: str = ""
    selector: str = ""
    gpus_per_pod: int = 0
    in_flight: bool = False
    placement: CapacityView | None = None

    @property
    def reason(self) -> str:
        """The one word for it: why it is not acted on, else the cause of a change, else the first limit that held it."""
        if self.inactive is not None:
            return str(self.inactive.reason)
        if self.desired == self.current and self.limits:
            return str(self.limits[0].reason)
        return str(self.cause)

    @property
    def why(self) -> str:
        """The sentence that goes with `reason`; in Observe what would have been done and why."""
        told = self.limits[0].message if self.desired == self.current and self.limits else self.message
        if self.inactive is None:
            return told
        if self.inactive.reason is InactiveReason.OBSERVE:
            return f"{told} ({self.inactive.message})"
        return self.inactive.message


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerView:
    """The fleet-wide circuit breaker: how many workloads that were busy lost their signal, of how many."""

    is_open: bool
    lost: int = 0
    active: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolDecision:
    """What is to become of one pool.

    `size` counts machines that exist or boot, `desired` what the provider was last asked for (None: unknown), `target` what
    is wanted now; without a right to size it, `target` says what would be wanted. `closed` says why it takes no more nodes,
    until `closed_until` where that is known. `booting` counts promised machines too; `booting_nodes`, `draining` and `doomed`
    name nodes. `refusals` are the last three.
    """

    name: str
    mode: Mode
    size: int
    desired: int | None
    target: int
    reason: PoolReason
    message: str
    closed: Finding[CloseReason] | None = None
    closed_until: datetime | None = None
    steps: int = 0
    booting: int = 0
    booting_nodes: tuple[str, ...] = ()
    draining: tuple[str, ...] = ()
    doomed: tuple[str, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    interruptions: int = 0
    breaker_until: datetime | None = None
    packing_refused: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The outcome of a pass. `wake_at` is when time alone could change it; None when only news can."""

    decisions: Mapping[ObjectKey, Decision]
    acts: tuple[Act, ...]
    memory: Memory
    breaker: BreakerView
    pools: Mapping[str, PoolDecision] = field(default_factory=dict)
    wake_at: datetime | None = None
