"""`lara-tok tokens`: commands that compare and join token tables."""

from __future__ import annotations

from importlib import import_module

import typer

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Compare and join token tables.")

ACTIONS = ("diff", "merge")
for _name in ACTIONS:
    app.command(_name)(getattr(import_module(f"lara_tok.tokens.{_name}"), f"{_name}_tokens"))
