"""The documentation says what the code says, and its links lead somewhere."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from spillway.api.conditions import ConditionType, reasons_of
from spillway.api.reason_texts import REASON_TEXTS
from spillway.app import reference as app_reference
from spillway.app.settings import PREFIX, Settings, section_of
from spillway.cli import reference as cli_reference
from spillway.cli.main import main as spillway
from spillway.core.plan import Cause, LimitReason

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
PAGES = tuple(sorted((*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))))
REGENERATE = "run `make generate` and commit what it writes"

LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
MACHINE_PATH = re.compile(r"/(?:work|root|home)/|\.library|\b/tmp/[a-z]+-[a-z]+-\w{8}\b")


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def links(page: Path) -> Iterator[str]:
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    return (link for link in LINK.findall(text) if not re.match(r"[a-z]+:", link))


def anchors(page: Path) -> set[str]:
    """Return the fragments that GitHub gives the headings of *page*."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in HEADING.findall(text)}


def leads_somewhere(page: Path, link: str) -> bool:
    path, _, fragment = link.partition("#")
    target = (page.parent / path) if path else page
    if not target.exists():
        return False
    return not fragment or fragment in anchors(target)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    broken = [link for link in links(page) if not leads_somewhere(page, link)]

    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_no_page_names_a_path_of_somebodys_machine(page: Path) -> None:
    assert MACHINE_PATH.findall(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("file", "generated"),
    [
        pytest.param("metrics.md", app_reference.metrics_page(), id="metrics"),
        pytest.param("settings.md", app_reference.settings_page(), id="settings"),
        pytest.param("cli.md", cli_reference.render(), id="command line"),
    ],
)
def test_the_committed_reference_is_what_the_code_gives(file: str, generated: str) -> None:
    assert (REFERENCE / file).read_text(encoding="utf-8") == generated, REGENERATE


def test_every_reason_stands_in_the_field_reference() -> None:
    page = (REFERENCE / "api.md").read_text(encoding="utf-8")
    words = (
        {reason for condition in ConditionType for reason in reasons_of(condition)}
        | {*LimitReason}
        | {*Cause}
    )

    assert {str(word) for word in words if f"| `{word}` |" not in page} == set()


def test_every_reason_with_something_to_check_stands_in_troubleshooting() -> None:
    page = (ROOT / "docs" / "operations" / "troubleshooting.md").read_text(encoding="utf-8")

    assert {word for word, text in REASON_TEXTS.items() if text.check and f"`{word}`" not in page} == set()


def test_every_metric_family_stands_in_the_reference() -> None:
    page = (REFERENCE / "metrics.md").read_text(encoding="utf-8")
    missing = {name for name, *_ in app_reference.families() if f"| `{name}` |" not in page}

    assert missing == set()


def test_every_setting_stands_in_the_reference_with_its_variable() -> None:
    page = (REFERENCE / "settings.md").read_text(encoding="utf-8")
    wanted = [name for name, field in Settings.model_fields.items() if section_of(field) is None]
    missing = {name for name in wanted if f"`{PREFIX}{name.upper()}`" not in page}

    assert missing == set()


def test_every_command_stands_in_the_reference() -> None:
    page = (REFERENCE / "cli.md").read_text(encoding="utf-8")

    assert {name for name in spillway.commands if f"## spillway {name}\n" not in page} == set()
