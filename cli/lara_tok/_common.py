"""What every command shares: consoles, option types, output as text or JSON. Imports no torch."""

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


def say(text: str) -> None:
    """Print a line on stdout as it is: no markup, no colours, not wrapped."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def emit(result: dict[str, Any], as_json: bool, render: Callable[[dict[str, Any]], None]) -> None:
    """Print `result` on stdout: as one JSON document, or through `render` for people."""
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        render(result)


def without_loading_bars() -> None:
    """Keep transformers' bars for reading and writing local weights off the terminal; downloads keep theirs."""
    from transformers.utils import logging

    logging.disable_progress_bar()
