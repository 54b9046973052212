"""What holds for every set of policies."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from spillway.api.policies import STRENGTH, Policy, Resolved, resolve
from spillway.api.v1alpha1 import GpuPolicySpec, GpuWorkloadSpec
from spillway.core.model import Mode

START = datetime(2026, 11, 1, tzinfo=UTC)
TEAMS = ("search", "ads")

seconds = st.integers(1, 3600)
guardrails = st.fixed_dictionaries(
    {},
    optional={
        "maxGpusPerWorkload": st.integers(1, 64),
        "maxGpusPerNamespace": st.integers(1, 256),
        "modes": st.lists(st.sampled_from(Mode), min_size=1, max_size=3, unique=True),
    },
)
claims = st.one_of(
    st.just({}),
    st.just({"default": True}),
    st.sampled_from(TEAMS).map(lambda team: {"namespaceSelector": {"matchLabels": {"team": team}}}),
)
defaults = st.fixed_dictionaries(
    {},
    optional={
        "mode": st.sampled_from(Mode),
        "minReplicas": st.integers(1, 20),
        "scaleDown": st.fixed_dictionaries({}, optional={"windowSeconds": seconds}),
    },
)


@st.composite
def policy_lists(draw: st.DrawFn) -> list[Policy]:
    count = draw(st.integers(0, 4))
    return [
        Policy(
            name=f"p{index}",
            uid=f"u{index}",
            created_at=START + timedelta(days=draw(st.integers(0, 3))),
            generation=1,
            spec=GpuPolicySpec.model_validate(
                {"defaults": draw(defaults), "guardrails": draw(guardrails)} | draw(claims)
            ),
        )
        for index in range(count)
    ]


@st.composite
def specs(draw: st.DrawFn) -> GpuWorkloadSpec:
    optional = {
        "mode": st.sampled_from(Mode),
        "policyRef": st.integers(0, 4).map(lambda index: {"name": f"p{index}"}),
        "scaleDown": st.fixed_dictionaries({}, optional={"windowSeconds": seconds}),
    }
    given = draw(st.fixed_dictionaries({}, optional=optional))
    top = draw(st.integers(1, 10))
    return GpuWorkloadSpec.model_validate({"targetRef": {"name": "llm-chat"}, "maxReplicas": top} | given)


def settle(spec: GpuWorkloadSpec, policies: list[Policy], fleet: Mode = Mode.ENFORCE) -> Resolved:
    return resolve(spec, policies=policies, namespace_labels={"team": "search"}, fleet_mode=fleet)


def is_within(limit: int | None, other: int | None) -> bool:
    return other is None or (limit is not None and limit <= other)


@given(specs(), policy_lists(), st.sampled_from(Mode))
def test_a_mode_is_never_above_what_was_asked_for(
    spec: GpuWorkloadSpec, policies: list[Policy], fleet: Mode
) -> None:
    resolved = settle(spec, policies, fleet)

    assert STRENGTH.index(resolved.mode) <= STRENGTH.index(resolved.asked_mode)
    assert STRENGTH.index(resolved.mode) <= STRENGTH.index(fleet)


@given(specs(), policy_lists())
def test_a_policy_more_never_loosens_a_guardrail(spec: GpuWorkloadSpec, policies: list[Policy]) -> None:
    if not policies:
        return
    after, before = settle(spec, policies).guardrails, settle(spec, policies[:-1]).guardrails

    assert is_within(after.max_gpus_per_workload, before.max_gpus_per_workload)
    assert is_within(after.max_gpus_per_namespace, before.max_gpus_per_namespace)


@given(specs(), policy_lists())
def test_a_policy_ref_never_changes_the_numeric_guardrails(
    spec: GpuWorkloadSpec, policies: list[Policy]
) -> None:
    without = spec.model_copy(update={"policy_ref": None})

    assert settle(spec, policies).guardrails == settle(without, policies).guardrails


@given(specs(), policy_lists())
def test_the_minimum_never_exceeds_the_maximum(spec: GpuWorkloadSpec, policies: list[Policy]) -> None:
    assert settle(spec, policies).number("minReplicas") <= spec.max_replicas


@given(specs(), policy_lists())
def test_every_value_names_a_source_that_exists(spec: GpuWorkloadSpec, policies: list[Policy]) -> None:
    sources = {"spec", "built-in"} | {f"policy {policy.name}" for policy in policies}

    assert {item.source.split(";")[0] for item in settle(spec, policies).effective.values()} <= sources


@given(specs(), policy_lists())
def test_what_the_spec_says_is_what_holds(spec: GpuWorkloadSpec, policies: list[Policy]) -> None:
    said = spec.scale_down.window_seconds if spec.scale_down else None

    assert said in (None, settle(spec, policies).number("scaleDown.windowSeconds"))
