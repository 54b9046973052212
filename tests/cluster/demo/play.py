"""Playing the scenes: set the demand, look twice a second, go on when the scene has shown what it has to show."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

from tests.cluster.demo.stage import NAME, Change, Document, Event, Stage
from tests.cluster.demo.story import SPOT, STORY, UNDER_WAY, Moment, PoolNow, Scene, Tiers, broken_promise

LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Show:
    """All that a view may tell: the scene, every moment so far with the present one last, Events, and the last change."""

    scene: Scene
    moments: tuple[Moment, ...]
    events: tuple[Event, ...] = ()
    change: Change | None = None

    @property
    def now(self) -> Moment:
        """The present moment."""
        return self.moments[-1]

    @property
    def decided(self) -> Moment:
        """The newest moment with a decision; the present one may only say that a write is on its way."""
        return next((moment for moment in reversed(self.moments) if moment.reason != UNDER_WAY), self.now)


class StoryBroken(Exception):
    """The operator did not do what the story tells; says what, with the end of its log."""


@dataclass(slots=True, kw_only=True)
class Player:
    """Plays the story on *stage* and shows every moment."""

    stage: Stage
    show: Callable[[Show], None]
    moments: list[Moment] = field(default_factory=list)
    _began: float = 0.0

    def play(self, scenes: tuple[Scene, ...] = STORY) -> tuple[Moment, ...]:
        """Return every moment seen. Raises StoryBroken as soon as an act ends otherwise than it should."""
        self._began = time.monotonic()
        for scene, following in zip(scenes, (*scenes[1:], None), strict=True):
            self._play(scene)
            if following is None or following.act is not scene.act:
                broken = broken_promise(self.moments, scene.act)
                if broken is not None:
                    raise StoryBroken(f"{broken} The operator's log ends:\n{self.stage.log_tail()}")
        return tuple(self.moments)

    def _play(self, scene: Scene) -> None:
        self.stage.set(demand=scene.demand, blind=scene.is_blind, trick=scene.trick)
        began = time.monotonic()
        while True:
            moment = self._look(scene)
            self.moments.append(moment)
            self.show(self._shown(scene))
            passed = time.monotonic() - began
            if passed >= scene.at_most or (passed >= scene.at_least and scene.until(moment)):
                return
            time.sleep(LOOK_SECONDS)

    def _shown(self, scene: Scene) -> Show:
        return Show(
            scene=scene,
            moments=tuple(self.moments),
            events=self.stage.events(),
            change=self.stage.last_change(),
        )

    def _look(self, scene: Scene) -> Moment:
        decision, top, figures = self.stage.decision(), self.stage.top(), self.stage.figures()
        counts, placement = decision["replicas"], decision["placement"] or {}
        row = next((row for row in top["workloads"] if row["name"] == NAME), {})
        return Moment(
            seconds=time.monotonic() - self._began,
            act=scene.act,
            demand=scene.demand,
            utilization=figures.get("spillway_workload_gpu_utilization_ratio"),
            state=decision["signal"]["state"],
            current=decision["current"],
            desired=decision["desired"],
            ready=counts["ready"],
            loading=counts["loading"] + counts["unschedulable"],
            reason=decision["reason"],
            why=decision["why"],
            split=_split(placement),
            limits=tuple(f"{limit['reason']}: {limit['message']}" for limit in decision["limits"]),
            tiers=_tiers(row.get("tiers")),
            pools=tuple(map(read_pool, top["pools"])),
            ledger=self.stage.ledger(),
            workload_cost=figures.get("spillway_workload_cost_total", 0.0),
            replica_seconds=figures.get("spillway_workload_replica_seconds_total", 0.0),
            ups=int(figures.get("spillway_scale_writes_total/up", 0)),
            downs=int(figures.get("spillway_scale_writes_total/down", 0)),
        )


def _split(placement: Document) -> str:
    """Return why replicas stand where they do: the stand-ins' reason while there are any, else the burst's."""
    found = [placement[name] for name in ("fallback", "burst") if name in placement]
    told = next((item for item in found if item["active"]), found[-1] if found else None)
    return "" if told is None else f"{told['reason']}: {told['message']}"


def _tiers(found: Document | None) -> Tiers:
    if found is None:
        return Tiers()
    return Tiers(
        on_demand=found["onDemand"],
        stand_ins=found["fallback"],
        burst=found["burst"],
        ready_on_demand=found["readyOnDemand"],
        ready_burst=found["readyBurst"],
        doomed=found["doomed"],
    )


def read_pool(found: Document) -> PoolNow:
    """Return a pool's row of /top with each node counted once."""
    nodes, cost = found["nodes"], found["hourlyCost"]
    draining, doomed = len(found.get("draining", ())), len(found.get("doomed", ()))
    ready = max(0, nodes["ready"] + nodes["cordoned"] - draining - doomed)
    # A machine whose Node is only just there may be in the plan as one that boots, too.
    booting = min(found.get("booting", 0), max(0, found.get("size", 0) - ready - draining - doomed))
    return PoolNow(
        name=found["name"],
        is_spot=found["capacityType"] == SPOT,
        ready=ready,
        not_ready=nodes["not_ready"],
        booting=booting,
        draining=draining,
        doomed=doomed,
        target=found.get("target", 0),
        gpus=found["gpusAllocatable"] or 0,
        gpus_used=found["gpusAllocated"] or 0,
        reason=found.get("reason", ""),
        why=found.get("why", ""),
        cost=None if cost is None else Decimal(cost),
    )
