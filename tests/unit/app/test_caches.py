"""Which change of an object is worth a pass, and when the nodes are not seen."""

from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import pytest
from tests.builders import NOW, make_deployment, make_node, make_pod

from spillway.adapters.kube.client import KubeClient
from spillway.adapters.kube.reflector import Problem
from spillway.adapters.kube.resources import Call
from spillway.app.caches import Caches, _node_changed, _phase_changed, _target_changed
from spillway.core.model import NodeCondition, PodPhase
from spillway.core.scheduling import Taint

NODE = make_node(resource_version="7")
POD = make_pod()
LIST = Call(verb="list", resource="nodes", namespace="")
NOTICE = Taint("aws-node-termination-handler/spot-itn")


@pytest.mark.parametrize(
    ("change", "wakes"),
    [
        pytest.param({"resource_version": "8"}, False, id="a heartbeat"),
        pytest.param({"ready": False}, True, id="not Ready"),
        pytest.param({"unschedulable": True}, True, id="cordoned"),
        pytest.param({"taints": (NOTICE,)}, True, id="a notice by taint"),
        pytest.param(
            {"conditions": (NodeCondition(type="PreemptionScheduled", status="True"),)},
            True,
            id="a notice by condition",
        ),
        pytest.param({"devices": {}}, True, id="its GPUs went"),
        pytest.param({"labels": {"pool": "other"}}, True, id="of another pool"),
    ],
)
def test_a_change_of_a_node_wakes_the_loop_if_a_decision_looks_at_it(
    change: dict[str, Any], wakes: bool
) -> None:
    assert _node_changed(NODE, replace(NODE, **change)) is wakes


def test_a_node_that_comes_or_goes_wakes_the_loop() -> None:
    assert _node_changed(None, NODE)
    assert _node_changed(NODE, None)


@pytest.mark.parametrize(
    ("change", "wakes"),
    [
        pytest.param({"phase": PodPhase.UNSCHEDULABLE}, True, id="no node for it"),
        pytest.param({"node": "node-2"}, True, id="bound"),
        pytest.param({"since": NOW}, False, id="only a time"),
    ],
)
def test_a_change_of_a_pod_wakes_the_loop_if_a_decision_looks_at_it(
    change: dict[str, Any], wakes: bool
) -> None:
    assert _phase_changed(POD, replace(POD, **change)) is wakes


def test_pods_that_only_take_room_wait_for_the_next_evaluation() -> None:
    other = make_pod(gpus=0, owner_kind="DaemonSet")

    assert not _phase_changed(None, other)
    assert not _phase_changed(other, None)


def test_pods_of_a_deployment_without_gpus_yet_wake_the_loop() -> None:
    assert _phase_changed(None, make_pod(gpus=0, owner_kind="ReplicaSet"))


@pytest.mark.parametrize(
    ("change", "wakes"),
    [
        pytest.param({"resource_version": "9", "status_replicas": 3}, False, id="its status alone"),
        pytest.param({"generation": 2}, True, id="a new spec"),
        pytest.param({"failure": "exceeded quota: gpus"}, True, id="pods are refused"),
    ],
)
def test_a_change_of_a_deployment_wakes_the_loop_if_a_decision_looks_at_it(
    change: dict[str, Any], wakes: bool
) -> None:
    before = make_deployment()

    assert _target_changed(before, replace(before, **change)) is wakes


def nodes_seen_at(second: float | None, *, now: float) -> Caches:
    """Caches whose nodes were last in step at *second*, None for never."""
    caches = Caches(cast("KubeClient", None), wake=lambda _: None, clock=lambda: now)  # they are never run
    (stream,) = caches.nodes._streams.values()
    if second is not None:
        stream._in_step_at = second
        stream.first_list.set()
    return caches


@pytest.mark.parametrize(
    ("second", "told"),
    [
        pytest.param(40.0, "", id="within the limit"),
        pytest.param(39.9, "the nodes were not seen for longer than 60 s", id="beyond it"),
        pytest.param(None, "the nodes cannot be read: not listed yet", id="never"),
    ],
)
def test_nodes_that_are_not_seen_keep_pools_from_being_sized(second: float | None, told: str) -> None:
    caches = nodes_seen_at(second, now=100.0)

    assert caches.pools_blinded_by(timedelta(seconds=60)) == told


def test_a_right_that_is_missing_is_named() -> None:
    caches = nodes_seen_at(None, now=100.0)
    (stream,) = caches.nodes._streams.values()
    stream.problem = Problem(call=LIST, message="nodes is forbidden", forbidden=True)

    assert caches.pools_blinded_by(timedelta(seconds=60)) == "the nodes cannot be read: nodes is forbidden"
