"""The chart on a real API server: what its account may do, what it may not, and what stays when it goes."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from spillway.api import names
from tests.cluster.client import ApiError, Client, JsonObject
from tests.cluster.controlplane import ControlPlane
from tests.cluster.operator_chart import (
    CHART,
    PROMETHEUS_URL,
    Helm,
    InstallChart,
    InstalledChart,
    installed_chart,
)

COST = "controller.kubernetes.io/pod-deletion-cost"
MARK = "spillway.dev/cordon"
OWN_TAINT = {"key": "spillway.dev/cordoned", "value": "drain", "effect": "NoSchedule"}
OTHER_TAINT = {"key": "team", "value": "search", "effect": "NoSchedule"}
OWN = {"spillway.dev/owned-by": "5f1d5c5e-0000-4000-8000-000000000000"}
SYSTEM_TAINT = {"key": "system", "value": "only", "effect": "NoSchedule"}
ADMISSION_SECONDS = 20  # the API server reads new policies a moment after they are made


@pytest.fixture(scope="module")
def installed(cluster: ControlPlane, helm: Helm, crds: list[str]) -> Iterator[InstalledChart]:
    with released(cluster, helm) as release:
        wait_for_policies(cluster, release)
        yield release


@pytest.fixture(scope="module")
def account(cluster: ControlPlane, installed: InstalledChart) -> Client:
    """Speaks with the rights of the chart's account."""
    return cluster.client_for(installed.token)


@pytest.fixture(scope="module")
def mighty(cluster: ControlPlane, helm: Helm, crds: list[str]) -> Iterator[InstalledChart]:
    """A release whose account somebody made cluster-admin; there once its admission policies are in force."""
    with released(cluster, helm) as release:
        binding = cluster.client.apply(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": f"{release.release}-too-mighty"},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "ClusterRole",
                    "name": "cluster-admin",
                },
                "subjects": [
                    {"kind": "ServiceAccount", "name": release.release, "namespace": release.namespace}
                ],
            }
        )
        wait_for_policies(cluster, release)
        yield release
        cluster.client.delete(cluster.client.path_of(binding))


@pytest.fixture(scope="module")
def too_mighty(cluster: ControlPlane, mighty: InstalledChart) -> Client:
    return cluster.client_for(mighty.token)


@pytest.fixture(scope="module")
def fleet_wide(cluster: ControlPlane, helm: Helm, crds: list[str]) -> Iterator[InstalledChart]:
    """A release that watches all namespaces and so may change nodes; there once its policies are in force."""
    with released(cluster, helm, watched=[]) as release:
        wait_for_policies(cluster, release)
        yield release


@pytest.fixture(scope="module")
def fleet_account(cluster: ControlPlane, fleet_wide: InstalledChart) -> Client:
    """Speaks with the rights of the chart's account where it may change nodes."""
    return cluster.client_for(fleet_wide.token)


@contextmanager
def released(
    cluster: ControlPlane, helm: Helm, *, watched: list[str] | None = None
) -> Iterator[InstalledChart]:
    """A release in a namespace of its own, which it watches unless *watched* names others; none means all."""
    namespace = f"chart-{uuid.uuid4().hex[:8]}"
    cluster.make_namespace(namespace)
    settings = {} if watched is None else {"watchNamespaces": watched}
    with installed_chart(cluster, helm, namespace, settings=settings) as release:
        yield release
    cluster.client.delete(f"/api/v1/namespaces/{namespace}")


def wait_for_policies(cluster: ControlPlane, release: InstalledChart) -> None:
    """Wait until every policy answers; what they refuse here, the tests look at one by one."""
    client = cluster.client_for(release.token)
    pod = pod_path(cluster, release.namespace)
    target = deployment(release.namespace, new_deployment(cluster, release.namespace))
    node = "/api/v1/nodes/" + new_node(cluster, ready=False)
    edit = {"metadata": {"labels": {"edited": "yes"}}}
    cluster.wait_for(
        lambda: all(
            refusal(lambda at=at: client.patch(at, edit, dryRun="All")) for at in (pod, target, node)
        ),
        ADMISSION_SECONDS,
        "the admission policies refuse what RBAC allows",
    )
    cluster.client.delete(node)


def new_node(
    cluster: ControlPlane, *, ready: bool = True, taints: Sequence[Mapping[str, str]] = (SYSTEM_TAINT,)
) -> str:
    """Make a node that no other test's pods tolerate; whoever asks for it deletes it."""
    name = f"chart-{uuid.uuid4().hex[:8]}"
    cluster.make_gpu_node(name, gpus=0, ready=ready, taints=taints)
    return name


@pytest.fixture
def node(cluster: ControlPlane) -> Iterator[str]:
    """The path of a Ready node with somebody else's taints."""
    name = new_node(cluster, taints=(SYSTEM_TAINT, OTHER_TAINT))
    yield f"/api/v1/nodes/{name}"
    cluster.delete_node(name)


def deployment(namespace: str, name: str, subresource: str = "") -> str:
    return f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}{subresource}"


def pod_path(cluster: ControlPlane, namespace: str) -> str:
    """Return the path of a pod of a new Deployment in *namespace*."""
    name = new_deployment(cluster, namespace, replicas=1)
    found = cluster.wait_for(lambda: cluster.pods(namespace, f"app={name}"), 20, "the Deployment has a pod")
    return f"/api/v1/namespaces/{namespace}/pods/{found[0]['metadata']['name']}"


def new_deployment(cluster: ControlPlane, namespace: str, *, replicas: int = 0) -> str:
    name = f"llm-{uuid.uuid4().hex[:8]}"
    cluster.make_deployment(namespace, name, replicas=replicas)
    return name


def gpu_workload(namespace: str, name: str = "llm-chat") -> JsonObject:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.WORKLOAD_KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"targetRef": {"name": name}, "maxReplicas": 8},
    }


def refusal(request: Callable[[], Any]) -> str:
    """Return the server's words when it forbids *request*, else an empty text."""
    try:
        request()
    except ApiError as exc:
        if exc.status == 403:
            return exc.message
        raise
    return ""


def status_of(request: Callable[[], Any]) -> int:
    try:
        request()
    except ApiError as exc:
        return exc.status
    return 200


# What the account may do


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/apis/spillway.dev/v1alpha1/namespaces/{}/gpuworkloads", id="gpuworkloads"),
        pytest.param("/apis/spillway.dev/v1alpha1/gpupolicies", id="gpupolicies"),
        pytest.param("/apis/apps/v1/namespaces/{}/deployments", id="deployments"),
        pytest.param("/apis/apps/v1/namespaces/{}/replicasets", id="replicasets"),
        pytest.param("/api/v1/namespaces/{}/pods", id="pods"),
        pytest.param("/apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers", id="autoscalers"),
        pytest.param("/api/v1/namespaces", id="namespaces"),
    ],
)
def test_the_account_lists_what_a_decision_looks_at(
    account: Client, installed: InstalledChart, path: str
) -> None:
    assert "items" in account.get(path.format(installed.namespace))


def test_the_account_sets_replicas_through_the_scale_subresource(
    cluster: ControlPlane, account: Client, installed: InstalledChart
) -> None:
    name = new_deployment(cluster, installed.namespace, replicas=1)

    account.patch(
        deployment(installed.namespace, name, "/scale"),
        [
            {"op": "test", "path": "/spec/replicas", "value": 1},
            {"op": "replace", "path": "/spec/replicas", "value": 2},
        ],
        kind="json",
    )

    assert cluster.deployment(installed.namespace, name)["spec"]["replicas"] == 2


def test_the_account_makes_changes_and_deletes_a_burst_twin(
    cluster: ControlPlane, account: Client, installed: InstalledChart
) -> None:
    source = new_deployment(cluster, installed.namespace)
    twin = {
        "metadata": {"name": f"{source}-burst", "labels": OWN},
        "spec": cluster.deployment(installed.namespace, source)["spec"],
    }
    path = deployment(installed.namespace, f"{source}-burst")

    made = account.post(path.rsplit("/", 1)[0], twin)
    made["spec"]["minReadySeconds"] = 5
    account.put(path, made)
    account.patch(path, {"metadata": {"annotations": {"spillway.dev/handover": "yes"}}})
    account.delete(path)

    assert cluster.client.find(path) is None


def test_the_account_marks_which_pod_goes_first(
    cluster: ControlPlane, account: Client, installed: InstalledChart
) -> None:
    path = pod_path(cluster, installed.namespace)

    account.patch(path, {"metadata": {"annotations": {COST: "-100"}}})

    assert cluster.client.get(path)["metadata"]["annotations"][COST] == "-100"


def test_the_account_writes_the_status_of_a_workload(
    cluster: ControlPlane, account: Client, installed: InstalledChart
) -> None:
    path = cluster.client.path_of(cluster.client.apply(gpu_workload(installed.namespace)))

    account.patch(f"{path}/status", {"status": {"replicas": 3}})

    assert cluster.client.get(path)["status"]["replicas"] == 3


def test_the_account_posts_events(account: Client, installed: InstalledChart) -> None:
    about = {"kind": names.WORKLOAD_KIND, "namespace": installed.namespace, "name": "llm-chat"}
    event = {"metadata": {"generateName": "llm-chat."}, "involvedObject": about, "reason": "ScaledUp"}

    posted = account.post(f"/api/v1/namespaces/{installed.namespace}/events", event)

    assert posted["reason"] == "ScaledUp"


def test_the_account_makes_and_renews_its_own_lease(account: Client, installed: InstalledChart) -> None:
    leases = f"/apis/coordination.k8s.io/v1/namespaces/{installed.namespace}/leases"
    name = installed.settings["leaseName"]

    made = account.post(leases, {"metadata": {"name": name}, "spec": {"holderIdentity": "one"}})
    account.put(f"{leases}/{name}", {**made, "spec": {"holderIdentity": "two"}})

    assert account.get(f"{leases}/{name}")["spec"]["holderIdentity"] == "two"


def test_the_account_has_no_right_beyond_its_duties(account: Client, installed: InstalledChart) -> None:
    """What the server itself says of the account in its namespace, less what it grants to everyone."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": installed.namespace},
    }

    answer = account.post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", review)

    rules = {
        (resource, verb)
        for rule in answer["status"]["resourceRules"]
        if not set(rule["apiGroups"]) & {"authorization.k8s.io", "authentication.k8s.io"}
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    looks = {"gpuworkloads", "gpupolicies", "deployments", "replicasets", "pods", "horizontalpodautoscalers"}
    assert rules == {
        *(
            (resource, verb)
            for resource in looks | {"scaledobjects", "namespaces", "gpunodepools", "nodes"}
            for verb in ("get", "list", "watch")
        ),
        ("gpuworkloads/status", "patch"),
        ("gpupolicies/status", "patch"),
        ("gpunodepools/status", "patch"),
        ("deployments/scale", "get"),
        ("deployments/scale", "patch"),
        *(("deployments", verb) for verb in ("create", "update", "patch", "delete")),
        ("pods", "patch"),
        ("events", "create"),
        ("leases", "create"),
        ("leases", "get"),
        ("leases", "update"),
    }


# What it may not


@pytest.mark.parametrize(
    ("request_of", "what"),
    [
        pytest.param(
            lambda account, at: account.delete(f"/api/v1/namespaces/{at}/pods/a"),
            'cannot delete resource "pods"',
            id="delete a pod",
        ),
        pytest.param(
            lambda account, at: account.post(f"/api/v1/namespaces/{at}/pods/a/eviction", {}),
            'cannot create resource "pods/eviction"',
            id="evict a pod",
        ),
        pytest.param(
            lambda account, at: account.delete(
                f"/apis/{names.API_VERSION}/namespaces/{at}/{names.WORKLOAD_PLURAL}/llm-chat"
            ),
            'cannot delete resource "gpuworkloads"',
            id="delete a GpuWorkload",
        ),
        pytest.param(
            lambda account, at: account.patch(
                f"/apis/{names.API_VERSION}/namespaces/{at}/{names.WORKLOAD_PLURAL}/llm-chat",
                {"metadata": {"finalizers": ["spillway.dev/x"]}},
            ),
            'cannot patch resource "gpuworkloads"',
            id="put a finalizer on a GpuWorkload",
        ),
        pytest.param(
            lambda account, at: account.get(f"/api/v1/namespaces/{at}/secrets"),
            'cannot list resource "secrets"',
            id="read Secrets",
        ),
        pytest.param(
            lambda account, _: account.patch("/api/v1/nodes/a", {"spec": {"unschedulable": True}}),
            'cannot patch resource "nodes"',
            id="cordon a node",
        ),
        pytest.param(
            lambda account, _: account.delete("/api/v1/nodes/a"),
            'cannot delete resource "nodes"',
            id="delete a node",
        ),
        pytest.param(
            lambda account, _: account.patch(
                f"/apis/{names.API_VERSION}/{names.POOL_PLURAL}/a", {"spec": {"capacityType": "Spot"}}
            ),
            'cannot patch resource "gpunodepools"',
            id="edit a GpuNodePool",
        ),
        pytest.param(
            lambda account, at: account.get(f"/apis/coordination.k8s.io/v1/namespaces/{at}/leases/another"),
            'cannot get resource "leases"',
            id="read another Lease",
        ),
        pytest.param(
            lambda account, _: account.get("/api/v1/namespaces/default/pods"),
            'cannot list resource "pods"',
            id="read pods of a namespace that it does not watch",
        ),
    ],
)
def test_the_account_may_not(
    account: Client, installed: InstalledChart, request_of: Callable[[Client, str], Any], what: str
) -> None:
    assert what in refusal(lambda: request_of(account, installed.namespace))


def test_without_watch_namespaces_the_account_reads_every_namespace(
    cluster: ControlPlane, install_chart: InstallChart, namespace: str
) -> None:
    installed = install_chart(namespace, settings={"watchNamespaces": []})

    assert "items" in cluster.client_for(installed.token).get("/api/v1/pods")


# Nodes: only where all namespaces are watched


def marking(*taints: Mapping[str, str]) -> JsonObject:
    return {
        "metadata": {"annotations": {MARK: '{"cause":"drain"}'}},
        "spec": {"unschedulable": True, "taints": [dict(taint) for taint in taints]},
    }


def taint_keys(cluster: ControlPlane, node: str) -> set[str]:
    return {taint["key"] for taint in cluster.client.get(node)["spec"].get("taints", ())}


def test_the_account_marks_a_node_and_takes_its_mark_off_again(
    cluster: ControlPlane, fleet_account: Client, node: str
) -> None:
    fleet_account.patch(node, marking(SYSTEM_TAINT, OTHER_TAINT, OWN_TAINT))
    cluster.wait_for(
        lambda: "node.kubernetes.io/unschedulable" in taint_keys(cluster, node), 20, "the cordon's own taint"
    )
    marked = cluster.client.get(node)
    kept = [taint for taint in marked["spec"]["taints"] if taint["key"] != OWN_TAINT["key"]]
    without = {"metadata": {"annotations": {MARK: None}}, "spec": {"unschedulable": None, "taints": kept}}
    fleet_account.patch(node, without)

    after = cluster.client.get(node)
    assert (marked["spec"]["unschedulable"], MARK in marked["metadata"]["annotations"]) == (True, True)
    assert OWN_TAINT["key"] in {taint["key"] for taint in marked["spec"]["taints"]}
    assert ("unschedulable" in after["spec"], MARK in after["metadata"]["annotations"]) == (False, False)
    assert OWN_TAINT["key"] not in taint_keys(cluster, node)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"metadata": {"labels": {"pool": "stolen"}}}, id="label"),
        pytest.param({"metadata": {"labels": {"kubernetes.io/hostname": None}}}, id="label removed"),
        pytest.param({"metadata": {"annotations": {"another": "one"}}}, id="another annotation"),
        pytest.param({"metadata": {"annotations": {"kwok.x-k8s.io/node": None}}}, id="annotation removed"),
        pytest.param({"metadata": {"finalizers": ["spillway.dev/x"]}}, id="finalizer"),
        pytest.param({"spec": {"taints": [SYSTEM_TAINT, OWN_TAINT]}}, id="somebody else's taint removed"),
        pytest.param(
            {"spec": {"taints": [SYSTEM_TAINT, OTHER_TAINT, {"key": "x", "effect": "NoSchedule"}]}},
            id="another taint",
        ),
        pytest.param(
            {"spec": {"taints": [SYSTEM_TAINT, OTHER_TAINT, {**OWN_TAINT, "effect": "NoExecute"}]}},
            id="own taint that ends pods at once",
        ),
        pytest.param({"spec": {"providerID": "kwok://another/one"}}, id="provider id"),
        pytest.param({"spec": {"podCIDR": "10.9.9.0/24", "podCIDRs": ["10.9.9.0/24"]}}, id="addresses"),
    ],
)
def test_the_account_changes_nothing_else_of_a_node(
    fleet_account: Client, node: str, change: JsonObject
) -> None:
    words = refusal(lambda: fleet_account.patch(node, change))

    assert "of nodes it may change nothing else" in words


def test_the_account_forgets_a_node_only_when_it_is_not_ready(
    cluster: ControlPlane, fleet_account: Client, node: str
) -> None:
    lost = "/api/v1/nodes/" + new_node(cluster, ready=False)

    words = refusal(lambda: fleet_account.delete(node))
    fleet_account.delete(lost)

    assert "delete a Node that is not Ready" in words
    assert cluster.client.find(node) is not None
    assert cluster.client.find(lost) is None


def test_the_account_makes_no_node(fleet_account: Client) -> None:
    words = refusal(lambda: fleet_account.post("/api/v1/nodes", {"metadata": {"name": "mine"}}))

    assert 'cannot create resource "nodes"' in words


def test_the_account_evicts_a_pod_in_any_namespace(
    cluster: ControlPlane, fleet_account: Client, namespace: str
) -> None:
    path = pod_path(cluster, namespace)
    name = path.rsplit("/", 1)[1]

    fleet_account.post(
        f"{path}/eviction",
        {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": namespace}},
    )

    cluster.wait_for(lambda: cluster.client.find(path) is None, 30, "the evicted pod is gone")


@pytest.fixture
def bound_pod(cluster: ControlPlane, namespace: str) -> Iterator[JsonObject]:
    """A running pod on a node of its own."""
    taint = {"key": namespace, "value": "only", "effect": "NoSchedule"}
    name = new_node(cluster, taints=(taint,))
    pod = {
        "metadata": {"name": "bound"},
        "spec": {
            "nodeName": name,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "a", "image": "a"}],
        },
    }
    yield cluster.client.post(f"/api/v1/namespaces/{namespace}/pods", pod)
    cluster.delete_node(name)


def deleting(pod: JsonObject, **more: object) -> JsonObject:
    options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": pod["metadata"]["uid"]}}
    return options | more


def test_the_account_deletes_one_very_pod_from_its_node_in_order(
    cluster: ControlPlane, fleet_account: Client, namespace: str, bound_pod: JsonObject
) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods/bound"

    fleet_account.delete(path, deleting(bound_pod, gracePeriodSeconds=1))

    cluster.wait_for(lambda: cluster.client.find(path) is None, 30, "the deleted pod is gone")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"gracePeriodSeconds": 0}, id="by force"),
        pytest.param({"preconditions": None}, id="whichever pod has the name"),
    ],
)
def test_the_account_deletes_no_pod_by_force_or_by_name_alone(
    cluster: ControlPlane,
    fleet_account: Client,
    namespace: str,
    bound_pod: JsonObject,
    options: JsonObject,
) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods/bound"

    words = refusal(lambda: fleet_account.delete(path, deleting(bound_pod, **options)))

    assert "with a grace of at least 1 s" in words
    assert "deletionTimestamp" not in cluster.client.get(path)["metadata"]


def test_the_account_deletes_no_pod_that_waits_for_a_node(
    cluster: ControlPlane, fleet_account: Client, namespace: str
) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods/waiting"
    spec = {"nodeSelector": {"no": "such"}, "containers": [{"name": "a", "image": "a"}]}
    waiting = cluster.client.post(path.rsplit("/", 1)[0], {"metadata": {"name": "waiting"}, "spec": spec})

    words = refusal(lambda: fleet_account.delete(path, deleting(waiting)))

    assert "from the node it is on" in words


@pytest.mark.parametrize(
    ("values", "what"),
    [
        pytest.param({"nodes": {"manage": False}}, ("nodes", "pods/eviction", "pods"), id="no nodes"),
        pytest.param({"nodes": {"deletePodsOfLostNodes": False}}, ("pods",), id="no pods"),
    ],
)
def test_switches_take_the_rights_on_nodes_away(
    cluster: ControlPlane,
    install_chart: InstallChart,
    namespace: str,
    values: JsonObject,
    what: tuple[str, ...],
) -> None:
    release = install_chart(namespace, settings={"watchNamespaces": []}, values=values)
    client = cluster.client_for(release.token)
    pod = f"/api/v1/namespaces/{namespace}/pods/a"
    asks: dict[str, Callable[[], Any]] = {
        "nodes": lambda: client.patch("/api/v1/nodes/a", {"spec": {"unschedulable": True}}),
        "pods/eviction": lambda: client.post(f"{pod}/eviction", {}),
        "pods": lambda: client.delete(pod),
    }

    refused = {resource: refusal(asks[resource]) for resource in what}

    assert all(f'resource "{resource}"' in words for resource, words in refused.items()), refused


# The second lock


def test_the_policy_refuses_to_edit_adopt_or_delete_the_deployment_of_a_user(
    cluster: ControlPlane, mighty: InstalledChart, too_mighty: Client
) -> None:
    path = deployment(mighty.namespace, new_deployment(cluster, mighty.namespace))

    edit = refusal(
        lambda: too_mighty.patch(path, {"spec": {"template": {"metadata": {"labels": {"a": "b"}}}}})
    )
    adoption = refusal(lambda: too_mighty.patch(path, {"metadata": {"labels": OWN}}))
    deletion = refusal(lambda: too_mighty.delete(path))

    assert all("through the scale subresource" in words for words in (edit, adoption, deletion))


def test_the_account_itself_is_held_to_its_own_deployments(
    cluster: ControlPlane, account: Client, installed: InstalledChart
) -> None:
    path = deployment(installed.namespace, new_deployment(cluster, installed.namespace))

    edit = refusal(lambda: account.patch(path, {"spec": {"paused": True}}))
    deletion = refusal(lambda: account.delete(path))

    assert all("through the scale subresource" in words for words in (edit, deletion))


def test_the_account_itself_is_held_to_the_deletion_cost_of_pods(
    cluster: ControlPlane, account: Client, installed: InstalledChart
) -> None:
    path = pod_path(cluster, installed.namespace)

    words = refusal(lambda: account.patch(path, {"metadata": {"labels": {"app": "stolen"}}}))

    assert "pod-deletion-cost of a pod and nothing else" in words


def test_the_policy_refuses_nodes_of_a_release_without_rights_on_them(too_mighty: Client, node: str) -> None:
    cordon = refusal(lambda: too_mighty.patch(node, {"spec": {"unschedulable": True}}))
    deletion = refusal(lambda: too_mighty.delete(node))
    another = refusal(lambda: too_mighty.post("/api/v1/nodes", {"metadata": {"name": "mine"}}))
    health = refusal(lambda: too_mighty.patch(f"{node}/status", {"status": {"conditions": []}}, kind="merge"))

    assert all("may not change nodes" in words for words in (cordon, deletion, another, health))


def test_the_policy_leaves_the_scale_subresource_alone(
    cluster: ControlPlane, mighty: InstalledChart, too_mighty: Client
) -> None:
    name = new_deployment(cluster, mighty.namespace)

    too_mighty.patch(deployment(mighty.namespace, name, "/scale"), {"spec": {"replicas": 1}})

    assert cluster.deployment(mighty.namespace, name)["spec"]["replicas"] == 1


def test_the_policy_lets_the_account_make_edit_and_delete_deployments_of_its_own(
    cluster: ControlPlane, mighty: InstalledChart, too_mighty: Client
) -> None:
    spec = cluster.deployment(mighty.namespace, new_deployment(cluster, mighty.namespace))["spec"]
    twin = deployment(mighty.namespace, "llm-chat-burst")

    too_mighty.post(
        twin.rsplit("/", 1)[0], {"metadata": {"name": "llm-chat-burst", "labels": OWN}, "spec": spec}
    )
    too_mighty.patch(twin, {"spec": {"minReadySeconds": 5}})
    too_mighty.delete(twin)

    assert cluster.client.find(twin) is None


def test_the_policy_keeps_the_label_on_deployments_that_carry_it(
    cluster: ControlPlane, mighty: InstalledChart, too_mighty: Client
) -> None:
    cluster.make_deployment(mighty.namespace, "labelled", replicas=0, labels=OWN)
    without = {"metadata": {"labels": dict.fromkeys(OWN)}}

    words = refusal(lambda: too_mighty.patch(deployment(mighty.namespace, "labelled"), without))

    assert "spillway.dev/owned-by" in words


def test_the_policy_refuses_a_new_deployment_without_the_label(
    cluster: ControlPlane, mighty: InstalledChart, too_mighty: Client
) -> None:
    spec = cluster.deployment(mighty.namespace, new_deployment(cluster, mighty.namespace))["spec"]
    stranger = {"metadata": {"name": "stranger"}, "spec": spec}

    words = refusal(
        lambda: too_mighty.post(f"/apis/apps/v1/namespaces/{mighty.namespace}/deployments", stranger)
    )

    assert "spillway.dev/owned-by" in words


def test_the_policy_lets_the_deletion_cost_of_a_pod_be_set_changed_and_cleared(
    cluster: ControlPlane, mighty: InstalledChart, too_mighty: Client
) -> None:
    path = pod_path(cluster, mighty.namespace)

    for value in ("-10", "-20", None):
        too_mighty.patch(path, {"metadata": {"annotations": {COST: value}}})

    assert COST not in cluster.client.get(path)["metadata"]["annotations"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"metadata": {"annotations": {COST: "-10", "another": "one"}}}, id="another annotation"),
        pytest.param(
            {"metadata": {"annotations": {"pod-ready.stage.kwok.x-k8s.io/delay": None}}}, id="one removed"
        ),
        pytest.param({"metadata": {"labels": {"app": "stolen"}}}, id="label"),
        pytest.param({"metadata": {"finalizers": ["spillway.dev/x"]}}, id="finalizer"),
        pytest.param({"metadata": {"ownerReferences": None}}, id="owner"),
        pytest.param({"spec": {"activeDeadlineSeconds": 1}}, id="spec"),
    ],
)
def test_the_policy_refuses_any_other_change_of_a_pod(
    cluster: ControlPlane, mighty: InstalledChart, too_mighty: Client, change: JsonObject
) -> None:
    path = pod_path(cluster, mighty.namespace)

    words = refusal(lambda: too_mighty.patch(path, change))

    assert "pod-deletion-cost of a pod and nothing else" in words


def test_the_policy_refuses_to_delete_fail_or_enter_a_pod(
    cluster: ControlPlane, mighty: InstalledChart, too_mighty: Client
) -> None:
    path = pod_path(cluster, mighty.namespace)

    deletion = refusal(lambda: too_mighty.delete(path))
    status = refusal(lambda: too_mighty.patch(f"{path}/status", {"status": {"phase": "Failed"}}))
    shell = refusal(lambda: too_mighty.post(f"{path}/exec?command=sh&stdout=true", {}))

    assert all("and nothing else" in words for words in (deletion, status, shell))


def test_the_policies_bind_nobody_but_the_account(cluster: ControlPlane, mighty: InstalledChart) -> None:
    pod = pod_path(cluster, mighty.namespace)
    target = deployment(mighty.namespace, new_deployment(cluster, mighty.namespace))

    labelled = cluster.client.patch(pod, {"metadata": {"labels": {"a": "b"}}})
    edited = cluster.client.patch(target, {"spec": {"minReadySeconds": 1}})

    assert (labelled["metadata"]["labels"]["a"], edited["spec"]["minReadySeconds"]) == ("b", 1)


# What stays


def test_crds_and_objects_outlive_an_upgrade_and_an_uninstall(
    cluster: ControlPlane, helm: Helm, namespace: str
) -> None:
    """With CRDs in the release, as users install it; it takes over the ones that may be there already."""
    release = f"spillway-{uuid.uuid4().hex[:8]}"
    where = ("--namespace", namespace, "--take-ownership")
    values = {"settings": {"prometheus": {"url": PROMETHEUS_URL}}}
    helm.run("install", release, str(CHART), *where, values=values)
    workload = cluster.client.path_of(gpu_workload(namespace))
    cluster.wait_for(
        lambda: cluster.client.find(workload.rsplit("/", 1)[0]), 10, "the API server serves GpuWorkloads"
    )
    uid = cluster.client.apply(gpu_workload(namespace))["metadata"]["uid"]

    helm.run("upgrade", release, str(CHART), *where, values={**values, "podLabels": {"changed": "yes"}})
    after_upgrade = cluster.client.get(workload)["metadata"]["uid"]
    helm.run("uninstall", release, "--namespace", namespace)

    assert (after_upgrade, cluster.client.get(workload)["metadata"]["uid"]) == (uid, uid)
    leftover = cluster.client.get("/apis/rbac.authorization.k8s.io/v1/clusterroles")["items"]
    assert [
        role["metadata"]["name"] for role in leftover if role["metadata"]["name"].startswith(release)
    ] == []


def test_a_changed_mode_reaches_the_settings_without_a_new_pod_template(
    cluster: ControlPlane, helm: Helm, install_chart: InstallChart, namespace: str
) -> None:
    release = install_chart(namespace).release
    before = cluster.deployment(namespace, release)["spec"]["template"]

    helm.run(
        "upgrade",
        release,
        str(CHART),
        "--namespace",
        namespace,
        "--reuse-values",
        "--set",
        "settings.mode=Observe",
    )

    config = cluster.client.get(f"/api/v1/namespaces/{namespace}/configmaps/{release}")
    assert "mode: Observe" in config["data"]["settings.yaml"]
    assert cluster.deployment(namespace, release)["spec"]["template"] == before


def test_the_operator_pod_is_admitted_where_the_restricted_pod_standard_is_enforced(
    cluster: ControlPlane, install_chart: InstallChart, namespace: str
) -> None:
    enforced = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    cluster.client.patch(f"/api/v1/namespaces/{namespace}", enforced)
    node = f"system-{namespace}"
    cluster.make_gpu_node(node, gpus=0, labels={"pool": node}, taints=[SYSTEM_TAINT])

    values = {"nodeSelector": {"pool": node}, "tolerations": [SYSTEM_TAINT]}
    release = install_chart(namespace, values=values).release

    try:
        cluster.wait_ready_replicas(namespace, release, 1)
    finally:
        cluster.delete_node(node)


# People


def test_only_who_is_bound_to_the_explain_role_reads_live_decisions(
    cluster: ControlPlane, installed: InstalledChart, namespace: str
) -> None:
    """Nothing listens behind the Service here, so that 503 is the answer to who may ask."""
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "explain", "namespace": installed.namespace},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": f"{installed.release}-explain",
        },
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}],
    }  # fmt: skip
    person = cluster.client_for(cluster.service_account_token(namespace, "default"))
    service = f"/api/v1/namespaces/{installed.namespace}/services/http:{installed.release}:metrics"

    before = refusal(lambda: person.get(f"{service}/proxy/top"))
    cluster.client.apply(binding)

    assert 'cannot get resource "services/proxy"' in before
    cluster.wait_for(
        lambda: status_of(lambda: person.get(f"{service}/proxy/top")) == 503,
        10,
        "the proxy lets the person through",
    )


def test_who_may_edit_a_namespace_may_hand_workloads_to_spillway(
    cluster: ControlPlane, installed: InstalledChart, namespace: str
) -> None:
    """The user roles of a release aggregate into the built-in edit role."""
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "editor", "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}],
    }
    cluster.client.apply(binding)
    editor = cluster.client_for(cluster.service_account_token(namespace, "default"))
    collection = cluster.client.path_of(gpu_workload(namespace)).rsplit("/", 1)[0]

    cluster.wait_for(
        lambda: not refusal(lambda: editor.post(collection, gpu_workload(namespace), dryRun="All")),
        20,
        "the edit role covers GpuWorkloads",
    )
