"""What befalls a soak: faults of cloud, people, metrics and processes, each with its own mending, drawn at random."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import requests

from tests.bench.soak_laws import Journal, World
from tests.cluster.client import ApiError, JsonObject
from tests.cluster.exporter import WORKLOAD_LABEL, Fault
from tests.cluster.faults import Hang
from tests.cluster.fleet_scene import BurstWorkload, FleetScene
from tests.cluster.market_process import ApiFaultKind
from tests.cluster.scene import SECONDS

QUERY = r"/api/v1/query"
API_FAULTS: Sequence[ApiFaultKind] = ("Throttle", "Fail", "Hang", "LoseAnswer", "Stale")
BOOT_SECONDS = 1.0
OF_METRICS = frozenset({"Prometheus hangs", "GPU metrics vanish"})

Mend = Callable[[], None]


@dataclass(slots=True)
class Due:
    """A mending that waits for its time."""

    what: str
    at: float
    mend: Mend


class Trouble:
    """Plays one fault at a time out of `kinds`; `mend_due` ends those whose time has come, `mend_all` every one."""

    def __init__(
        self,
        fleet: FleetScene,
        world: World,
        journal: Journal,
        workloads: Sequence[BurstWorkload],
        *,
        seed: int,
    ) -> None:
        self.fleet = fleet
        self.world = world
        self.journal = journal
        self.workloads = workloads
        self.counts: dict[str, int] = {}
        self._random = random.Random(seed)  # noqa: S311 - repeatable trouble
        self._due: list[Due] = []
        self._market_runs = True
        self._operator_runs = True
        self._serial = 0

    @property
    def kinds(self) -> dict[str, tuple[int, Callable[[], str | None]]]:
        """Every fault with its weight. Each returns what it did in words, or None where there was nothing to do it to."""
        return {
            "notice": (4, self._notice),
            "no notice": (2, self._no_notice),
            "notice taken back": (2, self._take_back),
            "refusal": (3, self._refuse),
            "vanish": (2, self._vanish),
            "never boot": (2, self._never_boot),
            "cloud API": (3, self._api_fault),
            "market killed": (1, self._kill_market),
            "operator killed": (2, self._kill_operator),
            "operator paused": (1, self._pause_operator),
            "watches cut": (1, self._cut_watches),
            "Prometheus hangs": (1, self._hang_prometheus),
            "GPU metrics vanish": (1, self._vanish_metrics),
            "human cordon": (2, self._cordon),
            "foreign pod": (2, self._foreign_pod),
            "budget": (2, self._budget),
            "twin deleted": (1, self._delete_twin),
            "twin edited": (1, self._edit_twin),
            "source scaled": (2, self._scale_source),
            "rollout": (1, self._roll_out),
        }

    def strike(self, *, spare_metrics: bool) -> None:
        """Play one fault at random; with *spare_metrics* none that blinds all workloads at once."""
        kinds = {
            kind: found for kind, found in self.kinds.items() if not (spare_metrics and kind in OF_METRICS)
        }
        kind = self._random.choices(list(kinds), [weight for weight, _ in kinds.values()])[0]
        try:
            told = kinds[kind][1]()
        except (ApiError, requests.RequestException, StopIteration) as exc:
            self.journal.note("fault", f"{kind}: could not be played: {exc!r}"[:200])
            return
        if told is not None:
            self.counts[kind] = self.counts.get(kind, 0) + 1
            self.journal.note("fault", f"{kind}: {told}")

    def mend_due(self, *, everything: bool = False) -> None:
        """End the faults whose time has come."""
        now = time.monotonic()
        due = [found for found in self._due if everything or found.at <= now]
        self._due = [found for found in self._due if found not in due]
        for found in due:
            try:
                found.mend()
            except (ApiError, requests.RequestException) as exc:
                self.journal.note("mended", f"{found.what}: {exc!r}"[:200])
                self._due.append(Due(found.what, now + 2, found.mend))
                continue
            self.journal.note("mended", found.what)

    def mend_all(self) -> None:
        """End every fault, and what no mending was planned for: clouds, budgets, foreign pods, cordons, metrics."""
        deadline = time.monotonic() + SECONDS
        while self._due and time.monotonic() < deadline:
            self.mend_due(everything=True)
        for pool in self.fleet.market.pools:
            self.fleet.market.mend_api(pool)
            self.fleet.market.accept(pool)
            self.fleet.market.set_boot(pool, BOOT_SECONDS)

    def _later(self, what: str, mend: Mend, *, least: float, most: float) -> None:
        self._due.append(Due(what, time.monotonic() + self._random.uniform(least, most), mend))

    def _delete(self, path: str) -> None:
        self.fleet.client.delete(path, gracePeriodSeconds=0)

    # The cloud

    def _pool(self, *, spot: bool = True) -> str:
        pools = self.fleet.market.pools
        return self._random.choice(pools[1:] if spot else pools)

    def _reclaimed(self, pool: str, *, seconds: float, count: int) -> str | None:
        if not self._market_runs:
            return None
        ids = self.fleet.market.reclaim(pool, count=count, notice_seconds=seconds)
        ended = [f"{pool}-{one}" for one in ids] if seconds == 0 else self._nodes_of(pool, ids)
        self.world.doom(ended)
        return f"{ended} with {seconds:.0f} s" if ended else None

    def _nodes_of(self, pool: str, ids: Sequence[str]) -> list[str]:
        return [found["node"] for found in self.fleet.market.machines(pool) if found["id"] in ids]

    def _notice(self) -> str | None:
        seconds, count = self._random.uniform(3, 25), self._random.choice((1, 1, 2))
        return self._reclaimed(self._pool(), seconds=seconds, count=count)

    def _no_notice(self) -> str | None:
        if not self._market_runs:
            return None
        pool = self._pool()
        running = self.fleet.market.running(pool)
        if not running:
            return None
        self.world.doom(running[:1])
        self.fleet.market.reclaim(pool, count=1, notice_seconds=0)
        return f"{running[0]} ends at once"

    def _take_back(self) -> str | None:
        if not self._market_runs:
            return None
        for pool in self.fleet.market.pools:
            ids = self.fleet.market.cancel_notice(pool)
            if ids:
                nodes = self._nodes_of(pool, ids)
                self.world.spare(nodes)
                return f"{nodes} stay"
        return None

    def _refuse(self) -> str | None:
        if not self._market_runs:
            return None
        pool = self._pool()
        self.fleet.market.refuse(pool)
        self._later(f"refusal of {pool}", lambda: self.fleet.market.accept(pool), least=5, most=25)
        return pool

    def _vanish(self) -> str | None:
        if not self._market_runs:
            return None
        pool = self._pool(spot=False)
        running = self.fleet.market.running(pool)
        if not running:
            return None
        self.world.doom(running[:1])
        self.fleet.market.vanish(pool, 1)
        return running[0]

    def _never_boot(self) -> str | None:
        if not self._market_runs:
            return None
        pool = self._pool()
        self.fleet.market.never_boot(pool)
        mend = lambda: self.fleet.market.set_boot(pool, BOOT_SECONDS)  # noqa: E731 - one mending
        self._later(f"never boot of {pool}", mend, least=5, most=20)
        return pool

    def _api_fault(self) -> str | None:
        if not self._market_runs:
            return None
        pool, kind = self._pool(spot=False), self._random.choice(API_FAULTS)
        self.fleet.market.api_fault(pool, kind, calls=["describe"] if kind == "Stale" else [])
        self._later(f"{kind} of {pool}", lambda: self.fleet.market.mend_api(pool), least=2, most=12)
        return f"{kind} of {pool}"

    def _kill_market(self) -> str | None:
        if not self._market_runs:
            return None
        self.fleet.market.kill()
        self._market_runs = False
        self._later("market", self._start_market, least=2, most=10)
        return "SIGKILL"

    def _start_market(self) -> None:
        self.fleet.market.start()
        self._market_runs = True

    # The operator

    def _kill_operator(self) -> str | None:
        if not self._operator_runs:
            return None
        self._operator_runs = False
        self.fleet.scene.operator.kill()
        self._later("operator", self._start_operator, least=0, most=6)
        return "SIGKILL"

    def _start_operator(self) -> None:
        self.fleet.scene.operator.start()
        self._operator_runs = True

    def _pause_operator(self) -> str | None:
        if not self._operator_runs:
            return None
        self._operator_runs = False
        self.fleet.scene.operator.pause()
        self._later("operator resumed", self._resume_operator, least=1, most=12)
        return "SIGSTOP"

    def _resume_operator(self) -> None:
        self.fleet.scene.operator.resume()
        self._operator_runs = True

    def is_operator_to_run(self) -> bool:
        return self._operator_runs

    def _cut_watches(self) -> str:
        return f"{self.fleet.scene.operator.api.cut_open('watch=')} of them"

    # Metrics

    def _hang_prometheus(self) -> str:
        proxy = self.fleet.scene.operator.prometheus
        rule = proxy.add(Hang(), path=QUERY)

        def mend() -> None:
            proxy.remove(rule)
            proxy.cut_open()

        self._later("Prometheus", mend, least=4, most=15)
        return "queries are not answered"

    def _vanish_metrics(self) -> str:
        exporter, space = self.fleet.scene.exporter, self.fleet.namespace
        exporter.set_fault(Fault.VANISH, space)
        self._later("GPU metrics", lambda: exporter.set_fault(None, space), least=4, most=15)
        return "no series"

    # People

    def _cordon(self) -> str | None:
        nodes = [name for name in self._steady_nodes() if name not in self.world.human_cordons]
        if not nodes:
            return None
        name = self._random.choice(nodes)
        path = f"/api/v1/nodes/{name}"
        self.fleet.client.patch(path, {"spec": {"unschedulable": True}})
        self.world.human_cordons.add(name)

        def mend() -> None:
            self.world.human_cordons.discard(name)
            if self.fleet.client.find(path) is not None:
                self.fleet.client.patch(path, {"spec": {"unschedulable": None}})

        self._later(f"cordon of {name}", mend, least=5, most=25)
        return name

    def _steady_nodes(self) -> list[str]:
        market = {pool: pool for pool in self.fleet.market.pools}
        return [
            node["metadata"]["name"]
            for node in self.world.nodes.objects()
            if node["metadata"].get("labels", {}).get("pool") in market
            and not node["spec"].get("unschedulable")
            and not self.world.is_doomed(node["metadata"]["name"])
        ]

    def _foreign_pod(self) -> str | None:
        nodes = self._steady_nodes()
        if not nodes:
            return None
        node, name = self._random.choice(nodes), f"foreign-{uuid.uuid4().hex[:6]}"
        path = f"/api/v1/namespaces/{self.fleet.namespace}/pods"
        self.fleet.client.post(path, _bare_pod(name, node))
        self._later(name, lambda: self._delete(f"{path}/{name}"), least=8, most=40)
        return f"{name} for {node}"

    def _budget(self) -> str:
        llm, may_miss = self._random.choice(self.workloads), self._random.choice((0, 1))
        self._serial += 1
        name = f"budget-{self._serial}"
        path = f"/apis/policy/v1/namespaces/{self.fleet.namespace}/poddisruptionbudgets"
        spec = {"maxUnavailable": may_miss, "selector": {"matchLabels": {WORKLOAD_LABEL: llm.name}}}
        self.fleet.client.post(path, {"metadata": {"name": name}, "spec": spec})
        self._later(name, lambda: self._delete(f"{path}/{name}"), least=8, most=40)
        return f"{llm.name} may miss {may_miss}"

    def _delete_twin(self) -> str | None:
        llm = self._random.choice(self.workloads)
        if llm.twin is None:
            return None
        self.fleet.client.delete(llm.twin_path, propagationPolicy="Background")
        return llm.name

    def _edit_twin(self) -> str | None:
        llm = self._random.choice(self.workloads)
        if llm.twin is None:
            return None
        edit: JsonObject = self._random.choice(
            (
                {"replicas": self._random.randint(0, 8)},
                {"template": {"metadata": {"annotations": {"by-hand": uuid.uuid4().hex}}}},
                {"template": {"spec": {"affinity": None}}},
            )
        )
        self.fleet.client.patch(llm.twin_path, {"spec": edit})
        return f"{llm.name}: {edit}"

    def _scale_source(self) -> str:
        llm, count = self._random.choice(self.workloads), self._random.randint(1, 6)
        self.world.scaled_by_hand[llm.name] = time.time()
        llm.workload.scale_target(count)
        return f"{llm.name} to {count}"

    def _roll_out(self) -> str:
        llm = self._random.choice(self.workloads)
        stamp = {"metadata": {"annotations": {"release": uuid.uuid4().hex}}}
        self.fleet.client.patch(llm.workload.target_path, {"spec": {"template": stamp}})
        return llm.name


def _bare_pod(name: str, node: str) -> JsonObject:
    """Return a pod without an owner, for the scheduler to put on *node* and nowhere else."""
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    terms = {"nodeSelectorTerms": [{"matchFields": [field]}]}
    return {
        "metadata": {"name": name},
        "spec": {
            "containers": [
                {
                    "name": "job",
                    "image": "registry.invalid/job:1",
                    "resources": {"limits": {"nvidia.com/gpu": "1"}},
                }
            ],
            "tolerations": [{"key": "spot", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}},
        },
    }
