"""Recorded demand and spot availability, read from CSV files of the shapes that are published, plain or gzipped.

Demand has a column `t_s` and one of `requests`, `requests_per_min`, `rate_rps`, or the one that is named. Availability has `t_s` and
one column a zone (0, 1, or a count), or the columns `pool`, `t_s`, `instances`. A bad row is an error that names the line and the
column; nothing is half read.
"""

import csv
import gzip
import io
import zlib
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import Final

DEMAND_COLUMNS: Final = ("requests", "requests_per_min", "rate_rps")
TIME: Final = "t_s"
CLOCKS: Final = frozenset({TIME, "utc", "local_time"})  # the same moments for people


class TraceError(ValueError):
    """A file that is no trace: which one, where, what was expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Load in replicas' worth of work, held from each time to the next; `times` in seconds from 0 on."""

    times: tuple[float, ...]
    values: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """How long it lasts: the last value holds for as long as the one before."""
        step = self.times[-1] - self.times[-2] if len(self.times) > 1 else 60.0
        return self.times[-1] + step

    def at(self, seconds: float) -> float:
        """Return the load at a time; the first value before the first time."""
        return self.values[max(0, bisect_right(self.times, seconds) - 1)]

    def scaled_to(self, mean: float) -> "Demand":
        """Return the same shape with this mean over its whole time."""
        total = sum(value * span for value, span in zip(self.values, self._spans(), strict=True))
        factor = mean / (total / self.seconds)
        return Demand(times=self.times, values=tuple(value * factor for value in self.values))

    def part(self, *, start: float, seconds: float) -> "Demand":
        """Return what happens from *start* on for *seconds*, counted from 0."""
        kept = [
            (at, value)
            for at, value in zip(self.times, self.values, strict=True)
            if start < at < start + seconds
        ]
        points = [(start, self.at(start)), *kept]
        return Demand(times=tuple(at - start for at, _ in points), values=tuple(value for _, value in points))

    def _spans(self) -> Iterable[float]:
        ends = (*self.times[1:], self.seconds)
        return (end - at for at, end in zip(self.times, ends, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """How many instances each zone has to give, held from each time to the next. It wraps: after its end it begins again."""

    seconds: float
    zones: Mapping[str, tuple[tuple[float, int], ...]]

    def at(self, zone: str, seconds: float) -> int:
        """Return how many instances *zone* has at a time; nothing before its first point."""
        points = self.zones[zone]
        index = bisect_right(points, (seconds % self.seconds, 1 << 60)) - 1
        return points[index][1] if index >= 0 else 0

    def only(self, pattern: str) -> "Spot":
        """Return the zones whose names match a shell pattern such as `us-east-1*`. Raises TraceError for none."""
        found = {name: points for name, points in self.zones.items() if fnmatchcase(name, pattern)}
        if not found:
            raise TraceError(f"no zone matches {pattern!r}; there are {', '.join(sorted(self.zones))}")
        return Spot(seconds=self.seconds, zones=found)

    def shifted(self, seconds: float) -> "Spot":
        """Return the same availability, begun *seconds* later in the recording."""
        zones = {}
        for name, points in self.zones.items():
            moved = sorted(((at - seconds) % self.seconds, count) for at, count in points)
            zones[name] = ((0.0, self.at(name, seconds)), *(point for point in moved if point[0] > 0))
        return Spot(seconds=self.seconds, zones=zones)

    def times(self, capacity: int) -> "Spot":
        """Return a 0/1 series as one of *capacity* instances."""
        zones = {
            name: tuple((at, count * capacity) for at, count in points) for name, points in self.zones.items()
        }
        return Spot(seconds=self.seconds, zones=zones)


def read_demand(path: Path, column: str | None = None) -> Demand:
    """Read demand in its own unit; scale it with `scaled_to`. Raises TraceError."""
    header, rows = _read(path)
    chosen = column or next((name for name in DEMAND_COLUMNS if name in header), None)
    if chosen is None or chosen not in header:
        wanted = column or " or ".join(DEMAND_COLUMNS)
        raise TraceError(f"{path.name}: no column {wanted}; it has {', '.join(header)}")
    points = [(_number(path, line, row, TIME), _number(path, line, row, chosen)) for line, row in rows]
    _check_order(path, [at for at, _ in points])
    first = points[0][0]
    return Demand(times=tuple(at - first for at, _ in points), values=tuple(value for _, value in points))


def read_spot(path: Path) -> Spot:
    """Read availability of all zones. Raises TraceError."""
    header, rows = _read(path)
    if {"pool", "instances"} <= set(header):
        return _by_rows(path, rows)
    names = [name for name in header if name not in CLOCKS]
    if not names:
        raise TraceError(f"{path.name}: no zone beside {TIME}; expected one column a zone")
    if "" in names:
        raise TraceError(
            f"{path.name}: column {header.index('') + 1} of line 1 has no name; expected a zone's"
        )
    times = [_number(path, line, row, TIME) for line, row in rows]
    _check_order(path, times)
    zones = {
        name: _changes(
            (at - times[0], _count(path, line, row, name))
            for at, (line, row) in zip(times, rows, strict=True)
        )
        for name in names
    }
    return Spot(seconds=_length(times), zones=zones)


Rows = Sequence[tuple[int, Mapping[str, str]]]


def _by_rows(path: Path, rows: Rows) -> Spot:
    grouped: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for line, row in rows:
        at, count = _number(path, line, row, TIME), _count(path, line, row, "instances")
        if not row["pool"]:
            raise TraceError(f"{path.name}, line {line}, column pool: {row['pool']!r}; expected a name")
        grouped[row["pool"]].append((at, count))
    longest = max(points[-1][0] for points in grouped.values())
    for name, points in grouped.items():
        _check_order(path, [at for at, _ in points], what=f"of pool {name}")
    return Spot(seconds=longest + 60.0, zones={name: _changes(points) for name, points in grouped.items()})


def _read(path: Path) -> tuple[list[str], Rows]:
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as exc:
        raise TraceError(f"{path}: cannot be read ({exc}); give a CSV file, plain or .gz") from exc
    reader = csv.DictReader(io.StringIO(text))
    try:
        header = list(reader.fieldnames or ())
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as exc:
        raise TraceError(f"{path.name}, line {reader.reader.line_num}: no CSV ({exc})") from exc
    _check_header(path, header)
    if not rows:
        raise TraceError(f"{path.name}: no row after the header; expected at least one")
    for line, row in rows:
        if None in row:  # where DictReader puts cells that no column is for
            count = len(header) + len(row[None])
            raise TraceError(f"{path.name}, line {line}: {count} cells; expected {len(header)}")
    return header, rows


def _check_header(path: Path, header: Sequence[str]) -> None:
    if TIME not in header:
        raise TraceError(f"{path.name}: no column {TIME} in line 1; it has {', '.join(header) or 'nothing'}")
    for name in header:
        if name and header.count(name) > 1:
            raise TraceError(f"{path.name}: column {name} twice in line 1; expected once")


def _number(path: Path, line: int, row: Mapping[str, str], column: str) -> float:
    text = row.get(column)
    try:
        value = float("" if text is None or "_" in text else text)  # Python reads 1_000, CSV does not
    except ValueError:
        raise TraceError(f"{path.name}, line {line}, column {column}: {text!r} is no number") from None
    if not 0 <= value < float("inf"):
        raise TraceError(f"{path.name}, line {line}, column {column}: {text} must be from 0 on and finite")
    return value


def _count(path: Path, line: int, row: Mapping[str, str], column: str) -> int:
    text = row.get(column)
    value = (
        0.0 if text == "" else _number(path, line, row, column)
    )  # an empty cell: not known, so not to be had
    if value != int(value):
        raise TraceError(f"{path.name}, line {line}, column {column}: {text} is no whole number of instances")
    return int(value)


def _check_order(path: Path, times: Sequence[float], what: str = "") -> None:
    for earlier, later in pairwise(times):
        if later <= earlier:
            raise TraceError(
                f"{path.name}: {TIME} {what} goes from {earlier:g} to {later:g}; it must only grow"
            )


def _changes(points: Iterable[tuple[float, int]]) -> tuple[tuple[float, int], ...]:
    kept: list[tuple[float, int]] = []
    for at, count in points:
        if not kept or kept[-1][1] != count:
            kept.append((at, count))
    return tuple(kept)


def _length(times: Sequence[float]) -> float:
    step = times[-1] - times[-2] if len(times) > 1 else 60.0
    return times[-1] - times[0] + step
