"""The client of a market process (`spillway market`), whose machines are Nodes that kwok plays: for trials and tests."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final
from urllib.parse import quote

import aiohttp
from pydantic import ValidationError

from spillway import __version__
from spillway.adapters.cloud.base import CALL_SECONDS, InstanceNotFound, ProviderUnavailable
from spillway.adapters.cloud.wire import PoolDocument, RemovalDocument, SizeDocument, read_error
from spillway.core.model import PoolState

MAX_BYTES: Final = 8 * 2**20  # 30 times what a pool of 1,000 machines takes


class KwokProvider:
    """Asks the market at *url*, a base such as `http://127.0.0.1:8090`, about pools by their names there.

    States carry the time of *now* from just before they were asked for, so that the market's own clock is never compared with
    ours. Use it in one event loop, and `close` it there.
    """

    def __init__(
        self,
        url: str,
        *,
        now: Callable[[], datetime],
        timeout_seconds: float = CALL_SECONDS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._url = url.rstrip("/")
        self._now = now
        self._timeout_seconds = timeout_seconds
        self._max_bytes = max_bytes
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close its connections."""
        if self._session is not None:
            await self._session.close()

    async def describe(self, pool: str) -> PoolState:
        """As of `Provider`; an answer that is not a whole pool is none at all, so `ProviderUnavailable`."""
        asked_at = self._now()
        content = await self._ask("GET", pool, "")
        try:
            return PoolDocument.model_validate_json(content).as_state(asked_at)
        except ValidationError as exc:
            first = exc.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole"
            raise ProviderUnavailable(
                pool,
                f"{self._url} answered something that is no pool ({where}: {first['msg']}); check kwok.url",
            ) from exc

    async def grow(self, pool: str, *, to: int, before: int, token: str) -> None:
        """As of `Provider`."""
        await self._ask("POST", pool, "/grow", SizeDocument(to=to, before=before, token=token).model_dump())

    async def remove(self, pool: str, *, instance: str, node: str, token: str) -> None:
        """As of `Provider`."""
        body = RemovalDocument(instance=instance, node=node, token=token).model_dump()
        try:
            await self._ask("POST", pool, "/remove", body)
        except InstanceNotFound:
            return  # gone is what was wanted

    async def cancel_unfulfilled(self, pool: str, *, to: int, before: int, token: str) -> None:
        """As of `Provider`."""
        await self._ask("POST", pool, "/cancel", SizeDocument(to=to, before=before, token=token).model_dump())

    async def _ask(
        self, method: str, pool: str, call: str, body: Mapping[str, object] | None = None
    ) -> bytes:
        """Return the body of a good answer; the limit covers connecting, sending and reading all of it."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                status, content = await self._exchange(
                    method, f"{self._url}/pools/{quote(pool, safe='')}{call}", body, pool
                )
        except TimeoutError as exc:
            raise ProviderUnavailable(
                pool, f"no whole answer from {self._url} within {self._timeout_seconds:g} s"
            ) from exc
        except (aiohttp.ClientError, OSError) as exc:
            sent = not isinstance(exc, aiohttp.ClientConnectorError)
            raise ProviderUnavailable(pool, f"no connection to {self._url}: {exc}", sent=sent) from exc
        if status != 200:
            raise read_error(pool, status=status, body=content)
        return content

    async def _exchange(
        self, method: str, url: str, body: Mapping[str, object] | None, pool: str
    ) -> tuple[int, bytes]:
        # A redirect would carry a change to somewhere that nobody named.
        async with self._connected().request(method, url, json=body, allow_redirects=False) as response:
            content = bytearray()
            async for chunk in response.content.iter_chunked(64 * 1024):
                content += chunk
                if len(content) > self._max_bytes:
                    response.close()
                    raise ProviderUnavailable(
                        pool, f"the answer of {self._url} is larger than {self._max_bytes:,} bytes"
                    )
            return response.status, bytes(content)

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                trust_env=False,  # a proxy has no business between us and loopback or the cluster
                timeout=aiohttp.ClientTimeout(total=None),  # asyncio.timeout counts the whole
                headers={"User-Agent": f"spillway/{__version__}"},
            )
        return self._session
