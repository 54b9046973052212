"""Nodes that should go and may not: budgets, foreign pods, people's cordons, and an operator killed half-way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.cluster.client import JsonObject
from tests.cluster.controlplane import ControlPlane
from tests.cluster.exporter import Exporter
from tests.cluster.faults import Action, Hang, Lose
from tests.cluster.fleet_laws import (
    evicted_pods,
    is_marked,
    lawful,
    marked,
    noted_until,
    patch_pool,
    pool_events,
    pool_says,
)
from tests.cluster.fleet_scene import (
    POOLS,
    SHORT_DRAIN,
    BurstWorkload,
    FleetScene,
    played_fleet,
    settle,
)
from tests.cluster.operator_chart import Helm
from tests.cluster.operator_process import FAST
from tests.cluster.prometheus import Prometheus

Pools = dict[str, str]
SUCCESSION_SECONDS = FAST["leaseDurationSeconds"] + 45
CALM = 6  # longer than a drain takes to begin: idle 2 s, confirmed 1 s and two collections
EVICTION = r"/pods/[^/]+/eviction"


@pytest.fixture(scope="module")
def fleet(
    cluster: ControlPlane, exporter: Exporter, prometheus: Prometheus, helm: Helm, crds: list[str]
) -> Iterator[FleetScene]:
    settings = {"cordonSettleSeconds": 2}  # so that a test can slip in between cordon and eviction
    with played_fleet(
        cluster, exporter, prometheus, helm, spot=("a",), settings=settings, through_proxies=True
    ) as fleet:
        yield fleet


@pytest.fixture(autouse=True)
def pools(fleet: FleetScene) -> Iterator[Pools]:
    with lawful(fleet) as pools:
        yield pools
        fleet.scene.operator.api.clear()


def od(fleet: FleetScene) -> str:
    """The market's name of the on-demand pool."""
    return fleet.market.pools[0]


@pytest.fixture
def spread(fleet: FleetScene, pools: Pools) -> BurstWorkload:
    """A workload of two replicas on two nodes that would fit on one; minNodes keeps both."""
    patch_pool(fleet, pools["od"], minNodes=2)
    fleet.market.wait_nodes(od(fleet), 2)
    llm = fleet.burst(baseline=2, replicas=2, capacity={"burst": "Never"})
    llm.serves(2, 0)
    assert len(homes(fleet, llm)) == 2, "the scheduler spreads equal pods"
    settle(2)  # what has just come is not moved at once
    return llm


def homes(fleet: FleetScene, llm: BurstWorkload) -> dict[str, str]:
    """Return the name of the pod on each node that has one."""
    pods = fleet.scene.cluster.pods(fleet.namespace, f"app={llm.name}")
    return {pod["spec"]["nodeName"]: pod["metadata"]["name"] for pod in pods if pod["spec"].get("nodeName")}


def release(fleet: FleetScene, pools: Pools) -> None:
    """Let the on-demand pool have one node less than it has."""
    patch_pool(fleet, pools["od"], minNodes=0)


@contextmanager
def budgets(fleet: FleetScene, llm: BurstWorkload, *labels: str, may_miss: int = 0) -> Iterator[None]:
    """Put a PodDisruptionBudget that lets *may_miss* pods go under each of these names."""
    path = f"/apis/policy/v1/namespaces/{fleet.namespace}/poddisruptionbudgets"
    for label in labels:
        spec = {"maxUnavailable": may_miss, "selector": {"matchLabels": {"app": llm.name}}}
        fleet.client.post(path, {"metadata": {"name": label}, "spec": spec})
    try:
        for label in labels:
            llm.until(
                lambda label=label: (
                    fleet.client.get(f"{path}/{label}").get("status", {}).get("currentHealthy") == 2
                ),
                20,
                "the budget is counted",
            )
        yield
    finally:
        for label in labels:
            fleet.client.delete(f"{path}/{label}")


def is_at_one_node(fleet: FleetScene) -> bool:
    return len(fleet.market.machines(od(fleet))) == 1


# Budgets


def test_two_half_empty_nodes_become_one_within_a_budget(
    fleet: FleetScene, pools: Pools, spread: BurstWorkload
) -> None:
    with budgets(fleet, spread, "one", may_miss=1):
        release(fleet, pools)

        ready = noted_until(
            spread, lambda: spread.ready()[0], lambda: is_at_one_node(fleet), 60, "one node carries both"
        )

    assert min(ready) >= 1
    spread.serves(2, 0)
    spread.until(lambda: pool_events(fleet, pools["od"], "NodeRemoved"), 20, "an Event tells of it")


def test_a_budget_that_blocks_keeps_its_pod_and_the_node(
    fleet: FleetScene, pools: Pools, spread: BurstWorkload
) -> None:
    patch_pool(fleet, pools["od"], drain={**SHORT_DRAIN, "timeoutSeconds": 8})
    before, mark = homes(fleet, spread), fleet.scene.cluster.audit_mark()
    with budgets(fleet, spread, "one"):
        release(fleet, pools)
        spread.until(lambda: evicted_pods(fleet, since=mark), 30, "an eviction is asked for")
        spread.until(lambda: not marked(fleet), 40, "it gives up and lifts its cordon")

        assert homes(fleet, spread) == before
        assert len(fleet.market.machines(od(fleet))) == 2
    spread.until(lambda: is_at_one_node(fleet), 60, "without the budget the node goes")


@pytest.mark.case("node-and-spot E45")
def test_two_budgets_over_one_pod_end_the_drain_at_once(
    fleet: FleetScene, pools: Pools, spread: BurstWorkload
) -> None:
    before, mark = homes(fleet, spread), fleet.scene.cluster.audit_mark()
    with budgets(fleet, spread, "one", "two"):
        release(fleet, pools)
        spread.until(lambda: pool_events(fleet, pools["od"], "DrainBlocked"), 30, "it says so")
        spread.until(lambda: not marked(fleet), 20, "it lifts its cordon")

        (event, *_) = pool_events(fleet, pools["od"], "DrainBlocked")
        assert "more than one PodDisruptionBudget covers pod" in event["message"]
        asked = evicted_pods(fleet, since=mark)
        assert len(asked) <= 3, "no storm of evictions that can never be"
        assert homes(fleet, spread) == before


# Pods that are not ours to move


def foreign_pod(node: str, *, gpus: int = 0) -> JsonObject:
    """Return the manifest of a pod bound to *node*, past the scheduler and every taint."""
    container: JsonObject = {"name": "main", "image": "registry.invalid/other:1"}
    if gpus:
        container["resources"] = {"limits": {"nvidia.com/gpu": str(gpus)}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "foreign-", "labels": {"role": "foreign"}},
        "spec": {
            "nodeName": node,
            "containers": [container],
            "tolerations": [{"operator": "Exists"}],
            "terminationGracePeriodSeconds": 1,
        },
    }


def bare(fleet: FleetScene, node: str) -> None:
    fleet.client.post(f"/api/v1/namespaces/{fleet.namespace}/pods", foreign_pod(node))


def job(fleet: FleetScene, node: str) -> None:
    pod = foreign_pod(node)
    template = {
        "metadata": {
            "labels": {"role": "foreign"},
            "annotations": {"pod-complete.stage.kwok.x-k8s.io/delay": "600s"},
        },
        "spec": {**pod["spec"], "restartPolicy": "Never"},
    }
    made = {"metadata": {"generateName": "foreign-"}, "spec": {"template": template, "backoffLimit": 0}}
    fleet.client.post(f"/apis/batch/v1/namespaces/{fleet.namespace}/jobs", made)


def on_a_host_path(fleet: FleetScene, node: str) -> None:
    pod = foreign_pod(node)
    volumes = [{"name": "data", "hostPath": {"path": "/var/data"}}]
    template = {
        "metadata": {"labels": {"role": "foreign", "app": f"keeper-{node}"}},
        "spec": {**pod["spec"], "volumes": volumes},
    }
    body = {
        "metadata": {"name": f"keeper-{node}"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": f"keeper-{node}"}}, "template": template},
    }
    fleet.client.post(f"/apis/apps/v1/namespaces/{fleet.namespace}/deployments", body)


def strangers(fleet: FleetScene) -> dict[str, str]:
    """Return the uid of the running foreign pod on each node."""
    pods = fleet.scene.cluster.pods(fleet.namespace, "role=foreign")
    return {
        pod["spec"]["nodeName"]: pod["metadata"]["uid"]
        for pod in pods
        if pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
    }


@contextmanager
def strangers_on(
    fleet: FleetScene, make: Callable[[FleetScene, str], None], nodes: list[str]
) -> Iterator[dict[str, str]]:
    for node in nodes:
        make(fleet, node)
    try:
        fleet.scene.operator.until(lambda: set(strangers(fleet)) == set(nodes), 20, "the foreign pods run")
        yield strangers(fleet)
    finally:
        space = f"namespaces/{fleet.namespace}"
        fleet.client.delete(f"/apis/batch/v1/{space}/jobs", propagationPolicy="Background")
        for node in nodes:
            fleet.client.delete(
                f"/apis/apps/v1/{space}/deployments/keeper-{node}", propagationPolicy="Background"
            )
        fleet.client.delete(f"/api/v1/{space}/pods", labelSelector="role=foreign", gracePeriodSeconds=0)


@pytest.mark.case("node-and-spot E44")
@pytest.mark.parametrize(
    ("make", "rule", "word"),
    [
        pytest.param(job, "Block", "drain.foreignPods is Block", id="job"),
        pytest.param(bare, "Evict", "no controller", id="bare, foreign pods may be evicted"),
        pytest.param(
            on_a_host_path, "Evict", "keeps data on the node", id="hostPath, foreign pods may be evicted"
        ),
    ],
)
def test_a_pod_that_is_not_ours_to_move_keeps_its_node(
    fleet: FleetScene, pools: Pools, make: Callable[[FleetScene, str], None], rule: str, word: str
) -> None:
    patch_pool(fleet, pools["od"], minNodes=1, drain={**SHORT_DRAIN, "foreignPods": rule})
    (node,) = fleet.market.wait_nodes(od(fleet), 1)
    mark = fleet.scene.cluster.audit_mark()
    with strangers_on(fleet, make, [node["metadata"]["name"]]) as before:
        release(fleet, pools)

        condition = pool_says(fleet, pools["od"], "DrainBlocked", 30)

        assert word in condition["message"]
        settle(CALM)
        assert strangers(fleet) == before
        assert evicted_pods(fleet, since=mark) == []
        assert is_at_one_node(fleet)
        assert marked(fleet) == []
    fleet.scene.operator.until(lambda: not fleet.market.machines(od(fleet)), 60, "without it the node goes")


def test_a_job_pod_moves_where_the_pool_says_so(fleet: FleetScene, pools: Pools) -> None:
    patch_pool(fleet, pools["od"], minNodes=2, drain={**SHORT_DRAIN, "foreignPods": "Evict"})
    nodes = [node["metadata"]["name"] for node in fleet.market.wait_nodes(od(fleet), 2)]
    llm = fleet.burst(baseline=2, replicas=2, capacity={"burst": "Never"})
    llm.serves(2, 0)
    mark = fleet.scene.cluster.audit_mark()
    with strangers_on(fleet, job, nodes):
        release(fleet, pools)

        llm.until(lambda: is_at_one_node(fleet), 60, "one node carries all")

        assert any(name.startswith("foreign-") for name in evicted_pods(fleet, since=mark))


@pytest.mark.case("node-and-spot E40")
def test_a_pod_that_slips_in_before_the_eviction_keeps_the_node(
    fleet: FleetScene, pools: Pools, spread: BurstWorkload
) -> None:
    mark = fleet.scene.cluster.audit_mark()
    release(fleet, pools)
    spread.until(lambda: marked(fleet), 30, "a node is cordoned")
    (node,) = marked(fleet)

    pod = foreign_pod(node, gpus=1)
    made = fleet.client.post(f"/api/v1/namespaces/{fleet.namespace}/pods", pod)

    spread.until(lambda: node not in marked(fleet), 20, "its cordon is lifted")
    found = fleet.client.get(f"/api/v1/namespaces/{fleet.namespace}/pods/{made['metadata']['name']}")
    assert found["metadata"]["uid"] == made["metadata"]["uid"]
    assert evicted_pods(fleet, since=mark) == []
    fleet.client.delete(
        f"/api/v1/namespaces/{fleet.namespace}/pods/{made['metadata']['name']}", gracePeriodSeconds=0
    )
    spread.until(lambda: is_at_one_node(fleet), 60, "without it a node goes")


# What people do with nodes


@pytest.mark.case("node-and-spot E49")
def test_a_node_that_a_person_cordoned_is_left_to_that_person(
    fleet: FleetScene, pools: Pools, spread: BurstWorkload
) -> None:
    first, _ = sorted(homes(fleet, spread))
    path = f"/api/v1/nodes/{first}"
    mark = fleet.scene.cluster.audit_mark()
    fleet.client.patch(path, {"spec": {"unschedulable": True}})
    settle(1)

    release(fleet, pools)
    settle(CALM)

    node = fleet.client.get(path)
    assert node["spec"]["unschedulable"] is True
    assert not is_marked(node)
    assert evicted_pods(fleet, since=mark) == []
    assert len(fleet.market.machines(od(fleet))) == 2
    fleet.client.patch(path, {"spec": {"unschedulable": None}})
    spread.until(lambda: is_at_one_node(fleet), 60, "after the person's work a node goes")


def test_a_pool_over_live_machines_moves_nothing_until_enforce(fleet: FleetScene, pools: Pools) -> None:
    fleet.client.delete(f"{POOLS}/{pools['od']}")
    fleet.market.foreign_resize(od(fleet), 2)
    fleet.market.wait_nodes(od(fleet), 2)
    mark = fleet.scene.cluster.audit_mark()

    live = fleet.pool("live", capacity_type="OnDemand", market_pool=od(fleet), mode=None)
    llm = fleet.burst(baseline=2, replicas=2, capacity={"burst": "Never"})
    llm.workload.patch(replicas=6)
    llm.until(lambda: llm.workload.replicas == 6, 30, "it wants more than two nodes hold")
    pool_says(fleet, live, "Observed")
    settle(CALM)

    assert [event["requestURI"] for event in fleet.scene.operator.writes(mark, resource="nodes")] == []
    assert evicted_pods(fleet, since=mark) == []
    assert fleet.market.pool(od(fleet))["desired"] == 2
    patch_pool(fleet, live, mode="Enforce")
    llm.serves(6, 0, seconds=60)
    assert len(fleet.market.machines(od(fleet))) == 3


@pytest.mark.case("node-and-spot E50")
def test_no_drain_is_begun_in_a_pool_at_its_minimum(fleet: FleetScene, pools: Pools) -> None:
    mark = fleet.scene.cluster.audit_mark()
    patch_pool(fleet, pools["od"], minNodes=2)
    fleet.market.wait_nodes(od(fleet), 2)

    settle(CALM)

    assert fleet.scene.operator.writes(mark, resource="nodes") == []
    assert len(fleet.market.machines(od(fleet))) == 2


# A cloud that fails while nodes go


@pytest.mark.case("node-and-spot E52")
def test_a_removal_whose_answer_is_lost_removes_one_node(fleet: FleetScene, pools: Pools) -> None:
    patch_pool(fleet, pools["od"], minNodes=3)
    fleet.market.wait_nodes(od(fleet), 3)
    settle(2)
    fleet.market.api_fault(od(fleet), "LoseAnswer", 1, calls=["remove"])

    patch_pool(fleet, pools["od"], minNodes=2)

    fleet.market.wait_nodes(od(fleet), 2, seconds=60)
    settle(CALM)
    assert len(fleet.market.machines(od(fleet))) == 2


@pytest.mark.case("node-and-spot E51")
def test_a_node_that_outlives_its_machine_is_deleted(fleet: FleetScene, pools: Pools) -> None:
    patch_pool(fleet, pools["od"], minNodes=1)
    (node,) = fleet.market.wait_nodes(od(fleet), 1)
    fleet.market.leave_nodes(od(fleet))

    release(fleet, pools)

    fleet.scene.operator.until(lambda: not fleet.market.machines(od(fleet)), 60, "the machine is gone")
    fleet.scene.operator.until(lambda: not fleet.market.nodes(od(fleet)), 60, "and its Node is, too")
    assert fleet.client.find(f"/api/v1/nodes/{node['metadata']['name']}") is None


# An operator that is killed between two acts


@pytest.mark.case("node-and-spot E48")
@pytest.mark.parametrize(
    ("action", "path"),
    [
        pytest.param(Lose(), r"/api/v1/nodes/", id="after the cordon"),
        pytest.param(Hang(), EVICTION, id="before an eviction"),
        pytest.param(Lose(), EVICTION, id="after an eviction"),
    ],
)
def test_one_killed_in_a_drain_ends_it(
    fleet: FleetScene, pools: Pools, spread: BurstWorkload, action: Action, path: str
) -> None:
    operator = fleet.scene.operator
    rule = operator.api.add(action, path=path, method="POST" if path == EVICTION else "PATCH")
    release(fleet, pools)
    spread.until(lambda: rule.hits, 45, "it is half-way")

    operator.kill()
    operator.api.clear()
    operator.start()

    operator.wait_deciding(SUCCESSION_SECONDS)
    spread.until(lambda: is_at_one_node(fleet), 90, "one node carries both")
    spread.serves(2, 0)


@pytest.mark.case("node-and-spot E48")
def test_one_killed_in_a_drain_that_is_not_wanted_any_more_rolls_it_back(
    fleet: FleetScene, pools: Pools, spread: BurstWorkload
) -> None:
    operator = fleet.scene.operator
    release(fleet, pools)
    spread.until(lambda: marked(fleet), 30, "a node is cordoned")
    operator.kill()
    patch_pool(fleet, pools["od"], minNodes=2)

    operator.start()

    operator.wait_deciding(SUCCESSION_SECONDS)
    spread.until(lambda: not marked(fleet), 30, "the cordon is lifted")
    assert len(fleet.market.machines(od(fleet))) == 2
    spread.serves(2, 0)
