"""`spillway simulate`: Spillway beside other autoscalers on the same demand, machines, refusals and losses."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from functools import partial
from math import inf, isfinite
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import yaml

from spillway.api.convert import Converted, Invalid, lint, to_policy, to_workload
from spillway.api.policies import Policy
from spillway.cli import history
from spillway.core.model import Mode, Workload
from spillway.sim import report, spillway, synthetic
from spillway.sim.bound import BoundUnavailable, bound
from spillway.sim.cluster import NAMESPACE
from spillway.sim.results import (
    Progress,
    Results,
    Run,
    UnknownPolicy,
    chosen,
    document,
    score_all,
    table,
)
from spillway.sim.traces import Demand, Spot, TraceError, read_demand, read_spot
from spillway.sim.world import SCORED_FROM, Scenario, Terms

DAY: Final = 86400.0
LEAST_SECONDS: Final = SCORED_FROM + 60.0
DEFAULT_DAYS: Final = 7.0
DEFAULT_MEAN: Final = 10.0
SPOT_DAYS: Final = 30.0  # of the synthetic market, so that offsets have something to slide over
_DEFAULT: Final = click.core.ParameterSource.DEFAULT
KINDS: Final = ("GpuWorkload", "GpuPolicy")

F = TypeVar("F", bound=Callable[..., Any])


class _Finite(click.FloatRange):
    """A number in a range; float() also reads nan and inf, which compare with nothing."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401  click's own signature
        number = float(super().convert(value, param, ctx))
        if not isfinite(number):
            self.fail(f"{value} is no finite number", param, ctx)
        return number


_POSITIVE: Final = _Finite(min=0, min_open=True)
_FROM_ZERO: Final = _Finite(min=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """The flags, as they were given."""

    demand: str | None
    demand_column: str | None
    spot: str | None
    zones: str | None
    zone_capacity: int
    days: float | None
    demand_offset_days: float
    spot_offset_days: float
    mean_replicas: float | None
    cold_start: float
    cold_start_spread: float
    on_demand_price: float
    spot_price: float
    notice: float
    workload: Path | None
    policies: str
    bound: bool
    seed: int
    format: str
    output: Path | None


def _trace_options(command: F) -> F:
    """Add the flags that say what is played."""
    for option in reversed(
        (
            click.option("--demand", metavar="FILE", help="Demand as CSV, or synthetic."),
            click.option("--demand-column", metavar="NAME", help="Its column; else the one that is known."),
            click.option("--spot", metavar="FILE", help="Spot availability as CSV, or synthetic; else none."),
            click.option("--zones", metavar="GLOB", help="Only the spot zones of these names."),
            click.option(
                "--zone-capacity",
                type=click.IntRange(min=1),
                default=4,
                help="Instances of a zone whose series is 0 and 1; counts stay as they are.",
            ),
            click.option(
                "--days",
                type=_POSITIVE,
                show_default="7; with --prometheus all",
                help="Days to play, if the demand has them.",
            ),
            click.option("--demand-offset-days", type=_FROM_ZERO, default=0, help="Begin so late in it."),
            click.option(
                "--spot-offset-days", type=_FROM_ZERO, default=0, help="Slide spot against demand; it wraps."
            ),
            click.option(
                "--mean-replicas",
                type=_POSITIVE,
                show_default="10; with --prometheus as recorded",
                help="Scale the demand to this mean.",
            ),
        )
    ):
        command = option(command)
    return command


def _term_options(command: F) -> F:
    """Add the flags that say what things cost and how long they take."""
    for option in reversed(
        (
            click.option(
                "--cold-start", type=_POSITIVE, default=240, help="Seconds from a grant until it serves."
            ),
            click.option(
                "--cold-start-spread",
                type=_Finite(min=0, max=1),
                default=0,
                help="Share of a machine's part of it, drawn evenly around.",
            ),
            click.option("--on-demand-price", type=_POSITIVE, default=3.06, help="Dollars an hour."),
            click.option("--spot-price", type=_FROM_ZERO, default=0.918, help="Dollars an hour."),
            click.option("--notice", type=_FROM_ZERO, default=120, help="Seconds before spot is taken back."),
            click.option("--seed", type=int, default=1, help="Of everything that is drawn."),
        )
    ):
        command = option(command)
    return command


@click.command(context_settings={"show_default": True})
@_trace_options
@history.options
@_term_options
@click.option(
    "--workload",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A GpuWorkload (and its GpuPolicy) as YAML; else the shipped defaults.",
)
@click.option("--policies", default="all", metavar="all|NAME,…", help="spillway, peers, spothedge-sweep.")
@click.option("--bound", is_flag=True, help="Compute the least cost that was possible; needs scipy.")
@click.option("--format", type=click.Choice(["table", "json", "html"]), default="table")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Write there instead.")
@click.pass_context
def simulate(context: click.Context, /, **given: Any) -> None:  # noqa: ANN401  click's values, typed by Choices
    """Play Spillway beside other autoscalers: same demand, same machines, same refusals and losses.

    One replica a machine, 10 s steps, no queue: load above what serves is missed. Costs count from the third hour on. Rank by
    cost only what misses equally little.
    """
    asked = history.taken(given, lambda name: context.get_parameter_source(name) is not _DEFAULT)
    choices = Choices(**given)
    _check(choices)
    try:
        workload = _workload(choices.workload) if choices.workload else None
        own = _read(asked) if asked else None
        scenario = _scenario(choices, own)
        names = chosen(scenario, [name.strip() for name in choices.policies.split(",")])
        results = _results(choices, scenario, workload, names)
        _write(choices, _shown(choices, scenario, results, _beside(choices, scenario, own)))
    except (TraceError, UnknownPolicy, BoundUnavailable, OSError) as exc:
        raise click.ClickException(str(exc)) from exc


def _read(asked: history.Asked) -> history.Recorded:
    with _progress() as progress:
        return history.read(asked, partial(progress, "reading Prometheus"))


def _results(
    choices: Choices, scenario: Scenario, workload: Workload | None, names: tuple[str, ...]
) -> Results:
    own = workload or spillway.shipped(scenario)
    least = bound(scenario, baseline=own.capacity.baseline) if choices.bound else None
    runs = [
        Run(
            scenario=scenario,
            policy=name,
            workload=workload,
            keep_series=choices.format == "html" and name == names[0],
        )
        for name in names
    ]
    with _progress() as progress:
        scores = score_all(runs, workers=os.cpu_count() or 1, progress=progress)
    return Results(scores=scores, bound=least)


def _scenario(choices: Choices, own: history.Recorded | None) -> Scenario:
    terms = Terms(
        cold_start=timedelta(seconds=choices.cold_start),
        notice=timedelta(seconds=choices.notice),
        on_demand_price=Decimal(str(choices.on_demand_price)),
        spot_price=Decimal(str(choices.spot_price)),
        spread=choices.cold_start_spread,
        seed=choices.seed,
    )
    return Scenario(demand=_demand(choices, own), spot=_spot(choices), terms=terms)


def _check(choices: Choices) -> None:
    if choices.bound and choices.cold_start_spread:
        raise click.UsageError("--bound needs an exact cold start; leave out --cold-start-spread")
    if choices.spot is None and (choices.zones or choices.spot_offset_days):
        raise click.UsageError("--zones and --spot-offset-days need --spot")


def _demand(choices: Choices, own: history.Recorded | None) -> Demand:
    if own is not None:
        part, mean = _played(choices, own.history.demand, str(own), days=inf), choices.mean_replicas
        return part if mean is None else part.scaled_to(mean)
    name = str(choices.demand)
    if name == synthetic.NAME:
        days = choices.demand_offset_days + (choices.days or DEFAULT_DAYS)
        whole = synthetic.demand(seed=choices.seed, days=days)
    else:
        whole = read_demand(Path(name), choices.demand_column)
    part = _played(choices, whole, name, days=DEFAULT_DAYS)
    return part.scaled_to(choices.mean_replicas or DEFAULT_MEAN)


def _played(choices: Choices, whole: Demand, name: str, *, days: float) -> Demand:
    """Return the part of *whole* that the flags choose, so many days where they name none."""
    start = choices.demand_offset_days * DAY
    seconds = min((choices.days or days) * DAY, whole.seconds - start)
    if seconds < LEAST_SECONDS:
        raise TraceError(
            f"{name}: {max(0.0, seconds):g} s of demand are left to play; scores begin at "
            f"{SCORED_FROM:g} s, so it takes {LEAST_SECONDS:g} s or more"
        )
    part = _lasting(whole.part(start=start, seconds=seconds), seconds)
    if not any(part.values):
        raise TraceError(f"{name}: all of the demand that is played is 0; nothing can be compared")
    return part


def _lasting(part: Demand, seconds: float) -> Demand:
    """Return demand that lasts so long exactly: its last value holds as long as the one before, so that one is put half way."""
    if part.seconds == seconds:
        return part
    half_way = (part.times[-1] + seconds) / 2
    return Demand(times=(*part.times, half_way), values=(*part.values, part.values[-1]))


def _spot(choices: Choices) -> Spot | None:
    if choices.spot is None:
        return None
    if choices.spot == synthetic.NAME:
        found = synthetic.spot(seed=choices.seed, days=SPOT_DAYS)
    else:
        found = read_spot(Path(choices.spot))
    if choices.zones:
        found = found.only(choices.zones)
    if choices.spot_offset_days:
        found = found.shifted(choices.spot_offset_days * DAY)
    is_series = all(count <= 1 for points in found.zones.values() for _, count in points)
    return found.times(choices.zone_capacity) if is_series else found


def _workload(path: Path) -> Workload:
    """Return the one GpuWorkload of a file, merged with the policies beside it. Other kinds are passed over.

    The pools of the simulation stand for those that it selects, and Observe is played as Enforce: what it would do.
    """
    documents = [found for found in _documents(path) if found.get("kind") in KINDS]
    problems = [problem.message for found in documents for problem in lint(found)]
    own = [found for found in documents if found["kind"] == "GpuWorkload"]
    if problems or len(own) != 1:
        raise click.ClickException(f"{path}: {'; '.join(problems) or f'{len(own)} GpuWorkloads; give one'}")
    rules = [_valid(path, to_policy(_stored(found))) for found in documents if found["kind"] == "GpuPolicy"]
    labels = {"kubernetes.io/metadata.name": str(own[0]["metadata"].get("namespace", NAMESPACE))}
    workload = _valid(path, to_workload(_stored(own[0]), policies=rules, namespace_labels=labels)).workload
    if workload.unresolved:
        raise click.ClickException(f"{path}: {workload.unresolved}; put the GpuPolicy into the same file")
    mode = Mode.ENFORCE if workload.mode is Mode.OBSERVE else workload.mode
    return replace(workload, mode=mode, capacity=replace(workload.capacity, pool_selector={}))


_Good = TypeVar("_Good", Converted, Policy)


def _valid(path: Path, found: _Good | Invalid) -> _Good:
    if isinstance(found, Invalid):
        raise click.ClickException(f"{path}: {found.message}")
    return found


def _documents(path: Path) -> list[Mapping[str, Any]]:
    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise click.ClickException(f"{path}: cannot be read as YAML ({exc})") from exc
    return [found for found in documents if isinstance(found, Mapping)]


def _stored(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest as the API server would store it."""
    metadata = {
        **manifest["metadata"],
        "namespace": NAMESPACE,
        "uid": f"simulated-{manifest['metadata']['name']}",
        "generation": 1,
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    return {**manifest, "metadata": metadata}


def _shown(choices: Choices, scenario: Scenario, results: Results, beside: history.Beside | None) -> str:
    facts = _facts(choices, scenario, beside)
    if beside is not None:
        results = beside.joined(results)
    told = [] if beside is None else beside.told(results)
    match choices.format:
        case "json":
            found = document(results) | ({} if beside is None else {"history": beside.document()})
            return json.dumps(found, indent=2, allow_nan=False)
        case "html":
            return report.render(results, title="Spillway in simulated time", facts=" ".join([facts, *told]))
        case _:
            return "\n\n".join([facts, table(results), *(["\n".join(told)] if told else [])])


def _beside(choices: Choices, scenario: Scenario, own: history.Recorded | None) -> history.Beside | None:
    if own is None:
        return None
    days = scenario.demand.seconds / DAY
    played = own.history.part(start_days=choices.demand_offset_days, days=days)
    scale = 1.0 if choices.mean_replicas is None else choices.mean_replicas / played.mean_load
    return history.Beside(name=str(own), history=played, scenario=scenario, scale=scale)


def _facts(choices: Choices, scenario: Scenario, beside: history.Beside | None) -> str:
    demand, mean = Path(str(choices.demand)).name, choices.mean_replicas or DEFAULT_MEAN
    if beside is not None:
        demand, mean = beside.name, beside.mean_replicas
    spot = Path(choices.spot).name if choices.spot else "none"
    return (
        f"{scenario.demand.seconds / DAY:.3g} days of {demand}, {mean:.4g} replicas on average; "
        f"spot: {spot}, {len(scenario.zones)} zones; cold start {choices.cold_start:g} s, seed {choices.seed}."
    )


def _write(choices: Choices, text: str) -> None:
    if choices.output is None:
        click.echo(text)
    else:
        choices.output.write_text(text + "\n", encoding="utf-8")


@contextmanager
def _progress() -> Iterator[Progress]:
    """Yield what is told how far each run is: bars on a terminal that has rich, else nothing."""
    bars = _bars() if sys.stderr.isatty() else None
    if bars is None:
        yield lambda _name, _share: None
        return
    tasks: dict[str, Any] = {}

    def note(name: str, share: float) -> None:
        if name not in tasks:
            tasks[name] = bars.add_task(name, total=1.0)
        bars.update(tasks[name], completed=share)

    with bars:
        yield note


def _bars() -> Any:  # noqa: ANN401  None without rich, which the operator's image has not
    try:
        from rich.console import Console  # noqa: PLC0415  an extra
        from rich.progress import Progress as Bars  # noqa: PLC0415  an extra
    except ImportError:
        return None
    return Bars(console=Console(stderr=True), transient=True)
