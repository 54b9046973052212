"""Which kinds of the Kubernetes API Spillway speaks about, and the paths they live at."""

from dataclasses import dataclass
from urllib.parse import quote


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A kind of object: `group` is empty for the core API, `plural` is its name in paths."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """As objects carry it: `apps/v1`, or `v1` in the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(
        self, *, namespace: str | None = None, name: str | None = None, subresource: str | None = None
    ) -> str:
        """Return the URL path of the collection, of one object, or of a subresource of it.

        Without a namespace it is the collection over all namespaces (or of a cluster-scoped kind).
        """
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name:
            parts.append(quote(name, safe=""))
        if subresource:
            parts.append(subresource)
        return "/" + "/".join(parts)


PODS = Resource(group="", version="v1", plural="pods", kind="Pod")
NAMESPACES = Resource(group="", version="v1", plural="namespaces", kind="Namespace", namespaced=False)
NODES = Resource(group="", version="v1", plural="nodes", kind="Node", namespaced=False)
EVENTS = Resource(group="", version="v1", plural="events", kind="Event")
DEPLOYMENTS = Resource(group="apps", version="v1", plural="deployments", kind="Deployment")
REPLICA_SETS = Resource(group="apps", version="v1", plural="replicasets", kind="ReplicaSet")
HORIZONTAL_POD_AUTOSCALERS = Resource(
    group="autoscaling", version="v2", plural="horizontalpodautoscalers", kind="HorizontalPodAutoscaler"
)
SCALED_OBJECTS = Resource(group="keda.sh", version="v1alpha1", plural="scaledobjects", kind="ScaledObject")
LEASES = Resource(group="coordination.k8s.io", version="v1", plural="leases", kind="Lease")

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a request asks for, in the words of RBAC; `resource` carries the subresource: `deployments/scale`.

    `namespace` is empty for everything cluster-wide.
    """

    verb: str
    resource: str
    namespace: str = ""

    def __str__(self) -> str:
        place = f"in namespace {self.namespace}" if self.namespace else "in the whole cluster"
        return f"{self.verb} {self.resource} {place}"


def describe_call(method: str, path: str, *, watch: bool = False) -> Call:
    """Name a request by verb, resource and namespace, for counters, errors and missing rights.

    Names of objects are left out on purpose, so that counters stay bounded. A path outside `/api` and `/apis` is its own
    resource.
    """
    parts = [part for part in path.split("/") if part]
    rest = parts[2:] if parts[:1] == ["api"] else parts[3:] if parts[:1] == ["apis"] else []
    if not rest:
        return Call(verb=method.lower(), resource=path)
    namespace = ""
    # `/api/v1/namespaces/x` is the Namespace x itself; `/api/v1/namespaces/x/pods` is inside it.
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in {"status", "finalize"}:
        namespace, rest = rest[1], rest[2:]
    resource = rest[0] if len(rest) < 3 else f"{rest[0]}/{rest[2]}"
    return Call(verb=_verb(method, named=len(rest) > 1, watch=watch), resource=resource, namespace=namespace)


def _verb(method: str, *, named: bool, watch: bool) -> str:
    if method == "GET":
        return "watch" if watch else "get" if named else "list"
    return _VERBS.get(method, method.lower())
