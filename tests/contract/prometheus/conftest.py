from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta

import pytest

from spillway.adapters.prometheus import ActivitySource, PrometheusSettings, QueryObserver
from tests.contract.prometheus.server import ScriptedServer

Open = Callable[..., ActivitySource]


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as scripted:
        yield scripted


@pytest.fixture
async def open_source(server: ScriptedServer) -> AsyncIterator[Open]:
    """Make sources that ask the scripted server, patient for 5 s unless told otherwise; they are closed afterwards."""
    closing: list[Callable[[], Awaitable[None]]] = []

    def opened(*, observer: QueryObserver | None = None, **settings: object) -> ActivitySource:
        asked = PrometheusSettings(**{"url": server.url, **settings})  # type: ignore[arg-type]
        source = ActivitySource(asked, observer=observer)
        closing.append(source.close)
        return source

    yield opened
    for close in closing:
        await close()


@pytest.fixture
def source(open_source: Open) -> ActivitySource:
    return open_source()


@pytest.fixture
def hasty(open_source: Open) -> ActivitySource:
    """A source that waits 0.2 s for an answer."""
    return open_source(timeout=timedelta(seconds=0.2))
