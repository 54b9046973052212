"""What is known of a GpuNodePool as its status: nodes, GPUs, cost, and the first thing that a person should look at."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from spillway.api import names
from spillway.api import nodepools as api
from spillway.api.conditions import ConditionType, NoConflictReason, ReadyReason
from spillway.api.convert import ConvertedPool, Invalid
from spillway.app.status import FALSE, TRUE, UNKNOWN, StatusUpdate, Stored, Verdict, merge_conditions
from spillway.core.cost import PoolBill
from spillway.core.model import Mode, Node, NodePool
from spillway.core.plan import PoolDecision, PoolReason
from spillway.core.prices import PriceSource, money

UNKNOWN_PRICE = "unknown"


def pool_status(
    converted: ConvertedPool,
    bill: PoolBill,
    plan: PoolDecision | None = None,
    *,
    nodes: Mapping[str, Node] | None = None,
    stored: Stored,
    now: datetime,
) -> StatusUpdate:
    """Return the status of a pool. It follows its nodes and the pods on them, so nothing in it changes with time alone.

    `plan` is what is to become of it; without one, only what there is and costs is told. `nodes` has those that it names.
    """
    pool = converted.pool
    conflict = _conflict(bill.rivals)
    conditions, turned = merge_conditions(
        (_ready(pool, bill, conflict), *((_capacity(plan, stored),) if plan is not None else ()), conflict),
        stored=stored,
        generation=converted.generation,
        now=now,
        keeps_messages=False,
    )
    status = api.GpuNodePoolStatus(
        observed_generation=converted.generation,
        nodes=_node_counts(bill, plan, nodes or {}),
        **(_plan_status(plan) if plan is not None else {}),
        gpus_allocatable=bill.allocatable,
        gpus_allocated=bill.allocated,
        gpus_idle=bill.idle_gpus,
        hourly_cost=hourly_cost(pool, bill),
        currency=pool.currency,
        price_source=price_source(pool, bill),
    ).dump()
    status["conditions"] = conditions
    return StatusUpdate(status=status, changed=status != dict(stored), turned=turned)


def _node_counts(bill: PoolBill, plan: PoolDecision | None, nodes: Mapping[str, Node]) -> api.NodeCounts:
    """Count each node once: what boots, is drained or is lost is not counted by how its kubelet stands as well."""
    tally = bill.nodes
    if plan is None:
        return api.NodeCounts(ready=tally.ready, not_ready=tally.not_ready, cordoned=tally.cordoned)
    draining = set(plan.draining).difference(plan.doomed)
    named = [nodes[name] for name in {*plan.booting_nodes, *draining, *plan.doomed} if name in nodes]
    ready = [node for node in named if node.ready]
    cordoned = sum(1 for node in ready if node.unschedulable)
    return api.NodeCounts(
        ready=max(0, tally.ready - (len(ready) - cordoned)),
        not_ready=max(0, tally.not_ready - (len(named) - len(ready))),
        cordoned=max(0, tally.cordoned - cordoned),
        booting=plan.booting,
        draining=len(draining),
        doomed=len(plan.doomed),
    )


def _plan_status(plan: PoolDecision) -> Mapping[str, Any]:
    """Return the plan's part of the status: sizes, and the latches that a restart reads back."""
    return {
        "mode": plan.mode.value,
        "desired_nodes": plan.desired,
        "target_nodes": plan.target,
        "closed_until": _whole_seconds(plan.closed_until),
        "failed_probes": plan.steps or None,
        "breaker_open_until": _whole_seconds(plan.breaker_until),
        "last_refusals": tuple(
            api.PoolRefusal(
                time=found.at.replace(microsecond=0),
                kind=found.kind,
                code=found.code or None,
                message=found.message or None,
                zone=found.zone or None,
            )
            for found in plan.refusals
        )
        or None,
    }


def _whole_seconds(moment: datetime | None) -> datetime | None:
    return moment.replace(microsecond=0) if moment is not None else None


def _capacity(plan: PoolDecision, stored: Stored) -> Verdict:
    kind, message = ConditionType.CAPACITY_AVAILABLE, plan.message
    if plan.reason in _NOT_OURS:
        status = UNKNOWN
    else:
        status = FALSE if plan.closed is not None and plan.reason.value == plan.closed.reason.value else TRUE
    if plan.reason is PoolReason.PROVIDER_UNAVAILABLE:
        # How long it has been silent grows with every pass; the first sentence stands until it speaks.
        message = _stored_message(stored, kind, plan.reason) or message
    return Verdict(type=kind, status=status, reason=plan.reason, message=message)


def _stored_message(stored: Stored, kind: ConditionType, reason: PoolReason) -> str:
    conditions = stored.get("conditions")
    for found in conditions if isinstance(conditions, list) else []:
        if (found.get("type"), found.get("reason")) == (kind.value, reason.value):
            return str(found.get("message") or "")
    return ""


# Whether more nodes could be had is somebody else's business.
_NOT_OURS = frozenset({PoolReason.EXTERNAL, PoolReason.OBSERVED, PoolReason.PODS_PARTLY_SEEN})


def invalid_pool_status(invalid: Invalid, *, stored: Stored, now: datetime) -> StatusUpdate:
    """Return the status of a pool that breaks a rule: it has no nodes, so nothing is said of them."""
    ready = Verdict(
        type=ConditionType.READY, status=FALSE, reason=ReadyReason.INVALID, message=invalid.message
    )
    conditions, turned = merge_conditions((ready,), stored=stored, generation=invalid.generation, now=now)
    status = {"observedGeneration": invalid.generation, "conditions": conditions}
    return StatusUpdate(status=status, changed=status != dict(stored), turned=turned)


def hourly_cost(pool: NodePool, bill: PoolBill) -> str | None:
    """Return what all nodes cost an hour; None where one of them has no price."""
    return None if bill.unpriced else money(bill.costs.get(pool.currency, Decimal(0)))


def price_source(pool: NodePool, bill: PoolBill) -> str:
    """Return where the prices came from, with node counts where there are several: `node annotation (1), pool price (2)`."""
    counts = {source.value: bill.sources[source] for source in PriceSource if source in bill.sources}
    if bill.unpriced:
        counts[UNKNOWN_PRICE] = bill.unpriced
    if not counts:
        return PriceSource.POOL.value if pool.price is not None else UNKNOWN_PRICE
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{source} ({count})" for source, count in counts.items())


def _conflict(rivals: Mapping[str, int]) -> Verdict:
    kind = ConditionType.CONFLICT
    if not rivals:
        message = "No other pool selects its nodes"
        return Verdict(type=kind, status=FALSE, reason=NoConflictReason.NO_CONFLICT, message=message)
    shared = ", ".join(f"{_count(count)} with pool {name}" for name, count in sorted(rivals.items()))
    message = (
        f"It shares {shared}; a node that two pools select belongs to neither. Narrow one spec.node.selector"
    )
    return Verdict(type=kind, status=TRUE, reason=NoConflictReason.POOL_CONFLICT, message=message)


def _ready(pool: NodePool, bill: PoolBill, conflict: Verdict) -> Verdict:
    reason, message = _first_trouble(pool, bill, conflict)
    trouble = reason in (ReadyReason.CONFLICT, ReadyReason.PRICE_ANNOTATION_INVALID)
    return Verdict(
        type=ConditionType.READY, status=FALSE if trouble else TRUE, reason=reason, message=message
    )


def _first_trouble(pool: NodePool, bill: PoolBill, conflict: Verdict) -> tuple[ReadyReason, str]:
    total = bill.nodes.total
    if bill.rivals:
        return ReadyReason.CONFLICT, conflict.message
    if bill.bad_prices:
        first, more = bill.bad_prices[0], len(bill.bad_prices) - 1
        also = f"; {_count(more)} more like it" if more else ""
        message = (
            f"Ignored the annotation {names.PRICE_ANNOTATION} of node {first.node}: {first.message}{also}"
        )
        return ReadyReason.PRICE_ANNOTATION_INVALID, message
    if not total:
        labels = ",".join(f"{key}={value}" for key, value in sorted(pool.selector.items()))
        return ReadyReason.NO_NODES, f"No node has the labels {labels}"
    if bill.unpriced:
        message = (
            f"{bill.unpriced} of {_count(total)} have no price. Set spec.price.perNodeHour, "
            f"or annotate the nodes with {names.PRICE_ANNOTATION}"
        )
        return ReadyReason.PRICE_UNKNOWN, message
    if bill.allocated is None:
        message = "Only the pods of watchNamespaces are seen, so which GPUs are free is unknown"
        return ReadyReason.PODS_PARTLY_SEEN, message
    is_sized = pool.is_sizable and pool.mode is not Mode.OBSERVE
    done = f"sized in mode {pool.mode}" if is_sized else "observed and priced"
    return ReadyReason.OPERATING if is_sized else ReadyReason.OBSERVED, f"{_count(total)} {done}"


def _count(nodes: int) -> str:
    return f"{nodes} node" if nodes == 1 else f"{nodes} nodes"
