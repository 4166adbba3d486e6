"""`lara-tok export lerobot`: latent actions as columns of the LeRobotDataset that they were made from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lara_tok._common import JsonOption, emit
from lara_tok.export import _options as options
from lara_tok.export._run import run_export


def export_lerobot(
    tokens: options.TokensArgument,
    source: Annotated[str | None, typer.Argument(help="Folder of the LeRobotDataset it was made from.")] = None,
    *,
    out: Annotated[Path | None, typer.Option(help="A new folder for the labelled dataset.")] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Put the labelled dataset in the place of SOURCE.")
    ] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Take back --in-place. Give the dataset's folder, no table.")
    ] = False,
    stride: options.StrideOption = None,
    camera: options.CameraOption = None,
    min_margin: options.MinMarginOption = 0.0,
    min_motion: options.MinMotionOption = 0.0,
    model: Annotated[
        str | None, typer.Option(help="The checkpoint that made the table. Default: the one that it names.")
    ] = None,
    push: Annotated[
        str | None, typer.Option(help="A dataset repository on the Hub, user/name, to upload the result to.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Add latent_labels.* to a LeRobotDataset v2.0, v2.1 or v3.0: codes, their vectors, z, and a mask of valid rows.

    Videos are hard-linked. In place, the old dataset is kept beside it as NAME.before-labels, for --undo.
    Run the same command again to continue after a stop.

    Examples:

      lara-tok export lerobot tokens.parquet demos/ --out demos-labelled

      lara-tok export lerobot tokens.parquet demos/ --in-place

      lara-tok export lerobot demos/ --undo
    """
    parameters = locals()
    if parameters.pop("undo"):
        _undo(**parameters)
        return
    if source is None:
        raise ValueError("SOURCE is missing: the folder of the LeRobotDataset that the table was made from")
    run_export("lerobot", parameters, "data files")


def _undo(tokens: str, json_: bool, **others: Any) -> None:
    from lara_tokenizer.export.lerobot.export import undo_lerobot

    if any(others.values()):
        raise ValueError("--undo takes the dataset's folder, and nothing else")
    dataset = undo_lerobot(tokens)
    emit({"undone": str(dataset)}, json_, lambda result: typer.echo(f"{result['undone']}: as it was, no labels"))
