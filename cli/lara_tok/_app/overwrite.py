"""The option --overwrite of the commands that would replace results."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from lara_tok._app import panels

OverwriteOption = Annotated[bool, panels.output("--overwrite", help="Replace results that are there.")]


def check_free(results: Iterable[Path], *, overwrite: bool) -> None:
    """Raise ValueError for a result that exists and is not to be replaced: before anything slow is done."""
    existing = [] if overwrite else [file for file in results if file.exists()]
    if existing:
        raise ValueError(f"{existing[0]} exists already. Name another place, or pass --overwrite to replace it.")
