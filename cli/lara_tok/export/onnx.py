"""`lara-tok export-onnx`: write a checkpoint's encoder as ONNX, for robots without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument

from lara_tok._common import JsonOption, emit, say


def export_onnx(
    checkpoint: Annotated[
        str, Argument(metavar="CHECKPOINT", help="lara-lam (bundled), a checkpoint folder or a Hub id.")
    ],
    out: Annotated[Path, Argument(metavar="OUT", help="A new folder for the ONNX file and what prepares its frames.")],
    json_: JsonOption = False,
) -> None:
    """Write a model for robots without torch.

    The folder holds encoder.onnx, which takes two resized frames and gives z and codes; frames.py, which resizes frames
    with numpy alone; preparation.json; and a README with a loop for a camera. The file is run by onnxruntime and
    compared with torch before it is kept. Needs the extra 'onnx'.

    Examples:

      lara-tok export-onnx lara-lam lara-lam-onnx
    """
    from lara_tokenizer.deploy import check_export

    check_export(out)  # before torch is loaded
    from lara_tokenizer.deploy import export_onnx as export

    emit(export(checkpoint, out).to_dict(), json_, _render)


def _render(summary: dict[str, Any]) -> None:
    codes = f"{summary['different_codes']} of {summary['checked_codes']} codes differ, " * (
        summary["checked_codes"] > 0
    )
    say(
        f"{summary['out']}: {', '.join(summary['files'])} ({summary['megabytes']} MB)",
        f"  onnxruntime against torch: {codes}z by at most {summary['largest_latent_difference']:.2g}",
    )
