"""The demo's parts, and that it leaves nothing behind when it is stopped. Its whole story is played by `make demo`."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from tests.cluster import binaries
from tests.cluster.demo.plain import PlainLines
from tests.cluster.demo.play import Show
from tests.cluster.demo.stage import Event
from tests.cluster.demo.story import STORY, Act, Moment, Scene, broken_promise
from tests.cluster.demo.summary import sum_up, summary_lines
from tests.cluster.demo.view import frame, trend
from tests.cluster.processes import wait_until

ROOT = Path(__file__).parents[2]
LONG_WHY = (
    "0 of 7 pods have usable GPU metrics; holding. " + "Check the dcgm-exporter target in Prometheus. " * 6
)


def make_moment(
    act: Act = Act.BURST,
    *,
    seconds: float = 60.0,
    current: int = 5,
    demand: float = 3.6,
    state: str = "Fresh",
) -> Moment:
    return Moment(
        seconds=seconds, act=act, demand=demand, utilization=0.72 if state == "Fresh" else None, state=state,
        current=current, desired=current, ready=current - 1, loading=1, reason="WithinBand", why=LONG_WHY,
    )  # fmt: skip


def make_show(scene: Scene, *moments: Moment) -> Show:
    events = tuple(Event(at=f"2026-11-22T10:00:0{n}Z", reason="ScaledUp", message=LONG_WHY) for n in range(7))
    return Show(scene=scene, moments=moments or (make_moment(scene.act),), events=events, gpus=12)


def drawn(show: Show) -> list[str]:
    console = Console(record=True, width=100, height=30, file=io.StringIO(), force_terminal=True)
    console.print(frame(show))
    return console.export_text().splitlines()


# The view


@pytest.mark.parametrize("scene", STORY, ids=lambda scene: scene.title)
def test_every_scene_fits_a_terminal_of_100_by_30(scene: Scene) -> None:
    lines = drawn(make_show(scene))

    assert len(lines) <= 27
    assert max(map(len, lines)) <= 100
    assert any(scene.look in line for line in lines)


def test_an_unknown_utilization_is_never_drawn_as_zero() -> None:
    blind = make_moment(Act.BLIND, state="Unknown")

    line = next(line for line in drawn(make_show(STORY[5], blind)) if "GPU use" in line)

    assert "unknown" in line
    assert "?" in line
    assert "0 %" not in line.replace("80 %", "")


def test_the_reason_of_the_decision_is_on_the_screen() -> None:
    assert any("stays at 5: WithinBand" in line for line in drawn(make_show(STORY[1])))


def test_a_trend_fills_the_time_between_two_looks() -> None:
    moments = [make_moment(seconds=0.0, demand=8.0), make_moment(seconds=6.0, demand=4.0)]

    bars = trend(moments, lambda moment: moment.demand, highest=8.0, seconds=10.0, width=10)

    assert bars == "██████▅   "


# Plain lines


def test_plain_lines_tell_changes_and_a_heartbeat_and_nothing_else() -> None:
    told: list[str] = []
    lines = PlainLines(tell=told.append)
    times = [(0.0, 1), (0.5, 1), (1.0, 2), (1.5, 2), (11.0, 2)]

    for seconds, current in times:
        lines.show(make_show(STORY[1], make_moment(seconds=seconds, current=current)))

    assert [line[:4] for line in told] == ["\n0:0", "0:00", "0:01", "0:11"]


# What the story promises


def play(*counts: int, blind: int = 5, state: str = "Unknown") -> list[Moment]:
    """A burst through *counts*, then metrics away at *blind* replicas."""
    burst = [make_moment(Act.BURST, seconds=float(n), current=count) for n, count in enumerate(counts)]
    return [*burst, make_moment(Act.BLIND, seconds=50.0, current=blind, state=state)]


def test_a_story_that_holds_breaks_no_promise() -> None:
    moments = [*play(1, 3, 5), make_moment(Act.FALL, seconds=99.0, current=1)]

    assert [broken_promise(moments, act) for act in Act] == [None] * 5


def test_a_burst_without_growth_is_told() -> None:
    broken = broken_promise(play(1, 1)[:-1], Act.BURST)

    assert (
        broken
        == "Replicas did not grow in the burst: demand rose to 3.6 replicas' worth and the count stayed at 1."
    )


def test_a_reduction_while_blind_is_told() -> None:
    broken = broken_promise(play(1, 5, blind=4), Act.BLIND)

    assert broken == "Replicas shrank from 5 to 4 while GPU metrics were away."


def test_blindness_that_nobody_mentions_is_told() -> None:
    broken = broken_promise(play(1, 5, state="Fresh"), Act.BLIND)

    assert broken == "GPU metrics were away and the operator never said so."


def test_replicas_that_stay_after_the_demand_are_told() -> None:
    moments = [*play(1, 5), make_moment(Act.FALL, current=3)]

    broken = broken_promise(moments, Act.FALL)

    assert broken == "Replicas did not go after the demand fell: 3 are left where 1 were enough at the start."


# The numbers at the end


def test_the_summary_counts_what_was_held_against_a_fleet_at_the_peak() -> None:
    first = dataclasses.replace(
        make_moment(Act.BURST, seconds=0.0, current=1), loading=0, gpu_seconds=10.0, ups=1
    )
    blind = dataclasses.replace(
        make_moment(Act.BLIND, seconds=60.0, current=4, state="Unknown"), loading=2, reason="MetricsUnknown"
    )
    last = dataclasses.replace(
        make_moment(Act.FALL, seconds=120.0, current=1),
        loading=0,
        gpu_seconds=130.0,
        replica_seconds=120.0,
        ups=3,
        downs=1,
    )

    found = sum_up([first, blind, last])

    assert (found.first, found.peak, found.last, found.ups, found.downs) == (1, 4, 1, 2, 1)
    # Serving 120 s; two loaded for the 60 s after the second look; four for 120 s stood in the static fleet.
    assert (found.serving_gpu_minutes, found.loading_gpu_minutes, found.static_gpu_minutes) == (2.0, 2.0, 8.0)
    assert found.saved_percent == 50
    assert max(map(len, summary_lines(found))) <= 100


# Being stopped


@pytest.fixture
def demo(built: binaries.Binaries, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The demo as a process of its own, off a terminal; every program it starts carries its TMPDIR."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.cluster.demo"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    yield process
    process.kill()
    process.wait(10)
    assert process.stdout is not None
    process.stdout.close()


def read_until(demo: subprocess.Popen[str], words: str) -> str:
    """Return what was printed up to the line with *words*."""
    assert demo.stdout is not None
    read = ""
    while words not in read:
        line = demo.stdout.readline()
        assert line, f"the demo ended before it printed {words!r}:\n{read}"
        read += line
    return read


def descendants_of(folder: Path) -> list[str]:
    """Return the processes that have *folder* in their arguments or environment."""
    listed = subprocess.run(["ps", "axeww", "-o", "pid,command"], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if str(folder) in line]


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(
    ("words", "signum"),
    [
        pytest.param("wanted 1", signal.SIGINT, id="Ctrl-C while it plays"),
        pytest.param("Prometheus http", signal.SIGTERM, id="SIGTERM while it starts"),
        pytest.param("Starting etcd", signal.SIGHUP, id="terminal closed at once"),
    ],
)
def test_a_stopped_demo_leaves_no_process_and_no_port(
    demo: subprocess.Popen[str], tmp_path: Path, words: str, signum: int
) -> None:
    printed = read_until(demo, words)
    assert descendants_of(tmp_path)

    demo.send_signal(signum)
    rest, _ = demo.communicate(timeout=30)

    assert demo.returncode == 128 + signum
    assert rest.splitlines()[-1] == "Stopped; no process and no port is left."
    wait_until(lambda: not descendants_of(tmp_path), 5, "every process of the demo has ended")
    assert not [port for port in map(int, re.findall(r"127\.0\.0\.1:(\d+)", printed)) if is_open(port)]
    assert list(tmp_path.iterdir()) == []
