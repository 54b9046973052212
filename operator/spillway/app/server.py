"""The read-only pages of the metrics port: /metrics, /decisions/NAMESPACE/NAME, /top."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from spillway.app import explain
from spillway.app.loop import LastPass
from spillway.core.model import ObjectKey


class Pages:
    """Serves what the loop last decided. A standby has decided nothing and answers 503 with the reason."""

    def __init__(
        self, *, registry: CollectorRegistry, last: Callable[[], LastPass | None], waiting: Callable[[], str]
    ) -> None:
        self._registry = registry
        self._last = last
        self._waiting = waiting
        self._runner: web.AppRunner | None = None

    async def start(self, *, address: str, port: int) -> None:
        """Listen; raises OSError when the port is taken."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/metrics", self._metrics),
                web.get("/top", self._top),
                web.get("/decisions/{namespace}/{name}", self._decision),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, address, port).start()

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def _top(self, _request: web.Request) -> web.Response:
        last = self._last()
        return self._not_deciding() if last is None else _answer(explain.top(last))

    async def _decision(self, request: web.Request) -> web.Response:
        last = self._last()
        if last is None:
            return self._not_deciding()
        key = ObjectKey(request.match_info["namespace"], request.match_info["name"])
        found = explain.explain(last, key)
        if found is None:
            return _answer({"error": f"no GpuWorkload {key} is known to this operator"}, code=404)
        return _answer(found)

    def _not_deciding(self) -> web.Response:
        return _answer(
            {"error": f"this operator is not deciding: {self._waiting() or 'first pass'}"}, code=503
        )


def _answer(document: Mapping[str, Any], *, code: int = 200) -> web.Response:
    return web.Response(text=json.dumps(document), status=code, content_type="application/json")
