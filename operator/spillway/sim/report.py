"""The HTML report of a comparison: one file that needs no network, drawn by a few lines of plain JavaScript.

It holds the rows of the traces it was made of: a report of a trace that may not be passed on is not to be passed on either.
"""

import json
from html import escape
from importlib.resources import files
from typing import Any, Final

from spillway.sim.results import Results, document
from spillway.sim.world import Score

TEMPLATE: Final = "report.html"


def render(results: Results, *, title: str, facts: str) -> str:
    """Return the page. *title* and *facts* (what was run, in a sentence) are plain text; one run should have kept its series."""
    page = files("spillway.sim").joinpath(TEMPLATE).read_text(encoding="utf-8")
    data = {**document(results), "series": _series(results.scores)}
    filled = page.replace("@TITLE@", escape(title)).replace("@FACTS@", escape(facts))
    return filled.replace("@DATA@", _in_script(data))


def _series(scores: tuple[Score, ...]) -> dict[str, Any] | None:
    """Return the first series that was kept, or None: seconds, load, ready on demand, ready on spot."""
    for found in scores:
        if found.series:
            points = [[seconds, round(load, 3), *ready] for seconds, load, *ready in found.series]
            return {"policy": found.policy, "points": points}
    return None


def _in_script(data: dict[str, Any]) -> str:
    """Return JSON that may stand inside a script element: nothing in it can end the element."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
