"""Start and stop programs for the parent process, and end all of them when the parent is gone.

Run as a script, never imported: `python supervisor.py`. Requests and answers are JSON lines on stdin and stdout. The parent
holds the other end of stdin, so that even `kill -9` of the parent closes it; a parent-death signal would not do, because it fires
when the *thread* that spawned the child ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

GRACE_SECONDS = 2.0  # an API server with open watches takes more than a minute to leave by itself


class Supervisor:
    """Holds the children by pid; each leads a process group of its own."""

    def __init__(self) -> None:
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, argv: list[str], env: dict[str, str], cwd: str, log: str) -> int:
        with open(log, "ab") as output:  # noqa: PTH123 - no pathlib here: this script starts in 30 ms without it
            child = subprocess.Popen(
                argv,
                env=env,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._children[child.pid] = child
        return child.pid

    def signal(self, pid: int, signum: int) -> None:
        child = self._children[pid]
        if child.poll() is None:
            os.killpg(pid, signum)

    def poll(self, pid: int) -> int | None:
        return self._children[pid].poll()

    def stop(self, pids: list[int], grace_seconds: float) -> None:
        """End the groups of *pids*: politely, then after the grace period by SIGKILL."""
        for pid in pids:
            _kill_group(pid, signal.SIGTERM)
            _kill_group(pid, signal.SIGCONT)  # a stopped process could not act on SIGTERM
        deadline = time.monotonic() + grace_seconds
        while time.monotonic() < deadline and any(self.poll(pid) is None for pid in pids):
            time.sleep(0.02)
        for pid in pids:
            _kill_group(pid, signal.SIGKILL)  # also reaches grandchildren that outlived the leader
            self._children[pid].wait()

    def stop_all(self) -> None:
        self.stop(list(self._children), GRACE_SECONDS)

    def answer(self, request: dict[str, Any]) -> object:
        verb = request.pop("verb")
        return getattr(self, verb)(**request)


def _kill_group(pid: int, signum: int) -> None:
    try:
        os.killpg(pid, signum)
    except (ProcessLookupError, PermissionError):  # macOS says EPERM for a group of zombies
        return


def serve(supervisor: Supervisor) -> None:
    for line in sys.stdin:
        try:
            reply = {"result": supervisor.answer(json.loads(line))}
        except (OSError, KeyError) as exc:
            reply = {"error": f"{type(exc).__name__}: {exc}"}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


def main() -> None:
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # The parent decides when its children go: it closes the pipe. Not SIG_IGN, which the children would inherit.
        signal.signal(signum, lambda *_: None)
    supervisor = Supervisor()
    try:
        serve(supervisor)
    except BrokenPipeError:
        pass
    finally:
        supervisor.stop_all()


if __name__ == "__main__":
    main()
