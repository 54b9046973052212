"""What a pool of the market is: its terms, its machines, and how long things take there."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final

from spillway.core.model import CapacityType
from spillway.core.scheduling import Taint


class NoticeStyle(StrEnum):
    """How a machine's end is told in the cluster (node-and-spot 2.2)."""

    AWS = "Aws"  # the taint of the AWS Node Termination Handler
    GCP = "Gcp"  # the kubelet: Ready=False, "node is shutting down"
    AZURE = "Azure"  # the condition PreemptionScheduled
    SILENT = "Silent"  # not at all


@dataclass(frozen=True, slots=True, kw_only=True)
class BootDelay:
    """How long a machine takes from being granted to joining the cluster: evenly spread between two bounds."""

    least: timedelta
    most: timedelta

    @classmethod
    def fixed(cls, delay: timedelta) -> "BootDelay":
        """The same for every machine."""
        return cls(least=delay, most=delay)

    def draw(self, chance: random.Random) -> timedelta:
        """Return one machine's delay."""
        return self.least + (self.most - self.least) * chance.random()


AT_ONCE: Final = BootDelay(least=timedelta(0), most=timedelta(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeShape:
    """The Node of a machine. `allocatable` holds quantities as Kubernetes writes them, without the GPUs."""

    gpus: int = 8
    gpu_resource: str = "nvidia.com/gpu"
    gpu_model: str = ""
    allocatable: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSpec:
    """One pool. `capacity` is how many machines can be had in each zone, None for no limit; `start_nodes` are there from the start.

    `answer` is how long a request waits until it is granted or refused, `gpu_delay` how long after joining a machine shows its
    GPUs, `notice` how long before its end it is told, `stop` how long a removed machine still takes to end. A size that is not
    reached is tried again every `retry`, as an Auto Scaling group does. A machine is billed from its grant to its end, booting
    included, and for `least_billed` at least.
    """

    name: str
    capacity_type: CapacityType = CapacityType.ON_DEMAND
    zones: tuple[str, ...] = ("zone-a",)
    min_nodes: int = 0
    max_nodes: int = 1000
    start_nodes: int = 0
    capacity: int | None = None
    boot: BootDelay = AT_ONCE
    answer: timedelta = timedelta(0)
    gpu_delay: timedelta = timedelta(0)
    notice: timedelta = timedelta(seconds=120)
    notice_style: NoticeStyle = NoticeStyle.AWS
    stop: timedelta = timedelta(0)
    retry: timedelta = timedelta(seconds=30)
    least_billed: timedelta = timedelta(seconds=60)
    price_per_hour: Decimal | None = None
    node: NodeShape = field(default_factory=NodeShape)

    def __post_init__(self) -> None:
        """Raise ValueError where the pool could not work at all."""
        if not self.zones:
            raise ValueError(f"pool {self.name} has no zone; give at least one")
        if self.retry <= timedelta(0):
            raise ValueError(
                f"pool {self.name}: retry is {self.retry}; it must be above 0, or it would try for ever"
            )
