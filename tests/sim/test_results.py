"""Policies side by side: which are played, what is printed of them, and a report that opens anywhere."""

import json
import re
from collections.abc import Sequence

import pytest

from spillway.sim import report
from spillway.sim.bound import Bound
from spillway.sim.results import Results, Run, UnknownPolicy, chosen, document, score_all, table
from spillway.sim.traces import Demand, Spot
from spillway.sim.world import Scenario, Score

HOUR = 3600.0
ON_DEMAND_PEERS = (
    ["static-peak", "static-p95", "hpa-0.5", "hpa-0.7", "hpa-0.8", "keda-queue", "knative-kpa"]
)  # fmt: skip
SPOT_PEERS = ["spot-only", "mix-10", "spothedge-0.8-1", "spothedge-0.7-2"]
BOUND = Bound(baseline=1, cost_usd=40.0, free_cost_usd=25.0, on_demand_cost_usd=80.0, is_whole=True)


def scenario(*, with_spot: bool = True) -> Scenario:
    demand = Demand(times=(0.0, 1.5 * HOUR), values=(2.0, 2.0))
    spot = Spot(seconds=24 * HOUR, zones={"a": ((0.0, 9),), "b": ((0.0, 9),)})
    return Scenario(demand=demand, spot=spot if with_spot else None)


def score(policy: str = "spillway", series: tuple[tuple[float, float, int, int], ...] = ()) -> Score:
    return Score(
        policy=policy,
        cost_usd=50.0,
        cost_share_of_static_peak=0.25,
        missed_load_share=0.00123,
        overloaded_minutes_share=0.05,
        starts=12,
        losses=3,
        flaps=4,
        on_demand_hours=10.0,
        spot_hours=30.0,
        series=series,
    )


def embedded(page: str) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data: dict[str, object] = json.loads(found[1])
    return data


@pytest.mark.parametrize(
    ("names", "with_spot", "expected"),
    [
        pytest.param(
            ["all"], True, ["spillway", *ON_DEMAND_PEERS, *SPOT_PEERS, "day-ahead"], id="everything"
        ),
        pytest.param(["all"], False, ["spillway", *ON_DEMAND_PEERS, "day-ahead"], id="what needs no spot"),
        pytest.param(["hpa-0.7", "spillway"], True, ["hpa-0.7", "spillway"], id="in the order given"),
        pytest.param(["hpa-0.7", "hpa-0.7"], True, ["hpa-0.7"], id="each once"),
        pytest.param(["spothedge-0.9-6"], True, ["spothedge-0.9-6"], id="one of the sweep"),
    ],
)
def test_policies_are_chosen_by_name(names: Sequence[str], with_spot: bool, expected: list[str]) -> None:
    assert list(chosen(scenario(with_spot=with_spot), names)) == expected


def test_the_sweep_is_every_target_with_every_extra() -> None:
    found = chosen(scenario(), ["spothedge-sweep"])

    assert (len(found), found[0], found[-1]) == (35, "spothedge-0.5-0", "spothedge-0.9-6")


@pytest.mark.parametrize(
    ("name", "with_spot", "said"),
    [
        pytest.param("hpa", True, "no policy 'hpa'; there are all, spillway, static-peak", id="unknown"),
        pytest.param("", True, "no policy ''", id="nothing"),
        pytest.param("spot-only", False, "'spot-only' lives on spot, and there is no spot", id="no spot"),
        pytest.param("spothedge-sweep", False, "'spothedge-sweep' lives on spot", id="sweep without spot"),
    ],
)
def test_a_policy_that_cannot_be_played_is_refused(name: str, with_spot: bool, said: str) -> None:
    with pytest.raises(UnknownPolicy, match=said):
        chosen(scenario(with_spot=with_spot), [name])


def test_policies_side_by_side_score_as_they_do_alone_and_say_how_far_they_are() -> None:
    runs = [Run(scenario=scenario(), policy=name) for name in ("spillway", "static-peak", "spothedge-0.9-6")]
    told: dict[str, float] = {}

    together = score_all(runs, workers=2, progress=told.__setitem__)

    assert together == score_all(runs, workers=1)
    assert [found.policy for found in together] == ["spillway", "static-peak", "spothedge-0.9-6"]
    assert told == {"spillway": 1.0, "static-peak": 1.0, "spothedge-0.9-6": 1.0}


def test_what_fails_in_a_worker_is_raised() -> None:
    runs = [Run(scenario=scenario(), policy=name) for name in ("static-peak", "nobody")]

    with pytest.raises(KeyError, match="nobody"):
        score_all(runs, workers=2)


def test_json_has_these_keys_and_ratios_to_both_bounds() -> None:
    assert document(Results(scores=(score(),), bound=BOUND)) == {
        "bound": {
            "baseline": 1,
            "cost_usd": 40.0,
            "free_cost_usd": 25.0,
            "on_demand_cost_usd": 80.0,
            "is_whole": True,
        },
        "runs": [
            {
                "policy": "spillway",
                "cost_usd": 50.0,
                "cost_share_of_static_peak": 0.25,
                "ratio_to_bound": 1.25,
                "ratio_to_free_bound": 2.0,
                "missed_load_share": 0.00123,
                "overloaded_minutes_share": 0.05,
                "starts": 12,
                "losses": 3,
                "flaps": 4,
                "on_demand_hours": 10.0,
                "spot_hours": 30.0,
            }
        ],
    }


def test_without_a_bound_there_is_no_ratio() -> None:
    found = document(Results(scores=(score(),)))

    assert found["bound"] is None
    assert (found["runs"][0]["ratio_to_bound"], found["runs"][0]["ratio_to_free_bound"]) == (None, None)


def test_the_table_is_a_line_a_policy_with_the_bound_below() -> None:
    lines = table(Results(scores=(score(), score("hpa-0.7")), bound=BOUND)).splitlines()

    assert lines[1].split() == (
        ["spillway", "50", "0.250", "1.25", "2.00", "0.123", "5.00", "12", "3", "4", "10", "30"]
    )
    assert lines[2].startswith("hpa-0.7 ")
    assert lines[-2:] == [
        "Bound (attained): 40 $ with 1 on demand all the time,",
        "25 $ with none, 80 $ without spot.",
    ]


def test_the_table_of_a_long_run_is_at_most_100_columns_wide() -> None:
    long = Score(
        policy="spothedge-0.8-1",
        cost_usd=1234567.0,
        cost_share_of_static_peak=1.234,
        missed_load_share=0.12345,
        overloaded_minutes_share=0.12345,
        starts=98765,
        losses=9876,
        flaps=9876,
        on_demand_hours=98765.0,
        spot_hours=98765.0,
    )

    dear = Bound(
        baseline=9, cost_usd=654321.0, free_cost_usd=65432.1, on_demand_cost_usd=999999.0, is_whole=False
    )
    printed = table(Results(scores=(long,), bound=dear))

    assert max(map(len, printed.splitlines())) <= 100


def test_the_report_holds_all_runs_and_the_series_that_was_kept() -> None:
    kept = score(series=((0.0, 1.23456, 2, 3), (60.0, 2.0, 2, 4)))

    data = embedded(report.render(Results(scores=(score("hpa-0.7"), kept)), title="A run", facts="Facts."))

    assert data["series"] == {"policy": "spillway", "points": [[0.0, 1.235, 2, 3], [60.0, 2.0, 2, 4]]}
    assert data["runs"] == document(Results(scores=(score("hpa-0.7"), kept)))["runs"]


def test_the_report_needs_no_network() -> None:
    page = report.render(Results(scores=(score(),)), title="A run", facts="Facts.")

    addresses = set(re.findall(r"https?://[^\"'\s]+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name space: nothing is loaded from it
    assert not re.search(r"<(script|img|iframe)[^>]* src=|@import|fetch\(", page)


def test_what_a_file_is_called_cannot_become_part_of_the_page() -> None:
    results = Results(scores=(score("</script><b>"),))

    page = report.render(results, title="<i>", facts="a & <b>")

    assert "<b>" not in page
    assert "<h1>&lt;i&gt;</h1>" in page
    assert "a &amp; &lt;b&gt;" in page
