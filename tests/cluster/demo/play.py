"""Playing the scenes: set the demand, look twice a second, go on when the scene has shown what it has to show."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.cluster.demo.stage import Change, Event, Stage
from tests.cluster.demo.story import STORY, UNDER_WAY, Moment, Scene, broken_promise

LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Show:
    """All that a view may tell: the scene, every moment so far with the present one last, Events, the last change, the GPUs there are."""

    scene: Scene
    moments: tuple[Moment, ...]
    events: tuple[Event, ...] = ()
    change: Change | None = None
    gpus: int = 0

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
        self.stage.set(demand=scene.demand, blind=scene.is_blind)
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
            gpus=self.stage.gpus,
        )

    def _look(self, scene: Scene) -> Moment:
        decision, figures = self.stage.decision(), self.stage.figures()
        counts = decision["replicas"]
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
            limits=tuple(f"{limit['reason']}: {limit['message']}" for limit in decision["limits"]),
            replica_seconds=figures.get("spillway_workload_replica_seconds_total", 0.0),
            gpu_seconds=figures.get("spillway_workload_gpu_seconds_total", 0.0),
            ups=int(figures.get("spillway_scale_writes_total/up", 0)),
            downs=int(figures.get("spillway_scale_writes_total/down", 0)),
        )
