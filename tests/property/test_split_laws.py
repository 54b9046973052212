"""Laws of a burst that hold whatever demand and the market do, through `decide` and `confirm` in simulated time."""

from dataclasses import dataclass, replace
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from spillway.core.memory import Memory
from spillway.core.plan import Plan
from spillway.sim import spillway
from spillway.sim.cluster import BURST, SOURCE, SimCluster
from spillway.sim.traces import Demand, Spot
from spillway.sim.world import START, Scenario

BASELINE = 2
ZONES = ("a", "b")
STEP = timedelta(seconds=15)
QUIET_STEPS = 480  # two hours: every window, residency, probe and idle time has passed


@dataclass(frozen=True)
class Turn:
    """What happens before the next minute: a load, and one thing in the world."""

    load: float
    fault: str
    zone: str


turns = st.lists(
    st.builds(
        Turn,
        load=st.floats(0.1, 9.0),
        fault=st.sampled_from(
            ["", "", "refuse", "accept", "reclaim", "reclaim at once", "vanish", "restart"]
        ),
        zone=st.sampled_from(ZONES),
    ),
    min_size=4,
    max_size=14,
)


def small_world() -> SimCluster:
    scenario = Scenario(
        demand=Demand(times=(0.0,), values=(10.0,)),
        spot=Spot(seconds=86_400.0, zones=dict.fromkeys(ZONES, ((0.0, 6),))),
    )
    workload = spillway.workload_of(
        {
            "targetRef": {"name": "model"},
            "minReplicas": 1,
            "maxReplicas": 12,
            "capacity": {"baselineReplicas": BASELINE, "burst": "WhenAvailable"},
        }
    )
    world = spillway.fleet(scenario, replace(workload, max_replicas=12))
    for zone in ZONES:
        world.market.limit(zone, 6, now=START)
    world.begin(2)
    return world


def meddle(world: SimCluster, turn: Turn) -> None:
    match turn.fault:
        case "refuse":
            world.market.refuse(turn.zone, now=world.now)
        case "accept":
            world.market.accept(turn.zone, now=world.now)
        case "reclaim":
            world.market.reclaim(turn.zone, now=world.now, count=2)
        case "reclaim at once":
            world.market.reclaim(turn.zone, now=world.now, notice=timedelta(0))
        case "vanish":
            world.market.vanish(turn.zone, now=world.now, count=1)
        case "restart":
            world.memory = Memory()


def plan_after(world: SimCluster, load: float) -> Plan:
    world.step(world.now + STEP, load)
    assert world.plan is not None
    return world.plan


def check(world: SimCluster, plan: Plan) -> None:
    decision = plan.decisions[world.workload.key]
    view = decision.placement.split if decision.placement is not None else None
    source = world.counts[SOURCE]
    # What is decided never plans for less, and what stands never is less.
    assert view is None or view.baseline >= min(decision.desired, BASELINE)
    assert source >= min(decision.current, BASELINE)
    assert decision.desired <= 12
    subjects = [act.subject for act in plan.acts]
    assert len(subjects) == len(set(subjects))
    for pool in world.pools:
        assert world.market.describe(pool.name, now=world.now).desired <= pool.max_nodes


@settings(max_examples=25, deadline=None)
@given(turns)
def test_the_baseline_holds_and_nothing_is_done_twice(history: list[Turn]) -> None:
    world = small_world()
    for turn in history:
        meddle(world, turn)
        for _ in range(4):
            check(world, plan_after(world, turn.load))


@settings(max_examples=6, deadline=None)
@given(turns)
def test_when_all_is_quiet_again_spot_is_empty_and_no_mark_is_left(history: list[Turn]) -> None:
    world = small_world()
    for turn in history:
        meddle(world, turn)
        for _ in range(4):
            plan_after(world, turn.load)
    for zone in ZONES:
        world.market.accept(zone, now=world.now)

    for _ in range(QUIET_STEPS):
        plan_after(world, 0.3)

    assert world.counts[SOURCE] <= BASELINE
    assert world.counts.get(BURST, 0) == 0
    assert world.marks == {}
    assert [len(world.market.describe(zone, now=world.now).granted) for zone in ZONES] == [0, 0]
