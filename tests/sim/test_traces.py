"""Traces are read whole or not at all, and what is wrong with one is said by line and column."""

import gzip
import os
from itertools import pairwise
from pathlib import Path

import pytest

from spillway.sim import synthetic
from spillway.sim.traces import Demand, Spot, TraceError, read_demand, read_spot

RECORDED = Path(os.environ.get("SPILLWAY_TRACES") or Path(__file__).parents[3] / "shared" / "traces")
needs_recorded = pytest.mark.skipif(
    not RECORDED.is_dir(), reason="no recorded traces; SPILLWAY_TRACES names their folder"
)
SPOT = Spot(seconds=400.0, zones={"a": ((0.0, 1), (100.0, 0), (300.0, 2)), "b": ((50.0, 1),)})


def written(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("column", ["requests", "requests_per_min", "rate_rps"])
def test_demand_is_read_by_the_columns_that_are_published(tmp_path: Path, column: str) -> None:
    path = written(tmp_path, f"t_s,utc,{column}\n60,00:01,4\n120,00:02,6.5\n")

    assert read_demand(path) == Demand(times=(0.0, 60.0), values=(4.0, 6.5))


def test_demand_is_read_by_the_column_that_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "t_s,requests,tokens\n0,4,400\n60,5,900\n")

    assert read_demand(path, "tokens").values == (400.0, 900.0)


def test_a_gzipped_trace_is_read_like_a_plain_one(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(gzip.compress(b"t_s,requests\n0,1\n60,2\n"))

    assert read_demand(path).values == (1.0, 2.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("", "no column t_s in line 1; it has nothing", id="empty"),
        pytest.param("t_s,requests\n", "no row after the header", id="no row"),
        pytest.param("t_s,load\n0,1\n", "no column requests or requests_per_min or rate_rps", id="no demand"),
        pytest.param("t_s,requests\n0,1\n60,many\n", "line 3, column requests: 'many' is no", id="a word"),
        pytest.param("t_s,requests\n0,1\n60\n", "line 3, column requests: None is no number", id="short row"),
        pytest.param("t_s,requests\n0,-1\n", "line 2, column requests: -1 must be from 0 on", id="negative"),
        pytest.param("t_s,requests\n0,nan\n", "line 2, column requests: nan must be from 0 on", id="nan"),
        pytest.param("t_s,requests\n0,1\n0,2\n", "goes from 0 to 0; it must only grow", id="stands still"),
    ],
)
def test_a_bad_demand_trace_is_refused_with_where_and_what(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(TraceError) as caught:
        read_demand(written(tmp_path, text))

    assert said in str(caught.value)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(TraceError, match=r"absent\.csv: cannot be read"):
        read_demand(Path("absent.csv"))


def test_spot_is_read_with_one_column_a_zone_where_an_empty_cell_is_nothing_to_be_had(tmp_path: Path) -> None:
    path = written(tmp_path, "t_s,utc,a,b\n0,x,1,0\n60,x,,0\n120,x,1,3\n")

    assert read_spot(path) == Spot(
        seconds=180.0, zones={"a": ((0.0, 1), (60.0, 0), (120.0, 1)), "b": ((0.0, 0), (120.0, 3))}
    )


def test_spot_is_read_as_rows_of_pool_and_instances(tmp_path: Path) -> None:
    path = written(tmp_path, "pool,t_s,instances\na,0,5\na,60,5\na,120,2\nb,0,1\n")

    assert read_spot(path) == Spot(seconds=180.0, zones={"a": ((0.0, 5), (120.0, 2)), "b": ((0.0, 1),)})


def test_half_an_instance_is_refused_with_its_line_and_column(tmp_path: Path) -> None:
    path = written(tmp_path, "t_s,a\n0,1\n60,0.5\n")

    with pytest.raises(TraceError, match=r"line 3, column a: 0\.5 is no whole number of instances"):
        read_spot(path)


@pytest.mark.parametrize(
    ("seconds", "count"),
    [
        pytest.param(99, 1, id="held"),
        pytest.param(100, 0, id="from its time on"),
        pytest.param(399, 2, id="to the end"),
        pytest.param(400, 1, id="begins again"),
        pytest.param(1100, 2, id="and again"),
    ],
)
def test_spot_wraps_around(seconds: float, count: int) -> None:
    assert SPOT.at("a", seconds) == count


def test_spot_that_is_shifted_says_what_came_later_and_wraps() -> None:
    shifted = SPOT.shifted(250.0)

    assert [shifted.at("a", at) for at in (0, 49, 50, 149, 150, 250)] == [0, 0, 2, 2, 1, 0]


def test_capacity_multiplies_a_series_and_a_pattern_chooses_zones() -> None:
    assert SPOT.only("b*").times(4).zones == {"b": ((50.0, 4),)}


def test_a_pattern_that_matches_no_zone_is_refused_with_the_zones_there_are() -> None:
    with pytest.raises(TraceError, match=r"no zone matches 'c\*'; there are a, b"):
        SPOT.only("c*")


def test_demand_is_scaled_by_time_not_by_row() -> None:
    # 1 for 100 s, 4 for 50 s, and 4 again for the 50 s that the last value holds: a mean of 2.5
    demand = Demand(times=(0.0, 100.0, 150.0), values=(1.0, 4.0, 4.0))

    assert demand.scaled_to(10.0).values == (4.0, 16.0, 16.0)


def test_a_part_of_demand_counts_from_0_and_begins_with_what_held() -> None:
    demand = Demand(times=(0.0, 100.0, 200.0), values=(1.0, 2.0, 3.0))

    assert demand.part(start=150.0, seconds=100.0) == Demand(times=(0.0, 50.0), values=(2.0, 3.0))


def test_made_up_traces_are_the_same_for_the_same_seed_only() -> None:
    one, other = synthetic.demand(seed=1, days=1), synthetic.demand(seed=2, days=1)

    assert one == synthetic.demand(seed=1, days=1)
    assert one != other
    assert synthetic.spot(seed=1, days=9) == synthetic.spot(seed=1, days=9)
    assert synthetic.spot(seed=1, days=9) != synthetic.spot(seed=2, days=9)


def test_made_up_demand_is_lower_at_night_and_on_weekends() -> None:
    demand = synthetic.demand(seed=1, days=7)

    def mean(day: int, hour: int) -> float:
        begin = day * 86400 + hour * 3600
        return sum(demand.at(begin + minute * 60) for minute in range(180)) / 180

    assert demand.seconds == 7 * 86400
    assert mean(1, 1) < 0.6 * mean(1, 13)
    assert mean(5, 13) < 0.8 * mean(1, 13)


@pytest.mark.parametrize("seed", range(1, 6))
def test_made_up_zones_change_between_0_and_1_in_order_of_time(seed: int) -> None:
    spot = synthetic.spot(seed=seed, days=30)

    assert len(spot.zones) == 9
    for points in spot.zones.values():
        times, counts = [at for at, _ in points], [count for _, count in points]
        assert times == sorted(set(times))
        assert (times[0], times[-1] < spot.seconds) == (0.0, True)
        assert all(before + after == 1 for before, after in pairwise(counts))


@needs_recorded
def test_recorded_demand_and_spot_are_read() -> None:
    demand = read_demand(RECORDED / "demand_azure_llm_code_2024_week_600s.csv")
    spot = read_spot(RECORDED / "spot_avail_aws_v100_9az_2023.csv.gz")

    assert demand.seconds == 7 * 86400
    assert len(spot.zones) == 9


@needs_recorded
def test_recorded_counts_of_spot_are_read() -> None:
    assert read_spot(RECORDED / "spot_capacity_counts_2021.csv").zones
