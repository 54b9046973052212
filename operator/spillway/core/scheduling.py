"""Which nodes a pod accepts, as the scheduler reads it: nodeSelector, required node affinity, taints and tolerations."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Final

NO_SCHEDULE: Final = "NoSchedule"
NO_EXECUTE: Final = "NoExecute"
_KEEPS_OUT: Final = frozenset({NO_SCHEDULE, NO_EXECUTE})  # PreferNoSchedule only ranks


@dataclass(frozen=True, slots=True, order=True)
class Taint:
    """What a node keeps pods away by. `since` is when it was added, where the API says so (NoExecute, or our own mark)."""

    key: str
    value: str = ""
    effect: str = NO_SCHEDULE
    since: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Toleration:
    """What taints a pod puts up with; empty `key` with operator Exists means all, empty `effect` every effect."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""

    def covers(self, taint: Taint) -> bool:
        """Whether it lets a pod onto a node with *taint*, by the rules of `v1.Toleration`."""
        if self.effect and self.effect != taint.effect:
            return False
        if self.operator == "Exists":
            return self.key in ("", taint.key)
        return self.key == taint.key and self.value == taint.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One comparison of a node label: In, NotIn, Exists, DoesNotExist, Gt or Lt."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether *labels* meet it; as in Kubernetes an absent label is in no list, and an unknown operator holds never."""
        compare = _OPERATORS.get(self.operator)
        return compare is not None and compare(labels.get(self.key), self.values)


Term = tuple[Requirement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """Where a pod may go. `terms` are ORed, the requirements of one are ANDed; no terms ask for nothing."""

    node_selector: Mapping[str, str] = field(default_factory=dict)
    terms: tuple[Term, ...] = ()
    tolerations: tuple[Toleration, ...] = ()

    def accepts(self, labels: Mapping[str, str], taints: Iterable[Taint]) -> bool:
        """Whether the scheduler would put the pod on a node with these *labels* and *taints*, room apart."""
        return self.selects(labels) and self.tolerates(taints)

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Whether nodeSelector and required affinity hold for *labels*."""
        if not self.node_selector.items() <= labels.items():
            return False
        return not self.terms or any(all(item.holds(labels) for item in term) for term in self.terms)

    def tolerates(self, taints: Iterable[Taint]) -> bool:
        """Whether every taint that keeps pods out is tolerated."""
        return all(
            any(toleration.covers(taint) for toleration in self.tolerations)
            for taint in taints
            if taint.effect in _KEEPS_OUT
        )


ANYWHERE: Final = Constraints()


def _number(text: str | None) -> int | None:
    try:
        return int(text or "")
    except ValueError:
        return None


def _compares(is_met: Callable[[int, int], bool]) -> Callable[[str | None, tuple[str, ...]], bool]:
    def compare(found: str | None, values: tuple[str, ...]) -> bool:
        one, other = _number(found), _number(values[0] if values else None)
        return one is not None and other is not None and is_met(one, other)

    return compare


_OPERATORS: Final[Mapping[str, Callable[[str | None, tuple[str, ...]], bool]]] = MappingProxyType(
    {
        "In": lambda found, values: found is not None and found in values,
        "NotIn": lambda found, values: found is None or found not in values,
        "Exists": lambda found, _: found is not None,
        "DoesNotExist": lambda found, _: found is None,
        "Gt": _compares(lambda one, other: one > other),
        "Lt": _compares(lambda one, other: one < other),
    }
)
