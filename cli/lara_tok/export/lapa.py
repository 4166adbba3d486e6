"""`lara-tok export lapa`: the jsonl that LAPA's latent pretraining reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from lara_tokenizer.vision_tokens import LwmVisionTokenizer


def export_lapa(
    tokens: TokensArgument,
    source: SourceArgument,
    *,
    out: OutOption,
    instruction: Annotated[
        str | None, typer.Option(help="For episodes without one. Default: those are refused.")
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="The prompt, with {instruction} where it goes. Default: LAPA's own.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the order of lines.")] = 0,
    images: Annotated[bool, typer.Option(help="Write the pictures, or leave them to you.")] = True,
    vision_weights: Annotated[
        Path | None,
        typer.Option(help="LWM's file vqgan: fill the field vision. Default: empty, for their loader to compute."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Of --vision-weights, cpu or cuda. Default: a GPU where there is one.")
    ] = None,
    stride: StrideOption = None,
    camera: CameraOption = None,
    min_margin: MinMarginOption = 0.0,
    min_motion: MinMotionOption = 0.0,
    workers: WorkersOption = None,
    from_: FromOption = None,
    json_: JsonOption = False,
) -> None:
    """Write train.jsonl and images/ for LAPA's latent pretraining, and print the flags that its train.py needs.

    Run the same command again to go on after a stop.

    Example: lara-tok export lapa tokens.parquet videos/ --out for-lapa
    """
    from lara_tokenizer.export.lapa import TEMPLATE, export_lapa

    vision = _vision_tokenizer(vision_weights, device)
    with counting(_counted(images, vision is not None)) as progress:
        summary = export_lapa(
            tokens,
            source,
            out,
            instruction=instruction,
            template=TEMPLATE if template is None else template,
            seed=seed,
            images=images,
            vision=vision,
            stride=stride,
            cameras=camera or (),
            min_margin=min_margin,
            min_motion=min_motion,
            workers=workers,
            from_list=from_,
            progress=progress,
        )
    emit(summary.to_dict(), json_, render)


def _vision_tokenizer(weights: Path | None, device: str | None) -> LwmVisionTokenizer | None:
    if weights is None:
        if device is not None:
            raise ValueError(f"--device {device} is for --vision-weights: name the file vqgan of LWM there.")
        return None
    from lara_tokenizer.vision_tokens import LwmVisionTokenizer

    return LwmVisionTokenizer.from_pickle(weights, device=device)


def _counted(images: bool, vision: bool) -> str:
    """What the progress of the export is counted in."""
    if images and vision:
        return "pictures written and tokenized"
    if vision:
        return "pictures tokenized"
    return "pictures" if images else "lines"
