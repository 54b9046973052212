"""`spillway explain`: why a workload stands at its count, what limits it, and what would change it next."""

import asyncio
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import click

from spillway.adapters.kube.credentials import CredentialsError
from spillway.adapters.kube.errors import KubeError, NotFound
from spillway.app.caches import WORKLOADS
from spillway.cli.live import Document, LiveError, Reach, reach_options


@click.command()
@click.argument("name")
@click.option("-n", "--namespace", default="default", show_default=True, help="Namespace of the GpuWorkload.")
@reach_options
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def explain(*, name: str, namespace: str, reach: Reach, output: str) -> None:
    """Say why GpuWorkload NAME is at its count: signal, proposal, limits, result, where each setting came from, what is next.

    Live values come from the operator, through the API server's service proxy or --operator-url. If it cannot be reached, what
    the object's status says is printed.
    """
    live, stored = f"/decisions/{namespace}/{name}", WORKLOADS.path(namespace=namespace, name=name)
    try:
        document, note = asyncio.run(_find(reach, live=live, stored=stored))
    except NotFound:
        raise click.ClickException(
            f"There is no GpuWorkload {name} in namespace {namespace}. List them: kubectl get gpuworkloads -A"
        ) from None
    except (KubeError, CredentialsError, LiveError) as exc:
        raise click.ClickException(str(exc)) from exc
    if output == "json":
        click.echo(json.dumps(document, indent=2))
        return
    if note:
        click.echo(note)
    lines = render(document, now=datetime.now(UTC)) if "proposal" in document else render_stored(document)
    click.echo("\n".join(lines))


async def _find(reach: Reach, *, live: str, stored: str) -> tuple[Document, str]:
    """Return the live document, or the stored object with a note why it is not live."""
    async with reach.open() as session:
        if session.client is None:
            return await session.live(live), ""
        found = await session.client.request("GET", stored)
        try:
            return await session.live(live), ""
        except KubeError as exc:
            note = f"The operator cannot be asked ({exc.message}); this is what the status says:"
            return found, note


def render(document: Document, *, now: datetime) -> Iterator[str]:
    """Yield the lines of a live explanation; no line of ours is wider than its content needs."""
    if "problems" in document:
        yield f"{document['workload']} is invalid and is left alone:"
        yield from (f"  {problem}" for problem in document["problems"])
        return
    counts, signal, proposal = document["replicas"], document["signal"], document["proposal"]
    yield f"{document['workload']} → {document['target']}   mode {document['mode']}   decided {document['at']}"
    yield (
        f"  now       {document['current']} replicas: {counts['ready']} ready ({counts['settled']} settled), "
        f"{counts['loading']} loading, {counts['unschedulable']} without a node, {counts['broken']} broken"
    )
    age = signal["ageSeconds"]
    aged = "" if age is None else f", oldest sample {age:.0f} s"
    yield f"  signal    {signal['text']}, {signal['state']}{aged}"
    yield f"            {signal['message']}"
    yield f"  proposal  {proposal['replicas']}  {proposal['cause']}: {proposal['message']}"
    yield from _labelled("limits", (_limit(limit) for limit in document["limits"]), none="none")
    yield f"  result    {document['desired']}  {document['reason']}: {document['why']}"
    yield from _labelled("next", _next(document, now=now), none="the next change of the signal")
    for name in ("inactive", "conflict", "capacity"):
        if document[name] is not None:
            yield f"  {name:<9} {document[name]['reason']}: {document[name]['message']}"
    yield from _placement(document.get("placement"), now=now)
    yield from _labelled("cost", _cost(document["cost"]), none="no target of its own, so none")
    if document["breaker"]["open"]:
        lost, active = document["breaker"]["lost"], document["breaker"]["active"]
        yield f"  breaker   open: {lost} of {active} busy workloads lost their metrics; nothing shrinks anywhere"
    yield "  settings"
    yield from (
        f"    {item['path']:<36} {item['value']!s:>8}   {item['from']}" for item in document["settings"]
    )


def _placement(placement: Document | None, *, now: datetime) -> Iterator[str]:
    """Yield how the count is laid out on demand and on spot, and why; nothing for a workload that never bursts."""
    if placement is None:
        return
    tiers = placement["tiers"]
    if tiers is not None:
        yield from _labelled("tiers", _tiers(tiers), none="")
    if placement["pools"]:
        yield from _labelled(
            "pools",
            (line for found in placement["pools"] for line in _pool(found, now=now)),
            none="",
        )
    for label, name in (("burst", "burst"), ("fallback", "fallback"), ("baseline", "baselineIsolated")):
        yield f"  {label:<9} {placement[name]['reason']}: {placement[name]['message']}"


def _pool(found: Document, *, now: datetime) -> Iterator[str]:
    """Yield why a pool is as it is and, where it takes no more nodes, why not and until when."""
    yield f"{found['name']}  {found['reason']}: {found['why']}"
    closed = found.get("closed")
    if closed is None:
        return
    if closed["reason"] != found["reason"]:
        yield f"  takes no more nodes  {closed['reason']}: {closed['message']}"
    if closed["until"] is not None:
        yield f"  is tried again at {_when(closed['until'], now)}"


def _tiers(tiers: Document) -> Iterator[str]:
    stands_in = f", {tiers['fallback']} of them for spot" if tiers["fallback"] else ""
    yield f"{tiers['onDemand']} on demand{stands_in}: {tiers['readyOnDemand']} ready"
    others = "".join(f", {tiers[state]} {state}" for state in _NOT_READY if tiers[state])
    twin = f" in {tiers['twin']}" if tiers["twin"] else ""
    yield f"{tiers['burst']} on spot{twin}: {tiers['readyBurst']} ready{others}"
    if tiers.get("spare"):
        yield f"{tiers['spare']} of them to spare: {tiers['spareWhy']}"


_NOT_READY = ("booting", "refused", "doomed", "broken")


def render_stored(found: Document) -> Iterator[str]:
    """Yield what an object's own status says, for when the operator cannot be asked."""
    status = found.get("status") or {}
    yield f"{found['metadata']['namespace']}/{found['metadata']['name']} → {status.get('target', 'not seen yet')}"
    yield f"  result    {status.get('desiredReplicas', '?')}  {status.get('reason', '?')}  {status.get('signal', '')}"
    if "hourlyCost" in status:
        yield f"  cost      {status['hourlyCost']} an hour"
    for record in reversed(status.get("decisions") or []):
        yield f"  {record['time']}  {record['from']} → {record['to']}  {record.get('reason')}: {record.get('message')}"
    for item in status.get("conditions") or []:
        yield f"  {item['type']:<18} {item['status']:<8} {item['reason']}: {item['message']}"


def _labelled(label: str, lines: Iterable[str], *, none: str) -> Iterator[str]:
    first = True
    for line in lines:
        yield f"  {label if first else '':<9} {line}"
        first = False
    if first:
        yield f"  {label:<9} {none}"


def _limit(limit: Document) -> str:
    return f"{limit['reason']} {limit['before']} → {limit['after']}: {limit['message']}"


def _cost(cost: Document | None) -> Iterator[str]:
    if cost is None:
        return
    unknown = f"{_gpus(cost['unknownGpus'])} on nodes without a price; see docs/pools.md"
    if cost["unknownGpus"] and not cost["lines"]:
        yield f"unknown: {unknown}"
        return
    yield f"{cost['hourly']} an hour"
    for line in cost["lines"]:
        model = f", {line['gpuModel']}" if line["gpuModel"] else ""
        yield (
            f"  {line['perHour']} {line['currency']}  {_gpus(line['gpus'])} on {line['pool']} "
            f"({line['capacityType']}{model}), by the {line['source']}"
        )
    if cost["unknownGpus"]:
        yield f"  unknown  {unknown}"


def _gpus(count: int) -> str:
    return f"{count} GPU" if count == 1 else f"{count} GPUs"


def _next(document: Document, *, now: datetime) -> Iterator[str]:
    confirming = document["confirming"]
    if confirming is not None:
        yield f"set {confirming['to']} replicas at {_when(confirming['until'], now)}, if every pass agrees until then"
    for limit in document["limits"]:
        if limit["until"] is not None:
            yield f"{limit['reason']} can lift at {_when(limit['until'], now)}"


def _when(moment: str, now: datetime) -> str:
    seconds = max(0, round((datetime.fromisoformat(moment) - now).total_seconds()))
    return f"{moment} (in {seconds} s)"
