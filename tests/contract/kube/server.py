"""A loopback server that gives Kubernetes' recorded answers in the order a test wrote them down."""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Self

from aiohttp import web
from kubernetes.aio.client.configuration import Configuration

from spillway.adapters.kube.client import KubeClient

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
Object = dict[str, Any]


class ScriptedApi:
    """Answers lists and watches of any path from two queues; *requests* is what was asked, as path with query.

    An empty queue gives an empty list at version 1, and a watch that stays silent until its `timeoutSeconds`.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.tokens: list[str] = []
        self.moments: list[float] = []
        self.written: list[Object] = []
        self._answers: dict[str, deque[Answer]] = {"list": deque(), "watch": deque(), "write": deque()}

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        await self._runner.cleanup()

    def lists(self, *answers: Answer) -> None:
        self._answers["list"].extend(answers)

    def watches(self, *answers: Answer) -> None:
        self._answers["watch"].extend(answers)

    def writes(self, *answers: Answer) -> None:
        self._answers["write"].extend(answers)

    def asked(self, kind: str) -> list[str]:
        """Return the queries of all lists or watches so far."""
        return [
            asked.partition("?")[2] for asked in self.requests if ("watch=1" in asked) == (kind == "watch")
        ]

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request.path_qs)
        self.tokens.append(request.headers.get("authorization", ""))
        self.moments.append(asyncio.get_running_loop().time())
        kind = "write" if request.method != "GET" else "watch" if "watch" in request.query else "list"
        if kind == "write":
            self.written.append(await request.json())
        queue = self._answers[kind]
        default = silent() if kind == "watch" else page()
        answer = queue.popleft() if queue else default
        return await answer(request)


def client_of(api: ScriptedApi, *, token: str = "", **options: Any) -> KubeClient:  # noqa: ANN401
    """Return a client of the scripted server; whose credentials, read again, are the same with a prime."""
    return KubeClient(configured(api, token), reload=partial(reloaded, api, f"{token}'"), **options)


async def reloaded(api: ScriptedApi, token: str) -> Configuration:
    return configured(api, token)


def configured(api: ScriptedApi, token: str) -> Configuration:
    configuration = Configuration(host=api.url)
    if token:
        configuration.api_key["BearerToken"] = token
    configuration.client_session_kwargs = {"trust_env": False}
    return configuration


def thing(name: str, version: int, *, size: int = 1, namespace: str = "ns") -> Object:
    meta = {"name": name, "namespace": namespace, "resourceVersion": str(version)}
    return {"metadata": meta, "spec": {"size": size}}


def page(*things: Object, version: int = 1, following: str = "") -> Answer:
    meta = {"resourceVersion": str(version), **({"continue": following} if following else {})}
    return body({"kind": "List", "metadata": meta, "items": list(things)})


def body(content: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    async def answer(_request: web.Request) -> web.Response:
        return web.json_response(content, status=status, headers=headers)

    return answer


def text(content: str, *, status: int = 200) -> Answer:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text=content, content_type="text/html", status=status)

    return answer


def refusal(status: int, reason: str, message: str = "", **headers: str) -> Answer:
    content = {"kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": status}
    return body(content, status=status, headers=headers)


def broken_off() -> Answer:
    """Promise more than is sent, then cut the connection."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"kind": "Th')
        assert request.transport is not None
        request.transport.abort()
        return response

    return answer


def echo(version: int) -> Answer:
    """Store what was sent, as the server does: the same object with the next resourceVersion."""

    async def answer(request: web.Request) -> web.Response:
        content = await request.json()
        content["metadata"]["resourceVersion"] = str(version)
        return web.json_response(content)

    return answer


def hang() -> Answer:
    async def answer(_request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError("a hung request ends by being cancelled")

    return answer


def event(kind: str, content: Object) -> str:
    return json.dumps({"type": kind, "object": content}) + "\n"


def bookmark(version: int) -> str:
    return event("BOOKMARK", {"kind": "Thing", "metadata": {"resourceVersion": str(version)}})


def expired() -> str:
    status = {
        "kind": "Status",
        "reason": "Expired",
        "code": 410,
        "message": "too old resource version: 5 (900)",
    }
    return event("ERROR", status)


def stream(*lines: str, then: str = "silence", cut: bool = False) -> Answer:
    """Send *lines*, then stay silent until `timeoutSeconds`, or "end" in good order, or "hang" for ever; or cut."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for line in lines:
            await response.write(line.encode())
        if cut:
            assert request.transport is not None
            request.transport.abort()
        elif then == "hang":
            await asyncio.Event().wait()
        elif then == "silence":
            await asyncio.sleep(float(request.query["timeoutSeconds"]))
        return response

    return answer


def silent() -> Answer:
    return stream()
