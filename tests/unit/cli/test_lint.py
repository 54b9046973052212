"""`spillway lint`: what it says of a file, where, and with which exit code."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from spillway.cli.main import main

GOOD = """\
apiVersion: spillway.dev/v1alpha1
kind: GpuWorkload
metadata:
  name: llm-chat
spec:
  targetRef:
    name: llm-chat
  maxReplicas: 4
"""


def run(text: str, *flags: str) -> Result:
    return CliRunner().invoke(main, ["lint", "-", *flags], input=text)


def test_a_good_file_passes() -> None:
    result = run(GOOD)

    assert (result.exit_code, result.output) == (0, "1 checked, 0 problems, 0 notes\n")


def test_an_unknown_field_is_named_with_its_line_and_the_likely_one() -> None:
    result = run(GOOD.replace("maxReplicas", "maxReplica"))

    assert result.exit_code == 1
    assert (
        "stdin:8: problem: GpuWorkload llm-chat: spec.maxReplica: unknown field; did you mean maxReplicas?"
        in (result.output)
    )


def test_a_wrong_value_is_found_at_its_own_line() -> None:
    found = json.loads(run(GOOD.replace("4", "-1"), "--format", "json").output)

    assert [(one["line"], one["field"], one["is_note"]) for one in found] == [(8, "spec.maxReplicas", False)]


def test_the_second_object_of_a_name_is_a_problem() -> None:
    result = run(f"{GOOD}---\n{GOOD}")

    assert result.exit_code == 1
    assert "also at stdin:4" in result.output


def test_a_policy_that_is_not_in_the_files_is_only_a_note() -> None:
    result = run(f"{GOOD}  policyRef:\n    name: team\n")

    assert result.exit_code == 0
    assert "stdin:10: note: GpuWorkload llm-chat: spec.policyRef.name: no GpuPolicy team" in result.output


def test_a_misspelt_kind_of_ours_is_a_problem() -> None:
    assert run(GOOD.replace("GpuWorkload", "GpuWorkloads")).exit_code == 1


def test_a_directory_is_read_at_any_depth(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "one.yml").write_text(GOOD)

    result = CliRunner().invoke(main, ["lint", str(tmp_path)])

    assert (result.exit_code, result.output) == (0, "1 checked, 0 problems, 0 notes\n")


@pytest.mark.parametrize("text", ["", "kind: Service\n", "a: [\n"], ids=["empty", "other kind", "broken"])
def test_what_cannot_be_checked_exits_with_2(text: str) -> None:
    assert run(text).exit_code == 2
