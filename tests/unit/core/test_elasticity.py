"""A signal that added replicas do not lower says nothing about how many are needed."""

import pytest
from tests.builders import decide_one, make_memory, make_snapshot, make_workload, reasons
from tests.timeline import Timeline

from spillway.core.memory import Elasticity
from spillway.core.plan import LimitReason

BIG = make_workload(max_replicas=100)


@pytest.mark.case("workload-autoscalers D30")
def test_a_signal_pegged_before_and_after_two_ups_asks_for_no_more() -> None:
    line = Timeline(BIG, replicas=2, util=1.0, ready_after=300)

    line.at("3h").expect(limits=["SignalInelastic"])
    assert line.replicas < 12


def test_a_refuted_signal_is_heard_again_once_it_was_below_high() -> None:
    line = Timeline(BIG, replicas=2, util=1.0).at("1h")
    stuck = line.replicas

    line.at("1h1m", util=0.7).at("1h2m", util=0.9)

    line.at("1h4m")
    assert line.replicas > stuck


def test_a_refuted_signal_is_heard_again_when_late_replicas_lower_it() -> None:
    line = Timeline(BIG, replicas=2, util=0.6, ready_after=40)

    line.at("6m").change(demand=7.0).at("2h")

    # 7.0 at high 80 % need 9: the guard doubts at 1.0, and is shown wrong by the replicas still on their way
    assert line.replicas == 9
    line.expect(cause="WithinBand")


def test_a_signal_that_answers_is_never_doubted() -> None:
    line = Timeline(BIG, replicas=4, util=0.6).at("6m").change(demand=7.0).at("1h")

    assert not any(LimitReason.SIGNAL_INELASTIC in reasons(found) for found in line.decisions)


def test_a_refuted_signal_does_not_stop_going_down() -> None:
    memory = make_memory(elasticity=Elasticity(failures=2, refuted=True))

    assert decide_one(make_snapshot(utilization=0.1), memory).desired == 3


def test_an_up_that_only_observes_is_not_judged() -> None:
    from spillway.core.model import Mode

    line = Timeline(make_workload(mode=Mode.OBSERVE), replicas=2, util=1.0).at("1h")

    assert line.memory.workloads["workload-llm"].elasticity.failures == 0
