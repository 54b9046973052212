"""Settings that cannot work are refused at the start, in words that say what to do."""

from datetime import timedelta

import pytest

from spillway.adapters.prometheus import PrometheusSettings, PrometheusSettingsError


def settings(**changes: object) -> PrometheusSettings:
    return PrometheusSettings(**{"url": "http://prometheus:9090", **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url",
    ["http://prometheus:9090", "https://mimir.example/prometheus", "http://[::1]:9090", "http://10.0.0.1"],
)
def test_ordinary_addresses_are_accepted(url: str) -> None:
    assert settings(url=url).url == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "prometheus:9090",
        "ftp://prometheus",
        "http://",
        "http://prometheus:port",
        "http://[::1",
        "http://p:70000",
    ],
)
def test_an_address_that_cannot_work_is_refused(url: str) -> None:
    with pytest.raises(PrometheusSettingsError, match=r"prometheus\.url.*give it as http"):
        settings(url=url)


def test_credentials_in_the_address_are_refused_without_being_repeated() -> None:
    with pytest.raises(PrometheusSettingsError, match=r"prometheus\.bearerTokenFile") as refused:
        settings(url="https://someone:hunter2@prometheus")

    assert "hunter2" not in str(refused.value)


def test_a_query_in_the_address_is_refused_without_being_repeated() -> None:
    with pytest.raises(PrometheusSettingsError) as refused:
        settings(url="https://prometheus?key=hunter2")

    assert "hunter2" not in str(refused.value)


@pytest.mark.case("workload-autoscalers D20")
@pytest.mark.parametrize(
    "matcher",
    ["", 'cluster="prod-1"', 'cluster=~"prod-.*", region!="eu",', r'cluster="with \"quotes\""', 'a!~"x,y"'],
)
def test_label_matchers_are_accepted(matcher: str) -> None:
    assert settings(cluster_matcher=matcher).cluster_matcher == matcher


@pytest.mark.case("workload-autoscalers D20")
@pytest.mark.parametrize(
    "matcher",
    [
        "cluster",
        "cluster=prod",
        "cluster='prod'",
        'cluster="prod"} or vector(1) #',
        'cluster="prod" region="eu"',
        'cluster="prod\n"',
        r'cluster="\d"',
        ",",
        'cluster=="prod"',
    ],
)
def test_anything_but_label_matchers_is_refused(matcher: str) -> None:
    with pytest.raises(PrometheusSettingsError, match=r"prometheus\.clusterMatcher.*cluster=\"prod-1\""):
        settings(cluster_matcher=matcher)


@pytest.mark.parametrize("tenant", ["", "two words", "a\r\nX-Other: b", "größe"])
def test_a_tenant_that_cannot_be_a_header_is_refused(tenant: str) -> None:
    with pytest.raises(PrometheusSettingsError, match=r"prometheus\.tenant"):
        settings(tenant=tenant)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"step": timedelta(0)}, id="step"),
        pytest.param({"step": timedelta(seconds=61)}, id="step beyond window"),
        pytest.param({"window": timedelta(hours=2), "step": timedelta(seconds=5)}, id="window"),
        pytest.param({"timeout": timedelta(0)}, id="timeout"),
        pytest.param({"frozen_window": timedelta(0)}, id="frozen_window"),
        pytest.param({"disagreement_window": timedelta(days=2)}, id="disagreement_window"),
        pytest.param({"stale_after": timedelta(hours=2)}, id="stale_after"),
        pytest.param({"max_bytes": 0}, id="max_bytes"),
    ],
)
def test_values_out_of_range_are_refused_by_name(changes: dict[str, object]) -> None:
    (name,) = {*changes} - ({"step"} if len(changes) > 1 else set())

    with pytest.raises(PrometheusSettingsError, match=rf"{name} is .*give"):
        settings(**changes)
