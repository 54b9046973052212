"""The real helm, built with the control plane's programs, without a cluster."""

from __future__ import annotations

import pytest

from tests.cluster import binaries
from tests.cluster.operator_chart import Helm


@pytest.fixture(scope="session")
def offline_helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return Helm(program=binaries.ensure().path("helm"), folder=tmp_path_factory.mktemp("helm"))
