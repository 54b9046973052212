"""A real Kubernetes control plane on loopback: etcd, API server, controller manager, scheduler, and kwok as every kubelet."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import requests
import yaml

from tests.cluster.binaries import Binaries
from tests.cluster.client import ApiError, Client, JsonObject
from tests.cluster.keys import write_signing_key
from tests.cluster.processes import Found, Process, Processes, free_port, wait_until

HERE = Path(__file__).parent
READY_SECONDS = 60  # 5 s is usual; a machine busy with other test runs takes longer
UNTHROTTLED = (
    "--kube-api-qps=1000",
    "--kube-api-burst=2000",
)  # the default of 20 a second alone costs 4 s at start
# Nothing here has a cloud, and the node addresses are kwok's.
LEFT_OUT = ("cloud-node-lifecycle", "service-lb", "node-route", "node-ipam")
USERS = {  # name: groups, as in the API server's token file
    "admin": "system:masters",
    "kwok": "system:masters",
    "observer": "system:masters",  # the stand-in exporter: not in the audit log
    "system:kube-controller-manager": "",
    "system:kube-scheduler": "",
}
ANY_TAINT = [{"operator": "Exists"}]


class KubectlFailed(Exception):
    """kubectl ended with an error; the message is what it printed."""


class ControlPlane:
    """Context manager; ready to use inside. Everything lies in *folder*, listens on 127.0.0.1 and ends with us.

    *left_out* names controllers (`deployment`, `node-lifecycle`) that do not run, for those who write by hand what these
    would make.
    """

    def __init__(
        self, binaries: Binaries, folder: Path, *, hpa_sync_seconds: int = 2, left_out: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.processes = Processes(folder / "logs")
        self.audit_log = folder / "audit.log"
        self.ca_file = (
            folder / "certificates" / "apiserver.crt"
        )  # the server writes its certificate and its CA here
        self.cert_file = self.ca_file
        self.key_file = folder / "certificates" / "apiserver.key"
        self.url = f"https://127.0.0.1:{free_port()}"
        self._etcd_url = f"http://127.0.0.1:{free_port()}"
        self.kubectl_path = binaries.path("kubectl")
        self._binaries = binaries
        self._hpa_sync_seconds = hpa_sync_seconds
        self._left_out = (*LEFT_OUT, *left_out)
        self._tokens = {user: secrets.token_hex(16) for user in USERS}
        self.admin_token = self._tokens["admin"]
        self.kubeconfig = folder / "admin.kubeconfig"
        self._clients: list[Client] = []
        self._apiserver: Process | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.processes.__enter__()
        try:
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients:
            client.close()
        self.processes.__exit__(kind, error, trace)

    # Starting

    def _start(self) -> None:
        self._write_files()
        self._start_etcd()
        self.start_apiserver()
        self.client = self.client_for(self.admin_token)
        self._start_controllers()
        self.wait_for(
            lambda: self.client.find("/api/v1/namespaces/default/serviceaccounts/default"),
            READY_SECONDS,
            "the controller manager makes the default ServiceAccount",
        )

    def _write_files(self) -> None:
        write_signing_key(self.folder / "accounts.key")
        lines = [f'{token},{user},{user},"{USERS[user]}"\n' for user, token in self._tokens.items()]
        (self.folder / "tokens.csv").write_text("".join(lines))
        self.kubeconfig_for(self.admin_token, "admin")

    def _start_etcd(self) -> None:
        peer = f"http://127.0.0.1:{free_port()}"
        self.processes.start(
            "etcd",
            [
                self._binaries.path("etcd"),
                "--unsafe-no-fsync",  # the data dies with the test run
                f"--data-dir={self.folder / 'etcd'}",
                f"--listen-client-urls={self._etcd_url}",
                f"--advertise-client-urls={self._etcd_url}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
                "--logger=zap",
                "--log-level=warn",
            ],
            ready=lambda: _answers(f"{self._etcd_url}/readyz"),
            seconds=READY_SECONDS,
        )

    def start_apiserver(self) -> None:
        """Start the API server on its port and wait until it is ready; its data are those it left."""
        self._apiserver = self.processes.start(
            "kube-apiserver",
            [
                self._binaries.path("kube-apiserver"),
                f"--etcd-servers={self._etcd_url}",
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                f"--secure-port={self.url.rsplit(':', 1)[1]}",
                "--endpoint-reconciler-type=none",  # a loopback endpoint would be an error every second
                f"--cert-dir={self.ca_file.parent}",
                f"--token-auth-file={self.folder / 'tokens.csv'}",
                "--authorization-mode=Node,RBAC",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={self.folder / 'accounts.key'}",
                f"--service-account-signing-key-file={self.folder / 'accounts.key'}",
                "--service-cluster-ip-range=10.96.0.0/16",
                "--enable-priority-and-fairness=false",  # a burst of test requests is not a noisy neighbour
                f"--audit-policy-file={HERE / 'audit-policy.yaml'}",
                f"--audit-log-path={self.audit_log}",
                "--audit-log-maxsize=4096",  # MB, so that no test run sees it rotated
            ],
            ready=lambda: _answers(f"{self.url}/readyz", ca_file=self.ca_file),
            seconds=READY_SECONDS,
        )

    def _start_controllers(self) -> None:
        self.processes.start(
            "kube-controller-manager",
            [
                self._binaries.path("kube-controller-manager"),
                f"--kubeconfig={self.kubeconfig_for(self._tokens['system:kube-controller-manager'], 'controllers')}",
                "--leader-elect=false",
                "--secure-port=0",
                "--use-service-account-credentials",
                f"--service-account-private-key-file={self.folder / 'accounts.key'}",
                f"--root-ca-file={self.ca_file}",
                "--controllers=" + ",".join(["*", *(f"-{name}-controller" for name in self._left_out)]),
                f"--horizontal-pod-autoscaler-sync-period={self._hpa_sync_seconds}s",
                *UNTHROTTLED,
            ],
        )
        self.processes.start(
            "kube-scheduler",
            [
                self._binaries.path("kube-scheduler"),
                f"--kubeconfig={self.kubeconfig_for(self._tokens['system:kube-scheduler'], 'scheduler')}",
                "--leader-elect=false",
                "--secure-port=0",
                *UNTHROTTLED,
            ],
        )
        self.processes.start(
            "kwok",
            [
                self._binaries.path("kwok"),
                f"--kubeconfig={self.kubeconfig_for(self._tokens['kwok'], 'kwok')}",
                "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
                f"--config={HERE / 'stages.yaml'}",
                "--node-ip=10.1.0.1",
                "--node-lease-duration-seconds=40",
            ],
        )

    # Trouble

    def pause_api(self) -> None:
        """Stop the API server in its tracks: connections stay open and nothing is answered."""
        self._server().signal(signal.SIGSTOP)

    def resume_api(self) -> None:
        self._server().signal(signal.SIGCONT)

    def stop_apiserver(self) -> None:
        """End the API server: connections are cut and refused."""
        self._server().stop()

    def restart_apiserver(self) -> None:
        self.stop_apiserver()
        self.start_apiserver()

    def _server(self) -> Process:
        assert self._apiserver is not None, "use ControlPlane as a context manager"
        return self._apiserver

    # Speaking to it

    def client_for(self, token: str) -> Client:
        """Return a client that speaks as the holder of *token*; closed with the control plane."""
        client = Client(url=self.url, token=token, ca_file=self.ca_file)
        self._clients.append(client)
        return client

    def observer_client(self) -> Client:
        """Return a new client whose requests stay out of the audit log, for threads that only look."""
        return self.client_for(self._tokens["observer"])

    def kubeconfig_for(
        self, token: str, name: str, *, server: str | None = None, ca_file: Path | None = None
    ) -> Path:
        """Write `folder/NAME.kubeconfig` for the holder of *token* and return its path; *server* may be a proxy's URL."""
        server = server or self.url
        cluster: JsonObject = {"server": server}
        if server.startswith("https:"):
            cluster["certificate-authority"] = str(ca_file or self.ca_file)
        path = self.folder / f"{name}.kubeconfig"
        path.touch(mode=0o600)
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def kubectl(
        self, *args: str, stdin: str | None = None, as_token: str | None = None, seconds: float = 60
    ) -> str:
        """Run the real kubectl and return its stdout; raise KubectlFailed with its words."""
        identity = ["--kubeconfig", str(self.kubeconfig)]
        if as_token is not None:  # a token on the command line loses against the one in a kubeconfig
            identity = [
                "--kubeconfig",
                "/dev/null",
                f"--server={self.url}",
                f"--certificate-authority={self.ca_file}",
            ]
            identity.append(f"--token={as_token}")
        done = subprocess.run(
            [self.kubectl_path, *identity, "--cache-dir", str(self.folder / "kubectl-cache"), *args],
            input=stdin, capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise KubectlFailed(done.stderr.strip())
        return done.stdout

    def service_account_token(self, namespace: str, name: str, *, seconds: int = 86400) -> str:
        """Return a token that the server issued for an existing ServiceAccount."""
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds},
        }
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        token: str = self.client.post(path, request)["status"]["token"]
        return token

    def wait_for(self, predicate: Callable[[], Found | None], seconds: float, what: str) -> Found:
        """Return the first truthy answer of *predicate*; raise `Overdue` naming *what*."""
        return wait_until(predicate, seconds, what)

    # Who asked for what

    def audit_mark(self) -> int:
        """Return the place in the audit log that later events come after."""
        return self.audit_log.stat().st_size

    def audit_events(
        self, *, user: str | None = None, verbs: Collection[str] | None = None, since: int = 0
    ) -> list[JsonObject]:
        """Return the requests that the server answered, in order.

        A watch counts once, when it was opened (stage ResponseStarted). Writes carry `requestObject`. What kwok does and the
        Leases of the control plane itself are left out by the audit policy.
        """
        with self.audit_log.open("rb") as log:
            log.seek(max(0, since - 1))
            written = log.read()
        if since:
            # The mark may have been set while the server was half-way through a line; that line began before it.
            written = written[written.find(b"\n") + 1 :]
        lines = written.splitlines(keepends=True)
        events = [json.loads(line) for line in lines if line.endswith(b"\n")]
        return [
            event
            for event in events
            if event["stage"] == ("ResponseStarted" if event["verb"] == "watch" else "ResponseComplete")
            and (user is None or event["user"]["username"] == user)
            and (verbs is None or event["verb"] in verbs)
        ]

    # Filling it

    def apply_crd(self, path: Path) -> str:
        """Apply the CustomResourceDefinition in *path*, wait until it is served, and return its name."""
        crd: JsonObject = yaml.safe_load(path.read_text())
        name: str = crd["metadata"]["name"]
        self.client.apply(crd)
        where = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
        self.wait_for(
            lambda: condition_status(self.client.get(where), "Established") == "True",
            10,
            f"the API server serves {name}",
        )
        return name

    def make_namespace(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        """Make a namespace and wait for its default ServiceAccount, without which no pod can be made in it."""
        self.client.post("/api/v1/namespaces", {"metadata": {"name": name, "labels": dict(labels or {})}})
        path = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        self.wait_for(lambda: self.client.find(path), 60, f"namespace {name} gets its default ServiceAccount")

    def make_gpu_node(
        self,
        name: str,
        *,
        gpus: int = 8,
        labels: Mapping[str, str] | None = None,
        taints: Sequence[Mapping[str, str]] = (),
        ready: bool = True,
        ready_after: str = "0s",
        gpu_model: str = "NVIDIA-H100-80GB-HBM3",
    ) -> JsonObject:
        """Make a Node that kwok plays; wait until it is Ready unless *ready* is False (then it never gets Ready)."""
        resources = {"cpu": "96", "memory": "1Ti", "pods": "110", "nvidia.com/gpu": str(gpus)}
        own_labels = {"kubernetes.io/hostname": name, "nvidia.com/gpu.product": gpu_model, **(labels or {})}
        if not ready:
            own_labels["spillway-test.dev/not-ready"] = "true"
        node = {
            "metadata": {
                "name": name,
                "labels": own_labels,
                "annotations": {
                    "kwok.x-k8s.io/node": "fake",
                    "node-ready.stage.kwok.x-k8s.io/delay": ready_after,
                },
            },
            "spec": {"taints": [dict(taint) for taint in taints]},
            "status": {"capacity": resources, "allocatable": resources},
        }
        made = self.client.post("/api/v1/nodes", node)
        if ready:
            self.wait_for(
                lambda: self.node_is_usable(name), 60, f"node {name} Ready and free of its not-ready taint"
            )
        return made

    def node_is_usable(self, name: str) -> bool:
        """Say whether the scheduler would put pods there: Ready, and the not-ready taint gone."""
        node = self.client.get(f"/api/v1/nodes/{name}")
        taints = [taint["key"] for taint in node["spec"].get("taints", [])]
        return "node.kubernetes.io/not-ready" not in taints and condition_status(node, "Ready") == "True"

    def delete_node(self, name: str) -> None:
        self.client.delete(f"/api/v1/nodes/{name}")

    def make_deployment(self, namespace: str, name: str, **options: Any) -> JsonObject:  # noqa: ANN401
        """Make a Deployment of GPU pods and return it; options as of `gpu_deployment`."""
        return self.client.post(
            f"/apis/apps/v1/namespaces/{namespace}/deployments", gpu_deployment(name, **options)
        )

    def deployment(self, namespace: str, name: str) -> JsonObject:
        return self.client.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}")

    def pods(self, namespace: str, selector: str = "") -> list[JsonObject]:
        found: list[JsonObject] = self.client.get(
            f"/api/v1/namespaces/{namespace}/pods", labelSelector=selector
        )["items"]
        return found

    def wait_ready_replicas(self, namespace: str, name: str, replicas: int, seconds: float = 30) -> None:
        """Wait until the Deployment has exactly *replicas* pods, all of them Ready."""

        def settled() -> bool:
            found = self.deployment(namespace, name)
            status = found["status"]
            counts = {status.get("replicas", 0), status.get("readyReplicas", 0)}
            return (
                counts == {replicas} and status.get("observedGeneration") == found["metadata"]["generation"]
            )

        self.wait_for(settled, seconds, f"{namespace}/{name} has {replicas} ready replicas and no other")


def gpu_deployment(
    name: str,
    *,
    replicas: int = 1,
    gpus: int = 1,
    ready_after: str = "0s",
    labels: Mapping[str, str] | None = None,
    pod_labels: Mapping[str, str] | None = None,
    pod_annotations: Mapping[str, str] | None = None,
    pod_spec: Mapping[str, Any] | None = None,
    crash: bool = False,
) -> JsonObject:
    """Return the manifest of a Deployment asking for *gpus* GPUs a pod; 0 asks for none.

    Its pods tolerate every taint, turn Ready *ready_after* (a Go duration) their start, or crash-loop for ever. *pod_spec* is laid
    over the pod's spec.
    """
    own_labels = {"app": name, **(pod_labels or {}), **({"spillway-test.dev/crash": "true"} if crash else {})}
    container: JsonObject = {"name": "server", "image": "registry.invalid/model-server:1"}
    if gpus:
        container["resources"] = {"limits": {"nvidia.com/gpu": str(gpus)}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": {"app": name, **(labels or {})}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {
                    "labels": own_labels,
                    "annotations": {
                        "pod-ready.stage.kwok.x-k8s.io/delay": ready_after,
                        **(pod_annotations or {}),
                    },
                },
                "spec": {"containers": [container], "tolerations": ANY_TAINT, **(pod_spec or {})},
            },
        },
    }


def condition_status(body: JsonObject, kind: str) -> str | None:
    """Return the status ("True", "False", "Unknown") of the condition of type *kind*; None where there is none."""
    for condition in body.get("status", {}).get("conditions") or []:  # a new CRD's conditions are null
        if condition["type"] == kind:
            status: str = condition["status"]
            return status
    return None


def _answers(url: str, *, ca_file: Path | None = None) -> bool:
    try:
        return requests.get(url, timeout=2, verify=str(ca_file) if ca_file else True).ok
    except (requests.RequestException, OSError):  # OSError: the certificate is not written yet
        return False


__all__ = [
    "ApiError",
    "Client",
    "ControlPlane",
    "JsonObject",
    "KubectlFailed",
    "condition_status",
    "gpu_deployment",
]
