"""`lara-tok export univla`: conversations with <ACT_i> tokens."""

from __future__ import annotations

from typing import Annotated

from lara_tok._app import panels
from lara_tok.export import _options as options


@options.export_options(options.VideoOptions)
def export_univla(
    tokens: options.TokensArgument,
    source: options.SourceArgument,
    *,
    out: options.OutOption,
    instruction: options.InstructionOption = None,
    history: Annotated[
        float,
        panels.output(
            metavar="0..1", help="Share of pairs whose prompt contains the codes of the pair one frame earlier, 0 to 1."
        ),
    ] = 0.5,
    seed: Annotated[
        int, panels.output(metavar="N", help="Shuffles the lines, and chooses the pairs with history.")
    ] = 0,
    images: options.ImagesOption = True,
    export: options.Export,
) -> None:
    """Write conversations with <ACT_i> tokens, as UniVLA makes them.

    They are in train.jsonl, the images in images/. Run the same command again to continue after a stop.

    Example: lara-tok export univla tokens.parquet videos/ --out for-univla --history 0
    """
    export(
        "images" if images else "lines",
        tokens,
        source,
        out,
        instruction=instruction,
        history=history,
        seed=seed,
        images=images,
    )
