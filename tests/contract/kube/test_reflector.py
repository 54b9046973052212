"""What a reflector does when the server or the network misbehaves, second by second on a moved clock."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from spillway.adapters.kube.client import KubeClient
from spillway.adapters.kube.reflector import Reflector, ReflectorTimings
from spillway.adapters.kube.resources import Resource
from spillway.core.model import ObjectKey
from tests.contract.kube.server import (
    Answer,
    ScriptedApi,
    body,
    bookmark,
    client_of,
    event,
    expired,
    hang,
    page,
    refusal,
    silent,
    stream,
    text,
    thing,
)

pytestmark = pytest.mark.looptime

THINGS = Resource(group="example.dev", version="v1", plural="things", kind="Thing")
A, B = ObjectKey("ns", "a"), ObjectKey("ns", "b")


def size(raw: Mapping[str, Any]) -> int | None:
    found: int = raw["spec"]["size"]
    return found or None


class Watched:
    """A running reflector of sizes, the changes it told of, and the server it looks at."""

    def __init__(self, api: ScriptedApi, client: KubeClient, **options: Any) -> None:  # noqa: ANN401
        self.api = api
        self.changes: list[tuple[int | None, int | None]] = []
        self.cache: Reflector[int] = Reflector(
            client,
            THINGS,
            size,
            on_change=lambda old, new: self.changes.append((old, new)),
            clock=asyncio.get_running_loop().time,
            chance=lambda: 1.0,
            **options,
        )

    @property
    def store(self) -> dict[ObjectKey, int]:
        return dict(self.cache.store)

    @property
    def age(self) -> float:
        return self.cache.age(asyncio.get_running_loop().time()).total_seconds()

    @property
    def problem(self) -> str:
        return "; ".join(problem.message for problem in self.cache.problems)


@asynccontextmanager
async def watching(api: ScriptedApi, **options: Any) -> AsyncIterator[Watched]:  # noqa: ANN401
    client = client_of(api)
    watched = Watched(api, client, **options)
    task = asyncio.create_task(watched.cache.run())
    try:
        yield watched
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.close()


async def test_it_lists_and_then_follows_the_events(api: ScriptedApi) -> None:
    api.lists(page(thing("a", 3), thing("b", 5, size=2), version=7))
    lines = (
        event("ADDED", thing("c", 8, size=3)),
        event("MODIFIED", thing("a", 9, size=4)),
        event("DELETED", thing("b", 10)),
    )
    api.watches(stream(*lines))

    async with watching(api) as watched:
        await asyncio.sleep(1)

        assert watched.store == {A: 4, ObjectKey("ns", "c"): 3}
        assert watched.changes == [(None, 1), (None, 2), (None, 3), (1, 4), (2, None)]
        assert "resourceVersion=7" in api.asked("watch")[0]
        assert "allowWatchBookmarks=true" in api.asked("watch")[0]


async def test_it_is_not_synced_and_of_unlimited_age_before_the_first_list(api: ScriptedApi) -> None:
    api.lists(hang())

    async with watching(api) as watched:
        await asyncio.sleep(5)

        assert not watched.cache.synced
        assert watched.cache.age(0) == timedelta.max


async def test_pages_are_put_together_and_seen_at_once(api: ScriptedApi) -> None:
    api.lists(page(thing("a", 3), version=7, following="more"), page(thing("b", 5), version=7))

    async with watching(api) as watched:
        await watched.cache.wait_synced()

        assert watched.store == {A: 1, B: 1}
        assert api.asked("list") == ["limit=500", "limit=500&continue=more"]


async def test_a_continue_token_that_expired_starts_the_list_again(api: ScriptedApi) -> None:
    api.lists(
        page(thing("a", 3), version=7, following="more"),
        refusal(410, "Expired"),
        page(thing("b", 9), version=9),
    )

    async with watching(api) as watched:
        await watched.cache.wait_synced()

        assert watched.store == {B: 1}


async def test_an_event_that_changes_nothing_we_keep_tells_nobody(api: ScriptedApi) -> None:
    api.lists(page(thing("a", 3)))
    api.watches(stream(event("MODIFIED", thing("a", 9))))

    async with watching(api) as watched:
        await asyncio.sleep(1)

        assert watched.changes == [(None, 1)]


async def test_an_object_that_is_not_to_be_kept_any_more_is_gone(api: ScriptedApi) -> None:
    api.lists(page(thing("a", 3)))
    api.watches(stream(event("MODIFIED", thing("a", 9, size=0))))

    async with watching(api) as watched:
        await asyncio.sleep(1)

        assert watched.store == {}
        assert watched.changes == [(None, 1), (1, None)]


async def test_an_object_that_cannot_be_read_hides_no_other(api: ScriptedApi) -> None:
    broken = thing("a", 3)
    del broken["spec"]
    api.lists(page(broken, thing("b", 4), version=5))

    async with watching(api) as watched:
        await watched.cache.wait_synced()

        assert watched.store == {B: 1}


async def test_an_idle_watch_never_looks_older_than_one_watch(api: ScriptedApi) -> None:
    async with watching(api, timings=ReflectorTimings(watch=40)) as watched:
        await watched.cache.wait_synced()
        ages = []
        for _ in range(600):
            await asyncio.sleep(1)
            ages.append(watched.age)

        assert 39 <= max(ages) <= 41
        assert len(api.asked("list")) == 1
        assert watched.changes == []


async def test_a_bookmark_renews_the_age_and_is_where_the_next_watch_starts(api: ScriptedApi) -> None:
    api.watches(stream(bookmark(55)))

    async with watching(api) as watched:
        await asyncio.sleep(41)

        assert "resourceVersion=55" in api.asked("watch")[1]
        assert watched.age < 2


@pytest.mark.case("workload-autoscalers D79")
@pytest.mark.parametrize(
    "gone",
    [
        pytest.param(stream(expired(), then="end"), id="event"),
        pytest.param(refusal(410, "Expired"), id="status"),
    ],
)
async def test_after_410_it_lists_again_and_tells_of_what_went(api: ScriptedApi, gone: Answer) -> None:
    api.lists(page(thing("a", 3), version=5), page(thing("b", 8), version=9))
    api.watches(gone)

    async with watching(api) as watched:
        await asyncio.sleep(2)

        assert watched.store == {B: 1}
        assert watched.changes == [(None, 1), (1, None), (None, 1)]
        assert "resourceVersion=9" in api.asked("watch")[1]
        assert watched.problem == ""


@pytest.mark.case("workload-autoscalers D79")
async def test_a_cut_stream_is_continued_from_its_last_event_after_a_look_at_the_version(
    api: ScriptedApi,
) -> None:
    api.lists(page(version=5), page(version=8))
    api.watches(stream(event("ADDED", thing("a", 8)), '{"type":"MODI', cut=True))

    async with watching(api) as watched:
        await asyncio.sleep(2)

        assert watched.store == {A: 1}
        assert api.asked("list") == ["limit=500", "limit=1"]
        assert "resourceVersion=8" in api.asked("watch")[1]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("<html>bad gateway</html>\n", id="no JSON"),
        pytest.param('["ADDED"]\n', id="no object"),
        pytest.param('{"type":"ADDED","object":{}}\n', id="no metadata"),
        pytest.param(
            '{"type":"WHATEVER","object":{"metadata":{"resourceVersion":"9"}}}\n', id="unknown type"
        ),
    ],
)
async def test_a_garbage_line_leads_to_a_new_list(api: ScriptedApi, line: str) -> None:
    api.lists(page(thing("a", 3), version=5), page(thing("b", 6), version=7))
    api.watches(stream(line))

    async with watching(api) as watched:
        await asyncio.sleep(2)

        assert watched.store == {B: 1}
        assert watched.problem == ""


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(text("<html>login</html>"), id="HTML"),
        pytest.param(body({"kind": "Status"}), id="no list"),
        pytest.param(body([1]), id="array"),
    ],
)
async def test_an_answer_that_is_no_list_is_never_taken_for_an_empty_one(
    api: ScriptedApi, answer: Answer
) -> None:
    api.lists(page(thing("a", 3), version=5), answer, page(thing("a", 3), version=5))
    api.watches(stream(expired(), then="end"))

    async with watching(api) as watched:
        await asyncio.sleep(5)

        assert watched.changes == [(None, 1)]


@pytest.mark.case("workload-autoscalers D79")
async def test_a_hung_watch_is_given_up_and_its_age_is_honest_meanwhile(api: ScriptedApi) -> None:
    api.watches(stream(then="hang"), refusal(500, "InternalError"), stream(bookmark(9)))

    async with watching(api, timings=ReflectorTimings(watch=40, grace=5)) as watched:
        await asyncio.sleep(44.5)
        while_hung = watched.age
        await asyncio.sleep(3)

        assert 44 <= while_hung <= 45
        assert watched.age < 3
        assert watched.problem == ""


@pytest.mark.case("workload-autoscalers D79")
async def test_a_server_that_is_away_is_asked_with_growing_pauses_up_to_the_cap(api: ScriptedApi) -> None:
    api.lists(*[refusal(503, "ServiceUnavailable", "etcd is away")] * 8)

    async with watching(api) as watched:
        await asyncio.sleep(30)
        problem = watched.problem
        await asyncio.sleep(20)

        pauses = [later - earlier for earlier, later in zip(api.moments, api.moments[1:8], strict=False)]
        assert pauses == pytest.approx([0.5, 1, 2, 4, 8, 10, 10], abs=0.1)
        assert "etcd is away" in problem
        assert watched.cache.synced
        assert watched.problem == ""


async def test_a_busy_servers_own_wish_for_a_pause_is_granted(api: ScriptedApi) -> None:
    api.lists(refusal(429, "TooManyRequests", **{"Retry-After": "7"}))

    async with watching(api) as watched:
        await watched.cache.wait_synced()

        assert api.moments[1] - api.moments[0] == pytest.approx(7, abs=0.1)


async def test_a_server_that_ends_every_watch_at_once_is_not_asked_in_a_frenzy(api: ScriptedApi) -> None:
    api.watches(*[stream(then="end")] * 100)

    async with watching(api) as watched:
        await asyncio.sleep(60)

        assert len(api.asked("watch")) < 12
        assert "ends every watch at once" in watched.problem


@pytest.mark.case("workload-autoscalers D83")
async def test_missing_rights_are_named_with_verb_kind_and_place(api: ScriptedApi) -> None:
    api.lists(refusal(403, "Forbidden", "things is forbidden"), page(version=5), page(version=5))
    api.watches(refusal(403, "Forbidden", "watch is forbidden"))

    async with watching(api, namespaces=["ns"]) as watched:
        await asyncio.sleep(0.4)
        listing = watched.cache.problems[0]
        await asyncio.sleep(0.4)
        watches = watched.cache.problems[0]
        await asyncio.sleep(2)

        assert (str(listing.call), listing.forbidden) == ("list things in namespace ns", True)
        assert (str(watches.call), watches.forbidden) == ("watch things in namespace ns", True)
        assert watched.problem == ""


async def test_rights_that_stay_missing_are_asked_for_twice_a_minute(api: ScriptedApi) -> None:
    api.lists(*(refusal(403, "Forbidden") for _ in range(1000)))

    async with watching(api):
        await asyncio.sleep(100)
        asked = len(api.requests)
        await asyncio.sleep(300)

        assert len(api.requests) - asked == 10


@pytest.mark.case("workload-autoscalers D79")
async def test_a_server_that_comes_back_with_refusals_and_expired_versions_is_followed_at_once(
    api: ScriptedApi,
) -> None:
    api.lists(page(version=5), *(refusal(503, "Unavailable") for _ in range(7)))
    api.lists(refusal(403, "Forbidden"), page(version=5), page(version=6))
    api.watches(stream(cut=True), stream(expired(), then="end"))

    async with watching(api) as watched:
        await asyncio.sleep(45.6)  # by now the pauses have come to 10 s, and the 403 was just answered
        assert watched.cache.problems[0].forbidden

        await asyncio.sleep(1.2)  # two pauses of 0.5 s
        assert watched.problem == ""
        assert len(api.asked("watch")) == 3


async def test_each_namespace_has_its_own_age(api: ScriptedApi) -> None:
    api.lists(page(version=5), *(refusal(403, "Forbidden") for _ in range(10)))

    async with watching(api, namespaces=["one", "two"]) as watched:
        await asyncio.sleep(5)
        now = asyncio.get_running_loop().time()
        ages = {name: watched.cache.age(now, namespace=name) for name in ("one", "two", "elsewhere")}

        assert sorted(age < timedelta(seconds=10) for age in ages.values()) == [False, False, True]
        assert ages["elsewhere"] == timedelta.max
        assert not watched.cache.synced


async def test_a_relist_of_one_namespace_leaves_the_other_alone(api: ScriptedApi) -> None:
    api.lists(page(thing("a", 3, namespace="one")), page(thing("b", 3, namespace="two")), page(version=9))
    api.watches(stream(expired(), then="end"))

    async with watching(api, namespaces=["one", "two"]) as watched:
        await asyncio.sleep(5)

        assert len(watched.store) == 1


async def test_an_optional_kind_that_is_not_there_counts_as_in_step_and_is_looked_for_again(
    api: ScriptedApi,
) -> None:
    api.lists(refusal(404, "NotFound"), page(thing("a", 3)))

    async with watching(api, optional=True) as watched:
        await asyncio.sleep(299)
        absent, age, problem = watched.cache.absent, watched.age, watched.problem
        await asyncio.sleep(2)

        assert (absent, age, problem) == (True, 0, "")
        assert not watched.cache.absent
        assert watched.store == {A: 1}


async def test_a_kind_that_must_be_there_is_missed(api: ScriptedApi) -> None:
    api.lists(*[refusal(404, "NotFound", "the server could not find the requested resource")] * 10)

    async with watching(api) as watched:
        await asyncio.sleep(10)

        assert not watched.cache.synced
        assert "could not find the requested resource" in watched.problem


async def test_an_event_older_than_one_seen_is_not_believed(api: ScriptedApi) -> None:
    api.lists(page(thing("a", 20, size=2), version=20), page(thing("a", 22, size=3), version=22))
    api.watches(stream(event("MODIFIED", thing("a", 12, size=1))))

    async with watching(api) as watched:
        await asyncio.sleep(2)

        assert watched.changes == [(None, 2), (2, 3)]


async def test_a_list_from_a_stale_server_is_not_believed(api: ScriptedApi) -> None:
    api.lists(
        page(thing("a", 20, size=2), version=20),
        page(thing("a", 12), version=12),
        page(thing("a", 21, size=3), version=21),
    )
    api.watches(stream(expired(), then="end"))

    async with watching(api) as watched:
        await asyncio.sleep(5)

        assert watched.changes == [(None, 2), (2, 3)]


async def test_a_server_restored_from_a_backup_is_noticed_and_then_believed(api: ScriptedApi) -> None:
    restored = page(thing("b", 12), version=12)
    api.lists(page(thing("a", 20), version=20), *[restored] * 20)
    api.watches(stream(bookmark(20), cut=True))

    async with watching(api) as watched:
        await asyncio.sleep(4)
        at_first = watched.store
        await asyncio.sleep(20)

        assert at_first == {A: 1}
        assert watched.store == {B: 1}
        assert watched.age < 30


async def test_a_watch_that_ended_too_early_is_looked_behind_before_it_is_continued(api: ScriptedApi) -> None:
    api.lists(page(version=5), page(version=6))
    api.watches(stream(bookmark(6), then="end"), silent())

    async with watching(api):
        await asyncio.sleep(3)

        assert api.asked("list") == ["limit=500", "limit=1"]
