"""The market as a provider: what callers meet when its API does not play along (node-and-spot D.6)."""

import pytest
from tests.builders import NOW, seconds

from spillway.adapters.cloud.base import (
    CloudError,
    DesiredChanged,
    NotPermitted,
    ProviderUnavailable,
    Throttled,
)
from spillway.adapters.cloud.simulated import ApiFault, ApiFaultKind, Market, PoolSpec, SimulatedProvider


class World:
    """A market with one pool of two running machines, its provider, and a clock to turn."""

    def __init__(self) -> None:
        self.now = NOW
        self.market = Market([PoolSpec(name="p", start_nodes=2)], now=NOW)
        self.provider = SimulatedProvider(self.market, now=lambda: self.now)

    def break_api(self, kind: ApiFaultKind, times: int | None = None, calls: tuple[str, ...] = ()) -> None:
        self.market.break_api("p", ApiFault(kind=kind, times=times, calls=calls), now=self.now)


async def test_a_provider_describes_at_the_time_of_its_clock() -> None:
    world = World()
    world.now += seconds(9)

    state = await world.provider.describe("p")

    assert (state.at, state.desired, len(state.instances)) == (NOW + seconds(9), 2, 2)


@pytest.mark.case("node-and-spot E62")
@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (ApiFaultKind.THROTTLE, Throttled),
        (ApiFaultKind.FAIL, ProviderUnavailable),
        (ApiFaultKind.HANG, ProviderUnavailable),
        (ApiFaultKind.FORBID, NotPermitted),
    ],
)
async def test_a_call_that_is_refused_changes_nothing(kind: ApiFaultKind, error: type[CloudError]) -> None:
    world = World()
    world.break_api(kind, times=1)

    with pytest.raises(error) as refused:
        await world.provider.grow("p", to=4, before=2, token="t")

    assert refused.value.may_have_happened == (error is ProviderUnavailable)
    assert (await world.provider.describe("p")).desired == 2


@pytest.mark.case("node-and-spot E52")
async def test_a_removal_whose_answer_is_lost_has_happened_and_happens_once() -> None:
    world = World()
    first, second = (await world.provider.describe("p")).instances
    gone = {"instance": first.id, "node": first.node, "token": "t"}
    world.break_api(ApiFaultKind.LOSE_ANSWER, times=1, calls=("remove",))

    with pytest.raises(ProviderUnavailable) as lost:
        await world.provider.remove("p", **gone)
    assert lost.value.may_have_happened
    assert (await world.provider.describe("p")).instances == (second,)

    await world.provider.remove("p", **gone)
    await world.provider.remove("p", **{**gone, "token": "another"})
    state = await world.provider.describe("p")
    assert (state.desired, state.instances) == (1, (second,))


@pytest.mark.case("node-and-spot D.6")
async def test_a_stale_answer_is_refused_when_somebody_acts_on_it() -> None:
    world = World()
    world.break_api(ApiFaultKind.STALE)
    await world.provider.grow("p", to=5, before=2, token="a")

    old = await world.provider.describe("p")
    assert (old.desired, old.at) == (2, NOW)
    with pytest.raises(DesiredChanged):
        await world.provider.grow("p", to=4, before=old.desired, token="b")

    world.market.break_api("p", None, now=NOW)
    assert (await world.provider.describe("p")).desired == 5


async def test_a_fault_meets_as_many_calls_as_it_was_told_to() -> None:
    world = World()
    world.break_api(ApiFaultKind.THROTTLE, times=2)

    for _ in range(2):
        with pytest.raises(Throttled) as refused:
            await world.provider.describe("p")
        assert refused.value.retry_after == 2

    assert (await world.provider.describe("p")).desired == 2


async def test_a_fault_of_one_call_leaves_the_others_alone() -> None:
    world = World()
    world.break_api(ApiFaultKind.FAIL, calls=("grow",))

    assert (await world.provider.describe("p")).desired == 2
    with pytest.raises(ProviderUnavailable):
        await world.provider.grow("p", to=3, before=2, token="t")


async def test_revoked_credentials_of_one_pool_leave_the_others_alone() -> None:
    market = Market([PoolSpec(name="p"), PoolSpec(name="q")], now=NOW)
    provider = SimulatedProvider(market, now=lambda: NOW)
    market.break_api("p", ApiFault(kind=ApiFaultKind.FORBID), now=NOW)

    with pytest.raises(NotPermitted):
        await provider.describe("p")
    assert (await provider.describe("q")).desired == 0


async def test_cancelling_goes_through_the_provider() -> None:
    world = World()
    world.market.refuse("p", now=NOW)
    await world.provider.grow("p", to=4, before=2, token="a")
    await world.provider.cancel_unfulfilled("p", to=2, before=4, token="b")

    assert (await world.provider.describe("p")).desired == 2
