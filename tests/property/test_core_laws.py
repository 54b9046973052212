"""What holds for every decision, whatever is seen and remembered."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import (
    NOW,
    make_act,
    make_deployment,
    make_hpa,
    make_pod,
    make_samples,
    make_snapshot,
    make_workload,
    make_workload_memory,
    not_collected,
    seconds,
)
from tests.timeline import Timeline

from spillway.core import engine
from spillway.core.confirm import confirm
from spillway.core.memory import (
    Blindness,
    BreakerMemory,
    DownWindow,
    Elasticity,
    Exhausted,
    Memory,
    Streaks,
    ZeroWatch,
)
from spillway.core.model import (
    Deployment,
    Guardrails,
    Mode,
    Operation,
    OperationState,
    Pod,
    PodPhase,
    Snapshot,
    Workload,
)
from spillway.core.plan import Decision
from spillway.core.signal import Collected, Collection, Liveness, SignalState

laws = settings(max_examples=60, derandomize=True, deadline=None, database=None)
few = settings(laws, max_examples=25)

BLIND = {SignalState.UNKNOWN, SignalState.LOW, SignalState.DEGRADED, SignalState.SUSPECT}
SHARES = st.sampled_from([0.0, 0.05, 0.3, 0.36, 0.4, 0.6, 0.72, 0.8, 0.8000000001, 0.9, 0.95, 1.0])
AGES = st.sampled_from([0, 5, 20, 59, 60, 61, 150, 299, 300, 301, 900, 901, 7200])
COUNTS = st.integers(0, 12)


def ago(draw: st.DrawFn) -> datetime:
    return NOW - seconds(draw(AGES))


def perhaps(draw: st.DrawFn) -> datetime | None:
    return ago(draw) if draw(st.booleans()) else None


def mostly(draw: st.DrawFn, usual: object, *unusual: object) -> Any:  # noqa: ANN401 -- one of the given
    """Take the usual value four times in five, so that most worlds are whole and each is odd in a few ways."""
    return draw(st.sampled_from(unusual)) if draw(st.integers(0, 4)) == 4 else usual


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    return make_workload(
        min_replicas=draw(st.integers(1, 5)),
        max_replicas=mostly(draw, 12, 1, 3, 6),
        replicas=mostly(draw, None, 0, 2, 5, 14),
        mode=mostly(draw, Mode.ENFORCE, Mode.SCALE_UP_ONLY, Mode.OBSERVE),
        paused=mostly(draw, False, False, False, True),
        low=draw(st.sampled_from([0.4, None, 0.7])),
        blind_replicas=draw(st.none() | st.integers(1, 14)),
        unresolved=mostly(draw, None, "GpuPolicy gold does not exist"),
        max_gpus=mostly(draw, None, 0, 4, 7, 20),
        max_namespace_gpus=mostly(draw, None, 0, 4, 7, 20),
    )


@st.composite
def deployments(draw: st.DrawFn) -> Deployment:
    replicas = draw(st.integers(0, 10))
    return make_deployment(
        replicas=replicas,
        updated_replicas=mostly(draw, replicas, replicas // 2),
        status_replicas=mostly(draw, replicas, replicas + 2, replicas // 2),
        revision=mostly(draw, 1, 2),
        gpus_per_pod=mostly(draw, 1, 2, 2, 0),
        failure=mostly(draw, None, "exceeded quota"),
    )


@st.composite
def pods(draw: st.DrawFn, deployment: Deployment) -> tuple[Pod, ...]:
    count = max(0, deployment.replicas + mostly(draw, 0, -2, 1, 3))
    odd = st.tuples(st.sampled_from(PodPhase), AGES, st.sampled_from([1, 2]))
    oddities = draw(st.lists(odd, max_size=3))
    whole = [(PodPhase.READY, 7200, deployment.revision)] * (count - len(oddities))
    return tuple(
        make_pod(
            index, phase, revision=revision, since=NOW - seconds(age), gpus=max(1, deployment.gpus_per_pod)
        )
        for index, (phase, age, revision) in enumerate((*whole, *oddities))
    )


@st.composite
def answers(draw: st.DrawFn, found: tuple[Pod, ...]) -> Collection:
    if mostly(draw, False, False, True):
        return not_collected()
    level = draw(SHARES)
    liveness = mostly(draw, Liveness.RISING, Liveness.ABSENT, Liveness.FLAT)
    silent = mostly(draw, 0, 1, 2, 5)
    answer = make_samples(
        found[silent:], level, liveness=liveness, age=mostly(draw, 5, 80), disagrees=mostly(draw, False, True)
    )
    if found[silent:] and draw(st.booleans()):
        (one, *_) = make_samples(found[-1:], draw(SHARES)).pods.items()
        answer = replace(answer, pods={**answer.pods, one[0]: one[1]})
    return answer


@st.composite
def memories(draw: st.DrawFn) -> Memory:
    last = NOW - seconds(15)
    over: dict[str, Any] = {
        "first_seen": NOW - seconds(mostly(draw, 7200, 0, 59, 60)),
        "target_uid": mostly(draw, "deployment-llm", "another"),
        "busy_value": mostly(draw, 0.5, 0.0, None),
        "last_down_at": mostly(draw, None, NOW - seconds(59), NOW - seconds(60)),
        "streaks": Streaks(
            collected_at=mostly(draw, last, NOW, None),
            newest_sample=mostly(draw, last - seconds(5), NOW),
            fresh=draw(st.integers(0, 3)),
            high=draw(st.integers(0, 3)),
            high_since=perhaps(draw),
            pegged=draw(st.integers(0, 3)),
        ),
        "window": DownWindow(
            since=mostly(draw, NOW - seconds(7200), NOW - seconds(285), None),
            last=mostly(draw, last, NOW - seconds(76)),
            floors=((last, draw(st.integers(0, 6))),),
            above_low_at=mostly(draw, None, NOW - seconds(30), NOW - seconds(300)),
        ),
        "blindness": Blindness(since=mostly(draw, None, *(NOW - seconds(n) for n in (20, 80, 180, 7200)))),
        "zero": ZeroWatch(since=perhaps(draw), alive_since=perhaps(draw)),
        "elasticity": mostly(
            draw, Elasticity(), Elasticity(refuted=True), Elasticity(before=(1.0, 2), goal=3, failures=1)
        ),
        "exhausted": mostly(draw, None, *(Exhausted(cap=3, until=NOW + seconds(n)) for n in (-1, 60))),
    }
    found = make_workload_memory(replicas=draw(st.integers(0, 10)), **over)
    opened = BreakerMemory(open_since=mostly(draw, None, last))
    return mostly(draw, Memory(workloads={"workload-llm": found}, breaker=opened), Memory())


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Snapshot, Memory]:
    deployment = draw(deployments())
    found = draw(pods(deployment))
    act = make_act(before=deployment.replicas, to=deployment.replicas + 1)
    snapshot = make_snapshot(
        draw(workloads()),
        deployment,
        pods=found,
        activity=draw(answers(found)),
        operations=mostly(draw, (), *((Operation(act=act, state=state),) for state in OperationState)),
        autoscalers=mostly(draw, (), (), (make_hpa(),)),
    )
    memory = draw(memories())
    if mostly(draw, True, False):
        # Nobody else touched the count since the last pass.
        seen = ((NOW - seconds(7200), deployment.replicas),)
        memory = replace(
            memory, workloads={uid: replace(old, seen=seen) for uid, old in memory.workloads.items()}
        )
    return snapshot, memory


def decided(snapshot: Snapshot, memory: Memory) -> Decision:
    return engine.decide(snapshot, memory, NOW).decisions[snapshot.workloads[0].key]


@laws
@given(worlds())
def test_the_same_input_gives_the_same_plan(world: tuple[Snapshot, Memory]) -> None:
    snapshot, memory = world
    assert engine.decide(snapshot, memory, NOW) == engine.decide(snapshot, memory, NOW)


@laws
@given(worlds())
def test_no_decision_is_above_the_maximum_or_what_stands(world: tuple[Snapshot, Memory]) -> None:
    snapshot, memory = world
    decision = decided(snapshot, memory)

    if not decision.in_flight:
        assert decision.desired <= max(decision.current, snapshot.workloads[0].max_replicas)


@laws
@given(worlds())
def test_no_decision_is_below_the_minimum_unless_what_stands_is(world: tuple[Snapshot, Memory]) -> None:
    """Where the minimum is above the maximum, the maximum is meant."""
    snapshot, memory = world
    decision, workload = decided(snapshot, memory), snapshot.workloads[0]

    if not decision.in_flight:
        assert decision.desired >= min(decision.current, workload.min_replicas, workload.max_replicas)


@laws
@given(worlds())
def test_nothing_but_an_order_lowers_a_workload_that_cannot_be_seen(world: tuple[Snapshot, Memory]) -> None:
    snapshot, memory = world
    decision, workload = decided(snapshot, memory), snapshot.workloads[0]
    is_ordered = workload.replicas is not None or workload.max_replicas < decision.current

    if decision.signal.state in BLIND and not is_ordered and not decision.in_flight:
        assert decision.desired >= decision.current


@laws
@given(worlds())
def test_nothing_is_written_for_a_workload_that_is_watched_only(world: tuple[Snapshot, Memory]) -> None:
    snapshot, memory = world
    plan = engine.decide(snapshot, memory, NOW)
    (decision,) = plan.decisions.values()
    workload = snapshot.workloads[0]

    if (
        workload.mode is Mode.OBSERVE
        or workload.paused
        or snapshot.autoscalers
        or decision.inactive is not None
    ):
        assert plan.acts == ()


@laws
@given(worlds())
def test_an_act_starts_from_what_stands_and_leaves_somebody_serving(world: tuple[Snapshot, Memory]) -> None:
    snapshot, memory = world
    plan = engine.decide(snapshot, memory, NOW)
    (deployment,) = snapshot.deployments.values()

    for act in plan.acts:
        assert (act.before, act.target_uid) == (deployment.replicas, deployment.uid)
        assert act.to != act.before
        assert act.to >= 1


@laws
@given(worlds())
def test_scale_up_only_lowers_nothing(world: tuple[Snapshot, Memory]) -> None:
    snapshot, memory = world
    workload = replace(snapshot.workloads[0], mode=Mode.SCALE_UP_ONLY)

    plan = engine.decide(replace(snapshot, workloads=(workload,)), memory, NOW)

    assert all(act.is_growth for act in plan.acts)


@laws
@given(worlds())
def test_a_missing_policy_lowers_nothing(world: tuple[Snapshot, Memory]) -> None:
    snapshot, memory = world
    workload = replace(snapshot.workloads[0], unresolved="GpuPolicy gold does not exist")

    plan = engine.decide(replace(snapshot, workloads=(workload,)), memory, NOW)

    assert all(act.is_growth for act in plan.acts)


@laws
@given(worlds())
def test_a_guardrail_stops_growth_and_never_shrinks(world: tuple[Snapshot, Memory]) -> None:
    snapshot, memory = world
    free = replace(snapshot.workloads[0], guardrails=Guardrails())
    unlimited = decided(replace(snapshot, workloads=(free,)), memory)
    limited = decided(snapshot, memory)
    rules = snapshot.workloads[0].guardrails

    assert limited.desired >= min(unlimited.desired, limited.current)
    for allowed in (rules.max_gpus_per_workload, rules.max_gpus_per_namespace):
        if allowed is not None and limited.desired > limited.current and not limited.in_flight:
            assert limited.desired * limited.gpus_per_pod <= allowed


@laws
@given(worlds())
def test_a_second_pass_beside_the_running_act_emits_nothing(world: tuple[Snapshot, Memory]) -> None:
    snapshot, memory = world
    first = engine.decide(snapshot, memory, NOW)
    running = tuple(Operation(act=act, state=OperationState.RUNNING) for act in first.acts)

    second = engine.decide(replace(snapshot, operations=running), first.memory, NOW + seconds(1))

    assert not first.acts or second.acts == ()


@laws
@given(worlds())
def test_a_pass_on_a_watch_event_counts_nothing(world: tuple[Snapshot, Memory]) -> None:
    snapshot, memory = world
    first = engine.decide(snapshot, memory, NOW).memory.workloads
    second = engine.decide(
        snapshot, Memory(workloads=first), NOW + timedelta(milliseconds=300)
    ).memory.workloads

    for uid, found in first.items():
        if found.streaks.collected_at is not None:
            assert (second[uid].streaks, second[uid].zero) == (found.streaks, found.zero)
        if second[uid].blindness == found.blindness:
            assert second[uid].window == found.window


@laws
@given(worlds(), st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]))
def test_more_load_never_gives_fewer_replicas(world: tuple[Snapshot, Memory], share: float) -> None:
    """Within one metric state and the same memory."""
    snapshot, memory = world
    if not isinstance(snapshot.activity, Collected):
        return
    calmer = {
        key: tuple(
            replace(sample, mean=None if sample.mean is None else sample.mean * share) for sample in samples
        )
        for key, samples in snapshot.activity.pods.items()
    }
    busy = decided(snapshot, memory)
    calm = decided(replace(snapshot, activity=replace(snapshot.activity, pods=calmer)), memory)

    if busy.signal.state is calm.signal.state:
        assert calm.desired <= busy.desired


@laws
@given(
    st.lists(st.tuples(COUNTS, st.integers(0, 3), st.booleans()), min_size=1, max_size=6),
    st.integers(0, 30),
    st.sampled_from([0.1, 0.9, 1.0]),
)
def test_growth_never_takes_a_namespace_beyond_its_gpus(
    sizes: list[tuple[int, int, bool]], budget: int, utilization: float
) -> None:
    rivals = [
        make_workload(f"w{n}", max_namespace_gpus=budget, replicas=9 if pinned else None)
        for n, (_, _, pinned) in enumerate(sizes)
    ]
    targets = [
        make_deployment(f"w{n}", replicas, gpus_per_pod=gpus) for n, (replicas, gpus, _) in enumerate(sizes)
    ]
    snapshot = make_snapshot(rivals, targets, utilization=utilization)

    plan = engine.decide(snapshot, Memory(), NOW)

    growth = sum(
        (act.to - act.before) * snapshot.deployments[act.target].gpus_per_pod
        for act in plan.acts
        if act.is_growth
    )
    standing = sum(target.replicas * target.gpus_per_pod for target in targets)
    assert growth == 0 or standing + growth <= budget


@laws
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 40), st.integers(0, 2)), max_size=12))
def test_a_reduction_is_never_confirmed_before_its_hold(passes: list[tuple[int, int, int]]) -> None:
    pending, now, collection, since = {}, NOW, 0, None
    for step, waited, collections in passes:
        now, collection = now + seconds(waited), collection + collections
        acts = () if step == 0 else (make_act(before=4, to=4 + step),)
        since = None if step >= 0 else (since or (now, collection))
        found = confirm(acts, pending, now=now, collection=collection, hold=seconds(15))
        pending = found.pending
        for act in found.acts:
            if not act.is_growth:
                assert since is not None
                assert now - since[0] >= seconds(15)
                assert collection - since[1] >= 2
                since = None


EVENTS = (
    "util",
    "room",
    "reporting",
    "outage",
    "crash",
    "human",
    "restart",
    "rollout",
    "done",
    "max",
    "wake",
    "jump",
)
stories = st.lists(
    st.tuples(st.sampled_from(EVENTS), st.floats(0, 1), st.integers(1, 30)), min_size=1, max_size=15
)


@few
@given(story=stories, has_low=st.booleans())
def test_no_time_line_raises_or_leaves_its_bounds(
    story: list[tuple[str, float, int]], *, has_low: bool
) -> None:
    for line, before in _played(story, low=0.4 if has_low else None):
        assert line.replicas <= max(before, line.workload.max_replicas)
        assert line.replicas >= min(before, 1)


@few
@given(story=stories)
def test_no_time_line_shrinks_what_it_cannot_see(story: list[tuple[str, float, int]]) -> None:
    for line, before in _played(story, low=0.4):
        if line.decision.signal.state in BLIND and before <= line.workload.max_replicas:
            assert line.replicas >= before


@few
@given(story=stories)
def test_no_time_line_shrinks_serving_replicas_within_a_window_of_a_restart(
    story: list[tuple[str, float, int]],
) -> None:
    played = _played(story, low=0.4, start=lambda line: line.restart(with_history=False))
    for line, before in islice(played, 300 // 15):
        if before <= line.workload.max_replicas:
            assert line.replicas >= before


def _played(
    story: list[tuple[str, float, int]],
    *,
    low: float | None,
    start: Callable[[Timeline], object] | None = None,
) -> Iterator[tuple[Timeline, int]]:
    """Play the story pass by pass; yield the line after each one, with the count before it."""
    line = Timeline(make_workload(blind_replicas=5, low=low), replicas=3, pending_timeout=120).at("6m")
    if start is not None:
        start(line)
    for what, share, passes in story:
        _tell(line, what, share)
        for _ in range(passes):
            before = line.replicas
            line.step()
            yield line, before


def _tell(line: Timeline, what: str, share: float) -> None:
    match what:
        case "human":
            line.somebody_sets(round(14 * share))
        case "restart":
            line.restart(with_history=share > 0.5)
        case "rollout":
            line.roll_out()
        case "done":
            line.finish_rollout()
        case "max":
            line.configure(max_replicas=1 + round(12 * share))
        case "wake":
            line.wake(after=share)
        case "jump":
            line._now += seconds(round(7200 * (share - 0.5)))
        case "outage" | "crash":
            line.change(**{what: share > 0.5})
        case "room":
            line.change(room=round(12 * share))
        case _:
            line.change(**{what: share})
