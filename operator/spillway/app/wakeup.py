"""The two small things that collectors and the Lease tell the loop: that there is news, and whose turn it is."""

import asyncio


class Wakeup:
    """A flag that anything may raise and only the loop lowers."""

    def __init__(self) -> None:
        self._raised = asyncio.Event()

    def wake(self, _cause: str) -> None:
        """Ask for a pass soon; cheap, so it may be called for every event."""
        self._raised.set()

    async def wait(self, *, seconds: float) -> None:
        """Return when somebody woke, or after *seconds*; lowers the flag."""
        try:
            async with asyncio.timeout(seconds):
                await self._raised.wait()
        except TimeoutError:
            return
        finally:
            self._raised.clear()


class Leadership:
    """Counts terms: every gain or loss of the Lease begins a new one, in which nothing of the last may be used."""

    def __init__(self, wakeup: Wakeup) -> None:
        self.term = 0
        self.leads = False
        self._wakeup = wakeup

    def gained(self) -> None:
        """The Lease became ours."""
        self._turn(leads=True)

    def lost(self) -> None:
        """The Lease is not ours any more."""
        self._turn(leads=False)

    def _turn(self, *, leads: bool) -> None:
        self.term += 1
        self.leads = leads
        self._wakeup.wake("lease")
