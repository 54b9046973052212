"""How the house is built: where packages begin, and which way imports go."""

import ast
import subprocess
import sys
from pathlib import Path

HOUSE = Path(__file__).parents[2]
CORE = HOUSE / "operator" / "spillway" / "core"


def test_the_source_root_is_no_package() -> None:
    """With an __init__.py there, `import operator` would find our folder instead of the standard library."""
    assert not (HOUSE / "operator" / "__init__.py").exists()


def test_imports_go_one_way() -> None:
    linter = Path(sys.executable).with_name("lint-imports")

    found = subprocess.run(
        [linter, "--no-cache"], cwd=HOUSE, capture_output=True, text=True, timeout=60, check=False
    )

    assert found.returncode == 0, found.stdout


def test_core_imports_the_standard_library_only() -> None:
    foreign = {
        (path.name, module)
        for path in CORE.glob("*.py")
        for module in _imported(path)
        if module.split(".")[0] not in sys.stdlib_module_names and not module.startswith("spillway.core")
    }

    assert foreign == set()


def test_core_has_no_clock_no_chance_and_no_log() -> None:
    barred = {
        "time",
        "random",
        "secrets",
        "asyncio",
        "threading",
        "logging",
        "os",
        "sys",
        "socket",
        "subprocess",
    }

    assert {module for path in CORE.glob("*.py") for module in _imported(path)} & barred == set()


def test_core_never_asks_for_the_time() -> None:
    asking = {"now", "utcnow", "today", "monotonic"}
    calls = {
        (path.name, node.func.attr)
        for path in CORE.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in asking
    }

    assert calls == set()


def _imported(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module or "")
    return modules
