"""Draw day.svg: a simulated day, and one loss in it from near, from what `spillway simulate` says of the synthetic traces.

    .venv/bin/python docs/images/make.py

Nothing in it is chosen by hand: the day is the second one, and the loss the largest share of what served that on demand bridged.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

PROGRAM = Path(sys.executable).with_name("spillway")
DAYS = 2
HOUR = 3600.0
BRIDGED_WITHIN = 10 * 60.0  # from the loss to more on demand
BEFORE, AFTER = 10 * 60.0, 50 * 60.0  # what of the time around it is shown
WIDE, LEFT, RIGHT = 760, 46, 14
ON_DEMAND, SPOT, DEMAND, MISSED = "#4a78a8", "#8fc79a", "#222", "#c0392b"


class Point(NamedTuple):
    """One minute: what was asked for in replicas, and what served."""

    seconds: float
    load: float
    on_demand: int
    spot: int

    @property
    def ready(self) -> int:
        """What serves, wherever it stands."""
        return self.on_demand + self.spot


@dataclass(frozen=True)
class Panel:
    """Where a stretch of time is drawn: *top* and *high* in pixels, *most* in replicas at its upper edge."""

    points: Sequence[Point]
    top: float
    high: float
    most: float

    def x(self, seconds: float) -> float:
        """Return where a moment is drawn."""
        first, last = self.points[0].seconds, self.points[-1].seconds
        return round(LEFT + (seconds - first) / (last - first) * (WIDE - LEFT - RIGHT), 1)

    def y(self, replicas: float) -> float:
        """Return where a count is drawn."""
        return round(self.top + self.high * (1 - replicas / self.most), 1)

    def steps(self, values: Iterable[float]) -> str:
        """Return a path that keeps each value until the next one."""
        parts, last = [], None
        for point, value in zip(self.points, values, strict=True):
            if value != last:
                move = "M" if last is None else f"H{self.x(point.seconds):g}V"
                at = f"{self.x(point.seconds):g} " if last is None else ""
                parts.append(f"{move}{at}{self.y(value):g}")
                last = value
        return "".join(parts) + f"H{self.x(self.points[-1].seconds):g}"

    def area(self, values: Sequence[float]) -> str:
        """Return the closed path beneath `steps`."""
        return f"{self.steps(values)}V{self.y(0):g}H{self.x(self.points[0].seconds):g}z"


def main() -> None:
    """Run the simulator and write the picture beside this file."""
    points = _simulated()
    Path(__file__).with_name("day.svg").write_text(_picture(points), encoding="utf-8")


def _simulated() -> list[Point]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.html")
        what = ["--demand", "synthetic", "--spot", "synthetic", "--days", str(DAYS), "--policies", "spillway"]
        subprocess.run(  # noqa: S603 -- our own program
            [PROGRAM, "simulate", *what, "--format", "html", "--output", report],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        page = report.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    if found is None:
        raise SystemExit("the report of `spillway simulate` holds no data; has its template changed?")
    return [Point(*row) for row in json.loads(found[1])["series"]["points"]]


def _loss(points: Sequence[Point]) -> Point:
    """Return the moment of the largest share of what served that was lost and bridged on demand."""
    step = points[1].seconds - points[0].seconds
    soon = int(BRIDGED_WITHIN / step)

    def share(index: int) -> float:
        before, after = points[index - 1], points[index]
        later = points[index : index + soon]
        is_bridged = max(point.on_demand for point in later) > before.on_demand
        grew_before = any(
            point.on_demand != before.on_demand for point in points[max(0, index - soon) : index]
        )
        return (before.spot - after.spot) / before.ready if is_bridged and not grew_before else 0.0

    edge = int(AFTER / step)
    return points[max(range(edge, len(points) - edge), key=share)]


def _picture(points: Sequence[Point]) -> str:
    day = [point for point in points if point.seconds >= points[-1].seconds - 24 * HOUR]
    loss = _loss(day)
    near = [point for point in day if loss.seconds - BEFORE <= point.seconds <= loss.seconds + AFTER]
    upper = Panel(points=day, top=52, high=170, most=_most(day))
    lower = Panel(points=near, top=292, high=150, most=_most(near))
    marks = [
        _frame(upper, every=3 * HOUR, label=lambda seconds: f"{seconds / HOUR % 24:.0f} h"),
        _key(),
        _around(upper, near),
        f'<text x="{LEFT}" y="272" font-weight="bold">The hour around one loss of spot</text>',
        _frame(lower, every=600, label=lambda seconds: f"{(seconds - loss.seconds) / 60:.0f} min"),
        _story(lower, loss),
    ]
    told = "A simulated day: demand, what serves it on demand and on spot, and an hour in which spot is lost and replaced"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} 480" font-family="sans-serif" font-size="12"'
    title = "A simulated day, of synthetic demand on synthetic spot"
    return "\n".join(
        (
            f'{head} role="img" aria-label="{told}">',
            f'<rect width="{WIDE}" height="480" fill="#fff"/>',
            f'<text x="{LEFT}" y="18" font-weight="bold">{title}</text>',
            *marks,
            "</svg>\n",
        )
    )


def _most(points: Sequence[Point]) -> float:
    return max(max(point.ready, point.load) for point in points) * 1.05


def _frame(panel: Panel, *, every: float, label: Callable[[float], str]) -> str:
    """Draw what served, what was asked for, what of it was missed, and the axes."""
    points = panel.points
    short = [point.load if point.load > point.ready else point.ready for point in points]
    ready = [point.ready for point in points]
    parts = [
        f'<path d="{panel.area(short)}" fill="{MISSED}"/>',
        f'<path d="{panel.area(ready)}" fill="{SPOT}"/>',
        f'<path d="{panel.area([point.on_demand for point in points])}" fill="{ON_DEMAND}"/>',
        f'<path d="{panel.steps([round(point.load, 1) for point in points])}" fill="none" stroke="{DEMAND}"/>',
        f'<path d="M{LEFT} {panel.top}V{panel.y(0)}H{WIDE - RIGHT}" fill="none" stroke="#555"/>',
    ]
    tick = 10 if panel.most > 15 else 5
    parts += [
        f'<text x="{LEFT - 6}" y="{panel.y(count) + 4:g}" text-anchor="end">{count}</text>'
        for count in range(0, int(panel.most) + 1, tick)
    ]
    first = points[0].seconds
    at = first - first % every + every if every >= HOUR else first
    while at <= points[-1].seconds:
        anchor = {first: "start", points[-1].seconds: "end"}.get(at, "middle")
        parts.append(
            f'<text x="{panel.x(at):g}" y="{panel.y(0) + 16:g}" text-anchor="{anchor}" fill="#555">{label(at)}</text>'
        )
        at += every
    return "\n".join(parts)


def _key() -> str:
    entries = [(ON_DEMAND, "ready on demand"), (SPOT, "ready on spot"), (MISSED, "missed")]
    parts, x = [], LEFT
    for color, text in entries:
        parts.append(
            f'<rect x="{x}" y="29" width="12" height="12" fill="{color}"/><text x="{x + 17}" y="39">{text}</text>'
        )
        x += 140
    parts.append(
        f'<path d="M{x} 35h20" stroke="{DEMAND}"/><text x="{x + 26}" y="39">demand, in replicas</text>'
    )
    return "\n".join(parts)


def _around(panel: Panel, near: Sequence[Point]) -> str:
    """Mark the hour that is drawn below."""
    left, right = panel.x(near[0].seconds), panel.x(near[-1].seconds)
    return (
        f'<rect x="{left:g}" y="{panel.top}" width="{right - left:g}" height="{panel.high}" fill="none" '
        'stroke="#a33" stroke-dasharray="4 3"/>'
    )


def _story(panel: Panel, loss: Point) -> str:
    """Say beneath the panel what happened when."""
    before = [point for point in panel.points if point.seconds < loss.seconds][-1]
    after = [point for point in panel.points if point.seconds >= loss.seconds]
    soon = [point for point in after if point.seconds < loss.seconds + BRIDGED_WITHIN]
    peak = max(soon, key=lambda point: point.on_demand)
    covered = next((point for point in after if point.ready >= before.ready), after[-1])
    told = (
        f"{before.spot - loss.spot} of {before.spot} on spot are taken back. On demand rises from {before.on_demand} to "
        f"{peak.on_demand}; after {(covered.seconds - loss.seconds) / 60:.0f} min as many serve as before."
    )
    x = panel.x(loss.seconds)
    return (
        f'<path d="M{x:g} {panel.top - 6}V{panel.y(0):g}" stroke="#a33" stroke-dasharray="4 3"/>'
        f'<text x="{LEFT}" y="{panel.y(0) + 34:g}" fill="#222">{told}</text>'
    )


if __name__ == "__main__":
    main()
