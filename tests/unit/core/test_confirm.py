"""Look twice before reducing."""

from tests.builders import NOW, make_act, seconds

from spillway.core.confirm import Confirmed, confirm
from spillway.core.model import SetReplicas

LOWER = make_act(before=4, to=3)


def play(*passes: tuple[float, int, SetReplicas | None]) -> Confirmed:
    """Confirm pass after pass, each (seconds, collection, the act proposed); return the last outcome."""
    found = Confirmed(acts=(), pending={})
    for at, collection, act in passes:
        acts = () if act is None else (act,)
        found = confirm(acts, found.pending, now=NOW + seconds(at), collection=collection, hold=seconds(15))
    return found


def test_growth_goes_at_once() -> None:
    assert play((0, 1, make_act(before=4, to=9))).acts == (make_act(before=4, to=9),)


def test_a_reduction_waits_for_the_hold_and_two_newer_collections() -> None:
    assert play((0, 1, LOWER)).acts == ()
    assert play((0, 1, LOWER), (15, 2, LOWER)).acts == ()
    assert play((0, 1, LOWER), (15, 2, LOWER), (30, 3, LOWER)).acts == (LOWER,)


def test_two_collections_in_a_hurry_do_not_shorten_the_hold() -> None:
    assert play((0, 1, LOWER), (5, 2, LOWER), (10, 3, LOWER)).acts == ()


def test_time_alone_confirms_nothing() -> None:
    assert play((0, 1, LOWER), (60, 1, LOWER), (120, 2, LOWER)).acts == ()


def test_a_pass_without_it_clears_it() -> None:
    assert play((0, 1, LOWER), (15, 2, None), (30, 3, LOWER)).acts == ()


def test_growth_in_between_clears_it() -> None:
    assert play((0, 1, LOWER), (15, 2, make_act(before=4, to=5)), (30, 3, LOWER)).acts == ()


def test_it_runs_at_the_highest_count_any_pass_proposed() -> None:
    found = play((0, 1, make_act(to=1)), (15, 2, make_act(to=3)), (30, 3, make_act(to=2)))

    assert found.acts == (make_act(to=3),)


def test_a_count_that_moved_underneath_starts_it_anew() -> None:
    moved = make_act(before=5, to=3)

    assert play((0, 1, LOWER), (15, 2, LOWER), (30, 3, moved)).acts == ()
    assert play((0, 1, LOWER), (15, 2, moved), (30, 3, moved), (45, 4, moved)).acts == (moved,)


def test_what_ran_is_no_longer_pending() -> None:
    assert play((0, 1, LOWER), (15, 2, LOWER), (30, 3, LOWER)).pending == {}


def test_nothing_is_pending_after_a_restart() -> None:
    held = play((0, 1, LOWER), (15, 2, LOWER))

    assert len(held.pending) == 1
    assert play((30, 3, LOWER)).acts == ()


def test_one_target_waits_while_another_runs() -> None:
    other = make_act(before=4, to=2, of="other")
    held = play((0, 1, LOWER), (15, 2, LOWER))

    found = confirm((LOWER, other), held.pending, now=NOW + seconds(30), collection=3, hold=seconds(15))

    assert (found.acts, len(found.pending)) == ((LOWER,), 1)


def test_it_asks_to_be_woken_at_the_end_of_the_hold() -> None:
    assert play((0, 1, LOWER)).wake_at == NOW + seconds(15)
    assert play((0, 1, LOWER), (15, 1, LOWER)).wake_at is None
