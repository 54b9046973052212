"""Settings: where they come from, and what is said about wrong ones."""

import asyncio
from pathlib import Path

import pytest

from spillway.app.settings import (
    FleetMode,
    Settings,
    SettingsError,
    load_settings,
    pod_namespace,
    settings_schema,
)
from spillway.core.model import Mode

URL = "prometheus: {url: 'http://prometheus:9090'}\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "settings.yaml"


def load(config: Path, text: str = "", **environment: str) -> Settings:
    config.write_text(URL + text)
    settings, _ = load_settings(config, environment=environment)
    return settings


def problems(config: Path, text: str, **environment: str) -> tuple[str, ...]:
    config.write_text(text)
    with pytest.raises(SettingsError) as refused:
        load_settings(config, environment=environment)
    return refused.value.problems


def test_a_url_is_all_it_needs(config: Path) -> None:
    settings = load(config)

    assert settings.prometheus.url == "http://prometheus:9090"
    assert (settings.evaluation_seconds, settings.cache_max_age_seconds) == (15, 60)
    assert settings.mode is Mode.ENFORCE


def test_the_environment_alone_is_enough() -> None:
    settings, path = load_settings(environment={"SPILLWAY_PROMETHEUS__URL": "http://prometheus:9090"})

    assert settings.prometheus.url == "http://prometheus:9090"
    assert path is None


def test_the_environment_wins_over_the_file_key_by_key(config: Path) -> None:
    settings = load(
        config,
        "evaluationSeconds: 20\nconfirmSeconds: 30\nprometheus: {url: 'http://file:9090', tenant: a}\n",
        SPILLWAY_EVALUATION_SECONDS="5",
        SPILLWAY_PROMETHEUS__URL="http://environment:9090",
    )

    assert (settings.evaluation_seconds, settings.confirm_seconds) == (5, 30)
    assert (settings.prometheus.url, settings.prometheus.tenant) == ("http://environment:9090", "a")


def test_the_environment_may_name_the_file(config: Path) -> None:
    config.write_text(URL + "evaluationSeconds: 5")

    settings, path = load_settings(environment={"SPILLWAY_CONFIG": str(config)})

    assert settings.evaluation_seconds == 5
    assert path == config


def test_a_list_in_the_environment_is_separated_by_commas(config: Path) -> None:
    assert load(config, SPILLWAY_WATCH_NAMESPACES="chat, search,").watch_namespaces == ("chat", "search")


def test_labels_in_the_environment_are_separated_by_commas(config: Path) -> None:
    selector = load(config, SPILLWAY_POOL_SELECTOR="fleet=a, spillway.dev/tier=,").pool_selector

    assert selector == {"fleet": "a", "spillway.dev/tier": ""}


def test_labels_of_the_environment_replace_those_of_the_file(config: Path) -> None:
    settings = load(config, "poolSelector: {fleet: a, zone: b}\n", SPILLWAY_POOL_SELECTOR="fleet=c")

    assert settings.pool_selector == {"fleet": "c"}


def test_the_market_of_kwok_pools_may_be_left_out(config: Path) -> None:
    assert load(config).kwok is None


@pytest.mark.parametrize("where", ["file", "environment"])
def test_the_market_of_kwok_pools_is_read_from_file_and_environment(config: Path, where: str) -> None:
    url = "http://127.0.0.1:8090"

    settings = (
        load(config, f"kwok: {{url: '{url}'}}\n") if where == "file" else load(config, SPILLWAY_KWOK__URL=url)
    )

    assert settings.kwok is not None
    assert settings.kwok.url == url


def test_what_kubernetes_sets_for_a_service_of_that_name_is_no_setting(config: Path) -> None:
    settings = load(config, SPILLWAY_METRICS_PORT="tcp://10.0.0.7:8080", SPILLWAY_SERVICE_HOST="10.0.0.7")

    assert settings.metrics_port == 8080


def test_words_of_the_log_may_be_in_any_case(config: Path) -> None:
    assert load(config, "logLevel: DEBUG\nlogFormat: JSON\n").log_level == "debug"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(
            "mode: Observe\n",
            "prometheus.url is not set. Set it, e.g. to http://prometheus-operated.monitoring:9090, "
            "in {file} or as SPILLWAY_PROMETHEUS__URL.",
            id="no Prometheus",
        ),
        pytest.param(
            URL + "evaluationSeconds: 0\n",
            "evaluationSeconds is 0: should be greater than or equal to 1. "
            "Change it in {file} or as SPILLWAY_EVALUATION_SECONDS.",
            id="out of range",
        ),
        pytest.param(
            URL + "mode: observe\n",
            "mode is 'observe': should be 'Observe', 'ScaleUpOnly' or 'Enforce'. Change it in {file} or as SPILLWAY_MODE.",
            id="unknown mode",
        ),
        pytest.param(
            URL + "evalSeconds: 5\n",
            "evalSeconds is no setting (did you mean evaluationSeconds?). Rename or remove it in {file}.",
            id="a typo",
        ),
        pytest.param(
            "prometheus: {url: 'http://p:9090', bearerToken: x}\n",
            "prometheus.bearerToken is no setting (did you mean bearerTokenFile?). Rename or remove it in {file}.",
            id="a nested typo",
        ),
        pytest.param(
            URL + "watchNamespaces: [Chat]\n",
            "watchNamespaces is ['Chat']: 'Chat' is no name of a namespace. Change it in {file} or as SPILLWAY_WATCH_NAMESPACES.",
            id="no namespace",
        ),
        pytest.param(
            URL + "leaseRetrySeconds: 20\n",
            "leaseRetrySeconds (20) must be below leaseRenewDeadlineSeconds (10), and that below leaseDurationSeconds (15); "
            "the built-in 2, 10 and 15 suit most clusters.",
            id="times that do not fit",
        ),
        pytest.param(
            URL + "leaseRenewDeadlineSeconds: 6\n",
            "leaseRenewDeadlineSeconds (6) must be above 5 s, the longest write, plus leaseRetrySeconds (2), "
            "else no write could ever end in time; the built-in is 10.",
            id="a Lease too short for any write",
        ),
        pytest.param(
            URL + "kwok: {}\n",
            "kwok.url is not set. Set it, e.g. to http://127.0.0.1:8090, in {file} or as SPILLWAY_KWOK__URL.",
            id="a market without an address",
        ),
        pytest.param(
            URL + "kwok: {uri: 'http://market:8090', url: 'http://market:8090'}\n",
            "kwok.uri is no setting (did you mean url?). Rename or remove it in {file}.",
            id="a typo in an optional section",
        ),
        pytest.param(
            URL + "kwok: {url: 'market:8090'}\n",
            "kwok.url is 'market:8090': must be http:// or https://, a host and a port, and nothing more. "
            "Change it in {file} or as SPILLWAY_KWOK__URL.",
            id="a market without a scheme",
        ),
        pytest.param(
            URL + "poolSelector: {fleet: a b}\n",
            "poolSelector holds fleet: a b, which is no label such as team: search.",
            id="no label",
        ),
        pytest.param(
            URL + "poolCollectSeconds: 60\n",
            "poolStaleSeconds (60) must be above poolCollectSeconds (60), else no pool is ever known; "
            "the built-in 60 and 10 suit most clusters.",
            id="pools never known",
        ),
        pytest.param(
            URL + "metricsPort: 8081\n",
            "metricsPort and probePort are both 8081; give each a port of its own.",
            id="one port for two",
        ),
        pytest.param(
            "prometheus: {url: 'http://p:9090', caFile: /nowhere.pem}\n",
            "prometheus.caFile is '/nowhere.pem': the file cannot be read; mount it into the pod or remove the key. "
            "Change it in {file} or as SPILLWAY_PROMETHEUS__CA_FILE.",
            id="a file that is not there",
        ),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_with_what_is_legal_and_where_to_change_it(
    config: Path, text: str, said: str
) -> None:
    assert problems(config, text) == (said.replace("{file}", str(config)),)


def test_all_problems_are_said_at_once(config: Path) -> None:
    assert len(problems(config, "evaluationSeconds: 0\nprobePort: 99999\nnonsense: 1\n")) == 4


def test_a_password_in_the_url_is_refused_without_being_repeated(config: Path) -> None:
    (said,) = problems(config, "prometheus: {url: 'http://user:hunter2@prometheus:9090'}\n")

    assert "hunter2" not in said
    assert "bearerTokenFile" in said


@pytest.mark.parametrize("text", ["", "- a list\n", "mode: [\n", "just words\n"])
def test_a_file_that_holds_no_settings_is_named(config: Path, text: str) -> None:
    (said,) = problems(config, text)

    assert str(config) in said


def test_a_file_that_is_not_there_is_named(config: Path) -> None:
    with pytest.raises(SettingsError, match=r"settings\.yaml.*--config"):
        load_settings(config, environment={})


def test_the_lease_lies_in_the_pods_own_namespace(tmp_path: Path) -> None:
    (tmp_path / "namespace").write_text("autoscaling\n")

    assert pod_namespace(tmp_path / "namespace") == "autoscaling"
    assert pod_namespace(tmp_path / "nowhere") == "spillway-system"


def test_every_setting_is_described_in_the_schema() -> None:
    schema = settings_schema()
    sections = [schema["properties"], schema["$defs"]["PrometheusConnection"]["properties"]]

    fields = {name: field for section in sections for name, field in section.items()}
    fields.pop("prometheus")
    assert all(field.get("description") for field in fields.values())
    assert "evaluationSeconds" in fields


class Mounted:
    """A settings file, the mode that follows it, and a clock."""

    def __init__(self, path: Path, *, mode: Mode, cap: Mode = Mode.ENFORCE) -> None:
        self.path = path
        self.seconds = 0.0
        self.changes: list[tuple[Mode, Mode]] = []
        self.write(f"mode: {mode}\n")
        self.fleet = FleetMode(
            path,
            initial=mode,
            cap=cap,
            on_change=lambda old, new: self.changes.append((old, new)),
            clock=lambda: self.seconds,
        )

    def write(self, text: str) -> None:
        self.path.write_text(text)

    def look(self, *, after: float = 2.0) -> Mode:
        self.seconds += after
        return self.fleet.refresh()


def test_a_stop_takes_effect_at_the_next_look(config: Path) -> None:
    mounted = Mounted(config, mode=Mode.ENFORCE)

    mounted.write("mode: Observe\n")

    assert mounted.look() is Mode.OBSERVE
    assert mounted.changes == [(Mode.ENFORCE, Mode.OBSERVE)]


def test_a_stronger_mode_must_stand_for_a_moment(config: Path) -> None:
    mounted = Mounted(config, mode=Mode.OBSERVE)

    mounted.write("mode: Enforce\n")

    assert mounted.look() is Mode.OBSERVE
    assert mounted.look(after=1) is Mode.OBSERVE
    assert mounted.look(after=1) is Mode.ENFORCE


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="cut short"),
        pytest.param("mode: [", id="no YAML"),
        pytest.param("mode: enforced\n", id="no mode"),
        pytest.param("- mode\n", id="no mapping"),
    ],
)
def test_a_broken_file_leaves_the_last_good_mode_in_force(config: Path, text: str) -> None:
    mounted = Mounted(config, mode=Mode.OBSERVE)

    mounted.write(text)
    modes = [mounted.look() for _ in range(3)]

    assert modes == [Mode.OBSERVE] * 3
    assert str(config) in str(mounted.fleet.problem)


def test_a_file_that_went_leaves_the_last_good_mode_in_force(config: Path) -> None:
    mounted = Mounted(config, mode=Mode.SCALE_UP_ONLY)

    config.unlink()

    assert mounted.look() is Mode.SCALE_UP_ONLY
    assert "No such file" in str(mounted.fleet.problem)


def test_a_mended_file_counts_again(config: Path) -> None:
    mounted = Mounted(config, mode=Mode.ENFORCE)
    mounted.write("")
    mounted.look()

    mounted.write("mode: Observe\n")

    assert mounted.look() is Mode.OBSERVE
    assert mounted.fleet.problem is None


def test_other_keys_that_are_wrong_do_not_keep_a_stop_from_working(config: Path) -> None:
    mounted = Mounted(config, mode=Mode.ENFORCE)

    mounted.write("mode: Observe\nevaluationSeconds: wrong\n")

    assert mounted.look() is Mode.OBSERVE


def test_the_file_cannot_go_beyond_what_the_environment_allows(config: Path) -> None:
    settings = load(config, "mode: Enforce\n", SPILLWAY_MODE="ScaleUpOnly")
    mounted = Mounted(config, mode=Mode.SCALE_UP_ONLY, cap=settings.mode_cap)

    mounted.write("mode: Enforce\n")
    modes = [mounted.look() for _ in range(3)]

    assert modes == [Mode.SCALE_UP_ONLY] * 3


@pytest.mark.looptime
async def test_the_file_is_looked_at_every_two_seconds(config: Path) -> None:
    mounted = Mounted(config, mode=Mode.ENFORCE)
    task = asyncio.create_task(mounted.fleet.run())
    await asyncio.sleep(0.1)

    mounted.write("mode: Observe\n")
    await asyncio.sleep(1.8)
    before = mounted.fleet.current
    await asyncio.sleep(0.2)
    after = mounted.fleet.current
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert (before, after) == (Mode.ENFORCE, Mode.OBSERVE)
