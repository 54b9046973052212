"""The manifest of a burst twin, from its source."""

from typing import Any

import pytest

from spillway.adapters.kube.deployments import deployment
from spillway.adapters.kube.twin import kept_of_twin, twin_manifest, twin_template
from spillway.core.model import ApplyTwin, ObjectKey, TwinChange, TwinFacts, TwinPool
from spillway.core.scheduling import NO_EXECUTE, Taint

Raw = dict[str, Any]

POOL_A = TwinPool(name="a", selector={"pool": "a"}, taints=(Taint("spot", "true"),))
POOL_B = TwinPool(
    name="b", selector={"pool": "b", "gpu": "h100"}, taints=(Taint("spot", "true"), Taint("beta"))
)
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def make_act(*pools: TwinPool, replicas: int = 3) -> ApplyTwin:
    return ApplyTwin(
        workload=ObjectKey("ns", "chat"),
        workload_uid="workload-uid",
        source=ObjectKey("ns", "chat"),
        source_uid="source-uid",
        template="the-hash",
        twin=ObjectKey("ns", "chat-burst"),
        twin_uid="",
        replicas=replicas,
        pools=pools or (POOL_A,),
        why=TwinChange.CREATE,
    )


def make_source(*, labels: Raw | None = None, pod_spec: Raw | None = None, **spec: Any) -> Raw:  # noqa: ANN401
    return {
        "metadata": {
            "namespace": "ns",
            "name": "chat",
            "uid": "source-uid",
            "labels": labels or {},
            "annotations": {
                "deployment.kubernetes.io/revision": "6",
                "kubectl.kubernetes.io/last-applied-configuration": "{}",
                "argocd.argoproj.io/tracking-id": "app:apps/Deployment:ns/chat",
                "meta.helm.sh/release-name": "chat",
            },
        },
        "spec": {
            "replicas": 9,
            "revisionHistoryLimit": 10,
            "selector": {"matchLabels": {"app": "chat"}},
            "template": {
                "metadata": {"labels": {"app": "chat", "team": "search"}, "annotations": {"scrape": "yes"}},
                "spec": {"containers": [{"name": "server", "image": "m:1"}], **(pod_spec or {})},
            },
            **spec,
        },
    }


def affinity_of(template: Raw) -> Raw:
    found: Raw = template["spec"]["affinity"]
    return found


def test_a_twin_is_its_source_kept_on_spot_under_a_name_of_its_own() -> None:
    source = make_source(
        labels={"app": "chat"},
        strategy={"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
        minReadySeconds=5,
        progressDeadlineSeconds=600,
        paused=True,
    )

    assert twin_manifest(source, make_act()) == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "namespace": "ns",
            "name": "chat-burst",
            "labels": {
                "app": "chat",
                "spillway.dev/owned-by": "workload-uid",
                "app.kubernetes.io/managed-by": "spillway",
            },
            "annotations": {"spillway.dev/source-template": "the-hash", "spillway.dev/pools": "a"},
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "Deployment",
                    "name": "chat",
                    "uid": "source-uid",
                    "controller": False,
                    "blockOwnerDeletion": False,
                }
            ],
        },
        "spec": {
            "replicas": 3,
            "revisionHistoryLimit": 2,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
            "minReadySeconds": 5,
            "progressDeadlineSeconds": 600,
            "selector": {"matchLabels": {"app": "chat", "spillway.dev/capacity-class": "burst"}},
            "template": {
                "metadata": {
                    "labels": {"app": "chat", "team": "search", "spillway.dev/capacity-class": "burst"},
                    "annotations": {"scrape": "yes"},
                },
                "spec": {
                    "containers": [{"name": "server", "image": "m:1"}],
                    "tolerations": [
                        {"key": "spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
                    ],
                    "affinity": {
                        "nodeAffinity": {
                            REQUIRED: {
                                "nodeSelectorTerms": [
                                    {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["a"]}]}
                                ]
                            }
                        }
                    },
                    "topologySpreadConstraints": [
                        {
                            "maxSkew": 1,
                            "topologyKey": "topology.kubernetes.io/zone",
                            "whenUnsatisfiable": "ScheduleAnyway",
                            "labelSelector": {
                                "matchLabels": {"app": "chat", "spillway.dev/capacity-class": "burst"}
                            },
                        }
                    ],
                },
            },
        },
    }


def test_making_a_twin_changes_nothing_of_its_source() -> None:
    source = make_source(pod_spec={"affinity": {"nodeAffinity": {}}, "tolerations": []})

    twin_manifest(source, make_act())

    assert source == make_source(pod_spec={"affinity": {"nodeAffinity": {}}, "tolerations": []})


@pytest.mark.case("node-and-spot E65")
@pytest.mark.parametrize(
    "label",
    [
        "argocd.argoproj.io/instance",
        "app.kubernetes.io/instance",
        "kustomize.toolkit.fluxcd.io/name",
        "helm.toolkit.fluxcd.io/namespace",
        "helm.sh/chart",
        "applyset.kubernetes.io/part-of",
    ],
)
def test_labels_that_a_deploying_tool_prunes_by_stay_off_the_twin(label: str) -> None:
    manifest = twin_manifest(make_source(labels={label: "chat", "cost-center": "7"}), make_act())

    assert label not in manifest["metadata"]["labels"]
    assert manifest["metadata"]["labels"]["cost-center"] == "7"


@pytest.mark.case("node-and-spot E65")
def test_a_tool_that_manages_the_source_does_not_manage_the_twin() -> None:
    source = make_source(labels={"app.kubernetes.io/managed-by": "Helm"})

    meta = twin_manifest(source, make_act())["metadata"]

    assert meta["labels"]["app.kubernetes.io/managed-by"] == "spillway"
    assert set(meta["annotations"]) == {"spillway.dev/source-template", "spillway.dev/pools"}


@pytest.mark.case("node-and-spot E80")
def test_a_claim_that_is_made_for_each_pod_is_copied() -> None:
    claims = [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}]

    template = twin_manifest(make_source(pod_spec={"resourceClaims": claims}), make_act())["spec"]["template"]

    assert template["spec"]["resourceClaims"] == claims


def expression(key: str, *values: str) -> Raw:
    return {"key": key, "operator": "In", "values": list(values)}


ON_A = [expression("pool", "a")]
ON_B = [expression("gpu", "h100"), expression("pool", "b")]
ZONES = [expression("zone", "x", "y")]
NODE_FIELD = [expression("metadata.name", "n1")]


@pytest.mark.parametrize(
    ("terms", "pools", "expected"),
    [
        pytest.param([], (POOL_A, POOL_B), [{"matchExpressions": ON_A}, {"matchExpressions": ON_B}], id="no terms"),
        pytest.param(
            [{"matchExpressions": ZONES}], (POOL_A,), [{"matchExpressions": ZONES + ON_A}], id="one term, one pool"
        ),
        pytest.param(
            [{"matchExpressions": ZONES}, {"matchFields": NODE_FIELD}],
            (POOL_A, POOL_B),
            [
                {"matchExpressions": ZONES + ON_A},
                {"matchExpressions": ZONES + ON_B},
                {"matchFields": NODE_FIELD, "matchExpressions": ON_A},
                {"matchFields": NODE_FIELD, "matchExpressions": ON_B},
            ],
            id="every term on every pool",
        ),
    ],
)  # fmt: skip
def test_a_twin_may_go_where_its_source_may_and_a_spot_pool_is(
    terms: list[Raw], pools: tuple[TwinPool, ...], expected: list[Raw]
) -> None:
    stated = {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": terms}}} if terms else {}
    source = make_source(pod_spec={"affinity": stated})

    template = twin_manifest(source, make_act(*pools))["spec"]["template"]

    assert affinity_of(template)["nodeAffinity"][REQUIRED] == {"nodeSelectorTerms": expected}


def test_other_affinities_of_the_source_stay() -> None:
    other = {
        "podAntiAffinity": {REQUIRED: [{"topologyKey": "kubernetes.io/hostname"}]},
        "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1}]},
    }

    template = twin_manifest(make_source(pod_spec={"affinity": other}), make_act())["spec"]["template"]

    assert affinity_of(template)["podAntiAffinity"] == other["podAntiAffinity"]
    assert affinity_of(template)["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"] == [
        {"weight": 1}
    ]


def test_each_taint_of_each_pool_is_tolerated_once_beside_what_the_source_tolerates() -> None:
    own = {"key": "nvidia.com/gpu", "operator": "Exists"}
    pool = TwinPool(name="c", selector={"pool": "c"}, taints=(Taint("hot", "1", NO_EXECUTE),))

    template = twin_manifest(make_source(pod_spec={"tolerations": [own]}), make_act(POOL_A, POOL_B, pool))[
        "spec"
    ]["template"]

    assert template["spec"]["tolerations"] == [
        own,
        {"key": "spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"},
        {"key": "beta", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "hot", "operator": "Equal", "value": "1", "effect": "NoExecute"},
    ]


def test_a_spread_that_the_source_chose_is_kept() -> None:
    chosen = [{"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}]
    source = make_source(pod_spec={"topologySpreadConstraints": chosen})

    template = twin_template(source["spec"]["template"], source["spec"]["selector"], [POOL_A])

    assert template["spec"]["topologySpreadConstraints"] == chosen


def test_expressions_of_the_selector_are_kept_too() -> None:
    source = make_source(selector={"matchExpressions": [{"key": "app", "operator": "Exists"}]})

    assert twin_manifest(source, make_act())["spec"]["selector"] == {
        "matchExpressions": [{"key": "app", "operator": "Exists"}],
        "matchLabels": {"spillway.dev/capacity-class": "burst"},
    }


def test_a_twin_that_is_replaced_keeps_its_count_and_who_it_is() -> None:
    stored = {
        "metadata": {
            "uid": "twin-uid",
            "resourceVersion": "41",
            "finalizers": ["example.com/wait"],
            "annotations": {
                "deployment.kubernetes.io/revision": "3",
                "spillway.dev/handover": "7",
                "note": "mine",
            },
            "managedFields": [{"manager": "kubectl-edit"}],
        },
        "spec": {"replicas": 5, "paused": True},
    }

    replaced = kept_of_twin(twin_manifest(make_source(), make_act(replicas=3)), stored)

    meta = replaced["metadata"]
    assert replaced["spec"]["replicas"] == 5
    assert "paused" not in replaced["spec"]
    assert (meta["uid"], meta["resourceVersion"], meta["finalizers"]) == (
        "twin-uid",
        "41",
        ["example.com/wait"],
    )
    assert meta["managedFields"] == [{}]
    assert meta["annotations"] == {
        "spillway.dev/source-template": "the-hash",
        "spillway.dev/pools": "a",
        "deployment.kubernetes.io/revision": "3",
    }


def test_what_a_twin_is_made_with_is_read_back_from_it() -> None:
    made = twin_manifest(make_source(), make_act(POOL_A, POOL_B))
    made["metadata"] |= {"uid": "twin-uid", "resourceVersion": "1"}

    assert deployment(made).twin == TwinFacts(
        workload_uid="workload-uid", source_uid="source-uid", template="the-hash", pools=("a", "b")
    )
