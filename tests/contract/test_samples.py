"""The models accept and refuse the same manifests as the API server (see tests/cluster/test_api_schema.py)."""

from typing import Any

import pytest

from spillway.api.convert import Converted, ConvertedPool, Invalid, lint, to_policy, to_pool, to_workload
from spillway.api.policies import Policy
from tests.contract.sample_files import Sample, load

STORED = {"namespace": "serving", "uid": "u-1", "creationTimestamp": "2026-11-22T09:00:00Z", "generation": 1}


def convert(manifest: dict[str, Any]) -> Converted | Policy | ConvertedPool | Invalid:
    """Convert the manifest as if the API server had stored it."""
    stored = manifest | {"metadata": manifest["metadata"] | STORED}
    if manifest["kind"] == "GpuPolicy":
        return to_policy(stored)
    if manifest["kind"] == "GpuNodePool":
        return to_pool(stored)
    return to_workload(stored, policies=(), namespace_labels={})


@pytest.mark.parametrize("sample", load("good"), ids=lambda sample: sample.name)
def test_a_good_sample_has_no_problems(sample: Sample) -> None:
    assert lint(sample.manifest) == ()
    assert not isinstance(convert(sample.manifest), Invalid)


@pytest.mark.parametrize("sample", load("bad"), ids=lambda sample: sample.name)
def test_a_bad_sample_is_refused_with_the_field_and_the_way_out(sample: Sample) -> None:
    message = "\n".join(problem.message for problem in lint(sample.manifest))

    assert sample.expected, "a bad sample says in `# expect:` lines what its refusal must contain"
    assert sample.missing_from(message) == [], message


@pytest.mark.parametrize(
    "sample", [bad for bad in load("bad") if bad.name != "field-misspelt"], ids=lambda sample: sample.name
)
@pytest.mark.case("workload-autoscalers D81")
def test_a_bad_object_that_got_into_the_store_is_invalid_and_says_why(sample: Sample) -> None:
    result = convert(sample.manifest)

    assert isinstance(result, Invalid)
    assert sample.missing_from(result.message) == []


def test_an_unknown_field_in_the_store_is_ignored_because_a_newer_crd_may_know_it() -> None:
    sample = next(bad for bad in load("bad") if bad.name == "field-misspelt")

    assert isinstance(convert(sample.manifest), Converted)
