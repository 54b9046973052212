"""What the client makes of answers, refusals and silence."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from spillway.adapters.kube.client import KubeClient, connect
from spillway.adapters.kube.credentials import CredentialsError
from spillway.adapters.kube.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    Gone,
    KubeError,
    NotFound,
    PreconditionFailed,
    ServerError,
    TimedOut,
    TooManyRequests,
    Unauthorized,
    Unreachable,
)
from spillway.adapters.kube.resources import Call
from tests.contract.kube.server import ScriptedApi, body, broken_off, client_of, hang, refusal, stream, text

pytestmark = pytest.mark.looptime

PODS = "/api/v1/namespaces/ns/pods"


@pytest.fixture
async def client(api: ScriptedApi) -> AsyncIterator[KubeClient]:
    made = client_of(api, token="old")
    yield made
    await made.close()


async def test_an_answer_is_its_json_object(api: ScriptedApi, client: KubeClient) -> None:
    api.lists(body({"kind": "PodList"}))

    answer = await client.request("GET", PODS, query={"limit": 5})

    assert answer == {"kind": "PodList"}
    assert api.requests == [f"{PODS}?limit=5"]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, BadRequest),
        (401, Unauthorized),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (410, Gone),
        (422, PreconditionFailed),
        (429, TooManyRequests),
        (500, ServerError),
        (503, ServerError),
        (504, ServerError),
    ],
)
async def test_each_refusal_has_its_type_and_the_servers_words(
    api: ScriptedApi, client: KubeClient, status: int, error: type[KubeError]
) -> None:
    api.lists(*[refusal(status, "Reason", "because\nof this")] * 2)

    with pytest.raises(error) as refused:
        await client.request("GET", PODS)

    assert str(refused.value) == "cannot list pods in namespace ns: because of this"
    assert refused.value.code == status


@pytest.mark.parametrize(
    ("answer", "asked"),
    [
        (refusal(429, "TooManyRequests", **{"Retry-After": "7"}), 7),
        (body({"message": "disruption budget", "details": {"retryAfterSeconds": 10}}, status=429), 10),
        (refusal(429, "TooManyRequests"), None),
        (refusal(429, "TooManyRequests", **{"Retry-After": "soon"}), None),
    ],
)
async def test_a_busy_server_may_say_how_long_to_wait(
    api: ScriptedApi, client: KubeClient, answer: object, asked: float | None
) -> None:
    api.lists(answer)  # type: ignore[arg-type]

    with pytest.raises(TooManyRequests) as refused:
        await client.request("GET", PODS)

    assert refused.value.retry_after == asked


async def test_a_proxys_page_is_a_server_error_with_its_words(api: ScriptedApi, client: KubeClient) -> None:
    api.lists(text("<h1>502 Bad Gateway</h1>", status=502))

    with pytest.raises(ServerError, match="502 Bad Gateway"):
        await client.request("GET", PODS)


async def test_a_page_in_place_of_json_is_an_error(api: ScriptedApi, client: KubeClient) -> None:
    api.lists(text("<title>Please log in</title>"))

    with pytest.raises(ServerError, match="Please log in"):
        await client.request("GET", PODS)


async def test_a_long_message_is_cut(api: ScriptedApi, client: KubeClient) -> None:
    api.lists(refusal(403, "Forbidden", "x" * 10_000))

    with pytest.raises(Forbidden) as refused:
        await client.request("GET", PODS)

    assert len(refused.value.message) == 500


async def test_a_silent_server_is_given_up_in_time(api: ScriptedApi, client: KubeClient) -> None:
    api.lists(hang())
    started = asyncio.get_running_loop().time()

    with pytest.raises(TimedOut, match="within 5 s") as refused:
        await client.request("GET", PODS, timeout_seconds=5)

    assert asyncio.get_running_loop().time() - started == pytest.approx(5, abs=0.1)
    assert refused.value.may_have_happened


async def test_an_answer_that_breaks_off_may_have_happened(api: ScriptedApi, client: KubeClient) -> None:
    api.lists(broken_off())

    with pytest.raises(Unreachable) as refused:
        await client.request("GET", PODS)

    assert refused.value.may_have_happened


async def test_a_request_that_found_no_server_has_not_happened(api: ScriptedApi) -> None:
    client = client_of(api)
    await api.stop()

    with pytest.raises(Unreachable) as refused:
        await client.request("GET", PODS)
    await client.close()

    assert not refused.value.may_have_happened


async def test_only_so_many_requests_run_at_once(api: ScriptedApi) -> None:
    client = client_of(api, parallel=2)
    api.lists(hang(), hang())
    waiting = [asyncio.create_task(client.request("GET", PODS, timeout_seconds=9)) for _ in range(3)]

    await asyncio.sleep(5)
    at_once = len(api.requests)
    results = await asyncio.gather(*waiting, return_exceptions=True)
    await client.close()

    assert at_once == 2
    assert all(isinstance(result, TimedOut) for result in results)


async def test_a_watch_takes_no_slot_of_a_request(api: ScriptedApi) -> None:
    client = client_of(api, parallel=1)
    api.watches(stream())

    async with client.stream(PODS, query={"watch": "1", "timeoutSeconds": 30}):
        answer = await client.request("GET", PODS)
    await client.close()

    assert answer["kind"] == "List"


@pytest.mark.case("workload-autoscalers D19")
async def test_after_401_the_token_is_read_again_and_the_request_repeated(
    api: ScriptedApi, client: KubeClient
) -> None:
    api.lists(refusal(401, "Unauthorized"))

    await client.request("GET", PODS)

    assert api.tokens == ["old", "old'"]


async def test_a_token_that_stays_wrong_is_not_read_again_at_every_request(
    api: ScriptedApi, client: KubeClient
) -> None:
    api.lists(*[refusal(401, "Unauthorized")] * 4)

    for _ in range(3):
        with pytest.raises(Unauthorized):
            await client.request("GET", PODS)

    assert len(api.requests) == 4


async def test_every_exchange_is_counted_by_verb_resource_and_code(api: ScriptedApi) -> None:
    counted: list[tuple[Call, str]] = []
    client = client_of(api, on_request=lambda call, code: counted.append((call, code)))
    api.lists(refusal(404, "NotFound"), hang())

    for _ in range(2):
        with pytest.raises(KubeError):
            await client.request("GET", PODS, timeout_seconds=1)
    await client.request("GET", PODS)
    await client.close()

    call = Call(verb="list", resource="pods", namespace="ns")
    assert counted == [(call, "404"), (call, "timeout"), (call, "200")]


async def test_lines_of_any_length_come_whole(api: ScriptedApi, client: KubeClient) -> None:
    long = "x" * 3_000_000
    api.watches(stream(f"{long}\n", "\n", "short\n", then="end"))

    async with client.stream(PODS, query={"watch": "1", "timeoutSeconds": 30}) as lines:
        got = [line.decode() async for line in lines]

    assert got == [long, "short"]


async def test_a_watch_that_is_refused_raises_its_type(api: ScriptedApi, client: KubeClient) -> None:
    api.watches(refusal(410, "Expired"))

    with pytest.raises(Gone):
        async with client.stream(PODS, query={"watch": "1"}):
            pass


async def test_a_kubeconfig_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match=r"nowhere\.yaml .*Set --kubeconfig"):
        await connect(kubeconfig=tmp_path / "nowhere.yaml")


async def test_a_pod_without_an_account_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")

    with pytest.raises(CredentialsError, match="the pod's service account"):
        await connect()
