"""The decision for the whole fleet: `decide(snapshot, memory, now) -> Plan`, the only entry that other layers call."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from spillway.core import conflict, nodeplan, stabilize
from spillway.core.breaker import advance_breaker
from spillway.core.demand import Proposal, propose, without_pending
from spillway.core.growth import cold_start_of, observe_load, observe_starts
from spillway.core.memory import Elasticity, Exhausted, Memory, WorkloadMemory
from spillway.core.model import (
    ApplyTwin,
    DeleteTwin,
    Deployment,
    Mode,
    ObjectKey,
    Operation,
    SetReplicas,
    Snapshot,
    Workload,
)
from spillway.core.observe import observe_signal, observe_target
from spillway.core.orders import Order, orders_to_acts
from spillway.core.placement import is_own_change
from spillway.core.plan import (
    CapacityReason,
    Cause,
    ConflictReason,
    Decision,
    Finding,
    InactiveReason,
    Limit,
    LimitReason,
    Plan,
    SignalView,
)
from spillway.core.replicas import Replicas, capacity_finding, classify, is_rolling_out, pods_by_deployment
from spillway.core.signal import BLIND_STATES, Assessment, SignalReason, SignalState, assess
from spillway.core.tiers import (
    Capacity,
    PodsOf,
    Tiers,
    capacity_view,
    lay_out_tiers,
    observe_tiers,
    prospect_of,
)
from spillway.core.twin import twin_name

INELASTIC_SHARE = 0.95  # an up that leaves the signal within 5 % changed nothing
INELASTIC_UPS = 2
BACK_OFF = timedelta(minutes=5)
BACK_OFF_MAX = timedelta(minutes=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """One workload in the middle of a pass."""

    workload: Workload
    deployment: Deployment
    replicas: Replicas
    assessment: Assessment
    memory: WorkloadMemory
    tiers: Tiers
    rolling: bool
    under_way: Operation | None
    conflict: Finding[ConflictReason] | None

    @property
    def count(self) -> int:
        """The count that stands: what every limit is counted from."""
        return self.tiers.count


def decide(snapshot: Snapshot, memory: Memory, now: datetime) -> Plan:
    """Decide every workload together, from one frozen view; `now` only moves timers.

    Pure: the same input gives the same plan. A workload without a target gets a decision that says so and no act; unknown
    metrics hold the count. A target with an act under way is not decided again until its cache shows the result.
    """
    decisions: dict[ObjectKey, Decision] = {}
    capacity = nodeplan.survey_capacity(snapshot, memory, now=now)
    views = tuple(_observe_all(snapshot, memory, decisions, capacity, now=now))
    breaker, breaker_view = advance_breaker(memory.breaker, (view.memory for view in views), now=now)
    memories = dict(memory.workloads)
    drafts = tuple(_draft_all(views, memories, decisions, breaker_open=breaker_view.is_open, now=now))
    orders: list[Order] = []
    granted, used = _within_gpu_budgets(drafts)
    for view, decision in granted:
        room = _spare_room(view, decision, used=used[decision.key.namespace])
        order = _lay_out(view, _bound(view, decision), capacity, room=room, now=now)
        used[decision.key.namespace] += _more_spare(view, order) * decision.gpus_per_pod
        orders.append(order)
        decisions[view.workload.key] = order.decision
        memories[view.workload.uid] = _note_up(
            _note_layout(memories[view.workload.uid], order), view, order.decision
        )
    nodes = nodeplan.plan_nodes(snapshot, capacity, orders, now=now)
    # A target that went missing keeps its memory: it may only be a slow cache, and a new uid starts anew anyway.
    known = {workload.uid for workload in snapshot.workloads}
    return Plan(
        decisions={workload.key: decisions[workload.key] for workload in snapshot.workloads},
        acts=(*orders_to_acts(orders, snapshot, capacity, now=now), *nodes.acts),
        memory=Memory(
            workloads={uid: kept for uid, kept in memories.items() if uid in known},
            breaker=breaker,
            pools=nodes.pool_memories,
            nodes=nodes.node_memories,
        ),
        breaker=breaker_view,
        pools=nodes.decisions,
        wake_at=_wake_at(decisions.values(), nodes.wake_at, now=now),
    )


def _observe_all(
    snapshot: Snapshot,
    memory: Memory,
    decisions: dict[ObjectKey, Decision],
    capacity: Capacity,
    *,
    now: datetime,
) -> Iterable[_View]:
    """Yield a view of each workload that has something to decide; the others get their decision at once."""
    conflicts = conflict.find_conflicts(snapshot)
    pods = pods_by_deployment(snapshot)
    operations = _operations_by_target(snapshot.operations)
    nothing = WorkloadMemory(first_seen=now)
    for workload in snapshot.workloads:
        found = conflicts.get(workload.key)
        deployment = snapshot.deployments.get(workload.target_key)
        absent = _absence(workload, deployment, snapshot)
        if absent is not None or deployment is None:
            decisions[workload.key] = _undecided(workload, deployment, absent, found)
            continue
        try:
            yield _observe(
                workload,
                deployment,
                _memory_of(memory.workloads.get(workload.uid, nothing), deployment, now=now),
                pods=pods,
                operations=_operations_on(deployment, capacity.twins.get(deployment.uid), operations),
                found=found,
                capacity=capacity,
                snapshot=snapshot,
                now=now,
            )
        except Exception as exc:  # noqa: BLE001  # a defect that one workload meets must not stop the others
            decisions[workload.key] = _undecided(workload, deployment, _defect(exc), found)


def _draft_all(
    views: Iterable[_View],
    memories: dict[str, WorkloadMemory],
    decisions: dict[ObjectKey, Decision],
    *,
    breaker_open: bool,
    now: datetime,
) -> Iterable[tuple[_View, Decision]]:
    """Yield each workload's decision before budgets and bounds, and keep what it remembers."""
    for view in views:
        try:
            decision, after = _decide_one(view, breaker_open=breaker_open, now=now)
        except Exception as exc:  # noqa: BLE001  # as above
            defect = _defect(exc)
            decisions[view.workload.key] = _undecided(view.workload, view.deployment, defect, view.conflict)
            continue
        memories[view.workload.uid] = after
        yield view, decision


def _defect(exc: Exception) -> Finding[InactiveReason]:
    message = (
        f"Spillway itself failed on this workload ({type(exc).__name__}: {exc}); it is left alone and the others go on. "
        "Please report it with the operator's log"
    )
    return Finding(reason=InactiveReason.INTERNAL_ERROR, message=message)


def _operations_by_target(operations: Iterable[Operation]) -> Mapping[ObjectKey, tuple[Operation, ...]]:
    grouped: dict[ObjectKey, list[Operation]] = defaultdict(list)
    for operation in operations:
        match operation.act:
            case SetReplicas(target=target):
                grouped[target].append(operation)
            case ApplyTwin(twin=twin) | DeleteTwin(twin=twin):
                grouped[twin].append(operation)
            case _:
                pass
    return {target: tuple(found) for target, found in grouped.items()}


def _operations_on(
    source: Deployment, twin: Deployment | None, operations: Mapping[ObjectKey, tuple[Operation, ...]]
) -> tuple[Operation, ...]:
    """Return the acts on a Deployment and on its twin, one that is only being made included."""
    if not operations:
        return ()
    twin_key = twin.key if twin is not None else _twin_key(source)
    return (*operations.get(source.key, ()), *operations.get(twin_key, ()))


def _memory_of(memory: WorkloadMemory, deployment: Deployment, *, now: datetime) -> WorkloadMemory:
    """A re-created target (new uid) is another thing that happens to have the same name: nothing of the old one is kept."""
    if memory.target_uid == deployment.uid:
        return memory
    return WorkloadMemory(first_seen=now, target_uid=deployment.uid)


def _twin_key(deployment: Deployment) -> ObjectKey:
    return ObjectKey(deployment.key.namespace, twin_name(deployment.key.name))


def _observe(
    workload: Workload,
    deployment: Deployment,
    memory: WorkloadMemory,
    *,
    pods: PodsOf,
    operations: tuple[Operation, ...],
    found: Finding[ConflictReason] | None,
    capacity: Capacity,
    snapshot: Snapshot,
    now: datetime,
) -> _View:
    tiers = observe_tiers(
        workload,
        deployment,
        memory.split,
        pods=pods,
        operations=operations,
        capacity=capacity,
        snapshot=snapshot,
        now=now,
    )
    rolling = is_rolling_out(deployment) or (tiers.twin is not None and is_rolling_out(tiers.twin))
    foreign = tiers.foreign if tiers.split is not None else not is_own_change(deployment, operations)
    memory = replace(memory, split=tiers.split) if memory.split is not tiers.split else memory
    memory = observe_target(memory, count=tiers.count, is_foreign=foreign, rolling=rolling, now=now)
    replicas = classify(
        tiers.supply,
        revision=deployment.revision,
        rules=workload.readiness,
        pending_timeout=snapshot.pending_timeout,
        now=now,
    )
    settled = [((pod.key.namespace, pod.key.name), pod.gpus) for pod in replicas.settled]
    assessment = assess(
        snapshot.activity, pods=settled, high=workload.gpu_activity.high, stale_after=snapshot.stale_after
    )
    memory, assessment = observe_signal(
        memory,
        assessment=assessment,
        workload=workload,
        snapshot=snapshot,
        ready=replicas.ready,
        excess=tiers.excess(replicas.ready),
        now=now,
    )
    if tiers.split is not None:
        memory = _learn(memory, assessment, tiers, replicas, capacity)
    return _View(
        workload=workload,
        deployment=deployment,
        replicas=replicas,
        assessment=assessment,
        memory=memory,
        tiers=tiers,
        rolling=rolling,
        under_way=next((op for op in operations if op.is_under_way), None),
        conflict=found,
    )


def _learn(
    memory: WorkloadMemory, assessment: Assessment, tiers: Tiers, replicas: Replicas, capacity: Capacity
) -> WorkloadMemory:
    """Learn how fast the load grows and how long a replica takes to serve, of a workload that bursts."""
    growth = observe_starts(memory.growth, (pod for pod, _ in tiers.supply), capacity.fleet)
    at, value = memory.streaks.collected_at, assessment.value_up
    is_new = at is not None and (not growth.seen or at > growth.seen[-1][0])
    if at is not None and is_new and value is not None and assessment.state not in BLIND_STATES:
        growth = observe_load(
            growth, utilization=value, serving=replicas.sharing, at=at, cold_start=cold_start_of(growth)
        )
    return memory if growth is memory.growth else replace(memory, growth=growth)


def _decide_one(view: _View, *, breaker_open: bool, now: datetime) -> tuple[Decision, WorkloadMemory]:
    """Decide one workload up to, not including, GPU budgets and bounds."""
    exhausted = _exhaustion(view, now=now)
    if exhausted is not view.memory.exhausted:
        view = replace(view, memory=replace(view.memory, exhausted=exhausted))
    proposal = _proposal(view)
    situation = _situation(view, proposal, breaker_open=breaker_open, now=now)
    desired, limits = proposal.replicas, proposal.limits
    if proposal.cause is Cause.PINNED:
        desired, limits = stabilize.limit_pin(situation)
    elif proposal.cause is not Cause.NOT_DECIDED:
        desired, limits = stabilize.limit_signal(situation)
    decision = Decision(
        key=view.workload.key,
        uid=view.workload.uid,
        mode=view.workload.mode,
        current=view.count,
        proposal=proposal.replicas,
        desired=desired,
        cause=proposal.cause,
        message=proposal.message,
        signal=_signal_view(view),
        counts=view.replicas.counts,
        limits=limits,
        inactive=_inactive(view),
        conflict=view.conflict,
        capacity=_capacity(view, now=now),
        target_uid=view.deployment.uid,
        selector=view.deployment.selector,
        gpus_per_pod=view.deployment.gpus_per_pod,
        in_flight=view.under_way is not None,
    )
    return decision, view.memory


def _situation(view: _View, proposal: Proposal, *, breaker_open: bool, now: datetime) -> stabilize.Situation:
    return stabilize.Situation(
        workload=view.workload,
        current=view.count,
        replicas=view.replicas,
        assessment=view.assessment,
        memory=view.memory,
        proposal=proposal,
        rolling=view.rolling,
        breaker_open=breaker_open,
        now=now,
    )


def _proposal(view: _View) -> Proposal:
    current = view.count
    if view.under_way is not None:
        asked = _asked(view)
        message = f"Setting {asked} replicas is under way"
        return Proposal(replicas=asked, cause=Cause.NOT_DECIDED, message=message)
    pin = view.workload.replicas
    if pin is not None:
        return Proposal(replicas=pin, cause=Cause.PINNED, message=f"spec.replicas pins the count at {pin}")
    if current == 0:
        return Proposal(replicas=0, cause=Cause.NOT_DECIDED, message="The target stands at 0 replicas")
    blind = view.assessment.state in BLIND_STATES
    kept = without_pending(view.replicas, pending=view.replicas.waiting_long, current=current)
    if kept < current and not blind:
        message = f"{view.replicas.waiting_long} pods found no node for too long; releasing their claim"
        return Proposal(replicas=kept, cause=Cause.PENDING_RELEASED, message=message, is_cancel=True)
    return propose(
        workload=view.workload,
        assessment=view.assessment,
        memory=view.memory,
        replicas=view.replicas,
        current=current,
        excess=view.tiers.excess(view.replicas.ready),
    )


def _exhaustion(view: _View, *, now: datetime) -> Exhausted | None:
    """Latch that no node took the pods; each failure after a wait doubles the next one, from 5 to 60 min.

    Only pods that run beyond the cap prove that there is room again: ones just asked for prove nothing.
    """
    latch, replicas = view.memory.exhausted, view.replicas
    if replicas.waiting_long and (latch is None or now >= latch.until):
        cap = without_pending(replicas, pending=len(replicas.unschedulable), current=view.count)
        steps = 0 if latch is None else latch.steps + 1
        return Exhausted(cap=cap, until=now + min(BACK_OFF_MAX, BACK_OFF * 2 ** min(steps, 4)), steps=steps)
    if latch is not None and now >= latch.until and replicas.ready > latch.cap:
        return None
    return latch


def _within_gpu_budgets(
    drafts: Iterable[tuple[_View, Decision]],
) -> tuple[Sequence[tuple[_View, Decision]], dict[str, int]]:
    """Grant GPUs in each namespace by pod priority, then age, then name; what stands or is under way counts first.

    Return the granted decisions with the GPUs that each namespace then uses.
    """
    order = sorted(
        drafts, key=lambda d: (-d[0].deployment.priority, d[0].workload.created_at, d[0].workload.key)
    )
    used = _gpus_in_use(order)
    found = []
    for view, decision in order:
        granted = _grant(view, decision, used=used[decision.key.namespace])
        growth = max(0, granted.desired - max(granted.current, _asked(view)))
        if granted.inactive is None:
            used[decision.key.namespace] += growth * decision.gpus_per_pod
        found.append((view, granted))
    return found, used


def _spare_room(view: _View, decision: Decision, *, used: int) -> int:
    """Return how many replicas to spare maxReplicas and the GPU guardrails leave room for, those included that there are."""
    rules, per_pod = view.workload.guardrails, decision.gpus_per_pod
    room = view.workload.max_replicas - decision.desired
    if rules.max_gpus_per_workload is not None and per_pod:
        room = min(room, rules.max_gpus_per_workload // per_pod - decision.desired)
    if rules.max_gpus_per_namespace is not None and per_pod:
        room = min(room, (rules.max_gpus_per_namespace - used) // per_pod + _spare_now(view))
    return max(0, room)


def _spare_now(view: _View) -> int:
    split = view.tiers.split
    return split.spare if split is not None else 0


def _more_spare(view: _View, order: Order) -> int:
    spare = order.layout.view.spare if order.layout is not None and order.is_active else 0
    return max(0, spare - _spare_now(view))


def _gpus_in_use(drafts: Iterable[tuple[_View, Decision]]) -> dict[str, int]:
    """Sum by namespace what stands or is under way; a target that two GpuWorkloads name counts once."""
    by_target = {
        view.deployment.key: (max(decision.current, _asked(view)) + _spare_now(view)) * decision.gpus_per_pod
        for view, decision in drafts
    }
    used: dict[str, int] = defaultdict(int)
    for key, gpus in by_target.items():
        used[key.namespace] += gpus
    return used


def _asked(view: _View) -> int:
    """Return the count that a write under way brings about; the one that stands where it changes none."""
    match view.under_way.act if view.under_way is not None else None:
        case SetReplicas(count=None, to=to):
            return to
        case SetReplicas(count=int(count)) | ApplyTwin(count=int(count)):
            return count
        case _:
            return view.count


def _grant(view: _View, decision: Decision, *, used: int) -> Decision:
    """Apply minReplicas first, so that a guardrail also stops growth that the minimum asks for."""
    if view.under_way is not None or decision.gpus_per_pod == 0:
        return decision
    decision = _with_bounds(view, decision)
    rules = view.workload.guardrails
    current, per_pod = decision.current, decision.gpus_per_pod
    limit = stabilize.limit_by_gpus(
        decision.desired,
        current=current,
        gpus_per_pod=per_pod,
        allowed_gpus=rules.max_gpus_per_workload,
        reason=LimitReason.GPU_LIMIT_WORKLOAD,
        whose=f"maxGpusPerWorkload {rules.max_gpus_per_workload}",
    )
    decision = _limited(decision, limit)
    left = None
    if rules.max_gpus_per_namespace is not None:
        # Its own spares give way to its count.
        left = rules.max_gpus_per_namespace - used + (current + _spare_now(view)) * per_pod
    limit = stabilize.limit_by_gpus(
        decision.desired,
        current=current,
        gpus_per_pod=per_pod,
        allowed_gpus=left,
        reason=LimitReason.GPU_LIMIT_NAMESPACE,
        whose=f"maxGpusPerNamespace {rules.max_gpus_per_namespace}",
    )
    decision = _limited(decision, limit)
    return _limited(decision, _by_model(view, decision))


def _by_model(view: _View, decision: Decision) -> Limit | None:
    """Nothing grows onto GPUs of a model that no guardrail allows; what stands stays."""
    if decision.desired <= decision.current or not view.tiers.models_forbidden:
        return None
    return Limit(
        reason=LimitReason.GPU_MODEL_FORBIDDEN,
        before=decision.desired,
        after=decision.current,
        message=view.tiers.models_forbidden,
    )


def _with_bounds(view: _View, decision: Decision) -> Decision:
    if decision.current == 0 and decision.cause is Cause.NOT_DECIDED:
        return decision
    limit = stabilize.limit_by_bounds(view.workload, decision.desired, current=decision.current)
    return _limited(decision, limit)


def _bound(view: _View, decision: Decision) -> Decision:
    if view.under_way is not None:
        return decision
    return _limited(
        decision, stabilize.limit_by_mode(view.workload, decision.desired, current=decision.current)
    )


def _limited(decision: Decision, limit: Limit | None) -> Decision:
    if limit is None:
        return decision
    return replace(decision, desired=limit.after, limits=(*decision.limits, limit))


def _note_up(memory: WorkloadMemory, view: _View, decision: Decision) -> WorkloadMemory:
    """Keep the elasticity guard's books. What it learns now counts from the next pass, so more load never yields less."""
    value, guard = view.assessment.value_up, memory.elasticity
    if value is None or view.assessment.state in BLIND_STATES:
        return memory
    if value <= view.workload.gpu_activity.high:
        return memory if guard == Elasticity() else replace(memory, elasticity=Elasticity())
    settled = len(view.replicas.settled)
    if (
        guard.before is not None
        and settled > guard.before[1]
        and settled >= min(guard.goal, decision.current)
    ):
        guard = _judge_up(guard, value=value, settled=settled)
    if guard.before is None and decision.desired > decision.current and decision.inactive is None:
        guard = replace(guard, before=(value, settled), goal=decision.desired)
    return memory if guard is memory.elasticity else replace(memory, elasticity=guard)


def _judge_up(guard: Elasticity, *, value: float, settled: int) -> Elasticity:
    """The replicas of an up have settled: did they lower the signal? A refuted signal is heard again once later ones do."""
    if guard.before is None or value < guard.before[0] * INELASTIC_SHARE:
        return Elasticity()
    failures = guard.failures + 1
    if failures < INELASTIC_UPS:
        return Elasticity(failures=failures)
    return Elasticity(failures=failures, refuted=True, before=(guard.before[0], settled), goal=settled + 1)


def _lay_out(view: _View, decision: Decision, capacity: Capacity, *, room: int, now: datetime) -> Order:
    """Lay a decided count out on demand and on spot; a defect there leaves the workload alone, like any other."""
    may_write = decision.inactive is None
    try:
        prospect = None
        if view.assessment.state not in BLIND_STATES:
            prospect = prospect_of(view.tiers, view.memory.growth, capacity=capacity)
        layout = lay_out_tiers(
            view.tiers,
            wanted=decision.desired,
            rolling=view.rolling,
            prospect=prospect,
            spare_room=room,
            now=now,
        )
        placement = capacity_view(view.tiers, layout, fleet=capacity.fleet, may_write=may_write)
    except Exception as exc:  # noqa: BLE001  # as above
        decision = _undecided(view.workload, view.deployment, _defect(exc), view.conflict)
        return Order(tiers=view.tiers, decision=decision, layout=None, rolling=view.rolling)
    if placement is not None:
        decision = replace(decision, placement=placement)
    return Order(tiers=view.tiers, decision=decision, layout=layout, rolling=view.rolling)


def _note_layout(memory: WorkloadMemory, order: Order) -> WorkloadMemory:
    split = order.layout.memory if order.layout is not None else memory.split
    return memory if split is memory.split else replace(memory, split=split)


def _absence(
    workload: Workload, deployment: Deployment | None, snapshot: Snapshot
) -> Finding[InactiveReason] | None:
    """Why there is nothing to decide at all; None when there is a target that asks for GPUs."""
    name = workload.target
    if workload.key.namespace in snapshot.terminating_namespaces:
        message = f"Namespace {workload.key.namespace} is being deleted"
        return Finding(reason=InactiveReason.NAMESPACE_TERMINATING, message=message)
    if deployment is None:
        message = f"Deployment {name} does not exist in namespace {workload.key.namespace}. Check spec.targetRef.name"
        return Finding(reason=InactiveReason.TARGET_NOT_FOUND, message=message)
    if deployment.terminating:
        return Finding(
            reason=InactiveReason.TARGET_TERMINATING, message=f"Deployment {name} is being deleted"
        )
    if deployment.gpus_per_pod == 0:
        message = (
            f"{name} requests no nvidia.com/gpu; GPU activity cannot be attributed. "
            "Add it to the container's resources.limits"
        )
        return Finding(reason=InactiveReason.TARGET_REQUESTS_NO_GPU, message=message)
    return None


def _undecided(
    workload: Workload,
    deployment: Deployment | None,
    absent: Finding[InactiveReason] | None,
    found: Finding[ConflictReason] | None,
) -> Decision:
    message = absent.message if absent is not None else ""
    current = deployment.replicas if deployment is not None else 0
    return Decision(
        key=workload.key,
        uid=workload.uid,
        mode=workload.mode,
        current=current,
        proposal=current,
        desired=current,
        cause=Cause.NOT_DECIDED,
        message=message,
        signal=SignalView(state=SignalState.UNKNOWN, reason=SignalReason.NO_SETTLED_PODS, message=message),
        inactive=absent,
        conflict=found,
        selector=deployment.selector if deployment is not None else "",
    )


def _inactive(view: _View) -> Finding[InactiveReason] | None:
    workload = view.workload
    if view.conflict is not None and conflict.stops_writing(view.conflict):
        return Finding(reason=InactiveReason.CONFLICT, message=view.conflict.message)
    if workload.paused:
        message = 'Paused by annotation spillway.dev/paused: "true"; remove it to go on'
        return Finding(reason=InactiveReason.PAUSED, message=message)
    if _is_at_zero(view) and workload.replicas is None:
        message = (
            f"{workload.target} was set to 0 replicas by somebody else, which is respected. "
            f"To start it again: kubectl -n {workload.key.namespace} scale deployment {workload.target} --replicas 1"
        )
        return Finding(reason=InactiveReason.SCALED_TO_ZERO, message=message)
    if workload.mode is Mode.OBSERVE:
        return Finding(reason=InactiveReason.OBSERVE, message="mode Observe: decided, not written")
    return None


def _is_at_zero(view: _View) -> bool:
    """Whether somebody stopped the target; a source whose replicas are all meant for spot stands at 0 by itself."""
    meant_for_spot = view.tiers.split is not None and view.workload.capacity.baseline == 0
    return view.count == 0 if meant_for_spot else view.deployment.replicas == 0


def _capacity(view: _View, *, now: datetime) -> Finding[CapacityReason] | None:
    exhausted = view.memory.exhausted
    if exhausted is not None and now < exhausted.until:
        message = (
            f"No node took more than {exhausted.cap} pods; asking again at {exhausted.until:%H:%M:%S} UTC"
        )
        return Finding(reason=CapacityReason.EXHAUSTED, message=message)
    return _packing_refused(view) or capacity_finding(
        view.replicas, view.deployment, awaited=view.tiers.awaited
    )


def _packing_refused(view: _View) -> Finding[CapacityReason] | None:
    """Pods that the scheduler leaves without a node although one of a pool has room for them by every resource."""
    if not view.tiers.refusing_pools or not view.replicas.unschedulable:
        return None
    pod = view.replicas.unschedulable[0]
    message = (
        f"{len(view.replicas.unschedulable)} pods find no node although pool {view.tiers.refusing_pools[0]} has room for them; they "
        f"are not packed there again. The scheduler says: {pod.message or pod.cause}"
    )
    return Finding(reason=CapacityReason.PACKING_REFUSED, message=message)


def _signal_view(view: _View) -> SignalView:
    found = view.assessment
    return SignalView(
        state=found.state,
        reason=found.reason,
        message=found.message,
        value=found.mean,
        coverage=found.coverage,
        age_seconds=found.oldest.total_seconds() if found.oldest is not None else None,
        high=view.workload.gpu_activity.high,
    )


def _wake_at(decisions: Iterable[Decision], nodes: datetime | None, *, now: datetime) -> datetime | None:
    times = [limit.until for decision in decisions for limit in decision.limits if limit.until is not None]
    times += [nodes] if nodes is not None else []
    return min((at for at in times if at > now), default=None)
