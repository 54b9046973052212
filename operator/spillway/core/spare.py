"""How many spot replicas beyond the count are worth their money, and how many stand-ins on demand.

A replica is worth having by how much of it would probably be used: because load grows while a replacement comes up, or because
a spot pool is taken back and all that runs there goes at once. Spot is added in the pool that loses least by it while it is worth
more than its price; on demand costs several times as much and has to be worth as much more. See docs/design/0011-spare.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from spillway.core.growth import Growth
from spillway.core.memory import Peaks, with_peak

WORTH: Final = 0.012  # of a spot replica, at a missed load of 0.1 %: chosen by the simulator
TARGET: Final = 0.001
STEEPNESS: Final = 1.5  # missed load falls with the worth asked for, to the power of 2/3
LOSS_WEIGHT: Final = 4.0  # a pool that is lost takes all of its replicas, and often its neighbours' with them
ON_DEMAND_WORTH: Final = 2.5  # times the price ratio: stand-ins are also bought for a short time only
PRICE_RATIO: Final = 3.33  # where prices are unknown
HELD: Final = timedelta(seconds=300)  # and 0.6 of a cold start, before what is surplus goes
HELD_SHARE: Final = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What a workload has, or surely will have, in one spot pool. `chance` is that of losing it within one cold start.

    `room` is how many more replicas the pool may take.
    """

    pool: str
    count: int
    chance: float
    room: int

    @property
    def exposure(self) -> float:
        """What one more replica there would add to a loss."""
        return self.chance * (self.count + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """All that worth follows from: how load may grow, what is held where, and what a replica has to be worth."""

    growth: Growth
    holdings: tuple[Holding, ...]
    spot_worth: float
    on_demand_worth: float

    def worth(self, total: int, *, without: str = "") -> float:
        """Return what one more replica than *total* is worth, whatever the pool *without* may lose."""
        worth = self.growth.worth(total)
        for held in self.holdings:
            if held.count and held.pool != without:
                worth += held.chance * self.growth.worth(total - held.count)
        return worth

    @property
    def return_worth(self) -> float:
        """What a stand-in has to be worth to stay once spot is Ready: less than to be bought, or it would come and go."""
        return ON_DEMAND_WORTH * self.spot_worth

    @property
    def spot(self) -> int:
        """All that is held on spot."""
        return sum(held.count for held in self.holdings)

    def changed(self, pool: str, by: int) -> "Outlook":
        """Return the same with more or less in one pool."""
        return replace(
            self,
            holdings=tuple(
                replace(held, count=held.count + by, room=held.room - by) if held.pool == pool else held
                for held in self.holdings
            ),
        )


def worth_asked(missed_load: float) -> float:
    """Return what a spot replica has to be worth where *missed_load*, a share of all load, is the target."""
    # 0.1 % asks for 0.012; half of that, 0.05 %, for 0.012 * 0.5 ** 1.5 = 0.0042
    return float(WORTH * (missed_load / TARGET) ** STEEPNESS)


def loss_chance(*, losses: float, held_hours: float, gap: timedelta) -> float:
    """Return the weighted chance that a pool is taken back within *gap*, from its own record; one loss in 8 hours to begin with."""
    hazard = (1 + losses) / (8 + held_hours)
    return min(1.0, LOSS_WEIGHT * hazard * (gap / timedelta(hours=1)))


def with_floating(outlook: Outlook, count: int) -> Outlook:
    """Add *count* replicas that have no node yet where the next ones will be asked for."""
    for _ in range(count):
        best = _best(outlook.holdings)
        if best is None:
            return outlook
        outlook = outlook.changed(best.pool, 1)
    return outlook


def _best(holdings: Sequence[Holding]) -> Holding | None:
    return min(
        (held for held in holdings if held.room > 0),
        key=lambda held: (held.exposure, held.pool),
        default=None,
    )


def burst_worth_having(outlook: Outlook, *, on_demand: int, need: int, most: int) -> int:
    """Return how many spot replicas are worth having in all, from *need* to *most*, beside so many on demand."""
    before = outlook.spot
    while (count := outlook.spot) < most:
        best = _best(outlook.holdings)
        if best is None:
            break
        if count >= need and outlook.worth(on_demand + count, without=best.pool) < outlook.spot_worth:
            break
        outlook = outlook.changed(best.pool, 1)
    if outlook.spot > before:
        return max(need, outlook.spot)
    while (count := outlook.spot) > need:
        worst = max(
            (held for held in outlook.holdings if held.count),
            key=lambda held: (held.chance * held.count, held.pool),
        )
        fewer = outlook.changed(worst.pool, -1)
        if fewer.worth(on_demand + count - 1) >= outlook.spot_worth:
            break
        outlook = fewer
    return max(need, min(most, outlook.spot))


def stand_ins_worth_having(outlook: Outlook, *, on_demand: int, most: int) -> int:
    """Return how many on demand, up to *most*, are worth their price beside *on_demand* that are there anyway."""
    count = 0
    while count < most and outlook.worth(on_demand + count + outlook.spot) >= outlook.on_demand_worth:
        count += 1
    return count


def in_words(outlook: Outlook, *, cold_start: timedelta) -> str:
    """Say what spare replicas are kept for: the growth of the load, and the pool that would take most with it."""
    growth, seconds = outlook.growth, cold_start.total_seconds()
    told = f"load {growth.load:.1f} may reach {growth.likely_most:.1f} in the {seconds:.0f} s a new replica takes"
    worst = max(outlook.holdings, key=lambda found: found.chance * found.count, default=None)
    if worst is None or not worst.count or not worst.chance:
        return told
    every = LOSS_WEIGHT * seconds / 3600 / worst.chance
    return f"{told}; most is at stake in {worst.pool}: {worst.count} replicas, lost about every {every:.0f} h"


def noted(spares: Peaks, spare: int, *, cold_start: timedelta, now: datetime) -> Peaks:
    """Return *spares* with one more entry: the first of them is the most that was worth having while it is held."""
    return with_peak(spares, spare, at=now, keeps=HELD + HELD_SHARE * cold_start)


def price_ratio(prices: Mapping[bool, float]) -> float:
    """Return on-demand's price by spot's, of the cheapest pool of each; a usual one where either is unknown."""
    spot, on_demand = prices.get(True), prices.get(False)
    return on_demand / spot if spot and on_demand else PRICE_RATIO
