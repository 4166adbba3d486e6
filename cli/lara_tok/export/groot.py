"""`lara-tok export groot`: latent actions as GR00T's loader takes them, `lapa_action` in a LeRobotDataset v2.x."""

from __future__ import annotations

from typing import Annotated

import typer

from lara_tok._common import JsonOption, emit
from lara_tok.export._live import counting
from lara_tok.export._options import (
    CameraOption,
    MinMarginOption,
    MinMotionOption,
    OutOption,
    StrideOption,
    TokensArgument,
    render,
)


def export_groot(
    tokens: TokensArgument,
    source: Annotated[str, typer.Argument(help="Folder of the LeRobotDataset v2.0 or v2.1 it was made from.")],
    *,
    out: OutOption,
    action_horizon: Annotated[int, typer.Option(help="The trainer's.")] = 16,
    max_action_dim: Annotated[int, typer.Option(help="The trainer's.")] = 32,
    scale: Annotated[
        float | None,
        typer.Option(help="What z is divided by. Default: its largest magnitude. Give one number to all of a mixture."),
    ] = None,
    stride: StrideOption = None,
    camera: CameraOption = None,
    min_margin: MinMarginOption = 0.0,
    min_motion: MinMotionOption = 0.0,
    json_: JsonOption = False,
) -> None:
    """Write a LeRobotDataset with lapa_action in its rows and <LAPA> in its instructions, for GR00T's loader.

    The table needs latents: lara-tok encode --with latents. Videos are hard-linked.
    Run the same command again to go on after a stop.

    Example: lara-tok export groot tokens.parquet gr1/ --out gr1-latent
    """
    from lara_tokenizer.export.groot import export_groot

    with counting("data files") as progress:
        summary = export_groot(
            tokens,
            source,
            out,
            action_horizon=action_horizon,
            max_action_dim=max_action_dim,
            scale=scale,
            progress=progress,
            stride=stride,
            cameras=camera or (),
            min_margin=min_margin,
            min_motion=min_motion,
        )
    emit(summary.to_dict(), json_, render)
