"""The laws of a soak: what must hold at every moment whatever befalls the fleet, who looks, and what was counted."""

from __future__ import annotations

import json
import math
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from spillway.api import names
from tests.bench.market_tap import Call
from tests.cluster.client import Client, JsonObject
from tests.cluster.controlplane import ControlPlane
from tests.cluster.exporter import Follower
from tests.cluster.fleet_laws import is_marked
from tests.cluster.market_process import MarketProcess, is_usable

SAMPLE_SECONDS = 0.2  # five looks a second
LASTS_SECONDS = 5.0  # status follows the write: a count below what status says is a breach only if it lasts
PUT_BACK_SECONDS = 120.0  # what a human scaled too low is put back, a takeover and a Lease included
NOTICE_TAIL_SECONDS = 10.0  # an eviction asked for under a notice that is taken back may still be on its way
YOUNG_SECONDS = 12.0  # a machine that boots for longer is rightly counted on no more
PEAK_SECONDS = 10.0  # pods may have been homeless so long before a node was asked for
LATE_SECONDS = 5.0  # and may be written so long after it
PODS_PER_NODE = 2
SHOWN_BREAKS = 20
WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})

BASELINE = "source ≥ min(desired, baseline)"
PUT_BACK = "a source scaled below it by hand comes back"
EVICTION = "pods go by eviction, unless the node ends"
FOREIGN = "foreign pods are evicted only from ending nodes"
REMOVAL = "no machine removed under a live pod"
FORGET = "no Node deleted whose machine runs"
GROWTH = "no node asked for that nobody needs"
HUMAN_CORDON = "a human's cordon stays"
PASSES = "no pass fails"
PROCESS = "the operator ends only when told to"
CALM = "calm: "


@dataclass(slots=True)
class Tally:
    """How often a law was checked, how often it was broken, and the first breaks in words."""

    checks: int = 0
    breaks: int = 0
    told: list[str] = field(default_factory=list)


class Journal:
    """Everything that happened, in order, from all threads; and the tallies of the laws."""

    def __init__(self) -> None:
        self.began = time.time()
        self.events: list[str] = []
        self.tallies: dict[str, Tally] = {}
        self._lock = threading.Lock()

    def note(self, source: str, text: str, *, at: float | None = None) -> None:
        line = f"{(at or time.time()) - self.began:8.2f}  {source:<8}  {text}"
        with self._lock:
            self.events.append(line)

    def check(self, law: str, holds: bool, told: str = "") -> None:
        """Count one check of *law*; a break is kept in words and noted."""
        with self._lock:
            tally = self.tallies.setdefault(law, Tally())
            tally.checks += 1
            tally.breaks += not holds
            is_new = not holds and told not in tally.told and len(tally.told) < SHOWN_BREAKS
            if is_new:
                tally.told.append(told)
        if is_new:
            self.note("BREAK", f"{law}: {told}")
            print(f"\nBREAK  {law}: {told}", flush=True)

    @property
    def breaks(self) -> int:
        return sum(tally.breaks for tally in self.tallies.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One look at one tier: pods without a node that stays, and machines that could take them."""

    homeless: int
    spare: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    at: float
    tiers: Mapping[str, Tier]


class World:
    """The cluster as its watches show it, and what the players of the soak have done to it.

    `doomed` nodes are those under notice, gone or vanished: told by whoever plays the cloud, not read from the operator.
    """

    def __init__(self, cluster: ControlPlane, namespace: str, market: MarketProcess) -> None:
        self.namespace = namespace
        self.market = market
        self.deployments = _follower(cluster, f"/apis/apps/v1/namespaces/{namespace}/deployments")
        self.workloads = _follower(
            cluster, f"/apis/{names.GROUP}/{names.VERSION}/namespaces/{namespace}/{names.WORKLOAD_PLURAL}"
        )
        self.pods = _follower(cluster, f"/api/v1/namespaces/{namespace}/pods")
        self.nodes = _follower(cluster, "/api/v1/nodes")
        self.human_cordons: set[str] = set()
        self.scaled_by_hand: dict[str, float] = {}
        self._doomed_until: dict[str, float] = {}
        self._session = requests.Session()
        self._session.trust_env = False

    def start(self) -> None:
        for follower in (self.deployments, self.workloads, self.pods, self.nodes):
            follower.start()

    def stop(self) -> None:
        for follower in (self.deployments, self.workloads, self.pods, self.nodes):
            follower.stop()

    # What the players say

    def doom(self, nodes: Sequence[str]) -> None:
        """These nodes end, or have ended."""
        for node in nodes:
            self._doomed_until[node] = math.inf

    def spare(self, nodes: Sequence[str]) -> None:
        """The end of these nodes was called off."""
        for node in nodes:
            self._doomed_until[node] = time.time() + NOTICE_TAIL_SECONDS

    def is_doomed(self, node: str) -> bool:
        return self._doomed_until.get(node, 0.0) > time.time()

    # What is there

    def live_pods(self, node: str) -> list[str]:
        """Return the names of the pods that run or start on *node* and were not told to go."""
        return [
            pod["metadata"]["name"]
            for pod in self.pods.objects()
            if pod["spec"].get("nodeName") == node and _is_live(pod)
        ]

    def machines(self) -> dict[str, list[JsonObject]] | None:
        """Return by pool what the market has; None while it does not answer."""
        found = {}
        try:
            for pool in self.market.pools:
                answer = self._session.get(f"{self.market.url}/pools/{pool}/machines", timeout=1)
                found[pool] = answer.json()["machines"]
        except (requests.RequestException, ValueError, KeyError):
            return None
        return found


class Watcher:
    """Samples the laws from a thread of its own."""

    def __init__(self, world: World, journal: Journal, *, audit_log: Path) -> None:
        self.world = world
        self.journal = journal
        self.samples = 0
        self.nodes_seen: set[str] = set()
        self.nodes_used: set[str] = set()
        self._accounts = (
            f"system:serviceaccount:{world.namespace}:"  # the operator's is the only one that writes
        )
        self._audit = audit_log.open("rb")
        self._audit.seek(0, 2)
        self._homes: dict[str, str] = {}
        self._running: dict[str, str] = {}
        self._booting: dict[str, float] = {}
        self._low_since: dict[str, float] = {}
        self._looks: deque[Look] = deque(maxlen=300)
        self._growths: deque[Call] = deque()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="soak laws", daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(10)
        self._audit.close()

    # Called by the tap, from its thread

    def asked(self, call: Call) -> None:
        """Judge a removal at the moment that it is asked for; keep growth for later, when what it was for is seen."""
        if call.verb == "remove":
            node = call.body["node"]
            live = [] if self.world.is_doomed(node) else self.world.live_pods(node)
            self.journal.check(REMOVAL, not live, f"{node} had {', '.join(live)}")
        elif call.verb == "grow":
            self._growths.append(call)

    def answered(self, call: Call) -> None:
        told = {key: value for key, value in call.body.items() if key != "token"}
        self.journal.note("market", f"{call.pool} {call.verb} {told} → {call.status}", at=call.came)

    # The thread

    def _run(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            try:
                self._sample()
                self.samples += 1
            except Exception as exc:  # noqa: BLE001 - a thread that dies in silence would see no breach
                self.journal.check("the watch works", False, repr(exc))

    def _sample(self) -> None:
        now = time.time()
        for pod in self.world.pods.objects():
            if pod["spec"].get("nodeName"):
                self._homes[pod["metadata"]["name"]] = pod["spec"]["nodeName"]
                self.nodes_used.add(pod["spec"]["nodeName"])
        machines = self.world.machines()
        if machines is not None:
            self._learn(machines, now)
            self._looks.append(self._look(machines, now))
        self._check_sources(now)
        self._check_cordons()
        self._read_audit()
        self._judge_growth(now)

    def _learn(self, machines: Mapping[str, Sequence[JsonObject]], now: float) -> None:
        everything = [machine for found in machines.values() for machine in found]
        self._running = {machine["node"]: machine["state"] for machine in everything}
        self.nodes_seen |= {machine["node"] for machine in everything if machine["state"] == "Running"}
        for machine in everything:
            if machine["state"] != "Running":
                self._booting.setdefault(machine["node"], now)
            if machine["endsAt"] is not None:
                self.world.doom([machine["node"]])

    def _look(self, machines: Mapping[str, Sequence[JsonObject]], now: float) -> Look:
        nodes = {node["metadata"]["name"]: node for node in self.world.nodes.objects()}
        pods = [pod for pod in self.world.pods.objects() if _is_ours(pod)]
        held = {pod["spec"].get("nodeName") for pod in self.world.pods.objects() if not _is_over(pod)}
        tiers = {}
        for tier in ("on demand", "spot"):
            of_tier = [pod for pod in pods if _tier(pod) == tier and _is_live(pod)]
            adrift = sum(not self._stays(nodes.get(pod["spec"].get("nodeName", ""))) for pod in of_tier)
            unmade = max(0, self._wanted(tier) - len(of_tier))
            spare = sum(
                self._is_spare(machine, nodes.get(machine["node"]), held, now)
                for pool, found in machines.items()
                for machine in found
                if _tier_of_pool(pool) == tier
            )
            tiers[tier] = Tier(homeless=adrift + unmade, spare=spare)
        return Look(at=now, tiers=tiers)

    def _stays(self, node: JsonObject | None) -> bool:
        return node is not None and is_usable(node) and not self.world.is_doomed(node["metadata"]["name"])

    def _is_spare(
        self, machine: JsonObject, node: JsonObject | None, held: set[str | None], now: float
    ) -> bool:
        """Whether a machine could take pods and has none, or will soon."""
        name = machine["node"]
        if name in held or self.world.is_doomed(name):
            return False
        if node is None or not is_usable(node):
            return now - self._booting.get(name, now) < YOUNG_SECONDS
        return not node["spec"].get("unschedulable") and not is_marked(node)

    def _wanted(self, tier: str) -> int:
        return sum(
            found["spec"]["replicas"]
            for found in self.world.deployments.objects()
            if _is_deployment_of(found, tier)
        )

    def _check_sources(self, now: float) -> None:
        counts = {
            found["metadata"]["name"]: found["spec"]["replicas"] for found in self.world.deployments.objects()
        }
        for workload in self.world.workloads.objects():
            name = workload["spec"]["targetRef"]["name"]
            if name in counts:
                self._check_source(name, counts[name], workload, now)

    def _check_source(self, name: str, count: int, workload: JsonObject, now: float) -> None:
        baseline = workload["spec"]["capacity"]["baselineReplicas"]
        surely = min(baseline, workload["spec"]["minReplicas"])
        wanted = min(baseline, workload.get("status", {}).get("desiredReplicas", surely))
        scaled = self.world.scaled_by_hand.get(name)
        if scaled is not None:
            if count >= wanted and now - scaled > 1:
                del self.world.scaled_by_hand[name]
                self.journal.check(PUT_BACK, True)
            elif now - scaled > PUT_BACK_SECONDS:
                self.journal.check(PUT_BACK, False, f"{name} stands at {count}, {wanted} are wanted")
            return
        since = self._low_since.setdefault(name, now) if count < wanted else None
        if since is None:
            self._low_since.pop(name, None)
        holds = count >= surely and (since is None or now - since < LASTS_SECONDS)
        self.journal.check(
            BASELINE, holds, f"{name} stood at {count} with {wanted} (surely {surely}) wanted on demand"
        )

    def _check_cordons(self) -> None:
        for node in self.world.nodes.objects():
            name = node["metadata"]["name"]
            if name in self.world.human_cordons:
                self.journal.check(HUMAN_CORDON, bool(node["spec"].get("unschedulable")), name)

    def _judge_growth(self, now: float) -> None:
        while self._growths and now - self._growths[0].came > LATE_SECONDS:
            call = self._growths.popleft()
            tier = _tier_of_pool(call.pool)
            before = [look for look in self._looks if look.at <= call.came]
            near = [
                look
                for look in self._looks
                if call.came - PEAK_SECONDS <= look.at <= call.came + LATE_SECONDS
            ]
            if not before or not near:
                continue  # the market was away
            spare = before[-1].tiers[tier].spare
            added = call.body["to"] - call.body["before"]
            peak = max(look.tiers[tier].homeless for look in near)
            probes = sum(_tier_of_pool(pool) == tier for pool in self.world.market.pools)
            allowed = math.ceil(peak / PODS_PER_NODE) + probes
            self.journal.check(
                GROWTH,
                spare + added <= allowed,
                f"{call.pool} from {call.body['before']} to {call.body['to']} at {call.came - self.journal.began:.2f} "
                f"with {spare} to spare, for {peak} pods: {allowed} would do",
            )

    def _read_audit(self) -> None:
        while True:
            place = self._audit.tell()
            line = self._audit.readline()
            if not line.endswith(b"\n"):
                self._audit.seek(place)
                return
            if self._accounts.encode() in line:
                event = json.loads(line)
                if event["verb"] in WRITES and event["stage"] == "ResponseComplete":
                    self._judge_write(event)

    def _judge_write(self, event: JsonObject) -> None:
        target, code = event["objectRef"], event["responseStatus"]["code"]
        kind, part = target["resource"], target.get("subresource")
        name = target.get("name", "")
        is_own = event["user"]["username"].startswith(self._accounts)
        if not is_own or kind in ("leases", "events") or part == "status":
            return
        self.journal.note("operator", _in_words(event))
        if kind == "pods" and event["verb"] == "delete":
            doomed = self.world.is_doomed(self._homes.get(name, ""))
            self.journal.check(EVICTION, doomed or code >= 400, f"{name} on {self._homes.get(name)}")
        if kind == "pods" and part == "eviction":
            self.journal.check(EVICTION, True)
            doomed = self.world.is_doomed(self._homes.get(name, ""))
            self.journal.check(FOREIGN, not name.startswith("foreign-") or doomed, name)
        if kind == "nodes" and event["verb"] == "delete":
            runs = self._running.get(name) == "Running" and not self.world.is_doomed(name)
            self.journal.check(FORGET, not runs, name)


def _in_words(event: JsonObject) -> str:
    target = event["objectRef"]
    where = "/".join(filter(None, (target["resource"], target.get("name"), target.get("subresource"))))
    body = event.get("requestObject")
    told = "" if body is None or target["resource"] == "pods" else json.dumps(body)[:150]
    return f"{event['verb']} {where} {event['responseStatus']['code']} {told}"


def _tier_of_pool(pool: str) -> str:
    return "on demand" if pool.endswith("-od") else "spot"


def _tier(pod: JsonObject) -> str:
    labels: Mapping[str, Any] = pod["metadata"].get("labels") or {}
    return "spot" if labels.get(names.CLASS_LABEL) == names.CLASS_BURST else "on demand"


def _is_deployment_of(found: JsonObject, tier: str) -> bool:
    name = found["metadata"]["name"]
    if not name.startswith("llm-"):
        return False
    return bool(name.endswith("-burst")) == (tier == "spot")


def _is_ours(pod: JsonObject) -> bool:
    return bool(pod["metadata"]["name"].startswith("llm-"))


def _is_over(pod: JsonObject) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _is_live(pod: JsonObject) -> bool:
    return not _is_over(pod) and "deletionTimestamp" not in pod["metadata"]


def _follower(cluster: ControlPlane, path: str) -> Follower:
    client: Client = cluster.observer_client()
    return Follower(client, path)
