"""Shared by all commands: consoles, option types, output as text or JSON. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console

console = Console()
console_err = Console(stderr=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
ModelOption = Annotated[
    str, typer.Option("--model", help="A checkpoint: 'lara-lam' (bundled), a local folder or a Hub id.")
]


def say(text: str, *, err: bool = False, style: str | None = None) -> None:
    """Print a line on stdout (or stderr) verbatim: no markup, no highlighting, not wrapped."""
    (console_err if err else console).print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def emit(result: dict[str, Any], as_json: bool, render: Callable[[dict[str, Any]], None]) -> None:
    """Print `result` on stdout, as one JSON document or as text by `render`."""
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        render(result)


def without_loading_bars() -> None:
    """Disable transformers' progress bars for local weights; those of downloads stay."""
    from transformers.utils import logging

    logging.disable_progress_bar()
