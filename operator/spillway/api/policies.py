"""Which policies apply to a workload, and what holds after they are merged, with where each value came from.

Defaults come from one policy: the one that `policyRef` names, else the one that matches the namespace, else the cluster
default. Guardrails come from all policies that concern the namespace, whatever `policyRef` says.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pydantic.alias_generators import to_snake

from spillway.api import defaults
from spillway.api.markers import ApiModel
from spillway.api.v1alpha1 import (
    GpuActivity,
    GpuPolicySpec,
    GpuWorkloadSpec,
    LabelRequirement,
    LabelSelector,
    LabelSelectorOperator,
    PolicyDefaults,
    PolicyGuardrails,
    PolicyRef,
    SpotRule,
)
from spillway.core.model import Guardrails, Mode

BUILT_IN: Final = "built-in"
FROM_SPEC: Final = "spec"
STRENGTH: Final = tuple(Mode)  # weakest first


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A valid GpuPolicy as stored."""

    name: str
    uid: str
    created_at: datetime
    generation: int
    spec: GpuPolicySpec

    @property
    def source(self) -> str:
        """How provenance names it."""
        return f"policy {self.name}"

    @property
    def is_default(self) -> bool:
        """Whether it is a cluster default."""
        return self.spec.default is True

    def matches(self, namespace_labels: Mapping[str, str]) -> bool:
        """Whether its namespaceSelector selects a namespace with these labels; False without a selector."""
        selector = self.spec.namespace_selector
        return selector is not None and selects(selector, namespace_labels)

    def concerns(self, namespace_labels: Mapping[str, str]) -> bool:
        """Whether its guardrails hold in a namespace with these labels."""
        return self.is_default or self.matches(namespace_labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effective:
    """One setting in force: its path in `spec`, its value (None: not set) and where it came from.

    `source` starts with `spec`, `policy NAME` or `built-in`; after a semicolon follows what lowered the value.
    """

    path: str
    value: int | str | None
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A spec after policy merge.

    `effective` holds every setting once, by path. `defaults_from` is the policy that gave the defaults, `missing_policy` the
    name in a policyRef that no policy has (defaults are then the built-ins), `rivals` the policies that claim the same
    workload, oldest first, empty when the choice was clear. `pool_selector` holds the labels of capacity.poolSelector, empty
    for every pool; `effective` shows them as text.
    """

    effective: Mapping[str, Effective]
    asked_mode: Mode
    mode: Mode
    guardrails: Guardrails
    pool_selector: Mapping[str, str]
    defaults_from: str | None
    missing_policy: str | None
    rivals: tuple[str, ...]

    def number(self, path: str) -> int:
        """Return the whole number at *path*; KeyError for a path that has none, which is a mistake in the caller."""
        value = self.optional_number(path)
        if value is None:
            raise KeyError(path)
        return value

    def text(self, path: str) -> str:
        """Return the word at *path*; KeyError for a path that has none, which is a mistake in the caller."""
        value = self.effective[path].value
        if not isinstance(value, str):
            raise KeyError(path)
        return value

    def optional_number(self, path: str) -> int | None:
        """Return the whole number at *path*, None where nothing sets it."""
        value = self.effective[path].value
        return value if isinstance(value, int) else None


def selects(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Whether *labels* meet every part of *selector*; an empty selector selects everything."""
    exact = all(labels.get(key) == value for key, value in (selector.match_labels or {}).items())
    return exact and all(_meets(item, labels) for item in selector.match_expressions or ())


def _meets(item: LabelRequirement, labels: Mapping[str, str]) -> bool:
    values = item.values or ()
    match item.operator:
        case LabelSelectorOperator.IN:
            return labels.get(item.key) in values
        case LabelSelectorOperator.NOT_IN:  # as in Kubernetes, an absent label is not in any list
            return labels.get(item.key) not in values
        case LabelSelectorOperator.EXISTS:
            return item.key in labels
        case LabelSelectorOperator.DOES_NOT_EXIST:
            return item.key not in labels


def resolve(
    spec: GpuWorkloadSpec,
    *,
    policies: Sequence[Policy],
    namespace_labels: Mapping[str, str],
    fleet_mode: Mode = Mode.ENFORCE,
) -> Resolved:
    """Merge *spec* with the policies that apply.

    `fleet_mode` is the operator's own setting, which caps every workload. The result does not depend on the order of *policies*.
    """
    by_age = sorted(policies, key=lambda policy: (policy.created_at, policy.name))
    choice = _choose(spec.policy_ref, by_age, namespace_labels)
    layers = _layers(spec, choice.policy)
    effective = _merge(spec, layers)
    selector = _pool_selector(layers)
    effective[SELECTOR_PATH] = selector.shown
    concerning = [policy for policy in by_age if policy.concerns(namespace_labels)]
    limits = _limits(concerning)
    asked = Mode(str(effective["mode"].value))
    mode = _capped(effective, asked=asked, concerning=concerning, fleet_mode=fleet_mode)
    return Resolved(
        effective=effective | limits,
        asked_mode=asked,
        mode=mode,
        guardrails=_guardrails(limits, concerning),
        pool_selector=selector.labels,
        defaults_from=choice.policy.name if choice.policy else None,
        missing_policy=choice.missing,
        rivals=choice.rivals,
    )


def rivals_by_policy(
    policies: Sequence[Policy], namespaces: Mapping[str, Mapping[str, str]]
) -> dict[str, tuple[str, ...]]:
    """Return, for each policy that claims what another claims too, the names of the others, sorted.

    `namespaces` holds the labels of every namespace by its name. Two cluster defaults are rivals in any case.
    """
    claims = [{policy.name for policy in policies if policy.is_default}]
    claims += [
        {policy.name for policy in policies if policy.matches(labels)} for labels in namespaces.values()
    ]
    rivals: dict[str, set[str]] = {}
    for claim in claims:
        for name in claim:
            rivals.setdefault(name, set()).update(claim - {name})
    return {name: tuple(sorted(others)) for name, others in sorted(rivals.items()) if others}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    policy: Policy | None
    missing: str | None = None
    rivals: tuple[str, ...] = ()


def _choose(ref: PolicyRef | None, by_age: Sequence[Policy], labels: Mapping[str, str]) -> _Choice:
    if ref is not None:
        named = next((policy for policy in by_age if policy.name == ref.name), None)
        return _Choice(policy=named, missing=None if named else ref.name)
    claims: tuple[Callable[[Policy], bool], ...] = (
        lambda policy: policy.matches(labels),
        lambda policy: policy.is_default,
    )
    for has_claim in claims:
        matching = [policy for policy in by_age if has_claim(policy)]
        if matching:
            names = tuple(policy.name for policy in matching)
            return _Choice(policy=matching[0], rivals=names if len(names) > 1 else ())
    return _Choice(policy=None)


_ATTRIBUTES: Final = {
    path: tuple(to_snake(part) for part in path.split(".")) for path in defaults.SPEC_DEFAULTS
}


def _look_up(block: ApiModel | None, attributes: tuple[str, ...]) -> int | str | None:
    found: object = block
    for name in attributes:
        if found is None:
            return None
        found = getattr(found, name)
    return found if isinstance(found, int | str) else None


_Layers = tuple[tuple[str, GpuWorkloadSpec | PolicyDefaults | None], ...]


def _layers(spec: GpuWorkloadSpec, policy: Policy | None) -> _Layers:
    return ((FROM_SPEC, spec), (policy.source if policy else "", policy.spec.defaults if policy else None))


def _merge(spec: GpuWorkloadSpec, layers: _Layers) -> dict[str, Effective]:
    effective = {path: _first(path, layers) for path in _ATTRIBUTES}
    effective["minReplicas"] = _below_max(effective["minReplicas"], spec.max_replicas)
    for path, other in defaults.FOLLOWS.items():
        effective[path] = _below_max(_followed(effective[path], effective[other]), spec.max_replicas)
    effective["maxReplicas"] = Effective(path="maxReplicas", value=spec.max_replicas, source=FROM_SPEC)
    if spec.replicas is not None:
        effective["replicas"] = Effective(path="replicas", value=spec.replicas, source=FROM_SPEC)
    return effective | _gpu_activity(layers)


def _first(path: str, layers: _Layers) -> Effective:
    for source, block in layers:
        value = _look_up(block, _ATTRIBUTES[path])
        if value is not None:
            return Effective(path=path, value=value, source=source)
    return Effective(path=path, value=defaults.SPEC_DEFAULTS[path], source=BUILT_IN)


def _below_max(found: Effective, max_replicas: int) -> Effective:
    if not isinstance(found.value, int) or found.value <= max_replicas:
        return found
    source = f"{found.source}; {found.value} lowered to spec.maxReplicas"
    return Effective(path=found.path, value=max_replicas, source=source)


def _followed(found: Effective, other: Effective) -> Effective:
    """Return *found*, or the value of the setting that it follows where nothing sets it."""
    if found.value is not None:
        return found
    return Effective(path=found.path, value=other.value, source=f"{BUILT_IN}; as {other.path}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Selector:
    labels: Mapping[str, str]
    shown: Effective


def _pool_selector(layers: _Layers) -> _Selector:
    """Return the selector of the first layer that has one, an empty one too; it replaces the others whole."""
    for source, block in layers:
        given = block.capacity.pool_selector if block is not None and block.capacity is not None else None
        if given is not None:
            labels = given.match_labels or {}
            text = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
            shown = Effective(path=SELECTOR_PATH, value=text or None, source=source)
            return _Selector(labels=labels, shown=shown)
    return _Selector(labels={}, shown=Effective(path=SELECTOR_PATH, value=None, source=BUILT_IN))


def _gpu_activity(layers: _Layers) -> dict[str, Effective]:
    """Return the band of the one GpuActivity signal; the first layer that lists signals replaces the others whole."""
    for source, block in layers:
        if block is not None and block.signals:
            signal = block.signals[0]
            return _band(signal.name, signal.gpu_activity or GpuActivity(), source)
    return _band(defaults.SIGNAL_NAME, GpuActivity(), BUILT_IN)


def _band(name: str, given: GpuActivity, source: str) -> dict[str, Effective]:
    high = given.high_percent or defaults.HIGH_PERCENT
    found = (
        Effective(path=HIGH_PATH, value=high, source=source if given.high_percent else BUILT_IN),
        Effective(path=LOW_PATH, value=given.low_percent, source=source if given.low_percent else BUILT_IN),
        Effective(path=SIGNAL_PATH, value=name, source=source),
    )
    return {item.path: item for item in found}


SIGNAL_PATH: Final = "signals[0].name"
HIGH_PATH: Final = "signals[0].gpuActivity.highPercent"
LOW_PATH: Final = "signals[0].gpuActivity.lowPercent"
SELECTOR_PATH: Final = "capacity.poolSelector"
_GPUS_PER_WORKLOAD: Final = "guardrails.maxGpusPerWorkload"
_GPUS_PER_NAMESPACE: Final = "guardrails.maxGpusPerNamespace"
_SPOT: Final = "guardrails.spot"
_MODELS: Final = "guardrails.gpuModels"
_NO_MODEL: Final = "none in common"


def _limits(concerning: Sequence[Policy]) -> dict[str, Effective]:
    """Return the guardrails that hold, each with the policies that gave it; what no policy limits is absent."""
    return _numeric_limits(concerning) | _spot_limit(concerning) | _model_limit(concerning)


def _numeric_limits(concerning: Iterable[Policy]) -> dict[str, Effective]:
    """Return the lowest of each, from the oldest of equal policies."""
    limits: dict[str, Effective] = {}
    for policy in concerning:
        given = policy.spec.guardrails or PolicyGuardrails()
        for path, number in (
            (_GPUS_PER_WORKLOAD, given.max_gpus_per_workload),
            (_GPUS_PER_NAMESPACE, given.max_gpus_per_namespace),
        ):
            known = limits.get(path)
            if number is not None and (known is None or number < int(known.value or 0)):
                limits[path] = Effective(path=path, value=number, source=policy.source)
    return limits


def _spot_limit(concerning: Iterable[Policy]) -> dict[str, Effective]:
    """Return the strictest word on spot, from the oldest policy that says it."""
    said = [(policy.spec.guardrails.spot, policy) for policy in concerning if policy.spec.guardrails]
    for rule in (SpotRule.FORBIDDEN, SpotRule.ALLOWED):
        source = next((policy.source for word, policy in said if word is rule), None)
        if source is not None:
            return {_SPOT: Effective(path=_SPOT, value=rule.value, source=source)}
    return {}


def _model_limit(concerning: Iterable[Policy]) -> dict[str, Effective]:
    """Show the GPU models that every list allows, with all policies that list some."""
    listing = [policy for policy in concerning if _models_of(policy) is not None]
    allowed = _common_models(listing)
    if allowed is None:
        return {}
    source = " and ".join(policy.source for policy in listing)
    return {_MODELS: Effective(path=_MODELS, value=", ".join(sorted(allowed)) or _NO_MODEL, source=source)}


def _common_models(policies: Iterable[Policy]) -> frozenset[str] | None:
    """Return the GPU models that stand in every list, None where there is no list."""
    lists = [frozenset(models) for policy in policies if (models := _models_of(policy)) is not None]
    return frozenset.intersection(*lists) if lists else None


def _models_of(policy: Policy) -> tuple[str, ...] | None:
    return policy.spec.guardrails.gpu_models if policy.spec.guardrails else None


def _guardrails(limits: Mapping[str, Effective], concerning: Sequence[Policy]) -> Guardrails:
    def limit(path: str) -> int | None:
        found = limits.get(path)
        return int(found.value) if found is not None and found.value is not None else None

    spot = limits.get(_SPOT)
    return Guardrails(
        max_gpus_per_workload=limit(_GPUS_PER_WORKLOAD),
        max_gpus_per_namespace=limit(_GPUS_PER_NAMESPACE),
        spot_allowed=spot is None or spot.value != SpotRule.FORBIDDEN.value,
        gpu_models=_common_models(concerning),
    )


def _capped(
    effective: dict[str, Effective], *, asked: Mode, concerning: Sequence[Policy], fleet_mode: Mode
) -> Mode:
    """Return the mode in force and note in *effective* what lowered it: the strongest allowed one not above the asked one."""
    restricting = [policy for policy in concerning if policy.spec.guardrails and policy.spec.guardrails.modes]
    allowed = [mode for mode in STRENGTH if all(_allows(policy, mode) for policy in restricting)]
    ceiling = min(asked, fleet_mode, key=STRENGTH.index)
    mode = max(
        (mode for mode in allowed if STRENGTH.index(mode) <= STRENGTH.index(ceiling)),
        key=STRENGTH.index,
        default=Mode.OBSERVE,
    )
    if mode is not asked:
        by = ["the operator's mode"] if ceiling is not asked else []
        by += [f"guardrails of {policy.source}" for policy in restricting if not _allows(policy, ceiling)]
        source = f"{effective['mode'].source}; {asked} lowered by {' and '.join(by)}"
        effective["mode"] = Effective(path="mode", value=mode.value, source=source)
    return mode


def _allows(policy: Policy, mode: Mode) -> bool:
    guardrails = policy.spec.guardrails
    return guardrails is None or guardrails.modes is None or mode in guardrails.modes
