"""What holds for every test."""

import asyncio


def pytest_configure() -> None:
    # looptime asks for the current loop before every test. Without this, Python makes one up for the first plain test, and nobody
    # closes it: a ResourceWarning that fails whichever test happens to run when it is collected.
    asyncio.set_event_loop(None)
