"""Help pages: the panels that options are listed in, and docstrings as the text of a page."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import cleandoc
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

PANELS = ("Source", "Pairs", "Model", "Training", "Output", "Speed")  # in the order of a page
# A constructor of options for each, as in panels.output(metavar="TABLE", help="...").
source, pairs, model, training, output, speed = (partial(typer.Option, rich_help_panel=panel) for panel in PANELS)


class Group(TyperGroup):
    """Commands, on a page like theirs."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _as_shown(super().get_params(ctx))


class Command(TyperCommand):
    """A command whose page has its panels in one order and names what each option takes, not Python's types."""

    def __init__(self, *of_command: Any, **more: Any) -> None:
        super().__init__(*of_command, **more)
        required = [
            f"{each.opts[0]} {each.metavar}" for each in self.params if each.required and each.opts[0][0] == "-"
        ]
        self.options_metavar = " ".join([*required, "[OPTIONS]"])

    def get_params(self, ctx: Any) -> list[Any]:
        parameters = _as_shown(super().get_params(ctx))
        for parameter in parameters:
            if "--help" in parameter.opts:
                parameter.rich_help_panel = "Output"
        return sorted(parameters, key=_place)


def _as_shown(parameters: list[Any]) -> list[Any]:
    """The parameters; the type column is empty for flags, and for arguments, whose names say what they are."""
    for parameter in parameters:
        if isinstance(parameter, TyperArgument):
            parameter.display_type = lambda ctx: ""  # type: ignore[method-assign]
        elif getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters


def _place(parameter: Any) -> int:
    panel = getattr(parameter, "rich_help_panel", None)
    return PANELS.index(panel) if panel in PANELS else -1


def add_command(app: typer.Typer, name: str, command: Callable[..., None], panel: str | None = None) -> None:
    """Register a command with the page that its docstring makes."""
    text = page(command.__doc__ or "")
    app.command(name, cls=Command, help=text, short_help=text.split("\n")[0], rich_help_panel=panel)(command)


def page(docstring: str) -> str:
    r"""A docstring as the text of a help page: paragraphs in one line each, for any width; examples line by line.

    >>> page("Encode.\n\nOne line\nand another.\n\nExamples:\n\n  lara-tok a\n\n  lara-tok b")
    'Encode.\n\nOne line and another.\n\nExamples:\n  lara-tok a\n  lara-tok b'
    """
    text = ""
    for paragraph in cleandoc(docstring).split("\n\n"):
        is_example = paragraph.startswith(" ")
        text += ("\n" if is_example else "\n\n") + (paragraph if is_example else paragraph.replace("\n", " "))
    return text.strip("\n").replace("[", r"\[")  # in rich's markup
