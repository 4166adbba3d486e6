"""`lara-tok export webdataset`: tars that WebDataset reads."""

from __future__ import annotations

from typing import Annotated

from lara_tok._app import panels
from lara_tok.export import _options as options


@options.export_options(options.VideoOptions)
def export_webdataset(
    tokens: options.TokensArgument,
    source: options.SourceArgument,
    *,
    out: options.OutOption,
    shard_size: Annotated[
        int | None,
        panels.output(metavar="N", min=1, help="Most pairs per shard. Default: 5000, about 1 GB at 640 x 480."),
    ] = None,
    seed: Annotated[int, panels.output(metavar="N", help="Shuffles the episodes.")] = 0,
    images: Annotated[bool, panels.output(help="Include both frames of each pair, or only codes and metadata.")] = True,
    export: options.Export,
) -> None:
    """Write tars that WebDataset reads, one sample per pair.

    A sample has both frames, codes and text. Pairs of an episode stay together; shuffle shards and samples when you
    read them. Run the same command again to continue after a stop.

    Example: lara-tok export webdataset tokens.parquet videos/ --out shards
    """
    export("pairs", tokens, source, out, shard_size=shard_size, seed=seed, images=images)
