"""The flags of `spillway simulate --prometheus`: what goes together, and what is refused before anything is asked."""

import pytest
from click.testing import CliRunner

from spillway.cli.main import main

URL = ("--prometheus", "http://127.0.0.1:9")
REF = ("--workload-ref", "team/llm-chat")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param([], "give --demand FILE (or synthetic), or --prometheus URL", id="neither"),
        pytest.param([*URL, *REF, "--demand", "a.csv"], "exclude each other", id="both"),
        pytest.param([*URL, *REF, "--demand-column", "n"], "exclude each other", id="a column of none"),
        pytest.param([*URL], "needs --workload-ref NAMESPACE/NAME", id="nobody's"),
        pytest.param([*REF, "--demand", "synthetic"], "--workload-ref without --prometheus", id="no server"),
        pytest.param(
            ["--demand", "synthetic", "--since", "14d", "--prometheus-timeout", "60"],
            "--since, --prometheus-timeout without --prometheus",
            id="defaults given by hand",
        ),
        pytest.param([*URL, "--workload-ref", "llm-chat"], "'llm-chat' is no NAMESPACE/NAME", id="no namespace"),
        pytest.param([*URL, "--workload-ref", 'team/a"}'], "is no NAMESPACE/NAME", id="no name"),
        pytest.param([*URL, "--workload-ref", "a/b/c"], "is no NAMESPACE/NAME", id="too many"),
        pytest.param([*URL, *REF, "--since", "two weeks"], "'two weeks' is no span up to 400d", id="words"),
        pytest.param([*URL, *REF, "--since", "0d"], "is no span", id="no time"),
        pytest.param([*URL, *REF, "--since", "58w"], "is no span up to 400d", id="longer than a year"),
        pytest.param([*URL, *REF, "--prometheus-timeout", "0"], "not in the range", id="no patience"),
        pytest.param([*URL, *REF, "--zones", "a*"], "need --spot", id="zones of none"),
        pytest.param(
            ["--prometheus", "ftp://server", *REF], "--prometheus is 'ftp://server'; give it as", id="no web address"
        ),
        pytest.param(
            ["--prometheus", "http://me:secret@server", *REF], "--prometheus-token-file", id="a password"
        ),
        pytest.param([*URL, *REF, "--prometheus-matcher", "prod"], "--prometheus-matcher is 'prod'", id="no matcher"),
        pytest.param([*URL, *REF, "--prometheus-tenant", "a b"], "--prometheus-tenant is 'a b'", id="no tenant"),
    ],
)  # fmt: skip
def test_flags_that_cannot_work_are_refused_in_a_sentence(arguments: list[str], said: str) -> None:
    answer = CliRunner().invoke(main, ["simulate", *arguments])

    assert answer.exit_code != 0
    assert said in answer.output
    assert "secret" not in answer.output
    assert "Traceback" not in answer.output
