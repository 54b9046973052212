from collections.abc import AsyncIterator

import pytest

from tests.contract.kube.server import ScriptedApi


@pytest.fixture
async def api() -> AsyncIterator[ScriptedApi]:
    async with ScriptedApi() as scripted:
        yield scripted
