"""A stand-in for dcgm-exporter and vLLM: it follows the real pods and computes their GPUs' load from a demand that tests set.

Utilization of a pod = min(1, demand ÷ ready replicas), demand being in replicas' worth of work; what does not fit waits in the
engine's queue. A pod that is still loading holds its GPUs and does nothing. Faults make the page lie the ways real exporters do.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import parse_qs, urlsplit

import requests

from tests.cluster.client import ApiError, Client, JsonObject
from tests.cluster.dcgm_page import (
    BUSY_WATTS,
    IDLE_WATTS,
    NEW,
    OLD,
    EngineReading,
    PodRef,
    Reading,
    Schema,
    dcgm_page,
    vllm_page,
)
from tests.cluster.processes import wait_until
from tests.cluster.prometheus import Target

GPU = "nvidia.com/gpu"
WORKLOAD_LABEL = "spillway-test.dev/workload"
ENGINE_LABEL = "spillway-test.dev/engine"
FRAMEBUFFER_BYTES = 80 * 1024**3
IDLE_BYTES = 4 * 1024**2
SLOTS = 16  # requests that one replica of the engine serves at a time
SENTINEL = "4294967295"

SchemaName = Literal["old", "new", "mixed"]
Workload = tuple[str, str]


class Fault(StrEnum):
    """The ways a page can be wrong."""

    FREEZE = "freeze"  # values and energy stop moving, timestamps go on
    VANISH = "vanish"  # the page answers without the series
    DOWN = "down"  # the page answers 500
    REFUSED = "refused"  # the connection is closed unanswered
    ZEROS = "zeros"  # utilization reads 0 while power and energy tell of work
    PROF_ZERO = "prof-zero"  # the profiling counter reads 0 while GPU_UTIL is right
    SENTINEL = "sentinel"  # utilization reads 4294967295
    NAN = "nan"
    MISSING_POD_LABEL = "missing-pod-label"  # every GPU looks unallocated
    HALF_MISSING = "half-missing"  # every second pod of a workload has no series


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """What of a pod matters to its GPUs."""

    uid: str
    ref: PodRef
    workload: Workload
    node: str
    gpus: int
    serving: bool
    engine: bool


class Exporter:
    """Context manager serving `/metrics` (DCGM), `/engine` (vLLM) and controls on loopback; see `do_PUT` for the controls.

    *client* is used by the exporter's own threads alone. A workload is named by its pods' Deployment, or by the pod label
    `spillway-test.dev/workload`. Schema `mixed` has every second node speak the 4.9 names.
    """

    def __init__(
        self,
        client: Callable[[], Client],
        *,
        schema: SchemaName = "old",
        noise: float = 0.0,
        warm_up_utilization: float = 0.0,
        port: int = 0,
    ) -> None:
        self.schema: SchemaName = schema
        self.noise = noise
        self.warm_up_utilization = warm_up_utilization
        self._nodes = Follower(client(), "/api/v1/nodes")
        self._pods = Follower(client(), "/api/v1/pods")
        self._lock = threading.Lock()
        self._demand: dict[Workload, float] = {}
        self._faults: dict[str | None, Fault] = {}
        self._fleet = Fleet()
        self._frozen: dict[tuple[str, int], Reading] = {}
        self._random = random.Random(0)  # noqa: S311 - repeatable noise
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="exporter", daemon=True)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.address}"

    def __enter__(self) -> Self:
        self._nodes.start()
        self._pods.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
        self._nodes.stop()
        self._pods.stop()

    # What tests set

    def set_demand(self, namespace: str, name: str, replicas: float) -> None:
        """Offer workload *name* the work that keeps *replicas* replicas fully busy."""
        with self._lock:
            self._demand[namespace, name] = replicas

    def demand(self, namespace: str, name: str) -> float:
        return self._demand.get((namespace, name), 0.0)

    def demands(self) -> dict[str, float]:
        """Return all demands by "namespace/name"."""
        return {f"{namespace}/{name}": replicas for (namespace, name), replicas in self._demand.items()}

    def set_fault(self, kind: Fault | None, namespace: str | None = None) -> None:
        """Break everything, or the pods of one namespace alone (not for DOWN and REFUSED); None mends it."""
        with self._lock:
            self._faults.pop(namespace, None)
            if kind is not None:
                self._faults[namespace] = kind
            if Fault.FREEZE not in self._faults.values():
                self._frozen.clear()

    @property
    def fault(self) -> Fault | None:
        """The fault of everything."""
        return self._faults.get(None)

    @fault.setter
    def fault(self, kind: Fault | None) -> None:
        self.set_fault(kind)

    def forget(self, namespace: str) -> None:
        """Drop demands and faults of *namespace*, and the fault of everything: a test is over."""
        self.set_fault(None)
        self.set_fault(None, namespace)
        with self._lock:
            self._demand = {key: value for key, value in self._demand.items() if key[0] != namespace}

    def target(self, *, honor_labels: bool = False) -> Target:
        """Return the scrape target of the DCGM page, labelled as service discovery labels an exporter's own pod."""
        labels = {"namespace": "gpu-operator", "pod": "dcgm-exporter-xyz"}
        return Target(job="dcgm", address=self.address, labels=labels, honor_labels=honor_labels)

    def engine_target(self) -> Target:
        return Target(job="engine", address=self.address, path="/engine", honor_labels=True)

    # What scrapers read

    def page(self) -> str:
        """Return the DCGM page of this moment."""
        with self._lock:
            return dcgm_page(self._readings(time.monotonic()), self._schema_of)

    def engine_page(self) -> str:
        """Return the queue series of the pods labelled `spillway-test.dev/engine`."""
        with self._lock:
            pods = self._current_pods()
            ready = _ready_counts(pods)
            serving = [pod for pod in pods if pod.engine and pod.serving]
            return vllm_page(self._engine_reading(pod, ready[pod.workload]) for pod in serving)

    def _engine_reading(self, pod: Pod, ready: int) -> EngineReading:
        share = self._demand.get(pod.workload, 0.0) / ready
        return EngineReading(
            pod=pod.ref,
            model=pod.workload[1],
            running=round(min(1.0, share) * SLOTS),
            waiting=round(max(0.0, share - 1.0) * SLOTS),
            kv_cache_fraction=min(1.0, share) * 0.9,
        )

    def _schema_of(self, node: str) -> Schema:
        if self.schema == "mixed":
            return NEW if self._fleet.order(node) % 2 else OLD
        return NEW if self.schema == "new" else OLD

    def _current_pods(self) -> list[Pod]:
        return sorted(
            filter(None, map(_pod, self._pods.objects())), key=lambda pod: (pod.ref.namespace, pod.ref.name)
        )

    def _readings(self, now: float) -> list[Reading]:
        nodes = {node["metadata"]["name"]: node for node in self._nodes.objects() if _gpus_of(node)}
        pods = self._current_pods()
        self._fleet.settle(nodes={name: _gpus_of(node) for name, node in nodes.items()}, pods=pods)
        ready = _ready_counts(pods)
        true_readings = []
        for name, index, pod in self._fleet.devices():
            activity = self._activity(pod, ready)
            self._fleet.burn(name, index, watts=_watts(activity), now=now)
            true_readings.append(self._reading(nodes[name], index, pod, activity))
        return list(self._as_told(true_readings, pods))

    def _activity(self, pod: Pod | None, ready: dict[Workload, int]) -> float:
        if pod is None:
            return 0.0
        if not pod.serving:
            return self.warm_up_utilization
        share = min(1.0, self._demand.get(pod.workload, 0.0) / ready[pod.workload])
        return min(1.0, max(0.0, share + self._random.gauss(0, self.noise))) if self.noise else share

    def _reading(self, node: JsonObject, index: int, pod: Pod | None, activity: float) -> Reading:
        name = node["metadata"]["name"]
        used = FRAMEBUFFER_BYTES * 0.9 if pod else IDLE_BYTES
        return Reading(
            node=name,
            index=index,
            model=node["metadata"].get("labels", {}).get("nvidia.com/gpu.product", "NVIDIA-A10G"),
            pod=pod.ref if pod else None,
            quantities={
                "utilization": activity,
                "engine_active": activity,
                "framebuffer_used": used,
                "framebuffer_free": FRAMEBUFFER_BYTES - used,
                "power": _watts(activity),
                "energy": self._fleet.energy_joules(name, index),
            },
        )

    def _as_told(self, readings: list[Reading], pods: list[Pod]) -> Iterator[Reading]:
        """Yield what the page says of the true *readings*, under the faults in force."""
        missing = _every_second(pods)
        for reading in readings:
            fault = self._fault_of(reading)
            told: Reading | None = reading
            if fault is Fault.FREEZE:
                told = self._frozen.setdefault((reading.node, reading.index), reading)
            elif fault is Fault.VANISH or (fault is Fault.HALF_MISSING and reading.pod in missing):
                told = None
            elif fault is not None:
                told = _distorted(reading, fault)
            if told is not None:
                yield told

    def _fault_of(self, reading: Reading) -> Fault | None:
        own = self._faults.get(reading.pod.namespace) if reading.pod else None
        return own or self._faults.get(None)


class Fleet:
    """Which pod holds which GPU, and the energy that each GPU has used since the exporter started."""

    def __init__(self) -> None:
        self._holders: dict[str, list[Pod | None]] = {}
        self._order: dict[str, int] = {}
        self._joules: dict[tuple[str, int], float] = defaultdict(float)
        self._burned_at: dict[tuple[str, int], float] = {}

    def order(self, node: str) -> int:
        """Return how many nodes were seen before *node*: stable while nodes come and go."""
        return self._order.setdefault(node, len(self._order))

    def settle(self, *, nodes: dict[str, int], pods: list[Pod]) -> None:
        """Take in the nodes (with their GPU counts) and pods of this moment; a pod keeps the GPUs it has."""
        current = {pod.uid: pod for pod in pods}
        self._holders = {
            name: [current.get(held.uid) if held else None for held in self._holders.get(name, [None] * gpus)]
            for name, gpus in nodes.items()
        }
        placed = {held.uid for holders in self._holders.values() for held in holders if held}
        for pod in pods:
            if pod.uid not in placed and pod.node in self._holders:
                _place(self._holders[pod.node], pod)
        for name in nodes:
            self.order(name)

    def devices(self) -> Iterator[tuple[str, int, Pod | None]]:
        for name, holders in sorted(self._holders.items()):
            for index, pod in enumerate(holders):
                yield name, index, pod

    def burn(self, node: str, index: int, *, watts: float, now: float) -> None:
        """Add the energy used at *watts* since the last call for this GPU."""
        key = (node, index)
        self._joules[key] += watts * (now - self._burned_at.get(key, now))
        self._burned_at[key] = now

    def energy_joules(self, node: str, index: int) -> float:
        return self._joules[node, index]


class Follower:
    """Keeps the objects of one list path as the API server has them; on trouble it keeps the last and tries again."""

    def __init__(self, client: Client, path: str) -> None:
        self._client = client
        self._path = path
        self._objects: dict[str, JsonObject] = {}
        self._ended = threading.Event()
        self._synced = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"follow {path}", daemon=True)

    def start(self) -> None:
        self._thread.start()
        wait_until(self._synced.is_set, 15, f"the exporter lists {self._path}")

    def stop(self) -> None:
        self._ended.set()  # the thread is a daemon in a quiet watch: it ends with the server or with us

    def objects(self) -> list[JsonObject]:
        return list(self._objects.values())

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._follow_once()
            except (ApiError, requests.RequestException, ValueError, KeyError):
                self._ended.wait(0.5)

    def _follow_once(self) -> None:
        listed = self._client.get(self._path)
        self._objects = {item["metadata"]["uid"]: item for item in listed["items"]}
        self._synced.set()
        for event in self._client.watch(self._path, version=listed["metadata"]["resourceVersion"]):
            if self._ended.is_set() or event["type"] == "ERROR":
                return
            self._take(event)

    def _take(self, event: JsonObject) -> None:
        uid = event["object"]["metadata"].get("uid")
        if event["type"] == "DELETED":
            self._objects.pop(uid, None)
        elif event["type"] in ("ADDED", "MODIFIED"):
            self._objects = {**self._objects, uid: event["object"]}


def _gpus_of(node: JsonObject) -> int:
    return int(node.get("status", {}).get("capacity", {}).get(GPU, 0))


def _pod(body: JsonObject) -> Pod | None:
    """Return what matters of a pod that holds GPUs; None for any other."""
    metadata, spec, status = body["metadata"], body["spec"], body.get("status", {})
    holders = [
        (c["name"], int(c.get("resources", {}).get("limits", {}).get(GPU, 0))) for c in spec["containers"]
    ]
    gpus = sum(count for _, count in holders)
    if not gpus or "nodeName" not in spec or status.get("phase") in ("Succeeded", "Failed"):
        return None
    labels = metadata.get("labels", {})
    container = next(name for name, count in holders if count)
    return Pod(
        uid=metadata["uid"],
        ref=PodRef(namespace=metadata["namespace"], name=metadata["name"], container=container),
        workload=(metadata["namespace"], labels.get(WORKLOAD_LABEL) or _owner_name(metadata)),
        node=spec["nodeName"],
        gpus=gpus,
        serving=_is_ready(status) and "deletionTimestamp" not in metadata,
        engine=labels.get(ENGINE_LABEL) == "vllm",
    )


def _owner_name(metadata: JsonObject) -> str:
    owners = metadata.get("ownerReferences") or [{"name": metadata["name"]}]
    name: str = owners[0]["name"]
    template_hash = metadata.get("labels", {}).get("pod-template-hash")
    return name.removesuffix(f"-{template_hash}") if template_hash else name


def _is_ready(status: JsonObject) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", []))


def _ready_counts(pods: list[Pod]) -> dict[Workload, int]:
    counts: dict[Workload, int] = defaultdict(int)
    for pod in pods:
        counts[pod.workload] += pod.serving
    return counts


def _place(holders: list[Pod | None], pod: Pod) -> None:
    free = [index for index, held in enumerate(holders) if held is None]
    for index in free[: pod.gpus]:
        holders[index] = pod


def _every_second(pods: list[Pod]) -> set[PodRef | None]:
    by_workload: dict[Workload, list[PodRef]] = defaultdict(list)
    for pod in pods:
        by_workload[pod.workload].append(pod.ref)
    return {ref for refs in by_workload.values() for ref in refs[1::2]}


def _watts(activity: float) -> float:
    return IDLE_WATTS + (BUSY_WATTS - IDLE_WATTS) * activity


def _distorted(reading: Reading, fault: Fault) -> Reading:
    match fault:
        case Fault.ZEROS:
            return replace(reading, raw={"utilization": "0", "engine_active": "0"})
        case Fault.PROF_ZERO:
            return replace(reading, raw={"engine_active": "0"})
        case Fault.SENTINEL:
            return replace(reading, raw={"utilization": SENTINEL, "engine_active": SENTINEL})
        case Fault.NAN:
            return replace(reading, raw={"utilization": "NaN", "engine_active": "NaN"})
        case Fault.MISSING_POD_LABEL:
            return replace(reading, pod=None)
        case _:  # about the whole page, not one reading
            return reading


def _handler(exporter: Exporter) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if path == "/demand":
                self._say(200, json.dumps(exporter.demands()) + "\n", "application/json")
            elif path not in ("/metrics", "/engine"):
                self._say(404, "pages: /metrics /engine /demand\n")
            elif exporter.fault is Fault.DOWN:
                self._say(500, "the host engine does not answer\n")
            elif exporter.fault is not Fault.REFUSED:
                self._say(200, exporter.page() if path == "/metrics" else exporter.engine_page())

        def do_PUT(self) -> None:
            """`/demand/NS/NAME?replicas=3.2`, `/fault?kind=freeze[&namespace=NS]` (kind=none mends), `/schema?kind=mixed`."""
            url = urlsplit(self.path)
            asked = {key: values[0] for key, values in parse_qs(url.query).items()}
            try:
                self._say(200, _set(exporter, url.path.strip("/").split("/"), asked) + "\n")
            except (ValueError, KeyError) as exc:
                self._say(
                    400,
                    f"{exc}; try PUT /demand/NS/NAME?replicas=3.2 or PUT /fault?kind={'|'.join(Fault)}|none\n",
                )

        def _say(self, code: int, text: str, kind: str = "text/plain; version=0.0.4") -> None:
            body = text.encode()
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 - the base class's names
            """Stay silent: a line a second says nothing."""

    return Handler


def _set(exporter: Exporter, path: list[str], asked: dict[str, str]) -> str:
    match path:
        case ["demand", namespace, name]:
            exporter.set_demand(namespace, name, float(asked["replicas"]))
            return f"demand of {namespace}/{name} is now {asked['replicas']} replicas"
        case ["fault"]:
            kind = None if asked["kind"] == "none" else Fault(asked["kind"])
            exporter.set_fault(kind, asked.get("namespace"))
            return f"fault is now {asked['kind']}"
        case ["schema"] if asked["kind"] in ("old", "new", "mixed"):
            exporter.schema = asked["kind"]  # type: ignore[assignment]  # checked above
            return f"schema is now {asked['kind']}"
    raise ValueError(f"nothing to set at /{'/'.join(path)}")
