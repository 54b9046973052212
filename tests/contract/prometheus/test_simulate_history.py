"""`spillway simulate --prometheus` against a scripted Prometheus: what is played, and what a person is told when it cannot be."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from spillway.cli.main import main
from tests.contract.prometheus.server import CLOCK, Conversation, Reply, ScriptedServer, vector

END = int(CLOCK) // 60 * 60
POD = {"wl_namespace": "team", "wl_pod": "chat-7d9f8c6b5-x2x4z"}
TWO = {"wl_namespace": "team", "wl_pod": "chat-7d9f8c6b5-bcdfg"}
SINCE = ("--since", "4h")


def simulate(server: ScriptedServer, *arguments: str) -> Result:
    own = ("--prometheus", server.url, "--workload-ref", "team/chat", "--policies", "static-peak")
    return CliRunner().invoke(main, ["simulate", *own, *SINCE, *arguments])


def answering(*series: dict[str, str]) -> Reply:
    """Answer range queries with these series at 0.5 in every minute, labels being all that a series is made of."""

    def reply(conversation: Conversation) -> None:
        if not conversation.request.path.endswith("query_range"):
            conversation.json(vector())
            return
        form = conversation.request.form
        times = range(int(form["start"]), int(form["end"]) + 1, 60)
        result = [{"metric": labels, "values": [[time, "0.5"] for time in times]} for labels in series]
        conversation.json({"status": "success", "data": {"resultType": "matrix", "result": result}})

    return reply


@pytest.fixture
def recorded(server: ScriptedServer) -> ScriptedServer:
    """Four hours of two replicas at 50 %."""
    server.reply = answering({"part": "mean", **POD}, {"part": "mean", **TWO})
    return server


def test_what_was_recorded_is_played_as_it_was_and_beside_what_really_ran(recorded: ScriptedServer) -> None:
    answer = simulate(recorded, "--format", "json", "--on-demand-price", "1")

    found = json.loads(answer.stdout)
    assert [run["policy"] for run in found["runs"]] == ["static-peak", "really-ran"]
    # of four hours two are scored: one replica carries the load of 2 × 50 %, two ran
    assert [run["cost_usd"] for run in found["runs"]] == [pytest.approx(2.0), pytest.approx(4.0)]
    assert found["runs"][1]["missed_load_share"] is None
    assert (found["history"]["mean_load"], found["history"]["scale"]) == (1.0, 1.0)


def test_the_table_says_whose_past_it_is_and_what_is_not_known(recorded: ScriptedServer) -> None:
    lines = simulate(recorded).output.splitlines()

    assert lines[0].startswith("0.167 days of team/chat as Prometheus recorded it, 1 replicas on average;")
    assert [line.split()[0] for line in lines[2:5]] == ["POLICY", "static-peak", "really-ran"]
    assert lines[6].startswith("Recorded 2026-")


def test_the_report_draws_what_really_ran(recorded: ScriptedServer) -> None:
    page = simulate(recorded, "--format", "html").output

    assert '"policy":"really-ran"' in page
    assert '"missed_load_share":null' in page
    assert "What it missed was not recorded" in page


def test_a_part_of_it_can_be_played(recorded: ScriptedServer) -> None:
    answer = simulate(recorded, "--format", "json", "--demand-offset-days", "0.0625", "--days", "0.1")

    assert json.loads(answer.stdout)["history"]["days_played"] == pytest.approx(0.1)


def test_a_mean_that_is_asked_for_scales_demand_and_what_ran(recorded: ScriptedServer) -> None:
    answer = simulate(recorded, "--format", "json", "--mean-replicas", "3", "--on-demand-price", "1")

    found = json.loads(answer.stdout)
    assert [run["cost_usd"] for run in found["runs"]] == [pytest.approx(6.0), pytest.approx(12.0)]
    assert found["history"]["scale"] == pytest.approx(3)


def test_a_past_that_is_too_short_to_be_scored_is_refused(recorded: ScriptedServer) -> None:
    answer = simulate(recorded, "--since", "2h")

    assert answer.exit_code == 1
    assert "team/chat as Prometheus recorded it: 7200 s of demand are left to play" in answer.output


def test_the_token_is_sent_and_never_shown(recorded: ScriptedServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret")

    answer = simulate(recorded, "--prometheus-token-file", str(token))

    assert {request.headers["Authorization"] for request in recorded.requests} == {"Bearer secret"}
    assert "secret" not in answer.output


def refusing(status: int) -> Reply:
    return lambda conversation: conversation.json({"status": "error", "error": "no"}, status=status)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        pytest.param(refusing(401), "check --prometheus-token-file and --prometheus-tenant", id="not let in"),
        pytest.param(refusing(404), "check the path in --prometheus", id="wrong path"),
        pytest.param(refusing(503), "run this again later, and check its load and limits", id="overloaded"),
        pytest.param(
            lambda conversation: conversation.raw(b"<html>", headers={"Content-Type": "text/html"}),
            "check --prometheus and its path, and whether a login page",
            id="a login page",
        ),
    ],
)
def test_a_server_that_does_not_answer_is_told_in_the_words_of_the_flags(
    server: ScriptedServer, reply: Reply, said: str
) -> None:
    server.reply = reply

    answer = simulate(server)

    assert answer.exit_code == 1
    assert said in answer.output
    assert re.search(r"prometheus\.[a-z]", answer.output) is None  # how the operator calls its settings
    assert "Traceback" not in answer.output


def test_nobody_listening_is_told_with_the_flag_to_check() -> None:
    answer = CliRunner().invoke(
        main, ["simulate", "--prometheus", "http://127.0.0.1:9", "--workload-ref", "team/chat"]
    )

    assert answer.exit_code == 1
    assert "cannot be reached" in answer.output
    assert "check --prometheus, its Service" in answer.output


def test_a_store_of_several_clusters_is_refused_with_the_flag_that_parts_them(server: ScriptedServer) -> None:
    def reply(conversation: Conversation) -> None:
        if not conversation.request.path.endswith("query_range"):
            conversation.json(vector())
            return
        series = {"metric": {"part": "clusters"}, "values": [[END, "2"]]}
        conversation.json({"status": "success", "data": {"resultType": "matrix", "result": [series]}})

    server.reply = reply

    assert 'set --prometheus-matcher, for instance to cluster="NAME"' in simulate(server).output


def test_where_nothing_was_recorded_the_names_that_were_looked_for_are_told(server: ScriptedServer) -> None:
    server.reply = answering()

    answer = simulate(server)

    assert answer.exit_code == 1
    assert "team/chat cannot be played from the last 4 h of" in answer.output
    assert (
        "nothing was recorded of its pods. Looked for were GPU series of pods chat-HASH-ID in namespace team"
        in (answer.output)
    )
    assert "count by (exported_namespace, exported_pod, namespace, pod)" in answer.output
