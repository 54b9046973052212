"""Run the demo: `python -m tests.cluster.demo`. Exit code 0, 1 when the story did not come true, 128 + signal when stopped."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.live import Live

from tests.cluster import binaries
from tests.cluster.client import ApiError
from tests.cluster.controlplane import KubectlFailed
from tests.cluster.demo.plain import PlainLines
from tests.cluster.demo.play import Player, Show, StoryBroken
from tests.cluster.demo.stage import POLICY, WORKLOAD, StageFailed, set_stage
from tests.cluster.demo.summary import NEXT_STEPS, sum_up, summary_lines
from tests.cluster.demo.view import HEIGHT, WIDTH, frame
from tests.cluster.operator_chart import HelmFailed
from tests.cluster.processes import Overdue

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TROUBLE = (binaries.CannotBuild, Overdue, ApiError, KubectlFailed, HelmFailed, StageFailed, StoryBroken)


class Stopped(KeyboardInterrupt):
    """Somebody ends the demo: Ctrl-C, SIGTERM, or a terminal that was closed."""

    def __init__(self, signum: int) -> None:
        super().__init__()
        self.exit_code = 128 + signum


def main() -> int:
    """Play the demo once and return the exit code."""
    for signum in SIGNALS:
        signal.signal(signum, _stop)
    try:
        _play(binaries.ensure())
    except Stopped as stopped:
        _say_goodbye()
        return stopped.exit_code
    except TROUBLE as exc:
        print(exc, file=sys.stderr, flush=True)
        return 1
    return 0


def _stop(signum: int, _frame: FrameType | None) -> None:
    _ignore_signals()
    raise Stopped(signum)


def _ignore_signals() -> None:
    """Let the way out be walked to its end; what is started on it (helm) inherits the deaf ear."""
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


def _say_goodbye() -> None:
    with suppress(OSError):  # the terminal may be gone
        print("\nStopped; no process and no port is left.", flush=True)


def _play(programs: binaries.Binaries) -> None:
    _tell(_opening())
    with ExitStack() as stack:
        stage = stack.enter_context(set_stage(programs, _tell))
        stack.callback(_ignore_signals)
        with _screen() as show:
            moments = Player(stage=stage, show=show).play()
    _tell("\n".join(("", *summary_lines(sum_up(moments)), "", NEXT_STEPS)))


def _tell(line: str) -> None:
    print(line, flush=True)


def _opening() -> str:
    return f"""\
Spillway demo: a burst of demand comes and goes, about 4 minutes. Ctrl-C ends it at any time.

A user writes this, and no more ({WORKLOAD.name}):

{_manifest(WORKLOAD)}
Default windows are minutes; the demo shortens them by this policy ({POLICY.name}):

{_manifest(POLICY)}"""


def _manifest(path: Path) -> str:
    """Return the manifest without its comments, indented."""
    lines = path.read_text().splitlines()
    return "".join(f"    {line}\n" for line in lines if not line.lstrip().startswith("#"))


@contextmanager
def _screen() -> Iterator[Callable[[Show], None]]:
    """Give a function that shows a moment: as a live view on a terminal that is large enough, else as plain lines."""
    console = Console()
    if not console.is_terminal or console.width < WIDTH or console.height < HEIGHT:
        yield PlainLines(tell=_tell).show
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        yield lambda show: live.update(frame(show), refresh=True)


if __name__ == "__main__":
    sys.exit(main())
