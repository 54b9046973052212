"""The built-ins: what holds where neither the GpuWorkload nor a policy says otherwise. Typed once, here.

They are not schema defaults: the API server would write those into every object, and no policy could ever apply.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from spillway.core.model import Burst, FallbackPolicy, Mode

SPEC_DEFAULTS: Final[Mapping[str, int | str | None]] = MappingProxyType(
    {
        "mode": Mode.ENFORCE.value,
        "minReplicas": 1,
        "whenMetricsMissing.afterSeconds": 180,
        "whenMetricsMissing.replicas": None,
        "scaleUp.windowSeconds": 30,
        "scaleUp.maxIncreasePercent": 100,
        "scaleUp.maxIncreaseReplicas": 4,
        "scaleUp.cooldownSeconds": 60,
        "scaleDown.windowSeconds": 300,
        "scaleDown.maxDecreasePercent": 20,
        "scaleDown.maxDecreaseReplicas": 1,
        "scaleDown.cooldownSeconds": 300,
        "readiness.settleSeconds": 60,
        "readiness.loadGraceSeconds": 600,
        "capacity.baselineReplicas": None,
        "capacity.burst": Burst.NEVER.value,
        "capacity.fallback.policy": FallbackPolicy.ON_DEMAND.value,
        "capacity.fallback.refusedConfirmSeconds": 30,
        "capacity.fallback.provisionTimeoutSeconds": 180,
        "capacity.fallback.bootDeadlineSeconds": 600,
        "capacity.fallback.returnProbeSeconds": 600,
        "capacity.fallback.returnStableSeconds": 300,
        "capacity.fallback.minResidencySeconds": 1200,
    }
)
"""Every setting that a policy can default, by its path in `spec`; None means "not set", or another setting (see `FOLLOWS`)."""

FOLLOWS: Final[Mapping[str, str]] = MappingProxyType({"capacity.baselineReplicas": "minReplicas"})
"""Settings whose built-in is whatever another setting came to."""

SIGNAL_NAME: Final = "gpu"
HIGH_PERCENT: Final = 80
LOW_PERCENT: Final = 40


def low_percent_for(high_percent: int) -> int:
    """Return the built-in low mark, always below *high_percent* (2 to 99).

    It is `LOW_PERCENT`, and half of the high mark for a user who sets that one at or below it: high 40 gives 20.
    """
    return LOW_PERCENT if high_percent > LOW_PERCENT else high_percent // 2
