"""The real `spillway run` with the settings and the account of an installed chart, on the files in deploy/examples."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml

from tests.cluster.controlplane import ControlPlane
from tests.cluster.exporter import Exporter
from tests.cluster.operator_chart import InstallChart, InstalledChart
from tests.cluster.processes import free_port
from tests.cluster.prometheus import Prometheus

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"
SPILLWAY = Path(sys.executable).with_name("spillway")
POLICY = "/apis/spillway.dev/v1alpha1/gpupolicies/short-windows-for-demos"  # belongs to no namespace, so it would stay
IN_A_PROCESS = {"metricsAddress": "127.0.0.1", "logFormat": "text"}
QUICK = {"evaluationSeconds": 1, "signalWindowSeconds": 10, "collectSeconds": 1, "scrapeSeconds": 1}


def is_healthy(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/healthz", timeout=2).ok
    except requests.RequestException:
        return False


def apply_examples(cluster: ControlPlane, namespace: str) -> None:
    cluster.client.patch(
        f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": {"spillway.dev/windows": "short"}}}
    )
    for name in ("gpupolicy-short-windows", "gpu-deployment", "gpuworkload"):
        manifest = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
        manifest["metadata"]["namespace"] = namespace
        cluster.client.apply(manifest)


@pytest.fixture
def running(
    cluster: ControlPlane, prometheus: Prometheus, install_chart: InstallChart, namespace: str, tmp_path: Path
) -> Iterator[InstalledChart]:
    """The chart in *namespace*, with its operator as a process of ours."""
    chart = install_chart(namespace, settings={"prometheus": {"url": prometheus.url}, **QUICK})
    ports = {"metricsPort": free_port(), "probePort": free_port()}
    config = chart.settings_file(tmp_path, {**IN_A_PROCESS, **ports})
    command = [SPILLWAY, "run", "--config", config, "--kubeconfig", chart.kubeconfig]
    operator = cluster.processes.start(
        f"operator-{namespace}", command, ready=lambda: is_healthy(ports["probePort"]), seconds=30
    )
    yield chart
    operator.stop(grace_seconds=10)


def test_the_operator_scales_the_examples_and_asks_for_nothing_it_may_not(
    cluster: ControlPlane, exporter: Exporter, running: InstalledChart
) -> None:
    namespace = running.namespace
    node = cluster.make_gpu_node(f"gpu-{namespace}")["metadata"]["name"]
    apply_examples(cluster, namespace)
    exporter.set_demand(namespace, "llm-chat", 1.5)

    cluster.wait_for(
        lambda: cluster.deployment(namespace, "llm-chat")["spec"]["replicas"] == 2,
        60,
        "1.5 replicas' worth of work get 2 replicas",
    )

    cluster.delete_node(node)
    cluster.client.delete(POLICY)
    codes = Counter(event["responseStatus"]["code"] for event in cluster.audit_events(user=running.account))
    assert codes[200] > 0
    assert (codes[401], codes[403]) == (0, 0)
