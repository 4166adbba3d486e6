"""`lara-tok export univla`: conversations with <ACT_i> words."""

from __future__ import annotations

from typing import Annotated

import typer

from lara_tok._common import JsonOption, emit
from lara_tok._source import FromOption
from lara_tok.export._live import counting
from lara_tok.export._options import (
    CameraOption,
    MinMarginOption,
    MinMotionOption,
    OutOption,
    SourceArgument,
    StrideOption,
    TokensArgument,
    WorkersOption,
    render,
)


def export_univla(
    tokens: TokensArgument,
    source: SourceArgument,
    *,
    out: OutOption,
    instruction: Annotated[
        str | None, typer.Option(help="For episodes without one. Default: those are refused.")
    ] = None,
    history: Annotated[
        float, typer.Option(help="Share of pairs that name the codes of the pair one frame earlier, 0 to 1.")
    ] = 0.5,
    seed: Annotated[int, typer.Option(help="Of the order of lines, and of which of them name their history.")] = 0,
    images: Annotated[bool, typer.Option(help="Write the pictures, or leave them to you.")] = True,
    stride: StrideOption = None,
    camera: CameraOption = None,
    min_margin: MinMarginOption = 0.0,
    min_motion: MinMotionOption = 0.0,
    workers: WorkersOption = None,
    from_: FromOption = None,
    json_: JsonOption = False,
) -> None:
    """Write train.jsonl, conversations with <ACT_i> words as UniVLA makes them, and images/.

    Run the same command again to go on after a stop.

    Example: lara-tok export univla tokens.parquet videos/ --out for-univla --history 0
    """
    from lara_tokenizer.export.univla import export_univla

    with counting("pictures" if images else "lines") as progress:
        summary = export_univla(
            tokens,
            source,
            out,
            instruction=instruction,
            history=history,
            seed=seed,
            images=images,
            stride=stride,
            cameras=camera or (),
            min_margin=min_margin,
            min_motion=min_motion,
            workers=workers,
            from_list=from_,
            progress=progress,
        )
    emit(summary.to_dict(), json_, render)
