"""The file of `spillway market --pools`: which pools there are and how they behave."""

from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.alias_generators import to_camel

from spillway.adapters.cloud.simulated import BootDelay, NodeShape, NoticeStyle, PoolSpec
from spillway.core.model import CapacityType
from spillway.core.scheduling import Taint

# A Node is named POOL-ID and carries its name as a label, which holds 63 characters.
NAME: Final = r"[a-z0-9]([-a-z0-9]{0,48}[a-z0-9])?"
USUAL_ALLOCATABLE: Final = {"cpu": "96", "memory": "1Ti", "pods": "110"}

Seconds = Annotated[float, Field(ge=0, le=7 * 86_400)]
Nodes = Annotated[int, Field(ge=0, le=10_000)]


class PoolsFileError(ValueError):
    """The file cannot be used; the message names it, what is wrong in it, and where."""


class _Entry(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, frozen=True, extra="forbid")


class _TaintEntry(_Entry):
    key: str
    value: str = ""
    effect: str = "NoSchedule"


class _NodeEntry(_Entry):
    gpus: int = Field(default=8, ge=0, le=1024)
    gpu_resource: str = "nvidia.com/gpu"
    gpu_model: str = ""
    allocatable: dict[str, str] = Field(default_factory=lambda: dict(USUAL_ALLOCATABLE))
    labels: dict[str, str] = Field(default_factory=dict)
    taints: tuple[_TaintEntry, ...] = ()


class _SpreadEntry(_Entry):
    least: Seconds
    most: Seconds


class _PoolEntry(_Entry):
    name: str = Field(pattern=rf"^{NAME}$")
    capacity_type: CapacityType = CapacityType.ON_DEMAND
    zones: tuple[str, ...] = Field(default=("zone-a",), min_length=1)
    min_nodes: Nodes = 0
    max_nodes: Nodes = 1000
    start_nodes: Nodes = 0
    capacity: Nodes | None = None
    boot_seconds: Seconds | _SpreadEntry = 0.0
    answer_seconds: Seconds = 0.0
    gpu_delay_seconds: Seconds = 0.0
    notice_seconds: Seconds = 120.0
    notice_style: NoticeStyle = NoticeStyle.AWS
    stop_seconds: Seconds = 0.0
    retry_seconds: float = Field(default=30.0, ge=0.1, le=86_400)
    least_billed_seconds: Seconds = 60.0
    price_per_hour: Decimal | None = Field(default=None, ge=0)
    node: _NodeEntry = Field(default_factory=_NodeEntry)

    def as_spec(self) -> PoolSpec:
        node = self.node
        return PoolSpec(
            name=self.name,
            capacity_type=self.capacity_type,
            zones=self.zones,
            min_nodes=self.min_nodes,
            max_nodes=self.max_nodes,
            start_nodes=self.start_nodes,
            capacity=self.capacity,
            boot=_boot_delay(self.boot_seconds),
            answer=_span(self.answer_seconds),
            gpu_delay=_span(self.gpu_delay_seconds),
            notice=_span(self.notice_seconds),
            notice_style=self.notice_style,
            stop=_span(self.stop_seconds),
            retry=_span(self.retry_seconds),
            least_billed=_span(self.least_billed_seconds),
            price_per_hour=self.price_per_hour,
            node=NodeShape(
                gpus=node.gpus,
                gpu_resource=node.gpu_resource,
                gpu_model=node.gpu_model,
                allocatable=node.allocatable,
                labels=node.labels,
                taints=tuple(Taint(taint.key, taint.value, taint.effect) for taint in node.taints),
            ),
        )


class _PoolsFile(_Entry):
    seed: int = 0
    pools: tuple[_PoolEntry, ...] = Field(min_length=1)

    @field_validator("pools")
    @classmethod
    def _has_each_once(cls, pools: tuple[_PoolEntry, ...]) -> tuple[_PoolEntry, ...]:
        names = [pool.name for pool in pools]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two pools are named {', '.join(twice)}")
        return pools


def read_pools(path: Path) -> tuple[int, tuple[PoolSpec, ...]]:
    """Return the seed and the pools of a file; raises `PoolsFileError` with every problem at once."""
    try:
        document: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        read = _PoolsFile.model_validate(document)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise PoolsFileError(f"cannot read pools from {path}: {' '.join(str(exc).split())}") from exc
    except ValidationError as exc:
        problems = [
            f"{'.'.join(str(part) for part in error['loc']) or 'the file'}: {error['msg']}"
            for error in exc.errors()
        ]
        raise PoolsFileError(f"cannot use {path}: {'; '.join(problems)}") from exc
    return read.seed, tuple(pool.as_spec() for pool in read.pools)


def _boot_delay(seconds: float | _SpreadEntry) -> BootDelay:
    if isinstance(seconds, _SpreadEntry):
        least, most = sorted((seconds.least, seconds.most))
        return BootDelay(least=_span(least), most=_span(most))
    return BootDelay.fixed(_span(seconds))


def _span(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)
