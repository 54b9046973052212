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
    workload, oldest first, empty when the choice was clear.
    """

    effective: Mapping[str, Effective]
    asked_mode: Mode
    mode: Mode
    guardrails: Guardrails
    defaults_from: str | None
    missing_policy: str | None
    rivals: tuple[str, ...]

    def number(self, path: str) -> int:
        """Return the whole number at *path*; KeyError for a path that has none, which is a mistake in the caller."""
        value = self.optional_number(path)
        if value is None:
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
    effective = _merge(spec, choice.policy)
    concerning = [policy for policy in by_age if policy.concerns(namespace_labels)]
    limits = _limits(concerning)
    asked = Mode(str(effective["mode"].value))
    mode = _capped(effective, asked=asked, concerning=concerning, fleet_mode=fleet_mode)
    return Resolved(
        effective=effective | limits,
        asked_mode=asked,
        mode=mode,
        guardrails=_guardrails(limits),
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


def _merge(spec: GpuWorkloadSpec, policy: Policy | None) -> dict[str, Effective]:
    given = policy.spec.defaults if policy else None
    layers = ((FROM_SPEC, spec), (policy.source if policy else "", given))
    effective = {path: _first(path, layers) for path in _ATTRIBUTES}
    effective["minReplicas"] = _min_below_max(effective["minReplicas"], spec.max_replicas)
    effective["maxReplicas"] = Effective(path="maxReplicas", value=spec.max_replicas, source=FROM_SPEC)
    if spec.replicas is not None:
        effective["replicas"] = Effective(path="replicas", value=spec.replicas, source=FROM_SPEC)
    return effective | _gpu_activity(layers)


_Layers = tuple[tuple[str, GpuWorkloadSpec | PolicyDefaults | None], ...]


def _first(path: str, layers: _Layers) -> Effective:
    for source, block in layers:
        value = _look_up(block, _ATTRIBUTES[path])
        if value is not None:
            return Effective(path=path, value=value, source=source)
    return Effective(path=path, value=defaults.SPEC_DEFAULTS[path], source=BUILT_IN)


def _min_below_max(minimum: Effective, max_replicas: int) -> Effective:
    if not isinstance(minimum.value, int) or minimum.value <= max_replicas:
        return minimum
    source = f"{minimum.source}; {minimum.value} lowered to spec.maxReplicas"
    return Effective(path=minimum.path, value=max_replicas, source=source)


def _gpu_activity(layers: _Layers) -> dict[str, Effective]:
    """Return the band of the one GpuActivity signal; the first layer that lists signals replaces the others whole."""
    for source, block in layers:
        if block is not None and block.signals:
            signal = block.signals[0]
            return _band(signal.name, signal.gpu_activity or GpuActivity(), source)
    return _band(defaults.SIGNAL_NAME, GpuActivity(), BUILT_IN)


def _band(name: str, given: GpuActivity, source: str) -> dict[str, Effective]:
    high = given.high_percent or defaults.HIGH_PERCENT
    low = given.low_percent or defaults.low_percent_for(high)
    found = (
        Effective(path=HIGH_PATH, value=high, source=source if given.high_percent else BUILT_IN),
        Effective(path=LOW_PATH, value=low, source=source if given.low_percent else BUILT_IN),
        Effective(path=SIGNAL_PATH, value=name, source=source),
    )
    return {item.path: item for item in found}


SIGNAL_PATH: Final = "signals[0].name"
HIGH_PATH: Final = "signals[0].gpuActivity.highPercent"
LOW_PATH: Final = "signals[0].gpuActivity.lowPercent"
_GPUS_PER_WORKLOAD: Final = "guardrails.maxGpusPerWorkload"
_GPUS_PER_NAMESPACE: Final = "guardrails.maxGpusPerNamespace"


def _limits(concerning: Iterable[Policy]) -> dict[str, Effective]:
    """Return the numeric guardrails that hold, each with the policy that gave the lowest, the oldest of equals."""
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


def _guardrails(limits: Mapping[str, Effective]) -> Guardrails:
    def limit(path: str) -> int | None:
        found = limits.get(path)
        return int(found.value) if found is not None and found.value is not None else None

    return Guardrails(
        max_gpus_per_workload=limit(_GPUS_PER_WORKLOAD), max_gpus_per_namespace=limit(_GPUS_PER_NAMESPACE)
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
