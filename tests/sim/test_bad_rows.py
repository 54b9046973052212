"""A file that a program or a person has damaged is refused as a trace, whatever is wrong with it; nothing of it is used."""

import contextlib
import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from spillway.sim.traces import Demand, Spot, TraceError, read_demand, read_spot

GOOD = b"t_s,requests\n" + b"".join(b"%d,%d\n" % (10 * index, index * 7919 % 101) for index in range(200))


def written(folder: Path, data: bytes, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def refusal(read: Callable[[Path], Demand | Spot], path: Path) -> str:
    with pytest.raises(TraceError) as caught:
        read(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("t_s,requests\n0,1\n10,2,3\n", "line 3: 3 cells; expected 2", id="a cell too many"),
        pytest.param("t_s,requests\n0,1\r1\n10,2\n", "line 2: no CSV", id="a bare carriage return"),
        pytest.param(f"t_s,requests\n0,{'1' * 200_000}\n", "line 2: no CSV", id="an endless cell"),
        pytest.param("t_s,requests,requests\n0,1,2\n", "column requests twice in line 1", id="two of a name"),
        pytest.param(
            "t_s,requests\n0,1_000\n", "line 2, column requests: '1_000' is no number", id="not CSV"
        ),
        pytest.param("t_s,requests\n0,\n", "line 2, column requests: '' is no number", id="an empty cell"),
    ],
)
def test_a_damaged_demand_trace_is_refused_with_where_and_what(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(read_demand, written(tmp_path, text.encode()))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("t_s,a,\n0,1,1\n", "column 3 of line 1 has no name", id="a zone without a name"),
        pytest.param("t_s,instances,pool\n0,1\n", "line 2, column pool: None; expected", id="a short row"),
        pytest.param("pool,t_s,instances\n,0,1\n", "line 2, column pool: ''; expected", id="an empty pool"),
        pytest.param("t_s,a,note\n0,1,hi\n", "line 2, column note: 'hi' is no number", id="a note"),
        pytest.param("t_s,a\n0,-1\n", "line 2, column a: -1 must be from 0 on", id="less than nothing"),
    ],
)
def test_a_damaged_spot_trace_is_refused_with_where_and_what(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(read_spot, written(tmp_path, text.encode()))


def test_a_gzipped_trace_whose_blocks_are_broken_is_refused(tmp_path: Path) -> None:
    broken = bytearray(gzip.compress(GOOD, mtime=0))
    broken[10] = 0xFF  # the first block is of a kind that does not exist
    with pytest.raises(zlib.error):
        gzip.decompress(broken)

    assert "cannot be read" in refusal(read_demand, written(tmp_path, bytes(broken), "trace.csv.gz"))


@pytest.mark.parametrize("name", ["trace.csv", "trace.csv.gz"])
@pytest.mark.parametrize("read", [read_demand, read_spot])
@given(at=st.integers(0, len(GOOD) - 1), noise=st.binary(max_size=4))
@example(at=60, noise=b"\r")
@example(at=60, noise=b'"')
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
def test_noise_anywhere_gives_a_whole_trace_or_a_refusal(
    tmp_path: Path, read: Callable[[Path], Demand | Spot], name: str, at: int, noise: bytes
) -> None:
    data = gzip.compress(GOOD, mtime=0) if name.endswith(".gz") else GOOD
    at %= len(data)
    path = written(tmp_path, data[:at] + noise + data[at + len(noise) :], name)

    found: Demand | Spot | None = None
    with contextlib.suppress(TraceError):
        found = read(path)

    assert found is None or found.seconds > 0
