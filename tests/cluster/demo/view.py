"""The show on a terminal, as one frame of at most 100 columns by 30 lines."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tests.cluster.demo.play import Show
from tests.cluster.demo.stage import NAME, NAMESPACE, Event
from tests.cluster.demo.story import BLIND_STATES, EXPECTED_SECONDS, Act, Moment, acts

WIDTH, HEIGHT = 100, 27
TREND_WIDTH = 56
INNER_WIDTH = WIDTH - 4  # inside a panel
BARS = "▁▂▃▄▅▆▇█"
UNKNOWN = "?"
EVENTS_SHOWN = 5
LABEL_WIDTH, VALUE_WIDTH, DECISION_LABEL_WIDTH = 9, 28, 11
COLOURS = {Act.QUIET: "cyan", Act.BURST: "red", Act.BLIND: "yellow", Act.BACK: "yellow", Act.FALL: "green"}

Read = Callable[[Moment], float | None]


def frame(show: Show) -> RenderableType:
    """Return the whole view of this moment."""
    return Group(_heading(show), _scene(show), _figures(show), _decision(show), _events(show.events))


def clock(seconds: float) -> str:
    """Return minutes and seconds, such as 2:05."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def percent(fraction: float | None) -> str:
    """Return `74 %`, or `unknown`: never 0 for what nobody measured."""
    return "unknown" if fraction is None else f"{fraction:.0%}".replace("%", " %")


def trend(
    moments: Sequence[Moment], read: Read, *, highest: float, seconds: float, width: int = TREND_WIDTH
) -> str:
    """Draw the past as *width* bars over *seconds*; `?` where the value was unknown, blank where nobody looked yet."""
    slots: list[list[float | None]] = [[] for _ in range(width)]
    for moment in moments:
        slots[min(width - 1, int(moment.seconds / seconds * width))].append(read(moment))
    drawn = [_bar(values, highest=highest) for values in slots]
    return "".join(_filled(drawn))


def _bar(values: Sequence[float | None], *, highest: float) -> str:
    if not values:
        return " "
    value = values[-1]
    if value is None:
        return UNKNOWN
    return BARS[round(min(1.0, max(0.0, value / highest)) * (len(BARS) - 1))]


def _filled(drawn: Sequence[str]) -> Iterator[str]:
    """Draw a slot that no look fell into like the one before it, up to the present."""
    present = max((index for index, bar in enumerate(drawn) if bar != " "), default=-1)
    last = " "
    for index, bar in enumerate(drawn):
        last = bar if bar != " " or index > present else last
        yield last


def _heading(show: Show) -> Text:
    text = Text(" Spillway demo", style="bold")
    about = f"   {clock(show.now.seconds)} of about {clock(EXPECTED_SECONDS)}   GpuWorkload {NAMESPACE}/{NAME}   Ctrl-C ends it"
    return text.append(about, style="not bold dim")


def _scene(show: Show) -> Panel:
    order = acts()
    title = f" Act {order.index(show.scene.act) + 1} of {len(order)}: {show.scene.title} "
    colour = COLOURS[show.scene.act]
    return Panel(Text(show.scene.look, no_wrap=True), title=Text(title, style=f"bold {colour}"), title_align="left",
                 border_style=colour, width=WIDTH)  # fmt: skip


def _figures(show: Show) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=LABEL_WIDTH, justify="right", style="bold")
    table.add_column(width=VALUE_WIDTH, no_wrap=True)
    table.add_column(width=TREND_WIDTH, no_wrap=True)
    for row in _rows(show):
        table.add_row(*row)
    return table


def _rows(show: Show) -> Iterator[tuple[RenderableType, ...]]:
    now, seconds = show.now, max(EXPECTED_SECONDS, show.now.seconds + 1)
    peak = max(8.0, *(moment.current for moment in show.moments))

    def drawn(read: Read, highest: float, style: str) -> Text:
        return Text(trend(show.moments, read, highest=highest, seconds=seconds), style=style)

    yield "demand", f"{now.demand:g} replicas' worth", drawn(lambda m: m.demand, peak, "magenta")
    seen = Text(percent(now.utilization), style="bold yellow" if now.state in BLIND_STATES else "")
    seen.append("   grows above 80 %", style="dim")
    yield "GPU use", seen, drawn(lambda m: m.utilization, 1.0, "blue")
    yield "replicas", _replicas(now), drawn(lambda m: float(m.ready), peak, "green")
    yield "", "", _acts_line(show, seconds)
    yield "GPUs", f"{now.ready + now.loading} of {show.gpus} held", _gpus(now, show.gpus)


def _replicas(moment: Moment) -> Text:
    text = Text(f"{moment.desired} wanted {moment.ready} ready ")
    return text.append(f"{moment.loading} loading", style="bold yellow" if moment.loading else "dim")


def _acts_line(show: Show, seconds: float) -> Text:
    """Name the acts below the trends, each where it began."""
    begins: dict[Act, int] = {}
    for moment in show.moments:
        begins.setdefault(moment.act, min(TREND_WIDTH - 1, int(moment.seconds / seconds * TREND_WIDTH)))
    text, places = Text(), [*begins.values(), TREND_WIDTH]
    for (act, place), following in zip(begins.items(), places[1:], strict=True):
        room = following - place
        text.append(f"└{act.value}"[:room].ljust(room), style=COLOURS[act])
    return text


def _gpus(moment: Moment, total: int) -> Text:
    free = max(0, total - moment.ready - moment.loading)
    text = Text("■ " * moment.ready, style="green")
    text.append("□ " * moment.loading, style="yellow")
    text.append("· " * free, style="dim")
    text.append("  ■ serving  □ loading  · free", style="dim")
    return text


def _decision(show: Show) -> Panel:
    """Say why the count is what it is now, and what changed it last; always the same height, so that nothing jumps."""
    table = Table.grid(padding=(0, 1))
    table.add_column(width=DECISION_LABEL_WIDTH, style="bold")
    table.add_column(width=INNER_WIDTH - DECISION_LABEL_WIDTH - 2)
    now, change = show.decided, show.change
    table.add_row("now", Text("\n".join([f"{_count(now)}: {now.reason}", *_wrapped(now.why, lines=2)])))
    told = ["none yet", ""]
    if change is not None:
        head = f"{change.before} → {change.after} replicas at {_time(change.at)}: {change.reason}"
        told = [head, *_wrapped(change.why, lines=1)]
    table.add_row("last change", Text("\n".join(told)))
    return Panel(table, title=" Decision ", title_align="left", width=WIDTH)


def _count(moment: Moment) -> str:
    moves = moment.desired != moment.current
    return f"{moment.current} → {moment.desired} replicas" if moves else f"stays at {moment.current}"


def _time(stamp: str) -> str:
    """Return the time of day of a Kubernetes timestamp."""
    return stamp[11:19]


def _wrapped(sentence: str, *, lines: int) -> list[str]:
    """Return exactly *lines* lines."""
    width = INNER_WIDTH - DECISION_LABEL_WIDTH - 2
    found = textwrap.wrap(sentence, width, max_lines=lines, placeholder=" …")
    return found + [""] * (lines - len(found))


def _events(events: Sequence[Event]) -> Panel:
    shown = [_cut(f"{_time(event.at)}  {event.reason}  {event.message}") for event in events[-EVENTS_SHOWN:]]
    lines = shown + [""] * (EVENTS_SHOWN - len(shown))
    return Panel("\n".join(lines), title=" Kubernetes Events ", title_align="left", width=WIDTH)


def _cut(line: str) -> str:
    return line if len(line) <= INNER_WIDTH else line[: INNER_WIDTH - 1] + "…"
