"""Every way in which Prometheus can fail to answer, and what a person is told then."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from spillway.adapters.prometheus import ActivitySource, PrometheusSettings
from spillway.core.signal import Collected, NotCollected, SignalReason
from tests.contract.prometheus.conftest import Open
from tests.contract.prometheus.server import CLOCK, Conversation, Reply, ScriptedServer, vector, wait_for

D1 = pytest.mark.case("workload-autoscalers D1")


class Tally:
    """Counts as the metrics page would."""

    def __init__(self) -> None:
        self.results: list[str] = []

    def on_query(self, result: str, seconds: float) -> None:
        assert 0 <= seconds < 60
        self.results.append(result)


async def refusal(source: ActivitySource) -> NotCollected:
    answer = await source.collect()
    assert isinstance(answer, NotCollected)
    return answer


def is_asking(source: ActivitySource) -> bool:
    return source._exchange is not None and source._exchange.is_running()


async def test_an_answer_is_timed_by_prometheus_own_clock(source: ActivitySource) -> None:
    answer = await source.collect()

    assert answer == Collected(at=datetime.fromtimestamp(CLOCK, UTC), pods={})


async def test_the_server_chooses_the_evaluation_time_and_learns_our_patience(
    server: ScriptedServer, source: ActivitySource
) -> None:
    await source.collect()

    assert set(server.requests[0].form) == {"query", "timeout"}
    assert server.requests[0].form["timeout"] == "5"


async def test_one_collection_is_one_request_whose_query_is_in_the_body(
    server: ScriptedServer, source: ActivitySource
) -> None:
    await source.collect()

    assert [request.path for request in server.requests] == ["/api/v1/query"]


async def test_a_path_prefix_of_the_url_is_kept(server: ScriptedServer, open_source: Open) -> None:
    await open_source(url=f"{server.url}/prometheus/").collect()

    assert server.requests[0].path == "/prometheus/api/v1/query"


@pytest.mark.case("metrics-and-cost E53")
async def test_a_compressed_answer_is_read(server: ScriptedServer, source: ActivitySource) -> None:
    server.reply = lambda conversation: conversation.json(vector(), compressed=True)

    assert isinstance(await source.collect(), Collected)


@D1
@pytest.mark.parametrize(
    "stuck",
    [Conversation.hang, Conversation.drip_headers, Conversation.drip_body],
    ids=["no answer", "headers byte by byte", "body byte by byte"],
)
async def test_a_server_that_does_not_finish_is_left_at_the_deadline(
    server: ScriptedServer, hasty: ActivitySource, stuck: Reply
) -> None:
    server.reply = stuck
    began = time.monotonic()

    answer = await refusal(hasty)

    assert answer.reason is SignalReason.PROMETHEUS_TIMEOUT
    assert "did not answer" in answer.message
    assert "prometheus.timeoutSeconds" in answer.message
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "stuck",
    [Conversation.hang, Conversation.drip_headers, Conversation.drip_body],
    ids=["no answer", "headers byte by byte", "body byte by byte"],
)
async def test_the_thread_is_free_again_right_after_the_deadline(
    server: ScriptedServer, hasty: ActivitySource, stuck: Reply
) -> None:
    server.reply = stuck
    for _ in range(6):  # more than there are threads
        await refusal(hasty)
        assert await asyncio.to_thread(wait_for, lambda: not is_asking(hasty))
    server.reply = lambda conversation: conversation.json(vector())

    assert isinstance(await hasty.collect(), Collected)


async def test_a_second_question_while_the_first_is_under_way_is_not_sent(
    server: ScriptedServer, open_source: Open
) -> None:
    server.reply = Conversation.hang
    source = open_source(timeout=timedelta(seconds=1))
    first = asyncio.ensure_future(source.collect())
    await asyncio.sleep(0)  # lets the first question start

    second = await refusal(source)

    assert second.reason is SignalReason.PROMETHEUS_TIMEOUT
    assert "under way" in second.message
    await first
    assert len(server.requests) == 1


async def test_closing_does_not_wait_for_a_hanging_server(server: ScriptedServer, open_source: Open) -> None:
    server.reply = Conversation.hang
    source = open_source(timeout=timedelta(seconds=60))
    asked = asyncio.ensure_future(source.collect())
    await asyncio.to_thread(wait_for, lambda: bool(server.requests))

    await source.close()

    assert isinstance(await asyncio.wait_for(asked, 5), NotCollected)


@D1
async def test_a_refused_connection_says_what_to_check(open_source: Open) -> None:
    with ScriptedServer() as gone:
        url = gone.url

    answer = await refusal(open_source(url=url))

    assert answer.reason is SignalReason.PROMETHEUS_UNREACHABLE
    assert url in answer.message
    assert "Connection refused" in answer.message
    assert "prometheus.url" in answer.message


@D1
async def test_a_name_that_does_not_resolve_is_unreachable(open_source: Open) -> None:
    answer = await refusal(open_source(url="http://prometheus.invalid:9090", timeout=timedelta(seconds=30)))

    assert answer.reason is SignalReason.PROMETHEUS_UNREACHABLE


@D1
@pytest.mark.parametrize(
    ("status", "reason", "hint"),
    [
        pytest.param(400, SignalReason.PROMETHEUS_ERROR, "log", id="bad query"),
        pytest.param(
            401, SignalReason.PROMETHEUS_UNAUTHORIZED, "prometheus.bearerTokenFile", id="unauthorized"
        ),
        pytest.param(403, SignalReason.PROMETHEUS_UNAUTHORIZED, "prometheus.tenant", id="forbidden"),
        pytest.param(404, SignalReason.PROMETHEUS_ERROR, "path in prometheus.url", id="wrong path"),
        pytest.param(422, SignalReason.PROMETHEUS_ERROR, "422", id="query failed"),
        pytest.param(429, SignalReason.PROMETHEUS_ERROR, "next evaluation", id="throttled"),
        pytest.param(503, SignalReason.PROMETHEUS_ERROR, "next evaluation", id="overloaded"),
    ],
)
@pytest.mark.case("metrics-and-cost E49")
@pytest.mark.case("metrics-and-cost E50")
@pytest.mark.case("metrics-and-cost E51")
async def test_an_http_error_is_asked_once_and_repeats_what_the_server_said(
    server: ScriptedServer, source: ActivitySource, status: int, reason: SignalReason, hint: str
) -> None:
    refused = {"status": "error", "errorType": "any", "error": "too many of these\nthings"}
    server.reply = lambda conversation: conversation.json(refused, status=status)

    answer = await refusal(source)

    assert answer.reason is reason
    assert str(status) in answer.message
    assert "(too many of these things)" in answer.message
    assert hint in answer.message
    assert len(server.requests) == 1


@pytest.mark.case("metrics-and-cost E55")
async def test_a_missing_tenant_is_told_in_the_servers_words(
    server: ScriptedServer, source: ActivitySource
) -> None:
    server.reply = lambda conversation: conversation.raw(b"no org id\n", status=401)

    answer = await refusal(source)

    assert "401 (no org id)" in answer.message
    assert "prometheus.tenant" in answer.message


async def test_a_long_message_is_cut(server: ScriptedServer, source: ActivitySource) -> None:
    server.reply = lambda conversation: conversation.json({"error": "x" * 5000}, status=400)

    assert len((await refusal(source)).message) < 400


@D1
async def test_an_error_under_status_200_is_an_error(server: ScriptedServer, source: ActivitySource) -> None:
    server.reply = lambda conversation: conversation.json({"status": "error", "error": "storage is on fire"})

    answer = await refusal(source)

    assert answer.reason is SignalReason.PROMETHEUS_ERROR
    assert "storage is on fire" in answer.message


@D1
async def test_json_that_breaks_off_is_an_error(server: ScriptedServer, source: ActivitySource) -> None:
    half = json.dumps(vector()).encode()[:60]
    server.reply = lambda conversation: conversation.raw(half, headers={"Content-Type": "application/json"})

    answer = await refusal(source)

    assert answer.reason is SignalReason.PROMETHEUS_ERROR
    assert "broken JSON" in answer.message


@D1
async def test_a_body_shorter_than_promised_is_an_error(
    server: ScriptedServer, source: ActivitySource
) -> None:
    def cut(conversation: Conversation) -> None:
        conversation.raw(json.dumps(vector()).encode(), headers={"Connection": "close"}, length=100_000)

    server.reply = cut

    answer = await refusal(source)

    assert answer.reason is SignalReason.PROMETHEUS_ERROR
    assert "broke off" in answer.message


async def test_garbage_instead_of_gzip_is_an_error(server: ScriptedServer, source: ActivitySource) -> None:
    server.reply = lambda conversation: conversation.raw(b"no gzip", headers={"Content-Encoding": "gzip"})

    assert (await refusal(source)).reason is SignalReason.PROMETHEUS_ERROR


@pytest.mark.case("metrics-and-cost E53")
async def test_a_login_page_is_recognised(server: ScriptedServer, source: ActivitySource) -> None:
    page = b"<html><form>Please log in</form></html>"
    server.reply = lambda conversation: conversation.raw(
        page, headers={"Content-Type": "text/html; charset=utf-8"}
    )

    answer = await refusal(source)

    assert answer.reason is SignalReason.PROMETHEUS_ERROR
    assert "text/html" in answer.message
    assert "login page" in answer.message


@pytest.mark.case("metrics-and-cost E34")
@pytest.mark.parametrize(
    "document",
    [
        pytest.param([], id="a list"),
        pytest.param({"status": "success"}, id="no data"),
        pytest.param(
            {"status": "success", "data": {"resultType": "scalar", "result": [1, "1"]}}, id="scalar"
        ),
        pytest.param({"status": "success", "data": {"resultType": "vector", "result": {}}}, id="no list"),
    ],
)
async def test_a_result_of_another_shape_is_an_error(
    server: ScriptedServer, source: ActivitySource, document: object
) -> None:
    server.reply = lambda conversation: conversation.json(document)

    assert (await refusal(source)).reason is SignalReason.PROMETHEUS_ERROR


async def test_a_vector_without_any_element_is_not_taken_for_whole(
    server: ScriptedServer, source: ActivitySource
) -> None:
    empty = {"status": "success", "data": {"resultType": "vector", "result": []}}
    server.reply = lambda conversation: conversation.json(empty)

    assert (await refusal(source)).reason is SignalReason.PROMETHEUS_PARTIAL


@pytest.mark.case("metrics-and-cost E52")
@pytest.mark.case("workload-autoscalers D18")
async def test_an_answer_with_warnings_is_not_used(server: ScriptedServer, source: ActivitySource) -> None:
    warned = vector() | {"warnings": ["store gateway zone-b: no response"]}
    server.reply = lambda conversation: conversation.json(warned)

    answer = await refusal(source)

    assert answer.reason is SignalReason.PROMETHEUS_PARTIAL
    assert "store gateway zone-b" in answer.message


async def test_infos_do_not_spoil_an_answer(server: ScriptedServer, source: ActivitySource) -> None:
    server.reply = lambda conversation: conversation.json(
        vector() | {"infos": ["metric might not be a counter"]}
    )

    assert isinstance(await source.collect(), Collected)


@pytest.mark.case("metrics-and-cost E54")
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip bomb"])
async def test_a_huge_answer_is_not_read_to_its_end(
    server: ScriptedServer, open_source: Open, compressed: bool
) -> None:
    huge = vector() | {"padding": " " * 3_000_000}
    server.reply = lambda conversation: conversation.json(huge, compressed=compressed)

    answer = await refusal(open_source(max_bytes=1_000_000))

    assert "larger than 1000000 bytes" in answer.message
    assert "prometheus.clusterMatcher" in answer.message


@pytest.mark.case("workload-autoscalers D18")
async def test_fifty_thousand_series_are_one_answer(server: ScriptedServer, open_source: Open) -> None:
    labels = {"part": "mean", "wl_namespace": "team", "GPU_I_ID": ""}
    series = [
        {"metric": labels | {"wl_pod": f"chat-{i}", "UUID": f"GPU-{i}"}, "value": [CLOCK, "0.5"]}
        for i in range(50_000)
    ]
    body = json.dumps(vector(*series)).encode()
    server.reply = lambda conversation: conversation.raw(body)

    answer = await open_source(timeout=timedelta(seconds=60)).collect()

    assert isinstance(answer, Collected)
    assert len(answer.pods) == 50_000


async def test_a_failure_dates_from_the_first_one_in_a_row(server: ScriptedServer) -> None:
    times = iter(datetime(2026, 1, 1, 12, minute, tzinfo=UTC) for minute in range(60))
    source = ActivitySource(PrometheusSettings(url=server.url), now=lambda: next(times))
    failing: Reply = lambda conversation: conversation.json({}, status=503)  # noqa: E731
    server.reply = failing

    first, second = await refusal(source), await refusal(source)
    server.reply = lambda conversation: conversation.json(vector())
    await source.collect()
    server.reply = failing
    later = await refusal(source)
    await source.close()

    assert (first.since.minute, second.since.minute, later.since.minute) == (0, 0, 1)


async def test_every_query_is_counted_by_its_result(server: ScriptedServer, open_source: Open) -> None:
    tally = Tally()
    source = open_source(observer=tally)
    await source.collect()
    server.reply = lambda conversation: conversation.json({}, status=503)
    await source.collect()

    assert tally.results == ["Success", "PrometheusError"]


async def test_an_unreadable_ca_file_is_named(open_source: Open, tmp_path: Path) -> None:
    answer = await refusal(open_source(url="https://127.0.0.1:1", ca_file=tmp_path / "missing.pem"))

    assert answer.reason is SignalReason.PROMETHEUS_UNREACHABLE
    assert "missing.pem" in answer.message
    assert "prometheus.caFile" in answer.message


async def test_no_connection_is_used_twice(server: ScriptedServer, source: ActivitySource) -> None:
    ports: list[int] = []

    def answer(conversation: Conversation) -> None:
        ports.append(conversation.port)
        conversation.json(vector())
        conversation.keep_alive()

    server.reply = answer
    await source.collect()
    await source.collect()

    assert len(set(ports)) == 2
