"""The CRDs on a real API server: accepted, enforced with messages that help, and shown well by kubectl."""

import json
from typing import Any

import pytest

from spillway.api import names
from spillway.api.crdgen import definition
from spillway.api.kinds import KINDS
from spillway.api.markers import Kind
from spillway.api.nodepools import GpuNodePoolStatus, NodeCounts, PoolRefusal
from spillway.api.v1alpha1 import CapacityStatus, Condition, Decision, GpuWorkloadStatus
from tests.cluster.client import ApiError
from tests.cluster.controlplane import ControlPlane
from tests.contract.sample_files import Sample, load

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
GROUP = f"/apis/{names.API_VERSION}"


@pytest.fixture(scope="module")
def api(cluster: ControlPlane) -> ControlPlane:
    """The control plane once all CRDs are Established."""
    for kind in KINDS:
        crd = definition(kind)
        cluster.client.apply(crd)
        path = f"{CRDS}/{crd['metadata']['name']}"
        cluster.wait_for(
            lambda path=path: condition(cluster.client.get(path), "Established"), 20, f"{path} Established"
        )
    return cluster


def condition(crd: dict[str, Any], wanted: str) -> bool:
    found = crd.get("status", {}).get("conditions") or []  # null until the server has looked at it
    return any(item["type"] == wanted and item["status"] == "True" for item in found)


def collection(manifest: dict[str, Any], namespace: str) -> str:
    cluster_wide = {kind.kind: kind.plural for kind in KINDS if not kind.is_namespaced}
    if manifest["kind"] in cluster_wide:
        return f"{GROUP}/{cluster_wide[manifest['kind']]}"
    return f"{GROUP}/namespaces/{namespace}/{names.WORKLOAD_PLURAL}"


def create(api: ControlPlane, namespace: str, *, name: str = "llm-chat", **spec: object) -> dict[str, Any]:
    """Create a GpuWorkload; the shortest form unless *spec* says more."""
    manifest = {
        "apiVersion": names.API_VERSION,
        "kind": names.WORKLOAD_KIND,
        "metadata": {"name": name},
        "spec": {"targetRef": {"name": name}, "maxReplicas": 8} | spec,
    }
    return api.client.post(collection(manifest, namespace), manifest)


def path_of(created: dict[str, Any]) -> str:
    metadata = created["metadata"]
    return f"{GROUP}/namespaces/{metadata['namespace']}/{names.WORKLOAD_PLURAL}/{metadata['name']}"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_the_server_finds_nothing_to_criticise_in_the_schema(api: ControlPlane, kind: Kind) -> None:
    crd = api.client.get(f"{CRDS}/{kind.plural}.{names.GROUP}")

    assert condition(crd, "NamesAccepted")
    assert not condition(crd, "NonStructuralSchema")


@pytest.mark.parametrize("sample", load("good"), ids=lambda sample: sample.name)
def test_the_server_accepts_a_good_sample(api: ControlPlane, namespace: str, sample: Sample) -> None:
    stored = api.client.post(
        collection(sample.manifest, namespace), sample.manifest, fieldValidation="Strict", dryRun="All"
    )

    assert stored["spec"].keys() >= sample.manifest["spec"].keys()


@pytest.mark.parametrize("sample", load("bad"), ids=lambda sample: sample.name)
def test_the_server_refuses_a_bad_sample_with_the_field_and_the_way_out(
    api: ControlPlane, namespace: str, sample: Sample
) -> None:
    with pytest.raises(ApiError) as refusal:
        api.client.post(
            collection(sample.manifest, namespace), sample.manifest, fieldValidation="Strict", dryRun="All"
        )

    assert refusal.value.status in {400, 422}
    assert sample.missing_from(refusal.value.message) == [], refusal.value.message


def test_nothing_but_the_target_is_defaulted_so_that_policies_apply(
    api: ControlPlane, namespace: str
) -> None:
    stored = create(api, namespace)

    assert stored["spec"] == {
        "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "llm-chat"},
        "maxReplicas": 8,
    }


def pool(name: str, **spec: object) -> dict[str, Any]:
    """Return the shortest GpuNodePool unless *spec* says more."""
    shortest = {
        "provider": {"type": "External"},
        "capacityType": "Spot",
        "node": {"gpuCount": 8, "selector": {"pool": name}},
    }
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.POOL_KIND,
        "metadata": {"name": name},
        "spec": shortest | spec,
    }


def test_a_pool_over_live_nodes_is_only_observed_until_it_says_otherwise(api: ControlPlane) -> None:
    stored = api.client.post(f"{GROUP}/{names.POOL_PLURAL}", pool("observed"), dryRun="All")

    built_in = {key: stored["spec"][key] for key in ("mode", "minNodes", "headroomNodes")}
    assert built_in == {"mode": "Observe", "minNodes": 0, "headroomNodes": 0}
    assert "maxNodes" not in stored["spec"]


def test_a_block_of_a_pool_shows_its_other_built_ins_once_one_field_is_set(api: ControlPlane) -> None:
    given = pool("drained", drain={"idleSeconds": 60}, breaker={"interruptions": 5})

    stored = api.client.post(f"{GROUP}/{names.POOL_PLURAL}", given, dryRun="All")["spec"]

    assert stored["drain"] == {
        "minNodeAgeSeconds": 120, "idleSeconds": 60, "timeoutSeconds": 600, "foreignPods": "Block",
    }  # fmt: skip
    assert stored["breaker"] == {"interruptions": 5, "withinSeconds": 1800, "openSeconds": 600}


def test_kubectl_scale_pins_the_count_even_outside_the_bounds(api: ControlPlane, namespace: str) -> None:
    created = create(api, namespace, replicas=2)

    api.kubectl("scale", "gpuw/llm-chat", "--replicas=50", "-n", namespace)

    assert api.client.get(path_of(created))["spec"]["replicas"] == 50


def test_scale_shows_what_status_says(api: ControlPlane, namespace: str) -> None:
    created = create(api, namespace, replicas=2)
    status = GpuWorkloadStatus(replicas=3, selector="app=llm-chat").dump()
    api.client.patch(f"{path_of(created)}/status", {"status": status})

    scale = api.client.get(f"{path_of(created)}/scale")

    assert scale["spec"] == {"replicas": 2}
    assert scale["status"] == {"replicas": 3, "selector": "app=llm-chat"}


def test_scale_cannot_be_read_while_replicas_is_unset(api: ControlPlane, namespace: str) -> None:
    """This is why an HPA needs spec.replicas once, and why the condition Conflict says ScaleUnset."""
    created = create(api, namespace)

    with pytest.raises(ApiError) as refusal:
        api.client.get(f"{path_of(created)}/scale")

    assert refusal.value.status == 500


def start_hpa(api: ControlPlane, namespace: str) -> str:
    """Point a real HPA at the GpuWorkload llm-chat and return the HPA's path."""
    path = f"/apis/autoscaling/v2/namespaces/{namespace}/horizontalpodautoscalers"
    target = {"apiVersion": names.API_VERSION, "kind": names.WORKLOAD_KIND, "name": "llm-chat"}
    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}
    spec = {"scaleTargetRef": target, "maxReplicas": 8, "metrics": [{"type": "Resource", "resource": cpu}]}
    manifest = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "hpa"},
    }
    api.client.post(path, manifest | {"spec": spec})
    return f"{path}/hpa"


def wait_able_to_scale(api: ControlPlane, hpa: str, *, reason: str, message: str) -> None:
    """Wait for the HPA's condition AbleToScale; its controller learns of a new kind only every 30 s."""

    def found() -> bool:
        conditions = api.client.get(hpa).get("status", {}).get("conditions") or []
        able = next((item for item in conditions if item["type"] == "AbleToScale"), {})
        return able.get("reason") == reason and message in able["message"]

    api.wait_for(found, 60, f"AbleToScale with reason {reason} and {message!r}")


def test_an_hpa_can_drive_a_workload_whose_replicas_are_set(api: ControlPlane, namespace: str) -> None:
    created = create(api, namespace, replicas=2)
    status = GpuWorkloadStatus(replicas=2, selector="app=llm-chat").dump()
    api.client.patch(f"{path_of(created)}/status", {"status": status})

    hpa = start_hpa(api, namespace)

    wait_able_to_scale(api, hpa, reason="SucceededGetScale", message="able to get the target's current scale")


def test_an_hpa_cannot_start_while_replicas_is_unset(api: ControlPlane, namespace: str) -> None:
    create(api, namespace)

    hpa = start_hpa(api, namespace)

    wait_able_to_scale(api, hpa, reason="FailedGetScale", message=".spec.replicas")


def test_kubectl_get_shows_which_policy_is_the_cluster_default(api: ControlPlane) -> None:
    policy = {
        "apiVersion": names.API_VERSION,
        "kind": names.POLICY_KIND,
        "metadata": {"name": "api-schema-test"},
    }
    created = api.client.post(
        f"{GROUP}/{names.POLICY_PLURAL}", policy | {"spec": {"defaults": {"minReplicas": 1}}}
    )

    header, row = api.kubectl("get", "gpup", created["metadata"]["name"]).strip().splitlines()
    api.client.delete(f"{GROUP}/{names.POLICY_PLURAL}/api-schema-test")

    assert header.split() == ["NAME", "DEFAULT", "READY", "CONFLICT", "AGE"]
    assert row.split()[0] == "api-schema-test"


FULL_STATUS = GpuWorkloadStatus(
    observed_generation=1,
    replicas=3,
    selector="app=llm-chat",
    desired_replicas=5,
    ready_replicas=2,
    loading_replicas=1,
    mode="Enforce",
    target="Deployment/llm-chat",
    signal="0.83/0.80 100% cov",
    state="Fresh",
    reason="UtilizationHigh",
    capacity=CapacityStatus(
        baseline_replicas=1,
        on_demand_replicas=2,
        burst_replicas=1,
        fallback_replicas=1,
        fallback_since="2026-11-22T09:00:00Z",
        fallback_reason="SpotRefused",
        ready_on_demand=1,
        ready_burst=1,
        twin="llm-chat-burst",
        pools=("h100-spot-a", "h100-spot-b"),
    ),
    hourly_cost="29.40 USD",
    last_scale_time="2026-11-22T09:00:00Z",
    decisions=(
        Decision(
            time="2026-11-22T09:00:00Z",
            from_replicas=3,
            to_replicas=5,
            signal="0.83/0.80 100% cov",
            coverage_percent=100,
            proposal=6,
            limiters=("UpStepLimit",),
            reason="UpStepLimit",
            message="x" * 5000,
        ),
    ),
    conditions=(
        Condition(
            type="Ready",
            status="True",
            reason="Operating",
            message="fine",
            observed_generation=1,
            last_transition_time="2026-11-22T09:00:00Z",
        ),
    ),
)


@pytest.mark.case("workload-autoscalers D85")
def test_the_server_keeps_a_full_status_and_every_text_fits(api: ControlPlane, namespace: str) -> None:
    created = create(api, namespace)

    stored = api.client.patch(f"{path_of(created)}/status", {"status": FULL_STATUS.dump()})

    assert stored["status"] == FULL_STATUS.dump()


def test_kubectl_get_shows_the_columns(api: ControlPlane, namespace: str) -> None:
    created = create(api, namespace)
    api.client.patch(f"{path_of(created)}/status", {"status": FULL_STATUS.dump()})

    header, row = api.kubectl("get", "gpuw", "-n", namespace).strip().splitlines()

    assert header.split() == (
        [
            "NAME",
            "MODE",
            "REPLICAS",
            "DESIRED",
            "READY",
            "BURST",
            "SIGNAL",
            "STATE",
            "REASON",
            "$/H",
            "LAST-SCALE",
            "AGE",
        ]
    )
    cells = ["llm-chat", "Enforce", "3", "5", "2", "1"]
    signal = ["0.83/0.80", "100%", "cov", "Fresh", "UtilizationHigh"]
    assert row.split()[:13] == [*cells, *signal, "29.40", "USD"]


FULL_POOL_STATUS = GpuNodePoolStatus(
    observed_generation=1,
    mode="Enforce",
    nodes=NodeCounts(ready=2, not_ready=0, cordoned=0, booting=1, draining=1, doomed=1),
    desired_nodes=5,
    target_nodes=3,
    closed_until="2026-11-22T09:10:00Z",
    failed_probes=2,
    breaker_open_until="2026-11-22T10:00:00Z",
    last_refusals=tuple(
        PoolRefusal(
            time=f"2026-11-22T09:0{minute}:00Z",
            kind="Capacity",
            code="InsufficientInstanceCapacity",
            message="x" * 5000,
            zone="a",
        )
        for minute in range(3)
    ),
    gpus_allocatable=16,
    gpus_allocated=8,
    gpus_idle=8,
    hourly_cost="58.80",
    currency="USD",
    price_source="pool price",
)


def test_the_server_keeps_a_full_status_of_a_pool_and_kubectl_shows_it(api: ControlPlane) -> None:
    path = f"{GROUP}/{names.POOL_PLURAL}"
    given = pool("api-schema-test", mode="Enforce", provider={"type": "Kwok"}, maxNodes=4)
    api.client.post(path, given)
    try:
        stored = api.client.patch(f"{path}/api-schema-test/status", {"status": FULL_POOL_STATUS.dump()})

        header, row = api.kubectl("get", "gpunp", "api-schema-test").strip().splitlines()
    finally:
        api.client.delete(f"{path}/api-schema-test")

    assert stored["status"] == FULL_POOL_STATUS.dump()
    assert header.split()[:9] == [
        "NAME", "TYPE", "MODE", "NODES", "DESIRED", "NOT-READY", "GPUS", "USED", "IDLE",
    ]  # fmt: skip
    assert row.split()[:9] == ["api-schema-test", "Spot", "Enforce", "2", "3", "0", "16", "8", "8"]


def test_kubectl_get_knows_the_category(api: ControlPlane, namespace: str) -> None:
    create(api, namespace)

    listed = json.loads(api.kubectl("get", names.CATEGORY, "-n", namespace, "-o", "json"))

    assert "GpuWorkload" in {item["kind"] for item in listed["items"]}


def test_kubectl_explain_shows_the_unit_and_the_built_in(api: ControlPlane) -> None:
    text = " ".join(api.kubectl("explain", "gpuw.spec.scaleDown").split())

    assert "windowSeconds <integer>" in text
    assert "Seconds looked back for the busiest minute" in text
    assert "Built-in: 300." in text
