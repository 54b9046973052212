"""How a count is laid out on demand and on spot: baseline, burst, stand-ins, return (node-and-spot C.4)."""

from dataclasses import replace
from datetime import datetime

import pytest
from tests.builders import (
    NAMESPACE,
    NOW,
    make_capacity,
    make_deployment,
    make_pods,
    make_twin,
    make_workload,
    seconds,
)

from spillway.core.burst import BurstPods, Stand
from spillway.core.growth import growth_of, prior
from spillway.core.memory import GrowthMemory, SplitMemory
from spillway.core.model import (
    Deployment,
    FallbackPolicy,
    Mode,
    ObjectKey,
    Operation,
    OperationState,
    SetReplicas,
    StoredSplit,
)
from spillway.core.placement import Layout, Prospect, Setting, lay_out, standing
from spillway.core.plan import FallbackReason
from spillway.core.spare import Holding, Outlook, worth_asked

HOUR_AGO = NOW - seconds(3600)


def burst_of(
    *, stable: int | None = None, refused_by: FallbackReason = FallbackReason.SPOT_REFUSED, **by: int
) -> BurstPods:
    """Burst pods by how they stand: `burst_of(good=5, refused=3)`; good ones are stable unless told."""
    by_stand = {Stand(name.capitalize()): make_pods(count, of="llm-burst") for name, count in by.items()}
    return BurstPods(
        by_stand=by_stand,
        stable=by.get("good", 0) if stable is None else stable,
        refusals={refused_by: by["refused"]} if by.get("refused") else {},
    )


def layout(
    wanted: int = 10,
    *,
    count: int | None = None,
    baseline: int = 2,
    source: int = 2,
    twin: int | None = 8,
    burst: BurstPods | None = None,
    good_source: int | None = None,
    can_burst: bool = True,
    rolling: bool = False,
    since: datetime | None = None,
    returned_at: datetime | None = None,
    refused: str = "",
    failure: str | None = None,
    policy: FallbackPolicy = FallbackPolicy.ON_DEMAND,
    mode: Mode = Mode.ENFORCE,
    prospect: Prospect | None = None,
    spares: tuple[tuple[datetime, int], ...] = (),
    spare_room: int = 6,
    missed_load: float | None = 0.001,
) -> Layout:
    memory = SplitMemory(
        count=wanted if count is None else count,
        source=source,
        fallback_since=since,
        fallback_cause=FallbackReason.SPOT_REFUSED.value if since is not None else "",
        returned_at=returned_at,
        refused=refused,
        spares=spares,
    )
    return lay_out(
        Setting(
            workload=make_workload(
                capacity=replace(make_capacity(baseline, policy=policy), missed_load=missed_load), mode=mode
            ),
            source=make_deployment(replicas=source),
            twin=None if twin is None else make_twin(replicas=twin, failure=failure),
            memory=memory,
            burst=burst or BurstPods(),
            wanted=wanted,
            can_burst=can_burst,
            good_source=source if good_source is None else good_source,
            rolling=rolling,
            now=NOW,
            prospect=prospect,
            spare_room=spare_room,
        )
    )


def counts(found: Layout) -> tuple[int, int, int]:
    """Baseline without stand-ins, stand-ins, burst."""
    view = found.view
    return view.baseline - view.fallback, view.fallback, view.burst


@pytest.mark.parametrize(
    ("wanted", "source", "twin", "expected"),
    [
        pytest.param(
            1, 1, None, (1, 0, 0), id="below the baseline", marks=pytest.mark.case("node-and-spot E1")
        ),
        pytest.param(2, 2, None, (2, 0, 0), id="at the baseline"),
        pytest.param(3, 2, None, (2, 0, 1), id="one above"),
        pytest.param(0, 0, 0, (0, 0, 0), id="at zero"),
        pytest.param(1, 0, 0, (1, 0, 0), id="back from zero", marks=pytest.mark.case("node-and-spot E3")),
    ],
)
def test_the_baseline_comes_first(
    wanted: int, source: int, twin: int | None, expected: tuple[int, int, int]
) -> None:
    assert counts(layout(wanted, source=source, twin=twin)) == expected


@pytest.mark.parametrize(
    ("burst", "fallback", "reason"),
    [
        pytest.param(burst_of(good=8), 0, FallbackReason.NOT_NEEDED, id="all good"),
        pytest.param(burst_of(booting=8), 0, FallbackReason.NOT_NEEDED, id="booting is no reason to pay twice"),
        pytest.param(
            burst_of(good=5, refused=3), 3, FallbackReason.SPOT_REFUSED, id="refused",
            marks=pytest.mark.case("node-and-spot E17"),
        ),
        pytest.param(
            burst_of(good=5, refused=3, refused_by=FallbackReason.POOL_MAX), 3, FallbackReason.POOL_MAX, id="pool at max",
            marks=pytest.mark.case("node-and-spot E18"),
        ),
        pytest.param(burst_of(good=5, doomed=3), 3, FallbackReason.INTERRUPTED, id="being taken back"),
        pytest.param(burst_of(doomed=8), 8, FallbackReason.INTERRUPTED, id="all taken back"),
        pytest.param(
            burst_of(good=4, broken=4), 0, FallbackReason.BURST_BROKEN, id="broken ones would break on demand too",
            marks=pytest.mark.case("node-and-spot E14"),
        ),
        pytest.param(burst_of(good=4, broken=2, doomed=2), 2, FallbackReason.INTERRUPTED, id="broken and doomed"),
        pytest.param(burst_of(good=8, booting=2, refused=1), 0, FallbackReason.NOT_NEEDED, id="surge of a rollout"),
        pytest.param(burst_of(good=12), 0, FallbackReason.NOT_NEEDED, id="more than needed", marks=pytest.mark.case("node-and-spot E6")),
    ],
)  # fmt: skip
def test_what_spot_does_not_carry_is_covered_on_demand_at_once(
    burst: BurstPods, fallback: int, reason: FallbackReason
) -> None:
    found = layout(burst=burst)

    assert counts(found) == (2, fallback, 8)
    assert found.fallback.reason is reason
    assert found.falls_back == (fallback > 0)


@pytest.mark.case("node-and-spot E15")
def test_pods_that_a_quota_refuses_are_not_asked_for_again_on_demand() -> None:
    found = layout(burst=burst_of(good=5), failure="exceeded quota: gpus")

    assert counts(found) == (2, 0, 8)
    assert found.fallback.reason is FallbackReason.BURST_BROKEN


def test_a_twin_that_may_not_be_made_is_covered_on_demand() -> None:
    found = layout(twin=None, refused="deployments.apps is forbidden")

    assert counts(found) == (2, 8, 8)
    assert found.fallback.reason is FallbackReason.TWIN_REFUSED


def test_policy_wait_covers_nothing_and_says_so() -> None:
    found = layout(burst=burst_of(good=5, refused=3), policy=FallbackPolicy.WAIT)

    assert counts(found) == (2, 0, 8)
    assert found.fallback.reason is FallbackReason.WAITING


class TestRatchet:
    """Stand-ins come at once and go one step at a time."""

    @pytest.mark.case("node-and-spot E14")
    def test_a_booting_replacement_does_not_cancel_its_own_stand_in(self) -> None:
        assert counts(layout(source=5, since=HOUR_AGO, burst=burst_of(good=5, booting=3))) == (2, 3, 8)

    @pytest.mark.case("node-and-spot E21")
    def test_spot_that_is_ready_only_for_a_moment_replaces_nobody(self) -> None:
        assert counts(layout(source=5, since=HOUR_AGO, burst=burst_of(good=8, stable=5))) == (2, 3, 8)

    @pytest.mark.case("node-and-spot E22")
    def test_proven_spot_lets_one_stand_in_go(self) -> None:
        assert counts(layout(source=5, since=HOUR_AGO, burst=burst_of(good=8))) == (2, 2, 8)

    def test_of_many_stand_ins_a_tenth_goes_at_a_time(self) -> None:
        found = layout(32, baseline=2, source=32, twin=30, since=HOUR_AGO, burst=burst_of(good=30))

        assert counts(found) == (2, 27, 30)

    @pytest.mark.case("node-and-spot E25")
    def test_a_young_stand_in_stays(self) -> None:
        found = layout(source=5, since=NOW - seconds(300), burst=burst_of(good=8))

        assert counts(found) == (2, 3, 8)
        assert found.fallback.reason is FallbackReason.RETURNING

    def test_the_next_one_waits_for_the_pause_after_the_last(self) -> None:
        found = layout(source=4, since=HOUR_AGO, returned_at=NOW - seconds(299), burst=burst_of(good=8))

        assert counts(found) == (2, 2, 8)

    @pytest.mark.case("node-and-spot E22")
    def test_none_goes_while_that_would_leave_fewer_ready_than_wanted(self) -> None:
        found = layout(source=5, good_source=2, since=HOUR_AGO, burst=burst_of(good=8))

        assert counts(found) == (2, 3, 8)

    def test_none_goes_during_a_rollout(self) -> None:
        assert counts(layout(source=5, since=HOUR_AGO, rolling=True, burst=burst_of(good=8))) == (2, 3, 8)

    @pytest.mark.case("node-and-spot E24")
    def test_when_demand_falls_stand_ins_go_before_burst_and_baseline(self) -> None:
        found = layout(8, count=10, source=5, since=NOW, burst=burst_of(good=5, refused=3))

        assert counts(found) == (2, 1, 6)

    def test_more_stand_ins_than_are_still_needed_above_the_baseline_are_none(self) -> None:
        found = layout(3, count=10, source=5, since=NOW, burst=burst_of(good=8))

        assert counts(found) == (2, 0, 1)


class TestMoves:
    """A tier is lowered only as far as the other one is Ready to carry."""

    @pytest.mark.case("node-and-spot E4")
    def test_a_raised_baseline_drains_burst_only_after_new_replicas_are_ready(self) -> None:
        before = layout(baseline=5, source=2, burst=burst_of(good=8))
        between = layout(baseline=5, source=5, good_source=3, burst=burst_of(good=8))
        after = layout(baseline=5, source=5, burst=burst_of(good=8))

        assert (counts(before), counts(between), counts(after)) == ((5, 0, 8), (5, 0, 7), (5, 0, 5))

    @pytest.mark.case("node-and-spot E5")
    def test_a_lowered_baseline_moves_to_spot_step_by_step(self) -> None:
        booting = layout(baseline=2, source=5, twin=5, burst=burst_of(good=5, booting=3))
        proven = layout(baseline=2, source=5, twin=8, burst=burst_of(good=8))

        assert (counts(booting), counts(proven)) == ((2, 3, 8), (2, 2, 8))

    def test_without_a_burst_everything_moves_back_before_spot_goes(self) -> None:
        before = layout(can_burst=False, source=2, burst=burst_of(good=8))
        after = layout(can_burst=False, source=10, burst=burst_of(good=8))

        assert (counts(before), counts(after)) == ((10, 0, 8), (10, 0, 0))

    def test_replicas_that_stood_before_there_was_a_burst_stay_until_spot_is_proven(self) -> None:
        found = layout(source=10, twin=None)

        assert counts(found) == (2, 8, 8)
        assert found.fallback.reason is FallbackReason.RETURNING


class TestScaleUpOnly:
    """What stands on demand stays there: a move to spot would end with a reduction."""

    def test_replicas_that_stand_on_demand_are_not_asked_for_again_on_spot(self) -> None:
        assert counts(layout(source=10, twin=None, mode=Mode.SCALE_UP_ONLY)) == (10, 0, 0)

    def test_growth_goes_to_spot(self) -> None:
        assert counts(layout(12, count=10, source=10, twin=None, mode=Mode.SCALE_UP_ONLY)) == (10, 0, 2)

    def test_what_spot_refuses_is_covered_on_demand_for_good(self) -> None:
        refused = burst_of(good=5, refused=3)

        at_once = layout(source=2, mode=Mode.SCALE_UP_ONLY, burst=refused)
        then = layout(source=5, mode=Mode.SCALE_UP_ONLY, burst=refused)

        assert (at_once.view.baseline, then.view.baseline, then.view.fallback) == (5, 5, 0)


def test_when_stand_ins_are_raised_the_time_and_cause_are_kept() -> None:
    found = layout(source=2, burst=burst_of(good=5, refused=3))

    assert (found.memory.fallback_since, found.memory.fallback_cause) == (NOW, "SpotRefused")


def test_when_the_last_one_is_gone_they_are_forgotten() -> None:
    found = layout(source=2, since=HOUR_AGO, returned_at=HOUR_AGO, burst=burst_of(good=8))

    assert (found.memory.fallback_since, found.memory.returned_at) == (None, None)


def own_write(
    to: int, *, before: int, count: int | None, state: OperationState = OperationState.LANDED, of: str = "llm"
) -> Operation:
    act = SetReplicas(
        workload=ObjectKey(NAMESPACE, "llm"),
        target=ObjectKey(NAMESPACE, of),
        target_uid=f"deployment-{of}",
        before=before,
        to=to,
        count=count,
    )
    return Operation(act=act, state=state)


class TestStanding:
    """Which count stands, when two Deployments overlap."""

    def stands(
        self,
        memory: SplitMemory | None,
        *,
        source: int = 2,
        twin: Deployment | None = None,
        stored: StoredSplit | None = None,
        operations: tuple[Operation, ...] = (),
    ) -> tuple[int, bool]:
        found, foreign = standing(
            memory,
            stored=stored,
            source=make_deployment(replicas=source),
            twin=twin,
            baseline=2,
            operations=operations,
            now=NOW,
        )
        return found.count, foreign

    def test_after_a_restart_spares_are_no_part_of_the_count_and_stay_until_the_load_is_known(self) -> None:
        found, _ = standing(
            None,
            stored=StoredSplit(count=10, spare=3),
            source=make_deployment(replicas=2),
            twin=make_twin(replicas=11),
            baseline=2,
            operations=(),
            now=NOW,
        )

        assert (found.count, found.spares) == (10, ((NOW, 3),))

    def test_nothing_new_changes_nothing(self) -> None:
        assert self.stands(SplitMemory(count=10, source=2), twin=make_twin()) == (10, False)

    def test_a_write_that_landed_brings_its_count(self) -> None:
        landed = own_write(10, before=8, count=12, of="llm-burst")

        assert self.stands(SplitMemory(count=10, source=2), operations=(landed,)) == (12, False)

    def test_a_write_that_was_refused_has_changed_nothing(self) -> None:
        failed = own_write(10, before=8, count=12, of="llm-burst", state=OperationState.FAILED)

        assert self.stands(SplitMemory(count=10, source=2), operations=(failed,)) == (10, False)

    def test_another_hand_on_the_source_moves_the_count(self) -> None:
        assert self.stands(SplitMemory(count=10, source=2), source=5, twin=make_twin()) == (13, True)

    def test_our_own_write_of_a_stand_in_moves_nothing(self) -> None:
        landed = own_write(5, before=2, count=10)

        assert self.stands(SplitMemory(count=10, source=2), source=5, operations=(landed,)) == (10, False)

    @pytest.mark.case("node-and-spot E68")
    def test_a_twin_that_somebody_deleted_is_still_counted(self) -> None:
        assert self.stands(SplitMemory(count=10, source=2), twin=None) == (10, False)

    @pytest.mark.case("node-and-spot E8")
    @pytest.mark.parametrize(
        ("source", "twin", "stored", "count"),
        [
            pytest.param(3, 8, 10, 10, id="one stand-in"),
            pytest.param(2, 10, 10, 12, id="killed after growing"),
            pytest.param(2, 7, 10, 9, id="killed after shrinking"),
            pytest.param(2, 8, 10, 10, id="killed after a stand-in went"),
            pytest.param(5, 8, 10, 10, id="killed while the baseline moves"),
            pytest.param(3, 8, None, 10, id="status lost"),
        ],
    )
    def test_after_a_restart_no_less_than_surely_stands_and_no_more_than_exists(
        self, source: int, twin: int, stored: int | None, count: int
    ) -> None:
        found, _ = standing(
            None,
            stored=None if stored is None else StoredSplit(count=stored),
            source=make_deployment(replicas=source),
            twin=make_twin(replicas=twin),
            baseline=2,
            operations=(),
            now=NOW,
        )

        assert found.count == count

    def test_when_a_stand_in_has_gone_the_pause_begins(self) -> None:
        landed = own_write(4, before=5, count=10)

        found, _ = standing(
            SplitMemory(count=10, source=5),
            stored=None,
            source=make_deployment(replicas=4),
            twin=make_twin(),
            baseline=2,
            operations=(landed,),
            now=NOW,
        )

        assert found.returned_at == NOW


class TestProspect:
    """What the load and the pools' records change: spares, stand-ins by worth, and when these go."""

    def test_spot_gets_what_is_worth_having_beyond_the_count(self) -> None:
        found = layout(prospect=prospect(4, 4), burst=burst_of(good=8))

        assert found.view.spare > 0
        assert counts(found) == (2, 0, 8 + found.view.spare)
        assert "load 7.0" in found.view.spare_why

    def test_never_more_than_there_is_room_for(self) -> None:
        found = layout(prospect=prospect(4, 4), burst=burst_of(good=8), spare_room=1)

        assert found.view.spare == 1

    def test_what_is_held_gives_way_where_the_count_needs_the_room(self) -> None:
        held = ((NOW - seconds(60), 4),)

        assert (
            layout(prospect=prospect(5, 5), burst=burst_of(good=10), spares=held, spare_room=2).view.spare
            == 2
        )
        assert layout(burst=burst_of(good=10), spares=held, spare_room=2).view.spare == 2

    def test_blind_the_spares_stay_as_they_were(self) -> None:
        found = layout(spares=((NOW - seconds(60), 3),), burst=burst_of(good=11), twin=11)

        assert counts(found) == (2, 0, 11)

    def test_a_target_that_keeps_none_lets_them_go(self) -> None:
        found = layout(spares=((NOW - seconds(60), 3),), burst=burst_of(good=11), twin=11, missed_load=None)

        assert counts(found) == (2, 0, 8)

    def test_a_loss_that_the_others_carry_is_replaced_on_spot_alone(self) -> None:
        found = layout(prospect=prospect(7, 5), burst=burst_of(good=12, doomed=1), twin=13, count=10)

        assert found.view.fallback == 0

    def test_a_loss_that_the_others_do_not_carry_is_stood_in_for_at_once(self) -> None:
        found = layout(prospect=prospect(2, 0, may_replace=False), burst=burst_of(good=2, doomed=6))

        assert found.view.fallback > 0
        assert found.fallback.reason is FallbackReason.INTERRUPTED

    def test_blind_every_loss_is_stood_in_for_at_once(self) -> None:
        assert layout(burst=burst_of(good=7, doomed=1)).view.fallback == 1

    def test_stand_ins_go_together_once_ready_spot_carries_the_load(self) -> None:
        found = layout(prospect=prospect(6, 6), source=5, burst=burst_of(good=12), twin=12, since=HOUR_AGO)

        assert found.view.fallback == 0

    def test_stand_ins_stay_while_ready_spot_is_short(self) -> None:
        found = layout(
            prospect=prospect(2, 1, room=0), source=7, burst=burst_of(good=3, refused=5), since=HOUR_AGO
        )

        assert found.view.fallback >= 4


def prospect(*ready: int, load: float = 7.0, room: int = 9, may_replace: bool = True) -> Prospect:
    """A known load, and so many Ready replicas in each of the spot pools a, b …; nothing else is on its way."""
    growth = growth_of(GrowthMemory(load=load, raw=load, weights=prior()))
    assert growth is not None
    asked = worth_asked(0.001)
    view = Outlook(
        growth=growth,
        holdings=tuple(
            Holding(pool="abcd"[index], count=count, chance=0.05, room=room)
            for index, count in enumerate(ready)
        ),
        spot_worth=asked,
        on_demand_worth=asked * 8,
    )
    return Prospect(coming=view, ready=view, cold_start=seconds(240), may_replace=may_replace)
