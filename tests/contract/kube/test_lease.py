"""When the Lease is held, lost and taken, on a moved clock against recorded answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from spillway.app.lease import Lease, LeaseTimings
from tests.contract.kube.server import Answer, ScriptedApi, body, client_of, echo, hang, refusal

pytestmark = [pytest.mark.looptime, pytest.mark.case("workload-autoscalers D78")]

NOBODY = refusal(404, "NotFound", 'leases "spillway" not found')
TAKEN = refusal(409, "Conflict", "the object has been modified")


class Candidate:
    """A Lease on a clock that can be moved ahead of the loop's, as a suspended process sees it."""

    def __init__(self, api: ScriptedApi) -> None:
        self.history: list[str] = []
        self.api = api
        self.client = client_of(api)
        self._suspended = 0.0
        self.lease = Lease(
            self.client,
            namespace="ns",
            name="spillway",
            identity="me",
            on_gain=lambda: self.history.append("gained"),
            on_lose=lambda: self.history.append("lost"),
            clock=self.now,
            wall=lambda: datetime(2026, 11, 22, 9, 21, 14, 5, tzinfo=UTC),
            chance=lambda: 0.0,
        )

    def now(self) -> float:
        return asyncio.get_running_loop().time() + self._suspended

    def suspend(self, seconds: float) -> None:
        self._suspended += seconds

    @property
    def leads(self) -> bool:
        return self.lease.held_for(self.now())


@asynccontextmanager
async def running(api: ScriptedApi) -> AsyncIterator[Candidate]:
    candidate = Candidate(api)
    task = asyncio.create_task(candidate.lease.run())
    try:
        yield candidate
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await candidate.client.close()


def held_by(
    holder: str, *, renewed: str = "2026-11-22T09:00:00.000000Z", version: int = 7, duration: int = 15
) -> Answer:
    spec = {
        "holderIdentity": holder,
        "leaseDurationSeconds": duration,
        "renewTime": renewed,
        "leaseTransitions": 3,
    }
    meta = {"name": "spillway", "namespace": "ns", "resourceVersion": str(version)}
    return body({"metadata": meta, "spec": spec})


async def test_a_lease_that_nobody_made_is_made_and_held(api: ScriptedApi) -> None:
    api.lists(NOBODY)
    api.writes(echo(1))

    async with running(api) as candidate:
        await asyncio.sleep(0.5)

        assert candidate.history == ["gained"]
        assert candidate.leads
        assert candidate.lease.holder == "me"
        assert api.written[0]["spec"] == {
            "holderIdentity": "me",
            "leaseDurationSeconds": 15,
            "acquireTime": "2026-11-22T09:21:14.000005Z",
            "renewTime": "2026-11-22T09:21:14.000005Z",
            "leaseTransitions": 0,
        }


async def test_it_is_held_for_ten_seconds_from_the_sending_and_not_longer(api: ScriptedApi) -> None:
    api.lists(NOBODY)
    api.writes(echo(1))

    async with running(api) as candidate:
        await asyncio.sleep(0.5)
        sent_at = api.moments[1]

        assert candidate.lease.held_until == pytest.approx(sent_at + 10, abs=0.05)
        assert candidate.lease.held_for(sent_at + 9.9)
        assert not candidate.lease.held_for(sent_at + 10.1)


async def test_a_renewal_is_one_write_every_two_seconds(api: ScriptedApi) -> None:
    api.lists(NOBODY)
    api.writes(*[echo(version) for version in range(1, 20)])

    async with running(api) as candidate:
        await asyncio.sleep(20.5)

        assert len(api.requests) == 12  # one look, one creation, ten renewals
        assert [lease["metadata"].get("resourceVersion") for lease in api.written[:3]] == [None, "1", "2"]
        assert candidate.history == ["gained"]


async def test_a_server_that_hangs_costs_the_lease_when_its_time_is_over(api: ScriptedApi) -> None:
    api.lists(NOBODY)
    api.writes(echo(1), *[hang()] * 10)

    async with running(api) as candidate:
        await asyncio.sleep(9.9)
        before = (candidate.leads, list(candidate.history))
        await asyncio.sleep(1)

        assert before == (True, ["gained"])
        assert not candidate.leads
        assert candidate.history == ["gained", "lost"]
        assert "no whole answer" in str(candidate.lease.problem)


async def test_a_process_that_was_suspended_finds_itself_not_holding_at_once(api: ScriptedApi) -> None:
    api.lists(NOBODY)
    api.writes(echo(1), echo(2))

    async with running(api) as candidate:
        await asyncio.sleep(1)
        candidate.suspend(3600)
        on_waking = candidate.leads
        await asyncio.sleep(2)

        assert not on_waking
        assert candidate.history == ["gained", "lost", "gained"]


async def test_a_suspended_leader_whose_place_was_taken_stays_out(api: ScriptedApi) -> None:
    api.lists(NOBODY, held_by("other"))
    api.writes(echo(1), TAKEN)

    async with running(api) as candidate:
        await asyncio.sleep(1)
        candidate.suspend(3600)
        await asyncio.sleep(2)

        assert candidate.history == ["gained", "lost"]
        assert candidate.lease.holder == "other"


async def test_an_answer_that_comes_after_the_time_is_over_gives_nothing(api: ScriptedApi) -> None:
    late = Late()
    api.lists(NOBODY)
    api.writes(late.answer)

    async with running(api) as candidate:
        await late.arrived.wait()
        candidate.suspend(60)
        late.go.set()
        await asyncio.sleep(0.5)

        assert not candidate.leads
        assert candidate.history == []


async def test_another_holder_is_judged_by_its_silence_and_not_by_its_clock(api: ScriptedApi) -> None:
    api.lists(*[held_by("other", renewed="1999-01-01T00:00:00.000000Z")] * 20)
    api.writes(echo(8))

    async with running(api) as candidate:
        await asyncio.sleep(14.5)
        early = list(api.written)
        await asyncio.sleep(3)

        assert early == []
        assert candidate.history == ["gained"]
        assert api.written[0]["spec"]["leaseTransitions"] == 4
        assert api.written[0]["metadata"]["resourceVersion"] == "7"


async def test_a_holder_that_keeps_renewing_keeps_it(api: ScriptedApi) -> None:
    api.lists(
        *[
            held_by("other", renewed=f"2026-11-22T09:{second:02}:00.000000Z", version=second)
            for second in range(60)
        ]
    )

    async with running(api) as candidate:
        await asyncio.sleep(100)

        assert candidate.history == []
        assert api.written == []


async def test_a_lease_given_back_is_taken_at_once(api: ScriptedApi) -> None:
    api.lists(held_by("", duration=1))
    api.writes(echo(8))

    async with running(api) as candidate:
        await asyncio.sleep(0.5)

        assert candidate.leads


@pytest.mark.parametrize("found", [NOBODY, held_by("")], ids=["creating", "taking"])
async def test_a_faster_candidate_wins(api: ScriptedApi, found: Answer) -> None:
    api.lists(found, held_by("other"))
    api.writes(TAKEN)

    async with running(api) as candidate:
        await asyncio.sleep(1)

        assert candidate.history == []
        assert candidate.lease.problem is None


async def test_a_renewal_whose_answer_was_lost_is_recognised_as_ours(api: ScriptedApi) -> None:
    api.lists(NOBODY, held_by("me", version=2))
    api.writes(echo(1), hang(), TAKEN, echo(3), echo(4), echo(5), echo(6))

    async with running(api) as candidate:
        await asyncio.sleep(12)

        assert candidate.history == ["gained"]
        assert candidate.leads


async def test_a_lease_taken_by_force_is_lost_at_once(api: ScriptedApi) -> None:
    api.lists(NOBODY, held_by("other"))
    api.writes(echo(1), TAKEN)

    async with running(api) as candidate:
        await asyncio.sleep(3)

        assert candidate.history == ["gained", "lost"]


async def test_missing_rights_are_said_and_nothing_is_held(api: ScriptedApi) -> None:
    api.lists(*[refusal(403, "Forbidden", "leases is forbidden")] * 10)

    async with running(api) as candidate:
        await asyncio.sleep(5)

        assert "leases is forbidden" in str(candidate.lease.problem)
        assert candidate.history == []


async def test_ending_loses_it_and_release_gives_it_back(api: ScriptedApi) -> None:
    api.lists(NOBODY, held_by("me", version=2))
    api.writes(echo(1), echo(3))
    candidate = Candidate(api)
    task = asyncio.create_task(candidate.lease.run())
    await asyncio.sleep(1)

    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await candidate.lease.release()
    await candidate.client.close()

    assert candidate.history == ["gained", "lost"]
    assert api.written[1]["spec"]["holderIdentity"] == ""
    assert api.written[1]["metadata"]["resourceVersion"] == "2"


async def test_release_leaves_another_holders_lease_alone(api: ScriptedApi) -> None:
    api.lists(held_by("other"))
    candidate = Candidate(api)

    await candidate.lease.release()
    await candidate.client.close()

    assert api.written == []


async def test_release_survives_a_server_that_is_away(api: ScriptedApi) -> None:
    api.lists(refusal(503, "ServiceUnavailable"))
    candidate = Candidate(api)

    await candidate.lease.release()
    await candidate.client.close()

    assert api.written == []


@pytest.mark.parametrize(("retry", "renew", "duration"), [(2, 2, 15), (2, 15, 15), (0, 10, 15)])
async def test_timings_that_leave_no_margin_are_refused(retry: float, renew: float, duration: float) -> None:
    with pytest.raises(ValueError, match="lease timings"):
        LeaseTimings(retry=retry, renew_deadline=renew, duration=duration)


class Late:
    """An echo that waits until the test lets it go."""

    def __init__(self) -> None:
        self.arrived = asyncio.Event()
        self.go = asyncio.Event()

    async def answer(self, request: Any) -> Any:  # noqa: ANN401
        self.arrived.set()
        await self.go.wait()
        return await echo(1)(request)
