"""The burst twin's life: made when burst replicas are first wanted, kept in step with its source, handed over, deleted.

It is owned by the source Deployment, so that it goes with it, and by no finalizer. See node-and-spot C.3 and C.7.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from spillway.core.model import (
    ApplyTwin,
    DeleteTwin,
    Deployment,
    HandOverTwin,
    NodePool,
    ObjectKey,
    ReplicaAct,
    SetReplicas,
    TwinChange,
    TwinPool,
    Workload,
)

ROLLOUT_PATIENCE: Final = timedelta(minutes=10)  # a rollout that hangs must not keep the twin behind for ever
NAME_LENGTH: Final = 52  # a pod's name adds a template hash and a suffix, and must stay a label value
SUFFIX: Final = "-burst"


def twin_name(source: str) -> str:
    """Return the name of a Deployment's twin: `NAME-burst`; a long name is cut and told apart by a hash of the whole."""
    if len(source) + len(SUFFIX) <= NAME_LENGTH:
        return source + SUFFIX
    tail = hashlib.blake2b(source.encode(), digest_size=4).hexdigest()
    return f"{source[: NAME_LENGTH - len(SUFFIX) - len(tail) - 1].rstrip('-.')}-{tail}{SUFFIX}"


def twins_by_source(deployments: Iterable[Deployment]) -> Mapping[str, Deployment]:
    """Return the twin of each Deployment that has one, by the uid of the source; one that is being deleted is none."""
    return {
        found.twin.source_uid: found
        for found in deployments
        if found.twin is not None and not found.terminating
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinCase:
    """What the next write to a twin follows from. `replicas` is what it is to stand at, `count` the whole that this makes."""

    workload: Workload
    source: Deployment
    twin: Deployment | None
    replicas: int
    count: int
    can_burst: bool
    pools: Sequence[NodePool]
    rolling: bool
    behind_since: datetime | None
    now: datetime


def next_write(case: TwinCase) -> ReplicaAct | None:
    """Return the one act that brings the twin closer to what it should be, replicas apart; None when it is that already."""
    twin = case.twin
    if twin is None:
        return _apply(case, TwinChange.CREATE) if case.can_burst and case.replicas > 0 else None
    if not case.can_burst:
        if case.replicas or twin.replicas:
            return None
        return DeleteTwin(workload=case.workload.key, twin=twin.key, twin_uid=twin.uid, before=0)
    why = _what_changed(case, twin)
    return _apply(case, why) if why is not None else None


def _what_changed(case: TwinCase, twin: Deployment) -> TwinChange | None:
    facts = twin.twin
    if facts is None:
        return None
    if facts.workload_uid != case.workload.uid or facts.handover is not None:
        return TwinChange.ADOPT
    if facts.edited_by:
        return TwinChange.EDITED
    if facts.template != case.source.template:
        waited = case.now - (case.behind_since or case.now)
        return TwinChange.TEMPLATE if not case.rolling or waited >= ROLLOUT_PATIENCE else None
    # A new affinity restarts every pod, so a change of pools alone waits for the next rollout, or for no pods.
    return TwinChange.POOLS if pools_changed(twin, case.pools) and twin.replicas == 0 else None


def pools_changed(twin: Deployment, pools: Iterable[NodePool]) -> bool:
    """Whether the twin was made for other pools than it would be made for now."""
    return twin.twin is not None and set(twin.twin.pools) != {pool.name for pool in pools}


def _apply(case: TwinCase, why: TwinChange) -> ApplyTwin:
    twin = case.twin
    return ApplyTwin(
        workload=case.workload.key,
        workload_uid=case.workload.uid,
        source=case.source.key,
        source_uid=case.source.uid,
        template=case.source.template,
        twin=twin.key if twin is not None else _key(case.source),
        twin_uid=twin.uid if twin is not None else "",
        replicas=case.replicas if twin is None else twin.replicas,
        pools=_pools(case, why),
        why=why,
        count=case.count if twin is None else None,
        edited_by=twin.twin.edited_by if why is TwinChange.EDITED and twin is not None and twin.twin else "",
    )


def _pools(case: TwinCase, why: TwinChange) -> tuple[TwinPool, ...]:
    """Return the pools that the affinity is to name: those of before where the write must not restart a pod."""
    known = case.twin.twin.pools if case.twin is not None and case.twin.twin is not None else ()
    keeps = why in (TwinChange.EDITED, TwinChange.ADOPT) and case.twin is not None and case.twin.replicas > 0
    chosen = [pool for pool in case.pools if pool.name in known] if keeps else list(case.pools)
    return tuple(
        TwinPool(name=pool.name, selector=pool.selector, taints=pool.taints) for pool in chosen or case.pools
    )


def _key(source: Deployment) -> ObjectKey:
    return ObjectKey(source.key.namespace, twin_name(source.key.name))


def hand_over(
    twin: Deployment, source: Deployment, *, good_source: int, good_burst: int
) -> ReplicaAct | None:
    """Return the next step for a twin whose GpuWorkload is gone; None while its replacements come up.

    First what the source must reach is written on the twin, so that a restart does not add it again; then the source is
    raised; the twin goes when the source has as many Ready. Until then it keeps serving.
    """
    goal = twin.twin.handover if twin.twin is not None else None
    if goal is None:
        return HandOverTwin(twin=twin.key, twin_uid=twin.uid, replicas=source.replicas + good_burst)
    if source.replicas < goal:
        return SetReplicas(
            workload=source.key, target=source.key, target_uid=source.uid, before=source.replicas, to=goal
        )
    if good_source >= goal:
        return DeleteTwin(workload=source.key, twin=twin.key, twin_uid=twin.uid, before=twin.replicas)
    return None
