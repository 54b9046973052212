"""Stored objects to the core's values. Garbage gives an `Invalid`, never an exception: one bad object must not stop the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Generic, TypeVar

from pydantic import ValidationError

from spillway.api import names, quantities
from spillway.api.kinds import KINDS
from spillway.api.markers import ApiModel, Kind
from spillway.api.nodepools import Breaker, Drain, GpuNodePoolSpec, NodeShape, NodeTaint, Price, Provider
from spillway.api.policies import HIGH_PATH, LOW_PATH, STRENGTH, Effective, Policy, Resolved, resolve
from spillway.api.problems import Problem, problems_of, required, shown
from spillway.api.v1alpha1 import Cost, GpuPolicySpec, GpuWorkloadSpec
from spillway.core.model import (
    BlindRules,
    Burst,
    CapacityRules,
    CapacityType,
    DrainRules,
    FallbackPolicy,
    FallbackRules,
    GpuActivityRules,
    Mode,
    NodePool,
    NodePrice,
    ObjectKey,
    PoolBreakerRules,
    ProviderType,
    ReadinessRules,
    ScaleDownRules,
    ScaleUpRules,
    Workload,
)
from spillway.core.prices import USUAL_CURRENCY
from spillway.core.scheduling import Taint

_SpecT = TypeVar("_SpecT", bound=ApiModel)
_NOT_PAUSED: Final = "false"
_PODS: Final = "pods"
_USUAL_PODS: Final = 110  # the kubelet's own limit where nobody sets another


@dataclass(frozen=True, slots=True, kw_only=True)
class Invalid:
    """An object that cannot be used, and why.

    `problems` is never empty. Parts of `key` and `uid` are empty text, `generation` is 0, where they cannot be read.
    """

    key: ObjectKey
    uid: str
    generation: int
    problems: tuple[Problem, ...]

    @property
    def field(self) -> str:
        """The field of the first problem."""
        return self.problems[0].field

    @property
    def message(self) -> str:
        """The first problem's sentence, and how many more there are."""
        more = len(self.problems) - 1
        return self.problems[0].message + (f" ({more} more in this object)" if more else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class CostLabels:
    """Labels of the cost metrics; empty text where the owner gave none."""

    model: str = ""
    application: str = ""
    team: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """A usable GpuWorkload.

    `provenance` lists every setting in force with its source. `policy` is the policy that gave the defaults (None: built-ins
    only), `policy_conflicts` the policies that claim the workload together, oldest first and usually empty.
    """

    workload: Workload
    generation: int
    provenance: tuple[Effective, ...]
    cost: CostLabels
    policy: str | None
    policy_conflicts: tuple[str, ...]


def to_workload(
    raw: Mapping[str, Any],
    *,
    policies: Sequence[Policy],
    namespace_labels: Mapping[str, str],
    fleet_mode: Mode = Mode.ENFORCE,
) -> Converted | Invalid:
    """Return the core's view of a stored GpuWorkload after policy merge.

    Unknown fields are ignored. `policies` holds every valid policy of the cluster; which of them apply is decided here.
    A policyRef that names none of them gives a workload with `unresolved` set and built-in settings. Never raises.
    """
    parsed = _parse(raw, GpuWorkloadSpec, is_namespaced=True)
    if isinstance(parsed, Invalid):
        return parsed
    metadata, spec = parsed.metadata, parsed.spec
    resolved = resolve(spec, policies=policies, namespace_labels=namespace_labels, fleet_mode=fleet_mode)
    return Converted(
        workload=_workload(metadata, spec, resolved),
        generation=metadata.generation,
        provenance=tuple(resolved.effective.values()),
        cost=_cost(spec.cost),
        policy=resolved.defaults_from,
        policy_conflicts=resolved.rivals,
    )


def to_policy(raw: Mapping[str, Any]) -> Policy | Invalid:
    """Return a stored GpuPolicy. Unknown fields are ignored. Never raises."""
    parsed = _parse(raw, GpuPolicySpec, is_namespaced=False)
    if isinstance(parsed, Invalid):
        return parsed
    metadata = parsed.metadata
    return Policy(
        name=metadata.key.name,
        uid=metadata.uid,
        created_at=metadata.created_at,
        generation=metadata.generation,
        spec=parsed.spec,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertedPool:
    """A usable GpuNodePool.

    `provider_pool` is what its provider calls it, empty where it has none to be asked.
    """

    pool: NodePool
    generation: int
    provider_pool: str = ""


def to_pool(raw: Mapping[str, Any], *, fleet_mode: Mode = Mode.ENFORCE) -> ConvertedPool | Invalid:
    """Return the core's view of a stored GpuNodePool, its mode capped by the operator's own.

    Unknown fields are ignored. Never raises.
    """
    parsed = _parse(raw, GpuNodePoolSpec, is_namespaced=False)
    if isinstance(parsed, Invalid):
        return parsed
    metadata, spec = parsed.metadata, parsed.spec
    pool = _pool(metadata, spec, mode=min(spec.mode, fleet_mode, key=STRENGTH.index))
    return ConvertedPool(
        pool=pool,
        generation=metadata.generation,
        provider_pool=_provider_pool(spec.provider, name=metadata.key.name),
    )


def _pool(metadata: "_Metadata", spec: GpuNodePoolSpec, *, mode: Mode) -> NodePool:
    return NodePool(
        name=metadata.key.name,
        uid=metadata.uid,
        selector=spec.node.selector,
        capacity_type=CapacityType(spec.capacity_type.value),
        gpu_resource=spec.node.gpu_resource,
        gpus_per_node=spec.node.gpu_count,
        gpu_model=spec.node.gpu_model or "",
        currency=spec.price.currency if spec.price else USUAL_CURRENCY,
        price=_price(spec.price),
        mode=mode,
        provider=spec.provider.type,
        labels=metadata.labels,
        min_nodes=spec.min_nodes,
        max_nodes=spec.max_nodes or 0,
        headroom_nodes=spec.headroom_nodes,
        allocatable=_allocatable(spec.node),
        taints=tuple(_taint(given) for given in spec.node.taints or ()),
        drain=_drain(spec.drain or Drain()),
        breaker=_breaker(spec.breaker or Breaker()),
    )


def _provider_pool(provider: Provider, *, name: str) -> str:
    match provider.type:
        case ProviderType.EXTERNAL:
            return ""
        case ProviderType.KWOK:
            return (provider.kwok.pool if provider.kwok else None) or name


def _allocatable(node: NodeShape) -> dict[str, int]:
    """Return what a fresh node offers of every resource; empty where the owner leaves it to be learned."""
    if node.allocatable is None:
        return {}
    given = {resource: quantities.units(resource, text) for resource, text in node.allocatable.items()}
    return {_PODS: _USUAL_PODS} | given | {node.gpu_resource: node.gpu_count}


def _taint(given: NodeTaint) -> Taint:
    return Taint(key=given.key, value=given.value, effect=given.effect.value)


def _drain(given: Drain) -> DrainRules:
    return DrainRules(
        min_node_age=timedelta(seconds=given.min_node_age_seconds),
        idle=timedelta(seconds=given.idle_seconds),
        timeout=timedelta(seconds=given.timeout_seconds),
        foreign_pods=given.foreign_pods,
    )


def _breaker(given: Breaker) -> PoolBreakerRules:
    return PoolBreakerRules(
        interruptions=given.interruptions,
        within=timedelta(seconds=given.within_seconds),
        open_for=timedelta(seconds=given.open_seconds),
    )


def _price(given: Price | None) -> NodePrice | None:
    if given is None:
        return None
    # 31.50 less 10 %: 31.50 * 90 / 100 = 28.35
    paid = Decimal(given.per_node_hour) * (100 - (given.discount_percent or 0)) / 100
    return NodePrice(currency=given.currency, per_hour=paid)


def lint(manifest: object) -> tuple[Problem, ...]:
    """Check a manifest from a file as strictly as possible: unknown fields are problems too. Empty when it is good.

    Concerns `kind`, `apiVersion`, `metadata.name` and `spec`; what only the API server sets may be absent. Never raises.
    """
    whole = manifest if isinstance(manifest, Mapping) else {}
    kind = next((kind for kind in KINDS if kind.kind == whole.get("kind")), None)
    if kind is None:
        known = " or ".join(kind.kind for kind in KINDS)
        return (
            Problem(field="kind", message=f"kind: {shown(whole.get('kind'))} is unknown; set it to {known}"),
        )
    return _lint_head(whole) + _lint_spec(whole, kind)


def _lint_head(manifest: Mapping[str, Any]) -> tuple[Problem, ...]:
    problems = []
    if manifest.get("apiVersion") != names.API_VERSION:
        problems.append(required("apiVersion", names.API_VERSION))
    if not _text(_block(manifest, "metadata"), "name"):
        problems.append(required("metadata.name", "the object's name"))
    return tuple(problems)


def _lint_spec(manifest: Mapping[str, Any], kind: Kind) -> tuple[Problem, ...]:
    try:
        kind.spec.model_validate(manifest.get("spec", {}), extra="forbid", by_alias=True, by_name=False)
    except ValidationError as error:
        return problems_of(error, kind.spec, "spec")
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Metadata:
    key: ObjectKey
    uid: str
    generation: int
    created_at: datetime
    paused: bool
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parsed(Generic[_SpecT]):
    metadata: _Metadata
    spec: _SpecT


def _parse(raw: object, model: type[_SpecT], *, is_namespaced: bool) -> _Parsed[_SpecT] | Invalid:
    whole = raw if isinstance(raw, Mapping) else {}
    metadata = _metadata(whole, is_namespaced=is_namespaced)
    problems = _metadata_problems(metadata, is_namespaced=is_namespaced)
    try:
        spec = model.model_validate(whole.get("spec", {}), by_alias=True, by_name=False)
    except ValidationError as error:
        problems += problems_of(error, model, "spec")
    else:
        if not problems:
            return _Parsed(metadata=metadata, spec=spec)
    return Invalid(key=metadata.key, uid=metadata.uid, generation=metadata.generation, problems=problems)


_NEVER: Final = datetime.min.replace(tzinfo=UTC)


def _metadata(raw: Mapping[str, Any], *, is_namespaced: bool) -> _Metadata:
    block = _block(raw, "metadata")
    generation = block.get("generation")
    paused = _block(block, "annotations").get(names.PAUSED_ANNOTATION)
    return _Metadata(
        key=ObjectKey(_text(block, "namespace") if is_namespaced else "", _text(block, "name")),
        uid=_text(block, "uid"),
        generation=generation if isinstance(generation, int) else 0,
        created_at=_time(_text(block, "creationTimestamp")),
        paused=paused is not None and str(paused).strip().lower() != _NOT_PAUSED,
        labels={key: str(value) for key, value in _block(block, "labels").items()},
    )


def _metadata_problems(metadata: _Metadata, *, is_namespaced: bool) -> tuple[Problem, ...]:
    """The API server sets all of these, so a gap means that the object did not come from one."""
    found = {
        "metadata.name": bool(metadata.key.name),
        "metadata.namespace": bool(metadata.key.namespace) or not is_namespaced,
        "metadata.uid": bool(metadata.uid),
        "metadata.creationTimestamp": metadata.created_at is not _NEVER,
    }
    return tuple(
        required(field, "what the API server gave it") for field, is_there in found.items() if not is_there
    )


def _block(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    block = raw.get(name)
    return block if isinstance(block, Mapping) else {}


def _text(block: Mapping[str, Any], name: str) -> str:
    text = block.get(name)
    return text if isinstance(text, str) else ""


def _time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return _NEVER
    return moment if moment.tzinfo else _NEVER


def _workload(metadata: _Metadata, spec: GpuWorkloadSpec, resolved: Resolved) -> Workload:
    return Workload(
        key=metadata.key,
        uid=metadata.uid,
        created_at=metadata.created_at,
        target=spec.target_ref.name,
        min_replicas=resolved.number("minReplicas"),
        max_replicas=spec.max_replicas,
        replicas=spec.replicas,
        mode=resolved.mode,
        asked_mode=resolved.asked_mode,
        paused=metadata.paused,
        guardrails=resolved.guardrails,
        unresolved=_unresolved(resolved.missing_policy),
        scale_up=_scale_up(resolved),
        scale_down=_scale_down(resolved),
        gpu_activity=_gpu_activity(resolved),
        blind=_blind(resolved),
        readiness=_readiness(resolved),
        capacity=_capacity(resolved),
    )


def _unresolved(missing_policy: str | None) -> str | None:
    if missing_policy is None:
        return None
    return (
        f"GpuPolicy {missing_policy} does not exist or is invalid, so nothing shrinks. "
        "Correct spec.policyRef.name or create the policy"
    )


def _scale_up(resolved: Resolved) -> ScaleUpRules:
    return ScaleUpRules(
        window=_seconds(resolved, "scaleUp.windowSeconds"),
        max_increase_percent=resolved.number("scaleUp.maxIncreasePercent"),
        max_increase_replicas=resolved.number("scaleUp.maxIncreaseReplicas"),
        cooldown=_seconds(resolved, "scaleUp.cooldownSeconds"),
    )


def _scale_down(resolved: Resolved) -> ScaleDownRules:
    return ScaleDownRules(
        window=_seconds(resolved, "scaleDown.windowSeconds"),
        max_decrease_percent=resolved.number("scaleDown.maxDecreasePercent"),
        max_decrease_replicas=resolved.number("scaleDown.maxDecreaseReplicas"),
        cooldown=_seconds(resolved, "scaleDown.cooldownSeconds"),
    )


def _gpu_activity(resolved: Resolved) -> GpuActivityRules:
    low = resolved.optional_number(LOW_PATH)
    return GpuActivityRules(high=resolved.number(HIGH_PATH) / 100, low=None if low is None else low / 100)


def _blind(resolved: Resolved) -> BlindRules:
    return BlindRules(
        after=_seconds(resolved, "whenMetricsMissing.afterSeconds"),
        replicas=resolved.optional_number("whenMetricsMissing.replicas"),
    )


def _readiness(resolved: Resolved) -> ReadinessRules:
    return ReadinessRules(
        settle=_seconds(resolved, "readiness.settleSeconds"),
        load_grace=_seconds(resolved, "readiness.loadGraceSeconds"),
    )


ALL_OF_IT: Final = 100.0


def _capacity(resolved: Resolved) -> CapacityRules:
    return CapacityRules(
        baseline=resolved.number("capacity.baselineReplicas"),
        burst=Burst(resolved.text("capacity.burst")),
        fallback=_fallback(resolved),
        pool_selector=resolved.pool_selector,
        missed_load=_missed_load(resolved),
    )


def _missed_load(resolved: Resolved) -> float | None:
    percent = float(resolved.text("capacity.missedLoadPercent"))
    return None if percent >= ALL_OF_IT else percent / 100


def _fallback(resolved: Resolved) -> FallbackRules:
    return FallbackRules(
        policy=FallbackPolicy(resolved.text("capacity.fallback.policy")),
        refused_confirm=_seconds(resolved, "capacity.fallback.refusedConfirmSeconds"),
        provision_timeout=_seconds(resolved, "capacity.fallback.provisionTimeoutSeconds"),
        boot_deadline=_seconds(resolved, "capacity.fallback.bootDeadlineSeconds"),
        return_probe=_seconds(resolved, "capacity.fallback.returnProbeSeconds"),
        return_stable=_seconds(resolved, "capacity.fallback.returnStableSeconds"),
        min_residency=_seconds(resolved, "capacity.fallback.minResidencySeconds"),
    )


def _seconds(resolved: Resolved, path: str) -> timedelta:
    return timedelta(seconds=resolved.number(path))


def _cost(cost: Cost | None) -> CostLabels:
    given = cost or Cost()
    return CostLabels(model=given.model or "", application=given.application or "", team=given.team or "")
