"""The collector's beat, on a moved clock."""

import asyncio
from datetime import datetime, timedelta

import pytest
from tests.builders import NOW, make_samples, not_collected

from spillway.app.activity import ActivityCollector
from spillway.core.signal import Collection, NotCollected, SignalReason

pytestmark = pytest.mark.looptime(idle_step=1)


class Answers:
    """A source that gives the answers it was made with, each after a while; then it hangs."""

    def __init__(self, *answers: Collection, seconds: float = 1.0) -> None:
        self.asked_at: list[float] = []
        self._answers = list(answers)
        self._seconds = seconds

    async def collect(self) -> Collection:
        self.asked_at.append(asyncio.get_running_loop().time())
        if not self._answers:
            await asyncio.Event().wait()
        await asyncio.sleep(self._seconds)
        return self._answers.pop(0)


def present() -> datetime:
    return NOW + timedelta(seconds=asyncio.get_running_loop().time())


class Bench:
    """A collector that runs."""

    def __init__(self, source: Answers) -> None:
        self.woken: list[str] = []
        self.collector = ActivityCollector(
            source, interval=timedelta(seconds=15), now=present, wake=self.woken.append
        )
        self.task = asyncio.create_task(self.collector.run())


def twice_good() -> Bench:
    return Bench(Answers(make_samples((), 0.5), make_samples((), 0.6)))


async def test_before_the_first_answer_nothing_is_known() -> None:
    good = twice_good()
    latest = good.collector.latest()

    assert isinstance(latest, NotCollected)
    assert latest.reason is SignalReason.NOT_COLLECTED


async def test_each_answer_counts_and_wakes() -> None:
    good = twice_good()
    await asyncio.sleep(20)

    assert (good.collector.serial, good.woken) == (2, ["collection", "collection"])


async def test_the_beat_does_not_drift_with_the_time_an_answer_takes() -> None:
    source = Answers(make_samples((), 0.5), make_samples((), 0.5), make_samples((), 0.5), seconds=4)
    bench = Bench(source)

    await asyncio.sleep(40)
    bench.task.cancel()

    assert [round(at - source.asked_at[0]) for at in source.asked_at] == [0, 15, 30]


@pytest.mark.case("workload-autoscalers D1")
async def test_a_collector_that_stalls_hands_out_no_old_answer() -> None:
    good = twice_good()
    await asyncio.sleep(20 + 2 * 15 + 11)

    latest = good.collector.latest()
    assert isinstance(latest, NotCollected)
    assert latest.reason is SignalReason.PROMETHEUS_TIMEOUT


async def test_an_outage_keeps_its_beginning() -> None:
    bench = Bench(Answers(make_samples((), 0.5), not_collected(), not_collected()))
    await asyncio.sleep(17)
    first = bench.collector.latest()

    await asyncio.sleep(15)
    bench.task.cancel()

    second = bench.collector.latest()
    assert isinstance(first, NotCollected)
    assert isinstance(second, NotCollected)
    assert (bench.collector.serial, second.since) == (3, first.since)
