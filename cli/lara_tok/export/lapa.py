"""`lara-tok export lapa`: JSON lines for LAPA's latent pretraining."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from lara_tok._app import panels
from lara_tok.export import _options as options

if TYPE_CHECKING:
    from lara_tokenizer.vision_tokens import LwmVisionTokenizer


@options.export_options(options.VideoOptions)
def export_lapa(
    tokens: options.TokensArgument,
    source: options.SourceArgument,
    *,
    out: options.OutOption,
    instruction: options.InstructionOption = None,
    template: Annotated[
        str | None, panels.output(metavar="TEXT", help="The prompt, with {instruction} in it. Default: LAPA's own.")
    ] = None,
    seed: Annotated[int, panels.output(metavar="N", help="Shuffles the lines.")] = 0,
    images: options.ImagesOption = True,
    vision_weights: Annotated[
        Path | None,
        panels.output(
            metavar="FILE",
            help="LWM's VQGAN checkpoint; writes the field `vision`. Default: empty, LAPA's loader computes it.",
        ),
    ] = None,
    device: Annotated[
        str | None,
        panels.speed(
            metavar="cpu|cuda", help="Device for --vision-weights: cpu or cuda. Default: a GPU if there is one."
        ),
    ] = None,
    export: options.Export,
) -> None:
    """Write train.jsonl and images for LAPA's latent pretraining.

    The flags for LAPA's train.py are printed. Run the same command again to continue after a stop.

    Example: lara-tok export lapa tokens.parquet videos/ --out for-lapa
    """
    vision = _vision_tokenizer(vision_weights, device)
    unit = _unit(images, vision is not None)
    export(
        unit, tokens, source, out, instruction=instruction, template=template, seed=seed, images=images, vision=vision
    )


def _vision_tokenizer(weights: Path | None, device: str | None) -> LwmVisionTokenizer | None:
    if weights is None:
        if device is not None:
            raise ValueError(f"--device {device} is for --vision-weights: name LWM's VQGAN checkpoint there.")
        return None
    from lara_tokenizer.vision_tokens import LwmVisionTokenizer

    return LwmVisionTokenizer.from_pickle(weights, device=device)


def _unit(images: bool, vision: bool) -> str:
    """The unit of the progress."""
    if images and vision:
        return "images written and tokenized"
    if vision:
        return "images tokenized"
    return "images" if images else "lines"
