"""Windows refilled after a restart: replay leaves what watching would have left."""

import pytest
from tests.builders import (
    NOW,
    make_capacity,
    make_deployment,
    make_memory,
    make_pod,
    make_pods,
    make_replica_set,
    make_snapshot,
    make_twin,
    make_workload,
    plan_of,
    seconds,
)
from tests.timeline import Timeline

from spillway.core.memory import WorkloadMemory
from spillway.core.model import Pod, PodPhase
from spillway.core.replay import History, replay


def refilled(history: History, *pods: Pod, **over: object) -> WorkloadMemory:
    snapshot = make_snapshot(pods=pods, **over)  # type: ignore[arg-type]
    return replay(snapshot, history, NOW).workloads["workload-llm"]


def recorded(pods: tuple[Pod, ...], value: float, *, since: float = 600, until: float = 0) -> History:
    """Every pod at one value each 15 s, from *since* to *until* seconds ago."""
    times = range(int(since), int(until) - 1, -15)
    return {
        (pod.key.namespace, pod.key.name): tuple((NOW - seconds(ago), value) for ago in times) for pod in pods
    }


@pytest.mark.case("workload-autoscalers D38")
@pytest.mark.parametrize(
    "loads", [[1.2], [3.0, 1.0], [1.0, 3.5, 0.8, 2.4]], ids=["steady", "falling", "up and down"]
)
def test_replay_leaves_the_window_that_watching_left(loads: list[float]) -> None:
    line = Timeline(make_workload(max_replicas=8), replicas=4)
    for minute, load in enumerate(loads, start=1):
        line.change(demand=load).at(f"{3 * minute}m")
    watched = line.memory.workloads["workload-llm"]

    refilled = line.restart().memory.workloads["workload-llm"]
    length = line.workload.scale_down.window

    assert refilled.window.last == watched.window.last
    assert refilled.window.above_low_at == watched.window.above_low_at
    kept = [entry for entry in refilled.window.floors if refilled.window.last - entry[0] <= length]
    assert tuple(kept) == watched.window.floors
    assert refilled.busy_value == pytest.approx(watched.busy_value)


def test_without_history_the_window_is_empty() -> None:
    assert refilled({}, *make_pods(4)).window.since is None


def test_a_full_history_allows_going_down_after_the_takeover_minute() -> None:
    pods = make_pods(4)
    memory = replay(make_snapshot(pods=pods), recorded(pods, 0.1), NOW)
    snapshot = make_snapshot(pods=pods, utilization=0.1, at=NOW + seconds(61))

    plan = plan_of(snapshot, memory, now=NOW + seconds(61))

    assert [act.to for act in plan.acts] == [3]


def test_what_ran_on_spot_is_load_of_the_same_workload() -> None:
    own, spot = make_pods(2), make_pods(6, of="llm-burst")
    snapshot = make_snapshot(
        make_workload(capacity=make_capacity(2)),
        (make_deployment(replicas=2), make_twin(replicas=6)),
        pods=(*own, *spot),
        replica_sets=(make_replica_set(), make_replica_set("llm-burst")),
    )

    window = replay(snapshot, recorded((*own, *spot), 0.7), NOW).workloads["workload-llm"].window

    # 8 replicas at 70 %: ceil(8 * .7 / .72) = 8
    assert max(floor for _, floor in window.floors) == 8


def test_a_history_that_ended_before_the_gap_limit_starts_anew() -> None:
    pods = make_pods(4)
    memory = replay(make_snapshot(pods=pods), recorded(pods, 0.1, until=90), NOW)
    snapshot = make_snapshot(pods=pods, utilization=0.1)

    assert plan_of(snapshot, memory).memory.workloads["workload-llm"].window.since == NOW


def test_a_gap_inside_the_history_starts_the_window_after_it() -> None:
    pods = make_pods(1)
    early, late = recorded(pods, 0.1, since=600, until=400), recorded(pods, 0.1, since=200)
    history = {key: (*early[key], *late[key]) for key in early}

    assert refilled(history, *pods).window.since == NOW - seconds(200)


def test_a_time_in_which_too_few_pods_reported_breaks_the_window() -> None:
    pods = make_pods(4)
    history = {**recorded(pods[:1], 0.1), **recorded(pods[1:], 0.1, since=120)}

    assert refilled(history, *pods).window.since == NOW - seconds(120)


def test_the_load_of_pods_that_are_gone_still_counts() -> None:
    pods, gone = make_pods(2), make_pod(77)
    history = {**recorded(pods, 0.3), **recorded((gone,), 0.9, until=60)}

    # .3 + .3 + .9 = 1.5 replicas: ceil(1.5 / .72) = 3
    assert refilled(history, *pods).window.floors[0][1] == 3


def test_pods_that_are_gone_do_not_stand_in_for_missing_ones() -> None:
    pods, gone = make_pods(2), (make_pod(77), make_pod(78))

    assert refilled(recorded(gone, 0.1), *pods).window.since is None


@pytest.mark.parametrize("phase", [PodPhase.TERMINATING, PodPhase.UNKNOWN, PodPhase.BROKEN])
def test_the_load_of_pods_that_served_and_are_going_still_counts(phase: PodPhase) -> None:
    serving, going = make_pods(1), make_pod(5, phase)
    history = {**recorded(serving, 0.5), **recorded((going,), 0.9)}

    # .5 + .9 = 1.4 replicas: ceil(1.4 / .72) = 2
    assert refilled(history, *serving, going).window.floors[0][1] == 2


def test_a_pod_counts_as_the_mean_of_the_others_until_it_settled() -> None:
    old, new = make_pods(1), make_pod(1, since=NOW - seconds(30))
    history = {**recorded(old, 0.6), **recorded((new,), 0.0, since=30)}

    # one settled at 60 % and one that just turned Ready: 2 * .6 / .72 = 1.67, so 2
    assert refilled(history, *old, new).window.floors[-1][1] == 2


def test_warm_up_of_a_loading_pod_is_no_load() -> None:
    serving, loading = make_pods(1), make_pod(1, PodPhase.LOADING)
    history = {**recorded(serving, 0.3), **recorded((loading,), 1.0)}

    assert refilled(history, *serving, loading).window.floors[0][1] == 1


def test_pods_of_another_deployment_are_left_out() -> None:
    pods, others = make_pods(2), make_pods(2, of="other")

    assert refilled({**recorded(pods, 0.1), **recorded(others, 1.0)}, *pods).window.floors[0][1] == 1


def test_a_workload_without_its_target_has_nothing_to_refill() -> None:
    assert replay(make_snapshot(deployment=()), {}, NOW).workloads == {}


def test_a_refilled_memory_knows_its_target_and_starts_its_takeover_minute() -> None:
    found = refilled({}, *make_pods(2), deployment=make_deployment(replicas=2))

    assert (found.target_uid, found.first_seen) == ("deployment-llm", NOW)
    assert make_memory().workloads["workload-llm"].first_seen < NOW
