"""Evictions and their chains against recorded answers, on a moved clock."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from spillway.adapters.kube.client import KubeClient
from spillway.adapters.kube.errors import Forbidden, PreconditionFailed, ServerError
from spillway.adapters.kube.evictions import (
    DrainBlocked,
    DrainUnfinished,
    Eviction,
    TwoBudgets,
    drain_node,
    evict,
    evict_doomed,
    grace_within,
    pods_on,
)
from spillway.core.model import DrainNode, EvictDoomed, ForeignPods, ObjectKey, PodRef
from tests.contract.kube.server import Answer, ScriptedApi, body, client_of, refusal

pytestmark = pytest.mark.looptime

Raw = dict[str, Any]
Drain = Callable[..., Awaitable[None]]

START = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
LONG_AGO = "2026-11-22T08:00:00Z"
MANY_BUDGETS = (
    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
)
CREATED = body({"kind": "Status", "status": "Success"}, status=201)
NO_BUDGET = refusal(
    429, "TooManyRequests", "Cannot evict pod as it would violate the pod's disruption budget."
)


@pytest.fixture
async def client(api: ScriptedApi) -> AsyncIterator[KubeClient]:
    made = client_of(api)
    yield made
    await made.close()


def steady() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture
def wall() -> Callable[[], datetime]:
    """A wall clock that goes with the loop's, from `START` on."""
    begun: list[float] = []

    def now() -> datetime:
        begun.append(steady())
        return START + timedelta(milliseconds=round(1000 * (begun[-1] - begun[0])))

    return now


# One eviction


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        pytest.param(CREATED, Eviction.DONE, id="evicted"),
        pytest.param(refusal(404, "NotFound", "no such pod"), Eviction.DONE, id="gone"),
        pytest.param(refusal(409, "Conflict", "the UID in the precondition is another"), Eviction.DONE, id="another pod"),
        pytest.param(NO_BUDGET, Eviction.BLOCKED_BY_BUDGET, id="a budget is spent"),
    ],
)  # fmt: skip
async def test_an_eviction_is_done_or_held_up_by_a_budget(
    api: ScriptedApi, client: KubeClient, answer: Answer, outcome: Eviction
) -> None:
    api.writes(answer)

    assert await evict(client, ObjectKey("ns", "chat-1"), uid="u1", grace=timedelta(seconds=7)) is outcome

    assert api.requests == ["/api/v1/namespaces/ns/pods/chat-1/eviction"]
    assert api.written == [
        {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"namespace": "ns", "name": "chat-1"},
            "deleteOptions": {"preconditions": {"uid": "u1"}, "gracePeriodSeconds": 7},
        }
    ]


@pytest.mark.case("node-and-spot E45")
async def test_two_budgets_over_one_pod_are_told_from_other_trouble_of_the_server(
    api: ScriptedApi, client: KubeClient
) -> None:
    api.writes(refusal(500, "InternalError", MANY_BUDGETS), refusal(500, "InternalError", "etcd is away"))

    with pytest.raises(TwoBudgets, match="pod ns/chat-1"):
        await evict(client, ObjectKey("ns", "chat-1"), uid="u1")
    with pytest.raises(ServerError, match="etcd"):
        await evict(client, ObjectKey("ns", "chat-1"), uid="u1")


# A voluntary drain


def make_node(*, mark: str = "d-1", uid: str = "node-uid", cordoned: bool = True) -> Answer:
    note = f'{{"cause":"drain","id":"{mark}","since":"{LONG_AGO}"}}'
    meta = {"name": "gpu-1", "uid": uid, "annotations": {"spillway.dev/cordon": note} if mark else {}}
    return body({"metadata": meta, "spec": {"unschedulable": cordoned}, "status": {}})


def make_pod(
    name: str,
    *,
    owner: str = "set-1",
    kind: str = "ReplicaSet",
    priority: int = 0,
    phase: str = "Running",
    deleted: str = "",
    grace: int = 30,
) -> Raw:
    owners = [{"kind": kind, "uid": owner, "name": owner, "controller": True}] if owner else []
    meta: Raw = {
        "namespace": "ns",
        "name": name,
        "uid": f"uid-{name}",
        "creationTimestamp": LONG_AGO,
        "ownerReferences": owners,
    }
    if deleted:
        meta |= {"deletionTimestamp": deleted, "deletionGracePeriodSeconds": grace}
    spec = {
        "nodeName": "gpu-1",
        "priority": priority,
        "terminationGracePeriodSeconds": grace,
        "containers": [],
    }
    return {"metadata": meta, "spec": spec, "status": {"phase": phase}}


def pods(*found: Raw) -> Answer:
    return body({"kind": "PodList", "metadata": {}, "items": list(found)})


DAEMON = make_pod("agent", owner="daemons", kind="DaemonSet")
MIRROR = make_pod("kube-proxy", owner="gpu-1", kind="Node")


def draining(*, foreign: ForeignPods = ForeignPods.BLOCK, mark: str = "d-1") -> DrainNode:
    return DrainNode(
        pool="p",
        node="gpu-1",
        node_uid="node-uid",
        instance="i-1",
        id=mark,
        movable=frozenset({"set-1"}),
        foreign_pods=foreign,
    )


class Removal:
    """Stands for the provider: notes when the instance was removed, in seconds of the loop."""

    def __init__(self) -> None:
        self.at: list[float] = []

    async def __call__(self) -> None:
        self.at.append(steady())


@pytest.fixture
def drain(client: KubeClient, wall: Callable[[], datetime]) -> Drain:
    """`drain_node` with the test's clocks."""

    async def run(removal: Removal, act: DrainNode | None = None, **options: Any) -> None:  # noqa: ANN401
        await drain_node(client, act or draining(), remove=removal, now=wall, clock=steady, **options)

    return run


def evicted(api: ScriptedApi) -> list[str]:
    return [sent["metadata"]["name"] for sent in api.written]


async def test_a_node_is_removed_once_every_pod_has_left_it(api: ScriptedApi, drain: Drain) -> None:
    leaving = make_pod("chat-1", deleted="2026-11-22T09:00:30Z")
    api.lists(make_node(), pods(make_pod("chat-1"), DAEMON), pods(leaving, DAEMON), pods(DAEMON), make_node())
    api.writes(CREATED)
    removal, begun = Removal(), steady()

    await drain(removal)

    assert evicted(api) == ["chat-1"]
    assert "gracePeriodSeconds" not in api.written[0]["deleteOptions"]
    assert [round(moment - begun, 1) for moment in removal.at] == [2.0]


@pytest.mark.case("node-and-spot E43")
async def test_a_node_with_nothing_but_daemons_and_mirrors_is_removed_at_once(
    api: ScriptedApi, drain: Drain
) -> None:
    api.lists(make_node(), pods(DAEMON, MIRROR, make_pod("job", kind="Job", phase="Succeeded")), make_node())
    removal = Removal()

    await drain(removal)

    assert api.written == []
    assert len(removal.at) == 1


@pytest.mark.case("node-and-spot E44")
@pytest.mark.parametrize(
    "stranger",
    [
        pytest.param(make_pod("by-hand", owner=""), id="a pod without a controller"),
        pytest.param(make_pod("db-0", owner="theirs", kind="StatefulSet"), id="somebody else's"),
    ],
)
async def test_one_pod_that_may_not_move_keeps_all_others_where_they_are(
    api: ScriptedApi,
    drain: Drain,
    stranger: Raw,
) -> None:
    api.lists(make_node(), pods(make_pod("chat-1"), stranger))
    removal = Removal()

    with pytest.raises(DrainBlocked, match=f"pod ns/{stranger['metadata']['name']} "):
        await drain(removal)

    assert (api.written, removal.at) == ([], [])


@pytest.mark.case("node-and-spot E40")
async def test_a_pod_that_comes_while_the_node_is_drained_ends_the_drain(
    api: ScriptedApi, drain: Drain
) -> None:
    api.lists(make_node(), pods(make_pod("chat-1")), pods(make_pod("chat-2")))
    api.writes(CREATED)
    removal = Removal()

    with pytest.raises(DrainBlocked, match="pod ns/chat-2 came to the cordoned node"):
        await drain(removal)

    assert (evicted(api), removal.at) == (["chat-1"], [])


async def test_pods_that_the_cluster_leans_on_leave_last(api: ScriptedApi, drain: Drain) -> None:
    critical = make_pod("dns", priority=2_000_000_000)
    api.lists(make_node(), pods(critical, make_pod("chat-1")), pods(critical), pods(), make_node())
    api.writes(CREATED, CREATED)

    await drain(Removal())

    assert evicted(api) == ["chat-1", "dns"]


async def test_a_spent_budget_is_asked_again_ever_more_slowly_until_the_attempt_is_over(
    api: ScriptedApi,
    drain: Drain,
) -> None:
    api.lists(make_node(), *[pods(make_pod("chat-1"))] * 9)
    api.writes(*[NO_BUDGET] * 9)
    removal, begun = Removal(), steady()

    with pytest.raises(DrainUnfinished, match="PodDisruptionBudget does not let pod ns/chat-1 go"):
        await drain(removal)

    asked = [
        round(at - begun) for at, path in zip(api.moments, api.requests, strict=True) if "eviction" in path
    ]
    assert asked == [0, 1, 3, 7, 15, 25]
    assert removal.at == []


async def test_a_budget_that_recovers_lets_the_drain_go_on(api: ScriptedApi, drain: Drain) -> None:
    api.lists(make_node(), *[pods(make_pod("chat-1"))] * 2, pods(), make_node())
    api.writes(NO_BUDGET, CREATED)
    removal = Removal()

    await drain(removal)

    assert (evicted(api), len(removal.at)) == (["chat-1", "chat-1"], 1)


@pytest.mark.case("node-and-spot E45")
async def test_a_pod_under_two_budgets_ends_the_drain_at_once(api: ScriptedApi, drain: Drain) -> None:
    api.lists(make_node(), pods(make_pod("chat-1")))
    api.writes(refusal(500, "InternalError", MANY_BUDGETS))
    removal = Removal()

    with pytest.raises(DrainBlocked, match="more than one PodDisruptionBudget covers pod ns/chat-1"):
        await drain(removal)

    assert (evicted(api), removal.at) == (["chat-1"], [])


@pytest.mark.case("node-and-spot E47")
@pytest.mark.parametrize(
    ("deleted", "is_removed"),
    [
        pytest.param("2026-11-22T08:58:59Z", True, id="stuck for over a minute"),
        pytest.param("2026-11-22T08:59:31Z", False, id="not for long"),
    ],
)
async def test_a_pod_that_does_not_end_holds_a_drain_up_for_a_minute_only(
    api: ScriptedApi,
    drain: Drain,
    deleted: str,
    is_removed: bool,
) -> None:
    stuck = pods(make_pod("chat-1", deleted=deleted))
    api.lists(make_node(), *([stuck, make_node()] if is_removed else [stuck] * 40))
    removal = Removal()

    if is_removed:
        await drain(removal)
    else:
        with pytest.raises(DrainUnfinished, match="1 pods have not left yet, pod ns/chat-1 among them"):
            await drain(removal)

    assert len(removal.at) == int(is_removed)
    assert api.written == []


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(make_node(mark="d-2"), id="another drain's mark"),
        pytest.param(make_node(mark=""), id="no mark"),
        pytest.param(make_node(uid="reborn"), id="another node"),
        pytest.param(make_node(cordoned=False), id="uncordoned by a human"),
    ],
)
@pytest.mark.parametrize("when", ["before", "at the end"])
async def test_a_node_that_is_not_ours_to_drain_is_left_alone(
    api: ScriptedApi,
    drain: Drain,
    answer: Answer,
    when: str,
) -> None:
    api.lists(*([answer] if when == "before" else [make_node(), pods(), answer]))
    removal = Removal()

    with pytest.raises(PreconditionFailed, match="node gpu-1 is not as expected"):
        await drain(removal)

    assert (api.written, removal.at) == ([], [])


async def test_a_chain_that_outlives_the_lease_writes_nothing_more(api: ScriptedApi, drain: Drain) -> None:
    api.lists(make_node(), pods(make_pod("chat-1"), make_pod("chat-2")))
    api.writes(CREATED)
    answers = iter([True, False])
    removal = Removal()

    with pytest.raises(DrainUnfinished, match="Lease"):
        await drain(removal, may_write=lambda: next(answers))

    assert (evicted(api), removal.at) == (["chat-1"], [])


async def test_no_instance_is_removed_without_the_lease(api: ScriptedApi, drain: Drain) -> None:
    api.lists(make_node(), pods(), make_node())
    removal = Removal()

    with pytest.raises(DrainUnfinished, match="Lease"):
        await drain(removal, may_write=lambda: False)

    assert removal.at == []


async def test_pods_are_listed_live_and_to_the_last_page(api: ScriptedApi, client: KubeClient) -> None:
    first = {"kind": "PodList", "metadata": {"continue": "more"}, "items": [make_pod("chat-1")]}
    finished = make_pod("chat-3", phase="Failed")
    api.lists(body(first), pods(make_pod("chat-2"), finished))

    found = await pods_on(client, "gpu-1")

    assert [pod.key.name for pod in found] == ["chat-1", "chat-2"]
    assert api.requests == [
        "/api/v1/pods?fieldSelector=spec.nodeName%3Dgpu-1&limit=500",
        "/api/v1/pods?fieldSelector=spec.nodeName%3Dgpu-1&limit=500&continue=more",
    ]


async def test_a_pod_that_cannot_be_read_is_not_overlooked(api: ScriptedApi, drain: Drain) -> None:
    nameless = make_pod("chat-1")
    del nameless["metadata"]["uid"]
    api.lists(make_node(), pods(nameless))
    removal = Removal()

    with pytest.raises(KeyError):
        await drain(removal)

    assert removal.at == []


# The end of a node


def doomed(*names: str, seconds: int = 120) -> EvictDoomed:
    return EvictDoomed(
        node="gpu-1",
        node_uid="node-uid",
        pods=tuple(PodRef(key=ObjectKey("ns", name), uid=f"uid-{name}") for name in names),
        deadline=START + timedelta(seconds=seconds),
    )


@pytest.mark.parametrize(
    ("own", "left", "expected"),
    [
        pytest.param(30, 120, 30, id="its own"),
        pytest.param(600, 120, 110, id="what the notice leaves", marks=pytest.mark.case("node-and-spot E38")),
        pytest.param(30, 5, 1, id="at least a second"),
        pytest.param(30, -60, 1, id="after the deadline"),
    ],
)
def test_the_grace_of_a_doomed_pod_ends_before_its_node(own: int, left: int, expected: int) -> None:
    assert grace_within(timedelta(seconds=own), timedelta(seconds=left)) == timedelta(seconds=expected)


@pytest.mark.case("node-and-spot E27")
async def test_doomed_pods_are_evicted_with_the_grace_that_is_left(
    api: ScriptedApi, client: KubeClient, wall: Callable[[], datetime]
) -> None:
    leaving = make_pod("chat-3", deleted="2026-11-22T09:00:30Z")
    api.lists(pods(make_pod("chat-1"), make_pod("chat-2", grace=600), leaving, make_pod("other")))
    api.writes(CREATED, CREATED)

    await evict_doomed(client, doomed("chat-1", "chat-2", "chat-3", "chat-4"), now=wall)

    graces = {sent["metadata"]["name"]: sent["deleteOptions"]["gracePeriodSeconds"] for sent in api.written}
    assert graces == {"chat-1": 30, "chat-2": 110}


@pytest.mark.case("node-and-spot E28")
async def test_a_budget_is_asked_until_the_notice_leaves_just_the_grace(
    api: ScriptedApi, client: KubeClient, wall: Callable[[], datetime]
) -> None:
    api.lists(pods(make_pod("chat-1")))
    api.writes(*[NO_BUDGET] * 11, body({"kind": "Pod"}))
    begun = steady()

    await evict_doomed(client, doomed("chat-1"), now=wall)

    asked = [round(moment - begun) for moment in api.moments[1:]]
    assert asked == [
        0,
        1,
        3,
        7,
        15,
        25,
        35,
        45,
        55,
        65,
        75,
        75,
    ]  # the last is the deletion: 120 s - 30 s - 15 s
    assert api.written[-1] == {"preconditions": {"uid": "uid-chat-1"}, "gracePeriodSeconds": 30}
    assert api.requests[-1] == "/api/v1/namespaces/ns/pods/chat-1"


@pytest.mark.case("node-and-spot E38")
async def test_a_grace_longer_than_the_notice_leaves_no_time_to_wait_for_a_budget(
    api: ScriptedApi, client: KubeClient, wall: Callable[[], datetime]
) -> None:
    api.lists(pods(make_pod("chat-1", grace=600)))
    api.writes(NO_BUDGET, body({"kind": "Pod"}))
    begun = steady()

    await evict_doomed(client, doomed("chat-1"), now=wall)

    assert [round(moment - begun) for moment in api.moments[1:]] == [0, 0]
    assert api.written[-1]["gracePeriodSeconds"] == 110


@pytest.mark.case("node-and-spot E45")
async def test_a_doomed_pod_under_two_budgets_serves_until_its_last_call(
    api: ScriptedApi, client: KubeClient, wall: Callable[[], datetime]
) -> None:
    api.lists(pods(make_pod("chat-1")))
    api.writes(refusal(500, "InternalError", MANY_BUDGETS), refusal(404, "NotFound", "it went"))
    begun = steady()

    await evict_doomed(client, doomed("chat-1"), now=wall)

    assert [round(moment - begun) for moment in api.moments[1:]] == [0, 75]


async def test_a_doomed_pod_that_cannot_be_evicted_does_not_hold_up_the_others(
    api: ScriptedApi, client: KubeClient, wall: Callable[[], datetime]
) -> None:
    api.lists(pods(make_pod("chat-1"), make_pod("chat-2")))
    api.writes(refusal(403, "Forbidden", "no right"), CREATED)

    with pytest.raises(Forbidden):
        await evict_doomed(client, doomed("chat-1", "chat-2"), now=wall)

    assert len(api.written) == 2
