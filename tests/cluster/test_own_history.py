"""A past whose demand is known, backfilled into a real Prometheus, comes back minute by minute; so do its gaps."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from click.testing import CliRunner, Result

from spillway.adapters.prometheus import PrometheusSettings
from spillway.adapters.prometheus.history import read_history
from spillway.adapters.prometheus.pod_names import WorkloadPods
from spillway.cli.main import main
from spillway.sim.history import Gaps, History, HistoryError, history_of
from tests.cluster.binaries import Binaries
from tests.cluster.controlplane import ControlPlane
from tests.cluster.past import GONE, SHORT, UTIL, Recorder
from tests.cluster.prometheus import Prometheus

HOURS = 26  # more than the day that one request reads
END = int(time.time()) // 60 * 60 - 600
NO_GAP = Gaps(count=0, minutes=0, longest=0)
ASKED = "kube_deployment_spec_replicas"
ENERGY = "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"
ALL_DAY = HOURS * 60


# llm-chat: two to five replicas, another count every 97 minutes; a replica that is added loads for five of them


def replicas(minute: int) -> int:
    return 2 + minute // 97 % 4


def serving(minute: int) -> int:
    before = replicas(minute - 97) if minute >= 97 else replicas(minute)
    return min(before, replicas(minute)) if minute % 97 < 5 else replicas(minute)


def percent(minute: int) -> int:
    return 10 + minute * 7 % 85


def chat_pod(number: int) -> str:
    return f"llm-chat-7d9f8c6b5-x2x4{'bcdfg'[number]}"


def record_chat(recorder: Recorder) -> None:
    for number in range(5):
        recorder.pod(
            chat_pod(number),
            lambda minute, n=number: (  # type: ignore[misc]
                percent(minute) if n < serving(minute) else 0 if n < replicas(minute) else GONE
            ),
            minutes=ALL_DAY,
        )
        recorder.readiness(
            chat_pod(number),
            lambda minute, n=number: (  # type: ignore[misc]
                int(n < serving(minute)) if n < replicas(minute) else GONE
            ),
            minutes=ALL_DAY,
        )


def record_lookalikes(recorder: Recorder) -> None:
    for name in (
        "llm-chat-2-7d9f8c6b5-x2x4z",
        "my-llm-chat-7d9f8c6b5-x2x4z",
        "llm-chat-4-x2x4z",
        "llm-chat-0",
    ):
        recorder.pod(name, lambda _: 80, minutes=ALL_DAY)
        recorder.readiness(name, lambda _: 1, minutes=ALL_DAY)
    recorder.pod(chat_pod(0), lambda _: 90, namespace="other", uuid="other", minutes=ALL_DAY)


def record_others(recorder: Recorder) -> None:
    """One short recording for each fact."""
    for name in ("bare-7d9f8c6b5-x2x4z", "bare-7d9f8c6b5-bcdfg"):
        recorder.write(UTIL, lambda _: 30, job="dcgm", namespace="team", pod=name, UUID=name)
    recorder.pod("both-tiers-7d9f8c6b5-x2x4z", lambda _: 50)
    recorder.pod("both-tiers-burst-7d9f8c6b5-x2x4z", lambda minute: 50 if minute >= 120 else None)
    recorder.pod("gaps-7d9f8c6b5-x2x4z", with_gaps)
    recorder.pod("full-7d9f8c6b5-x2x4z", lambda minute: 100 if minute < 60 else 50)
    recorder.pod("stopped-7d9f8c6b5-x2x4z", lambda minute: 50 if minute < 180 else GONE)
    recorder.write(ASKED, lambda minute: int(minute < 180), namespace="team", deployment="stopped")
    recorder.pod("slow-7d9f8c6b5-x2x4z", lambda minute: minute // 4 % 90, every=4)
    recorder.pod("half-7d9f8c6b5-x2x4z", lambda _: 60)
    for name in ("half-7d9f8c6b5-x2x4z", "half-7d9f8c6b5-bcdfg"):
        recorder.readiness(name, lambda _: 1)
    recorder.readiness("blind-7d9f8c6b5-x2x4z", lambda _: 1)
    recorder.pod("frozen-7d9f8c6b5-x2x4z", lambda _: 60, uuid="frozen")
    recorder.write(ENERGY, lambda minute: min(minute, 150) * 1000 + 1, UUID="frozen")
    for cluster in ("east", "west"):
        recorder.pod("twice-7d9f8c6b5-x2x4z", lambda _: 60, uuid=cluster, cluster=cluster)


def with_gaps(minute: int) -> float | str:
    """Nothing from minute 30 on for 6 minutes, and from 100 on for 50."""
    is_gap = 30 <= minute < 36 or 100 <= minute < 150
    return GONE if is_gap else 40 if minute < 100 else 70


@pytest.fixture(scope="module")
def past(built: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    recorder = Recorder(END)
    record_chat(recorder)
    record_lookalikes(recorder)
    record_others(recorder)
    with Prometheus(built, tmp_path_factory.mktemp("own-history")) as prometheus:
        prometheus.backfill(recorder.text())
        yield prometheus


def history(past: Prometheus, name: str, *, namespace: str = "team", matcher: str = "") -> History:
    settings = PrometheusSettings(url=past.url, cluster_matcher=matcher, timeout=timedelta(seconds=60))
    pods = WorkloadPods(namespace=namespace, deployment=name)
    return history_of(asyncio.run(read_history(settings, pods, span=timedelta(hours=HOURS + 1))))


def recorded(history: History, minutes: int) -> tuple[float, ...]:
    """Return what is played of the time that was recorded: the last value lingers for five minutes after its end."""
    assert history.begins.timestamp() == END - minutes * 60
    return history.demand.values[:minutes]


def test_the_demand_that_was_recorded_comes_back_minute_by_minute(past: Prometheus) -> None:
    found = history(past, "llm-chat")

    known = [percent(minute) / 100 * serving(minute) for minute in range(ALL_DAY)]
    assert recorded(found, ALL_DAY) == pytest.approx(known)
    assert (found.held, found.cut, found.seen_share) == (NO_GAP, NO_GAP, 1.0)


def test_replicas_that_load_are_held_and_carry_nothing(past: Prometheus) -> None:
    found = history(past, "llm-chat")

    assert [each.replicas for each in found.minutes[:ALL_DAY]] == [replicas(m) for m in range(ALL_DAY)]


def test_a_workload_that_is_called_nearly_the_same_has_its_own_past(past: Prometheus) -> None:
    assert set(history(past, "llm-chat-2").demand.values) == {0.8}
    assert set(history(past, "llm-chat", namespace="other").demand.values) == {0.9}


def test_a_namespace_without_such_pods_has_no_past(past: Prometheus) -> None:
    with pytest.raises(HistoryError, match="nothing was recorded of its pods"):
        history(past, "llm-chat", namespace="absent")


def test_honoured_labels_without_readiness_give_the_sum_over_pods(past: Prometheus) -> None:
    found = history(past, "bare")

    assert recorded(found, SHORT) == pytest.approx((0.6,) * SHORT)
    assert not found.knows_readiness


def test_pods_of_the_burst_twin_belong_to_it_and_are_counted_apart(past: Prometheus) -> None:
    found = history(past, "both-tiers")

    assert recorded(found, SHORT) == pytest.approx((0.5,) * 120 + (1.0,) * 120)
    assert {each.burst for each in found.minutes[120:SHORT]} == {1}


def test_a_short_gap_is_held_and_a_long_one_cut_out(past: Prometheus) -> None:
    found = history(past, "gaps")

    assert found.held == Gaps(count=1, minutes=6, longest=6)
    assert found.cut == Gaps(count=1, minutes=50, longest=50)
    assert recorded(found, SHORT)[:190] == pytest.approx((0.4,) * 100 + (0.7,) * 90)


def test_full_gpus_are_told_from_busy_ones(past: Prometheus) -> None:
    found = history(past, "full")

    assert found.pegged_share == pytest.approx(60 / len(found.minutes))


def test_a_time_at_zero_replicas_is_known_and_has_no_load(past: Prometheus) -> None:
    found = history(past, "stopped")

    assert recorded(found, SHORT) == pytest.approx((0.5,) * 180 + (0.0,) * 60)
    assert found.stopped_share == pytest.approx(60 / SHORT, abs=0.03)


def test_a_scrape_every_four_minutes_leaves_no_gap(past: Prometheus) -> None:
    found = history(past, "slow")

    assert (found.held, found.cut) == (NO_GAP, NO_GAP)
    assert set(found.demand.values[10:200]) >= {number / 100 for number in range(3, 50)}


def test_a_ready_pod_without_samples_counts_at_the_mean_of_the_others(past: Prometheus) -> None:
    assert recorded(history(past, "half"), SHORT) == pytest.approx((1.2,) * SHORT)


def test_ready_pods_without_any_samples_are_no_idle_ones(past: Prometheus) -> None:
    with pytest.raises(HistoryError, match="none of them had a GPU sample"):
        history(past, "blind")


def test_a_frozen_exporter_tells_nothing(past: Prometheus) -> None:
    found = history(past, "frozen")

    # its counter stands still from minute 150 on, which shows ten minutes later
    assert len(found.minutes) == pytest.approx(160, abs=1)


def test_a_store_of_two_clusters_is_read_with_a_matcher_only(past: Prometheus) -> None:
    answer = simulate(past, "--workload-ref", "team/twice")

    assert answer.exit_code == 1
    assert 'set --prometheus-matcher, for instance to cluster="NAME"' in answer.output
    assert set(history(past, "twice", matcher='cluster="east"').demand.values) == {0.6}


def simulate(past: Prometheus, *arguments: str) -> Result:
    return CliRunner().invoke(
        main, ["simulate", "--prometheus", past.url, "--since", f"{HOURS + 1}h", *arguments]
    )


def test_the_command_plays_it_and_prices_what_really_ran(past: Prometheus) -> None:
    answer = simulate(
        past, "--workload-ref", "team/llm-chat", "--policies", "spillway,static-peak", "--on-demand-price", "2",
        "--days", "0.5", "--format", "json",
    )  # fmt: skip

    found = json.loads(answer.stdout)
    runs = {run["policy"]: run for run in found["runs"]}
    assert list(runs) == ["spillway", "really-ran", "static-peak"]
    hours = sum(replicas(minute) for minute in range(120, 720)) / 60
    assert runs["really-ran"]["on_demand_hours"] == pytest.approx(hours)
    assert runs["really-ran"]["cost_usd"] == pytest.approx(2 * hours)
    assert runs["spillway"]["cost_usd"] > 0
    known = [percent(minute) / 100 * serving(minute) for minute in range(720)]
    assert found["history"]["mean_load"] == pytest.approx(sum(known) / 720)


def test_kubernetes_names_pods_as_they_are_looked_for(cluster: ControlPlane, namespace: str) -> None:
    names = (
        "llm-chat",
        "llm-chat-2",
        "llm-chat-burst",
        "a-name-of-fifty-four-letters-that-leaves-a-hash-cut-off-xy",
    )
    for name in names:
        cluster.make_deployment(namespace, name, replicas=3)
    pods = cluster.wait_for(
        lambda: found if len(found := cluster.pods(namespace)) == 3 * len(names) else None,
        30,
        "all pods are there",
    )

    def of(name: str) -> set[str]:
        pattern = WorkloadPods(namespace=namespace, deployment=name).pattern()
        return {pod["metadata"]["name"] for pod in pods if re.fullmatch(pattern, pod["metadata"]["name"])}

    owned = {
        name: {
            pod["metadata"]["name"]
            for pod in pods
            if pod["metadata"]["ownerReferences"][0]["name"].rpartition("-")[0] == name
        }
        for name in names
    }
    assert {name: of(name) for name in names[1:]} == {name: owned[name] for name in names[1:]}
    assert of("llm-chat") == owned["llm-chat"] | owned["llm-chat-burst"]
