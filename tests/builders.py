"""Core values with sane defaults: a test names only what its fact is about."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from spillway.core import engine
from spillway.core.memory import (
    DownWindow,
    Memory,
    Streaks,
    WorkloadMemory,
)
from spillway.core.model import (
    BlindRules,
    Burst,
    CapacityRules,
    CapacityType,
    Deployment,
    FallbackPolicy,
    FallbackRules,
    ForeignAutoscaler,
    GpuActivityRules,
    Guardrails,
    Node,
    NodePool,
    NodePrice,
    ObjectKey,
    Operation,
    OperationState,
    Pod,
    PodPhase,
    ReadinessRules,
    ReplicaSet,
    ScaleDownRules,
    ScaleUpRules,
    SetReplicas,
    Snapshot,
    TwinFacts,
    Workload,
)
from spillway.core.plan import Decision, LimitReason, Plan
from spillway.core.signal import Collected, Collection, DeviceSample, Liveness, NotCollected, SignalReason

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
NAMESPACE = "chat"
LONG_AGO = timedelta(hours=2)
JUST_NOW = timedelta(seconds=20)


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def make_workload(
    name: str = "llm",
    *,
    namespace: str = NAMESPACE,
    high: float = 0.8,
    low: float | None = 0.4,
    blind_after: float = 180,
    blind_replicas: int | None = None,
    max_gpus: int | None = None,
    max_namespace_gpus: int | None = None,
    up: Mapping[str, Any] | None = None,
    down: Mapping[str, Any] | None = None,
    **over: Any,  # noqa: ANN401 -- fields of Workload, checked by its constructor
) -> Workload:
    scale_up = ScaleUpRules(
        window=seconds(30), max_increase_percent=100, max_increase_replicas=4, cooldown=seconds(60)
    )
    scale_down = ScaleDownRules(
        window=seconds(300), max_decrease_percent=20, max_decrease_replicas=1, cooldown=seconds(300)
    )
    values: dict[str, Any] = {
        "key": ObjectKey(namespace, name),
        "uid": f"workload-{name}",
        "created_at": NOW - timedelta(days=1),
        "target": name,
        "min_replicas": 1,
        "max_replicas": 10,
        "scale_up": replace(scale_up, **(up or {})),
        "scale_down": replace(scale_down, **(down or {})),
        "gpu_activity": GpuActivityRules(high=high, low=low),
        "blind": BlindRules(after=seconds(blind_after), replicas=blind_replicas),
        "readiness": ReadinessRules(settle=seconds(60), load_grace=seconds(600)),
        "guardrails": Guardrails(max_gpus_per_workload=max_gpus, max_gpus_per_namespace=max_namespace_gpus),
    }
    return Workload(**{**values, **over})


def make_capacity(
    baseline: int = 2,
    *,
    burst: Burst = Burst.WHEN_AVAILABLE,
    pool_selector: Mapping[str, str] | None = None,
    policy: FallbackPolicy = FallbackPolicy.ON_DEMAND,
    **timers: float,
) -> CapacityRules:
    """A baseline of 2 with a burst on spot and the built-in timers; `return_stable=1` sets one in seconds."""
    built_in = {
        "refused_confirm": 30,
        "provision_timeout": 180,
        "boot_deadline": 600,
        "return_probe": 600,
        "return_stable": 300,
        "min_residency": 1200,
    }
    assert timers.keys() <= built_in.keys()
    fallback = FallbackRules(
        policy=policy, **{name: seconds(value) for name, value in (built_in | timers).items()}
    )
    return CapacityRules(
        baseline=baseline, burst=burst, fallback=fallback, pool_selector=dict(pool_selector or {})
    )


def make_deployment(
    name: str = "llm",
    replicas: int = 4,
    *,
    namespace: str = NAMESPACE,
    **over: Any,  # noqa: ANN401 -- fields of Deployment, checked by its constructor
) -> Deployment:
    values: dict[str, Any] = {
        "key": ObjectKey(namespace, name),
        "uid": f"deployment-{name}",
        "resource_version": "1",
        "generation": 1,
        "observed_generation": 1,
        "replicas": replicas,
        "updated_replicas": replicas,
        "status_replicas": replicas,
        "selector": f"app={name}",
        "gpus_per_pod": 1,
        "revision": 1,
        "template": "t1",
    }
    values |= over
    return Deployment(**{"requests": {"nvidia.com/gpu": values["gpus_per_pod"], "pods": 1}, **values})


def make_twin(
    source: str = "llm",
    replicas: int = 8,
    *,
    template: str = "t1",
    pools: tuple[str, ...] = ("spot-a",),
    edited_by: str = "",
    handover: int | None = None,
    workload_uid: str | None = None,
    **over: Any,  # noqa: ANN401 -- fields of Deployment, checked by its constructor
) -> Deployment:
    """The burst twin of a Deployment that `make_deployment` makes."""
    facts = TwinFacts(
        workload_uid=workload_uid or f"workload-{source}",
        source_uid=f"deployment-{source}",
        template=template,
        pools=pools,
        edited_by=edited_by,
        handover=handover,
    )
    return make_deployment(f"{source}-burst", replicas, twin=facts, **over)


def make_replica_set(
    name: str = "llm", *, namespace: str = NAMESPACE, revision: int = 1, owner_uid: str | None = None
) -> ReplicaSet:
    return ReplicaSet(
        key=ObjectKey(namespace, f"{name}-r{revision}"),
        uid=f"replicaset-{name}-{revision}",
        owner_uid=owner_uid or f"deployment-{name}",
        revision=revision,
    )


def make_pod(
    index: int = 0,
    phase: PodPhase = PodPhase.READY,
    *,
    of: str = "llm",
    namespace: str = NAMESPACE,
    revision: int = 1,
    since: datetime | None = None,
    **over: Any,  # noqa: ANN401 -- fields of Pod, checked by its constructor
) -> Pod:
    since = since or NOW - (LONG_AGO if phase is PodPhase.READY else JUST_NOW)
    name = f"{of}-r{revision}-{index:05d}"
    values: dict[str, Any] = {
        "key": ObjectKey(namespace, name),
        "uid": name,
        "owner_uid": f"replicaset-{of}-{revision}",
        "phase": phase,
        "created_at": since,
        "since": since,
        "gpus": 1,
        "node": "node-1",
    }
    values |= over
    return Pod(**{"devices": {"nvidia.com/gpu": values["gpus"]}, **values})


def make_pods(
    count: int,
    phase: PodPhase = PodPhase.READY,
    *,
    start: int = 0,
    **over: Any,  # noqa: ANN401 -- fields of Pod
) -> tuple[Pod, ...]:
    return tuple(make_pod(start + index, phase, **over) for index in range(count))


def make_node(
    name: str = "node-1",
    *,
    gpus: int = 8,
    price: str | None = None,
    **over: Any,  # noqa: ANN401 -- fields of Node, checked by its constructor
) -> Node:
    """A Ready node of the pool that `make_pool` makes."""
    devices = {"nvidia.com/gpu": gpus} if gpus else {}
    values: dict[str, Any] = {
        "name": name,
        "ready": True,
        "labels": {"pool": "h100"},
        "devices": devices,
        "price_annotation": price,
    }
    return Node(**{**values, **over})


def make_pool(
    name: str = "h100",
    *,
    price: str | None = "40",
    currency: str = "USD",
    **over: Any,  # noqa: ANN401 -- fields of NodePool, checked by its constructor
) -> NodePool:
    """A pool of on-demand nodes with 8 GPUs each, at 40 USD an hour."""
    values: dict[str, Any] = {
        "name": name,
        "uid": f"pool-{name}",
        "selector": {"pool": name},
        "capacity_type": CapacityType.ON_DEMAND,
        "gpu_resource": "nvidia.com/gpu",
        "gpus_per_node": 8,
        "gpu_model": "H100",
        "currency": currency,
        "price": None if price is None else NodePrice(currency=currency, per_hour=Decimal(price)),
    }
    return NodePool(**{**values, **over})


def make_sample(
    mean: float | None = 0.5,
    *,
    at: datetime = NOW,
    age: float = 5,
    liveness: Liveness = Liveness.RISING,
    device: str = "gpu-0",
    disagrees: bool = False,
) -> DeviceSample:
    return DeviceSample(
        device=device, mean=mean, sampled_at=at - seconds(age), liveness=liveness, disagrees=disagrees
    )


def make_samples(
    pods: Iterable[Pod],
    utilization: float | None,
    *,
    at: datetime = NOW,
    **over: Any,  # noqa: ANN401 -- fields of make_sample
) -> Collected:
    """Every pod on all of its GPUs at *utilization*; None leaves the answer empty."""
    samples = {}
    for pod in pods:
        if utilization is not None:
            samples[(pod.key.namespace, pod.key.name)] = tuple(
                make_sample(utilization, at=at, device=f"{pod.uid}-{gpu}", **over) for gpu in range(pod.gpus)
            )
    return Collected(at=at, pods=samples)


def not_collected(reason: SignalReason = SignalReason.PROMETHEUS_TIMEOUT) -> NotCollected:
    return NotCollected(since=NOW, reason=reason, message="Prometheus did not answer within 5 s")


def make_snapshot(
    workload: Workload | Iterable[Workload] | None = None,
    deployment: Deployment | Iterable[Deployment] | None = None,
    *,
    pods: Iterable[Pod] | None = None,
    utilization: float | None = 0.6,
    activity: Collection | None = None,
    at: datetime = NOW,
    **over: Any,  # noqa: ANN401 -- fields of Snapshot, checked by its constructor
) -> Snapshot:
    """One workload on one Deployment of Ready pods at *utilization*, unless told otherwise."""
    workloads = _several(workload, make_workload())
    deployments = _several(deployment, make_deployment())
    if pods is None:
        pods = [
            pod
            for found in deployments
            for pod in make_pods(
                found.replicas, of=found.key.name, namespace=found.key.namespace, gpus=found.gpus_per_pod
            )
        ]
    pods = tuple(pods)
    values: dict[str, Any] = {
        "workloads": workloads,
        "deployments": {found.key: found for found in deployments},
        "replica_sets": tuple(
            make_replica_set(found.key.name, namespace=found.key.namespace, revision=revision)
            for found in deployments
            for revision in (1, 2)
        ),
        "pods": pods,
        "activity": activity or make_samples(pods, utilization, at=at),
        "collection": 1,
    }
    return Snapshot(**{**values, **over})


def _several(found: Any, default: Any) -> tuple[Any, ...]:  # noqa: ANN401 -- a value or several of it
    if found is None:
        return (default,)
    return tuple(found) if isinstance(found, (tuple, list)) else (found,)


def make_memory(*workloads: Workload, **over: Any) -> Memory:  # noqa: ANN401 -- fields of WorkloadMemory
    """A memory that has watched for hours: full windows, nothing spent, nothing latched."""
    found = workloads or (make_workload(),)
    return Memory(workloads={workload.uid: make_workload_memory(workload, **over) for workload in found})


def make_workload_memory(
    workload: Workload | None = None,
    *,
    at: datetime = NOW,
    need: int = 1,
    replicas: int = 4,
    **over: Any,  # noqa: ANN401 -- fields of WorkloadMemory, checked by its constructor
) -> WorkloadMemory:
    workload = workload or make_workload()
    last = at - seconds(15)
    values: dict[str, Any] = {
        "first_seen": at - LONG_AGO,
        "target_uid": f"deployment-{workload.target}",
        "seen": ((at - LONG_AGO, replicas),),
        "busy_value": 0.5,
        "streaks": Streaks(
            collected_at=last,
            newest_sample=last - seconds(5),
            fresh=50,
            high=50,
            high_since=at - LONG_AGO,
        ),
        "window": DownWindow(since=at - LONG_AGO, last=last, floors=((last, need),)),
    }
    return WorkloadMemory(**{**values, **over})


def make_act(*, before: int = 4, to: int = 3, of: str = "llm", namespace: str = NAMESPACE) -> SetReplicas:
    return SetReplicas(
        workload=ObjectKey(namespace, of),
        target=ObjectKey(namespace, of),
        target_uid=f"deployment-{of}",
        before=before,
        to=to,
    )


def make_operation(
    state: OperationState = OperationState.RUNNING, *, before: int = 4, to: int = 3, of: str = "llm"
) -> Operation:
    return Operation(act=make_act(before=before, to=to, of=of), state=state)


def make_hpa(
    target: str = "llm", *, target_kind: str = "Deployment", kind: str = "HorizontalPodAutoscaler"
) -> ForeignAutoscaler:
    return ForeignAutoscaler(
        kind=kind, key=ObjectKey(NAMESPACE, "their-scaler"), target_kind=target_kind, target=target
    )


def decide_one(snapshot: Snapshot, memory: Memory | None = None, *, now: datetime = NOW) -> Decision:
    """Return the decision on the snapshot's first workload, after a long watch unless a memory is given."""
    return plan_of(snapshot, memory, now=now).decisions[snapshot.workloads[0].key]


def plan_of(snapshot: Snapshot, memory: Memory | None = None, *, now: datetime = NOW) -> Plan:
    return engine.decide(snapshot, memory or _long_watch(snapshot), now)


def _long_watch(snapshot: Snapshot) -> Memory:
    found = {}
    for workload in snapshot.workloads:
        deployment = snapshot.deployments.get(workload.target_key)
        found[workload.uid] = make_workload_memory(
            workload, replicas=deployment.replicas if deployment else 0
        )
    return Memory(workloads=found)


def reasons(decision: Decision) -> tuple[LimitReason, ...]:
    return tuple(limit.reason for limit in decision.limits)
