"""`lara-tok export lapa`: JSON lines for LAPA's latent pretraining."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lara_tok._common import JsonOption
from lara_tok._source import FromOption
from lara_tok.export import _options as options
from lara_tok.export._run import run_export

if TYPE_CHECKING:
    from lara_tokenizer.vision_tokens import LwmVisionTokenizer


def export_lapa(
    tokens: options.TokensArgument,
    source: options.SourceArgument,
    *,
    out: options.OutOption,
    instruction: options.InstructionOption = None,
    template: Annotated[
        str | None, typer.Option(help="The prompt, with {instruction} in it. Default: LAPA's own.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the order of lines.")] = 0,
    images: options.ImagesOption = True,
    vision_weights: Annotated[
        Path | None,
        typer.Option(help="LWM's file vqgan: fill the field vision. Default: empty, LAPA's loader computes it."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Of --vision-weights, cpu or cuda. Default: a GPU where there is one.")
    ] = None,
    stride: options.StrideOption = None,
    camera: options.CameraOption = None,
    min_margin: options.MinMarginOption = 0.0,
    min_motion: options.MinMotionOption = 0.0,
    workers: options.WorkersOption = None,
    from_: FromOption = None,
    json_: JsonOption = False,
) -> None:
    """Write train.jsonl and images/ for LAPA's latent pretraining, and print the flags for its train.py.

    Run the same command again to continue after a stop.

    Example: lara-tok export lapa tokens.parquet videos/ --out for-lapa
    """
    parameters = locals()
    parameters["vision"] = _vision_tokenizer(parameters.pop("vision_weights"), parameters.pop("device"))
    run_export("lapa", parameters, _counted(images, parameters["vision"] is not None))


def _vision_tokenizer(weights: Path | None, device: str | None) -> LwmVisionTokenizer | None:
    if weights is None:
        if device is not None:
            raise ValueError(f"--device {device} is for --vision-weights: name the file vqgan of LWM there.")
        return None
    from lara_tokenizer.vision_tokens import LwmVisionTokenizer

    return LwmVisionTokenizer.from_pickle(weights, device=device)


def _counted(images: bool, vision: bool) -> str:
    """The unit of the progress."""
    if images and vision:
        return "images written and tokenized"
    if vision:
        return "images tokenized"
    return "images" if images else "lines"
