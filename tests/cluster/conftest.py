"""One control plane, Prometheus and exporter for the whole session; a namespace for each test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import binaries
from tests.cluster.controlplane import ControlPlane
from tests.cluster.exporter import Exporter
from tests.cluster.operator_chart import crds, helm, install_chart
from tests.cluster.operator_process import start_operator
from tests.cluster.prometheus import Prometheus

__all__ = ["crds", "helm", "install_chart", "start_operator"]  # fixtures that pytest finds here
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def built() -> binaries.Binaries:
    return binaries.ensure()


@pytest.fixture(scope="session")
def cluster(built: binaries.Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(built, tmp_path_factory.mktemp("control-plane")) as control_plane:
        yield control_plane


@pytest.fixture(scope="session")
def exporter(cluster: ControlPlane) -> Iterator[Exporter]:
    with Exporter(cluster.observer_client) as stand_in:
        yield stand_in


@pytest.fixture(scope="session")
def prometheus(
    built: binaries.Binaries, exporter: Exporter, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    targets = (exporter.target(), exporter.engine_target())
    with Prometheus(built, tmp_path_factory.mktemp("prometheus"), targets) as server:
        yield server


@pytest.fixture
def namespace(request: pytest.FixtureRequest, cluster: ControlPlane) -> Iterator[str]:
    """A fresh namespace; afterwards it goes in its own time, and with it the demands and faults of its workloads."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    cluster.make_namespace(name)
    yield name
    if "exporter" in request.fixturenames:
        request.getfixturevalue("exporter").forget(name)
    cluster.client.delete(f"/api/v1/namespaces/{name}")
    # The namespace controller waits 5 s before it starts; the next test wants the GPUs now.
    cluster.client.delete(f"/api/v1/namespaces/{name}/pods", gracePeriodSeconds=0)
