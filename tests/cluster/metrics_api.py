"""A stand-in for a metrics adapter: serves one external metric to real HPAs through the API server's aggregation."""

from __future__ import annotations

import json
import ssl
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.cluster.client import Client, JsonObject
from tests.cluster.controlplane import condition_status
from tests.cluster.processes import wait_until

GROUP, VERSION = "external.metrics.k8s.io", "v1beta1"
API_SERVICE = f"{VERSION}.{GROUP}"


class MetricsApi:
    """Context manager; once registered, every HPA with an External metric of any name reads `value`.

    EndpointSlices refuse loopback addresses, so the API server is led here by an ExternalName Service in *namespace*.
    """

    def __init__(self, namespace: str, *, value: int = 6, cert_file: Path, key_file: Path) -> None:
        self.value = value
        self._namespace = namespace
        self._client: Client | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(cert_file, key_file)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics api", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            self._client.delete(f"/apis/apiregistration.k8s.io/v1/apiservices/{API_SERVICE}")
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def register(self, client: Client) -> None:
        """Lead the API server here until the context ends, and wait until it has found us."""
        self._client = client
        for body in self._manifests():
            client.apply(body)
        path = f"/apis/apiregistration.k8s.io/v1/apiservices/{API_SERVICE}"
        wait_until(
            lambda: condition_status(client.get(path), "Available") == "True",
            20,
            "the API server finds the metrics API",
        )

    def _manifests(self) -> list[JsonObject]:
        port = self._server.server_address[1]
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "metrics-api", "namespace": self._namespace},
            "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]},
        }
        registration = {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": API_SERVICE},
            "spec": {
                "group": GROUP,
                "version": VERSION,
                "service": {"name": "metrics-api", "namespace": self._namespace, "port": port},
                "insecureSkipTLSVerify": True,
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
            },
        }
        return [service, registration]

    def answer(self, path: str) -> JsonObject:
        """Return the discovery document, or the one value of whichever metric *path* asks for."""
        root = f"/apis/{GROUP}/{VERSION}"
        if path == root:
            return {
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": f"{GROUP}/{VERSION}",
                "resources": [],
            }
        item = {
            "metricName": path.rsplit("/", 1)[1],
            "value": str(self.value),
            "timestamp": f"{datetime.now(UTC):%FT%TZ}",
        }
        return {
            "kind": "ExternalMetricValueList",
            "apiVersion": f"{GROUP}/{VERSION}",
            "metadata": {},
            "items": [item],
        }


def _handler(api: MetricsApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(api.answer(self.path.split("?")[0])).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 - the base class's names
            """Stay silent."""

    return Handler
