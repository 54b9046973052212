"""The burst twin among people and other tools: deleted, edited, rolled out, orphaned, and handed over without a gap."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from spillway.api import names
from tests.cluster.client import JsonObject
from tests.cluster.controlplane import ControlPlane
from tests.cluster.exporter import Exporter
from tests.cluster.fleet_laws import lawful, noted_until
from tests.cluster.fleet_scene import BurstWorkload, FleetScene, played_fleet
from tests.cluster.operator_chart import Helm
from tests.cluster.operator_process import FAST
from tests.cluster.prometheus import Prometheus

SUCCESSION_SECONDS = FAST["leaseDurationSeconds"] + 45


@pytest.fixture(scope="module")
def fleet(
    cluster: ControlPlane, exporter: Exporter, prometheus: Prometheus, helm: Helm, crds: list[str]
) -> Iterator[FleetScene]:
    with played_fleet(cluster, exporter, prometheus, helm, spot=("a",)) as fleet:
        yield fleet


@pytest.fixture(autouse=True)
def pools(fleet: FleetScene) -> Iterator[dict[str, str]]:
    with lawful(fleet) as pools:
        yield pools


@pytest.fixture
def llm(fleet: FleetScene) -> BurstWorkload:
    """A workload that serves with two replicas on demand and three on spot; each loads for a moment."""
    made = fleet.burst(baseline=2, replicas=2, deployment={"ready_after": "1s"})
    made.workload.patch(replicas=5)
    made.serves(2, 3, seconds=60)
    return made


def twin_of(llm: BurstWorkload) -> JsonObject:
    twin = llm.twin
    assert twin is not None
    return twin


def environment(deployment: JsonObject) -> dict[str, str]:
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    return {item["name"]: item["value"] for item in container.get("env") or []}


def roll_out(llm: BurstWorkload, value: str, **spec: object) -> None:
    """Change the pod template of the source, as a deployment of a new version does."""
    env = [{"name": "VERSION", "value": value}]
    containers = [{"name": "server", "env": env}]
    llm.fleet.client.patch(
        llm.workload.target_path,
        {"spec": {"template": {"spec": {"containers": containers}}, **spec}},
        kind="strategic",
    )


@pytest.mark.case("node-and-spot E68")
def test_a_twin_that_is_deleted_by_hand_is_made_again_with_its_count(llm: BurstWorkload) -> None:
    before = twin_of(llm)

    llm.fleet.client.delete(llm.twin_path, propagationPolicy="Background")

    llm.until(
        lambda: (twin := llm.twin) is not None and twin["metadata"]["uid"] != before["metadata"]["uid"],
        45,
        "it is made anew",
    )
    after = twin_of(llm)
    assert (after["spec"]["replicas"], after["spec"]["selector"]) == (3, before["spec"]["selector"])
    llm.serves(2, 3, seconds=60)


@pytest.mark.case("node-and-spot E69")
def test_a_twin_that_somebody_edits_is_put_back_and_the_editor_is_named(llm: BurstWorkload) -> None:
    path, env = llm.twin_path, [{"name": "SLIP", "value": "1"}]
    body = {"spec": {"template": {"spec": {"containers": [{"name": "server", "env": env}]}}}}

    llm.fleet.client.patch(path, body, kind="strategic", fieldManager="late-night-edit")

    llm.until(lambda: environment(twin_of(llm)) == {}, 45, "it is put back")
    events = llm.until(lambda: llm.workload.events("BurstReverted"), 20, "an Event tells of it")
    assert "late-night-edit" in events[0]["message"]
    llm.serves(2, 3, seconds=60)


def test_a_twin_that_somebody_scales_is_put_back(llm: BurstWorkload) -> None:
    llm.fleet.client.patch(f"{llm.twin_path}/scale", {"spec": {"replicas": 1}})

    llm.serves(2, 3, seconds=60)


def test_a_rollout_in_mid_burst_is_followed_and_causes_no_fallback(llm: BurstWorkload) -> None:
    mark = llm.fleet.scene.cluster.audit_mark()

    roll_out(llm, "2")

    llm.until(lambda: environment(twin_of(llm)) == {"VERSION": "2"}, 60, "the twin follows")
    llm.serves(2, 3, seconds=90)
    assert llm.workload.writes(mark) == []
    assert llm.workload.condition("FallbackActive")["status"] == "False"


@pytest.mark.case("node-and-spot E14")
def test_a_broken_rollout_causes_no_fallback(llm: BurstWorkload) -> None:
    mark = llm.fleet.scene.cluster.audit_mark()
    labels = {"spillway-test.dev/crash": "true"}

    llm.fleet.client.patch(llm.workload.target_path, {"spec": {"template": {"metadata": {"labels": labels}}}})
    llm.until(
        lambda: llm.workload.target["status"].get("unavailableReplicas"),
        30,
        "its pods of the new version crash",
    )

    llm.workload.watch(lambda: llm.tiers == (2, 3), 8, "nothing stands in for what breaks anywhere")
    assert llm.workload.writes(mark) == []


@pytest.mark.case("node-and-spot E73")
def test_the_template_of_a_paused_source_is_not_followed_but_its_count_is(llm: BurstWorkload) -> None:
    roll_out(llm, "3", paused=True)

    llm.workload.patch(replicas=6)

    llm.until(lambda: llm.burst == 4, 30, "the count is followed")
    llm.workload.watch(lambda: environment(twin_of(llm)) == {}, 5, "the template is not")
    llm.fleet.client.patch(llm.workload.target_path, {"spec": {"paused": False}})
    llm.until(lambda: environment(twin_of(llm)) == {"VERSION": "3"}, 60, "after the pause it is")
    llm.serves(2, 4, seconds=90)


@pytest.mark.case("node-and-spot E67")
def test_a_twin_goes_with_its_source(llm: BurstWorkload) -> None:
    llm.fleet.client.delete(llm.workload.target_path, propagationPolicy="Background")

    llm.until(lambda: llm.twin is None, 45, "the twin is gone")

    llm.fleet.scene.operator.until(
        lambda: llm.workload.condition("ScalingActive").get("reason") == "TargetNotFound", 30, "it says why"
    )
    cluster = llm.fleet.scene.cluster
    llm.fleet.scene.operator.until(
        lambda: not cluster.pods(llm.fleet.namespace, f"app={llm.name}"), 45, "and so are all pods"
    )


@pytest.mark.case("node-and-spot E74")
def test_a_gpuworkload_deleted_with_the_operator_down_is_handed_over_without_a_gap(
    llm: BurstWorkload,
) -> None:
    operator = llm.fleet.scene.operator
    operator.terminate()
    llm.workload.delete()
    operator.start()

    ready = noted_until(
        llm, lambda: sum(llm.ready()), lambda: llm.twin is None, SUCCESSION_SECONDS + 60, "the twin is gone"
    )

    assert min(ready) >= 5
    assert llm.ready()[0] == llm.workload.replicas == 5


@pytest.mark.case("node-and-spot E74")
def test_one_killed_in_a_handover_raises_the_source_once(llm: BurstWorkload) -> None:
    operator = llm.fleet.scene.operator
    llm.workload.delete()
    llm.fleet.scene.operator.until(
        lambda: names.HANDOVER_ANNOTATION in twin_of(llm)["metadata"]["annotations"], 45, "it hands over"
    )
    operator.kill()
    operator.start()

    operator.wait_deciding(SUCCESSION_SECONDS)
    ready = noted_until(llm, lambda: sum(llm.ready()), lambda: llm.twin is None, 60, "the twin is gone")

    assert min(ready) >= 5
    assert llm.workload.replicas == 5


def test_a_gpuworkload_made_anew_takes_the_twin_over(llm: BurstWorkload) -> None:
    stored, before = llm.workload.stored, twin_of(llm)
    llm.fleet.scene.operator.pause()
    llm.workload.delete()
    body = {
        "apiVersion": stored["apiVersion"],
        "kind": stored["kind"],
        "metadata": {"name": llm.name, "namespace": llm.fleet.namespace},
        "spec": stored["spec"],
    }
    made = llm.fleet.client.apply(body)
    llm.fleet.scene.operator.resume()

    uid = made["metadata"]["uid"]
    llm.until(
        lambda: twin_of(llm)["metadata"]["labels"][names.OWNED_BY_LABEL] == uid, 60, "the twin is taken over"
    )

    assert twin_of(llm)["metadata"]["uid"] == before["metadata"]["uid"]
    llm.serves(2, 3)
