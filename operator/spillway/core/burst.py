"""What burst replicas can do now: which spot pools a workload may use, and how its burst pods stand.

A burst pod is good when it is Ready on a node that stays, whatever its revision. The rest is sorted by why it does not serve, since
each why asks for something else: a refusal for on-demand in seconds, a slow boot for patience, a crash for a person.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from spillway.core.capacity import PoolOutlook
from spillway.core.fleet import Fleet
from spillway.core.model import Deployment, FallbackRules, NodePool, Pod, PodPhase, TwinPool, Workload
from spillway.core.plan import CloseReason, FallbackReason
from spillway.core.scheduling import Constraints, Toleration

# Why a pool that takes no more nodes leaves a pod without a place at once. Of the others nobody knows: their pods may pend.
_REFUSALS: Mapping[CloseReason, FallbackReason] = {
    CloseReason.REFUSED: FallbackReason.SPOT_REFUSED,
    CloseReason.AT_MAX: FallbackReason.POOL_MAX,
    CloseReason.BREAKER_OPEN: FallbackReason.BREAKER_OPEN,
    CloseReason.OBSERVED: FallbackReason.POOL_MAX,
    CloseReason.PODS_PARTLY_SEEN: FallbackReason.POOL_MAX,
}


class Stand(StrEnum):
    """How a burst pod stands. `BOOTING` serves without anybody's doing, `BROKEN` would break on demand as well."""

    GOOD = "Good"
    BOOTING = "Booting"
    DOOMED = "Doomed"
    BROKEN = "Broken"
    REFUSED = "Refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class BurstPods:
    """The live pods of one twin by how they stand. `stable` of the good ones have been Ready for as long as a return asks for.

    `refusals` counts the refused ones by why.
    """

    by_stand: Mapping[Stand, tuple[Pod, ...]] = field(default_factory=dict)
    stable: int = 0
    refusals: Mapping[FallbackReason, int] = field(default_factory=dict)

    def of(self, stand: Stand) -> tuple[Pod, ...]:
        """Return the pods that stand so."""
        return self.by_stand.get(stand, ())

    def count(self, stand: Stand) -> int:
        """Return how many pods stand so."""
        return len(self.of(stand))

    @property
    def total(self) -> int:
        """All of them."""
        return sum(len(found) for found in self.by_stand.values())


def eligible_pools(
    workload: Workload, source: Deployment, pools: Iterable[NodePool], fleet: Fleet
) -> tuple[NodePool, ...]:
    """Return the spot pools that burst replicas of *workload* may use, by name.

    Its poolSelector and the guardrail on GPU models choose among those whose nodes the template fits: by GPU resource, GPU
    count and node labels. What is only known of a living node, such as the GPU product label, is read from one.
    """
    rules = workload.capacity
    found = [
        pool
        for pool in pools
        if pool.is_spot
        and rules.pool_selector.items() <= pool.labels.items()
        and model_allowed(workload, pool)
        and 0 < source.requests.get(pool.gpu_resource, 0) <= pool.gpus_per_node
        and source.constraints.selects(fleet.labels_of(pool))
    ]
    return tuple(sorted(found, key=lambda pool: pool.name))


def model_allowed(workload: Workload, pool: NodePool) -> bool:
    """Whether the guardrail gpuModels lets *workload* use *pool*; without a list every model is allowed."""
    models = workload.guardrails.gpu_models
    return models is None or pool.gpu_model in models


def twin_pools(pools: Iterable[NodePool]) -> tuple[TwinPool, ...]:
    """Return what a twin must know of each pool."""
    return tuple(TwinPool(name=pool.name, selector=pool.selector, taints=pool.taints) for pool in pools)


def burst_constraints(source: Deployment, twin: Deployment | None, pools: Sequence[NodePool]) -> Constraints:
    """Return where burst pods may go: as the twin says, or as one would say that is made now."""
    if twin is not None:
        return twin.constraints
    tolerations = tuple(
        Toleration(key=taint.key, value=taint.value, effect=taint.effect)
        for pool in pools
        for taint in pool.taints
    )
    return Constraints(
        node_selector=source.constraints.node_selector,
        terms=source.constraints.terms,
        tolerations=(*source.constraints.tolerations, *tolerations),
    )


def sort_burst(
    pods: Iterable[Pod],
    *,
    rules: FallbackRules,
    load_grace: timedelta,
    outlooks: Sequence[PoolOutlook],
    kin: tuple[str, str],
    coming: Set[str],
    fleet: Fleet,
    now: datetime,
) -> BurstPods:
    """Sort the pods of a twin; terminating and finished ones are left out.

    `outlooks` are those of the pools that it may use, `kin` names its pods where a pool remembers that the scheduler refused
    them, `coming` holds the uids of pods without a node that have a place coming.
    """
    by_stand: dict[Stand, list[Pod]] = defaultdict(list)
    refusals: Counter[FallbackReason] = Counter()
    no_place = why_no_place(outlooks, kin)
    for pod in pods:
        if pod.phase in (PodPhase.TERMINATING, PodPhase.FINISHED):
            continue
        if pod.node is not None:
            by_stand[_stand_on_node(pod, load_grace=load_grace, fleet=fleet, now=now)].append(pod)
            continue
        why = _refusal(pod, rules=rules, no_place=no_place, is_coming=pod.uid in coming, now=now)
        by_stand[Stand.BOOTING if why is None else Stand.REFUSED].append(pod)
        if why is not None:
            refusals[why] += 1
    return BurstPods(
        by_stand={stand: tuple(found) for stand, found in by_stand.items()},
        stable=sum(1 for pod in by_stand[Stand.GOOD] if now - pod.since >= rules.return_stable),
        refusals=dict(refusals),
    )


def _stand_on_node(pod: Pod, *, load_grace: timedelta, fleet: Fleet, now: datetime) -> Stand:
    if fleet.is_doomed(pod.node):
        return Stand.DOOMED
    if pod.phase is PodPhase.READY:
        return Stand.GOOD
    loads_too_long = pod.phase is PodPhase.LOADING and now - pod.since > load_grace
    return Stand.BROKEN if pod.phase is PodPhase.BROKEN or loads_too_long else Stand.BOOTING


def _refusal(
    pod: Pod, *, rules: FallbackRules, no_place: FallbackReason | None, is_coming: bool, now: datetime
) -> FallbackReason | None:
    """Why a pod without a node has no place to hope for; None while it has, or may still get one."""
    waited = now - pod.created_at
    if is_coming:
        return FallbackReason.BOOT_DEADLINE if waited > rules.boot_deadline else None
    if no_place is not None:
        return no_place
    return FallbackReason.PROVISION_TIMEOUT if waited > rules.provision_timeout else None


def why_no_place(outlooks: Sequence[PoolOutlook], kin: tuple[str, str]) -> FallbackReason | None:
    """Return why no pool will give a pod without a place one soon; None where one may, or where nobody knows.

    Of a provider that does not answer, and of one that Spillway does not size, nothing is known: only time tells.
    """
    if outlooks and all(kin in found.memory.unplaceable for found in outlooks):
        return FallbackReason.PACKING_REFUSED
    reasons = {_why_none(found) for found in outlooks}
    if None in reasons:
        return None
    return next((reason for reason in FallbackReason if reason in reasons), None)


def _why_none(found: PoolOutlook) -> FallbackReason | None:
    if found.closed is not None:
        return _REFUSALS.get(found.closed.reason)
    return FallbackReason.BOOT_DEADLINE if found.hung else None
