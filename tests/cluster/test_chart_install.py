"""The chart on a real API server: what its account may do, what it may not, and what stays when it goes."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
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
OWN = {"spillway.dev/owned-by": "5f1d5c5e-0000-4000-8000-000000000000"}
SYSTEM_TAINT = {"key": "system", "value": "only", "effect": "NoSchedule"}
ADMISSION_SECONDS = 20  # the API server reads new policies a moment after they are made


@pytest.fixture(scope="module")
def installed(cluster: ControlPlane, helm: Helm, crds: list[str]) -> Iterator[InstalledChart]:
    with released(cluster, helm) as release:
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


@contextmanager
def released(cluster: ControlPlane, helm: Helm) -> Iterator[InstalledChart]:
    namespace = f"chart-{uuid.uuid4().hex[:8]}"
    cluster.make_namespace(namespace)
    with installed_chart(cluster, helm, namespace) as release:
        yield release
    cluster.client.delete(f"/api/v1/namespaces/{namespace}")


def wait_for_policies(cluster: ControlPlane, release: InstalledChart) -> None:
    """Wait until both policies answer; what they refuse here, the tests look at one by one."""
    client = cluster.client_for(release.token)
    cluster.make_deployment(release.namespace, "canary", replicas=0)
    edit = {"metadata": {"labels": {"edited": "yes"}}}
    pod = {"metadata": {"name": "canary"}, "spec": {"containers": [{"name": "a", "image": "a"}]}}
    pods = f"/api/v1/namespaces/{release.namespace}/pods"
    cluster.wait_for(
        lambda: (
            "scale subresource"
            in refusal(lambda: client.patch(deployment(release.namespace, "canary"), edit, dryRun="All"))
            and "nothing else" in refusal(lambda: client.post(pods, pod, dryRun="All"))
        ),
        ADMISSION_SECONDS,
        "the admission policies refuse what RBAC allows",
    )


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
            lambda account, at: account.patch(deployment(at, "llm-chat"), {"spec": {"paused": True}}),
            'cannot patch resource "deployments"',
            id="edit a Deployment",
        ),
        pytest.param(
            lambda account, at: account.delete(deployment(at, "llm-chat")),
            'cannot delete resource "deployments"',
            id="delete a Deployment",
        ),
        pytest.param(
            lambda account, at: account.patch(
                f"/api/v1/namespaces/{at}/pods/a", {"metadata": {"labels": {"a": "b"}}}
            ),
            'cannot patch resource "pods"',
            id="edit a pod",
        ),
        pytest.param(
            lambda account, at: account.delete(f"/api/v1/namespaces/{at}/pods/a"),
            'cannot delete resource "pods"',
            id="delete a pod",
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


# The second lock: the account was given too much


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
