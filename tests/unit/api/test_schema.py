"""Models to structural schemas: what is said, and what is refused with the field's path."""

import re
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field, StringConstraints

from spillway.api import crdgen, reference
from spillway.api.defaults import SPEC_DEFAULTS
from spillway.api.kinds import KINDS
from spillway.api.markers import ApiModel, AtomicList, Kind, PrinterColumn
from spillway.api.schema import Schema, StructuralError, at_path, describe, structural
from spillway.api.v1alpha1 import GpuPolicySpec, GpuWorkloadSpec

ROOT = Path(__file__).parents[3]
REGENERATE = "run `make verify` and commit what it writes"


def test_the_committed_crds_are_what_the_models_give() -> None:
    committed = {file.name: file.read_text(encoding="utf-8") for file in (ROOT / "crds").glob("*.yaml")}

    assert committed == crdgen.render(), REGENERATE


def test_the_committed_field_reference_is_what_the_models_give() -> None:
    committed = (ROOT / reference.DEFAULT_FILE).read_text(encoding="utf-8")

    assert committed == reference.render(), REGENERATE


def defaults_in(schema: Schema, path: str = "spec") -> dict[str, object]:
    found = {path: schema["default"]} if "default" in schema else {}
    for name, child in schema.get("properties", {}).items():
        found |= defaults_in(child, f"{path}.{name}")
    return found | (defaults_in(schema["items"], f"{path}[]") if "items" in schema else {})


def test_only_what_no_policy_can_default_has_a_schema_default() -> None:
    assert defaults_in(structural(GpuWorkloadSpec, "spec")) == {
        "spec.targetRef.apiVersion": "apps/v1",
        "spec.targetRef.kind": "Deployment",
    }
    assert defaults_in(structural(GpuPolicySpec, "spec")) == {}


@pytest.mark.parametrize("path", SPEC_DEFAULTS)
def test_every_built_in_is_a_field_of_workload_and_policy_with_the_same_range(path: str) -> None:
    place = tuple(path.split("."))

    mine = at_path(structural(GpuWorkloadSpec, "spec"), place)
    theirs = at_path(structural(GpuPolicySpec, "spec"), ("defaults", *place))

    assert mine is not None
    assert theirs is not None
    assert describe(mine) == describe(theirs)


@pytest.mark.parametrize("path", [path for path, value in SPEC_DEFAULTS.items() if isinstance(value, int)])
def test_every_built_in_is_legal(path: str) -> None:
    field = at_path(structural(GpuWorkloadSpec, "spec"), tuple(path.split(".")))
    value = SPEC_DEFAULTS[path]

    assert field is not None
    assert isinstance(value, int)
    assert field["minimum"] <= value <= field["maximum"]


def test_a_built_in_stands_in_the_description_and_our_own_keys_stay_at_home() -> None:
    text = crdgen.render()["gpuworkloads.spillway.dev.yaml"]

    assert "Built-in: 300." in text
    assert "x-spillway" not in text


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_status_is_never_required(kind: Kind) -> None:
    root = crdgen.definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]

    assert root["required"] == ["spec"]
    assert "required" not in root["properties"]["status"]


COLUMNS = [
    pytest.param(kind, column, id=f"{kind.kind} {column.name}")
    for kind in KINDS
    for column in kind.columns
    if column.path.startswith((".spec.", ".status.")) and "[" not in column.path
]


@pytest.mark.parametrize(("kind", "column"), COLUMNS)
def test_a_printer_column_shows_a_field_that_exists(kind: Kind, column: PrinterColumn) -> None:
    _, part, *place = column.path.split(".")
    schema = structural(kind.spec if part == "spec" else kind.status, part)

    assert at_path(schema, tuple(place)) is not None


class Unbounded(ApiModel):
    text: str = Field(description="No bound.")


class UnboundedList(ApiModel):
    items: tuple[int, ...] = Field(description="No bound.")


class Untyped(ApiModel):
    anything: dict[str, Any] = Field(description="No type.")


class Fraction(ApiModel):
    share: float = Field(description="Not a whole number.")


class Union(ApiModel):
    port: int | Annotated[str, StringConstraints(max_length=5)] = Field(description="Two types.")


class WithoutWords(ApiModel):
    code: Annotated[str, StringConstraints(max_length=5, pattern="^a$")] = Field(description="A pattern.")


class Recursive(ApiModel):
    inner: "Recursive | None" = Field(default=None, description="Itself.")


class Outer(ApiModel):
    first: "Ping | None" = Field(default=None, description="A loop that the root is no part of.")


class Ping(ApiModel):
    pong: "Pong | None" = Field(default=None, description="There.")


class Pong(ApiModel):
    ping: "Ping | None" = Field(default=None, description="And back.")


class Strange(ApiModel):
    even: int = Field(description="Even.", multiple_of=2)


class Empty(ApiModel):
    pass


class Deep(ApiModel):
    blocks: Annotated[tuple[Unbounded, ...], AtomicList(), Field(max_length=2)] = Field(description="Blocks.")


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        pytest.param(Unbounded, "spec.text: a string needs maxLength or an enum", id="text"),
        pytest.param(UnboundedList, "spec.items: a list needs", id="list"),
        pytest.param(Untyped, "spec.anything: a map needs a type", id="map"),
        pytest.param(Fraction, "spec.share: type number is not allowed", id="fraction"),
        pytest.param(Union, "spec.port: a CRD cannot express a union", id="union"),
        pytest.param(WithoutWords, "spec.code: a pattern needs a Form", id="pattern"),
        pytest.param(Recursive, "spec.inner: Recursive contains itself", id="recursion"),
        pytest.param(Outer, "spec.first.pong.ping: Ping contains itself", id="recursion further down"),
        pytest.param(Strange, "spec.even: a CRD cannot express multipleOf", id="keyword"),
        pytest.param(Empty, "spec: an object needs fields", id="empty"),
        pytest.param(Deep, "spec.blocks[].text: a string needs maxLength", id="inside a list"),
    ],
)
def test_what_a_crd_cannot_express_is_refused_with_the_fields_path(
    model: type[ApiModel], complaint: str
) -> None:
    with pytest.raises(StructuralError, match=re.escape(complaint)):
        structural(model, "spec")


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 9}, "a whole number from 1 to 9"),
        ({"type": "integer", "minimum": 1}, "a whole number of at least 1"),
        ({"type": "integer", "maximum": 9}, "a whole number of at most 9"),
        ({"type": "integer"}, "a whole number"),
        ({"type": "string", "enum": ["A"]}, "A"),
        ({"type": "string", "enum": ["A", "B"]}, "one of A, B"),
        ({"type": "string", "maxLength": 5}, "text, at most 5 characters"),
        ({"type": "string", "format": "date-time"}, "a time such as 2026-11-22T09:00:00Z"),
        ({"type": "array", "minItems": 1, "maxItems": 1}, "a list of 1 item"),
        ({"type": "array", "maxItems": 4}, "a list of 0 to 4 items"),
        ({"type": "object", "additionalProperties": {}, "maxProperties": 16}, "a map of at most 16 entries"),
        ({"type": "boolean"}, "true or false"),
    ],
)
def test_legal_values_are_said_in_words(schema: Schema, words: str) -> None:
    assert describe(schema) == words
