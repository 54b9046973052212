"""Where Prometheus is, how to be let in, and over which windows GPU activity is judged."""

import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

_LABEL_MATCHER = r'[a-zA-Z_][a-zA-Z0-9_]*\s*(?:=~|!~|!=|=)\s*"(?:[^"\\\n]|\\[\\"nrt])*"'
_MATCHERS = re.compile(rf"\s*(?:{_LABEL_MATCHER}(?:\s*,\s*{_LABEL_MATCHER})*\s*,?\s*)?")


class PrometheusSettingsError(ValueError):
    """A setting that cannot work; the message names it, its value, what is legal and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusSettings:
    """How to ask Prometheus; checked when made.

    `url` may carry a path prefix (`/prometheus` for Mimir) but no credentials: those come from `bearer_token_file`, which is
    read again whenever the file changes. `tenant` goes into the header X-Scope-OrgID. `cluster_matcher` is a list of label
    matchers such as `cluster="prod-1"` that goes into every selector; empty for a store that holds one cluster.

    `timeout` is the total time one answer may take, body included. `window` is the length of the mean, sampled every `step`.
    `frozen_window` is how far apart two readings of the energy counter are compared (at least 90 s: two collections of an
    exporter that measures every 30 s, and a scrape). `disagreement_window` is over how long two gauges must contradict.
    `stale_after` is how far back the newest sample's age is looked for, and the oldest sample that history still uses. An answer larger than `max_bytes` is refused.

    Raises PrometheusSettingsError.
    """

    url: str
    bearer_token_file: Path | None = None
    ca_file: Path | None = None
    tenant: str | None = None
    cluster_matcher: str = ""
    timeout: timedelta = timedelta(seconds=5)
    window: timedelta = timedelta(seconds=60)
    step: timedelta = timedelta(seconds=10)
    frozen_window: timedelta = timedelta(seconds=120)
    disagreement_window: timedelta = timedelta(minutes=15)
    stale_after: timedelta = timedelta(seconds=75)
    max_bytes: int = 32 * 1024 * 1024

    def __post_init__(self) -> None:
        _check_url(self.url)
        _check_tenant(self.tenant)
        _check_matcher(self.cluster_matcher)
        second = timedelta(seconds=1)
        _check_span("step", self.step, least=second, most=self.window)
        _check_span("window", self.window, least=second, most=timedelta(hours=1))
        _check_span("timeout", self.timeout, least=timedelta(milliseconds=50), most=timedelta(minutes=5))
        _check_span("frozen_window", self.frozen_window, least=second, most=timedelta(hours=1))
        _check_span("disagreement_window", self.disagreement_window, least=second, most=timedelta(days=1))
        _check_span("stale_after", self.stale_after, least=second, most=timedelta(hours=1))
        if self.max_bytes < 1024:
            raise PrometheusSettingsError(
                f"prometheus max_bytes is {self.max_bytes}; give at least 1024, or leave it out for 32 MiB"
            )


def _check_url(url: str) -> None:
    advice = "give it as http://HOST:PORT or https://HOST/PATH"
    try:
        parts = urlsplit(url)
        port_is_legal = parts.port is None or parts.port > 0
    except ValueError as error:
        raise PrometheusSettingsError(f"prometheus.url cannot be read ({error}); {advice}") from error
    if parts.username or parts.password:
        # The value is not repeated: it holds a password.
        raise PrometheusSettingsError(
            f"prometheus.url for host {parts.hostname} carries credentials; put a token into a file and name it in "
            "prometheus.bearerTokenFile"
        )
    if parts.scheme not in {"http", "https"} or not parts.hostname or not port_is_legal:
        raise PrometheusSettingsError(f"prometheus.url is {url!r}; {advice}")
    if parts.query or parts.fragment:
        raise PrometheusSettingsError(
            f"prometheus.url for host {parts.hostname} has a query or fragment; {advice}"
        )


def _check_tenant(tenant: str | None) -> None:
    if tenant is not None and not re.fullmatch(r"[\x21-\x7e]+", tenant):
        raise PrometheusSettingsError(
            f"prometheus.tenant is {tenant!r}; it goes into a header, so give printable ASCII without blanks, "
            "tenants joined by |"
        )


def _check_matcher(matcher: str) -> None:
    if not _MATCHERS.fullmatch(matcher):
        raise PrometheusSettingsError(
            f"prometheus.clusterMatcher is {matcher!r}; give label matchers in double quotes, separated by commas, "
            'such as cluster="prod-1"'
        )


def _check_span(name: str, span: timedelta, *, least: timedelta, most: timedelta) -> None:
    if not least <= span <= most:
        raise PrometheusSettingsError(
            f"prometheus {name} is {span.total_seconds():g} s; give {least.total_seconds():g} to "
            f"{most.total_seconds():g} s"
        )
