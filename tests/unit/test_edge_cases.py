"""The page of edge cases says what the markers say."""

from pathlib import Path

import pytest
from tests.edge_cases import FOLDER, WORDS, Case, CasesDisagree, check, read_cases, read_markers, render

PAGE = FOLDER.parent / "docs/reference/edge-cases.md"
PROVEN = Case(list="node-and-spot", id="E1", words="one")


def test_the_committed_page_is_what_the_tests_give() -> None:
    cases, markers = read_cases(WORDS), read_markers(FOLDER)

    check(cases, markers)
    assert PAGE.read_text(encoding="utf-8") == render(cases, markers)


def test_markers_are_found_on_functions_rows_classes_and_in_tables(tmp_path: Path) -> None:
    folder = tmp_path / "tests"
    folder.mkdir()
    (folder / "test_it.py").write_text(
        "import pytest\n"
        "ROWS = [pytest.param(1, marks=pytest.mark.case('a E1'))]\n"
        "@pytest.mark.case('a E2')\n"
        "def test_one(): ...\n"
        "@pytest.mark.parametrize('x', [pytest.param(1, marks=pytest.mark.case('a E3'))])\n"
        "async def test_two(x): ...\n"
        "class TestMore:\n"
        "    @pytest.mark.case('a E2')\n"
        "    def test_three(self): ...\n"
    )

    assert read_markers(folder) == {
        "a E1": ("tests/test_it.py",),
        "a E2": ("tests/test_it.py::test_one", "tests/test_it.py::TestMore::test_three"),
        "a E3": ("tests/test_it.py::test_two",),
    }


@pytest.mark.parametrize(
    ("case", "markers", "told"),
    [
        pytest.param(PROVEN, {"node-and-spot E9": ("t.py::t",)}, "'node-and-spot E9', which is not in", id="unknown"),
        pytest.param(PROVEN, {}, "node-and-spot E1 has no test", id="neither test nor reason"),
        pytest.param(
            Case(list="node-and-spot", id="E1", words="one", why_not="later"),
            {"node-and-spot E1": ("t.py::t",)},
            "take its reason out",
            id="a reason beside a test",
        ),
    ],
)  # fmt: skip
def test_a_list_that_does_not_fit_the_markers_is_refused(
    case: Case, markers: dict[str, tuple[str, ...]], told: str
) -> None:
    with pytest.raises(CasesDisagree, match=told):
        check((case,), markers)


def test_a_case_without_a_test_says_why() -> None:
    case = Case(list="node-and-spot", id="E1", words="one", why_not="waits for a cloud")

    assert "| E1 | one | none: waits for a cloud |" in render((case,), {})
