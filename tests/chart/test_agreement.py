"""The chart, its values and the examples say what the operator's own code says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm import generate

import spillway
from spillway.api import convert, names
from spillway.app.settings import Settings

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "spillway"
EXAMPLES = ROOT / "deploy" / "examples"
VALUES_TEXT = (CHART / "values.yaml").read_text()
SET_FOR_A_POD = {"metricsAddress": "0.0.0.0", "logFormat": "json"}  # noqa: S104 - a pod's own address


def camel_keys(model: type[Any]) -> set[str]:
    return {field.alias for field in model.model_fields.values()}


def documented_under(*section: str) -> set[str]:
    """Return the keys of *section* that have a comment in values.yaml, or a commented one below them."""
    depth = len(section)
    paths = [value.path for value in generate.documented_values(VALUES_TEXT)]
    return {path[depth] for path in paths if path[:depth] == section and len(path) > depth}


def test_the_chart_has_the_version_of_the_operator() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())

    assert (chart["version"], chart["appVersion"]) == (spillway.__version__, spillway.__version__)


def test_every_setting_of_the_operator_is_documented_in_the_values() -> None:
    assert documented_under("settings") == camel_keys(Settings) - set(generate.FIXED_BY_CHART)


def test_every_prometheus_setting_is_documented_in_the_values() -> None:
    connection = Settings.model_fields["prometheus"].annotation

    assert documented_under("settings", "prometheus") == camel_keys(connection)


def test_values_show_the_built_in_of_every_setting_that_a_pod_does_not_change() -> None:
    shown = yaml.safe_load(VALUES_TEXT)["settings"]
    url = {"url": "http://prometheus:9090"}
    built_in = Settings.model_validate({"prometheus": url}).model_dump(by_alias=True, mode="json")

    differing = {key: shown[key] for key in shown if key != "prometheus" and shown[key] != built_in[key]}

    assert differing == SET_FOR_A_POD
    assert shown["prometheus"].items() <= built_in["prometheus"].items()


def test_every_top_level_value_is_documented() -> None:
    assert documented_under() == set(yaml.safe_load(VALUES_TEXT))


def test_the_generated_files_of_the_chart_are_committed_as_generated() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    assert schema == generate.values_schema()
    assert generate.PAGE.read_text() == generate.page()
    copies = {path.name: path.read_text() for path in (CHART / "files" / "crds").glob("*.yaml")}
    assert copies == {path.name: path.read_text() for path in (ROOT / "crds").glob("*.yaml")}


@pytest.mark.parametrize("name", [names.OWNED_BY_LABEL, names.CORDON_TAINT, names.CORDON_ANNOTATION])
def test_the_admission_policies_know_the_operators_own_marks(name: str) -> None:
    assert f"'{name}'" in (CHART / "templates" / "admissionpolicy.yaml").read_text()


@pytest.mark.parametrize("template", ["roles.yaml", "userroles.yaml"])
def test_every_rule_of_a_role_says_what_it_is_for(template: str) -> None:
    lines = (CHART / "templates" / template).read_text().splitlines()

    unexplained = [
        line
        for number, line in enumerate(lines)
        if line.startswith("- apiGroups:") and not lines[number - 1].startswith("# ")
    ]

    assert unexplained == []


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(EXAMPLES.rglob("*.yaml")) if "spillway.dev/v1alpha1" in path.read_text()],
    ids=lambda path: path.name,
)
def test_an_example_has_no_problem(path: Path) -> None:
    ours = [body for body in yaml.safe_load_all(path.read_text()) if body["apiVersion"] == names.API_VERSION]

    assert [convert.lint(body) for body in ours] == [()] * len(ours)


def test_the_first_gpu_workload_needs_two_lines_of_spec() -> None:
    spec = (EXAMPLES / "gpuworkload.yaml").read_text().split("spec:\n")[1]

    assert len(re.findall(r"^  \S", spec, re.MULTILINE)) == len(spec.splitlines()) == 2
