"""A machine of a pool, and all that a pool of the market remembers; frozen, so that it can be saved as it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from spillway.adapters.cloud.simulated.faults import ApiFault, Refuse
from spillway.adapters.cloud.simulated.spec import BootDelay
from spillway.core.model import Instance, InstanceState, PoolState, Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A machine was told at `at` that it ends at `ends_at`."""

    at: datetime
    ends_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One machine, from its request on. `node` is its Node's name, from the start, though it joins only when it runs.

    `due_at` is when its state changes by itself, None for never. `granted_at` is when its bill began, `gpus_at` when its GPUs
    show; both are None before. `joined` says that the cluster has a Node of it, `boot_id` changes when it comes back under the
    same name.
    """

    id: str
    node: str
    state: InstanceState
    since: datetime
    zone: str = ""
    boot_id: str = ""
    granted_at: datetime | None = None
    due_at: datetime | None = None
    gpus_at: datetime | None = None
    notice: Notice | None = None
    joined: bool = False

    @property
    def exists(self) -> bool:
        """Whether it was granted; a removed one exists until it has stopped."""
        return self.state is not InstanceState.REQUESTED

    @property
    def counts(self) -> bool:
        """Whether it is one of those that the pool is asked for."""
        return self.state is not InstanceState.STOPPING

    @property
    def next_at(self) -> datetime | None:
        """When something next happens to it by itself."""
        end = None if self.notice is None else self.notice.ends_at
        times = [at for at in (self.due_at, end) if at is not None]
        return min(times, default=None)

    def billed(self, now: datetime, least: timedelta) -> timedelta:
        """Return what it is billed for up to *now*, as if it ended then; nothing before it was granted."""
        return timedelta(0) if self.granted_at is None else max(least, now - self.granted_at)

    def as_instance(self) -> Instance:
        """Return what the provider's API says of it."""
        node = self.node if self.joined else ""
        return Instance(id=self.id, state=self.state, since=self.since, node=node, zone=self.zone)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRecord:
    """Everything that a pool remembers; with its `PoolSpec` it is the whole pool.

    `machines` are oldest first, and those that count are always `desired` in number. `serial` counts requests for ever.
    `next_try_at` is when those not granted are tried, None while there are none. `billed` is for machines that have ended.
    `limits` are capacities by zone that were changed since the start; None is no limit. `ghosts` are Nodes left behind by
    machines that are gone, with the time. `stale` is what `describe` says while a fault makes it stale.
    """

    desired: int = 0
    machines: tuple[Machine, ...] = ()
    serial: int = 0
    next_try_at: datetime | None = None
    refusals: tuple[Refusal, ...] = ()
    billed: timedelta = timedelta(0)
    ghosts: Mapping[str, datetime] = field(default_factory=dict)
    limits: Mapping[str, int | None] = field(default_factory=dict)
    refuse: Refuse | None = None
    boot: BootDelay | None = None
    never_boots: bool = False
    leaves_nodes: bool = False
    api_fault: ApiFault | None = None
    stale: PoolState | None = None

    @property
    def next_at(self) -> datetime | None:
        """When something next happens by itself, None if nothing will."""
        times = [at for machine in self.machines if (at := machine.next_at) is not None]
        if self.next_try_at is not None:
            times.append(self.next_try_at)
        return min(times, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What a pool cost so far. `cost` is in the price's money, None where the pool has no price."""

    machine_time: timedelta
    cost: Decimal | None
