"""Which policy gives the defaults, which guardrails hold, and where every value came from."""

from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest

from spillway.api.policies import Effective, Policy, Resolved, resolve, rivals_by_policy, selects
from spillway.api.v1alpha1 import GpuPolicySpec, GpuWorkloadSpec, LabelSelector
from spillway.core.model import Guardrails, Mode

EPOCH = datetime(2026, 11, 1, tzinfo=UTC)
SEARCH = {"team": "search"}


def make_policy(name: str, *, age_days: int = 0, **spec: object) -> Policy:
    return Policy(
        name=name,
        uid=f"uid-{name}",
        created_at=EPOCH - timedelta(days=age_days),
        generation=1,
        spec=GpuPolicySpec.model_validate(spec),
    )


def resolve_spec(
    *policies: Policy, labels: dict[str, str] | None = None, fleet: Mode = Mode.ENFORCE, **spec: object
) -> Resolved:
    whole = GpuWorkloadSpec.model_validate({"targetRef": {"name": "llm-chat"}, "maxReplicas": 8} | spec)
    return resolve(whole, policies=policies, namespace_labels=labels or {}, fleet_mode=fleet)


def window(seconds: int) -> dict[str, Any]:
    return {"scaleDown": {"windowSeconds": seconds}}


def test_without_a_policy_the_built_ins_hold() -> None:
    resolved = resolve_spec()

    assert {path: item.value for path, item in resolved.effective.items()} == {
        "mode": "Enforce",
        "minReplicas": 1,
        "maxReplicas": 8,
        "signals[0].name": "gpu",
        "signals[0].gpuActivity.highPercent": 80,
        "signals[0].gpuActivity.lowPercent": None,
        "whenMetricsMissing.afterSeconds": 180,
        "whenMetricsMissing.replicas": None,
        "scaleUp.windowSeconds": 30,
        "scaleUp.maxIncreasePercent": 100,
        "scaleUp.maxIncreaseReplicas": 4,
        "scaleUp.cooldownSeconds": 60,
        "scaleDown.windowSeconds": 300,
        "scaleDown.maxDecreasePercent": 20,
        "scaleDown.maxDecreaseReplicas": 1,
        "scaleDown.cooldownSeconds": 300,
        "readiness.settleSeconds": 60,
        "readiness.loadGraceSeconds": 600,
        "capacity.baselineReplicas": 1,
        "capacity.burst": "Never",
        "capacity.missedLoadPercent": "0.1",
        "capacity.poolSelector": None,
        "capacity.fallback.policy": "OnDemand",
        "capacity.fallback.refusedConfirmSeconds": 30,
        "capacity.fallback.provisionTimeoutSeconds": 180,
        "capacity.fallback.bootDeadlineSeconds": 600,
        "capacity.fallback.returnProbeSeconds": 180,
        "capacity.fallback.returnStableSeconds": 30,
        "capacity.fallback.minResidencySeconds": 60,
    }
    assert resolved.guardrails == Guardrails()
    assert resolved.defaults_from is None


def test_blocks_merge_field_by_field_and_each_field_knows_its_source() -> None:
    fleet = make_policy(
        "fleet", default=True, defaults={"scaleDown": {"windowSeconds": 600, "cooldownSeconds": 900}}
    )

    effective = resolve_spec(fleet, scaleDown={"windowSeconds": 120}).effective

    assert effective["scaleDown.windowSeconds"].source == "spec"
    assert effective["scaleDown.windowSeconds"].value == 120
    assert effective["scaleDown.cooldownSeconds"] == Effective(
        path="scaleDown.cooldownSeconds", value=900, source="policy fleet"
    )
    assert effective["scaleDown.maxDecreasePercent"].source == "built-in"


def test_a_list_replaces_the_policys_list_whole() -> None:
    band = {"highPercent": 60, "lowPercent": 20}
    fleet = make_policy(
        "fleet",
        default=True,
        defaults={"signals": [{"name": "theirs", "type": "GpuActivity", "gpuActivity": band}]},
    )
    mine = [{"name": "mine", "type": "GpuActivity", "gpuActivity": {"highPercent": 70}}]

    effective = resolve_spec(fleet, signals=mine).effective

    assert (effective["signals[0].name"].value, effective["signals[0].name"].source) == ("mine", "spec")
    assert effective["signals[0].gpuActivity.highPercent"].value == 70
    assert effective["signals[0].gpuActivity.lowPercent"].source == "built-in"


def test_a_policys_signals_apply_where_the_spec_lists_none() -> None:
    fleet = make_policy(
        "fleet",
        default=True,
        defaults={"signals": [{"name": "gpu", "type": "GpuActivity", "gpuActivity": {"highPercent": 60}}]},
    )

    band = resolve_spec(fleet).effective["signals[0].gpuActivity.highPercent"]

    assert (band.value, band.source) == (60, "policy fleet")


def test_a_low_mark_is_not_set_unless_somebody_sets_it() -> None:
    signals = [{"name": "gpu", "type": "GpuActivity", "gpuActivity": {"highPercent": 60}}]

    assert resolve_spec(signals=signals).optional_number("signals[0].gpuActivity.lowPercent") is None


def test_a_policy_ref_comes_before_namespace_and_cluster_default() -> None:
    policies = (
        make_policy("fleet", default=True, defaults=window(1)),
        make_policy("by-namespace", namespaceSelector={}, defaults=window(2)),
        make_policy("by-name", defaults=window(3)),
    )

    assert resolve_spec(*policies, policyRef={"name": "by-name"}).defaults_from == "by-name"
    assert resolve_spec(*policies).defaults_from == "by-namespace"
    assert resolve_spec(policies[0], policies[2]).defaults_from == "fleet"
    assert resolve_spec(policies[2]).defaults_from is None


def test_defaults_come_from_one_policy_and_are_not_layered() -> None:
    fleet = make_policy("fleet", default=True, defaults={"minReplicas": 3})
    search = make_policy("search", namespaceSelector={"matchLabels": SEARCH}, defaults=window(60))

    minimum = resolve_spec(fleet, search, labels=SEARCH).effective["minReplicas"]

    assert (minimum.value, minimum.source) == (1, "built-in")


def test_a_missing_policy_is_named_and_its_guardrail_neighbours_still_hold() -> None:
    fleet = make_policy("fleet", default=True, defaults=window(1), guardrails={"maxGpusPerWorkload": 16})

    resolved = resolve_spec(fleet, policyRef={"name": "gone"})

    assert resolved.missing_policy == "gone"
    assert resolved.defaults_from is None
    assert resolved.number("scaleDown.windowSeconds") == 300
    assert resolved.guardrails == Guardrails(max_gpus_per_workload=16)


def test_of_two_namespace_matches_the_oldest_gives_the_defaults_and_both_are_named() -> None:
    young = make_policy("a-young", namespaceSelector={}, defaults=window(1))
    old = make_policy("z-old", age_days=9, namespaceSelector={}, defaults=window(2))

    resolved = resolve_spec(young, old)

    assert resolved.defaults_from == "z-old"
    assert resolved.rivals == ("z-old", "a-young")


def test_policies_of_one_age_are_ordered_by_name() -> None:
    resolved = resolve_spec(make_policy("b", default=True), make_policy("a", default=True))

    assert resolved.defaults_from == "a"


def test_a_policy_ref_settles_a_conflict() -> None:
    first, second = make_policy("a", default=True), make_policy("b", default=True)

    assert resolve_spec(first, second, policyRef={"name": "b"}).rivals == ()


def test_the_order_in_which_policies_arrive_changes_nothing() -> None:
    policies = (
        make_policy("a", default=True, guardrails={"maxGpusPerWorkload": 8}),
        make_policy("b", default=True, guardrails={"maxGpusPerWorkload": 8, "modes": ["Observe"]}),
        make_policy("c", namespaceSelector={}, defaults=window(7)),
    )

    answers = [resolve_spec(*order) for order in permutations(policies)]

    assert all(answer == answers[0] for answer in answers)


def test_guardrails_take_the_lowest_of_all_that_concern_the_namespace() -> None:
    policies = (
        make_policy("fleet", default=True, guardrails={"maxGpusPerWorkload": 64, "maxGpusPerNamespace": 256}),
        make_policy(
            "search", namespaceSelector={"matchLabels": SEARCH}, guardrails={"maxGpusPerWorkload": 16}
        ),
        make_policy(
            "ads", namespaceSelector={"matchLabels": {"team": "ads"}}, guardrails={"maxGpusPerWorkload": 1}
        ),
        make_policy("by-name", guardrails={"maxGpusPerNamespace": 1}),
    )

    resolved = resolve_spec(*policies, labels=SEARCH, policyRef={"name": "by-name"})

    assert resolved.guardrails == Guardrails(max_gpus_per_workload=16, max_gpus_per_namespace=256)
    assert resolved.effective["guardrails.maxGpusPerWorkload"].source == "policy search"
    assert resolved.effective["guardrails.maxGpusPerNamespace"].source == "policy fleet"


@pytest.mark.parametrize(
    ("rules", "is_allowed", "source"),
    [
        pytest.param(
            [{"spot": "Forbidden"}, {"spot": "Allowed"}], False, "policy p0", id="the strictest wins"
        ),
        pytest.param([{"spot": "Allowed"}, {"spot": "Forbidden"}], False, "policy p1", id="in any order"),
        pytest.param([{}, {"spot": "Allowed"}], True, "policy p1", id="allowed by word"),
        pytest.param([{}, {}], True, None, id="unset is allowed"),
    ],
)
def test_spot_is_forbidden_as_soon_as_one_policy_forbids_it(
    rules: list[dict[str, Any]], is_allowed: bool, source: str | None
) -> None:
    policies = [make_policy(f"p{index}", default=True, guardrails=rule) for index, rule in enumerate(rules)]

    resolved = resolve_spec(*policies)

    assert resolved.guardrails.spot_allowed is is_allowed
    shown = resolved.effective.get("guardrails.spot")
    assert (shown.source if shown else None) == source


@pytest.mark.parametrize(
    ("lists", "models", "shown"),
    [
        pytest.param([["L4", "H100"]], {"L4", "H100"}, "H100, L4", id="one list"),
        pytest.param([["L4", "H100"], ["H100", "T4"]], {"H100"}, "H100", id="what both allow"),
        pytest.param([["L4"], ["T4"]], set(), "none in common", id="nothing in common allows none"),
    ],
)
def test_lists_of_gpu_models_intersect(lists: list[list[str]], models: set[str], shown: str) -> None:
    policies = [
        make_policy(f"p{index}", default=True, guardrails={"gpuModels": listed})
        for index, listed in enumerate(lists)
    ]

    resolved = resolve_spec(*policies, make_policy("silent", default=True, guardrails={}))

    assert resolved.guardrails.gpu_models == models
    assert resolved.effective["guardrails.gpuModels"].value == shown
    assert resolved.effective["guardrails.gpuModels"].source == " and ".join(
        f"policy p{index}" for index in range(len(lists))
    )


def test_without_a_list_every_gpu_model_is_allowed() -> None:
    assert resolve_spec(make_policy("fleet", default=True, guardrails={})).guardrails.gpu_models is None


def test_the_baseline_is_the_minimum_where_nothing_else_is_said() -> None:
    fleet = make_policy("fleet", default=True, defaults={"minReplicas": 3})

    assert resolve_spec(fleet).effective["capacity.baselineReplicas"] == Effective(
        path="capacity.baselineReplicas", value=3, source="built-in; as minReplicas"
    )


def test_a_baseline_of_nothing_is_no_missing_baseline() -> None:
    fleet = make_policy("fleet", default=True, defaults={"capacity": {"baselineReplicas": 4}})

    baseline = resolve_spec(fleet, capacity={"baselineReplicas": 0}).effective["capacity.baselineReplicas"]

    assert (baseline.value, baseline.source) == (0, "spec")


def test_a_policys_baseline_above_the_maximum_gives_way_to_it() -> None:
    fleet = make_policy("fleet", default=True, defaults={"capacity": {"baselineReplicas": 9}})

    assert resolve_spec(fleet, maxReplicas=3).effective["capacity.baselineReplicas"] == Effective(
        path="capacity.baselineReplicas", value=3, source="policy fleet; 9 lowered to spec.maxReplicas"
    )


def test_fallback_settings_merge_field_by_field() -> None:
    fleet = make_policy(
        "fleet",
        default=True,
        defaults={"capacity": {"fallback": {"policy": "Wait", "returnStableSeconds": 60}}},
    )

    effective = resolve_spec(fleet, capacity={"fallback": {"returnStableSeconds": 90}}).effective

    found = {
        path.removeprefix("capacity.fallback."): (item.value, item.source)
        for path, item in effective.items()
        if path in ("capacity.fallback.policy", "capacity.fallback.returnStableSeconds")
    }
    assert found == {"policy": ("Wait", "policy fleet"), "returnStableSeconds": (90, "spec")}


@pytest.mark.parametrize(
    ("mine", "labels", "shown", "source"),
    [
        pytest.param(None, {"gpu": "h100", "a": "b"}, "a=b,gpu=h100", "policy fleet", id="the policy's"),
        pytest.param({"matchLabels": {"gpu": "l4"}}, {"gpu": "l4"}, "gpu=l4", "spec", id="replaced whole"),
        pytest.param({}, {}, None, "spec", id="an empty one selects every pool"),
    ],
)
def test_a_pool_selector_is_taken_whole_from_the_first_that_gives_one(
    mine: dict[str, Any] | None, labels: dict[str, str], shown: str | None, source: str
) -> None:
    theirs = {"poolSelector": {"matchLabels": {"gpu": "h100", "a": "b"}}}
    fleet = make_policy("fleet", default=True, defaults={"capacity": theirs})

    resolved = resolve_spec(fleet, capacity={} if mine is None else {"poolSelector": mine})

    assert resolved.pool_selector == labels
    assert resolved.effective["capacity.poolSelector"] == Effective(
        path="capacity.poolSelector", value=shown, source=source
    )


@pytest.mark.parametrize(
    ("asked", "allowed", "mode"),
    [
        pytest.param("Enforce", [["Observe", "Enforce"]], Mode.ENFORCE, id="allowed"),
        pytest.param("ScaleUpOnly", [["Observe", "Enforce"]], Mode.OBSERVE, id="never above the asked one"),
        pytest.param("Enforce", [["Observe", "ScaleUpOnly"]], Mode.SCALE_UP_ONLY, id="the strongest below"),
        pytest.param("Observe", [["Enforce"]], Mode.OBSERVE, id="else Observe"),
        pytest.param("Enforce", [["Enforce"], ["ScaleUpOnly"]], Mode.OBSERVE, id="nothing in common"),
    ],
)
def test_a_mode_is_the_strongest_allowed_one_not_above_the_asked_one(
    asked: str, allowed: list[list[str]], mode: Mode
) -> None:
    policies = [
        make_policy(f"p{index}", default=True, guardrails={"modes": modes})
        for index, modes in enumerate(allowed)
    ]

    resolved = resolve_spec(*policies, mode=asked)

    assert resolved.mode is mode
    assert resolved.asked_mode == asked


def test_a_lowered_mode_says_who_asked_and_who_lowered_it() -> None:
    cap = make_policy("cap", default=True, guardrails={"modes": ["Observe"]})

    assert resolve_spec(cap, mode="Enforce").effective["mode"] == Effective(
        path="mode", value="Observe", source="spec; Enforce lowered by guardrails of policy cap"
    )


def test_the_operators_mode_caps_every_workload() -> None:
    resolved = resolve_spec(fleet=Mode.SCALE_UP_ONLY)

    assert resolved.mode is Mode.SCALE_UP_ONLY
    assert resolved.effective["mode"].source == "built-in; Enforce lowered by the operator's mode"


def test_the_operators_mode_and_a_guardrail_together_never_give_a_forbidden_mode() -> None:
    cap = make_policy("cap", default=True, guardrails={"modes": ["Observe", "Enforce"]})

    assert resolve_spec(cap, fleet=Mode.SCALE_UP_ONLY).mode is Mode.OBSERVE


@pytest.mark.case("workload-autoscalers D34")
def test_a_policys_minimum_above_the_maximum_gives_way_to_it() -> None:
    fleet = make_policy("fleet", default=True, defaults={"minReplicas": 5})

    assert resolve_spec(fleet, maxReplicas=3).effective["minReplicas"] == Effective(
        path="minReplicas", value=3, source="policy fleet; 5 lowered to spec.maxReplicas"
    )


@pytest.mark.parametrize(
    ("expression", "is_selected"),
    [
        pytest.param({"key": "team", "operator": "In", "values": ["ads", "search"]}, True, id="In"),
        pytest.param({"key": "team", "operator": "In", "values": ["ads"]}, False, id="not In"),
        pytest.param({"key": "zone", "operator": "In", "values": ["a"]}, False, id="In, label absent"),
        pytest.param({"key": "team", "operator": "NotIn", "values": ["ads"]}, True, id="NotIn"),
        pytest.param({"key": "zone", "operator": "NotIn", "values": ["a"]}, True, id="NotIn, label absent"),
        pytest.param({"key": "team", "operator": "Exists"}, True, id="Exists"),
        pytest.param({"key": "team", "operator": "DoesNotExist"}, False, id="DoesNotExist"),
    ],
)
def test_a_selector_compares_labels_as_kubernetes_does(expression: dict[str, Any], is_selected: bool) -> None:
    selector = LabelSelector.model_validate({"matchExpressions": [expression]})

    assert selects(selector, SEARCH) is is_selected


def test_an_empty_selector_selects_every_namespace() -> None:
    assert selects(LabelSelector(), {})


def test_policies_that_claim_one_namespace_are_rivals() -> None:
    policies = (
        make_policy("a", namespaceSelector={"matchLabels": SEARCH}),
        make_policy("b", namespaceSelector={}),
        make_policy("c", namespaceSelector={"matchLabels": {"team": "ads"}}),
        make_policy("d", default=True),
    )

    assert rivals_by_policy(policies, {"serving": SEARCH}) == {"a": ("b",), "b": ("a",)}


def test_two_cluster_defaults_are_rivals_even_without_a_namespace() -> None:
    policies = (make_policy("a", default=True), make_policy("b", default=True))

    assert rivals_by_policy(policies, {}) == {"a": ("b",), "b": ("a",)}
