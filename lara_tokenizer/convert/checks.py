"""Checks of the arguments of a conversion, made before torch is loaded."""

from __future__ import annotations

import os
from pathlib import Path

from lara_tokenizer._files import check_new_folder
from lara_tokenizer._parse import read_json_object, shown
from lara_tokenizer.checkpoint import checkpoint_folder
from lara_tokenizer.checkpoint.settings import FAMILIES
from lara_tokenizer.model.bundled import resolve_checkpoint

_WEIGHTS = "model.safetensors"


def check_conversion(source: str | Path, out: str | Path) -> None:
    """Raise ValueError for a source that is not there or needs no conversion, and for a folder `out` that has files."""
    folder = Path(resolve_checkpoint(os.fspath(source)))
    folder = folder.parent if folder.name == _WEIGHTS else folder
    model_type = _model_type(folder)
    if model_type in FAMILIES:
        raise ValueError(
            f"{source} is a checkpoint of this package already ({model_type}): load_model and lara-tok encode --model "
            "take it as it is. To write one in Moto's layout use --to moto."
        )
    if not Path(source).exists():
        raise ValueError(
            f"{source}: no such file or folder. Download a published checkpoint first, for example with hf download, "
            "and name its file of weights, or the folder of Moto or LARA."
        )
    check_new_folder(out)


def check_export(source: str | Path, out: str | Path) -> None:
    """Raise ValueError for a source that is no checkpoint to write in Moto's layout, and for an `out` with files."""
    config = checkpoint_folder(source) / "config.json"
    model_type = read_json_object(config).get("model_type") if config.is_file() else None
    if model_type != "latent_action":
        raise ValueError(
            f"{source} is not a latent action model (model_type {shown(model_type)}). To convert a "
            "checkpoint of Moto or LARA to ours, leave out --to."
        )
    check_new_folder(out)


def _model_type(folder: Path) -> str | None:
    """Of a checkpoint's config.json; None where there is none, or it is of another project: its reader reports that."""
    try:
        model_type = read_json_object(folder / "config.json").get("model_type")
    except (OSError, ValueError):
        return None
    return model_type if isinstance(model_type, str) else None
