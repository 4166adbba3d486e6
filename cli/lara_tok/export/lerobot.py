"""`lara-tok export lerobot`: latent actions as columns of the LeRobotDataset that they were made from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lara_tok._common import JsonOption, emit
from lara_tok.export._live import counting
from lara_tok.export._options import (
    CameraOption,
    MinMarginOption,
    MinMotionOption,
    StrideOption,
    TokensArgument,
    render,
)


def export_lerobot(
    tokens: TokensArgument,
    source: Annotated[str | None, typer.Argument(help="Folder of the LeRobotDataset it was made from.")] = None,
    *,
    out: Annotated[Path | None, typer.Option(help="A new folder for the labelled dataset.")] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Let the labelled dataset take the place of SOURCE.")
    ] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Take back --in-place. Give the dataset's folder, no table.")
    ] = False,
    stride: StrideOption = None,
    camera: CameraOption = None,
    min_margin: MinMarginOption = 0.0,
    min_motion: MinMotionOption = 0.0,
    model: Annotated[
        str | None, typer.Option(help="Where the checkpoint lies that made the table. Default: the one it names.")
    ] = None,
    push: Annotated[
        str | None, typer.Option(help="A dataset repository on the Hub, user/name, to upload the result to.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Add latent_labels.* to a LeRobotDataset v2.0, v2.1 or v3.0: codes, their vectors, z, and which rows are valid.

    Videos are hard-linked. In place, the old dataset is kept beside it as NAME.before-labels, for --undo.
    Run the same command again to go on after a stop.

    Examples:

      lara-tok export lerobot tokens.parquet demos/ --out demos-labelled

      lara-tok export lerobot tokens.parquet demos/ --in-place

      lara-tok export lerobot demos/ --undo
    """
    from lara_tokenizer.export.lerobot import export_lerobot, undo_lerobot

    if undo:
        others = (source, out, in_place, push, model, stride, camera, min_margin, min_motion)
        if any(others):
            raise ValueError("--undo takes the dataset's folder, and nothing else")
        dataset = undo_lerobot(tokens)
        emit({"undone": str(dataset)}, json_, lambda result: typer.echo(f"{result['undone']}: as it was, no labels"))
        return
    if source is None:
        raise ValueError("SOURCE is missing: the folder of the LeRobotDataset that the table was made from")
    with counting("data files") as progress:
        summary = export_lerobot(
            tokens,
            source,
            out,
            in_place=in_place,
            model=model,
            push=push,
            progress=progress,
            stride=stride,
            cameras=camera or (),
            min_margin=min_margin,
            min_motion=min_motion,
        )
    emit(summary.to_dict(), json_, render)
