"""A workload's replicas by tier: what stands on demand and on spot, what may burst and why not, what each tier still needs.

The bridge between a workload's own decision, which knows one count, and nodes, which know pods.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from spillway.core.burst import BurstPods, Stand, burst_constraints, eligible_pools, model_allowed, sort_burst
from spillway.core.capacity import PoolOutlook
from spillway.core.fleet import Fleet
from spillway.core.growth import cold_start_of, growth_of
from spillway.core.memory import GrowthMemory, SplitMemory
from spillway.core.model import (
    Burst,
    Deployment,
    FallbackPolicy,
    Mode,
    NodePool,
    ObjectKey,
    Operation,
    Pod,
    PodPhase,
    Snapshot,
    Workload,
)
from spillway.core.packing import Bin, Demand, Tier
from spillway.core.placement import Layout, Prospect, Setting, lay_out, standing
from spillway.core.plan import BurstReason, CapacityView, FallbackReason, Finding, IsolationReason
from spillway.core.scheduling import Taint
from spillway.core.spare import ON_DEMAND_WORTH, Holding, Outlook, price_ratio, with_floating, worth_asked
from spillway.core.twin import pools_changed, twin_name

PodsOf = Mapping[str, list[tuple[Pod, int]]]
NO_PODS = BurstPods()


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What every workload is laid out on, once a pass.

    `places` says by uid where pods without a node have a place coming, `twins` each twin by the uid of its source, `refusing` the
    pools beside whose room the scheduler left pods waiting, by template and Deployment.
    """

    fleet: Fleet
    outlooks: Mapping[str, PoolOutlook]
    places: Mapping[str, Bin]
    twins: Mapping[str, Deployment]
    refusing: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)

    @property
    def coming(self) -> Set[str]:
        """The uids of pods without a node that have a place coming."""
        return self.places.keys()

    def good(self, pods: Iterable[Pod]) -> int:
        """Return how many of *pods* are Ready on nodes that stay."""
        return sum(1 for pod in pods if pod.phase is PodPhase.READY and not self.fleet.is_doomed(pod.node))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiers:
    """One workload's replicas by tier.

    `obstacle` says why nothing may be on spot, None where it may. `split` is set where two Deployments make up the count.
    `supply` are the pods that serve or will, each with its revision in the source's terms; refused burst pods are none where
    on-demand replicas stand in for them. `foreign` says that somebody else changed the source's count, `models_forbidden` why
    the guardrail gpuModels lets nothing grow, empty where it does. On `refusing_pools` the scheduler left pods waiting beside
    room. `awaited` are the uids of pods, of whatever workload, that have a place
    coming.
    """

    workload: Workload
    source: Deployment
    twin: Deployment | None = None
    pools: tuple[NodePool, ...] = ()
    obstacle: Finding[BurstReason] | None = None
    burst: BurstPods = NO_PODS
    source_pods: tuple[Pod, ...] = ()
    good_source: int = 0
    supply: tuple[tuple[Pod, int], ...] = ()
    split: SplitMemory | None = None
    foreign: bool = False
    models_forbidden: str = ""
    refusing_pools: tuple[str, ...] = ()
    awaited: Set[str] = frozenset()

    @property
    def can_burst(self) -> bool:
        """Whether replicas may be on spot.

        Pools that cannot be seen any more, deleted or without the right to read them, are no reason to move what runs there.
        """
        if self.obstacle is None:
            return True
        is_there = self.twin is not None and self.twin.replicas > 0
        return is_there and self.obstacle.reason is BurstReason.NO_SPOT_POOL

    @property
    def count(self) -> int:
        """The count that stands for the signals."""
        return self.source.replicas if self.split is None else self.split.count

    def excess(self, ready: int) -> float:
        """Return what serves by the count, 1 or more: spares and stand-ins take their share of the load and are no part of it."""
        if self.split is None or not self.split.count:
            return 1.0
        stands = self.source.replicas + (self.twin.replicas if self.twin is not None else 0)
        # 5 wanted, 7 set, 6 of them Ready: what they run at is 6 / 5 of it for the 5
        return max(1.0, min(ready, stands) / self.split.count)


def observe_tiers(
    workload: Workload,
    source: Deployment,
    memory: SplitMemory | None,
    *,
    pods: PodsOf,
    operations: tuple[Operation, ...],
    capacity: Capacity,
    snapshot: Snapshot,
    now: datetime,
) -> Tiers:
    """Sort one workload's pods into tiers. Without a burst, and without a twin of before, the source alone is the count."""
    own = pods.get(source.uid, [])
    twin = capacity.twins.get(source.uid)
    fleet = capacity.fleet
    pools = eligible_pools(workload, source, snapshot.pools, fleet) if _asks(workload) else ()
    obstacle = _obstacle(workload, source, twin, pools, snapshot.deployments)
    source_pods = tuple(pod for pod, _ in own)
    tiers = Tiers(
        workload=workload,
        source=source,
        twin=twin,
        pools=pools,
        obstacle=obstacle,
        source_pods=source_pods,
        good_source=capacity.good(source_pods),
        supply=tuple(own),
        models_forbidden=_models_forbidden(workload, source, snapshot.pools, fleet),
        refusing_pools=capacity.refusing.get((source.template, source.uid), ()),
        awaited=capacity.coming,
    )
    if twin is None and obstacle is not None:
        return tiers
    split, foreign = standing(
        memory,
        stored=snapshot.stored_splits.get(workload.uid),
        source=source,
        twin=twin,
        baseline=workload.capacity.baseline if tiers.can_burst else source.replicas,
        operations=operations,
        now=now,
    )
    twin_pods = pods.get(twin.uid, []) if twin is not None else []
    burst = sort_burst(
        (pod for pod, _ in twin_pods),
        rules=workload.capacity.fallback,
        load_grace=workload.readiness.load_grace,
        outlooks=[capacity.outlooks[pool.name] for pool in pools],
        kin=(
            source.template if twin is None or twin.twin is None else twin.twin.template,
            twin.uid if twin else "",
        ),
        coming=capacity.coming,
        fleet=fleet,
        now=now,
    )
    return replace(
        tiers,
        burst=burst,
        supply=(*own, *_burst_supply(twin_pods, burst, workload=workload, source=source, twin=twin)),
        split=replace(split, behind_since=_behind_since(split, source, twin, now=now)),
        foreign=foreign,
    )


def _behind_since(
    split: SplitMemory, source: Deployment, twin: Deployment | None, *, now: datetime
) -> datetime | None:
    is_behind = twin is not None and twin.twin is not None and twin.twin.template != source.template
    return (split.behind_since or now) if is_behind else None


def _models_forbidden(workload: Workload, source: Deployment, pools: Iterable[NodePool], fleet: Fleet) -> str:
    """Say why nothing may grow where every pool that the template fits is of a forbidden model; empty otherwise.

    Without a pool that it fits nobody knows which model it would get, and nothing is forbidden.
    """
    models = workload.guardrails.gpu_models
    if models is None:
        return ""
    fitting = [
        pool
        for pool in pools
        if source.constraints.accepts(fleet.labels_of(pool), pool.taints)
        and source.requests.get(pool.gpu_resource)
    ]
    if not fitting or any(model_allowed(workload, pool) for pool in fitting):
        return ""
    return (
        f"{source.key.name} fits pools of {', '.join(sorted({pool.gpu_model or 'no named model' for pool in fitting}))} only, and "
        f"guardrails.gpuModels allows {', '.join(sorted(models))}"
    )


def _asks(workload: Workload) -> bool:
    return workload.capacity.burst is Burst.WHEN_AVAILABLE and workload.guardrails.spot_allowed


def _obstacle(
    workload: Workload,
    source: Deployment,
    twin: Deployment | None,
    pools: tuple[NodePool, ...],
    deployments: Mapping[ObjectKey, Deployment],
) -> Finding[BurstReason] | None:
    """Why nothing may be on spot, the first that holds; None where replicas may."""
    if workload.capacity.burst is Burst.NEVER:
        return _NEVER
    if not workload.guardrails.spot_allowed:
        message = (
            "A GpuPolicy's guardrail says spot: Forbidden, so nothing bursts. Ask whoever owns the policy"
        )
        return Finding(reason=BurstReason.SPOT_FORBIDDEN, message=message)
    if source.burst_obstacles:
        message = f"The template of {source.key.name} cannot run a second time: {source.burst_obstacles[0]}"
        return Finding(reason=BurstReason.TEMPLATE_CANNOT_BURST, message=message)
    if not pools:
        return Finding(reason=BurstReason.NO_SPOT_POOL, message=_no_pool(workload, source))
    name = ObjectKey(source.key.namespace, twin_name(source.key.name))
    taken = deployments.get(name)
    if twin is None and taken is not None and taken.twin is None:
        message = f"A Deployment {name.name} that is not Spillway's is in the way. Rename or delete it"
        return Finding(reason=BurstReason.TWIN_NAME_TAKEN, message=message)
    return None


_NEVER = Finding(
    reason=BurstReason.BURST_NEVER,
    message="capacity.burst is Never: every replica runs where the Deployment's own template puts it",
)


def _no_pool(workload: Workload, source: Deployment) -> str:
    chosen = ",".join(f"{key}={value}" for key, value in sorted(workload.capacity.pool_selector.items()))
    whose = f" with the labels {chosen}" if chosen else ""
    return (
        f"No GpuNodePool of capacityType Spot{whose} has nodes that fit the template of {source.key.name} "
        "(GPU resource, GPU count, node labels, allowed models). Compare spec.node of the pools with the template"
    )


def _burst_supply(
    pods: Iterable[tuple[Pod, int]],
    burst: BurstPods,
    *,
    workload: Workload,
    source: Deployment,
    twin: Deployment | None,
) -> Iterator[tuple[Pod, int]]:
    """Yield the twin's pods that count as supply; its newest revision goes for the source's."""
    if twin is None:
        return
    covered = workload.capacity.fallback.policy is FallbackPolicy.ON_DEMAND
    refused = {pod.uid for pod in burst.of(Stand.REFUSED)} if covered else set()
    for pod, revision in pods:
        if pod.uid not in refused:
            yield pod, source.revision if revision == twin.revision else 0


def lay_out_tiers(
    tiers: Tiers, *, wanted: int, rolling: bool, prospect: Prospect | None, spare_room: int, now: datetime
) -> Layout | None:
    """Return how *wanted* replicas are laid out; None where the source alone carries them.

    `spare_room` is how many more than that may be had.
    """
    if tiers.split is None:
        return None
    return lay_out(
        Setting(
            workload=tiers.workload,
            source=tiers.source,
            twin=tiers.twin,
            memory=tiers.split,
            burst=tiers.burst,
            wanted=wanted,
            can_burst=tiers.can_burst,
            good_source=tiers.good_source,
            rolling=rolling,
            now=now,
            prospect=prospect,
            spare_room=spare_room,
        )
    )


def prospect_of(tiers: Tiers, memory: GrowthMemory, *, capacity: Capacity) -> Prospect | None:
    """Return what is known of load and spot where replicas may burst; None where nothing is, or nothing may be let go."""
    growth = growth_of(memory) if tiers.split is not None and memory.load is not None else None
    target = tiers.workload.capacity.missed_load
    if growth is None or target is None or not tiers.pools or not tiers.can_burst:
        return None
    if tiers.workload.mode is not Mode.ENFORCE:
        return None
    cold_start = cold_start_of(memory)
    outlooks = [capacity.outlooks[pool.name] for pool in tiers.pools]
    asked = worth_asked(target)
    good = tiers.burst.of(Stand.GOOD)
    coming = _holdings((*good, *tiers.burst.of(Stand.BOOTING)), outlooks, capacity.fleet, gap=cold_start)
    view = Outlook(
        growth=growth,
        holdings=coming,
        spot_worth=asked,
        on_demand_worth=asked * ON_DEMAND_WORTH * price_ratio(_cheapest(capacity.outlooks.values())),
    )
    floating = sum(1 for pod in tiers.burst.of(Stand.BOOTING) if pod.node is None)
    return Prospect(
        coming=with_floating(view, floating),
        ready=replace(view, holdings=_holdings(good, outlooks, capacity.fleet, gap=cold_start)),
        cold_start=cold_start,
        may_replace=any(found.room > 0 and not found.probing for found in outlooks),
    )


def _holdings(
    pods: Iterable[Pod], outlooks: Iterable[PoolOutlook], fleet: Fleet, *, gap: timedelta
) -> tuple[Holding, ...]:
    counts: Counter[str] = Counter()
    for pod in pods:
        pool = fleet.pool_of(pod.node) if pod.node is not None else None
        if pool is not None:
            counts[pool.name] += 1
    return tuple(
        Holding(
            pool=found.pool.name,
            count=counts[found.pool.name],
            chance=found.loss_chance(gap),
            room=found.room,
        )
        for found in outlooks
    )


def _cheapest(outlooks: Iterable[PoolOutlook]) -> Mapping[bool, float]:
    """Return the lowest price of a GPU by whether it is spot, where prices are known."""
    prices: dict[bool, float] = {}
    for found in outlooks:
        if found.pool.price is not None:
            price = float(found.pool.price.per_hour) / found.pool.gpus_per_node
            prices[found.pool.is_spot] = min(price, prices.get(found.pool.is_spot, price))
    return prices


def demands_of(
    tiers: Tiers, *, baseline: int, burst: int, fleet: Fleet, pools: Iterable[NodePool]
) -> Iterator[Demand]:
    """Yield what each tier needs beyond the pods that are on nodes that stay.

    A pod on a node that is lost needs a new place in the same pass, and what a rollout has beyond its replicas needs one, too: else
    it would wait for ever where the nodes are full. Where the guardrail gpuModels holds, pools of other models are out.
    """
    allowed = None
    if tiers.workload.guardrails.gpu_models is not None:
        allowed = frozenset(pool.name for pool in pools if model_allowed(tiers.workload, pool))
    source = tiers.source
    homeless = _homeless(tiers.source_pods, baseline, replicas=source.replicas, fleet=fleet)
    if homeless > 0:
        yield Demand(
            owner=source.uid,
            template=source.template,
            requests=source.requests,
            constraints=source.constraints,
            count=homeless,
            tier=Tier.BASELINE,
            pools=allowed,
            priority=source.priority,
        )
    burst_pods = [pod for found in tiers.burst.by_stand.values() for pod in found]
    burst_now = tiers.twin.replicas if tiers.twin is not None else 0
    homeless = _homeless(burst_pods, burst, replicas=burst_now, fleet=fleet)
    if homeless > 0 and tiers.pools:
        yield Demand(
            owner=tiers.twin.uid if tiers.twin is not None else source.uid,
            template=source.template,
            requests=source.requests,
            constraints=burst_constraints(source, tiers.twin, tiers.pools),
            count=homeless,
            tier=Tier.BURST,
            pools=frozenset(pool.name for pool in tiers.pools),
            priority=source.priority,
        )


def _homeless(pods: Iterable[Pod], wanted: int, *, replicas: int, fleet: Fleet) -> int:
    """Return how many of *wanted* pods have no node that stays, with those that a rollout has beyond *replicas*."""
    housed, waiting = 0, 0
    revisions = set()
    for pod in pods:
        if pod.phase in (PodPhase.TERMINATING, PodPhase.FINISHED) or fleet.is_doomed(pod.node):
            continue
        revisions.add(pod.owner_uid)
        housed += pod.node is not None
        waiting += pod.node is None
    # 2 replicas: 2 old ones have a node, 1 new one waits for one: 2 + 1 - 2 = 1. A reduction has too many of one revision only.
    surge = min(waiting, max(0, housed + waiting - replicas)) if len(revisions) > 1 else 0
    return wanted + surge - housed


def capacity_view(
    tiers: Tiers, layout: Layout | None, *, fleet: Fleet, may_write: bool = True
) -> CapacityView | None:
    """Return what the capacity settings came to: how the count is laid out, and the finding behind each condition.

    None for a workload that never bursts and has no twin of before. `may_write` is False where nothing is written for it at all.
    """
    if layout is None and tiers.obstacle is _NEVER:
        return None
    isolation, is_isolated = _isolation(tiers, fleet)
    burst, bursts = _burst_finding(tiers, layout, may_write=may_write)
    idle = Finding(reason=FallbackReason.NOT_NEEDED, message="Nothing is wanted on spot")
    return CapacityView(
        split=replace(layout.view, pools=tuple(pool.name for pool in tiers.pools)) if layout else None,
        burst=burst,
        fallback=layout.fallback if layout is not None else idle,
        isolation=isolation,
        bursts=bursts,
        falls_back=layout is not None and layout.falls_back,
        is_isolated=is_isolated,
    )


def _burst_finding(
    tiers: Tiers, layout: Layout | None, *, may_write: bool
) -> tuple[Finding[BurstReason], bool]:
    if tiers.obstacle is not None:
        return tiers.obstacle, False
    if layout is None or (layout.view.burst == 0 and layout.view.burst_now == 0):
        message = "The baseline carries everything that is wanted"
        return Finding(reason=BurstReason.NO_BURST_NEEDED, message=message), False
    failed = _twin_failure(tiers, layout, may_write=may_write)
    if failed is not None:
        return failed, False
    # Without a count: it would be out of date in a condition, which is written when its reason changes.
    told = f"What is above the baseline goes to spot ({', '.join(pool.name for pool in tiers.pools)})"
    if tiers.twin is not None and pools_changed(tiers.twin, tiers.pools):
        message = f"{told}; the pools changed, which applies at the next rollout or when nothing bursts"
        return Finding(reason=BurstReason.POOLS_CHANGED, message=message), True
    return Finding(reason=BurstReason.BURSTING, message=told), True


def _twin_failure(tiers: Tiers, layout: Layout, *, may_write: bool) -> Finding[BurstReason] | None:
    """What keeps a burst that is wanted from having its Deployment, or that from having pods."""
    twin = tiers.twin
    if layout.memory.refused:
        message = f"The burst Deployment could not be written: {layout.memory.refused}"
        return Finding(reason=BurstReason.TWIN_REFUSED, message=message)
    if not may_write and twin is None:
        message = f"{layout.view.burst} replicas would burst; nothing is written now, so no burst Deployment is made"
        return Finding(reason=BurstReason.MODE_FORBIDS, message=message)
    if twin is not None and twin.failure is not None:
        message = f"The cluster refuses to create pods of {twin.key.name}: {twin.failure}"
        return Finding(reason=BurstReason.PODS_NOT_CREATED, message=message)
    return None


def _isolation(tiers: Tiers, fleet: Fleet) -> tuple[Finding[IsolationReason], bool]:
    """Whether the source's pods are kept off spot: by taints that they do not tolerate, or by their own affinity."""
    source = tiers.source
    if not tiers.pools:
        return Finding(
            reason=IsolationReason.NO_SPOT_POOL, message="There is no spot pool to be kept off"
        ), True
    stray = [pod for pod in tiers.source_pods if _is_on_spot(pod, fleet)]
    if stray:
        message = (
            f"{len(stray)} baseline pods run on spot nodes, {stray[0].key.name} on {stray[0].node}: taint the pool's nodes, or give "
            "the template a required node affinity that keeps it off them"
        )
        return Finding(reason=IsolationReason.BASELINE_ON_SPOT, message=message), False
    for pool in tiers.pools:
        open_to_all = _accepted_taints(source, pool, fleet)
        if open_to_all is None:
            continue
        if not open_to_all:
            message = (
                f"Nodes of spot pool {pool.name} carry no taint, so baseline pods may land there. Taint them and say so in "
                "spec.node.taints, or give the template a required node affinity that keeps it off them"
            )
            return Finding(reason=IsolationReason.SPOT_POOL_UNTAINTED, message=message), False
        taint = open_to_all[0]
        message = (
            f"The template of {source.key.name} tolerates the taint {taint.key}={taint.value} of spot pool {pool.name}, so baseline "
            "pods may land there. Take the toleration out; burst pods get their own"
        )
        return Finding(reason=IsolationReason.BASELINE_TOLERATES_SPOT, message=message), False
    message = f"Taints or labels keep the baseline off {', '.join(pool.name for pool in tiers.pools)}"
    return Finding(reason=IsolationReason.ISOLATED, message=message), True


def _accepted_taints(source: Deployment, pool: NodePool, fleet: Fleet) -> tuple[Taint, ...] | None:
    """Return the taints of nodes of *pool* that the source's pods would land on in spite of them; None where there are none."""
    labels = fleet.labels_of(pool)
    accepted = [taints for taints in fleet.taints_of(pool) if source.constraints.accepts(labels, taints)]
    return min(accepted, key=len, default=None)


def _is_on_spot(pod: Pod, fleet: Fleet) -> bool:
    pool = fleet.pool_of(pod.node) if pod.node is not None else None
    return pool is not None and pool.is_spot and pod.phase is not PodPhase.TERMINATING
