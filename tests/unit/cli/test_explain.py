"""`spillway explain`, as a person reads it."""

from datetime import UTC, datetime
from typing import Any

import pytest

from spillway.cli.explain import render

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TIERS = {
    "onDemand": 4, "fallback": 2, "burst": 6, "readyOnDemand": 4, "readyBurst": 4, "booting": 0, "refused": 2,
    "doomed": 0, "broken": 0, "twin": "llm-burst",
}  # fmt: skip
POOL: dict[str, Any] = {
    "name": "spot-a",
    "reason": "Refused",
    "why": "1 node, 2 needed; no capacity",
    "closed": {"reason": "Refused", "message": "no capacity", "until": "2026-03-01T12:05:00Z"},
}
PLACEMENT: dict[str, Any] = {
    "tiers": TIERS,
    "pools": [POOL],
    "burst": {
        "reason": "Bursting",
        "message": "What is above the baseline goes to spot (spot-a)",
        "active": True,
    },
    "fallback": {"reason": "SpotRefused", "message": "2 replicas stand in on demand", "active": True},
    "baselineIsolated": {"reason": "Isolated", "message": "Nothing else reaches spot", "active": True},
}
DOCUMENT: dict[str, Any] = {
    "workload": "chat/llm",
    "target": "Deployment/llm",
    "at": "2026-03-01T12:00:00Z",
    "mode": "Enforce",
    "current": 8,
    "desired": 8,
    "replicas": {"ready": 8, "settled": 8, "loading": 0, "unschedulable": 2, "broken": 0},
    "signal": {"text": "0.70/0.80", "state": "Fresh", "message": "8 of 8 pods", "ageSeconds": 3.0},
    "proposal": {"replicas": 8, "cause": "WithinBand", "message": "8 fit"},
    "limits": [],
    "reason": "WithinBand",
    "why": "8 fit",
    "confirming": None,
    "inactive": None,
    "conflict": None,
    "capacity": None,
    "placement": PLACEMENT,
    "cost": None,
    "breaker": {"open": False, "lost": 0, "active": 1},
    "settings": [],
}


def told(**over: Any) -> list[str]:  # noqa: ANN401 - any JSON
    return list(render({**DOCUMENT, **over}, now=NOW))


def test_the_split_is_told_in_words_with_why_some_stand_in_on_demand() -> None:
    lines = told()

    assert "  tiers     4 on demand, 2 of them for spot: 4 ready" in lines
    assert "            6 on spot in llm-burst: 4 ready, 2 refused" in lines
    assert "  burst     Bursting: What is above the baseline goes to spot (spot-a)" in lines
    assert "  fallback  SpotRefused: 2 replicas stand in on demand" in lines


def test_a_pool_that_refuses_is_told_with_when_it_is_tried_again() -> None:
    lines = told()

    place = lines.index("  pools     spot-a  Refused: 1 node, 2 needed; no capacity")
    assert lines[place + 1] == "              is tried again at 2026-03-01T12:05:00Z (in 300 s)"


def test_a_pool_that_is_steady_and_closed_says_both() -> None:
    closed = {"reason": "AtMax", "message": "maxNodes is 1", "until": None}
    pool = {**POOL, "reason": "Steady", "why": "1 node, 1 needed", "closed": closed}

    lines = told(placement={**PLACEMENT, "pools": [pool]})

    place = lines.index("  pools     spot-a  Steady: 1 node, 1 needed")
    assert lines[place + 1] == "              takes no more nodes  AtMax: maxNodes is 1"


@pytest.mark.parametrize("missing", ["placement", "closed"])
def test_a_document_of_an_older_operator_is_told_without_what_it_lacks(missing: str) -> None:
    document = {key: value for key, value in DOCUMENT.items() if key != missing}
    if missing == "closed":
        pool = {key: value for key, value in POOL.items() if key != "closed"}
        document = {**DOCUMENT, "placement": {**PLACEMENT, "pools": [pool]}}

    lines = list(render(document, now=NOW))

    assert lines[0].startswith("chat/llm → Deployment/llm")
    assert not any("tried again" in line for line in lines)
