"""Judging what came back before anybody reads it as numbers: every way in which an answer is not one gets its sentence."""

import json
from urllib.parse import urlsplit, urlunsplit

import requests
from urllib3.exceptions import ReadTimeoutError

from spillway.adapters.prometheus.failures import AnswerTooLarge, PrometheusFailure
from spillway.core.signal import SignalReason

_EXCERPT_CHARACTERS = 200


def transport_failure(error: OSError, *, url: str) -> PrometheusFailure:
    """Say why no whole answer came; `requests` raises a bare OSError for a CA file it cannot read."""
    cause = _root(error)
    if isinstance(error, requests.Timeout) or isinstance(cause, ReadTimeoutError):
        return PrometheusFailure(
            SignalReason.PROMETHEUS_TIMEOUT,
            f"Prometheus at {url} did not answer in time; check its load, or raise prometheus.timeoutSeconds.",
        )
    what = _excerpt(str(cause))
    if isinstance(error, requests.exceptions.SSLError) or not isinstance(error, requests.RequestException):
        return PrometheusFailure(
            SignalReason.PROMETHEUS_UNREACHABLE,
            f"No trusted connection to Prometheus at {url} ({what}); check prometheus.caFile and the certificate.",
        )
    if isinstance(error, requests.ConnectionError):
        return PrometheusFailure(
            SignalReason.PROMETHEUS_UNREACHABLE,
            f"Prometheus at {url} cannot be reached ({what}); check prometheus.url, its Service and network policies.",
        )
    return PrometheusFailure(
        SignalReason.PROMETHEUS_ERROR,
        f"The answer of Prometheus at {url} broke off ({what}); check what stands between Spillway and Prometheus.",
    )


def too_large(*, url: str, limit_bytes: int) -> AnswerTooLarge:
    """Say that the answer was not read to its end."""
    return AnswerTooLarge(
        SignalReason.PROMETHEUS_ERROR,
        f"The answer of Prometheus at {url} is larger than {limit_bytes} bytes and was not read further; "
        "set prometheus.clusterMatcher to ask for one cluster only.",
    )


def http_failure(
    response: requests.Response, body: bytes, *, url: str, secret: str
) -> PrometheusFailure | None:
    """Return what an HTTP status other than 200 means, None for 200. *secret* never appears in a message."""
    status = response.status_code
    said = _server_message(body, secret=secret)
    if status == 200:
        return None
    if status in {401, 403}:
        return PrometheusFailure(
            SignalReason.PROMETHEUS_UNAUTHORIZED,
            f"Prometheus at {url} answered {status}{said}; check prometheus.bearerTokenFile and prometheus.tenant.",
        )
    if 300 <= status < 400:
        return PrometheusFailure(
            SignalReason.PROMETHEUS_ERROR,
            f"Prometheus at {url} redirects to {_without_query(response.headers.get('Location', ''))}, which is not "
            "followed because the token would go with it; set prometheus.url to the final address.",
        )
    if status == 422:
        # A query over the server's sample limit is answered so; a shorter span of it may pass.
        return AnswerTooLarge(
            SignalReason.PROMETHEUS_ERROR, f"Prometheus at {url} refused the query with 422{said}."
        )
    return PrometheusFailure(
        SignalReason.PROMETHEUS_ERROR, f"Prometheus at {url} answered {status}{said}; {_advice(status)}."
    )


def document_of(response: requests.Response, body: bytes, *, url: str, secret: str) -> dict[str, object]:
    """Return the parsed body of a complete success with a `data.result` list; raises PrometheusFailure for all else.

    Warnings mean that a part of the store did not answer, so what is missing cannot be told from what is not there: such an
    answer is not used at all.
    """
    document = _parsed(response, body, url=url)
    if document.get("status") != "success":
        raise PrometheusFailure(
            SignalReason.PROMETHEUS_ERROR,
            f"Prometheus at {url} answered 200 but not success{_server_message(body, secret=secret)}; see its log.",
        )
    if warnings := document.get("warnings"):
        raise PrometheusFailure(
            SignalReason.PROMETHEUS_PARTIAL,
            f"Prometheus at {url} answered in part only: {_excerpt(_redacted(str(warnings), secret))}; "
            "check the stores behind it.",
        )
    data = document.get("data")
    if (
        not isinstance(data, dict)
        or data.get("resultType") not in {"vector", "matrix"}
        or not isinstance(data.get("result"), list)
    ):
        raise _no_prometheus(url, "JSON without a vector or matrix")
    return document


def _parsed(response: requests.Response, body: bytes, *, url: str) -> dict[str, object]:
    try:
        document: object = json.loads(body)
    except (ValueError, RecursionError) as error:
        kind = response.headers.get("Content-Type", "").split(";")[0]
        if kind == "application/json":
            raise PrometheusFailure(
                SignalReason.PROMETHEUS_ERROR,
                f"The answer of Prometheus at {url} is broken JSON; check what stands between Spillway and Prometheus.",
            ) from error
        raise _no_prometheus(url, _excerpt(kind) or "something without a content type") from error
    if not isinstance(document, dict):
        raise _no_prometheus(url, "JSON that is no object")
    return document


def _no_prometheus(url: str, what: str) -> PrometheusFailure:
    return PrometheusFailure(
        SignalReason.PROMETHEUS_ERROR,
        f"{url} answered {what}, not a Prometheus result; check prometheus.url and its path, and whether a login page "
        "stands before it.",
    )


def _server_message(body: bytes, *, secret: str) -> str:
    """What the server says about its refusal, for the end of a clause; empty for pages made for browsers."""
    text = body[:4096].decode("utf-8", "replace").strip()
    try:
        document = json.loads(body)
        if isinstance(document, dict):
            text = str(document.get("error") or document.get("message") or text)
    except (ValueError, RecursionError):
        if text.startswith("<"):
            return ""
    return f" ({_excerpt(_redacted(text, secret))})" if text else ""


def _redacted(text: str, secret: str) -> str:
    return text.replace(secret, "[token]") if secret else text


def _excerpt(text: str) -> str:
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _EXCERPT_CHARACTERS else line[: _EXCERPT_CHARACTERS - 1] + "…"


def _advice(status: int) -> str:
    if status == 404:
        return "check the path in prometheus.url"
    if status in {429, 502, 503, 504}:
        return "it is asked again at the next evaluation; check its load and limits"
    return "see its log"


def _without_query(location: str) -> str:
    """A login page's address without what identifies a session."""
    try:
        parts = urlsplit(location)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "somewhere unreadable"
    return _excerpt(urlunsplit((parts.scheme, host, parts.path, "", ""))) or "nowhere"


def _root(error: BaseException) -> BaseException:
    """The innermost reason: requests wraps urllib3's error, which wraps the system's."""
    inner = getattr(error, "reason", None) or (error.args[0] if error.args else None)
    return _root(inner) if isinstance(inner, BaseException) else error
