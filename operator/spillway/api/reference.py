"""Writes the field reference from the models: `python -m spillway.api.reference FILE`. `make verify` fails on a difference."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from spillway.api import names
from spillway.api.conditions import ConditionType, reasons_of
from spillway.api.kinds import KINDS
from spillway.api.markers import BUILT_IN_KEY, Kind
from spillway.api.reason_texts import CONDITION_TEXTS, REASON_TEXTS
from spillway.api.schema import Schema, describe, structural
from spillway.core.plan import Cause

DEFAULT_FILE: Final = "docs/reference/api.md"
_INTRODUCTION: Final = f"""\
<!-- Generated from operator/spillway/api; edit the models and run `make verify`. -->
# Field reference: `{names.API_VERSION}`

A field under *Default* with **policy** in front takes its value from `spec`, else from the one GpuPolicy that gives the defaults,
else the built-in shown. `spillway explain NAME` prints the value in force and where it came from.

The annotation `{names.PAUSED_ANNOTATION}: "true"` on a GpuWorkload holds its count until it is removed; any value but `false` pauses.
"""


def render() -> str:
    """Return the whole page as Markdown. The same models always give the same text."""
    sections = [_INTRODUCTION, *(_kind(kind) for kind in KINDS), _conditions(), _causes()]
    return "\n".join(sections)


def _kind(kind: Kind) -> str:
    scope = "namespaced" if kind.is_namespaced else "cluster-scoped"
    head = f"## {kind.kind}\n\n{kind.description} It is {scope}; short name `{kind.short}`.\n"
    spec = _fields("spec", structural(kind.spec, "spec"))
    status = _fields("status", structural(kind.status, "status"))
    return "\n".join([head, f"### {kind.kind} spec\n", spec, f"### {kind.kind} status\n", status])


def _fields(root: str, schema: Schema) -> str:
    rows = [_row("Field", "Legal values", "Default", "Meaning"), _row("---", "---", "---", "---")]
    rows += [
        _row(f"`{path}`", *_cells(path, field, is_required))
        for path, field, is_required in _walk(root, schema)
    ]
    rules = [f"- {rule}" for rule in _rules(root, schema)]
    return "\n".join([*rows, "", *(["Rules:", *rules, ""] if rules else [])])


def _cells(path: str, field: Schema, is_required: bool) -> tuple[str, str, str]:
    return describe(field), _default(path, field, is_required), field.get("description", "")


def _default(path: str, field: Schema, is_required: bool) -> str:
    if is_required:
        return "required"
    if BUILT_IN_KEY in field:
        # A policy cannot fill in a part of a list item, and its own defaults fall back on the built-ins alone.
        takes_policy = "[]" not in path and not path.startswith("spec.defaults")
        return f"{'**policy**, ' if takes_policy else ''}{field[BUILT_IN_KEY]}"
    return str(field.get("default", ""))


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _walk(path: str, schema: Schema) -> Iterator[tuple[str, Schema, bool]]:
    """Yield every field below *schema* with its path and whether it is required, parents first."""
    required = schema.get("required", ())
    for name, child in schema.get("properties", {}).items():
        below = f"{path}.{name}"
        yield below, child, name in required
        yield from _walk(f"{below}[]", child["items"]) if "items" in child else _walk(below, child)


def _rules(path: str, schema: Schema) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", ()):
        yield f"`{path}{rule['fieldPath']}`: {rule['message']}."
    for name, child in schema.get("properties", {}).items():
        yield from _rules(f"{path}.{name}", child)
    if "items" in schema:
        yield from _rules(f"{path}[]", schema["items"])


def _conditions() -> str:
    parts = [
        "## Conditions\n",
        "Reasons are closed lists; the message beside a reason carries the numbers.\n",
    ]
    for condition in ConditionType:
        parts += [f"### {condition}\n", f"{CONDITION_TEXTS[condition]}\n", _reasons(reasons_of(condition))]
    return "\n".join(parts)


def _causes() -> str:
    head = (
        "## Reasons of decisions\n\n"
        "`status.reason` and `status.decisions[].reason` carry a limiter of ScalingLimited, a reason of ScalingActive, or one of:\n"
    )
    return "\n".join([head, _reasons(tuple(cause.value for cause in Cause))])


def _reasons(reasons: tuple[str, ...]) -> str:
    rows = [_row("Reason", "Meaning", "What to check"), _row("---", "---", "---")]
    rows += [
        _row(f"`{reason}`", REASON_TEXTS[reason].meaning, REASON_TEXTS[reason].check) for reason in reasons
    ]
    return "\n".join([*rows, ""])


def main(file: Path) -> None:
    """Write the page to *file*."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_FILE))
