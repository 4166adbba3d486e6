"""Option types that the export commands share. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TokensArgument = Annotated[str, typer.Argument(help="tokens.parquet, or a folder of shards.")]
SourceArgument = Annotated[list[str], typer.Argument(help="The video it was made from.")]
OutOption = Annotated[Path, typer.Option(help="A new folder.")]
InstructionOption = Annotated[str | None, typer.Option(help="For episodes without one. Default: those are refused.")]
ImagesOption = Annotated[bool, typer.Option(help="Write the images, or leave them to you.")]
StrideOption = Annotated[str | None, typer.Option(help="One of the table's strides. Default: its only one.")]
CameraOption = Annotated[
    list[str] | None,
    typer.Option(help="One of the table's cameras, or all. Repeatable. Default: its only one."),
]
MinMarginOption = Annotated[float, typer.Option(help="Leave out pairs whose code_margin is smaller.")]
MinMotionOption = Annotated[
    float, typer.Option(help="Leave out pairs whose pixels change by less on average, 0 to 1. Noise is 0.004.")
]
WorkersOption = Annotated[int | None, typer.Option(min=0, help="Processes that decode video. Default: one per core.")]
