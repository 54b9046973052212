"""`spillway market`: its file of pools, its memory, where it listens, and the Nodes it writes."""

from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.builders import NOW, seconds

from spillway.adapters.cloud.simulated import BootDelay, Market, NodeShape, NoticeStyle, PoolSpec
from spillway.cli.main import main
from spillway.cli.market.nodes import Wish, Write, is_settled, node_of, wishes_of, writes_for
from spillway.cli.market.pools import PoolsFileError, read_pools
from spillway.cli.market.state import StateFile, StateFileError
from spillway.core.model import CapacityType
from spillway.core.scheduling import Taint

# The file of pools

WHOLE = """\
seed: 7
pools:
- name: h100-spot-a
  capacityType: Spot
  zones: [us-east-1a, us-east-1b]
  minNodes: 1
  maxNodes: 20
  startNodes: 2
  capacity: 4
  bootSeconds: {least: 180, most: 480}
  answerSeconds: 1
  gpuDelaySeconds: 60
  noticeSeconds: 30
  noticeStyle: Gcp
  stopSeconds: 5
  retrySeconds: 20
  leastBilledSeconds: 0
  pricePerHour: "29.40"
  node:
    gpus: 4
    gpuResource: nvidia.com/gpu
    gpuModel: NVIDIA-H100
    allocatable: {cpu: "8", memory: 64Gi, pods: "30"}
    labels: {pool: h100-spot-a}
    taints: [{key: spot, value: "true", effect: NoSchedule}]
"""


def pools_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pools.yaml"
    path.write_text(text)
    return path


def test_a_file_says_everything_of_a_pool(tmp_path: Path) -> None:
    assert read_pools(pools_file(tmp_path, WHOLE)) == (
        7,
        (
            PoolSpec(
                name="h100-spot-a",
                capacity_type=CapacityType.SPOT,
                zones=("us-east-1a", "us-east-1b"),
                min_nodes=1,
                max_nodes=20,
                start_nodes=2,
                capacity=4,
                boot=BootDelay(least=timedelta(minutes=3), most=timedelta(minutes=8)),
                answer=seconds(1),
                gpu_delay=seconds(60),
                notice=seconds(30),
                notice_style=NoticeStyle.GCP,
                stop=seconds(5),
                retry=seconds(20),
                least_billed=seconds(0),
                price_per_hour=Decimal("29.40"),
                node=NodeShape(
                    gpus=4,
                    gpu_model="NVIDIA-H100",
                    allocatable={"cpu": "8", "memory": "64Gi", "pods": "30"},
                    labels={"pool": "h100-spot-a"},
                    taints=(Taint("spot", "true"),),
                ),
            ),
        ),
    )


def test_a_pool_needs_no_more_than_a_name(tmp_path: Path) -> None:
    _, (pool,) = read_pools(pools_file(tmp_path, "pools: [{name: p, bootSeconds: 3}]"))

    assert (pool.capacity_type, pool.boot, pool.node.gpus) == (
        CapacityType.ON_DEMAND,
        BootDelay.fixed(seconds(3)),
        8,
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("", "the file", id="nothing"),
        pytest.param("pools: []", "pools", id="no pool"),
        pytest.param("pools: [{name: P}]", r"pools\.0\.name", id="a name in capitals"),
        pytest.param(f"pools: [{{name: {'p' * 51}}}]", r"pools\.0\.name", id="a name too long for a label"),
        pytest.param(
            "pools: [{name: p, bootSecs: 1}]", r"pools\.0\.bootSecs: Extra", id="an unknown setting"
        ),
        pytest.param("pools: [{name: p, retrySeconds: 0}]", "retrySeconds", id="no pause between tries"),
        pytest.param("pools: [{name: p}, {name: p}]", "two pools are named p", id="a name twice"),
        pytest.param("pools: {", "cannot read", id="no YAML"),
    ],
)
def test_a_file_that_cannot_be_used_says_where(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(PoolsFileError, match=words):
        read_pools(pools_file(tmp_path, text))


# What it remembers


def test_a_market_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    market = Market([PoolSpec(name="p", start_nodes=2)], now=NOW)
    market.refuse("p", now=NOW)
    market.grow("p", to=3, before=2, token="t", now=NOW)
    market.reclaim("p", count=1, now=NOW)

    assert StateFile(tmp_path / "state").save(market.record())
    assert StateFile(tmp_path / "state").load() == market.record()


def test_a_market_at_rest_is_not_saved_again(tmp_path: Path) -> None:
    market, file = Market([PoolSpec(name="p", start_nodes=2)], now=NOW), StateFile(tmp_path / "state")
    file.save(market.record())
    market.advance(NOW + seconds(60))

    assert not file.save(market.record())


def test_without_a_file_there_is_nothing_to_load(tmp_path: Path) -> None:
    assert StateFile(tmp_path / "state").load() is None
    assert StateFile(None).load() is None


def test_a_file_that_holds_no_market_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("{}")

    with pytest.raises(StateFileError, match="holds no state of a market"):
        StateFile(tmp_path / "state").load()


# Where it listens


@pytest.mark.parametrize("listen", ["0.0.0.0:80", "192.168.1.4:80", ":80", "[::]:80", "example.com:80"])
def test_it_refuses_to_listen_beyond_loopback(tmp_path: Path, listen: str) -> None:
    answer = CliRunner().invoke(
        main, ["market", "--listen", listen, "--pools", str(pools_file(tmp_path, WHOLE))]
    )

    assert answer.exit_code == 2
    assert "is not on loopback" in answer.output


@pytest.mark.parametrize("listen", ["127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536"])
def test_it_names_an_address_without_a_port(tmp_path: Path, listen: str) -> None:
    answer = CliRunner().invoke(
        main, ["market", "--listen", listen, "--pools", str(pools_file(tmp_path, WHOLE))]
    )

    assert answer.exit_code == 2
    assert "is no HOST:PORT" in answer.output


def test_it_says_what_is_wrong_with_the_pools(tmp_path: Path) -> None:
    answer = CliRunner().invoke(main, ["market", "--pools", str(tmp_path / "none.yaml")])

    assert answer.exit_code == 1
    assert "cannot read pools from" in answer.output


# The nodes it writes

SHAPE = NodeShape(
    gpus=4,
    gpu_model="NVIDIA-H100",
    allocatable={"cpu": "8", "pods": "30"},
    labels={"pool": "p"},
    taints=(Taint("spot", "true"),),
)


def wish(**changes: Any) -> Wish:  # noqa: ANN401 - fields of Wish
    return Wish(
        **{
            "name": "p-1",
            "pool": "p",
            "machine": "1",
            "shape": SHAPE,
            "zone": "a",
            "boot_id": "b1",
            **changes,
        }
    )


def live(made: Wish | None = None, *, ready: str = "True", boot_id: str = "b1") -> dict[str, Any]:
    """The Node of *made* as the server shows it when kwok has played it."""
    node = node_of(made or wish())
    node["metadata"]["resourceVersion"] = "5"
    node["status"]["conditions"] = [{"type": "Ready", "status": ready}]
    node["status"]["nodeInfo"] = {"bootID": boot_id}
    return node


def writes(found: dict[str, Any] | None, wanted: Wish) -> list[Write]:
    return list(writes_for(found, wanted, NOW))


def test_a_node_joins_with_labels_taints_gpus_and_the_way_to_its_machine() -> None:
    (made,) = writes(None, wish())

    assert (made.method, made.body) == (
        "POST",
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": "p-1",
                "labels": {
                    "kubernetes.io/hostname": "p-1",
                    "topology.kubernetes.io/zone": "a",
                    "spillway.dev/market-pool": "p",
                    "nvidia.com/gpu.product": "NVIDIA-H100",
                    "pool": "p",
                },
                "annotations": {"kwok.x-k8s.io/node": "fake"},
            },
            "spec": {
                "providerID": "kwok://p/1",
                "taints": [{"key": "spot", "value": "true", "effect": "NoSchedule"}],
            },
            "status": {
                "capacity": {"cpu": "8", "pods": "30", "nvidia.com/gpu": "4"},
                "allocatable": {"cpu": "8", "pods": "30", "nvidia.com/gpu": "4"},
            },
        },
    )


def test_a_node_as_wished_is_not_written() -> None:
    assert writes(live(), wish()) == []
    assert is_settled(live(), wish())


def test_a_node_gets_its_boot_id_once_it_is_ready() -> None:
    assert writes(live(ready="False", boot_id=""), wish()) == []
    assert not is_settled(live(ready="False"), wish())

    (status,) = writes(live(boot_id=""), wish())
    assert (status.subresource, status.body) == ("status", {"status": {"nodeInfo": {"bootID": "b1"}}})


def test_gpus_that_appear_late_are_written_late() -> None:
    bare = live(wish(has_gpus=False))
    assert "nvidia.com/gpu" not in bare["status"]["allocatable"]
    assert writes(bare, wish(has_gpus=False)) == []

    (status,) = writes(bare, wish())
    assert status.body == {
        "status": {"capacity": {"nvidia.com/gpu": "4"}, "allocatable": {"nvidia.com/gpu": "4"}}
    }


def test_gpus_are_gone_while_a_machine_that_came_back_looks_for_them() -> None:
    (status,) = writes(live(), wish(has_gpus=False))

    assert status.body == {
        "status": {"capacity": {"nvidia.com/gpu": None}, "allocatable": {"nvidia.com/gpu": None}}
    }


def test_an_aws_notice_is_a_taint_beside_those_of_others() -> None:
    found = live()
    found["spec"]["taints"].append({"key": "theirs", "effect": "NoSchedule"})

    (patch,) = writes(found, wish(notice=NoticeStyle.AWS))

    assert patch.body == {
        "metadata": {"resourceVersion": "5"},
        "spec": {
            "taints": [
                {"key": "spot", "value": "true", "effect": "NoSchedule"},
                {"key": "theirs", "effect": "NoSchedule"},
                {
                    "key": "aws-node-termination-handler/spot-itn",
                    "value": "spot-itn-1",
                    "effect": "NoSchedule",
                },
            ]
        },
    }


def test_a_notice_that_is_taken_back_takes_its_taint_along() -> None:
    found = live()
    found["spec"]["taints"].append({"key": "aws-node-termination-handler/spot-itn", "effect": "NoSchedule"})

    (patch,) = writes(found, wish())

    assert patch.body == {
        "metadata": {"resourceVersion": "5"},
        "spec": {"taints": [{"key": "spot", "value": "true", "effect": "NoSchedule"}]},
    }


def test_a_gcp_notice_is_a_kubelet_that_shuts_down_and_is_played_no_more() -> None:
    patch, status = writes(live(), wish(notice=NoticeStyle.GCP))

    assert patch.body == {"metadata": {"annotations": {"kwok.x-k8s.io/node": None}, "resourceVersion": "5"}}
    assert status.body == {
        "status": {
            "conditions": [
                {
                    "type": "Ready",
                    "status": "False",
                    "reason": "KubeletNotReady",
                    "message": "node is shutting down",
                    "lastHeartbeatTime": "2026-03-01T12:00:00Z",
                    "lastTransitionTime": "2026-03-01T12:00:00Z",
                }
            ]
        }
    }


def test_an_azure_notice_is_a_condition_that_comes_and_goes() -> None:
    (told,) = writes(live(), wish(notice=NoticeStyle.AZURE))
    assert isinstance(told.body, dict)
    (condition,) = told.body["status"]["conditions"]
    assert (condition["type"], condition["status"]) == ("PreemptionScheduled", "True")

    found = live()
    found["status"]["conditions"].append(condition)
    (back,) = writes(found, wish())
    assert isinstance(back.body, dict)
    assert back.body["status"]["conditions"][0]["status"] == "False"


def test_a_silent_notice_shows_nowhere() -> None:
    assert writes(live(), wish(notice=NoticeStyle.SILENT)) == []


def test_the_node_of_a_machine_that_vanished_is_played_no_more_and_unknown() -> None:
    patch, status = writes(live(), wish(lives=False))

    assert isinstance(patch.body, dict)
    assert isinstance(status.body, dict)
    assert patch.body["metadata"]["annotations"] == {"kwok.x-k8s.io/node": None}
    assert status.body["status"]["conditions"][0]["status"] == "Unknown"


# What a market wishes


def test_a_machine_has_a_node_from_when_it_joins_until_it_is_gone() -> None:
    market = Market([PoolSpec(name="p", start_nodes=1, boot=BootDelay.fixed(seconds(10)))], now=NOW)

    assert list(wishes_of(market, NOW)) == []
    market.advance(NOW + seconds(10))
    (made,) = wishes_of(market, NOW + seconds(10))
    assert (made.name, made.lives, made.notice) == (f"p-{made.machine}", True, None)
    market.reclaim("p", now=NOW + seconds(20))
    assert [w.notice for w in wishes_of(market, NOW + seconds(20))] == [NoticeStyle.AWS]
    market.advance(NOW + seconds(140))
    assert list(wishes_of(market, NOW + seconds(140))) == []


@pytest.mark.case("node-and-spot D.6")
def test_a_machine_that_comes_back_keeps_its_node_and_does_not_live_meanwhile() -> None:
    market = Market([PoolSpec(name="p", start_nodes=1, boot=BootDelay.fixed(seconds(10)))], now=NOW)
    market.advance(NOW + seconds(10))
    (before,) = wishes_of(market, NOW + seconds(10))
    market.reboot("p", now=NOW + seconds(20))

    (meanwhile,) = wishes_of(market, NOW + seconds(20))
    market.advance(NOW + seconds(30))
    (again,) = wishes_of(market, NOW + seconds(30))
    assert (meanwhile.name, meanwhile.lives) == (before.name, False)
    assert (again.name, again.lives, again.boot_id != before.boot_id) == (before.name, True, True)


@pytest.mark.case("node-and-spot D.6")
def test_a_machine_that_vanished_leaves_a_node_that_does_not_live() -> None:
    market = Market([PoolSpec(name="p", start_nodes=1)], now=NOW)
    (before,) = wishes_of(market, NOW)
    market.vanish("p", now=NOW + seconds(20))

    assert [w.lives for w in wishes_of(market, NOW + seconds(20)) if w.name == before.name] == [False]


@pytest.mark.case("node-and-spot D.6")
def test_gpus_are_wished_once_their_delay_is_over() -> None:
    market = Market([PoolSpec(name="p", start_nodes=1, gpu_delay=seconds(30))], now=NOW)

    assert [w.has_gpus for w in wishes_of(market, NOW + seconds(29))] == [False]
    assert [w.has_gpus for w in wishes_of(market, NOW + seconds(30))] == [True]
