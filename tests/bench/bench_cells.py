"""The twelve cells: is Spillway cheaper than every peer that misses no more? Needs a folder of traces, which are not in this repository.

    .venv/bin/python -m tests.bench.bench_cells --traces FOLDER [--offsets 5] [--cells 'code*'] [--results FILE]

Each cell is one `spillway simulate`, whose command is printed with `--commands`. Demand is the second half of each trace and spot the second
half of its month: defaults were tuned on the first ones. What was computed is kept in the results file and not computed again.
"""

import fnmatch
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import click

from tests.bench import figures

SPOT: Final = "spot_avail_aws_v100_9az_2023.csv.gz"
SPOT_HALF: Final = 15
DEMANDS: Final = {
    "code": ("demand_azure_llm_code_2024_week_600s.csv", 3.5),
    "m-large": ("demand_servegen_mlarge_60s.csv.gz", 7.0),
}
COLD_STARTS: Final = (240, 600)
SIZES: Final = {
    "9-zones": (10, 4, "*"),
    "9-zones-100": (100, 40, "*"),
    "us-east-1": (10, 4, "us-east-1*"),
}
OWN: Final = "spillway"
HPA: Final = "hpa-0.7"
Found = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell at one offset of the spot trace against the demand."""

    name: str
    offset: float
    arguments: tuple[str, ...]

    @property
    def key(self) -> str:
        """By what its result is kept."""
        return f"{self.name} +{self.offset:g}d"


def cells(traces: Path, offsets: int) -> Iterator[Cell]:
    """Yield all cells, those of small fleets first, since they are quick."""
    for size, (mean, capacity, zones) in sorted(SIZES.items(), key=lambda item: item[1][0]):
        for demand, (file, days) in DEMANDS.items():
            for cold in COLD_STARTS:
                for index in range(offsets):
                    offset = SPOT_HALF + index * (SPOT_HALF - days) / max(1, offsets - 1)
                    yield Cell(
                        name=f"{demand} {cold} {size}",
                        offset=offset,
                        arguments=(
                            "--demand", str(traces / file), "--demand-offset-days", f"{days:g}", "--days", f"{days:g}",
                            "--spot", str(traces / SPOT), "--spot-offset-days", f"{offset:g}", "--zones", zones,
                            "--zone-capacity", str(capacity), "--mean-replicas", str(mean), "--cold-start", str(cold),
                        ),
                    )  # fmt: skip


def play(cell: Cell, policies: str) -> Found:
    """Run one cell and return its document."""
    command = simulate(cell, policies)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: Found = json.loads(done.stdout)
    return found


def simulate(cell: Cell, policies: str) -> list[str]:
    """Return the command that plays *cell*."""
    program = str(Path(sys.executable).with_name("spillway"))
    return [program, "simulate", *cell.arguments, "--policies", policies, "--bound", "--format", "json"]


def rows(found: dict[str, Found]) -> Iterator[tuple[str, ...]]:
    """Yield a row for each cell: medians over its offsets, and how often a peer that misses no more is cheaper."""
    names = dict.fromkeys(key.rsplit(" +", 1)[0] for key in found)
    for name in names:
        at = [document for key, document in found.items() if key.rsplit(" +", 1)[0] == name]
        own = [run_of(document, OWN) for document in at]
        hpa = [run_of(document, HPA) for document in at]
        best = [cheapest_as_good(document) for document in at]
        lost = sum(1 for mine, other in zip(own, best, strict=True) if other["cost_usd"] < mine["cost_usd"])
        saved = [1 - mine["cost_usd"] / other["cost_usd"] for mine, other in zip(own, best, strict=True)]
        yield (
            name,
            str(len(at)),
            f"{middle(own, 'cost_usd'):,.0f}",
            f"{middle(own, 'ratio_to_bound'):.2f}",
            f"{middle(own, 'missed_load_share'):.3%}",
            f"{middle(hpa, 'missed_load_share'):.3%}",
            max((run["policy"] for run in best), key=[run["policy"] for run in best].count),
            f"{median(saved):+.0%}",
            str(lost) if lost else "none",
        )


def run_of(document: Found, policy: str) -> Found:
    """Return one policy's run."""
    found: Found = next(run for run in document["runs"] if run["policy"] == policy)
    return found


def cheapest_as_good(document: Found) -> Found:
    """Return the cheapest peer that misses no more than Spillway; the one that misses least where none does."""
    mine = run_of(document, OWN)
    others = [run for run in document["runs"] if run["policy"] != OWN]
    as_good = [run for run in others if run["missed_load_share"] <= mine["missed_load_share"]]
    found: Found = min(
        as_good or others, key=lambda run: run["cost_usd"] if as_good else run["missed_load_share"]
    )
    return found


def middle(runs: Sequence[Found], name: str) -> float:
    """Return the median of one figure."""
    return float(median(run[name] for run in runs))


HEAD: Final = ("cell", "runs", "USD", "ratio", "missed", "hpa-0.7", "best as good", "saved", "beaten")


def table(found: dict[str, Found]) -> str:
    """Return the results as a table that fits 100 columns."""
    return "\n".join(figures.table(HEAD, list(rows(found))))


@click.command()
@click.option("--traces", type=click.Path(path_type=Path, exists=True), help="Folder of the traces.")
@click.option("--offsets", type=click.IntRange(min=1), default=1, help="Offsets of spot against demand.")
@click.option("--cells", "pattern", default="*", help="Only cells of these names, such as 'code 240*'.")
@click.option("--policies", default=f"{OWN},all,spothedge-sweep", help="As of `spillway simulate`.")
@click.option(
    "--results", type=click.Path(path_type=Path), default=Path("build/cells.json"), help="What is kept."
)
@click.option("--commands", is_flag=True, help="Print the commands and do nothing.")
def main(
    traces: Path | None, offsets: int, pattern: str, policies: str, results: Path, *, commands: bool
) -> None:
    """Play the twelve cells that have no result yet, and print the table of all that have one."""
    if traces is None:
        click.echo(
            "skipped: give --traces FOLDER; the traces are not in this repository (docs/simulate.md says where they are)"
        )
        return
    known: dict[str, Found] = json.loads(results.read_text()) if results.exists() else {}
    wanted = [cell for cell in cells(traces, offsets) if fnmatch.fnmatch(cell.name, pattern)]
    if commands:
        for cell in wanted:
            click.echo(" ".join(simulate(cell, policies)))
        return
    todo = [cell for cell in wanted if cell.key not in known]
    for number, cell in enumerate(todo, 1):
        click.echo(f"{number} of {len(todo)}: {cell.key}", err=True)
        known[cell.key] = play(cell, policies)
        results.parent.mkdir(parents=True, exist_ok=True)
        results.write_text(json.dumps(known))
    click.echo(table(known))


if __name__ == "__main__":
    main()
