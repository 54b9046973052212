"""What tests and the demo may do to a market over HTTP: the body of `POST /pools/NAME/faults`, by its `do`."""

from datetime import datetime, timedelta
from typing import Annotated, Literal, assert_never

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.alias_generators import to_camel

from spillway.adapters.cloud.simulated import ApiFault, ApiFaultKind, BootDelay, Market
from spillway.adapters.cloud.simulated.faults import NO_CAPACITY

Seconds = Annotated[float, Field(ge=0, le=7 * 86_400)]
Count = Annotated[int, Field(ge=1, le=10_000)]
Size = Annotated[int, Field(ge=0, le=10_000)]


class _Control(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, frozen=True, extra="forbid")


class RefuseControl(_Control):
    """Refuse the next `times` tries, all if unset, in `zones` or everywhere."""

    do: Literal["Refuse"]
    code: str = NO_CAPACITY
    times: Count | None = None
    zones: tuple[str, ...] = ()


class AcceptControl(_Control):
    """Refuse no more."""

    do: Literal["Accept"]


class LimitControl(_Control):
    """Let `zone`, each if unset, have `machines` at most; null is no limit."""

    do: Literal["Limit"]
    machines: Size | None
    zone: str | None = None


class BootControl(_Control):
    """Boot later machines in between `least_seconds` and `most_seconds`; both unset: as the file says."""

    do: Literal["Boot"]
    least_seconds: Seconds | None = None
    most_seconds: Seconds | None = None

    def delay(self) -> BootDelay | None:
        """Return the two bounds; one alone is both."""
        bounds = [bound for bound in (self.least_seconds, self.most_seconds) if bound is not None]
        if not bounds:
            return None
        return BootDelay(least=timedelta(seconds=min(bounds)), most=timedelta(seconds=max(bounds)))


class NeverBootControl(_Control):
    """Grant machines that never boot, until `Boot`."""

    do: Literal["NeverBoot"]


class LeaveNodesControl(_Control):
    """Leave the Nodes of machines that go, or no more."""

    do: Literal["LeaveNodes"]
    leaves: bool = True


class ReclaimControl(_Control):
    """Take back `instances`, or `count` machines of `zone` (all if unset), after `notice_seconds` (the pool's if unset)."""

    do: Literal["Reclaim"]
    count: Count | None = None
    instances: tuple[str, ...] = ()
    zone: str | None = None
    notice_seconds: Seconds | None = None


class CancelNoticeControl(_Control):
    """Let machines that were told of their end stay, those named or all."""

    do: Literal["CancelNotice"]
    instances: tuple[str, ...] = ()


class VanishControl(_Control):
    """Let machines vanish without a word, and their Nodes stay."""

    do: Literal["Vanish"]
    count: Count | None = None
    instances: tuple[str, ...] = ()


class RebootControl(_Control):
    """Let machines come back under their names with a new boot id."""

    do: Literal["Reboot"]
    count: Count | None = None
    instances: tuple[str, ...] = ()


class ResizeControl(_Control):
    """Resize the pool as somebody else would."""

    do: Literal["Resize"]
    to: Size


class ApiFaultControl(_Control):
    """Let the next `times` calls, all if unset, of the names in `calls` or of every name, meet `kind`; null mends it."""

    do: Literal["ApiFault"]
    kind: ApiFaultKind | None
    times: Count | None = None
    calls: tuple[Literal["describe", "grow", "remove", "cancel"], ...] = ()


Control = (
    RefuseControl
    | AcceptControl
    | LimitControl
    | BootControl
    | NeverBootControl
    | LeaveNodesControl
    | ReclaimControl
    | CancelNoticeControl
    | VanishControl
    | RebootControl
    | ResizeControl
    | ApiFaultControl
)
CONTROL: TypeAdapter[Control] = TypeAdapter(Annotated[Control, Field(discriminator="do")])


def carry_out(market: Market, pool: str, control: Control, *, now: datetime) -> tuple[str, ...]:
    """Do it to *pool* and return the machines that it befell; raises what the market raises."""
    match control:
        case ReclaimControl():
            return market.reclaim(
                pool,
                now=now,
                notice=_notice(control),
                count=control.count,
                instances=control.instances,
                zone=control.zone,
            )
        case CancelNoticeControl():
            return market.cancel_notice(pool, now=now, instances=control.instances)
        case VanishControl():
            return market.vanish(pool, now=now, count=control.count, instances=control.instances)
        case RebootControl():
            return market.reboot(pool, now=now, count=control.count, instances=control.instances)
        case _:
            _set(market, pool, control, now)
            return ()


def _set(
    market: Market,
    pool: str,
    control: RefuseControl
    | AcceptControl
    | LimitControl
    | BootControl
    | NeverBootControl
    | LeaveNodesControl
    | ResizeControl
    | ApiFaultControl,
    now: datetime,
) -> None:
    match control:
        case RefuseControl(code=code, times=times, zones=zones):
            market.refuse(pool, now=now, code=code, times=times, zones=zones)
        case AcceptControl():
            market.accept(pool, now=now)
        case LimitControl(machines=machines, zone=zone):
            market.limit(pool, machines, now=now, zone=zone)
        case BootControl():
            market.set_boot(pool, control.delay(), now=now)
        case NeverBootControl():
            market.never_boot(pool, now=now)
        case LeaveNodesControl(leaves=leaves):
            market.leave_nodes(pool, leaves, now=now)
        case ResizeControl(to=to):
            market.resize(pool, to, now=now)
        case ApiFaultControl(kind=kind, times=times, calls=calls):
            fault = None if kind is None else ApiFault(kind=kind, times=times, calls=calls)
            market.break_api(pool, fault, now=now)
        case _:
            assert_never(control)


def _notice(control: ReclaimControl) -> timedelta | None:
    return None if control.notice_seconds is None else timedelta(seconds=control.notice_seconds)
