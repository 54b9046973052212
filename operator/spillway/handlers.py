"""What kopf is used for: starting and stopping, and probes. Nothing is decided here.

It watches nothing, since one refused watch would end the whole process (docs/design/0004-watches-are-ours.md): our reflectors
wake the loop. No handler of these puts a finalizer or an annotation on anybody's object.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import kopf

from spillway.app.wiring import Operator


def build_registry(
    operator: Operator, *, login: Callable[[], Awaitable[kopf.ConnectionInfo]]
) -> kopf.OperatorRegistry:
    """Return the handlers of one operator, in a registry of its own: kopf's global one would be shared state."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def authenticate(**_: Any) -> kopf.ConnectionInfo:  # noqa: ANN401  # kopf passes whatever it knows
        return await login()

    @kopf.on.startup(registry=registry)
    async def start(settings: kopf.OperatorSettings, **_: Any) -> None:  # noqa: ANN401
        _configure(settings)
        await operator.start()

    @kopf.on.cleanup(registry=registry)
    async def stop(**_: Any) -> None:  # noqa: ANN401
        await operator.stop()

    @kopf.on.probe(id="loop", registry=registry)
    async def alive(**_: Any) -> str:  # noqa: ANN401
        problem = operator.problem()
        if problem is not None:
            # Permanent, since kopf retries everything else inside the probe until the kubelet gives up.
            raise kopf.PermanentError(problem)
        return "ok"

    return registry


def _configure(settings: kopf.OperatorSettings) -> None:
    settings.posting.enabled = False
    settings.scanning.disabled = True  # else it watches CRDs and namespaces, and needs the rights for it
    settings.networking.request_timeout = 10
    settings.networking.connect_timeout = 5
    settings.execution.max_workers = 1
