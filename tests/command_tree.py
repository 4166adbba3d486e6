"""All commands of `lara-tok`, for tests of their options and help pages."""

from __future__ import annotations

import typer
from lara_tok.__main__ import app


def all_commands(command=None, path=()):
    """(name, click command) of every command that is not a group."""
    command = command or typer.main.get_command(app)
    subcommands = getattr(command, "commands", None)
    if subcommands is None:
        return [(" ".join(path), command)]
    return [found for name, each in subcommands.items() for found in all_commands(each, (*path, name))]


COMMANDS = dict(all_commands())
