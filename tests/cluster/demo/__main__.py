"""Run the demo: `python -m tests.cluster.demo`. Exit code 0, 1 when the story did not come true, 128 + signal when stopped."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
        from tests.cluster.demo.run import run  # half a second of imports, in which Ctrl-C counts already

        return run(closing=_ignore_signals)
    except Stopped as stopped:
        _say_goodbye()
        return stopped.exit_code


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


if __name__ == "__main__":
    sys.exit(main())
