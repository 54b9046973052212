"""The files in deploy/examples, applied as a reader would."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.cluster.controlplane import ControlPlane

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"
# A market's file is its own, no object of Kubernetes; tests/unit/cli reads it.
MANIFESTS = sorted(path for path in EXAMPLES.rglob("*.yaml") if path.name != "market.yaml")


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_the_server_takes_an_example_and_knows_its_every_field(
    cluster: ControlPlane, crds: list[str], namespace: str, path: Path
) -> None:
    printed = cluster.kubectl(
        "apply", "--namespace", namespace, "--dry-run=server", "--validate=strict", "-f", str(path)
    )

    assert "created" in printed


def test_short_windows_hold_in_labelled_namespaces_only() -> None:
    policy = yaml.safe_load((EXAMPLES / "gpupolicy-short-windows.yaml").read_text())

    assert policy["spec"]["namespaceSelector"] == {"matchLabels": {"spillway.dev/windows": "short"}}
    assert "default" not in policy["spec"]
