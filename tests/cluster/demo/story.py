"""The story as data: its scenes, what is seen in each moment, and what must have come true by the end of each act."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

BLIND_STATES = frozenset({"Unknown", "Low", "Degraded"})
UNDER_WAY = "NotDecided"  # a write is on its way: no decision worth telling


class Act(StrEnum):
    """The parts of the story, in their order."""

    QUIET = "quiet"
    BURST = "burst"
    BLIND = "blind"
    BACK = "back"
    FALL = "fall"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What the operator said at one time.

    `seconds` count from the first scene; `demand` is in replicas' worth of work; `utilization` is the mean that the operator
    used, 0 to 1, None while it knows none. `current` is the Deployment's count, `desired` what the operator wants. The totals
    are the operator's own counters since it began.
    """

    seconds: float
    act: Act
    demand: float
    utilization: float | None
    state: str
    current: int
    desired: int
    ready: int
    loading: int
    reason: str
    why: str
    limits: tuple[str, ...] = ()
    replica_seconds: float = 0.0
    gpu_seconds: float = 0.0
    ups: int = 0
    downs: int = 0


Goal = Callable[[Moment], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A demand and what it lasts for: until *until* holds, but neither shorter nor longer than the bounds in seconds."""

    act: Act
    title: str
    look: str
    demand: float
    until: Goal
    at_least: float
    at_most: float

    @property
    def is_blind(self) -> bool:
        """Whether the exporter's series are gone."""
        return self.act is Act.BLIND


def is_calm(moment: Moment) -> bool:
    """Whether every replica that is wanted serves, and no more are needed."""
    counts = {moment.current, moment.desired, moment.ready}
    return (
        len(counts) == 1
        and not moment.loading
        and moment.utilization is not None
        and moment.utilization <= 0.8
    )


def is_seeing(moment: Moment) -> bool:
    """Whether the operator trusts its metrics again."""
    return moment.state == "Fresh"


def is_alone(moment: Moment) -> bool:
    """Whether one replica is left."""
    return moment.current == moment.ready == 1


def is_smaller(moment: Moment) -> bool:
    """Whether a first reduction has been carried out: what is left is more than half busy."""
    return moment.current == moment.ready < moment.demand / 0.5


def is_over(_: Moment) -> bool:
    """Time alone ends this scene."""
    return True


WAVES = "Traffic climbs in waves. GPU use passes 80 %, replicas are added; each loads its model for 8 s."

# Each wave fits what the increase before it can carry: a signal that two increases in a row do not lower would be called
# inelastic, and growth would stop.
STORY: tuple[Scene, ...] = (
    Scene(
        act=Act.QUIET, title="Quiet", demand=0.5, until=is_calm, at_least=14, at_most=30,
        look="One replica carries the load at 50 %. Nothing to do, and the operator writes nothing.",
    ),
    Scene(act=Act.BURST, title="Burst, wave 1", look=WAVES, demand=1.3, until=is_calm, at_least=12, at_most=30),
    Scene(act=Act.BURST, title="Burst, wave 2", look=WAVES, demand=2.2, until=is_calm, at_least=12, at_most=30),
    Scene(act=Act.BURST, title="Burst, wave 3", look=WAVES, demand=3.6, until=is_calm, at_least=12, at_most=30),
    Scene(act=Act.BURST, title="Burst, wave 4", look=WAVES, demand=5.4, until=is_calm, at_least=12, at_most=30),
    Scene(
        act=Act.BLIND, title="Metrics vanish", demand=5.4, until=is_over, at_least=28, at_most=28,
        look="The exporter's series are gone; the load is not. Unknown is not zero: every replica stays.",
    ),
    Scene(
        act=Act.BACK, title="Metrics return", demand=5.4, until=is_seeing, at_least=8, at_most=25,
        look="The series are back. They must prove themselves twice before they count again.",
    ),
    Scene(
        act=Act.FALL, title="Demand falls", demand=2.0, until=is_smaller, at_least=10, at_most=45,
        look="Need must stay low for a whole window (20 s), seen without a gap: only then do replicas go.",
    ),
    Scene(
        act=Act.FALL, title="Night", demand=0.4, until=is_alone, at_least=10, at_most=45,
        look="The rest goes the same way, down to the replica that the load needs.",
    ),
)  # fmt: skip

EXPECTED_SECONDS = 180  # the usual length, for the time scale of the view


def broken_promise(moments: Sequence[Moment], act: Act) -> str | None:
    """Return a sentence on what did not come true by the end of *act*; None when the story holds."""
    match act:
        case Act.QUIET:
            return None
        case Act.BURST:
            return _not_grown(moments)
        case Act.BLIND | Act.BACK:
            return _not_held(moments)
        case Act.FALL:
            return _not_shrunk(moments)


def _not_grown(moments: Sequence[Moment]) -> str | None:
    first, peak = moments[0].current, max(moment.current for moment in moments)
    if peak > first:
        return None
    demand = max(moment.demand for moment in moments)
    return f"Replicas did not grow in the burst: demand rose to {demand:g} replicas' worth and the count stayed at {first}."


def _not_held(moments: Sequence[Moment]) -> str | None:
    before = [moment.current for moment in moments if moment.act is Act.BURST][-1]
    away = [moment for moment in moments if moment.act in (Act.BLIND, Act.BACK)]
    lowest = min(moment.current for moment in away)
    if lowest < before:
        return f"Replicas shrank from {before} to {lowest} while GPU metrics were away."
    if not any(moment.state in BLIND_STATES for moment in away):
        return "GPU metrics were away and the operator never said so."
    return None


def _not_shrunk(moments: Sequence[Moment]) -> str | None:
    first, last = moments[0].current, moments[-1].current
    if last <= first:
        return None
    return (
        f"Replicas did not go after the demand fell: {last} are left where {first} were enough at the start."
    )


def acts(scenes: Iterable[Scene] = STORY) -> tuple[Act, ...]:
    """Return the acts in the order in which they are played."""
    return tuple(dict.fromkeys(scene.act for scene in scenes))
