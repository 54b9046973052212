"""The real helm, built with the control plane's programs, without a cluster."""

from __future__ import annotations

import pytest

from tests.cluster import binaries
from tests.cluster.operator_chart import Helm


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what is missing before the first test starts: minutes of building are no test's time."""
    wanted = any("offline_helm" in getattr(item, "fixturenames", ()) for item in session.items)
    if not wanted or session.config.option.collectonly:
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    try:
        with capture.global_and_fixture_disabled():
            binaries.ensure()
    except binaries.CannotBuild as exc:
        pytest.exit(str(exc), returncode=1)


@pytest.fixture(scope="session")
def offline_helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return Helm(program=binaries.ensure().path("helm"), folder=tmp_path_factory.mktemp("helm"))
