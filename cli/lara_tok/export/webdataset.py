"""`lara-tok export webdataset`: tars that WebDataset reads."""

from __future__ import annotations

from typing import Annotated

import typer

from lara_tok._common import JsonOption
from lara_tok._source import FromOption
from lara_tok.export import _options as options
from lara_tok.export._run import run_export


def export_webdataset(
    tokens: options.TokensArgument,
    source: options.SourceArgument,
    *,
    out: options.OutOption,
    shard_size: Annotated[
        int | None,
        typer.Option(min=1, help="Most pairs in a shard. Default: 5000, about 1 GB at 640 x 480."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the order of episodes.")] = 0,
    images: Annotated[bool, typer.Option(help="With the two frames of each pair, or codes and metadata alone.")] = True,
    stride: options.StrideOption = None,
    camera: options.CameraOption = None,
    min_margin: options.MinMarginOption = 0.0,
    min_motion: options.MinMotionOption = 0.0,
    workers: options.WorkersOption = None,
    from_: FromOption = None,
    json_: JsonOption = False,
) -> None:
    """Write tars that WebDataset reads: one sample per pair, with both frames, codes and text.

    Pairs of an episode stay together; shuffle shards and samples when you read them.
    Run the same command again to continue after a stop.

    Example: lara-tok export webdataset tokens.parquet videos/ --out shards
    """
    run_export("webdataset", locals(), "pairs")
