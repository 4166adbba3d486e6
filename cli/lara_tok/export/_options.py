"""What all exports take, and how their result is shown. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lara_tok._common import console

TokensArgument = Annotated[str, typer.Argument(help="tokens.parquet, or a folder of shards.")]
SourceArgument = Annotated[list[str], typer.Argument(help="The video it was made from.")]
OutOption = Annotated[Path, typer.Option(help="A new folder.")]
StrideOption = Annotated[str | None, typer.Option(help="Which of the table's strides. Default: its only one.")]
CameraOption = Annotated[
    list[str] | None,
    typer.Option(help="Which of the table's cameras, or all. Repeatable. Default: its only one."),
]
MinMarginOption = Annotated[float, typer.Option(help="Leave out pairs whose code_margin is smaller.")]
MinMotionOption = Annotated[
    float, typer.Option(help="Leave out pairs whose pixels change by less on average, 0 to 1. Noise is 0.004.")
]
WorkersOption = Annotated[int | None, typer.Option(min=0, help="Processes that decode video. Default: one a core.")]


def render(summary: dict[str, Any]) -> None:
    """An `ExportSummary` for people."""
    _print(f"{summary['out']}: {summary['pairs']:,} pairs of {summary['episodes']:,} episodes ({summary['format']})")
    for reason, count in summary["left_out"].items():
        _print(f"  left out {count:,}: {reason}")
    for name, value in summary["settings"].items():
        _print(f"  {name} {value}")
    for note in summary["notes"]:
        _print(f"  note: {note}")


def _print(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
