"""Words for tests that play a workload against a running operator: its load, its replicas, what is said of it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from spillway.api import names
from tests.cluster.client import JsonObject
from tests.cluster.controlplane import ControlPlane
from tests.cluster.exporter import Exporter
from tests.cluster.operator_chart import Helm, installed_chart
from tests.cluster.operator_process import OperatorProcess, running_operator
from tests.cluster.prometheus import Prometheus

SECONDS = 45  # 2 to 6 s are usual; a machine busy with other test runs takes longer
TAKEOVER_SECONDS = 60  # the operator shrinks nothing that it has watched for less
QUIET_SHARE = 0.6  # of a replica: between the low mark of 40 % and the high mark of 80 %

# Shorter than anybody should have them: they are put into each GpuWorkload, so that no policy of the cluster is needed. The low mark keeps
# quietly busy targets at their count, however many replicas they have.
SHORT_WINDOWS: Mapping[str, Any] = {
    "signals": [{"name": "gpu", "type": "GpuActivity", "gpuActivity": {"lowPercent": 40}}],
    "scaleUp": {"windowSeconds": 1, "cooldownSeconds": 1},
    "scaleDown": {"windowSeconds": 4, "cooldownSeconds": 1, "maxDecreasePercent": 100},
    "readiness": {"settleSeconds": 1},
}


class Workload:
    """A Deployment of GPU pods and its GpuWorkload of the same name."""

    def __init__(self, scene: Scene, name: str) -> None:
        self.name = name
        self.namespace = scene.namespace
        self.path = (
            f"/apis/{names.GROUP}/{names.VERSION}/namespaces/{self.namespace}/{names.WORKLOAD_PLURAL}/{name}"
        )
        self.target_path = f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{name}"
        self._scene = scene

    # What tests do to it

    def offer(self, replicas: float) -> None:
        """Offer the work that keeps *replicas* replicas fully busy."""
        self._scene.exporter.set_demand(self.namespace, self.name, replicas)

    def patch(self, **spec: Any) -> None:  # noqa: ANN401 - any JSON
        """Merge *spec* into its spec; None removes a field."""
        self._scene.cluster.client.patch(self.path, {"spec": spec})

    def annotate(self, **annotations: str | None) -> None:
        """Set the annotations of our group; None removes one."""
        own = {f"{names.GROUP}/{name}": value for name, value in annotations.items()}
        self._scene.cluster.client.patch(self.path, {"metadata": {"annotations": own}})

    def scale_target(self, replicas: int) -> None:
        """Scale the Deployment by hand, behind the operator's back."""
        self._scene.cluster.client.patch(f"{self.target_path}/scale", {"spec": {"replicas": replicas}})

    def delete(self) -> None:
        """Delete the GpuWorkload; the Deployment stays."""
        self._scene.cluster.client.delete(self.path)

    # What is there

    @property
    def replicas(self) -> int:
        """What the Deployment is set to."""
        count: int = self.target["spec"]["replicas"]
        return count

    @property
    def target(self) -> JsonObject:
        return self._scene.cluster.client.get(self.target_path)

    @property
    def stored(self) -> JsonObject:
        """The GpuWorkload as it is stored."""
        return self._scene.cluster.client.get(self.path)

    @property
    def status(self) -> JsonObject:
        status: JsonObject = self.stored.get("status") or {}
        return status

    def condition(self, kind: str) -> JsonObject:
        """Return the condition of this type; empty where there is none yet."""
        found = (item for item in self.status.get("conditions") or [] if item["type"] == kind)
        return next(found, {})

    def decision(self) -> JsonObject:
        """Return the operator's live decision; empty while it makes none."""
        return self._scene.operator.decision(self.namespace, self.name) or {}

    def limits(self) -> list[str]:
        """Return the reasons of every limit on the live decision."""
        return [limit["reason"] for limit in self.decision().get("limits", [])]

    def events(self, reason: str | None = None) -> list[JsonObject]:
        """Return the Events about the GpuWorkload, the oldest first."""
        query = f"involvedObject.kind={names.WORKLOAD_KIND},involvedObject.name={self.name}"
        path = f"/api/v1/namespaces/{self.namespace}/events"
        found = self._scene.cluster.client.get(path, fieldSelector=query)["items"]
        return [event for event in found if reason in (None, event["reason"])]

    @property
    def operator(self) -> OperatorProcess:
        return self._scene.operator

    def writes(self, since: int = 0) -> list[int]:
        """Return each count that the operator has written since an `audit_mark`, in order; refused ones are left out."""
        return [event["requestObject"][-1]["value"] for event in self._written(since)]

    def write_times(self, since: int = 0) -> list[datetime]:
        """Return when the server answered each of `writes`."""
        return [datetime.fromisoformat(event["stageTimestamp"]) for event in self._written(since)]

    def _written(self, since: int) -> list[JsonObject]:
        events = self.operator.writes(since, resource="deployments")
        return [
            event
            for event in events
            if event["objectRef"]["name"] == self.name and event["responseStatus"]["code"] == 200
        ]

    # Waiting for facts

    def reaches(self, replicas: int, seconds: float = SECONDS) -> None:
        """Wait until the Deployment is set to exactly *replicas*."""
        self.until(lambda: self.replicas == replicas, seconds, f"{self.name} is set to {replicas} replicas")

    def shrinks_to(self, replicas: int) -> None:
        """Wait until it stands at *replicas*, however new the operator is to it."""
        self.reaches(replicas, TAKEOVER_SECONDS + SECONDS)

    def grows_to(self, replicas: int, seconds: float = SECONDS) -> None:
        """Wait until the Deployment is set to at least *replicas*."""
        self.until(
            lambda: self.replicas >= replicas, seconds, f"{self.name} is set to {replicas} replicas or more"
        )

    def says(self, kind: str, status: str, reason: str | None = None, seconds: float = SECONDS) -> JsonObject:
        """Wait for a condition and return it."""

        def found() -> JsonObject | None:
            condition = self.condition(kind)
            is_it = condition.get("status") == status and reason in (None, condition["reason"])
            return condition if is_it else None

        condition: JsonObject = self.until(
            found, seconds, f"{self.name} has the condition {kind}={status} {reason or ''}"
        )
        return condition

    def decides(self, reason: str, seconds: float = SECONDS) -> JsonObject:
        """Wait until the live decision carries *reason*, as result or as a limit, and return it."""

        def found() -> JsonObject | None:
            decision = self.decision()
            given = (decision.get("reason"), *(limit["reason"] for limit in decision.get("limits", [])))
            return decision if reason in given else None

        decision: JsonObject = self.until(found, seconds, f"{self.name} is decided {reason}")
        return decision

    def stays(self, replicas: int, seconds: float) -> None:
        """Watch for *seconds* that the Deployment is set to *replicas* and nothing else."""
        self.watch(lambda: self.replicas == replicas, seconds, f"{self.name} stays at {replicas} replicas")

    def watch(self, holds: Callable[[], bool], seconds: float, what: str) -> None:
        """Sample *holds* for *seconds*; fail at once where it does not."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert holds(), f"not so: {what}\n{self.report()}"
            time.sleep(0.25)

    def until(self, predicate: Callable[[], Any], seconds: float, what: str) -> Any:  # noqa: ANN401
        """Return the first truthy answer; on failure show the status and the operator's log."""
        try:
            return self._scene.operator.until(predicate, seconds, what)
        except AssertionError as exc:
            exc.add_note(self.report())
            raise

    def past_takeover(self) -> None:
        """Wait until the operator has watched it for so long that only its own reasons keep it from shrinking."""
        known = self._scene.made_at[self.name] + TAKEOVER_SECONDS + 2
        time.sleep(max(0.0, known - time.monotonic()))

    def report(self) -> str:
        """Say what is known of it, for a failure."""
        conditions = "\n".join(
            f"  {item['type']}={item['status']} {item['reason']}: {item['message']}"
            for item in self.status.get("conditions") or []
        )
        decision = self.decision()
        return (
            f"{self.name} is set to {self.replicas} replicas\n{conditions}\n"
            f"  signal {decision.get('signal')}\n  proposal {decision.get('proposal')}\n  limits {decision.get('limits')}"
        )


class Scene:
    """A namespace with nodes of its own, where workloads are played against one operator."""

    def __init__(self, cluster: ControlPlane, exporter: Exporter, *, namespace: str, pool: str) -> None:
        self.cluster = cluster
        self.exporter = exporter
        self.namespace = namespace
        self.made_at: dict[str, float] = {}
        self._pool = pool
        self._operator: OperatorProcess | None = None

    @property
    def operator(self) -> OperatorProcess:
        assert self._operator is not None, "no operator plays here yet"
        return self._operator

    @operator.setter
    def operator(self, operator: OperatorProcess) -> None:
        self._operator = operator

    @property
    def pod_spec(self) -> JsonObject:
        """What keeps pods on the nodes of this scene."""
        return {"nodeSelector": {"spillway-test.dev/scene": self._pool}}

    def deployment(self, name: str, *, replicas: int, demand: float | None = None, **options: Any) -> None:  # noqa: ANN401
        """Make a Deployment on the nodes of this scene; unless *demand* says otherwise its GPUs are quietly busy."""
        spec = {**self.pod_spec, **options.pop("pod_spec", {})}
        self.exporter.set_demand(self.namespace, name, QUIET_SHARE * replicas if demand is None else demand)
        self.cluster.make_deployment(self.namespace, name, replicas=replicas, pod_spec=spec, **options)

    def workload(
        self,
        *,
        name: str | None = None,
        replicas: int = 1,
        demand: float | None = None,
        deployment: Mapping[str, Any] | None = None,
        **spec: Any,  # noqa: ANN401 - any JSON
    ) -> Workload:
        """Make a Deployment and its GpuWorkload with short windows; *spec* is laid over the GpuWorkload's."""
        name = name or f"llm-{uuid.uuid4().hex[:6]}"
        self.deployment(name, replicas=replicas, demand=demand, **(deployment or {}))
        return self.adopt(name, **spec)

    def adopt(self, target: str, *, name: str | None = None, short: bool = True, **spec: Any) -> Workload:  # noqa: ANN401
        """Make a GpuWorkload, named *name* or as its target; with *short* off, of the given *spec* alone."""
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.WORKLOAD_KIND,
            "metadata": {"name": name or target, "namespace": self.namespace},
            "spec": {
                "targetRef": {"name": target},
                "maxReplicas": 8,
                **(SHORT_WINDOWS if short else {}),
                **spec,
            },
        }
        self.cluster.client.apply(body)
        self.made_at[name or target] = time.monotonic()
        return Workload(self, name or target)

    def strike(self, *, keep: Collection[str] = ()) -> None:
        """Delete every Deployment and GpuWorkload but those named in *keep*."""
        for path in (
            f"/apis/{names.GROUP}/{names.VERSION}/namespaces/{self.namespace}/{names.WORKLOAD_PLURAL}",
            f"/apis/apps/v1/namespaces/{self.namespace}/deployments",
        ):
            for found in self.cluster.client.get(path)["items"]:
                name = found["metadata"]["name"]
                if name not in keep and name != self.operator.chart.release:
                    self.cluster.client.delete(f"{path}/{name}", propagationPolicy="Background")


@contextmanager
def make_scene(cluster: ControlPlane, exporter: Exporter, *, nodes: int = 4) -> Iterator[Scene]:
    """Set up a namespace and *nodes* nodes of 8 GPUs for it alone; both go afterwards."""
    tag = uuid.uuid4().hex[:8]
    namespace = f"scene-{tag}"
    cluster.make_namespace(namespace)
    made = [f"{namespace}-{index}" for index in range(nodes)]
    for name in made:
        cluster.make_gpu_node(name, labels={"spillway-test.dev/scene": tag})
    try:
        yield Scene(cluster, exporter, namespace=namespace, pool=tag)
    finally:
        exporter.forget(namespace)
        cluster.client.delete(f"/api/v1/namespaces/{namespace}")
        cluster.client.delete(f"/api/v1/namespaces/{namespace}/pods", gracePeriodSeconds=0)
        for name in made:
            cluster.delete_node(name)


@contextmanager
def played(
    cluster: ControlPlane,
    exporter: Exporter,
    prometheus: Prometheus,
    helm: Helm,
    *,
    settings: Mapping[str, Any] | None = None,
    nodes: int = 4,
    through_proxies: bool = False,
    others: Sequence[Scene] = (),
) -> Iterator[Scene]:
    """Set up a scene with the chart installed in its namespace and an operator that decides there and in *others*."""
    with (
        make_scene(cluster, exporter, nodes=nodes) as scene,
        installed_chart(
            cluster,
            helm,
            scene.namespace,
            settings={"watchNamespaces": [part.namespace for part in (scene, *others)]},
        ) as chart,
        running_operator(
            cluster, chart, prometheus, settings=settings, through_proxies=through_proxies
        ) as operator,
    ):
        for part in (scene, *others):
            part.operator = operator
        operator.wait_deciding()
        yield scene
