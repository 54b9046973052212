"""Pydantic models to the structural schemas that CRDs demand. What cannot be said in one raises with the field's path."""

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from spillway.api.markers import BUILT_IN_KEY, FORM_KEY, ApiModel

Schema = dict[str, Any]

_COPIED: Final = frozenset(
    {
        "type", "description", "enum", "format", "pattern", "required", "default",
        "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "minProperties",
        "maxProperties",
        "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type", "x-kubernetes-validations",
        BUILT_IN_KEY, FORM_KEY,
    }
)  # fmt: skip
_NOISE: Final = frozenset({"title", "$defs"})
_LEAVES: Final = frozenset({"string", "integer", "boolean"})


class StructuralError(Exception):
    """A model says something that a CRD cannot express; the message names the field and the remedy."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")


@cache
def structural(model: type[ApiModel], root: str) -> Schema:
    """Return the structural schema of *model*; *root* is its path in error messages. Callers must not change the answer.

    Raises `StructuralError` for anything inexpressible and for strings, lists and maps without a bound.
    """
    raw = model.model_json_schema(by_alias=True, mode="validation")
    return _rewrite(raw, raw.get("$defs", {}), root, ())


def for_server(schema: Schema) -> Schema:
    """Return *schema* without our own keys; a built-in moves into the description, where `kubectl explain` shows it."""
    result = {key: value for key, value in schema.items() if key not in {BUILT_IN_KEY, FORM_KEY}}
    if BUILT_IN_KEY in schema:
        result["description"] = f"{schema['description']} Built-in: {schema[BUILT_IN_KEY]}."
    if "properties" in schema:
        result["properties"] = {name: for_server(child) for name, child in schema["properties"].items()}
    for key in ("items", "additionalProperties"):
        if key in schema:
            result[key] = for_server(schema[key])
    return result


def at_path(schema: Schema, path: tuple[str | int, ...]) -> Schema | None:
    """Return the schema of the field at *path* (names, and indexes of list items), None where there is none."""
    found: Schema | None = schema
    for part in path:
        if found is None:
            return None
        if isinstance(part, int):
            found = found.get("items")
        else:
            found = found.get("properties", {}).get(part) or found.get("additionalProperties")
    return found


def describe(schema: Schema) -> str:
    """Return the legal values in words: `a whole number from 1 to 10000`, `one of Observe, Enforce`, …"""
    if "enum" in schema:
        values = schema["enum"]
        return f"one of {', '.join(values)}" if len(values) > 1 else str(values[0])
    match schema["type"]:
        case "integer":
            return f"a whole number{_span(schema.get('minimum'), schema.get('maximum'))}"
        case "string":
            return _describe_text(schema)
        case "array":
            return _describe_list(schema)
        case "boolean":
            return "true or false"
        case _:
            return _describe_map(schema) if _is_map(schema) else "an object"


def _is_map(schema: Schema) -> bool:
    return "additionalProperties" in schema


def _span(low: int | None, high: int | None) -> str:
    match low, high:
        case None, None:
            return ""
        case None, _:
            return f" of at most {high}"
        case _, None:
            return f" of at least {low}"
        case _:
            return f" from {low} to {high}"


def _describe_map(schema: Schema) -> str:
    low, high = schema.get("minProperties", 0), schema["maxProperties"]
    return f"a map of {low} to {high} entries" if low else f"a map of at most {high} entries"


def _describe_list(schema: Schema) -> str:
    low, high = schema.get("minItems", 0), schema["maxItems"]
    counts = str(high) if low == high else f"{low} to {high}"
    return f"a list of {counts} item{'' if counts == '1' else 's'}"


def _describe_text(schema: Schema) -> str:
    if schema.get("format") == "date-time":
        return "a time such as 2026-11-22T09:00:00Z"
    return f"{schema.get(FORM_KEY, 'text')}, at most {schema['maxLength']} characters"


def _rewrite(node: Schema, definitions: Mapping[str, Schema], path: str, seen: tuple[str, ...]) -> Schema:
    node, seen = _inline(node, definitions, path, seen)
    node, seen = _collapse_optional(node, definitions, path, seen)
    unknown = sorted(
        node.keys() - _COPIED - _NOISE - {"properties", "items", "additionalProperties", "const"}
    )
    if unknown:
        raise StructuralError(path, f"a CRD cannot express {', '.join(unknown)}; say it with a CEL rule")
    result = {key: value for key, value in node.items() if key in _COPIED}
    if "const" in node:
        result["enum"] = [node["const"]]
    result |= _children(node, definitions, path, seen)
    _check(result, path)
    return result


def _inline(
    node: Schema, definitions: Mapping[str, Schema], path: str, seen: tuple[str, ...]
) -> tuple[Schema, tuple[str, ...]]:
    """Replace a `$ref` by what it names; words beside the reference, such as the description, win."""
    if "$ref" not in node:
        return node, seen
    name = node["$ref"].removeprefix("#/$defs/")
    if name in seen:
        raise StructuralError(path, f"{name} contains itself, which a CRD cannot express")
    beside = {key: value for key, value in node.items() if key != "$ref"}
    named = definitions[name]
    if "enum" in named:  # an enum's docstring speaks to programmers
        named = {key: value for key, value in named.items() if key != "description"}
    return named | beside, (*seen, name)


def _collapse_optional(
    node: Schema, definitions: Mapping[str, Schema], path: str, seen: tuple[str, ...]
) -> tuple[Schema, tuple[str, ...]]:
    """Turn `X | None = None` into an X that may be absent: Kubernetes leaves unset fields out instead of storing null."""
    if "anyOf" not in node:
        return node, seen
    branches = [branch for branch in node["anyOf"] if branch != {"type": "null"}]
    if len(branches) != 1 or node.get("default") is not None:
        raise StructuralError(path, "a CRD cannot express a union; use a discriminator and optional members")
    beside = {key: value for key, value in node.items() if key not in {"anyOf", "default"}}
    branch, seen = _inline(branches[0], definitions, path, seen)
    return branch | beside, seen


def _children(node: Schema, definitions: Mapping[str, Schema], path: str, seen: tuple[str, ...]) -> Schema:
    result: Schema = {}
    if "properties" in node:
        result["properties"] = {
            name: _rewrite(child, definitions, f"{path}.{name}", seen)
            for name, child in node["properties"].items()
        }
    if "items" in node:
        result["items"] = _rewrite(node["items"], definitions, f"{path}[]", seen)
    values = node.get("additionalProperties")
    if isinstance(values, dict):
        result["additionalProperties"] = _rewrite(values, definitions, f"{path}.*", seen)
    elif values is not None and "properties" not in node:
        raise StructuralError(path, "a map needs a type for its values")
    return result


def _check(schema: Schema, path: str) -> None:
    """Hold what the API server holds against a schema, and the bounds that keep CEL rules affordable."""
    match schema.get("type"):
        case "string" if not ({"maxLength", "enum"} & schema.keys() or schema.get("format") == "date-time"):
            raise StructuralError(path, "a string needs maxLength or an enum")
        case "string" if "pattern" in schema and FORM_KEY not in schema:
            raise StructuralError(path, "a pattern needs a Form that says it in words")
        case "array" if (
            "items" not in schema or "maxItems" not in schema or "x-kubernetes-list-type" not in schema
        ):
            raise StructuralError(
                path, "a list needs typed items, a max_length and ListMap, ListSet or AtomicList"
            )
        case "object" if _is_map(schema) and "maxProperties" not in schema:
            raise StructuralError(path, "a map needs a max_length")
        case "object" if not (schema.get("properties") or _is_map(schema)):
            raise StructuralError(path, "an object needs fields")
        case "object" | "array":
            pass
        case leaf if leaf not in _LEAVES:
            raise StructuralError(
                path, f"type {leaf} is not allowed; use whole numbers with the unit in the name"
            )
    if "default" in schema and not isinstance(schema["default"], str | int):
        raise StructuralError(path, "a schema default must be a plain value")
