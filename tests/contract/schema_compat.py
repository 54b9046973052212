"""What users may rely on in the CRD schemas, kept as snapshots: `python -m tests.contract.schema_compat` records the present one.

A manifest that was once valid must stay valid, and a field that was once read must stay readable.
"""

import json
from pathlib import Path
from typing import Any

from spillway.api.crdgen import definition
from spillway.api.kinds import KINDS
from spillway.api.markers import Kind

SNAPSHOTS = Path(__file__).parent / "snapshots"
LOWER_BOUNDS = ("minimum", "minLength", "minItems", "minProperties")
UPPER_BOUNDS = ("maximum", "maxLength", "maxItems", "maxProperties")
FIXED = (
    "type", "format", "pattern", "default",
    "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type",
)  # fmt: skip
KEPT = (*LOWER_BOUNDS, *UPPER_BOUNDS, *FIXED, "enum", "required")
Fields = dict[str, dict[str, Any]]


def fields_of(kind: Kind) -> Fields:
    """Return what binds users in the schema of *kind*, by path; descriptions may change freely."""
    schema = definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return dict(_walk("", schema))


def _walk(path: str, schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    kept = {key: schema[key] for key in KEPT if key in schema}
    rules = [rule["rule"] for rule in schema.get("x-kubernetes-validations", ())]
    found = [(path or ".", kept | ({"rules": rules} if rules else {}))]
    for name, child in schema.get("properties", {}).items():
        found += _walk(f"{path}.{name}", child)
    for key, mark in (("items", "[]"), ("additionalProperties", ".*")):
        if key in schema:
            found += _walk(path + mark, schema[key])
    return found


def breaks(before: Fields, after: Fields) -> list[str]:
    """Return, in sentences, how *after* breaks users of *before*; empty when every old manifest still works."""
    found = []
    for path, old in before.items():
        if path not in after:
            found.append(f"{path} is gone: a removed field loses users' settings")
        else:
            found += [f"{path}: {what}" for what in _narrowed(old, after[path])]
    return found


def _narrowed(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    found = [
        f"{key} changed from {old.get(key)} to {new.get(key)}"
        for key in FIXED
        if old.get(key) != new.get(key)
    ]
    found += [
        f"{key} rose to {new[key]}"
        for key in LOWER_BOUNDS
        if key in new and new[key] > old.get(key, new[key] - 1)
    ]
    found += [
        f"{key} fell to {new[key]}"
        for key in UPPER_BOUNDS
        if key in new and new[key] < old.get(key, new[key] + 1)
    ]
    found += [
        f"value {value} is gone" for value in old.get("enum", ()) if value not in new.get("enum", [value])
    ]
    found += [
        f"{name} became required" for name in new.get("required", ()) if name not in old.get("required", ())
    ]
    found += [f"new rule {rule}" for rule in new.get("rules", ()) if rule not in old.get("rules", ())]
    return found


def snapshot_file(kind: Kind) -> Path:
    return SNAPSHOTS / f"{kind.plural}.json"


def read_snapshot(kind: Kind) -> Fields:
    fields: Fields = json.loads(snapshot_file(kind).read_text(encoding="utf-8"))
    return fields


def main() -> None:
    for kind in KINDS:
        text = json.dumps(fields_of(kind), indent=1, ensure_ascii=False)
        snapshot_file(kind).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
