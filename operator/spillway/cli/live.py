"""How a command reaches a running operator: by the URL of its metrics port, or through the API server's service proxy."""

import functools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import click

from spillway.adapters.kube.client import KubeClient, connect

SECONDS = 5.0
Document = Mapping[str, Any]


class LiveError(Exception):
    """The operator did not answer with what was asked; says what to check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Where the operator and the API server are; with `operator_url` the API server is not asked at all."""

    kubeconfig: Path | None
    context: str | None
    operator_url: str | None
    operator_namespace: str
    operator_service: str

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Session"]:
        """Connect; raises CredentialsError where no kubeconfig is found."""
        if self.operator_url is not None:
            yield Session(self, None)
            return
        client = await connect(kubeconfig=self.kubeconfig, context=self.context)
        try:
            yield Session(self, client)
        finally:
            await client.close()


class Session:
    """A connection to the operator; `client` is None when it is asked directly."""

    def __init__(self, reach: Reach, client: KubeClient | None) -> None:
        self.client = client
        self._reach = reach

    async def live(self, path: str) -> Document:
        """Return the operator's JSON document at *path*; raises LiveError or KubeError when there is none."""
        if self.client is None:
            return await fetch_live(self._reach.operator_url or "", path)
        reach = self._reach
        service = (
            f"/api/v1/namespaces/{reach.operator_namespace}/services/http:{reach.operator_service}:metrics"
        )
        return await self.client.request("GET", f"{service}/proxy{path}")


_OPTIONS: Final = (
    click.option(
        "--kubeconfig", type=click.Path(path_type=Path), help="Kubeconfig; else KUBECONFIG or ~/.kube/config."
    ),
    click.option("--context", help="Context of the kubeconfig."),
    click.option("--operator-url", help="Metrics port of the operator, such as http://127.0.0.1:8080."),
    click.option(
        "--operator-namespace",
        default="spillway-system",
        show_default=True,
        help="Where the operator's Service is.",
    ),
    click.option(
        "--operator-service", default="spillway", show_default=True, help="Name of the operator's Service."
    ),
)


def reach_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say where the operator is, as one argument *reach*."""

    @functools.wraps(command)
    def gathered(
        *,
        kubeconfig: Path | None,
        context: str | None,
        operator_url: str | None,
        operator_namespace: str,
        operator_service: str,
        **rest: object,
    ) -> None:
        reach = Reach(
            kubeconfig=kubeconfig,
            context=context,
            operator_url=operator_url,
            operator_namespace=operator_namespace,
            operator_service=operator_service,
        )
        command(reach=reach, **rest)

    decorated: Callable[..., None] = gathered
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


async def fetch_live(url: str, path: str) -> Document:
    """Return the JSON document at *path*; raises LiveError when there is none within 5 s."""
    where = url.rstrip("/") + path
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SECONDS)) as session,
            session.get(where) as response,
        ):
            document = await response.json()
    except (aiohttp.ClientError, TimeoutError, ValueError) as exc:
        raise LiveError(f"{where} does not answer: {exc}. Check --operator-url") from exc
    if not isinstance(document, dict):
        raise LiveError(f"{where} answered something that is no decision. Check --operator-url")
    if "error" in document:
        raise LiveError(str(document["error"]))
    return document
