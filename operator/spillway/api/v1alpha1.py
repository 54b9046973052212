"""The models of `spillway.dev/v1alpha1`: the one source of the CRDs, of parsing, of the field reference.

A field that a policy can default has no default here (see `defaults`). Every string, list and map is bounded, because the
API server prices CEL rules by the largest object the schema allows.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field, Strict, StringConstraints

from spillway.api import defaults, names
from spillway.api.markers import (
    BUILT_IN_KEY,
    ApiModel,
    AtomicList,
    Form,
    Kind,
    ListMap,
    ListSet,
    PrinterColumn,
    Rule,
    Truncated,
)
from spillway.core.model import Burst, FallbackPolicy, Mode

MAX_REPLICAS: Final = 10_000
MAX_GPUS: Final = 1_000_000
MAX_SECONDS: Final = 86_400
MAX_DECISIONS: Final = 10
MAX_POOLS: Final = 64  # spot pools of one workload: each multiplies the terms of its twin's affinity
INT32_MAX: Final = 2_147_483_647

Whole = Annotated[int, Strict()]
DnsLabel = Annotated[
    str,
    StringConstraints(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"),
    Form("a name of lower-case letters, digits and '-'"),
]
DnsName = Annotated[
    str,
    StringConstraints(
        max_length=253, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
    ),
    Form("a name of lower-case letters, digits, '-' and '.'"),
]
LabelKey = Annotated[
    str,
    StringConstraints(
        min_length=1, max_length=317, pattern=r"^([a-z0-9.-]+/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
    ),
    Form("a label key"),
]
LabelValue = Annotated[
    str,
    StringConstraints(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"),
    Form("a label value"),
]
CostLabel = Annotated[
    str,
    StringConstraints(
        min_length=1, max_length=128, pattern=r"^[A-Za-z0-9]([A-Za-z0-9 ._/:@+-]*[A-Za-z0-9])?$"
    ),
    Form("letters, digits, spaces and any of . _ / : @ + - inside"),
]
Short = Annotated[str, Truncated(128)]
Long = Annotated[str, Truncated(1024)]


def _setting(path: str, text: str, *, ge: int | None = None, le: int | None = None) -> Any:  # noqa: ANN401  as pydantic's own Field
    """Describe a field that a policy can default; its built-in comes from `defaults` by *path*."""
    built_in = defaults.SPEC_DEFAULTS[path]
    shown = defaults.FOLLOWS.get(path, "not set") if built_in is None else built_in
    return Field(default=None, description=text, ge=ge, le=le, json_schema_extra={BUILT_IN_KEY: shown})


def _seconds(path: str, text: str, *, le: int = MAX_SECONDS) -> Any:  # noqa: ANN401  as pydantic's own Field
    return _setting(path, text, ge=1, le=le)


class TargetRef(ApiModel):
    """The Deployment to scale, in the same namespace."""

    api_version: Literal["apps/v1"] = Field(default="apps/v1", description="API version of the target.")
    kind: Literal["Deployment"] = Field(default="Deployment", description="Kind of the target.")
    name: DnsName = Field(description="Name of the Deployment, in the namespace of this GpuWorkload.")


class PolicyRef(ApiModel):
    """A GpuPolicy by name."""

    name: DnsName = Field(
        description="Name of the GpuPolicy. If it does not exist, nothing shrinks until it does."
    )


class GpuActivity(ApiModel):
    """The band in which GPU activity should stay."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.lowPercent) || self.lowPercent < "
            f"(has(self.highPercent) ? self.highPercent : {defaults.HIGH_PERCENT})",
            holds=lambda band: (
                band.low_percent is None or band.low_percent < (band.high_percent or defaults.HIGH_PERCENT)
            ),
            message="lowPercent must be below highPercent "
            f"({defaults.HIGH_PERCENT} unless set): lower lowPercent or raise highPercent",
            field=".lowPercent",
        ),
    )

    high_percent: Whole | None = Field(
        default=None,
        ge=5,
        le=99,
        description="Mean GPU activity in percent above which replicas are added. Lower it to keep more reserve; "
        "near 99 replicas are added only when requests already wait.",
        json_schema_extra={BUILT_IN_KEY: defaults.HIGH_PERCENT},
    )
    low_percent: Whole | None = Field(
        default=None,
        ge=1,
        le=98,
        description="Replicas are removed only while mean GPU activity, in percent, is below this. It only restricts: "
        "the replicas that stay must fit under 90 % of highPercent in any case.",
        json_schema_extra={BUILT_IN_KEY: "not set"},
    )


class SignalType(StrEnum):
    """Where a signal comes from."""

    GPU_ACTIVITY = "GpuActivity"


class Signal(ApiModel):
    """One measure of demand."""

    name: DnsLabel = Field(description="Your name for the signal, unique in the list.")
    type: SignalType = Field(
        description="GpuActivity: the share of time in which the GPUs of the pods work, from NVIDIA DCGM through Prometheus."
    )
    gpu_activity: GpuActivity | None = Field(default=None, description="Settings of a GpuActivity signal.")


class WhenMetricsMissing(ApiModel):
    """What to do when the load cannot be seen. Until then, and without `replicas`, the count holds. It never falls."""

    after_seconds: Whole | None = _seconds(
        "whenMetricsMissing.afterSeconds",
        "Seconds without usable metrics before `replicas` applies. 60 or more is sensible: shorter reacts to one lost scrape.",
    )
    replicas: Whole | None = _setting(
        "whenMetricsMissing.replicas",
        "Replicas to raise to while blind, kept within minReplicas and maxReplicas. A higher current count stays.",
        ge=1,
        le=MAX_REPLICAS,
    )


class ScaleUp(ApiModel):
    """When and how fast replicas are added."""

    window_seconds: Whole | None = _seconds(
        "scaleUp.windowSeconds",
        "Seconds that activity must stay above highPercent before replicas are added.",
        le=3600,
    )
    max_increase_percent: Whole | None = _setting(
        "scaleUp.maxIncreasePercent",
        "Most replicas to add in 60 s, in percent of the current count. The larger of this and maxIncreaseReplicas holds.",
        ge=0,
        le=1000,
    )
    max_increase_replicas: Whole | None = _setting(
        "scaleUp.maxIncreaseReplicas",
        "Most replicas to add in 60 s, as a count. The larger of this and maxIncreasePercent holds.",
        ge=1,
        le=MAX_REPLICAS,
    )
    cooldown_seconds: Whole | None = _seconds(
        "scaleUp.cooldownSeconds", "Seconds after a removal in which nothing is added again."
    )


class ScaleDown(ApiModel):
    """When and how fast replicas are removed."""

    window_seconds: Whole | None = _seconds(
        "scaleDown.windowSeconds",
        "Seconds looked back for the busiest minute; only what that minute would not have needed is removed.",
        le=21_600,
    )
    max_decrease_percent: Whole | None = _setting(
        "scaleDown.maxDecreasePercent",
        "Most replicas to remove in 60 s, in percent of the current count. The larger of this and maxDecreaseReplicas holds.",
        ge=0,
        le=100,
    )
    max_decrease_replicas: Whole | None = _setting(
        "scaleDown.maxDecreaseReplicas",
        "Most replicas to remove in 60 s, as a count. The larger of this and maxDecreasePercent holds.",
        ge=1,
        le=MAX_REPLICAS,
    )
    cooldown_seconds: Whole | None = _seconds(
        "scaleDown.cooldownSeconds", "Seconds after added replicas became Ready in which nothing is removed."
    )


class Readiness(ApiModel):
    """How pods of this model start."""

    settle_seconds: Whole | None = _seconds(
        "readiness.settleSeconds",
        "Seconds after a pod turns Ready before its GPU activity counts; warm-up is not demand.",
        le=3600,
    )
    load_grace_seconds: Whole | None = _seconds(
        "readiness.loadGraceSeconds",
        "Seconds a pod may take to load its model before it counts as broken. Set it above your slowest start.",
    )


Percent = Annotated[
    str,
    StringConstraints(max_length=5, pattern=r"^(100|[1-9][0-9]?(\.[0-9]{1,2})?|0\.(0[1-9]|[1-9][0-9]?))$"),
    Form("a share from '0.01' to '100', in quotes"),
]
"""A share in percent, 0.01 to 100, as text: the API knows no fractions."""


class PoolSelector(ApiModel):
    """GpuNodePools by their labels; the empty one selects every pool."""

    ATOMIC: ClassVar[bool] = True

    match_labels: Annotated[dict[str, LabelValue], Field(max_length=16)] | None = Field(
        default=None,
        description="Labels that a GpuNodePool must have, all of them, with exactly these values.",
    )


class Fallback(ApiModel):
    """What happens to burst replicas that find no spot node. The seconds are how long each kind of failure is waited out."""

    policy: FallbackPolicy | None = _setting(
        "capacity.fallback.policy",
        "OnDemand: replicas on demand stand in until spot is back. Wait: nothing stands in, and the count stays short.",
    )
    refused_confirm_seconds: Whole | None = _seconds(
        "capacity.fallback.refusedConfirmSeconds",
        "Seconds that a provider's refusal of spot nodes must stand before replicas stand in; a second refusal confirms it at once.",
    )
    provision_timeout_seconds: Whole | None = _seconds(
        "capacity.fallback.provisionTimeoutSeconds",
        "Seconds that a burst pod may wait for a node that nobody has refused or promised.",
    )
    boot_deadline_seconds: Whole | None = _seconds(
        "capacity.fallback.bootDeadlineSeconds",
        "Seconds that a promised spot node may take until its GPUs can be used. Set it above your slowest boot.",
    )
    return_probe_seconds: Whole | None = _seconds(
        "capacity.fallback.returnProbeSeconds",
        "Seconds before a pool that refused is asked for one node again; each failure doubles them, up to six times as long.",
    )
    return_stable_seconds: Whole | None = _seconds(
        "capacity.fallback.returnStableSeconds",
        "Seconds that a burst replica must have served before the one that stood in for it goes.",
    )
    min_residency_seconds: Whole | None = _seconds(
        "capacity.fallback.minResidencySeconds",
        "Seconds that a replica stands in at least, since loading a model is paid for too.",
    )


class Capacity(ApiModel):
    """Which replicas run on demand and which may run on spot, in a second Deployment that Spillway makes beside yours."""

    baseline_replicas: Whole | None = _setting(
        "capacity.baselineReplicas",
        "Replicas that always run on demand, in your own Deployment; those above it are the burst. Where a policy's value is "
        "above maxReplicas, maxReplicas wins.",
        ge=0,
        le=MAX_REPLICAS,
    )
    burst: Burst | None = _setting(
        "capacity.burst",
        "WhenAvailable: replicas above baselineReplicas go onto spot pools. Never: all run in your own Deployment.",
    )
    pool_selector: PoolSelector | None = Field(
        default=None,
        description="The GpuNodePools that burst replicas may use, by their labels. A selector here replaces a policy's as a whole.",
        json_schema_extra={BUILT_IN_KEY: "every pool that the pods fit"},
    )
    missed_load_percent: Percent | None = _setting(
        "capacity.missedLoadPercent",
        "The share of all load that may go unserved while spot is lost or load grows, from 0.01. The smaller, the more spot replicas are "
        "kept to spare and the sooner on-demand ones stand in: each halving costs about 10 percent more. 100 keeps none to spare and "
        "stands in for every replica that is lost, at once.",
    )
    fallback: Fallback | None = Field(
        default=None, description="What happens to burst replicas that find no spot node."
    )


class Cost(ApiModel):
    """Names for the bill: labels of the cost metrics. They change no decision."""

    model: CostLabel | None = Field(
        default=None, description="Model served, for example meta-llama/Llama-3.1-70B."
    )
    application: CostLabel | None = Field(default=None, description="Application that the model serves.")
    team: CostLabel | None = Field(default=None, description="Team that pays.")


Signals = Annotated[tuple[Signal, ...], ListMap("name"), Field(min_length=1, max_length=1)]
_MIN_OVER_MAX: Final = "minReplicas must not exceed maxReplicas: lower minReplicas or raise maxReplicas"


class GpuWorkloadSpec(ApiModel):
    """What you want. The shortest useful form is `targetRef.name` and `maxReplicas`."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.minReplicas) || self.minReplicas <= self.maxReplicas",
            holds=lambda spec: spec.min_replicas is None or spec.min_replicas <= spec.max_replicas,
            message=_MIN_OVER_MAX,
            field=".minReplicas",
        ),
        Rule(
            cel="!has(self.capacity) || !has(self.capacity.baselineReplicas)"
            " || self.capacity.baselineReplicas <= self.maxReplicas",
            holds=lambda spec: (
                spec.capacity is None
                or spec.capacity.baseline_replicas is None
                or spec.capacity.baseline_replicas <= spec.max_replicas
            ),
            message="capacity.baselineReplicas must not exceed maxReplicas: lower baselineReplicas or raise maxReplicas",
            field=".capacity.baselineReplicas",
        ),
    )

    target_ref: TargetRef = Field(description="The Deployment to scale, in the same namespace.")
    mode: Mode | None = _setting(
        "mode",
        "How much Spillway may do: Observe only reports, ScaleUpOnly never removes, Enforce does both. "
        "A policy or the operator's own setting may lower it.",
    )
    min_replicas: Whole | None = _setting(
        "minReplicas",
        "Replicas that always stay. Where a policy's minReplicas is above maxReplicas, maxReplicas wins.",
        ge=1,
        le=MAX_REPLICAS,
    )
    max_replicas: Whole = Field(ge=1, le=MAX_REPLICAS, description="Replicas that are never exceeded.")
    replicas: Whole | None = Field(
        default=None,
        ge=0,
        le=INT32_MAX,
        description="Fixes the count. `kubectl scale` and a HorizontalPodAutoscaler on this object write it. Kept within "
        "minReplicas and maxReplicas. Remove it to give control back to the signals.",
    )
    policy_ref: PolicyRef | None = Field(
        default=None,
        description="The GpuPolicy to take defaults from, instead of the one that matches the namespace. "
        "It does not change which guardrails apply.",
    )
    signals: Signals | None = Field(
        default=None,
        description="What tells the load. A list here replaces a policy's list as a whole.",
        json_schema_extra={BUILT_IN_KEY: f"one GpuActivity signal named {defaults.SIGNAL_NAME}"},
    )
    when_metrics_missing: WhenMetricsMissing | None = Field(
        default=None,
        description="What to do when the load cannot be seen. Unknown is not zero: the count never falls.",
    )
    scale_up: ScaleUp | None = Field(default=None, description="When and how fast replicas are added.")
    scale_down: ScaleDown | None = Field(default=None, description="When and how fast replicas are removed.")
    readiness: Readiness | None = Field(default=None, description="How pods of this model start.")
    capacity: Capacity | None = Field(
        default=None, description="Which replicas run on demand and which may run on spot."
    )
    cost: Cost | None = Field(default=None, description="Names for the bill; they change no decision.")


class Condition(ApiModel):
    """A Kubernetes condition: one aspect, True, False or Unknown, with a reason and a sentence."""

    type: Annotated[str, StringConstraints(min_length=1, max_length=64)] = Field(
        description="Which aspect; see the list of conditions in the field reference."
    )
    status: Literal["True", "False", "Unknown"] = Field(description="True, False or Unknown.")
    reason: Annotated[str, StringConstraints(min_length=1, max_length=64)] = Field(
        description="Why, as one word of a closed list; see the field reference for what to check."
    )
    message: Long = Field(description="Why, with the numbers and the next step.")
    observed_generation: Whole | None = Field(
        default=None, ge=0, description="metadata.generation of the object that this was said about."
    )
    last_transition_time: datetime = Field(
        description="When the status last changed between True, False and Unknown."
    )


class Decision(ApiModel):
    """One decision: what was seen, what it asked for, what changed that, and the result."""

    time: datetime = Field(description="When it was decided.")
    from_replicas: Whole = Field(alias="from", ge=0, description="Replicas before.")
    to_replicas: Whole = Field(alias="to", ge=0, description="Replicas decided.")
    signal: Short | None = Field(
        default=None, description="Value, mark and coverage, such as `0.83/0.80 100% cov`."
    )
    coverage_percent: Whole | None = Field(
        default=None, ge=0, le=100, description="Share of settled pods whose activity was known."
    )
    proposal: Whole | None = Field(default=None, ge=0, description="Replicas the signal alone asked for.")
    limiters: Annotated[tuple[Short, ...], AtomicList(), Field(max_length=24)] | None = Field(
        default=None, description="Every limiter that changed the proposal, in order."
    )
    reason: Short | None = Field(
        default=None, description="The first limiter, or the signal's reason when none changed it."
    )
    message: Long | None = Field(default=None, description="The decision in a sentence.")


Conditions = Annotated[tuple[Condition, ...], ListMap("type"), Field(max_length=16)]


class CapacityStatus(ApiModel):
    """How the replicas are laid out on demand and on spot. Only of a workload with a burst."""

    baseline_replicas: Whole | None = Field(
        default=None, ge=0, description="spec.capacity.baselineReplicas as it holds after policy merge."
    )
    on_demand_replicas: Whole | None = Field(
        default=None,
        ge=0,
        description="Replicas that the Deployment itself is to have, those that stand in for spot among them.",
    )
    burst_replicas: Whole | None = Field(
        default=None, ge=0, description="Replicas that the Deployment on spot is to have."
    )
    spare_replicas: Whole | None = Field(
        default=None,
        ge=0,
        description="The part of burstReplicas beyond the count, kept because spot is lost and load grows.",
    )
    fallback_replicas: Whole | None = Field(
        default=None, ge=0, description="The part of onDemandReplicas that stands in for spot."
    )
    fallback_since: datetime | None = Field(
        default=None, description="Since when replicas stand in for spot. Absent while none do."
    )
    fallback_reason: Short | None = Field(
        default=None, description="Why replicas stand in for spot: a reason of FallbackActive."
    )
    ready_on_demand: Whole | None = Field(
        default=None, ge=0, description="Pods of the Deployment itself that serve on nodes that stay."
    )
    ready_burst: Whole | None = Field(
        default=None, ge=0, description="Pods on spot that serve on nodes that stay."
    )
    twin: Short | None = Field(
        default=None, description="Name of the Deployment on spot, which Spillway made and owns."
    )
    pools: Annotated[tuple[Short, ...], AtomicList(), Field(max_length=MAX_POOLS)] | None = Field(
        default=None, description="GpuNodePools that the pods on spot may use."
    )


class GpuWorkloadStatus(ApiModel):
    """What is. Rewritten when a decision or a reason changes, not on every pass; live values are in the metrics."""

    observed_generation: Whole | None = Field(
        default=None, ge=0, description="metadata.generation that this status speaks about."
    )
    replicas: Whole | None = Field(
        default=None, ge=0, description="Replicas asked for now, on demand and on spot together."
    )
    selector: Annotated[str, StringConstraints(max_length=4096)] | None = Field(
        default=None, description="Label selector of the pods, for the scale subresource."
    )
    desired_replicas: Whole | None = Field(
        default=None, ge=0, description="Replicas wanted after all limits; in Observe, what would be set."
    )
    ready_replicas: Whole | None = Field(default=None, ge=0, description="Pods that are Ready.")
    loading_replicas: Whole | None = Field(
        default=None,
        ge=0,
        description="Pods that start or load their model; they count as supply on its way.",
    )
    mode: Short | None = Field(
        default=None, description="Mode in force after guardrails and the operator's setting."
    )
    target: Short | None = Field(default=None, description="What is scaled, such as `Deployment/llm-chat`.")
    signal: Short | None = Field(
        default=None,
        description="Value, mark and coverage of the last decision, such as `0.83/0.80 100% cov`.",
    )
    state: Short | None = Field(
        default=None, description="How far the metrics can be trusted, such as Fresh or Partial."
    )
    reason: Short | None = Field(default=None, description="Reason of the last decision.")
    capacity: CapacityStatus | None = Field(
        default=None, description="How the replicas are laid out. Absent where nothing runs on spot or is to."
    )
    hourly_cost: Short | None = Field(
        default=None,
        description="What the GPUs that its pods hold cost an hour, such as `29.40 USD`, with the part that has no price: "
        "`18.40 USD + unknown (2 of 5 GPUs)`. Unknown is not zero.",
    )
    last_scale_time: datetime | None = Field(default=None, description="When replicas were last written.")
    decisions: Annotated[tuple[Decision, ...], AtomicList(), Field(max_length=MAX_DECISIONS)] | None = Field(
        default=None,
        description="The last decisions, oldest first; a new one when the result or its first limiter changes.",
    )
    conditions: Conditions | None = Field(default=None, description="The state by aspect.")


class LabelSelectorOperator(StrEnum):
    """How a label is compared."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


_COMPARES_VALUES: Final = frozenset({LabelSelectorOperator.IN, LabelSelectorOperator.NOT_IN})


class LabelRequirement(ApiModel):
    """One comparison of a label."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
            holds=lambda item: (item.operator in _COMPARES_VALUES) == bool(item.values),
            message="In and NotIn need at least one value, Exists and DoesNotExist take none: change operator or values",
            field=".values",
        ),
    )

    key: LabelKey = Field(description="Label of the namespace.")
    operator: LabelSelectorOperator = Field(description="How to compare.")
    values: Annotated[tuple[LabelValue, ...], AtomicList(), Field(max_length=32)] | None = Field(
        default=None, description="Values for In and NotIn."
    )


class LabelSelector(ApiModel):
    """A label selector as everywhere in Kubernetes; all parts must hold, the empty one selects everything."""

    ATOMIC: ClassVar[bool] = True

    match_labels: Annotated[dict[str, LabelValue], Field(max_length=16)] | None = Field(
        default=None, description="Labels that must have exactly these values."
    )
    match_expressions: Annotated[tuple[LabelRequirement, ...], AtomicList(), Field(max_length=16)] | None = (
        Field(default=None, description="Further comparisons, all of which must hold.")
    )


class PolicyDefaults(ApiModel):
    """Settings for workloads that leave them out. Blocks merge field by field; lists replace each other whole."""

    mode: Mode | None = _setting("mode", "Mode of workloads that name none.")
    min_replicas: Whole | None = _setting(
        "minReplicas",
        "minReplicas of workloads that give none; their maxReplicas wins.",
        ge=1,
        le=MAX_REPLICAS,
    )
    signals: Signals | None = Field(
        default=None,
        description="Signals of workloads that list none.",
        json_schema_extra={BUILT_IN_KEY: f"one GpuActivity signal named {defaults.SIGNAL_NAME}"},
    )
    when_metrics_missing: WhenMetricsMissing | None = Field(
        default=None, description="What to do when the load cannot be seen."
    )
    scale_up: ScaleUp | None = Field(default=None, description="When and how fast replicas are added.")
    scale_down: ScaleDown | None = Field(default=None, description="When and how fast replicas are removed.")
    readiness: Readiness | None = Field(default=None, description="How pods start.")
    capacity: Capacity | None = Field(
        default=None, description="Which replicas run on demand and which may run on spot."
    )


class SpotRule(StrEnum):
    """Whether workloads may run on spot."""

    ALLOWED = "Allowed"
    FORBIDDEN = "Forbidden"


class PolicyGuardrails(ApiModel):
    """Limits that no workload can lift. Of several that apply, the strictest holds. They stop growth and never shrink."""

    max_gpus_per_workload: Whole | None = Field(
        default=None,
        ge=1,
        le=MAX_GPUS,
        description="Most GPUs that one workload may ask for. Unset: no limit.",
    )
    max_gpus_per_namespace: Whole | None = Field(
        default=None,
        ge=1,
        le=MAX_GPUS,
        description="Most GPUs for all workloads of one namespace. Unset: no limit.",
    )
    modes: Annotated[tuple[Mode, ...], Field(min_length=1, max_length=3), ListSet()] | None = Field(
        default=None,
        description="Modes that may be in force. A workload gets the strongest one not above what it asks, else Observe. "
        "Unset: all.",
    )
    spot: SpotRule | None = Field(
        default=None,
        description="Forbidden: no new replica goes onto spot, whatever capacity.burst says. Unset: Allowed.",
    )
    gpu_models: Annotated[tuple[CostLabel, ...], Field(min_length=1, max_length=32), ListSet()] | None = (
        Field(
            default=None,
            description="GPU models that workloads may grow on, as in spec.node.gpuModel of the pools. Of several lists only "
            "what stands in all of them is allowed. Unset: all.",
        )
    )


class GpuPolicySpec(ApiModel):
    """Defaults and limits, and whom they concern: by `default`, by `namespaceSelector`, or by name from a policyRef."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!(has(self.default) && self.default && has(self.namespaceSelector))",
            holds=lambda spec: not (spec.default and spec.namespace_selector is not None),
            message="default: true concerns every namespace: remove namespaceSelector, or remove default",
            field=".namespaceSelector",
        ),
    )

    default: Annotated[bool, Strict()] | None = Field(
        default=None,
        description="True: this policy gives the defaults wherever no policyRef and no namespaceSelector chooses another, "
        "and its guardrails hold in every namespace. Of two, the oldest gives the defaults and both report Conflict.",
    )
    namespace_selector: LabelSelector | None = Field(
        default=None,
        description="Namespaces, by label, in which this policy gives the defaults and its guardrails hold.",
    )
    defaults: PolicyDefaults | None = Field(
        default=None, description="Settings for workloads that leave them out."
    )
    guardrails: PolicyGuardrails | None = Field(default=None, description="Limits that no workload can lift.")


class GpuPolicyStatus(ApiModel):
    """What is known about the policy."""

    observed_generation: Whole | None = Field(
        default=None, ge=0, description="metadata.generation that this status speaks about."
    )
    conditions: Conditions | None = Field(default=None, description="The state by aspect.")


AGE_COLUMN: Final = PrinterColumn(
    name="Age", path=".metadata.creationTimestamp", type="date", description="Time since creation."
)

GPU_WORKLOAD: Final = Kind(
    kind=names.WORKLOAD_KIND,
    plural=names.WORKLOAD_PLURAL,
    short=names.WORKLOAD_SHORT,
    is_namespaced=True,
    description="GpuWorkload scales one Deployment by what its GPUs really do, part of it on spot if it says so. Deleting it leaves "
    "the Deployment at its count, and what ran on spot moves back into it.",
    spec=GpuWorkloadSpec,
    status=GpuWorkloadStatus,
    has_scale=True,
    columns=(
        PrinterColumn(name="Mode", path=".status.mode", description="Mode in force."),
        PrinterColumn(name="Target", path=".status.target", description="What is scaled.", priority=1),
        PrinterColumn(
            name="Replicas", path=".status.replicas", type="integer", description="Replicas asked for now."
        ),
        PrinterColumn(
            name="Desired", path=".status.desiredReplicas", type="integer", description="Replicas wanted."
        ),
        PrinterColumn(
            name="Ready", path=".status.readyReplicas", type="integer", description="Pods that are Ready."
        ),
        PrinterColumn(
            name="Burst",
            path=".status.capacity.burstReplicas",
            type="integer",
            description="Replicas on spot.",
        ),
        PrinterColumn(
            name="Fallback",
            path=".status.capacity.fallbackReplicas",
            type="integer",
            description="Replicas on demand that stand in for spot.",
            priority=1,
        ),
        PrinterColumn(name="Signal", path=".status.signal", description="Value / mark and coverage."),
        PrinterColumn(name="State", path=".status.state", description="How far the metrics can be trusted."),
        PrinterColumn(name="Reason", path=".status.reason", description="Reason of the last decision."),
        PrinterColumn(
            name="$/H", path=".status.hourlyCost", description="Cost of the GPUs that its pods hold, an hour."
        ),
        PrinterColumn(
            name="Last-Scale",
            path=".status.lastScaleTime",
            type="date",
            description="Last write of replicas.",
        ),
        AGE_COLUMN,
    ),
)

GPU_POLICY: Final = Kind(
    kind=names.POLICY_KIND,
    plural=names.POLICY_PLURAL,
    short=names.POLICY_SHORT,
    is_namespaced=False,
    description="GpuPolicy gives GpuWorkloads their defaults and holds the limits that none of them can lift.",
    spec=GpuPolicySpec,
    status=GpuPolicyStatus,
    columns=(
        PrinterColumn(
            name="Default",
            path=".spec.default",
            type="boolean",
            description="Whether it is the cluster default.",
        ),
        PrinterColumn(
            name="Ready",
            path='.status.conditions[?(@.type=="Ready")].status',
            description="Whether it is in use.",
        ),
        PrinterColumn(
            name="Conflict",
            path='.status.conditions[?(@.type=="Conflict")].status',
            description="Whether another policy claims the same namespaces.",
        ),
        AGE_COLUMN,
    ),
)
