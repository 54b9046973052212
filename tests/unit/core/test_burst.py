"""What burst replicas can do now: which spot pools they may use, and how each of their pods stands."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
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

from spillway.core.burst import BurstPods, Stand, burst_constraints, eligible_pools, sort_burst
from spillway.core.capacity import PoolOutlook
from spillway.core.fleet import survey
from spillway.core.memory import PoolMemory
from spillway.core.model import (
    CapacityType,
    Guardrails,
    Node,
    NodePool,
    Pod,
    PodPhase,
    Workload,
)
from spillway.core.packing import Shape
from spillway.core.plan import CloseReason, FallbackReason, Finding
from spillway.core.scheduling import Constraints, Requirement, Taint, Toleration

GPU = "nvidia.com/gpu"
SPOT = Taint("spot", "true")
NOTICE = Taint("aws-node-termination-handler/spot-itn")
KIN = ("t1", "deployment-llm-burst")
RULES = make_capacity().fallback


def spot(name: str = "spot-a", **over: Any) -> NodePool:  # noqa: ANN401 -- fields of NodePool
    return make_pool(name, **{"capacity_type": CapacityType.SPOT, "taints": (SPOT,), **over})


class TestEligiblePools:
    """Which spot pools a workload's burst may use."""

    def names(
        self,
        *pools: NodePool,
        workload: Workload | None = None,
        nodes: tuple[Node, ...] = (),
        **over: Any,  # noqa: ANN401 -- fields of Deployment
    ) -> tuple[str, ...]:
        fleet = survey(make_snapshot(pools=pools, nodes=nodes, pods=()), {}, NOW)
        asked = workload or make_workload(capacity=make_capacity())
        found = eligible_pools(asked, make_deployment(**over), pools, fleet)
        return tuple(pool.name for pool in found)

    def test_every_spot_pool_that_the_template_fits_by_name(self) -> None:
        assert self.names(spot("b"), make_pool("on-demand"), spot("a")) == ("a", "b")

    def test_those_that_the_selector_chooses(self) -> None:
        asked = make_workload(capacity=make_capacity(pool_selector={"gpu": "h100", "team": "x"}))
        both, one = {"gpu": "h100", "team": "x", "more": "y"}, {"gpu": "h100"}

        assert self.names(spot("a", labels=one), spot("b", labels=both), workload=asked) == ("b",)

    @pytest.mark.parametrize(
        ("models", "expected"),
        [
            pytest.param(None, ("a", "b", "c"), id="no list"),
            pytest.param({"H100"}, ("a",), id="one model"),
            pytest.param({"L4"}, (), id="none of them"),
        ],
    )
    def test_those_of_a_model_that_the_guardrail_allows(
        self, models: set[str] | None, expected: tuple[str, ...]
    ) -> None:
        allowed = Guardrails(gpu_models=None if models is None else frozenset(models))
        asked = make_workload(capacity=make_capacity(), guardrails=allowed)
        pools = (spot("a"), spot("b", gpu_model="A100"), spot("c", gpu_model=""))

        assert self.names(*pools, workload=asked) == expected

    @pytest.mark.parametrize(
        ("requests", "expected"),
        [
            pytest.param({GPU: 8}, ("a",), id="as many as a node has"),
            pytest.param({GPU: 9}, (), id="more than a node has"),
            pytest.param({"nvidia.com/mig-1g.10gb": 1}, ("mig",), id="another resource"),
            pytest.param({"cpu": 1000}, (), id="no GPU at all"),
        ],
    )
    def test_those_whose_nodes_have_what_a_pod_requests(
        self, requests: Mapping[str, int], expected: tuple[str, ...]
    ) -> None:
        sliced = spot("mig", gpu_resource="nvidia.com/mig-1g.10gb", gpus_per_node=7)

        assert self.names(spot("a"), sliced, requests=requests) == expected

    def test_those_whose_labels_the_template_selects_and_taints_are_no_hindrance(self) -> None:
        wants_b = Constraints(node_selector={"pool": "b"})

        assert self.names(spot("a"), spot("b"), constraints=wants_b) == ("b",)

    def test_a_label_that_only_a_living_node_shows_is_read_from_it(self) -> None:
        wants = Constraints(terms=((Requirement(key="product", operator="In", values=("H100-SXM",)),),))
        node = make_node("a-1", labels={"pool": "a", "product": "H100-SXM"})

        assert self.names(spot("a"), spot("b"), nodes=(node,), constraints=wants) == ("a",)


def test_burst_pods_go_where_their_twin_says() -> None:
    twin = make_twin(constraints=Constraints(node_selector={"pool": "spot-a"}))

    assert burst_constraints(make_deployment(), twin, (spot("b"),)) == twin.constraints


def test_before_there_is_a_twin_they_go_where_the_template_does_and_tolerate_the_pools() -> None:
    own = Toleration(key="gpu", operator="Exists")
    source = make_deployment(constraints=Constraints(node_selector={"gpu": "h100"}, tolerations=(own,)))

    found = burst_constraints(source, None, (spot(),))

    tolerated = Toleration(key="spot", value="true", effect="NoSchedule")
    assert found == Constraints(node_selector={"gpu": "h100"}, tolerations=(own, tolerated))


def outlook(
    closed: CloseReason | None = None, *, name: str = "spot-a", refuses_us: bool = False, hung: int = 0
) -> PoolOutlook:
    memory = PoolMemory(unplaceable=frozenset({KIN} if refuses_us else ()))
    pool = spot(name)
    return PoolOutlook(
        pool=pool,
        memory=memory,
        state=None,
        shape=Shape(free={}, labels={}, taints=()),
        size=0,
        room=0 if closed is not None else 1,
        closed=None if closed is None else Finding(reason=closed, message=""),
        hung=hung,
    )


def sort(
    *pods: Pod,
    outlooks: tuple[PoolOutlook, ...] = (outlook(),),
    coming: frozenset[str] = frozenset(),
) -> BurstPods:
    nodes = (
        make_node("stays", uid="stays"),
        make_node("ends", uid="ends", taints=(NOTICE,)),
    )
    return sort_burst(
        pods,
        rules=RULES,
        load_grace=seconds(600),
        outlooks=outlooks,
        kin=KIN,
        coming=coming,
        fleet=survey(make_snapshot(nodes=nodes, pods=pods), {}, NOW),
        now=NOW,
    )


def ago(span: float) -> datetime:
    return NOW - seconds(span)


def stand_of(found: BurstPods) -> Stand | None:
    return next((stand for stand, pods in found.by_stand.items() if pods), None)


def pod(phase: PodPhase = PodPhase.READY, *, age: float = 7200, node: str | None = "stays") -> Pod:
    found = make_pod(0, phase, of="llm-burst", since=ago(age), node=node)
    return replace(found, uid="pod-0")


@pytest.mark.parametrize(
    ("found", "stand"),
    [
        pytest.param(pod(), Stand.GOOD, id="ready"),
        pytest.param(pod(age=1), Stand.GOOD, id="ready for a moment"),
        pytest.param(pod(node="ends"), Stand.DOOMED, id="ready on a node that is taken back"),
        pytest.param(pod(PodPhase.LOADING, age=5, node="ends"), Stand.DOOMED, id="loading on such a node"),
        pytest.param(pod(PodPhase.BROKEN, node="ends"), Stand.DOOMED, id="broken on such a node"),
        pytest.param(pod(PodPhase.LOADING, age=600), Stand.BOOTING, id="loading within its grace"),
        pytest.param(pod(PodPhase.LOADING, age=601), Stand.BROKEN, id="loading beyond its grace"),
        pytest.param(pod(PodPhase.BROKEN, age=5), Stand.BROKEN, id="crashing", marks=pytest.mark.case("node-and-spot E14")),
        pytest.param(pod(PodPhase.UNKNOWN), Stand.BOOTING, id="nobody knows"),
        pytest.param(pod(age=59, node="unseen"), Stand.GOOD, id="ready on a node that is not seen yet"),
        pytest.param(pod(age=60, node="unseen"), Stand.DOOMED, id="ready for long on a node that is not there"),
        pytest.param(pod(PodPhase.TERMINATING), None, id="terminating"),
        pytest.param(pod(PodPhase.FINISHED), None, id="finished"),
    ],
)  # fmt: skip
def test_a_burst_pod_on_a_node_stands_by_what_it_does_and_by_whether_the_node_stays(
    found: Pod, stand: Stand | None
) -> None:
    assert stand_of(sort(found)) is stand


def test_good_pods_are_stable_once_ready_for_as_long_as_a_return_asks_for() -> None:
    proven, young = pod(age=300), replace(pod(age=299), uid="pod-1")

    assert sort(proven, young).stable == 1


REFUSED = outlook(CloseReason.REFUSED)
AT_MAX = outlook(CloseReason.AT_MAX, name="spot-b")
SILENT = outlook(CloseReason.PROVIDER_UNAVAILABLE, name="spot-c")
EXTERNAL = outlook(CloseReason.EXTERNAL, name="spot-d")


@pytest.mark.parametrize(
    ("age", "outlooks", "refusal"),
    [
        pytest.param(5, (outlook(),), None, id="a pool is open"),
        pytest.param(180, (outlook(),), None, id="still within the time to provision"),
        pytest.param(181, (outlook(),), FallbackReason.PROVISION_TIMEOUT, id="nothing came in time"),
        pytest.param(5, (REFUSED,), FallbackReason.SPOT_REFUSED, id="refused", marks=pytest.mark.case("node-and-spot E11")),
        pytest.param(5, (AT_MAX,), FallbackReason.POOL_MAX, id="at its maximum", marks=pytest.mark.case("node-and-spot E18")),
        pytest.param(5, (outlook(CloseReason.BREAKER_OPEN),), FallbackReason.BREAKER_OPEN, id="breaker open"),
        pytest.param(5, (outlook(CloseReason.OBSERVED),), FallbackReason.POOL_MAX, id="not ours to size"),
        pytest.param(5, (REFUSED, outlook(name="spot-z")), None, id="one refused, another open", marks=pytest.mark.case("node-and-spot E19")),
        pytest.param(5, (REFUSED, AT_MAX), FallbackReason.SPOT_REFUSED, id="closed for two reasons"),
        pytest.param(5, (REFUSED, SILENT), None, id="one provider silent", marks=pytest.mark.case("node-and-spot E20")),
        pytest.param(181, (SILENT,), FallbackReason.PROVISION_TIMEOUT, id="silent for too long", marks=pytest.mark.case("node-and-spot E20")),
        pytest.param(5, (EXTERNAL,), None, id="somebody else makes its nodes"),
        pytest.param(181, (EXTERNAL,), FallbackReason.PROVISION_TIMEOUT, id="somebody else made none"),
        pytest.param(5, (outlook(hung=2),), FallbackReason.BOOT_DEADLINE, id="its machines never become nodes", marks=pytest.mark.case("node-and-spot E13")),
        pytest.param(5, (outlook(hung=2), outlook(name="spot-z")), None, id="those of one of two pools"),
        pytest.param(5, (outlook(refuses_us=True),), FallbackReason.PACKING_REFUSED, id="the scheduler refuses us there"),
        pytest.param(5, (outlook(refuses_us=True), outlook(name="spot-z")), None, id="it refuses us on one of two"),
    ],
)  # fmt: skip
def test_a_burst_pod_without_a_place_is_refused_for_the_reason_that_its_pools_have(
    age: float, outlooks: tuple[PoolOutlook, ...], refusal: FallbackReason | None
) -> None:
    found = sort(pod(PodPhase.UNSCHEDULABLE, age=age, node=None), outlooks=outlooks)

    assert found.refusals == ({} if refusal is None else {refusal: 1})
    assert stand_of(found) is (Stand.BOOTING if refusal is None else Stand.REFUSED)


@pytest.mark.parametrize(
    ("age", "stand"),
    [
        pytest.param(420, Stand.BOOTING, id="seven minutes"),
        pytest.param(600, Stand.BOOTING, id="at the deadline"),
        pytest.param(601, Stand.REFUSED, id="beyond the deadline"),
    ],
)
@pytest.mark.case("node-and-spot E12")
def test_a_pod_that_has_a_node_coming_waits_for_it_even_where_pools_are_closed(
    age: float, stand: Stand
) -> None:
    waiting = pod(PodPhase.UNSCHEDULABLE, age=age, node=None)

    assert stand_of(sort(waiting, outlooks=(REFUSED,), coming=frozenset({"pod-0"}))) is stand


def test_a_burst_without_any_pool_waits_for_its_time() -> None:
    young, old = (pod(PodPhase.UNSCHEDULABLE, age=age, node=None) for age in (5, 181))

    assert (stand_of(sort(young, outlooks=())), stand_of(sort(old, outlooks=()))) == (
        Stand.BOOTING,
        Stand.REFUSED,
    )


def test_all_live_pods_are_counted_each_once() -> None:
    pods = [
        replace(pod(phase, node=node), uid=f"pod-{index}")
        for index, (phase, node) in enumerate(
            [
                (PodPhase.READY, "stays"),
                (PodPhase.READY, "ends"),
                (PodPhase.UNSCHEDULABLE, None),
                (PodPhase.TERMINATING, "stays"),
            ]
        )
    ]

    found = sort(*pods)

    assert found.total == 3
    assert {stand: len(held) for stand, held in found.by_stand.items()} == {
        Stand.GOOD: 1,
        Stand.DOOMED: 1,
        Stand.REFUSED: 1,
    }
