"""`lara-tok tokens`: commands that compare and join token tables."""

from __future__ import annotations

from importlib import import_module

import typer

from lara_tok._app import panels

app = typer.Typer(
    cls=panels.Group, no_args_is_help=True, rich_markup_mode="rich", help="Compare and join token tables."
)

ACTIONS = ("diff", "merge")
for _name in ACTIONS:
    panels.add_command(app, _name, getattr(import_module(f"lara_tok.tokens.{_name}"), f"{_name}_tokens"))
