"""`lara-tok export`: a token table to the formats of other frameworks, one command per format."""

from __future__ import annotations

from importlib import import_module

import typer

from lara_tok._app import panels

app = typer.Typer(
    cls=panels.Group,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Write a token table in the formats of other frameworks.",
)

FORMATS: tuple[str, ...] = ("groot", "lapa", "lerobot", "moto", "univla", "webdataset")
for _name in FORMATS:
    panels.add_command(app, _name, getattr(import_module(f"lara_tok.export.{_name}"), f"export_{_name}"))
