"""`lara-tok export lerobot`: latent actions as columns of the LeRobotDataset that they were made from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument

from lara_tok._app import panels
from lara_tok._common import emit, say
from lara_tok.export import _options as options


@options.export_options(options.ExportOptions)
def export_lerobot(
    tokens: options.TokensArgument,
    source: Annotated[
        str | None, Argument(metavar="SOURCE", help="The LeRobotDataset that was given to encode, a folder.")
    ] = None,
    *,
    out: Annotated[Path | None, panels.output(metavar="FOLDER", help="A new folder for the labelled dataset.")] = None,
    in_place: Annotated[bool, panels.output("--in-place", help="Replace SOURCE by the labelled dataset.")] = False,
    undo: Annotated[
        bool, panels.output("--undo", help="Undo --in-place: give only the dataset's folder, no table.")
    ] = False,
    export: options.Export,
    model: Annotated[
        str | None,
        panels.output(
            metavar="CHECKPOINT", help="The checkpoint that made the table. Default: the one in its metadata."
        ),
    ] = None,
    push: Annotated[
        str | None,
        panels.output(metavar="USER/NAME", help="A dataset repository on the Hub, user/name, to upload the result to."),
    ] = None,
) -> None:
    """Add latent_labels.* to a LeRobotDataset v2.0, v2.1 or v3.0.

    These are codes, their vectors, z, and a mask of valid rows. Videos are hard-linked. In place, the old dataset
    is kept beside it as NAME.before-labels, for --undo. Run the same command again to continue after a stop.

    Examples:

      lara-tok export lerobot tokens.parquet demos/ --out demos-labelled

      lara-tok export lerobot tokens.parquet demos/ --in-place

      lara-tok export lerobot demos/ --undo
    """
    if undo:
        _undo(tokens, [source, out, in_place, model, push], **export.keywords)
        return
    if source is None:
        raise ValueError("SOURCE is missing: the folder of the LeRobotDataset that the table was made from")
    export("data files", tokens, source, out, in_place=in_place, model=model, push=push)


def _undo(folder: str, others: list[Any], *, json_: bool, **shared: Any) -> None:
    from lara_tokenizer.export.lerobot.export import undo_lerobot

    if any([*others, *shared.values()]):
        raise ValueError("--undo takes the dataset's folder, and nothing else")
    dataset = undo_lerobot(folder)
    emit({"undone": str(dataset)}, json_, lambda result: say(f"{result['undone']}: as it was, no labels"))
