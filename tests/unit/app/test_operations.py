"""Acts on their way: what is known of them until the caches show the result."""

import asyncio
from dataclasses import replace

import pytest
from tests.builders import make_deployment

from spillway.adapters.cloud.base import Throttled
from spillway.adapters.kube.errors import PreconditionFailed, TimedOut
from spillway.adapters.kube.resources import Call
from spillway.app.acts import DeploymentAt, Landing, MayWrite
from spillway.app.operations import Operations, Seen
from spillway.core.model import Act, Deployment, OperationState, SetReplicas

CALL = Call(verb="patch", resource="deployments/scale", namespace="chat")
DEPLOYMENT = make_deployment(replicas=4)
GROW = SetReplicas(workload=DEPLOYMENT.key, target=DEPLOYMENT.key, target_uid=DEPLOYMENT.uid, before=4, to=6)


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
