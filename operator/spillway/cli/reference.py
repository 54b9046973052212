"""Writes the reference of the command line: `python -m spillway.cli.reference FILE`. `make verify` fails on a difference."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from spillway.cli.main import main as spillway

DEFAULT_FILE: Final = "docs/reference/cli.md"
WIDTH: Final = 100
_INTRODUCTION: Final = """\
<!-- Generated from operator/spillway/cli; edit the commands and run `make generate`. -->
# Command line

`spillway` is also installed as `kubectl-spillway`, so that `kubectl spillway …` works where it is on the PATH.
"""


def render() -> str:
    """Return the help of every command as Markdown."""
    sections = (f"## {path}\n\n```text\n{text}\n```\n" for path, text in helps())
    return "\n".join([_INTRODUCTION, *sections])


def helps() -> Iterator[tuple[str, str]]:
    """Yield (command path, help text): the group itself, then its commands by name."""
    yield _help(spillway, parent=None)
    parent = click.Context(spillway, info_name="spillway")
    for name in sorted(spillway.commands):
        yield _help(spillway.commands[name], parent=parent)


def _help(command: click.Command, *, parent: click.Context | None) -> tuple[str, str]:
    name = "spillway" if parent is None else command.name
    # A width of its own, not the terminal's: the page must come out the same everywhere.
    with click.Context(
        command, info_name=name, parent=parent, terminal_width=WIDTH, help_option_names=["-h", "--help"]
    ) as context:
        return context.command_path, context.get_help()


def main(file: Path) -> None:
    """Write the page to *file*."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_FILE))
