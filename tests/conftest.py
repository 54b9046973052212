"""What holds for every test."""

import asyncio

import pytest

from tests.cluster import binaries


def pytest_configure() -> None:
    # looptime asks for the current loop before every test. Without this, Python makes one up for the first plain test, and nobody
    # closes it: a ResourceWarning that fails whichever test happens to run when it is collected.
    asyncio.set_event_loop(None)


# Fixtures that need the programs which `tests.cluster.binaries` builds.
BUILT = {"built", "offline_helm"}


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what is missing before the first test starts: minutes of building are no test's time."""
    wanted = any(BUILT & set(getattr(item, "fixturenames", ())) for item in session.items)
    if not wanted or session.config.option.collectonly:
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    try:
        with capture.global_and_fixture_disabled():
            binaries.ensure()
    except binaries.CannotBuild as exc:
        pytest.exit(str(exc), returncode=1)
