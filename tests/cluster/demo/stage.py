"""What the story is played on: the control plane, a market of GPU nodes, the chart's account, and the operator as a process."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.binaries import Binaries
from tests.cluster.client import Client
from tests.cluster.controlplane import ControlPlane
from tests.cluster.demo.story import Trick
from tests.cluster.exporter import Exporter, Fault
from tests.cluster.market_process import MarketProcess, running_market
from tests.cluster.operator_chart import Helm, InstalledChart, installed_chart
from tests.cluster.processes import Process, free_port
from tests.cluster.prometheus import Prometheus

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "deploy" / "examples"
POLICY = EXAMPLES / "gpupolicy-short-windows.yaml"
MARKET = EXAMPLES / "demo" / "market.yaml"
POOLS = EXAMPLES / "demo" / "gpunodepools.yaml"
DEPLOYMENT = EXAMPLES / "demo" / "gpu-deployment.yaml"
WORKLOAD = EXAMPLES / "demo" / "gpuworkload.yaml"

NAMESPACE, NAME = "serving", "llm-chat"
WORKLOAD_PATH = f"/apis/spillway.dev/v1alpha1/namespaces/{NAMESPACE}/gpuworkloads/{NAME}"
OPERATOR_NAMESPACE = "spillway-system"
FIRST_POOL, TRICKED_POOL = "h100-on-demand", "h100-spot-b"
TOLD_KINDS = ("GpuWorkload", "GpuNodePool")
# Prometheus scrapes every second here; the operator's own beat is set to match. Windows are the policy's,
# and the waits about nodes the pools' and these.
OPERATOR_SETTINGS = {
    "evaluationSeconds": 2,
    "signalWindowSeconds": 3,
    "collectSeconds": 1,
    "scrapeSeconds": 1,
    "minStaleSeconds": 8,
    "confirmSeconds": 2,
    "poolCollectSeconds": 1,
    "poolStaleSeconds": 5,
    "cordonSettleSeconds": 1,
    "nodeLostSeconds": 3,
    "nodeGoneSeconds": 3,
    "drainBackOffSeconds": 3,
    "packingRefusedSeconds": 3,
    "logFormat": "text",
}
ASK_SECONDS = 2.0
SILENCE_SECONDS = 15.0  # of an operator that runs and does not answer

Tell = Callable[[str], None]
Document = Mapping[str, Any]


class StageFailed(Exception):
    """Something the story needs is not there; the message has the end of the operator's log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A Kubernetes Event about the GpuWorkload or a GpuNodePool."""

    at: str
    reason: str
    message: str
    about: str = NAME


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of the count, as the GpuWorkload's status records it."""

    at: str
    before: int
    after: int
    reason: str
    why: str


class Stage:
    """Sets the demand, plays the cloud, takes the metrics away, and reads what the operator and the API server say."""

    def __init__(
        self,
        *,
        cluster: ControlPlane,
        exporter: Exporter,
        market: MarketProcess,
        operator: Process,
        url: str,
    ) -> None:
        self._cluster = cluster
        self._exporter = exporter
        self._market = market
        self._operator = operator
        self._url = url
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy of the environment has no business on loopback

    def set(self, *, demand: float, blind: bool, trick: Trick = Trick.NONE) -> None:
        """Offer *demand* replicas' worth of work; *blind* takes the GPU series of the namespace off the exporter's page."""
        match trick:
            case Trick.RECLAIM:
                self._market.reclaim(TRICKED_POOL, count=1)
            case Trick.REFUSE:
                self._market.refuse(TRICKED_POOL)
            case Trick.ACCEPT:
                self._market.accept(TRICKED_POOL)
            case Trick.NONE:
                pass
        self._exporter.set_demand(NAMESPACE, NAME, demand)
        self._exporter.set_fault(Fault.VANISH if blind else None, NAMESPACE)

    def configure(self, spec: Document) -> None:
        """Merge *spec* into the GpuWorkload's."""
        self._cluster.client.patch(WORKLOAD_PATH, {"spec": dict(spec)})

    def decision(self) -> Document:
        """Return the operator's last decision, as `spillway explain` reads it. Raises StageFailed."""
        found: Document = self._ask(f"/decisions/{NAMESPACE}/{NAME}").json()
        return found

    def top(self) -> Document:
        """Return workloads and pools as one pass has them, as `spillway top` reads it. Raises StageFailed."""
        found: Document = self._ask("/top").json()
        return found

    def figures(self) -> Mapping[str, float]:
        """Return the workload's series on the operator's /metrics by name, counters by `name/direction` too.

        Series that differ in other labels, such as the capacity type of a cost, are added up.
        """
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(self._ask("/metrics").text):
            for sample in family.samples:
                if sample.labels.get("workload") == NAME:
                    name = "/".join(filter(None, (sample.name, sample.labels.get("direction"))))
                    found[name] = found.get(name, 0.0) + sample.value
        return found

    def ledger(self) -> Decimal:
        """Return what the cloud has billed for all its machines so far."""
        return sum((Decimal(pool["cost"]) for pool in self._market.ledger().values()), Decimal(0))

    def events(self) -> tuple[Event, ...]:
        """Return the Events about the GpuWorkload and the pools, oldest first."""
        found = [
            item
            for kind in TOLD_KINDS
            for item in self._cluster.client.get(
                "/api/v1/events", fieldSelector=f"involvedObject.kind={kind}"
            )["items"]
        ]
        ordered = sorted(found, key=lambda item: int(item["metadata"]["resourceVersion"]))
        return tuple(
            Event(
                at=item["lastTimestamp"],
                reason=item["reason"],
                message=item["message"],
                about=item["involvedObject"]["name"],
            )
            for item in ordered
        )

    def last_change(self) -> Change | None:
        """Return the newest change in the GpuWorkload's `status.decisions`; None before the first."""
        records = self._cluster.client.get(WORKLOAD_PATH).get("status", {}).get("decisions", [])
        moves = [
            Change(
                at=record["time"],
                before=record["from"],
                after=record["to"],
                reason=record["reason"],
                why=record["message"],
            )
            for record in records
            if record["from"] != record["to"]
        ]
        return max(moves, key=lambda change: change.at, default=None)

    def observer(self) -> Client:
        """Return a client of its own, for a thread that only looks."""
        return self._cluster.observer_client()

    def log_tail(self) -> str:
        """Return the end of the operator's log."""
        return self._operator.tail(15)

    def close(self) -> None:
        self._session.close()

    def _ask(self, path: str) -> requests.Response:
        """Return the page; an operator that is starting or busy is asked again for a while."""
        deadline = time.monotonic() + SILENCE_SECONDS
        while True:
            try:
                answer = self._session.get(self._url + path, timeout=ASK_SECONDS)
                answer.raise_for_status()
            except requests.RequestException as exc:
                if time.monotonic() >= deadline or not self._operator.running():
                    raise StageFailed(
                        f"The operator does not answer ({exc}). Its log ends:\n{self.log_tail()}"
                    ) from exc
                time.sleep(0.2)
            else:
                return answer


@contextmanager
def set_stage(programs: Binaries, tell: Tell, *, noise: float = 0.01) -> Iterator[Stage]:
    """Start everything, telling each step; end all of it on the way out, whatever happened.

    *noise* is the deviation of each GPU's reading, as a share.
    """
    _forget_own_settings()
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="spillway-demo-", ignore_cleanup_errors=True)
            )
        )
        tell("Starting etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kwok")
        cluster = stack.enter_context(ControlPlane(programs, folder / "control-plane"))
        tell(f"  ready: export KUBECONFIG={cluster.kubeconfig}")
        exporter = stack.enter_context(Exporter(cluster.observer_client, noise=noise))
        prometheus = stack.enter_context(Prometheus(programs, folder / "prometheus", (exporter.target(),)))
        tell(f"Prometheus {prometheus.url} scrapes a stand-in dcgm-exporter, {exporter.url}/metrics")
        market = stack.enter_context(running_market(cluster, yaml.safe_load(MARKET.read_text())["pools"]))
        tell(f"spillway market {market.url} plays a cloud with {', '.join(market.pools)}")
        chart = _furnish(cluster, stack, market, program=programs.path("helm"), tell=tell)
        stage = _raise_curtain(
            cluster, exporter, market, chart, prometheus_url=prometheus.url, folder=folder, tell=tell
        )
        stack.callback(stage.close)
        yield stage


def _forget_own_settings() -> None:
    """Drop SPILLWAY_… variables of this shell: they would overrule the settings that the story needs."""
    for name in [name for name in os.environ if name.startswith("SPILLWAY_")]:
        del os.environ[name]


def _furnish(
    cluster: ControlPlane, stack: ExitStack, market: MarketProcess, *, program: Path, tell: Tell
) -> InstalledChart:
    """Apply what a cluster has before the story begins: CRDs, the chart, and the files of deploy/examples."""
    names = [cluster.apply_crd(path) for path in sorted((ROOT / "crds").glob("*.yaml"))]
    market.wait_nodes(FIRST_POOL, 1)
    tell(f"Applied {len(names)} CRDs; the cloud has given one on-demand node with 4 GPUs")
    cluster.make_namespace(OPERATOR_NAMESPACE)
    helm = Helm(program=program, folder=cluster.folder, kubeconfig=cluster.kubeconfig)
    settings = {"watchNamespaces": [], "kwok": {"url": market.url}}
    chart = stack.enter_context(installed_chart(cluster, helm, OPERATOR_NAMESPACE, settings=settings))
    cluster.make_namespace(NAMESPACE, labels={"spillway.dev/windows": "short"})
    for path in (DEPLOYMENT, POLICY, POOLS, WORKLOAD):
        cluster.kubectl("apply", "--namespace", NAMESPACE, "--filename", str(path))
    tell("Installed helm/spillway and applied the files of deploy/examples/demo")
    cluster.wait_ready_replicas(NAMESPACE, NAME, 2)
    return chart


def _raise_curtain(
    cluster: ControlPlane,
    exporter: Exporter,
    market: MarketProcess,
    chart: InstalledChart,
    *,
    prometheus_url: str,
    folder: Path,
    tell: Tell,
) -> Stage:
    """Run `spillway run` with the chart's own account and wait until it decides."""
    port, probe = free_port(), free_port()
    ours = {
        "prometheus": {"url": prometheus_url},
        "metricsAddress": "127.0.0.1",
        "metricsPort": port,
        "probePort": probe,
    }
    config = chart.settings_file(folder, {**OPERATOR_SETTINGS, **ours})
    program = Path(sys.executable).with_name("spillway")
    operator = cluster.processes.start(
        "spillway", [program, "run", "--config", config, "--kubeconfig", chart.kubeconfig]
    )
    url = f"http://127.0.0.1:{port}"
    tell(f"Running spillway run with the chart's own account; its pages: {url}/metrics")
    stage = Stage(cluster=cluster, exporter=exporter, market=market, operator=operator, url=url)
    stage.set(demand=1.0, blind=False)
    stage.decision()
    return stage
