"""Which nodes a pod accepts: as `v1.Toleration` and `v1.NodeSelectorRequirement` say it."""

import pytest

from spillway.core.scheduling import ANYWHERE, Constraints, Requirement, Taint, Toleration

SPOT = Taint("spot", "true")
LABELS = {"gpu": "h100", "size": "8", "zone": "a"}


def need(key: str, operator: str, *values: str) -> Requirement:
    return Requirement(key=key, operator=operator, values=values)


@pytest.mark.parametrize(
    ("toleration", "covers"),
    [
        pytest.param(Toleration(key="spot", value="true"), True, id="equal"),
        pytest.param(Toleration(key="spot", value="yes"), False, id="another value"),
        pytest.param(Toleration(key="spot"), False, id="no value is the empty one"),
        pytest.param(Toleration(key="gpu", value="true"), False, id="another key"),
        pytest.param(Toleration(key="spot", operator="Exists"), True, id="any value"),
        pytest.param(Toleration(key="gpu", operator="Exists"), False, id="any value of another key"),
        pytest.param(Toleration(operator="Exists"), True, id="everything"),
        pytest.param(Toleration(key="spot", value="true", effect="NoSchedule"), True, id="the same effect"),
        pytest.param(Toleration(key="spot", value="true", effect="NoExecute"), False, id="another effect"),
        pytest.param(Toleration(operator="Exists", effect="NoExecute"), False, id="all of another effect"),
    ],
)
def test_a_toleration_covers_a_taint(toleration: Toleration, covers: bool) -> None:
    assert toleration.covers(SPOT) is covers


@pytest.mark.parametrize(
    ("requirement", "holds"),
    [
        pytest.param(need("gpu", "In", "h100", "h200"), True, id="in"),
        pytest.param(need("gpu", "In", "a100"), False, id="in, another value"),
        pytest.param(need("model", "In", "h100"), False, id="in, no such label"),
        pytest.param(need("gpu", "NotIn", "h100"), False, id="not in"),
        pytest.param(need("gpu", "NotIn", "a100"), True, id="not in, another value"),
        pytest.param(need("model", "NotIn", "h100"), True, id="not in, no such label"),
        pytest.param(need("gpu", "Exists"), True, id="exists"),
        pytest.param(need("model", "Exists"), False, id="exists, no such label"),
        pytest.param(need("gpu", "DoesNotExist"), False, id="does not exist"),
        pytest.param(need("model", "DoesNotExist"), True, id="does not exist, no such label"),
        pytest.param(need("size", "Gt", "7"), True, id="greater"),
        pytest.param(need("size", "Gt", "8"), False, id="not greater than itself"),
        pytest.param(need("size", "Lt", "10"), True, id="less, as numbers and not as text"),
        pytest.param(need("size", "Lt", "8"), False, id="not less than itself"),
        pytest.param(need("gpu", "Gt", "7"), False, id="no number"),
        pytest.param(need("size", "Gt"), False, id="nothing to compare with"),
        pytest.param(need("model", "Lt", "7"), False, id="less, no such label"),
        pytest.param(need("gpu", "Matches", "h100"), False, id="an operator that nobody knows"),
    ],
)
def test_a_requirement_holds_for_labels(requirement: Requirement, holds: bool) -> None:
    assert requirement.holds(LABELS) is holds


@pytest.mark.parametrize(
    ("constraints", "accepts"),
    [
        pytest.param(ANYWHERE, True, id="asks for nothing"),
        pytest.param(Constraints(node_selector={"gpu": "h100", "zone": "a"}), True, id="selector"),
        pytest.param(Constraints(node_selector={"gpu": "h100", "zone": "b"}), False, id="half a selector"),
        pytest.param(
            Constraints(terms=((need("zone", "In", "b"),), (need("gpu", "In", "h100"),))), True, id="either term"
        ),
        pytest.param(
            Constraints(terms=((need("gpu", "In", "h100"), need("zone", "In", "b")),)), False, id="all of a term"
        ),
        pytest.param(
            Constraints(node_selector={"zone": "b"}, terms=((need("gpu", "In", "h100"),),)), False, id="both ask"
        ),
    ],
)  # fmt: skip
def test_a_pod_accepts_nodes_by_their_labels(constraints: Constraints, accepts: bool) -> None:
    assert constraints.accepts(LABELS, ()) is accepts


@pytest.mark.parametrize(
    ("taints", "accepts"),
    [
        pytest.param((), True, id="none"),
        pytest.param((SPOT,), True, id="a tolerated one"),
        pytest.param((SPOT, Taint("gpu", "true")), False, id="one more than is tolerated"),
        pytest.param((Taint("spot", "true", "NoExecute"),), True, id="tolerated with every effect"),
        pytest.param((Taint("gpu", "true", "PreferNoSchedule"),), True, id="one that only ranks"),
    ],
)
def test_every_taint_that_keeps_pods_out_must_be_tolerated(taints: tuple[Taint, ...], accepts: bool) -> None:
    found = Constraints(tolerations=(Toleration(key="spot", value="true"),))

    assert found.accepts(LABELS, taints) is accepts
