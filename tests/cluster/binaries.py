"""Build the control-plane programs once from pinned Go modules and keep them in the user's cache folder.

`python -m tests.cluster.binaries` builds whatever is missing and prints the folder on stdout; progress goes to stderr.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

TOOLS = Path(__file__).with_name("tools")
KUBERNETES = "v1.36.3"  # as pinned in tools/go.mod; the clients refuse a server without a version
PROGRAMS = (
    "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "etcd", "kwok", "helm", "prometheus", "promtool",
)  # fmt: skip
ENVTEST = ("kube-apiserver", "etcd", "kubectl")  # what KUBEBUILDER_ASSETS holds by convention
BUILT_NAMES = {"server": "etcd"}  # go build names a program after the last part of its import path
BUILD_FLAGS = (
    "-mod=mod",
    "-trimpath",
    "-tags",
    "remove_all_sd",
    "-ldflags",
    f"-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES} -X k8s.io/client-go/pkg/version.gitVersion={KUBERNETES}",
)
PLAIN_LINE_SECONDS = 15  # off a terminal
LINKING_SECONDS = 20  # the nine programs' links, which no package count shows


class CannotBuild(Exception):
    """The programs cannot be built here; the message says what to install or look at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """Where every program lies."""

    folder: Path
    envtest: Path | None = None

    def path(self, name: str) -> Path:
        """Return the file of program *name*, one of `PROGRAMS`; KeyError for any other."""
        if name not in PROGRAMS:
            raise KeyError(name)
        if self.envtest is not None and name in ENVTEST:
            return self.envtest / name
        return self.folder / name


def ensure(*, out: TextIO | None = None) -> Binaries:
    """Return the programs, building them first if this pin was never built by this user on this machine.

    Raises CannotBuild. Two processes at once build once: the second waits for the first.
    """
    out = out or sys.stderr
    go = _go()
    folder = _cache() / _key(go)
    if not _complete(folder):
        with _locked(folder.with_suffix(".lock"), out):
            if not _complete(folder):
                _build(go, folder, out)
    return Binaries(folder=folder, envtest=_envtest())


def _envtest() -> Path | None:
    """Return the folder that KUBEBUILDER_ASSETS names, if it holds all that envtest's convention promises."""
    named = os.environ.get("KUBEBUILDER_ASSETS")
    if not named:
        return None
    missing = [name for name in ENVTEST if not (Path(named) / name).is_file()]
    if missing:
        raise CannotBuild(
            f"KUBEBUILDER_ASSETS={named} has no {', '.join(missing)}; unset it or complete the folder."
        )
    return Path(named)


def _go() -> str:
    """Return the Go version in use; raise CannotBuild if there is none that is new enough."""
    wanted = re.search(r"^go (\d+)\.(\d+)", (TOOLS / "go.mod").read_text(), re.MULTILINE)
    assert wanted is not None
    least = (int(wanted[1]), int(wanted[2]))
    try:
        version = subprocess.run(
            ["go", "env", "GOVERSION"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
            cwd=Path.home(),
        ).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError) as exc:
        raise CannotBuild(
            f"Go is missing: install Go {least[0]}.{least[1]} or newer (https://go.dev/dl) and have `go` on PATH."
        ) from exc
    found = re.match(r"go(\d+)\.(\d+)", version)
    if found and (int(found[1]), int(found[2])) < least:
        raise CannotBuild(
            f"Go {version.removeprefix('go')} is too old: install Go {least[0]}.{least[1]} or newer (https://go.dev/dl)."
        )
    return version


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "spillway" / "control-plane"


def _key(go: str) -> str:
    """Return the cache key: everything that can change the programs."""
    digest = hashlib.sha256()
    for part in (
        (TOOLS / "go.mod").read_bytes(),
        (TOOLS / "go.sum").read_bytes(),
        *map(str.encode, BUILD_FLAGS),
        go.encode(),
    ):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:20]


def _complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in PROGRAMS)


@contextmanager
def _locked(path: Path, out: TextIO) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another process is building the control plane; waiting for it.", file=out, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(go: str, folder: Path, out: TextIO) -> None:
    """Build in a temporary folder and rename it to *folder*, so that a half-built one is never seen."""
    print(
        f"Building Kubernetes {KUBERNETES}, etcd, kwok, helm and Prometheus from Go modules with {go}: about 12 minutes on 2 cores "
        f"the first time, kept in {folder} afterwards.",
        file=out,
        flush=True,
    )
    for abandoned in folder.parent.glob("building-*"):  # by a build that was killed; we hold the lock
        shutil.rmtree(abandoned)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="building-") as scratch:
        module, built = Path(scratch, "module"), Path(scratch, "built")
        shutil.copytree(TOOLS, module)  # -mod=mod may rewrite go.mod and go.sum; never in the checkout
        built.mkdir()
        _compile(module, built, out)
        for made, wanted in BUILT_NAMES.items():
            (built / made).rename(built / wanted)
        if folder.exists():
            shutil.rmtree(folder)
        built.rename(folder)


def _compile(module: Path, built: Path, out: TextIO) -> None:
    environment = {**os.environ, "GOFLAGS": "-buildvcs=false"}
    print("Counting what there is to compile (this downloads the modules) …", file=out, flush=True)
    progress = Progress(total=_stale_packages(module, environment), out=out)
    said: list[str] = []
    with subprocess.Popen(
        ["go", "build", "-v", *BUILD_FLAGS, "-o", str(built), "tool"],
        cwd=module, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as build:  # fmt: skip
        assert build.stderr is not None
        try:
            for line in build.stderr:
                if _names_package(line):
                    progress.advance()
                else:
                    said.append(line)
            build.wait()
        finally:
            build.terminate()  # only if we were interrupted; nothing happens to a program that was waited for
            progress.close()
    if build.returncode != 0:
        raise CannotBuild(_advice("".join(said[-20:])))


def _stale_packages(module: Path, environment: dict[str, str]) -> int:
    """Return how many packages are still to compile: those the build cache has are not printed by `go build -v`."""
    listing = subprocess.run(
        ["go", "list", *BUILD_FLAGS, "-deps", "-f", "{{.StaleReason}}", "tool"],
        cwd=module, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    if listing.returncode != 0:
        raise CannotBuild(_advice(listing.stderr[-2000:]))
    return sum("build cache" not in reason for reason in listing.stdout.splitlines())


def _names_package(line: str) -> bool:
    return re.fullmatch(r"[\w.~+-]+(/[\w.~+-]+)*", line.strip()) is not None


def _advice(words: str) -> str:
    if "no space left" in words:
        hint = "The disk is full: Go needs about 6 GB for modules, build cache and programs."
    elif "dial tcp" in words or "i/o timeout" in words or "no such host" in words:
        hint = "The Go module proxy cannot be reached: look at `go env GOPROXY` and the network."
    else:
        hint = "`go build` failed."
    return f"{hint} Its last words:\n{words.rstrip()}"


class Progress:
    """One line saying how far the build is: rewritten in place on a terminal, printed every 15 s elsewhere.

    A thread of its own says it, because the linker and big packages are silent for a long time.
    """

    def __init__(self, *, total: int, out: TextIO) -> None:
        self._total = total
        self._out = out
        self._done = 0
        self._started = time.monotonic()
        self._closed = threading.Event()
        self._start_of_line, self._end_of_line = ("\r\x1b[K", "") if out.isatty() else ("", "\n")
        self._teller = threading.Thread(target=self._tell, name="progress", daemon=True)
        self._teller.start()

    def advance(self) -> None:
        self._done += 1

    def close(self) -> None:
        self._closed.set()
        self._teller.join()
        line = f"built {self._done} packages and {len(PROGRAMS)} programs in {_duration(self._seconds())}"
        self._out.write(f"{self._start_of_line}{line}\n")
        self._out.flush()

    def _tell(self) -> None:
        while not self._closed.wait(1 if self._out.isatty() else PLAIN_LINE_SECONDS):
            line = progress_line(done=self._done, total=self._total, seconds=self._seconds())
            self._out.write(f"{self._start_of_line}{line}{self._end_of_line}")
            self._out.flush()

    def _seconds(self) -> float:
        return time.monotonic() - self._started


def progress_line(*, done: int, total: int, seconds: float) -> str:
    """Return the line for *done* of *total* packages after *seconds*; no estimate before there is ground for one."""
    if done >= total:
        return f"building control plane  linking {len(PROGRAMS)} programs, {_duration(seconds)} so far"
    start = f"building control plane  {done}/{total} packages, {_duration(seconds)} so far"
    if done < 50 or seconds < 10:
        return start
    left = seconds / done * (total - done) + LINKING_SECONDS
    return f"{start}, about {_rounded(left)} to go"


def _rounded(seconds: float) -> str:
    return f"{round(seconds / 60)} m" if seconds >= 90 else f"{max(10, round(seconds, -1)):.0f} s"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} m {rest} s" if minutes else f"{rest} s"


def main() -> int:
    """Build and print the folder; one sentence and code 1 where that is not possible."""
    try:
        binaries = ensure()
    except CannotBuild as exc:
        print(exc, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "\nStopped; what was compiled so far is kept by Go, the next try goes on from there.",
            file=sys.stderr,
        )
        return 130
    print(binaries.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
