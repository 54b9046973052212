"""The files of docs/market.md speak of the same pools."""

from pathlib import Path
from typing import Any

import yaml

from spillway.cli.market.pools import read_pools
from spillway.core.scheduling import Taint

EXAMPLE = Path("deploy/examples/market")


def test_every_pool_of_the_market_has_a_gpunodepool_that_describes_its_machines() -> None:
    _, specs = read_pools(EXAMPLE / "market.yaml")
    pools: list[dict[str, Any]] = list(yaml.safe_load_all((EXAMPLE / "gpunodepools.yaml").read_text()))

    nodes = {
        pool["metadata"]["name"]: pool["spec"]["node"]
        for pool in pools
        if pool["spec"]["provider"]["type"] == "Kwok"
    }
    for spec in specs:
        told = nodes.pop(spec.name)
        assert told["selector"].items() <= dict(spec.node.labels).items()
        assert (told["gpuCount"], told["gpuModel"]) == (spec.node.gpus, spec.node.gpu_model)
        assert tuple(Taint(**taint) for taint in told["taints"]) == spec.node.taints
    assert nodes == {}
