"""What a write asks the API server for, in which order, and what it makes of refusals; on a moved clock."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from spillway.adapters.kube.client import KubeClient
from spillway.adapters.kube.cordon import cordon_node, delete_node, uncordon_node
from spillway.adapters.kube.deployments import template_hash
from spillway.adapters.kube.errors import Conflict, Forbidden, PreconditionFailed, TimedOut, TooManyRequests
from spillway.adapters.kube.twin import NameTaken, apply_twin, delete_twin
from spillway.adapters.kube.write import clear_deletion_costs, set_replicas
from spillway.core.model import (
    ApplyTwin,
    ClearDeletionCost,
    CordonCause,
    CordonNode,
    DeleteTwin,
    ForgetNode,
    ObjectKey,
    PodRef,
    SetReplicas,
    TwinChange,
    TwinPool,
    UncordonNode,
)
from tests.contract.kube.server import Answer, ScriptedApi, body, client_of, hang, refusal

pytestmark = pytest.mark.looptime

Raw = dict[str, Any]

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
CHAT = ObjectKey("ns", "chat")
TWIN = ObjectKey("ns", "chat-burst")
WRITTEN = body({"metadata": {"resourceVersion": "7"}})
MOVED_ON = refusal(409, "Conflict", "the object has been modified")
COST = "controller.kubernetes.io/pod-deletion-cost"
DEPLOYMENTS = "/apis/apps/v1/namespaces/ns/deployments"


@pytest.fixture
async def client(api: ScriptedApi) -> AsyncIterator[KubeClient]:
    made = client_of(api)
    yield made
    await made.close()


def asked(api: ScriptedApi) -> list[str]:
    return [path.partition("?")[0].rpartition("/")[2] for path in api.requests]


def slow(seconds: float, answer: Answer) -> Answer:
    async def later(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        return await answer(request)

    return later


# Replicas and their victims


def victim(name: str) -> PodRef:
    return PodRef(key=ObjectKey("ns", name), uid=f"uid-{name}")


def shrinking(*victims: str) -> SetReplicas:
    return SetReplicas(
        workload=CHAT,
        target=CHAT,
        target_uid="chat-uid",
        before=3,
        to=2,
        victims=tuple(victim(name) for name in victims),
    )


async def test_victims_are_marked_before_the_count_is_lowered(api: ScriptedApi, client: KubeClient) -> None:
    api.writes(WRITTEN, WRITTEN)

    assert await set_replicas(client, shrinking("chat-1")) == "7"

    assert asked(api) == ["chat-1", "scale"]
    assert api.written[0] == {"metadata": {"uid": "uid-chat-1", "annotations": {COST: "-100"}}}


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(refusal(404, "NotFound", "no such pod"), id="gone"),
        pytest.param(refusal(422, "Invalid", "uid: field is immutable"), id="another pod"),
    ],
)
async def test_a_victim_that_went_by_itself_is_no_reason_to_wait(
    api: ScriptedApi, client: KubeClient, answer: Answer
) -> None:
    api.writes(answer, WRITTEN)

    assert await set_replicas(client, shrinking("chat-1")) == "7"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refusal(403, "Forbidden", "no right"), Forbidden),
        (refusal(429, "TooManyRequests", "busy"), TooManyRequests),
        (hang(), TimedOut),
    ],
)
async def test_a_victim_that_could_not_be_marked_keeps_the_count(
    api: ScriptedApi, client: KubeClient, answer: Answer, error: type[Exception]
) -> None:
    api.writes(answer)

    with pytest.raises(error):
        await set_replicas(client, shrinking("chat-1"))

    assert asked(api) == ["chat-1"]


async def test_marks_and_count_together_take_no_longer_than_one_write_may(
    api: ScriptedApi, client: KubeClient
) -> None:
    api.writes(slow(3, WRITTEN), slow(3, WRITTEN))
    begun = asyncio.get_running_loop().time()

    with pytest.raises(TimedOut, match="patch deployments/scale"):
        await set_replicas(client, shrinking("chat-1"))

    assert asyncio.get_running_loop().time() - begun == pytest.approx(5, abs=0.1)


async def test_a_deletion_cost_is_taken_off_only_where_it_is_ours(
    api: ScriptedApi, client: KubeClient
) -> None:
    api.writes(refusal(422, "Invalid", "the test did not hold"))

    await clear_deletion_costs(client, ClearDeletionCost(pods=(victim("chat-1"),)))

    where = "/metadata/annotations/controller.kubernetes.io~1pod-deletion-cost"
    assert api.written == [
        [
            {"op": "test", "path": "/metadata/uid", "value": "uid-chat-1"},
            {"op": "test", "path": where, "value": "-100"},
            {"op": "remove", "path": where},
        ]
    ]


async def test_one_pod_that_refuses_does_not_keep_its_cost_on_the_others(
    api: ScriptedApi, client: KubeClient
) -> None:
    api.writes(refusal(403, "Forbidden", "no right"), WRITTEN, WRITTEN)
    pods = (victim("chat-1"), victim("chat-2"), victim("chat-3"))

    with pytest.raises(Forbidden):
        await clear_deletion_costs(client, ClearDeletionCost(pods=pods))

    assert sorted(asked(api)) == ["chat-1", "chat-2", "chat-3"]


# Twins


TEMPLATE: Raw = {"metadata": {"labels": {"app": "chat"}}, "spec": {"containers": []}}


def stored(
    name: str = "chat", *, uid: str = "", version: str = "1", labels: Raw | None = None, **meta: str
) -> Answer:
    return body(
        {
            "metadata": {
                "namespace": "ns",
                "name": name,
                "uid": uid or f"{name}-uid",
                "resourceVersion": version,
                "labels": {"spillway.dev/owned-by": "workload-uid"} if labels is None else labels,
                **meta,
            },
            "spec": {"replicas": 4, "selector": {"matchLabels": {"app": "chat"}}, "template": TEMPLATE},
        }
    )


def applying(*, twin_uid: str = "") -> ApplyTwin:
    return ApplyTwin(
        workload=CHAT,
        workload_uid="workload-uid",
        source=CHAT,
        source_uid="chat-uid",
        template=template_hash(TEMPLATE),
        twin=TWIN,
        twin_uid=twin_uid,
        replicas=2,
        pools=(TwinPool(name="a", selector={"pool": "a"}),),
        why=TwinChange.CREATE,
    )


async def test_a_twin_is_made_under_our_name_as_field_manager(api: ScriptedApi, client: KubeClient) -> None:
    api.lists(stored())
    api.writes(WRITTEN)

    assert await apply_twin(client, applying()) == "7"

    assert api.requests == [f"{DEPLOYMENTS}/chat", f"{DEPLOYMENTS}?fieldManager=spillway"]
    assert api.written[0]["spec"]["replicas"] == 2


async def test_a_twin_is_replaced_as_it_was_read_and_read_again_where_somebody_was_faster(
    api: ScriptedApi, client: KubeClient
) -> None:
    api.lists(stored(), stored("chat-burst", version="41"), stored("chat-burst", version="42"))
    api.writes(MOVED_ON, WRITTEN)

    await apply_twin(client, applying(twin_uid="chat-burst-uid"))

    assert [sent["metadata"]["resourceVersion"] for sent in api.written] == ["41", "42"]
    assert [sent["spec"]["replicas"] for sent in api.written] == [4, 4]


async def test_a_twin_that_never_holds_still_is_left_for_the_next_pass(
    api: ScriptedApi, client: KubeClient
) -> None:
    api.lists(stored(), *[stored("chat-burst")] * 9)
    api.writes(*[MOVED_ON] * 9)

    with pytest.raises(Conflict):
        await apply_twin(client, applying(twin_uid="chat-burst-uid"))

    assert len(api.written) == 5


@pytest.mark.parametrize(
    ("labels", "error"),
    [
        pytest.param({}, NameTaken, id="somebody else's"),
        pytest.param({"spillway.dev/owned-by": "workload-uid"}, Conflict, id="ours already"),
    ],
)
async def test_a_name_that_is_taken_says_by_whom(
    api: ScriptedApi, client: KubeClient, labels: Raw, error: type[Exception]
) -> None:
    api.lists(stored(), stored("chat-burst", labels=labels))
    api.writes(refusal(409, "AlreadyExists", "it exists"))

    with pytest.raises(error) as refused:
        await apply_twin(client, applying())

    assert type(refused.value) is error


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(stored(uid="another"), id="made anew"),
        pytest.param(
            body({"metadata": {"uid": "chat-uid"}, "spec": {"template": {}}}), id="another template"
        ),
    ],
)
async def test_a_source_that_is_not_as_decided_writes_nothing(
    api: ScriptedApi, client: KubeClient, source: Answer
) -> None:
    api.lists(source)

    with pytest.raises(PreconditionFailed, match="Deployment ns/chat is not as expected"):
        await apply_twin(client, applying())

    assert api.written == []


DELETING = DeleteTwin(workload=CHAT, twin=TWIN, twin_uid="chat-burst-uid", before=4)


async def test_a_twin_is_deleted_as_it_was_read_and_its_pods_with_it(
    api: ScriptedApi, client: KubeClient
) -> None:
    api.lists(stored("chat-burst", version="41"), stored("chat-burst", version="42"))
    api.writes(MOVED_ON, WRITTEN)

    await delete_twin(client, DELETING)

    assert api.written[1] == {
        "propagationPolicy": "Background",
        "preconditions": {"uid": "chat-burst-uid", "resourceVersion": "42"},
    }


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(refusal(404, "NotFound", "gone"), id="gone"),
        pytest.param(stored("chat-burst", deletionTimestamp="2026-11-22T09:00:00Z"), id="on its way"),
    ],
)
async def test_a_twin_that_is_gone_needs_no_deletion(
    api: ScriptedApi, client: KubeClient, answer: Answer
) -> None:
    api.lists(answer)

    await delete_twin(client, DELETING)

    assert api.written == []


# Nodes


def node(*, version: str = "1", uid: str = "node-uid", annotations: Raw | None = None, **spec: Any) -> Answer:  # noqa: ANN401
    meta = {"name": "gpu-1", "uid": uid, "resourceVersion": version}
    return body({"metadata": meta | ({"annotations": annotations} if annotations else {}), "spec": spec})


CORDONING = CordonNode(node="gpu-1", node_uid="node-uid", cause=CordonCause.DRAIN, id="d-1")
UNCORDONING = UncordonNode(node="gpu-1", node_uid="node-uid")
SPOT = {"key": "spot", "effect": "NoSchedule"}
OURS = {
    "key": "spillway.dev/cordoned",
    "value": "drain",
    "effect": "NoSchedule",
    "timeAdded": "2026-11-22T09:00:00Z",
}
MARK = '{"cause":"drain","id":"d-1","since":"2026-11-22T09:00:00.000000Z"}'


async def test_a_mark_is_written_to_the_node_as_it_was_read(api: ScriptedApi, client: KubeClient) -> None:
    api.lists(node(version="41", taints=[SPOT]))
    api.writes(WRITTEN)

    assert await cordon_node(client, CORDONING, now=lambda: NOW) == "7"

    assert api.written[0] == [
        {"op": "test", "path": "/metadata/uid", "value": "node-uid"},
        {"op": "test", "path": "/metadata/resourceVersion", "value": "41"},
        {"op": "add", "path": "/metadata/annotations", "value": {}},
        {"op": "add", "path": "/metadata/annotations/spillway.dev~1cordon", "value": MARK},
        {"op": "add", "path": "/spec/unschedulable", "value": True},
        {"op": "add", "path": "/spec/taints", "value": [SPOT, OURS]},
    ]


async def test_a_node_that_was_written_meanwhile_is_read_again(api: ScriptedApi, client: KubeClient) -> None:
    api.lists(node(version="41"), node(version="42", taints=[SPOT]))
    api.writes(refusal(422, "Invalid", "the test did not hold"), WRITTEN)

    await cordon_node(client, CORDONING, now=lambda: NOW)

    assert api.written[1][1]["value"] == "42"
    assert api.written[1][-1]["value"] == [SPOT, OURS]


async def test_a_node_that_never_holds_still_is_left_for_the_next_pass(
    api: ScriptedApi, client: KubeClient
) -> None:
    api.lists(*[node()] * 9)
    api.writes(*[refusal(422, "Invalid", "the test did not hold")] * 9)

    with pytest.raises(PreconditionFailed):
        await cordon_node(client, CORDONING)

    assert len(api.written) == 5


@pytest.mark.parametrize("fields", [{"unschedulable": True}, {"taints": [OURS]}])
async def test_a_mark_of_which_a_part_was_taken_off_is_made_whole(
    api: ScriptedApi, client: KubeClient, fields: Raw
) -> None:
    api.lists(node(annotations={"spillway.dev/cordon": MARK}, **fields))
    api.writes(WRITTEN)

    await cordon_node(client, CORDONING)

    assert [step["value"] for step in api.written[0][2:]] == [MARK, True, [OURS]]


@pytest.mark.case("node-and-spot E49")
@pytest.mark.parametrize(
    ("mark", "uncordons"),
    [(MARK, True), (MARK[:-1] + ',"wasUnschedulable":true}', False)],
)
async def test_only_our_own_cordon_goes_with_our_mark(
    api: ScriptedApi, client: KubeClient, mark: str, uncordons: bool
) -> None:
    api.lists(node(annotations={"spillway.dev/cordon": mark}, unschedulable=True, taints=[SPOT, OURS]))
    api.writes(WRITTEN)

    await uncordon_node(client, UNCORDONING)

    ours_off = [
        {"op": "add", "path": "/spec/taints", "value": [SPOT]},
        {"op": "remove", "path": "/metadata/annotations/spillway.dev~1cordon"},
    ]
    uncordoned = [{"op": "add", "path": "/spec/unschedulable", "value": False}]
    assert api.written[0][2:] == ours_off + (uncordoned if uncordons else [])


async def test_a_node_without_our_mark_is_not_written(api: ScriptedApi, client: KubeClient) -> None:
    api.lists(node(version="41", unschedulable=True, taints=[SPOT]))

    assert await uncordon_node(client, UNCORDONING) == "41"

    assert api.written == []


async def test_a_node_object_is_deleted_by_its_uid(api: ScriptedApi, client: KubeClient) -> None:
    act = ForgetNode(pool="p", node="gpu-1", node_uid="node-uid", instance="i-1")
    api.writes(WRITTEN, refusal(404, "NotFound", "gone"), refusal(409, "Conflict", "another uid"))

    await delete_node(client, act)
    await delete_node(client, act)
    with pytest.raises(Conflict):
        await delete_node(client, act)

    assert api.written == [{"preconditions": {"uid": "node-uid"}}] * 3
