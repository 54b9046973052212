"""The market's pages: the API that a provider's client calls, and the controls of whoever plays the world.

GET  /pools/NAME                        POST /pools/NAME/grow|remove|cancel      as of `adapters.cloud.wire`
GET  /pools, /pools/NAME/machines       what there is, notices included; no fault stands in the way of these
POST /pools/NAME/faults                 as of `controls`, answers {instances: […]}
GET  /ledger                            {pools: {NAME: {machineSeconds, cost}}}
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final

from aiohttp import web
from pydantic import ValidationError

from spillway.adapters.cloud.base import CloudError, InstanceNotFound, Rejected
from spillway.adapters.cloud.simulated import ApiFaultKind, Machine, Market
from spillway.adapters.cloud.simulated.faults import refuse_call
from spillway.adapters.cloud.wire import PoolDocument, RemovalDocument, SizeDocument, write_error
from spillway.cli.market.controls import CONTROL, carry_out

HANG_SECONDS: Final = 60.0  # far beyond any client's patience
MAX_BODY_BYTES: Final = 64 * 1024

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class MarketServer:
    """Serves *market* at the time of *now*. *saved* is called before each answer, so that no answer promises what a kill loses."""

    def __init__(self, market: Market, *, now: Callable[[], datetime], saved: Callable[[], None]) -> None:
        self._market = market
        self._now = now
        self._saved = saved
        self._runner: web.AppRunner | None = None

    async def start(self, *, host: str, port: int) -> str:
        """Listen, and return the base URL; port 0 takes a free one. Raises OSError when the port is taken."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_errors_as_json])
        app.add_routes(
            [
                web.get("/pools", self._list),
                web.get("/pools/{pool}", self._describe),
                web.get("/pools/{pool}/machines", self._machines),
                web.post("/pools/{pool}/grow", self._grow),
                web.post("/pools/{pool}/remove", self._remove),
                web.post("/pools/{pool}/cancel", self._cancel),
                web.post("/pools/{pool}/faults", self._fault),
                web.get("/ledger", self._ledger),
            ]
        )
        # A caller that gave up ends its handler, so one that hangs does not outlive it.
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        bound = self._runner.addresses[0]
        return f"http://[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"http://{bound[0]}:{bound[1]}"

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    # The API

    async def _describe(self, request: web.Request) -> web.StreamResponse:
        pool = request.match_info["pool"]
        kind = await self._knock(pool, "describe")
        state = self._market.describe(pool, now=self._now(), is_stale=kind is ApiFaultKind.STALE)
        return await self._answer(PoolDocument.of(state).model_dump(mode="json"), kind)

    async def _grow(self, request: web.Request) -> web.StreamResponse:
        pool = request.match_info["pool"]
        asked = SizeDocument.model_validate_json(await request.read())
        kind = await self._knock(pool, "grow")
        self._market.grow(pool, to=asked.to, before=asked.before, token=asked.token, now=self._now())
        return await self._answer({}, kind)

    async def _remove(self, request: web.Request) -> web.StreamResponse:
        pool = request.match_info["pool"]
        asked = RemovalDocument.model_validate_json(await request.read())
        kind = await self._knock(pool, "remove")
        try:
            self._market.remove(
                pool, instance=asked.instance, node=asked.node, token=asked.token, now=self._now()
            )
        except InstanceNotFound:
            if kind is not ApiFaultKind.LOSE_ANSWER:
                raise
        return await self._answer({}, kind)

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        pool = request.match_info["pool"]
        asked = SizeDocument.model_validate_json(await request.read())
        kind = await self._knock(pool, "cancel")
        self._market.cancel_unfulfilled(
            pool, to=asked.to, before=asked.before, token=asked.token, now=self._now()
        )
        return await self._answer({}, kind)

    async def _knock(self, pool: str, call: str) -> ApiFaultKind | None:
        kind = self._market.take_api_fault(pool, call)
        self._saved()
        refuse_call(kind, pool)
        if kind is ApiFaultKind.HANG:
            await asyncio.sleep(HANG_SECONDS)
            raise web.HTTPGatewayTimeout
        return kind

    async def _answer(self, document: dict[str, Any], kind: ApiFaultKind | None) -> web.StreamResponse:
        self._saved()
        if kind is ApiFaultKind.LOSE_ANSWER:
            await asyncio.sleep(HANG_SECONDS)
        return _json(document)

    # The controls

    async def _list(self, _request: web.Request) -> web.StreamResponse:
        now = self._now()
        return _json({"pools": [self._summary(name, now) for name in self._market.names]})

    def _summary(self, name: str, now: datetime) -> dict[str, Any]:
        state, spec = self._market.describe(name, now=now), self._market.spec(name)
        return {
            "name": name,
            "capacityType": spec.capacity_type,
            "desired": state.desired,
            "granted": len(state.granted),
            "maxNodes": spec.max_nodes,
        }

    async def _machines(self, request: web.Request) -> web.StreamResponse:
        self._market.advance(self._now())
        machines = self._market.machines(request.match_info["pool"])
        return _json({"machines": [_machine(machine) for machine in machines]})

    async def _fault(self, request: web.Request) -> web.StreamResponse:
        control = CONTROL.validate_json(await request.read())
        befell = carry_out(self._market, request.match_info["pool"], control, now=self._now())
        self._saved()
        return _json({"instances": list(befell)})

    async def _ledger(self, _request: web.Request) -> web.StreamResponse:
        bills = self._market.ledger(now=self._now())
        pools = {
            name: {
                "machineSeconds": bill.machine_time.total_seconds(),
                "cost": None if bill.cost is None else f"{bill.cost:.6f}",
            }
            for name, bill in bills.items()
        }
        return _json({"pools": pools})


def _machine(machine: Machine) -> dict[str, Any]:
    notice = machine.notice
    return {
        "id": machine.id,
        "node": machine.node,
        "state": machine.state,
        "since": machine.since.isoformat(),
        "zone": machine.zone,
        "bootId": machine.boot_id,
        "endsAt": None if notice is None else notice.ends_at.isoformat(),
    }


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except CloudError as exc:
        status, document = write_error(exc)
        return _json(document, status=status)
    except ValidationError as exc:
        told = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in exc.errors())
        status, document = write_error(Rejected(request.match_info.get("pool", ""), told))
        return _json(document, status=status)
    except web.HTTPException as exc:
        return _json({"error": {"code": exc.reason, "message": exc.text or exc.reason}}, status=exc.status)


def _json(document: dict[str, Any], *, status: int = 200) -> web.Response:
    retry_after = document.get("error", {}).get("retryAfterSeconds")
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:.0f}"}
    return web.Response(
        text=json.dumps(document), status=status, content_type="application/json", headers=headers
    )
