"""Paths, the names of requests, and versions."""

import pytest

from spillway.adapters.kube.resources import DEPLOYMENTS, NAMESPACES, PODS, describe_call
from spillway.adapters.kube.versions import has_reached, is_older


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (PODS.path(), "/api/v1/pods"),
        (PODS.path(namespace="ns"), "/api/v1/namespaces/ns/pods"),
        (NAMESPACES.path(name="ns"), "/api/v1/namespaces/ns"),
        (
            DEPLOYMENTS.path(namespace="ns", name="chat", subresource="scale"),
            "/apis/apps/v1/namespaces/ns/deployments/chat/scale",
        ),
        (PODS.path(namespace="../x", name="a/b"), "/api/v1/namespaces/..%2Fx/pods/a%2Fb"),
    ],
)
def test_paths_are_the_servers_and_names_cannot_leave_them(path: str, expected: str) -> None:
    assert path == expected


@pytest.mark.parametrize(
    ("method", "path", "watch", "expected"),
    [
        ("GET", "/api/v1/pods", False, "list pods in the whole cluster"),
        ("GET", "/api/v1/pods", True, "watch pods in the whole cluster"),
        ("GET", "/api/v1/namespaces/ns", False, "get namespaces in the whole cluster"),
        ("PATCH", "/apis/apps/v1/namespaces/ns/deployments/chat/scale", False, "patch deployments/scale in namespace ns"),
        ("POST", "/api/v1/namespaces/ns/events", False, "create events in namespace ns"),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/ns/leases/spillway", False, "update leases in namespace ns"),
        ("DELETE", "/api/v1/namespaces/ns/pods/x", False, "delete pods in namespace ns"),
        ("GET", "/version", False, "get /version in the whole cluster"),
    ],
)  # fmt: skip
def test_a_request_is_named_as_rbac_names_it(method: str, path: str, watch: bool, expected: str) -> None:
    assert str(describe_call(method, path, watch=watch)) == expected


@pytest.mark.parametrize(
    ("seen", "wanted", "reached"),
    [("9", "10", False), ("10", "10", True), ("11", "10", True), ("a", "b", False), ("a", "a", True)],
)
def test_a_cache_has_reached_a_write_at_its_version_or_later(seen: str, wanted: str, reached: bool) -> None:
    assert has_reached(seen, wanted) is reached


@pytest.mark.parametrize(
    ("version", "than", "older"),
    [("9", "10", True), ("10", "10", False), ("", "10", False), ("9", "", False)],
)
def test_only_numbers_can_be_older(version: str, than: str, older: bool) -> None:
    assert is_older(version, than=than) is older
