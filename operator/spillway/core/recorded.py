"""What metrics recorded of a workload at one time in the past, and the load that follows from it."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedInstant:
    """One workload with its burst twin, as a mean of the minute before `at`. What was not recorded is None, never 0.

    `sampled` pods had a GPU utilization that can be trusted, `sampled_burst` of them belong to the twin. `ready` counts the pods
    that were Ready; where no readiness was recorded it is None, and every pod with samples counts as one that serves. `serving`
    pods were both, and `busy` is the sum of their utilizations, each 0 to 1. `asked` is what its Deployments were set to.
    """

    at: datetime
    sampled: int = 0
    sampled_burst: int = 0
    ready: int | None = None
    serving: int = 0
    busy: float = 0.0
    asked: int | None = None

    @property
    def utilization(self) -> float | None:
        """Mean utilization of what served, None where that is not known."""
        return self.busy / self.serving if self.serving else None

    @property
    def load(self) -> float | None:
        """Load in replicas: mean utilization × Ready replicas. None where it is not known.

        Pods that were Ready without samples count at the mean of the others. Nothing was wanted of a workload that was set to
        0 replicas; one that was set to more and served nothing had a load that nobody measured.
        """
        # Ready 3, two of them sampled at 90 % and 60 %: (0.9 + 0.6) / 2 × 3 = 2.25
        ready = self.sampled if self.ready is None else self.ready
        if not ready:
            return 0.0 if self.asked == 0 else None
        return None if self.utilization is None else self.utilization * ready

    @property
    def held(self) -> int:
        """Replicas that held GPUs: all with samples, or the Ready ones where those are more. Loading ones are paid, too."""
        return max(self.sampled, self.ready or 0)
