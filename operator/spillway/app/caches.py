"""The watch caches of everything a decision looks at, and how old the oldest of them is."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

from spillway.adapters.kube import projections, resources
from spillway.adapters.kube.client import KubeClient
from spillway.adapters.kube.clock import Clock
from spillway.adapters.kube.reflector import Problem, Projection, Reflector, ReflectorTimings
from spillway.adapters.kube.resources import Resource
from spillway.api import names
from spillway.core.model import Deployment, Node, Pod

WORKLOADS = Resource(
    group=names.GROUP, version=names.VERSION, plural=names.WORKLOAD_PLURAL, kind=names.WORKLOAD_KIND
)
POLICIES = Resource(
    group=names.GROUP,
    version=names.VERSION,
    plural=names.POLICY_PLURAL,
    kind=names.POLICY_KIND,
    namespaced=False,
)
POOLS = Resource(
    group=names.GROUP,
    version=names.VERSION,
    plural=names.POOL_PLURAL,
    kind=names.POOL_KIND,
    namespaced=False,
)

Raw = Mapping[str, Any]
Wake = Callable[[str], None]


def _raw(found: Raw) -> Raw:
    """Keep an object of our own whole: the status writer compares with what is stored."""
    return found


class Caches:
    """One reflector per kind. A change that can alter a decision calls *wake* with the kind that changed."""

    def __init__(
        self,
        client: KubeClient,
        *,
        wake: Wake,
        namespaces: Iterable[str] = (),
        timings: ReflectorTimings | None = None,
        clock: Clock,
    ) -> None:
        make = _Maker(client, wake=wake, namespaces=tuple(namespaces), timings=timings, clock=clock)
        self.workloads = make.reflector(WORKLOADS, _raw, matters=_spec_changed)
        self.policies = make.reflector(POLICIES, _raw, matters=_spec_changed)
        # Optional: an older set of CRDs must not keep replicas from being scaled.
        self.pools = make.reflector(POOLS, _raw, matters=_spec_changed, optional=True)
        self.nodes = make.reflector(resources.NODES, projections.node, matters=_node_changed)
        self.deployments = make.reflector(
            resources.DEPLOYMENTS, projections.deployment, matters=_target_changed
        )
        self.replica_sets = make.reflector(resources.REPLICA_SETS, projections.replica_set)
        self.pods = make.reflector(resources.PODS, projections.pod, matters=_phase_changed)
        self.namespaces = make.reflector(resources.NAMESPACES, projections.namespace_info)
        self.hpas = make.reflector(
            resources.HORIZONTAL_POD_AUTOSCALERS, projections.horizontal_pod_autoscaler
        )
        self.scaled_objects = make.reflector(
            resources.SCALED_OBJECTS, projections.scaled_object, optional=True
        )
        self._clock = clock

    @property
    def for_decisions(self) -> tuple[Reflector[Any], ...]:
        """The reflectors without which nothing may be decided."""
        return (
            self.workloads,
            self.policies,
            self.deployments,
            self.replica_sets,
            self.pods,
            self.namespaces,
            self.hpas,
            self.scaled_objects,
        )

    @property
    def kinds_for_decisions(self) -> tuple[str, ...]:
        """Their kinds, as `ages` names them."""
        return tuple(reflector.resource.kind for reflector in self.for_decisions)

    @property
    def for_costs(self) -> tuple[Reflector[Any], ...]:
        """The reflectors that tell of pools and what they cost: an account that may not read them must still scale."""
        return (self.pools, self.nodes)

    @property
    def all(self) -> tuple[Reflector[Any], ...]:
        """Every reflector."""
        return (*self.for_decisions, *self.for_costs)

    @property
    def synced(self) -> bool:
        """Whether every kind was listed at least once; until then there is no plan.

        Those for costs are waited for as well, so that no figure is withdrawn at a start, unless the server refuses them.
        """
        told = all(reflector.synced or reflector.problems for reflector in self.for_costs)
        return told and all(reflector.synced for reflector in self.for_decisions)

    @property
    def knows_nodes(self) -> bool:
        """Whether the nodes were listed, so that anything can be said about what they cost."""
        return self.nodes.synced

    def pools_blinded_by(self, limit: timedelta) -> str:
        """Why no pool may be sized now: its nodes were not seen for longer than *limit*; empty while they are."""
        age = self.nodes.age(self._clock())
        if age <= limit:
            return ""
        if not self.nodes.synced:
            told = next((problem.message for problem in self.nodes.problems), "not listed yet")
            return f"the nodes cannot be read: {told}"
        return f"the nodes were not seen for longer than {limit.total_seconds():g} s"

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What keeps any of them from being in step, for logs and probes."""
        return tuple(problem for reflector in self.all for problem in reflector.problems)

    def ages(self) -> Mapping[str, timedelta]:
        """Return by kind how long ago each cache was last known to be in step."""
        now = self._clock()
        return {reflector.resource.kind: reflector.age(now) for reflector in self.all}

    async def run(self) -> None:
        """Keep all of them in step until cancelled."""
        async with asyncio.TaskGroup() as group:
            for reflector in self.all:
                group.create_task(reflector.run(), name=f"reflect {reflector.resource.plural}")


T = TypeVar("T")


def _always(_old: object, _new: object) -> bool:
    return True


class _Maker:
    """Builds reflectors that differ only in kind, projection and what matters."""

    def __init__(
        self,
        client: KubeClient,
        *,
        wake: Wake,
        namespaces: tuple[str, ...],
        timings: ReflectorTimings | None,
        clock: Clock,
    ) -> None:
        self._client = client
        self._wake = wake
        self._namespaces = namespaces
        self._timings = timings
        self._clock = clock

    def reflector(
        self,
        resource: Resource,
        project: Projection[T],
        *,
        matters: Callable[[T | None, T | None], bool] = _always,
        optional: bool = False,
    ) -> Reflector[T]:
        def changed(old: T | None, new: T | None) -> None:
            if matters(old, new):
                self._wake(resource.kind)

        return Reflector(
            self._client,
            resource,
            project,
            namespaces=self._namespaces,
            optional=optional,
            on_change=changed,
            timings=self._timings,
            clock=self._clock,
        )


def _spec_changed(old: Raw | None, new: Raw | None) -> bool:
    """Our own status writes come back as changes; they must not wake the loop that wrote them."""
    if old is None or new is None:
        return True
    return _identity(old["metadata"]) != _identity(new["metadata"])


def _identity(metadata: Raw) -> tuple[object, object]:
    return metadata.get("generation"), metadata.get("annotations")


def _target_changed(old: Deployment | None, new: Deployment | None) -> bool:
    if old is None or new is None:
        return True
    return (old.generation, old.failure) != (new.generation, new.failure)


def _phase_changed(old: Pod | None, new: Pod | None) -> bool:
    """What has no GPU and belongs to no ReplicaSet takes room only: the next evaluation is early enough for it."""
    known = new or old
    if known is not None and not known.gpus and known.owner_kind != "ReplicaSet":
        return False
    return old is None or new is None or (old.phase, old.node) != (new.phase, new.node)


def _node_changed(old: Node | None, new: Node | None) -> bool:
    """A kubelet's heartbeat changes the version alone."""
    if old is None or new is None:
        return True
    return replace(old, resource_version=new.resource_version) != new
