"""A decision as the status of its GpuWorkload: what stands, the last decisions, and one condition per aspect.

Nothing in it changes with every pass: the decision record grows with the result or its first limiter, and a condition's sentence is
rewritten only when its status or reason changes.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from spillway.adapters.kube.clock import seconds_time
from spillway.api import v1alpha1 as api
from spillway.api.conditions import (
    CapacityAvailableReason,
    ConditionType,
    NoConflictReason,
    ReadyReason,
    ScalingActiveReason,
    ScalingLimitedReason,
)
from spillway.api.convert import Converted, Invalid
from spillway.core.cost import PayerCost
from spillway.core.plan import BurstReason, CapacityView, Cause, Decision, Finding, InactiveReason
from spillway.core.signal import BLIND_STATES, SignalReason

Stored = Mapping[str, Any]

MAX_DECISIONS = 10
QUIET = timedelta(seconds=60)  # holds that differ only in their limiter are recorded this often at most
# Somebody's instruction: whoever gave it, or took it back, looks for it in the columns at once.
INSTRUCTIONS = frozenset({Cause.PINNED.value, *(reason.value for reason in InactiveReason)})

UNDECIDED = frozenset(
    {
        InactiveReason.TARGET_NOT_FOUND,
        InactiveReason.TARGET_TERMINATING,
        InactiveReason.TARGET_REQUESTS_NO_GPU,
        InactiveReason.NAMESPACE_TERMINATING,
        InactiveReason.INTERNAL_ERROR,
    }
)
TIER_CONDITIONS = frozenset(
    {ConditionType.BURST_ACTIVE, ConditionType.FALLBACK_ACTIVE, ConditionType.BASELINE_ISOLATED}
)
TRUE, FALSE, UNKNOWN = "True", "False", "Unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One condition before it is compared with what is stored."""

    type: ConditionType
    status: str
    reason: StrEnum
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusUpdate:
    """The status to store, and which conditions turned (for Events). `changed` is False when it says what is stored already."""

    status: Stored
    changed: bool
    turned: tuple[Verdict, ...] = ()


def workload_status(
    decision: Decision,
    converted: Converted,
    *,
    stored: Stored,
    scaled: bool,
    now: datetime,
    cost: PayerCost | None = None,
) -> StatusUpdate:
    """Return the status for *decision*. `scaled` says that a write of replicas landed since the last one.

    `cost` follows the pods and the prices of their nodes; None leaves it out.
    """
    record = _record(decision, now=now)
    decisions, is_new = _with_record(
        _list(stored, "decisions"), record, decision=decision, stored=stored, now=now
    )
    verdicts = _verdicts(decision, converted)
    conditions, turned = merge_conditions(
        verdicts, stored=stored, generation=converted.generation, now=now, dropped=_dropped(decision)
    )
    status = api.GpuWorkloadStatus(
        observed_generation=converted.generation,
        replicas=decision.current,
        selector=decision.selector or None,
        desired_replicas=decision.desired,
        ready_replicas=decision.counts.ready,
        loading_replicas=decision.counts.loading,
        mode=decision.mode.value,
        target=f"Deployment/{converted.workload.target}",
        hourly_cost=None if cost is None else str(cost),
        capacity=_capacity_status(decision.placement, converted),
    ).dump()
    last = {
        "signal": signal_text(decision),
        "state": decision.signal.state.value,
        "reason": decision.reason,
    }
    if not is_new:
        # A new state of the metrics shows at once; the value in between would change with every pass.
        kept = last if stored.get("state") == last["state"] else {"reason"}
        last |= {name: stored[name] for name in kept if name in stored}
    if scaled:
        status["lastScaleTime"] = seconds_time(now)
    elif "lastScaleTime" in stored:
        status["lastScaleTime"] = stored["lastScaleTime"]
    if _knows_no_more(decision) and "capacity" in stored:
        status["capacity"] = stored["capacity"]
    status |= last | {"decisions": decisions, "conditions": conditions}
    return StatusUpdate(status=status, changed=status != dict(stored), turned=turned)


def _dropped(decision: Decision) -> frozenset[ConditionType]:
    """Return the conditions that were told of a burst which is no more."""
    view = decision.placement
    if _knows_no_more(decision):
        return frozenset()
    return frozenset() if view is not None and _concerns(view) else TIER_CONDITIONS


def _knows_no_more(decision: Decision) -> bool:
    """Whether a defect kept it from being decided: what was stored of a burst is still the best that is known."""
    return decision.inactive is not None and decision.inactive.reason is InactiveReason.INTERNAL_ERROR


def invalid_status(invalid: Invalid, *, stored: Stored, now: datetime) -> StatusUpdate:
    """Return the status of an object that breaks a rule: the old facts stay, Ready and ScalingActive say why nothing happens."""
    verdicts = (
        Verdict(type=ConditionType.READY, status=FALSE, reason=ReadyReason.INVALID, message=invalid.message),
        Verdict(
            type=ConditionType.SCALING_ACTIVE,
            status=FALSE,
            reason=ScalingActiveReason.INVALID,
            message=invalid.message,
        ),
    )
    return _only_conditions(verdicts, stored=stored, generation=invalid.generation, now=now)


def policy_status(
    *, generation: int, problem: str | None, rivals: Sequence[str], stored: Stored, now: datetime
) -> StatusUpdate:
    """Return the status of a GpuPolicy: whether it is usable, and which others claim the same namespaces."""
    if problem is not None:
        ready = Verdict(type=ConditionType.READY, status=FALSE, reason=ReadyReason.INVALID, message=problem)
    else:
        ready = Verdict(
            type=ConditionType.READY, status=TRUE, reason=ReadyReason.ACCEPTED, message="The policy is in use"
        )
    conflict = _policy_conflict(rivals)
    return _only_conditions((ready, conflict), stored=stored, generation=generation, now=now)


def signal_text(decision: Decision) -> str:
    """Return the signal in one short text: `0.83/0.80 100% cov`, or `unknown`."""
    view = decision.signal
    if view.value is None:
        return "unknown"
    return f"{view.value:.2f}/{view.high:.2f} {view.coverage:.0%} cov"


def _only_conditions(
    verdicts: Iterable[Verdict], *, stored: Stored, generation: int, now: datetime
) -> StatusUpdate:
    conditions, turned = merge_conditions(verdicts, stored=stored, generation=generation, now=now)
    status = {**stored, "observedGeneration": generation, "conditions": conditions}
    return StatusUpdate(status=status, changed=status != dict(stored), turned=turned)


def _record(decision: Decision, *, now: datetime) -> Stored:
    return api.Decision(
        time=now.replace(microsecond=0),
        from_replicas=decision.current,
        to_replicas=decision.desired,
        signal=signal_text(decision),
        coverage_percent=round(decision.signal.coverage * 100),
        proposal=decision.proposal,
        limiters=tuple(limit.reason.value for limit in decision.limits),
        reason=decision.reason,
        message=decision.why,
    ).dump()


def _with_record(
    kept: Sequence[Stored], record: Stored, *, decision: Decision, stored: Stored, now: datetime
) -> tuple[Sequence[Stored], bool]:
    """Append the record if its result or first limiter is news; a hold that only changed its limiter may wait a minute."""
    if decision.in_flight and kept:
        return kept, False
    if kept:
        last = kept[-1]
        # A reduction that waits to be confirmed stands for several passes; it is one decision.
        stands = last.get("to") == decision.desired and decision.current in (last.get("from"), last.get("to"))
        if stands and last.get("reason") == decision.reason:
            return kept, False
        is_hold = last.get("to") == decision.desired == decision.current
        is_hold = is_hold and INSTRUCTIONS.isdisjoint((last.get("reason"), decision.reason))
        same_state = stored.get("state") == decision.signal.state.value
        if is_hold and same_state and now - _parse(last.get("time")) < QUIET:
            return kept, False
    return [*kept, record][-MAX_DECISIONS:], True


def _verdicts(decision: Decision, converted: Converted) -> tuple[Verdict, ...]:
    metrics = _metrics(decision)
    capacity = _capacity(decision)
    conflict = _conflict(decision, converted)
    return (
        _ready(decision, converted, metrics=metrics, capacity=capacity),
        metrics,
        _active(decision, converted),
        _limited(decision),
        capacity,
        conflict,
        *_tiers(decision.placement),
    )


def _tiers(view: CapacityView | None) -> tuple[Verdict, ...]:
    """The conditions of a burst; a workload that never bursts has none of them."""
    if view is None or not _concerns(view):
        return ()
    return (
        _flag(ConditionType.BURST_ACTIVE, view.burst, is_true=view.bursts),
        _flag(ConditionType.FALLBACK_ACTIVE, view.fallback, is_true=view.falls_back),
        _flag(ConditionType.BASELINE_ISOLATED, view.isolation, is_true=view.is_isolated),
    )


def _concerns(view: CapacityView) -> bool:
    return view.split is not None or view.burst.reason is not BurstReason.BURST_NEVER


def _flag(kind: ConditionType, finding: Finding[Any], *, is_true: bool) -> Verdict:
    return Verdict(
        type=kind, status=TRUE if is_true else FALSE, reason=finding.reason, message=finding.message
    )


def _capacity_status(view: CapacityView | None, converted: Converted) -> api.CapacityStatus | None:
    """Return the burst's latches and counts; None for a workload that has no second Deployment."""
    if view is None or view.split is None:
        return None
    split = view.split
    return api.CapacityStatus(
        baseline_replicas=converted.workload.capacity.baseline,
        on_demand_replicas=split.baseline,
        burst_replicas=split.burst,
        spare_replicas=split.spare,
        fallback_replicas=split.fallback,
        fallback_since=split.fallback_since.replace(microsecond=0) if split.fallback_since else None,
        fallback_reason=view.fallback.reason.value if view.falls_back else None,
        ready_on_demand=split.good_baseline,
        ready_burst=split.good_burst,
        twin=split.twin or None,
        pools=split.pools[: api.MAX_POOLS] or None,
    )


def _ready(decision: Decision, converted: Converted, *, metrics: Verdict, capacity: Verdict) -> Verdict:
    reason, message = _first_trouble(decision, converted, metrics=metrics, capacity=capacity)
    status = TRUE if reason is ReadyReason.OPERATING else FALSE
    return Verdict(type=ConditionType.READY, status=status, reason=reason, message=message)


def _first_trouble(
    decision: Decision, converted: Converted, *, metrics: Verdict, capacity: Verdict
) -> tuple[ReadyReason, str]:
    inactive = decision.inactive
    if converted.workload.unresolved is not None:
        return ReadyReason.POLICY_NOT_FOUND, converted.workload.unresolved
    if inactive is not None and inactive.reason in UNDECIDED:
        return ReadyReason(inactive.reason.value), inactive.message
    if inactive is not None and inactive.reason is InactiveReason.CONFLICT:
        return ReadyReason.CONFLICT, inactive.message
    if metrics.status == FALSE:
        return ReadyReason.METRICS_UNAVAILABLE, metrics.message
    if capacity.status == FALSE:
        return ReadyReason.CAPACITY_UNAVAILABLE, capacity.message
    return ReadyReason.OPERATING, f"{converted.workload.target} is watched and decided"


def _metrics(decision: Decision) -> Verdict:
    view = decision.signal
    if view.reason in (SignalReason.NO_SETTLED_PODS, SignalReason.NOT_COLLECTED):
        status = UNKNOWN
    elif view.state in BLIND_STATES or view.reason is SignalReason.CONTRADICTORY:
        status = FALSE
    else:
        status = TRUE
    return Verdict(
        type=ConditionType.METRICS_AVAILABLE, status=status, reason=view.reason, message=view.message
    )


def _active(decision: Decision, converted: Converted) -> Verdict:
    kind = ConditionType.SCALING_ACTIVE
    if decision.inactive is not None:
        return Verdict(
            type=kind, status=FALSE, reason=decision.inactive.reason, message=decision.inactive.message
        )
    pin = converted.workload.replicas
    if pin is not None:
        message = f"spec.replicas pins the count at {pin}; remove it to return control to the signals"
        return Verdict(type=kind, status=TRUE, reason=ScalingActiveReason.PINNED, message=message)
    message = f"The signals move {converted.workload.target} in mode {decision.mode}"
    return Verdict(type=kind, status=TRUE, reason=ScalingActiveReason.ACTIVE, message=message)


def _limited(decision: Decision) -> Verdict:
    kind = ConditionType.SCALING_LIMITED
    if decision.limits:
        first = decision.limits[0]
        return Verdict(type=kind, status=TRUE, reason=first.reason, message=first.message)
    message = "No limit changed the last proposal"
    return Verdict(type=kind, status=FALSE, reason=ScalingLimitedReason.NOT_LIMITED, message=message)


def _capacity(decision: Decision) -> Verdict:
    kind = ConditionType.CAPACITY_AVAILABLE
    if decision.inactive is not None and decision.inactive.reason in UNDECIDED:
        message = decision.inactive.message
        return Verdict(type=kind, status=UNKNOWN, reason=CapacityAvailableReason.UNKNOWN, message=message)
    if decision.capacity is not None:
        return Verdict(
            type=kind, status=FALSE, reason=decision.capacity.reason, message=decision.capacity.message
        )
    if decision.counts.loading or decision.counts.unschedulable:
        message = "Some replicas are starting, loading, or wait for a node on its way; they count as supply on its way"
        return Verdict(type=kind, status=TRUE, reason=CapacityAvailableReason.LOADING, message=message)
    message = "Every replica that was asked for has found its place"
    return Verdict(type=kind, status=TRUE, reason=CapacityAvailableReason.ALL_SCHEDULED, message=message)


def _conflict(decision: Decision, converted: Converted) -> Verdict:
    if decision.conflict is not None:
        return Verdict(
            type=ConditionType.CONFLICT,
            status=TRUE,
            reason=decision.conflict.reason,
            message=decision.conflict.message,
        )
    return _policy_conflict(converted.policy_conflicts)


def _policy_conflict(rivals: Sequence[str]) -> Verdict:
    kind = ConditionType.CONFLICT
    if rivals:
        message = (
            f"GpuPolicies {', '.join(rivals)} claim the same workloads; the oldest gives the defaults. "
            "Narrow one namespaceSelector, or remove one default"
        )
        return Verdict(type=kind, status=TRUE, reason=NoConflictReason.POLICY_CONFLICT, message=message)
    return Verdict(
        type=kind, status=FALSE, reason=NoConflictReason.NO_CONFLICT, message="Nothing else claims it"
    )


def merge_conditions(
    verdicts: Iterable[Verdict],
    *,
    stored: Stored,
    generation: int,
    now: datetime,
    keeps_messages: bool = True,
    dropped: Collection[ConditionType] = (),
) -> tuple[Sequence[Stored], tuple[Verdict, ...]]:
    """Merge verdicts over what is stored; return the conditions and those whose status or reason is new.

    With *keeps_messages* a sentence stands until its status or reason changes, since its numbers may change with every pass.
    Those *dropped* are not kept.
    """
    gone = {kind.value for kind in dropped}
    known = {
        item["type"]: item
        for item in _list(stored, "conditions")
        if "type" in item and item["type"] not in gone
    }
    verdicts = tuple(verdicts)
    turned = tuple(verdict for verdict in verdicts if not _stands(verdict, known.get(verdict.type.value)))
    merged = dict(known)
    for verdict in verdicts:
        old = known.get(verdict.type.value) or {}
        # Ready repeats the sentence of the first trouble, which another condition may just have changed.
        is_kept = not turned if verdict.type is ConditionType.READY else verdict not in turned
        since = old.get("lastTransitionTime") if old.get("status") == verdict.status else None
        merged[verdict.type.value] = {
            "type": verdict.type.value,
            "status": verdict.status,
            "reason": verdict.reason.value,
            "message": old["message"] if is_kept and keeps_messages else verdict.message[:1024],
            "observedGeneration": generation,
            "lastTransitionTime": since or seconds_time(now),
        }
    return list(merged.values()), turned


def _stands(verdict: Verdict, old: Stored | None) -> bool:
    return old is not None and (old.get("status"), old.get("reason")) == (
        verdict.status,
        verdict.reason.value,
    )


def _list(stored: Stored, name: str) -> Sequence[Stored]:
    found = stored.get(name)
    return list(found) if isinstance(found, list | tuple) else []


def _parse(text: object) -> datetime:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
