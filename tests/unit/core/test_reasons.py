"""Every reason that a decision can carry is reached: a reason nobody can see is a promise nobody keeps."""

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum

import pytest
from tests.builders import (
    NOW,
    decide_one,
    make_deployment,
    make_hpa,
    make_memory,
    make_operation,
    make_pod,
    make_pods,
    make_pool,
    make_samples,
    make_snapshot,
    make_workload,
    not_collected,
    seconds,
)

from spillway.core.memory import (
    Blindness,
    BreakerMemory,
    Elasticity,
    Exhausted,
    Memory,
    PoolMemory,
    Streaks,
    ZeroWatch,
)
from spillway.core.model import Guardrails, Mode, PodPhase
from spillway.core.plan import CapacityReason, Cause, ConflictReason, Decision, InactiveReason, LimitReason
from spillway.core.signal import Liveness, SignalReason, SignalState

LONG_BLIND = Blindness(since=NOW - seconds(3600))
STUCK = make_pod(3, PodPhase.UNSCHEDULABLE, since=NOW - seconds(901))
FOUR = make_pods(4)


def low(**over: object) -> Decision:
    return decide_one(make_snapshot(utilization=0.1, **over))  # type: ignore[arg-type]


def high(memory: Memory | None = None, **over: object) -> Decision:
    return decide_one(make_snapshot(utilization=0.9, **over), memory)  # type: ignore[arg-type]


def answered(answer: object) -> Decision:
    return decide_one(make_snapshot(pods=FOUR, activity=answer))  # type: ignore[arg-type]


def left_beside_room() -> Decision:
    """The scheduler leaves a pod waiting, although a node of the pool was remembered to have room for it."""
    refused = PoolMemory(unplaceable=frozenset({("t1", "deployment-llm")}))
    pods = [*make_pods(3), make_pod(3, PodPhase.UNSCHEDULABLE, node=None)]
    memory = replace(make_memory(), pools={"pool-h100": refused})
    return high(memory, pods=pods, pools=(make_pool(),))


# Pairs, not a mapping: members of different enums may be the same text.
SCENES: tuple[tuple[StrEnum, Callable[[], Decision]], ...] = (
    (
        LimitReason.N_MINUS_ONE,
        lambda: decide_one(make_snapshot(deployment=make_deployment(replicas=2), utilization=0.39)),
    ),
    (LimitReason.METRICS_HOLD, lambda: answered(make_samples(FOUR, 0.1, disagrees=True))),
    (
        LimitReason.CIRCUIT_BREAKER,
        lambda: decide_one(
            make_snapshot(utilization=0.1),
            Memory(workloads=make_memory().workloads, breaker=BreakerMemory(open_since=NOW)),
        ),
    ),
    (
        LimitReason.POLICY_NOT_FOUND,
        lambda: low(workload=make_workload(unresolved="GpuPolicy gold does not exist")),
    ),
    (
        LimitReason.SIGNAL_INELASTIC,
        lambda: high(make_memory(elasticity=Elasticity(failures=2, refuted=True))),
    ),
    (
        LimitReason.CAPACITY_IN_FLIGHT,
        lambda: high(pods=[*FOUR, make_pod(4, PodPhase.LOADING)], deployment=make_deployment(replicas=5)),
    ),
    (
        LimitReason.CAPACITY_EXHAUSTED,
        lambda: high(make_memory(exhausted=Exhausted(cap=4, until=NOW + seconds(60)))),
    ),
    (
        LimitReason.UP_STEP,
        lambda: high(
            deployment=make_deployment(replicas=9),
            workload=make_workload(
                max_replicas=20, up={"max_increase_percent": 1, "max_increase_replicas": 0}
            ),
        ),
    ),
    (LimitReason.DOWN_STEP, low),
    (LimitReason.TAKEOVER, lambda: decide_one(make_snapshot(utilization=0.1), make_memory(first_seen=NOW))),
    (LimitReason.UP_WINDOW, lambda: high(make_memory(streaks=Streaks()))),
    (LimitReason.DOWN_WINDOW, lambda: decide_one(make_snapshot(utilization=0.1), make_memory(need=4))),
    (LimitReason.FOREIGN_CHANGE, lambda: decide_one(make_snapshot(utilization=0.1), make_memory(replicas=2))),
    (LimitReason.UP_COOLDOWN, lambda: high(make_memory(last_down_at=NOW))),
    (LimitReason.DOWN_COOLDOWN, lambda: low(pods=[*make_pods(3), make_pod(3, since=NOW - seconds(61))])),
    (LimitReason.ROLLOUT_IN_PROGRESS, lambda: low(deployment=make_deployment(updated_replicas=1))),
    (
        LimitReason.REVISION_BROKEN,
        lambda: high(
            pods=[*make_pods(2), *make_pods(2, PodPhase.BROKEN, start=2)],
            deployment=make_deployment(replicas=3),
        ),
    ),
    (LimitReason.MIN_REPLICAS, lambda: low(workload=make_workload(min_replicas=4))),
    (LimitReason.MAX_REPLICAS, lambda: high(workload=make_workload(max_replicas=4))),
    (LimitReason.GPU_LIMIT_WORKLOAD, lambda: high(workload=make_workload(max_gpus=4))),
    (LimitReason.GPU_LIMIT_NAMESPACE, lambda: high(workload=make_workload(max_namespace_gpus=4))),
    (
        LimitReason.GPU_MODEL_FORBIDDEN,
        lambda: high(
            workload=make_workload(guardrails=Guardrails(gpu_models=frozenset({"L4"}))),
            pools=(make_pool(),),
        ),
    ),
    (LimitReason.SCALE_UP_ONLY, lambda: low(workload=make_workload(mode=Mode.SCALE_UP_ONLY))),
    (Cause.UTILIZATION_HIGH, high),
    (
        Cause.UTILIZATION_PEGGED,
        lambda: decide_one(make_snapshot(utilization=1.0), make_memory(streaks=Streaks(pegged=5))),
    ),
    (Cause.UTILIZATION_LOW, low),
    (Cause.WITHIN_BAND, lambda: decide_one(make_snapshot(utilization=0.6))),
    (Cause.PENDING_CANCELLED, lambda: low(pods=[*make_pods(3), make_pod(3, PodPhase.UNSCHEDULABLE)])),
    (Cause.PENDING_RELEASED, lambda: high(pods=[*make_pods(3), STUCK])),
    (
        Cause.METRICS_MISSING_FLOOR,
        lambda: decide_one(
            make_snapshot(make_workload(blind_replicas=6), utilization=None),
            make_memory(blindness=LONG_BLIND),
        ),
    ),
    (Cause.METRICS_UNKNOWN, lambda: answered(not_collected())),
    (Cause.PINNED, lambda: decide_one(make_snapshot(make_workload(replicas=3)))),
    (Cause.NOT_DECIDED, lambda: decide_one(make_snapshot(operations=(make_operation(),)))),
    (InactiveReason.OBSERVE, lambda: decide_one(make_snapshot(make_workload(mode=Mode.OBSERVE)))),
    (InactiveReason.PAUSED, lambda: decide_one(make_snapshot(make_workload(paused=True)))),
    (InactiveReason.TARGET_NOT_FOUND, lambda: decide_one(make_snapshot(deployment=()))),
    (
        InactiveReason.TARGET_REQUESTS_NO_GPU,
        lambda: decide_one(make_snapshot(deployment=make_deployment(gpus_per_pod=0))),
    ),
    (
        InactiveReason.TARGET_TERMINATING,
        lambda: decide_one(make_snapshot(deployment=make_deployment(terminating=True))),
    ),
    (
        InactiveReason.NAMESPACE_TERMINATING,
        lambda: decide_one(make_snapshot(terminating_namespaces=frozenset({"chat"}))),
    ),
    (
        InactiveReason.SCALED_TO_ZERO,
        lambda: decide_one(make_snapshot(deployment=make_deployment(replicas=0))),
    ),
    (
        InactiveReason.INTERNAL_ERROR,
        lambda: decide_one(make_snapshot(replace(make_workload(), readiness=None)), Memory()),
    ),
    (InactiveReason.CONFLICT, lambda: decide_one(make_snapshot(autoscalers=(make_hpa(),)))),
    (ConflictReason.HPA_ON_TARGET, lambda: decide_one(make_snapshot(autoscalers=(make_hpa(),)))),
    (
        ConflictReason.SCALED_OBJECT_ON_TARGET,
        lambda: decide_one(make_snapshot(autoscalers=(make_hpa(kind="ScaledObject"),))),
    ),
    (
        ConflictReason.DUPLICATE_WORKLOAD,
        lambda: decide_one(
            make_snapshot(
                [make_workload("younger", target="llm"), make_workload(created_at=NOW - seconds(1e6))]
            )
        ),
    ),
    (
        ConflictReason.SCALE_UNSET,
        lambda: decide_one(make_snapshot(autoscalers=(make_hpa(target_kind="GpuWorkload"),))),
    ),
    (CapacityReason.UNSCHEDULABLE, lambda: high(pods=[*make_pods(3), make_pod(3, PodPhase.UNSCHEDULABLE)])),
    (
        CapacityReason.REPLICA_FAILURE,
        lambda: high(pods=FOUR, deployment=make_deployment(replicas=6, failure="exceeded quota")),
    ),
    (CapacityReason.REVISION_BROKEN, lambda: high(pods=[make_pod(0), make_pod(1, PodPhase.BROKEN)])),
    (CapacityReason.PODS_BROKEN, lambda: high(pods=[*make_pods(3), make_pod(3, PodPhase.BROKEN)])),
    (CapacityReason.EXHAUSTED, lambda: high(pods=[*make_pods(3), STUCK])),
    (CapacityReason.PACKING_REFUSED, left_beside_room),
    (SignalReason.FRESH, lambda: answered(make_samples(FOUR, 0.6))),
    (SignalReason.PARTIAL, lambda: answered(make_samples(FOUR[:3], 0.6))),
    (SignalReason.LOW_COVERAGE, lambda: answered(make_samples(FOUR[:1], 0.6))),
    (SignalReason.STALE, lambda: answered(make_samples(FOUR, 0.6, age=76))),
    (SignalReason.FROZEN, lambda: answered(make_samples(FOUR, 0.6, liveness=Liveness.FLAT))),
    (
        SignalReason.OUT_OF_RANGE,
        lambda: decide_one(
            make_snapshot(
                pods=FOUR,
                activity=type(make_samples(FOUR, None))(
                    at=NOW, pods={}, rejected={(p.key.namespace, p.key.name): 1 for p in FOUR}
                ),
            )
        ),
    ),
    (SignalReason.MISSING, lambda: answered(make_samples(FOUR, None))),
    (SignalReason.CONTRADICTORY, lambda: answered(make_samples(FOUR, 0.6, disagrees=True))),
    (SignalReason.ZERO_AT_ONCE, lambda: answered(make_samples(FOUR, 0.0))),
    (
        SignalReason.RECOVERING,
        lambda: decide_one(
            make_snapshot(utilization=0.6), make_memory(blindness=LONG_BLIND, streaks=Streaks())
        ),
    ),
    (SignalReason.NO_SETTLED_PODS, lambda: decide_one(make_snapshot(pods=make_pods(4, PodPhase.LOADING)))),
    *(
        (reason, lambda reason=reason: answered(not_collected(reason)))
        for reason in SignalReason
        if reason.name.startswith(("PROMETHEUS_", "NOT_COLLECTED"))
    ),
    (SignalState.FRESH, lambda: answered(make_samples(FOUR, 0.6))),
    (SignalState.PARTIAL, lambda: answered(make_samples(FOUR[:3], 0.6))),
    (SignalState.LOW, lambda: answered(make_samples(FOUR[:1], 0.6))),
    (SignalState.UNKNOWN, lambda: answered(not_collected())),
    (SignalState.SUSPECT, lambda: answered(make_samples(FOUR, 0.0))),
    (
        SignalState.DEGRADED,
        lambda: decide_one(make_snapshot(utilization=None), make_memory(blindness=LONG_BLIND)),
    ),
    (
        SignalState.ZERO,
        lambda: decide_one(
            make_snapshot(utilization=0.0),
            make_memory(zero=ZeroWatch(since=NOW - seconds(300), alive_since=NOW - seconds(300))),
        ),
    ),
)


every_scene = pytest.mark.parametrize(
    ("reason", "scene"), [pytest.param(*pair, id=f"{type(pair[0]).__name__}.{pair[0]}") for pair in SCENES]
)


def carried(decision: Decision) -> list[StrEnum]:
    findings = (decision.inactive, decision.conflict, decision.capacity)
    return [
        decision.cause,
        decision.signal.state,
        decision.signal.reason,
        *(limit.reason for limit in decision.limits),
        *(finding.reason for finding in findings if finding is not None),
    ]


@pytest.mark.case("workload-autoscalers D90")
@every_scene
def test_the_reason_is_reached(reason: StrEnum, scene: Callable[[], Decision]) -> None:
    assert any(found is reason for found in carried(scene()))


@pytest.mark.case("workload-autoscalers D90")
@pytest.mark.parametrize(
    "kind", [LimitReason, Cause, InactiveReason, ConflictReason, CapacityReason, SignalReason, SignalState]
)
def test_no_reason_is_left_out_here(kind: type[StrEnum]) -> None:
    assert {reason for reason, _ in SCENES if isinstance(reason, kind)} == set(kind)


@every_scene
def test_every_decision_says_why_in_a_sentence(reason: StrEnum, scene: Callable[[], Decision]) -> None:
    decision = scene()

    assert decision.reason
    assert len(decision.why) > 10
    assert all(limit.message for limit in decision.limits)
