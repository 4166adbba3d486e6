"""`lara-tok convert`: convert checkpoints of other projects to this package's format, or to Moto's layout."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from typer import Argument

from lara_tok._app import panels
from lara_tok._common import JsonOption, emit, say


class Layout(StrEnum):
    """The layout to write."""

    OURS = "lara-tokenizer"
    MOTO = "moto"


def convert(
    source: Annotated[
        str,
        Argument(
            metavar="CHECKPOINT",
            help="A checkpoint folder of Moto or LARA; a weights file of LAPA, AdaWorld, DreamDojo or UniVLA; with "
            "--to moto, a checkpoint of this package.",
        ),
    ],
    out: Annotated[Path, panels.output(metavar="FOLDER", help="A new folder for the converted checkpoint.")],
    vision_encoder: Annotated[
        str | None,
        panels.model(
            metavar="MODEL",
            help="The frozen vision encoder of Moto and LARA, which their files do not contain: a transformers folder "
            "or Hub id.",
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        panels.model(
            metavar="PIXELS",
            min=1,
            help="Side of LAPA's frames in pixels, which its files do not record. Default: as in its scripts.",
        ),
    ] = None,
    to: Annotated[
        Layout,
        panels.output(metavar="lara-tokenizer|moto", help="The format to write. moto: Moto's checkpoint folder."),
    ] = Layout.OURS,
    json_: JsonOption = False,
) -> None:
    """Convert checkpoints of LAPA, Moto, LARA, UniVLA and others.

    With --to moto a checkpoint of this package is converted to Moto's layout. The model family is detected from
    tensor names; names and shapes of all tensors are checked. Assumptions about what the files do not record are
    printed as notes.

    Examples:

      lara-tok convert laq_openx.pt --out lapa-laq

      lara-tok convert oxe/ --vision-encoder facebook/vit-mae-large --out moto-lam

      lara-tok convert lara-lam --to moto --out lara-lam-for-moto
    """
    if to is Layout.MOTO and vision_encoder is not None:
        raise ValueError("--vision-encoder applies to conversion from Moto or LARA; --to moto writes the model's own.")
    if to is Layout.MOTO and image_size is not None:
        raise ValueError("--image-size applies to conversion from LAPA; --to moto writes the model's own.")
    from lara_tokenizer.convert.checks import check_conversion, check_export

    (check_export if to is Layout.MOTO else check_conversion)(source, out)
    from lara_tokenizer.convert import convert_checkpoint, export_to_moto

    if to is Layout.MOTO:
        summary = export_to_moto(source, out=out)
    else:
        summary = convert_checkpoint(source, out=out, vision_encoder=vision_encoder, image_size=image_size)
    emit(summary.to_dict(), json_, _render)


def _render(summary: dict[str, Any]) -> None:
    sizes = ", ".join(f"{name} {size}" for name, size in summary["sizes"].items())
    lines = [
        f"{summary['source']} ({summary['layout']}) -> {summary['out']} ({summary['target']})",
        f"  {summary['tensors']} tensors, {summary['parameters']:,} parameters, every name and shape checked",
        *([f"  vision encoder: {summary['vision_encoder']}"] if summary["vision_encoder"] else []),
        f"  {sizes}",
        *(f"  note: {note}" for note in summary["notes"]),
    ]
    say(*lines)
