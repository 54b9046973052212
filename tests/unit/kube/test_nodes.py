"""What is kept of nodes, and our own mark on them."""

from datetime import UTC, datetime
from typing import Any

import pytest

from spillway.adapters.kube.nodes import cordon_mark, mark_text, node
from spillway.core.model import CapacityType, CordonCause, CordonMark, Node, NodeCondition
from spillway.core.scheduling import Taint

Raw = dict[str, Any]

SINCE = "2026-11-22T09:02:00Z"
CHANGED = datetime(2026, 11, 22, 9, 2, tzinfo=UTC)


def condition(kind: str, status: str, **more: str) -> Raw:
    return {"type": kind, "status": status, "lastTransitionTime": SINCE, **more}


READY = condition("Ready", "True")


def make_node(*conditions: Raw, labels: Raw | None = None, **spec: Any) -> Raw:  # noqa: ANN401
    return {
        "metadata": {"name": "n1", "labels": labels or {}},
        "spec": spec,
        "status": {
            "conditions": list(conditions),
            "allocatable": {"cpu": "96", "nvidia.com/gpu": "8", "example.com/fuse": "1k", "memory": "1Ti"},
        },
    }


def test_a_node_is_kept_with_its_devices_labels_and_price() -> None:
    raw = make_node(READY, labels={"pool": "a", "nvidia.com/gpu.product": "H100"}, unschedulable=True)
    raw["metadata"]["annotations"] = {"spillway.dev/price-per-hour": "29.40"}

    assert node(raw) == Node(
        name="n1",
        ready=True,
        unschedulable=True,
        labels={"pool": "a", "nvidia.com/gpu.product": "H100"},
        devices={"nvidia.com/gpu": 8, "example.com/fuse": 1000},
        allocatable={"cpu": 96_000, "nvidia.com/gpu": 8, "example.com/fuse": 1000, "memory": 2**40},
        conditions=(NodeCondition(type="Ready", status="True", since=CHANGED),),
        gpu_model="H100",
        price_annotation="29.40",
    )


@pytest.mark.parametrize(
    "conditions",
    [
        pytest.param((), id="nothing said yet"),
        pytest.param((condition("Ready", "False"),), id="not ready"),
        pytest.param((condition("Ready", "Unknown"),), id="silent"),
    ],
)
def test_a_node_is_ready_only_when_it_says_so(conditions: tuple[Raw, ...]) -> None:
    assert node(make_node(*conditions)).ready is False


@pytest.mark.case("metrics-and-cost E82")
@pytest.mark.parametrize(
    ("label", "value", "expected"),
    [
        ("karpenter.sh/capacity-type", "spot", CapacityType.SPOT),
        ("karpenter.sh/capacity-type", "on-demand", CapacityType.ON_DEMAND),
        ("karpenter.sh/capacity-type", "reserved", CapacityType.RESERVED),
        ("eks.amazonaws.com/capacityType", "SPOT", CapacityType.SPOT),
        ("eks.amazonaws.com/capacityType", "ON_DEMAND", CapacityType.ON_DEMAND),
        ("cloud.google.com/gke-spot", "true", CapacityType.SPOT),
        ("cloud.google.com/gke-provisioning", "standard", CapacityType.ON_DEMAND),
        ("kubernetes.azure.com/scalesetpriority", "spot", CapacityType.SPOT),
        ("example.com/lifecycle", "spot", CapacityType.UNKNOWN),
    ],
)
def test_the_capacity_type_of_a_node_is_what_its_platform_labels_say(
    label: str, value: str, expected: CapacityType
) -> None:
    assert node(make_node(READY, labels={label: value})).capacity_type is expected


def test_a_node_that_is_about_to_end_is_kept_with_all_that_tells_of_it() -> None:
    raw = make_node(READY, condition("PreemptionScheduled", "True", reason="Preempt", message="at 09:04"))
    raw["metadata"] |= {
        "uid": "node-uid",
        "creationTimestamp": "2026-11-22T08:00:00Z",
        "deletionTimestamp": SINCE,
        "labels": {"topology.kubernetes.io/zone": "us-east-1a"},
        "annotations": {
            "volumes.kubernetes.io/controller-managed-attach-detach": "true",
            "cluster-autoscaler.kubernetes.io/scale-down-disabled": "true",
        },
    }
    raw["spec"] = {
        "providerID": "aws:///us-east-1a/i-0abc",
        "taints": [{"key": "spot", "effect": "NoSchedule"}],
    }
    raw["status"]["nodeInfo"] = {"bootID": "boot-1"}
    raw["status"]["conditions"].append(condition("MemoryPressure", "False"))

    found = node(raw)

    assert (found.uid, found.provider_id, found.boot_id, found.zone, found.terminating) == (
        "node-uid", "aws:///us-east-1a/i-0abc", "boot-1", "us-east-1a", True,
    )  # fmt: skip
    assert found.created_at == datetime(2026, 11, 22, 8, 0, tzinfo=UTC)
    assert found.taints == (Taint("spot"),)
    assert found.conditions == (
        NodeCondition(type="Ready", status="True", since=CHANGED),
        NodeCondition(
            type="PreemptionScheduled", status="True", reason="Preempt", message="at 09:04", since=CHANGED
        ),
    )
    assert found.annotations == {"cluster-autoscaler.kubernetes.io/scale-down-disabled": "true"}


@pytest.mark.case("node-and-spot E77")
def test_a_node_offers_what_is_allocatable_whatever_its_labels_count() -> None:
    raw = make_node(READY, labels={"nvidia.com/gpu.count": "7"})
    raw["status"]["allocatable"] = {
        "nvidia.com/mig-1g.5gb": "56",
        "cpu": "95500m",
        "memory": "1Gi",
        "pods": "110",
    }

    found = node(raw)

    assert found.devices == {"nvidia.com/mig-1g.5gb": 56}
    assert found.allocatable == {
        "nvidia.com/mig-1g.5gb": 56, "cpu": 95_500, "memory": 1_073_741_824, "pods": 110,
    }  # fmt: skip


@pytest.mark.case("node-and-spot E78")
def test_time_slices_are_offered_as_the_device_plugin_counts_them() -> None:
    raw = make_node(READY, labels={"nvidia.com/gpu.count": "1", "nvidia.com/gpu.replicas": "4"})
    raw["status"]["allocatable"] = {"nvidia.com/gpu.shared": "4"}

    assert node(raw).devices == {"nvidia.com/gpu.shared": 4}


@pytest.mark.case("node-and-spot E81")
def test_a_node_with_a_bad_gpu_offers_the_rest() -> None:
    raw = make_node(READY, labels={"nvidia.com/gpu.count": "8"})
    raw["status"] |= {"capacity": {"nvidia.com/gpu": "8"}, "allocatable": {"nvidia.com/gpu": "7"}}

    assert node(raw).devices == {"nvidia.com/gpu": 7}


MARK = CordonMark(cause=CordonCause.DRAIN, id="d-1", since=CHANGED)
OUR_TAINT = Taint("spillway.dev/cordoned", "drain", since=CHANGED)
OF_NO_DRAIN = CordonMark(cause=CordonCause.DRAIN, id="", since=CHANGED, was_unschedulable=True)


def test_our_mark_is_compact_json() -> None:
    assert mark_text(MARK) == '{"cause":"drain","id":"d-1","since":"2026-11-22T09:02:00.000000Z"}'


@pytest.mark.parametrize("was_unschedulable", [False, True])
def test_our_mark_is_read_back_as_it_was_written(was_unschedulable: bool) -> None:
    mark = CordonMark(
        cause=CordonCause.INTERRUPTED, id="n-7", since=CHANGED, was_unschedulable=was_unschedulable
    )

    assert cordon_mark({"spillway.dev/cordon": mark_text(mark)}, ()) == mark


@pytest.mark.parametrize(
    ("annotations", "taints", "mark"),
    [
        pytest.param({}, (), None, id="untouched"),
        pytest.param({}, (Taint("spot", since=CHANGED),), None, id="another's taint"),
        pytest.param({}, (OUR_TAINT,), OF_NO_DRAIN, id="our taint alone"),
        pytest.param({"spillway.dev/cordon": "{"}, (OUR_TAINT,), OF_NO_DRAIN, id="garbled"),
        pytest.param({"spillway.dev/cordon": "[]"}, (OUR_TAINT,), OF_NO_DRAIN, id="no object"),
        pytest.param({"spillway.dev/cordon": "{"}, (), None, id="garbled without our taint"),
        pytest.param(
            {"spillway.dev/cordon": '{"cause":"mood","id":"1","since":"2026-11-22T09:02:00Z"}'},
            (OUR_TAINT,),
            OF_NO_DRAIN,
            id="a cause that we do not know",
        ),
        pytest.param(
            {"spillway.dev/cordon": '{"cause":"drain","id":"1","since":"2026-11-22T09:02:00"}'},
            (),
            None,
            id="a time of no zone",
        ),
    ],
)
def test_a_mark_that_cannot_be_read_is_ours_as_long_as_the_taint_is(
    annotations: Raw, taints: tuple[Taint, ...], mark: CordonMark | None
) -> None:
    assert cordon_mark(annotations, taints) == mark
