"""A requests session that cannot be held up, filled up or lured away.

`requests` limits the wait for each read only: a server that drips one byte a second holds a thread for ever, in the headers as
well as in the body. Here each exchange knows its sockets, and whoever waits for it can shut them down at the deadline.
Connections are not kept: a query comes every few seconds, and a fresh connection needs no retry and sees a rotated CA at once.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Protocol

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

from spillway import __version__
from spillway.adapters.prometheus.answers import document_of, http_failure, too_large, transport_failure
from spillway.adapters.prometheus.failures import PrometheusFailure
from spillway.core.signal import SignalReason

_CHUNK_BYTES = 64 * 1024


class Deadline:
    """The end of one exchange: a monotonic time, and the sockets to shut when somebody will not wait any longer."""

    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._is_over = False

    def remaining_seconds(self) -> float:
        """Seconds left, never below a millisecond, since 0 means "no limit" to a socket."""
        return max(self._ends - time.monotonic(), 0.001)

    def is_over(self) -> bool:
        """Whether the time has passed or the exchange was ended."""
        return self._is_over or time.monotonic() >= self._ends

    def watch(self, connected: socket.socket) -> None:
        """Remember a connection, by a handle of our own that survives its being wrapped in TLS."""
        with self._lock:
            self._sockets.append(connected.dup())
        if self._is_over:
            self.end()

    def end(self) -> None:
        """Shut every connection, so that a thread blocked on one returns at once."""
        with self._lock:
            self._is_over = True
            for handle in self._sockets:
                with contextlib.suppress(OSError):  # the other side was faster
                    handle.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """Close our handles, once the exchange is done with its connections."""
        with self._lock:
            for handle in self._sockets:
                handle.close()
            self._sockets.clear()


_deadline: ContextVar[Deadline] = ContextVar("deadline")


@contextlib.contextmanager
def under(deadline: Deadline) -> Iterator[None]:
    """Let every request of this thread inside the block obey *deadline*."""
    token = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(token)
        deadline.release()


class Closes(Protocol):
    """A connection of urllib3's, plain or TLS."""

    def close(self) -> None:
        """End it."""


class _WatchedConnection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        connected = super()._new_conn()
        _deadline.get().watch(connected)
        return connected


class _WatchedTlsConnection(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        connected = super()._new_conn()
        _deadline.get().watch(connected)
        return connected


class _WatchedPool(HTTPConnectionPool):
    ConnectionCls = _WatchedConnection

    def _put_conn(self, conn: Closes | None) -> None:
        _end(conn)
        super()._put_conn(None)


class _WatchedTlsPool(HTTPSConnectionPool):
    ConnectionCls = _WatchedTlsConnection

    def _put_conn(self, conn: Closes | None) -> None:
        _end(conn)
        super()._put_conn(None)


def _end(conn: Closes | None) -> None:
    """Close a connection that comes back to its pool, and put none in its place.

    The header asks the server to close it, but a server that does not say so itself leaves it to us: used again, it would
    belong to no exchange's deadline, and may be closed under the next query.
    """
    if conn is not None:
        conn.close()


class _WatchedAdapter(HTTPAdapter):
    def __init__(self) -> None:
        super().__init__(max_retries=0)
        self.poolmanager.pool_classes_by_scheme = {"http": _WatchedPool, "https": _WatchedTlsPool}


class BearerToken:
    """A token in a file that something else rotates. Without a file there is no token."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._stamp: tuple[int, int, int] | None = None
        self._text = ""

    def read(self) -> str:
        """Return the token, read again only when the file changed; raises PrometheusFailure when it cannot be read."""
        if self._file is None:
            return ""
        try:
            stat = self._file.stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if stamp != self._stamp:
                self._text = _token_in(self._file.read_bytes())
                self._stamp = stamp
        except (OSError, ValueError) as error:
            raise PrometheusFailure(
                SignalReason.PROMETHEUS_UNAUTHORIZED,
                f"The bearer token file {self._file} holds no readable token ({type(error).__name__}); check "
                "prometheus.bearerTokenFile and the mount behind it.",
            ) from None  # a decoding error would carry the token along
        return self._text

    def read_anew(self) -> str:
        """Return the token read whatever the file's stamp says: a rotation may keep size and time."""
        self._stamp = None
        return self.read()


def _token_in(content: bytes) -> str:
    """A header of anything else would be refused further down, in an error that quotes the token."""
    token = content.decode("ascii").strip()
    if not token or not all("!" <= character <= "~" for character in token):
        raise ValueError("no single word of printable ASCII")
    return token


class Answer:
    """What the Prometheus library looks at: an answer that was read whole and found to be a success."""

    status_code = 200

    def __init__(self, document: object) -> None:
        self._document = document

    def json(self) -> object:
        """Return the parsed body."""
        return self._document


class BoundedSession(requests.Session):
    """Sends queries as forms and returns only whole, successful, complete answers; raises PrometheusFailure for all else.

    Redirects are not followed, because the token would go with them. Cookies are not kept. The environment's proxies and
    ~/.netrc are not looked at: both could add or replace credentials.
    """

    def __init__(
        self,
        *,
        url: str,
        token: BearerToken,
        tenant: str | None,
        ca_file: Path | None,
        max_bytes: int,
    ) -> None:
        super().__init__()
        self.trust_env = False
        self.verify = str(ca_file) if ca_file else True
        self._url = url
        self._token = token
        self._tenant = tenant
        self._max_bytes = max_bytes
        self._adapter = _WatchedAdapter()

    def get_adapter(self, url: str | bytes) -> HTTPAdapter:  # noqa: ARG002 (one server, one adapter)
        """Always our own adapter, whatever the library mounts."""
        return self._adapter

    def close(self) -> None:
        """Drop what connections there are."""
        super().close()
        self._adapter.close()

    def request(  # type: ignore[override]  # the library reads only `json()` and `status_code`
        self, method: str | bytes, url: str | bytes, *, params: dict[str, str], **_: object
    ) -> Answer:
        """Send *params* as a form, since a long query does not fit into every proxy's limit for addresses.

        A 401 leads to one more try if the token file holds another token by now.
        """
        try:
            return self._ask(method, url, params)
        except OSError as error:
            raise transport_failure(error, url=self._url) from error

    def _ask(self, method: str | bytes, url: str | bytes, params: dict[str, str]) -> Answer:
        token = self._token.read()
        response = self._post(method, url, params, token)
        if response.status_code == 401 and (renewed := self._token.read_anew()) != token:
            response.close()
            token = renewed
            response = self._post(method, url, params, token)
        with response:
            body = self._read(response)
        if failure := http_failure(response, body, url=self._url, secret=token):
            raise failure
        return Answer(document_of(response, body, url=self._url, secret=token))

    def _post(
        self, method: str | bytes, url: str | bytes, params: dict[str, str], token: str
    ) -> requests.Response:
        remaining = _deadline.get().remaining_seconds()
        self.cookies.clear()
        return super().request(
            method,
            url,
            data=params,
            headers=self._headers(token),
            timeout=(remaining, remaining),
            allow_redirects=False,
            stream=True,
        )

    def _headers(self, token: str) -> dict[str, str]:
        headers = {
            "Accept": "application/json",
            "Connection": "close",
            "User-Agent": f"spillway/{__version__}",
        }
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if self._tenant:
            headers["X-Scope-OrgID"] = self._tenant
        return headers

    def _read(self, response: requests.Response) -> bytes:
        """Read the body up to the limit, which counts what gzip unpacks to."""
        deadline = _deadline.get()
        body = bytearray()
        for chunk in response.iter_content(_CHUNK_BYTES):
            body += chunk
            if len(body) > self._max_bytes:
                raise too_large(url=self._url, limit_bytes=self._max_bytes)
            if deadline.is_over():
                raise requests.ReadTimeout
        return bytes(body)
