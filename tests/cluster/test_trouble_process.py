"""Operators that are killed, stopped, resumed and doubled: nothing flaps, nothing shrinks early, and one writes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from itertools import groupby

import pytest

from tests.cluster.client import JsonObject
from tests.cluster.controlplane import ControlPlane
from tests.cluster.exporter import Exporter
from tests.cluster.faults import Action, Hang, Lose
from tests.cluster.operator_chart import Helm, InstalledChart, installed_chart
from tests.cluster.operator_process import FAST, WRITING_VERBS, OperatorProcess, StartOperator
from tests.cluster.processes import wait_until
from tests.cluster.prometheus import Prometheus
from tests.cluster.scene import SHORT_WINDOWS, TAKEOVER_SECONDS, Scene, Workload, make_scene, played

VETERANS_WINDOW_SECONDS = TAKEOVER_SECONDS + 6
SCALE = r"/deployments/[^/]+/scale"
LEASE_SECONDS = FAST["leaseDurationSeconds"]
# What a successor of a killed leader needs: the Lease runs out on its own clock, then the caches and windows are filled.
SUCCESSION_SECONDS = LEASE_SECONDS + 45


@pytest.fixture(scope="module")
def scene(cluster: ControlPlane, exporter: Exporter) -> Iterator[Scene]:
    with make_scene(cluster, exporter) as scene:
        yield scene


@pytest.fixture(scope="module")
def chart(cluster: ControlPlane, helm: Helm, crds: list[str], scene: Scene) -> Iterator[InstalledChart]:
    with installed_chart(cluster, helm, scene.namespace) as chart:
        yield chart


@pytest.fixture(scope="module")
def twin(cluster: ControlPlane, helm: Helm, scene: Scene, chart: InstalledChart) -> Iterator[InstalledChart]:
    """A second release with the same Lease: an operator of it has another account, so that the audit log tells them apart."""
    with installed_chart(cluster, helm, scene.namespace, settings={"leaseName": chart.release}) as twin:
        yield twin


@pytest.fixture(autouse=True)
def alone(scene: Scene, chart: InstalledChart, twin: InstalledChart) -> Iterator[None]:
    yield
    scene.strike(keep=[chart.release, twin.release])


@pytest.fixture(scope="module", autouse=True)
def veteran(
    cluster: ControlPlane, exporter: Exporter, prometheus: Prometheus, helm: Helm, crds: list[str]
) -> Iterator[Workload]:
    """An idle workload on a stage of its own, whose operator was killed and started again; time passes for it meanwhile."""
    with played(cluster, exporter, prometheus, helm, nodes=1) as stage:
        patient = {**SHORT_WINDOWS["scaleDown"], "windowSeconds": VETERANS_WINDOW_SECONDS}
        chat = stage.workload(replicas=4, demand=0.6, scaleDown=patient)
        chat.decides("Takeover")
        time.sleep(VETERANS_WINDOW_SECONDS - TAKEOVER_SECONDS)  # so much of the window passes before the kill
        stage.operator.kill()
        stage.operator.start()
        yield chat


def lease(cluster: ControlPlane, chart: InstalledChart) -> JsonObject:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{chart.namespace}/leases/{chart.release}"
    spec: JsonObject = cluster.client.get(path)["spec"]
    return spec


# Ending and starting again


def test_sigterm_ends_it_cleanly_and_gives_the_lease_back(
    scene: Scene, chart: InstalledChart, start_operator: StartOperator
) -> None:
    operator = start_operator(chart)
    operator.wait_deciding()
    assert lease(scene.cluster, chart)["holderIdentity"]

    code = operator.terminate()

    assert code == 0
    assert lease(scene.cluster, chart)["holderIdentity"] == ""


@pytest.mark.case("workload-autoscalers D38")
def test_a_restart_at_a_quiet_load_writes_no_replicas(
    scene: Scene, chart: InstalledChart, start_operator: StartOperator
) -> None:
    scene.operator = operator = start_operator(chart)
    chat = scene.workload(replicas=4)
    chat.decides("WithinBand")
    mark = scene.cluster.audit_mark()

    operator.terminate()
    operator.start()

    operator.wait_deciding()
    chat.decides("WithinBand")
    chat.stays(4, seconds=4)
    assert operator.writes(mark, resource="deployments") == []


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Hang(), id="before its write has reached the server"),
        pytest.param(Lose(), id="after the server did it and before it hears so"),
    ],
)
@pytest.mark.case("workload-autoscalers D84")
def test_one_killed_in_the_middle_of_a_write_goes_on_as_if_nothing_had_been(
    scene: Scene, chart: InstalledChart, start_operator: StartOperator, fault: Action
) -> None:
    scene.operator = operator = start_operator(chart, through_proxies=True)
    chat = scene.workload(replicas=4, maxReplicas=5)
    chat.decides("WithinBand")
    mark = scene.cluster.audit_mark()
    writing = operator.api.add(fault, method="PATCH", path=SCALE)

    chat.offer(3.6)
    chat.until(lambda: writing.hits, 30, "it writes")
    operator.kill()
    operator.api.clear()
    operator.start()

    operator.wait_deciding(SUCCESSION_SECONDS)
    chat.reaches(5)
    chat.stays(5, seconds=4)
    assert chat.writes(mark) == [5]


def test_one_killed_again_and_again_while_a_burst_grows_never_takes_a_step_back(
    scene: Scene, chart: InstalledChart, start_operator: StartOperator
) -> None:
    scene.operator = operator = start_operator(chart)
    chat = scene.workload(replicas=1, maxReplicas=8)
    operator.wait_deciding()
    mark = scene.cluster.audit_mark()
    chat.offer(7.9)

    for count in (2, 6):
        chat.grows_to(count, seconds=SUCCESSION_SECONDS)
        operator.kill()
        operator.start()

    operator.wait_deciding(SUCCESSION_SECONDS)
    chat.grows_to(8)
    chat.stays(8, seconds=2)
    written = chat.writes(mark)
    assert written == sorted(set(written))


# One writer


def runs_of_writers(cluster: ControlPlane, *, since: int, writers: list[OperatorProcess]) -> list[str]:
    """Return who wrote replicas, one name for each unbroken run, in the order of the API server's answers."""
    accounts = {writer.account: writer.name for writer in writers}
    events = cluster.audit_events(verbs=WRITING_VERBS, since=since)
    names = [
        accounts[event["user"]["username"]]
        for event in sorted(events, key=lambda event: event["stageTimestamp"])
        if event["user"]["username"] in accounts and event["objectRef"]["resource"] == "deployments"
    ]
    return [name for name, _ in groupby(names)]


@pytest.mark.case("workload-autoscalers D78")
def test_of_two_operators_one_writes_also_when_the_leader_is_stopped_and_resumed(
    scene: Scene, chart: InstalledChart, twin: InstalledChart, start_operator: StartOperator
) -> None:
    scene.operator = first = start_operator(chart)
    first.wait_deciding()
    second = start_operator(twin)
    unbounded = {**SHORT_WINDOWS["scaleUp"], "maxIncreaseReplicas": 20}
    chat = scene.workload(replicas=1, maxReplicas=20, scaleUp=unbounded)
    mark = scene.cluster.audit_mark()
    wait_until(second.is_healthy, 30, "the standby is up")

    chat.offer(2.5)
    chat.grows_to(3)
    chat.offer(6)
    first.pause()
    scene.operator = second
    second.wait_deciding(SUCCESSION_SECONDS)
    chat.grows_to(6)
    chat.offer(12)
    first.resume()
    chat.grows_to(12)
    chat.watch(
        lambda: first.decision(scene.namespace, chat.name) is None, 3, "the one that was stopped stands by"
    )

    writers = runs_of_writers(scene.cluster, since=mark, writers=[first, second])
    assert writers == [first.name, second.name]


@pytest.mark.case("workload-autoscalers D78")
def test_a_standby_writes_nothing_at_all(
    scene: Scene, chart: InstalledChart, twin: InstalledChart, start_operator: StartOperator
) -> None:
    scene.operator = leader = start_operator(chart)
    leader.wait_deciding()
    mark = scene.cluster.audit_mark()
    standby = start_operator(twin)
    wait_until(standby.is_healthy, 30, "the standby is up")

    chat = scene.workload(replicas=4, maxReplicas=5, demand=3.6)
    chat.reaches(5)

    assert standby.writes(mark) == []
    assert standby.decision(scene.namespace, chat.name) is None


def test_a_standby_takes_over_at_once_from_one_that_ended_well(
    scene: Scene, chart: InstalledChart, twin: InstalledChart, start_operator: StartOperator
) -> None:
    leader = start_operator(chart)
    leader.wait_deciding()
    standby = start_operator(twin)
    wait_until(standby.is_healthy, 30, "the standby is up")

    leader.terminate()

    standby.wait_deciding(LEASE_SECONDS / 2)


# The probe


def test_the_probe_fails_while_it_is_stopped_and_is_well_again_afterwards(
    chart: InstalledChart, start_operator: StartOperator
) -> None:
    operator = start_operator(chart)
    operator.wait_deciding()
    assert operator.is_healthy()

    operator.pause()
    assert not operator.is_healthy()
    operator.resume()

    wait_until(operator.is_healthy, 10, "it is well again")


# What has become of the veteran


@pytest.mark.case("workload-autoscalers D38")
def test_a_restart_replays_the_window_and_still_shrinks_nothing_for_a_minute(
    cluster: ControlPlane, veteran: Workload
) -> None:
    veteran.shrinks_to(1)

    took_over = datetime.fromisoformat(lease(cluster, veteran.operator.chart)["acquireTime"])
    shrunk = veteran.write_times()[0]
    waited = (shrunk - took_over).total_seconds()
    assert TAKEOVER_SECONDS <= waited < VETERANS_WINDOW_SECONDS
