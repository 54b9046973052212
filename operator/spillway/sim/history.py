"""A workload's own past as demand to be played, and what really ran as a run beside the policies.

A minute of which the load is not known is no minute without load. A gap of up to ten minutes is played as the minute before it, a
longer one is cut out of the played time; both are counted. Where the GPUs were full, the load is a least value only.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum, auto
from itertools import groupby, pairwise
from typing import Any, Final

from spillway.core.observe import PEGGED
from spillway.core.recorded import RecordedInstant
from spillway.sim.traces import Demand
from spillway.sim.world import SCORED_FROM, Scenario, Score

NAME: Final = "really-ran"
MINUTE: Final = timedelta(minutes=1)
HELD_MINUTES: Final = (
    10  # the simulator's load of ten minutes ago still tells more than none; of an hour ago it does not
)
MOST_PEGGED: Final = (
    0.05  # full for longer than that, a load that is only known as a least value proves no saving
)
LEAST_SEEN: Final = 0.5  # with more than half unknown, what is played is no history


class HistoryError(ValueError):
    """A past that cannot be played: what was recorded of it, and what to do."""


class NothingRecorded(HistoryError):
    """Not one minute of it is known."""


class Known(Enum):
    """How the load of a minute is known."""

    SEEN = auto()
    HELD = auto()
    STOPPED = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Minute:
    """The minute before `at`: its load in replicas, the replicas that held GPUs, how many of them were burst replicas."""

    at: datetime
    load: float
    replicas: int
    burst: int = 0
    known: Known = Known.SEEN
    is_pegged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaps:
    """Gaps of one kind: how many, their minutes in all, and those of the longest."""

    count: int
    minutes: int
    longest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What is played, at least one minute in rising time; where two are more than a minute apart, a gap was cut out.

    `knows_readiness` says whether any readiness was recorded; else every pod with GPU samples counts as one that serves.
    """

    minutes: tuple[Minute, ...]
    knows_readiness: bool

    @property
    def demand(self) -> Demand:
        """The load, a value a minute."""
        times = tuple(60.0 * index for index in range(len(self.minutes)))
        return Demand(times=times, values=tuple(found.load for found in self.minutes))

    @property
    def begins(self) -> datetime:
        """When the first minute that is played began."""
        return self.minutes[0].at - MINUTE

    @property
    def ends(self) -> datetime:
        """When the last one ended."""
        return self.minutes[-1].at

    @property
    def held(self) -> Gaps:
        """Gaps that are played as what was before them."""
        runs = groupby(self.minutes, key=lambda found: found.known is Known.HELD)
        return _gaps([sum(1 for _ in run) for is_held, run in runs if is_held])

    @property
    def cut(self) -> Gaps:
        """Gaps that are not played."""
        steps = [(later.at - earlier.at) // MINUTE - 1 for earlier, later in pairwise(self.minutes)]
        return _gaps([missing for missing in steps if missing])

    @property
    def seen_share(self) -> float:
        """Share of the time from beginning to end of which the load is known."""
        known = sum(1 for found in self.minutes if found.known is not Known.HELD)
        return known / ((self.ends - self.begins) / MINUTE)

    @property
    def pegged_share(self) -> float:
        """Share of the played time in which the GPUs were full, so that the load may have been higher."""
        return self._share(lambda found: found.is_pegged)

    @property
    def stopped_share(self) -> float:
        """Share of the played time in which the workload was set to 0, so that what was asked of it was not measured."""
        return self._share(lambda found: found.known is Known.STOPPED)

    @property
    def mean_load(self) -> float:
        """Replicas' worth of load on average."""
        return sum(found.load for found in self.minutes) / len(self.minutes)

    @property
    def busy_share(self) -> float:
        """Share of the time of GPUs that were held in which they were busy."""
        held = sum(found.replicas for found in self.minutes)
        return sum(found.load for found in self.minutes) / held if held else 0.0

    def part(self, *, start_days: float, days: float) -> "History":
        """Return what is played from a day on for so many, in whole minutes, of which there must be one."""
        first = round(start_days * 1440)
        return replace(self, minutes=self.minutes[first : first + round(days * 1440)])

    def _share(self, is_so: Callable[[Minute], bool]) -> float:
        return sum(1 for found in self.minutes if is_so(found)) / len(self.minutes)


def history_of(instants: Sequence[RecordedInstant]) -> History:
    """Return what can be played of what was recorded, from the first minute with a known load to the last.

    Raises HistoryError where no load is known, or less than half of that time.
    """
    known = {found.at: minute for found in instants if (minute := _minute(found)) is not None}
    if not known:
        raise NothingRecorded(_nothing(instants))
    history = History(
        minutes=tuple(_filled(known)), knows_readiness=any(found.ready is not None for found in instants)
    )
    if history.seen_share < LEAST_SEEN:
        raise HistoryError(
            f"of {_when(history.begins)} to {_when(history.ends)} only {_percent(history.seen_share, digits=0)} was recorded; "
            f"{_percent(LEAST_SEEN, digits=0)} or more are needed. Play a time that was, or look why the GPU exporter was not scraped"
        )
    return history


def _minute(found: RecordedInstant) -> Minute | None:
    if found.load is None:
        return None
    return Minute(
        at=found.at,
        load=found.load,
        replicas=found.held,
        burst=found.sampled_burst,
        known=Known.SEEN if found.held else Known.STOPPED,
        is_pegged=(found.utilization or 0.0) >= PEGGED,
    )


def _filled(known: dict[datetime, Minute]) -> Iterator[Minute]:
    """Yield the known minutes and, in short gaps, the one before it again."""
    times = sorted(known)
    for at, following in pairwise(times):
        yield known[at]
        missing = (following - at) // MINUTE - 1
        if missing <= HELD_MINUTES:
            before = known[at]
            for index in range(1, missing + 1):
                yield replace(before, at=at + index * MINUTE, known=Known.HELD, is_pegged=False)
    yield known[times[-1]]


def _nothing(instants: Sequence[RecordedInstant]) -> str:
    ready = [found for found in instants if found.ready]
    if ready:
        return (
            f"pods were Ready in {len(ready)} minutes and none of them had a GPU sample that can be trusted; look whether "
            "dcgm-exporter ran on their nodes and names pods on its series"
        )
    if instants:
        return f"its Deployment is known in {len(instants)} minutes and no pod of it served in any"
    return "nothing was recorded of its pods"


def really_ran(history: History, scenario: Scenario, *, scale: float = 1.0) -> Score:
    """Return what ran as a run beside those of *scenario*, from the third hour on as they are.

    Burst replicas are priced as spot, all others on demand. What was missed and lost was not recorded: None. *scale* is what the
    demand was multiplied by. Starts are counted where the count rose, so a replica that took another's place is none.
    """
    scored = history.minutes[int(SCORED_FROM // 60) :]
    spot = scale * sum(min(found.burst, found.replicas) for found in scored) / 60
    on_demand = scale * sum(found.replicas for found in scored) / 60 - spot
    terms = scenario.terms
    cost = on_demand * float(terms.on_demand_price) + spot * float(terms.spot_price)
    peak = scenario.peak * float(terms.on_demand_price) * len(scored) / 60
    counts = [found.replicas for found in history.minutes]
    steps = [later - earlier for earlier, later in pairwise([0, *counts]) if later != earlier]
    return Score(
        policy=NAME,
        cost_usd=cost,
        cost_share_of_static_peak=cost / peak,
        missed_load_share=None,
        overloaded_minutes_share=None,
        starts=sum(step for step in steps if step > 0),
        losses=None,
        flaps=sum(1 for earlier, later in pairwise(steps) if (earlier > 0) != (later > 0)),
        on_demand_hours=on_demand,
        spot_hours=spot,
    )


def document(history: History) -> dict[str, Any]:
    """Return what `--format json` says about the past that was played."""
    return {
        "begins": history.begins.isoformat(),
        "ends": history.ends.isoformat(),
        "days_played": len(history.minutes) / 1440,
        "seen_share": history.seen_share,
        "held_gaps": _gaps_document(history.held),
        "cut_gaps": _gaps_document(history.cut),
        "pegged_share": history.pegged_share,
        "stopped_share": history.stopped_share,
        "mean_load": history.mean_load,
        "busy_share": history.busy_share,
        "knows_readiness": history.knows_readiness,
    }


def _gaps_document(gaps: Gaps) -> dict[str, int]:
    return {"count": gaps.count, "minutes": gaps.minutes, "longest_minutes": gaps.longest}


def sentences(history: History) -> Iterator[str]:
    """Yield what somebody must know who reads the results."""
    yield (
        f"Recorded {_when(history.begins)} to {_when(history.ends)}, {_percent(history.seen_share)} of it seen. Gaps of up to "
        f"{HELD_MINUTES} min ({_told(history.held)}) are played as the minute before, longer ones ({_told(history.cut)}) are cut out."
    )
    if history.stopped_share:
        yield (
            f"Set to 0 replicas for {_percent(history.stopped_share)} of the time, which is played as no load: what was asked then was "
            "not measured."
        )
    if not history.knows_readiness:
        yield "No kube_pod_status_ready was recorded: every pod with GPU samples counts as Ready, loading ones too."
    yield (
        f"GPUs were full (mean of {_percent(PEGGED, digits=0)} or more) for {_percent(history.pegged_share)} of the time: the load may have been higher "
        "there, and so may what is missed."
    )
    yield (
        f"What really ran was busy for {_percent(history.busy_share)} of its time. What it missed was not recorded; its burst replicas "
        "are priced as spot, all others on demand."
    )


def verdict(history: History, scores: Sequence[Score], *, policy: str) -> str | None:
    """Return what compares *policy* with what really ran, in a few words; None where one of the two was not played."""
    by_name = {found.policy: found for found in scores}
    own, real = by_name.get(policy), by_name.get(NAME)
    if own is None or real is None or own.missed_load_share is None or not real.cost_usd:
        return None
    change = own.cost_usd / real.cost_usd - 1
    return (
        f"{policy.capitalize()} would have cost {own.cost_usd:,.0f} $ where {real.cost_usd:,.0f} $ really ran: "
        f"{_percent(abs(change), digits=0)} {'less' if change < 0 else 'more'}. It would have missed "
        f"{_percent(own.missed_load_share, digits=3)} of the load."
        + (
            " The GPUs were full too often for this to prove it."
            if history.pegged_share > MOST_PEGGED
            else ""
        )
    )


def _gaps(lengths: Sequence[int]) -> Gaps:
    return Gaps(count=len(lengths), minutes=sum(lengths), longest=max(lengths, default=0))


def _told(gaps: Gaps) -> str:
    if not gaps.count:
        return "none"
    plural = "gap" if gaps.count == 1 else "gaps"
    return f"{gaps.count} {plural}, {gaps.minutes} min in all, the longest {gaps.longest} min"


def _percent(share: float, *, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def _when(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
