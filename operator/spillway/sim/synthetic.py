"""Made-up demand and spot availability, the same for the same seed, so that everything runs without a recorded trace.

Nothing is claimed about any real service or market: the shapes are those that recorded ones have (traces §2): days and weekends with
noise and bursts on top; zones that come and go for hours, those of one region more often together than not.
"""

from math import cos, pi
from random import Random
from typing import Final

from spillway.sim.traces import Demand, Spot

NAME: Final = "synthetic"
MINUTE: Final = 60.0
DAY: Final = 86400.0
PEAK_HOUR: Final = 14.0
WEEKEND: Final = 0.6  # of a weekday's load
BURST_EVERY: Final = 8 * 3600.0  # on average
BURST_FADES: Final = 0.93  # a minute: half of it is gone after ten
NOISE_STAYS: Final = 0.9  # a minute, of 2 % noise drawn anew
REGIONS: Final = ("north-1", "south-1", "west-1")
LETTERS: Final = ("a", "b", "c")
UP_FOR: Final = 10 * 3600.0  # seconds on average that a zone has spot, between its own outages
DOWN_FOR: Final = 2 * 3600.0
REGION_UP_FOR: Final = 30 * 3600.0  # the same, between outages of a whole region
REGION_DOWN_FOR: Final = 1.5 * 3600.0


def demand(*, seed: int, days: float) -> Demand:
    """Return load by the minute, beginning on a Monday; its unit means nothing, scale it with `scaled_to`."""
    random = Random(f"demand {seed}")  # noqa: S311  a shape, no secret
    noise = burst = 0.0
    times, values = [], []
    for minute in range(max(2, round(days * DAY / MINUTE))):
        seconds = minute * MINUTE
        noise = NOISE_STAYS * noise + random.gauss(0.0, 0.02)
        burst *= BURST_FADES
        if random.random() < MINUTE / BURST_EVERY:
            burst += random.uniform(0.3, 1.2)
        times.append(seconds)
        values.append(max(0.0, _calm(seconds) * (1 + noise + burst)))
    return Demand(times=tuple(times), values=tuple(values))


def _calm(seconds: float) -> float:
    """Return the load of a day without noise: 1.3 at its peak, 0.3 twelve hours before."""
    hour = seconds % DAY / 3600
    is_weekend = int(seconds // DAY) % 7 >= 5
    wave = 0.8 + 0.5 * cos((hour - PEAK_HOUR) / 24 * 2 * pi)
    return wave * (WEEKEND if is_weekend else 1.0)


def spot(*, seed: int, days: float) -> Spot:
    """Return nine zones in three regions, each 0 or 1: give them instances with `times`."""
    random = Random(f"spot {seed}")  # noqa: S311  a shape, no secret
    seconds = max(DAY, days * DAY)
    zones = {}
    for region in REGIONS:
        shared = _outages(random, seconds, up=REGION_UP_FOR, down=REGION_DOWN_FOR)
        for letter in LETTERS:
            own = _outages(random, seconds, up=UP_FOR, down=DOWN_FOR)
            zones[f"{region}{letter}"] = _points([*shared, *own], seconds)
    return Spot(seconds=seconds, zones=zones)


def _outages(random: Random, seconds: float, *, up: float, down: float) -> list[tuple[float, float]]:
    """Return from when to when there is nothing, in whole minutes."""
    found = []
    at = random.expovariate(1 / up)
    while at < seconds:
        lasts = random.expovariate(1 / down)
        begin, end = round(at / MINUTE) * MINUTE, round((at + lasts) / MINUTE) * MINUTE
        if begin < end:
            found.append((begin, end))
        at += lasts + random.expovariate(1 / up)
    return found


def _points(outages: list[tuple[float, float]], seconds: float) -> tuple[tuple[float, int], ...]:
    """Return when a zone changes to 0 and to 1, before *seconds*, where outages may overlap."""
    merged: list[tuple[float, float]] = []
    for begin, end in sorted(outages):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((begin, end))
    changes = {0.0: 1}
    for begin, end in merged:
        changes |= {begin: 0, end: 1}
    return tuple((at, count) for at, count in sorted(changes.items()) if at < seconds)
