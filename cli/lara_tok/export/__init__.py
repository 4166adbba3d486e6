"""`lara-tok export`: a table of tokens to the formats of others, a command each."""

from __future__ import annotations

from importlib import import_module

import typer

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Hand a table of tokens to other frameworks, in the formats that they read.",
)

FORMATS: tuple[str, ...] = ("groot", "lapa", "lerobot", "moto", "univla", "webdataset")
for _name in FORMATS:
    app.command(_name)(getattr(import_module(f"lara_tok.export.{_name}"), f"export_{_name}"))
