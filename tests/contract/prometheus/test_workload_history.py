"""Reading weeks of one workload: which ranges are asked for, and that a failure leaves nothing half read."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from spillway.adapters.prometheus import PrometheusSettings
from spillway.adapters.prometheus.failures import PrometheusFailure
from spillway.adapters.prometheus.history import read_history
from spillway.adapters.prometheus.pod_names import WorkloadPods
from spillway.core.recorded import RecordedInstant
from tests.contract.prometheus.server import CLOCK, Conversation, ScriptedServer, vector

PODS = WorkloadPods(namespace="team", deployment="chat")
END = int(CLOCK) // 60 * 60
LABELS = {"part": "mean", "wl_namespace": "team", "wl_pod": "chat-7d9f8c6b5-x2x4z"}


class Historian:
    """Answers every minute of ranges of at most *most* points; refuses larger ones, and the range number *broken* with 503."""

    def __init__(self, *, most: int = 11_000, broken: int | None = None) -> None:
        self.spans: list[int] = []
        self._most = most
        self._broken = broken

    def __call__(self, conversation: Conversation) -> None:
        if not conversation.request.path.endswith("query_range"):
            conversation.json(vector())
            return
        form = conversation.request.form
        times = range(int(form["start"]), int(form["end"]) + 1, int(form["step"]))
        self.spans.append(len(times))
        if len(self.spans) == self._broken:
            conversation.json({"status": "error", "error": "overloaded"}, status=503)
        elif len(times) > self._most:
            conversation.json({"status": "error", "error": "too many samples"}, status=422)
        else:
            series = {"metric": LABELS, "values": [[time, "0.5"] for time in times]}
            conversation.json({"status": "success", "data": {"resultType": "matrix", "result": [series]}})


async def read(server: ScriptedServer, span: timedelta, **settings: object) -> tuple[RecordedInstant, ...]:
    asked = PrometheusSettings(**{"url": server.url, **settings})  # type: ignore[arg-type]
    return await read_history(asked, PODS, span=span)


def minutes(found: tuple[RecordedInstant, ...]) -> list[int]:
    return [(int(each.at.timestamp()) - END) // 60 for each in found]


async def test_the_last_whole_minute_of_prometheus_own_time_comes_last(server: ScriptedServer) -> None:
    server.reply = Historian()

    assert minutes(await read(server, timedelta(minutes=3))) == [-2, -1, 0]


async def test_weeks_are_asked_for_a_day_at_a_time(server: ScriptedServer) -> None:
    historian = Historian()
    server.reply = historian

    found = await read(server, timedelta(hours=60))

    assert historian.spans == [1440, 1440, 720]
    assert minutes(found) == list(range(-3599, 1))


async def test_a_range_that_is_too_much_work_is_halved_and_stays_in_order(server: ScriptedServer) -> None:
    historian = Historian(most=4)
    server.reply = historian

    found = await read(server, timedelta(minutes=9))

    assert historian.spans == [9, 4, 5, 2, 3]
    assert minutes(found) == list(range(-8, 1))


async def test_one_minute_that_is_too_much_work_is_given_up(server: ScriptedServer) -> None:
    server.reply = Historian(most=0)

    with pytest.raises(PrometheusFailure, match="too many samples"):
        await read(server, timedelta(minutes=2))


async def test_a_range_that_fails_is_named_and_ends_the_reading(server: ScriptedServer) -> None:
    historian = Historian(broken=2)
    server.reply = historian
    first = datetime.fromtimestamp(END - 3599 * 60 + 1440 * 60, UTC)

    with pytest.raises(PrometheusFailure, match="Nothing was kept") as failure:
        await read(server, timedelta(hours=60))

    assert f"Reading {first:%Y-%m-%d %H:%M} to " in str(failure.value)
    assert "answered 503 (overloaded)" in str(failure.value)
    assert len(historian.spans) == 2


async def test_a_range_that_hangs_ends_at_its_timeout(server: ScriptedServer) -> None:
    def reply(conversation: Conversation) -> None:
        if conversation.request.path.endswith("query_range"):
            conversation.hang()
        else:
            conversation.json(vector())

    server.reply = reply

    with pytest.raises(PrometheusFailure, match="did not answer"):
        await read(server, timedelta(minutes=5), timeout=timedelta(seconds=0.2))


async def test_progress_is_told_from_the_first_range_to_the_last(server: ScriptedServer) -> None:
    server.reply = Historian()
    told: list[float] = []

    await read_history(
        PrometheusSettings(url=server.url), PODS, span=timedelta(hours=36), progress=told.append
    )

    assert told == [1440 / 2160, 1.0]


async def test_every_request_carries_the_token(server: ScriptedServer, tmp_path: Path) -> None:
    server.reply = Historian()
    token = tmp_path / "token"
    token.write_text("secret\n")

    await read(server, timedelta(minutes=5), bearer_token_file=token)

    assert [request.headers["Authorization"] for request in server.requests] == ["Bearer secret"] * 2
