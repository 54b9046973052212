"""How a market and its clients speak: JSON documents, both ways, checked strictly on the way in.

    GET  /pools/NAME          → {desired, instances: [{id, state, since, node, zone}], refusals: [{at, kind, code, message, zone}]}
    POST /pools/NAME/grow     {to, before, token}          → {}
    POST /pools/NAME/remove   {instance, node, token}      → {}
    POST /pools/NAME/cancel   {to, before, token}          → {}

A refusal has a status of 400 or above and {error: {code, message}}, `code` being one of `CODES`.
"""

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Any, Final, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from spillway.adapters.cloud.base import (
    AlreadyGranted,
    AtMaximum,
    AtMinimum,
    CloudError,
    DesiredChanged,
    InstanceNotFound,
    NotPermitted,
    PoolNotFound,
    ProviderUnavailable,
    Rejected,
    Throttled,
    WrongNode,
)
from spillway.core.model import Instance, InstanceState, PoolState, Refusal, RefusalKind

CODES: Final[Mapping[type[CloudError], int]] = MappingProxyType(
    {
        Rejected: 400,
        NotPermitted: 403,
        PoolNotFound: 404,
        InstanceNotFound: 404,
        DesiredChanged: 409,
        AlreadyGranted: 409,
        WrongNode: 409,
        AtMinimum: 409,
        AtMaximum: 409,
        Throttled: 429,
        ProviderUnavailable: 503,
    }
)
_BY_CODE: Final = MappingProxyType({kind.__name__: kind for kind in CODES})
_BY_STATUS: Final = MappingProxyType({401: NotPermitted, 403: NotPermitted})
MESSAGE_LIMIT: Final = 500  # characters of the other side's text that we carry on

Word = Annotated[str, Field(max_length=253)]
Sentence = Annotated[str, Field(max_length=4000)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]


class _Document(BaseModel):
    # Strict: a number in quotes or a date without a zone is no slip but another program.
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class InstanceDocument(_Document):
    """A machine, as of `core.model.Instance`."""

    id: Annotated[str, Field(min_length=1, max_length=253)]
    state: InstanceState
    since: AwareDatetime
    node: Word = ""
    zone: Word = ""


class RefusalDocument(_Document):
    """A try that gave no machine, as of `core.model.Refusal`."""

    at: AwareDatetime
    kind: RefusalKind
    code: Word
    message: Sentence
    zone: Word = ""


class PoolDocument(_Document):
    """A pool, as of `core.model.PoolState`, which whoever receives it gives its time."""

    desired: Count
    instances: tuple[InstanceDocument, ...]
    refusals: tuple[RefusalDocument, ...]

    @model_validator(mode="after")
    def _names_each_once(self) -> Self:
        if len({found.id for found in self.instances}) != len(self.instances):
            raise ValueError("an instance is listed twice")
        return self

    @classmethod
    def of(cls, state: PoolState) -> Self:
        """Return what is sent of *state*."""
        return cls(
            desired=state.desired,
            instances=tuple(
                InstanceDocument(
                    id=found.id, state=found.state, since=found.since, node=found.node, zone=found.zone
                )
                for found in state.instances
            ),
            refusals=tuple(
                RefusalDocument(
                    at=found.at, kind=found.kind, code=found.code, message=found.message, zone=found.zone
                )
                for found in state.refusals
            ),
        )

    def as_state(self, at: datetime) -> PoolState:
        """Return what was received, as of *at*."""
        return PoolState(
            at=at,
            desired=self.desired,
            instances=tuple(Instance(**found.model_dump()) for found in self.instances),
            refusals=tuple(Refusal(**found.model_dump()) for found in self.refusals),
        )


class SizeDocument(_Document):
    """The body of `grow` and `cancel`."""

    to: Count
    before: Count
    token: Annotated[str, Field(min_length=1, max_length=253)]


class RemovalDocument(_Document):
    """The body of `remove`."""

    instance: Annotated[str, Field(min_length=1, max_length=253)]
    node: Annotated[str, Field(min_length=1, max_length=253)]
    token: Annotated[str, Field(min_length=1, max_length=253)]


class _ErrorDocument(_Document):
    code: Word
    message: str
    desired: Count | None = None
    retry_after: Annotated[float, Field(ge=0, le=86_400)] | None = Field(
        default=None, alias="retryAfterSeconds"
    )


class _FailureDocument(_Document):
    error: _ErrorDocument


def write_error(error: CloudError) -> tuple[int, dict[str, Any]]:
    """Return the status and the document that stand for *error*."""
    told: dict[str, Any] = {"code": type(error).__name__, "message": error.message}
    if isinstance(error, DesiredChanged):
        told["desired"] = error.desired
    if isinstance(error, Throttled) and error.retry_after is not None:
        told["retryAfterSeconds"] = error.retry_after
    return CODES.get(type(error), 500), {"error": told}


def read_error(pool: str, *, status: int, body: bytes) -> CloudError:
    """Return what an answer of *status* that is no success means; a code that we do not know goes by its status."""
    try:
        told = _FailureDocument.model_validate_json(body).error
    except ValidationError:
        text = body[:MESSAGE_LIMIT].decode(errors="replace")
        return _by_status(pool, status, f"HTTP {status}: {text or 'no text'}")
    message = told.message[:MESSAGE_LIMIT]
    kind = _BY_CODE.get(told.code)
    if kind is DesiredChanged and told.desired is not None:
        return DesiredChanged(pool, message, desired=told.desired)
    if kind is Throttled:
        return Throttled(pool, message, retry_after=told.retry_after)
    if kind is None or kind is DesiredChanged:
        return _by_status(pool, status, f"HTTP {status}, {told.code}: {message}")
    return kind(pool, message)


def _by_status(pool: str, status: int, message: str) -> CloudError:
    if status == 429:
        return Throttled(pool, message)
    # A 404 without our own word is a wrong URL, not a pool or a machine that is gone.
    fallback = Rejected if 400 <= status < 500 and status not in (404, 408) else ProviderUnavailable
    return _BY_STATUS.get(status, fallback)(pool, message)
