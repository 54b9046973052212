"""The entry point: `spillway`, also installed as `kubectl spillway`."""

import click

from spillway import __version__
from spillway.cli.crds import crds
from spillway.cli.explain import explain
from spillway.cli.lint import lint
from spillway.cli.market import market
from spillway.cli.run import run
from spillway.cli.simulate import simulate
from spillway.cli.top import top


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="spillway")
def main() -> None:
    """Keep GPUs busy and bills small: replicas from what the GPUs really do, with a reason for every step."""


main.add_command(run)
main.add_command(explain)
main.add_command(top)
main.add_command(crds)
main.add_command(lint)
main.add_command(market)
main.add_command(simulate)
