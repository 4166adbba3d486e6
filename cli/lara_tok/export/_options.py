"""What all exports take, and how their result is shown. Imports no torch."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from lara_tok._common import say

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
    say(f"{summary['out']}: {summary['pairs']:,} pairs of {summary['episodes']:,} episodes ({summary['format']})")
    for reason, count in summary["left_out"].items():
        say(f"  left out {count:,}: {reason}")
    for name, value in summary["settings"].items():
        say(f"  {_setting(name, value, Path(summary['out']).resolve())}")
    for note in summary["notes"]:
        say(f"  note: {note}")


def _setting(name: str, value: Any, folder: Path) -> str:
    """A setting as its reader takes it; a flag as the shell does."""
    text = value if isinstance(value, str) else str(value) if isinstance(value, bool) else json.dumps(value)
    text = text.replace("<this folder>", str(folder))
    return f"{name}={shlex.quote(text)}" if name.startswith("--") else f"{name} {text}"
