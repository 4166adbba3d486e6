"""`lara-tok export moto`: a dataset of Moto-GPT, with the codes in it."""

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


def export_moto(
    tokens: TokensArgument,
    source: SourceArgument,
    *,
    out: OutOption,
    style: Annotated[str, typer.Option(help="Which of Moto's readers is to read it: oxe, rt1 or calvin.")] = "oxe",
    name: Annotated[str, typer.Option(help="Of the dataset; no name of an Open X-Embodiment set.")] = "lara",
    instruction: Annotated[str | None, typer.Option(help="For episodes that have none.")] = None,
    actions: Annotated[bool, typer.Option(help="Write the source's actions, which have 7 numbers.")] = True,
    video: Annotated[bool, typer.Option(help="Write the frames too, or have them from an earlier export.")] = True,
    stride: StrideOption = None,
    camera: CameraOption = None,
    min_margin: MinMarginOption = 0.0,
    min_motion: MinMotionOption = 0.0,
    workers: WorkersOption = None,
    from_: FromOption = None,
    json_: JsonOption = False,
) -> None:
    """Write a dataset for Moto-GPT: its LMDB and videos, and the codes of each frame beside them.

    Moto itself tokenizes while it trains; to train on these codes, see lara_tokenizer.export.moto_wrapper. Run the
    same command again to go on after a stop.

    Example: lara-tok export moto tokens.parquet videos/ --out for-moto/ --instruction "pick up the can"
    """
    from lara_tokenizer.export.moto import export_moto as export

    with counting("episodes") as progress:
        summary = export(
            tokens,
            source,
            out,
            style=style,
            name=name,
            instruction=instruction,
            actions=actions,
            video=video,
            stride=stride,
            cameras=camera or (),
            min_margin=min_margin,
            min_motion=min_motion,
            workers=workers,
            from_list=from_,
            progress=progress,
        )
    emit(summary.to_dict(), json_, render)
