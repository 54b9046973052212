"""The real `spillway run` as a process of its own, with the rights of the chart's account and no more."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
import requests
import yaml

from tests.cluster.client import JsonObject
from tests.cluster.controlplane import ControlPlane
from tests.cluster.faults import FaultProxy
from tests.cluster.operator_chart import InstalledChart, laid_over
from tests.cluster.processes import Process, free_port, wait_until
from tests.cluster.prometheus import Prometheus

PROGRAM = Path(sys.executable).with_name("spillway")
ASK_SECONDS = 3.0
START_SECONDS = 60  # 3 s is usual; a machine busy with other test runs takes longer
WRITING_VERBS = ("create", "update", "patch", "delete", "deletecollection")

# Every timer as short as it may be, so that a test takes seconds. The Lease cannot be shorter: its holder must be sure of it for
# the 5 s that a write may take.
FAST: Mapping[str, Any] = {
    "evaluationSeconds": 1,
    "signalWindowSeconds": 2,
    "collectSeconds": 1,
    "scrapeSeconds": 1,
    "minStaleSeconds": 4,
    "frozenSeconds": 4,
    "confirmSeconds": 1,
    "cacheMaxAgeSeconds": 15,
    "leaseDurationSeconds": 8,
    "leaseRenewDeadlineSeconds": 7,
    "leaseRetrySeconds": 0.5,
    "metricsAddress": "127.0.0.1",
    "logFormat": "text",
}

_serial = itertools.count(1)


class OperatorProcess:
    """One operator; `start` runs it, also again after it ended. Each start appends to the same log."""

    def __init__(
        self,
        cluster: ControlPlane,
        chart: InstalledChart,
        *,
        config: Path,
        kubeconfig: Path,
        ports: tuple[int, int],
        api: FaultProxy | None = None,
        prometheus: FaultProxy | None = None,
    ) -> None:
        self.chart = chart
        self.config = config
        self.url, self._probe_url = (f"http://127.0.0.1:{port}" for port in ports)
        self.name = f"operator-{next(_serial)}"
        self._api = api
        self._prometheus = prometheus
        self._cluster = cluster
        self._kubeconfig = kubeconfig
        self._process: Process | None = None
        self._session = requests.Session()
        self._session.trust_env = False

    @property
    def account(self) -> str:
        """The user that the audit log knows it by."""
        return self.chart.account

    @property
    def api(self) -> FaultProxy:
        """What stands between it and the API server; only of one started with `through_proxies`."""
        assert self._api is not None, "start it with through_proxies=True"
        return self._api

    @property
    def prometheus(self) -> FaultProxy:
        """What stands between it and Prometheus; only of one started with `through_proxies`."""
        assert self._prometheus is not None, "start it with through_proxies=True"
        return self._prometheus

    @property
    def process(self) -> Process:
        assert self._process is not None, "it was never started"
        return self._process

    # Its life

    def start(self) -> None:
        """Start it; return at once."""
        own = {name: "" for name in os.environ if name.startswith("SPILLWAY_")}
        argv = [PROGRAM, "run", "--config", self.config, "--kubeconfig", self._kubeconfig]
        self._process = self._cluster.processes.start(self.name, argv, env=own)

    def kill(self) -> None:
        """End it as the kernel does when memory is short: nothing is given back."""
        self.process.kill()

    def terminate(self, seconds: float = 15) -> int:
        """End it as a kubelet does, with SIGTERM; return its exit code. Raises `Overdue`."""
        self.process.signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def pause(self) -> None:
        """Stop it in its tracks, as a hypervisor does with a machine."""
        self.process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.signal(signal.SIGCONT)

    def close(self) -> None:
        """End it for good, paused or not."""
        self.process.signal(signal.SIGCONT)
        self.process.stop(grace_seconds=5)
        self._session.close()

    def set_fleet_mode(self, mode: str) -> None:
        """Change the mode in its settings file, as an edited ConfigMap does; it is not told."""
        settings = yaml.safe_load(self.config.read_text())
        fresh = self.config.with_suffix(".new")
        fresh.write_text(yaml.safe_dump({**settings, "mode": mode}))
        fresh.replace(self.config)

    def wait_deciding(self, seconds: float = START_SECONDS) -> None:
        """Wait until it holds the Lease and has made a plan."""
        self.until(lambda: self._page(f"{self.url}/top") is not None, seconds, f"{self.name} decides")

    def until(self, predicate: Any, seconds: float, what: str) -> Any:  # noqa: ANN401
        """Return the first truthy answer of *predicate*; raise `Overdue` with the end of the operator's log."""
        try:
            return wait_until(predicate, seconds, what, every=0.2)
        except AssertionError as exc:
            exc.add_note(f"The end of the log of {self.name}:\n{self.tail()}")
            raise

    # What it says

    def decision(self, namespace: str, name: str) -> JsonObject | None:
        """Return its live decision; None while it makes none or does not answer."""
        return self._page(f"{self.url}/decisions/{namespace}/{name}")

    def metrics(self) -> str:
        """Return its metrics page."""
        answer = self._session.get(f"{self.url}/metrics", timeout=ASK_SECONDS)
        answer.raise_for_status()
        return answer.text

    def is_healthy(self) -> bool:
        """Ask the probe as a kubelet does: an error and silence are the same."""
        try:
            return self._session.get(f"{self._probe_url}/healthz", timeout=ASK_SECONDS).ok
        except requests.RequestException:
            return False

    def log(self) -> str:
        return self.process.log.read_text(errors="replace")

    def tail(self, lines: int = 40) -> str:
        return self.process.tail(lines)

    def writes(self, since: int, *, resource: str | None = None) -> list[JsonObject]:
        """Return the writes that the API server has answered to its account since an `audit_mark`, in order."""
        events = self._cluster.audit_events(user=self.account, verbs=WRITING_VERBS, since=since)
        return [event for event in events if resource in (None, event["objectRef"]["resource"])]

    def _page(self, url: str) -> JsonObject | None:
        try:
            answer = self._session.get(url, timeout=ASK_SECONDS)
        except requests.RequestException:
            return None
        return answer.json() if answer.ok else None


@contextmanager
def running_operator(
    cluster: ControlPlane,
    chart: InstalledChart,
    prometheus: Prometheus,
    *,
    settings: Mapping[str, Any] | None = None,
    through_proxies: bool = False,
) -> Iterator[OperatorProcess]:
    """Run an operator by the settings of *chart* with short timers and *settings* laid over them; ended afterwards.

    With *through_proxies* it speaks to the API server and to Prometheus through a `FaultProxy` each.
    """
    with ExitStack() as stack:
        kubeconfig, api, metrics = chart.kubeconfig, None, None
        if through_proxies:
            certificate = {"cert_file": cluster.cert_file, "key_file": cluster.key_file}
            api = stack.enter_context(FaultProxy(cluster.url, ca_file=cluster.ca_file, **certificate))
            metrics = stack.enter_context(FaultProxy(prometheus.url))
            kubeconfig = cluster.kubeconfig_for(chart.token, f"{chart.release}-proxied", server=api.url)
        ports = (free_port(), free_port())
        own = {
            "prometheus": {"url": metrics.url if metrics else prometheus.url, "timeoutSeconds": 2},
            "metricsPort": ports[0],
            "probePort": ports[1],
        }
        folder = cluster.folder / f"settings-{ports[0]}"
        folder.mkdir()
        config = chart.settings_file(folder, laid_over({**FAST, **own}, settings or {}))
        operator = OperatorProcess(
            cluster, chart, config=config, kubeconfig=kubeconfig, ports=ports, api=api, prometheus=metrics
        )
        operator.start()
        stack.callback(operator.close)
        yield operator


class StartOperator(Protocol):
    def __call__(
        self,
        chart: InstalledChart,
        *,
        settings: Mapping[str, Any] | None = None,
        through_proxies: bool = False,
    ) -> OperatorProcess: ...


@pytest.fixture
def start_operator(cluster: ControlPlane, prometheus: Prometheus) -> Iterator[StartOperator]:
    """Starts operators as `running_operator` does; they end with the test, and if it failed it shows the ends of their logs."""
    with ExitStack() as stack:

        def start(
            chart: InstalledChart,
            *,
            settings: Mapping[str, Any] | None = None,
            through_proxies: bool = False,
        ) -> OperatorProcess:
            operator = stack.enter_context(
                running_operator(
                    cluster, chart, prometheus, settings=settings, through_proxies=through_proxies
                )
            )
            stack.callback(lambda: print(f"{operator.name}:\n{operator.tail()}"))
            return operator

        yield start
