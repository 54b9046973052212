"""Where the API server is and how to prove who we are: kubeconfig or service account, read by the kubernetes library."""

import os
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

IN_CLUSTER_MARK = "KUBERNETES_SERVICE_HOST"  # set by the kubelet in every pod


class CredentialsError(Exception):
    """No usable way to the API server: names what was read and what to set."""


async def load_configuration(*, kubeconfig: Path | None = None, context: str | None = None) -> Configuration:
    """Return the library's configuration from the first source there is; reads files, and runs an exec plugin if one is set.

    Order: *kubeconfig*, the files of `KUBECONFIG`, the pod's service account, `~/.kube/config`. Raises `CredentialsError`.
    """
    source = _kubeconfig_source(kubeconfig)
    configuration = Configuration()
    try:
        if source is None:
            load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]  # not annotated
        else:
            # persist_config would rewrite the user's own kubeconfig.
            await load_kube_config(  # type: ignore[no-untyped-call]  # not annotated
                config_file=source, context=context, client_configuration=configuration, persist_config=False
            )
    except (ConfigException, OSError, ValueError, TypeError, KeyError, AttributeError) as exc:
        # A missing or malformed file surfaces from the library as any of these.
        place = "the pod's service account" if source is None else source
        raise CredentialsError(
            f"cannot use {place} to reach the API server: {exc}. Set --kubeconfig or KUBECONFIG to a readable kubeconfig."
        ) from exc
    _set_transport_options(configuration)
    return configuration


async def auth_headers(configuration: Configuration) -> dict[str, str]:
    """Return the headers that prove who we are; a service-account token is read from its file again once a minute.

    Empty where a client certificate is the proof. Raises `CredentialsError` when the token cannot be read.
    """
    try:
        settings: dict[str, dict[str, str]] = await configuration.auth_settings()  # type: ignore[assignment]
    except (ConfigException, OSError) as exc:
        raise CredentialsError(f"cannot read the service-account token: {exc}") from exc
    return {setting["key"]: setting["value"] for setting in settings.values()}


def tls_material(configuration: Configuration) -> tuple[bytes | None, ...]:
    """Return the contents of the CA, certificate and key files, to see whether a connection pool is out of date."""
    files = (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file)
    return tuple(None if file is None else _read(Path(file)) for file in files)


def _kubeconfig_source(kubeconfig: Path | None) -> str | None:
    if kubeconfig is not None:
        return str(kubeconfig)
    if named := os.environ.get("KUBECONFIG"):
        return named
    return None if os.environ.get(IN_CLUSTER_MARK) else "~/.kube/config"


def _set_transport_options(configuration: Configuration) -> None:
    # Watches hold a connection each for as long as we live, so a limit here would let them starve writes: KubeClient limits
    # ordinary requests itself.
    configuration.connection_pool_maxsize = 0
    if _is_loopback(configuration.host):
        # aiohttp, unlike Go's clients, would send even loopback through HTTPS_PROXY.
        configuration.client_session_kwargs = {"trust_env": False}


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
