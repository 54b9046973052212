"""What the API server may answer instead of yes, as types; callers match on the type and never on the text."""

from collections.abc import Mapping

from spillway.adapters.kube.resources import Call

MESSAGE_LIMIT = 500  # characters of the server's text that we carry into logs and conditions


class KubeError(Exception):
    """A request that did not succeed: what was asked, the HTTP code (None when there was no answer) and the server's text."""

    def __init__(self, call: Call, message: str, *, code: int | None = None) -> None:
        self.call = call
        self.code = code
        self.message = _shorten(message)
        super().__init__(f"cannot {call}: {self.message}")

    @property
    def may_have_happened(self) -> bool:
        """Whether a write may have taken effect although it failed: there was no answer, or only a gateway's."""
        return False


class NotFound(KubeError):
    """404: the object, its namespace or its kind is not there."""


class Conflict(KubeError):
    """409: somebody else wrote first, or it exists already; read again and decide again."""


class Gone(KubeError):
    """410: the resourceVersion or continue token is older than the server's memory; list again."""


class PreconditionFailed(KubeError):
    """422: a tested value was not as expected, or the object does not pass the kind's schema."""


class Unauthorized(KubeError):
    """401: the token is missing, wrong or expired; it was read again from its source once before this was raised."""


class Forbidden(KubeError):
    """403: the account lacks the right, an admission policy refused, or the namespace is going away."""


class TooManyRequests(KubeError):
    """429: the server is busy; `retry_after` is how many seconds it asks to wait, None when it does not say."""

    def __init__(
        self, call: Call, message: str, *, code: int | None = 429, retry_after: float | None = None
    ) -> None:
        super().__init__(call, message, code=code)
        self.retry_after = retry_after


class BadRequest(KubeError):
    """Any other 4xx: the request itself is wrong, so repeating it cannot heal it."""


class ServerError(KubeError):
    """5xx, or an answer that is not Kubernetes JSON (a proxy's page)."""

    @property
    def may_have_happened(self) -> bool:
        """True: a gateway answers 502 or 504 for requests that it has passed on."""
        return True


class Unreachable(KubeError):
    """No connection, or it broke before the answer was whole; `sent` tells whether the request may have arrived."""

    def __init__(self, call: Call, message: str, *, sent: bool) -> None:
        super().__init__(call, message)
        self.sent = sent

    @property
    def may_have_happened(self) -> bool:
        """True unless no connection came about at all."""
        return self.sent


class TimedOut(KubeError):
    """No whole answer within the request's own limit."""

    @property
    def may_have_happened(self) -> bool:
        """True: the server may still be working on it."""
        return True


_BY_CODE: Mapping[int, type[KubeError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: PreconditionFailed,
}


def error_for(call: Call, *, code: int, message: str, retry_after: float | None = None) -> KubeError:
    """Return the error that stands for HTTP *code*, 300 and above."""
    if code == 429:
        return TooManyRequests(call, message, retry_after=retry_after)
    fallback = ServerError if code >= 500 or code < 400 else BadRequest
    return _BY_CODE.get(code, fallback)(call, message, code=code)


def _shorten(message: str) -> str:
    text = " ".join(message.split())
    return text if len(text) <= MESSAGE_LIMIT else text[: MESSAGE_LIMIT - 1] + "…"
