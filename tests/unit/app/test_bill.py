"""What a defect in the bill may cost: figures, and nothing else."""

import pytest
from tests.builders import make_node, make_pool, make_snapshot

from spillway.app.loop import _bill
from spillway.core.cost import Bill


def test_a_bill_that_cannot_be_drawn_is_empty_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    broken = make_pool(selector={})  # the schema forbids it

    assert _bill(make_snapshot(nodes=(make_node(),), pools=(broken,))) == Bill()
    assert "what the fleet costs is unknown in this pass" in caplog.text
