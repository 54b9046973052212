"""Why a workload stands at its count, as plain data: what the operator serves and `spillway explain` and `top` print."""

from collections.abc import Mapping
from dataclasses import asdict
from enum import StrEnum
from typing import Any, TypeVar

from spillway.adapters.kube.clock import seconds_time
from spillway.app.loop import LastPass
from spillway.app.pools import hourly_cost, price_source
from spillway.app.status import signal_text
from spillway.core.cost import PayerCost, PoolBill
from spillway.core.model import NodePool, ObjectKey, SetReplicas
from spillway.core.plan import Decision, Finding, Limit, PoolDecision, SplitView
from spillway.core.prices import money

Document = Mapping[str, Any]
Reason = TypeVar("Reason", bound=StrEnum)


def explain(last: LastPass, key: ObjectKey) -> Document | None:
    """Return everything known of one workload's last decision, in JSON's types; None for one that is not known.

    An invalid object is explained by its problems.
    """
    decision = last.plan.decisions.get(key)
    if decision is not None:
        return _decision(decision, last)
    for invalid in last.view.invalid:
        if invalid.key == key:
            return {
                "workload": str(key),
                "at": seconds_time(last.at),
                "problems": [p.message for p in invalid.problems],
            }
    return None


def top(last: LastPass) -> Document:
    """Return one row per workload and one per pool, for two tables."""
    return {
        "at": seconds_time(last.at),
        "breakerOpen": last.plan.breaker.is_open,
        "workloads": [
            _row(decision, last.bill.of_workload(decision.key)) for decision in last.plan.decisions.values()
        ],
        "pools": [
            _pool(last.view.pools[name].pool, found, last.plan.pools.get(name))
            for name, found in sorted(last.bill.pools.items())
        ],
    }


def _row(decision: Decision, cost: PayerCost | None) -> Document:
    return {
        "namespace": decision.key.namespace,
        "name": decision.key.name,
        "mode": decision.mode.value,
        "current": decision.current,
        "desired": decision.desired,
        "ready": decision.counts.ready,
        "loading": decision.counts.loading,
        "tiers": _tiers(decision.placement.split) if decision.placement is not None else None,
        "signal": signal_text(decision),
        "state": decision.signal.state.value,
        "reason": decision.reason,
        "why": decision.why,
        "hourlyCost": None if cost is None else str(cost),
        "priceSource": None if cost is None else _sources(cost),
    }


def _sources(cost: PayerCost) -> str:
    return ", ".join(sorted({line.terms.source.value for line in cost.lines}))


def _pool(pool: NodePool, bill: PoolBill, plan: PoolDecision | None) -> Document:
    return {
        "name": pool.name,
        "capacityType": pool.capacity_type.value,
        **(_sizes(plan) if plan is not None else {}),
        "nodes": asdict(bill.nodes),
        "gpusAllocatable": bill.allocatable,
        "gpusAllocated": bill.allocated,
        "gpusIdle": bill.idle_gpus,
        "hourlyCost": hourly_cost(pool, bill),
        "idleHourlyCost": {kind.value: money(amount) for (_, kind), amount in bill.idle.items()},
        "currency": pool.currency,
        "priceSource": price_source(pool, bill),
        "sharedNodes": dict(bill.rivals),
    }


def _sizes(plan: PoolDecision) -> Document:
    return {
        "mode": plan.mode.value,
        "size": plan.size,
        "desired": plan.desired,
        "target": plan.target,
        "booting": plan.booting,
        "draining": list(plan.draining),
        "doomed": list(plan.doomed),
        "reason": plan.reason.value,
        "why": plan.message,
        "closed": _closed(plan),
    }


def _closed(plan: PoolDecision) -> Document | None:
    """Why the pool takes no more nodes, and until when where that is known; None while it does."""
    if plan.closed is None:
        return None
    until = seconds_time(plan.closed_until) if plan.closed_until is not None else None
    return {**_told(plan.closed), "until": until}


def _tiers(split: SplitView | None) -> Document | None:
    """How a count is laid out; None where one Deployment carries it."""
    if split is None:
        return None
    return {
        "onDemand": split.baseline,
        "fallback": split.fallback,
        "burst": split.burst,
        "spare": split.spare,
        "spareWhy": split.spare_why,
        "onDemandNow": split.baseline_now,
        "burstNow": split.burst_now,
        "readyOnDemand": split.good_baseline,
        "readyBurst": split.good_burst,
        "booting": split.booting,
        "refused": split.refused,
        "doomed": split.doomed,
        "broken": split.broken,
        "twin": split.twin,
        "pools": list(split.pools),
    }


def _placement(decision: Decision, pools: Mapping[str, PoolDecision]) -> Document | None:
    view = decision.placement
    if view is None:
        return None
    named = view.split.pools if view.split is not None else ()
    return {
        "pools": [{"name": name, **_sizes(pools[name])} for name in named if name in pools],
        "tiers": _tiers(view.split),
        "burst": {**_told(view.burst), "active": view.bursts},
        "fallback": {**_told(view.fallback), "active": view.falls_back},
        "baselineIsolated": {**_told(view.isolation), "active": view.is_isolated},
    }


def _told(found: Finding[Reason]) -> Document:
    return {"reason": found.reason.value, "message": found.message}


def _decision(decision: Decision, last: LastPass) -> Document:
    converted = last.view.converted[decision.key]
    breaker = last.plan.breaker
    return {
        "workload": str(decision.key),
        "target": f"Deployment/{converted.workload.target}",
        "at": seconds_time(last.at),
        "mode": decision.mode.value,
        "askedMode": converted.workload.asked_mode.value,
        "current": decision.current,
        "desired": decision.desired,
        "replicas": asdict(decision.counts),
        "signal": {
            "text": signal_text(decision),
            "state": decision.signal.state.value,
            "reason": decision.signal.reason.value,
            "message": decision.signal.message,
            "ageSeconds": decision.signal.age_seconds,
        },
        "proposal": {
            "replicas": decision.proposal,
            "cause": decision.cause.value,
            "message": decision.message,
        },
        "limits": [_limit(limit) for limit in decision.limits],
        "reason": decision.reason,
        "why": decision.why,
        "confirming": _confirming(decision, last),
        "inactive": _finding(decision.inactive),
        "conflict": _finding(decision.conflict),
        "capacity": _finding(decision.capacity),
        "placement": _placement(decision, last.plan.pools),
        "cost": _cost(last.bill.of_workload(decision.key)),
        "breaker": {"open": breaker.is_open, "lost": breaker.lost, "active": breaker.active},
        "settings": [
            {"path": item.path, "value": item.value, "from": item.source} for item in converted.provenance
        ],
    }


def _cost(cost: PayerCost | None) -> Document | None:
    """What the workload's pods cost now, line by line; None where it has no target of its own."""
    if cost is None:
        return None
    lines = [
        {
            "pool": line.terms.pool,
            "capacityType": line.terms.capacity_type.value,
            "gpuModel": line.terms.gpu_model,
            "gpus": line.gpus,
            "perHour": money(line.per_hour),
            "currency": line.terms.currency,
            "source": line.terms.source.value,
        }
        for line in cost.lines
    ]
    return {"hourly": str(cost), "lines": lines, "unknownGpus": cost.unknown_gpus}


def _confirming(decision: Decision, last: LastPass) -> Document | None:
    """A reduction that must go on being proposed until then; None when there is none."""
    for pending in last.pending.values():
        act = pending.act
        if isinstance(act, SetReplicas) and act.workload == decision.key:
            return {
                "target": act.target.name,
                "to": act.to,
                "until": seconds_time(pending.since + last.hold),
            }
    return None


def _limit(limit: Limit) -> Document:
    return {
        "reason": limit.reason.value,
        "before": limit.before,
        "after": limit.after,
        "message": limit.message,
        "until": seconds_time(limit.until) if limit.until is not None else None,
    }


def _finding(found: Finding[Reason] | None) -> Document | None:
    return None if found is None else _told(found)
