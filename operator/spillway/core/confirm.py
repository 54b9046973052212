"""Look twice before reducing: growth goes at once, a reduction must be proposed by every pass of a hold.

See docs/design/0001-one-loop.md for why the hold is 15 s and two collections.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from spillway.core.model import Act, HeldAct, SetReplicas

CONFIRM_COLLECTIONS = 2  # newer collections that must propose it again

Key = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A destructive act on hold: since when, since which collection, and the mildest form any pass proposed."""

    since: datetime
    collection: int
    act: HeldAct


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed:
    """What may run now, what waits on, and when time alone completes the next wait."""

    acts: tuple[Act, ...]
    pending: Mapping[Key, Pending]
    wake_at: datetime | None = None


def confirm(
    acts: Iterable[Act], pending: Mapping[Key, Pending], *, now: datetime, collection: int, hold: timedelta
) -> Confirmed:
    """Let growth through and hold what takes away for *hold* and two newer collections.

    `collection` is the serial of the snapshot's collection. A pass that does not propose a pending act again clears it.
    A held reduction runs at the highest count proposed in the meantime. `pending` is memory: empty after a restart.
    """
    go: list[Act] = []
    held: dict[Key, Pending] = {}
    for act in acts:
        if act.is_growth or not isinstance(act, HeldAct):
            go.append(act)
            continue
        found = _again(act, pending.get(act.confirm_key)) or Pending(
            since=now, collection=collection, act=act
        )
        if now - found.since >= hold and collection - found.collection >= CONFIRM_COLLECTIONS:
            go.append(found.act)
        else:
            held[act.confirm_key] = found
    times = [found.since + hold for found in held.values()]
    return Confirmed(
        acts=tuple(go), pending=held, wake_at=min((at for at in times if at > now), default=None)
    )


def _again(act: HeldAct, found: Pending | None) -> Pending | None:
    """Return the hold that *act* goes on with; None where it is another situation and the hold starts again."""
    if found is None:
        return None
    if not isinstance(act, SetReplicas) or not isinstance(found.act, SetReplicas):
        return replace(found, act=act)
    if found.act.before != act.before:  # the count moved underneath
        return None
    return replace(found, act=act if act.to >= found.act.to else replace(act, to=found.act.to, victims=()))
