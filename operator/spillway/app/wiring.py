"""The one place where an operator is put together from its settings."""

import asyncio
import logging
import socket
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from spillway.adapters.cloud.base import Provider
from spillway.adapters.cloud.kwok import KwokProvider
from spillway.adapters.kube.client import KubeClient, connect
from spillway.adapters.kube.clock import utc_now
from spillway.adapters.kube.reflector import ReflectorTimings
from spillway.adapters.prometheus.settings import PrometheusSettings
from spillway.adapters.prometheus.source import ActivitySource
from spillway.app.activity import ActivityCollector
from spillway.app.acts import Executor
from spillway.app.caches import Caches
from spillway.app.clock import SteadyClock
from spillway.app.lease import Lease, LeaseTimings
from spillway.app.loop import Loop
from spillway.app.metrics import Metrics
from spillway.app.operations import Operations
from spillway.app.pool_states import PoolCollector
from spillway.app.report import Reporter
from spillway.app.server import Pages
from spillway.app.settings import FleetMode, Settings
from spillway.app.snapshots import SnapshotBuilder, Timings
from spillway.app.wakeup import Leadership, Wakeup
from spillway.core.model import FleetTimers, ProviderType

log = logging.getLogger(__name__)

STEPS_PER_WINDOW = 6  # 10 s in a window of 60 s: finer than any scrape interval that windows are made for

WATCH_SHARE = 2 / 3  # of cacheMaxAge: a watch that is opened anew that often never looks too old


@dataclass(slots=True, kw_only=True)
class Operator:
    """A whole operator: `start`, `stop`, and `problem` for the probe. Made by `build`."""

    settings: Settings
    loop: Loop
    _pages: Pages
    _lease: Lease
    _operations: Operations
    _reporter: Reporter
    _source: ActivitySource
    _market: KwokProvider | None
    _clients: tuple[KubeClient, ...]
    _work: tuple[Callable[[], Coroutine[None, None, None]], ...]
    _tasks: list[asyncio.Task[None]]
    _died: str | None = None

    async def start(self) -> None:
        """Serve the pages and start every collector, the Lease and the loop. Raises OSError when the port is taken."""
        await self._pages.start(address=self.settings.metrics_address, port=self.settings.metrics_port)
        for work in self._work:
            task = asyncio.create_task(work(), name=getattr(work, "__qualname__", "work"))
            task.add_done_callback(self._ended)
            self._tasks.append(task)

    async def stop(self) -> None:
        """Stop deciding, let writes end, give the Lease back, close every connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._operations.stop()
        await self._reporter.stop()
        await self._lease.release()
        await self._pages.stop()
        await self._source.close()
        if self._market is not None:
            await self._market.close()
        for client in self._clients:
            await client.close()

    def problem(self) -> str | None:
        """Why this process should be restarted, for the probe; None while it is well."""
        if self._died is not None:
            return self._died
        stalled = self.loop.stalled_seconds
        return f"the decision loop has not come round for {stalled:.0f} s too long" if stalled else None

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A task that ends by itself is a bug: say so and let the probe restart the process."""
        if task.cancelled():
            return
        self._died = f"{task.get_name()} ended: {task.exception()!r}"
        log.critical("%s; the probe fails from now on", self._died, exc_info=task.exception())


async def build(
    settings: Settings,
    *,
    config: Path | None = None,
    kubeconfig: Path | None = None,
    context: str | None = None,
) -> Operator:
    """Return an operator for *settings*; the fleet mode goes on being read from *config*. Nothing runs or is sent yet.

    Raises `CredentialsError` and `PrometheusSettingsError`.
    """
    clock = SteadyClock()
    metrics = Metrics(tick=timedelta(seconds=settings.evaluation_seconds))
    client = await connect(kubeconfig=kubeconfig, context=context, on_request=metrics.count_request)
    # A client of its own: slow writes that fill the other's slots must not starve the renewal.
    lease_client = await connect(kubeconfig=kubeconfig, context=context, on_request=metrics.count_request)
    wakeup = Wakeup()
    leadership = Leadership(wakeup)
    identity = f"{socket.gethostname()}_{uuid.uuid4()}"
    lease = Lease(
        lease_client,
        namespace=settings.lease_namespace,
        name=settings.lease_name,
        identity=identity,
        timings=LeaseTimings(
            duration=settings.lease_duration_seconds,
            renew_deadline=settings.lease_renew_deadline_seconds,
            retry=settings.lease_retry_seconds,
        ),
        on_gain=leadership.gained,
        on_lose=leadership.lost,
        clock=clock.steady,
    )
    timings = _timings(settings)
    caches = Caches(
        client,
        wake=wakeup.wake,
        namespaces=settings.watch_namespaces,
        timings=ReflectorTimings(watch=settings.cache_max_age_seconds * WATCH_SHARE),
        clock=clock.steady,
    )
    source = ActivitySource(_prometheus(settings), observer=metrics)
    activity = ActivityCollector(source, interval=timings.evaluation, now=clock.now, wake=wakeup.wake)
    builder = SnapshotBuilder(
        caches,
        timings=timings,
        sees_all_pods=not settings.watch_namespaces,
        pool_selector=settings.pool_selector,
    )
    market = KwokProvider(settings.kwok.url, now=clock.now) if settings.kwok is not None else None
    providers: dict[ProviderType, Provider] = {} if market is None else {ProviderType.KWOK: market}
    pool_states = PoolCollector(
        builder.pools,
        providers,
        interval=timedelta(seconds=settings.pool_collect_seconds),
        now=clock.now,
        steady=clock.steady,
        wake=wakeup.wake,
    )
    reporter = Reporter(client, lease=lease, identity=identity, steady=clock.steady, wall=utc_now)
    operations = Operations(
        Executor(
            client=client, provider_of=pool_states.provider_of, token=lambda: f"{identity}/{uuid.uuid4()}"
        ),
        lease=lease,
        steady=clock.steady,
        give_up_seconds=settings.cache_max_age_seconds,
        wake=wakeup.wake,
        ask_pool=pool_states.ask,
    )
    fleet_mode = FleetMode(
        config,
        initial=settings.mode,
        cap=settings.mode_cap,
        on_change=lambda _before, _after: wakeup.wake("fleet mode"),
    )
    loop = Loop(
        caches=caches,
        builder=builder,
        activity=activity,
        pool_states=pool_states,
        history=source,
        operations=operations,
        reporter=reporter,
        lease=lease,
        leadership=leadership,
        wakeup=wakeup,
        metrics=metrics,
        timings=timings,
        fleet_mode=lambda: fleet_mode.current,
        now=clock.now,
        steady=clock.steady,
        wall=utc_now,
    )
    return Operator(
        settings=settings,
        loop=loop,
        _pages=Pages(registry=metrics.registry, last=lambda: loop.last, waiting=lambda: loop.waiting),
        _lease=lease,
        _operations=operations,
        _reporter=reporter,
        _source=source,
        _clients=(client, lease_client),
        _market=market,
        _work=(
            caches.run,
            activity.run,
            pool_states.run,
            lease.run,
            loop.run,
            *((fleet_mode.run,) if config else ()),
        ),
        _tasks=[],
    )


def _timings(settings: Settings) -> Timings:
    return Timings(
        evaluation=timedelta(seconds=settings.evaluation_seconds),
        stale_after=_stale_after(settings),
        pending_timeout=timedelta(seconds=settings.pending_timeout_seconds),
        confirm=timedelta(seconds=settings.confirm_seconds),
        cache_max_age=timedelta(seconds=settings.cache_max_age_seconds),
        fleet=FleetTimers(
            node_lost=timedelta(seconds=settings.node_lost_seconds),
            cordon_settle=timedelta(seconds=settings.cordon_settle_seconds),
            drain_back_off=timedelta(seconds=settings.drain_back_off_seconds),
            node_boot=timedelta(seconds=settings.node_boot_seconds),
            gone=timedelta(seconds=settings.node_gone_seconds),
            pool_stale=timedelta(seconds=settings.pool_stale_seconds),
            packing_refused=timedelta(seconds=settings.packing_refused_seconds),
        ),
    )


def _stale_after(settings: Settings) -> timedelta:
    """Two collections and a scrape, since an exporter's value may be that old and still be its newest (W C.2)."""
    newest = 2 * settings.collect_seconds + settings.scrape_seconds
    return timedelta(seconds=max(newest, settings.min_stale_seconds))


def _prometheus(settings: Settings) -> PrometheusSettings:
    given = settings.prometheus
    window = timedelta(seconds=settings.signal_window_seconds)
    return PrometheusSettings(
        url=given.url,
        bearer_token_file=given.bearer_token_file,
        ca_file=given.ca_file,
        tenant=given.tenant,
        cluster_matcher=given.cluster_matcher or "",
        timeout=timedelta(seconds=given.timeout_seconds),
        window=window,
        step=max(timedelta(seconds=1), window / STEPS_PER_WINDOW),
        frozen_window=timedelta(seconds=settings.frozen_seconds),
        stale_after=_stale_after(settings),
    )
