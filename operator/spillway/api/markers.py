"""What an API model says beyond pydantic: CEL rules, list types, printer columns. `schema` turns them into Kubernetes' words."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

BUILT_IN_KEY = "x-spillway-built-in"
"""Carries a setting's built-in from the models to CRD descriptions and the field reference; never reaches a CRD."""

FORM_KEY = "x-spillway-form"
"""Says a pattern in words, for messages and the field reference; never reaches a CRD."""

RULE_ERROR = "rule"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One condition across fields, told twice: `cel` for the API server, `holds` for objects parsed here.

    `message` says what to do, and is what users read from both. `field` is the JSON path of the field to change,
    relative to the model (`.minReplicas`). Where a message should carry the values, `message_cel` and `told` make it, the one
    on the API server and the other here; `message` then stands in the field reference.
    """

    cel: str
    holds: Callable[..., bool]
    message: str
    field: str
    message_cel: str | None = None
    told: Callable[..., str] | None = None

    def as_schema(self) -> dict[str, str]:
        """Return the rule in the API server's words."""
        worded = {} if self.message_cel is None else {"messageExpression": self.message_cel}
        return {"rule": self.cel, "message": self.message, "fieldPath": self.field, **worded}


class ApiModel(BaseModel):
    """Base of every block: camelCase in JSON, frozen, unknown fields ignored so that an old operator reads a newer CRD."""

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, frozen=True, extra="ignore"
    )

    RULES: ClassVar[tuple[Rule, ...]] = ()
    ATOMIC: ClassVar[bool] = False

    @model_validator(mode="after")
    def _keep_rules(self) -> Self:
        for rule in self.RULES:
            if not rule.holds(self):
                message = rule.message if rule.told is None else rule.told(self)
                raise PydanticCustomError(RULE_ERROR, "{message}", {"message": message, "field": rule.field})
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler, /
    ) -> JsonSchemaValue:
        """Add the rules and the map type to pydantic's own JSON schema of the model."""
        answer = handler(schema)
        model = handler.resolve_ref_schema(answer)
        if cls.RULES:
            model["x-kubernetes-validations"] = [rule.as_schema() for rule in cls.RULES]
        if cls.ATOMIC:
            model["x-kubernetes-map-type"] = "atomic"
        return answer

    def dump(self) -> dict[str, Any]:
        """Return the JSON object as Kubernetes takes it; what is unset is left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


@dataclass(frozen=True, slots=True)
class ListMap:
    """A list whose items are told apart by one field, so that two owners may apply their own items."""

    key: str

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Say so to the API server, which then also refuses a key given twice."""
        return handler(schema) | {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [self.key]}


@dataclass(frozen=True, slots=True)
class ListSet:
    """A list of plain values, each at most once."""

    def __get_pydantic_core_schema__(self, source: type, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Refuse a repeated value, as the API server does."""
        return core_schema.no_info_after_validator_function(_refuse_repeats, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Say so to the API server."""
        return handler(schema) | {"x-kubernetes-list-type": "set"}


def _refuse_repeats(values: tuple[str, ...]) -> tuple[str, ...]:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise PydanticCustomError("repeated", "Duplicate value: {value}", {"value": str(value)})
    return values


@dataclass(frozen=True, slots=True)
class AtomicList:
    """A list that one owner writes as a whole."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Say so to the API server."""
        return handler(schema) | {"x-kubernetes-list-type": "atomic"}


@dataclass(frozen=True, slots=True)
class Truncated:
    """Text we write ourselves, cut to `length` characters so that a long message never makes a status unwritable."""

    length: int

    def __get_pydantic_core_schema__(self, source: type, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Cut before any other check."""
        return core_schema.no_info_before_validator_function(self._cut, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Give the API server the same bound."""
        return handler(schema) | {"maxLength": self.length}

    def _cut(self, value: object) -> object:
        if isinstance(value, str) and len(value) > self.length:
            return value[: self.length - 1] + "…"
        return value


@dataclass(frozen=True, slots=True)
class Form:
    """What a text with a pattern looks like, in words."""

    words: str

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Keep the words beside the pattern."""
        return handler(schema) | {FORM_KEY: self.words}


@dataclass(frozen=True, slots=True, kw_only=True)
class PrinterColumn:
    """One column of `kubectl get`; priority 1 shows only with `-o wide`."""

    name: str
    path: str
    type: str = "string"
    description: str
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A custom resource: its names, its models and how kubectl shows it."""

    kind: str
    plural: str
    short: str
    is_namespaced: bool
    description: str
    spec: type[ApiModel]
    status: type[ApiModel]
    columns: tuple[PrinterColumn, ...]
    has_scale: bool = False
