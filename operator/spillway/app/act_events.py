"""What an act that ended is told as: one Event on the object that a person would look at, numbers first, then the next step."""

from dataclasses import dataclass
from typing import Final

from spillway.adapters.kube.write import EventType
from spillway.core.model import (
    Act,
    ApplyTwin,
    CancelUnfulfilled,
    CordonCause,
    CordonNode,
    DeleteTwin,
    DrainNode,
    ForgetNode,
    GrowPool,
    ObjectKey,
    Operation,
    OperationState,
    SetReplicas,
    TwinChange,
)
from spillway.core.plan import Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class ActEvent:
    """An Event on the GpuWorkload `workload`, or on the GpuNodePool `pool`; exactly one of them is set."""

    reason: str
    message: str
    type: EventType = EventType.NORMAL
    workload: ObjectKey | None = None
    pool: str = ""


_TWIN: Final = {
    TwinChange.CREATE: ("BurstCreated", "made with {replicas} replicas for spot"),
    TwinChange.TEMPLATE: ("BurstUpdated", "brought in step with the template of {source}"),
    TwinChange.POOLS: ("BurstUpdated", "made for the spot pools of now: {pools}"),
    TwinChange.EDITED: ("BurstReverted", "put back after {editor} edited it; change {source} instead"),
    TwinChange.ADOPT: ("BurstAdopted", "taken over from a GpuWorkload that is gone"),
}
_FAILED: Final = {
    SetReplicas: "ScaleFailed",
    ApplyTwin: "BurstWriteFailed",
    DeleteTwin: "BurstWriteFailed",
    GrowPool: "PoolResizeFailed",
    CancelUnfulfilled: "PoolResizeFailed",
    CordonNode: "NodeWriteFailed",
    ForgetNode: "NodeWriteFailed",
    DrainNode: "DrainUnfinished",
}


def why_replicas_move(decision: Decision | None) -> str:
    """Return the sentence behind a write of replicas: why the count changes or, where it stays, how it is laid out."""
    if decision is None:
        return ""
    if decision.desired == decision.current and decision.placement is not None:
        return decision.placement.fallback.message
    return decision.message


def event_of(operation: Operation, *, why: str = "") -> ActEvent | None:
    """Return what to tell of an operation that ended; None for one that nobody needs to hear of.

    `why` is the sentence of the decision behind it.
    """
    if operation.state is OperationState.FAILED:
        return _failure(operation)
    match operation.act:
        case SetReplicas() as act:
            reason = "ScaledUp" if act.is_growth else "ScaledDown"
            message = f"{act.target.name}: {act.before} → {act.to} replicas. {why}".rstrip()
            return ActEvent(reason=reason, message=message, workload=act.workload)
        case ApplyTwin() as act:
            return _twin_event(act)
        case DeleteTwin() as act:
            message = f"{act.twin.name}: deleted; nothing runs on spot any more"
            return ActEvent(reason="BurstDeleted", message=message, workload=act.workload)
        case other:
            return _of_pool(other)


def _twin_event(act: ApplyTwin) -> ActEvent:
    reason, text = _TWIN[act.why]
    told = text.format(
        replicas=act.replicas,
        source=act.source.name,
        pools=", ".join(pool.name for pool in act.pools),
        editor=act.edited_by or "somebody",
    )
    return ActEvent(reason=reason, message=f"{act.twin.name}: {told}", workload=act.workload)


def _of_pool(act: Act) -> ActEvent | None:
    match act:
        case GrowPool():
            message = f"Asked for {_nodes(act.to)}; it was asked for {act.before} before"
            return ActEvent(reason="PoolGrown", message=message, pool=act.pool)
        case CancelUnfulfilled():
            message = f"Asks for {_nodes(act.to)} instead of {act.before}: the others were not granted, or are not needed any more"
            return ActEvent(reason="RequestCancelled", message=message, pool=act.pool)
        case CordonNode(cause=CordonCause.INTERRUPTED):
            message = (
                f"{act.node} is being taken back; its replicas count as lost and replacements are asked for"
            )
            return ActEvent(reason="NodeInterrupted", message=message, pool=act.pool, type=EventType.WARNING)
        case DrainNode():
            message = f"{act.node} was empty and is removed (instance {act.instance})"
            return ActEvent(reason="NodeRemoved", message=message, pool=act.pool)
        case ForgetNode():
            message = f"Node {act.node} is deleted: its machine is gone"
            return ActEvent(reason="NodeForgotten", message=message, pool=act.pool)
        case _:
            return None


def _failure(operation: Operation) -> ActEvent | None:
    """Return the warning about an act that failed; what failed on a node stands on its pool."""
    act, error = operation.act, operation.error
    reason = _FAILED.get(type(act))
    workload, pool, told = None, "", ""
    match act:
        case SetReplicas():
            workload, told = (
                act.workload,
                f"{act.target.name}: {act.before} → {act.to} replicas was refused: {error}",
            )
        case ApplyTwin() | DeleteTwin():
            workload, told = act.workload, f"{act.twin.name} could not be written: {error}"
        case GrowPool() | CancelUnfulfilled():
            pool, told = act.pool, f"Asking for {_nodes(act.to)} instead of {act.before} failed: {error}"
        case DrainNode() if operation.blocked:
            reason, pool, told = "DrainBlocked", act.pool, f"{act.node} is kept: {operation.blocked}"
        case DrainNode() | ForgetNode() | CordonNode():
            pool, told = act.pool, f"{act.node}: {error}"
        case _:
            return None
    if reason is None:
        return None
    return ActEvent(reason=reason, message=told, type=EventType.WARNING, workload=workload, pool=pool)


def _nodes(count: int) -> str:
    return f"{count} node" if count == 1 else f"{count} nodes"
