"""The text of the queries; what it computes is proven on a real Prometheus in tests/cluster."""

import re
from datetime import timedelta

import pytest

from spillway.adapters.prometheus.pod_names import WorkloadPods
from spillway.adapters.prometheus.profiles import DCGM
from spillway.adapters.prometheus.queries import activity_history, gpu_activity, quote, workload_history
from spillway.adapters.prometheus.settings import PrometheusSettings

SELECTOR = re.compile(r"\b(?:DCGM_\w+|up)\{([^}]*)\}")


def settings(**changes: object) -> PrometheusSettings:
    return PrometheusSettings(**{"url": "http://prometheus:9090", **changes})  # type: ignore[arg-type]


def test_every_metric_of_the_profile_is_asked_for() -> None:
    query = gpu_activity(settings())

    names = {metric.name for metric in DCGM.activity} | {*DCGM.energy, *DCGM.power}
    assert names <= set(re.findall(r"DCGM_\w+", query))


@pytest.mark.case("metrics-and-cost E59")
@pytest.mark.parametrize("matcher", ['cluster="prod-1"', 'cluster="prod-1",', ' cluster="prod-1" '])
def test_the_cluster_matcher_is_in_every_selector(matcher: str) -> None:
    chosen = settings(cluster_matcher=matcher)
    queries = gpu_activity(chosen) + activity_history(chosen, step=timedelta(seconds=15))

    selectors = SELECTOR.findall(queries)
    assert len(selectors) > 20
    assert all(inside.startswith('cluster="prod-1"') for inside in selectors)
    assert ",," not in queries


def test_the_cluster_matcher_is_in_every_selector_of_one_workloads_past() -> None:
    query = past_of("chat", cluster_matcher='cluster="prod-1"')

    named = re.findall(r"\b(?:DCGM|kube)_\w+", query)
    assert {"DCGM_FI_DEV_GPU_UTIL", "kube_pod_status_ready", "kube_deployment_spec_replicas"} <= set(named)
    assert len(re.findall(r'\b(?:DCGM|kube)_\w+\{cluster="prod-1"', query)) == len(named)
    assert '"clusters"' not in query


def test_one_workloads_past_selects_its_pods_by_either_pair_of_labels() -> None:
    query = past_of("chat")

    selectors = re.findall(r"DCGM_FI_DEV_GPU_UTIL\{([^}]*)", query)
    assert all(
        'exported_namespace="team", exported_pod=~"chat-' in inside
        or 'namespace="team", pod=~"chat-' in inside
        for inside in selectors
    )


def test_a_backslash_of_a_pattern_reaches_prometheus_as_one() -> None:
    assert r'exported_pod=~"llm\\.chat-' in past_of("llm.chat")


def past_of(deployment: str, **changes: object) -> str:
    pods = WorkloadPods(namespace="team", deployment=deployment)
    return workload_history(settings(**changes), pods, step=timedelta(minutes=1))


def test_clusters_are_counted_only_where_no_matcher_separates_them() -> None:
    assert '"clusters"' in gpu_activity(settings())
    assert '"clusters"' not in gpu_activity(settings(cluster_matcher='cluster="a"'))


def test_no_metric_is_named_without_braces_for_the_matcher() -> None:
    query = gpu_activity(settings())

    assert len(re.findall(r"DCGM_\w+", query)) == len(re.findall(r"DCGM_\w+\{", query))


def test_timestamps_are_read_from_bare_selectors_only() -> None:
    query = gpu_activity(settings())

    assert re.findall(r"timestamp\((?!DCGM_\w+\{[^}]*\}\))", query) == []


def test_windows_and_step_come_from_the_settings() -> None:
    query = gpu_activity(
        settings(
            window=timedelta(seconds=20),
            step=timedelta(seconds=2),
            frozen_window=timedelta(seconds=7),
            disagreement_window=timedelta(minutes=3),
        )
    )

    assert "[20000ms:2000ms]" in query
    assert "offset 7000ms" in query
    assert "[180000ms]" in query


def test_coarse_history_takes_coarser_samples() -> None:
    assert "[60000ms:15000ms]" in activity_history(settings(), step=timedelta(minutes=1))
    assert "[60000ms:10000ms]" in activity_history(settings(), step=timedelta(seconds=15))


@pytest.mark.case("workload-autoscalers D20")
@pytest.mark.parametrize(
    ("value", "literal"),
    [
        pytest.param("chat", '"chat"', id="plain"),
        pytest.param('a"} or vector(1) #', '"a\\"} or vector(1) #"', id="quote"),
        pytest.param("back\\slash", '"back\\\\slash"', id="backslash"),
        pytest.param("two\nlines\r", '"two\\nlines\\r"', id="line breaks"),
        pytest.param(".*|{}", '".*|{}"', id="regex characters mean nothing in equality"),
        pytest.param("größe", '"größe"', id="unicode"),
    ],
)
def test_a_quoted_value_cannot_leave_its_literal(value: str, literal: str) -> None:
    assert quote(value) == literal


@pytest.mark.case("workload-autoscalers D20")
@pytest.mark.parametrize("value", ["nul\0", "\ud800"])
def test_text_that_no_label_can_hold_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="label value"):
        quote(value)
