"""What an operator asks of a market, seen from outside of both: a proxy between them that keeps every call."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.cluster.faults import Action, FaultProxy

CALL = re.compile(r"/pools/([^/?]+)/(grow|remove|cancel)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call that changes a pool: Unix times of its arrival and its answer; status 0 while there is none."""

    pool: str
    verb: str
    body: dict[str, Any]
    came: float
    answered: float = 0.0
    status: int = 0


class MarketTap(FaultProxy):
    """Give `.url` to the operator. *arrived* is told of each change before the market is, *answered* afterwards."""

    def __init__(
        self,
        upstream: str,
        *,
        arrived: Callable[[Call], None] = lambda _: None,
        answered: Callable[[Call], None] = lambda _: None,
    ) -> None:
        super().__init__(upstream)
        self._arrived = arrived
        self._answered = answered

    async def _pass_on(self, request: web.BaseRequest, action: Action | None) -> web.StreamResponse:
        found = CALL.search(request.path)
        if found is None:
            return await super()._pass_on(request, action)
        came = time.time()
        asked = {
            "pool": found[1],
            "verb": found[2],
            "body": json.loads(await request.read()),
            "came": came,
        }
        self._arrived(Call(**asked))
        response = await super()._pass_on(request, action)
        self._answered(Call(**asked, answered=time.time(), status=response.status))
        return response
