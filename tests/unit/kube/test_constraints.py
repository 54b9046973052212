"""Where a pod spec may go."""

from datetime import UTC, datetime
from typing import Any

import pytest

from spillway.adapters.kube.constraints import constraints_of, taints_of
from spillway.core.scheduling import ANYWHERE, Constraints, Requirement, Taint, Toleration

Raw = dict[str, Any]


def required(*terms: Raw) -> Raw:
    return {
        "affinity": {
            "nodeAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {}}],
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)},
            }
        }
    }


def test_a_spec_is_kept_whole() -> None:
    spec = {
        "nodeSelector": {"pool": "a"},
        **required({"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["h100", "h200"]}]}),
        "tolerations": [
            {"key": "spot", "value": "true", "effect": "NoSchedule"},
            {"operator": "Exists", "tolerationSeconds": 300},
        ],
    }

    assert constraints_of(spec) == Constraints(
        node_selector={"pool": "a"},
        terms=((Requirement(key="gpu", operator="In", values=("h100", "h200")),),),
        tolerations=(
            Toleration(key="spot", operator="Equal", value="true", effect="NoSchedule"),
            Toleration(operator="Exists"),
        ),
    )


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"nodeSelector": None, "affinity": None, "tolerations": None},
        {"affinity": {"podAntiAffinity": {}}},
        {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}},
    ],
)
def test_a_spec_that_asks_for_nothing_goes_anywhere(spec: Raw) -> None:
    assert constraints_of(spec) is ANYWHERE


def test_a_pod_that_is_meant_for_one_node_fits_no_other() -> None:
    field = {"key": "metadata.name", "operator": "In", "values": ["node-1"]}

    found = constraints_of(required({"matchFields": [field]}))

    assert found.terms == ((Requirement(key="metadata.name", operator="In", values=("node-1",)),),)
    assert not found.selects({"kubernetes.io/hostname": "node-2"})


def test_a_term_that_requires_nothing_matches_no_node_as_in_kubernetes() -> None:
    pool_a = {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["a"]}]}

    assert not constraints_of(required({})).selects({"pool": "a"})
    assert constraints_of(required({}, pool_a)).selects({"pool": "a"})


def test_taints_are_kept_with_the_moment_they_were_added() -> None:
    raw = [
        {"key": "spot", "value": "true", "effect": "NoSchedule"},
        {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "timeAdded": "2026-11-22T09:00:00Z"},
    ]

    spot, unreachable = taints_of(raw)

    assert (spot, spot.since) == (Taint("spot", "true", "NoSchedule"), None)
    assert unreachable == Taint("node.kubernetes.io/unreachable", "", "NoExecute")
    assert unreachable.since == datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
