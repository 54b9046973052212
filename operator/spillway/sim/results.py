"""Policies side by side: which there are, their runs on all cores, and what comes of them as JSON and as a table."""

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from spillway.core.model import Workload
from spillway.sim import spillway
from spillway.sim.bound import Bound
from spillway.sim.peers import peers, spothedge_sweep
from spillway.sim.world import Fleet, PeerFleet, Scenario, Score, play

ALL: Final = "all"
SWEEP: Final = "spothedge-sweep"
ON_SPOT: Final = (
    "spot-only",
    "mix-",
    "spothedge-",
)  # how the names of those begin that have nothing without spot
LOOK_SECONDS: Final = 0.2  # between two looks at how far the runs are
NONE: Final = "-"

Progress = Callable[[str, float], None]


class UnknownPolicy(ValueError):
    """A name that no policy has, or one that the scenario has nothing for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One policy to be played in one scenario; *workload* concerns Spillway alone, None is the shipped default."""

    scenario: Scenario
    policy: str
    workload: Workload | None = None
    keep_series: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What a comparison came to; *bound* is None where it was not asked for."""

    scores: tuple[Score, ...]
    bound: Bound | None = None


def chosen(scenario: Scenario, names: Sequence[str]) -> tuple[str, ...]:
    """Return the policies that *names* stand for, each once: `all`, `spothedge-sweep`, or one by its name.

    `all` leaves out those that live on spot where there is none. Raises UnknownPolicy.
    """
    known = [spillway.NAME, *peers(scenario)]
    sweep = list(spothedge_sweep(scenario))
    found: list[str] = []
    for name in names:
        match name:
            case "all":
                found += [each for each in known if scenario.zones or not each.startswith(ON_SPOT)]
            case "spothedge-sweep":
                found += _on_spot(scenario, name, sweep)
            case _ if name in (*known, *sweep):
                found += _on_spot(scenario, name, [name])
            case _:
                raise UnknownPolicy(f"no policy {name!r}; there are {', '.join([ALL, *known, SWEEP])}")
    return tuple(dict.fromkeys(found))


def _on_spot(scenario: Scenario, name: str, policies: list[str]) -> list[str]:
    if name.startswith(ON_SPOT) and not scenario.zones:
        raise UnknownPolicy(f"policy {name!r} lives on spot, and there is no spot trace")
    return policies


def score(run: Run, progress: Callable[[float], None] = lambda _: None) -> Score:
    """Play one run."""
    return play(run.scenario, _fleet(run), name=run.policy, progress=progress, keep_series=run.keep_series)


def _fleet(run: Run) -> Fleet:
    if run.policy == spillway.NAME:
        return spillway.fleet(run.scenario, run.workload)
    makers = {**peers(run.scenario), **spothedge_sweep(run.scenario)}
    return PeerFleet(run.scenario, makers[run.policy]())


def score_all(
    runs: Sequence[Run], *, workers: int, progress: Progress = lambda _name, _share: None
) -> tuple[Score, ...]:
    """Play all runs, as many at a time as there are *workers*, and return their scores in the same order.

    One worker plays them in this process. *progress* is told the share of each that is done, here and never in a worker.
    """
    if workers == 1 or len(runs) == 1:
        return tuple(score(run, partial(progress, run.policy)) for run in runs)
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads of a progress bar
    done = context.Array("d", len(runs))
    with ProcessPoolExecutor(
        min(workers, len(runs)), mp_context=context, initializer=_remember, initargs=(done,)
    ) as pool:
        futures = [pool.submit(_work, index, run) for index, run in enumerate(runs)]
        try:
            waiting = set(futures)
            while waiting:
                ended, waiting = wait(waiting, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED)
                for future in ended:
                    future.result()  # what failed in a worker is raised here, at once
                for index, run in enumerate(runs):
                    progress(run.policy, done[index])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return tuple(future.result() for future in futures)


_shares: Any = None  # a worker's own view of how far all runs are; set once, before its first run


def _remember(shares: Any) -> None:  # noqa: ANN401  the type of a shared array is private
    global _shares  # noqa: PLW0603  an initializer has no other way to hand it on
    _shares = shares


def _work(index: int, run: Run) -> Score:
    def note(share: float) -> None:
        _shares[index] = share

    return score(run, note)


def document(results: Results) -> dict[str, Any]:
    """Return what `--format json` prints. Ratios are None without a bound; so is the bound."""
    return {
        "bound": _bound(results.bound),
        "runs": [_run(found, results.bound) for found in results.scores],
    }


def _bound(bound: Bound | None) -> dict[str, Any] | None:
    if bound is None:
        return None
    return {
        "baseline": bound.baseline,
        "cost_usd": bound.cost_usd,
        "free_cost_usd": bound.free_cost_usd,
        "on_demand_cost_usd": bound.on_demand_cost_usd,
        "is_whole": bound.is_whole,
    }


def _run(found: Score, bound: Bound | None) -> dict[str, Any]:
    return {
        "policy": found.policy,
        "cost_usd": found.cost_usd,
        "cost_share_of_static_peak": found.cost_share_of_static_peak,
        "ratio_to_bound": _ratio(found.cost_usd, bound.cost_usd if bound else None),
        "ratio_to_free_bound": _ratio(found.cost_usd, bound.free_cost_usd if bound else None),
        "missed_load_share": found.missed_load_share,
        "overloaded_minutes_share": found.overloaded_minutes_share,
        "starts": found.starts,
        "losses": found.losses,
        "flaps": found.flaps,
        "on_demand_hours": found.on_demand_hours,
        "spot_hours": found.spot_hours,
    }


def _ratio(cost: float, least: float | None) -> float | None:
    return cost / least if least else None


_COLUMNS: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "POLICY": lambda row: str(row["policy"]),
    "COST $": lambda row: f"{row['cost_usd']:,.0f}",
    "xPEAK": lambda row: f"{row['cost_share_of_static_peak']:.3f}",
    "xBOUND": lambda row: _times(row["ratio_to_bound"]),
    "xFREE": lambda row: _times(row["ratio_to_free_bound"]),
    "MISS %": lambda row: _percent(row["missed_load_share"], digits=3),
    "OVER %": lambda row: _percent(row["overloaded_minutes_share"], digits=2),
    "STARTS": lambda row: str(row["starts"]),
    "LOST": lambda row: NONE if row["losses"] is None else str(row["losses"]),
    "FLAPS": lambda row: str(row["flaps"]),
    "OD H": lambda row: f"{row['on_demand_hours']:.0f}",
    "SPOT H": lambda row: f"{row['spot_hours']:.0f}",
}


def table(results: Results) -> str:
    """Return the runs in the order they were given, at most 100 columns wide, with the bound below."""
    rows = document(results)["runs"]
    cells = [list(_COLUMNS), *([show(row) for show in _COLUMNS.values()] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_COLUMNS))]
    lines = [
        "  ".join(
            [
                line[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for line in cells
    ]
    return "\n".join([*lines, *_below(results.bound)])


def _times(ratio: float | None) -> str:
    return NONE if ratio is None else f"{ratio:.2f}"


def _percent(share: float | None, *, digits: int) -> str:
    return NONE if share is None else f"{share:.{digits}%}".removesuffix("%")


def _below(bound: Bound | None) -> list[str]:
    if bound is None:
        return []
    kind = "attained" if bound.is_whole else "a lower bound"
    held = f"{bound.cost_usd:,.0f} $ with {bound.baseline} on demand all the time"
    free, alone = f"{bound.free_cost_usd:,.0f} $ with none", f"{bound.on_demand_cost_usd:,.0f} $ without spot"
    return ["", f"Bound ({kind}): {held},", f"{free}, {alone}."]
