"""`make cluster`: the control plane, Prometheus and the stand-in exporter, left running until Ctrl-C."""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

from tests.cluster import binaries
from tests.cluster.client import ApiError
from tests.cluster.controlplane import ControlPlane
from tests.cluster.exporter import Exporter
from tests.cluster.processes import Overdue
from tests.cluster.prometheus import Prometheus

CRDS = Path(__file__).parents[2] / "crds"
GPU_NODES = 4
TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}


def main() -> int:
    """Run until Ctrl-C or SIGTERM; 1 with one sentence where something is missing on the machine."""
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.default_int_handler)
    try:
        programs = binaries.ensure()
        with ExitStack() as stack:
            print(_start(programs, stack), flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        print("\nStopped; no process and no port is left.", flush=True)
    except (binaries.CannotBuild, Overdue, ApiError) as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


def _start(programs: binaries.Binaries, stack: ExitStack) -> str:
    """Start everything into *stack* and return what to tell the person."""
    folder = Path(
        stack.enter_context(
            tempfile.TemporaryDirectory(prefix="spillway-cluster-", ignore_cleanup_errors=True)
        )
    )
    cluster = stack.enter_context(ControlPlane(programs, folder / "control-plane"))
    exporter = stack.enter_context(Exporter(cluster.observer_client))
    targets = (exporter.target(), exporter.engine_target())
    prometheus = stack.enter_context(Prometheus(programs, folder / "prometheus", targets))
    for number in range(GPU_NODES):
        cluster.make_gpu_node(f"gpu-{number}", labels={"pool": "h100"}, taints=[TAINT])
    names = [cluster.apply_crd(path) for path in sorted(CRDS.glob("*.yaml"))]
    return _welcome(cluster, prometheus, exporter, names)


def _welcome(cluster: ControlPlane, prometheus: Prometheus, exporter: Exporter, crds: list[str]) -> str:
    return f"""
A Kubernetes {binaries.KUBERNETES} control plane with {GPU_NODES} nodes of 8 GPUs is running. In another terminal:

  export KUBECONFIG={cluster.kubeconfig}
  {cluster.kubectl_path} get nodes

  Prometheus   {prometheus.url}
  Exporter     {exporter.url}/metrics   (DCGM; vLLM's series at /engine)
  CRDs         {", ".join(crds) or "none yet: crds/ is empty"}
  Logs         {cluster.folder / "logs"}

Give a Deployment work worth 3.2 busy replicas, break its metrics, mend them:

  curl -X PUT '{exporter.url}/demand/default/llm-chat?replicas=3.2'
  curl -X PUT '{exporter.url}/fault?kind=vanish'
  curl -X PUT '{exporter.url}/fault?kind=none'

Ctrl-C ends everything."""


if __name__ == "__main__":
    sys.exit(main())
