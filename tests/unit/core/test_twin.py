"""The burst twin's life: made, kept in step, adopted, handed over, deleted."""

import pytest
from tests.builders import NAMESPACE, NOW, make_deployment, make_pool, make_twin, make_workload, seconds

from spillway.core.model import (
    ApplyTwin,
    DeleteTwin,
    Deployment,
    HandOverTwin,
    NodePool,
    ObjectKey,
    ReplicaAct,
    SetReplicas,
    TwinChange,
    TwinPool,
)
from spillway.core.scheduling import Taint
from spillway.core.twin import TwinCase, hand_over, next_write, twin_name, twins_by_source

SPOT = Taint("spot", "true")
POOL = make_pool("spot-a", taints=(SPOT,))


def write_for(
    twin: Deployment | None,
    *,
    replicas: int = 8,
    source: Deployment | None = None,
    can_burst: bool = True,
    pools: tuple[NodePool, ...] = (POOL,),
    rolling: bool = False,
    behind: float | None = None,
) -> ReplicaAct | None:
    return next_write(
        TwinCase(
            workload=make_workload(),
            source=source or make_deployment(replicas=2),
            twin=twin,
            replicas=replicas,
            count=10,
            can_burst=can_burst,
            pools=pools,
            rolling=rolling,
            behind_since=None if behind is None else NOW - seconds(behind),
            now=NOW,
        )
    )


def change(act: ReplicaAct | None) -> TwinChange | None:
    return act.why if isinstance(act, ApplyTwin) else None


def test_a_twin_is_made_when_burst_replicas_are_first_wanted() -> None:
    act = write_for(None, replicas=3)

    assert act == ApplyTwin(
        workload=ObjectKey(NAMESPACE, "llm"),
        workload_uid="workload-llm",
        source=ObjectKey(NAMESPACE, "llm"),
        source_uid="deployment-llm",
        template="t1",
        twin=ObjectKey(NAMESPACE, "llm-burst"),
        twin_uid="",
        replicas=3,
        pools=(TwinPool(name="spot-a", selector={"pool": "spot-a"}, taints=(SPOT,)),),
        why=TwinChange.CREATE,
        count=10,
    )


@pytest.mark.case("node-and-spot E1")
def test_no_twin_is_made_while_nothing_bursts() -> None:
    assert write_for(None, replicas=0) is None


def test_a_twin_that_is_in_step_is_left_alone() -> None:
    assert write_for(make_twin()) is None


@pytest.mark.parametrize(
    ("twin", "rolling", "behind", "why"),
    [
        pytest.param(make_twin(template="t0"), False, 1.0, TwinChange.TEMPLATE, id="rollout over"),
        pytest.param(make_twin(template="t0"), True, 60.0, None, id="rollout under way"),
        pytest.param(make_twin(template="t0"), True, 601.0, TwinChange.TEMPLATE, id="rollout hangs"),
        pytest.param(make_twin(edited_by="kubectl-edit"), False, None, TwinChange.EDITED, id="edited"),
        pytest.param(make_twin(workload_uid="another"), False, None, TwinChange.ADOPT, id="made for another"),
        pytest.param(make_twin(handover=4), False, None, TwinChange.ADOPT, id="wanted again"),
        pytest.param(make_twin(pools=("old",)), False, None, None, id="pools changed, replicas run"),
        pytest.param(
            make_twin(replicas=0, pools=("old",)), False, None, TwinChange.POOLS, id="pools changed, none"
        ),
    ],
)
@pytest.mark.case("node-and-spot E69")
@pytest.mark.case("node-and-spot E73")
def test_a_twin_is_written_again_for_these_reasons_only(
    twin: Deployment, rolling: bool, behind: float | None, why: TwinChange | None
) -> None:
    assert change(write_for(twin, rolling=rolling, behind=behind)) is why


def test_putting_an_edited_twin_back_names_who_edited_it() -> None:
    act = write_for(make_twin(edited_by="kubectl-edit"))

    assert isinstance(act, ApplyTwin)
    assert act.edited_by == "kubectl-edit"


def test_putting_an_edited_twin_back_restarts_nothing_by_a_change_of_pools() -> None:
    two = (POOL, make_pool("spot-b"))

    act = write_for(make_twin(edited_by="kubectl-edit", pools=("spot-a",)), pools=two)

    assert isinstance(act, ApplyTwin)
    assert [pool.name for pool in act.pools] == ["spot-a"]


def test_a_new_template_takes_the_pools_of_today() -> None:
    two = (POOL, make_pool("spot-b"))

    act = write_for(make_twin(template="t0", pools=("spot-a",)), pools=two)

    assert isinstance(act, ApplyTwin)
    assert [pool.name for pool in act.pools] == ["spot-a", "spot-b"]


def test_an_unwanted_twin_goes_only_once_it_stands_at_zero() -> None:
    kept = write_for(make_twin(replicas=2), replicas=0, can_burst=False)
    gone = write_for(make_twin(replicas=0), replicas=0, can_burst=False)

    assert kept is None
    assert gone == DeleteTwin(
        workload=ObjectKey(NAMESPACE, "llm"),
        twin=ObjectKey(NAMESPACE, "llm-burst"),
        twin_uid="deployment-llm-burst",
        before=0,
    )


@pytest.mark.case("node-and-spot E74")
class TestHandover:
    """The GpuWorkload is gone; capacity must never fall below what served."""

    SOURCE = make_deployment(replicas=2)

    def test_first_what_the_source_must_reach_is_written_down(self) -> None:
        act = hand_over(make_twin(replicas=8), self.SOURCE, good_source=2, good_burst=6)

        assert act == HandOverTwin(
            twin=ObjectKey(NAMESPACE, "llm-burst"), twin_uid="deployment-llm-burst", replicas=8
        )

    def test_then_the_source_is_raised_to_it(self) -> None:
        act = hand_over(make_twin(replicas=8, handover=8), self.SOURCE, good_source=2, good_burst=6)

        assert isinstance(act, SetReplicas)
        assert (act.target.name, act.before, act.to) == ("llm", 2, 8)

    def test_the_twin_serves_until_the_source_does(self) -> None:
        raised = make_deployment(replicas=8)

        assert hand_over(make_twin(handover=8), raised, good_source=7, good_burst=6) is None

    def test_the_twin_goes_when_as_many_are_ready(self) -> None:
        raised = make_deployment(replicas=8)

        act = hand_over(make_twin(replicas=8, handover=8), raised, good_source=8, good_burst=6)

        assert act == DeleteTwin(
            workload=ObjectKey(NAMESPACE, "llm"),
            twin=ObjectKey(NAMESPACE, "llm-burst"),
            twin_uid="deployment-llm-burst",
            before=8,
        )


@pytest.mark.case("node-and-spot E71")
@pytest.mark.parametrize(
    ("source", "name"),
    [
        pytest.param("llm", "llm-burst", id="short"),
        pytest.param("a" * 46, "a" * 46 + "-burst", id="just fits"),
        pytest.param("a" * 47, "a" * 37 + "-2f623bf5-burst", id="cut"),
    ],
)
def test_the_name_of_a_twin_is_stable_and_short_enough(source: str, name: str) -> None:
    found = twin_name(source)

    assert len(found) <= 52
    assert found == name


def test_long_names_that_differ_at_their_end_have_different_twins() -> None:
    assert twin_name("a" * 60 + "x") != twin_name("a" * 60 + "y")


def test_a_twin_is_found_by_the_deployment_that_owns_it_and_not_while_it_goes() -> None:
    twin, going = make_twin("llm"), make_twin("other", terminating=True)

    assert twins_by_source([twin, going, make_deployment()]) == {"deployment-llm": twin}
