"""The simulator agrees with the real control plane: a scenario of `make demo`, played on both, by the counts of each tier.

The demo's own stage plays it on a real API server, scheduler, Prometheus, market and operator, and every change of a count is
recorded as the API server tells it. Then the demand and the cloud's tricks, at the times at which they really came, are played
through `spillway.sim.cluster` with the same files: workload, policy, pools, machines and their boot delays, and the same timers.
Counts are compared, never named: whatever the policy of the day decides, it must decide it in both.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from typing import Any

import pytest
import requests
import yaml

from spillway.adapters.cloud.simulated import Market
from spillway.api.convert import Converted, ConvertedPool, Invalid, to_policy, to_pool, to_workload
from spillway.cli.market.pools import read_pools
from spillway.core.memory import Memory
from spillway.core.model import CapacityType, FleetTimers, NodePool, Workload
from spillway.sim.cluster import BURST, NAMESPACE, SOURCE, SimCluster
from tests.cluster import binaries
from tests.cluster.client import Client, JsonObject
from tests.cluster.demo import stage as demo
from tests.cluster.demo.stage import NAME, Stage, set_stage
from tests.cluster.demo.story import Trick
from tests.cluster.operator_chart import laid_over

pytestmark = pytest.mark.timeout(600)

CALM, BURST_WAVE, REFUSED, NIGHT = 1.0, 2.9, 5.0, 0.8
SCENES: tuple[tuple[float, Trick, float], ...] = (  # demand, what the cloud does, seconds
    (CALM, Trick.NONE, 10),
    (BURST_WAVE, Trick.NONE, 36),
    (REFUSED, Trick.REFUSE, 32),
    (REFUSED, Trick.ACCEPT, 40),
    (NIGHT, Trick.NONE, 100),
)
# By the demo's own timers, which are whole evaluations, ties such as "low for exactly the window" are settled by a millisecond, and
# a fall is followed through the means that lie between two loads, which depend on when Prometheus looked. By these nothing is a tie
# (the up window is compared less a second), growth has seen a whole signal window of its demand, and a fall goes by steps of two.
# Nothing is kept to spare: how much that is may hang on a few readings more or less.
ODD_SPEC: Mapping[str, Any] = {
    "scaleUp": {"windowSeconds": 6},
    "scaleDown": {"windowSeconds": 21, "maxDecreasePercent": 1, "maxDecreaseReplicas": 2},
    "capacity": {
        "missedLoadPercent": "100",
        "fallback": {
            "refusedConfirmSeconds": 3,
            "returnProbeSeconds": 7,
            "returnStableSeconds": 5,
            "minResidencySeconds": 5,
        },
    },
}

START = datetime(2026, 1, 1, tzinfo=UTC)
STEP = timedelta(milliseconds=250)  # the operator's debounce: it cannot see finer
# Before the operator begins the simulated replicas load and settle, as the real ones have done by then.
LEAD = timedelta(seconds=16)
EVALUATION = timedelta(seconds=demo.OPERATOR_SETTINGS["evaluationSeconds"])
WINDOW = timedelta(seconds=demo.OPERATOR_SETTINGS["signalWindowSeconds"])
SCRAPE = timedelta(seconds=demo.OPERATOR_SETTINGS["scrapeSeconds"])
# A demand is in the next scrape, and the query reads its window at whole seconds: Prometheus may show it two scrapes late.
SIGNAL_LAG = 2 * SCRAPE


@dataclass(frozen=True, slots=True, kw_only=True)
class Cue:
    """What happened to the scenario from outside: the demand from now on, and what the cloud does."""

    at: timedelta
    demand: float
    trick: Trick


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A tier is set to another count."""

    at: timedelta
    tier: str
    count: int

    def __str__(self) -> str:
        return f"{self.at.total_seconds():6.1f} s {self.tier} {self.count}"


@dataclass(slots=True)
class Recorder:
    """The demo's stage, with everything that is set on it and every count written down from *began* on."""

    stage: Stage
    client: Client
    began: float = field(default_factory=time.monotonic)
    cues: list[Cue] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)

    @property
    def elapsed(self) -> timedelta:
        return timedelta(seconds=time.monotonic() - self.began)

    def set(self, *, demand: float, trick: Trick) -> None:
        """Do it, and write down when."""
        self.stage.set(demand=demand, blind=False, trick=trick)
        self.cues.append(Cue(at=self.elapsed, demand=demand, trick=trick))

    def watch(self) -> None:
        """Write down every count of both Deployments, as the API server tells it, until it goes."""
        path = f"/apis/apps/v1/namespaces/{demo.NAMESPACE}/deployments"
        found = self.client.get(path)
        counts = {SOURCE: 0, BURST: 0}
        for item in found["items"]:
            counts[_tier(item)] = item["spec"]["replicas"]
        version = found["metadata"]["resourceVersion"]
        with suppress(requests.RequestException):  # the server ends before its watchers
            for event in self.client.watch(path, version=version, seconds=600):
                if event["type"] != "BOOKMARK":
                    self._note(event, counts)

    def _note(self, event: JsonObject, counts: dict[str, int]) -> None:
        item = event["object"]
        tier, count = _tier(item), 0 if event["type"] == "DELETED" else item["spec"]["replicas"]
        if counts[tier] != count:
            counts[tier] = count
            self.changes.append(Change(at=self.elapsed, tier=tier, count=count))


def _tier(deployment: JsonObject) -> str:
    return BURST if deployment["metadata"]["name"] == f"{NAME}-burst" else SOURCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What was set and what came of it, on the real parts."""

    cues: Sequence[Cue]
    changes: Sequence[Change]
    lasted: timedelta


@pytest.fixture(scope="module")
def record() -> Record:
    """The scenario, played once on the real parts."""
    with set_stage(binaries.ensure(), print, noise=0.0) as stage:
        client = stage.observer()
        stage.configure(ODD_SPEC)
        recorder = Recorder(stage=stage, client=client)
        threading.Thread(target=recorder.watch, name="counts", daemon=True).start()
        for demand, trick, seconds in SCENES:
            recorder.set(demand=demand, trick=trick)
            time.sleep(seconds)
        return Record(cues=tuple(recorder.cues), changes=tuple(recorder.changes), lasted=recorder.elapsed)


# The same in simulated time


def _files() -> tuple[Workload, tuple[NodePool, ...]]:
    """Return the workload and the pools of the demo's manifests, as the operator reads them."""
    policy = to_policy(_stored(yaml.safe_load(demo.POLICY.read_text())))
    assert not isinstance(policy, Invalid), policy
    manifest = laid_over(yaml.safe_load(demo.WORKLOAD.read_text()), {"spec": ODD_SPEC})
    raw = _stored(manifest, namespace=NAMESPACE)
    workload = to_workload(raw, policies=[policy], namespace_labels={"spillway.dev/windows": "short"})
    assert isinstance(workload, Converted), workload
    return workload.workload, tuple(map(_pool, yaml.safe_load_all(demo.POOLS.read_text())))


def _stored(manifest: Mapping[str, Any], **metadata: str) -> Mapping[str, Any]:
    """Return a manifest with what the API server adds."""
    server = {
        "uid": f"uid-{manifest['metadata']['name']}",
        "generation": 1,
        "creationTimestamp": START.isoformat(),
    }
    return {**manifest, "metadata": {**manifest["metadata"], **server, **metadata}}


def _pool(manifest: Mapping[str, Any]) -> NodePool:
    found = to_pool(_stored(manifest))
    assert isinstance(found, ConvertedPool), found
    kind = "spot" if found.pool.capacity_type is CapacityType.SPOT else "on-demand"
    # The simulator's burst pods find spot by the label `kind`, the real ones by one affinity term a pool.
    return replace(found.pool, selector={**found.pool.selector, "kind": kind})


def _load_time() -> timedelta:
    deployment = next(iter(yaml.safe_load_all(demo.DEPLOYMENT.read_text())))
    delay = deployment["spec"]["template"]["metadata"]["annotations"]["pod-ready.stage.kwok.x-k8s.io/delay"]
    return timedelta(seconds=float(delay.removesuffix("s")))


def _timers() -> FleetTimers:
    def setting(name: str) -> timedelta:
        return timedelta(seconds=demo.OPERATOR_SETTINGS[name])

    return FleetTimers(
        node_lost=setting("nodeLostSeconds"),
        cordon_settle=setting("cordonSettleSeconds"),
        drain_back_off=setting("drainBackOffSeconds"),
        gone=setting("nodeGoneSeconds"),
        pool_stale=setting("poolStaleSeconds"),
        packing_refused=setting("packingRefusedSeconds"),
    )


def simulated(record: Record, *, beat: timedelta) -> tuple[Change, ...]:
    """Return the changes of the simulator under what was set on the real parts.

    *beat* moves its evaluations: when the operator's own fall between two cues, nobody outside can know.
    """
    workload, pools = _files()
    seed, specs = read_pools(demo.MARKET)
    now = START - LEAD - beat
    cluster = SimCluster(
        workload=workload,
        pools=pools,
        market=Market(specs, now=now - LEAD, seed=seed),  # its first machine runs before there is a pod
        load_time=_load_time(),
        evaluation=EVALUATION,
        hold=timedelta(seconds=demo.OPERATOR_SETTINGS["confirmSeconds"]),
        now=now,
        window=WINDOW,
        scrape=SCRAPE,
        timers=_timers(),
    )
    cluster.begin(2)
    return tuple(_played(cluster, record))


def _played(cluster: SimCluster, record: Record) -> Iterator[Change]:
    cues = list(record.cues)
    demand, counts = cues[0].demand, dict(cluster.counts)
    while cluster.now < START + record.lasted:
        now = cluster.now + STEP
        while cues and START + cues[0].at <= now:
            cue = cues.pop(0)
            demand = cue.demand
            _play_trick(cluster.market, cue.trick, now)
        cluster.step(now, demand)
        if now - STEP < START <= now:
            cluster.memory = Memory()  # the operator begins
        for tier in (SOURCE, BURST):
            count = cluster.counts.get(tier, 0)
            if count != counts.get(tier, 0):
                yield Change(at=now - START, tier=tier, count=count)
        counts = dict(cluster.counts)


def _play_trick(market: Market, trick: Trick, now: datetime) -> None:
    match trick:
        case Trick.RECLAIM:
            market.reclaim(demo.TRICKED_POOL, now=now, count=1)
        case Trick.REFUSE:
            market.refuse(demo.TRICKED_POOL, now=now)
        case Trick.ACCEPT:
            market.accept(demo.TRICKED_POOL, now=now)
        case Trick.NONE:
            pass


def of(tier: str, changes: Sequence[Change]) -> list[Change]:
    return [change for change in changes if change.tier == tier]


def differences(record: Record, played: Sequence[Change]) -> tuple[int, timedelta]:
    """Return how many counts differ, and by how much the times do at most."""
    pairs = [
        pair for tier in (SOURCE, BURST) for pair in zip_longest(of(tier, record.changes), of(tier, played))
    ]
    both = [(real, simulated) for real, simulated in pairs if real is not None and simulated is not None]
    apart = [abs(real.at - simulated.at) for real, simulated in both if real.count == simulated.count]
    return len(pairs) - len(apart), max(apart, default=record.lasted)


@pytest.fixture(scope="module")
def played(record: Record) -> tuple[Change, ...]:
    """The scenario as the simulator plays it, at the beat of evaluations that comes nearest to the operator's own."""
    return min(
        (simulated(record, beat=count * STEP) for count in range(EVALUATION // STEP)),
        key=lambda changes: differences(record, changes),
    )


def told(record: Record, played: Sequence[Change]) -> str:
    """Return both sequences side by side, for a failure."""
    return "\n".join(
        f"{tier}\n  real      {', '.join(map(str, of(tier, record.changes)))}\n"
        f"  simulated {', '.join(map(str, of(tier, played)))}"
        for tier in (SOURCE, BURST)
    )


def test_the_scenario_spills_onto_spot_is_stood_in_for_and_shrinks_again(record: Record) -> None:
    source = [change.count for change in of(SOURCE, record.changes)]
    burst = [change.count for change in of(BURST, record.changes)]

    assert max(burst) > burst[-1]
    assert max(source) > source[-1]


def test_both_tiers_pass_through_the_same_counts(record: Record, played: tuple[Change, ...]) -> None:
    for tier in (SOURCE, BURST):
        real = [change.count for change in of(tier, record.changes)]
        assert [change.count for change in of(tier, played)] == real, told(record, played)


def test_each_change_comes_within_one_evaluation(record: Record, played: tuple[Change, ...]) -> None:
    for tier in (SOURCE, BURST):
        for real, simulated in zip(of(tier, record.changes), of(tier, played), strict=True):
            assert abs(real.at - simulated.at) <= EVALUATION + SIGNAL_LAG, told(record, played)
