"""The harness itself: what it starts is real, and its faults are seen."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.cluster.client import ApiError
from tests.cluster.controlplane import ControlPlane, condition_status
from tests.cluster.exporter import Exporter, Fault
from tests.cluster.faults import Cut, Delay, Drip, FaultProxy, Hang, Lose, kube_error
from tests.cluster.metrics_api import MetricsApi
from tests.cluster.processes import NotReady, Processes, wait_until
from tests.cluster.prometheus import Prometheus

ROOT = Path(__file__).parents[2]
UTIL = 'DCGM_FI_DEV_GPU_UTIL{exported_namespace="%s"}'


@pytest.fixture(scope="module")
def nodes(cluster: ControlPlane) -> Iterator[list[str]]:
    names = ["harness-a", "harness-b"]
    for name in names:
        cluster.make_gpu_node(name, labels={"harness": "true"}, taints=[_taint("harness")])
    yield names
    for name in names:
        cluster.delete_node(name)


def _taint(key: str) -> dict[str, str]:
    return {"key": key, "value": "true", "effect": "NoSchedule"}


ON_HARNESS_NODES = {"nodeSelector": {"harness": "true"}}


@pytest.fixture
def busy(nodes: list[str], cluster: ControlPlane, exporter: Exporter, namespace: str) -> str:
    """Two single-GPU replicas with 1.5 replicas' worth of work; the namespace they are in."""
    cluster.make_deployment(namespace, "llm", replicas=2, pod_spec=ON_HARNESS_NODES)
    cluster.wait_ready_replicas(namespace, "llm", 2)
    exporter.set_demand(namespace, "llm", 1.5)
    return namespace


def test_a_deployment_spreads_over_gpu_nodes_and_turns_ready_after_its_delay(
    cluster: ControlPlane, nodes: list[str], namespace: str
) -> None:
    started = time.monotonic()

    cluster.make_deployment(namespace, "llm", replicas=4, gpus=4, ready_after="2s", pod_spec=ON_HARNESS_NODES)
    cluster.wait_ready_replicas(namespace, "llm", 4)

    assert time.monotonic() - started >= 2
    assert sorted(pod["spec"]["nodeName"] for pod in cluster.pods(namespace)) == sorted(nodes * 2)


def test_a_pod_that_does_not_fit_stays_pending_as_unschedulable(
    cluster: ControlPlane, nodes: list[str], namespace: str
) -> None:
    cluster.make_deployment(namespace, "llm", gpus=9, pod_spec=ON_HARNESS_NODES)

    pod = cluster.wait_for(
        lambda: [p for p in cluster.pods(namespace) if condition_status(p, "PodScheduled") == "False"],
        10,
        "the scheduler refuses the pod",
    )[0]

    assert "Insufficient nvidia.com/gpu" in pod["status"]["conditions"][0]["message"]


def test_a_crash_looping_pod_never_turns_ready(
    cluster: ControlPlane, nodes: list[str], namespace: str
) -> None:
    cluster.make_deployment(namespace, "llm", crash=True, pod_spec=ON_HARNESS_NODES)

    pod = cluster.wait_for(
        lambda: next((p for p in cluster.pods(namespace) if "CrashLoopBackOff" in str(p["status"])), None),
        10,
        "the pod crash-loops",
    )

    assert condition_status(pod, "Ready") == "False"
    assert pod["status"]["containerStatuses"][0]["restartCount"] > 0


def test_the_audit_log_tells_who_wrote_what(cluster: ControlPlane, nodes: list[str], namespace: str) -> None:
    cluster.make_deployment(namespace, "llm", replicas=0)
    mark = cluster.audit_mark()
    scale = f"/apis/apps/v1/namespaces/{namespace}/deployments/llm/scale"

    cluster.client.patch(scale, {"spec": {"replicas": 1}})

    (event,) = cluster.audit_events(user="admin", verbs=["patch"], since=mark)
    assert event["objectRef"]["subresource"] == "scale"
    assert event["requestObject"]["spec"]["replicas"] == 1


def test_a_service_account_token_has_no_more_rights_than_its_roles(
    cluster: ControlPlane, namespace: str
) -> None:
    client = cluster.client_for(cluster.service_account_token(namespace, "default"))

    with pytest.raises(ApiError) as refused:
        client.get("/api/v1/nodes")

    assert refused.value.status == 403
    assert f"system:serviceaccount:{namespace}:default" in refused.value.message


def test_a_paused_api_server_answers_nothing_until_it_is_resumed(cluster: ControlPlane) -> None:
    cluster.pause_api()
    try:
        with pytest.raises(requests.ReadTimeout):
            requests.get(f"{cluster.url}/readyz", verify=str(cluster.ca_file), timeout=0.5)
    finally:
        cluster.resume_api()

    assert cluster.client.text("/readyz") == "ok"


def test_a_restarted_api_server_has_what_it_stored(cluster: ControlPlane, namespace: str) -> None:
    cluster.restart_apiserver()

    assert cluster.client.get(f"/api/v1/namespaces/{namespace}")["status"]["phase"] == "Active"


def test_prometheus_stores_the_workload_as_exported_pod(
    busy: str, cluster: ControlPlane, prometheus: Prometheus
) -> None:
    prometheus.wait_scraped()

    samples = prometheus.query(UTIL % busy)

    assert {s.labels["exported_pod"] for s in samples} == {p["metadata"]["name"] for p in cluster.pods(busy)}
    assert {s.labels["pod"] for s in samples} == {"dcgm-exporter-xyz"}
    assert [s.value for s in samples] == [75, 75]


def test_with_honor_labels_the_workload_stays_pod(
    busy: str, exporter: Exporter, prometheus: Prometheus
) -> None:
    prometheus.set_targets([exporter.target(honor_labels=True)])
    try:
        prometheus.wait_scraped()
        samples = prometheus.query(f'DCGM_FI_DEV_GPU_UTIL{{namespace="{busy}"}}')
    finally:
        prometheus.set_targets([exporter.target(), exporter.engine_target()])

    assert [s.value for s in samples] == [75, 75]


@pytest.mark.parametrize(
    ("schema", "query_and_value"),
    [
        pytest.param("old", ("DCGM_FI_DEV_GPU_UTIL", 75), id="old names, percent"),
        pytest.param("new", ("DCGM_FI_DEV_GPU_UTIL_RATIO", 0.75), id="4.9 names, ratio"),
    ],
)
def test_each_schema_writes_its_own_unit(
    busy: str, exporter: Exporter, prometheus: Prometheus, schema: str, query_and_value: tuple[str, float]
) -> None:
    query, value = query_and_value
    exporter.schema = schema  # type: ignore[assignment]  # one of the literals above
    try:
        prometheus.wait_scraped()
        samples = prometheus.query(f'{query}{{exported_namespace="{busy}"}}')
    finally:
        exporter.schema = "old"

    assert [s.value for s in samples] == [value, value]


def test_in_the_mixed_schema_half_the_nodes_speak_each(
    nodes: list[str], exporter: Exporter, prometheus: Prometheus
) -> None:
    exporter.schema = "mixed"
    try:
        prometheus.wait_scraped()
        old = {s.labels["Hostname"] for s in prometheus.query("DCGM_FI_DEV_FB_USED")}
        new = {s.labels["hostname"] for s in prometheus.query("DCGM_FI_DEV_FB_USED_BYTES")}
    finally:
        exporter.schema = "old"

    assert len(old & set(nodes)) == len(new & set(nodes)) == 1


def test_an_unallocated_gpu_has_no_workload(nodes: list[str], prometheus: Prometheus) -> None:
    prometheus.wait_scraped()

    idle = prometheus.query(f'DCGM_FI_DEV_GPU_UTIL{{exported_pod="",Hostname=~"{"|".join(nodes)}"}}')

    assert idle
    assert {s.value for s in idle} == {0}


def test_energy_counts_up_with_the_power(busy: str, prometheus: Prometheus) -> None:
    prometheus.wait_scraped()
    before = time.time()
    wait_until(lambda: time.time() - before > 3, 5, "three scrapes pass")

    joules = prometheus.query(
        f'idelta(DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{exported_namespace="{busy}"}}[5s]) / 1000'
    )

    assert [s.value for s in joules] == [
        pytest.approx(542.5, rel=0.1)
    ] * 2  # 70 W idle + 75 % of 630 W, for one second


def test_work_that_does_not_fit_waits_in_the_engine_queue(
    nodes: list[str], cluster: ControlPlane, exporter: Exporter, prometheus: Prometheus, namespace: str
) -> None:
    labels = {"spillway-test.dev/engine": "vllm"}
    cluster.make_deployment(namespace, "llm", pod_labels=labels, pod_spec=ON_HARNESS_NODES)
    cluster.wait_ready_replicas(namespace, "llm", 1)

    exporter.set_demand(namespace, "llm", 1.5)
    prometheus.wait_scraped()

    selector = f'{{namespace="{namespace}"}}'
    assert prometheus.value(f"vllm:num_requests_running{selector}") == 16
    assert prometheus.value(f"vllm:num_requests_waiting{selector}") == 8
    assert prometheus.value(f"vllm:kv_cache_usage_perc{selector}") == 0.9


@pytest.mark.parametrize(
    ("fault", "values"),
    [
        pytest.param(Fault.VANISH, [], id="vanish"),
        pytest.param(Fault.ZEROS, [0, 0], id="zeros"),
        pytest.param(Fault.SENTINEL, [4294967295, 4294967295], id="sentinel"),
        pytest.param(Fault.MISSING_POD_LABEL, [], id="missing pod label"),
        pytest.param(Fault.HALF_MISSING, [75], id="half the pods missing"),
        pytest.param(Fault.PROF_ZERO, [75, 75], id="only the profiling counter is zero"),
    ],
)
def test_a_fault_of_one_namespace_shows_in_its_utilization(
    busy: str, exporter: Exporter, prometheus: Prometheus, fault: Fault, values: list[float]
) -> None:
    exporter.set_fault(fault, busy)
    prometheus.wait_scraped()

    assert [s.value for s in prometheus.query(UTIL % busy)] == values


def test_not_a_number_is_stored_as_such(busy: str, exporter: Exporter, prometheus: Prometheus) -> None:
    exporter.set_fault(Fault.NAN, busy)
    prometheus.wait_scraped()

    assert [math.isnan(s.value) for s in prometheus.query(UTIL % busy)] == [True, True]


def test_zeros_leave_the_power_telling_of_work(busy: str, exporter: Exporter, prometheus: Prometheus) -> None:
    exporter.set_fault(Fault.ZEROS, busy)
    prometheus.wait_scraped()

    power = prometheus.query(f'DCGM_FI_DEV_POWER_USAGE{{exported_namespace="{busy}"}}')

    assert [s.value for s in power] == [542.5, 542.5]


def test_a_frozen_exporter_repeats_its_values_with_fresh_timestamps(
    busy: str, exporter: Exporter, prometheus: Prometheus
) -> None:
    exporter.set_fault(Fault.FREEZE, busy)
    prometheus.wait_scraped()
    exporter.set_demand(busy, "llm", 0.2)
    prometheus.wait_scraped()

    assert [s.value for s in prometheus.query(UTIL % busy)] == [75, 75]
    assert prometheus.value(f"time() - max(timestamp({UTIL % busy}))") < 2  # type: ignore[operator]  # there is one


@pytest.mark.parametrize("fault", [Fault.DOWN, Fault.REFUSED])
def test_a_failing_exporter_is_down_and_its_series_end(
    busy: str, exporter: Exporter, prometheus: Prometheus, fault: Fault
) -> None:
    prometheus.wait_scraped()
    exporter.fault = fault

    wait_until(lambda: prometheus.value('up{job="dcgm"}') == 0, 5, "Prometheus sees the exporter down")

    assert prometheus.query(UTIL % busy) == []


def test_demand_and_faults_can_be_set_with_curl(busy: str, exporter: Exporter) -> None:
    requests.put(f"{exporter.url}/demand/{busy}/llm?replicas=0.6", timeout=5).raise_for_status()
    requests.put(f"{exporter.url}/fault?kind=zeros&namespace={busy}", timeout=5).raise_for_status()
    refused = requests.put(f"{exporter.url}/fault?kind=bogus", timeout=5)

    assert exporter.demand(busy, "llm") == 0.6
    assert refused.status_code == 400
    assert "kind=freeze|vanish" in refused.text


def test_history_can_be_loaded_before_now(tmp_path: Path, prometheus: Prometheus) -> None:
    yesterday = int(time.time()) - 86400
    lines = "".join(f"loaded {n} {yesterday + 60 * n}\n" for n in range(5))

    prometheus.backfill(f"# TYPE loaded gauge\n{lines}# EOF\n")

    assert [s.value for s in prometheus.query("loaded", at=yesterday + 60 * 3)] == [3]


def test_an_aggregated_api_on_loopback_feeds_a_real_hpa(
    cluster: ControlPlane, nodes: list[str], namespace: str
) -> None:
    cluster.make_deployment(namespace, "llm", pod_spec=ON_HARNESS_NODES)

    with MetricsApi(namespace, value=6, cert_file=cluster.cert_file, key_file=cluster.key_file) as metrics:
        metrics.register(cluster.client)
        cluster.client.apply(_hpa(namespace, "llm", average_value="2"))

        cluster.wait_ready_replicas(namespace, "llm", 3)


def _hpa(namespace: str, name: str, *, average_value: str) -> dict[str, object]:
    queue = {"metric": {"name": "queue"}, "target": {"type": "AverageValue", "averageValue": average_value}}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "maxReplicas": 5,
            "metrics": [{"type": "External", "external": queue}],
        },
    }


# The proxy


@pytest.fixture
def proxy(cluster: ControlPlane) -> Iterator[FaultProxy]:
    with FaultProxy(
        cluster.url, ca_file=cluster.ca_file, cert_file=cluster.cert_file, key_file=cluster.key_file
    ) as running:
        yield running


@pytest.fixture
def through(cluster: ControlPlane, proxy: FaultProxy) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False  # REQUESTS_CA_BUNDLE would win against verify
        session.verify = str(cluster.ca_file)
        session.headers["Authorization"] = f"Bearer {cluster.admin_token}"
        yield session


NODES = "/api/v1/nodes"


def test_the_proxy_passes_everything_through_unchanged(
    cluster: ControlPlane, proxy: FaultProxy, through: requests.Session
) -> None:
    answer = through.get(f"{proxy.url}/api/v1/namespaces/default", timeout=5)

    assert answer.json() == cluster.client.get("/api/v1/namespaces/default")
    assert proxy.count(method="GET", path="namespaces") == 1


def test_the_proxy_answers_429_in_the_servers_place_as_often_as_told(
    proxy: FaultProxy, through: requests.Session
) -> None:
    rule = proxy.add(
        kube_error(429, "TooManyRequests", retry_after_seconds=1), method="GET", path=NODES, times=2
    )

    codes = [through.get(proxy.url + NODES, timeout=5).status_code for _ in range(3)]

    assert codes == [429, 429, 200]
    assert rule.hits == 2


def test_the_proxy_delays(proxy: FaultProxy, through: requests.Session) -> None:
    proxy.add(Delay(0.5), path=NODES)

    assert through.get(proxy.url + NODES, timeout=5).elapsed.total_seconds() >= 0.5


def test_the_proxy_cuts_an_answer_short(proxy: FaultProxy, through: requests.Session) -> None:
    proxy.add(Cut(after_bytes=20), path=NODES)

    with pytest.raises((requests.exceptions.ChunkedEncodingError, requests.ConnectionError)):
        through.get(proxy.url + NODES, timeout=5)


def test_the_proxy_drips(proxy: FaultProxy, through: requests.Session) -> None:
    proxy.add(Drip(bytes_per_second=5), path="/readyz")  # two bytes

    started = time.monotonic()
    through.get(f"{proxy.url}/readyz", timeout=5)

    assert time.monotonic() - started >= 0.4


def test_the_proxy_hangs(proxy: FaultProxy, through: requests.Session) -> None:
    proxy.add(Hang(), path=NODES)

    with pytest.raises(requests.ReadTimeout):
        through.get(proxy.url + NODES, timeout=0.5)


def test_a_lost_answer_still_changes_the_server(
    cluster: ControlPlane, proxy: FaultProxy, through: requests.Session, namespace: str
) -> None:
    proxy.add(Lose(), method="POST")

    with pytest.raises(requests.ConnectionError):
        through.post(
            f"{proxy.url}/api/v1/namespaces/{namespace}/configmaps",
            json={"metadata": {"name": "kept"}},
            timeout=5,
        )

    assert cluster.client.find(f"/api/v1/namespaces/{namespace}/configmaps/kept") is not None


def test_a_watch_streams_through_and_can_be_cut(
    cluster: ControlPlane, proxy: FaultProxy, through: requests.Session, namespace: str
) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps?watch=true"
    with through.get(proxy.url + path, stream=True, timeout=10) as watch:
        lines = watch.iter_lines()
        first = next(lines)  # kube-root-ca.crt, made with the namespace

        cut = proxy.cut_open("watch=true")

        assert b"kube-root-ca.crt" in first
        assert cut == 1
        with pytest.raises((requests.exceptions.ChunkedEncodingError, requests.ConnectionError)):
            list(lines)


# Processes


def test_a_program_that_is_not_ready_in_time_shows_the_end_of_its_log(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes, pytest.raises(NotReady, match="port 1 is taken"):
        processes.start(
            "server", ["sh", "-c", "echo port 1 is taken; sleep 60"], ready=lambda: False, seconds=0.3
        )


def test_a_program_that_ends_early_says_its_code(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes, pytest.raises(NotReady, match="ended with code 3"):
        processes.start("server", ["sh", "-c", "exit 3"], ready=lambda: False)


def test_kill_9_of_the_parent_leaves_no_process(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from tests.cluster.processes import Processes\n"
        "processes = Processes(Path(sys.argv[1])).__enter__()\n"
        "child = processes.start('child', ['sh', '-c', 'trap : TERM; sleep 600 & while :; do wait; done'])\n"
        "print(child.pid, flush=True); time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        group = int(parent.stdout.readline())

        parent.send_signal(signal.SIGKILL)

    wait_until(lambda: not _group_exists(group), 10, "the child and its own child are gone")


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
