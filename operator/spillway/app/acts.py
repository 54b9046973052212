"""How each act of the core is carried out, and by what the caches will show that it was."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import assert_never

from spillway.adapters.cloud.base import Provider, ProviderUnavailable
from spillway.adapters.kube import cordon, evictions, twin, write
from spillway.adapters.kube.client import KubeClient
from spillway.core.model import (
    Act,
    ApplyTwin,
    CancelUnfulfilled,
    ClearDeletionCost,
    CordonNode,
    DeleteTwin,
    DrainNode,
    EvictDoomed,
    ForgetNode,
    GrowPool,
    HandOverTwin,
    ObjectKey,
    SetReplicas,
    UncordonNode,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentAt:
    """The Deployment will be seen at this resourceVersion or a later one; any other uid (none: any) means that it is gone."""

    key: ObjectKey
    uid: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentGone:
    """The Deployment with this uid will be seen no more, or as terminating."""

    key: ObjectKey
    uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeAt:
    """The Node will be seen at this resourceVersion or a later one."""

    name: str
    uid: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeGone:
    """The Node with this uid will be seen no more."""

    name: str
    uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolHeard:
    """The pool's provider will have been asked once more, after this moment."""

    pool: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Nothing more is to be waited for."""


Landing = DeploymentAt | DeploymentGone | NodeAt | NodeGone | PoolHeard | Done
MayWrite = Callable[[], bool]


@dataclass(slots=True, kw_only=True)
class Executor:
    """Carries out one act at a time on one subject.

    `provider_of` gives a pool's provider and the pool's name there, None where it has none. `token` makes a fresh token for a
    change at a provider.
    """

    client: KubeClient
    provider_of: Callable[[str], tuple[Provider, str] | None]
    token: Callable[[], str]

    async def carry_out(self, act: Act, may_write: MayWrite) -> Landing:
        """Do it; *may_write* is asked again before every further write of a chain.

        Raises a `KubeError` or a `CloudError`; nothing is retried here.
        """
        match act:
            case SetReplicas() | ApplyTwin() | HandOverTwin() | DeleteTwin() | ClearDeletionCost():
                return await self._on_replicas(act)
            case GrowPool() | CancelUnfulfilled():
                return await self._on_pool(act)
            case CordonNode() | UncordonNode() | DrainNode() | EvictDoomed() | ForgetNode():
                return await self._on_node(act, may_write)
            case _:
                assert_never(act)

    async def _on_replicas(
        self, act: SetReplicas | ApplyTwin | HandOverTwin | DeleteTwin | ClearDeletionCost
    ) -> Landing:
        match act:
            case SetReplicas():
                version = await write.set_replicas(self.client, act)
                return DeploymentAt(key=act.target, uid=act.target_uid, version=version)
            case ApplyTwin():
                version = await twin.apply_twin(self.client, act)
                return DeploymentAt(key=act.twin, uid=act.twin_uid, version=version)
            case HandOverTwin():
                version = await twin.hand_over_twin(self.client, act)
                return DeploymentAt(key=act.twin, uid=act.twin_uid, version=version)
            case DeleteTwin():
                await twin.delete_twin(self.client, act)
                return DeploymentGone(key=act.twin, uid=act.twin_uid)
            case ClearDeletionCost():
                await write.clear_deletion_costs(self.client, act)
                return Done()
            case _:
                assert_never(act)

    async def _on_pool(self, act: GrowPool | CancelUnfulfilled) -> Landing:
        provider, name = self._provider(act.pool)
        if isinstance(act, GrowPool):
            await provider.grow(name, to=act.to, before=act.before, token=self.token())
        else:
            await provider.cancel_unfulfilled(name, to=act.to, before=act.before, token=self.token())
        return PoolHeard(pool=act.pool)

    async def _on_node(
        self, act: CordonNode | UncordonNode | DrainNode | EvictDoomed | ForgetNode, may_write: MayWrite
    ) -> Landing:
        match act:
            case CordonNode():
                version = await cordon.cordon_node(self.client, act)
                return NodeAt(name=act.node, uid=act.node_uid, version=version)
            case UncordonNode():
                version = await cordon.uncordon_node(self.client, act)
                return NodeAt(name=act.node, uid=act.node_uid, version=version)
            case DrainNode():
                await evictions.drain_node(self.client, act, remove=self._removal(act), may_write=may_write)
                return PoolHeard(pool=act.pool)
            case EvictDoomed():
                await evictions.evict_doomed(self.client, act, may_write=may_write)
                return Done()
            case ForgetNode():
                await cordon.delete_node(self.client, act)
                return NodeGone(name=act.node, uid=act.node_uid)
            case _:
                assert_never(act)

    def _removal(self, act: DrainNode) -> Callable[[], Awaitable[None]]:
        async def remove() -> None:
            provider, name = self._provider(act.pool)
            # The token is the drain's own: however often it is resumed, one machine goes by it.
            await provider.remove(name, instance=act.instance, node=act.node, token=act.id)

        return remove

    def _provider(self, pool: str) -> tuple[Provider, str]:
        """Raises ProviderUnavailable where the pool, or what its provider needs, has gone since the act was decided."""
        found = self.provider_of(pool)
        if found is None:
            raise ProviderUnavailable(pool, "there is nobody to ask about it any more", sent=False)
        return found
