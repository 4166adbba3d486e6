"""Options that the export commands share. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from lara_tok._common import JsonOption
from lara_tok._options import declared_options, insert_options
from lara_tok._source import FromOption
from lara_tok.export._run import run_export

TokensArgument = Annotated[str, Argument(help="tokens.parquet, or a folder of shards.")]
SourceArgument = Annotated[list[str], Argument(help="The video it was made from.")]
OutOption = Annotated[Path, Option(help="A new folder.")]
InstructionOption = Annotated[str | None, Option(help="For episodes without one. Default: those are refused.")]
ImagesOption = Annotated[bool, Option(help="Write the images, or leave them to you.")]
Export = partial[None]
"""`run_export` of the command's format, with the shared options filled in."""


class ExportOptions:
    """The options of all export commands."""

    stride: Annotated[str | None, Option(help="One of the table's strides. Default: its only one.")] = None
    camera: Annotated[
        list[str] | None, Option(help="One of the table's cameras, or all. Repeatable. Default: its only one.")
    ] = None
    min_margin: Annotated[float, Option(help="Leave out pairs whose code_margin is smaller.")] = 0.0
    min_motion: Annotated[
        float, Option(help="Leave out pairs whose pixels change by less on average, 0 to 1. Noise is 0.004.")
    ] = 0.0
    json_: JsonOption = False


class VideoOptions(ExportOptions):
    """The options of the export commands that decode video."""

    workers: Annotated[int | None, Option(min=0, help="Processes that decode video. Default: one per core.")] = None
    from_: FromOption = None


def export_options(group: type[ExportOptions]) -> Callable[[Callable[..., None]], Any]:
    """Decorator: add a group of options to a command `export_<format>`, which gets an `Export` as its `export`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        run = partial(run_export, command.__name__)
        return insert_options(command, "export", declared_options(group), lambda given: partial(run, **given))

    return decorate
