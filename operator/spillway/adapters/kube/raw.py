"""Reading the API's JSON: parts that are absent or null are empty, and times are datetimes."""

from collections.abc import Mapping
from datetime import datetime
from sys import intern
from typing import Any

from spillway.core.model import ObjectKey

Raw = Mapping[str, Any]


def part(raw: Raw, name: str) -> Raw:
    """Return the nested object, empty when it is absent or null."""
    return raw.get(name) or {}


def key_of(meta: Raw) -> ObjectKey:
    """Return namespace and name of a namespaced object. Raises KeyError without them."""
    return ObjectKey(intern(meta["namespace"]), meta["name"])


def time_of(text: str) -> datetime:
    """Read a Kubernetes time. Raises ValueError for another text."""
    return datetime.fromisoformat(text)


def optional_time(text: str | None) -> datetime | None:
    """Read a Kubernetes time that may be absent."""
    return time_of(text) if text else None


def condition(status: Raw, kind: str) -> Raw:
    """Return the condition of this type, empty when it is not there."""
    return next((item for item in status.get("conditions") or () if item.get("type") == kind), {})


def since(found: Raw) -> datetime | None:
    """Return when a condition last changed, None where it does not say."""
    return optional_time(found.get("lastTransitionTime"))


def controller(meta: Raw) -> Raw:
    """Return the owner reference of the controller, empty for an object that stands alone."""
    return next((owner for owner in meta.get("ownerReferences") or () if owner.get("controller")), {})
