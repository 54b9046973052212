"""Made-up GPU histories for a real Prometheus, each kept apart by its own value of the label `cluster`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

STEP_SECONDS = 15
LENGTH = 80  # 20 minutes: longer than any window that is looked at

Values = float | Sequence[float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One series with a value every 15 s, the newest one `age_seconds` before the recording's end; None is no sample."""

    name: str
    labels: dict[str, str]
    values: tuple[float | None, ...]
    age_seconds: int = 0


def series(name: str, values: Values, *, age_seconds: int = 0, **labels: str) -> Series:
    """Return a series; a single value is held for the whole length, a shorter list ends it."""
    held = (values,) * LENGTH if isinstance(values, int | float) else tuple(values)
    return Series(name=name, labels=labels, values=held, age_seconds=age_seconds)


def rising(start: float = 1000, by: float = 4500) -> list[float]:
    """Return an energy counter's readings."""
    return [start + by * step for step in range(LENGTH)]


def openmetrics(recordings: dict[str, Sequence[Series]], *, end: int) -> str:
    """Return what `promtool tsdb create-blocks-from openmetrics` loads: every recording under its name as `cluster`."""
    by_metric: dict[str, list[str]] = {}
    for cluster, recording in recordings.items():
        for one in recording:
            by_metric.setdefault(one.name, []).extend(_lines(one, cluster=cluster, end=end))
    groups = ("\n".join([f"# TYPE {name} gauge", *lines]) for name, lines in by_metric.items())
    return "\n".join([*groups, "# EOF", ""])


def _lines(one: Series, *, cluster: str, end: int) -> Iterable[str]:
    labels = ",".join(f'{name}="{value}"' for name, value in {**one.labels, "cluster": cluster}.items())
    first = end - one.age_seconds - STEP_SECONDS * (len(one.values) - 1)
    for step, value in enumerate(one.values):
        if value is not None:
            yield f"{one.name}{{{labels}}} {_number(value)} {first + STEP_SECONDS * step}"


def _number(value: float) -> str:
    return "NaN" if value != value else repr(value)  # noqa: PLR0124 - what NaN is
