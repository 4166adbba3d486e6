"""`lara-tok export moto`: a dataset of Moto-GPT that contains the codes."""

from __future__ import annotations

from typing import Annotated

import typer

from lara_tok._common import JsonOption
from lara_tok._source import FromOption
from lara_tok.export import _options as options
from lara_tok.export._run import run_export


def export_moto(
    tokens: options.TokensArgument,
    source: options.SourceArgument,
    *,
    out: options.OutOption,
    style: Annotated[str, typer.Option(help="The dataset class of Moto to read it: oxe, rt1 or calvin.")] = "oxe",
    name: Annotated[str, typer.Option(help="Of the dataset; avoid names of Open X-Embodiment sets.")] = "lara",
    instruction: Annotated[str | None, typer.Option(help="For episodes that have none.")] = None,
    actions: Annotated[bool, typer.Option(help="Write the source's actions, which must have 7 numbers.")] = True,
    video: Annotated[bool, typer.Option(help="Write the frames too, or use those of an earlier export.")] = True,
    stride: options.StrideOption = None,
    camera: options.CameraOption = None,
    min_margin: options.MinMarginOption = 0.0,
    min_motion: options.MinMotionOption = 0.0,
    workers: options.WorkersOption = None,
    from_: FromOption = None,
    json_: JsonOption = False,
) -> None:
    """Write a dataset for Moto-GPT: its LMDB and videos, and the codes of each frame beside them.

    Moto itself tokenizes while it trains; to train on these codes, see lara_tokenizer.export.moto_wrapper. Run the
    same command again to continue after a stop.

    Example: lara-tok export moto tokens.parquet videos/ --out for-moto/ --instruction "pick up the can"
    """
    run_export("moto", locals(), "episodes")
