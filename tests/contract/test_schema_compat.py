"""The schema may grow; it may not take anything away from users."""

import copy
from collections.abc import Callable

import pytest

from spillway.api.kinds import KINDS
from spillway.api.markers import Kind
from spillway.api.v1alpha1 import GPU_WORKLOAD
from tests.contract.schema_compat import Fields, breaks, fields_of, read_snapshot

EACH_KIND = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)


@EACH_KIND
def test_every_manifest_that_was_valid_still_is(kind: Kind) -> None:
    assert breaks(read_snapshot(kind), fields_of(kind)) == []


@EACH_KIND
def test_the_snapshot_knows_every_field(kind: Kind) -> None:
    assert read_snapshot(kind) == fields_of(kind), (
        "the schema grew: record it with `python -m tests.contract.schema_compat` and commit tests/contract/snapshots"
    )


def remove_a_field(fields: Fields) -> None:
    del fields[".spec.cost.team"]


def lower_a_maximum(fields: Fields) -> None:
    fields[".spec.maxReplicas"]["maximum"] = 10


def add_a_minimum(fields: Fields) -> None:
    fields[".status.desiredReplicas"]["minimum"] = 1


def change_a_type(fields: Fields) -> None:
    fields[".spec.minReplicas"]["type"] = "string"


def drop_a_mode(fields: Fields) -> None:
    fields[".spec.mode"]["enum"] = ["Observe", "Enforce"]


def require_a_field(fields: Fields) -> None:
    fields[".spec"]["required"] = ["targetRef", "maxReplicas", "minReplicas"]


def add_a_rule(fields: Fields) -> None:
    fields[".spec"]["rules"] = [*fields[".spec"]["rules"], "self.maxReplicas > 1"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (remove_a_field, ".spec.cost.team is gone: a removed field loses users' settings"),
        (lower_a_maximum, ".spec.maxReplicas: maximum fell to 10"),
        (add_a_minimum, ".status.desiredReplicas: minimum rose to 1"),
        (change_a_type, ".spec.minReplicas: type changed from integer to string"),
        (drop_a_mode, ".spec.mode: value ScaleUpOnly is gone"),
        (require_a_field, ".spec: minReplicas became required"),
        (add_a_rule, ".spec: new rule self.maxReplicas > 1"),
    ],
)
def test_a_change_that_breaks_users_is_named(change: Callable[[Fields], None], complaint: str) -> None:
    before = fields_of(GPU_WORKLOAD)
    after = copy.deepcopy(before)

    change(after)

    assert breaks(before, after) == [complaint]


def test_growth_breaks_nobody() -> None:
    before = fields_of(GPU_WORKLOAD)
    after = copy.deepcopy(before)

    after[".spec.capacity"] = {"type": "object"}
    after[".spec.mode"]["enum"] = [*after[".spec.mode"]["enum"], "ScaleDownOnly"]
    after[".spec.maxReplicas"]["maximum"] = 20_000

    assert breaks(before, after) == []
