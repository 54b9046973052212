"""The bearer token goes to one server only, follows its file, and is never told to anybody."""

import logging
from pathlib import Path

import pytest

from spillway.core.signal import Collected, NotCollected, SignalReason
from tests.contract.prometheus.conftest import Open
from tests.contract.prometheus.server import Conversation, ScriptedServer, vector

D19 = pytest.mark.case("workload-autoscalers D19")
SECRET = "s3cret-token"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\n")
    return file


def write(file: Path, content: bytes) -> None:
    file.write_bytes(content)


async def test_token_and_tenant_are_sent(server: ScriptedServer, open_source: Open, token_file: Path) -> None:
    await open_source(bearer_token_file=token_file, tenant="team-a|team-b").collect()

    headers = server.requests[0].headers
    assert headers["Authorization"] == f"Bearer {SECRET}"
    assert headers["X-Scope-OrgID"] == "team-a|team-b"


async def test_without_a_token_file_nothing_is_sent_whatever_the_environment_holds(
    server: ScriptedServer, open_source: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    answer = await open_source().collect()

    assert isinstance(answer, Collected)
    assert "Authorization" not in server.requests[0].headers


@D19
async def test_a_rotated_token_is_used_at_the_next_question(
    server: ScriptedServer, open_source: Open, token_file: Path
) -> None:
    source = open_source(bearer_token_file=token_file)
    await source.collect()
    write(token_file, b"rotated-and-longer")
    await source.collect()

    assert [request.headers["Authorization"] for request in server.requests] == [
        f"Bearer {SECRET}",
        "Bearer rotated-and-longer",
    ]


@D19
@pytest.mark.case("metrics-and-cost E49")
async def test_a_401_leads_to_one_more_try_with_the_token_that_is_there_now(
    server: ScriptedServer, open_source: Open, token_file: Path
) -> None:
    def rotate(conversation: Conversation) -> None:
        if conversation.request.headers["Authorization"] == "Bearer rotated":
            conversation.json(vector())
        else:
            write(token_file, b"rotated")
            conversation.raw(b"", status=401)

    server.reply = rotate

    assert isinstance(await open_source(bearer_token_file=token_file).collect(), Collected)
    assert len(server.requests) == 2


@pytest.mark.case("metrics-and-cost E49")
async def test_a_401_with_an_unchanged_token_is_not_tried_again(
    server: ScriptedServer, open_source: Open, token_file: Path
) -> None:
    server.reply = lambda conversation: conversation.raw(b"", status=401)

    await open_source(bearer_token_file=token_file).collect()

    assert len(server.requests) == 1


@D19
async def test_the_token_never_shows_even_when_the_server_repeats_it(
    server: ScriptedServer, open_source: Open, token_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.reply = lambda conversation: conversation.json({"error": f"bad token {SECRET}!"}, status=403)

    answer = await open_source(bearer_token_file=token_file).collect()

    assert isinstance(answer, NotCollected)
    assert "bad token [token]!" in answer.message
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    "content",
    [b"two words", b"line\nbreak", b"", "schlüssel".encode()],
    ids=["blank", "break", "empty", "umlaut"],
)
async def test_a_token_that_cannot_be_a_header_is_refused_without_being_shown(
    server: ScriptedServer, open_source: Open, token_file: Path, content: bytes
) -> None:
    write(token_file, content)

    answer = await open_source(bearer_token_file=token_file).collect()

    assert isinstance(answer, NotCollected)
    assert answer.reason is SignalReason.PROMETHEUS_UNAUTHORIZED
    assert "prometheus.bearerTokenFile" in answer.message
    assert "line" not in answer.message
    assert server.requests == []


async def test_a_missing_token_file_is_named(open_source: Open, tmp_path: Path) -> None:
    answer = await open_source(bearer_token_file=tmp_path / "nowhere").collect()

    assert isinstance(answer, NotCollected)
    assert answer.reason is SignalReason.PROMETHEUS_UNAUTHORIZED
    assert "nowhere" in answer.message


@pytest.mark.case("metrics-and-cost E53")
async def test_a_redirect_is_not_followed_and_its_address_shown_without_secrets(
    server: ScriptedServer, open_source: Open, token_file: Path
) -> None:
    with ScriptedServer() as elsewhere:
        target = f"{elsewhere.url}/login?session=abc"
        server.reply = lambda conversation: conversation.raw(b"", status=302, headers={"Location": target})

        answer = await open_source(bearer_token_file=token_file).collect()

        assert isinstance(answer, NotCollected)
        assert f"redirects to {elsewhere.url}/login," in answer.message
        assert "abc" not in answer.message
        assert elsewhere.requests == []
        assert len(server.requests) == 1


async def test_cookies_are_not_kept(server: ScriptedServer, open_source: Open) -> None:
    server.reply = lambda conversation: conversation.raw(
        b"{}", status=503, headers={"Set-Cookie": "session=1; Path=/"}
    )
    source = open_source()

    await source.collect()
    await source.collect()

    assert "Cookie" not in server.requests[1].headers
