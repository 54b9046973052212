"""Orders of people: pins, bounds, modes, pauses. They hold in every metric state; guesses do not."""

from dataclasses import replace

import pytest
from tests.builders import (
    decide_one,
    make_act,
    make_deployment,
    make_memory,
    make_operation,
    make_pod,
    make_pods,
    make_samples,
    make_snapshot,
    make_workload,
    not_collected,
    plan_of,
    reasons,
    seconds,
)
from tests.timeline import Timeline

from spillway.core.model import Mode, PodPhase
from spillway.core.plan import Cause, InactiveReason, LimitReason
from spillway.core.signal import Collection, Liveness

PODS = make_pods(4)
ANSWERS: dict[str, Collection] = {
    "Fresh": make_samples(PODS, 0.6),
    "Partial": make_samples(PODS[:3], 0.6),
    "Low": make_samples(PODS[:1], 0.6),
    "Unknown": not_collected(),
    "Suspect": make_samples(PODS, 0.6, disagrees=True),
    "Frozen": make_samples(PODS, 0.6, liveness=Liveness.FLAT),
}
every_metric_state = pytest.mark.parametrize("activity", ANSWERS.values(), ids=ANSWERS.keys())


@every_metric_state
@pytest.mark.parametrize(("pin", "desired"), [(1, 1), (9, 9)], ids=["lower", "higher"])
def test_a_pin_is_reached_at_once_in_every_metric_state(activity: Collection, pin: int, desired: int) -> None:
    plan = plan_of(make_snapshot(make_workload(replicas=pin), activity=activity))

    assert plan.acts == (make_act(before=4, to=desired),)


@every_metric_state
def test_a_lowered_maximum_shrinks_by_down_steps_in_every_metric_state(activity: Collection) -> None:
    decision = decide_one(make_snapshot(make_workload(max_replicas=2), activity=activity))

    assert (decision.desired, reasons(decision)[-1]) == (3, LimitReason.MAX_REPLICAS)


@every_metric_state
def test_a_raised_minimum_grows_at_once_in_every_metric_state(activity: Collection) -> None:
    decision = decide_one(make_snapshot(make_workload(min_replicas=7), activity=activity))

    assert (decision.desired, reasons(decision)[-1]) == (7, LimitReason.MIN_REPLICAS)


@pytest.mark.case("workload-autoscalers D34")
@pytest.mark.parametrize(
    ("over", "current", "desired"),
    [
        pytest.param({"min_replicas": 4, "max_replicas": 4}, 4, 4, id="min equals max"),
        pytest.param({"min_replicas": 6, "max_replicas": 3}, 2, 3, id="min above max: the maximum wins"),
        pytest.param({"min_replicas": 6, "max_replicas": 3}, 4, 3, id="min above max from above"),
        pytest.param({"replicas": 20, "max_replicas": 8}, 4, 8, id="pin above the maximum"),
        pytest.param({"replicas": 0, "min_replicas": 2}, 4, 2, id="pin below the minimum"),
        pytest.param({"replicas": 3}, 0, 3, id="pin on a target at zero"),
        pytest.param(
            {"replicas": 10, "max_replicas": 4}, 10, 8, id="pin at the count above a lowered maximum"
        ),
        pytest.param({"replicas": 2, "max_replicas": 4}, 10, 2, id="pin below a lowered maximum"),
    ],
)
def test_bounds_and_pins_give_a_defined_count(over: dict[str, int], current: int, desired: int) -> None:
    snapshot = make_snapshot(make_workload(**over), make_deployment(replicas=current))

    assert decide_one(snapshot, make_memory(replicas=current)).desired == desired


def test_a_lowered_maximum_goes_all_the_way_in_steps() -> None:
    line = Timeline(replicas=6, util=0.6).at("5m")

    line.configure(max_replicas=3)

    line.at("15m").expect(replicas=3)
    assert [act.to for _, act in line.writes] == [5, 4, 3]


def test_a_lowered_maximum_takes_back_pending_pods_without_skipping_steps() -> None:
    pods = [*make_pods(8), *make_pods(2, PodPhase.UNSCHEDULABLE, start=8)]
    snapshot = make_snapshot(
        make_workload(max_replicas=4), make_deployment(replicas=10), pods=pods, utilization=0.3
    )

    # 2 pods find no node and go; the other 8 serve and go by 20 % of 10 in 60 s
    assert decide_one(snapshot, make_memory(replicas=10)).desired == 8


def test_a_lowered_maximum_never_waits_for_a_window() -> None:
    line = Timeline(make_workload(max_replicas=3), replicas=4)

    line.at("1m30s").expect(replicas=3)


@pytest.mark.parametrize("over", [{"replicas": 1}, {"max_replicas": 2}, {"replicas": 9, "max_replicas": 2}])
def test_nothing_shrinks_while_the_named_policy_is_missing(over: dict[str, int]) -> None:
    workload = make_workload(unresolved="GpuPolicy gold does not exist", **over)

    assert decide_one(make_snapshot(workload)).desired == 4


def test_a_missing_policy_holds_what_the_signal_would_shrink() -> None:
    workload = make_workload(unresolved="GpuPolicy gold does not exist")

    decision = decide_one(make_snapshot(workload, utilization=0.1))

    assert (decision.desired, LimitReason.POLICY_NOT_FOUND in reasons(decision)) == (4, True)


def test_a_missing_policy_does_not_stop_growth() -> None:
    workload = make_workload(unresolved="GpuPolicy gold does not exist")

    assert decide_one(make_snapshot(workload, utilization=0.9)).desired == 5


@pytest.mark.parametrize(
    ("over", "utilization"),
    [
        pytest.param({}, 0.1, id="low load"),
        pytest.param({"replicas": 2}, 0.6, id="lower pin"),
        pytest.param({"max_replicas": 2}, 0.6, id="lowered maximum"),
    ],
)
def test_scale_up_only_never_lowers(over: dict[str, int], utilization: float) -> None:
    workload = make_workload(mode=Mode.SCALE_UP_ONLY, **over)

    plan = plan_of(make_snapshot(workload, utilization=utilization))

    assert plan.acts == ()
    assert LimitReason.SCALE_UP_ONLY in reasons(plan.decisions[workload.key])


def test_scale_up_only_grows() -> None:
    plan = plan_of(make_snapshot(make_workload(mode=Mode.SCALE_UP_ONLY), utilization=0.9))

    assert plan.acts == (make_act(before=4, to=5),)


@pytest.mark.parametrize(
    ("over", "reason"),
    [
        pytest.param({"mode": Mode.OBSERVE}, InactiveReason.OBSERVE, id="Observe"),
        pytest.param({"paused": True}, InactiveReason.PAUSED, id="paused"),
    ],
)
@pytest.mark.parametrize("pin", [None, 1, 9])
@pytest.mark.case("workload-autoscalers D41")
def test_a_decision_that_is_not_acted_on_still_tells_what_it_would_do(
    over: dict[str, object], reason: InactiveReason, pin: int | None
) -> None:
    workload = make_workload(replicas=pin, **over)

    plan = plan_of(make_snapshot(workload, utilization=0.9))
    decision = plan.decisions[workload.key]

    assert plan.acts == ()
    assert (decision.inactive and decision.inactive.reason, decision.reason) == (reason, str(reason))
    assert decision.desired == (pin or 5)


@pytest.mark.case("workload-autoscalers D41")
def test_leaving_observe_does_not_replay_what_would_have_been_done() -> None:
    line = Timeline(make_workload(mode=Mode.OBSERVE), replicas=6, util=0.1).at("1h")

    line.configure(mode=Mode.ENFORCE)

    line.at("1h15s").expect(replicas=6)
    line.at("1h45s").expect(replicas=5)


@pytest.mark.case("workload-autoscalers D89")
def test_an_unpaused_workload_takes_one_step_and_no_burst() -> None:
    line = Timeline(make_workload(paused=True), replicas=2, util=1.0).at("1h").expect(replicas=2)

    line.configure(paused=False)

    line.at("1h15s").expect(replicas=3)


@pytest.mark.case("workload-autoscalers D88")
@pytest.mark.case("workload-autoscalers D34")
def test_a_target_that_somebody_set_to_zero_is_respected() -> None:
    line = Timeline(replicas=4).at("5m").somebody_sets(0)

    line.at("1h").expect(replicas=0, inactive="ScaledToZero", writes=0)


@pytest.mark.case("workload-autoscalers D40")
def test_a_new_band_in_mid_window_scales_nothing_at_once() -> None:
    line = Timeline(replicas=4, util=0.5).at("10m")

    line.configure(gpu_activity=replace(line.workload.gpu_activity, low=0.6))

    line.at("10m15s").expect(replicas=4, cause=Cause.UTILIZATION_LOW)
    line.at("14m").expect(replicas=4)


@pytest.mark.case("workload-autoscalers D40")
def test_a_longer_window_in_mid_window_is_waited_out() -> None:
    line = Timeline(replicas=4, util=0.1).at("4m30s")

    line.configure(scale_down=replace(line.workload.scale_down, window=seconds(600)))

    line.at("9m45s").expect(replicas=4)
    line.at("10m45s").expect(replicas=3)


def test_an_operation_under_way_is_not_decided_again() -> None:
    snapshot = make_snapshot(utilization=1.0, operations=(make_operation(before=4, to=6),))

    plan = plan_of(snapshot)
    decision = plan.decisions[snapshot.workloads[0].key]

    assert (plan.acts, decision.desired, decision.cause, decision.in_flight) == (
        (),
        6,
        Cause.NOT_DECIDED,
        True,
    )


def test_a_broken_revision_does_not_stop_a_pin() -> None:
    pods = [make_pod(0), make_pod(1, PodPhase.BROKEN)]

    plan = plan_of(make_snapshot(make_workload(replicas=4), make_deployment(replicas=2), pods=pods))

    assert plan.acts == (make_act(before=2, to=4),)


def test_the_answers_above_cover_the_states() -> None:
    found = {str(decide_one(make_snapshot(activity=answer)).signal.state) for answer in ANSWERS.values()}

    assert found == {"Fresh", "Partial", "Low", "Unknown", "Suspect"}
