"""Write what the chart has from elsewhere: copies of the CRDs, values.schema.json, and the reference page of its values.

Run by `make generate`; `make verify` fails when it changes a file.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from spillway.app.settings import settings_schema

ROOT = Path(__file__).parents[1]
CHART = ROOT / "helm" / "spillway"
SCHEMA_BY_HAND = ROOT / "helm" / "values.schema.yaml"
PAGE = ROOT / "docs" / "reference" / "chart.md"
FIXED_BY_CHART = (
    "leaseNamespace",
)  # the release's: nowhere else does the chart grant the right to the Lease
PAGE_START = """\
# Values of the chart

<!-- Generated from helm/spillway/values.yaml by `make generate`. -->

Set them with `--set` or in a file given by `--values`; helm refuses keys that are not listed here. Keys without a built-in value
are unset unless you set them.

| key | built-in | meaning |
| --- | --- | --- |
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A key of values.yaml and the comment before it; `shown` is False where the key itself is commented out."""

    path: tuple[str, ...]
    comment: str
    shown: bool


def main() -> None:
    """Write every generated file of the chart."""
    folder = CHART / "files" / "crds"
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.yaml"):
        stale.unlink()
    for crd in sorted((ROOT / "crds").glob("*.yaml")):
        (folder / crd.name).write_text(crd.read_text())
    (CHART / "values.schema.json").write_text(
        json.dumps(values_schema(), indent=2, ensure_ascii=False) + "\n"
    )
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page())


def values_schema() -> dict[str, Any]:
    """Return the JSON schema of values.yaml: the part written by hand and the operator's own schema of its settings."""
    schema: dict[str, Any] = yaml.safe_load(SCHEMA_BY_HAND.read_text())
    whole = settings_schema()
    settings = _plain(whole, whole.get("$defs", {}))
    for unwanted in ("$defs", "description"):
        settings.pop(unwanted, None)
    for fixed in FIXED_BY_CHART:
        settings["properties"].pop(fixed)
    # A release without a URL is refused by a template, whose words are clearer than a schema's.
    prometheus = settings["properties"]["prometheus"]
    prometheus.pop("required")
    prometheus["properties"]["url"]["pattern"] = "^https?://"
    schema["properties"]["settings"] = settings
    return schema


def _plain(node: Any, definitions: Mapping[str, Any]) -> Any:  # noqa: ANN401 - any JSON
    """Return *node* with references replaced by what they name, and without what values.yaml says itself."""
    if isinstance(node, list):
        return [_plain(item, definitions) for item in node]
    if not isinstance(node, Mapping):
        return node
    if "$ref" in node:
        named = definitions[node["$ref"].removeprefix("#/$defs/")]
        return _plain({**named, **{key: value for key, value in node.items() if key != "$ref"}}, definitions)
    if "properties" in node:
        inner = {name: _plain(part, definitions) for name, part in node["properties"].items()}
        rest = _plain({key: value for key, value in node.items() if key != "properties"}, definitions)
        return {**rest, "properties": inner}
    return {
        key: _plain(value, definitions)
        for key, value in node.items()
        if key not in ("title", "default", "examples", "format")
    }


def page() -> str:
    """Return the reference page of the values, in the order of values.yaml."""
    text = (CHART / "values.yaml").read_text()
    built_in = yaml.safe_load(text)
    documented = list(documented_values(text))
    sections = {value.path[:depth] for value in documented for depth in range(1, len(value.path))}
    rows = [_row(value, built_in, is_section=value.path in sections) for value in documented]
    return PAGE_START + "".join(rows)


def _row(value: Value, built_in: Mapping[str, Any], *, is_section: bool) -> str:
    default: Any = built_in
    for key in value.path if value.shown else ():
        default = default[key]
    cell = f"`{json.dumps(default)}`" if value.shown and not is_section else ""
    return f"| `{'.'.join(value.path)}` | {cell} | {value.comment.replace('|', chr(92) + '|')} |\n"


def documented_values(text: str) -> Iterator[Value]:
    """Give each key of values.yaml that has a comment before it; a commented-out key counts, its example aside."""
    parents: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in text.splitlines():
        key = re.match(r"^( *)(# )?([a-zA-Z]+):( |$)", line)
        if key and (not key[2] or comment):
            while parents and parents[-1][0] >= len(key[1]):
                parents.pop()
            path = (*(name for _, name in parents), key[3])
            if comment:
                yield Value(path=path, comment=" ".join(comment), shown=not key[2])
            if not key[2]:
                parents.append((len(key[1]), key[3]))
            comment = []
        elif line.lstrip().startswith("# "):
            comment.append(line.lstrip()[2:])
        else:
            comment = []


if __name__ == "__main__":
    main()
