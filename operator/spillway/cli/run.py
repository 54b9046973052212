"""`spillway run`: the operator itself."""

import asyncio
from pathlib import Path

import click
import kopf

from spillway.adapters.kube.credentials import CredentialsError, auth_headers, load_configuration
from spillway.adapters.prometheus.settings import PrometheusSettingsError
from spillway.app.logs import configure_logging
from spillway.app.settings import Settings, SettingsError, load_settings
from spillway.app.wiring import build
from spillway.handlers import build_registry


@click.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar="SPILLWAY_CONFIG",
    show_envvar=True,
    help="Settings, as YAML.",
)
@click.option(
    "--kubeconfig", type=click.Path(path_type=Path), help="Kubeconfig; else KUBECONFIG, or the pod's account."
)
@click.option("--context", help="Context of the kubeconfig.")
def run(config: Path | None, kubeconfig: Path | None, context: str | None) -> None:
    """Run the operator until SIGTERM or Ctrl-C. Settings come from --config and SPILLWAY_… variables."""
    try:
        settings, path = load_settings(config)
    except SettingsError as exc:
        raise click.ClickException(str(exc)) from exc
    configure_logging(level=settings.log_level, form=settings.log_format)
    try:
        asyncio.run(_run(settings, config=path, kubeconfig=kubeconfig, context=context))
    except (CredentialsError, PrometheusSettingsError, OSError) as exc:
        raise click.ClickException(str(exc)) from exc


async def _run(
    settings: Settings, *, config: Path | None, kubeconfig: Path | None, context: str | None
) -> None:
    operator = await build(settings, config=config, kubeconfig=kubeconfig, context=context)

    async def login() -> kopf.ConnectionInfo:
        found = await load_configuration(kubeconfig=kubeconfig, context=context)
        scheme, _, token = (await auth_headers(found)).get("authorization", "").partition(" ")
        return kopf.ConnectionInfo(
            server=found.host,
            ca_path=found.ssl_ca_cert,
            insecure=not found.verify_ssl,
            certificate_path=found.cert_file,
            private_key_path=found.key_file,
            scheme=scheme or None,
            token=token or None,
        )

    await kopf.operator(
        registry=build_registry(operator, login=login),
        standalone=True,
        clusterwide=not settings.watch_namespaces,
        namespaces=settings.watch_namespaces,
        liveness_endpoint=f"http://{settings.metrics_address}:{settings.probe_port}/healthz",
    )
