"""How every bench shows what it found: a table for people, and the same in JSON under bench-results/ for machines."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[2] / "bench-results"
WIDTH = 100


def show(
    name: str,
    *,
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str] = (),
    details: Mapping[str, Any] | None = None,
) -> None:
    """Print a table of at most 100 columns with the machine and the command; keep it, and *details*, as JSON."""
    command = f"python -m tests.bench.{name}"
    print("\n".join(["", title, "", *table(header, rows), "", *notes, machine(), command, ""]), flush=True)
    RESULTS.mkdir(exist_ok=True)
    document = {
        "title": title,
        "command": command,
        "machine": machine(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": [dict(zip(header, row, strict=True)) for row in rows],
        "notes": list(notes),
        **(details or {}),
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table: the first column to the left, figures to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    rule = ["-" * width for width in widths]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in (header, rule, *rows)]
    assert all(len(line) <= WIDTH for line in lines), "a table is wider than a terminal"
    return lines


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        cell.ljust(width) if column == 0 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]


def machine() -> str:
    """Return one line that says what the figures were measured on, and how busy it was."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{os.cpu_count()} cores ({platform.machine()}, {platform.system()}), Python {platform.python_version()}, "
        f"load {load} (1, 5, 15 min)"
    )


def quantile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank quantile of at least one value: p99 of 50 values is the largest."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def verdict(*, value: float, aim: float) -> str:
    return "yes" if value <= aim else "NO"
