"""What others do, as policies of the simulator: each rule as its own documentation states it, at its default settings.

A peer is a *scaler*, which says how many replicas it wants, and a *placement*, which says where. All run on one replica a machine.
Where the world cannot show what really happens, the peer gets the better of it, and the class says so.

Sources: Kubernetes, "Horizontal Pod Autoscaling" (algorithm details, default behavior); cluster-autoscaler FAQ (10 s loop, 10 min
unneeded); KEDA, "Scaling Deployments" and the scalers' pages; Knative, "Additional autoscaling configuration for KPA"; SkyServe,
"Using Spot Instances for Serving", and SpotHedge (arXiv 2411.01438 §4; node-and-spot 1.9).
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from spillway.sim.traces import Demand
from spillway.sim.world import ON_DEMAND, Peer, Scenario, Seen, whole

HPA_SYNC_SECONDS: Final = 15.0
HPA_TOLERANCE: Final = 0.1
HPA_DOWN_SECONDS: Final = 300.0
CA_UNNEEDED_SECONDS: Final = 600.0
KEDA_POLL_SECONDS: Final = 30.0
KEDA_COOLDOWN_SECONDS: Final = 300.0
KPA_STABLE_SECONDS: Final = 60.0
KPA_PANIC_SECONDS: Final = 6.0
KPA_PANIC_RATIO: Final = 2.0
KPA_MOST_UP: Final = 1000
KPA_MOST_DOWN: Final = 2
TARGET: Final = (
    0.7  # of a replica: KPA's default, and given to all peers whose documentation leaves it to the user
)
DAY_MINUTES: Final = 24 * 60
SWEEP_TARGETS: Final = (0.5, 0.6, 0.7, 0.8, 0.9)
SWEEP_EXTRA: Final = range(7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pods:
    """What a scaler is told: `replicas` it asked for last, of which some are not `ready`, or more are; `load` is all that runs or
    waits, in replicas.
    """

    seconds: float
    replicas: int
    ready: int
    utilization: float
    load: float

    @property
    def unready(self) -> int:
        """Pods that have no machine that serves yet."""
        return max(0, self.replicas - self.ready)


class Scaler(Protocol):
    """Says how many replicas it wants; it keeps its own periods."""

    def replicas(self, pods: Pods) -> int:
        """Return replicas wanted now."""


class Placement(Protocol):
    """Says on which machines replicas stand."""

    def pods(self, seen: Seen, replicas: int) -> Pods:
        """Return what the scaler sees while it wants this many *replicas*."""

    def place(self, seen: Seen, replicas: int) -> Mapping[str, int]:
        """Return machines wanted by pool."""


class ScaledPeer:
    """A scaler with a placement."""

    def __init__(self, name: str, scaler: Scaler, placement: Placement) -> None:
        self.name = name
        self._scaler = scaler
        self._placement = placement
        self._replicas: int | None = None

    def decide(self, seen: Seen) -> Mapping[str, int]:
        """Return machines wanted by pool; the first pass begins with what is there."""
        before = max(1, seen.total) if self._replicas is None else self._replicas
        self._replicas = self._scaler.replicas(self._placement.pods(seen, before))
        return self._placement.place(seen, self._replicas)


class WindowMax:
    """The highest of what was noted in the last so many seconds, both ends included."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._falling: deque[tuple[float, int]] = deque()

    def note(self, at: float, value: int) -> int:
        """Take *value* in and return the highest."""
        while self._falling and self._falling[-1][1] <= value:
            self._falling.pop()
        self._falling.append((at, value))
        while self._falling[0][0] < at - self._seconds:
            self._falling.popleft()
        return self._falling[0][1]


class Clock:
    """Comes due every so many seconds, from the first look on."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = 0.0

    def is_due(self, at: float) -> bool:
        """Return whether a period has begun since the last time that this was true."""
        if at < self._next:
            return False
        self._next += self._seconds * (1 + (at - self._next) // self._seconds)
        return True


# Scalers


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """Always the same number: what a deployment without an autoscaler does."""

    count: int

    def replicas(self, pods: Pods) -> int:  # noqa: ARG002  it looks at nothing: that is the policy
        """Return it."""
        return self.count


def hpa_desired(pods: Pods, target: float) -> int:
    """Return what HPA computes from mean *utilization* of ready pods; without a ready pod there is no metric and nothing changes.

    Pods that are not ready count as idle when it would grow, and growth they make needless is left out.
    """
    # 3 pods at 90 % with target 60 %: ceil(3 * 90 / 60) = 5
    if not pods.ready:
        return pods.replicas
    ratio = pods.utilization / target
    counted = pods.ready
    if ratio > 1 and pods.unready:
        counted = pods.replicas
        ratio = max(1.0, ratio * pods.ready / counted)
    if abs(ratio - 1) <= HPA_TOLERANCE + 1e-9:
        return pods.replicas
    return whole(ratio * counted)


class HpaBehavior:
    """HPA's default behavior: up at once by 100 % or 4 pods per 15 s, down to the highest recommendation of 300 s; at least one."""

    def __init__(self) -> None:
        self._recent = WindowMax(HPA_DOWN_SECONDS)

    def settle(self, at: float, *, current: int, recommended: int) -> int:
        """Return replicas after the limits; called once every 15 s, so that one step is one period of its policies."""
        highest = self._recent.note(at, max(1, recommended))
        if recommended > current:
            return min(recommended, max(2 * current, current + 4))
        return min(current, highest)


class Hpa:
    """HPA on mean GPU utilization, synced every 15 s."""

    def __init__(self, target: float) -> None:
        self._target = target
        self._sync = Clock(HPA_SYNC_SECONDS)
        self._behavior = HpaBehavior()

    def replicas(self, pods: Pods) -> int:
        """Return replicas wanted now."""
        if not self._sync.is_due(pods.seconds):
            return pods.replicas
        recommended = hpa_desired(pods, self._target)
        return self._behavior.settle(pods.seconds, current=pods.replicas, recommended=recommended)


def keda_desired(*, load: float, replicas: int, target: float) -> int:
    """Return what KEDA's HPA makes of an `AverageValue` metric: load over target, within tolerance the replicas there are."""
    # SQS page: 30 messages with queueLength 10: 3 pods
    if replicas and abs(load / (target * replicas) - 1) <= HPA_TOLERANCE + 1e-9:
        return replicas
    return whole(load / target)


class KedaQueue:
    """KEDA on what runs and waits. It polls every 30 s to wake from zero and falls to zero 300 s after the last work.

    Between one and many its HPA reads the metric every 15 s.
    """

    def __init__(self, target: float = TARGET) -> None:
        self._target = target
        self._poll, self._sync = Clock(KEDA_POLL_SECONDS), Clock(HPA_SYNC_SECONDS)
        self._behavior = HpaBehavior()
        self._active_at = 0.0

    def replicas(self, pods: Pods) -> int:
        """Return replicas wanted now."""
        current = pods.replicas
        if self._poll.is_due(pods.seconds):
            if pods.load > 0:
                self._active_at = pods.seconds
                current = max(1, current)
            elif pods.seconds - self._active_at >= KEDA_COOLDOWN_SECONDS:
                return 0
        if not current or not self._sync.is_due(pods.seconds):
            return current
        recommended = keda_desired(load=pods.load, replicas=current, target=self._target)
        return self._behavior.settle(pods.seconds, current=current, recommended=recommended)


class Kpa:
    """Knative's autoscaler on concurrency, in replicas' worth of work; minScale 1.

    Its panic window of 6 s is shorter than a step, so that it is the newest sample; its tick of 2 s is the step.
    """

    def __init__(self, target: float = TARGET) -> None:
        self._target = target
        self._samples: deque[tuple[float, float]] = deque()
        self._panic_at: float | None = None
        self._panic_most = 0

    def replicas(self, pods: Pods) -> int:
        """Return replicas wanted now."""
        now, ready = pods.seconds, max(1, pods.ready)
        self._samples.append((now, pods.load))
        while self._samples[0][0] <= now - KPA_STABLE_SECONDS:
            self._samples.popleft()
        stable = self._bounded(self._mean(now - KPA_STABLE_SECONDS), ready)
        panic = self._bounded(self._mean(now - KPA_PANIC_SECONDS), ready)
        self._judge(now, is_over=panic / ready >= KPA_PANIC_RATIO)
        if self._panic_at is None:
            return max(1, stable)
        self._panic_most = max(self._panic_most, stable, panic, pods.replicas)
        return self._panic_most

    def _judge(self, now: float, *, is_over: bool) -> None:
        if is_over:
            self._panic_at = now
        elif self._panic_at is not None and now - self._panic_at > KPA_STABLE_SECONDS:
            self._panic_at, self._panic_most = None, 0

    def _mean(self, after: float) -> float:
        found = [load for at, load in self._samples if at > after]
        return sum(found) / len(found)

    def _bounded(self, load: float, ready: int) -> int:
        # 100 in flight with containerConcurrency 10 at 70 %: ceil(100 / 7) = 15
        return min(KPA_MOST_UP * ready, max(ready // KPA_MOST_DOWN, whole(load / self._target)))


class DayAhead:
    """Yesterday's same minutes, as far ahead as a start takes, at the common target; on the first day HPA."""

    def __init__(self, *, ahead_seconds: float, target: float = TARGET) -> None:
        self._ahead = int(-(-ahead_seconds // 60))
        self._target = target
        self._first_day = Hpa(target)
        self._minutes: list[float] = []

    def replicas(self, pods: Pods) -> int:
        """Return replicas wanted now."""
        minute = int(pods.seconds // 60)
        if minute == len(self._minutes):
            self._minutes.append(pods.load)
        self._minutes[minute] = max(self._minutes[minute], pods.load)
        if minute < DAY_MINUTES:
            return self._first_day.replicas(pods)
        start = minute - DAY_MINUTES
        return max(1, whole(max(self._minutes[start : start + self._ahead + 1]) / self._target))


# Placements


class Nodes:
    """On-demand machines that cluster-autoscaler adds at once and removes after ten minutes unneeded.

    The world has no paid machine that idles: one that no pod needs goes on serving until it is removed, which is kind to the
    peer's missed load and right for its cost. Its scaler sees only as many ready as there are pods. The pause after a scale-up is
    left out, which is kind to its cost.
    """

    def __init__(self) -> None:
        self._needed = WindowMax(CA_UNNEEDED_SECONDS)

    def pods(self, seen: Seen, replicas: int) -> Pods:
        """Return what the scaler sees."""
        ready = min(seen.total_ready, replicas)
        utilization = min(1.0, seen.utilization * seen.total_ready / ready) if ready else seen.utilization
        return Pods(
            seconds=seen.seconds,
            replicas=replicas,
            ready=ready,
            utilization=utilization,
            load=seen.running + seen.waiting,
        )

    def place(self, seen: Seen, replicas: int) -> Mapping[str, int]:
        """Return machines wanted by pool."""
        return {ON_DEMAND: self._needed.note(seen.seconds, replicas)}


class Zones:
    """SkyServe's placer: spread over zones not marked; a loss or a refusal marks a zone, fewer than two unmarked clear all.

    A zone that grants is unmarked. Notices are not looked at; what they announce is seen when it happens.
    """

    def __init__(self, zones: tuple[str, ...]) -> None:
        self._wanted = dict.fromkeys(zones, 0)
        self._before = dict.fromkeys(zones, 0)
        self._marked: set[str] = set()

    def place(self, seen: Seen, count: int) -> dict[str, int]:
        """Return machines wanted by zone, *count* in all; none where there is no zone."""
        present = {zone: seen.ready.get(zone, 0) + seen.starting.get(zone, 0) for zone in self._wanted}
        for zone, held in present.items():
            self._learn(zone, held, was_refused=zone in seen.refused)
        self._before = present
        if self._wanted:
            self._grow(count)
            self._shrink(count, seen)
        return dict(self._wanted)

    def _learn(self, zone: str, held: int, *, was_refused: bool) -> None:
        if was_refused or held < min(self._before[zone], self._wanted[zone]):
            self._wanted[zone] = min(self._wanted[zone], held)
            self._marked.add(zone)
            if len(self._wanted) - len(self._marked) < 2:
                self._marked.clear()
        elif held > self._before[zone]:
            self._marked.discard(zone)

    def _grow(self, count: int) -> None:
        free = [zone for zone in self._wanted if zone not in self._marked]
        for _ in range(count - sum(self._wanted.values())):
            self._wanted[min(free, key=lambda zone: (self._wanted[zone], zone))] += 1

    def _shrink(self, count: int, seen: Seen) -> None:
        def cheapest(zone: str) -> tuple[bool, bool, int]:
            asked = self._wanted[zone]
            serving = seen.ready.get(zone, 0)
            return asked > self._before[zone], asked > serving, asked

        for _ in range(sum(self._wanted.values()) - count):
            self._wanted[max((zone for zone, asked in self._wanted.items() if asked), key=cheapest)] -= 1


def on_demand_beside(*, target: int, extra: int, ready_spot: int) -> int:
    """Return SpotHedge's on-demand replicas: what of target and extra is not ready on spot, at most the target."""
    # target 2, nothing ready: 2; one ready: 1; both ready: 0 (the example of SkyServe's spot page)
    return max(0, min(target, target + extra - ready_spot))


class OnSpot:
    """Spot by zone beside on-demand machines, released at once: no cluster-autoscaler stands between."""

    def __init__(self, zones: tuple[str, ...]) -> None:
        self._zones = Zones(zones)

    def pods(self, seen: Seen, replicas: int) -> Pods:
        """Return what the scaler sees: everything that serves, however many it asked for."""
        return Pods(
            seconds=seen.seconds,
            replicas=replicas,
            ready=seen.total_ready,
            utilization=seen.utilization,
            load=seen.running + seen.waiting,
        )

    def place(self, seen: Seen, replicas: int) -> Mapping[str, int]:
        """Return machines wanted by pool."""
        return self._zones.place(seen, replicas)


class Mixed(OnSpot):
    """A group of mixed instances with a fixed share on demand, rounded up (EC2: OnDemandPercentageAboveBaseCapacity)."""

    def __init__(self, zones: tuple[str, ...], *, on_demand_percent: int) -> None:
        super().__init__(zones)
        self._percent = on_demand_percent

    def place(self, seen: Seen, replicas: int) -> Mapping[str, int]:
        """Return machines wanted by pool."""
        on_demand = -(-replicas * self._percent // 100)
        return {ON_DEMAND: on_demand, **self._zones.place(seen, replicas - on_demand)}


class Hedged(OnSpot):
    """SpotHedge: more spot than wanted, and on demand for what of it is not ready."""

    def __init__(self, zones: tuple[str, ...], *, extra: int) -> None:
        super().__init__(zones)
        self._extra = extra

    def place(self, seen: Seen, replicas: int) -> Mapping[str, int]:
        """Return machines wanted by pool."""
        ready = seen.total_ready - seen.ready.get(ON_DEMAND, 0)
        beside = on_demand_beside(target=replicas, extra=self._extra, ready_spot=ready)
        return {ON_DEMAND: beside, **self._zones.place(seen, replicas + self._extra)}


# The list

Makers = Mapping[str, Callable[[], Peer]]


def peers(scenario: Scenario) -> Makers:
    """Return every peer by name, fresh at each call. Those that live on spot have nothing where the scenario has none."""
    zones = scenario.zones
    cold = scenario.terms.cold_start.total_seconds()
    makers: dict[str, Callable[[], Peer]] = {
        "static-peak": partial(_fixed, "static-peak", scenario.peak),
        "static-p95": partial(_fixed, "static-p95", whole(percentile(scenario.demand, 0.95))),
    }
    for target in (0.5, 0.7, 0.8):
        makers[f"hpa-{target}"] = partial(_hpa, target)
    makers["keda-queue"] = lambda: ScaledPeer("keda-queue", KedaQueue(), Nodes())
    makers["knative-kpa"] = lambda: ScaledPeer("knative-kpa", Kpa(), Nodes())
    makers["spot-only"] = lambda: ScaledPeer("spot-only", Hpa(TARGET), OnSpot(zones))
    makers["mix-10"] = lambda: ScaledPeer("mix-10", Hpa(TARGET), Mixed(zones, on_demand_percent=10))
    for target, extra in ((0.8, 1), (0.7, 2)):
        makers[f"spothedge-{target}-{extra}"] = partial(_spothedge, target, extra, zones)
    makers["day-ahead"] = lambda: ScaledPeer("day-ahead", DayAhead(ahead_seconds=cold), Nodes())
    return makers


def spothedge_sweep(scenario: Scenario) -> Makers:
    """Return SpotHedge at every target from 0.5 to 0.9 with 0 to 6 extra, to choose the best from in hindsight."""
    return {
        f"spothedge-{target}-{extra}": partial(_spothedge, target, extra, scenario.zones)
        for target in SWEEP_TARGETS
        for extra in SWEEP_EXTRA
    }


def percentile(demand: Demand, share: float) -> float:
    """Return the least load that is not exceeded for this *share* of the time."""
    ends = (*demand.times[1:], demand.seconds)
    spans = sorted(
        (value, end - at) for at, end, value in zip(demand.times, ends, demand.values, strict=True)
    )
    passed = 0.0
    for value, span in spans:
        passed += span
        if passed >= share * demand.seconds - 1e-6:
            return value
    return spans[-1][0]


def _fixed(name: str, count: int) -> Peer:
    return ScaledPeer(name, Fixed(count=max(1, count)), Nodes())


def _hpa(target: float) -> Peer:
    return ScaledPeer(f"hpa-{target}", Hpa(target), Nodes())


def _spothedge(target: float, extra: int, zones: tuple[str, ...]) -> Peer:
    return ScaledPeer(f"spothedge-{target}-{extra}", Hpa(target), Hedged(zones, extra=extra))
