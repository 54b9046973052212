"""One connection pool to the API server: JSON requests, line streams, typed errors, and credentials that renew themselves."""

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject

from spillway import __version__
from spillway.adapters.kube.clock import Clock, elapsed
from spillway.adapters.kube.credentials import (
    CredentialsError,
    auth_headers,
    load_configuration,
    tls_material,
)
from spillway.adapters.kube.errors import (
    KubeError,
    ServerError,
    TimedOut,
    Unauthorized,
    Unreachable,
    error_for,
)
from spillway.adapters.kube.resources import Call, describe_call

log = logging.getLogger(__name__)

JsonObject = dict[str, Any]
Query = Mapping[str, str | int]
OnRequest = Callable[[Call, str], None]
"""Called once for every exchange with what was asked and the HTTP code, or `timeout` or `unreachable`."""

REQUEST_SECONDS = 10.0
PARALLEL_REQUESTS = 16  # a pass over many workloads must not become a burst that the server answers with 429
RENEWAL_SECONDS = 5.0  # a wrong token is not read again more often than this
GOODBYE_SECONDS = 0.1  # aiohttp does not wait for the TLS goodbyes of requests that were cancelled
MAX_LINE_BYTES = (
    32 * 2**20
)  # etcd stores 1.5 MiB by default; JSON with managed fields may be several times that


@dataclass(frozen=True, slots=True, kw_only=True)
class _Message:
    call: Call
    method: str
    path: str
    query: Query | None = None
    body: object = None
    content_type: str = "application/json"

    @property
    def target(self) -> str:
        return self.path + (f"?{urlencode(self.query)}" if self.query else "")


async def connect(
    *,
    kubeconfig: Path | None = None,
    context: str | None = None,
    parallel: int = PARALLEL_REQUESTS,
    on_request: OnRequest | None = None,
) -> "KubeClient":
    """Return a client for the cluster of *kubeconfig*, `KUBECONFIG`, the pod or `~/.kube/config`, in this order.

    Nothing is sent yet. Raises `CredentialsError` where there is nothing usable. Close it with `KubeClient.close`.
    """

    async def load() -> Configuration:
        return await load_configuration(kubeconfig=kubeconfig, context=context)

    return KubeClient(await load(), reload=load, parallel=parallel, on_request=on_request)


class KubeClient:
    """Speaks HTTP and JSON with the API server through the kubernetes library's configured session.

    It stops below the library's `ApiClient`: that one builds typed models (8 times slower, 5 times the memory) and cannot hand
    out a watch line by line. Nothing is retried here, but for one repetition after a 401 with credentials read anew: whoever
    asks knows whether asking again makes sense.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        reload: Callable[[], Awaitable[Configuration]],
        parallel: int = PARALLEL_REQUESTS,
        on_request: OnRequest | None = None,
        clock: Clock = elapsed,
    ) -> None:
        self._configuration = configuration
        self._reload = reload
        self._rest = RESTClientObject(configuration)
        self._tls_material = tls_material(configuration)
        self._slots = asyncio.Semaphore(parallel)
        self._renewal = asyncio.Lock()
        self._renewed_at: float | None = None
        self._clock = clock
        self._on_request = on_request

    @property
    def server(self) -> str:
        """The API server's URL."""
        return str(self._configuration.host)

    async def close(self) -> None:
        """Close every connection, watches included; the client is of no use afterwards."""
        await self._rest.close()
        await asyncio.sleep(GOODBYE_SECONDS)

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: object = None,
        content_type: str = "application/json",
        timeout_seconds: float = REQUEST_SECONDS,
    ) -> JsonObject:
        """Send one request and return the answer's JSON object.

        *timeout_seconds* covers everything: waiting for a free slot, connecting, and reading the whole answer.
        Raises a `KubeError`: one type for each thing a caller may want to do about it.
        """
        call = describe_call(method, path)
        message = _Message(
            call=call, method=method, path=path, query=query, body=body, content_type=content_type
        )
        try:
            async with asyncio.timeout(timeout_seconds), self._slots:
                return await self._exchange(message)
        except TimeoutError as exc:
            self._count(call, "timeout")
            raise TimedOut(call, f"no whole answer from {self.server} within {timeout_seconds:g} s") from exc

    @asynccontextmanager
    async def stream(
        self, path: str, *, query: Query, timeout_seconds: float = REQUEST_SECONDS
    ) -> AsyncIterator["Lines"]:
        """Open a watch and give its lines; *timeout_seconds* is for opening it, reading has the caller's own limit.

        Raises a `KubeError` when the server refuses or does not answer in time.
        """
        call = describe_call("GET", path, watch=True)
        try:
            async with asyncio.timeout(timeout_seconds):
                response = await self._send(_Message(call=call, method="GET", path=path, query=query))
        except TimeoutError as exc:
            self._count(call, "timeout")
            raise TimedOut(
                call, f"{self.server} did not open the watch within {timeout_seconds:g} s"
            ) from exc
        try:
            yield Lines(response, call)
        finally:
            _abandon(response)

    async def _exchange(self, message: _Message) -> JsonObject:
        response = await self._send(message)
        try:
            content = await response.read()
        except (aiohttp.ClientError, OSError) as exc:
            if isinstance(exc, TimeoutError):
                raise
            raise Unreachable(
                message.call, f"the answer of {self.server} broke off: {exc}", sent=True
            ) from exc
        finally:
            response.release()
        return _parse_object(message.call, content)

    async def _send(self, message: _Message) -> aiohttp.ClientResponse:
        """Return a response with a good status, its body unread."""
        try:
            return await self._try(message)
        except Unauthorized:
            if not await self._renew_credentials():
                raise
        except Unreachable as exc:
            # A CA that was replaced under us shows as a failed handshake.
            if not isinstance(exc.__cause__, aiohttp.ClientSSLError) or not await self._renew_credentials():
                raise
        return await self._try(message)

    async def _try(self, message: _Message) -> aiohttp.ClientResponse:
        call = message.call
        headers = await self._headers(message)
        try:
            answer = await self._rest.request(  # type: ignore[no-untyped-call]  # generated code without annotations
                message.method,
                self.server + message.target,
                headers=headers,
                body=message.body,
                _request_timeout=aiohttp.ClientTimeout(total=None),  # asyncio.timeout above counts the whole
            )
        except (aiohttp.ClientError, OSError) as exc:
            if isinstance(exc, TimeoutError):
                raise
            self._count(call, "unreachable")
            sent = not isinstance(exc, aiohttp.ClientConnectorError)
            raise Unreachable(call, f"no connection to {self.server}: {exc}", sent=sent) from exc
        response: aiohttp.ClientResponse = answer.response
        self._count(call, str(response.status))
        if response.status >= 300:
            raise await _refusal(call, response)
        return response

    async def _headers(self, message: _Message) -> dict[str, str]:
        try:
            proof = await auth_headers(self._configuration)
        except CredentialsError as exc:
            raise Unauthorized(message.call, str(exc)) from exc
        return {
            "Accept": "application/json",
            "Content-Type": message.content_type,
            "User-Agent": f"spillway/{__version__}",
            **proof,
        }

    async def _renew_credentials(self) -> bool:
        """Read token and certificates again; False when that failed or was tried a moment ago, so cannot help."""
        asked_at = self._clock()
        async with self._renewal:
            if self._renewed_at is not None and self._renewed_at >= asked_at:
                return True  # another request renewed them while this one waited
            if self._renewed_at is not None and asked_at - self._renewed_at < RENEWAL_SECONDS:
                return False
            self._renewed_at = self._clock()
            try:
                await self._use(await self._reload())
            except CredentialsError as exc:
                log.warning("the API server refuses our credentials, and they cannot be read again: %s", exc)
                return False
        log.info("read the credentials for %s again", self.server)
        return True

    async def _use(self, renewed: Configuration) -> None:
        outdated = self._rest
        if tls_material(renewed) != self._tls_material:
            # Open watches break with the old pool; their reflectors carry on from where they were.
            self._rest = RESTClientObject(renewed)
            self._tls_material = tls_material(renewed)
            await outdated.close()
        self._configuration = renewed

    def _count(self, call: Call, code: str) -> None:
        if self._on_request is not None:
            self._on_request(call, code)


class Lines:
    """The lines of one open response, as they come; ends where the server ends the stream in good order."""

    def __init__(self, response: aiohttp.ClientResponse, call: Call) -> None:
        self._response = response
        self._call = call
        self._whole: deque[bytes] = deque()
        self._rest = b""

    def __aiter__(self) -> "Lines":
        return self

    async def __anext__(self) -> bytes:
        """Return the next line without its end; raises `Unreachable` where the stream breaks, also inside a line."""
        while not self._whole:
            chunk = await self._read()
            if not chunk:
                if self._rest.strip():
                    raise Unreachable(self._call, "the watch broke off in the middle of a line", sent=True)
                raise StopAsyncIteration
            self._take(chunk)
        return self._whole.popleft()

    async def _read(self) -> bytes:
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as exc:
            if isinstance(exc, TimeoutError):
                raise
            raise Unreachable(self._call, f"the watch broke off: {exc}", sent=True) from exc

    def _take(self, chunk: bytes) -> None:
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        self._whole.extend(line for line in whole if line.strip())
        if len(self._rest) > MAX_LINE_BYTES:
            raise ServerError(self._call, f"a watch line is longer than {MAX_LINE_BYTES // 2**20} MiB")


def _abandon(response: aiohttp.ClientResponse) -> None:
    """Drop a stream's connection at once: a polite TLS goodbye would wait up to 30 s for a server that hangs."""
    connection = response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()
    response.close()


async def _refusal(call: Call, response: aiohttp.ClientResponse) -> KubeError:
    """Read the server's Status object, or what a proxy sent in its place, and return the matching error."""
    try:
        content = await response.content.read(64 * 1024)
    except (aiohttp.ClientError, OSError):
        content = b""
    finally:
        response.close()
    status = _json_or_none(content)
    message = status.get("message") if isinstance(status, dict) else None
    return error_for(
        call,
        code=response.status,
        message=str(message or content.decode(errors="replace") or response.reason or "no text"),
        retry_after=_retry_after(response, status),
    )


def _retry_after(response: aiohttp.ClientResponse, status: object) -> float | None:
    # Eviction refusals say it in the Status only, flow control in the header.
    details = status.get("details") if isinstance(status, dict) else None
    inside = details.get("retryAfterSeconds") if isinstance(details, dict) else None
    try:
        return float(response.headers.get("Retry-After") or inside or "")
    except (TypeError, ValueError):
        return None


def _parse_object(call: Call, content: bytes) -> JsonObject:
    parsed = _json_or_none(content)
    if not isinstance(parsed, dict):
        start = content[:100].decode(errors="replace")
        raise ServerError(
            call, f"the answer is no JSON object, but starts with {start!r}; is a proxy in between?"
        )
    return parsed


def _json_or_none(content: bytes) -> object:
    try:
        return json.loads(content)
    except ValueError:
        return None
