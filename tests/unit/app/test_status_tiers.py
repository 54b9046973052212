"""A burst as status: its three conditions, its counts and latches, and no word of it where nothing bursts."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.builders import NOW, make_capacity, make_snapshot, make_workload
from tests.unit.app.test_status import Status, condition, convert, decide

from spillway.app.status import StatusUpdate, workload_status
from spillway.core.plan import (
    BurstReason,
    CapacityView,
    Decision,
    FallbackReason,
    Finding,
    InactiveReason,
    IsolationReason,
    SplitView,
)

WORKLOAD = make_workload(capacity=make_capacity(2))
TIERS = ("BurstActive", "FallbackActive", "BaselineIsolated")
SPLIT = SplitView(
    baseline=3,
    burst=5,
    fallback=1,
    baseline_now=3,
    burst_now=5,
    good_baseline=3,
    good_burst=4,
    fallback_since=NOW - timedelta(minutes=2, milliseconds=5),
    twin="llm-burst",
    pools=("spot-a", "spot-b"),
)


def view(split: SplitView | None = SPLIT, **over: Any) -> CapacityView:  # noqa: ANN401 -- fields of CapacityView
    values: dict[str, Any] = {
        "split": split,
        "burst": Finding(reason=BurstReason.BURSTING, message="5 replicas are to run on spot (spot-a)"),
        "fallback": Finding(reason=FallbackReason.SPOT_REFUSED, message="1 of 6 runs on demand"),
        "isolation": Finding(reason=IsolationReason.ISOLATED, message="Taints keep the baseline off spot-a"),
        "bursts": True,
        "falls_back": True,
    }
    return CapacityView(**{**values, **over})


def decided(placement: CapacityView | None) -> Decision:
    return replace(decide(make_snapshot(WORKLOAD)), placement=placement)


def write(decision: Decision, *, stored: Status | None = None, after: float = 0) -> StatusUpdate:
    return workload_status(
        decision,
        convert(WORKLOAD),
        stored=stored or {},
        scaled=False,
        now=NOW + timedelta(seconds=after),
    )


def told(update: StatusUpdate) -> set[str]:
    return {item["type"] for item in update.status["conditions"]} & set(TIERS)


NEVER = Finding(reason=BurstReason.BURST_NEVER, message="capacity.burst is Never")
NO_POOL = Finding(reason=BurstReason.NO_SPOT_POOL, message="No GpuNodePool of capacityType Spot")
UNNEEDED = Finding(reason=FallbackReason.NOT_NEEDED, message="Nothing is wanted on spot")


def test_a_burst_has_one_condition_for_each_aspect() -> None:
    update = write(decided(view()))

    assert {name: condition(update, name) for name in TIERS} == {
        "BurstActive": ("True", "Bursting"),
        "FallbackActive": ("True", "SpotRefused"),
        "BaselineIsolated": ("True", "Isolated"),
    }


@pytest.mark.parametrize(
    "placement",
    [
        pytest.param(None, id="nothing to tell"),
        pytest.param(view(None, burst=NEVER, bursts=False), id="burst is Never"),
    ],
)
def test_a_workload_that_never_bursts_has_no_word_of_it(placement: CapacityView | None) -> None:
    update = write(decided(placement))

    assert told(update) == set()
    assert "capacity" not in update.status


def test_a_burst_that_cannot_be_says_why_before_it_has_a_second_deployment() -> None:
    update = write(decided(view(None, burst=NO_POOL, bursts=False, fallback=UNNEEDED, falls_back=False)))

    assert condition(update, "BurstActive") == ("False", "NoSpotPool")
    assert "capacity" not in update.status


def test_the_split_stands_in_the_status_with_its_latches() -> None:
    assert write(decided(view())).status["capacity"] == {
        "baselineReplicas": 2,
        "onDemandReplicas": 3,
        "burstReplicas": 5,
        "spareReplicas": 0,
        "fallbackReplicas": 1,
        "fallbackSince": "2026-03-01T11:57:59Z",
        "fallbackReason": "SpotRefused",
        "readyOnDemand": 3,
        "readyBurst": 4,
        "twin": "llm-burst",
        "pools": ["spot-a", "spot-b"],
    }


def test_without_a_fallback_its_latches_are_gone() -> None:
    calm = view(
        replace(SPLIT, baseline=2, burst=6, fallback=0, fallback_since=None),
        fallback=UNNEEDED,
        falls_back=False,
    )

    capacity = write(decided(calm), stored=write(decided(view())).status, after=15).status["capacity"]

    assert {"fallbackSince", "fallbackReason"}.isdisjoint(capacity)


def test_a_sentence_whose_numbers_move_writes_nothing_again() -> None:
    first = write(decided(view()))
    moved = view(fallback=Finding(reason=FallbackReason.SPOT_REFUSED, message="1 of 6; next at 12:00:31"))

    assert not write(decided(moved), stored=first.status, after=15).changed


def test_a_fallback_that_ends_turns_its_condition() -> None:
    first = write(decided(view()))
    calm = view(replace(SPLIT, fallback=0), fallback=UNNEEDED, falls_back=False)

    turned = write(decided(calm), stored=first.status, after=15).turned

    assert [(verdict.type.value, verdict.status) for verdict in turned] == [("FallbackActive", "False")]


def test_a_burst_that_was_switched_off_leaves_no_condition_behind() -> None:
    first = write(decided(view()))

    later = write(decided(None), stored=first.status, after=15)

    assert told(later) == set()
    assert "capacity" not in later.status


def test_a_defect_in_deciding_forgets_nothing_of_the_burst() -> None:
    first = write(decided(view()))
    broken = replace(
        decided(None), inactive=Finding(reason=InactiveReason.INTERNAL_ERROR, message="a defect")
    )

    later = write(broken, stored=first.status, after=15)

    assert told(later) == set(TIERS)
    assert later.status["capacity"] == first.status["capacity"]


def test_more_pools_than_a_status_may_hold_are_cut_off() -> None:
    many = tuple(f"spot-{number}" for number in range(70))

    assert len(write(decided(view(replace(SPLIT, pools=many)))).status["capacity"]["pools"]) == 64
