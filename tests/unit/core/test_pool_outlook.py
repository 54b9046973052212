"""Whether a pool may grow: whose it is, what its provider said and refused, and how many of its nodes were lost of late."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.builders import (
    NOW,
    make_capacity,
    make_deployment,
    make_node,
    make_pod,
    make_pool,
    make_snapshot,
    make_twin,
    make_workload,
    seconds,
)

from spillway.core.capacity import PoolOutlook, outlook, places_coming, plan_pools
from spillway.core.fleet import survey
from spillway.core.memory import NodeMemory, PoolMemory
from spillway.core.model import (
    CapacityType,
    CordonCause,
    CordonMark,
    GrowPool,
    Instance,
    InstanceState,
    Mode,
    Node,
    NodePool,
    Operation,
    OperationState,
    Pod,
    PodPhase,
    PoolState,
    ProviderType,
    Refusal,
    RefusalKind,
    Snapshot,
)
from spillway.core.plan import CloseReason
from spillway.core.scheduling import Constraints, Taint, Toleration

GPU = "nvidia.com/gpu"
NOTICE = Taint(key="aws-node-termination-handler/spot-itn", effect="NoExecute")


def spot(name: str = "spot-a", **over: Any) -> NodePool:  # noqa: ANN401 -- fields of NodePool
    values: dict[str, Any] = {
        "capacity_type": CapacityType.SPOT,
        "provider": ProviderType.KWOK,
        "mode": Mode.ENFORCE,
        "max_nodes": 20,
    }
    return make_pool(name, **{**values, **over})


def node(name: str, *, pool: str = "spot-a", **over: Any) -> Node:  # noqa: ANN401 -- fields of Node
    return make_node(
        name, **{"uid": f"uid-{name}", "labels": {"pool": pool}, "allocatable": {GPU: 8, "pods": 110}, **over}
    )


def refusal(at: datetime, kind: RefusalKind = RefusalKind.CAPACITY) -> Refusal:
    return Refusal(at=at, kind=kind, code="InsufficientInstanceCapacity", message="no capacity")


def state(
    desired: int = 0,
    granted: int = 0,
    *refused_at: datetime,
    at: datetime = NOW,
    kind: RefusalKind = RefusalKind.CAPACITY,
    error: str = "",
) -> PoolState:
    machines = tuple(
        Instance(
            id=f"i-{index}", state=InstanceState.RUNNING, since=NOW - seconds(7200), node=f"node-{index}"
        )
        for index in range(granted)
    )
    refusals = tuple(refusal(when, kind) for when in refused_at)
    return PoolState(at=at, desired=desired, instances=machines, refusals=refusals, error=error)


def look(
    pool: NodePool,
    told: PoolState | None,
    memory: PoolMemory | None = None,
    *,
    now: datetime = NOW,
    nodes: Iterable[Node] = (),
    known: Mapping[str, NodeMemory] | None = None,
    **over: Any,  # noqa: ANN401 -- fields of Snapshot
) -> PoolOutlook:
    """The outlook of one pool, with what was remembered of it."""
    states = {} if told is None else {pool.name: told}
    values: dict[str, Any] = {"pools": (pool,), "pool_states": states, "nodes": tuple(nodes), "pods": ()}
    snapshot = make_snapshot((), (), **{**values, **over})
    memories = {pool.uid: memory} if memory is not None else {}
    return outlook(snapshot, survey(snapshot, known or {}, now), memories, now)[pool.name]


def reason(found: PoolOutlook) -> CloseReason | None:
    return found.closed.reason if found.closed is not None else None


class Watch:
    """One pool, looked at again and again with what it remembers."""

    def __init__(self, pool: NodePool | None = None, **over: Any) -> None:  # noqa: ANN401 -- fields of Snapshot
        self.pool = pool or spot()
        self.over = over
        self.memory: PoolMemory | None = None
        self.nodes: dict[str, NodeMemory] = {}

    def at(
        self,
        after: float,
        desired: int = 0,
        granted: int = 0,
        *refused: float,
        nodes: Iterable[Node] = (),
        **over: Any,  # noqa: ANN401
    ) -> PoolOutlook:
        """Look *after* so many seconds; *refused* are the times of the refusals that the provider tells of."""
        now = NOW + seconds(after)
        told = state(desired, granted, *(NOW + seconds(when) for when in refused), at=now, **over)
        snapshot = make_snapshot(
            (),
            (),
            pods=(),
            pools=(self.pool,),
            pool_states={self.pool.name: told},
            nodes=tuple(nodes),
        )
        if self.over:
            snapshot = make_snapshot(
                pods=(),
                pools=(self.pool,),
                pool_states={self.pool.name: told},
                nodes=tuple(nodes),
                **self.over,
            )
        fleet = survey(snapshot, self.nodes, now)
        self.nodes = dict(fleet.memory)
        memories = {self.pool.uid: self.memory} if self.memory is not None else {}
        found = outlook(snapshot, fleet, memories, now)[self.pool.name]
        self.memory = found.memory
        return found


@pytest.mark.parametrize(
    ("pool", "over", "expected"),
    [
        pytest.param(spot(provider=ProviderType.EXTERNAL), {}, CloseReason.EXTERNAL, id="somebody else's"),
        pytest.param(spot(mode=Mode.OBSERVE), {}, CloseReason.OBSERVED, id="only watched"),
        pytest.param(spot(), {"sees_all_pods": False}, CloseReason.PODS_PARTLY_SEEN, id="pods partly seen"),
        pytest.param(spot(), {"pool_states": {}}, CloseReason.PROVIDER_UNAVAILABLE, id="not heard yet"),
        pytest.param(spot(max_nodes=3), {}, CloseReason.AT_MAX, id="at its maximum"),
        pytest.param(spot(mode=Mode.SCALE_UP_ONLY), {}, None, id="may only grow"),
        pytest.param(spot(), {}, None, id="open"),
    ],
)
def test_a_pool_takes_nodes_only_where_it_is_ours_to_size_and_known(
    pool: NodePool, over: dict[str, Any], expected: CloseReason | None
) -> None:
    found = look(pool, state(3, 3), **over)

    assert reason(found) is expected
    assert found.room == (0 if expected else 17)


def test_a_pool_that_shares_nodes_with_another_is_not_sized() -> None:
    both = node("shared", labels={"pool": "spot-a", "also": "b"})
    rival = spot("b", selector={"also": "b"})

    found = look(spot(), state(1, 1), nodes=(both,), pools=(spot(), rival))

    assert reason(found) is CloseReason.SHARED_NODES


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        pytest.param(state(3, 3, at=NOW - seconds(60)), None, id="as old as it may be"),
        pytest.param(state(3, 3, at=NOW - seconds(61)), CloseReason.PROVIDER_UNAVAILABLE, id="too old"),
        pytest.param(state(3, 3, error="503"), CloseReason.PROVIDER_UNAVAILABLE, id="an error"),
        pytest.param(state(3, 3, at=NOW + seconds(120)), None, id="from a clock that is ahead"),
    ],
)
def test_what_a_provider_said_long_ago_counts_no_more(told: PoolState, expected: CloseReason | None) -> None:
    assert reason(look(spot(), told)) is expected


@pytest.mark.case("node-and-spot E62")
def test_a_provider_that_fails_changes_nothing_that_is_remembered() -> None:
    before = PoolMemory(
        granted=2, refused_at=NOW - seconds(5), refused_in_a_row=1, last_refusal=NOW - seconds(5), steps=2
    )

    failed = state(9, 0, NOW - seconds(4), NOW - seconds(1), error="429 Too Many Requests")

    assert look(spot(), failed, before).memory == before


@pytest.mark.case("node-and-spot E17")
def test_two_refusals_in_a_row_close_a_pool_of_which_a_part_was_granted() -> None:
    watch = Watch()
    watch.at(0, desired=5, granted=0)
    assert reason(watch.at(5, 5, 2, 4)) is None  # 2 of 5 given, one refusal

    found = watch.at(20, 5, 2, 4, 19)

    assert (reason(found), found.room, found.probing) == (CloseReason.REFUSED, 0, False)
    assert found.closed is not None
    assert "InsufficientInstanceCapacity: no capacity" in found.closed.message


@pytest.mark.parametrize(
    ("after", "expected"),
    [pytest.param(34, None, id="29 s"), pytest.param(35, CloseReason.REFUSED, id="30 s")],
)
def test_one_refusal_that_stands_for_half_a_minute_is_believed(
    after: float, expected: CloseReason | None
) -> None:
    watch = Watch()
    watch.at(0, desired=1)
    watch.at(5, 1, 0, 4)

    assert reason(watch.at(after, 1, 0, 4)) is expected


def test_one_refusal_that_a_grant_follows_is_forgotten() -> None:
    watch = Watch()
    watch.at(0, desired=2)
    watch.at(5, 2, 0, 4)
    watch.at(20, 2, 1, 4)

    assert reason(watch.at(60, 2, 1, 4)) is None


@pytest.mark.case("node-and-spot E20")
def test_an_unknown_error_is_no_refusal() -> None:
    watch = Watch()
    watch.at(0, desired=3)

    found = watch.at(90, 3, 0, 10, 20, 30, 40, kind=RefusalKind.OTHER)

    assert (reason(found), found.memory.refused_in_a_row) == (None, 0)


@pytest.mark.parametrize("kind", [RefusalKind.CAPACITY, RefusalKind.QUOTA, RefusalKind.PERMISSION])
def test_what_is_refused_for_want_of_capacity_quota_or_rights_is(kind: RefusalKind) -> None:
    watch = Watch()
    watch.at(0, desired=3)

    assert reason(watch.at(20, 3, 0, 5, 15, kind=kind)) is CloseReason.REFUSED


def test_a_refusal_of_a_request_that_was_taken_back_does_not_close_the_next_one() -> None:
    watch = Watch()
    watch.at(0, desired=1)
    watch.at(5, 1, 0, 4)
    watch.at(20, 0, 0, 4)  # nobody wants it any more

    assert reason(watch.at(3600, 1, 0, 4)) is None


def test_refusals_of_long_ago_do_not_close_a_pool_after_a_restart() -> None:
    found = look(spot(), state(1, 0, NOW - seconds(3000), NOW - seconds(2000)))

    assert reason(found) is None


def test_refusals_of_just_now_close_a_pool_after_a_restart() -> None:
    found = look(spot(), state(1, 0, NOW - seconds(40), NOW - seconds(10)))

    assert reason(found) is CloseReason.REFUSED


def closed_for(found: PoolOutlook, *, since: float) -> float:
    assert found.closed_until is not None
    return (found.closed_until - NOW).total_seconds() - since


def test_a_refused_pool_is_asked_again_after_ten_minutes_then_ever_later_to_an_hour() -> None:
    watch = Watch()
    watch.at(0, desired=1)
    now, waits = 0.0, []
    for _ in range(5):
        found = watch.at(now + 20, 1, 0, now + 5, now + 15)
        assert reason(found) is CloseReason.REFUSED
        waits.append(closed_for(found, since=now + 20))
        now += 20 + waits[-1] + 1
        assert watch.at(now, 0, 0).probing

    for wait, middle in zip(waits, (600, 1200, 2400, 3600, 3600), strict=True):
        assert 0.8 * middle <= wait <= 1.2 * middle


def test_pools_that_are_refused_together_are_not_all_asked_again_together() -> None:
    waits = set()
    for name in ("spot-a", "spot-b", "spot-c"):
        watch = Watch(spot(name))
        watch.at(0, desired=1)
        waits.add(closed_for(watch.at(20, 1, 0, 5, 15), since=20))

    assert len(waits) == 3


def test_the_least_patient_of_the_workloads_that_burst_sets_the_pace() -> None:
    workload = make_workload(capacity=make_capacity(refused_confirm=3, return_probe=20))
    watch = Watch(workload=workload)
    watch.at(0, desired=1)
    watch.at(1, 1, 0, 1)

    found = watch.at(4, 1, 0, 1)

    assert reason(found) is CloseReason.REFUSED
    assert 16 <= closed_for(found, since=4) <= 24


@pytest.mark.case("node-and-spot E23")
def test_a_pool_that_was_refused_is_asked_for_one_node_and_opens_when_it_comes() -> None:
    watch = Watch()
    watch.at(0, desired=5)
    closed = watch.at(20, 5, 0, 5, 15)
    after = 20 + closed_for(closed, since=20)

    half_open = watch.at(after, 0, 0, 5, 15)
    asked = watch.at(after + 15, 1, 0, 5, 15)
    granted = watch.at(after + 30, 1, 1, 5, 15)

    assert (half_open.probing, half_open.room, reason(half_open)) == (True, 1, None)
    assert (asked.probing, asked.room) == (True, 1)
    assert (granted.probing, granted.room, granted.memory.steps) == (False, 19, 0)


def test_one_refusal_of_the_probe_closes_the_pool_again() -> None:
    watch = Watch()
    watch.at(0, desired=5)
    after = 20 + closed_for(watch.at(20, 5, 0, 5, 15), since=20)
    watch.at(after, 0, 0, 5, 15)

    found = watch.at(after + 15, 1, 0, 5, 15, after + 10)

    assert (reason(found), found.memory.steps) == (CloseReason.REFUSED, 2)


def test_refusals_while_a_pool_is_closed_do_not_speak_for_the_probe() -> None:
    watch = Watch()
    watch.at(0, desired=5)
    after = 20 + closed_for(watch.at(20, 5, 0, 5, 15), since=20)
    watch.at(35, 5, 0, 5, 15, 30)  # before the request was taken back

    found = watch.at(after + 15, 1, 0, 5, 15, 30)

    assert (found.probing, reason(found)) == (True, None)


def test_a_pool_that_status_says_is_closed_stays_so_after_a_restart() -> None:
    stored = PoolMemory(closed_until=NOW + seconds(300), steps=2)

    found = look(spot(), state(4, 4), stored)

    assert (reason(found), found.closed_until) == (CloseReason.REFUSED, NOW + seconds(300))


def fleet_of(count: int, lost: int = 0, *, pool: str = "spot-a", **over: Any) -> list[Node]:  # noqa: ANN401
    """*count* nodes, of which the first *lost* have had notice."""
    return [
        node(f"node-{index}", pool=pool, **({"taints": (NOTICE,), **over} if index < lost else {}))
        for index in range(count)
    ]


@pytest.mark.parametrize(
    ("nodes", "lost", "expected"),
    [
        pytest.param(10, 2, None, id="two of ten"),
        pytest.param(10, 3, CloseReason.BREAKER_OPEN, id="three of ten"),
        pytest.param(3, 2, CloseReason.BREAKER_OPEN, id="most of three"),
        pytest.param(4, 2, None, id="half of four"),
        pytest.param(1, 1, None, id="one alone says nothing of the market"),
        pytest.param(
            10,
            6,
            CloseReason.BREAKER_OPEN,
            id="60 % in one minute",
            marks=pytest.mark.case("node-and-spot E32"),
        ),
    ],
)
def test_many_lost_spot_nodes_close_a_pool_for_ten_minutes(
    nodes: int, lost: int, expected: CloseReason | None
) -> None:
    watch = Watch()
    watch.at(0, nodes, nodes, nodes=fleet_of(nodes))

    found = watch.at(15, nodes, nodes, nodes=fleet_of(nodes, lost))

    assert reason(found) is expected
    assert found.closed_until == (NOW + seconds(615) if expected else None)


def test_a_lost_node_counts_once_however_often_it_is_seen() -> None:
    watch = Watch()
    for after in range(0, 150, 15):
        found = watch.at(after, 10, 10, nodes=fleet_of(10, 2))

    assert (reason(found), found.memory.interruptions) == (None, (NOW, NOW))


def test_losses_far_apart_open_no_breaker() -> None:
    watch = Watch()
    for index, after in enumerate((0, 1000, 2000)):
        found = watch.at(after, 10, 10, nodes=fleet_of(10, index + 1))

    assert (reason(found), len(found.memory.interruptions)) == (None, 2)


@pytest.mark.case("node-and-spot E39")
def test_on_demand_nodes_that_fail_open_no_breaker() -> None:
    watch = Watch(spot(capacity_type=CapacityType.ON_DEMAND))

    assert reason(watch.at(0, 10, 10, nodes=fleet_of(10, 8))) is None


def test_nodes_that_we_remove_ourselves_are_no_interruptions() -> None:
    mark = CordonMark(cause=CordonCause.DRAIN, id="spot-a-1", since=NOW)

    found = look(
        spot(), state(10, 10), nodes=fleet_of(10, 5, mark=mark, terminating=True, unschedulable=True)
    )

    assert found.memory.interruptions == ()


@pytest.mark.case("node-and-spot E23")
def test_after_the_breaker_one_node_is_asked_for_and_opens_the_pool_when_it_comes() -> None:
    watch = Watch()
    watch.at(0, 10, 10, nodes=fleet_of(10, 3))

    open_ = watch.at(599, 7, 7, nodes=fleet_of(7))
    half_open = watch.at(600, 7, 7, nodes=fleet_of(7))
    granted = watch.at(630, 8, 8, nodes=fleet_of(7))

    assert (reason(open_), open_.room) == (CloseReason.BREAKER_OPEN, 0)
    assert (reason(half_open), half_open.probing, half_open.room) == (None, True, 1)
    assert (granted.probing, granted.room) == (False, 12)


def test_the_end_of_the_breaker_does_not_end_a_longer_refusal() -> None:
    memory = PoolMemory(breaker_until=NOW, closed_until=NOW + seconds(900), steps=1)

    assert reason(look(spot(), state(2, 2), memory)) is CloseReason.REFUSED


def test_the_shape_of_a_node_is_learned_as_the_largest_seen_of_nodes_that_work() -> None:
    nodes = (
        node("a", allocatable={GPU: 7, "cpu": 90}),
        node("b", allocatable={GPU: 8, "cpu": 60}),
        node("c", allocatable={GPU: 8, "cpu": 999}, ready=False),
    )

    found = look(spot(), state(3, 3), PoolMemory(allocatable={"memory": 5}), nodes=nodes)

    assert found.memory.allocatable == {GPU: 8, "cpu": 90, "memory": 5}


# Pods that have a place coming, and pods that the scheduler refuses


def pending(index: int, *, gpus: int = 8, since: float = 5, **over: Any) -> Pod:  # noqa: ANN401 -- fields of Pod
    values: dict[str, Any] = {
        "node": None,
        "gpus": gpus,
        "requests": {GPU: gpus, "pods": 1},
        "since": NOW - seconds(since),
        "created_at": NOW - seconds(since),
    }
    return make_pod(index, PodPhase.UNSCHEDULABLE, **{**values, **over})


def coming(snapshot: Snapshot, memories: Mapping[str, PoolMemory] | None = None) -> frozenset[str]:
    fleet = survey(snapshot, {}, NOW)
    return frozenset(places_coming(snapshot, fleet, outlook(snapshot, fleet, memories or {}, NOW)))


def test_pods_have_a_place_coming_where_there_is_room_and_where_a_machine_is_promised() -> None:
    promised = Instance(id="i-9", state=InstanceState.BOOTING, since=NOW)
    told = PoolState(
        at=NOW,
        desired=3,
        instances=(promised, Instance(id="i-1", state=InstanceState.RUNNING, since=NOW, node="node-1")),
    )
    pods = tuple(pending(index, since=60 - index) for index in range(3))
    snapshot = make_snapshot(
        pods=pods, pools=(spot(),), pool_states={"spot-a": told}, nodes=(node("node-1"),)
    )

    assert coming(snapshot) == {pods[0].uid, pods[1].uid}  # the oldest two; the third node is only asked for


def test_a_pod_of_higher_priority_has_the_place_that_comes() -> None:
    pods = (pending(0, since=60), pending(1, priority=10))
    snapshot = make_snapshot(pods=pods, pools=(spot(),), nodes=(node("node-1"),))

    assert coming(snapshot) == {pods[1].uid}


def test_a_node_that_is_lost_is_no_place_to_come() -> None:
    snapshot = make_snapshot(pods=(pending(0),), pools=(spot(),), nodes=(node("node-1", taints=(NOTICE,)),))

    assert coming(snapshot) == frozenset()


def test_what_is_gone_from_its_template_has_nothing_refused_any_more() -> None:
    deployments = (make_deployment(template="t2"), make_twin(template="t1"))
    refused = frozenset(
        {("t1", "deployment-llm"), ("t2", "deployment-llm"), ("t1", "deployment-llm-burst"), ("", "job-gone")}
    )

    found = look(
        spot(), state(), PoolMemory(unplaceable=refused), deployments={d.key: d for d in deployments}
    )

    assert found.memory.unplaceable == {("t2", "deployment-llm"), ("t1", "deployment-llm-burst")}


def refused_after(waited: float, *, room: bool = True, since: float = 600) -> frozenset[tuple[str, str]]:
    """What is counted as refused once a pod was seen without a node for so long, with room for it or without."""
    memory = PoolMemory()
    pool = spot()
    for after in (0.0, waited):
        now = NOW + seconds(after)
        holder = () if room else (make_pod(9, of="other", node="node-0", gpus=8, requests={GPU: 8}),)
        snapshot = make_snapshot(
            pods=(pending(0, since=since), *holder),
            pools=(pool,),
            pool_states={"spot-a": state(1, 1, at=now)},
            nodes=(node("node-0", created_at=NOW - timedelta(days=1)),),
        )
        fleet = survey(snapshot, {}, now)
        outlooks = outlook(snapshot, fleet, {pool.uid: memory}, now)
        memory = plan_pools(
            snapshot, fleet, outlooks, (), places=places_coming(snapshot, fleet, outlooks), now=now
        ).memories[pool.uid]
    return memory.unplaceable


@pytest.mark.parametrize(
    ("waited", "room", "expected"),
    [
        pytest.param(29, True, frozenset(), id="not yet"),
        pytest.param(30, True, {("t1", "deployment-llm")}, id="for half a minute"),
        pytest.param(300, False, frozenset(), id="there was no room"),
    ],
)
def test_a_pod_left_without_a_node_though_there_is_room_is_not_packed_there_again(
    waited: float, room: bool, expected: frozenset[tuple[str, str]]
) -> None:
    assert refused_after(waited, room=room) == expected


def test_a_bare_pod_that_is_refused_speaks_only_for_itself() -> None:
    taint = Taint(key="spot")
    tolerant = Constraints(tolerations=(Toleration(key="spot", operator="Exists"),))
    pods = tuple(pending(index, gpus=1, owner_uid="", constraints=tolerant) for index in (1, 2))
    memory = PoolMemory(unplaceable=frozenset({("", pods[0].uid)}))
    snapshot = make_snapshot((), (), pods=pods, pools=(spot(),), nodes=(node("node-1", taints=(taint,)),))

    assert coming(snapshot, {"pool-spot-a": memory}) == {pods[1].uid}


def test_what_we_asked_for_is_forgotten_down_to_what_is_left_of_it() -> None:
    grown = Operation(
        act=GrowPool(pool="spot-a", pool_uid="pool-spot-a", before=0, to=5), state=OperationState.LANDED
    )

    landed = look(spot(), state(0, 0), PoolMemory(), operations=(grown,))
    later = look(spot(), state(3, 3), landed.memory)

    assert (landed.memory.asked, later.memory.asked) == (5, 3)
