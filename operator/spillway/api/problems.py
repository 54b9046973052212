"""What is wrong with an object, in sentences that name the field, the value, what is legal and the next step."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from spillway.api import schema
from spillway.api.markers import RULE_ERROR, ApiModel

_SHOWN_CHARACTERS: Final = 60
_LARGEST_SHOWN: Final = 2**63
_UNKNOWN_FIELD: Final = "extra_forbidden"
_ABSENT: Final = "missing"
_NOT_AN_OBJECT: Final = "model_type"
_TOO_SHORT: Final = "too_short"
_PYTHON_TYPE: Final = re.compile(r"^(Input|Tuple|String|Dictionary) ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong: the field's path, and a sentence with its value, what is legal and the next step."""

    field: str
    message: str


def problems_of(error: ValidationError, model: type[ApiModel], root: str) -> tuple[Problem, ...]:
    """Word every error that parsing *model* gave; *root* is the model's place in the object (`spec`)."""
    details = error.errors(include_url=False)
    return tuple(_problem(detail, model, root) for detail in details if not _follows(detail, details))


def _follows(detail: ErrorDetails, others: Sequence[ErrorDetails]) -> bool:
    """Whether a list counts as too short only because pydantic leaves out the items that are wrong themselves."""
    depth = len(detail["loc"])
    return detail["type"] == _TOO_SHORT and any(
        len(other["loc"]) > depth and other["loc"][:depth] == detail["loc"] for other in others
    )


def required(field: str, what: str) -> Problem:
    """Say that *field* is absent or unusable, and *what* it must hold."""
    return Problem(field=field, message=f"{field}: required; set it to {what}")


def shown(value: object) -> str:
    """Return *value* as one short line without control characters, for messages and logs."""
    if isinstance(value, int) and abs(value) > _LARGEST_SHOWN:
        return "a number beyond 64 bits"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)} items"
    text = repr(value[:_SHOWN_CHARACTERS] if isinstance(value, str) else value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


def _problem(detail: ErrorDetails, model: type[ApiModel], root: str) -> Problem:
    path = dotted(root, detail["loc"])
    if detail["type"] == RULE_ERROR:
        field = path + str(detail.get("ctx", {}).get("field", ""))
        return Problem(field=field, message=f"{field}: {detail['msg']}")
    if detail["type"] == _UNKNOWN_FIELD:
        return Problem(field=path, message=f"{path}: unknown field; {_known_fields(detail, model, root)}")
    legal = _legal(detail, model, root)
    if detail["type"] == _ABSENT:
        return required(path, legal)
    return Problem(
        field=path, message=f"{path}: {shown(detail['input'])}: {_wrong(detail)}; set it to {legal}"
    )


def _wrong(detail: ErrorDetails) -> str:
    """Say what is wrong in words that mean something outside Python."""
    if detail["type"] == _NOT_AN_OBJECT:
        return "should be an object"
    return _PYTHON_TYPE.sub("", detail["msg"]).replace(" after validation", "")


def dotted(root: str, location: tuple[str | int, ...]) -> str:
    """Return a location as the API server writes it: `spec.signals[0].name`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return root + "".join(parts)


def _legal(detail: ErrorDetails, model: type[ApiModel], root: str) -> str:
    found = schema.at_path(schema.structural(model, root), detail["loc"])
    return schema.describe(found) if found else "a value that the field reference allows"


def _known_fields(detail: ErrorDetails, model: type[ApiModel], root: str) -> str:
    parent = schema.at_path(schema.structural(model, root), detail["loc"][:-1]) or {}
    known = list(parent.get("properties", {}))
    close = get_close_matches(str(detail["loc"][-1]), known, n=1)
    meant = f"did you mean {close[0]}? Else " if close else ""
    return f"{meant}remove it or use one of {', '.join(known)}"
