"""Nothing shrinks while many busy workloads lose their metrics at once."""

from datetime import timedelta

import pytest
from tests.builders import (
    NOW,
    make_deployment,
    make_memory,
    make_pod,
    make_samples,
    make_snapshot,
    make_workload,
    plan_of,
    reasons,
    seconds,
)

from spillway.core.breaker import advance_breaker
from spillway.core.memory import BreakerMemory, Memory, WorkloadMemory
from spillway.core.plan import LimitReason, Plan
from spillway.core.signal import NotCollected, SignalReason


def workloads(*, lost: int, sound: int, lost_for: float = 10, quiet: int = 0) -> list[WorkloadMemory]:
    return [
        *[
            WorkloadMemory(first_seen=NOW, busy_value=0.5, lost_at=NOW - seconds(lost_for))
            for _ in range(lost)
        ],
        *[WorkloadMemory(first_seen=NOW, busy_value=0.5) for _ in range(sound)],
        *[WorkloadMemory(first_seen=NOW, busy_value=0.0) for _ in range(quiet)],
    ]


@pytest.mark.parametrize(
    ("over", "is_open"),
    [
        pytest.param({"lost": 4, "sound": 6}, True, id="40 %"),
        pytest.param({"lost": 3, "sound": 7}, False, id="exactly 30 %"),
        pytest.param({"lost": 2, "sound": 0}, False, id="all, but only two"),
        pytest.param({"lost": 3, "sound": 0}, True, id="all three"),
        pytest.param({"lost": 4, "sound": 6, "lost_for": 121}, False, id="not within two minutes"),
        pytest.param({"lost": 4, "sound": 6, "quiet": 90}, True, id="proven zeros do not dilute it"),
    ],
)
@pytest.mark.case("workload-autoscalers D24")
def test_it_opens_when_over_30_percent_of_the_busy_and_three_are_lost(
    over: dict[str, int], *, is_open: bool
) -> None:
    _, view = advance_breaker(BreakerMemory(), workloads(**over), now=NOW)

    assert view.is_open is is_open


def play(*, lost: int, sound: int, minutes: float, breaker: BreakerMemory) -> BreakerMemory:
    start = breaker.calm_since or breaker.open_since or NOW
    memories = workloads(lost=lost, sound=sound, lost_for=10_000)
    breaker, _ = advance_breaker(breaker, memories, now=start)
    breaker, _ = advance_breaker(breaker, memories, now=start + timedelta(minutes=minutes))
    return breaker


def test_it_closes_after_two_minutes_below_15_percent() -> None:
    opened = BreakerMemory(open_since=NOW)

    assert play(lost=1, sound=9, minutes=1.9, breaker=opened).open_since is not None
    assert play(lost=1, sound=9, minutes=2, breaker=opened).open_since is None


def test_it_stays_open_at_15_percent() -> None:
    assert play(lost=3, sound=17, minutes=60, breaker=BreakerMemory(open_since=NOW)).open_since is not None


def fleet(*, lost: int, of: int, activity: NotCollected | None = None, memory: Memory | None = None) -> Plan:
    """Decide idle workloads of which the first ones have no samples."""
    found = [make_workload(f"w{n:02}") for n in range(of)]
    deployments = [make_deployment(workload.target, 2) for workload in found]
    pods = [make_pod(n, of=workload.target) for workload in found for n in range(2)]
    reporting = [pod for pod in pods if int(pod.key.name[1:3]) >= lost]
    answer = activity or make_samples(reporting, 0.1)
    snapshot = make_snapshot(found, deployments, pods=pods, activity=answer)
    return plan_of(snapshot, memory or make_memory(*found, replicas=2))


@pytest.mark.case("workload-autoscalers D24")
def test_while_it_is_open_no_workload_shrinks() -> None:
    plan = fleet(lost=4, of=10)

    assert plan.acts == ()
    assert (plan.breaker.is_open, plan.breaker.lost, plan.breaker.active) == (True, 4, 10)
    assert all(LimitReason.CIRCUIT_BREAKER in reasons(found) for found in list(plan.decisions.values())[4:])


def test_with_fewer_lost_the_others_go_on() -> None:
    plan = fleet(lost=3, of=10)

    assert not plan.breaker.is_open
    assert len(plan.acts) == 7


def test_growth_goes_on_while_it_is_open() -> None:
    opened = Memory(workloads=make_memory().workloads, breaker=BreakerMemory(open_since=NOW))

    assert len(plan_of(make_snapshot(utilization=0.9), opened).acts) == 1


@pytest.mark.parametrize("reason", [SignalReason.NOT_COLLECTED])
def test_a_start_before_the_first_answer_is_no_loss(reason: SignalReason) -> None:
    waiting = NotCollected(since=NOW, reason=reason, message="The first query is still running")

    assert not fleet(lost=0, of=10, activity=waiting).breaker.is_open


def test_pods_that_all_start_anew_are_no_loss_of_metrics() -> None:
    found = [make_workload(f"w{n}") for n in range(5)]
    deployments = [make_deployment(workload.target, 1) for workload in found]
    pods = [make_pod(0, of=workload.target, since=NOW) for workload in found]

    plan = plan_of(make_snapshot(found, deployments, pods=pods), make_memory(*found, replicas=1))

    assert not plan.breaker.is_open


def test_a_pin_shrinks_even_while_it_is_open() -> None:
    opened = Memory(workloads=make_memory().workloads, breaker=BreakerMemory(open_since=NOW))

    assert len(plan_of(make_snapshot(make_workload(replicas=1)), opened).acts) == 1
