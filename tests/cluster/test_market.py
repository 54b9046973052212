"""The market's machines as Nodes of a real control plane, played by kwok."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator

import pytest
import requests

from tests.cluster.client import JsonObject
from tests.cluster.controlplane import ControlPlane, condition_status
from tests.cluster.market_process import MarketProcess, on_demand_pool, running_market, spot_pool

SECONDS = 45  # 1 to 3 s are usual; a machine busy with other test runs takes longer
ITN = "aws-node-termination-handler/spot-itn"
NewPool = Callable[..., str]


@pytest.fixture(scope="module")
def names() -> dict[str, str]:
    unique = uuid.uuid4().hex[:6]
    return {kind: f"{kind}-{unique}" for kind in ("spot", "gcp", "late", "steady")}


@pytest.fixture(scope="module")
def market(cluster: ControlPlane, names: dict[str, str]) -> Iterator[MarketProcess]:
    pools = [
        spot_pool(names["spot"], zones=["a", "b"]),
        spot_pool(names["gcp"], noticeStyle="Gcp"),
        on_demand_pool(names["late"], gpuDelaySeconds=3),
        on_demand_pool(names["steady"], minNodes=1, pricePerHour="36", gpus=4),
    ]
    with running_market(cluster, pools) as market:
        yield market


@pytest.fixture(autouse=True)
def mended(cluster: ControlPlane, market: MarketProcess, names: dict[str, str]) -> Iterator[None]:
    """Undo every fault, and give every machine and every Node that was left behind back."""
    yield
    for pool in names.values():
        market.mend_api(pool)
        market.accept(pool)
        market.limit(pool, None)
        market.set_boot(pool, 1)
        at_rest = 1 if pool == names["steady"] else 0
        market.foreign_resize(pool, at_rest)
        for node in market.nodes(pool):
            if name_of(node) not in market.running(pool):
                cluster.delete_node(name_of(node))
        market.wait_nodes(pool, at_rest)


def grow(market: MarketProcess, pool: str, to: int) -> list[JsonObject]:
    """Grow a pool and wait for its nodes."""
    before = market.pool(pool)["desired"]
    market.ask(pool, "grow", to=to, before=before, token=uuid.uuid4().hex)
    return market.wait_nodes(pool, to)


def name_of(node: JsonObject) -> str:
    name: str = node["metadata"]["name"]
    return name


def taint_keys(cluster: ControlPlane, node: str) -> set[str]:
    taints = cluster.client.get(f"/api/v1/nodes/{node}")["spec"].get("taints") or []
    return {taint["key"] for taint in taints}


def test_a_grown_pool_gets_nodes_that_lead_back_to_their_machines(
    market: MarketProcess, names: dict[str, str]
) -> None:
    nodes = grow(market, names["spot"], 2)

    machines = {machine["node"]: machine for machine in market.machines(names["spot"])}
    assert {name_of(node) for node in nodes} == set(machines)
    for node in nodes:
        machine = machines[name_of(node)]
        assert node["spec"]["providerID"] == f"kwok://{names['spot']}/{machine['id']}"
        assert node["metadata"]["labels"]["pool"] == names["spot"]
        assert node["metadata"]["labels"]["topology.kubernetes.io/zone"] == machine["zone"]
        assert node["status"]["allocatable"]["nvidia.com/gpu"] == "8"


def test_pods_of_the_real_scheduler_run_on_a_machine_of_the_market(
    cluster: ControlPlane, market: MarketProcess, names: dict[str, str], namespace: str
) -> None:
    grow(market, names["spot"], 1)

    cluster.make_deployment(
        namespace, "llm", replicas=2, gpus=4, pod_spec={"nodeSelector": {"pool": names["spot"]}}
    )

    cluster.wait_ready_replicas(namespace, "llm", 2)


def test_a_removed_machine_takes_its_node_and_no_other(market: MarketProcess, names: dict[str, str]) -> None:
    first, second = grow(market, names["spot"], 2)
    machine = next(m for m in market.machines(names["spot"]) if m["node"] == name_of(first))

    market.ask(names["spot"], "remove", instance=machine["id"], node=machine["node"], token="t")

    (left,) = market.wait_nodes(names["spot"], 1)
    assert name_of(left) == name_of(second)
    assert market.pool(names["spot"])["desired"] == 1


@pytest.mark.case("node-and-spot D.6")
def test_a_notice_is_a_taint_and_its_end_is_the_nodes(
    cluster: ControlPlane, market: MarketProcess, names: dict[str, str]
) -> None:
    (node,) = grow(market, names["spot"], 1)
    market.limit(names["spot"], 0)

    market.reclaim(names["spot"], count=1, notice_seconds=4)

    cluster.wait_for(lambda: ITN in taint_keys(cluster, name_of(node)), SECONDS, "the node is tainted")
    cluster.wait_for(
        lambda: cluster.client.find(f"/api/v1/nodes/{name_of(node)}") is None, SECONDS, "the node is gone"
    )
    shown = market.pool(names["spot"])
    assert (shown["desired"], shown["granted"]) == (1, 0)


@pytest.mark.case("node-and-spot D.6")
def test_a_notice_that_is_taken_back_leaves_the_node_as_it_was(
    cluster: ControlPlane, market: MarketProcess, names: dict[str, str]
) -> None:
    (node,) = grow(market, names["spot"], 1)
    path = f"/api/v1/nodes/{name_of(node)}"
    told = market.reclaim(names["spot"], notice_seconds=300)
    cluster.wait_for(lambda: ITN in taint_keys(cluster, name_of(node)), SECONDS, "the node is tainted")

    assert market.cancel_notice(names["spot"]) == told

    cluster.wait_for(
        lambda: taint_keys(cluster, name_of(node)) == {"spot"}, SECONDS, "only its own taint is left"
    )
    assert cluster.client.get(path)["metadata"]["uid"] == node["metadata"]["uid"]


@pytest.mark.case("node-and-spot D.6")
def test_a_gcp_notice_is_a_kubelet_that_shuts_down_until_it_is_taken_back(
    cluster: ControlPlane, market: MarketProcess, names: dict[str, str]
) -> None:
    (node,) = grow(market, names["gcp"], 1)
    path = f"/api/v1/nodes/{name_of(node)}"

    market.reclaim(names["gcp"], notice_seconds=300)

    def says() -> JsonObject | None:
        conditions = cluster.client.get(path)["status"]["conditions"]
        return next(
            (c for c in conditions if c["type"] == "Ready" and c["message"] == "node is shutting down"), None
        )

    shutting_down = cluster.wait_for(says, SECONDS, "its kubelet says that it shuts down")
    assert (shutting_down["status"], shutting_down["reason"]) == ("False", "KubeletNotReady")
    time.sleep(2)  # kwok would have said Ready again by now
    assert says() is not None

    market.cancel_notice(names["gcp"])

    market.wait_nodes(names["gcp"], 1)


@pytest.mark.case("node-and-spot D.6")
def test_a_machine_that_vanishes_leaves_a_node_that_is_not_ready(
    cluster: ControlPlane, market: MarketProcess, names: dict[str, str]
) -> None:
    (node,) = grow(market, names["spot"], 1)
    market.refuse(names["spot"])

    market.vanish(names["spot"])

    path = f"/api/v1/nodes/{name_of(node)}"
    cluster.wait_for(
        lambda: condition_status(cluster.client.get(path), "Ready") == "Unknown", SECONDS, "it is unknown"
    )
    cluster.wait_for(
        lambda: "node.kubernetes.io/unreachable" in taint_keys(cluster, name_of(node)),
        SECONDS,
        "the node controller counts it as unreachable",
    )
    assert market.ask(names["spot"], "describe")["instances"][0]["state"] == "Requested"


@pytest.mark.case("node-and-spot D.6")
def test_a_machine_that_comes_back_has_its_name_and_another_boot_id(
    cluster: ControlPlane, market: MarketProcess, names: dict[str, str]
) -> None:
    (node,) = grow(market, names["spot"], 1)
    path = f"/api/v1/nodes/{name_of(node)}"

    def boot_id() -> str:
        found: str = cluster.client.get(path)["status"]["nodeInfo"]["bootID"]
        return found

    first = cluster.wait_for(boot_id, SECONDS, "the node has a boot id")

    market.reboot(names["spot"])

    cluster.wait_for(lambda: boot_id() not in ("", first), SECONDS, "it has another boot id")
    market.wait_nodes(names["spot"], 1)
    assert cluster.client.get(path)["metadata"]["uid"] == node["metadata"]["uid"]


@pytest.mark.case("node-and-spot D.6")
def test_gpus_appear_after_the_node(
    cluster: ControlPlane, market: MarketProcess, names: dict[str, str]
) -> None:
    (node,) = grow(market, names["late"], 1)
    assert "nvidia.com/gpu" not in node["status"]["allocatable"]

    cluster.wait_for(
        lambda: (
            cluster.client.get(f"/api/v1/nodes/{name_of(node)}")["status"]["allocatable"].get(
                "nvidia.com/gpu"
            )
            == "8"
        ),
        SECONDS,
        "its GPUs show",
    )


@pytest.mark.case("node-and-spot D.6")
def test_a_refusing_pool_gets_no_node_and_says_why(market: MarketProcess, names: dict[str, str]) -> None:
    market.refuse(names["spot"], code="VcpuLimitExceeded")
    market.ask(names["spot"], "grow", to=2, before=0, token=uuid.uuid4().hex)

    said = market.ask(names["spot"], "describe")
    assert (said["desired"], [i["state"] for i in said["instances"]]) == (2, ["Requested"] * 2)
    assert {(r["kind"], r["code"]) for r in said["refusals"]} >= {("Quota", "VcpuLimitExceeded")}

    market.refuse(names["spot"], False)
    market.wait_nodes(names["spot"], 2)


def test_a_killed_market_goes_on_where_it_stood(
    cluster: ControlPlane, market: MarketProcess, names: dict[str, str]
) -> None:
    before = grow(market, names["spot"], 2)
    market.ask(names["spot"], "grow", to=3, before=2, token="just-before")
    market.reclaim(names["spot"], count=1, notice_seconds=300)
    told = {machine["id"]: machine["endsAt"] for machine in market.machines(names["spot"])}

    market.kill()
    market.start()

    assert {machine["id"]: machine["endsAt"] for machine in market.machines(names["spot"])} == told
    market.ask(names["spot"], "grow", to=3, before=2, token="just-before")
    after = market.wait_nodes(names["spot"], 3)
    assert {node["metadata"]["uid"] for node in before} <= {node["metadata"]["uid"] for node in after}
    tainted = [node for node in after if ITN in taint_keys(cluster, name_of(node))]
    assert len(tainted) == 1


def test_a_market_that_was_away_takes_what_is_due_when_it_comes_back(
    cluster: ControlPlane, market: MarketProcess, names: dict[str, str]
) -> None:
    (node,) = grow(market, names["spot"], 1)
    market.refuse(names["spot"])
    market.reclaim(names["spot"], notice_seconds=1)

    market.kill()
    time.sleep(1)
    market.start()

    cluster.wait_for(
        lambda: cluster.client.find(f"/api/v1/nodes/{name_of(node)}") is None, SECONDS, "the node is gone"
    )


def test_nodes_are_made_once_the_api_server_is_back(
    cluster: ControlPlane, market: MarketProcess, names: dict[str, str]
) -> None:
    cluster.pause_api()
    try:
        market.ask(names["spot"], "grow", to=1, before=0, token=uuid.uuid4().hex)
        assert market.pool(names["spot"])["granted"] == 1
        time.sleep(2)
    finally:
        cluster.resume_api()

    market.wait_nodes(names["spot"], 1)


def test_the_ledger_runs(market: MarketProcess, names: dict[str, str]) -> None:
    market.wait_nodes(names["steady"], 1)
    first = market.ledger()[names["steady"]]
    time.sleep(1)
    second = market.ledger()[names["steady"]]

    assert second["machineSeconds"] >= 60  # the least that is billed
    assert float(second["cost"]) == pytest.approx(second["machineSeconds"] * 0.01, abs=1e-5)
    assert second["machineSeconds"] >= first["machineSeconds"]


@pytest.mark.case("node-and-spot E52")
def test_a_call_whose_answer_is_lost_has_one_effect(market: MarketProcess, names: dict[str, str]) -> None:
    market.api_fault(names["spot"], "LoseAnswer", 1)
    with pytest.raises(requests.Timeout):
        market.ask(names["spot"], "grow", to=1, before=0, token="lost")

    market.ask(names["spot"], "grow", to=1, before=0, token="lost")

    assert market.pool(names["spot"])["desired"] == 1
    market.wait_nodes(names["spot"], 1)
