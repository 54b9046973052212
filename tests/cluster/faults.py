"""A reverse proxy on loopback that does to chosen requests what networks and overloaded servers do.

Everything that no rule matches streams through unchanged, watches included. Put it between the operator and the API server
(`cluster.kubeconfig_for(token, name, server=proxy.url)`) or Prometheus.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import threading
from collections import Counter
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from aiohttp import ClientConnectionError, ClientResponse, ClientSession, ClientTimeout, TCPConnector, web

from tests.cluster.processes import free_port

HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host", "content-length")
)
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Answer in the server's place; the request never reaches it."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Delay:
    """Pass the request on after *seconds*."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Pass the request on, then break the connection after *after_bytes* of the answer's body."""

    after_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drip:
    """Pass the request on and the answer's body back at this speed: slow, but never silent."""

    bytes_per_second: float


@dataclass(frozen=True, slots=True)
class Hang:
    """Never answer; the request does not reach the server."""


@dataclass(frozen=True, slots=True)
class Lose:
    """Let the server carry the request out and break the connection before its answer: did it happen or not?"""


Action = Answer | Delay | Cut | Drip | Hang | Lose


def kube_error(
    status: int, reason: str, message: str = "", *, retry_after_seconds: int | None = None
) -> Answer:
    """Return the answer by which an API server refuses: a metav1 Status."""
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "message": message,
        "code": status,
    }
    headers = {} if retry_after_seconds is None else {"Retry-After": str(retry_after_seconds)}
    return Answer(status=status, body=json.dumps(body).encode(), headers=headers)


def html_error(status: int = 502) -> Answer:
    """Return the page of a load balancer that has lost its server."""
    page = f"<html><head><title>{status}</title></head><body><h1>{status} Bad Gateway</h1></body></html>"
    return Answer(status=status, body=page.encode(), content_type="text/html")


class Rule:
    """One fault in force; `hits` counts the requests that it befell."""

    def __init__(
        self, *, action: Action, method: str | None, path: str, times: int | None, after: int
    ) -> None:
        self.action = action
        self.hits = 0
        self._method = method
        self._path = re.compile(path)
        self._times = times
        self._spare = after

    def takes(self, method: str, path: str) -> bool:
        """Say whether this request is hit, and count it."""
        if self._method not in (None, method) or not self._path.search(path) or self.hits == self._times:
            return False
        if self._spare > 0:
            self._spare -= 1
            return False
        self.hits += 1
        return True


class FaultProxy:
    """Context manager; `.url` is what clients are given.

    Listens with TLS where *cert_file* and *key_file* are given. The path that rules see has the query string.
    """

    def __init__(
        self,
        upstream: str,
        *,
        ca_file: Path | None = None,
        cert_file: Path | None = None,
        key_file: Path | None = None,
    ) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        self._upstream = upstream.rstrip("/")
        self._ca_file = ca_file
        self._tls = _server_tls(cert_file, key_file)
        self._port = free_port()
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._open: dict[asyncio.Task[Any], str] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._on_loop(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._on_loop(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    # What tests set and read

    def add(
        self,
        action: Action,
        *,
        method: str | None = None,
        path: str = "",
        times: int | None = None,
        after: int = 0,
    ) -> Rule:
        """Put *action* on requests whose path matches the regular expression *path*, at most *times*, sparing the first *after*.

        The newest rule that takes a request wins.
        """
        rule = Rule(action=action, method=method, path=path, times=times, after=after)
        with self._lock:
            self._rules.insert(0, rule)
        return rule

    def remove(self, rule: Rule) -> None:
        with self._lock:
            self._rules.remove(rule)

    def clear(self) -> None:
        """Remove all rules; what hangs already goes on hanging until `cut_open`."""
        with self._lock:
            self._rules.clear()

    def cut_open(self, path: str = "") -> int:
        """Break the connections of all requests now in flight whose path matches, watches above all; return how many."""
        return self._on_loop(self._cut_open(re.compile(path)))

    def count(self, *, method: str | None = None, path: str = "") -> int:
        """Return how many requests have come, hit or not."""
        seen = re.compile(path)
        with self._lock:
            found = list(self.requests.items())
        return sum(n for (verb, where), n in found if method in (None, verb) and seen.search(where))

    # The proxy's own thread

    def _on_loop(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    async def _listen(self) -> None:
        upstream_tls = ssl.create_default_context(cafile=self._ca_file) if self._ca_file else True
        self._session = ClientSession(
            connector=TCPConnector(ssl=upstream_tls, limit=0),
            timeout=ClientTimeout(
                total=None, connect=10
            ),  # a watch is open for minutes; its ends are both local
            auto_decompress=False,
        )
        # A client that goes away takes its request to the server with it: watches would pile up otherwise.
        server = web.Server(self._serve, handler_cancellation=True, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self._tls).start()

    async def _close(self) -> None:
        await self._cut_open(re.compile(""))
        await self._runner.cleanup()
        await self._session.close()
        await asyncio.sleep(
            0
        )  # aborted connections take one more turn of the loop to let go of their sockets

    async def _cut_open(self, path: re.Pattern[str]) -> int:
        cut = [task for task, where in self._open.items() if path.search(where)]
        for task in cut:
            task.cancel()
        await asyncio.gather(*cut, return_exceptions=True)
        return len(cut)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        with self._lock:
            self.requests[request.method, request.path_qs] += 1
            action = next(
                (rule.action for rule in self._rules if rule.takes(request.method, request.path_qs)), None
            )
        work = asyncio.ensure_future(self._carry_out(request, action))
        self._open[work] = request.path_qs
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.cancel()
            _break(request)
            raise
        finally:
            del self._open[work]

    async def _carry_out(self, request: web.BaseRequest, action: Action | None) -> web.StreamResponse:
        match action:
            case Answer():
                return web.Response(
                    status=action.status,
                    body=action.body,
                    content_type=action.content_type,
                    headers=action.headers,
                )
            case Hang():
                await asyncio.Event().wait()
            case Delay(seconds):
                await asyncio.sleep(seconds)
        try:
            return await self._pass_on(request, action)
        except ClientConnectionError:  # the server is away or went: to the client as well
            _break(request)
            return web.Response()

    async def _pass_on(self, request: web.BaseRequest, action: Action | None) -> web.StreamResponse:
        body = await request.read()
        async with self._session.request(
            request.method,
            self._upstream + request.path_qs,
            headers=_end_to_end(request.headers.items()),
            data=body or None,
            allow_redirects=False,
        ) as answer:
            if isinstance(action, Lose):
                await answer.read()
                _break(request)
                return web.Response()
            response = web.StreamResponse(status=answer.status, reason=answer.reason)
            response.headers.extend(_end_to_end(answer.headers.items()))
            await response.prepare(request)
            left = action.after_bytes if isinstance(action, Cut) else None
            async for chunk in answer.content.iter_any():
                if left is not None and len(chunk) >= left:
                    await response.write(chunk[:left])
                    break
                left = None if left is None else left - len(chunk)
                await _write(response, chunk, action)
            if isinstance(action, Cut):
                _abandon(answer)
                _break(request)
                return response
            await response.write_eof()
            return response


async def _write(response: web.StreamResponse, chunk: bytes, action: Action | None) -> None:
    if not isinstance(action, Drip):
        await response.write(chunk)
        return
    for at in range(len(chunk)):
        await response.write(chunk[at : at + 1])
        await asyncio.sleep(1 / action.bytes_per_second)


def _abandon(answer: ClientResponse) -> None:
    """Drop the server's connection at once: a polite TLS goodbye outlives this proxy, and shows as a leaked socket."""
    if answer.connection is not None and answer.connection.transport is not None:
        answer.connection.transport.abort()


def _break(request: web.BaseRequest) -> None:
    """Reset the client's connection, so that it cannot take what it has for a whole answer."""
    if request.transport is not None:
        request.transport.abort()


def _end_to_end(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name.lower() not in HOP_BY_HOP]


def _server_tls(cert_file: Path | None, key_file: Path | None) -> ssl.SSLContext | None:
    if cert_file is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert_file, key_file)
    return context
