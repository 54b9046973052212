"""One performance: say what will be played, set the stage, play, and sum up."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import requests
from rich.console import Console
from rich.live import Live

from tests.cluster import binaries
from tests.cluster.client import ApiError
from tests.cluster.controlplane import KubectlFailed
from tests.cluster.demo.plain import PlainLines
from tests.cluster.demo.play import Player, Show, StoryBroken
from tests.cluster.demo.stage import POLICY, POOLS, ROOT, WORKLOAD, StageFailed, set_stage
from tests.cluster.demo.summary import NEXT_STEPS, sum_up, summary_lines
from tests.cluster.demo.view import HEIGHT, WIDTH, frame
from tests.cluster.operator_chart import HelmFailed
from tests.cluster.processes import Overdue

TROUBLE = (
    binaries.CannotBuild, Overdue, ApiError, requests.RequestException, KubectlFailed, HelmFailed, StageFailed, StoryBroken
)  # fmt: skip


def run(*, closing: Callable[[], None]) -> int:
    """Return 0, or 1 with a sentence when something is missing or the story did not come true.

    *closing* is called before the stage is cleared: from then on nothing may interrupt.
    """
    try:
        _perform(binaries.ensure(), closing)
    except TROUBLE as exc:
        print(exc, file=sys.stderr, flush=True)
        return 1
    return 0


def _perform(programs: binaries.Binaries, closing: Callable[[], None]) -> None:
    _tell(_opening())
    with ExitStack() as stack:
        stage = stack.enter_context(set_stage(programs, _tell))
        stack.callback(closing)
        with _screen() as show:
            moments = Player(stage=stage, show=show).play()
    _tell("\n".join(("", *summary_lines(sum_up(moments)), "", NEXT_STEPS)))


def _tell(line: str) -> None:
    print(line, flush=True)


def _opening() -> str:
    return f"""\
Spillway demo: a burst of demand comes, spills onto spot, and goes, in about 5 minutes.
Ctrl-C ends it at any time.

A user writes this, and no more ({WORKLOAD.name}):

{_manifest(WORKLOAD)}
Default windows are minutes; the demo shortens them by this policy ({POLICY.name}):

{_manifest(POLICY)}
Waits about nodes are shortened too: by `drain` in {POOLS.relative_to(ROOT)}, and by the
operator's settings at the top of tests/cluster/demo/stage.py.
"""


def _manifest(path: Path) -> str:
    """Return the manifest without its comments, indented."""
    lines = path.read_text().splitlines()
    return "".join(f"    {line}\n" for line in lines if not line.lstrip().startswith("#"))


@contextmanager
def _screen() -> Iterator[Callable[[Show], None]]:
    """Give a function that shows a moment: as a live view on a terminal that is large enough, else as plain lines."""
    console = Console()
    is_large = console.width >= WIDTH and console.height >= HEIGHT
    if not console.is_terminal or console.is_dumb_terminal or not is_large:
        if console.is_terminal:
            _tell(f"(A terminal of {WIDTH} by {HEIGHT} or more shows a live view.)")
        yield PlainLines(tell=_tell).show
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        yield lambda show: live.update(frame(show), refresh=True)
