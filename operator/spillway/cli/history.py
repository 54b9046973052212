"""`spillway simulate --prometheus`: the flags that say whose past is read from where, and the reading."""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from spillway.core.recorded import RecordedInstant
from spillway.sim import spillway
from spillway.sim.history import (
    History,
    HistoryError,
    NothingRecorded,
    document,
    history_of,
    really_ran,
    sentences,
    verdict,
)
from spillway.sim.results import Results
from spillway.sim.world import Scenario

DEFAULT_SINCE: Final = "14d"
LONGEST: Final = timedelta(days=400)

# The adapter's sentences name the operator's settings; here a flag stands for each.
_FLAG_OF: Final[Mapping[str, str]] = {
    "prometheus.bearerTokenFile": "--prometheus-token-file",
    "prometheus.caFile": "--prometheus-ca-file",
    "prometheus.clusterMatcher": "--prometheus-matcher",
    "prometheus.tenant": "--prometheus-tenant",
    "prometheus.timeoutSeconds": "--prometheus-timeout",
    "prometheus.url": "--prometheus",
    "prometheus timeout": "--prometheus-timeout",
    "it is asked again at the next evaluation; check": "run this again later, and check",
}
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_NAME: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadRef:
    """The Deployment whose pods are looked for."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def _reference(_: click.Context, __: click.Parameter, value: str | None) -> WorkloadRef | None:
    if value is None:
        return None
    found = re.fullmatch(rf"(?P<namespace>{_NAME})/(?P<name>{_NAME}(\.{_NAME})*)", value)
    if found is None:
        raise click.BadParameter(
            f"{value!r} is no NAMESPACE/NAME of a Deployment, such as team/llm-chat; see kubectl get deploy -A"
        )
    return WorkloadRef(namespace=found["namespace"], name=found["name"])


def _span(_: click.Context, __: click.Parameter, value: str) -> timedelta:
    found = re.fullmatch(r"(?P<count>[1-9]\d{0,6})(?P<unit>[mhdw])", value)
    span = timedelta(**{_UNITS[found["unit"]]: int(found["count"])}) if found else None
    if span is None or span > LONGEST:
        raise click.BadParameter(f"{value!r} is no span up to {LONGEST.days}d, such as 36h, 14d or 4w")
    return span


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The flags, as they were given."""

    prometheus: str
    workload_ref: WorkloadRef
    since: timedelta
    prometheus_token_file: Path | None
    prometheus_ca_file: Path | None
    prometheus_tenant: str | None
    prometheus_matcher: str | None
    prometheus_timeout: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What was read of a Deployment."""

    ref: WorkloadRef
    history: History

    def __str__(self) -> str:
        return f"{self.ref} as Prometheus recorded it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What is told beside the runs: the part of the past that was played, and what the demand was multiplied by."""

    name: str
    history: History
    scenario: Scenario
    scale: float

    @property
    def mean_replicas(self) -> float:
        """Load on average, as it was played."""
        return self.history.mean_load * self.scale

    def joined(self, results: Results) -> Results:
        """Return the runs with what really ran after the first of them."""
        first, *others = results.scores
        real = really_ran(self.history, self.scenario, scale=self.scale)
        return replace(results, scores=(first, real, *others))

    def told(self, results: Results) -> list[str]:
        """Return what somebody must know who reads the results."""
        told = [*sentences(self.history)]
        if self.scale != 1.0:
            told.append(f"Demand and what really ran were multiplied by {self.scale:.4g}.")
        compared = verdict(self.history, results.scores, policy=spillway.NAME)
        return told if compared is None else [*told, compared]

    def document(self) -> dict[str, Any]:
        """Return what `--format json` says."""
        return {**document(self.history), "scale": self.scale}


def options(command: F) -> F:
    """Add the flags."""
    for option in reversed(
        (
            click.option("--prometheus", metavar="URL", help="Instead of --demand: play what it recorded."),
            click.option(
                "--workload-ref",
                callback=_reference,
                metavar="NAMESPACE/NAME",
                help="The Deployment it recorded.",
            ),
            click.option(
                "--since",
                callback=_span,
                metavar="SPAN",
                default=DEFAULT_SINCE,
                help="How far back to read: 36h, 14d, 4w.",
            ),
            click.option(
                "--prometheus-token-file",
                type=click.Path(path_type=Path),
                metavar="FILE",
                help="Bearer token to send.",
            ),
            click.option(
                "--prometheus-ca-file",
                type=click.Path(path_type=Path),
                metavar="FILE",
                help="CA to trust.",
            ),
            click.option("--prometheus-tenant", metavar="NAME", help="Sent as X-Scope-OrgID."),
            click.option(
                "--prometheus-matcher",
                metavar="MATCHERS",
                help='Of a store of several clusters: cluster="prod-1".',
            ),
            click.option(
                "--prometheus-timeout",
                type=click.IntRange(min=1, max=300),
                metavar="SECONDS",
                default=60,
                help="For each day that is read.",
            ),
        )
    ):
        command = option(command)
    return command


def taken(given: dict[str, Any], is_set: Callable[[str], bool]) -> Asked | None:
    """Take these flags out of all that were given; None where demand comes from a file.

    *is_set* says of a flag whether a person set it. Raises click.UsageError for what does not go together.
    """
    names = [found.name for found in fields(Asked)]
    own = {name: given.pop(name) for name in names}
    if own["prometheus"] is None:
        without = [f"--{name.replace('_', '-')}" for name in names if is_set(name)]
        if without:
            raise click.UsageError(f"{', '.join(without)} without --prometheus URL says nothing; give both")
        if given["demand"] is None:
            raise click.UsageError(
                "give --demand FILE (or synthetic), or --prometheus URL with --workload-ref NAMESPACE/NAME"
            )
        return None
    if given["demand"] is not None or given["demand_column"] is not None:
        raise click.UsageError("--demand and --prometheus exclude each other; leave out one")
    if own["workload_ref"] is None:
        raise click.UsageError("--prometheus needs --workload-ref NAMESPACE/NAME, the Deployment to play")
    return Asked(**own)


def read(asked: Asked, progress: Callable[[float], None]) -> Recorded:
    """Return the past that Prometheus recorded; raises click.ClickException with what to do next."""
    try:
        found = history_of(_instants(asked, progress))
        return Recorded(ref=asked.workload_ref, history=found)
    except HistoryError as exc:
        hint = _looked_for(asked.workload_ref) if isinstance(exc, NothingRecorded) else ""
        raise click.ClickException(
            f"{asked.workload_ref} cannot be played from the last {_told(asked.since)} of {asked.prometheus}: {exc}.{hint}"
        ) from exc


def _looked_for(ref: WorkloadRef) -> str:
    return (
        f" Looked for were GPU series of pods {ref.name}-HASH-ID in namespace {ref.namespace}. See which there are, in Prometheus: "
        "count by (exported_namespace, exported_pod, namespace, pod) "
        '(last_over_time({__name__=~"DCGM_FI_.*(GPU_UTIL|GR_ENGINE).*"}[1d]))'
    )


def _instants(asked: Asked, progress: Callable[[float], None]) -> Sequence[RecordedInstant]:
    # Only this flag needs the client.
    from spillway.adapters.prometheus import PrometheusSettings, PrometheusSettingsError  # noqa: PLC0415
    from spillway.adapters.prometheus.failures import PrometheusFailure  # noqa: PLC0415
    from spillway.adapters.prometheus.history import read_history  # noqa: PLC0415
    from spillway.adapters.prometheus.pod_names import WorkloadPods  # noqa: PLC0415

    pods = WorkloadPods(namespace=asked.workload_ref.namespace, deployment=asked.workload_ref.name)
    try:
        settings = PrometheusSettings(
            url=asked.prometheus,
            bearer_token_file=asked.prometheus_token_file,
            ca_file=asked.prometheus_ca_file,
            tenant=asked.prometheus_tenant,
            cluster_matcher=asked.prometheus_matcher or "",
            timeout=timedelta(seconds=asked.prometheus_timeout),
        )
        return asyncio.run(read_history(settings, pods, span=asked.since, progress=progress))
    except (PrometheusFailure, PrometheusSettingsError) as exc:
        raise click.ClickException(_in_flags(str(exc))) from exc


def _in_flags(sentence: str) -> str:
    """Name flags where a sentence names settings of the operator."""
    for setting, flag in _FLAG_OF.items():
        sentence = sentence.replace(setting, flag)
    return sentence


def _told(span: timedelta) -> str:
    days = span / timedelta(days=1)
    return f"{days:g} days" if days >= 1 else f"{span / timedelta(hours=1):g} h"
