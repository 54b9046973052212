"""The least that any policy could have paid, had it known everything beforehand, with nothing missed.

A linear program over whole minutes (traces §6), solved by HiGHS: by pool k and minute t, `n` machines that serve and `l` that start.

    minimise   sum price_k (n_k(t) + minutes of the window in which l_k(t) starts)     starting is paid
    n_k(t) <= n_k(t-1) + l_k(t-d)                     serves only after a cold start of d minutes; letting go is free
    n_z(t) + sum_{j<d} l_z(t-j) <= there_z(t)         a zone holds what it has, and what it told of its end until that
    l_z(t) <= open_z(t)                               it grants only what it has
    sum_k n_k(t) >= need(t),  n_on-demand(t) >= baseline

It begins where scores begin, with whatever it likes ready or starting, which is kind to it. It is exact where demand and spot
change on whole minutes and the cold start is whole minutes; a cold start is rounded down. On demand alone has a closed form.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from math import ceil
from typing import Any, Final

from spillway.sim.traces import Demand, Spot
from spillway.sim.world import SCORED_FROM, STEP, Scenario, whole

MINUTE: Final = 60.0
EXTRA: Final = "pip install 'spillway[sim]'"
WHOLE_WITHIN: Final = 1e-6  # HiGHS keeps its constraints to 1e-7


class BoundUnavailable(RuntimeError):
    """The bound could not be computed: no solver, or none of its answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """Dollars from the third hour on. `cost_usd` holds the baseline on demand all the time, `free_cost_usd` holds none.

    `on_demand_cost_usd` is the closed form without spot, with the baseline. `is_whole` says that both plans count whole machines:
    then they are attained, else they are lower bounds.
    """

    baseline: int
    cost_usd: float
    free_cost_usd: float
    on_demand_cost_usd: float
    is_whole: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """Machines of one spot zone, by minute: how many it grants, and how many can be there, counting those under notice."""

    grants: tuple[int, ...]
    holds: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is to be carried, with prices for a minute. `need` is in whole replicas by minute, `cold` in minutes."""

    need: tuple[int, ...]
    cold: int
    on_demand_price: float
    spot_price: float = 0.0
    zones: tuple[Zone, ...] = ()
    baseline: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimum:
    """The least cost of a problem, and whether its plan counts whole machines."""

    cost: float
    is_whole: bool


def bound(scenario: Scenario, *, baseline: int) -> Bound:
    """Return the least cost of a scenario. Raises BoundUnavailable without scipy, ValueError if nothing is scored."""
    problem = problem_of(scenario, baseline=baseline)
    held = optimum(problem)
    free = held if not baseline else optimum(replace(problem, baseline=0))
    alone = on_demand_only([max(need, baseline) for need in problem.need], cold=problem.cold)
    return Bound(
        baseline=baseline,
        cost_usd=held.cost,
        free_cost_usd=free.cost,
        on_demand_cost_usd=alone * problem.on_demand_price,
        is_whole=held.is_whole and free.is_whole,
    )


def problem_of(scenario: Scenario, *, baseline: int) -> Problem:
    """Return what a scenario comes to on whole minutes, from where scores begin. Raises ValueError if that is nothing."""
    terms, spot = scenario.terms, scenario.spot
    notice = ceil(terms.notice.total_seconds() / MINUTE)
    minutes = int((scenario.demand.seconds - SCORED_FROM) // MINUTE)
    if minutes < 1:
        raise ValueError(
            f"the demand lasts {scenario.demand.seconds:g} s; scores begin at {SCORED_FROM:g} s, give more"
        )
    return Problem(
        need=_needs(scenario.demand, minutes),
        cold=int(terms.cold_start.total_seconds() // MINUTE),
        on_demand_price=float(terms.on_demand_price) / 60,
        spot_price=float(terms.spot_price) / 60,
        zones=() if spot is None else tuple(_zone(spot, zone, minutes, notice) for zone in scenario.zones),
        baseline=baseline,
    )


def _needs(demand: Demand, minutes: int) -> tuple[int, ...]:
    return tuple(whole(demand.at(SCORED_FROM + minute * MINUTE)) for minute in range(minutes))


def _zone(spot: Spot, zone: str, minutes: int, notice: int) -> Zone:
    offsets = [index * STEP.total_seconds() for index in range(int(MINUTE / STEP.total_seconds()))]
    granted = [
        max(spot.at(zone, SCORED_FROM + minute * MINUTE + offset) for offset in offsets)
        for minute in range(-notice, minutes)
    ]
    holds = (max(granted[minute : minute + notice + 1]) for minute in range(minutes))
    return Zone(grants=tuple(granted[notice:]), holds=tuple(holds))


def on_demand_only(need: Sequence[int], *, cold: int) -> int:
    """Return the fewest machine-minutes on demand that carry *need*: level by level, each gap is kept or started through.

    Level k is on where need is k or more. A gap of g minutes costs min(g, cold); what follows the last need costs nothing.
    """
    # need 1 0 0 0 1 with a cold start of 2: 1 + min(3, 2) + 1 = 4
    return sum(_level([count >= level for count in need], cold) for level in range(1, max(need) + 1))


def _level(is_on: Sequence[bool], cold: int) -> int:
    runs = [(on, sum(1 for _ in run)) for on, run in groupby(is_on)]
    if not runs[-1][0]:
        runs.pop()
    return sum(length if on else min(length, cold) for on, length in runs)


def optimum(problem: Problem) -> Optimum:
    """Solve the linear program. Raises BoundUnavailable without scipy or without an answer."""
    program = _Program()
    pools = [_on_demand(program, problem)]
    pools += [_spot(program, problem, zone) for zone in problem.zones]
    for minute, need in enumerate(problem.need):
        program.at_most(-float(need), {pool[minute]: -1.0 for pool in pools})
    return program.solve()


@dataclass(slots=True)
class _Program:
    """A linear program that is being written: variables by number, rows that are at most something."""

    costs: list[float] = field(default_factory=list)
    bounds: list[tuple[float, float | None]] = field(default_factory=list)
    limits: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)

    def variable(self, cost: float, least: float, most: float | None) -> int:
        """Add a variable and return its number."""
        self.costs.append(cost)
        self.bounds.append((least, most))
        return len(self.costs) - 1

    def at_most(self, limit: float, terms: Mapping[int, float]) -> None:
        """Add a row."""
        self.rows += [len(self.limits)] * len(terms)
        self.columns += terms.keys()
        self.factors += terms.values()
        self.limits.append(limit)

    def solve(self) -> Optimum:
        """Return the least cost."""
        optimize, sparse = _scipy()
        shape = (len(self.limits), len(self.costs))
        matrix = sparse.csr_array((self.factors, (self.rows, self.columns)), shape=shape)
        found = optimize.linprog(
            self.costs, A_ub=matrix, b_ub=self.limits, bounds=self.bounds, method="highs"
        )
        if found.status != 0:
            raise BoundUnavailable(f"the solver gave no optimum: {found.message}")
        is_whole = all(abs(value - round(value)) <= WHOLE_WITHIN for value in found.x.tolist())
        return Optimum(cost=float(found.fun), is_whole=is_whole)


def _on_demand(program: _Program, problem: Problem) -> list[int]:
    minutes, price = len(problem.need), problem.on_demand_price
    serving = [program.variable(price, float(problem.baseline), None) for _ in range(minutes)]
    _starts(program, problem, serving, price=price, most=(None,) * minutes)
    return serving


def _spot(program: _Program, problem: Problem, zone: Zone) -> list[int]:
    price = problem.spot_price
    serving = [program.variable(price, 0.0, float(most)) for most in zone.holds]
    starts = _starts(program, problem, serving, price=price, most=zone.grants)
    for minute, most in enumerate(zone.holds):
        starting = [starts[begun] for begun in range(minute - problem.cold + 1, minute + 1)]
        program.at_most(float(most), dict.fromkeys([serving[minute], *starting], 1.0))
    return serving


def _starts(
    program: _Program,
    problem: Problem,
    serving: Sequence[int],
    *,
    price: float,
    most: Sequence[int | None],
) -> dict[int, int]:
    """Add what starts in each minute, from a cold start before the first, paid within the window only."""
    minutes, cold = len(serving), problem.cold
    starts = {}
    for minute in range(-cold, minutes):
        paid = min(minutes, minute + cold) - max(0, minute)
        limit = most[minute] if minute >= 0 else None
        starts[minute] = program.variable(price * paid, 0.0, None if limit is None else float(limit))
    for minute in range(1, minutes):
        grown = {serving[minute]: 1.0, serving[minute - 1]: -1.0, starts[minute - cold]: -1.0}
        program.at_most(0.0, grown)
    return starts


def _scipy() -> tuple[Any, Any]:  # scipy ships no types
    try:
        from scipy import optimize, sparse  # noqa: PLC0415  an extra: nothing else needs it
    except ImportError as exc:
        raise BoundUnavailable(f"the bound needs scipy; install it with {EXTRA}") from exc
    return optimize, sparse
