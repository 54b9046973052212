"""Who pays for the GPU nodes: every node's price is split among the pods that hold its GPUs, and the rest is idle.

The invariant: what all payers pay and what is idle add up to the price of every node. What has no price is counted in GPUs and
is in no sum.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Final

from spillway.core.claims import Claims, claim_nodes
from spillway.core.conflict import first_on_target
from spillway.core.model import CapacityType, Node, NodePool, ObjectKey, Pod, PodPhase, Snapshot
from spillway.core.prices import USUAL_RESOURCE, BadPrice, PriceSource, PriceTag, money, price_of

# A Kubernetes name has no space, so these words collide with none.
NO_POOL: Final = "no pool"
BARE_PODS: Final = "bare pods"

_NOTHING: Final = Decimal(0)


class IdleKind(StrEnum):
    """Why nobody pays for a part of a node. `UNSEEN` takes the place of both where only some namespaces are watched."""

    UNALLOCATED = "unallocated"
    NOT_READY = "not_ready"
    UNSEEN = "unseen"


@dataclass(frozen=True, slots=True, order=True)
class Payer:
    """Who holds GPUs: a GpuWorkload (`managed`), or else the pods' own controller, or all bare pods of a namespace."""

    namespace: str
    name: str
    managed: bool


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Terms:
    """What one GPU-hour is paid by: the pool (or `NO_POOL`), on which terms, for which model, in which money, from which source."""

    pool: str
    capacity_type: CapacityType
    gpu_model: str
    currency: str
    source: PriceSource


@dataclass(frozen=True, slots=True, kw_only=True)
class CostLine:
    """A number of GPUs on the same terms, and what they cost an hour together."""

    terms: Terms
    gpus: int
    per_hour: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class PayerCost:
    """What one payer holds now: GPUs with a price, by terms, and the number of those without."""

    lines: tuple[CostLine, ...] = ()
    unknown_gpus: int = 0

    @property
    def gpus(self) -> int:
        """All GPUs held, with a price or without."""
        return self.unknown_gpus + sum(line.gpus for line in self.lines)

    @property
    def totals(self) -> Mapping[str, Decimal]:
        """What is known, by currency."""
        totals: dict[str, Decimal] = {}
        for line in self.lines:
            totals[line.terms.currency] = totals.get(line.terms.currency, _NOTHING) + line.per_hour
        return totals

    def __str__(self) -> str:
        """Return `29.40 USD`, `18.40 USD + unknown (2 of 5 GPUs)`, `unknown`, or `0.00` while no GPU is held."""
        if self.unknown_gpus and not self.lines:
            return "unknown"
        parts = [f"{money(amount)} {currency}" for currency, amount in sorted(self.totals.items())]
        if self.unknown_gpus:
            parts.append(f"unknown ({self.unknown_gpus} of {self.gpus} GPUs)")
        return " + ".join(parts) or "0.00"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTally:
    """Nodes by state; each counts once. `cordoned` ones are Ready."""

    ready: int = 0
    not_ready: int = 0
    cordoned: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.ready + self.not_ready + self.cordoned


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolBill:
    """One pool, or all GPU nodes in no pool: what there is, who holds how much, what it costs an hour.

    `allocated` and `idle_gpus` are None where not every pod can be seen. `costs` sums node prices by currency, of priced nodes
    only; `sources` counts them by source and `unpriced` the others. `idle` is the part of `costs` that nobody pays for.
    `rivals` counts, by the other pool's name, the nodes that it selects too; those nodes are in no pool.
    """

    nodes: NodeTally = field(default_factory=NodeTally)
    allocatable: int = 0
    allocated: int | None = 0
    idle_gpus: int | None = 0
    costs: Mapping[str, Decimal] = field(default_factory=dict)
    idle: Mapping[tuple[str, IdleKind], Decimal] = field(default_factory=dict)
    sources: Mapping[PriceSource, int] = field(default_factory=dict)
    unpriced: int = 0
    bad_prices: tuple[BadPrice, ...] = ()
    rivals: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """The whole fleet at one moment. `outside` is about GPU nodes in no pool."""

    payers: Mapping[Payer, PayerCost] = field(default_factory=dict)
    pools: Mapping[str, PoolBill] = field(default_factory=dict)
    outside: PoolBill = field(default_factory=PoolBill)

    def of_workload(self, key: ObjectKey) -> PayerCost | None:
        """Return what a GpuWorkload pays; None where it has no target, or an older one has the same."""
        return self.payers.get(Payer(key.namespace, key.name, True))


def draw_bill(snapshot: Snapshot) -> Bill:
    """Split the price of every GPU node among those who hold its GPUs. Pure, and linear in nodes and pods.

    A pod pays from its binding to a node until it is gone; one that is Pending or finished pays nothing. The split is by the
    pool's GPU resource alone. A pod whose GPUs have no price is counted in `unknown_gpus`, never as free.
    """
    claims = claim_nodes(snapshot.nodes, snapshot.pools)
    sites = {site.node.name: site for site in _sites(snapshot.nodes, claims)}
    payers = _Payers(snapshot)
    unknown: dict[Payer, int] = defaultdict(int)
    for pod in snapshot.pods:
        if not (pod.gpus or pod.devices) or pod.node is None or pod.phase is PodPhase.FINISHED:
            continue
        payer, site = payers.of(pod), sites.get(pod.node)
        held = site.hold(payer, pod) if site is not None else 0
        if site is None or site.tag is None:
            unknown[payer] += max(pod.gpus, held)
        elif pod.gpus > held:  # slices or models that the pool is not priced by
            unknown[payer] += pod.gpus - held
    return Bill(
        payers=_paid(payers.managed, sites.values(), unknown),
        pools=_pool_bills(sites.values(), claims, sees_all_pods=snapshot.sees_all_pods),
        outside=_pool_bill(
            [site for site in sites.values() if site.pool is None], sees_all_pods=snapshot.sees_all_pods
        ),
    )


@dataclass(slots=True, kw_only=True)
class _Site:
    """One GPU node while the bill is drawn: its pool and price, and how many GPUs each payer holds there."""

    node: Node
    pool: NodePool | None
    tag: PriceTag | None
    bad_price: BadPrice | None
    held: dict[Payer, int] = field(default_factory=dict)

    @property
    def resource(self) -> str:
        return self.pool.gpu_resource if self.pool is not None else USUAL_RESOURCE

    @property
    def offered(self) -> int:
        return self.node.devices.get(self.resource, 0)

    @property
    def allocated(self) -> int:
        return sum(self.held.values())

    @property
    def parts(self) -> int:
        """Into how many parts the price is split.

        As many as GPUs are offered, or held if those are more: a device plugin that lost a GPU must not make a node dearer than
        it is. While it reports none at all, the pool's count keeps the shares steady.
        """
        usual = self.pool.gpus_per_node if self.pool is not None else 0
        return max(self.offered or usual, self.allocated)

    def terms(self, tag: PriceTag) -> Terms:
        pool, node = self.pool, self.node
        return Terms(
            pool=pool.name if pool else NO_POOL,
            capacity_type=pool.capacity_type if pool else node.capacity_type,
            gpu_model=(pool.gpu_model if pool else "") or node.gpu_model,
            currency=tag.price.currency,
            source=tag.source,
        )

    def hold(self, payer: Payer, pod: Pod) -> int:
        """Note what *pod* holds of the resource that this node is priced by, and return it."""
        held = pod.devices.get(self.resource, 0)
        if held:
            self.held[payer] = self.held.get(payer, 0) + held
        return held

    def idle(self, tag: PriceTag) -> Decimal:
        """Return the part of the price that nobody pays for; all of it where no GPU is there to be held."""
        if not self.parts:
            return tag.price.per_hour
        return tag.price.per_hour * (self.parts - self.allocated) / self.parts

    def idle_kind(self, *, sees_all_pods: bool) -> IdleKind:
        if not sees_all_pods:
            return IdleKind.UNSEEN
        return IdleKind.UNALLOCATED if self.node.ready and self.offered else IdleKind.NOT_READY


def _sites(nodes: Iterable[Node], claims: Claims) -> Iterator[_Site]:
    """Yield the nodes that a bill is about: those of pools, and others that offer GPUs or carry a price."""
    for node in nodes:
        pool = claims.pool_of.get(node.name)
        if pool is None and not node.devices.get(USUAL_RESOURCE) and node.price_annotation is None:
            continue
        tag, bad_price = price_of(node, pool)
        yield _Site(node=node, pool=pool, tag=tag, bad_price=bad_price)


class _Payers:
    """Finds who pays for a pod: its GpuWorkload by way of ReplicaSet and Deployment, else its own controller."""

    def __init__(self, snapshot: Snapshot) -> None:
        owners = first_on_target(snapshot.workloads)
        self._deployments: dict[str, Payer] = {}
        self.managed: list[Payer] = []
        for key, deployment in snapshot.deployments.items():
            workload = owners.get(key)
            name = key if workload is None else workload.key
            payer = Payer(name.namespace, name.name, workload is not None)
            self._deployments[deployment.uid] = payer
            if payer.managed:
                self.managed.append(payer)
        # What runs on spot is paid by whoever pays for the Deployment that it is the twin of.
        for deployment in snapshot.deployments.values():
            source = deployment.twin.source_uid if deployment.twin is not None else ""
            if source in self._deployments:
                self._deployments[deployment.uid] = self._deployments[source]
        self._replica_sets = {found.uid: found.owner_uid for found in snapshot.replica_sets}
        self._known: dict[str, Payer] = {}

    def of(self, pod: Pod) -> Payer:
        if not pod.owner_uid:
            return Payer(pod.key.namespace, BARE_PODS, False)
        known = self._known.get(pod.owner_uid)
        if known is None:
            deployment = self._replica_sets.get(pod.owner_uid) or ""
            own = Payer(pod.key.namespace, pod.owner_name or BARE_PODS, False)
            known = self._known[pod.owner_uid] = self._deployments.get(deployment, own)
        return known


def _paid(
    managed: Iterable[Payer], sites: Iterable[_Site], unknown: Mapping[Payer, int]
) -> Mapping[Payer, PayerCost]:
    """Add up by payer; a workload that holds nothing stands there with nothing to pay."""
    sums: dict[Payer, dict[Terms, tuple[int, Decimal]]] = {payer: {} for payer in managed}
    sums |= {payer: {} for payer in unknown if payer not in sums}
    for site in sites:
        if site.tag is None:
            continue
        terms, price, parts = site.terms(site.tag), site.tag.price.per_hour, site.parts
        for payer, held in site.held.items():
            lines = sums.setdefault(payer, {})
            gpus, amount = lines.get(terms, (0, _NOTHING))
            lines[terms] = (gpus + held, amount + price * held / parts)
    return {
        payer: PayerCost(
            lines=tuple(
                CostLine(terms=terms, gpus=gpus, per_hour=amount)
                for terms, (gpus, amount) in sorted(lines.items())
            ),
            unknown_gpus=unknown.get(payer, 0),
        )
        for payer, lines in sums.items()
    }


def _pool_bills(sites: Iterable[_Site], claims: Claims, *, sees_all_pods: bool) -> Mapping[str, PoolBill]:
    by_pool: dict[str, list[_Site]] = {pool.name: [] for pool in claims.pools}
    for site in sites:
        if site.pool is not None:
            by_pool[site.pool.name].append(site)
    return {
        name: _pool_bill(found, rivals=claims.rivals.get(name), sees_all_pods=sees_all_pods)
        for name, found in by_pool.items()
    }


def _pool_bill(
    sites: list[_Site], *, rivals: Mapping[str, int] | None = None, sees_all_pods: bool
) -> PoolBill:
    costs: dict[str, Decimal] = defaultdict(Decimal)
    idle: dict[tuple[str, IdleKind], Decimal] = defaultdict(Decimal)
    sources: dict[PriceSource, int] = defaultdict(int)
    for site in sites:
        if site.tag is not None:
            costs[site.tag.price.currency] += site.tag.price.per_hour
            idle[site.tag.price.currency, site.idle_kind(sees_all_pods=sees_all_pods)] += site.idle(site.tag)
            sources[site.tag.source] += 1
    return PoolBill(
        nodes=_tally(site.node for site in sites),
        allocatable=sum(site.offered for site in sites),
        allocated=sum(site.allocated for site in sites) if sees_all_pods else None,
        idle_gpus=sum(_free(site) for site in sites) if sees_all_pods else None,
        costs=dict(costs),
        idle=dict(idle),
        sources=dict(sources),
        unpriced=sum(1 for site in sites if site.tag is None),
        bad_prices=tuple(site.bad_price for site in sites if site.bad_price is not None),
        rivals=dict(rivals or {}),
    )


def _free(site: _Site) -> int:
    return max(0, site.offered - site.allocated) if site.node.ready else 0


def _tally(nodes: Iterable[Node]) -> NodeTally:
    ready = not_ready = cordoned = 0
    for node in nodes:
        if not node.ready:
            not_ready += 1
        elif node.unschedulable:
            cordoned += 1
        else:
            ready += 1
    return NodeTally(ready=ready, not_ready=not_ready, cordoned=cordoned)
