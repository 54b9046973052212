"""The show on a terminal, as one frame of at most 100 columns by 31 lines."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tests.cluster.demo.play import Show
from tests.cluster.demo.stage import NAME, NAMESPACE, Event
from tests.cluster.demo.story import BLIND_STATES, EXPECTED_SECONDS, Act, Moment, PoolNow, acts

WIDTH, HEIGHT = 100, 31
TREND_WIDTH = 56
INNER_WIDTH = WIDTH - 4  # inside a panel
BARS = "▁▂▃▄▅▆▇█"
UNKNOWN = "?"
EVENTS_SHOWN = 4
LABEL_WIDTH, VALUE_WIDTH, DECISION_LABEL_WIDTH = 9, 28, 11
COLOURS = {
    Act.QUIET: "cyan", Act.BURST: "red", Act.RECLAIM: "magenta", Act.REFUSE: "magenta", Act.RETURN: "blue",
    Act.BLIND: "yellow", Act.BACK: "yellow", Act.FALL: "green",
}  # fmt: skip
POOL_NAME_WIDTH, NODES_WIDTH, GPUS_WIDTH, COST_WIDTH = 14, 19, 11, 9
POOL_WHY_WIDTH = INNER_WIDTH - POOL_NAME_WIDTH - NODES_WIDTH - GPUS_WIDTH - COST_WIDTH - 4

Read = Callable[[Moment], float | None]


def frame(show: Show) -> RenderableType:
    """Return the whole view of this moment."""
    return Group(
        _heading(show),
        _scene(show),
        _figures(show),
        _pools(show.now),
        _decision(show),
        _events(show.events),
    )


def clock(seconds: float) -> str:
    """Return minutes and seconds, such as 2:05."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def percent(fraction: float | None) -> str:
    """Return `74 %`, or `unknown`: never 0 for what nobody measured."""
    return "unknown" if fraction is None else f"{fraction:.0%}".replace("%", " %")


def dollars(amount: Decimal | None) -> str:
    """Return `$45.92`, or `unknown`: a price that nobody knows is not zero."""
    return "unknown" if amount is None else f"${amount:.2f}"


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
    dearest = max(1.0, *(float(moment.cost or 0) for moment in show.moments))
    cost = f"{dollars(now.cost)} an hour, all nodes"
    yield "cost", cost, drawn(lambda m: None if m.cost is None else float(m.cost), dearest, "yellow")
    yield "", "", _acts_line(show, seconds)
    yield "on demand", _count_of(now.tiers.ready_on_demand, now.tiers.on_demand), _on_demand(now)
    yield "on spot", _count_of(now.tiers.ready_burst, now.tiers.burst), _on_spot(now)


def _replicas(moment: Moment) -> Text:
    text = Text(f"{moment.desired} wanted {moment.ready} ready ")
    return text.append(f"□ {moment.loading} due", style="bold yellow" if moment.loading else "dim")


def _count_of(ready: int, wanted: int) -> str:
    return f"{ready} of {wanted} ready"


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


def _on_demand(moment: Moment) -> Text:
    """Draw the baseline first, then what stands in for spot, then what is not ready."""
    tiers = moment.tiers
    baseline = min(tiers.ready_on_demand, tiers.baseline)
    text = Text("■ " * baseline, style="green")
    text.append("▲ " * (tiers.ready_on_demand - baseline), style="bold yellow")
    text.append("□ " * max(0, tiers.on_demand - tiers.ready_on_demand), style="yellow")
    return text.append("  ■ baseline  ▲ stand-in", style="dim")


def _on_spot(moment: Moment) -> Text:
    tiers = moment.tiers
    doomed = min(tiers.doomed, max(0, tiers.burst - tiers.ready_burst))
    text = Text("■ " * tiers.ready_burst, style="cyan")
    text.append("▼ " * doomed, style="bold red")
    text.append("□ " * max(0, tiers.burst - tiers.ready_burst - doomed), style="yellow")
    return text.append("  ■ burst  ▼ taken back", style="dim")


def _pools(moment: Moment) -> Panel:
    """One line a pool: its nodes by state, GPUs held, dollars an hour, and why it is as it is."""
    table = Table.grid(padding=(0, 1))
    for width in (POOL_NAME_WIDTH, NODES_WIDTH, GPUS_WIDTH):
        table.add_column(width=width, no_wrap=True)
    table.add_column(width=COST_WIDTH, justify="right", no_wrap=True)
    table.add_column(width=POOL_WHY_WIDTH, no_wrap=True)
    for pool in moment.pools:
        cost = "unknown" if pool.cost is None else f"${pool.cost:.2f}/h"
        why = _cut(f"{pool.reason}: {pool.why}" if pool.why else pool.reason, POOL_WHY_WIDTH)
        table.add_row(pool.name, _nodes(pool), f"{pool.gpus_used}/{pool.gpus} GPUs", cost, why)
    title = " Pools  ● node ready  ○ booting  ◌ draining  ▼ being taken back "
    return Panel(table, title=title, title_align="left", width=WIDTH)


def _nodes(pool: PoolNow) -> Text:
    text = Text("● " * pool.ready, style="cyan" if pool.is_spot else "green")
    text.append("○ " * pool.booting, style="yellow")
    text.append("◌ " * pool.draining, style="dim")
    text.append("▼ " * pool.doomed, style="bold red")
    if not text.plain:
        text.append("no node", style="dim")
    return text


def _decision(show: Show) -> Panel:
    """Say why the count is what it is now, and what changed it last; always the same height, so that nothing jumps."""
    table = Table.grid(padding=(0, 1))
    table.add_column(width=DECISION_LABEL_WIDTH, style="bold")
    table.add_column(width=INNER_WIDTH - DECISION_LABEL_WIDTH - 2)
    now, change = show.decided, show.change
    why = _wrapped(now.why, lines=2)
    if not why[-1]:
        why.pop()
    table.add_row("now", Text("\n".join([f"{_count(now)}: {now.reason}", *why])))
    table.add_row("placement", Text("\n".join(_wrapped(now.split, lines=3 - len(why)))))
    told = "none yet"
    if change is not None:
        told = f"{change.before} → {change.after} replicas at {_time(change.at)}: {change.reason}"
    table.add_row("last change", Text(told))
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
    shown = [_cut(_told(event), INNER_WIDTH) for event in events[-EVENTS_SHOWN:]]
    lines = shown + [""] * (EVENTS_SHOWN - len(shown))
    return Panel("\n".join(lines), title=" Kubernetes Events ", title_align="left", width=WIDTH)


def _told(event: Event) -> str:
    about = "" if event.about == NAME else f"{event.about}: "
    return f"{_time(event.at)}  {event.reason}  {about}{event.message}"


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else line[: width - 1] + "…"
