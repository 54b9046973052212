"""Half an hour of trouble: do the laws hold on a fleet that bursts while clouds, people, metrics and processes fail at random?

Three workloads share one on-demand and two spot pools of a market; their demand wanders. Every few seconds something breaks, and is
mended a while later: see `soak_faults`. The laws of `soak_laws` are looked at five times a second, and at each write that the audit
log and a proxy before the market show; nothing is asked of the operator. In the end everything is mended, demand is low, and the
fleet must come to rest: no cordon, no twin that carries anything, no machine more than the baselines need.

Every timer is a twentieth of what is shipped, or its minimum. Ends with 1 where a law was broken. What happened, in order, is in
bench-results/bench_soak.log.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from spillway.api import names
from tests.bench import figures
from tests.bench.bed import Bed, laid_out, run
from tests.bench.market_tap import MarketTap
from tests.bench.soak_faults import Trouble
from tests.bench.soak_laws import CALM, PASSES, PROCESS, Journal, Watcher, World
from tests.cluster.fleet_laws import all_nodes, is_marked
from tests.cluster.fleet_scene import (
    FLEET_LABEL,
    SHORT_NODE_TIMERS,
    BurstWorkload,
    FleetScene,
    standard_pools,
)
from tests.cluster.market_process import on_demand_pool, running_market, spot_pool
from tests.cluster.operator_chart import installed_chart
from tests.cluster.operator_process import running_operator
from tests.cluster.processes import Overdue, wait_until
from tests.cluster.scene import make_scene

NAME = "bench_soak"
BREAKER = {"interruptions": 5, "withinSeconds": 30, "openSeconds": 10}
BOOT_SECONDS = {"least": 0.5, "most": 4}
WALK_SECONDS = 2.0
MOST_DEMAND, LOW_DEMAND = 8.0, 0.2
FAULT_SECONDS = (3.0, 8.0)
TOLD_SECONDS = 10.0
SHOWN_EVENTS = 200
TAKEOVER_SECONDS = 60  # the operator shrinks nothing that it has watched for less
CALM_SECONDS = 480  # the fleet-wide breaker may be open at first, and is for two minutes at least
# All three workloads lose their metrics at once, which opens that breaker: were it so to the end, nothing would ever shrink.
BLINDING_SHARE = 0.4
# For a busy machine: a query that is late must not open it, either.
SETTINGS = {**SHORT_NODE_TIMERS, "prometheus": {"timeoutSeconds": 5}}
FAILED_PASS = "a pass failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """All that plays."""

    bed: Bed
    fleet: FleetScene
    world: World
    watcher: Watcher
    journal: Journal
    workloads: Sequence[BurstWorkload]
    trouble: Trouble
    walk: random.Random


def bench(*, minutes: float, seed: int) -> None:
    journal = Journal()
    with laid_out() as bed, _staged(bed, journal, seed=seed) as stage:
        try:
            _play(stage, minutes=minutes)
            _come_to_rest(stage)
        finally:
            _show(stage, minutes=minutes, seed=seed)
    if journal.breaks:
        sys.exit(1)


@contextmanager
def _staged(bed: Bed, journal: Journal, *, seed: int) -> Iterator[Stage]:
    """Set up market, pools, operator, workloads and those who watch."""
    with make_scene(bed.cluster, bed.exporter, nodes=0) as scene:
        tag = scene.namespace
        labels = {FLEET_LABEL: tag}
        pools = [on_demand_pool(f"{tag}-od", labels=labels, maxNodes=30)]
        pools += [spot_pool(f"{tag}-{name}", labels=labels, bootSeconds=BOOT_SECONDS) for name in ("a", "b")]
        with running_market(bed.cluster, pools, seed=seed) as market:
            world = World(bed.cluster, tag, market)
            watcher = Watcher(world, journal, audit_log=bed.cluster.audit_log)
            tap = MarketTap(market.url, arrived=watcher.asked, answered=watcher.answered)
            own = {"watchNamespaces": [], "poolSelector": {FLEET_LABEL: tag}, "kwok": {"url": tap.url}}
            with (
                installed_chart(bed.cluster, bed.helm, tag, settings=own) as chart,
                tap,
                running_operator(
                    bed.cluster, chart, bed.prometheus, settings=SETTINGS, through_proxies=True
                ) as operator,
            ):
                scene.operator = operator
                operator.wait_deciding()
                world.start()
                fleet = FleetScene(scene, market)
                standard_pools(fleet, breaker=BREAKER, maxNodes=14)
                workloads = _make_workloads(fleet)
                trouble = Trouble(fleet, world, journal, workloads, seed=seed)
                for llm in workloads:
                    llm.until(lambda llm=llm: llm.ready()[0] >= 1, 60, f"{llm.name} serves")
                with watcher:
                    yield Stage(
                        bed=bed,
                        fleet=fleet,
                        world=world,
                        watcher=watcher,
                        journal=journal,
                        workloads=workloads,
                        trouble=trouble,
                        walk=random.Random(seed + 1),  # noqa: S311 - repeatable demand
                    )
                world.stop()
                fleet.strike()


def _make_workloads(fleet: FleetScene) -> list[BurstWorkload]:
    return [
        fleet.burst(baseline=2, replicas=2, demand=1.0, maxReplicas=10),
        fleet.burst(baseline=1, replicas=1, demand=0.5, maxReplicas=10),
        fleet.burst(baseline=3, replicas=3, demand=1.0, minReplicas=2, maxReplicas=8),
    ]


def _play(stage: Stage, *, minutes: float) -> None:
    """Let demand wander and things break until the time is over."""
    chance = random.Random(stage.walk.random())  # noqa: S311 - repeatable beats
    demands = [2.0] * len(stage.workloads)
    end = time.monotonic() + 60 * minutes
    next_fault = next_step = next_told = time.monotonic()
    while (now := time.monotonic()) < end:
        if now >= next_step:
            demands = [
                _wander(stage, llm, demand) for llm, demand in zip(stage.workloads, demands, strict=True)
            ]
            next_step += WALK_SECONDS
        if now >= next_fault:
            stage.trouble.strike(spare_metrics=end - now < 60 * minutes * (1 - BLINDING_SHARE))
            next_fault = now + chance.uniform(*FAULT_SECONDS)
        if now >= next_told:
            _tell(stage, left=end - now)
            next_told += TOLD_SECONDS
        stage.trouble.mend_due()
        _keep_operator(stage)
        time.sleep(0.2)


def _wander(stage: Stage, llm: BurstWorkload, demand: float) -> float:
    """Offer *llm* a little more or less than before, and now and then something else altogether."""
    jumps = stage.walk.random() < 0.04
    moved = stage.walk.uniform(0, MOST_DEMAND) if jumps else demand + stage.walk.gauss(0, 0.5)
    demand = min(MOST_DEMAND, max(LOW_DEMAND, moved))
    llm.workload.offer(demand)
    return demand


def _keep_operator(stage: Stage) -> None:
    """Start an operator that ended by itself, as a kubelet does; it should not have."""
    operator = stage.fleet.scene.operator
    if not stage.trouble.is_operator_to_run():
        return
    code = operator.process.returncode()
    stage.journal.check(PROCESS, code is None, f"exit code {code}\n{operator.tail(12)}")
    if code is not None:
        operator.start()


def _come_to_rest(stage: Stage) -> None:
    """Mend everything, offer little, and wait for each part of calm."""
    stage.trouble.mend_all()
    _keep_operator(stage)
    for llm in stage.workloads:
        llm.workload.offer(LOW_DEMAND)
    stage.journal.note("soak", "everything is mended; demand is low")
    _tell(stage, left=0)
    end = time.monotonic() + TAKEOVER_SECONDS + CALM_SECONDS
    for what, is_so in _parts_of_calm(stage).items():
        _expect_calm(stage, what, is_so, seconds=max(1.0, end - time.monotonic()))
    for what, is_so in _parts_of_calm(stage).items():  # what came to rest must stay so
        stage.journal.check(CALM + what, is_so(), _state(stage))
    gone = stage.workloads[0]
    gone.workload.delete()
    _expect_calm(stage, "a twin goes with its GpuWorkload", lambda: gone.burst == 0, seconds=60)


def _parts_of_calm(stage: Stage) -> dict[str, Callable[[], bool]]:
    fleet, market = stage.fleet, stage.fleet.market
    least = [(llm, llm.workload.stored["spec"]["minReplicas"]) for llm in stage.workloads]
    pods = sum(count for _, count in least)
    return {
        "sources at their minimum": lambda: all(llm.workload.replicas == count for llm, count in least),
        "twins at 0 or gone": lambda: all(llm.burst == 0 for llm in stage.workloads),
        "no twin without its GpuWorkload": lambda: not _orphans(fleet),
        "no machine on spot": lambda: not any(market.machines(pool) for pool in market.pools[1:]),
        "no machine too many on demand": lambda: len(market.machines(market.pools[0])) <= -(-pods // 2),
        "no pool asks for more": lambda: all(
            market.pool(pool)["desired"] == len(market.machines(pool)) for pool in market.pools
        ),
        "no cordon of ours": lambda: not any(map(is_marked, all_nodes(fleet))),
        "all replicas Ready": lambda: all(llm.ready()[0] == count for llm, count in least),
    }


def _orphans(fleet: FleetScene) -> list[str]:
    path = f"/apis/{names.GROUP}/{names.VERSION}/namespaces/{fleet.namespace}/{names.WORKLOAD_PLURAL}"
    uids = {found["metadata"]["uid"] for found in fleet.client.get(path)["items"]}
    twins = fleet.client.get(f"/apis/apps/v1/namespaces/{fleet.namespace}/deployments")["items"]
    owners = {
        found["metadata"]["name"]: found["metadata"].get("labels", {}).get(names.OWNED_BY_LABEL)
        for found in twins
    }
    return [name for name, owner in owners.items() if owner is not None and owner not in uids]


def _expect_calm(stage: Stage, what: str, is_so: Callable[[], bool], *, seconds: float) -> None:
    try:
        wait_until(is_so, seconds, what, every=0.5)
    except Overdue:
        stage.journal.check(CALM + what, False, _state(stage))
        return
    stage.journal.note("soak", f"calm: {what}")
    stage.journal.check(CALM + what, True)


def _state(stage: Stage) -> str:
    fleet = stage.fleet
    tiers = {llm.name: (llm.tiers, llm.ready()) for llm in stage.workloads}
    machines = {
        pool: [(one["node"], one["state"], one["endsAt"]) for one in fleet.market.machines(pool)]
        for pool in fleet.market.pools
    }
    marked = [node["metadata"]["name"] for node in all_nodes(fleet) if is_marked(node)]
    return f"{tiers} {machines} marked {marked}"


def _tell(stage: Stage, *, left: float) -> None:
    """Print where everything stands, in one line."""
    deployments = {
        found["metadata"]["name"]: found["spec"]["replicas"] for found in stage.world.deployments.objects()
    }
    tiers = " ".join(
        f"{deployments.get(llm.name, 0)}+{deployments.get(llm.name + '-burst', 0)}" for llm in stage.workloads
    )
    machines = stage.world.machines()
    sizes = "market away" if machines is None else "/".join(str(len(found)) for found in machines.values())
    checks = sum(tally.checks for tally in stage.journal.tallies.values())
    print(
        f"{left:6.0f} s left  {tiers}  nodes {sizes}  faults {sum(stage.trouble.counts.values())}  "
        f"checks {checks}  breaks {stage.journal.breaks}",
        flush=True,
    )


def _show(stage: Stage, *, minutes: float, seed: int) -> None:
    journal, watcher = stage.journal, stage.watcher
    log = stage.fleet.scene.operator.log()
    failures = log.count(FAILED_PASS)
    journal.check(PASSES, failures == 0, f"{failures} failed; the log says why")
    idle = sorted(watcher.nodes_seen - watcher.nodes_used)
    faults = ", ".join(f"{kind} {count}" for kind, count in sorted(stage.trouble.counts.items()))
    figures.RESULTS.mkdir(exist_ok=True)
    (figures.RESULTS / f"{NAME}.log").write_text("\n".join(journal.events) + "\n")
    (figures.RESULTS / f"{NAME}-operator.log").write_text(log)
    if journal.breaks:
        print("\n".join(["", "The last events:", *journal.events[-SHOWN_EVENTS:]]), flush=True)
    figures.show(
        NAME,
        title=f"Soak: {minutes:g} minutes of random faults, seed {seed}",
        header=("law", "checks", "breaks"),
        rows=[(law, str(tally.checks), str(tally.breaks)) for law, tally in sorted(journal.tallies.items())],
        notes=(
            f"{watcher.samples} looks; {sum(stage.trouble.counts.values())} faults:",
            *_wrapped(faults),
            f"{len(watcher.nodes_seen)} machines ran; {len(idle)} of them never held a pod.",
        ),
        details={
            "faults": stage.trouble.counts,
            "idle_machines": idle,
            "breaks": {law: tally.told for law, tally in journal.tallies.items() if tally.told},
            "last_events": journal.events[-SHOWN_EVENTS:],
        },
    )


def _wrapped(text: str) -> list[str]:
    lines = [""]
    for word in text.split(", "):
        if len(lines[-1]) + len(word) > figures.WIDTH - 6:
            lines.append("")
        lines[-1] += f"{', ' if lines[-1] else '  '}{word}"
    return lines


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--minutes", type=float, default=30, help="how long things break")
    options.add_argument("--seed", type=int, default=7, help="of demand and faults")
    given = options.parse_args()
    return run(lambda: bench(minutes=given.minutes, seed=given.seed))


if __name__ == "__main__":
    sys.exit(main())
