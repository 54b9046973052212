"""What every provider of nodes can be asked, and what it may answer instead of yes, as types.

The contract is the same for all of them (node-and-spot D). A size is always the whole size wanted, never a step, so that
asking twice asks for nothing more. A change says which size it was decided on, and is refused if somebody resized the pool in
between: their change is kept. A change carries a token; the same token has one effect however often it arrives. A machine is
removed by its identity, never by lowering a size, since then the provider would choose the victim. Nothing is retried
inside: the loop asks again, after looking.

How the calls fit the clouds: `grow` sets the desired capacity of an Auto Scaling group, or resizes the managed instance
group under a GKE node pool; `remove` terminates an instance and lowers the desired capacity with it
(`TerminateInstanceInAutoScalingGroup`, `deleteInstances`); `cancel_unfulfilled` sets the desired capacity to the number of
instances that there are.
"""

from typing import Final, Protocol

from spillway.core.model import PoolState

CALL_SECONDS: Final = (
    5.0  # below the Lease's margin, so that no change outlives the leadership it was sent under
)


class Provider(Protocol):
    """Makes and removes the nodes of pools. Every call ends within `CALL_SECONDS`, or raises `ProviderUnavailable`."""

    async def describe(self, pool: str) -> PoolState:
        """Return what *pool* is asked for and what it has, `at` being no later than when the provider looked.

        Raises `PoolNotFound`, `NotPermitted`, `Throttled` or `ProviderUnavailable`.
        """

    async def grow(self, pool: str, *, to: int, before: int, token: str) -> None:
        """Ask for *to* nodes in all, if the pool still is asked for *before*; returns when the provider took note of it.

        That no node can be had shows in `describe` later. Raises `DesiredChanged`, `AtMaximum`, and what `describe` raises.
        """

    async def remove(self, pool: str, *, instance: str, node: str, token: str) -> None:
        """End the machine *instance*, whose Node is *node*, and ask for one node less; gone already is success.

        Raises `AtMinimum`, `WrongNode` if the machine has another Node, and what `describe` raises.
        """

    async def cancel_unfulfilled(self, pool: str, *, to: int, before: int, token: str) -> None:
        """Ask for *to* nodes where *before* were asked for and not all granted; never ends a machine.

        Raises `DesiredChanged`, `AlreadyGranted` if more than *to* exist by now, `AtMinimum`, and what `describe` raises.
        """


class CloudError(Exception):
    """A call that did not succeed: about which pool, and the provider's own sentence."""

    def __init__(self, pool: str, message: str) -> None:
        self.pool = pool
        self.message = message
        super().__init__(f"pool {pool}: {message}")

    @property
    def may_have_happened(self) -> bool:
        """Whether a change may have taken effect although it failed: describe before asking again."""
        return False


class ProviderUnavailable(CloudError):
    """No answer, a 5xx, or one that makes no sense; `sent` tells whether the request may have arrived."""

    def __init__(self, pool: str, message: str, *, sent: bool = True) -> None:
        super().__init__(pool, message)
        self.sent = sent

    @property
    def may_have_happened(self) -> bool:
        """True unless nothing was sent at all."""
        return self.sent


class Throttled(CloudError):
    """429: too many calls; `retry_after` is how many seconds it asks to wait, None when it does not say."""

    def __init__(self, pool: str, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(pool, message)
        self.retry_after = retry_after


class NotPermitted(CloudError):
    """401 or 403: the account lacks the right, or its credentials were revoked."""


class PoolNotFound(CloudError):
    """The provider knows no such pool."""


class InstanceNotFound(CloudError):
    """The provider knows no such machine; for `remove` that is what was wanted."""


class Conflict(CloudError):
    """The pool is not as the caller believed: describe and decide again. Nothing was changed."""


class DesiredChanged(Conflict):
    """Somebody resized the pool; `desired` is what it is asked for now."""

    def __init__(self, pool: str, message: str, *, desired: int) -> None:
        super().__init__(pool, message)
        self.desired = desired


class AlreadyGranted(Conflict):
    """What was to be cancelled exists by now."""


class WrongNode(Conflict):
    """The machine belongs to another Node than the caller believed."""


class AtMinimum(CloudError):
    """The pool's own lower bound would be passed."""


class AtMaximum(CloudError):
    """The pool's own upper bound would be passed."""


class Rejected(CloudError):
    """Any other 4xx: the request itself is wrong, so repeating it cannot heal it."""
