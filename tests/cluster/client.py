"""A small synchronous REST client for raw JSON objects, with the server's own words in every error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import requests

JsonObject = dict[str, Any]
PATCH_TYPES = {
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",
}


class ApiError(Exception):
    """The API server refused; `status` is the HTTP code, `reason` the Status object's reason."""

    def __init__(self, *, status: int, reason: str, message: str, body: JsonObject) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.body = body


class Client:
    """Speaks to one API server as the holder of *token*. Safe to use from one thread at a time."""

    def __init__(self, *, url: str, token: str, ca_file: Path, timeout_seconds: float = 30) -> None:
        self.url = url
        self._timeout = timeout_seconds
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy set in the environment has no business on loopback
        self._session.verify = str(ca_file)
        self._session.headers["Authorization"] = f"Bearer {token}"
        self._plurals: dict[tuple[str, str], tuple[str, bool]] = {}

    def close(self) -> None:
        self._session.close()

    def get(self, path: str, **params: Any) -> JsonObject:  # noqa: ANN401 - query values of any simple type
        return self._ask("GET", path, params=params)

    def find(self, path: str, **params: Any) -> JsonObject | None:  # noqa: ANN401
        """Return the object, or None where the server says 404."""
        try:
            return self.get(path, **params)
        except ApiError as exc:
            if exc.status == 404:
                return None
            raise

    def post(self, path: str, body: JsonObject, **params: Any) -> JsonObject:  # noqa: ANN401
        return self._ask("POST", path, body=body, params=params)

    def put(self, path: str, body: JsonObject, **params: Any) -> JsonObject:  # noqa: ANN401
        return self._ask("PUT", path, body=body, params=params)

    def patch(
        self,
        path: str,
        body: JsonObject | list[JsonObject],
        kind: Literal["merge", "json", "strategic", "apply"] = "merge",
        **params: Any,  # noqa: ANN401
    ) -> JsonObject:
        return self._ask("PATCH", path, body=body, params=params, content_type=PATCH_TYPES[kind])

    def delete(
        self,
        path: str,
        body: JsonObject | None = None,
        **params: Any,  # noqa: ANN401
    ) -> JsonObject:
        """Delete, with the DeleteOptions in *body* if any; an object that is already gone is fine."""
        try:
            return self._ask("DELETE", path, body=body, params=params)
        except ApiError as exc:
            if exc.status == 404:
                return {}
            raise

    def text(self, path: str) -> str:
        """Return a page that is not JSON, such as /metrics or /readyz."""
        answer = self._session.get(self.url + path, timeout=self._timeout)
        answer.raise_for_status()
        return answer.text

    def watch(self, path: str, *, version: str, seconds: int = 60) -> Iterator[JsonObject]:
        """Yield the watch events of a list path after *version* until the server ends the watch after *seconds*."""
        params: dict[str, str | int] = {
            "watch": "true",
            "resourceVersion": version,
            "timeoutSeconds": seconds,
            "allowWatchBookmarks": "true",
        }
        timeouts = (self._timeout, seconds + 10)  # silence is normal; the server closes in time
        with self._session.get(self.url + path, params=params, stream=True, timeout=timeouts) as answer:
            answer.raise_for_status()
            for line in answer.iter_lines():
                yield json.loads(line)

    def apply(self, body: JsonObject, *, manager: str = "tests", force: bool = True) -> JsonObject:
        """Server-side apply an object of any kind and return what the server stored."""
        return self.patch(
            self.path_of(body), body, kind="apply", fieldManager=manager, force=str(force).lower()
        )

    def path_of(self, body: JsonObject) -> str:
        """Return the path of the object that *body* is a manifest of; namespaced kinds default to `default`."""
        version, metadata = body["apiVersion"], body["metadata"]
        plural, namespaced = self._plural(version, body["kind"])
        root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
        scope = f"/namespaces/{metadata.get('namespace', 'default')}" if namespaced else ""
        return f"{root}{scope}/{plural}/{metadata['name']}"

    def _plural(self, version: str, kind: str) -> tuple[str, bool]:
        if (version, kind) not in self._plurals:
            root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
            for resource in self.get(root)["resources"]:
                if "/" not in resource["name"]:
                    self._plurals[version, resource["kind"]] = (resource["name"], resource["namespaced"])
        return self._plurals[version, kind]

    def _ask(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, Any],
        body: JsonObject | list[JsonObject] | None = None,
        content_type: str = "application/json",
    ) -> JsonObject:
        answer = self._session.request(
            method,
            self.url + path,
            params=params,
            data=None if body is None else json.dumps(body),
            headers={"Content-Type": content_type},
            timeout=self._timeout,
        )
        try:
            decoded: JsonObject = answer.json()
        except ValueError:
            decoded = {"message": answer.text}
        if answer.status_code >= 400:
            raise ApiError(
                status=answer.status_code,
                reason=decoded.get("reason", answer.reason),
                message=decoded.get("message", ""),
                body=decoded,
            )
        return decoded
