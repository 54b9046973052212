"""One pool of the market: requests become machines, machines boot, run, are told of their end and go.

Every change happens at its own time and in order, so it does not matter how often the pool is looked at.
"""

import random
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from spillway.adapters.cloud.simulated.faults import NO_CAPACITY, Refuse, refusal_kind
from spillway.adapters.cloud.simulated.machines import Bill, Machine, Notice, PoolRecord
from spillway.adapters.cloud.simulated.spec import BootDelay, PoolSpec
from spillway.core.model import InstanceState, PoolState, Refusal

REFUSALS_KEPT: Final = 20
GHOST_LIFE: Final = timedelta(hours=1)  # whoever deletes Nodes of dead machines has done so by then
_HOUR: Final = Decimal(3600)


class MarketPool:
    """A pool and its record. All times come from the caller and never run backwards."""

    def __init__(self, spec: PoolSpec, *, seed: int, now: datetime, record: PoolRecord | None = None) -> None:
        self.spec = spec
        self.record = PoolRecord() if record is None else record
        self._seed = seed
        # A simulation looks far oftener than anything changes: `_next_at` is of the record `_looked_at`.
        self._looked_at: PoolRecord | None = None
        self._next_at: datetime | None = None
        if record is None:
            self.resize(max(spec.min_nodes, spec.start_nodes), now)

    # Time

    @property
    def next_at(self) -> datetime | None:
        """When something next happens by itself, None if nothing will."""
        if self._looked_at is not self.record:
            self._looked_at, self._next_at = self.record, self.record.next_at
        return self._next_at

    def advance(self, now: datetime) -> None:
        """Let everything happen that is due by *now*."""
        while (at := self.next_at) is not None and at <= now:
            for machine in self.record.machines:
                self._let_happen(machine, at)
            if self.record.next_try_at is not None and self.record.next_try_at <= at:
                self._try(at)

    def _let_happen(self, machine: Machine, at: datetime) -> None:
        if machine.notice is not None and machine.notice.ends_at <= at:
            self._end(machine, at)
        elif machine.due_at is None or machine.due_at > at:
            return
        elif machine.state is InstanceState.BOOTING:
            running = replace(machine, state=InstanceState.RUNNING, since=at, due_at=None, joined=True)
            self._put(replace(running, gpus_at=at + self.spec.gpu_delay))
        else:
            self._end(machine, at)

    # What it is asked for

    def resize(self, to: int, now: datetime) -> None:
        """Be asked for *to* machines. Fewer takes back requests first, then ends the oldest machines, as groups do."""
        surplus = self.record.desired - to
        self._note(desired=to)
        if surplus < 0:
            self._request(-surplus, now)
            return
        for machine in self._by_expendability()[:surplus]:
            if machine.exists:
                self._stop(machine, now)
            else:
                self._drop(machine)
        self.advance(now)

    def stop(self, machine: Machine, now: datetime) -> None:
        """Remove this very machine and ask for one less."""
        self._note(desired=self.record.desired - 1)
        self._stop(machine, now)
        self.advance(now)

    def find(self, instance: str) -> Machine | None:
        """Return the machine of this identity that was granted and is not gone."""
        return next((found for found in self.record.machines if found.id == instance and found.exists), None)

    @property
    def granted(self) -> int:
        """How many of those asked for exist."""
        return sum(machine.exists and machine.counts for machine in self.record.machines)

    def state(self, now: datetime) -> PoolState:
        """Return what the pool's API says at *now*."""
        record = self.record
        machines = tuple(machine.as_instance() for machine in record.machines)
        return PoolState(at=now, desired=record.desired, instances=machines, refusals=record.refusals)

    def bill(self, now: datetime) -> Bill:
        """Return what it cost until *now*; it never falls."""
        running = (machine.billed(now, self.spec.least_billed) for machine in self.record.machines)
        total = sum(running, self.record.billed)
        price = self.spec.price_per_hour
        cost = None if price is None else price * Decimal(str(total.total_seconds())) / _HOUR
        return Bill(machine_time=total, cost=cost)

    # What may go wrong

    def set_refusal(self, refuse: Refuse | None, now: datetime) -> None:
        """Refuse from now on, or no more: then what is missing is tried at once."""
        self._note(refuse=refuse)
        if refuse is None:
            self._try_soon(now)

    def limit(self, zone: str, capacity: int | None, now: datetime) -> None:
        """Let *zone* have so many machines at most from now on; those above it stay until they are reclaimed."""
        self._note(limits={**self.record.limits, zone: capacity})
        self._try_soon(now)

    def set_boot(self, delay: BootDelay | None, *, never: bool = False) -> None:
        """Boot machines granted from now on in *delay* (None: as the pool's spec says), or accept and *never* boot them."""
        self._note(boot=delay, never_boots=never)

    def leave_nodes(self, leaves: bool) -> None:
        """Let the Nodes of machines that go stay behind, or no more."""
        self._note(leaves_nodes=leaves)

    def tell_end(self, machines: Iterable[Machine], notice: timedelta, now: datetime) -> None:
        """Tell each machine that it ends after *notice*; none at all ends it at once."""
        for machine in machines:
            self._put(replace(machine, notice=Notice(at=now, ends_at=now + notice)))
        self.advance(now)

    def take_back_notice(self, machines: Iterable[Machine]) -> None:
        """Tell machines that they stay after all."""
        for machine in machines:
            self._put(replace(machine, notice=None))

    def lose(self, machines: Iterable[Machine], now: datetime) -> None:
        """Let machines vanish without a word; their Nodes stay behind."""
        for machine in machines:
            self._end(machine, now, leaves_node=True)
        self.advance(now)

    def reboot(self, machines: Iterable[Machine], now: datetime) -> None:
        """Let machines go and come back under the same name, with a new boot id and no memory of a notice."""
        for machine in machines:
            self._boot(replace(machine, notice=None), now)
        self.advance(now)

    # Making and ending machines

    def _request(self, count: int, now: datetime) -> None:
        first = self.record.serial
        made = tuple(self._requested(first + index, now) for index in range(count))
        self._note(machines=self.record.machines + made, serial=first + count)
        self._try_soon(now)
        self.advance(now)

    def _requested(self, serial: int, now: datetime) -> Machine:
        id = f"{self._chance(serial, 'id').getrandbits(16):04x}{serial:04x}"  # noqa: A001 - the API's own word
        return Machine(id=id, node=f"{self.spec.name}-{id}", state=InstanceState.REQUESTED, since=now)

    def _try_soon(self, now: datetime) -> None:
        if any(not machine.exists for machine in self.record.machines):
            soon = now + self.spec.answer
            planned = self.record.next_try_at
            self._note(next_try_at=soon if planned is None else min(planned, soon))

    def _try(self, at: datetime) -> None:
        """Grant what can be granted; a zone that refuses is asked for nothing more in this try."""
        closed: set[str] = set()
        waiting = [machine for machine in self.record.machines if not machine.exists]
        for index, request in enumerate(waiting):
            zone = self._find_zone(closed, missing=len(waiting) - index, at=at)
            if zone is None:
                break
            self._boot(replace(request, zone=zone, granted_at=at), at)
        is_short = any(not machine.exists for machine in self.record.machines)
        self._note(next_try_at=at + self.spec.retry if is_short else None)

    def _find_zone(self, closed: set[str], *, missing: int, at: datetime) -> str | None:
        for zone in sorted(self.spec.zones, key=self._occupied):
            if zone in closed:
                continue
            code = self._refused_by(zone)
            if code is None:
                return zone
            closed.add(zone)
            message = f"cannot launch {missing} machine{'' if missing == 1 else 's'} in {zone}: {code}"
            refusal = Refusal(at=at, kind=refusal_kind(code), code=code, message=message, zone=zone)
            self._note(refusals=(*self.record.refusals, refusal)[-REFUSALS_KEPT:])
        return None

    def _refused_by(self, zone: str) -> str | None:
        refuse = self.record.refuse
        if refuse is not None and refuse.meets(zone):
            self._note(refuse=refuse.used())
            return refuse.code
        limit = self.record.limits.get(zone, self.spec.capacity)
        return NO_CAPACITY if limit is not None and self._occupied(zone) >= limit else None

    def _occupied(self, zone: str) -> int:
        return sum(machine.exists and machine.zone == zone for machine in self.record.machines)

    def _boot(self, machine: Machine, at: datetime) -> None:
        serial = self.record.serial
        chance = self._chance(serial, f"boot {machine.id}")
        delay = (self.record.boot or self.spec.boot).draw(chance)
        booting = replace(
            machine,
            state=InstanceState.BOOTING,
            since=at,
            due_at=None if self.record.never_boots else at + delay,
            gpus_at=None,
            boot_id=f"{chance.getrandbits(128):032x}",
        )
        self._note(serial=serial + 1)  # another boot of the same machine draws anew
        self._put(booting)

    def _stop(self, machine: Machine, now: datetime) -> None:
        self._put(replace(machine, state=InstanceState.STOPPING, since=now, due_at=now + self.spec.stop))

    def _end(self, machine: Machine, at: datetime, *, leaves_node: bool = False) -> None:
        """Let it be gone; one that was not removed by request is asked for again."""
        self._note(billed=self.record.billed + machine.billed(at, self.spec.least_billed))
        if machine.joined and (leaves_node or self.record.leaves_nodes):
            self._leave_node(machine, at)
        self._drop(machine)
        if machine.counts:
            made = self._requested(self.record.serial, at)
            self._note(machines=(*self.record.machines, made), serial=self.record.serial + 1)
            self._try_soon(at)

    def _leave_node(self, machine: Machine, at: datetime) -> None:
        recent = {node: since for node, since in self.record.ghosts.items() if at - since < GHOST_LIFE}
        self._note(ghosts={**recent, machine.node: at})

    def _by_expendability(self) -> list[Machine]:
        requests = [machine for machine in self.record.machines if not machine.exists]
        return requests[::-1] + [m for m in self.record.machines if m.exists and m.counts]

    def _chance(self, serial: int, purpose: str) -> random.Random:
        # Drawn from what it is for, not from one stream: a pool's luck depends on no other pool and survives a restart.
        return random.Random(f"{self._seed}/{self.spec.name}/{serial}/{purpose}")  # noqa: S311 - no secret

    def _put(self, machine: Machine) -> None:
        machines = self.record.machines
        self._note(machines=tuple(machine if found.id == machine.id else found for found in machines))

    def _drop(self, machine: Machine) -> None:
        self._note(machines=tuple(found for found in self.record.machines if found.id != machine.id))

    def _note(self, **changes: object) -> None:
        self.record = replace(self.record, **changes)  # type: ignore[arg-type]  # each caller names its own fields
