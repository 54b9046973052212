"""What is kept of Deployments and ReplicaSets, and what a twin tells of itself."""

from typing import Any

import pytest

from spillway.adapters.kube.deployments import (
    burst_obstacles,
    deployment,
    replica_set,
    selector_text,
    template_hash,
)
from spillway.core.model import Deployment, ObjectKey, ReplicaSet, TwinFacts
from spillway.core.scheduling import Constraints, Toleration

Raw = dict[str, Any]


def make_deployment(**spec: Any) -> Raw:  # noqa: ANN401
    return {
        "metadata": {
            "namespace": "ns",
            "name": "chat",
            "uid": "deployment-uid",
            "resourceVersion": "17",
            "generation": 4,
            "annotations": {"deployment.kubernetes.io/revision": "6"},
        },
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": "chat"}},
            "template": {"spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "2"}}}]}},
            **spec,
        },
        "status": {"observedGeneration": 4, "replicas": 5, "updatedReplicas": 2},
    }


def test_a_deployment_is_kept_whole() -> None:
    assert deployment(make_deployment()) == Deployment(
        key=ObjectKey("ns", "chat"),
        uid="deployment-uid",
        resource_version="17",
        generation=4,
        observed_generation=4,
        replicas=3,
        updated_replicas=2,
        status_replicas=5,
        selector="app=chat",
        gpus_per_pod=2,
        revision=6,
        requests={"nvidia.com/gpu": 2, "pods": 1},
        template="2415f6918437c7905b16",
    )


def test_a_deployment_at_zero_is_not_one_that_leaves_its_count_open() -> None:
    silent = make_deployment()
    del silent["spec"]["replicas"]

    assert deployment(make_deployment(replicas=0)).replicas == 0
    assert deployment(silent).replicas == 1


def test_a_deployment_that_may_not_make_pods_says_why() -> None:
    raw = make_deployment()
    raw["status"]["conditions"] = [
        {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: gpu"}
    ]

    assert deployment(raw).failure == "exceeded quota: gpu"


def test_a_deployment_that_nobody_has_looked_at_yet_has_no_status() -> None:
    raw = make_deployment()
    del raw["status"]

    found = deployment(raw)

    assert (found.observed_generation, found.status_replicas, found.failure) == (0, 0, None)


def test_a_replica_set_leads_from_its_pods_to_its_deployment() -> None:
    raw = {
        "metadata": {
            "namespace": "ns",
            "name": "chat-7f",
            "uid": "set-uid",
            "annotations": {"deployment.kubernetes.io/revision": "6"},
            "ownerReferences": [{"kind": "Deployment", "controller": True, "uid": "deployment-uid"}],
        }
    }

    assert replica_set(raw) == ReplicaSet(
        key=ObjectKey("ns", "chat-7f"), uid="set-uid", owner_uid="deployment-uid", revision=6
    )


def test_a_selector_is_written_as_kubectl_takes_it() -> None:
    selector = {
        "matchLabels": {"b": "2", "a": "1"},
        "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["y", "x"]},
            {"key": "zone", "operator": "NotIn", "values": ["z"]},
            {"key": "gpu", "operator": "Exists"},
            {"key": "legacy", "operator": "DoesNotExist"},
        ],
    }

    assert selector_text(selector) == "a=1,b=2,tier in (x,y),zone notin (z),gpu,!legacy"


def test_a_deployment_is_kept_with_what_one_pod_takes_and_where_it_may_go() -> None:
    raw = make_deployment()
    raw["spec"]["template"]["spec"] |= {
        "tolerations": [{"key": "spot", "operator": "Exists"}],
        "nodeSelector": {"pool": "a"},
    }

    found = deployment(raw)

    assert found.requests == {"nvidia.com/gpu": 2, "pods": 1}
    assert found.constraints == Constraints(
        node_selector={"pool": "a"}, tolerations=(Toleration(key="spot", operator="Exists"),)
    )


TEMPLATE: Raw = {
    "metadata": {"labels": {"app": "chat"}},
    "spec": {"containers": [{"name": "s", "image": "m:1"}]},
}


@pytest.mark.parametrize(
    ("template", "same"),
    [
        pytest.param({"spec": TEMPLATE["spec"], "metadata": TEMPLATE["metadata"]}, True, id="another order"),
        pytest.param(
            TEMPLATE | {"metadata": {"labels": {"app": "chat"}, "creationTimestamp": None}}, True, id="an old server"
        ),
        pytest.param(TEMPLATE | {"spec": {"containers": [{"name": "s", "image": "m:2"}]}}, False, id="an image"),
        pytest.param(
            TEMPLATE
            | {
                "metadata": {
                    "labels": {"app": "chat"},
                    "annotations": {"kubectl.kubernetes.io/restartedAt": "2026-11-22T09:00:00Z"},
                }
            },
            False,
            id="a restart",
        ),
    ],
)  # fmt: skip
def test_the_hash_of_a_template_changes_with_what_rolls_out(template: Raw, same: bool) -> None:
    assert (template_hash(template) == template_hash(TEMPLATE)) is same


def test_the_hash_of_a_template_is_the_same_on_every_machine() -> None:
    assert template_hash(TEMPLATE) == "6300e54f9464e45e82df"


@pytest.mark.parametrize(
    ("spec", "obstacles"),
    [
        pytest.param({"containers": [{"ports": [{"containerPort": 8000}]}]}, (), id="a port of its own"),
        pytest.param(
            {"containers": [{"name": "s", "ports": [{"containerPort": 8000, "hostPort": 80}]}]},
            (
                "container s takes port 80 of its node, which one pod alone may have; use a Service instead",
            ),
            id="a port of the node",
        ),
        pytest.param(
            {"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}]},
            (),
            id="a claim made for each pod",
            marks=pytest.mark.case("node-and-spot E80"),
        ),
        pytest.param(
            {"resourceClaims": [{"name": "gpu", "resourceClaimName": "the-gpu"}]},
            (
                "resource claim the-gpu exists once and binds its pods to where its devices are; use a resourceClaimTemplateName, so that each pod gets its own",
            ),
            id="a claim shared by all",
            marks=pytest.mark.case("node-and-spot E80"),
        ),
        pytest.param(
            {
                "volumes": [
                    {"name": "cache", "emptyDir": {}},
                    {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {}}},
                    {"name": "weights", "persistentVolumeClaim": {"claimName": "models"}},
                ]
            },
            (
                "volume weights uses claim models, which one node alone may hold unless it is ReadWriteMany; give burst pods their own storage, such as an ephemeral volume",
            ),
            id="storage",
        ),
    ],
)  # fmt: skip
def test_what_keeps_a_copy_from_running_beside_it_is_said(spec: Raw, obstacles: tuple[str, ...]) -> None:
    assert burst_obstacles(spec) == obstacles


def make_twin(*managed: Raw, **annotations: str) -> Raw:
    raw = make_deployment()
    raw["metadata"] |= {
        "labels": {"spillway.dev/owned-by": "workload-uid"},
        "annotations": {
            f"spillway.dev/{name.replace('_', '-')}": value for name, value in annotations.items()
        },
        "ownerReferences": [{"kind": "Deployment", "name": "chat", "uid": "source-uid", "controller": False}],
        "managedFields": list(managed),
    }
    return raw


def owns(manager: str, *fields: str, subresource: str = "") -> Raw:
    return {
        "manager": manager,
        "operation": "Update",
        "fieldsV1": {"f:metadata": {"f:annotations": {}}, "f:spec": {name: {} for name in fields}},
        "subresource": subresource,
    }


def test_a_twin_tells_what_it_was_made_from() -> None:
    raw = make_twin(source_template="abc", pools="h100-a,h100-b", handover="4")

    assert deployment(raw).twin == TwinFacts(
        workload_uid="workload-uid",
        source_uid="source-uid",
        template="abc",
        pools=("h100-a", "h100-b"),
        handover=4,
    )


def test_a_twin_whose_annotations_were_taken_off_is_still_ours() -> None:
    assert deployment(make_twin()).twin == TwinFacts(
        workload_uid="workload-uid", source_uid="source-uid", template=""
    )


def test_a_deployment_without_our_label_is_no_twin() -> None:
    raw = make_twin(source_template="abc")
    raw["metadata"]["labels"] = {"app": "chat"}

    assert deployment(raw).twin is None


@pytest.mark.parametrize(
    ("managed", "editor"),
    [
        pytest.param([owns("spillway", "f:template", "f:replicas")], "", id="ours alone"),
        pytest.param([owns("kube-controller-manager")], "", id="the controller notes the revision"),
        pytest.param([owns("kubectl", "f:replicas", subresource="scale")], "", id="its count was set"),
        pytest.param(
            [owns("spillway", "f:template"), owns("kubectl-edit", "f:template")], "kubectl-edit", id="it was edited"
        ),
        pytest.param([owns("kubectl-rollout", "f:paused", "f:replicas")], "kubectl-rollout", id="it was paused"),
    ],
)  # fmt: skip
def test_a_twin_says_who_else_wrote_its_spec(managed: list[Raw], editor: str) -> None:
    found = deployment(make_twin(*managed)).twin

    assert found is not None
    assert found.edited_by == editor
