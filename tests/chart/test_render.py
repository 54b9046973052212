"""What helm makes of the chart: its rights, its pod, and which values it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.operator_chart import CHART, Helm, HelmFailed, laid_over

pytestmark = pytest.mark.cluster  # helm is built with the control plane's programs

ROOT = Path(__file__).parents[2]
URL = {"settings": {"prometheus": {"url": "http://prometheus:9090"}}}
Manifest = dict[str, Any]
LOOK = ("get", "list", "watch")

# Reviewed by hand. A new row here is a new right on somebody's cluster: say in the template what it is for.
RIGHTS = {
    "spillway-read": {
        ("spillway.dev", "gpuworkloads", LOOK),
        ("apps", "deployments", LOOK),
        ("apps", "replicasets", LOOK),
        ("", "pods", LOOK),
        ("autoscaling", "horizontalpodautoscalers", LOOK),
        ("keda.sh", "scaledobjects", LOOK),
    },
    "spillway-cluster-read": {
        ("spillway.dev", "gpupolicies", LOOK),
        ("spillway.dev", "gpunodepools", LOOK),
        ("", "nodes", LOOK),
        ("", "namespaces", LOOK),
    },
    "spillway-status": {("spillway.dev", "gpuworkloads/status", ("patch",))},
    "spillway-cluster-status": {
        ("spillway.dev", "gpupolicies/status", ("patch",)),
        ("spillway.dev", "gpunodepools/status", ("patch",)),
    },
    "spillway-scale": {("apps", "deployments/scale", ("get", "patch"))},
    "spillway-twins": {("apps", "deployments", ("create", "update", "patch", "delete"))},
    "spillway-deletion-cost": {("", "pods", ("patch",))},
    "spillway-events": {("", "events", ("create",))},
    "spillway-lease": {
        ("coordination.k8s.io", "leases", ("get", "update")),
        ("coordination.k8s.io", "leases", ("create",)),
    },
}
ON_NODES = {
    "spillway-nodes": {("", "nodes", ("patch", "delete")), ("", "pods/eviction", ("create",))},
    "spillway-lost-pods": {("", "pods", ("delete",))},
}
FOR_PEOPLE = {
    "spillway-user-view": {
        ("spillway.dev", "gpuworkloads", LOOK),
        ("spillway.dev", "gpuworkloads/scale", LOOK),
        ("spillway.dev", "gpupolicies", LOOK),
        ("spillway.dev", "gpunodepools", LOOK),
    },
    "spillway-user-edit": {
        ("spillway.dev", "gpuworkloads", ("create", "update", "patch", "delete", "deletecollection")),
        ("spillway.dev", "gpuworkloads/scale", ("update", "patch")),
    },
    "spillway-explain": {("", "services/proxy", ("get",))},
}
COMBINATIONS = [
    pytest.param({}, id="as it comes"),
    pytest.param({"settings": {"watchNamespaces": ["a", "b"], "mode": "Observe"}}, id="two namespaces"),
    pytest.param(
        {"crds": {"enabled": False}, "admissionPolicy": {"enabled": False}, "nodes": {"manage": False}},
        id="least",
    ),
    pytest.param({"crds": {"keep": False}, "userRoles": {"aggregate": False}}, id="nothing kept"),
    pytest.param({"serviceAccount": {"create": False, "name": "ours"}}, id="existing account"),
    pytest.param(
        {
            "image": {"repository": "registry.example/spillway", "digest": f"sha256:{'0' * 64}"},
            "imagePullSecrets": [{"name": "pull"}],
            "serviceAccount": {"annotations": {"cloud.example/role": "spillway"}},
            "service": {"annotations": {"prometheus.io/scrape": "true"}},
            "priorityClassName": "system-cluster-critical",
            "podLabels": {"team": "platform"},
            "podAnnotations": {"note": "1"},
            "nodeSelector": {"pool": "system"},
            "tolerations": [{"operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "extraVolumes": [{"name": "token", "secret": {"secretName": "prometheus"}}],
            "extraVolumeMounts": [{"name": "token", "mountPath": "/etc/spillway-prometheus"}],
            "fullnameOverride": "gpu-scaler",
            "settings": {
                "prometheus": {"bearerTokenFile": "/etc/spillway-prometheus/token", "tenant": "gpu"}
            },
        },
        id="everything set",
    ),
]


def render(helm: Helm, values: Mapping[str, Any] | None = None, *args: str) -> list[Manifest]:
    text = helm.run(
        "template", "spillway", str(CHART), "--namespace", "gpu", *args, values=laid_over(URL, values or {})
    )
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


def of_kind(manifests: list[Manifest], *kinds: str) -> dict[str, Manifest]:
    """Return the manifests of *kinds* by name."""
    return {manifest["metadata"]["name"]: manifest for manifest in manifests if manifest["kind"] in kinds}


def rights(manifests: list[Manifest]) -> dict[str, set[tuple[str, str, tuple[str, ...]]]]:
    return {
        name: {
            (group, resource, tuple(rule["verbs"]))
            for rule in role["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
        }
        for name, role in of_kind(manifests, "ClusterRole", "Role").items()
    }


@pytest.mark.parametrize("values", COMBINATIONS)
def test_helm_finds_no_fault(offline_helm: Helm, values: dict[str, Any]) -> None:
    offline_helm.run("lint", "--strict", str(CHART), values=laid_over(URL, values))


@pytest.mark.parametrize("values", COMBINATIONS)
def test_every_object_is_named_once_and_carries_the_labels(
    offline_helm: Helm, values: dict[str, Any]
) -> None:
    manifests = render(offline_helm, values)

    keys = [(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in manifests]
    assert len(set(keys)) == len(keys)
    assert {one["metadata"]["labels"]["app.kubernetes.io/instance"] for one in manifests} == {"spillway"}


def test_the_roles_hold_exactly_the_reviewed_rights(offline_helm: Helm) -> None:
    assert rights(render(offline_helm)) == {**RIGHTS, **ON_NODES, **FOR_PEOPLE}


@pytest.mark.parametrize(
    ("values", "left"),
    [
        pytest.param({"nodes": {"manage": False}}, set(), id="not wanted"),
        pytest.param({"settings": {"watchNamespaces": ["a"]}}, set(), id="pods of some namespaces only"),
        pytest.param({"nodes": {"deletePodsOfLostNodes": False}}, {"spillway-nodes"}, id="no pod deleted"),
    ],
)
def test_rights_on_nodes_go_with_what_they_are_for(
    offline_helm: Helm, values: dict[str, Any], left: set[str]
) -> None:
    manifests = render(offline_helm, values)

    bindings = of_kind(manifests, "ClusterRoleBinding", "RoleBinding").values()
    assert rights(manifests).keys() & ON_NODES.keys() == left
    assert {binding["roleRef"]["name"] for binding in bindings} == {*RIGHTS, *left}


@pytest.mark.parametrize("values", [{"nodes": {"manage": False}}, {"settings": {"watchNamespaces": ["a"]}}])
def test_without_rights_on_nodes_the_policy_allows_no_change_of_one(
    offline_helm: Helm, values: dict[str, Any]
) -> None:
    policy = of_kind(render(offline_helm, values), "ValidatingAdmissionPolicy")["spillway-nodes"]

    assert [rule["expression"] for rule in policy["spec"]["validations"]] == ["false"]


def test_no_role_has_a_star(offline_helm: Helm) -> None:
    rules = [
        rule
        for role in of_kind(render(offline_helm), "ClusterRole", "Role").values()
        for rule in role["rules"]
    ]

    assert not any("*" in word for rule in rules for field in rule.values() for word in field)


def test_the_account_is_bound_to_its_duties_and_to_no_role_for_people(offline_helm: Helm) -> None:
    bindings = of_kind(render(offline_helm), "ClusterRoleBinding", "RoleBinding").values()

    assert {binding["roleRef"]["name"] for binding in bindings} == {*RIGHTS, *ON_NODES}
    account = {"kind": "ServiceAccount", "name": "spillway", "namespace": "gpu"}
    assert all(binding["subjects"] == [account] for binding in bindings)


def test_watched_namespaces_get_the_only_bindings_of_namespaced_rights(offline_helm: Helm) -> None:
    manifests = render(offline_helm, {"settings": {"watchNamespaces": ["a", "b"]}})

    bound = {
        (one["roleRef"]["name"], one["metadata"].get("namespace"))
        for one in manifests
        if one["kind"] in ("ClusterRoleBinding", "RoleBinding")
    }
    duties = (
        "spillway-read",
        "spillway-status",
        "spillway-scale",
        "spillway-twins",
        "spillway-deletion-cost",
        "spillway-events",
    )
    assert bound == {
        *((duty, namespace) for duty in duties for namespace in ("a", "b")),
        ("spillway-cluster-read", None),
        ("spillway-cluster-status", None),
        ("spillway-lease", "gpu"),
    }


def test_the_lease_right_names_the_lease_of_the_settings(offline_helm: Helm) -> None:
    manifests = render(offline_helm, {"settings": {"leaseName": "fleet-a"}})

    named = of_kind(manifests, "Role")["spillway-lease"]["rules"][0]["resourceNames"]
    settings = yaml.safe_load(of_kind(manifests, "ConfigMap")["spillway"]["data"]["settings.yaml"])
    assert (named, settings["leaseName"], settings["leaseNamespace"]) == (["fleet-a"], "fleet-a", "gpu")


def test_the_pod_runs_as_nobody_and_writes_nowhere(offline_helm: Helm) -> None:
    pod = of_kind(render(offline_helm), "Deployment")["spillway"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_one_copy_ends_before_the_next_starts(offline_helm: Helm) -> None:
    spec = of_kind(render(offline_helm), "Deployment")["spillway"]["spec"]

    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_settings_are_mounted_as_a_folder_so_that_a_new_mode_arrives(offline_helm: Helm) -> None:
    (container,) = of_kind(render(offline_helm), "Deployment")["spillway"]["spec"]["template"]["spec"][
        "containers"
    ]

    assert container["args"] == ["run", "--config", "/etc/spillway/settings.yaml"]
    assert container["volumeMounts"] == [{"name": "settings", "mountPath": "/etc/spillway", "readOnly": True}]


@pytest.mark.parametrize(
    ("changed", "restarts"),
    [
        pytest.param({"mode": "Observe"}, False, id="mode"),
        pytest.param({"evaluationSeconds": 30}, True, id="another setting"),
    ],
)
def test_only_a_change_that_needs_it_restarts_the_pod(
    offline_helm: Helm, changed: dict[str, Any], restarts: bool
) -> None:
    before, after = (
        of_kind(render(offline_helm, values), "Deployment")["spillway"]["spec"]["template"]
        for values in ({}, {"settings": changed})
    )

    assert (before != after) is restarts


@pytest.mark.parametrize("keep", [True, False])
def test_the_crds_are_ours_and_kept_on_request(offline_helm: Helm, keep: bool) -> None:
    rendered = of_kind(render(offline_helm, {"crds": {"keep": keep}}), "CustomResourceDefinition")

    ours = {}
    for path in (ROOT / "crds").glob("*.yaml"):
        crd = yaml.safe_load(path.read_text())
        ours[crd["metadata"]["name"]] = crd
    assert {name: crd["spec"] for name, crd in rendered.items()} == {
        name: crd["spec"] for name, crd in ours.items()
    }
    policies = {
        crd["metadata"].get("annotations", {}).get("helm.sh/resource-policy") for crd in rendered.values()
    }
    assert policies == {"keep" if keep else None}


def test_user_roles_are_left_alone_when_not_wanted(offline_helm: Helm) -> None:
    roles = of_kind(render(offline_helm, {"userRoles": {"aggregate": False}}), "ClusterRole").values()

    labels = {label for role in roles for label in role["metadata"]["labels"]}
    assert not any("aggregate" in label for label in labels)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        pytest.param({}, None, id="as it comes"),
        pytest.param({"nodes": {"manage": False}}, "nodes.manage is false", id="not wanted"),
        pytest.param(
            {"settings": {"watchNamespaces": ["a"]}}, "settings.watchNamespaces is set", id="namespaces"
        ),
    ],
)
def test_the_notes_say_what_comes_of_missing_rights_on_nodes(
    offline_helm: Helm, values: dict[str, Any], words: str | None
) -> None:
    notes = offline_helm.run(
        "install", "spillway", str(CHART), "--dry-run=client", "--disable-openapi-validation",
        values=laid_over(URL, values),
    ).split("NOTES:")[1]  # fmt: skip

    assert ("no right to change nodes" in notes) is (words is not None)
    assert (words or "") in notes


def test_the_admission_policies_name_the_account_in_use(offline_helm: Helm) -> None:
    manifests = render(offline_helm, {"serviceAccount": {"create": False, "name": "ours"}})

    policies = of_kind(manifests, "ValidatingAdmissionPolicy")
    assert {policy["spec"]["matchConditions"][0]["expression"] for policy in policies.values()} == {
        "request.userInfo.username == 'system:serviceaccount:gpu:ours'"
    }


# What helm refuses, and its words


@pytest.mark.parametrize(
    ("values", "words"),
    [
        pytest.param({"setings": {}}, "additional properties 'setings' not allowed", id="mistyped key"),
        pytest.param(
            {"settings": {"evaluationSecond": 15}},
            "additional properties 'evaluationSecond'",
            id="mistyped setting",
        ),
        pytest.param(
            {"settings": {"prometheus": {"uri": "http://p"}}},
            "additional properties 'uri'",
            id="mistyped nested key",
        ),
        pytest.param(
            {"settings": {"mode": "Off"}},
            "must be one of 'Observe', 'ScaleUpOnly', 'Enforce'",
            id="unknown mode",
        ),
        pytest.param(
            {"settings": {"prometheus": {"url": "prometheus:9090"}}},
            "at '/settings/prometheus/url': 'prometheus:9090' does not match",
            id="URL without a scheme",
        ),
        pytest.param(
            {"settings": {"evaluationSeconds": 0}},
            "at '/settings/evaluationSeconds': minimum: got 0",
            id="zero",
        ),
        pytest.param(
            {"settings": {"watchNamespaces": "a"}},
            "'/settings/watchNamespaces': got string, want array",
            id="no list",
        ),
        pytest.param(
            {"settings": {"leaseNamespace": "elsewhere"}},
            "additional properties 'leaseNamespace'",
            id="fixed setting",
        ),
        pytest.param({"nodes": {"mange": False}}, "additional properties 'mange'", id="mistyped switch"),
        pytest.param(
            {"settings": {"kwok": {"uri": "http://m"}}},
            "at '/settings/kwok'",
            id="mistyped key of an optional section",
        ),
        pytest.param({"image": {"pullPolicy": "Sometimes"}}, "at '/image/pullPolicy'", id="pull policy"),
        pytest.param({"image": {"digest": "latest"}}, "at '/image/digest'", id="digest"),
        pytest.param({"replicas": 2}, "additional properties 'replicas'", id="more copies"),
        pytest.param(
            {"serviceAccount": {"create": False}},
            "serviceAccount.name: name the existing account",
            id="no account",
        ),
    ],
)
def test_helm_refuses(offline_helm: Helm, values: dict[str, Any], words: str) -> None:
    with pytest.raises(HelmFailed) as refused:
        render(offline_helm, values)

    assert words in str(refused.value)


def test_helm_asks_for_the_prometheus_url(offline_helm: Helm) -> None:
    with pytest.raises(
        HelmFailed, match=r"settings\.prometheus\.url: name the Prometheus that scrapes dcgm-exporter"
    ):
        offline_helm.run("template", "spillway", str(CHART))


def test_helm_refuses_a_cluster_too_old_for_admission_policies(offline_helm: Helm) -> None:
    with pytest.raises(HelmFailed, match="incompatible with Kubernetes"):
        render(offline_helm, {}, "--kube-version", "1.29.5")
