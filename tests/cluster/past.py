"""`make history`: a real Prometheus that remembers a made-up fortnight of one Deployment, left running until Ctrl-C."""

from __future__ import annotations

import math
import random
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from tests.cluster import binaries
from tests.cluster.processes import Overdue
from tests.cluster.prometheus import Prometheus

UTIL, READY = "DCGM_FI_DEV_GPU_UTIL", "kube_pod_status_ready"
# Prometheus marks a series that left a scrape; history from a text file cannot, and a value that is no number stands for it.
GONE = "NaN"
SHORT = 240  # minutes
FORTNIGHT = 14 * 1440
MOST = 16
LOADS_FOR = 5
DOWN = (range(4 * 1440, 4 * 1440 + 45), range(9 * 1440 + 300, 9 * 1440 + 306))  # Prometheus itself was away

Value = Callable[[int], float | str | None]


class Recorder:
    """Writes OpenMetrics up to the Unix time *end*: a value for each minute, sampled four times in it, or one at its end."""

    def __init__(self, end: int) -> None:
        self._end = end
        self._lines: defaultdict[str, list[str]] = defaultdict(list)

    def write(self, name: str, value: Value, *, minutes: int = SHORT, every: int = 0, **labels: str) -> None:
        """Record *value*, which is asked for the minutes from 0 on, each four times or every *every* minutes once.

        None is no sample.
        """
        text = ",".join(f'{label}="{said}"' for label, said in labels.items())
        for minute in range(0, minutes, every or 1):
            if (number := value(minute)) is not None:
                began = self._end - (minutes - minute) * 60
                seconds = (60,) if every else (15, 30, 45, 60)
                self._lines[name] += [f"{name}{{{text}}} {number} {began + after}" for after in seconds]

    def pod(
        self, name: str, percent: Value, *, namespace: str = "team", uuid: str = "", **more: object
    ) -> None:
        """Record the GPU of a pod as dcgm-exporter does whose labels Prometheus does not honour."""
        labels = {
            "job": "dcgm",
            "namespace": "gpu-operator",
            "pod": "dcgm-exporter-x2x4z",
            "UUID": uuid or name,
        }
        self.write(UTIL, percent, **labels, exported_namespace=namespace, exported_pod=name, **more)  # type: ignore[arg-type]

    def readiness(self, name: str, ready: Value, *, namespace: str = "team", **more: object) -> None:
        self.write(READY, ready, condition="true", namespace=namespace, pod=name, **more)  # type: ignore[arg-type]

    def text(self) -> str:
        groups = ("\n".join([f"# TYPE {name} gauge", *lines]) for name, lines in self._lines.items())
        return "\n".join([*groups, "# EOF", ""])


def fortnight(end: int) -> Recorder:
    """Return two weeks of `team/llm-chat` under an HPA at 60 %: days, nights, a quieter weekend, bursts that fill it."""
    rng = random.Random(7)  # noqa: S311 - made up on purpose
    loads = [_load(minute, rng) for minute in range(FORTNIGHT)]
    counts = _scaled(loads)
    recorder = Recorder(end)
    for number in range(MOST):
        name = f"llm-chat-7d9f8c6b5-{'bcdfghjklmnpqrst'[number]}2x4z"
        recorder.pod(
            name, lambda minute, n=number: _busy(minute, n, loads, counts), minutes=FORTNIGHT, every=1
        )  # type: ignore[misc]
        recorder.readiness(
            name, lambda minute, n=number: _ready(minute, n, counts), minutes=FORTNIGHT, every=1
        )  # type: ignore[misc]
    return recorder


def _load(minute: int, rng: random.Random) -> float:
    """Replicas' worth of work; a fortnight begins at midnight, on a Monday."""
    day, hour = minute // 1440 % 7, minute % 1440 / 60
    curve = 4.2 + 3.2 * math.sin((hour - 9) / 24 * 2 * math.pi)
    burst = 5.0 if minute % 1931 < 25 else 0.0
    return max(0.2, (0.6 if day > 4 else 1.0) * curve + burst + rng.gauss(0, 0.25))


def _scaled(loads: list[float]) -> list[int]:
    """What an HPA at 60 % sets: up within a minute, down by one after ten minutes without a need."""
    counts = [8]
    for minute, load in enumerate(loads[:-1]):
        wanted = min(MOST, max(3, math.ceil(load / 0.6)))
        if wanted > counts[-1]:
            counts.append(wanted)
        else:
            counts.append(max(wanted, counts[-1] - (minute % 10 == 0)))
    return counts


def _serving(minute: int, counts: list[int]) -> int:
    return min(counts[max(0, minute - LOADS_FOR) : minute + 1])


def _busy(minute: int, number: int, loads: list[float], counts: list[int]) -> float | str | None:
    if any(minute in down for down in DOWN):
        return GONE
    if number >= counts[minute]:
        return GONE if number < counts[minute - 1] else None
    serving = _serving(minute, counts)
    return round(100 * min(1.0, loads[minute] / serving)) if number < serving else 0


def _ready(minute: int, number: int, counts: list[int]) -> float | str | None:
    if any(minute in down for down in DOWN):
        return GONE
    if number >= counts[minute]:
        return GONE if number < counts[minute - 1] else None
    return int(number < _serving(minute, counts))


def main() -> int:
    """Run until Ctrl-C or SIGTERM; 1 with one sentence where something is missing on the machine."""
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.default_int_handler)
    try:
        programs = binaries.ensure()
        with (
            tempfile.TemporaryDirectory(prefix="spillway-history-", ignore_cleanup_errors=True) as folder,
            Prometheus(programs, Path(folder)) as prometheus,
        ):
            prometheus.backfill(fortnight(int(time.time()) // 60 * 60).text())
            print(
                f"A made-up fortnight of the Deployment team/llm-chat:\n\n  {prometheus.url}\n\nCtrl-C ends it.",
                flush=True,
            )
            threading.Event().wait()
    except KeyboardInterrupt:
        print("\nStopped; no process and no port is left.", flush=True)
    except (binaries.CannotBuild, Overdue) as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
