"""The command: reads the pools, goes on where an earlier process stood, and keeps time until it is told to end."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Coroutine
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import click

from spillway.adapters.cloud.simulated import Market, StateMismatch
from spillway.adapters.kube.client import connect
from spillway.adapters.kube.credentials import CredentialsError
from spillway.adapters.kube.errors import KubeError
from spillway.app.clock import SteadyClock
from spillway.app.logs import configure_logging
from spillway.cli.market.nodes import NodeKeeper
from spillway.cli.market.pools import PoolsFileError, read_pools
from spillway.cli.market.server import MarketServer
from spillway.cli.market.state import StateFile, StateFileError

log = logging.getLogger(__name__)

TICK_SECONDS: Final = 0.2  # how late a machine may boot or end


class LoopbackAddress(click.ParamType[tuple[str, int]]):
    """HOST:PORT on loopback. The market does as anybody who reaches it says, so it listens nowhere else."""

    name = "host:port"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """Return host and port."""
        host, _, port = value.rpartition(":")
        bare = host.removeprefix("[").removesuffix("]")
        if not (port.isdecimal() and int(port) <= 65535):
            self.fail(f"{value!r} is no HOST:PORT, such as 127.0.0.1:8090", param, ctx)
        if not _is_loopback(bare):
            self.fail(
                f"{bare or 'every address'!r} is not on loopback: everybody there could take machines away. "
                "Use 127.0.0.1 or [::1]",
                param,
                ctx,
            )
        return bare, int(port)


@click.command()
@click.option(
    "--listen",
    type=LoopbackAddress(),
    default="127.0.0.1:8090",
    show_default=True,
    help="Loopback address to listen on; port 0 takes a free one.",
)
@click.option(
    "--pools",
    "pools_file",
    type=click.Path(path_type=Path),
    required=True,
    help="The pools, as YAML.",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    help="File to remember everything in; a market that is started again goes on from it.",
)
@click.option(
    "--kubeconfig", type=click.Path(path_type=Path), help="Kubeconfig; else KUBECONFIG or ~/.kube/config."
)
@click.option("--context", help="Context of the kubeconfig.")
def market(
    listen: tuple[str, int],
    pools_file: Path,
    state: Path | None,
    kubeconfig: Path | None,
    context: str | None,
) -> None:
    """Play a cloud for trials and tests: pools of GPU nodes that can be grown, refused and taken back.

    Its machines are Node objects that kwok must be there to play, in the cluster of the kubeconfig. The operator reaches it
    by its setting kwok.url, and pools by a provider of type Kwok. It speaks HTTP on loopback and asks nobody who they are.

    The account needs get, list, create, patch and delete of nodes, and patch of nodes/status.
    """
    configure_logging(level="info", form="text")
    try:
        asyncio.run(_run(listen, pools_file=pools_file, state=state, kubeconfig=kubeconfig, context=context))
    except (PoolsFileError, StateFileError, StateMismatch, CredentialsError, KubeError, OSError) as exc:
        raise click.ClickException(str(exc)) from exc


async def _run(
    listen: tuple[str, int],
    *,
    pools_file: Path,
    state: Path | None,
    kubeconfig: Path | None,
    context: str | None,
) -> None:
    clock = SteadyClock()
    seed, specs = read_pools(pools_file)
    file = StateFile(state)
    open_market = Market(specs, now=clock.now(), seed=seed, record=file.load())
    changed = asyncio.Event()

    def save() -> None:
        if file.save(open_market.record()):
            changed.set()

    server = MarketServer(open_market, now=clock.now, saved=save)
    client = await connect(kubeconfig=kubeconfig, context=context)
    try:
        keeper = NodeKeeper(client, open_market)
        url = await server.start(host=listen[0], port=listen[1])
        log.info("the market is open at %s with %s", url, ", ".join(open_market.names))
        await _until_told(_keep_time(open_market, keeper, clock, save=save, changed=changed))
    finally:
        await server.stop()
        await client.close()


async def _keep_time(
    open_market: Market,
    keeper: NodeKeeper,
    clock: SteadyClock,
    *,
    save: Callable[[], None],
    changed: asyncio.Event,
) -> None:
    while True:
        changed.clear()
        open_market.advance(clock.now())
        save()
        await keeper.step(clock.now())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(changed.wait(), TICK_SECONDS)


async def _until_told(work: Coroutine[None, None, None]) -> None:
    """Run *work* until SIGTERM or Ctrl-C; its nodes stay, for the machines go on."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
