"""A loopback HTTP server that answers as a test says, byte by byte if need be, and remembers what it was asked."""

import gzip
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs

CLOCK = 1_780_003_600.5


def vector(*elements: Mapping[str, object]) -> dict[str, object]:
    """Return the document of a successful instant query: *elements* and the part that is always there."""
    evaluated = {"metric": {"part": "evaluated"}, "value": [CLOCK, str(CLOCK)]}
    return {"status": "success", "data": {"resultType": "vector", "result": [*elements, evaluated]}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the client sent."""

    path: str
    headers: Mapping[str, str]
    form: Mapping[str, str]


class Conversation:
    """One request being answered."""

    def __init__(self, handler: BaseHTTPRequestHandler, request: Request, over: threading.Event) -> None:
        self._handler = handler
        self._over = over
        self.request = request

    @property
    def port(self) -> int:
        """The client's end of the connection."""
        return int(self._handler.client_address[1])

    def keep_alive(self) -> None:
        """Go on listening on this connection, whatever the client asked for."""
        self._handler.close_connection = False

    def json(self, document: object, *, status: int = 200, compressed: bool = False) -> None:
        """Answer with a document, as Prometheus does."""
        body = json.dumps(document).encode()
        headers = {"Content-Type": "application/json"}
        if compressed:
            body = gzip.compress(body)
            headers["Content-Encoding"] = "gzip"
        self.raw(body, status=status, headers=headers)

    def raw(
        self,
        body: bytes,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        length: int | None = None,
    ) -> None:
        """Answer with any bytes; *length* promises another length than there is."""
        self._handler.send_response(status)
        for name, value in (headers or {}).items():
            self._handler.send_header(name, value)
        self._handler.send_header("Content-Length", str(len(body) if length is None else length))
        self._handler.end_headers()
        self._handler.wfile.write(body)

    def hang(self) -> None:
        """Say nothing until the server stops or the client goes."""
        self._drip(lambda: None)

    def drip_headers(self) -> None:
        """Start an answer whose headers never end."""
        self._handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        self._drip(lambda: self._handler.wfile.write(b"a"))

    def drip_body(self) -> None:
        """Start a body that comes one byte at a time and never ends."""
        self._handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        self._drip(lambda: self._handler.wfile.write(b" "))

    def _drip(self, write: Callable[[], object]) -> None:
        self._handler.close_connection = True
        try:
            while not self._over.wait(0.02):
                write()
                self._handler.wfile.flush()
        except OSError:
            return


Reply = Callable[[Conversation], None]


@dataclass(slots=True)
class ScriptedServer:
    """Context manager; `.url` answers with `reply` until another one is set."""

    reply: Reply = lambda conversation: conversation.json(vector())
    requests: list[Request] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _http: ThreadingHTTPServer | None = None
    _thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        assert self._http is not None, "use the server as a context manager"
        return f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> Self:
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                form = {name: values[-1] for name, values in parse_qs(body).items()}
                request = Request(path=self.path, headers=dict(self.headers), form=form)
                script.requests.append(request)
                script.reply(Conversation(self, request, script._over))

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Stay silent."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._http is not None
        assert self._thread is not None
        self._over.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def wait_for(predicate: Callable[[], bool], seconds: float = 5) -> bool:
    """Say whether *predicate* came true within *seconds*."""
    ends = time.monotonic() + seconds
    while not predicate() and time.monotonic() < ends:
        threading.Event().wait(0.01)
    return predicate()
