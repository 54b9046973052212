"""The market: its pools, the calls that a provider's API offers, and the controls of whoever plays the world."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from spillway.adapters.cloud.base import (
    AlreadyGranted,
    AtMaximum,
    AtMinimum,
    DesiredChanged,
    InstanceNotFound,
    PoolNotFound,
    Rejected,
    WrongNode,
)
from spillway.adapters.cloud.simulated.faults import NO_CAPACITY, ApiFault, ApiFaultKind, Refuse
from spillway.adapters.cloud.simulated.machines import Bill, Machine, PoolRecord
from spillway.adapters.cloud.simulated.pool import MarketPool
from spillway.adapters.cloud.simulated.spec import BootDelay, PoolSpec
from spillway.core.model import InstanceState, PoolState

TOKEN_LIFE: Final = timedelta(minutes=15)  # promised are 10: longer than any caller keeps asking


class StateMismatch(ValueError):
    """A saved record and the pools given do not belong together; says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedToken:
    """A change that was made: asked for with `token` at `at`; `what` it was, so that no token serves two purposes."""

    pool: str
    token: str
    what: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketRecord:
    """Everything that a market remembers, for saving."""

    seed: int
    at: datetime
    pools: Mapping[str, PoolRecord]
    tokens: tuple[UsedToken, ...] = field(default_factory=tuple)


class Market:
    """Pools of machines, as a cloud's API shows them. Every call is told the time, which never runs backwards.

    The first group of methods is the API (`adapters.cloud.base.Provider`, less the waiting); it raises that module's errors.
    The second plays the world: capacity that ends, machines taken back, people who resize. The same seed and the same calls
    give the same machines. With *record* the market goes on where that one stood, under the same seed.
    """

    def __init__(
        self, pools: Iterable[PoolSpec], *, now: datetime, seed: int = 0, record: MarketRecord | None = None
    ) -> None:
        specs = {spec.name: spec for spec in pools}
        saved = {} if record is None else record.pools
        _check_same_pools(specs, saved)
        self._seed = seed if record is None else record.seed
        self._at = now if record is None else record.at
        self._tokens = {} if record is None else {(used.pool, used.token): used for used in record.tokens}
        self._pools = {
            name: MarketPool(spec, seed=self._seed, now=now, record=saved.get(name))
            for name, spec in specs.items()
        }
        self.advance(now)

    @property
    def names(self) -> tuple[str, ...]:
        """The pools there are."""
        return tuple(self._pools)

    @property
    def next_at(self) -> datetime | None:
        """When something next happens by itself, None if nothing will."""
        return min((at for pool in self._pools.values() if (at := pool.next_at) is not None), default=None)

    def advance(self, now: datetime) -> None:
        """Let everything happen that is due by *now*; looking seldom or often comes to the same."""
        self._at = max(self._at, now)
        for pool in self._pools.values():
            pool.advance(self._at)
        if any(self._at - used.at > TOKEN_LIFE for used in self._tokens.values()):
            self._tokens = {
                key: used for key, used in self._tokens.items() if self._at - used.at <= TOKEN_LIFE
            }

    # The API

    def describe(self, pool: str, *, now: datetime, is_stale: bool = False) -> PoolState:
        """Return the pool as the API shows it; *is_stale* gives what it showed when the fault `STALE` began."""
        found = self._open(pool, now)
        if is_stale and found.record.stale is not None:
            return replace(found.record.stale, at=now)
        return found.state(now)

    def grow(self, pool: str, *, to: int, before: int, token: str, now: datetime) -> None:
        """Ask for *to* machines in all. Raises `DesiredChanged`, `AtMaximum`, `Rejected` or `PoolNotFound`."""
        found = self._open(pool, now)
        what = f"grow to {to} from {before}"
        if self._was_done(pool, token, what):
            return
        self._expect_desired(found, before)
        if to < before:
            raise Rejected(
                pool, f"cannot grow from {before} to {to}; machines are removed one by one, by name"
            )
        if to > found.spec.max_nodes:
            raise AtMaximum(pool, f"cannot grow to {to}; the pool takes {found.spec.max_nodes} at most")
        found.resize(to, self._at)
        self._use_token(pool, token, what)

    def remove(self, pool: str, *, instance: str, node: str, token: str, now: datetime) -> None:
        """End this machine and ask for one less.

        Raises `InstanceNotFound`, which is success to whoever wanted it gone, `WrongNode`, `AtMinimum` or `PoolNotFound`.
        """
        found = self._open(pool, now)
        what = f"remove {instance}"
        if self._was_done(pool, token, what):
            return
        machine = found.find(instance)
        if machine is None:
            raise InstanceNotFound(pool, f"there is no machine {instance}")
        if machine.node != node:
            raise WrongNode(pool, f"machine {instance} has node {machine.node}, not {node}")
        if machine.state is not InstanceState.STOPPING:
            if found.record.desired <= found.spec.min_nodes:
                raise AtMinimum(
                    pool,
                    f"cannot remove machine {instance}: the pool keeps {found.spec.min_nodes} and is asked for "
                    f"{found.record.desired}",
                )
            found.stop(machine, self._at)
        self._use_token(pool, token, what)

    def cancel_unfulfilled(self, pool: str, *, to: int, before: int, token: str, now: datetime) -> None:
        """Take back requests that were not granted, down to *to* machines in all; ends none.

        Raises `DesiredChanged`, `AlreadyGranted`, `AtMinimum`, `Rejected` or `PoolNotFound`.
        """
        found = self._open(pool, now)
        what = f"cancel to {to} from {before}"
        if self._was_done(pool, token, what):
            return
        self._expect_desired(found, before)
        if to > before:
            raise Rejected(pool, f"cannot cancel from {before} up to {to}")
        if to < found.granted:
            raise AlreadyGranted(pool, f"cannot cancel down to {to}; {found.granted} are granted by now")
        if to < found.spec.min_nodes:
            raise AtMinimum(pool, f"cannot cancel down to {to}; the pool keeps {found.spec.min_nodes}")
        found.resize(to, self._at)
        self._use_token(pool, token, what)

    def take_api_fault(self, pool: str, call: str) -> ApiFaultKind | None:
        """Return what the next *call* about *pool* meets in place of the API, and count it; None when all is well.

        Callers of the market in process and over a wire ask it before each call: `describe`, `grow`, `remove`, `cancel`.
        """
        found = self._pools.get(pool)
        fault = None if found is None else found.record.api_fault
        if found is None or fault is None or not fault.meets(call):
            return None
        found.record = replace(found.record, api_fault=fault.used())
        return fault.kind

    # The world

    def refuse(
        self,
        pool: str,
        *,
        now: datetime,
        code: str = NO_CAPACITY,
        times: int | None = None,
        zones: Collection[str] = (),
    ) -> None:
        """Refuse the next *times* tries, or all until `accept`, with *code*, in *zones* or everywhere.

        Each refused try of a zone appends one refusal; machines that there are stay.
        """
        found = self._open(pool, now)
        found.set_refusal(Refuse(code=code, times=times, zones=_known_zones(found, zones)), self._at)

    def accept(self, pool: str, *, now: datetime) -> None:
        """Refuse no more, and try at once what is missing."""
        self._open(pool, now).set_refusal(None, self._at)
        self.advance(self._at)

    def limit(self, pool: str, capacity: int | None, *, now: datetime, zone: str | None = None) -> None:
        """Let *zone*, or each one, have *capacity* machines at most; None is no limit. Takes none back: see `reclaim`."""
        found = self._open(pool, now)
        for name in _known_zones(found, () if zone is None else (zone,)) or found.spec.zones:
            found.limit(name, capacity, self._at)
        self.advance(self._at)

    def set_boot(self, pool: str, delay: BootDelay | None, *, now: datetime) -> None:
        """Boot machines that are granted from now on in *delay*; None is what the pool's spec says."""
        self._open(pool, now).set_boot(delay)

    def never_boot(self, pool: str, *, now: datetime) -> None:
        """Grant machines that never boot, until `set_boot`; those granted meanwhile stay as they are."""
        self._open(pool, now).set_boot(None, never=True)

    def leave_nodes(self, pool: str, leaves: bool, *, now: datetime) -> None:
        """Leave the Node of a machine that goes where it is, or no more."""
        self._open(pool, now).leave_nodes(leaves)

    def reclaim(
        self,
        pool: str,
        *,
        now: datetime,
        notice: timedelta | None = None,
        count: int | None = None,
        instances: Collection[str] = (),
        zone: str | None = None,
    ) -> tuple[str, ...]:
        """Take machines back after *notice* (the pool's own if None; nothing is no notice) and return which.

        Those named, or *count* (all if None) of *zone* or of everywhere, oldest first; the size asked for stays, so that the pool
        tries to replace them once they are gone.
        """
        found = self._open(pool, now)
        chosen = _choose(found, instances=instances, count=count, zone=zone, told=False)
        found.tell_end(chosen, found.spec.notice if notice is None else notice, self._at)
        return _ids(chosen)

    def cancel_notice(self, pool: str, *, now: datetime, instances: Collection[str] = ()) -> tuple[str, ...]:
        """Let machines that were told of their end stay, those named or all; return which."""
        found = self._open(pool, now)
        chosen = _choose(found, instances=instances, count=None, zone=None, told=True)
        found.take_back_notice(chosen)
        return _ids(chosen)

    def vanish(
        self, pool: str, *, now: datetime, count: int | None = None, instances: Collection[str] = ()
    ) -> tuple[str, ...]:
        """Let machines vanish without a word, and their Nodes stay behind; return which."""
        found = self._open(pool, now)
        chosen = _choose(found, instances=instances, count=count, zone=None)
        found.lose(chosen, self._at)
        return _ids(chosen)

    def reboot(
        self, pool: str, *, now: datetime, count: int | None = None, instances: Collection[str] = ()
    ) -> tuple[str, ...]:
        """Let machines go and come back with the same name and a new boot id; return which."""
        found = self._open(pool, now)
        chosen = _choose(found, instances=instances, count=count, zone=None)
        found.reboot(chosen, self._at)
        return _ids(chosen)

    def resize(self, pool: str, to: int, *, now: datetime) -> None:
        """Resize the pool as somebody else would, past every check; fewer ends machines of the market's choice."""
        self._open(pool, now).resize(to, self._at)

    def break_api(self, pool: str, fault: ApiFault | None, *, now: datetime) -> None:
        """Let calls about *pool* meet *fault*, or none."""
        found = self._open(pool, now)
        is_stale = fault is not None and fault.kind is ApiFaultKind.STALE
        stale = found.state(self._at) if is_stale else None
        found.record = replace(found.record, api_fault=fault, stale=stale)

    # Looking at it

    def spec(self, pool: str) -> PoolSpec:
        """Return what the pool is; raises `PoolNotFound`."""
        return self._find(pool).spec

    def pool_record(self, pool: str) -> PoolRecord:
        """Return all that the pool remembers, machines included; raises `PoolNotFound`."""
        return self._find(pool).record

    def machines(self, pool: str) -> tuple[Machine, ...]:
        """Return the pool's machines and requests, oldest first; raises `PoolNotFound`."""
        return self._find(pool).record.machines

    def ledger(self, *, now: datetime) -> Mapping[str, Bill]:
        """Return by pool what it cost until *now*; a bill never falls."""
        self.advance(now)
        return {name: pool.bill(self._at) for name, pool in self._pools.items()}

    def record(self) -> MarketRecord:
        """Return all that is needed to go on later."""
        return MarketRecord(
            seed=self._seed,
            at=self._at,
            pools={name: pool.record for name, pool in self._pools.items()},
            tokens=tuple(self._tokens.values()),
        )

    def _find(self, pool: str) -> MarketPool:
        found = self._pools.get(pool)
        if found is None:
            raise PoolNotFound(pool, f"the market has no such pool, only {', '.join(self._pools) or 'none'}")
        return found

    def _open(self, pool: str, now: datetime) -> MarketPool:
        found = self._find(pool)
        self.advance(now)
        return found

    def _expect_desired(self, pool: MarketPool, before: int) -> None:
        desired = pool.record.desired
        if desired != before:
            message = f"the pool is asked for {desired} machines, not {before} as expected"
            raise DesiredChanged(pool.spec.name, message, desired=desired)

    def _was_done(self, pool: str, token: str, what: str) -> bool:
        used = self._tokens.get((pool, token))
        if used is not None and used.what != what:
            raise Rejected(pool, f"token {token} was used to {used.what}; take a new one to {what}")
        return used is not None

    def _use_token(self, pool: str, token: str, what: str) -> None:
        self._tokens[pool, token] = UsedToken(pool=pool, token=token, what=what, at=self._at)


def _check_same_pools(specs: Mapping[str, PoolSpec], saved: Mapping[str, PoolRecord]) -> None:
    lost = sorted(name for name, record in saved.items() if name not in specs and record.machines)
    if lost:
        raise StateMismatch(
            f"the saved state has machines in {', '.join(lost)}, which is no pool now; "
            "put the pool back, or start with a new state file"
        )


def _choose(
    pool: MarketPool,
    *,
    instances: Collection[str],
    count: int | None,
    zone: str | None,
    told: bool | None = None,
) -> list[Machine]:
    """Return the machines named, or *count* of those that are not being removed; *told* of their end, or not, or either."""
    for instance in instances:
        if pool.find(instance) is None:
            raise InstanceNotFound(pool.spec.name, f"there is no machine {instance}")
    _known_zones(pool, () if zone is None else (zone,))
    found = [
        machine
        for machine in pool.record.machines
        if machine.exists
        and machine.counts
        and (not instances or machine.id in instances)
        and zone in (None, machine.zone)
        and told in (None, machine.notice is not None)
    ]
    return found if count is None else found[:count]


def _known_zones(pool: MarketPool, zones: Collection[str]) -> tuple[str, ...]:
    unknown = sorted(set(zones) - set(pool.spec.zones))
    if unknown:
        raise Rejected(pool.spec.name, f"no zone {', '.join(unknown)}; it has {', '.join(pool.spec.zones)}")
    return tuple(zones)


def _ids(machines: Iterable[Machine]) -> tuple[str, ...]:
    return tuple(machine.id for machine in machines)
