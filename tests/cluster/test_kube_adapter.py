"""The Kubernetes adapter and the Lease on a real API server."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

import pytest

from spillway.adapters.kube import projections
from spillway.adapters.kube.client import KubeClient, connect
from spillway.adapters.kube.clock import elapsed
from spillway.adapters.kube.errors import Forbidden, NotFound, PreconditionFailed, Unauthorized
from spillway.adapters.kube.reflector import Reflector, ReflectorTimings
from spillway.adapters.kube.resources import (
    DEPLOYMENTS,
    NAMESPACES,
    PODS,
    REPLICA_SETS,
    SCALED_OBJECTS,
    Resource,
)
from spillway.adapters.kube.versions import has_reached
from spillway.adapters.kube.write import EventType, post_event, replace_status, set_replicas
from spillway.app.lease import Lease, LeaseTimings
from spillway.core.model import ObjectKey, PodPhase, SetReplicas
from tests.cluster.client import ApiError
from tests.cluster.controlplane import ControlPlane
from tests.cluster.faults import Action, Cut, FaultProxy, Hang, kube_error

QUICK = ReflectorTimings(watch=4, grace=2, backoff=0.1, backoff_cap=0.5, forbidden=0.5, absent=0.5)
WIDGETS = Resource(group="spillway-test.dev", version="v1", plural="widgets", kind="Widget")
P = ParamSpec("P")
R = TypeVar("R")


@pytest.fixture
async def client(cluster: ControlPlane) -> AsyncIterator[KubeClient]:
    made = await connect(kubeconfig=cluster.kubeconfig)
    yield made
    await made.close()


@pytest.fixture
def proxy(cluster: ControlPlane) -> Iterator[FaultProxy]:
    with FaultProxy(cluster.url, ca_file=cluster.ca_file) as between:
        yield between


@pytest.fixture
async def client_behind(cluster: ControlPlane, proxy: FaultProxy) -> AsyncIterator[KubeClient]:
    kubeconfig = cluster.kubeconfig_for(cluster.admin_token, "behind-proxy", server=proxy.url)
    made = await connect(kubeconfig=kubeconfig)
    yield made
    await made.close()


@pytest.fixture
async def powerless(cluster: ControlPlane, namespace: str) -> AsyncIterator[KubeClient]:
    token = cluster.service_account_token(namespace, "default")
    made = await connect(kubeconfig=cluster.kubeconfig_for(token, f"powerless-{namespace}"))
    yield made
    await made.close()


@pytest.fixture(scope="session")
def widgets(cluster: ControlPlane) -> None:
    cluster.client.apply(crd(WIDGETS))
    cluster.wait_for(lambda: is_served(cluster, WIDGETS), 10, "the widgets CRD is served")


@asynccontextmanager
async def running(reflector: Reflector[Any]) -> AsyncIterator[None]:
    task = asyncio.create_task(reflector.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(predicate: Callable[[], Any], what: str, *, seconds: float = 20) -> None:
    """Return when *predicate* is truthy; *what* says in the test, and in a time-out's traceback, what is waited for."""
    async with asyncio.timeout(seconds):
        while not predicate():  # noqa: ASYNC110 - what is waited for is in another process
            await asyncio.sleep(0.02)


async def off_loop(work: Callable[P, R], *args: P.args, **options: P.kwargs) -> R:
    """Run the harness' blocking client beside the loop, so that reflectors go on meanwhile."""
    return await asyncio.get_running_loop().run_in_executor(None, lambda: work(*args, **options))


def crd(resource: Resource) -> dict[str, Any]:
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {
        "name": resource.version,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": anything},
    }
    names = {"plural": resource.plural, "singular": resource.kind.lower(), "kind": resource.kind}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{resource.group}"},
        "spec": {"group": resource.group, "scope": "Namespaced", "names": names, "versions": [version]},
    }


def is_served(cluster: ControlPlane, resource: Resource) -> bool:
    try:
        return cluster.client.find(resource.path()) is not None
    except ApiError:  # 429 while the server prepares the new kind's storage
        return False


def act(deployment: dict[str, Any], *, before: int, to: int, uid: str | None = None) -> SetReplicas:
    meta = deployment["metadata"]
    key = ObjectKey(meta["namespace"], meta["name"])
    return SetReplicas(workload=key, target=key, target_uid=uid or meta["uid"], before=before, to=to)


# Reflector


async def test_deployments_are_listed_and_followed(
    cluster: ControlPlane, namespace: str, client: KubeClient
) -> None:
    cluster.make_deployment(namespace, "early", replicas=0, gpus=2)
    reflector = Reflector(client, DEPLOYMENTS, projections.deployment, namespaces=[namespace], timings=QUICK)

    async with running(reflector):
        await reflector.wait_synced()
        first = {key.name: value.gpus_per_pod for key, value in reflector.store.items()}
        await off_loop(cluster.make_deployment, namespace, "late", replicas=0, gpus=4)
        await until(lambda: ObjectKey(namespace, "late") in reflector.store, "the new one is seen")
        await off_loop(cluster.client.delete, DEPLOYMENTS.path(namespace=namespace, name="early"))
        await until(lambda: ObjectKey(namespace, "early") not in reflector.store, "the deleted one is gone")

    assert first == {"early": 2}
    assert reflector.store[ObjectKey(namespace, "late")].gpus_per_pod == 4


async def test_an_idle_cache_stays_in_step_without_any_event(namespace: str, client: KubeClient) -> None:
    timings = ReflectorTimings(watch=2, grace=1)
    reflector = Reflector(
        client, DEPLOYMENTS, projections.deployment, namespaces=[namespace], timings=timings
    )
    ages = []

    async with running(reflector):
        await reflector.wait_synced()
        for _ in range(40):
            await asyncio.sleep(0.1)
            ages.append(reflector.age(elapsed()))

    assert max(ages) < timedelta(seconds=2.5)


async def test_real_pods_are_classified(cluster: ControlPlane, namespace: str, client: KubeClient) -> None:
    cluster.make_gpu_node(f"node-{namespace}", gpus=8, labels={"for": namespace})
    here = {"pod_spec": {"nodeSelector": {"for": namespace}}}
    cluster.make_deployment(namespace, "serving", gpus=1, **here)
    cluster.make_deployment(namespace, "loading", gpus=1, ready_after="600s", **here)
    cluster.make_deployment(namespace, "broken", gpus=1, crash=True, **here)
    cluster.make_deployment(namespace, "too-big", gpus=9, **here)
    pods = Reflector(client, PODS, projections.pod, namespaces=[namespace], timings=QUICK)
    sets = Reflector(client, REPLICA_SETS, projections.replica_set, namespaces=[namespace], timings=QUICK)

    def phases() -> dict[str, PodPhase]:
        return {pod.key.name.rsplit("-", 2)[0]: pod.phase for pod in pods.store.values()}

    expected = {
        "serving": PodPhase.READY,
        "loading": PodPhase.LOADING,
        "broken": PodPhase.BROKEN,
        "too-big": PodPhase.UNSCHEDULABLE,
    }
    async with running(pods), running(sets):
        await until(lambda: phases() == expected, f"phases as expected, but {phases()}")
    cluster.delete_node(f"node-{namespace}")

    by_name = {pod.key.name.rsplit("-", 2)[0]: pod for pod in pods.store.values()}
    assert by_name["broken"].cause == "CrashLoopBackOff"
    assert "Insufficient nvidia.com/gpu" in by_name["too-big"].message
    assert {pod.gpus for pod in by_name.values()} == {1, 9}
    assert {pod.owner_uid for pod in by_name.values()} == {owner.uid for owner in sets.store.values()}
    assert all(owner.revision == 1 and owner.owner_uid for owner in sets.store.values())


@pytest.mark.case("workload-autoscalers D79")
async def test_what_changed_while_the_server_was_away_is_caught_up(
    cluster: ControlPlane, namespace: str, client: KubeClient
) -> None:
    deployment = cluster.make_deployment(namespace, "chat", replicas=0)
    cluster.make_deployment(namespace, "doomed", replicas=0)
    reflector = Reflector(client, DEPLOYMENTS, projections.deployment, namespaces=[namespace], timings=QUICK)

    async with running(reflector):
        await reflector.wait_synced()
        await off_loop(cluster.restart_apiserver)
        await off_loop(cluster.client.delete, DEPLOYMENTS.path(namespace=namespace, name="doomed"))
        await set_replicas(client, act(deployment, before=0, to=1))
        await until(
            lambda: [d.replicas for d in reflector.store.values()] == [1], "the state after the restart"
        )

    assert reflector.problems == ()


@pytest.mark.case("workload-autoscalers D79")
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(kube_error(410, "Expired", "too old resource version"), id="410"),
        pytest.param(kube_error(500, "InternalError", "etcd is away"), id="500"),
        pytest.param(kube_error(429, "TooManyRequests", "slow down", retry_after_seconds=1), id="429"),
        pytest.param(Cut(after_bytes=100), id="cut in the middle of a line"),
    ],
)
async def test_a_watch_that_fails_is_taken_up_again(
    cluster: ControlPlane, namespace: str, proxy: FaultProxy, client_behind: KubeClient, fault: Action
) -> None:
    reflector = Reflector(
        client_behind, DEPLOYMENTS, projections.deployment, namespaces=[namespace], timings=QUICK
    )
    rule = proxy.add(fault, method="GET", path=r"deployments\?.*watch", times=2)

    async with running(reflector):
        await reflector.wait_synced()
        await off_loop(cluster.make_deployment, namespace, "chat", replicas=0)
        await until(lambda: len(reflector.store) == 1, "the Deployment is seen all the same")
        await until(lambda: rule.hits == 2 and not reflector.problems, "and then all is well again")


async def test_a_hung_server_shows_as_age_and_then_as_a_problem(
    namespace: str, proxy: FaultProxy, client_behind: KubeClient
) -> None:
    timings = ReflectorTimings(watch=1, grace=0.5, open=1, page=1, backoff=0.1, backoff_cap=0.2)
    reflector = Reflector(
        client_behind, DEPLOYMENTS, projections.deployment, namespaces=[namespace], timings=timings
    )

    async with running(reflector):
        await reflector.wait_synced()
        rule = proxy.add(Hang(), path="deployments")
        proxy.cut_open("deployments")
        await until(lambda: reflector.age(elapsed()) > timedelta(seconds=3), "its age grows")
        await until(lambda: reflector.problems, "it says what is wrong")
        message = reflector.problems[0].message
        proxy.remove(rule)
        await until(lambda: reflector.age(elapsed()) < timedelta(seconds=2), "it is in step again")

    assert "deployments" in message
    assert "within 1 s" in message


async def test_a_kind_the_server_does_not_have_counts_as_in_step_until_it_comes(
    cluster: ControlPlane, namespace: str, client: KubeClient
) -> None:
    kind = Resource(group="spillway-test.dev", version="v1", plural="rarities", kind="Rarity")
    reflector = Reflector(
        client, kind, lambda raw: raw["spec"]["size"], namespaces=[namespace], optional=True, timings=QUICK
    )

    async with running(reflector):
        await reflector.wait_synced()
        absent_at_first, age_at_first = reflector.absent, reflector.age(elapsed())
        await off_loop(cluster.client.apply, crd(kind))
        await until(lambda: not reflector.absent and not reflector.problems, "the kind is found")
        rarity = {
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "metadata": {"name": "one"},
            "spec": {"size": 3},
        }
        await off_loop(cluster.client.post, kind.path(namespace=namespace), rarity)
        await until(lambda: dict(reflector.store) == {ObjectKey(namespace, "one"): 3}, "its object is seen")
        crd_path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{kind.plural}.{kind.group}"
        await off_loop(cluster.client.delete, crd_path)
        await until(lambda: reflector.absent and not reflector.store, "gone with its kind")

    assert absent_at_first
    assert age_at_first == timedelta(0)


def test_keda_is_not_installed_on_the_test_server(cluster: ControlPlane) -> None:
    assert cluster.client.find(SCALED_OBJECTS.path()) is None


@pytest.mark.case("workload-autoscalers D83")
async def test_missing_rights_are_named_and_spare_the_other_namespaces(
    cluster: ControlPlane, namespace: str, powerless: KubeClient
) -> None:
    allow_reading(cluster, namespace)
    reflector = Reflector(
        powerless, DEPLOYMENTS, projections.deployment, namespaces=[namespace, "kube-system"], timings=QUICK
    )

    async with running(reflector):
        await until(lambda: reflector.age(elapsed(), namespace=namespace) < timedelta(minutes=1), "one works")
        await until(lambda: reflector.problems, "the other is named")
        (problem,) = reflector.problems

    assert problem.forbidden
    assert str(problem.call) == "list deployments in namespace kube-system"
    assert not reflector.synced
    assert reflector.age(elapsed(), namespace="kube-system") == timedelta.max


async def test_a_cluster_scoped_kind_has_keys_without_a_namespace(client: KubeClient, namespace: str) -> None:
    reflector = Reflector(client, NAMESPACES, projections.namespace_info, timings=QUICK)

    async with running(reflector):
        await reflector.wait_synced()

    assert reflector.store[ObjectKey("", namespace)].labels["kubernetes.io/metadata.name"] == namespace


async def test_many_objects_are_listed_page_by_page(
    cluster: ControlPlane, namespace: str, client: KubeClient, proxy: FaultProxy, client_behind: KubeClient
) -> None:
    for number in range(5):
        cluster.make_deployment(namespace, f"chat-{number}", replicas=0)
    timings = ReflectorTimings(page_size=2)
    reflector = Reflector(
        client_behind, DEPLOYMENTS, projections.deployment, namespaces=[namespace], timings=timings
    )

    async with running(reflector):
        await reflector.wait_synced()

    assert sorted(key.name for key in reflector.store) == [f"chat-{number}" for number in range(5)]
    assert proxy.count(method="GET", path="deployments") >= 3


# Writing


async def test_replicas_are_written_and_the_cache_reaches_the_write(
    cluster: ControlPlane, namespace: str, client: KubeClient
) -> None:
    deployment = cluster.make_deployment(namespace, "chat", replicas=1)
    reflector = Reflector(client, DEPLOYMENTS, projections.deployment, namespaces=[namespace], timings=QUICK)

    async with running(reflector):
        await reflector.wait_synced()
        written = await set_replicas(client, act(deployment, before=1, to=3))
        key = ObjectKey(namespace, "chat")
        await until(lambda: has_reached(reflector.store[key].resource_version, written), "the write is seen")

    assert reflector.store[key].replicas == 3


@pytest.mark.parametrize(("before", "to"), [(0, 2), (2, 0), (1, 4), (3, 3)])
async def test_every_count_can_be_left_and_reached(
    cluster: ControlPlane, namespace: str, client: KubeClient, before: int, to: int
) -> None:
    deployment = cluster.make_deployment(namespace, "chat", replicas=before)

    await set_replicas(client, act(deployment, before=before, to=to))

    assert cluster.deployment(namespace, "chat")["spec"]["replicas"] == to


@pytest.mark.case("workload-autoscalers D77")
@pytest.mark.parametrize(("stands_at", "believed"), [(2, 1), (0, 1), (1, 0)])
async def test_a_count_that_somebody_else_changed_refuses_the_write(
    cluster: ControlPlane, namespace: str, client: KubeClient, stands_at: int, believed: int
) -> None:
    deployment = cluster.make_deployment(namespace, "chat", replicas=stands_at)

    with pytest.raises(PreconditionFailed):
        await set_replicas(client, act(deployment, before=believed, to=5))

    assert cluster.deployment(namespace, "chat")["spec"]["replicas"] == stands_at


@pytest.mark.case("workload-autoscalers D74")
async def test_a_deployment_made_anew_under_the_same_name_refuses_the_write(
    cluster: ControlPlane, namespace: str, client: KubeClient
) -> None:
    deployment = cluster.make_deployment(namespace, "chat", replicas=1)

    with pytest.raises(PreconditionFailed):
        await set_replicas(
            client, act(deployment, before=1, to=5, uid="00000000-0000-0000-0000-000000000000")
        )

    assert cluster.deployment(namespace, "chat")["spec"]["replicas"] == 1


@pytest.mark.case("workload-autoscalers D74")
async def test_a_deleted_deployment_refuses_the_write(
    cluster: ControlPlane, namespace: str, client: KubeClient
) -> None:
    deployment = cluster.make_deployment(namespace, "chat", replicas=1)
    cluster.client.delete(DEPLOYMENTS.path(namespace=namespace, name="chat"))

    with pytest.raises(NotFound, match="chat"):
        await set_replicas(client, act(deployment, before=1, to=5))


async def test_an_account_without_the_right_is_refused_with_the_servers_words(
    cluster: ControlPlane, namespace: str, powerless: KubeClient
) -> None:
    deployment = cluster.make_deployment(namespace, "chat", replicas=1)

    with pytest.raises(Forbidden, match=r"cannot patch deployments/scale .*system:serviceaccount"):
        await set_replicas(powerless, act(deployment, before=1, to=5))


async def test_status_is_replaced_whole(
    cluster: ControlPlane, namespace: str, client: KubeClient, widgets: None
) -> None:
    widget = make_widget(cluster, namespace)
    key, uid = ObjectKey(namespace, "one"), widget["metadata"]["uid"]

    await replace_status(client, WIDGETS, key, uid=uid, status={"replicas": 3, "reason": "Old"})
    version = await replace_status(client, WIDGETS, key, uid=uid, status={"replicas": 4})

    stored = cluster.client.get(WIDGETS.path(namespace=namespace, name="one"))
    assert stored["status"] == {"replicas": 4}
    assert stored["metadata"]["resourceVersion"] == version
    assert stored["spec"] == widget["spec"]


async def test_status_of_another_object_or_an_older_version_is_refused(
    cluster: ControlPlane, namespace: str, client: KubeClient, widgets: None
) -> None:
    meta = make_widget(cluster, namespace)["metadata"]
    key = ObjectKey(namespace, "one")
    await replace_status(
        client, WIDGETS, key, uid=meta["uid"], resource_version=meta["resourceVersion"], status={"a": 1}
    )

    with pytest.raises(PreconditionFailed):
        await replace_status(client, WIDGETS, key, uid="somebody-else", status={})
    with pytest.raises(PreconditionFailed):
        await replace_status(
            client, WIDGETS, key, uid=meta["uid"], resource_version=meta["resourceVersion"], status={}
        )

    assert cluster.client.get(WIDGETS.path(namespace=namespace, name="one"))["status"] == {"a": 1}


async def test_writing_the_status_of_a_deleted_object_does_not_bring_it_back(
    cluster: ControlPlane, namespace: str, client: KubeClient, widgets: None
) -> None:
    uid = make_widget(cluster, namespace)["metadata"]["uid"]
    cluster.client.delete(WIDGETS.path(namespace=namespace, name="one"))

    with pytest.raises(NotFound):
        await replace_status(client, WIDGETS, ObjectKey(namespace, "one"), uid=uid, status={"replicas": 3})

    assert cluster.client.find(WIDGETS.path(namespace=namespace, name="one")) is None


async def test_an_event_shows_in_kubectl_describe(
    cluster: ControlPlane, namespace: str, client: KubeClient
) -> None:
    deployment = cluster.make_deployment(namespace, "chat", replicas=0)

    await post_event(
        client,
        DEPLOYMENTS,
        ObjectKey(namespace, "chat"),
        uid=deployment["metadata"]["uid"],
        type=EventType.WARNING,
        reason="MetricsStale",
        message="GPU metrics 412 s old (limit 120 s); holding at 3. " + "x" * 2000,
    )

    described = await off_loop(cluster.kubectl, "-n", namespace, "describe", "deployment", "chat")
    assert "MetricsStale" in described
    assert "GPU metrics 412 s old" in described


async def test_an_event_about_a_cluster_scoped_object_is_posted(
    cluster: ControlPlane, namespace: str, client: KubeClient
) -> None:
    uid = cluster.client.get(NAMESPACES.path(name=namespace))["metadata"]["uid"]

    await post_event(client, NAMESPACES, ObjectKey("", namespace), uid=uid, reason="Noticed", message="hello")

    described = await off_loop(cluster.kubectl, "get", "events", "-n", "default", "-o", "json")
    assert any(item["involvedObject"].get("uid") == uid for item in json.loads(described)["items"])


# Credentials


@pytest.mark.case("workload-autoscalers D19")
async def test_a_rotated_token_is_read_again(cluster: ControlPlane, namespace: str) -> None:
    client = await connect(kubeconfig=cluster.kubeconfig_for("outdated", f"rotated-{namespace}"))
    cluster.kubeconfig_for(cluster.admin_token, f"rotated-{namespace}")

    answer = await client.request("GET", NAMESPACES.path(name=namespace))
    await client.close()

    assert answer["metadata"]["name"] == namespace


async def test_a_wrong_token_is_refused_without_being_shown(cluster: ControlPlane, namespace: str) -> None:
    client = await connect(kubeconfig=cluster.kubeconfig_for("not-a-secret", f"wrong-{namespace}"))

    with pytest.raises(Unauthorized) as refusal:
        await client.request("GET", NAMESPACES.path(name=namespace))
    await client.close()

    assert "not-a-secret" not in str(refusal.value)


# Lease

FAST = LeaseTimings(duration=3, renew_deadline=2, retry=0.2, request=1)


class Candidate:
    """A Lease with its history of gains and losses."""

    def __init__(self, client: KubeClient, namespace: str, identity: str) -> None:
        self.history: list[tuple[str, float]] = []
        self.lease = Lease(
            client,
            namespace=namespace,
            name="spillway",
            identity=identity,
            timings=FAST,
            on_gain=lambda: self.history.append(("gained", elapsed())),
            on_lose=lambda: self.history.append(("lost", elapsed())),
        )
        self.task = asyncio.create_task(self.lease.run())

    @property
    def leads(self) -> bool:
        return self.lease.held_for(elapsed())

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.mark.case("workload-autoscalers D78")
async def test_of_two_candidates_one_leads_and_hands_over_on_release(
    cluster: ControlPlane, namespace: str, client: KubeClient
) -> None:
    first, second = (Candidate(client, namespace, name) for name in ("first", "second"))
    await until(lambda: first.leads or second.leads, "one of them leads")
    leader, other = (first, second) if first.leads else (second, first)

    await asyncio.sleep(1)
    both = first.leads and second.leads
    await leader.stop()
    await leader.lease.release()
    released_at = elapsed()
    await until(lambda: other.leads, "the other leads")
    await other.stop()

    assert not both
    assert [event for event, _ in leader.history] == ["gained", "lost"]
    assert other.history[0][1] - released_at < 1
    lease = cluster.client.get(f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/spillway")
    assert lease["spec"]["holderIdentity"] == other.lease.identity
    assert lease["spec"]["leaseTransitions"] == 1


@pytest.mark.case("workload-autoscalers D78")
async def test_a_leader_cut_off_from_the_server_loses_before_the_other_gains(
    namespace: str, proxy: FaultProxy, client: KubeClient, client_behind: KubeClient
) -> None:
    leader = Candidate(client_behind, namespace, "cut-off")
    await until(lambda: leader.leads, "the first leads")
    other = Candidate(client, namespace, "successor")

    proxy.add(Hang(), path="leases")
    await until(lambda: other.leads, "the other leads")
    both = leader.leads
    await leader.stop()
    await other.stop()

    (lost_at,) = [moment for event, moment in leader.history if event == "lost"]
    (gained_at,) = [moment for event, moment in other.history if event == "gained"]
    assert not both
    assert gained_at - lost_at > 0.5


async def test_a_deleted_lease_is_made_again_by_its_holder(
    cluster: ControlPlane, namespace: str, client: KubeClient
) -> None:
    holder = Candidate(client, namespace, "holder")
    await until(lambda: holder.leads, "it leads")
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/spillway"

    await off_loop(cluster.client.delete, path)
    await until(lambda: cluster.client.find(path), "the lease is back")
    await holder.stop()

    assert [event for event, _ in holder.history] == ["gained", "lost"]  # lost by stop() only


async def test_an_account_without_rights_on_leases_never_leads_and_says_so(
    namespace: str, powerless: KubeClient
) -> None:
    candidate = Candidate(powerless, namespace, "powerless")

    await until(lambda: candidate.lease.problem, "it says what is wrong")
    await candidate.stop()

    assert "leases" in str(candidate.lease.problem)
    assert candidate.history == []


def make_widget(cluster: ControlPlane, namespace: str) -> dict[str, Any]:
    widget = {
        "apiVersion": WIDGETS.api_version,
        "kind": "Widget",
        "metadata": {"name": "one"},
        "spec": {"x": 1},
    }
    return cluster.client.post(WIDGETS.path(namespace=namespace), widget)


def allow_reading(cluster: ControlPlane, namespace: str) -> None:
    """Let the namespace's default account read Deployments there, and nowhere else."""
    cluster.kubectl(
        "-n", namespace, "create", "role", "reader", "--verb=list,watch", "--resource=deployments.apps"
    )
    cluster.kubectl(
        "-n",
        namespace,
        "create",
        "rolebinding",
        "reader",
        "--role=reader",
        f"--serviceaccount={namespace}:default",
    )
