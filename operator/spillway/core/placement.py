"""How a count is laid out: a baseline on demand, the rest on spot with some to spare, and on-demand stand-ins where spot fails.

Per workload, each pass (node-and-spot C.4): `need` is what lies above the baseline. Spot gets as many more as are worth having
(`core.spare`). Burst replicas that are refused or gone, with no spot to take their place, are covered on demand at once; so are
those that are only lost, where waiting for their replacements would miss too much. What covers them is a ratchet that is let go
step by step, once spot is Ready. See docs/design/0007-split.md and 0011-spare.md.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from spillway.core.burst import BurstPods, Stand
from spillway.core.memory import Peaks, SplitMemory
from spillway.core.model import (
    ApplyTwin,
    Deployment,
    FallbackPolicy,
    FallbackRules,
    Mode,
    Operation,
    OperationState,
    SetReplicas,
    StoredSplit,
    Workload,
)
from spillway.core.plan import FallbackReason, Finding, SplitView
from spillway.core.spare import (
    Outlook,
    burst_worth_having,
    in_words,
    noted,
    stand_ins_worth_having,
    with_floating,
)

RETURN_SHARE = (
    10  # percent of the stand-ins that go in one step, at least one, where nothing is known of the load
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """What is known of the load and of spot. `coming` is what is Ready or on its way by pool, `ready` only what is Ready.

    `may_replace` says that a pool takes what is lost elsewhere.
    """

    coming: Outlook
    ready: Outlook
    cold_start: timedelta
    may_replace: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """All that the layout of one workload looks at.

    `count` stands now and `wanted` is decided. `can_burst` says whether replicas may be on spot at all; where not, what is there
    moves back. `good_source` counts the source's Ready replicas on nodes that stay. `rolling` is a rollout of either. `prospect` is None
    while nothing is known of the load: then nothing is added or let go, and all that is lost is covered at once. `spare_room` is how
    many replicas beyond the count maxReplicas and the guardrails allow, whatever is known.
    """

    workload: Workload
    source: Deployment
    twin: Deployment | None
    memory: SplitMemory
    burst: BurstPods
    wanted: int
    can_burst: bool
    good_source: int
    rolling: bool
    now: datetime
    prospect: Prospect | None = None
    spare_room: int = 0

    @property
    def rules(self) -> FallbackRules:
        """The timers of fallback and return."""
        return self.workload.capacity.fallback

    @property
    def burst_now(self) -> int:
        """What the twin is set to."""
        return self.twin.replicas if self.twin is not None else 0

    def baseline_of(self, count: int) -> int:
        """Return how many of *count* replicas belong on demand.

        In ScaleUpOnly all that stands there does: a move to spot would end with a reduction, so none is begun.
        """
        if not self.can_burst:
            return count
        baseline = self.workload.capacity.baseline
        if self.workload.mode is Mode.SCALE_UP_ONLY:
            baseline = max(baseline, self.source.replicas)
        return min(count, baseline)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What source and twin are to be set to, and why some of it stands in for spot."""

    view: SplitView
    memory: SplitMemory
    fallback: Finding[FallbackReason]
    falls_back: bool


def standing(
    memory: SplitMemory | None,
    *,
    stored: StoredSplit | None,
    source: Deployment,
    twin: Deployment | None,
    baseline: int,
    operations: Iterable[Operation],
    now: datetime,
) -> tuple[SplitMemory, bool]:
    """Return what stands now, and whether somebody else changed the source's count.

    Overlapping Deployments cannot tell their count, so it is a latch, moved by writes of ours that landed and by another's hand
    on the source. Without memory it is what status says, but no less than surely stands and no more than exists: too high a
    count costs money until a window has passed, too low a one costs load.
    """
    if memory is None:
        return _first(stored, source=source, twin=twin, baseline=baseline, now=now), False
    operations = tuple(operations)
    for operation in operations:
        memory = _landed(memory, operation, source=source, now=now)
    change = source.replicas - memory.source
    foreign = change != 0 and not is_own_change(source, operations)
    count = max(0, memory.count + change) if foreign else memory.count
    return replace(memory, count=count, source=source.replicas), foreign


def _first(
    stored: StoredSplit | None,
    *,
    source: Deployment,
    twin: Deployment | None,
    baseline: int,
    now: datetime,
) -> SplitMemory:
    burst = twin.replicas if twin is not None else 0
    # Source 3 (one of them a stand-in), twin 8 (one refused), baseline 2: 10 surely stand, 11 exist; status said 10.
    spare = stored.spare if stored is not None else 0
    surely = min(source.replicas, baseline) + max(0, burst - spare) if burst else source.replicas
    count = min(max(surely, stored.count if stored is not None else 0), source.replicas + burst)
    return SplitMemory(
        count=count,
        source=source.replicas,
        fallback_since=stored.fallback_since if stored is not None else None,
        fallback_cause=stored.fallback_cause if stored is not None else "",
        spares=((now, spare),) if spare else (),  # they stay until the load is known again
    )


def _landed(memory: SplitMemory, operation: Operation, *, source: Deployment, now: datetime) -> SplitMemory:
    act = operation.act
    if not isinstance(act, SetReplicas | ApplyTwin):
        return memory
    if isinstance(act, ApplyTwin) and not operation.is_under_way:
        memory = replace(memory, refused=operation.error)
    if operation.state is not OperationState.LANDED or act.count is None:
        return memory
    if isinstance(act, SetReplicas) and act.target == source.key and act.to < act.before:
        memory = replace(memory, returned_at=now)
    return replace(memory, count=act.count)


def is_own_change(source: Deployment, operations: Iterable[Operation]) -> bool:
    """Whether a write of ours explains what *source* is set to."""
    return any(
        isinstance(operation.act, SetReplicas)
        and operation.act.target == source.key
        and operation.act.to == source.replicas
        and operation.state is not OperationState.FAILED
        for operation in operations
    )


def lay_out(s: Setting) -> Layout:
    """Return what the wanted count comes to on source and twin, with the numbers that led there.

    The baseline never goes below min(wanted, baselineReplicas), whatever happens on spot.
    """
    baseline = s.baseline_of(s.wanted)
    need = s.wanted - baseline
    spares = _spares(s, baseline=baseline, need=need)
    spare = min(spares[0][1], s.spare_room) if spares and need else 0
    absent = max(0, need + spare - s.burst.total)
    not_created = absent if s.twin is not None and s.twin.failure is not None else 0
    hopeless = s.burst.count(Stand.BROKEN) + not_created
    # A twin that may not be made leaves nobody to wait for; on demand the same pods are the source's own.
    never = absent if s.twin is None and s.memory.refused else 0
    on_the_way = s.burst.count(Stand.BOOTING) + absent - not_created - never
    good = s.burst.count(Stand.GOOD)
    # need 8, 5 good, 1 booting, 0 broken: 8 - 5 - 1 = 2 are refused or doomed and covered on demand
    uncovered = max(0, need - good - on_the_way - hopeless)
    if s.prospect is not None:
        uncovered = min(
            uncovered, _worth_covering(s, s.prospect, baseline=baseline, need=need, absent=absent)
        )
    standing_in = max(0, s.source.replicas - s.baseline_of(s.memory.count))
    fallback = _fallback(s, need=need, uncovered=uncovered, held=standing_in)
    memory = _remember(s, fallback=fallback, held=standing_in, uncovered=uncovered, spares=spares)
    view = SplitView(
        baseline=baseline + fallback,
        burst=_burst_target(s, needed=need + spare),
        fallback=fallback,
        spare=spare,
        spare_why=_why_spare(s) if spare else "",
        baseline_now=s.source.replicas,
        burst_now=s.burst_now,
        good_baseline=s.good_source,
        good_burst=good,
        booting=on_the_way,
        refused=s.burst.count(Stand.REFUSED),
        doomed=s.burst.count(Stand.DOOMED),
        broken=hopeless,
        fallback_since=memory.fallback_since if fallback else None,
        twin=s.twin.key.name if s.twin is not None else "",
    )
    finding = _finding(s, view, memory, need=need, uncovered=uncovered)
    return Layout(view=view, memory=memory, fallback=finding, falls_back=fallback > 0)


def _spares(s: Setting, *, baseline: int, need: int) -> Peaks:
    """What is worth having on spot beyond *need*, as far back as it is held; as it was while nothing is known."""
    if s.workload.capacity.missed_load is None:
        return ()
    prospect = s.prospect
    if prospect is None:
        return s.memory.spares
    most = need + s.spare_room if need else 0
    # As if no stand-in were there: were they counted, nothing would ever take their place.
    worth = burst_worth_having(prospect.coming, on_demand=baseline, need=need, most=most)
    return noted(s.memory.spares, worth - need, cold_start=prospect.cold_start, now=s.now)


def _why_spare(s: Setting) -> str:
    if s.prospect is None:
        return "as it was while the load was last known"
    return in_words(s.prospect.coming, cold_start=s.prospect.cold_start)


def _worth_covering(s: Setting, prospect: Prospect, *, baseline: int, need: int, absent: int) -> int:
    """How many stand-ins are worth their price. What is told of its end is as good as on its way where another pool takes it."""
    replaced = s.burst.count(Stand.DOOMED) if prospect.may_replace else 0
    coming = with_floating(prospect.coming, absent + replaced)
    return stand_ins_worth_having(coming, on_demand=baseline, most=need)


def _fallback(s: Setting, *, need: int, uncovered: int, held: int) -> int:
    """Raised at once to what is uncovered; let go because the count fell, or by the rules of return."""
    if s.rules.policy is FallbackPolicy.WAIT:
        uncovered = 0
    fell = max(0, s.memory.count - s.wanted)
    kept = max(0, held - fell - _return_step(s, need=need, held=held))
    return min(need, max(kept, uncovered))


def _return_step(s: Setting, *, need: int, held: int) -> int:
    """How many stand-ins may go now: none before spot is proven, none while it would leave fewer Ready than are wanted."""
    if not held or s.rolling or return_opens_at(s) > s.now:
        return 0
    if s.prospect is None:
        replaced = held - max(0, need - s.burst.stable)
        beyond = s.good_source + s.burst.count(Stand.GOOD) - s.wanted
        return max(0, min(max(1, held * RETURN_SHARE // 100), replaced, beyond))
    step, ready = held, s.prospect.ready
    while step and ready.worth(s.good_source - step + ready.spot) >= ready.return_worth:
        step -= 1
    return step


def return_opens_at(s: Setting) -> datetime:
    """Return when the timers let the next stand-in go: its least residency, and a pause since the last one went."""
    times = [s.now]
    if s.memory.fallback_since is not None:
        times.append(s.memory.fallback_since + s.rules.min_residency)
    if s.memory.returned_at is not None:
        times.append(s.memory.returned_at + s.rules.return_stable)
    return max(times)


def _burst_target(s: Setting, *, needed: int) -> int:
    """Lower the twin only as far as replicas Ready on demand carry what is wanted."""
    return max(needed, min(s.burst_now, s.wanted - s.good_source))


def _remember(s: Setting, *, fallback: int, held: int, uncovered: int, spares: Peaks) -> SplitMemory:
    memory = s.memory if spares == s.memory.spares else replace(s.memory, spares=spares)
    if fallback > held:
        cause = _cause(s).value if uncovered else memory.fallback_cause
        return replace(memory, fallback_since=s.now, fallback_cause=cause)
    if fallback == 0 and held == 0 and memory.fallback_since is not None:
        return replace(memory, fallback_since=None, fallback_cause="", returned_at=None)
    return memory


def _cause(s: Setting) -> FallbackReason:
    """Why spot does not cover the need now: an interruption before a refusal, the most frequent refusal first."""
    if s.burst.count(Stand.DOOMED):
        return FallbackReason.INTERRUPTED
    if s.twin is None and s.memory.refused:
        return FallbackReason.TWIN_REFUSED
    refusals = s.burst.refusals
    return max(refusals, key=lambda why: (refusals[why], why), default=FallbackReason.SPOT_REFUSED)


def _finding(
    s: Setting, view: SplitView, memory: SplitMemory, *, need: int, uncovered: int
) -> Finding[FallbackReason]:
    if view.fallback:
        return _standing_in(s, view, memory, need=need, uncovered=uncovered)
    if view.broken:
        message = (
            f"{view.broken} of {need} burst replicas do not come up or are refused by the cluster; on demand they would fare the "
            "same, so none stands in. Look at the pods of the burst Deployment"
        )
        return Finding(reason=FallbackReason.BURST_BROKEN, message=message)
    if uncovered and s.rules.policy is FallbackPolicy.WAIT:
        message = f"{uncovered} of {need} burst replicas have no spot node and wait for one, as fallback.policy Wait says"
        return Finding(reason=FallbackReason.WAITING, message=message)
    if view.booting:
        message = "What is above the baseline is on spot or on its way there"
        return Finding(reason=FallbackReason.NOT_NEEDED, message=message)
    message = "Spot carries what is above the baseline" if need else "Nothing is wanted on spot"
    return Finding(reason=FallbackReason.NOT_NEEDED, message=message)


def _standing_in(
    s: Setting, view: SplitView, memory: SplitMemory, *, need: int, uncovered: int
) -> Finding[FallbackReason]:
    told = f"{view.fallback} of {need} replicas above the baseline run on demand"
    if not uncovered and s.burst.stable > need - view.fallback:
        when = return_opens_at(s)
        wait = f"; the next goes at {when:%H:%M:%S} UTC at the earliest" if when > s.now else ""
        message = f"{told}; spot is back and carries {s.burst.stable}, so they go one step at a time{wait}"
        return Finding(reason=FallbackReason.RETURNING, message=message)
    try:
        reason = FallbackReason(memory.fallback_cause)
    except ValueError:  # none stored: replicas that stood above the baseline before there was a burst
        reason = FallbackReason.RETURNING
    return Finding(reason=reason, message=f"{told}: {_WHY[reason]}. {_next(s)}")


_WHY = {
    FallbackReason.NOT_NEEDED: "nothing is wanted on spot",
    FallbackReason.SPOT_REFUSED: "the spot pools refused nodes",
    FallbackReason.POOL_MAX: "the spot pools are at maxNodes, or Spillway may not size them",
    FallbackReason.BREAKER_OPEN: "too many spot nodes were taken back lately, so spot is not asked for a while",
    FallbackReason.PACKING_REFUSED: "the scheduler refused burst pods on spot nodes that have room for them",
    FallbackReason.TWIN_REFUSED: "the burst Deployment could not be made",
    FallbackReason.PROVISION_TIMEOUT: "spot gave no node within fallback.provisionTimeoutSeconds",
    FallbackReason.BOOT_DEADLINE: "a spot node did not come up within fallback.bootDeadlineSeconds",
    FallbackReason.INTERRUPTED: "spot nodes are being taken back",
    FallbackReason.RETURNING: "they stay until spot has carried them for a while",
    FallbackReason.WAITING: "they wait for spot",
    FallbackReason.BURST_BROKEN: "burst pods do not come up",
}


def _next(s: Setting) -> str:
    stable = _seconds(s.rules.return_stable)
    return f"They go one step at a time once spot has been Ready for {stable} s"


def _seconds(duration: timedelta) -> int:
    return int(duration.total_seconds())
