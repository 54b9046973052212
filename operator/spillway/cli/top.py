"""`spillway top`: workloads and pools at a glance, live on a terminal."""

import asyncio
import sys
from typing import Any, Final

import click

from spillway.adapters.kube.client import KubeClient
from spillway.adapters.kube.credentials import CredentialsError
from spillway.adapters.kube.errors import Forbidden, KubeError, NotFound
from spillway.api.conditions import ConditionType
from spillway.app.caches import POOLS, WORKLOADS
from spillway.cli.live import Document, LiveError, Reach, Session, reach_options

REFRESH_SECONDS: Final = 2.0
ABSENT: Final = "?"


@click.command()
@click.option("-n", "--namespace", help="Only GpuWorkloads of this namespace; else of all.")
@click.option("--once", is_flag=True, help="Print once and end; so it does where the output is no terminal.")
@reach_options
def top(*, namespace: str | None, once: bool, reach: Reach) -> None:
    """Show every GpuWorkload with its decision and cost, and every GpuNodePool with its GPUs and what is idle.

    Live values come from the operator, through the API server's service proxy or --operator-url, and are read again every 2 s
    until Ctrl-C. If the operator cannot be reached, what the objects' status says is shown.
    """
    try:
        from spillway.cli import tables  # noqa: PLC0415  # the operator's image has no rich, and needs none
    except ImportError as exc:
        raise click.ClickException("top needs rich. Install it: pip install 'spillway[cli]'") from exc
    try:
        if once or not sys.stdout.isatty():
            document, note = asyncio.run(_look_once(reach, namespace))
            click.echo(tables.plain(document, note))
        else:
            asyncio.run(_watch(reach, namespace, tables))
    except (KubeError, CredentialsError, LiveError) as exc:
        raise click.ClickException(str(exc)) from exc
    except KeyboardInterrupt:
        return


async def _look_once(reach: Reach, namespace: str | None) -> tuple[Document, str]:
    async with reach.open() as session:
        return await _look(session, namespace)


async def _watch(reach: Reach, namespace: str | None, tables: Any) -> None:  # noqa: ANN401  # a module
    """Draw anew every 2 s. A look that fails leaves the last picture standing, and says so; the first must succeed."""
    async with reach.open() as session:
        document, note = await _look(session, namespace)
        with tables.live() as screen:
            while True:
                screen.update(tables.picture(document, note), refresh=True)
                await asyncio.sleep(REFRESH_SECONDS)
                try:
                    document, note = await _look(session, namespace)
                except (KubeError, LiveError) as exc:
                    note = f"Not up to date: {exc}"


async def _look(session: Session, namespace: str | None) -> tuple[Document, str]:
    """Return the operator's document, or one made of what is stored with a note why it is not live."""
    try:
        found, note = await session.live("/top"), ""
    except KubeError as exc:
        if session.client is None:
            raise
        found = await _stored(session.client, namespace)
        note = f"The operator cannot be asked ({exc.message}); this is what the status of each object says."
    rows = [row for row in found["workloads"] if namespace in (None, row["namespace"])]
    return {**found, "workloads": rows}, note


async def _stored(client: KubeClient, namespace: str | None) -> Document:
    workloads = await client.request("GET", WORKLOADS.path(namespace=namespace))
    try:
        pools = await client.request("GET", POOLS.path())
    except (
        Forbidden,
        NotFound,
    ):  # pools belong to the platform team; workloads are worth showing without them
        pools = {"items": []}
    return {
        "breakerOpen": False,
        "workloads": [_stored_workload(item) for item in workloads["items"]],
        "pools": [_stored_pool(item) for item in pools["items"]],
    }


def _stored_workload(item: Document) -> Document:
    status = item.get("status") or {}
    return {
        "namespace": item["metadata"]["namespace"],
        "name": item["metadata"]["name"],
        "mode": status.get("mode", ABSENT),
        "current": status.get("replicas", ABSENT),
        "desired": status.get("desiredReplicas", ABSENT),
        "ready": status.get("readyReplicas", ABSENT),
        "tiers": _stored_tiers(status.get("capacity")),
        "signal": status.get("signal", ABSENT),
        "state": status.get("state", ABSENT),
        "reason": status.get("reason", ABSENT),
        "hourlyCost": status.get("hourlyCost"),
        "priceSource": "",
    }


def _stored_tiers(capacity: Document | None) -> Document | None:
    if capacity is None or "burstReplicas" not in capacity:
        return None
    return {
        "burst": capacity["burstReplicas"],
        "readyBurst": capacity.get("readyBurst", 0),
        "fallback": capacity.get("fallbackReplicas", 0),
    }


def _stored_pool(item: Document) -> Document:
    spec, status = item.get("spec") or {}, item.get("status") or {}
    nodes = status.get("nodes") or {}
    return {
        "name": item["metadata"]["name"],
        "capacityType": spec.get("capacityType", ABSENT),
        "target": status.get("targetNodes"),
        "reason": next(
            (
                found["reason"]
                for found in status.get("conditions") or ()
                if found["type"] == ConditionType.CAPACITY_AVAILABLE
            ),
            "",
        ),
        "nodes": {
            "ready": nodes.get("ready", 0),
            "not_ready": nodes.get("notReady", 0),
            "cordoned": nodes.get("cordoned", 0),
        },
        "gpusAllocatable": status.get("gpusAllocatable"),
        "gpusAllocated": status.get("gpusAllocated"),
        "hourlyCost": status.get("hourlyCost"),
        "idleHourlyCost": None,
        "currency": status.get("currency", ""),
        "priceSource": status.get("priceSource", ABSENT),
    }
