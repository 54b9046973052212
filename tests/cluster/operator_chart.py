"""The chart, installed by the real helm, so that an operator under test runs with the rights of its account and no more."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
import yaml

from tests.cluster.binaries import Binaries
from tests.cluster.client import ApiError
from tests.cluster.controlplane import ControlPlane

CHART = Path(__file__).parents[2] / "helm" / "spillway"
CRDS = Path(__file__).parents[2] / "crds"
PROMETHEUS_URL = "http://prometheus.invalid:9090"  # until settings name the one of the test
# The operator runs as a local process: its pod must not be played on a GPU node that a test counts.
NOWHERE = {"spillway-test.dev/nowhere": "true"}

Settings = Mapping[str, Any]


class HelmFailed(Exception):
    """helm ended with an error; the message is what it printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Helm:
    """The real helm; its caches and settings lie in *folder*, never in the user's home."""

    program: Path
    folder: Path
    kubeconfig: Path | None = None

    def run(self, *args: str, values: Mapping[str, Any] | None = None, seconds: float = 60) -> str:
        """Return its stdout; *values* go in as a file. Raises HelmFailed."""
        homes = {
            f"HELM_{kind}_HOME": str(self.folder / "helm" / kind.lower())
            for kind in ("CACHE", "CONFIG", "DATA")
        }
        identity = [] if self.kubeconfig is None else ["--kubeconfig", str(self.kubeconfig)]
        given = [] if values is None else ["--values", "-"]
        done = subprocess.run(
            [self.program, *args, *identity, *given],
            input=yaml.safe_dump(dict(values or {})), env={**os.environ, **homes},
            capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise HelmFailed(done.stderr.strip())
        return done.stdout


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledChart:
    """A release of the chart and the account that it made."""

    release: str
    namespace: str
    token: str
    kubeconfig: Path
    settings: Settings

    @property
    def account(self) -> str:
        """The account's user name, as the audit log has it."""
        return f"system:serviceaccount:{self.namespace}:{self.release}"

    def settings_file(self, folder: Path, overrides: Settings | None = None) -> Path:
        """Write the rendered settings, with *overrides* laid over them key by key, for a local `spillway run --config`."""
        path = folder / f"{self.release}.yaml"
        path.write_text(yaml.safe_dump(laid_over(self.settings, overrides or {})))
        return path


def laid_over(base: Settings, overrides: Settings) -> dict[str, Any]:
    """Return *base* with the keys of *overrides*, nested mappings merged."""
    merged = dict(base)
    for key, value in overrides.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = laid_over(merged[key], value) if both else value
    return merged


@contextmanager
def installed_chart(
    cluster: ControlPlane,
    helm: Helm,
    namespace: str,
    *,
    settings: Settings | None = None,
    values: Mapping[str, Any] | None = None,
) -> Iterator[InstalledChart]:
    """Install the chart into an existing *namespace*; uninstall it afterwards.

    The release's name is unique, and with it the Lease and everything cluster-scoped. Unless *settings* say otherwise it watches
    *namespace* alone. The CRDs must be there already.
    """
    release = f"spillway-{uuid.uuid4().hex[:8]}"
    own = {"prometheus": {"url": PROMETHEUS_URL}, "watchNamespaces": [namespace]}
    base = {"settings": laid_over(own, settings or {}), "crds": {"enabled": False}}
    given = {"nodeSelector": NOWHERE, **laid_over(base, values or {})}
    helm.run("install", release, str(CHART), "--namespace", namespace, values=given)
    try:
        yield _look_at(cluster, release, namespace)
    finally:
        helm.run("uninstall", release, "--namespace", namespace, "--ignore-not-found")


def _look_at(cluster: ControlPlane, release: str, namespace: str) -> InstalledChart:
    config = cluster.client.get(f"/api/v1/namespaces/{namespace}/configmaps/{release}")
    token = cluster.service_account_token(namespace, release)
    return InstalledChart(
        release=release,
        namespace=namespace,
        token=token,
        kubeconfig=cluster.kubeconfig_for(token, release),
        settings=yaml.safe_load(config["data"]["settings.yaml"]),
    )


class InstallChart(Protocol):
    def __call__(
        self, namespace: str, *, settings: Settings | None = None, values: Mapping[str, Any] | None = None
    ) -> InstalledChart: ...


@pytest.fixture(scope="session")
def crds(cluster: ControlPlane) -> list[str]:
    """The names of our CRDs, applied and in use."""
    names = [cluster.apply_crd(path) for path in sorted(CRDS.glob("*.yaml"))]
    for name in names:
        plural, group = name.split(".", 1)
        cluster.wait_for(
            lambda path=f"/apis/{group}/v1alpha1/{plural}": _lists(cluster, path), 10, f"{name} can be listed"
        )
    return names


def _lists(cluster: ControlPlane, path: str) -> bool:
    """Say whether *path* can be listed: for a moment after a CRD is Established the server answers 429."""
    try:
        cluster.client.get(path, limit=1)
    except ApiError as exc:
        if exc.status in (404, 429):
            return False
        raise
    return True


@pytest.fixture(scope="session")
def helm(built: Binaries, cluster: ControlPlane) -> Helm:
    return Helm(program=built.path("helm"), folder=cluster.folder, kubeconfig=cluster.kubeconfig)


@pytest.fixture
def install_chart(
    cluster: ControlPlane, helm: Helm, crds: list[str], namespace: str
) -> Iterator[InstallChart]:
    """Installs the chart as `installed_chart` does; what a test installs goes when it ends, before its namespace does."""
    with ExitStack() as stack:

        def install(
            namespace: str, *, settings: Settings | None = None, values: Mapping[str, Any] | None = None
        ) -> InstalledChart:
            return stack.enter_context(
                installed_chart(cluster, helm, namespace, settings=settings, values=values)
            )

        yield install
