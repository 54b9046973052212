"""`spillway simulate`, as a person meets it: three hours of demand, of which the last is scored."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from spillway.cli.main import main

SHORT = ("--demand", "synthetic", "--days", "0.125")
WORKLOAD = """\
apiVersion: spillway.dev/v1alpha1
kind: GpuWorkload
metadata: {name: llm, namespace: chat}
spec:
  targetRef: {name: llm}
  maxReplicas: 8
  capacity: {baselineReplicas: 2, burst: WhenAvailable, poolSelector: {matchLabels: {gpu: h100}}}
"""


def simulate(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["simulate", *arguments])


def runs(*arguments: str) -> list[dict[str, float]]:
    answer = simulate(*SHORT, "--format", "json", *arguments)
    assert answer.exit_code == 0, answer.output
    found: list[dict[str, float]] = json.loads(answer.stdout)["runs"]
    return found


def test_the_table_says_what_was_played_and_how_each_policy_did() -> None:
    answer = simulate(*SHORT, "--spot", "synthetic", "--policies", "static-peak")

    lines = answer.output.splitlines()
    assert lines[0] == (
        "0.125 days of synthetic, 10 replicas on average; spot: synthetic, 9 zones; cold start 240 s, seed 1."
    )
    assert lines[2].split()[:3] == ["POLICY", "COST", "$"]
    assert lines[3].split()[0] == "static-peak"


def test_json_has_the_bound_with_the_baseline_of_the_workload(tmp_path: Path) -> None:
    file = tmp_path / "workload.yaml"
    file.write_text(WORKLOAD)

    answer = simulate(
        *SHORT, "--spot", "synthetic", "--workload", str(file), "--policies", "spillway", "--bound",
        "--format", "json",
    )  # fmt: skip

    found = json.loads(answer.stdout)
    assert found["bound"]["baseline"] == 2
    assert found["runs"][0]["ratio_to_bound"] >= 1
    # two on demand for the scored hour, the rest on spot where the pools it selects would be
    assert found["runs"][0]["on_demand_hours"] == pytest.approx(2, abs=0.01)
    assert found["runs"][0]["spot_hours"] > 0


def test_a_policy_in_the_same_file_holds_in_the_namespace_of_the_workload(tmp_path: Path) -> None:
    file = tmp_path / "workload.yaml"
    file.write_text(
        WORKLOAD + "---\napiVersion: spillway.dev/v1alpha1\nkind: GpuPolicy\nmetadata: {name: up}\n"
        "spec:\n  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: chat}}\n"
        "  guardrails: {spot: Forbidden}\n"
    )

    assert (
        runs("--spot", "synthetic", "--workload", str(file), "--policies", "spillway")[0]["spot_hours"] == 0
    )


def test_what_is_drawn_depends_on_the_seed_alone() -> None:
    one = runs("--policies", "static-peak", "--seed", "1")

    assert one == runs("--policies", "static-peak", "--seed", "1")
    assert one != runs("--policies", "static-peak", "--seed", "2")


def test_a_recorded_trace_is_cut_by_offset_and_days_and_scaled(tmp_path: Path) -> None:
    demand, spot = tmp_path / "demand.csv", tmp_path / "spot.csv"
    # nothing on the first day, then 5 and, beyond what is played, 500
    demand.write_text("t_s,requests\n0,0\n86400,5\n97200,500\n108000,500\n")
    spot.write_text("t_s,a,b\n0,1,0\n3600,1,0\n")

    found = runs(
        "--demand", str(demand), "--demand-offset-days", "1", "--spot", str(spot), "--zones", "a",
        "--mean-replicas", "2", "--policies", "static-peak,spot-only", "--zone-capacity", "1",
    )  # fmt: skip

    assert found[0]["cost_usd"] == pytest.approx(6.12)  # two for the scored hour at 3.06
    assert found[1]["missed_load_share"] == pytest.approx(0.5)  # one where two are needed


def test_counts_of_spot_are_not_multiplied(tmp_path: Path) -> None:
    spot = tmp_path / "spot.csv"
    spot.write_text("t_s,a\n0,2\n3600,2\n")

    found = runs("--spot", str(spot), "--zone-capacity", "9", "--policies", "spot-only")

    assert found[0]["spot_hours"] == pytest.approx(2.0)


def test_the_report_is_written_to_the_file_that_is_named(tmp_path: Path) -> None:
    file = tmp_path / "report.html"

    answer = simulate(*SHORT, "--policies", "static-peak", "--format", "html", "--output", str(file))

    assert (answer.exit_code, answer.output) == (0, "")
    assert '"series":{"policy":"static-peak"' in file.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--demand", "absent.csv"], "absent.csv: cannot be read", id="no file"),
        pytest.param([*SHORT[:3], "0.05"], "4320 s of demand are left to play; scores begin at", id="short"),
        pytest.param([*SHORT, "--policies", "nobody"], "no policy 'nobody'; there are all", id="unknown"),
        pytest.param([*SHORT, "--policies", "spot-only"], "there is no spot trace", id="spot without spot"),
        pytest.param([*SHORT, "--zones", "a*"], "need --spot", id="zones without spot"),
        pytest.param([*SHORT, "--days", "nan"], "nan is no finite number", id="not a number"),
        pytest.param([*SHORT, "--on-demand-price", "0"], "not in the range", id="free of charge"),
        pytest.param([*SHORT, "--bound", "--cold-start-spread", "0.1"], "an exact cold start", id="inexact"),
        pytest.param([*SHORT, "--output", "/"], "Is a directory", id="cannot be written"),
    ],
)
def test_what_cannot_be_played_is_refused_in_a_sentence(arguments: list[str], said: str) -> None:
    answer = simulate("--policies", "static-peak", *arguments)

    assert answer.exit_code != 0
    assert said in answer.output
    assert "Traceback" not in answer.output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("kind: [", "cannot be read as YAML", id="no YAML"),
        pytest.param("kind: Deployment", "0 GpuWorkloads; give one", id="no workload"),
        pytest.param(f"{WORKLOAD}---\n{WORKLOAD}", "2 GpuWorkloads; give one", id="two workloads"),
        pytest.param(WORKLOAD.replace("maxReplicas", "maxReplica"), "maxReplica", id="a slip of the pen"),
        pytest.param(
            WORKLOAD.replace("spec:", "spec:\n  policyRef: {name: absent}"), "GpuPolicy", id="no policy"
        ),
        pytest.param(WORKLOAD.replace("baselineReplicas: 2", "baselineReplicas: 9"), "baseline", id="a rule"),
    ],
)
def test_a_workload_that_could_not_be_applied_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "workload.yaml"
    file.write_text(text)

    answer = simulate(*SHORT, "--workload", str(file), "--policies", "spillway")

    assert (answer.exit_code, answer.output.startswith(f"Error: {file}: ")) == (1, True), answer.output
    assert said in answer.output
