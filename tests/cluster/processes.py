"""Programs that the tests start: with a log, a deadline on readiness, and a supervisor so that none outlives us."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

SUPERVISOR = Path(__file__).with_name("supervisor.py")
PORTS = range(
    20000, 32000
)  # below what Linux and macOS hand out for outgoing connections, so none of those can take it

Found = TypeVar("Found")
_handed_out: set[int] = set()
_ports_lock = threading.Lock()


class Overdue(AssertionError):
    """Something did not happen in time."""


class NotReady(Overdue):
    """A program ended or did not become ready before its deadline; the message has the end of its log."""


def free_port() -> int:
    """Return a loopback TCP port that nobody listens on and that this process has not handed out before."""
    with _ports_lock:
        while True:
            port = random.choice(PORTS)  # noqa: S311 - not a secret
            if port not in _handed_out and _is_free(port):
                _handed_out.add(port)
                return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def wait_until(predicate: Callable[[], Found | None], seconds: float, what: str, every: float = 0.1) -> Found:
    """Return the first truthy answer of *predicate*; raise `Overdue` naming *what* after *seconds*."""
    deadline = time.monotonic() + seconds
    while not (answer := predicate()):
        if time.monotonic() >= deadline:
            raise Overdue(f"not within {seconds:g} s: {what} (last answer: {answer!r})")
        time.sleep(every)
    return answer


class Process:
    """One started program."""

    def __init__(self, *, processes: Processes, name: str, pid: int, log: Path) -> None:
        self._processes = processes
        self.name = name
        self.pid = pid
        self.log = log

    def returncode(self) -> int | None:
        """Return the exit code, negative for a signal, or None while it runs."""
        code: int | None = self._processes.ask("poll", pid=self.pid)
        return code

    def running(self) -> bool:
        return self.returncode() is None

    def signal(self, signum: int) -> None:
        """Send *signum* to the program and its children; nothing happens if it has ended."""
        self._processes.ask("signal", pid=self.pid, signum=int(signum))

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait(5)

    def stop(self, grace_seconds: float = 2.0) -> None:
        """End it: SIGTERM, and SIGKILL after *grace_seconds*. Safe to repeat."""
        self._processes.ask("stop", pids=[self.pid], grace_seconds=grace_seconds)

    def wait(self, seconds: float) -> int:
        """Return the exit code once it has ended; raise `Overdue` after *seconds*."""
        wait_until(lambda: not self.running(), seconds, f"{self.name} ends")
        return self.returncode() or 0

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Processes:
    """Starts programs below one supervisor; leaving the context, or dying in any way, ends all of them.

    Logs go to `folder/NAME.log`. Children never inherit our stdout: a pipe to them would never close.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._supervisor: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "supervisor.log").open("ab") as errors:
            self._supervisor = subprocess.Popen(
                [sys.executable, "-S", str(SUPERVISOR)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # Ctrl-C at the terminal must reach only us
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None and supervisor.stdin and supervisor.stdout:
            supervisor.stdin.close()
            supervisor.wait(timeout=15)
            supervisor.stdout.close()

    def start(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        ready: Callable[[], bool] | None = None,
        seconds: float = 30,
    ) -> Process:
        """Start *argv* and wait until *ready* says yes; raise `NotReady` if it ends before or takes over *seconds*.

        *env* is added to our own environment. The log is appended to when a name is used again.
        """
        log = self._folder / f"{name}.log"
        pid: int = self.ask(
            "start",
            argv=[str(word) for word in argv],
            env={**os.environ, **(env or {})},
            cwd=str(cwd or self._folder),
            log=str(log),
        )
        process = Process(processes=self, name=name, pid=pid, log=log)
        if ready is not None:
            _await_ready(process, ready, seconds)
        return process

    def ask(self, verb: str, **arguments: Any) -> Any:  # noqa: ANN401 - an answer is any JSON value
        """Let the supervisor carry out *verb*; raise `RuntimeError` with its words if it cannot."""
        with self._lock:
            supervisor = self._supervisor
            if supervisor is None or supervisor.stdin is None or supervisor.stdout is None:
                raise RuntimeError("no supervisor: use Processes as a context manager")
            supervisor.stdin.write(json.dumps({"verb": verb, **arguments}) + "\n")
            supervisor.stdin.flush()
            line = supervisor.stdout.readline()
        if not line:
            raise RuntimeError("the supervisor has ended")
        reply = json.loads(line)
        if "error" in reply:
            raise RuntimeError(f"{verb} failed: {reply['error']}")
        return reply["result"]


def _await_ready(process: Process, ready: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        code = process.returncode()
        if code is not None or time.monotonic() >= deadline:
            happened = (
                f"ended with code {code}" if code is not None else f"was not ready within {seconds:g} s"
            )
            tail = process.tail()
            process.stop()
            raise NotReady(f"{process.name} {happened}. The end of {process.log}:\n{tail}")
        time.sleep(0.05)
