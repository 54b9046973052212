"""The real parts that a bench measures on: control plane, Prometheus, stand-in exporter, and an operator with the chart's rights."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster import binaries
from tests.cluster.controlplane import ControlPlane
from tests.cluster.exporter import Exporter
from tests.cluster.operator_chart import CRDS, Helm, Settings, installed_chart, laid_over
from tests.cluster.processes import Overdue, Process, free_port
from tests.cluster.prometheus import Prometheus

SPILLWAY = Path(sys.executable).with_name("spillway")
ON_LOOPBACK = {"metricsAddress": "127.0.0.1", "logFormat": "text"}
ASK_SECONDS = 10
WORKLOADS = "/apis/spillway.dev/v1alpha1"

Series = tuple[str, frozenset[tuple[str, str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bed:
    """What is running; *session* asks pages on loopback."""

    cluster: ControlPlane
    exporter: Exporter
    prometheus: Prometheus
    helm: Helm
    folder: Path
    session: requests.Session

    def make_workload(self, namespace: str, name: str, *, pods: int, spec: Mapping[str, Any]) -> None:
        """Make a Deployment of one-GPU pods and the GpuWorkload that scales it."""
        self.cluster.make_deployment(namespace, name, replicas=pods)
        body = {
            "apiVersion": "spillway.dev/v1alpha1",
            "kind": "GpuWorkload",
            "metadata": {"name": name},
            "spec": {"targetRef": {"name": name}, **spec},
        }
        self.cluster.client.post(f"{WORKLOADS}/namespaces/{namespace}/gpuworkloads", body)

    def wait_ready_pods(self, pods: int, *, seconds: float) -> None:
        """Wait until all Deployments together have *pods* Ready pods."""

        def ready() -> bool:
            found = self.cluster.client.get("/apis/apps/v1/deployments")["items"]
            return sum(item["status"].get("readyReplicas", 0) for item in found) == pods

        self.cluster.wait_for(ready, seconds, f"{pods} pods are Ready")

    def wait_decided(self, workloads: int, *, seconds: float) -> None:
        """Wait until the status of so many GpuWorkloads says that their metrics are fresh."""

        def decided() -> bool:
            found = self.cluster.client.get(f"{WORKLOADS}/gpuworkloads")["items"]
            return sum(item.get("status", {}).get("state") == "Fresh" for item in found) == workloads

        self.cluster.wait_for(decided, seconds, f"{workloads} GpuWorkloads have fresh metrics")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningOperator:
    """The real `spillway run`, and the account it speaks as."""

    process: Process
    account: str
    url: str
    session: requests.Session

    def samples(self) -> dict[Series, float]:
        """Return what its /metrics page says now."""
        return page_samples(self.session, f"{self.url}/metrics")


def page_samples(session: requests.Session, url: str) -> dict[Series, float]:
    """Return every sample of a Prometheus text page by name and labels."""
    reply = session.get(url, timeout=ASK_SECONDS)
    reply.raise_for_status()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(reply.text)
        for sample in family.samples
    }


@contextmanager
def laid_out(
    *, nodes: int = 0, gpus_per_node: int = 8, scrape_interval: str = "1s", left_out: Sequence[str] = ()
) -> Iterator[Bed]:
    """Start everything but an operator, with *nodes* GPU nodes and our CRDs; without the controllers *left_out*."""
    programs = binaries.ensure()
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="spillway-bench-", ignore_cleanup_errors=True)
            )
        )
        cluster = stack.enter_context(ControlPlane(programs, folder / "control-plane", left_out=left_out))
        for path in sorted(CRDS.glob("*.yaml")):
            cluster.apply_crd(path)
        for number in range(nodes):
            cluster.make_gpu_node(f"gpu-{number}", gpus=gpus_per_node)
        exporter = stack.enter_context(Exporter(cluster.observer_client))
        prometheus = stack.enter_context(
            Prometheus(programs, folder / "prometheus", (exporter.target(),), scrape_interval=scrape_interval)
        )
        session = stack.enter_context(requests.Session())
        session.trust_env = False  # a proxy set in the environment has no business on loopback
        yield Bed(
            cluster=cluster,
            exporter=exporter,
            prometheus=prometheus,
            helm=Helm(program=programs.path("helm"), folder=cluster.folder, kubeconfig=cluster.kubeconfig),
            folder=folder,
            session=session,
        )


@contextmanager
def running_operator(
    bed: Bed, namespace: str, *, settings: Settings | None = None
) -> Iterator[RunningOperator]:
    """Install the chart into *namespace* and run its operator as a process, with the token of its account."""
    ports = {"metricsPort": free_port(), "probePort": free_port()}
    given = laid_over({"prometheus": {"url": bed.prometheus.url}}, settings or {})
    with installed_chart(bed.cluster, bed.helm, namespace, settings=given) as chart:
        config = chart.settings_file(bed.folder, {**ON_LOOPBACK, **ports})
        probe = f"http://127.0.0.1:{ports['probePort']}/healthz"
        process = bed.cluster.processes.start(
            chart.release,
            [SPILLWAY, "run", "--config", config, "--kubeconfig", chart.kubeconfig],
            ready=lambda: _is_well(bed.session, probe),
            seconds=60,
        )
        try:
            yield RunningOperator(
                process=process,
                account=chart.account,
                url=f"http://127.0.0.1:{ports['metricsPort']}",
                session=bed.session,
            )
        finally:
            process.stop(grace_seconds=10)


def _is_well(session: requests.Session, probe: str) -> bool:
    try:
        return session.get(probe, timeout=2).ok
    except requests.RequestException:
        return False


def run(bench: Callable[[], None]) -> int:
    """Run *bench* as a program; SIGTERM and Ctrl-C end it and everything it started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        bench()
    except KeyboardInterrupt:
        print("\nStopped; no process and no port is left.", flush=True)
        return 130
    except (binaries.CannotBuild, Overdue) as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0
