"""The operator's own settings: a YAML file, overlaid by the environment, checked once at start."""

import asyncio
import difflib
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from spillway.adapters.kube.clock import Clock, elapsed
from spillway.adapters.kube.write import WRITE_SECONDS
from spillway.adapters.prometheus.settings import PrometheusSettings
from spillway.core.model import Mode

log = logging.getLogger(__name__)

CONFIG_VARIABLE = "SPILLWAY_CONFIG"
PREFIX = "SPILLWAY_"
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
DEFAULT_NAMESPACE = "spillway-system"

# Kubernetes puts such values into every pod beside a Service: one named spillway-metrics sets SPILLWAY_METRICS_PORT.
_SERVICE_LINK = re.compile(r"^(tcp|udp|sctp)://")


_LABEL = re.compile(
    r"([a-z0-9.-]+/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?=([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"
)


class SettingsError(Exception):
    """Settings that cannot be used: one sentence for each problem, naming the key, the value, what is legal and what to do."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


class _Section(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )


class PrometheusConnection(_Section):
    """Where GPU metrics are read, and how Spillway proves who it is there."""

    url: str = Field(
        max_length=2000,
        description="Base URL of Prometheus or of anything with its query API (Thanos, Mimir, VictoriaMetrics).",
        examples=["http://prometheus-operated.monitoring:9090"],
    )
    bearer_token_file: Path | None = Field(
        default=None, description="File with a bearer token; read again when it changes."
    )
    ca_file: Path | None = Field(
        default=None, description="PEM file of the CA that signed the server's certificate."
    )
    tenant: str | None = Field(
        default=None,
        max_length=150,
        description="Value of the X-Scope-OrgID header, for Mimir and Cortex.",
    )
    cluster_matcher: str = Field(
        default="",
        max_length=300,
        description="Label matchers put into every query where one Prometheus holds several clusters.",
        examples=['cluster="prod-1"'],
    )
    timeout_seconds: float = Field(
        default=5, ge=1, le=60, description="Longest time one query may take, answer included."
    )

    @field_validator("bearer_token_file", "ca_file")
    @classmethod
    def _is_readable(cls, path: Path | None) -> Path | None:
        if path is not None and not os.access(path, os.R_OK):
            raise ValueError("the file cannot be read; mount it into the pod or remove the key")
        return path

    @model_validator(mode="after")
    def _is_usable(self) -> Self:
        # Raises with sentences of its own, which never repeat a URL that holds a password.
        PrometheusSettings(url=self.url, tenant=self.tenant, cluster_matcher=self.cluster_matcher)
        return self


class KwokConnection(_Section):
    """Where the market is that makes the nodes of Kwok pools."""

    url: str = Field(
        max_length=2000,
        description="Base URL of the market process (`spillway market`) that makes the nodes of Kwok pools, for trials and tests.",
        examples=["http://127.0.0.1:8090"],
    )

    @field_validator("url")
    @classmethod
    def _is_a_base(cls, url: str) -> str:
        if not re.fullmatch(r"https?://[^/@?#\s]+/?", url):
            raise ValueError("must be http:// or https://, a host and a port, and nothing more")
        return url


class Settings(_Section):
    """Everything an operator process is told at start.

    Keys are camelCase in the YAML file; in the environment they are upper case with underscores after SPILLWAY_, and two
    underscores before a nested key: `evaluationSeconds` is SPILLWAY_EVALUATION_SECONDS, `prometheus.url` is
    SPILLWAY_PROMETHEUS__URL. The environment wins over the file. Lists are separated by commas, and so are labels (`a=b,c=d`).
    `mode` alone is read again while running (see `FleetMode`).
    """

    prometheus: PrometheusConnection
    mode: Mode = Field(
        default=Mode.ENFORCE,
        description="The most any workload may do; Observe changes nothing anywhere. Takes effect without a restart.",
    )
    watch_namespaces: tuple[str, ...] = Field(
        default=(), max_length=100, description="Namespaces to look after; empty means all of them."
    )
    kwok: KwokConnection | None = Field(
        default=None, description="Unset: pools with a Kwok provider cannot be sized."
    )
    pool_selector: dict[str, str] = Field(
        default={},
        max_length=16,
        description="Labels of the GpuNodePools to look after, all of which a pool must have; empty means all pools.",
    )
    pool_collect_seconds: float = Field(
        default=10,
        ge=1,
        le=300,
        description="Seconds between two questions to a pool's provider about its nodes.",
    )
    pool_stale_seconds: float = Field(
        default=60,
        ge=2,
        le=3600,
        description="What a provider said longer ago counts no more, and its pool stays as it is.",
    )
    node_lost_seconds: float = Field(
        default=60, ge=1, le=3600, description="A node that is NotReady for so long counts as lost."
    )
    node_boot_seconds: float = Field(
        default=600,
        ge=1,
        le=7200,
        description="Seconds after which a machine that has not become a usable node counts as supply no more, so that another is "
        "asked for.",
    )
    node_gone_seconds: float = Field(
        default=60,
        ge=1,
        le=3600,
        description="Seconds after which the Node object of a machine that its provider no longer has is deleted.",
    )
    cordon_settle_seconds: float = Field(
        default=5,
        ge=1,
        le=300,
        description="Seconds between marking a node and looking for pods that reached it meanwhile.",
    )
    drain_back_off_seconds: float = Field(
        default=300,
        ge=1,
        le=7200,
        description="Seconds after a blocked drain before the same node is tried again.",
    )
    packing_refused_seconds: float = Field(
        default=30,
        ge=1,
        le=3600,
        description="Seconds that a pod may stay Unschedulable where there was room for it before that room counts as refused.",
    )
    evaluation_seconds: float = Field(
        default=15, ge=1, le=300, description="Seconds between two evaluations of all workloads."
    )
    signal_window_seconds: float = Field(
        default=60, ge=1, le=600, description="Seconds over which GPU activity is averaged."
    )
    collect_seconds: float = Field(
        default=30,
        ge=1,
        le=300,
        description="Seconds between two collections of the exporter (its own setting).",
    )
    scrape_seconds: float = Field(
        default=15, ge=1, le=300, description="Seconds between two scrapes of the exporter by Prometheus."
    )
    min_stale_seconds: float = Field(
        default=75, ge=1, le=600, description="A sample younger than this is never called stale."
    )
    frozen_seconds: float = Field(
        default=120,
        ge=1,
        le=3600,
        description="A GPU whose energy counter stood still for this long has a frozen exporter; keep it above two collections "
        "and a scrape.",
    )
    confirm_seconds: float = Field(
        default=15,
        ge=1,
        le=600,
        description="Seconds for which a reduction must be proposed before it is carried out.",
    )
    cache_max_age_seconds: float = Field(
        default=60,
        ge=3,
        le=600,
        description="Nothing is decided on a cache that has been out of step with the API server for longer.",
    )
    pending_timeout_seconds: float = Field(
        default=900,
        ge=1,
        le=7200,
        description="Seconds after which a pod that finds no node stops counting as supply.",
    )
    lease_name: str = Field(
        default="spillway",
        pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$",
        description="Name of the Lease by which one of several operators writes.",
    )
    lease_namespace: str = Field(
        default_factory=lambda: pod_namespace(NAMESPACE_FILE),
        pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$",
        description="Namespace of the Lease; built-in is the pod's own, else spillway-system.",
    )
    lease_duration_seconds: float = Field(
        default=15,
        ge=2,
        le=300,
        description="Seconds after its last renewal when another operator may take the Lease.",
    )
    lease_renew_deadline_seconds: float = Field(
        default=10, ge=1, le=290, description="Seconds after its last renewal when the holder stops writing."
    )
    lease_retry_seconds: float = Field(
        default=2, ge=0.1, le=60, description="Seconds between two renewals, or two tries to take the Lease."
    )
    metrics_port: int = Field(
        default=8080,
        ge=0,
        le=65535,
        description="Port of /metrics and the read-only JSON; 0 takes a free one.",
    )
    metrics_address: str = Field(
        default="127.0.0.1",
        max_length=253,
        description="Address that metrics and probes listen on; the chart sets 0.0.0.0.",
    )
    probe_port: int = Field(default=8081, ge=1, le=65535, description="Port of /healthz.")
    log_format: Literal["text", "json"] = Field(
        default="text", description="Lines for people, or JSON for machines."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least severe log lines to write."
    )

    _mode_cap: Mode = PrivateAttr(default=Mode.ENFORCE)

    @property
    def mode_cap(self) -> Mode:
        """What SPILLWAY_MODE said, Enforce without it: the file cannot go beyond it later."""
        return self._mode_cap

    @field_validator("log_format", "log_level", mode="before")
    @classmethod
    def _in_lower_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("watch_namespaces", mode="before")
    @classmethod
    def _from_commas(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return [item.strip() for item in value.split(",") if item.strip()]

    @field_validator("pool_selector", mode="before")
    @classmethod
    def _from_labels(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        labels = [item.strip() for item in value.split(",") if item.strip()]
        for label in labels:
            if not _LABEL.fullmatch(label):
                raise ValueError(f"{label!r} is no label such as team=search")
        return dict(label.split("=", 1) for label in labels)

    @field_validator("pool_selector")
    @classmethod
    def _are_labels(cls, labels: dict[str, str]) -> dict[str, str]:
        for key, value in labels.items():
            if not _LABEL.fullmatch(f"{key}={value}"):
                raise ValueError(f"poolSelector holds {key}: {value}, which is no label such as team: search")
        return labels

    @field_validator("watch_namespaces")
    @classmethod
    def _are_namespaces(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name):
                raise ValueError(f"{name!r} is no name of a namespace")
        return names

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        renew, duration = self.lease_renew_deadline_seconds, self.lease_duration_seconds
        if not self.lease_retry_seconds < renew < duration:
            raise ValueError(
                f"leaseRetrySeconds ({self.lease_retry_seconds:g}) must be below leaseRenewDeadlineSeconds ({renew:g}), and that "
                f"below leaseDurationSeconds ({duration:g}); the built-in 2, 10 and 15 suit most clusters"
            )
        if renew <= WRITE_SECONDS + self.lease_retry_seconds:
            raise ValueError(
                f"leaseRenewDeadlineSeconds ({renew:g}) must be above {WRITE_SECONDS:g} s, the longest write, plus "
                f"leaseRetrySeconds ({self.lease_retry_seconds:g}), else no write could ever end in time; the built-in is 10"
            )
        if self.pool_stale_seconds <= self.pool_collect_seconds:
            raise ValueError(
                f"poolStaleSeconds ({self.pool_stale_seconds:g}) must be above poolCollectSeconds ({self.pool_collect_seconds:g}), "
                "else no pool is ever known; the built-in 60 and 10 suit most clusters"
            )
        if self.metrics_port == self.probe_port:
            raise ValueError(
                f"metricsPort and probePort are both {self.metrics_port}; give each a port of its own"
            )
        return self


def load_settings(
    config: Path | None = None, *, environment: Mapping[str, str] | None = None
) -> tuple[Settings, Path | None]:
    """Return the settings, and the file they came from (None without one).

    The file is *config*, else what `SPILLWAY_CONFIG` names; without either there is only the environment. Raises
    `SettingsError` with every problem at once.
    """
    variables = os.environ if environment is None else environment
    path = config or (Path(variables[CONFIG_VARIABLE]) if variables.get(CONFIG_VARIABLE) else None)
    from_file = {} if path is None else read_config(path)
    from_environment = dict(_from_environment(Settings, variables))
    values = _overlay(from_file, from_environment)
    try:
        settings = Settings.model_validate(values)
    except ValidationError as exc:
        raise SettingsError([_sentence(error, values, path) for error in exc.errors()]) from exc
    if "mode" in from_environment:
        settings._mode_cap = settings.mode  # noqa: SLF001 - where a value came from is no setting of the file
    return settings, path


def read_config(path: Path) -> dict[str, Any]:
    """Return the YAML mapping in *path*; raises `SettingsError` for a file that is missing, empty or no mapping."""
    try:
        parsed = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        reason = " ".join(str(exc).split())
        raise SettingsError(
            [f"cannot read settings from {path}: {reason}. Mend the file or --config."]
        ) from exc
    if not isinstance(parsed, dict):
        found = "nothing" if parsed is None else f"a {type(parsed).__name__}"
        raise SettingsError(
            [f"{path} holds {found}, not settings. Write lines such as `mode: Observe` into it."]
        )
    return parsed


def settings_schema() -> dict[str, Any]:
    """Return the JSON schema of the settings file, for editors and the reference."""
    return Settings.model_json_schema(by_alias=True)


def pod_namespace(path: Path = NAMESPACE_FILE) -> str:
    """Return the namespace this pod runs in, `spillway-system` outside a pod."""
    try:
        return path.read_text(encoding="utf-8").strip() or DEFAULT_NAMESPACE
    except OSError:
        return DEFAULT_NAMESPACE


class FleetMode:
    """The fleet's mode as the settings file says right now, so that a stop needs no restart.

    Looks at the file every *interval* seconds. A file that is missing, empty, broken or names no mode we know leaves the last
    good one in force and says so in `problem`. A weaker mode holds at once; a stronger one only after the file has said so for
    *interval* seconds on *clock*, since an editor may be half-way through writing it. *cap* is the strongest mode the file can
    bring about (`Settings.mode_cap`). *on_change* is called with the old mode and the new one. Without a file *initial* holds.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        initial: Mode,
        cap: Mode = Mode.ENFORCE,
        interval: float = 2.0,
        on_change: Callable[[Mode, Mode], None] | None = None,
        clock: Clock = elapsed,
    ) -> None:
        self.current = initial
        self.problem: str | None = None
        self._path = path
        self._cap = cap
        self._interval = interval
        self._on_change = on_change
        self._clock = clock
        self._stronger_since: tuple[Mode, float] | None = None

    async def run(self) -> None:
        """Look at the file again and again until cancelled."""
        while True:
            self.refresh()
            await asyncio.sleep(self._interval)

    def refresh(self) -> Mode:
        """Look at the file once; return the mode in force."""
        if self._path is None:
            return self.current
        try:
            self._take(min(_mode_in(self._path), self._cap, key=_strength))
            self.problem = None
        except SettingsError as exc:
            self._stronger_since = None
            self._note_problem(str(exc))
        return self.current

    def _take(self, asked: Mode) -> None:
        if _strength(asked) > _strength(self.current) and not self._has_stood(asked):
            return
        self._stronger_since = None
        before, self.current = self.current, asked
        if before is asked:
            return
        log.warning("fleet mode is now %s (was %s)", asked, before)
        if self._on_change is not None:
            self._on_change(before, asked)

    def _has_stood(self, asked: Mode) -> bool:
        if self._stronger_since is None or self._stronger_since[0] is not asked:
            self._stronger_since = (asked, self._clock())
        return self._clock() - self._stronger_since[1] >= self._interval

    def _note_problem(self, message: str) -> None:
        if message != self.problem:
            log.warning("fleet mode stays %s: %s", self.current, message)
        self.problem = message


def _mode_in(path: Path) -> Mode:
    asked = read_config(path).get("mode", Mode.ENFORCE.value)
    try:
        return Mode(asked)
    except ValueError:
        legal = ", ".join(Mode)
        raise SettingsError([f"mode in {path} is {asked!r}; it must be one of {legal}."]) from None


def _strength(mode: Mode) -> int:
    return list(Mode).index(mode)


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of a setting that holds settings itself, whether it may be absent or not; None for any other."""
    for candidate in (field.annotation, *get_args(field.annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _from_environment(
    model: type[BaseModel], variables: Mapping[str, str], prefix: str = PREFIX
) -> Iterator[tuple[str, Any]]:
    """Give the settings that variables name; others with our prefix may well be another program's or Kubernetes' own."""
    for name, field in model.model_fields.items():
        variable = prefix + name.upper()
        section = section_of(field)
        if section is not None:
            if nested := dict(_from_environment(section, variables, f"{variable}__")):
                yield to_camel(name), nested
        elif variables.get(variable) and not _SERVICE_LINK.match(variables[variable]):
            yield to_camel(name), variables[variable]


def _overlay(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        nested = isinstance(below, dict) and isinstance(value, dict)
        merged[key] = _overlay(below or {}, value) if nested else value
    return merged


def _sentence(error: ErrorDetails, values: Mapping[str, Any], path: Path | None) -> str:
    """Say what is wrong with one key, what is legal, and where to change it."""
    keys = [str(part) for part in error["loc"]]
    name = ".".join(keys)
    place = f"in {path} or" if path else "in the --config file or"
    problem = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    value = _value_at(values, keys)
    if error["type"] == "missing":
        name = f"{name}.url" if section_of(Settings.model_fields.get(name, FieldInfo())) else name
        return f"{name} is not set. Set it, {_example(name)}, {place} as {_variable(name)}."
    if error["type"] == "extra_forbidden":
        return f"{name} is no setting{_closest(keys)}. Rename or remove it {place.removesuffix(' or')}."
    if isinstance(value, Mapping):
        return f"{problem}."  # about several keys, which it names itself; their values may be secret
    return f"{name} is {value!r}: {problem}. Change it {place} as {_variable(name)}."


def _example(name: str) -> str:
    *_, field = name.split(".")
    examples = _model_of(name.split(".")).model_fields[field].examples
    return f"e.g. to {examples[0]}" if examples else "see the reference"


def _variable(name: str) -> str:
    parts = [re.sub(r"(?<=[a-z])(?=[A-Z])", "_", part).upper() for part in name.split(".")]
    return PREFIX + "__".join(parts)


def _closest(keys: list[str]) -> str:
    known = [to_camel(field) for field in _model_of(keys).model_fields]
    close = difflib.get_close_matches(keys[-1], known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _model_of(keys: list[str]) -> type[BaseModel]:
    """Return the model that the last of *keys* is, or should have been, a setting of."""
    field = Settings.model_fields.get(keys[0]) if len(keys) > 1 else None
    return (section_of(field) if field is not None else None) or Settings


def _value_at(values: object, keys: list[str]) -> object:
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else values
    return values
