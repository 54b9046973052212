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
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from tests.cluster import binaries
from tests.cluster.demo.plain import PlainLines
from tests.cluster.demo.play import Show, read_pool
from tests.cluster.demo.stage import Event
from tests.cluster.demo.story import STORY, Act, Moment, PoolNow, Scene, Tiers, broken_promise
from tests.cluster.demo.summary import ON_DEMAND_PRICE, sum_up, summary_lines
from tests.cluster.demo.view import frame, trend
from tests.cluster.processes import wait_until

ROOT = Path(__file__).parents[2]
LONG_WHY = (
    "0 of 7 pods have usable GPU metrics; holding. " + "Check the dcgm-exporter target in Prometheus. " * 6
)


def make_pool(name: str = "h100-spot-a", **over: Any) -> PoolNow:  # noqa: ANN401 - any field
    fields = {
        "is_spot": "spot" in name,
        "ready": 1,
        "target": 1,
        "gpus": 4,
        "gpus_used": 4,
        "reason": "Steady",
    }
    return PoolNow(name=name, cost=Decimal("9.20"), why=LONG_WHY, **{**fields, **over})


POOLS = (make_pool("h100-on-demand"), make_pool("h100-spot-a"), make_pool("h100-spot-b"))


def make_moment(
    act: Act = Act.BURST,
    *,
    seconds: float = 60.0,
    current: int = 5,
    demand: float = 3.6,
    state: str = "Fresh",
    stand_ins: int = 0,
    pools: tuple[PoolNow, ...] = POOLS,
) -> Moment:
    tiers = Tiers(
        on_demand=2 + stand_ins, stand_ins=stand_ins, burst=current - 2, ready_on_demand=2 + stand_ins,
        ready_burst=max(0, current - 2 - stand_ins),
    )  # fmt: skip
    return Moment(
        seconds=seconds, act=act, demand=demand, utilization=0.72 if state == "Fresh" else None, state=state,
        current=current, desired=current, ready=current - 1, loading=1, reason="WithinBand", why=LONG_WHY,
        split=LONG_WHY, tiers=tiers, pools=pools,
    )  # fmt: skip


def make_show(scene: Scene, *moments: Moment) -> Show:
    events = tuple(Event(at=f"2026-11-22T10:00:0{n}Z", reason="ScaledUp", message=LONG_WHY) for n in range(7))
    return Show(scene=scene, moments=moments or (make_moment(scene.act),), events=events)


def drawn(show: Show) -> list[str]:
    console = Console(record=True, width=100, height=40, file=io.StringIO(), force_terminal=True)
    console.print(frame(show))
    return console.export_text().splitlines()


# The view


@pytest.mark.parametrize("scene", STORY, ids=lambda scene: scene.title)
def test_every_scene_fits_a_terminal_of_100_by_31(scene: Scene) -> None:
    lines = drawn(make_show(scene))

    assert len(lines) <= 31
    assert max(map(len, lines)) <= 100
    assert any(scene.look in line for line in lines)


def test_what_stands_in_for_spot_is_told_apart_from_the_baseline() -> None:
    lines = drawn(make_show(STORY[4], make_moment(Act.RECLAIM, current=8, stand_ins=3)))

    assert any("on demand 5 of 5 ready                 ■ ■ ▲ ▲ ▲   ■ baseline" in line for line in lines)
    assert any("on spot 3 of 6 ready                 ■ ■ ■ □ □ □   ■ burst" in line for line in lines)


def test_each_pool_shows_its_nodes_by_state() -> None:
    pool = make_pool(ready=2, booting=1, draining=1, doomed=1)

    line = next(line for line in drawn(make_show(STORY[4], make_moment(pools=(pool,)))) if "spot-a" in line)

    assert "h100-spot-a    ● ● ○ ◌ ▼" in line
    assert "$9.20/h Steady: " in line


def test_a_node_without_a_price_leaves_the_cost_unknown() -> None:
    unpriced = dataclasses.replace(make_pool(), cost=None)

    line = next(
        line for line in drawn(make_show(STORY[1], make_moment(pools=(unpriced,)))) if "cost " in line
    )

    assert "unknown an hour" in line
    assert "$0" not in line


def test_an_unknown_utilization_is_never_drawn_as_zero() -> None:
    blind = make_moment(Act.BLIND, state="Unknown")

    line = next(line for line in drawn(make_show(STORY[7], blind)) if "GPU use" in line)

    assert "unknown" in line
    assert "?" in line
    assert "0 %" not in line.replace("80 %", "")


def test_the_reason_of_the_decision_is_on_the_screen() -> None:
    assert any("stays at 5: WithinBand" in line for line in drawn(make_show(STORY[1])))


def test_a_trend_fills_the_time_between_two_looks() -> None:
    moments = [make_moment(seconds=0.0, demand=8.0), make_moment(seconds=6.0, demand=4.0)]

    bars = trend(moments, lambda moment: moment.demand, highest=8.0, seconds=10.0, width=10)

    assert bars == "██████▅   "


# What is read of the operator


@pytest.mark.parametrize(
    ("nodes", "plan", "counts"),
    [
        pytest.param({"ready": 1}, {"size": 2, "booting": 1}, (1, 1, 0, 0), id="one on its way"),
        pytest.param({"ready": 2}, {"size": 2, "booting": 1}, (2, 0, 0, 0), id="Ready since a moment"),
        pytest.param(
            {"cordoned": 1}, {"size": 2, "booting": 1, "doomed": ["n-1"]}, (0, 1, 0, 1), id="replaced"
        ),
        pytest.param({"ready": 2}, {"size": 2, "draining": ["n-1"]}, (1, 0, 1, 0), id="not cordoned yet"),
    ],
)
def test_each_node_of_a_pool_is_drawn_once(
    nodes: dict[str, int], plan: dict[str, Any], counts: tuple[int, ...]
) -> None:
    states = {"ready": 0, "not_ready": 0, "cordoned": 0, **nodes}
    row = {"name": "a", "capacityType": "Spot", "nodes": states, "gpusAllocatable": 8, "gpusAllocated": None}

    pool = read_pool({**row, "hourlyCost": None, **plan})

    assert (pool.ready, pool.booting, pool.draining, pool.doomed) == counts
    assert pool.cost is None


# Plain lines


def test_plain_lines_tell_changes_and_a_heartbeat_and_nothing_else() -> None:
    told: list[str] = []
    lines = PlainLines(tell=told.append)
    times = [(0.0, 1), (0.5, 1), (1.0, 2), (1.5, 2), (11.0, 2)]

    for seconds, current in times:
        lines.show(make_show(STORY[1], make_moment(seconds=seconds, current=current)))

    assert [line[:4] for line in told] == ["\n0:0", "0:00", "0:00", "0:01", "0:11"]


def test_plain_lines_tell_tiers_nodes_and_dollars() -> None:
    told: list[str] = []
    pools = (make_pool("h100-on-demand", ready=2), make_pool(booting=1), make_pool("h100-spot-b", doomed=1))

    PlainLines(tell=told.append).show(
        make_show(STORY[4], make_moment(Act.RECLAIM, current=8, stand_ins=3, pools=pools))
    )

    assert "ready 2+3|3  nodes 2 1+1 1-1  $27.60/h  WithinBand: " in told[-1]


# What the story promises


def act(act: Act, *counts: int, **over: Any) -> list[Moment]:  # noqa: ANN401 - any field
    """One act, a look a second, through *counts*."""
    return [make_moment(act, seconds=float(n), current=count, **over) for n, count in enumerate(counts)]


def doomed(**over: Any) -> tuple[PoolNow, ...]:  # noqa: ANN401 - any field
    """The pools in the pass that sees the notice: with a replacement asked for, unless *over* says otherwise."""
    return (*POOLS[:2], make_pool("h100-spot-b", **{"ready": 0, "doomed": 1, "target": 2, **over}))


BURST = act(Act.BURST, 2, 5, 8)
RECLAIM = [*act(Act.RECLAIM, 8, pools=doomed(), stand_ins=3), *act(Act.RECLAIM, 8)]
REFUSE = act(Act.REFUSE, 10, 10, stand_ins=2)
RETURN = act(Act.RETURN, 10)
BLIND = act(Act.BLIND, 10, 10, state="Unknown")
FALL = act(Act.FALL, 10, 2, pools=(POOLS[0],))
TOLD = {
    Act.QUIET: act(Act.QUIET, 2, 2, pools=(POOLS[0],)),
    Act.BURST: BURST,
    Act.RECLAIM: RECLAIM,
    Act.REFUSE: REFUSE,
    Act.RETURN: RETURN,
    Act.BLIND: BLIND,
    Act.BACK: act(Act.BACK, 10),
    Act.FALL: FALL,
}


def until(act: Act, *instead: Moment) -> list[Moment]:
    """The story up to the end of *act*, with *instead* in that act's place."""
    order = list(Act)
    before = [moment for name in order[: order.index(act)] for moment in TOLD[name]]
    return [*before, *(instead or TOLD[act])]


def test_a_story_that_holds_breaks_no_promise() -> None:
    assert [broken_promise(until(act), act) for act in Act] == [None] * 8


@pytest.mark.parametrize(
    ("instead", "told"),
    [
        pytest.param(
            [*act(Act.QUIET, 2), dataclasses.replace(make_moment(Act.QUIET, current=3), ups=1)],
            "The operator changed the count although nothing had happened.",
            id="a write in the quiet",
        ),
        pytest.param(
            act(Act.BURST, 2),
            "Replicas did not grow in the burst: demand rose to 3.6 replicas' worth and the count stayed at 2.",
            id="a burst without growth",
        ),
        pytest.param(
            act(Act.BURST, 2, 8, pools=(*POOLS[:2], make_pool("h100-spot-b", ready=0))),
            "The burst left h100-spot-b without a node.",
            id="a burst on one spot pool",
        ),
        pytest.param(
            act(Act.RECLAIM, 8),
            "A spot node was told of its end and the operator never said so.",
            id="a notice nobody mentions",
        ),
        pytest.param(
            [*act(Act.RECLAIM, 8, pools=doomed(target=1)), *RECLAIM],
            "The pass that saw the notice asked for no replacement.",
            id="a replacement one pass late",
        ),
        pytest.param(
            [*RECLAIM, *act(Act.RECLAIM, 8, stand_ins=1)],
            "Spot carried 6 replicas before the notice, and 5 after all was replaced.",
            id="a replacement that never serves",
        ),
        pytest.param(
            act(Act.REFUSE, 10),
            "A spot pool refused, and nothing stood in for it on demand.",
            id="no fallback",
        ),
        pytest.param(
            act(Act.RETURN, 10, stand_ins=2),
            "Spot is back, and 2 replicas still stand in for it on demand.",
            id="no return",
        ),
        pytest.param(
            [*BLIND, *act(Act.BLIND, 9, state="Unknown")],
            "Replicas shrank from 10 to 9 while GPU metrics were away.",
            id="a reduction while blind",
        ),
        pytest.param(
            [*BLIND, *act(Act.BLIND, 10, state="Unknown", pools=POOLS[:2])],
            "Nodes shrank from 3 to 2 while GPU metrics were away.",
            id="a node gone while blind",
        ),
        pytest.param(
            act(Act.BLIND, 10),
            "GPU metrics were away and the operator never said so.",
            id="blindness nobody mentions",
        ),
        pytest.param(
            act(Act.FALL, 10, 3),
            "Replicas did not go after the demand fell: 3 are left where 2 were enough at the start.",
            id="replicas that stay",
        ),
        pytest.param(
            [dataclasses.replace(make_moment(Act.FALL, current=4), tiers=Tiers(on_demand=1, burst=3)), *FALL],
            "The baseline fell from 2 to 1; the burst had to go first.",
            id="the baseline before the burst",
        ),
        pytest.param(
            act(Act.FALL, 2),
            "Nodes did not go after the demand fell: 3 are left where 1 was enough at the start.",
            id="nodes that stay",
        ),
    ],
)
def test_a_broken_promise_is_told(instead: list[Moment], told: str) -> None:
    named = instead[-1].act

    assert broken_promise(until(named, *instead), named) == told


# The numbers at the end


def test_the_summary_sets_what_was_billed_beside_on_demand_nodes_for_the_peak() -> None:
    first = dataclasses.replace(
        make_moment(Act.QUIET, seconds=0.0, current=2, pools=POOLS[:1]), ledger=Decimal("0.50"), ups=1
    )
    taken = make_moment(Act.RECLAIM, seconds=100.0, current=9, stand_ins=4)
    replaced = make_moment(Act.RECLAIM, seconds=140.0, current=9)
    refused = make_moment(Act.REFUSE, seconds=150.0, current=9, stand_ins=2)
    blind = dataclasses.replace(
        make_moment(Act.BLIND, seconds=180.0, current=9, state="Unknown"), reason="MetricsUnknown"
    )
    last = dataclasses.replace(
        make_moment(Act.FALL, seconds=360.0, current=2, pools=POOLS[:1]),
        ledger=Decimal("4.628"), workload_cost=3.0, replica_seconds=120.0, ups=5, downs=3,
    )  # fmt: skip

    found = sum_up([first, taken, replaced, refused, blind, last])

    assert (found.first, found.peak, found.last, found.ups, found.downs) == (2, 9, 2, 4, 3)
    assert (found.reclaimed_stand_ins, found.refused_stand_ins, found.replaced_seconds) == (4, 2, 40.0)
    assert (found.nodes_peak, found.nodes_last, found.blind_nodes, found.blind_replicas) == (3, 1, 3, 9)
    # Nine replicas need three on-demand nodes of 4 GPUs: 3 * 27.52 for a tenth of an hour.
    assert (found.static_nodes, found.static_cost) == (3, Decimal("8.256"))
    assert (found.billed, found.saved_percent) == (Decimal("4.128"), 50)
    assert max(map(len, summary_lines(found))) <= 100


def test_the_price_of_the_static_fleet_is_that_of_the_pool() -> None:
    pools = yaml.safe_load_all((ROOT / "deploy/examples/demo/gpunodepools.yaml").read_text())
    market = yaml.safe_load((ROOT / "deploy/examples/demo/market.yaml").read_text())["pools"]
    prices = {pool["metadata"]["name"]: pool["spec"]["price"]["perNodeHour"] for pool in pools}

    assert Decimal(prices["h100-on-demand"]) == ON_DEMAND_PRICE
    assert prices == {pool["name"]: pool["pricePerHour"] for pool in market}


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
        pytest.param("wanted 2", signal.SIGINT, id="Ctrl-C while it plays"),
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
