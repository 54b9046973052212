"""Writes the reference of metrics and settings: `python -m spillway.app.reference FOLDER`. `make verify` fails on a difference."""

import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from spillway.app.metrics import Metrics
from spillway.app.settings import PREFIX, Settings, section_of, settings_schema

DEFAULT_FOLDER: Final = "docs/reference"
_METRICS: Final = """\
<!-- Generated from operator/spillway/app/metrics.py; edit it and run `make generate`. -->
# Metrics

Served as text on `/metrics` of `metricsPort`. Series per workload exist only on the operator that leads, and only for
GpuWorkloads that exist; an unknown value has no series rather than a zero. Counters start again when an operator begins to
lead, so use `rate()` or `increase()` on them.
"""
_SETTINGS: Final = """\
<!-- Generated from operator/spillway/app/settings.py; edit it and run `make generate`. -->
# Settings of the operator

One YAML file, given by `spillway run --config FILE` or `SPILLWAY_CONFIG`, overlaid by environment variables; the environment wins.
All problems are reported at once at start, each with the key, its value and what is legal. `mode` alone is read again while
running. The chart writes this file from its value `settings`: see [chart](chart.md).
"""

_REQUIRED: Final = "required"
_SEVERAL: Final = {
    "array": "a list of names; in the environment separated by commas",
    "object": "a map of labels; in the environment `a=b,c=d`",
}

Schema = Mapping[str, Any]


def metrics_page() -> str:
    """Return the page of every metric family as Markdown."""
    rows = (
        _row(f"`{name}`", kind, ", ".join(f"`{label}`" for label in labels), text)
        for name, kind, labels, text in families()
    )
    head = (_row("Metric", "Type", "Labels", "Meaning"), _row("---", "---", "---", "---"))
    return "\n".join([_METRICS, *head, *rows, ""])


def families() -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    """Yield (name as scraped, type, labels, help) of every family that the operator serves."""
    registry = Metrics(tick=timedelta(seconds=15)).registry
    # The client library offers label names and collectors of families without a series nowhere else.
    for collector in registry._collector_to_names:  # noqa: SLF001
        for family in collector.collect():
            labels = getattr(family, "_labelnames", getattr(collector, "_labelnames", ()))
            name = f"{family.name}_total" if family.type == "counter" else family.name
            yield name, family.type, tuple(labels), family.documentation


def settings_page() -> str:
    """Return the page of every setting as Markdown."""
    head = (
        _row("Key", "Legal values", "Built-in", "Environment variable", "Meaning"),
        _row("---", "---", "---", "---", "---"),
    )
    schema = settings_schema()
    rows = (_row(*cells) for cells in _settings(Settings, schema, schema["$defs"], "", PREFIX))
    return "\n".join([_SETTINGS, *head, *rows, ""])


def _settings(
    model: type[BaseModel],
    schema: Schema,
    definitions: Schema,
    path: str,
    prefix: str,
    *,
    is_needed: bool = True,
) -> Iterator[tuple[str, ...]]:
    """Yield the cells of every setting; `is_needed` is False in a section that may be absent as a whole."""
    for name, field in model.model_fields.items():
        key, variable = f"{path}{field.alias}", prefix + name.upper()
        node = schema["properties"][field.alias]
        section = section_of(field)
        if section is not None:
            # The branch of a section that may be absent is itself a reference.
            named = _named(_named(node, definitions), definitions)
            yield from _settings(
                section, named, definitions, f"{key}.", f"{variable}__", is_needed=field.is_required()
            )
        else:
            legal = _legal(node, definitions)
            built_in = _built_in(field)
            if built_in == _REQUIRED and not is_needed:
                built_in = f"{_REQUIRED} in `{path.removesuffix('.')}`"
            yield f"`{key}`", legal, built_in, f"`{variable}`", field.description or ""


def _named(node: Schema, definitions: Schema) -> Schema:
    """Return what a `$ref` names, or the first branch of an optional one, or the node itself."""
    if "$ref" in node:
        found: Schema = definitions[node["$ref"].removeprefix("#/$defs/")]
        return found
    branches = node.get("anyOf")
    return branches[0] if branches else node


def _legal(node: Schema, definitions: Schema) -> str:
    schema = _named(node, definitions)
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"])
    match schema["type"]:
        case "integer" | "number":
            kind = "a whole number" if schema["type"] == "integer" else "a number"
            return f"{kind} from {schema['minimum']:g} to {schema['maximum']:g}"
        case "array" | "object" as several:
            return _SEVERAL[several]
        case _ if schema.get("format") == "path":
            return "a readable file"
        case _ if "pattern" in schema:
            return "a Kubernetes name"
        case _:
            return f"text, at most {schema['maxLength']} characters"


def _built_in(field: FieldInfo) -> str:
    if field.is_required():
        return _REQUIRED
    if field.default_factory is not None:  # depends on where it runs; the description says how
        return ""
    value = field.default
    return (
        ""
        if value is None or value in ("", (), {})
        else f"`{value:g}`"
        if isinstance(value, float)
        else f"`{value}`"
    )


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main(folder: Path) -> None:
    """Write both pages into *folder*."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.md").write_text(metrics_page(), encoding="utf-8")
    (folder / "settings.md").write_text(settings_page(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_FOLDER))
