"""The load that follows from what was recorded at one time, and when none does."""

from datetime import UTC, datetime

import pytest

from spillway.core.recorded import RecordedInstant


def recorded(**facts: float | None) -> RecordedInstant:
    return RecordedInstant(at=datetime(2026, 11, 1, tzinfo=UTC), **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("facts", "load"),
    [
        pytest.param({"sampled": 2, "serving": 2, "busy": 1.5}, 1.5, id="no readiness: the sum"),
        pytest.param({"sampled": 2, "ready": 3, "serving": 2, "busy": 1.5}, 2.25, id="one without samples"),
        pytest.param({"sampled": 3, "ready": 2, "serving": 2, "busy": 1.5}, 1.5, id="one loads"),
        pytest.param({"sampled": 1, "ready": 1, "serving": 1, "busy": 0.0}, 0.0, id="idle"),
        pytest.param({}, None, id="nothing recorded"),
        pytest.param({"ready": 2}, None, id="ready and not sampled"),
        pytest.param({"ready": 0, "asked": 2}, None, id="nothing serves of two"),
        pytest.param({"sampled": 1, "ready": 0, "asked": 2}, None, id="only loading ones"),
        pytest.param({"ready": 0}, None, id="nothing serves, nobody knows of how many"),
        pytest.param({"asked": 0}, 0.0, id="set to 0"),
        pytest.param({"sampled": 1, "serving": 1, "busy": 0.5, "asked": 0}, 0.5, id="set to 0, one left"),
    ],
)
def test_load_is_mean_utilization_times_ready_replicas(
    facts: dict[str, float | None], load: float | None
) -> None:
    assert recorded(**facts).load == load


@pytest.mark.parametrize(
    ("facts", "held"),
    [
        pytest.param({"sampled": 3, "ready": 2}, 3, id="one loads"),
        pytest.param({"sampled": 1, "ready": 2}, 2, id="one without samples"),
        pytest.param({"sampled": 2}, 2, id="no readiness"),
    ],
)
def test_what_holds_gpus_is_paid_whether_it_serves_or_not(facts: dict[str, float | None], held: int) -> None:
    assert recorded(**facts).held == held
