"""Pods that find no node: taken back when the load falls, released after a time, asked for again later."""

from itertools import pairwise

import pytest
from tests.builders import (
    NOW,
    decide_one,
    make_deployment,
    make_memory,
    make_pod,
    make_pods,
    make_snapshot,
    make_workload,
    plan_of,
    reasons,
    seconds,
)
from tests.timeline import Timeline

from spillway.core.memory import Exhausted
from spillway.core.model import PodPhase
from spillway.core.plan import CapacityReason, Cause, LimitReason


@pytest.mark.case("workload-autoscalers D31")
def test_load_that_falls_takes_back_pending_pods_at_once_and_no_ready_one() -> None:
    line = Timeline(replicas=4, util=0.6, room=4).at("6m", util=0.9).at("8m")
    line.expect(replicas=5, unschedulable=1)

    line.at("9m", util=0.3)

    line.at("9m30s").expect(replicas=4, ready=4, cause=Cause.PENDING_CANCELLED)


def test_load_that_still_needs_them_keeps_pending_pods() -> None:
    line = Timeline(replicas=4, util=0.6, room=4).at("6m", util=0.9)

    line.at("12m").expect(replicas=5, limits=["CapacityInFlight"])


def test_a_surge_pod_without_room_takes_no_ready_replica_with_it() -> None:
    surge = make_pod(4, PodPhase.UNSCHEDULABLE, revision=2, node=None)
    deployment = make_deployment(replicas=4, status_replicas=5, updated_replicas=1, revision=2)

    decision = decide_one(make_snapshot(deployment=deployment, pods=[*make_pods(4), surge], utilization=0.5))

    assert (decision.proposal, decision.desired) == (4, 4)


def test_a_surge_pod_that_waited_too_long_releases_nothing() -> None:
    surge = make_pod(4, PodPhase.UNSCHEDULABLE, revision=2, node=None, since=NOW - seconds(3600))
    deployment = make_deployment(replicas=4, status_replicas=5, updated_replicas=4)

    decision = decide_one(make_snapshot(deployment=deployment, pods=[*make_pods(4), surge], utilization=0.6))

    assert decision.desired == 4


def test_a_rollout_takes_nothing_back() -> None:
    pods = [*make_pods(3), make_pod(3, PodPhase.UNSCHEDULABLE)]
    deployment = make_deployment(replicas=4, updated_replicas=1)

    decision = decide_one(make_snapshot(deployment=deployment, pods=pods, utilization=0.1))

    assert (decision.desired, reasons(decision)) == (4, (LimitReason.ROLLOUT_IN_PROGRESS,))


@pytest.mark.case("workload-autoscalers D76")
def test_a_human_who_scales_ahead_of_the_nodes_is_respected() -> None:
    line = Timeline(replicas=2, util=0.3, room=2).at("10m")

    line.somebody_sets(6)

    line.at("12m").expect(replicas=6, unschedulable=4, limits=["ForeignChange"])


@pytest.mark.case("workload-autoscalers D58")
def test_pods_that_find_no_node_for_too_long_are_released_and_reported() -> None:
    line = Timeline(replicas=4, util=0.6, room=4, pending_timeout=600).at("6m", util=1.0)
    line.at("16m").expect(replicas=6, capacity="Unschedulable")

    line.at("18m").expect(replicas=4, capacity="CapacityExhausted")


@pytest.mark.case("workload-autoscalers D58")
def test_growth_waits_out_the_back_off_and_then_uses_capacity_that_returned() -> None:
    line = Timeline(replicas=4, util=0.6, room=4, pending_timeout=600).at("6m", util=1.0)
    line.at("18m", room=100).expect(replicas=4)

    line.at("21m").expect(replicas=4, limits=["CapacityExhausted"])
    line.at("23m").expect(unschedulable=0)
    assert line.replicas > 4


def test_the_back_off_doubles_while_there_is_no_room() -> None:
    line = Timeline(replicas=4, util=0.6, room=4, pending_timeout=60).at("6m", util=1.0).at("2h")

    releases = [at for at, act in line.writes if not act.is_growth]
    waits = [later - earlier for earlier, later in pairwise(releases)]

    assert waits == sorted(waits)
    assert waits[0] >= 300
    assert waits[2] >= 4 * 300


def test_a_release_never_goes_below_the_minimum() -> None:
    line = Timeline(make_workload(min_replicas=4), replicas=4, room=4, util=0.6, pending_timeout=60)

    line.somebody_sets(6).at("20m").expect(replicas=4)


def test_blind_nothing_is_released() -> None:
    line = Timeline(replicas=4, room=4, util=0.6, pending_timeout=60).at("10m", outage=True)

    line.somebody_sets(6).at("1h").expect(replicas=6)


@pytest.mark.case("workload-autoscalers D59")
def test_a_quota_that_refuses_pods_causes_no_runaway() -> None:
    deployment = make_deployment(
        replicas=6, status_replicas=4, updated_replicas=4, failure="exceeded quota: gpus"
    )

    decision = decide_one(make_snapshot(deployment=deployment, pods=make_pods(4), utilization=1.0))

    assert (decision.desired, reasons(decision)) == (6, (LimitReason.CAPACITY_IN_FLIGHT,))
    assert decision.capacity is not None
    assert decision.capacity.reason is CapacityReason.REPLICA_FAILURE


@pytest.mark.case("workload-autoscalers D55")
@pytest.mark.parametrize(
    "phase", [PodPhase.UNKNOWN, PodPhase.LOADING, PodPhase.PENDING, PodPhase.UNSCHEDULABLE]
)
def test_pods_on_their_way_count_as_supply(phase: PodPhase) -> None:
    pods = [*make_pods(4), *make_pods(2, phase, start=4)]

    # 4 ready at 95 % need ceil(4 * .95 / .8) = 5, and 6 are asked for
    decision = decide_one(make_snapshot(deployment=make_deployment(replicas=6), pods=pods, utilization=0.95))

    assert (decision.proposal, decision.desired) == (5, 6)
    assert reasons(decision) == (LimitReason.CAPACITY_IN_FLIGHT,)


def test_a_loading_replica_is_not_shrunk_away() -> None:
    pods = [*make_pods(3), make_pod(3, PodPhase.LOADING)]

    decision = decide_one(make_snapshot(pods=pods, utilization=0.1))

    assert (decision.desired, reasons(decision)[-1]) == (4, LimitReason.DOWN_COOLDOWN)


@pytest.mark.case("workload-autoscalers D46")
def test_a_revision_that_crashes_is_not_grown() -> None:
    pods = [*make_pods(4), *make_pods(2, PodPhase.BROKEN, start=4, revision=2)]
    deployment = make_deployment(replicas=4, status_replicas=6, revision=2)

    decision = decide_one(make_snapshot(deployment=deployment, pods=pods, utilization=1.0))

    assert (decision.desired, reasons(decision)) == (4, (LimitReason.REVISION_BROKEN,))
    assert decision.capacity is not None
    assert decision.capacity.reason is CapacityReason.REVISION_BROKEN


@pytest.mark.case("workload-autoscalers D46")
def test_crashing_new_pods_never_escalate_to_the_maximum() -> None:
    line = Timeline(replicas=2, util=1.0, crash=True, room=100)

    line.at("2h").expect(replicas=4, limits=["RevisionBroken"])


def test_one_broken_pod_among_many_is_made_up_for() -> None:
    pods = [*make_pods(4), make_pod(4, PodPhase.BROKEN)]

    # 4 ready at 95 % need 5, and the broken one holds a place: 6
    decision = decide_one(make_snapshot(deployment=make_deployment(replicas=5), pods=pods, utilization=0.95))

    assert decision.desired == 6


@pytest.mark.case("workload-autoscalers D54")
def test_a_long_drain_causes_no_replacement_storm() -> None:
    pods = [*make_pods(4), *make_pods(4, PodPhase.TERMINATING, start=4)]

    assert decide_one(make_snapshot(pods=pods, utilization=0.6)).desired == 4


@pytest.mark.case("workload-autoscalers D56")
def test_a_gpu_that_is_busy_loading_a_model_is_no_demand() -> None:
    ready, loading = make_pods(3), make_pod(3, PodPhase.LOADING)
    snapshot = make_snapshot(pods=[*ready, loading], utilization=1.0)
    quiet = make_snapshot(pods=ready, utilization=0.5).activity
    busy_loader = {
        **quiet.pods,
        (loading.key.namespace, loading.key.name): next(iter(snapshot.activity.pods.values())),
    }

    decision = decide_one(
        make_snapshot(pods=[*ready, loading], activity=type(quiet)(at=NOW, pods=busy_loader))
    )

    assert decision.cause is Cause.WITHIN_BAND


@pytest.mark.case("workload-autoscalers D50")
def test_a_pod_that_flaps_does_not_contribute() -> None:
    steady, flapping = make_pods(3), make_pod(3, since=NOW - seconds(15))
    snapshot = make_snapshot(pods=[*steady, flapping], utilization=0.5)

    decision = decide_one(snapshot)

    assert (decision.counts.settled, decision.signal.value) == (3, pytest.approx(0.5))


@pytest.mark.case("workload-autoscalers D48")
def test_surge_pods_are_never_written_into_the_count() -> None:
    deployment = make_deployment(replicas=4, status_replicas=8, updated_replicas=4)

    assert decide_one(make_snapshot(deployment=deployment, pods=make_pods(8), utilization=0.6)).desired == 4


@pytest.mark.parametrize(
    ("phase", "is_forgotten"),
    [
        pytest.param(PodPhase.READY, True, id="pods that run prove room"),
        pytest.param(PodPhase.PENDING, False, id="pods just asked for prove nothing"),
    ],
)
def test_a_back_off_is_forgotten_when_pods_beyond_it_run(phase: PodPhase, *, is_forgotten: bool) -> None:
    latch = Exhausted(cap=3, until=NOW - seconds(1), steps=2)

    plan = plan_of(make_snapshot(pods=[*make_pods(3), make_pod(3, phase)]), make_memory(exhausted=latch))

    assert (plan.memory.workloads["workload-llm"].exhausted is None) is is_forgotten
