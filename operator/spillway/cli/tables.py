"""The tables of `spillway top`, at most 100 columns wide where the terminal is not wider."""

import io
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

Document = Mapping[str, Any]

WIDTH: Final = 100
SHORT_MODES: Final = {"ScaleUpOnly": "UpOnly"}
SHORT_SOURCES: Final = {"pool price": "pool", "node annotation": "node"}
UNKNOWN: Final = "unknown"


def plain(document: Document, note: str = "") -> str:
    """Return the picture as text of at most 100 columns, without colours."""
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(picture(document, note))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def live() -> Live:
    """Return a screen of its own that `update` draws pictures on; as with top, the shell's comes back at the end."""
    return Live(screen=True, auto_refresh=False)


def picture(document: Document, note: str = "") -> RenderableType:
    """Return both tables, with what concerns all of them above."""
    parts: list[RenderableType] = []
    if note:
        parts.append(Text(note, style="yellow"))
    if document["breakerOpen"]:
        parts.append(
            Text("Many workloads lost their metrics at once: nothing shrinks anywhere.", style="yellow")
        )
    parts.append(_workloads(document["workloads"]))
    parts.append(Text(""))
    parts.append(_pools(document["pools"]))
    return Group(*parts)


def _workloads(rows: list[Document]) -> RenderableType:
    if not rows:
        return Text("No GpuWorkloads. Make one: deploy/examples/gpuworkload.yaml")
    table = _table("WORKLOAD", "MODE", ">NOW", ">WANT", ">READY", ">SPOT", "SIGNAL", "STATE", "REASON", "$/H")
    for row in rows:
        table.add_row(
            f"{row['namespace']}/{row['name']}",
            SHORT_MODES.get(row["mode"], row["mode"]),
            str(row["current"]),
            str(row["desired"]),
            str(row["ready"]),
            _on_spot(row.get("tiers")),
            str(row["signal"]).removesuffix(" cov"),
            row["state"],
            row["reason"],
            _cost(row),
        )
    return table


def _on_spot(tiers: Document | None) -> str:
    """Return what is ready of what is wanted on spot, and what stands in for it on demand: `4/8+4`."""
    if tiers is None:
        return ""
    stands_in = f"+{tiers['fallback']}" if tiers["fallback"] else ""
    return f"{tiers['readyBurst']}/{tiers['burst']}{stands_in}"


def _cost(row: Document) -> str:
    if row["hourlyCost"] is None:
        return ""
    sources = [SHORT_SOURCES.get(name, name) for name in row["priceSource"].split(", ") if name]
    return f"{row['hourlyCost']} ({'+'.join(sources)})" if sources else str(row["hourlyCost"])


def _pools(rows: list[Document]) -> RenderableType:
    if not rows:
        return Text("No GpuNodePools, so costs are unknown. Make one: docs/pools.md")
    table = _table(
        "POOL", "TYPE", "NODES", ">WANT", ">GPUS USED", ">$/H", ">IDLE $/H", "PRICE FROM", "REASON"
    )
    for row in rows:
        table.add_row(
            row["name"],
            row["capacityType"],
            _nodes(row),
            _wanted(row),
            f"{_or_unknown(row['gpusAllocated'])}/{_or_unknown(row['gpusAllocatable'])}",
            _amount(row["hourlyCost"], row["currency"]),
            _idle(row),
            row["priceSource"],
            row.get("reason", ""),
        )
    return table


def _nodes(row: Document) -> str:
    """Return `3`, or `3, 1 booting, 1 draining`; a node counts once, as what becomes of it where that is known."""
    nodes = row["nodes"]
    leaving = {state: len(row.get(state) or ()) for state in ("draining", "doomed")}
    going = sum(leaving.values())
    # Those that leave are cordoned, or about to be.
    ready = max(0, nodes["ready"] - max(0, going - nodes["cordoned"]))
    cordoned = max(0, nodes["cordoned"] - going)
    booting = row.get("booting", 0)
    if "size" in row:  # a machine whose Node is only just there may be in the plan as one that boots, too
        booting = min(booting, max(0, row["size"] - ready - cordoned - going))
    counts = {
        "booting": booting,
        "not ready": max(0, nodes["not_ready"] - booting),
        **leaving,
        "cordoned": cordoned,
    }
    return ", ".join([str(ready), *(f"{count} {state}" for state, count in counts.items() if count)])


def _wanted(row: Document) -> str:
    """Return what the plan wants, with what the provider was asked for where that differs: `3 (asked 2)`."""
    target, desired = row.get("target"), row.get("desired")
    asked = "" if desired is None or desired == target else f" (asked {desired})"
    return f"{_or_unknown(target)}{asked}"


def _idle(row: Document) -> str:
    parts = row["idleHourlyCost"]
    if parts is None or "unseen" in parts or row["hourlyCost"] is None:
        return UNKNOWN
    total = sum((Decimal(amount) for amount in parts.values()), Decimal(0))
    return _amount(f"{total:.2f}", row["currency"])


def _amount(amount: str | None, currency: str) -> str:
    return UNKNOWN if amount is None else f"{amount} {currency}"


def _or_unknown(count: int | None) -> str:
    return "?" if count is None else str(count)


def _table(*columns: str) -> Table:
    """Return an empty table; a `>` before a column's name puts its cells to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name in columns:
        label = name.removeprefix(">")
        flexible = label in _FLEXIBLE
        table.add_column(
            label,
            justify="right" if name != label else "left",
            no_wrap=not flexible,
            overflow="fold",
        )
    return table


_FLEXIBLE: Final = frozenset({"WORKLOAD", "REASON", "$/H", "POOL", "PRICE FROM", "NODES"})
