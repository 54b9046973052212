"""The show off a terminal: one line per change, and a heartbeat so that nobody thinks it hangs."""

from __future__ import annotations

from dataclasses import dataclass

from tests.cluster.demo.play import Show
from tests.cluster.demo.stage import Tell
from tests.cluster.demo.story import UNDER_WAY, Moment, Scene
from tests.cluster.demo.view import clock, dollars, percent

HEARTBEAT_SECONDS = 10.0


@dataclass(slots=True)
class PlainLines:
    """Tells scenes, changes and, in between, that all is as it was."""

    tell: Tell
    _scene: Scene | None = None
    _said: Moment | None = None
    _split: str = ""

    def show(self, show: Show) -> None:
        """Tell what is new in *show*, if anything is."""
        if show.scene is not self._scene:
            self._scene = show.scene
            self.tell(f"\n{clock(show.now.seconds)}  == {show.scene.title}. {show.scene.look}")
        now, said = show.now, self._said
        if now.split != self._split:
            self._split = now.split
            self.tell(f"{clock(now.seconds)}  placement: {now.split}")
        if now.reason == UNDER_WAY:
            return
        if said is None or _gist(now) != _gist(said):
            self._say(now, f"{now.reason}: {now.why}")
        elif now.seconds - said.seconds >= HEARTBEAT_SECONDS:
            self._say(now, now.reason)

    def _say(self, moment: Moment, decision: str) -> None:
        self._said = moment
        self.tell(
            f"{clock(moment.seconds)}  demand {moment.demand:<3g}  GPU use {percent(moment.utilization):>7}  "
            f"wanted {moment.desired}  ready {_ready(moment)}  nodes {_nodes(moment)}  {dollars(moment.cost)}/h  {decision}"
        )


def _ready(moment: Moment) -> str:
    """Return what serves by tier: `2+4|4` is a baseline of 2, 4 stand-ins, and 4 on spot."""
    tiers = moment.tiers
    baseline = min(tiers.ready_on_demand, tiers.baseline)
    return f"{baseline}+{tiers.ready_on_demand - baseline}|{tiers.ready_burst}"


def _nodes(moment: Moment) -> str:
    """Return the Ready nodes of each pool in turn, with those that boot and those that go."""
    return " ".join(
        f"{pool.ready}"
        + "".join(
            f"{mark}{count}"
            for mark, count in (("+", pool.booting), ("-", pool.draining + pool.doomed))
            if count
        )
        for pool in moment.pools
    )


def _gist(moment: Moment) -> tuple[object, ...]:
    pools = tuple((pool.ready, pool.booting, pool.draining, pool.doomed) for pool in moment.pools)
    return (moment.current, moment.desired, _ready(moment), moment.reason, pools)
