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
        "capacity.missedLoadPercent": "0.1",
        "capacity.fallback.policy": FallbackPolicy.ON_DEMAND.value,
        "capacity.fallback.refusedConfirmSeconds": 30,
        "capacity.fallback.provisionTimeoutSeconds": 180,
        "capacity.fallback.bootDeadlineSeconds": 600,
        "capacity.fallback.returnProbeSeconds": 180,
        "capacity.fallback.returnStableSeconds": 30,
        "capacity.fallback.minResidencySeconds": 60,
    }
)
"""Every setting that a policy can default, by its path in `spec`; None means "not set", or another setting (see `FOLLOWS`)."""

FOLLOWS: Final[Mapping[str, str]] = MappingProxyType({"capacity.baselineReplicas": "minReplicas"})
"""Settings whose built-in is whatever another setting came to."""

SIGNAL_NAME: Final = "gpu"
HIGH_PERCENT: Final = 80
