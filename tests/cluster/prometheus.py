"""A real Prometheus on loopback, scraping what it is told to."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import requests
import yaml

from tests.cluster.binaries import Binaries
from tests.cluster.processes import Process, Processes, free_port, wait_until

READY_SECONDS = 30
ASK_SECONDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One scrape job with one address. *labels* are laid on every series as service discovery does."""

    job: str
    address: str
    path: str = "/metrics"
    labels: Mapping[str, str] = field(default_factory=dict)
    honor_labels: bool = False
    scheme: str = "http"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One series of an instant query's answer: the value (NaN and Inf included) at a Unix time."""

    labels: Mapping[str, str]
    value: float
    at: float


class QueryFailed(Exception):
    """Prometheus answered with an error; the message is its own."""


class Prometheus:
    """Context manager; `.url` answers inside.

    Samples are kept for 400 days so that backfilled history is not dropped at once. *rules* are rule groups as in a rule file.
    """

    def __init__(
        self,
        binaries: Binaries,
        folder: Path,
        targets: Sequence[Target] = (),
        *,
        scrape_interval: str = "1s",
        rules: Sequence[Mapping[str, Any]] = (),
        retention: str = "400d",
    ) -> None:
        self.folder = folder
        self.address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self.address}"
        self._binaries = binaries
        self._targets = tuple(targets)
        self._scrape_interval = scrape_interval
        self._rules = rules
        self._retention = retention
        self._data = folder / "data"
        self._config = folder / "prometheus.yml"
        self._processes = Processes(folder / "logs")
        self._process: Process | None = None
        self._session = requests.Session()
        self._session.trust_env = False

    def __enter__(self) -> Self:
        self._data.mkdir(parents=True, exist_ok=True)
        self._processes.__enter__()
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.close()
        self._processes.__exit__(kind, error, trace)

    # Running

    def start(self) -> None:
        """Start on the same port and data as before, and wait until it answers queries."""
        self._write_config()
        self._process = self._processes.start(
            "prometheus",
            [
                self._binaries.path("prometheus"),
                f"--config.file={self._config}",
                f"--storage.tsdb.path={self._data}",
                f"--storage.tsdb.retention.time={self._retention}",
                f"--web.listen-address={self.address}",
                "--web.enable-lifecycle",
                "--scrape.discovery-reload-interval=100ms",  # new targets are otherwise taken up after 5 s
            ],
            ready=self._is_ready,
            seconds=READY_SECONDS,
        )

    def stop(self) -> None:
        """End it: queries are refused until `start`."""
        self._running().stop()

    def pause(self) -> None:
        """Stop it in its tracks: connections open and nothing is answered."""
        self._running().signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._running().signal(signal.SIGCONT)

    def set_targets(self, targets: Sequence[Target]) -> None:
        """Scrape *targets* and nothing else from now on."""
        self._targets = tuple(targets)
        self._write_config()
        self._session.post(f"{self.url}/-/reload", timeout=ASK_SECONDS).raise_for_status()

    # Asking

    def query(self, expr: str, at: float | None = None) -> list[Sample]:
        """Return the series of an instant query, now or at Unix time *at*; raise QueryFailed."""
        params: dict[str, Any] = {"query": expr} if at is None else {"query": expr, "time": at}
        data = self._answer(self._session.post(f"{self.url}/api/v1/query", data=params, timeout=ASK_SECONDS))
        results = (
            [{"metric": {}, "value": data["result"]}] if data["resultType"] == "scalar" else data["result"]
        )
        return [
            Sample(labels=r["metric"], value=float(r["value"][1]), at=float(r["value"][0])) for r in results
        ]

    def value(self, expr: str) -> float | None:
        """Return the value of a query that answers at most one series; None where it answers none."""
        samples = self.query(expr)
        assert len(samples) <= 1, f"{expr} answers {len(samples)} series"
        return samples[0].value if samples else None

    def wait_scraped(self, seconds: float = 15) -> None:
        """Wait until every target was scraped with success at least once from a start later than this call."""
        asked = time.time()

        def all_scraped() -> bool:
            reply = self._session.get(f"{self.url}/api/v1/targets?state=active", timeout=ASK_SECONDS)
            active = self._answer(reply)["activeTargets"]
            return len(active) == len(self._targets) and all(_fresh(target, asked) for target in active)

        wait_until(all_scraped, seconds, f"Prometheus has scraped {[t.job for t in self._targets]}")

    def backfill(self, openmetrics: str) -> None:
        """Load history: OpenMetrics text with timestamps in seconds, ending in `# EOF`, older than what is scraped."""
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            text, blocks = Path(scratch, "history.txt"), Path(scratch, "blocks")
            text.write_text(openmetrics)
            # One long block a month: the default of two hours makes hundreds of folders and takes 50 times as long.
            subprocess.run(
                [self._binaries.path("promtool"), "tsdb", "create-blocks-from", "openmetrics",
                 "--max-block-duration=720h", "--quiet", text, blocks],
                check=True, capture_output=True, timeout=120,
            )  # fmt: skip
            self.stop()  # a live server notices new blocks only after a minute
            for block in blocks.iterdir():
                if block.is_dir():
                    shutil.move(block, self._data / block.name)
        self.start()

    def _answer(self, reply: requests.Response) -> Any:  # noqa: ANN401 - decoded JSON
        decoded = reply.json()
        if decoded["status"] != "success":
            raise QueryFailed(decoded["error"])
        return decoded["data"]

    def _is_ready(self) -> bool:
        try:
            return self._session.get(f"{self.url}/-/ready", timeout=2).status_code == 200
        except requests.RequestException:
            return False

    def _running(self) -> Process:
        assert self._process is not None, "use Prometheus as a context manager"
        return self._process

    def _write_config(self) -> None:
        config: dict[str, Any] = {
            "global": {
                "scrape_interval": self._scrape_interval,
                "scrape_timeout": self._scrape_interval,
                "evaluation_interval": self._scrape_interval,
            },
            "scrape_configs": [_scrape_config(target) for target in self._targets],
        }
        if self._rules:
            rule_file = self.folder / "rules.yml"
            rule_file.write_text(yaml.safe_dump({"groups": [dict(group) for group in self._rules]}))
            config["rule_files"] = [str(rule_file)]
        self._config.write_text(yaml.safe_dump(config))


def _scrape_config(target: Target) -> dict[str, Any]:
    return {
        "job_name": target.job,
        "scheme": target.scheme,
        "metrics_path": target.path,
        "honor_labels": target.honor_labels,
        "static_configs": [{"targets": [target.address], "labels": dict(target.labels)}],
    }


def _fresh(target: Mapping[str, Any], asked: float) -> bool:
    """Say whether *target* was scraped well since *asked*; `lastScrape` is when that scrape began."""
    began = datetime.fromisoformat(target["lastScrape"]).timestamp()
    return target["health"] == "up" and began >= asked
