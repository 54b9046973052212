"""The files of docs/market.md speak of the same pools, and so do those of the demo."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from spillway.cli.market.pools import read_pools
from spillway.core.scheduling import Taint

EXAMPLES = Path("deploy/examples")


@pytest.mark.parametrize("folder", ["market", "demo"])
def test_every_pool_of_the_market_has_a_gpunodepool_that_describes_its_machines(folder: str) -> None:
    _, specs = read_pools(EXAMPLES / folder / "market.yaml")
    text = (EXAMPLES / folder / "gpunodepools.yaml").read_text()
    pools: list[dict[str, Any]] = list(yaml.safe_load_all(text))

    nodes = {
        pool["metadata"]["name"]: pool["spec"]["node"]
        for pool in pools
        if pool["spec"]["provider"]["type"] == "Kwok"
    }
    for spec in specs:
        told = nodes.pop(spec.name)
        assert told["selector"].items() <= dict(spec.node.labels).items()
        assert (told["gpuCount"], told["gpuModel"]) == (spec.node.gpus, spec.node.gpu_model)
        assert tuple(Taint(**taint) for taint in told.get("taints", ())) == spec.node.taints
    assert nodes == {}
