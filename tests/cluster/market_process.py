"""The real `spillway market` as a process of its own, and the strings by which a test plays the cloud.

    with running_market(cluster, [spot_pool("h100-spot"), on_demand_pool("h100")]) as market:
        market.refuse("h100-spot")                       # no capacity, until market.accept("h100-spot")
        market.reclaim("h100-spot", count=1, notice_seconds=5)
        market.api_fault("h100-spot", "Throttle", count=3)

A pool of the cluster reaches it by `provider: {type: Kwok, kwok: {pool: NAME}}` (the market's name may be left out where the
GpuNodePool has the same), and an operator by its setting `kwok: {url: market.url}`. The market outlives operators, and goes on
where it stood when it is killed and started again. Its machines are Nodes named POOL-ID that carry the label
`spillway.dev/market-pool: POOL` and those that the pool's `node.labels` say; they go with the market.

Faults take effect before a control returns, but for the Nodes: these follow within a quarter of a second or so, so wait for them.
"""

from __future__ import annotations

import itertools
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import requests
import yaml

from spillway.cli.market.nodes import POOL_LABEL
from tests.cluster.client import JsonObject
from tests.cluster.controlplane import ControlPlane, condition_status
from tests.cluster.processes import Process, free_port, wait_until

PROGRAM = Path(sys.executable).with_name("spillway")
ASK_SECONDS = 5.0
START_SECONDS = 60  # 1 s is usual; a machine busy with other test runs takes longer
SPOT_TAINT: Mapping[str, str] = {"key": "spot", "value": "true", "effect": "NoSchedule"}

ApiFaultKind = Literal["Throttle", "Fail", "Hang", "LoseAnswer", "Forbid", "Stale"]
Call = Literal["describe", "grow", "remove", "cancel"]

_serial = itertools.count(1)


class MarketProcess:
    """One market; `start` runs it, also again after it ended, on the same port and from the same state."""

    def __init__(
        self, cluster: ControlPlane, folder: Path, pools: Sequence[JsonObject], *, seed: int
    ) -> None:
        self.name = f"market-{next(_serial)}"
        self.pools = tuple(str(pool["name"]) for pool in pools)
        self._cluster = cluster
        self._port = free_port()
        self._folder = folder / f"{self.name}-{self._port}"
        self._folder.mkdir()
        self._pools_file = self._folder / "pools.yaml"
        self._pools_file.write_text(yaml.safe_dump({"seed": seed, "pools": list(pools)}))
        self._process: Process | None = None
        self._session = requests.Session()
        self._session.trust_env = False

    @property
    def url(self) -> str:
        """What an operator's setting `kwok.url` is to be."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def process(self) -> Process:
        assert self._process is not None, "it was never started"
        return self._process

    # Its life

    def start(self) -> None:
        """Start it and wait until it answers."""
        argv = [
            PROGRAM,
            "market",
            "--listen",
            f"127.0.0.1:{self._port}",
            "--pools",
            self._pools_file,
            "--state",
            self._folder / "state.json",
            "--kubeconfig",
            self._cluster.kubeconfig,
        ]
        self._process = self._cluster.processes.start(
            self.name, argv, ready=self._answers, seconds=START_SECONDS
        )

    def kill(self) -> None:
        """End it as the kernel does when memory is short; its Nodes stay."""
        self.process.kill()

    def pause(self) -> None:
        """Stop it in its tracks: calls are not answered."""
        self.process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.signal(signal.SIGCONT)

    def close(self) -> None:
        """End it for good, and its Nodes with it."""
        self.resume()
        self.process.stop(grace_seconds=5)
        self._session.close()
        selector = f"{POOL_LABEL} in ({','.join(self.pools)})"
        self._cluster.client.delete("/api/v1/nodes", labelSelector=selector)

    def tail(self, lines: int = 40) -> str:
        return self.process.tail(lines)

    # What it shows

    def pool(self, pool: str) -> JsonObject:
        """Return what its API says of a pool, past every fault: {name, capacityType, desired, granted, maxNodes}."""
        found: JsonObject = next(item for item in self._get("/pools")["pools"] if item["name"] == pool)
        return found

    def machines(self, pool: str) -> list[JsonObject]:
        """Return the pool's machines, oldest first: {id, node, state, since, zone, bootId, endsAt}."""
        found: list[JsonObject] = self._get(f"/pools/{pool}/machines")["machines"]
        return found

    def running(self, pool: str) -> list[str]:
        """Return the node names of the machines that run, those told of their end included."""
        return [machine["node"] for machine in self.machines(pool) if machine["state"] == "Running"]

    def ledger(self) -> dict[str, JsonObject]:
        """Return by pool {machineSeconds, cost}; cost is a decimal in text, None without a price."""
        pools: dict[str, JsonObject] = self._get("/ledger")["pools"]
        return pools

    def nodes(self, pool: str) -> list[JsonObject]:
        """Return the Nodes of a pool as the API server has them."""
        found: list[JsonObject] = self._cluster.client.get(
            "/api/v1/nodes", labelSelector=f"{POOL_LABEL}={pool}"
        )["items"]
        return found

    def wait_nodes(self, pool: str, count: int, seconds: float = 45) -> list[JsonObject]:
        """Wait until the pool has exactly *count* Nodes that the scheduler would use, and no other; return them."""

        def settled() -> tuple[list[JsonObject]] | None:
            nodes = self.nodes(pool)
            return (nodes,) if len(nodes) == count and all(map(is_usable, nodes)) else None

        # In a tuple, so that no node at all is a truthy answer too.
        return wait_until(settled, seconds, f"{pool} has {count} nodes that can be used, and no other")[0]

    # The strings: capacity

    def refuse(
        self,
        pool: str,
        on: bool = True,
        *,
        times: int | None = None,
        code: str = "InsufficientInstanceCapacity",
        zones: Sequence[str] = (),
    ) -> None:
        """Refuse new machines: the next *times* tries, else all until it is switched off; in *zones* or everywhere.

        Codes of AWS are known for what they are (`VcpuLimitExceeded` is a quota); any other proves nothing.
        """
        if not on:
            self.accept(pool)
            return
        self._fault(pool, do="Refuse", times=times, code=code, zones=list(zones))

    def accept(self, pool: str) -> None:
        """Refuse no more; what is missing is tried at once."""
        self._fault(pool, do="Accept")

    def limit(self, pool: str, machines: int | None, *, zone: str | None = None) -> None:
        """Let *zone*, or each zone, have so many machines at most (a partial fill); None is no limit."""
        self._fault(pool, do="Limit", machines=machines, zone=zone)

    def foreign_resize(self, pool: str, to: int) -> None:
        """Resize the pool as somebody else would; fewer ends the oldest machines without a notice."""
        self._fault(pool, do="Resize", to=to)

    # The strings: booting

    def set_boot(self, pool: str, seconds: float, most_seconds: float | None = None) -> None:
        """Let machines granted from now on boot in *seconds*, or in anything between the two."""
        self._fault(pool, do="Boot", leastSeconds=seconds, mostSeconds=most_seconds)

    def never_boot(self, pool: str) -> None:
        """Grant machines that never boot, until `set_boot`; those granted meanwhile stay so."""
        self._fault(pool, do="NeverBoot")

    # The strings: losing machines

    def reclaim(
        self,
        pool: str,
        count: int | None = None,
        notice_seconds: float | None = None,
        *,
        instances: Sequence[str] = (),
        zone: str | None = None,
    ) -> list[str]:
        """Take back *count* machines (the oldest, or all), or *instances*, after a notice; return their ids.

        Without *notice_seconds* the pool's own; 0 is no notice at all. The pool tries to replace what is gone.
        """
        return self._fault(
            pool,
            do="Reclaim",
            count=count,
            noticeSeconds=notice_seconds,
            instances=list(instances),
            zone=zone,
        )

    def cancel_notice(self, pool: str, instances: Sequence[str] = ()) -> list[str]:
        """Let machines that were told of their end stay, those named or all; return their ids."""
        return self._fault(pool, do="CancelNotice", instances=list(instances))

    def vanish(self, pool: str, count: int | None = None, *, instances: Sequence[str] = ()) -> list[str]:
        """Let machines vanish without a word; their Nodes stay and turn NotReady. Return their ids."""
        return self._fault(pool, do="Vanish", count=count, instances=list(instances))

    def reboot(self, pool: str, count: int | None = None, *, instances: Sequence[str] = ()) -> list[str]:
        """Let machines go and come back under the same name with a new boot id; return their ids."""
        return self._fault(pool, do="Reboot", count=count, instances=list(instances))

    def leave_nodes(self, pool: str, on: bool = True) -> None:
        """Leave the Nodes of machines that go, however they go, NotReady, as without a cloud controller manager."""
        self._fault(pool, do="LeaveNodes", leaves=on)

    # The strings: the API

    def api_fault(
        self, pool: str, kind: ApiFaultKind, count: int | None = None, *, calls: Sequence[Call] = ()
    ) -> None:
        """Let the next *count* calls about *pool*, or all until `mend_api`, meet a fault; of the names in *calls* or any.

        `LoseAnswer` does what is asked and never says so; `Hang` does not do it either; `Stale` describes the present for ever.
        """
        self._fault(pool, do="ApiFault", kind=kind, times=count, calls=list(calls))

    def mend_api(self, pool: str) -> None:
        """End the fault of the API."""
        self._fault(pool, do="ApiFault", kind=None)

    # In the operator's place

    def ask(self, pool: str, call: Call, **body: Any) -> JsonObject:  # noqa: ANN401 - any JSON
        """Call the API as an operator does; raise `requests.HTTPError` where it refuses."""
        url = f"{self.url}/pools/{pool}"
        if call == "describe":
            return self._get(f"/pools/{pool}")
        return _document(self._session.post(f"{url}/{call}", json=body, timeout=ASK_SECONDS))

    def _fault(self, pool: str, **body: Any) -> list[str]:  # noqa: ANN401
        answer = self._session.post(f"{self.url}/pools/{pool}/faults", json=body, timeout=ASK_SECONDS)
        instances: list[str] = _document(answer)["instances"]
        return instances

    def _get(self, path: str) -> JsonObject:
        return _document(self._session.get(self.url + path, timeout=ASK_SECONDS))

    def _answers(self) -> bool:
        try:
            return self._session.get(f"{self.url}/pools", timeout=ASK_SECONDS).ok
        except requests.RequestException:
            return False


def on_demand_pool(
    name: str,
    *,
    gpus: int = 8,
    labels: Mapping[str, str] | None = None,
    taints: Sequence[Mapping[str, str]] = (),
    **settings: Any,  # noqa: ANN401 - any JSON
) -> JsonObject:
    """Return a pool for `running_market` whose Nodes carry the label `pool: NAME`; *settings* are laid over it.

    Its machines boot in a second. Settings are those of the file of `spillway market`: `startNodes`, `zones`, `bootSeconds`, ….
    """
    node = {
        "gpus": gpus,
        "gpuModel": "NVIDIA-H100-80GB-HBM3",
        "labels": {"pool": name, **(labels or {})},
        "taints": [dict(taint) for taint in taints],
    }
    return {
        "name": name,
        "capacityType": "OnDemand",
        "maxNodes": 20,
        "bootSeconds": 1,
        "retrySeconds": 2,
        "node": node,
        **settings,
    }


def spot_pool(
    name: str,
    *,
    gpus: int = 8,
    labels: Mapping[str, str] | None = None,
    taints: Sequence[Mapping[str, str]] = (SPOT_TAINT,),
    **settings: Any,  # noqa: ANN401
) -> JsonObject:
    """Return a spot pool for `running_market`, tainted `spot=true:NoSchedule`, that tells of an end 30 s before."""
    pool = on_demand_pool(name, gpus=gpus, labels=labels, taints=taints)
    return {**pool, "capacityType": "Spot", "noticeSeconds": 30, **settings}


@contextmanager
def running_market(
    cluster: ControlPlane, pools: Sequence[JsonObject], *, seed: int = 0
) -> Iterator[MarketProcess]:
    """Run a market with *pools*; ended afterwards with all of its Nodes. Give pools names that no other test uses."""
    market = MarketProcess(cluster, cluster.folder, pools, seed=seed)
    market.start()
    try:
        yield market
    except BaseException as exc:
        exc.add_note(f"The end of the log of {market.name}:\n{market.tail()}")
        raise
    finally:
        market.close()


def is_usable(node: JsonObject) -> bool:
    """Say whether the scheduler would put pods on *node*: Ready, and the not-ready taint gone."""
    taints = {taint["key"] for taint in node["spec"].get("taints") or []}
    return "node.kubernetes.io/not-ready" not in taints and condition_status(node, "Ready") == "True"


def _document(answer: requests.Response) -> JsonObject:
    if not answer.ok:
        raise requests.HTTPError(f"{answer.status_code}: {answer.text}", response=answer)
    document: JsonObject = answer.json()
    return document
