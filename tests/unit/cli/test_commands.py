"""The command line, as a person meets it."""

from pathlib import Path

import yaml
from click.testing import CliRunner

from spillway.cli.main import main


def test_crds_prints_both_definitions_as_they_are_committed() -> None:
    answer = CliRunner().invoke(main, ["crds"])

    committed = [yaml.safe_load(path.read_text()) for path in sorted(Path("crds").glob("*.yaml"))]
    printed = sorted(yaml.safe_load_all(answer.output), key=lambda crd: str(crd["metadata"]["name"]))
    assert printed == committed


def test_run_without_prometheus_names_the_key_to_set(tmp_path: Path) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text("mode: Observe\n")

    answer = CliRunner().invoke(main, ["run", "--config", str(config)], env={"KUBECONFIG": ""})

    assert answer.exit_code == 1
    assert "prometheus.url is not set" in answer.output


def test_run_names_a_matcher_that_cannot_work(tmp_path: Path) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text("prometheus: {url: 'http://127.0.0.1:1', clusterMatcher: 'cluster=prod'}\n")
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
                "current-context": "c",
            }
        )
    )

    answer = CliRunner().invoke(main, ["run", "--config", str(config), "--kubeconfig", str(kubeconfig)])

    assert answer.exit_code == 1
    assert "prometheus.clusterMatcher is 'cluster=prod'" in answer.output


def test_explain_without_a_cluster_says_what_to_set(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"

    answer = CliRunner().invoke(main, ["explain", "llm", "--kubeconfig", str(missing)])

    assert answer.exit_code == 1
    assert "Set --kubeconfig or KUBECONFIG" in answer.output


def test_explain_with_a_dead_operator_url_says_what_to_check() -> None:
    answer = CliRunner().invoke(main, ["explain", "llm", "--operator-url", "http://127.0.0.1:1"])

    assert answer.exit_code == 1
    assert "Check --operator-url" in answer.output
