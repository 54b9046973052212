"""Asking providers: each pool on its own, again after a change, and what was said before while nobody answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from tests.builders import NOW, make_pool, make_snapshot, plan_of

from spillway.adapters.cloud.base import CloudError, Throttled
from spillway.app.pool_states import PoolCollector, doubted
from spillway.core.model import GrowPool, Instance, InstanceState, Mode, NodePool, PoolState, ProviderType

pytestmark = pytest.mark.looptime

A = make_pool("spot-a", provider=ProviderType.KWOK)
B = make_pool("spot-b", provider=ProviderType.KWOK)
UNTIL_ASKED = 0.1


class Cloud:
    """A provider that says what the test set for each pool, after `seconds`; counts how often it was asked."""

    def __init__(self) -> None:
        self.says: dict[str, PoolState | Exception] = {}
        self.seconds: dict[str, float] = {}
        self.asked: list[str] = []

    async def describe(self, pool: str) -> PoolState:
        self.asked.append(pool)
        await asyncio.sleep(self.seconds.get(pool, 0))
        said = self.says.get(pool, PoolState(at=now(), desired=1))
        if isinstance(said, Exception):
            raise said
        return said

    async def grow(self, pool: str, *, to: int, before: int, token: str) -> None:
        raise AssertionError(f"grew {pool} from {before} to {to}: {token}")

    async def remove(self, pool: str, *, instance: str, node: str, token: str) -> None:
        raise AssertionError(f"removed {instance} on {node} of {pool}: {token}")

    async def cancel_unfulfilled(self, pool: str, *, to: int, before: int, token: str) -> None:
        raise AssertionError(f"cancelled {pool} from {before} to {to}: {token}")


def now() -> datetime:
    return NOW + timedelta(seconds=asyncio.get_running_loop().time())


class Desk:
    """A collector at work every 10 s, on a moved clock."""

    def __init__(self, cloud: Cloud, *pools: NodePool, sets_up_kwok: bool = True) -> None:
        self.pools = [(pool, f"{pool.name}-there") for pool in pools]
        self.woken: list[str] = []
        self.collector = PoolCollector(
            lambda: self.pools,
            {ProviderType.KWOK: cloud} if sets_up_kwok else {},
            interval=timedelta(seconds=10),
            now=now,
            steady=asyncio.get_running_loop().time,
            wake=self.woken.append,
        )


@asynccontextmanager
async def collecting(cloud: Cloud, *pools: NodePool, sets_up_kwok: bool = True) -> AsyncIterator[Desk]:
    desk = Desk(cloud, *pools, sets_up_kwok=sets_up_kwok)
    task = asyncio.create_task(desk.collector.run())
    await asyncio.sleep(UNTIL_ASKED)
    try:
        yield desk
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


async def test_every_pool_is_asked_by_its_name_at_the_provider_every_interval(cloud: Cloud) -> None:
    async with collecting(cloud, A, B) as desk:
        await asyncio.sleep(20)

        assert cloud.asked == ["spot-a-there", "spot-b-there"] * 3
        assert {name: state.desired for name, state in desk.collector.latest().items()} == {
            "spot-a": 1,
            "spot-b": 1,
        }


async def test_a_pool_of_an_external_provider_is_never_asked(cloud: Cloud) -> None:
    async with collecting(cloud, make_pool("theirs")) as desk:
        assert (cloud.asked, desk.collector.latest()) == ([], {})


@pytest.mark.case("node-and-spot E63")
async def test_a_pool_that_hangs_keeps_no_other_from_being_asked(cloud: Cloud) -> None:
    cloud.seconds["spot-a-there"] = 3600

    async with collecting(cloud, A, B) as desk:
        await asyncio.sleep(20)

        assert cloud.asked.count("spot-b-there") == 3
        states = desk.collector.latest()
        assert (states["spot-a"].error, states["spot-b"].error) == ("no answer within 6 s", "")


async def test_a_pool_that_hangs_has_one_question_in_flight(cloud: Cloud) -> None:
    cloud.seconds["spot-a-there"] = 3600

    async with collecting(cloud, A) as desk:
        for _ in range(5):
            desk.collector.ask("spot-a")
            await asyncio.sleep(1)

        assert cloud.asked == ["spot-a-there"]


@pytest.mark.case("node-and-spot E63")
async def test_a_failure_keeps_what_was_said_and_its_age(cloud: Cloud) -> None:
    said = cloud.says["spot-a-there"] = PoolState(at=NOW, desired=3)

    async with collecting(cloud, A) as desk:
        cloud.says["spot-a-there"] = Throttled("spot-a-there", "slow down")
        await asyncio.sleep(10)

        assert desk.collector.latest() == {"spot-a": replace(said, error="pool spot-a-there: slow down")}


async def test_a_provider_never_heard_is_too_old_for_any_limit(cloud: Cloud) -> None:
    cloud.says["spot-a-there"] = CloudError("spot-a-there", "no")

    async with collecting(cloud, A) as desk:
        state = desk.collector.latest()["spot-a"]

        assert state.error == "pool spot-a-there: no"
        assert now() - state.at >= timedelta(hours=23)


async def test_a_defect_with_one_pool_shows_as_its_error(cloud: Cloud) -> None:
    cloud.says["spot-a-there"] = KeyError("desired")

    async with collecting(cloud, A, B) as desk:
        states = desk.collector.latest()

        assert (states["spot-a"].error, states["spot-b"].error) == ("KeyError: 'desired'", "")


async def test_a_missing_setting_is_named(cloud: Cloud) -> None:
    async with collecting(cloud, A, sets_up_kwok=False) as desk:
        assert "kwok.url is not set" in desk.collector.latest()["spot-a"].error


async def test_a_pool_that_somebody_asks_about_is_asked_at_once(cloud: Cloud) -> None:
    async with collecting(cloud, A, B) as desk:
        desk.collector.ask("spot-b")
        await asyncio.sleep(UNTIL_ASKED)

        assert cloud.asked == ["spot-a-there", "spot-b-there", "spot-b-there"]


async def test_an_answer_on_its_way_is_asked_for_once_more_after_a_change(cloud: Cloud) -> None:
    cloud.seconds["spot-a-there"] = 2

    async with collecting(cloud, A) as desk:
        changed_at = asyncio.get_running_loop().time()
        desk.collector.ask("spot-a")
        await asyncio.sleep(3)
        heard_of_before = desk.collector.heard("spot-a") < changed_at
        await asyncio.sleep(2)

        assert heard_of_before
        assert desk.collector.heard("spot-a") >= changed_at
        assert len(cloud.asked) == 2


def with_machine(state: InstanceState) -> PoolState:
    return PoolState(at=NOW, desired=1, instances=(Instance(id="i-1", state=state, since=NOW),))


@pytest.mark.parametrize(
    ("then", "woken"),
    [
        pytest.param(with_machine(InstanceState.BOOTING), 1, id="nothing new"),
        pytest.param(replace(with_machine(InstanceState.BOOTING), at=NOW + timedelta(1)), 1, id="only later"),
        pytest.param(with_machine(InstanceState.RUNNING), 2, id="a machine runs"),
        pytest.param(replace(with_machine(InstanceState.BOOTING), desired=2), 2, id="somebody resized it"),
        pytest.param(CloudError("spot-a", "no"), 2, id="it is silent"),
    ],
)
async def test_the_loop_wakes_for_what_a_decision_looks_at(
    cloud: Cloud, then: PoolState | Exception, woken: int
) -> None:
    cloud.says["spot-a-there"] = with_machine(InstanceState.BOOTING)

    async with collecting(cloud, A) as desk:
        cloud.says["spot-a-there"] = then
        await asyncio.sleep(10)

        assert desk.woken == ["pool state"] * woken


async def test_a_provider_that_stays_silent_wakes_nobody_again(cloud: Cloud) -> None:
    cloud.says["spot-a-there"] = CloudError("spot-a-there", "no")

    async with collecting(cloud, A) as desk:
        await asyncio.sleep(60)

        assert desk.woken == ["pool state"]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param((replace(A, uid="made-anew"), "spot-a-there"), id="made anew"),
        pytest.param((A, "another-there"), id="another pool there"),
    ],
)
async def test_what_was_said_of_another_pool_of_that_name_counts_no_more(
    cloud: Cloud, other: tuple[NodePool, str]
) -> None:
    async with collecting(cloud, A) as desk:
        desk.pools = [other]

        assert desk.collector.latest() == {}


async def test_a_pool_that_went_has_no_state(cloud: Cloud) -> None:
    async with collecting(cloud, A, B) as desk:
        desk.pools = desk.pools[1:]

        assert list(desk.collector.latest()) == ["spot-b"]


async def test_a_pool_is_led_to_its_provider_and_its_name_there(cloud: Cloud) -> None:
    desk = Desk(cloud, A, make_pool("theirs"))

    assert desk.collector.provider_of("spot-a") == (cloud, "spot-a-there")
    assert desk.collector.provider_of("theirs") is None
    assert desk.collector.provider_of("unknown") is None


def sized(states: dict[str, PoolState]) -> tuple[GrowPool, ...]:
    """Return what a plan asks of a pool with minNodes 2 whose provider said this."""
    pool = replace(A, mode=Mode.ENFORCE, min_nodes=2, max_nodes=4)
    plan = plan_of(make_snapshot((), pods=(), pools=(pool,), pool_states=states))
    return tuple(act for act in plan.acts if isinstance(act, GrowPool))


def test_no_node_is_asked_for_while_the_nodes_are_not_seen() -> None:
    said = {"spot-a": PoolState(at=NOW, desired=0)}

    assert sized(dict(doubted(said, ""))) == (
        GrowPool(pool="spot-a", pool_uid="pool-spot-a", before=0, to=2),
    )
    assert sized(dict(doubted(said, "the nodes cannot be read: nodes is forbidden"))) == ()


async def test_a_pool_that_is_new_is_asked_about_before_its_turn(cloud: Cloud) -> None:
    async with collecting(cloud, A) as desk:
        desk.pools.append((B, "spot-b-there"))
        desk.collector.ask_unheard()
        await asyncio.sleep(UNTIL_ASKED)

        assert cloud.asked == ["spot-a-there", "spot-b-there"]


async def test_a_new_pool_is_asked_about_once_however_many_passes_wait_for_it(cloud: Cloud) -> None:
    cloud.seconds["spot-a-there"] = 3

    async with collecting(cloud, A) as desk:
        for _ in range(5):
            desk.collector.ask_unheard()
            await asyncio.sleep(1)

        assert cloud.asked == ["spot-a-there"]


async def test_a_pool_that_failed_waits_for_its_turn(cloud: Cloud) -> None:
    cloud.says["spot-a-there"] = CloudError("spot-a-there", "no")

    async with collecting(cloud, A) as desk:
        desk.collector.ask_unheard()
        await asyncio.sleep(5)

        assert cloud.asked == ["spot-a-there"]
