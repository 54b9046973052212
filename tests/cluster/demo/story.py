"""The story as data: its scenes, what is seen in each moment, and what must have come true by the end of each act."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

BLIND_STATES = frozenset({"Unknown", "Low", "Degraded"})
UNDER_WAY = "NotDecided"  # a write is on its way: no decision worth telling
SPOT = "Spot"


class Act(StrEnum):
    """The parts of the story, in their order."""

    QUIET = "quiet"
    BURST = "burst"
    RECLAIM = "reclaim"
    REFUSE = "refuse"
    RETURN = "return"
    BLIND = "blind"
    BACK = "back"
    FALL = "fall"


class Trick(StrEnum):
    """What the cloud does when a scene begins."""

    NONE = "none"
    RECLAIM = "reclaim"  # the newest node of a spot pool is told of its end
    REFUSE = "refuse"  # one spot pool gives no more nodes
    ACCEPT = "accept"  # it does again


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolNow:
    """One GpuNodePool in one pass of the operator: nodes by state, what is wanted, why, and what it costs an hour.

    Each node counts once; `ready` ones stay. `cost` is None where the price is unknown.
    """

    name: str
    is_spot: bool
    ready: int = 0
    not_ready: int = 0
    booting: int = 0
    draining: int = 0
    doomed: int = 0
    target: int = 0
    gpus: int = 0
    gpus_used: int = 0
    reason: str = ""
    why: str = ""
    cost: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiers:
    """How the count is laid out, as one pass wants it, and what of it is ready; `on_demand` holds the stand-ins for spot."""

    on_demand: int = 0
    stand_ins: int = 0
    burst: int = 0
    ready_on_demand: int = 0
    ready_burst: int = 0
    doomed: int = 0

    @property
    def baseline(self) -> int:
        """What is on demand for its own sake."""
        return self.on_demand - self.stand_ins


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What the operator said at one time.

    `seconds` count from the first scene; `demand` is in replicas' worth of work; `utilization` is the mean that the operator
    used, 0 to 1, None while it knows none. `current` is the count that stands, `desired` what the operator wants. `tiers` and
    `pools` are of one pass. `ledger` is what the cloud has billed since it opened; the other totals are the operator's own
    counters since it began.
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
    split: str = ""
    limits: tuple[str, ...] = ()
    tiers: Tiers = Tiers()
    pools: tuple[PoolNow, ...] = ()
    ledger: Decimal = Decimal(0)
    workload_cost: float = 0.0
    replica_seconds: float = 0.0
    ups: int = 0
    downs: int = 0

    @property
    def cost(self) -> Decimal | None:
        """What all nodes cost an hour; None where one has no price."""
        costs = [pool.cost for pool in self.pools]
        return None if None in costs else sum((cost for cost in costs if cost is not None), Decimal(0))

    @property
    def spot(self) -> tuple[PoolNow, ...]:
        """The spot pools."""
        return tuple(pool for pool in self.pools if pool.is_spot)

    @property
    def nodes(self) -> int:
        """Nodes that are Ready and stay."""
        return sum(pool.ready for pool in self.pools)

    @property
    def spot_nodes(self) -> int:
        """Those of them on spot."""
        return sum(pool.ready for pool in self.spot)


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
    trick: Trick = Trick.NONE

    @property
    def is_blind(self) -> bool:
        """Whether the exporter's series are gone."""
        return self.act is Act.BLIND


def is_calm(moment: Moment) -> bool:
    """Whether every replica that is wanted serves where it belongs, and no more are needed."""
    tiers = moment.tiers
    return (
        moment.current == moment.desired
        and not moment.loading
        and tiers.ready_on_demand == tiers.on_demand
        and tiers.ready_burst == tiers.burst
        and moment.utilization is not None
        and moment.utilization <= 0.8
    )


def is_restored(moment: Moment) -> bool:
    """Whether spot carries its part again and nothing stands in for it."""
    return is_calm(moment) and not moment.tiers.stand_ins and not any(pool.doomed for pool in moment.pools)


def is_tidy(moment: Moment) -> bool:
    """Whether spot carries its part again, and no node is left over or on its way."""
    changing = any(pool.draining or pool.booting or pool.not_ready for pool in moment.pools)
    return (
        is_restored(moment)
        and not changing
        and all(pool.gpus_used or not pool.ready for pool in moment.pools)
    )


def is_covered(moment: Moment) -> bool:
    """Whether replicas on demand serve in the place of those that spot refuses."""
    tiers = moment.tiers
    return tiers.stand_ins > 0 and tiers.ready_on_demand == tiers.on_demand


def is_seeing(moment: Moment) -> bool:
    """Whether the operator trusts its metrics again."""
    return moment.state == "Fresh"


def is_smaller(moment: Moment) -> bool:
    """Whether a first reduction has been carried out: what is left is more than half busy."""
    return moment.current == moment.ready < moment.demand / 0.5


def is_over(_: Moment) -> bool:
    """Time alone ends this scene."""
    return True


def is_empty(moment: Moment) -> bool:
    """Whether the baseline is left on one node, and spot is gone."""
    return moment.tiers.burst == 0 and moment.nodes == 1 and not any(pool.draining for pool in moment.pools)


WAVES = "Traffic climbs in waves. Above the baseline, replicas go to spot; their nodes are asked for too."

# Each wave fits what the increase before it can carry: a signal that two increases in a row do not lower would be called
# inelastic, and growth would stop.
STORY: tuple[Scene, ...] = (
    Scene(
        act=Act.QUIET, title="Quiet", demand=1.0, until=is_calm, at_least=10, at_most=30,
        look="Two replicas carry the load at 50 %, on one on-demand node. There is nothing to do.",
    ),
    Scene(act=Act.BURST, title="Burst, wave 1", look=WAVES, demand=2.9, until=is_calm, at_least=10, at_most=45),
    Scene(act=Act.BURST, title="Burst, wave 2", look=WAVES, demand=5.0, until=is_calm, at_least=10, at_most=45),
    Scene(act=Act.BURST, title="Burst, wave 3", look=WAVES, demand=7.4, until=is_calm, at_least=10, at_most=45),
    Scene(
        act=Act.RECLAIM, title="A spot node is taken back", demand=7.4, until=is_restored, at_least=20, at_most=75,
        trick=Trick.RECLAIM,
        look="Notice of 20 s: its replicas count as lost at once, on demand stands in, a node is asked for.",
    ),
    Scene(
        act=Act.REFUSE, title="Spot refuses", demand=11.4, until=is_covered, at_least=14, at_most=60, trick=Trick.REFUSE,
        look="Traffic climbs. Spot a is at its maxNodes and spot b has no machines: on demand stands in.",
    ),
    Scene(
        act=Act.RETURN, title="Spot is back", demand=11.4, until=is_tidy, at_least=8, at_most=75, trick=Trick.ACCEPT,
        look="One node is tried. Once its replicas have served for a while, stand-ins go, one at a time.",
    ),
    Scene(
        act=Act.BLIND, title="Metrics vanish", demand=11.4, until=is_over, at_least=24, at_most=24,
        look="The exporter's series are gone, the load is not. Unknown is not zero: replicas and nodes stay.",
    ),
    Scene(
        act=Act.BACK, title="Metrics return", demand=11.4, until=is_seeing, at_least=6, at_most=25,
        look="The series are back. They must prove themselves twice before they count again.",
    ),
    Scene(
        act=Act.FALL, title="Demand falls", demand=4.0, until=is_smaller, at_least=10, at_most=50,
        look="Need must stay low for a whole window (20 s), seen without a gap: then replicas go, burst first.",
    ),
    Scene(
        act=Act.FALL, title="Night", demand=0.8, until=is_empty, at_least=10, at_most=75,
        look="The rest of the burst goes, empty nodes are marked, looked at once more, and removed.",
    ),
)  # fmt: skip

EXPECTED_SECONDS = 310  # the usual length, for the time scale of the view


def broken_promise(moments: Sequence[Moment], act: Act) -> str | None:
    """Return a sentence on what did not come true by the end of *act*; None when the story holds."""
    return _PROMISES[act](moments)


def _rested(moments: Sequence[Moment]) -> str | None:
    first, last = moments[0], moments[-1]
    if (last.ups, last.downs) == (first.ups, first.downs):
        return None
    return "The operator changed the count although nothing had happened."


def _burst(moments: Sequence[Moment]) -> str | None:
    first, last = moments[0], moments[-1]
    peak = max(moment.current for moment in moments)
    if peak <= first.current:
        demand = max(moment.demand for moment in moments)
        return (
            f"Replicas did not grow in the burst: demand rose to {demand:g} replicas' worth and the count stayed at "
            f"{first.current}."
        )
    bare = [pool.name for pool in last.spot if not pool.ready]
    if bare:
        return f"The burst left {' and '.join(bare)} without a node."
    if last.tiers.ready_burst == 0:
        return "No replica serves on spot after the burst."
    return None


def _replaced(moments: Sequence[Moment]) -> str | None:
    told = [moment for moment in _of(moments, Act.RECLAIM) if _doomed(moment)]
    if not told:
        return "A spot node was told of its end and the operator never said so."
    before = [moment for moment in moments if moment.act is Act.BURST][-1]
    notice, last = told[0], moments[-1]
    if notice.tiers.on_demand <= before.tiers.on_demand and _wanted(notice) <= _wanted(before):
        return "The pass that saw the notice asked for no replacement."
    if last.tiers.ready_burst < before.tiers.ready_burst:
        return (
            f"Spot carried {before.tiers.ready_burst} replicas before the notice, "
            f"and {last.tiers.ready_burst} after all was replaced."
        )
    return None


def _stood_in(moments: Sequence[Moment]) -> str | None:
    last = moments[-1]
    if last.tiers.stand_ins == 0:
        return "A spot pool refused, and nothing stood in for it on demand."
    if last.tiers.ready_on_demand < last.tiers.on_demand:
        return (
            f"Of {last.tiers.on_demand} replicas on demand only {last.tiers.ready_on_demand} serve "
            "while spot refuses."
        )
    return None


def _returned(moments: Sequence[Moment]) -> str | None:
    last = moments[-1]
    if last.tiers.stand_ins:
        return f"Spot is back, and {last.tiers.stand_ins} replicas still stand in for it on demand."
    if last.tiers.ready_burst < last.tiers.burst:
        return f"Spot is back, and only {last.tiers.ready_burst} of {last.tiers.burst} replicas serve there."
    return None


def _not_held(moments: Sequence[Moment]) -> str | None:
    before = [moment for moment in moments if moment.act not in (Act.BLIND, Act.BACK)][-1]
    away = [moment for moment in moments if moment.act in (Act.BLIND, Act.BACK)]
    lowest, nodes = min(moment.current for moment in away), min(moment.nodes for moment in away)
    if lowest < before.current:
        return f"Replicas shrank from {before.current} to {lowest} while GPU metrics were away."
    if nodes < before.nodes:
        return f"Nodes shrank from {before.nodes} to {nodes} while GPU metrics were away."
    if not any(moment.state in BLIND_STATES for moment in away):
        return "GPU metrics were away and the operator never said so."
    return None


def _fallen(moments: Sequence[Moment]) -> str | None:
    first, last, falling = moments[0], moments[-1], _of(moments, Act.FALL)
    if last.current > first.current:
        return (
            f"Replicas did not go after the demand fell: {last.current} are left where {first.current} were enough "
            "at the start."
        )
    least = min(moment.tiers.baseline for moment in falling)
    if least < first.tiers.baseline:
        return f"The baseline fell from {first.tiers.baseline} to {least}; the burst had to go first."
    if last.nodes > first.nodes:
        return f"Nodes did not go after the demand fell: {last.nodes} are left where {first.nodes} was enough at the start."
    return None


_PROMISES: dict[Act, Callable[[Sequence[Moment]], str | None]] = {
    Act.QUIET: _rested,
    Act.BURST: _burst,
    Act.RECLAIM: _replaced,
    Act.REFUSE: _stood_in,
    Act.RETURN: _returned,
    Act.BLIND: _not_held,
    Act.BACK: _not_held,
    Act.FALL: _fallen,
}


def _of(moments: Sequence[Moment], act: Act) -> list[Moment]:
    return [moment for moment in moments if moment.act is act]


def _doomed(moment: Moment) -> int:
    return sum(pool.doomed for pool in moment.pools)


def _wanted(moment: Moment) -> int:
    """Nodes wanted, those told of their end aside."""
    return sum(pool.target for pool in moment.pools)


def acts(scenes: Iterable[Scene] = STORY) -> tuple[Act, ...]:
    """Return the acts in the order in which they are played."""
    return tuple(dict.fromkeys(scene.act for scene in scenes))
