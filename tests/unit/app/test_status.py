"""A decision as status: what is written, and above all what is not."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from tests.builders import (
    NOW,
    make_deployment,
    make_pods,
    make_samples,
    make_snapshot,
    make_workload,
    not_collected,
)

from spillway.api.convert import Converted, CostLabels, Invalid
from spillway.api.problems import Problem
from spillway.app.status import StatusUpdate, invalid_status, policy_status, workload_status
from spillway.core import engine
from spillway.core.cost import PayerCost
from spillway.core.memory import Memory
from spillway.core.model import Mode, ObjectKey, PodPhase, Snapshot, Workload
from spillway.core.plan import Decision

Status = Mapping[str, Any]


def decide(snapshot: Snapshot) -> Decision:
    return next(iter(engine.decide(snapshot, Memory(), NOW).decisions.values()))


def convert(workload: Workload, *, rivals: tuple[str, ...] = ()) -> Converted:
    return Converted(
        workload=workload,
        generation=3,
        provenance=(),
        cost=CostLabels(),
        policy=None,
        policy_conflicts=rivals,
    )


def write(
    snapshot: Snapshot,
    *,
    stored: Status | None = None,
    after: float = 0,
    scaled: bool = False,
    rivals: tuple[str, ...] = (),
    cost: PayerCost | None = None,
) -> StatusUpdate:
    return workload_status(
        decide(snapshot),
        convert(snapshot.workloads[0], rivals=rivals),
        stored=stored or {},
        scaled=scaled,
        now=NOW + timedelta(seconds=after),
        cost=cost,
    )


def condition(update: StatusUpdate, name: str) -> tuple[str, str]:
    found = next(item for item in update.status["conditions"] if item["type"] == name)
    return found["status"], found["reason"]


def test_a_first_status_names_counts_selector_and_decision() -> None:
    status = write(make_snapshot()).status

    counted = {name: status[name] for name in ("replicas", "desiredReplicas", "readyReplicas", "selector")}
    assert counted == {"replicas": 4, "desiredReplicas": 4, "readyReplicas": 4, "selector": "app=llm"}


def test_a_cost_stands_in_the_status_and_changes_with_it_alone() -> None:
    first = write(make_snapshot(), cost=PayerCost())

    same = write(make_snapshot(), cost=PayerCost(), stored=first.status, after=15)
    other = write(make_snapshot(), cost=PayerCost(unknown_gpus=3), stored=first.status, after=15)

    assert first.status["hourlyCost"] == "0.00"
    assert (same.changed, other.changed) == (False, True)


def test_the_same_decision_writes_nothing_again() -> None:
    first = write(make_snapshot())

    again = write(make_snapshot(utilization=0.61), stored=first.status, after=15)

    assert not again.changed


def test_a_condition_keeps_its_sentence_and_time_while_its_reason_stands() -> None:
    first = write(make_snapshot(activity=not_collected()))

    later = write(make_snapshot(activity=not_collected()), stored=first.status, after=400)

    assert later.status["conditions"] == first.status["conditions"]


def test_ready_says_the_trouble_of_now_when_another_condition_changes_its_reason() -> None:
    first = write(make_snapshot(activity=not_collected()))

    later = write(make_snapshot(activity=make_samples((), 0.6)), stored=first.status, after=15)

    messages = {item["type"]: item["message"] for item in later.status["conditions"]}
    assert messages["Ready"] == messages["MetricsAvailable"]


def test_a_condition_that_turns_takes_a_new_time() -> None:
    first = write(make_snapshot())

    later = write(make_snapshot(activity=not_collected()), stored=first.status, after=30)

    turned = next(item for item in later.status["conditions"] if item["type"] == "MetricsAvailable")
    assert turned["lastTransitionTime"] == "2026-03-01T12:00:30Z"


@pytest.mark.parametrize(
    ("snapshot", "name", "expected"),
    [
        pytest.param(make_snapshot(), "Ready", ("True", "Operating"), id="all well"),
        pytest.param(
            make_snapshot(activity=not_collected()), "Ready", ("False", "MetricsUnavailable"), id="blind"
        ),
        pytest.param(
            make_snapshot(activity=not_collected()),
            "MetricsAvailable",
            ("False", "PrometheusTimeout"),
            id="Prometheus hangs",
        ),
        pytest.param(
            make_snapshot(deployment=make_deployment(gpus_per_pod=0)),
            "Ready",
            ("False", "TargetRequestsNoGpu"),
            id="no GPU requested",
        ),
        pytest.param(
            make_snapshot(deployment=make_deployment("other")),
            "CapacityAvailable",
            ("Unknown", "TargetUnknown"),
            id="no target",
        ),
        pytest.param(
            make_snapshot(make_workload(mode=Mode.OBSERVE)),
            "ScalingActive",
            ("False", "ObserveOnly"),
            id="Observe",
        ),
        pytest.param(make_snapshot(make_workload(paused=True)), "Ready", ("True", "Operating"), id="paused"),
        pytest.param(
            make_snapshot(make_workload(replicas=4)), "ScalingActive", ("True", "Pinned"), id="pinned"
        ),
        pytest.param(
            make_snapshot(pods=make_pods(4, PodPhase.UNSCHEDULABLE, message="0/3 nodes are available")),
            "CapacityAvailable",
            ("False", "Unschedulable"),
            id="no room",
        ),
        pytest.param(
            make_snapshot(make_workload(unresolved="GpuPolicy x does not exist")),
            "Ready",
            ("False", "PolicyNotFound"),
            id="policy missing",
        ),
    ],
)
def test_the_condition_says(snapshot: Snapshot, name: str, expected: tuple[str, str]) -> None:
    assert condition(write(snapshot), name) == expected


def test_two_policies_for_one_workload_show_as_conflict() -> None:
    update = write(make_snapshot(), rivals=("a", "b"))

    assert condition(update, "Conflict") == ("True", "PolicyConflict")


def test_a_new_result_adds_one_decision_record() -> None:
    first = write(make_snapshot())

    pinned = write(make_snapshot(make_workload(replicas=6)), stored=first.status, after=5)

    assert [record["to"] for record in pinned.status["decisions"]] == [4, 6]


def test_a_reduction_that_waits_to_be_confirmed_is_one_record() -> None:
    snapshot = make_snapshot(make_workload(replicas=2))
    first = write(snapshot)

    waiting = write(snapshot, stored=first.status, after=15)

    assert not waiting.changed


@pytest.mark.parametrize(
    ("after", "records"), [pytest.param(30, 1, id="within a minute"), pytest.param(90, 2, id="after it")]
)
def test_a_hold_that_only_changed_its_limiter_is_recorded_once_a_minute(after: int, records: int) -> None:
    first = write(make_snapshot())

    held = write(make_snapshot(utilization=0.9), stored=first.status, after=after)

    assert len(held.status["decisions"]) == records


@pytest.mark.parametrize(
    "instructed",
    [pytest.param({"paused": True}, id="paused"), pytest.param({"replicas": 4}, id="pinned at its count")],
)
def test_an_instruction_shows_at_once_when_given_and_when_taken_back(instructed: dict[str, Any]) -> None:
    free, bound = make_snapshot(), make_snapshot(make_workload(**instructed))

    given = write(bound, stored=write(free).status, after=5)
    taken_back = write(free, stored=given.status, after=10)

    assert given.status["reason"] == decide(bound).reason
    assert taken_back.status["reason"] == "WithinBand"


def test_a_change_of_the_metric_state_is_recorded_at_once() -> None:
    first = write(make_snapshot())

    blind = write(make_snapshot(activity=not_collected()), stored=first.status, after=15)

    assert blind.status["state"] == "Unknown"


def test_a_new_metric_state_shows_in_observe_too_where_the_reason_stays() -> None:
    observed = make_workload(mode=Mode.OBSERVE)
    first = write(make_snapshot(observed, activity=not_collected()))

    seen = write(make_snapshot(observed), stored=first.status, after=15)

    assert (seen.status["state"], seen.status["reason"]) == ("Fresh", "ObserveOnly")
    assert len(seen.status["decisions"]) == 1


def test_observe_records_why_it_would_have_acted() -> None:
    update = write(make_snapshot(make_workload(mode=Mode.OBSERVE), activity=not_collected()))

    message = update.status["decisions"][0]["message"]

    assert "Prometheus" in message
    assert message.endswith("(mode Observe: decided, not written)")


def test_only_the_last_ten_decisions_are_kept() -> None:
    update = write(make_snapshot())
    for count in range(12):
        pin = make_workload(replicas=1 + count % 2)
        update = write(make_snapshot(pin), stored=update.status, after=count)

    assert len(update.status["decisions"]) == 10


def test_a_write_that_landed_sets_the_scale_time_and_others_keep_it() -> None:
    scaled = write(make_snapshot(), scaled=True)

    later = write(make_snapshot(), stored=scaled.status, after=60)

    assert later.status["lastScaleTime"] == "2026-03-01T12:00:00Z"


def test_an_invalid_object_keeps_its_facts_and_says_what_is_wrong() -> None:
    stored = write(make_snapshot()).status
    problem = Problem(field="spec.maxReplicas", message="spec.maxReplicas is 0; set 1 to 10000")
    invalid = Invalid(key=ObjectKey("chat", "llm"), uid="u", generation=4, problems=(problem,))

    update = invalid_status(invalid, stored=stored, now=NOW)

    assert (update.status["replicas"], condition(update, "Ready")) == (4, ("False", "Invalid"))


def test_corrupt_stored_status_is_replaced_without_a_crash() -> None:
    corrupt = {"decisions": [{"time": "yesterday"}], "conditions": "none", "state": 7}

    update = write(make_snapshot(), stored=corrupt)

    assert condition(update, "Ready") == ("True", "Operating")


def test_a_policy_without_rivals_is_accepted() -> None:
    update = policy_status(generation=1, problem=None, rivals=(), stored={}, now=NOW)

    assert condition(update, "Ready") == ("True", "Accepted")


def test_the_record_of_a_decision_carries_every_limiter_in_order() -> None:
    snapshot = make_snapshot(make_workload(replicas=40, max_gpus=8))

    record = write(snapshot).status["decisions"][-1]

    assert (record["proposal"], record["limiters"], record["to"]) == (
        40,
        ["MaxReplicas", "GpuLimitWorkload"],
        8,
    )
