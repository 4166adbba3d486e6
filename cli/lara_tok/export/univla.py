"""`lara-tok export univla`: conversations with <ACT_i> tokens."""

from __future__ import annotations

from typing import Annotated

import typer

from lara_tok._common import JsonOption
from lara_tok._source import FromOption
from lara_tok.export import _options as options
from lara_tok.export._run import run_export


def export_univla(
    tokens: options.TokensArgument,
    source: options.SourceArgument,
    *,
    out: options.OutOption,
    instruction: options.InstructionOption = None,
    history: Annotated[
        float, typer.Option(help="Share of pairs that mention the codes of the pair one frame earlier, 0 to 1.")
    ] = 0.5,
    seed: Annotated[int, typer.Option(help="Of the order of lines, and of the choice of pairs with history.")] = 0,
    images: options.ImagesOption = True,
    stride: options.StrideOption = None,
    camera: options.CameraOption = None,
    min_margin: options.MinMarginOption = 0.0,
    min_motion: options.MinMotionOption = 0.0,
    workers: options.WorkersOption = None,
    from_: FromOption = None,
    json_: JsonOption = False,
) -> None:
    """Write train.jsonl, conversations with <ACT_i> tokens as UniVLA makes them, and images/.

    Run the same command again to continue after a stop.

    Example: lara-tok export univla tokens.parquet videos/ --out for-univla --history 0
    """
    run_export("univla", locals(), "images" if images else "lines")
