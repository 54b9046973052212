"""GpuNodePools over live nodes: observed and priced on a real control plane, and nothing else."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from spillway.api import names
from tests.cluster.client import JsonObject
from tests.cluster.controlplane import ControlPlane
from tests.cluster.exporter import Exporter
from tests.cluster.operator_chart import Helm, installed_chart
from tests.cluster.operator_process import PROGRAM, running_operator
from tests.cluster.prometheus import Prometheus
from tests.cluster.scene import SECONDS, Scene, make_scene

SCENE = "spillway-test.dev/scene"
POOLS = f"/apis/{names.GROUP}/{names.VERSION}/{names.POOL_PLURAL}"
MakePool = Callable[..., "Pool"]


class Pool:
    """A GpuNodePool and what is said of it."""

    def __init__(self, scene: Scene, name: str) -> None:
        self.name = name
        self._scene = scene

    @property
    def status(self) -> JsonObject:
        status: JsonObject = self._scene.cluster.client.get(f"{POOLS}/{self.name}").get("status") or {}
        return status

    def condition(self, kind: str) -> JsonObject:
        found = (item for item in self.status.get("conditions") or [] if item["type"] == kind)
        return next(found, {})

    def says(self, kind: str, status: str, reason: str) -> JsonObject:
        """Wait for a condition and return it."""

        def found() -> JsonObject | None:
            condition = self.condition(kind)
            return (
                condition if (condition.get("status"), condition.get("reason")) == (status, reason) else None
            )

        condition: JsonObject = self._scene.operator.until(found, SECONDS, f"{self.name}: {kind} {reason}")
        return condition

    def shows(self, **figures: Any) -> None:  # noqa: ANN401 - any JSON
        """Wait until its status has these figures."""
        self._scene.operator.until(
            lambda: figures.items() <= self.status.items(), SECONDS, f"{self.name} shows {figures}"
        )


def counted(*, ready: int, cordoned: int) -> JsonObject:
    """Return a pool's node counts where nothing else is there."""
    others = dict.fromkeys(("notReady", "booting", "draining", "doomed"), 0)
    return {**others, "ready": ready, "cordoned": cordoned}


@pytest.fixture(scope="module")
def scene(
    cluster: ControlPlane, exporter: Exporter, prometheus: Prometheus, helm: Helm, crds: list[str]
) -> Iterator[Scene]:
    """Two nodes of 8 GPUs, and an operator that sees the pods of every namespace."""
    with (
        make_scene(cluster, exporter, nodes=2) as scene,
        installed_chart(cluster, helm, scene.namespace, settings={"watchNamespaces": []}) as chart,
        running_operator(cluster, chart, prometheus) as operator,
    ):
        scene.operator = operator
        operator.wait_deciding()
        yield scene


@pytest.fixture(autouse=True)
def alone(scene: Scene) -> Iterator[None]:
    """Clear the scene of what the test made."""
    yield
    scene.strike()
    scene.operator.until(
        lambda: not [pod for pod in scene.cluster.pods(scene.namespace) if "gpu" in str(pod["spec"])],
        SECONDS,
        "every GPU pod of the test is gone",
    )


@pytest.fixture
def pool(scene: Scene) -> Iterator[MakePool]:
    """Makes pools of the scene's nodes, or of those that *selector* names; they end with the test."""
    made: list[str] = []

    def make(name: str, *, price: str | None = "40", selector: JsonObject | None = None, **spec: Any) -> Pool:  # noqa: ANN401 - any JSON
        full = f"{scene.namespace}-{name}"
        node = {
            "gpuCount": 8,
            "gpuModel": "H100",
            "selector": selector or {SCENE: scene.pod_spec["nodeSelector"][SCENE]},
        }
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.POOL_KIND,
            "metadata": {"name": full},
            "spec": {"provider": {"type": "External"}, "capacityType": "OnDemand", "node": node, **spec},
        }
        if price is not None:
            body["spec"] |= {"price": {"perNodeHour": price}}
        scene.cluster.client.apply(body)
        made.append(full)
        return Pool(scene, full)

    yield make
    for name in made:
        scene.cluster.client.delete(f"{POOLS}/{name}")


def node_names(scene: Scene) -> list[str]:
    return [f"{scene.namespace}-{index}" for index in range(2)]


@pytest.fixture
def annotate(scene: Scene) -> Iterator[Callable[[str], None]]:
    """Writes the price annotation of the first node; it is gone after the test."""
    path = f"/api/v1/nodes/{node_names(scene)[0]}"

    def write(price: str | None) -> None:
        scene.cluster.client.patch(path, {"metadata": {"annotations": {names.PRICE_ANNOTATION: price}}})

    yield write
    write(None)


def spillway(*args: str) -> str:
    """Run the command line as a user does and return what it prints."""
    done = subprocess.run([PROGRAM, *args], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_pool_over_live_nodes_changes_nothing_but_its_status(scene: Scene, pool: MakePool) -> None:
    chat = scene.workload(replicas=2)
    chat.until(lambda: chat.status.get("readyReplicas") == 2, SECONDS, "both replicas are Ready")
    before = {
        name: scene.cluster.client.get(f"/api/v1/nodes/{name}")["metadata"]["labels"]
        for name in node_names(scene)
    }
    mark = scene.cluster.audit_mark()

    applied = pool("live")
    applied.shows(gpusAllocated=2, hourlyCost="80.00")

    written = {
        (event["objectRef"]["resource"], event["objectRef"].get("subresource"))
        for event in scene.operator.writes(mark)
        if event["objectRef"]["resource"] not in ("leases", "events")
    }
    assert written <= {("gpunodepools", "status"), ("gpuworkloads", "status")}
    assert ("gpunodepools", "status") in written
    for name, labels in before.items():
        node = scene.cluster.client.get(f"/api/v1/nodes/{name}")
        assert (node["metadata"]["labels"], node["spec"].get("unschedulable")) == (labels, None)


def test_a_pool_counts_its_nodes_and_the_gpus_of_every_pod(scene: Scene, pool: MakePool) -> None:
    scene.deployment("foreign", replicas=3, gpus=2)

    pool("counted").shows(
        nodes=counted(ready=2, cordoned=0),
        gpusAllocatable=16,
        gpusAllocated=6,
        gpusIdle=10,
        hourlyCost="80.00",
        currency="USD",
        priceSource="pool price",
    )


def test_kubectl_get_shows_a_pool_in_one_line(scene: Scene, pool: MakePool) -> None:
    shown = pool("line")
    shown.shows(gpusAllocatable=16, hourlyCost="80.00", gpusIdle=16)

    header, row = scene.cluster.kubectl("get", "gpunp", shown.name).splitlines()

    cells = {word: row[header.index(word) :].split()[0] for word in header.split()}
    assert list(cells) == [
        "NAME", "TYPE", "MODE", "NODES", "DESIRED", "NOT-READY", "GPUS", "USED", "IDLE", "$/H", "CURRENCY", "CAPACITY",
        "REASON", "AGE",
    ]  # fmt: skip
    expected = {
        "TYPE": "OnDemand", "NODES": "2", "NOT-READY": "0", "GPUS": "16", "USED": "0", "IDLE": "16",
        "$/H": "80.00", "CURRENCY": "USD", "CAPACITY": "External", "REASON": "Observed",
    }  # fmt: skip
    assert cells.items() >= expected.items()


def test_a_pool_that_is_at_rest_is_not_written_again(scene: Scene, pool: MakePool) -> None:
    quiet = pool("quiet")
    quiet.says("Ready", "True", "Observed")
    mark = scene.cluster.audit_mark()

    scene.workload(replicas=1).says("Ready", "True")

    # The pod of the workload holds a GPU: that is news, and nothing else is.
    assert len(scene.operator.writes(mark, resource="gpunodepools")) <= 1


def test_a_workload_shows_its_share_in_status_and_columns(scene: Scene, pool: MakePool) -> None:
    chat = scene.workload(replicas=3)
    pool("priced")

    # 40 USD for 8 GPUs: 5 USD each.
    chat.until(lambda: chat.status.get("hourlyCost") == "15.00 USD", SECONDS, "it costs 15 USD an hour")

    header, row = scene.cluster.kubectl("get", "gpuw", chat.name, "-n", scene.namespace).splitlines()
    assert "$/H" in header.split()
    assert "15.00 USD" in row


def test_without_a_pool_a_cost_is_unknown_and_not_zero(scene: Scene) -> None:
    chat = scene.workload(replicas=2)

    chat.until(lambda: chat.status.get("hourlyCost") == "unknown", SECONDS, "its cost is unknown")


def test_a_node_annotation_goes_before_the_pools_price(
    scene: Scene, pool: MakePool, annotate: Callable[[str], None]
) -> None:
    annotated = pool("annotated")
    annotated.shows(hourlyCost="80.00")

    annotate("16")

    annotated.shows(hourlyCost="56.00", priceSource="node annotation (1), pool price (1)")


@pytest.mark.case("metrics-and-cost E81")
def test_a_bad_annotation_is_ignored_with_a_warning(
    scene: Scene, pool: MakePool, annotate: Callable[[str], None]
) -> None:
    annotated = pool("slip")

    annotate("1,2")

    condition = annotated.says("Ready", "False", "PriceAnnotationInvalid")
    assert "'1,2' is no price" in condition["message"]
    assert annotated.status["hourlyCost"] == "80.00"
    query = f"involvedObject.kind={names.POOL_KIND},involvedObject.name={annotated.name}"
    scene.operator.until(
        lambda: (
            [
                event
                for event in scene.cluster.client.get(
                    "/api/v1/namespaces/default/events", fieldSelector=query
                )["items"]
                if (event["type"], event["reason"]) == ("Warning", "PriceAnnotationInvalid")
            ]
        ),
        SECONDS,
        "a warning Event about the pool",
    )


def test_a_node_that_two_pools_select_belongs_to_neither(scene: Scene, pool: MakePool) -> None:
    name = node_names(scene)[0]
    whole, one = pool("whole"), pool("one", selector={"kubernetes.io/hostname": name})

    condition = whole.says("Conflict", "True", "PoolConflict")
    assert f"1 node with pool {one.name}" in condition["message"]
    assert f"1 node with pool {whole.name}" in one.says("Conflict", "True", "PoolConflict")["message"]
    whole.shows(hourlyCost="40.00", nodes=counted(ready=1, cordoned=0))
    one.shows(hourlyCost="0.00", nodes=counted(ready=0, cordoned=0))


def test_an_end_to_a_conflict_is_seen(scene: Scene, pool: MakePool) -> None:
    whole, one = pool("first"), pool("second")
    whole.says("Conflict", "True", "PoolConflict")

    scene.cluster.client.delete(f"{POOLS}/{one.name}")

    whole.says("Ready", "True", "Observed")


def test_a_cordoned_node_is_counted_apart(scene: Scene, pool: MakePool) -> None:
    path = f"/api/v1/nodes/{node_names(scene)[1]}"
    watched = pool("cordon")
    watched.shows(nodes=counted(ready=2, cordoned=0))

    scene.cluster.client.patch(path, {"spec": {"unschedulable": True}})
    try:
        watched.shows(nodes=counted(ready=1, cordoned=1))
    finally:
        scene.cluster.client.patch(path, {"spec": {"unschedulable": None}})


@pytest.mark.case("metrics-and-cost E74")
def test_the_metrics_of_payers_and_idle_make_up_the_price_of_the_nodes(scene: Scene, pool: MakePool) -> None:
    chat = scene.workload(replicas=3)
    scene.deployment("foreign", replicas=2, gpus=2)
    counted = pool("sum")
    counted.shows(gpusAllocated=7)

    def figures() -> tuple[float, float, float]:
        lines = [line for line in scene.operator.metrics().splitlines() if not line.startswith("#")]

        def total(name: str, *labels: str) -> float:
            return sum(
                float(line.rpartition(" ")[2])
                for line in lines
                if line.startswith(name) and all(label in line for label in labels)
            )

        space = f'namespace="{scene.namespace}"'
        return (
            total("spillway_workload_hourly_cost{", space, f'workload="{chat.name}"', 'managed="true"'),
            total("spillway_workload_hourly_cost{", space, 'workload="foreign"', 'managed="false"'),
            total("spillway_idle_hourly_cost{", f'node_pool="{counted.name}"'),
        )

    scene.operator.until(lambda: figures() == (15, 20, 45), SECONDS, "15 + 20 + 45 = 80 USD an hour")


def test_explain_names_the_pool_and_the_source_of_a_cost(scene: Scene, pool: MakePool) -> None:
    chat = scene.workload(replicas=2)
    priced = pool("explained")
    chat.until(lambda: chat.status.get("hourlyCost") == "10.00 USD", SECONDS, "it costs 10 USD an hour")

    printed = spillway("explain", chat.name, "-n", scene.namespace, "--operator-url", scene.operator.url)

    assert f"10.00 USD  2 GPUs on {priced.name} (OnDemand, H100), by the pool price" in printed


def test_top_shows_workloads_and_pools_of_the_running_operator(scene: Scene, pool: MakePool) -> None:
    chat = scene.workload(replicas=2)
    priced = pool("top")
    chat.until(lambda: chat.status.get("hourlyCost") == "10.00 USD", SECONDS, "it costs 10 USD an hour")

    printed = spillway("top", "--once", "-n", scene.namespace, "--operator-url", scene.operator.url)

    flat = " ".join(printed.split())
    assert "10.00 USD (pool)" in flat
    assert "2/16 80.00 USD 70.00 USD pool price" in flat
    assert max(len(line) for line in printed.splitlines()) <= 100
    assert priced.name[:20] in printed


def test_top_without_the_operator_shows_what_is_stored_with_the_account_of_the_chart(
    scene: Scene, pool: MakePool
) -> None:
    chat = scene.workload(replicas=2)
    pool("stored")
    chat.until(lambda: chat.status.get("hourlyCost") == "10.00 USD", SECONDS, "it costs 10 USD an hour")

    printed = spillway("top", "-n", scene.namespace, "--kubeconfig", str(scene.operator.chart.kubeconfig))

    assert printed.startswith("The operator cannot be asked")
    assert "10.00 USD" in printed
    assert "2/16" in printed


def test_an_account_that_may_not_read_nodes_still_scales(
    cluster: ControlPlane, exporter: Exporter, prometheus: Prometheus, helm: Helm, crds: list[str]
) -> None:
    with (
        make_scene(cluster, exporter, nodes=1) as poor,
        installed_chart(cluster, helm, poor.namespace) as chart,
    ):
        path = f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{chart.release}-cluster-read"
        role = cluster.client.get(path)
        role["rules"] = [rule for rule in role["rules"] if rule["resources"] != ["nodes"]]
        cluster.client.put(path, role)
        with running_operator(cluster, chart, prometheus) as operator:
            poor.operator = operator
            operator.wait_deciding()
            workload = poor.workload()

            workload.offer(1.6)

            workload.grows_to(2)
