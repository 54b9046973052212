"""How each act is carried out: which write it comes to, and by what it will be seen, against recorded answers."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from spillway.adapters.cloud.base import DesiredChanged, ProviderUnavailable
from spillway.adapters.kube.client import KubeClient
from spillway.adapters.kube.errors import Forbidden
from spillway.adapters.kube.nodes import mark_text
from spillway.api.names import CORDON_ANNOTATION
from spillway.app.acts import DeploymentAt, DeploymentGone, Done, Executor, NodeAt, NodeGone, PoolHeard
from spillway.core.model import (
    CancelUnfulfilled,
    ClearDeletionCost,
    CordonCause,
    CordonMark,
    CordonNode,
    DeleteTwin,
    DrainNode,
    ForeignPods,
    ForgetNode,
    GrowPool,
    HandOverTwin,
    ObjectKey,
    PodRef,
    PoolState,
    UncordonNode,
)
from tests.builders import make_act
from tests.contract.kube.server import Answer, ScriptedApi, body, client_of, page, refusal

pytestmark = pytest.mark.looptime

MARK = CordonMark(cause=CordonCause.DRAIN, id="drain-1", since=datetime(2026, 11, 22, 9, tzinfo=UTC))
TWIN = ObjectKey("chat", "llm-burst")
STORED = body({"metadata": {"resourceVersion": "9"}})
GROW = GrowPool(pool="spot-a", pool_uid="p", before=1, to=3)
CANCEL = CancelUnfulfilled(pool="spot-a", pool_uid="p", before=3, to=1)
DRAIN = DrainNode(
    pool="spot-a",
    node="node-1",
    node_uid="uid-1",
    instance="i-1",
    id="drain-1",
    movable=frozenset(),
    foreign_pods=ForeignPods.BLOCK,
)


@dataclass(slots=True)
class Cloud:
    """A provider that takes note of every change; `refuses` is what it answers instead."""

    refuses: Exception | None = None
    changes: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    async def describe(self, pool: str) -> PoolState:
        raise AssertionError(f"{pool} is described by the collector")

    async def grow(self, pool: str, *, to: int, before: int, token: str) -> None:
        self._note(f"grow {pool}", to=to, before=before, token=token)

    async def remove(self, pool: str, *, instance: str, node: str, token: str) -> None:
        self._note(f"remove {pool}", instance=instance, node=node, token=token)

    async def cancel_unfulfilled(self, pool: str, *, to: int, before: int, token: str) -> None:
        self._note(f"cancel {pool}", to=to, before=before, token=token)

    def _note(self, change: str, **sent: object) -> None:
        self.changes.append((change, sent))
        if self.refuses is not None:
            raise self.refuses


def stored_node(*, marked: bool) -> Answer:
    meta: dict[str, Any] = {"name": "node-1", "uid": "uid-1", "resourceVersion": "8"}
    if marked:
        meta["annotations"] = {CORDON_ANNOTATION: mark_text(MARK)}
    return body({"metadata": meta, "spec": {"unschedulable": marked}, "status": {}})


@pytest.fixture
async def client(api: ScriptedApi) -> AsyncIterator[KubeClient]:
    made = client_of(api)
    yield made
    await made.close()


def executor(client: KubeClient, cloud: Cloud | None = None) -> Executor:
    tokens = iter(("token-1", "token-2"))
    found = (cloud, "spot-a-there") if cloud is not None else None
    return Executor(client=client, provider_of=lambda _: found, token=lambda: next(tokens))


def always() -> bool:
    return True


async def test_a_count_is_seen_by_the_version_that_the_write_gave(
    api: ScriptedApi, client: KubeClient
) -> None:
    api.writes(STORED)

    landing = await executor(client).carry_out(make_act(before=4, to=6), always)

    assert landing == DeploymentAt(key=ObjectKey("chat", "llm"), uid="deployment-llm", version="9")


async def test_a_handover_is_seen_on_the_twin(api: ScriptedApi, client: KubeClient) -> None:
    api.writes(STORED)

    landing = await executor(client).carry_out(HandOverTwin(twin=TWIN, twin_uid="t", replicas=4), always)

    assert landing == DeploymentAt(key=TWIN, uid="t", version="9")


async def test_a_deleted_twin_is_seen_by_its_absence(api: ScriptedApi, client: KubeClient) -> None:
    api.lists(refusal(404, "NotFound"))
    act = DeleteTwin(workload=ObjectKey("chat", "llm"), twin=TWIN, twin_uid="t", before=0)

    assert await executor(client).carry_out(act, always) == DeploymentGone(key=TWIN, uid="t")


async def test_a_cleared_deletion_cost_needs_not_be_seen(api: ScriptedApi, client: KubeClient) -> None:
    api.writes(STORED)
    act = ClearDeletionCost(pods=(PodRef(ObjectKey("chat", "llm-1"), "u"),))

    assert await executor(client).carry_out(act, always) == Done()


async def test_growth_asks_the_provider_by_its_own_name_for_a_whole_size(client: KubeClient) -> None:
    cloud = Cloud()

    landing = await executor(client, cloud).carry_out(GROW, always)

    assert cloud.changes == [("grow spot-a-there", {"to": 3, "before": 1, "token": "token-1"})]
    assert landing == PoolHeard(pool="spot-a")


async def test_every_change_of_a_size_has_a_token_of_its_own(client: KubeClient) -> None:
    cloud = Cloud()
    hands = executor(client, cloud)

    await hands.carry_out(GROW, always)
    await hands.carry_out(CANCEL, always)

    assert cloud.changes[1] == ("cancel spot-a-there", {"to": 1, "before": 3, "token": "token-2"})


async def test_a_size_that_somebody_else_changed_is_refused(client: KubeClient) -> None:
    cloud = Cloud(refuses=DesiredChanged("spot-a", "it is 5 now", desired=5))

    with pytest.raises(DesiredChanged):
        await executor(client, cloud).carry_out(GROW, always)


@pytest.mark.parametrize("act", [pytest.param(GROW, id="grow"), pytest.param(CANCEL, id="cancel")])
async def test_a_pool_whose_provider_went_has_not_been_changed(
    client: KubeClient, act: GrowPool | CancelUnfulfilled
) -> None:
    with pytest.raises(ProviderUnavailable) as failed:
        await executor(client).carry_out(act, always)

    assert not failed.value.may_have_happened


async def test_a_cordon_is_seen_by_the_version_that_the_write_gave(
    api: ScriptedApi, client: KubeClient
) -> None:
    api.lists(stored_node(marked=False))
    api.writes(STORED)
    act = CordonNode(node="node-1", node_uid="uid-1", cause=CordonCause.DRAIN, id="drain-1")

    landing = await executor(client).carry_out(act, always)

    assert landing == NodeAt(name="node-1", uid="uid-1", version="9")


async def test_taking_our_mark_off_is_seen_likewise(api: ScriptedApi, client: KubeClient) -> None:
    api.lists(stored_node(marked=True))
    api.writes(STORED)

    landing = await executor(client).carry_out(UncordonNode(node="node-1", node_uid="uid-1"), always)

    assert landing == NodeAt(name="node-1", uid="uid-1", version="9")


async def test_a_drain_removes_exactly_its_instance_with_its_own_token(
    api: ScriptedApi, client: KubeClient
) -> None:
    cloud = Cloud()
    api.lists(stored_node(marked=True), page(), stored_node(marked=True))

    landing = await executor(client, cloud).carry_out(DRAIN, always)

    sent = {"instance": "i-1", "node": "node-1", "token": "drain-1"}
    assert cloud.changes == [("remove spot-a-there", sent)]
    assert landing == PoolHeard(pool="spot-a")


async def test_a_drain_that_is_resumed_asks_with_the_same_token(api: ScriptedApi, client: KubeClient) -> None:
    cloud = Cloud(refuses=ProviderUnavailable("spot-a", "no answer"))
    hands = executor(client, cloud)

    for _ in range(2):
        api.lists(stored_node(marked=True), page(), stored_node(marked=True))
        with pytest.raises(ProviderUnavailable):
            await hands.carry_out(DRAIN, always)

    assert [sent["token"] for _, sent in cloud.changes] == ["drain-1", "drain-1"]


async def test_nothing_is_removed_once_the_lease_is_not_surely_ours(
    api: ScriptedApi, client: KubeClient
) -> None:
    cloud = Cloud()
    api.lists(stored_node(marked=True), page(), stored_node(marked=True))

    with pytest.raises(Exception, match="the Lease is not ours for long enough"):
        await executor(client, cloud).carry_out(DRAIN, lambda: False)

    assert cloud.changes == []


async def test_a_node_whose_machine_is_gone_is_seen_by_its_absence(
    api: ScriptedApi, client: KubeClient
) -> None:
    api.writes(body({"kind": "Status", "status": "Success"}))
    act = ForgetNode(pool="spot-a", node="node-1", node_uid="uid-1", instance="i-1")

    assert await executor(client).carry_out(act, always) == NodeGone(name="node-1", uid="uid-1")


async def test_a_right_that_is_missing_reaches_the_caller(api: ScriptedApi, client: KubeClient) -> None:
    api.writes(refusal(403, "Forbidden", "deployments/scale is forbidden"))

    with pytest.raises(Forbidden):
        await executor(client).carry_out(make_act(before=4, to=6), always)
