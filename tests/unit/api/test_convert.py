"""Stored objects to the core's values."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.api.convert import (
    Converted,
    ConvertedPool,
    CostLabels,
    Invalid,
    lint,
    to_policy,
    to_pool,
    to_workload,
)
from spillway.api.policies import Policy
from spillway.core.model import (
    BlindRules,
    Burst,
    CapacityRules,
    FallbackPolicy,
    FallbackRules,
    GpuActivityRules,
    Guardrails,
    Mode,
    ObjectKey,
    ReadinessRules,
    ScaleDownRules,
    ScaleUpRules,
    Workload,
)

CREATED = "2026-11-22T09:00:00Z"


def make_raw(*, metadata: dict[str, Any] | None = None, **spec: object) -> dict[str, Any]:
    return {
        "apiVersion": "spillway.dev/v1alpha1",
        "kind": "GpuWorkload",
        "metadata": {
            "name": "chat", "namespace": "serving", "uid": "u-1", "generation": 7, "creationTimestamp": CREATED,
        } | (metadata or {}),
        "spec": {"targetRef": {"name": "llm-chat"}, "maxReplicas": 8} | spec,
    }  # fmt: skip


def convert(raw: Mapping[str, object]) -> Converted | Invalid:
    return to_workload(raw, policies=(), namespace_labels={})


def converted(*, metadata: dict[str, Any] | None = None, **spec: object) -> Converted:
    result = convert(make_raw(metadata=metadata, **spec))
    assert isinstance(result, Converted), result
    return result


def invalid(raw: Mapping[str, object]) -> Invalid:
    result = convert(raw)
    assert isinstance(result, Invalid), result
    return result


def test_two_lines_of_spec_give_a_whole_workload() -> None:
    result = converted()

    assert result.workload == Workload(
        key=ObjectKey("serving", "chat"),
        uid="u-1",
        created_at=datetime(2026, 11, 22, 9, tzinfo=UTC),
        target="llm-chat",
        min_replicas=1,
        max_replicas=8,
        scale_up=ScaleUpRules(
            window=timedelta(seconds=30),
            max_increase_percent=100,
            max_increase_replicas=4,
            cooldown=timedelta(minutes=1),
        ),
        scale_down=ScaleDownRules(
            window=timedelta(minutes=5),
            max_decrease_percent=20,
            max_decrease_replicas=1,
            cooldown=timedelta(minutes=5),
        ),
        gpu_activity=GpuActivityRules(high=0.8, low=None),
        blind=BlindRules(after=timedelta(minutes=3), replicas=None),
        readiness=ReadinessRules(settle=timedelta(minutes=1), load_grace=timedelta(minutes=10)),
        capacity=CapacityRules(
            baseline=1,
            burst=Burst.NEVER,
            fallback=FallbackRules(
                policy=FallbackPolicy.ON_DEMAND,
                refused_confirm=timedelta(seconds=30),
                provision_timeout=timedelta(minutes=3),
                boot_deadline=timedelta(minutes=10),
                return_probe=timedelta(minutes=3),
                return_stable=timedelta(seconds=30),
                min_residency=timedelta(seconds=60),
            ),
            missed_load=0.001,
        ),
    )
    assert result.generation == 7


def test_a_burst_is_converted_with_its_pools_and_every_timer() -> None:
    fallback = {
        "policy": "Wait", "refusedConfirmSeconds": 1, "provisionTimeoutSeconds": 2, "bootDeadlineSeconds": 3,
        "returnProbeSeconds": 4, "returnStableSeconds": 5, "minResidencySeconds": 6,
    }  # fmt: skip
    capacity = {
        "baselineReplicas": 2,
        "burst": "WhenAvailable",
        "poolSelector": {"matchLabels": {"gpu": "h100"}},
        "missedLoadPercent": "0.05",
        "fallback": fallback,
    }

    assert converted(capacity=capacity).workload.capacity == CapacityRules(
        baseline=2,
        burst=Burst.WHEN_AVAILABLE,
        pool_selector={"gpu": "h100"},
        fallback=FallbackRules(
            policy=FallbackPolicy.WAIT,
            refused_confirm=timedelta(seconds=1),
            provision_timeout=timedelta(seconds=2),
            boot_deadline=timedelta(seconds=3),
            return_probe=timedelta(seconds=4),
            return_stable=timedelta(seconds=5),
            min_residency=timedelta(seconds=6),
        ),
        missed_load=0.0005,
    )


def test_a_missed_load_of_all_of_it_keeps_nothing_to_spare() -> None:
    assert converted(capacity={"missedLoadPercent": "100"}).workload.capacity.missed_load is None


def test_a_pin_outside_the_bounds_is_kept_for_the_core_to_clamp() -> None:
    assert converted(replicas=500).workload.replicas == 500


def test_cost_labels_are_empty_text_where_not_given() -> None:
    assert converted(cost={"team": "search"}).cost == CostLabels(team="search")


@pytest.mark.parametrize(
    ("value", "is_paused"),
    [
        pytest.param("true", True, id="true"),
        pytest.param("yes", True, id="a slip errs on the side of leaving things alone"),
        pytest.param("", True, id="empty"),
        pytest.param("False", False, id="false"),
    ],
)
def test_the_annotation_pauses_unless_it_says_false(value: str, is_paused: bool) -> None:
    assert converted(metadata={"annotations": {"spillway.dev/paused": value}}).workload.paused is is_paused


def test_a_missing_policy_leaves_the_workload_unresolved_with_the_way_out() -> None:
    workload = converted(policyRef={"name": "gone"}).workload

    assert workload.unresolved is not None
    assert "GpuPolicy gone does not exist" in workload.unresolved
    assert "spec.policyRef.name" in workload.unresolved


def test_a_policys_guardrails_and_the_fleet_mode_reach_the_workload() -> None:
    policy = to_policy(
        {
            "metadata": {"name": "fleet", "uid": "u-2", "creationTimestamp": CREATED, "generation": 1},
            "spec": {
                "default": True,
                "guardrails": {"maxGpusPerWorkload": 16, "spot": "Forbidden", "gpuModels": ["L4"]},
            },
        }
    )
    assert isinstance(policy, Policy)

    result = to_workload(make_raw(), policies=(policy,), namespace_labels={}, fleet_mode=Mode.OBSERVE)

    assert isinstance(result, Converted)
    assert result.workload.guardrails == Guardrails(
        max_gpus_per_workload=16, spot_allowed=False, gpu_models=frozenset({"L4"})
    )
    assert (result.workload.mode, result.workload.asked_mode) == (Mode.OBSERVE, Mode.ENFORCE)
    assert result.policy == "fleet"


def test_an_invalid_object_keeps_its_key_so_that_its_status_can_say_why() -> None:
    result = invalid(make_raw(maxReplicas=0))

    assert (result.key, result.uid, result.generation) == (ObjectKey("serving", "chat"), "u-1", 7)
    assert result.field == "spec.maxReplicas"
    assert result.message == (
        "spec.maxReplicas: 0: should be greater than or equal to 1; set it to a whole number from 1 to 10000"
    )


def test_the_first_problem_says_how_many_more_there_are() -> None:
    assert invalid(make_raw(maxReplicas=0, mode="x", minReplicas=0)).message.endswith(
        "(2 more in this object)"
    )


@pytest.mark.case("workload-autoscalers D35")
@pytest.mark.parametrize(
    "value",
    [2**31, -1, pytest.param(10**5000, id="5001 digits"), float("inf"), "٣", True, None, "8", 8.5],
)
def test_a_number_that_is_none_is_refused_without_being_echoed_at_length(value: object) -> None:
    result = invalid(make_raw(maxReplicas=value))

    assert result.field == "spec.maxReplicas"
    assert len(result.message) < 250


@pytest.mark.case("workload-autoscalers D86")
def test_a_message_carries_no_line_break_of_a_tenant() -> None:
    assert "\n" not in invalid(make_raw(cost={"team": "a\nlevel=error msg=forged"})).message


def test_python_names_are_not_accepted_in_manifests() -> None:
    raw = make_raw()
    raw["spec"] = {"target_ref": {"name": "x"}, "max_replicas": 3}

    assert {problem.field for problem in invalid(raw).problems} == {"spec.targetRef", "spec.maxReplicas"}


@pytest.mark.parametrize("field", ["name", "namespace", "uid", "creationTimestamp"])
def test_an_object_that_no_api_server_stored_is_invalid(field: str) -> None:
    assert invalid(make_raw(metadata={field: None})).field == f"metadata.{field}"


def test_lint_wants_a_known_kind_and_version() -> None:
    assert [problem.field for problem in lint({"kind": "Deployment"})] == ["kind"]
    assert [problem.field for problem in lint(make_raw() | {"apiVersion": "v1"})] == ["apiVersion"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["targetRef", "maxReplicas", "minReplicas", "signals", "scaleUp", "policyRef", "mode", "cost", "replicas",
    "default", "namespaceSelector", "defaults", "guardrails", "whenMetricsMissing", "readiness", "capacity"]
)  # fmt: skip
SPECS = JSON | st.dictionaries(FIELDS, JSON, max_size=6)
METADATA = JSON | st.dictionaries(
    st.sampled_from(["name", "namespace", "uid", "annotations", "generation", "creationTimestamp"]), JSON
)
GARBAGE = JSON | st.fixed_dictionaries({}, optional={"kind": JSON, "metadata": METADATA, "spec": SPECS})


@given(GARBAGE)
def test_no_garbage_raises(raw: object) -> None:
    assert isinstance(convert(raw), Converted | Invalid)
    assert isinstance(to_policy(raw), Policy | Invalid)
    assert isinstance(to_pool(raw), ConvertedPool | Invalid)
    assert isinstance(lint(raw), tuple)


@given(SPECS)
def test_a_garbage_spec_of_a_stored_object_never_raises(spec: object) -> None:
    result = convert(make_raw() | {"spec": spec})

    assert isinstance(result, Converted) or result.problems
