"""Replaying history: which spans are asked for, and what becomes of one that is too large."""

from datetime import UTC, datetime, timedelta

import pytest

from spillway.adapters.prometheus import ActivitySource
from spillway.core.signal import NotCollected, SignalReason
from tests.contract.prometheus.conftest import Open
from tests.contract.prometheus.server import CLOCK, Conversation, ScriptedServer, vector

END = int(CLOCK)


def points(conversation: Conversation) -> list[int]:
    """Return the times a range query asks for."""
    form = conversation.request.form
    return list(range(int(form["start"]), int(form["end"]) + 1, int(form["step"])))


def matrix(times: list[int]) -> dict[str, object]:
    labels = {"wl_namespace": "team", "wl_pod": "chat-1"}
    values = [[time, "0.5"] for time in times]
    return {
        "status": "success",
        "data": {"resultType": "matrix", "result": [{"metric": labels, "values": values}]},
    }


class Historian:
    """Answers range queries of at most *most* points, and refuses larger ones as Prometheus does."""

    def __init__(self, *, most: int, refusal: int = 422) -> None:
        self.spans: list[int] = []
        self._most = most
        self._refusal = refusal

    def __call__(self, conversation: Conversation) -> None:
        if not conversation.request.path.endswith("query_range"):
            conversation.json(vector())
            return
        times = points(conversation)
        self.spans.append(len(times))
        if len(times) > self._most:
            conversation.json(
                {"status": "error", "error": "query processing would load too many samples"},
                status=self._refusal,
            )
        else:
            conversation.json(matrix(times))


async def replay(source: ActivitySource, *, seconds: int, step: int = 15) -> list[int]:
    """Return the times of the only pod's points."""
    history = await source.history(window=timedelta(seconds=seconds), step=timedelta(seconds=step))
    assert not isinstance(history, NotCollected)
    return [int(at.timestamp()) for at, _ in history[("team", "chat-1")]]


async def test_the_span_ends_at_prometheus_own_time(server: ScriptedServer, source: ActivitySource) -> None:
    server.reply = Historian(most=10_000)

    assert await replay(source, seconds=60) == [END - 60, END - 45, END - 30, END - 15, END]


async def test_more_points_than_prometheus_allows_are_asked_for_in_pieces(
    server: ScriptedServer, source: ActivitySource
) -> None:
    historian = Historian(most=11_000)
    server.reply = historian

    times = await replay(source, seconds=25_000, step=1)

    assert historian.spans == [10_000, 10_000, 5_001]
    assert times == list(range(END - 25_000, END + 1))


async def test_a_span_that_is_too_much_work_is_halved_until_it_passes(
    server: ScriptedServer, source: ActivitySource
) -> None:
    historian = Historian(most=4)
    server.reply = historian

    times = await replay(source, seconds=9, step=1)

    assert historian.spans == [10, 5, 3, 2, 5, 3, 2]
    assert times == list(range(END - 9, END + 1))


async def test_a_span_whose_answer_is_too_long_is_halved(server: ScriptedServer, open_source: Open) -> None:
    server.reply = Historian(most=10_000)

    times = await replay(open_source(max_bytes=2048), seconds=200, step=1)

    assert times == list(range(END - 200, END + 1))


async def test_one_point_that_is_too_much_work_is_given_up(
    server: ScriptedServer, source: ActivitySource
) -> None:
    server.reply = Historian(most=0)

    history = await source.history(window=timedelta(seconds=1), step=timedelta(seconds=1))

    assert isinstance(history, NotCollected)
    assert "too many samples" in history.message


async def test_another_failure_ends_the_replay_at_once(
    server: ScriptedServer, source: ActivitySource
) -> None:
    historian = Historian(most=0, refusal=503)
    server.reply = historian

    history = await source.history(window=timedelta(seconds=600), step=timedelta(seconds=15))

    assert isinstance(history, NotCollected)
    assert history.reason is SignalReason.PROMETHEUS_ERROR
    assert len(historian.spans) == 1


async def test_points_carry_aware_times(server: ScriptedServer, source: ActivitySource) -> None:
    server.reply = Historian(most=10)

    history = await source.history(window=timedelta(seconds=15), step=timedelta(seconds=15))

    assert not isinstance(history, NotCollected)
    assert history[("team", "chat-1")][-1] == (datetime.fromtimestamp(END, UTC), 0.5)


@pytest.mark.parametrize(
    ("window", "step"), [(60, 0.5), (5, 15)], ids=["step below a second", "step longer than the window"]
)
async def test_a_span_that_makes_no_sense_is_a_programming_error(
    source: ActivitySource, window: float, step: float
) -> None:
    with pytest.raises(ValueError, match="history needs"):
        await source.history(window=timedelta(seconds=window), step=timedelta(seconds=step))
