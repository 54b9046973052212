"""Which nodes a pod spec accepts, as the core's `Constraints`."""

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from spillway.adapters.kube.raw import Raw, optional_time, part
from spillway.core.scheduling import ANYWHERE, NO_SCHEDULE, Constraints, Requirement, Taint, Term, Toleration

KNOWN = 4096  # texts remembered, see `set_aside`


def constraints_of(pod_spec: Raw) -> Constraints:
    """Return where a pod of this spec may go; `ANYWHERE` for one that asks for nothing.

    A term on `metadata.name`, as the pods of a DaemonSet have it, is kept under that key. No node carries such a label, so a
    pod that is meant for one node only is never thought to fit another. Pods of one template share one value.
    """
    affinity = part(part(pod_spec, "affinity"), "nodeAffinity")
    required = part(affinity, "requiredDuringSchedulingIgnoredDuringExecution")
    selector, terms = part(pod_spec, "nodeSelector"), required.get("nodeSelectorTerms") or ()
    tolerations = pod_spec.get("tolerations") or ()
    if not (selector or terms or tolerations):
        return ANYWHERE
    return _constraints(json.dumps(selector), json.dumps(terms), json.dumps(tolerations))


def taints_of(raw_taints: Iterable[Raw]) -> tuple[Taint, ...]:
    """Return a node's taints; `since` where the API says when one was added."""
    return tuple(
        Taint(
            key=item["key"],
            value=item.get("value") or "",
            effect=item.get("effect") or NO_SCHEDULE,
            since=optional_time(item.get("timeAdded")),
        )
        for item in raw_taints
    )


@lru_cache(maxsize=KNOWN)
def _constraints(selector: str, terms: str, tolerations: str) -> Constraints:
    return Constraints(
        node_selector=_labels(selector), terms=_terms(terms), tolerations=_tolerations(tolerations)
    )


@lru_cache(maxsize=KNOWN)
def _labels(text: str) -> Mapping[str, str]:
    found: dict[str, str] = json.loads(text)
    return found


@lru_cache(maxsize=KNOWN)
def _terms(text: str) -> tuple[Term, ...]:
    # A term without a requirement matches nothing, where the core's empty term would match all.
    return tuple(_term(raw) or _NEVER for raw in json.loads(text))


_NEVER: Term = (Requirement(key="", operator="In"),)


def _term(raw: Raw) -> Term:
    stated: tuple[Any, ...] = (*(raw.get("matchExpressions") or ()), *(raw.get("matchFields") or ()))
    return tuple(
        Requirement(key=item["key"], operator=item["operator"], values=tuple(item.get("values") or ()))
        for item in stated
    )


@lru_cache(maxsize=KNOWN)
def _tolerations(text: str) -> tuple[Toleration, ...]:
    return tuple(
        Toleration(
            key=item.get("key") or "",
            operator=item.get("operator") or "Equal",
            value=item.get("value") or "",
            effect=item.get("effect") or "",
        )
        for item in json.loads(text)
    )
