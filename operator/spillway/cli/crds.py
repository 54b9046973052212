"""`spillway crds`: the CustomResourceDefinitions, for `kubectl apply`."""

import click

from spillway.api import crdgen


@click.command()
def crds() -> None:
    """Print the CustomResourceDefinitions as YAML.

    Install or upgrade them with: spillway crds | kubectl apply --server-side -f -
    """
    documents = crdgen.render().values()
    click.echo("---\n".join(document.removeprefix("---\n") for document in documents), nl=False)
