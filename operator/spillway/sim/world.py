"""The world that every policy is judged in: the same demand, machines, refusals and losses, ten seconds at a time.

The protocol is that of the field report on traces (§6): one replica a machine, a cold start before it serves, spot taken by the
zone with a notice, a request that finds no capacity refused after a minute, everything paid from its grant to its end and for a
minute at least, no queue: load above what serves is missed.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, Protocol

from spillway.adapters.cloud.simulated import BootDelay, Market, PoolSpec
from spillway.adapters.cloud.simulated.machines import Machine
from spillway.core.model import CapacityType, InstanceState
from spillway.sim.traces import Demand, Spot

STEP: Final = timedelta(seconds=10)
START: Final = datetime(2026, 1, 1, tzinfo=UTC)
ON_DEMAND: Final = "on-demand"
SCORED_FROM: Final = 7200.0  # seconds: all policies begin alike, so their first hours tell nothing
LOADS_FOR: Final = timedelta(
    seconds=80
)  # of a cold start, after the machine has joined (traces §5: node 160, model and warm-up 80)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What things cost and how long they take."""

    cold_start: timedelta = timedelta(seconds=240)
    notice: timedelta = timedelta(seconds=120)
    answer: timedelta = timedelta(seconds=60)
    on_demand_price: Decimal = Decimal("3.06")
    spot_price: Decimal = Decimal("0.918")
    spread: float = 0.0
    seed: int = 1

    @property
    def load_time(self) -> timedelta:
        """How long a replica loads on a machine that is there; a third of a short cold start."""
        return min(LOADS_FOR, self.cold_start / 3)

    @property
    def boot(self) -> BootDelay:
        """How long a machine takes from its grant to joining: the rest of the cold start, spread evenly around it."""
        rest = self.cold_start - self.load_time
        return BootDelay(least=rest * (1 - self.spread), most=rest * (1 + self.spread))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One demand, one market, one set of terms."""

    demand: Demand
    spot: Spot | None
    terms: Terms = field(default_factory=Terms)

    @property
    def peak(self) -> int:
        """Whole replicas that carry the highest load."""
        return max(1, whole(max(self.demand.values)))

    @property
    def most(self) -> int:
        """Replicas that no policy may exceed: three times the peak."""
        return 3 * self.peak

    @property
    def zones(self) -> tuple[str, ...]:
        """Spot zones by name; none without a spot trace."""
        return tuple(sorted(self.spot.zones)) if self.spot is not None else ()

    def market(self) -> Market:
        """Return a fresh market with an on-demand pool without limit and a spot pool for each zone, all empty."""
        terms = self.terms
        pools = [
            PoolSpec(
                name=ON_DEMAND,
                capacity_type=CapacityType.ON_DEMAND,
                boot=terms.boot,
                price_per_hour=terms.on_demand_price,
                max_nodes=self.most,
            )
        ]
        pools += [
            PoolSpec(
                name=zone,
                zones=(zone,),
                capacity_type=CapacityType.SPOT,
                capacity=0,
                boot=terms.boot,
                answer=terms.answer,
                retry=terms.answer,
                notice=terms.notice,
                price_per_hour=terms.spot_price,
                max_nodes=self.most,
            )
            for zone in self.zones
        ]
        return Market(pools, now=START, seed=terms.seed)


def whole(load: float) -> int:
    """Return the fewest whole replicas that carry *load*, forgiving float noise."""
    return -int(-(load - 1e-9) // 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What one policy came to in one scenario. Dollars and shares are from the third hour on.

    `starts` counts machines that were granted, `flaps` how often the number that serves changed direction. None is what nobody
    knows: of a run that was recorded and not played.
    """

    policy: str
    cost_usd: float
    cost_share_of_static_peak: float
    missed_load_share: float | None
    overloaded_minutes_share: float | None
    starts: int
    losses: int | None
    flaps: int
    on_demand_hours: float
    spot_hours: float
    series: tuple[tuple[float, float, int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a peer may look at in one step. `utilization` saturates at 1; `waiting` is load that finds no replica.

    `ready` and `starting` count machines by pool; those under notice serve and are in `doomed`. `refused` and `lost` name pools in
    which that happened since the last step.
    """

    seconds: float
    utilization: float
    running: float
    waiting: float
    ready: Mapping[str, int]
    starting: Mapping[str, int]
    doomed: Mapping[str, int]
    refused: frozenset[str]
    lost: frozenset[str]

    @property
    def total_ready(self) -> int:
        """All that serve."""
        return sum(self.ready.values())

    @property
    def total(self) -> int:
        """All that serve or start."""
        return self.total_ready + sum(self.starting.values())


class Peer(Protocol):
    """A policy that says how many machines it wants in each pool, every step; it keeps its own periods."""

    name: str

    def decide(self, seen: Seen) -> Mapping[str, int]:
        """Return machines wanted by pool, in all; a pool left out is wanted empty."""


class Fleet(Protocol):
    """What a run plays: something that holds machines of a market and serves with them."""

    market: Market

    def begin(self, replicas: int) -> None:
        """Ask for the first replicas."""

    def step(self, now: datetime, load: float) -> None:
        """Let everything happen until *now*."""

    def serving(self) -> tuple[int, int]:
        """Replicas that serve on demand, and on spot."""


Progress = Callable[[float], None]


def play(
    scenario: Scenario,
    fleet: Fleet,
    *,
    name: str,
    progress: Progress = lambda _: None,
    keep_series: bool = False,
) -> Score:
    """Run a fleet through the whole demand and return its score; *progress* is told the share that is done."""
    tally = _Tally(scenario, fleet.market)
    supply = _Supply(scenario, fleet.market)
    fleet.begin(whole(scenario.demand.at(0.0)))
    steps = int(scenario.demand.seconds / STEP.total_seconds())
    for index in range(steps):
        seconds = index * STEP.total_seconds()
        now = START + index * STEP
        tally.losses += supply.advance(seconds, now)
        load = scenario.demand.at(seconds)
        fleet.step(now, load)
        tally.note(seconds, now, load, fleet.serving(), keep_series=keep_series)
        if index % 360 == 0:
            progress(index / steps)
    progress(1.0)
    return tally.score(name, START + steps * STEP)


class _Supply:
    """Plays the spot trace onto the market: capacity ends with a notice and comes back without one."""

    def __init__(self, scenario: Scenario, market: Market) -> None:
        self._spot = scenario.spot
        self._market = market
        self._known = dict.fromkeys(scenario.zones, 0)

    def advance(self, seconds: float, now: datetime) -> int:
        """Bring every zone up to date; return how many machines were told of their end."""
        lost = 0
        if self._spot is None:
            return 0
        for zone, known in self._known.items():
            count = self._spot.at(zone, seconds)
            if count == known:
                continue
            self._market.limit(zone, count, now=now, zone=zone)
            machines = self._market.machines(zone)
            staying = sum(1 for found in machines if found.exists and found.counts and found.notice is None)
            surplus = staying - count
            if surplus > 0:
                lost += len(self._market.reclaim(zone, now=now, count=surplus, zone=zone))
            self._known[zone] = count
        return lost


@dataclass(slots=True)
class _Tally:
    scenario: Scenario
    market: Market
    losses: int = 0
    _load: float = 0.0
    _missed: float = 0.0
    _overloaded: int = 0
    _scored: int = 0
    _hours: list[float] = field(default_factory=lambda: [0.0, 0.0])
    _turns: int = 0
    _last: int = 0
    _direction: int = 0
    _spent: Decimal = Decimal(0)
    _series: list[tuple[float, float, int, int]] = field(default_factory=list)
    _minute: bool = False
    _started: set[str] = field(default_factory=set)

    def note(
        self, seconds: float, now: datetime, load: float, serving: tuple[int, int], *, keep_series: bool
    ) -> None:
        """Take one step into account."""
        ready = sum(serving)
        if seconds == SCORED_FROM:
            self._spent = self._cost(now)
        self._turn(ready)
        self._note_starts()
        if keep_series and seconds % 60 == 0:
            self._series.append((seconds, load, *serving))
        if seconds < SCORED_FROM:
            return
        self._load += load
        self._missed += max(0.0, load - ready)
        self._minute |= load > ready + 1e-9
        if seconds % 60 == 50:
            self._scored += 1
            self._overloaded += self._minute
            self._minute = False
        step = STEP.total_seconds() / 3600
        self._hours[0] += serving[0] * step
        self._hours[1] += serving[1] * step

    def _note_starts(self) -> None:
        for pool in self.market.names:
            self._started.update(found.node for found in self.market.machines(pool) if found.exists)

    def _turn(self, ready: int) -> None:
        direction = (ready > self._last) - (ready < self._last)
        if direction and self._direction and direction != self._direction:
            self._turns += 1
        self._direction, self._last = direction or self._direction, ready

    def _cost(self, now: datetime) -> Decimal:
        return sum((bill.cost or Decimal(0) for bill in self.market.ledger(now=now).values()), Decimal(0))

    def score(self, name: str, end: datetime) -> Score:
        """Return the result."""
        cost = float(self._cost(end) - self._spent)
        hours = (self.scenario.demand.seconds - SCORED_FROM) / 3600
        peak = self.scenario.peak * float(self.scenario.terms.on_demand_price) * hours
        return Score(
            policy=name,
            cost_usd=cost,
            cost_share_of_static_peak=cost / peak,
            missed_load_share=self._missed / self._load if self._load else 0.0,
            overloaded_minutes_share=self._overloaded / self._scored if self._scored else 0.0,
            starts=len(self._started),
            losses=self.losses,
            flaps=self._turns,
            on_demand_hours=self._hours[0],
            spot_hours=self._hours[1],
            series=tuple(self._series),
        )


class PeerFleet:
    """Plays a peer: what it wants is asked of the market, what it wants no more is let go, starting machines first."""

    def __init__(self, scenario: Scenario, peer: Peer) -> None:
        self.market = scenario.market()
        self._scenario = scenario
        self._most = scenario.most
        self._peer = peer
        self._pools = (ON_DEMAND, *scenario.zones)
        self._serial = 0
        self._ready: dict[str, int] = dict.fromkeys(self._pools, 0)
        self._refusals: dict[str, datetime] = {}
        self._told: frozenset[str] = frozenset()

    def begin(self, replicas: int) -> None:
        """Ask for the first replicas on demand."""
        self._ask(ON_DEMAND, replicas, START)

    def serving(self) -> tuple[int, int]:
        """Replicas that serve on demand, and on spot."""
        on_demand = self._ready[ON_DEMAND]
        return on_demand, sum(self._ready.values()) - on_demand

    def step(self, now: datetime, load: float) -> None:
        """Look, let the peer decide, and ask."""
        self.market.advance(now)
        seen = self._look(now, load)
        wanted = self._peer.decide(seen)
        for pool in self._pools:
            self._ask(pool, min(wanted.get(pool, 0), self._most), now)

    def _look(self, now: datetime, load: float) -> Seen:
        starting, doomed = dict.fromkeys(self._pools, 0), dict.fromkeys(self._pools, 0)
        told: set[str] = set()
        lost: set[str] = set()
        for pool in self._pools:
            ready = 0
            for machine in self.market.machines(pool):
                if not machine.counts or not machine.exists:
                    continue
                if self._serves(machine, now):
                    ready += 1
                else:
                    starting[pool] += 1
                if machine.notice is not None:
                    doomed[pool] += 1
                    told.add(machine.id)
                    if machine.id not in self._told:
                        lost.add(pool)
            self._ready[pool] = ready
        self._told = frozenset(told)
        total = sum(self._ready.values())
        return Seen(
            seconds=(now - START).total_seconds(),
            utilization=min(1.0, load / total) if total else 1.0,
            running=min(load, float(total)),
            waiting=max(0.0, load - total),
            ready=dict(self._ready),
            starting=starting,
            doomed=doomed,
            refused=frozenset(self._newly_refused()),
            lost=frozenset(lost),
        )

    def _serves(self, machine: Machine, now: datetime) -> bool:
        is_up = machine.state is InstanceState.RUNNING
        return is_up and now - machine.since >= self._scenario.terms.load_time

    def _newly_refused(self) -> Iterator[str]:
        for pool in self._pools:
            refusals = self.market.pool_record(pool).refusals
            if refusals and refusals[-1].at > self._refusals.get(pool, START):
                self._refusals[pool] = refusals[-1].at
                yield pool

    def _ask(self, pool: str, wanted: int, now: datetime) -> None:
        record = self.market.pool_record(pool)
        granted = [found for found in record.machines if found.exists and found.counts]
        if wanted > record.desired:
            self.market.grow(pool, to=wanted, before=record.desired, token=self._token(), now=now)
            return
        if wanted < record.desired and record.desired > len(granted):
            to = max(wanted, len(granted))
            self.market.cancel_unfulfilled(pool, to=to, before=record.desired, token=self._token(), now=now)
        for machine in self._to_go(granted, len(granted) - wanted, now):
            self.market.remove(pool, instance=machine.id, node=machine.node, token=self._token(), now=now)

    def _to_go(self, granted: list[Machine], count: int, now: datetime) -> list[Machine]:
        """Return what goes first: what starts, the newest first."""
        ordered = sorted(granted, key=lambda found: (self._serves(found, now), -found.since.timestamp()))
        return ordered[: max(0, count)]

    def _token(self) -> str:
        self._serial += 1
        return f"peer-{self._serial}"
