"""Acts on their way: what is known of them until the caches show the result."""

import asyncio
from dataclasses import replace

import pytest
from tests.builders import make_deployment, make_node, make_twin

from spillway.adapters.cloud.base import ProviderUnavailable, Throttled
from spillway.adapters.kube.errors import PreconditionFailed, TimedOut
from spillway.adapters.kube.evictions import DrainBlocked
from spillway.adapters.kube.resources import Call
from spillway.app.acts import (
    DeploymentAt,
    DeploymentGone,
    Done,
    Landing,
    MayWrite,
    NodeAt,
    NodeGone,
    PoolHeard,
)
from spillway.app.operations import Operations, Seen
from spillway.core.model import (
    Act,
    Deployment,
    DrainNode,
    ForeignPods,
    GrowPool,
    ObjectKey,
    Operation,
    OperationState,
    SetReplicas,
)

CALL = Call(verb="patch", resource="deployments/scale", namespace="chat")
DEPLOYMENT = make_deployment(replicas=4)
GROW = SetReplicas(workload=DEPLOYMENT.key, target=DEPLOYMENT.key, target_uid=DEPLOYMENT.uid, before=4, to=6)
BUY = GrowPool(pool="spot-a", pool_uid="pool-spot-a", before=1, to=3)
DRAIN = DrainNode(
    pool="spot-a",
    node="node-1",
    node_uid="uid-1",
    instance="i-1",
    id="drain-1",
    movable=frozenset(),
    foreign_pods=ForeignPods.BLOCK,
)


class Held:
    """A Lease that ends at a moment of its own."""

    def __init__(self, until: float = 1_000.0) -> None:
        self.until = until

    def held_for(self, deadline: float) -> bool:
        return deadline < self.until


class Desk:
    """Operations with a writer whose answer the test decides, and a clock that it moves."""

    def __init__(self, *, lease: Held | None = None) -> None:
        self.now = 100.0
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.written: list[Act] = []
        self.woken: list[str] = []
        self.cached: Deployment | None = DEPLOYMENT
        self.operations = Operations(
            self,
            lease=lease or Held(),
            steady=lambda: self.now,
            give_up_seconds=60,
            wake=self.woken.append,
        )

    async def carry_out(self, act: Act, may_write: MayWrite) -> Landing:  # noqa: ARG002  # the protocol's
        self.written.append(act)
        version = await self.answer
        return DeploymentAt(key=DEPLOYMENT.key, uid=DEPLOYMENT.uid, version=version)

    async def end(self, *, version: str | None = None, error: Exception | None = None) -> None:
        if error is not None:
            self.answer.set_exception(error)
        else:
            self.answer.set_result(version or "")
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def states(self) -> list[OperationState]:
        cached = {} if self.cached is None else {DEPLOYMENT.key: self.cached}
        seen = Seen(deployments=cached, nodes={}, heard=lambda _: 0.0)
        return [operation.state for operation in self.operations.collect(seen)]


@pytest.fixture
async def desk() -> Desk:
    return Desk()


async def test_an_act_runs_until_its_write_is_answered(desk: Desk) -> None:
    desk.operations.start(GROW)
    await asyncio.sleep(0)

    assert desk.states() == [OperationState.RUNNING]
    assert desk.written == [GROW]


async def test_a_written_act_waits_for_the_cache_to_show_it(desk: Desk) -> None:
    desk.operations.start(GROW)
    await asyncio.sleep(0)
    await desk.end(version="7")

    assert desk.states() == [OperationState.AWAITING_CACHE]


async def test_an_act_lands_once_when_the_cache_reaches_its_version(desk: Desk) -> None:
    desk.operations.start(GROW)
    await asyncio.sleep(0)
    await desk.end(version="7")
    desk.cached = replace(DEPLOYMENT, resource_version="8", replicas=6)

    assert [desk.states(), desk.states()] == [[OperationState.LANDED], []]


async def test_a_second_act_on_the_same_target_does_not_start(desk: Desk) -> None:
    desk.operations.start(GROW)
    desk.operations.start(replace(GROW, to=8))
    await asyncio.sleep(0)

    assert desk.written == [GROW]


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(PreconditionFailed(CALL, "the count moved", code=422), id="422"),
        pytest.param(TimedOut(CALL, "no answer"), id="timeout"),
    ],
)
async def test_a_refused_write_fails_once_and_frees_its_target(desk: Desk, error: Exception) -> None:
    desk.operations.start(GROW)
    await asyncio.sleep(0)
    await desk.end(error=error)

    assert [desk.states(), desk.states()] == [[OperationState.FAILED], []]


async def test_the_end_of_a_write_wakes_the_loop(desk: Desk) -> None:
    desk.operations.start(GROW)
    await asyncio.sleep(0)
    await desk.end(version="7")

    assert desk.woken == ["operation"]


async def test_nothing_is_written_when_the_lease_may_end_before_the_write_does() -> None:
    desk = Desk(lease=Held(until=104.0))

    desk.operations.start(GROW)
    await asyncio.sleep(0)

    assert desk.written == []


async def test_a_target_that_went_while_its_act_waited_ends_the_act(desk: Desk) -> None:
    desk.operations.start(GROW)
    await asyncio.sleep(0)
    await desk.end(version="7")
    desk.cached = None

    assert desk.states() == [OperationState.FAILED]


async def test_an_act_that_the_cache_never_shows_is_given_up(desk: Desk) -> None:
    desk.operations.start(GROW)
    await asyncio.sleep(0)
    await desk.end(version="7")
    desk.now += 61

    assert desk.states() == [OperationState.FAILED]


async def test_stopping_calls_off_a_write_that_hangs(desk: Desk) -> None:
    desk.operations.start(GROW)
    await asyncio.sleep(0)

    await desk.operations.stop(seconds=0.01)

    assert desk.states() == []


async def test_a_failure_is_tried_again_at_once_and_the_next_one_later(desk: Desk) -> None:
    for _ in range(2):
        desk.answer = asyncio.get_running_loop().create_future()
        desk.operations.start(GROW)
        await asyncio.sleep(0)
        await desk.end(error=PreconditionFailed(CALL, "it stands at 5"))
        desk.states()

    desk.operations.start(GROW)
    tried_at_once = len(desk.written)
    desk.now += 1.1
    desk.answer = asyncio.get_running_loop().create_future()
    desk.operations.start(GROW)
    await asyncio.sleep(0)

    assert (tried_at_once, len(desk.written)) == (2, 3)


async def test_a_provider_that_throttles_is_left_alone_for_as_long_as_it_says(desk: Desk) -> None:
    desk.operations.start(GROW)
    await asyncio.sleep(0)
    await desk.end(error=Throttled("spot-a", "slow down", retry_after=7))
    desk.states()

    desk.now += 6.9
    desk.operations.start(GROW)

    assert len(desk.written) == 1


LANDED, WAITING, FAILED = OperationState.LANDED, OperationState.AWAITING_CACHE, OperationState.FAILED
NODE = make_node("node-1", uid="uid-1", resource_version="7")
NODE_KEY = ObjectKey("", "node-1")
TWIN = make_twin(resource_version="7")


class Carried:
    """Whatever is asked for is done, and is seen by what the test says."""

    def __init__(self, landing: Landing | Exception) -> None:
        self.landing = landing

    async def carry_out(self, act: Act, may_write: MayWrite) -> Landing:  # noqa: ARG002  # the protocol's
        if isinstance(self.landing, Exception) and not isinstance(act, SetReplicas):
            raise self.landing
        return self.landing if not isinstance(self.landing, Exception) else Done()


async def ended(
    act: Act, landing: Landing | Exception, seen: Seen, *, asked: list[str] | None = None
) -> Operation:
    """Carry out *act* at second 100 and return how it stands in the next pass."""
    operations = Operations(
        Carried(landing),
        lease=Held(),
        steady=lambda: 100.0,
        give_up_seconds=60,
        wake=lambda _: None,
        ask_pool=(asked if asked is not None else []).append,
    )
    operations.start(act)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return operations.collect(seen)[0]


def showing(*found: Deployment, nodes: tuple[str, str] | None = None, heard: float = 0.0) -> Seen:
    """What the caches show: these Deployments, and the node `(uid, version)` if one is given."""
    cached = {}
    if nodes is not None:
        uid, version = nodes
        cached = {NODE_KEY: replace(NODE, uid=uid, resource_version=version)}
    return Seen(deployments={one.key: one for one in found}, nodes=cached, heard=lambda _: heard)


@pytest.mark.parametrize(
    ("landing", "seen", "expected"),
    [
        pytest.param(Done(), showing(), LANDED, id="nothing to wait for"),
        pytest.param(
            DeploymentAt(key=TWIN.key, uid="", version="7"), showing(), WAITING, id="a twin not seen yet"
        ),
        pytest.param(
            DeploymentAt(key=TWIN.key, uid="", version="7"), showing(TWIN), LANDED, id="a twin that came"
        ),
        pytest.param(
            DeploymentAt(key=TWIN.key, uid=TWIN.uid, version="7"),
            showing(replace(TWIN, uid="other")),
            FAILED,
            id="a twin made anew",
        ),
        pytest.param(
            DeploymentGone(key=TWIN.key, uid=TWIN.uid), showing(TWIN), WAITING, id="a twin still there"
        ),
        pytest.param(
            DeploymentGone(key=TWIN.key, uid=TWIN.uid),
            showing(replace(TWIN, terminating=True)),
            LANDED,
            id="a twin that ends",
        ),
        pytest.param(DeploymentGone(key=TWIN.key, uid=TWIN.uid), showing(), LANDED, id="a twin that went"),
        pytest.param(
            NodeAt(name="node-1", uid="uid-1", version="8"),
            showing(nodes=("uid-1", "7")),
            WAITING,
            id="a node of before the write",
        ),
        pytest.param(
            NodeAt(name="node-1", uid="uid-1", version="8"),
            showing(nodes=("uid-1", "8")),
            LANDED,
            id="a node as written",
        ),
        pytest.param(
            NodeAt(name="node-1", uid="uid-1", version="8"),
            showing(nodes=("uid-2", "9")),
            FAILED,
            id="another node of that name",
        ),
        pytest.param(
            NodeGone(name="node-1", uid="uid-1"), showing(nodes=("uid-1", "7")), WAITING, id="a node not gone"
        ),
        pytest.param(
            NodeGone(name="node-1", uid="uid-1"), showing(nodes=("uid-2", "9")), LANDED, id="a node replaced"
        ),
        pytest.param(
            PoolHeard(pool="spot-a"), showing(heard=99.9), WAITING, id="a provider heard before the call"
        ),
        pytest.param(
            PoolHeard(pool="spot-a"), showing(heard=100.0), LANDED, id="a provider heard after the call"
        ),
    ],
)
async def test_an_act_has_landed_when_its_own_trace_is_seen(
    landing: Landing, seen: Seen, expected: OperationState
) -> None:
    assert (await ended(BUY, landing, seen)).state is expected


async def test_after_a_change_at_a_provider_that_pool_is_asked_at_once() -> None:
    asked: list[str] = []

    await ended(BUY, PoolHeard(pool="spot-a"), showing(), asked=asked)

    assert asked == ["spot-a"]


@pytest.mark.parametrize("act", [pytest.param(BUY, id="grow"), pytest.param(DRAIN, id="remove")])
async def test_after_a_change_that_may_have_happened_that_pool_is_asked_at_once(act: Act) -> None:
    asked: list[str] = []

    found = await ended(act, ProviderUnavailable("spot-a", "no answer"), showing(), asked=asked)

    assert (found.state, found.error, asked) == (FAILED, "pool spot-a: no answer", ["spot-a"])


async def test_a_drain_that_met_a_foreign_pod_names_it() -> None:
    found = await ended(DRAIN, DrainBlocked("node-1", "pod ns/by-hand is nobody's"), showing())

    assert (found.state, found.blocked) == (FAILED, "pod ns/by-hand is nobody's")


async def test_an_ordinary_failure_of_a_drain_is_no_block() -> None:
    assert (await ended(DRAIN, TimedOut(CALL, "no answer"), showing())).blocked == ""


async def test_a_defect_in_one_chain_frees_its_subject() -> None:
    found = await ended(DRAIN, KeyError("metadata"), showing())

    assert (found.state, found.error) == (FAILED, "KeyError: 'metadata'")


async def test_a_chain_that_fails_stops_no_other() -> None:
    operations = Operations(
        Carried(ProviderUnavailable("spot-a", "no answer")),
        lease=Held(),
        steady=lambda: 100.0,
        give_up_seconds=60,
        wake=lambda _: None,
    )

    for act in (BUY, GROW):
        operations.start(act)
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    states = {found.act.subject: found.state for found in operations.collect(showing())}
    assert states == {"pool spot-a": FAILED, "deployment chat/llm": LANDED}


async def test_a_chain_may_ask_before_each_write_whether_the_lease_holds() -> None:
    lease, answers = Held(), []

    class Chain:
        async def carry_out(self, act: Act, may_write: MayWrite) -> Landing:  # noqa: ARG002  # the protocol's
            for until in (1_000.0, 104.9):  # a write takes 5 s from second 100
                lease.until = until
                answers.append(may_write())
            return Done()

    operations = Operations(
        Chain(), lease=lease, steady=lambda: 100.0, give_up_seconds=60, wake=lambda _: None
    )
    operations.start(DRAIN)
    await asyncio.sleep(0)

    assert answers == [True, False]


async def test_patience_for_the_cache_begins_when_the_act_has_ended(desk: Desk) -> None:
    desk.operations.start(GROW)
    await asyncio.sleep(0)
    desk.now += 59
    await desk.end(version="7")
    desk.now += 59

    assert desk.states() == [OperationState.AWAITING_CACHE]
