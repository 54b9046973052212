"""How long after a node is told of its end is its replacement asked for, on a fleet of 500 nodes and 2,000 pods?

The fleet is full: half of 40 workloads run on demand, the others keep half of their replicas on spot, on twins that the operator made.
One spot node after another gets its notice; it is taken back when all is asked for, and once the fleet stands as before the next one is told. The operator is the
real process with the chart's token; API server, scheduler and market are real, kwok plays the nodes.

Three moments are taken, none of them from the operator:

- *notice*: when the API server had carried out the PATCH that puts the notice's taint on the node, from its audit log.
- *stand-in*: when it had carried out the first PATCH of a source's `deployments/scale` after that: replicas on demand, asked for at once.
- *node*: when the market had answered the first grow of a pool after that, at a proxy before it.

With a Prometheus that hangs there are no metrics, and nothing of this may take longer for it.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tests.bench import figures
from tests.bench.bed import Bed, RunningOperator, laid_out, run, running_operator
from tests.bench.market_tap import Call, MarketTap
from tests.cluster.client import JsonObject
from tests.cluster.faults import FaultProxy, Hang
from tests.cluster.fleet_scene import (
    FLEET_LABEL,
    POOLS,
    SHORT_NODE_TIMERS,
    BurstWorkload,
    FleetScene,
    standard_pools,
)
from tests.cluster.market_process import MarketProcess, on_demand_pool, spot_pool
from tests.cluster.scene import Scene

NAME = "bench_interruption"
NAMESPACE = "bench-interruption"
AIM_SECONDS = 1.0
WORKLOADS, REPLICAS, BASELINE, GPUS = 40, 50, 25, 2
PER_NODE = 4  # pods of two GPUs on a node of eight
NOTICE_SECONDS = 120
NOTICE_TAINT = "aws-node-termination-handler/spot-itn"
LAID_SECONDS, SETTLE_SECONDS = 300, 120
MISSED_SECONDS = 40  # until the operator has missed two collections
# So that a fleet is back where it was within seconds; none of these delays what is measured.
QUICK = {**SHORT_NODE_TIMERS, "evaluationSeconds": 2, "confirmSeconds": 1}
FALLBACK = {"returnStableSeconds": 2, "minResidencySeconds": 1, "provisionTimeoutSeconds": 60}
NO_BREAKER = {"interruptions": 100, "withinSeconds": 1, "openSeconds": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reaction:
    """Seconds from the notice to what was asked for."""

    stand_in: float
    node: float

    @property
    def first(self) -> float:
        return min(self.stand_in, self.node)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A fleet at rest, and an operator that keeps it."""

    bed: Bed
    market: MarketProcess
    operator: RunningOperator
    bursting: Sequence[BurstWorkload]
    spot_nodes: int
    prometheus: FaultProxy
    grown: list[Call]


def bench(*, runs: int, workloads: int) -> None:
    with laid_out(scrape_interval="15s") as bed, _staged(bed, workloads=workloads) as stage:
        found = {"alone": _play(stage, runs=runs)}
        stage.prometheus.add(Hang())
        time.sleep(MISSED_SECONDS)
        found["Prometheus hangs"] = _play(stage, runs=runs)
        _show(found, pods=workloads * REPLICAS)  # before hundreds of nodes are taken down


def _show(found: Mapping[str, Sequence[Reaction]], *, pods: int) -> None:
    figures.show(
        NAME,
        title=f"Notice on a spot node → replacement asked for, {pods // PER_NODE} nodes, {pods} pods (seconds)",
        header=("scenario", "runs", "p50", "p99", "stand-in p50", "p99 ", "node p50", "p99  ", "aim", "met"),
        rows=[_row(scenario, reactions) for scenario, reactions in found.items()],
        notes=(
            "p50, p99: from the notice in the API server to the first of stand-in and node.",
            "stand-in: replicas on demand are written. node: the market has said yes to another node.",
        ),
        details={
            "runs": {
                scenario: [
                    {"stand_in": round(one.stand_in, 3), "node": round(one.node, 3)} for one in reactions
                ]
                for scenario, reactions in found.items()
            }
        },
    )


@contextmanager
def _staged(bed: Bed, *, workloads: int) -> Iterator[Stage]:
    bursting = workloads // 2
    on_spot = math.ceil(bursting * (REPLICAS - BASELINE) / PER_NODE)
    on_demand = workloads * REPLICAS // PER_NODE - on_spot
    sizes = {"od": on_demand, "a": on_spot // 2, "b": on_spot - on_spot // 2}
    grown: list[Call] = []
    # It goes with the control plane: 2,000 pods are not deleted one by one.
    bed.cluster.make_namespace(NAMESPACE)
    scene = Scene(bed.cluster, bed.exporter, namespace=NAMESPACE, pool=NAMESPACE)
    tag = NAMESPACE
    own: dict[str, Any] = {"labels": {FLEET_LABEL: tag}, "maxNodes": 600, "bootSeconds": 1}
    pools = [on_demand_pool(f"{tag}-od", startNodes=sizes["od"], **own)]
    pools += [spot_pool(f"{tag}-{name}", startNodes=sizes[name], **own) for name in ("a", "b")]
    with (
        _open_market(bed, pools) as market,
        MarketTap(market.url, answered=grown.append) as tap,
        FaultProxy(bed.prometheus.url) as prometheus,
    ):
        print(f"{sum(sizes.values())} nodes …", flush=True)
        for name, size in sizes.items():
            market.wait_nodes(f"{tag}-{name}", size, LAID_SECONDS)
        fleet = FleetScene(scene, market)
        standard_pools(fleet, breaker=NO_BREAKER, maxNodes=600)
        fleet.client.patch(f"{POOLS}/{tag}-od", {"spec": {"minNodes": on_demand}})
        settings = {
            "watchNamespaces": [],
            "poolSelector": {FLEET_LABEL: tag},
            "kwok": {"url": tap.url},
            "prometheus": {"url": prometheus.url},
            **QUICK,
        }
        made = _make_workloads(bed, fleet, workloads=workloads, bursting=bursting)
        with running_operator(bed, tag, settings=settings) as operator:
            print("twins …", flush=True)
            stage = Stage(
                bed=bed,
                market=market,
                operator=operator,
                bursting=made,
                spot_nodes=on_spot,
                prometheus=prometheus,
                grown=grown,
            )
            _wait_settled(stage, seconds=LAID_SECONDS)
            yield stage


@contextmanager
def _open_market(bed: Bed, pools: Sequence[JsonObject]) -> Iterator[MarketProcess]:
    """Run a market whose Nodes go with the control plane: to delete 500 takes longer than a client waits."""
    market = MarketProcess(bed.cluster, bed.cluster.folder, pools, seed=0)
    market.start()
    try:
        yield market
    finally:
        market.process.stop(grace_seconds=5)


def _make_workloads(bed: Bed, fleet: FleetScene, *, workloads: int, bursting: int) -> list[BurstWorkload]:
    """Make the workloads and wait until what is to be on demand is Ready."""
    count = {"minReplicas": REPLICAS, "maxReplicas": REPLICAS}
    made = [
        fleet.burst(baseline=BASELINE, replicas=BASELINE, gpus=GPUS, capacity={"fallback": FALLBACK}, **count)
        for _ in range(bursting)
    ]
    for _ in range(workloads - bursting):
        fleet.burst(baseline=REPLICAS, replicas=REPLICAS, gpus=GPUS, capacity={"burst": "Never"}, **count)
    pods = bursting * BASELINE + (workloads - bursting) * REPLICAS
    print(f"{pods} pods on demand …", flush=True)
    bed.wait_ready_pods(pods, seconds=LAID_SECONDS)
    return made


def _wait_settled(stage: Stage, *, seconds: float) -> None:
    """Wait until every bursting workload stands on its two tiers as it should, all Ready, and spot has no node to spare."""
    space = stage.bursting[0].workload.namespace
    wanted = {llm.name: BASELINE for llm in stage.bursting}
    wanted |= {f"{llm.name}-burst": REPLICAS - BASELINE for llm in stage.bursting}

    def settled() -> bool:
        if sum(len(stage.market.machines(pool)) for pool in stage.market.pools[1:]) != stage.spot_nodes:
            return False
        found = stage.bed.cluster.client.get(f"/apis/apps/v1/namespaces/{space}/deployments")["items"]
        counts = {
            item["metadata"]["name"]: item["spec"]["replicas"]
            for item in found
            if item["spec"]["replicas"] == item["status"].get("readyReplicas", 0)
        }
        return all(counts.get(name) == count for name, count in wanted.items())

    stage.bed.cluster.wait_for(settled, seconds, "the fleet is at rest")


def _play(stage: Stage, *, runs: int) -> list[Reaction]:
    """Tell one node after another of its end, and return what happened."""
    reactions = []
    for number in range(runs):
        pool = max(stage.market.pools[1:], key=lambda name: len(stage.market.running(name)))
        mark = stage.bed.cluster.audit_mark()
        stage.grown.clear()
        (instance,) = stage.market.reclaim(pool, count=1, notice_seconds=NOTICE_SECONDS)
        found = _reaction(stage, f"{pool}-{instance}", mark)
        stage.market.cancel_notice(pool, [instance])
        began = time.monotonic()
        _wait_settled(stage, seconds=SETTLE_SECONDS)
        settled = time.monotonic() - began
        print(
            f"  {number + 1}: stand-in {found.stand_in:.3f} s, node {found.node:.3f} s; at rest after {settled:.0f} s",
            flush=True,
        )
        reactions.append(found)
    return reactions


def _reaction(stage: Stage, node: str, mark: int) -> Reaction:
    """Wait for the three moments of one notice."""

    def found() -> Reaction | None:
        events = stage.bed.cluster.audit_events(verbs=("patch", "update"), since=mark)
        notice = next((_answered_at(event) for event in events if _is_notice(event, node)), None)
        stand_in = next(
            (_answered_at(event) for event in events if _is_stand_in(event, stage.operator.account)), None
        )
        grown = next(
            (call.answered for call in stage.grown if call.verb == "grow" and call.status == 200), None
        )
        if notice is None or stand_in is None or grown is None:
            return None
        return Reaction(stand_in=stand_in - notice, node=grown - notice)

    return stage.bed.cluster.wait_for(found, SETTLE_SECONDS, f"{node} is replaced")


def _is_notice(event: JsonObject, node: str) -> bool:
    target = event["objectRef"]
    is_node = target["resource"] == "nodes" and target["name"] == node
    return is_node and NOTICE_TAINT in str(event.get("requestObject"))


def _is_stand_in(event: JsonObject, account: str) -> bool:
    target = event["objectRef"]
    return (
        event["user"]["username"] == account
        and target["resource"] == "deployments"
        and target.get("subresource") == "scale"
        and not target["name"].endswith("-burst")
        and event["responseStatus"]["code"] == 200
    )


def _answered_at(event: JsonObject) -> float:
    return datetime.fromisoformat(event["stageTimestamp"]).timestamp()


def _row(scenario: str, reactions: Sequence[Reaction]) -> tuple[str, ...]:
    firsts = [found.first for found in reactions]
    stand_ins, nodes = [found.stand_in for found in reactions], [found.node for found in reactions]
    shown = [
        f"{figures.quantile(values, share):.2f}"
        for values in (firsts, stand_ins, nodes)
        for share in (0.5, 0.99)
    ]
    met = figures.verdict(value=figures.quantile(firsts, 0.99), aim=AIM_SECONDS)
    return (scenario, str(len(reactions)), *shown, f"{AIM_SECONDS:.0f}", met)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--runs", type=int, default=50, help="notices in each scenario")
    options.add_argument(
        "--workloads", type=int, default=WORKLOADS, help="of 50 pods each, half of them bursting"
    )
    given = options.parse_args()
    return run(lambda: bench(runs=given.runs, workloads=given.workloads))


if __name__ == "__main__":
    sys.exit(main())
