"""What Moto's layout cannot say, kept beside it so that the way back gives the identical model.

Two files of ours lie in an exported folder; Moto reads neither. `lara_tokenizer.json` holds the full config and the
processor's, `lara_tokenizer.safetensors` those tensors that the export folded or left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lara_tokenizer.convert.layouts import PICKLE, read_json
from lara_tokenizer.convert.names import from_reference
from lara_tokenizer.model import LatentActionConfig, LatentActionModel, LatentActionProcessor

SETTINGS, TENSORS = "lara_tokenizer.json", "lara_tokenizer.safetensors"
FORMAT_VERSION = 1

# Written by transformers on every save; not ours to keep.
_OF_THE_SAVE = ("_name_or_path", "architectures", "auto_map", "transformers_version")


@dataclass(frozen=True, slots=True)
class KeptSettings:
    """
    Fields:
        config, processor: those of the model before its export.
        tensors: by our names; the exported ones are overridden by these.
    """

    config: LatentActionConfig
    processor: LatentActionProcessor
    tensors: dict[str, Tensor]


def write_kept(
    folder: Path, model: LatentActionModel, processor: LatentActionProcessor, exported: Mapping[str, Tensor]
) -> None:
    """Write both files for `exported`, the reference's tensors, already saved in `folder`."""
    survivors = from_reference(exported, model.config)
    tensors = {
        name: tensor.detach().contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith("vision_encoder.")
        and not (name in survivors and torch.equal(survivors[name], tensor.float()))
    }
    save_file(tensors, folder / TENSORS)
    settings = {
        "format_version": FORMAT_VERSION,
        "weights_sha256": _sha256(folder / PICKLE),
        "config": _plain(json.loads(model.config.to_json_string(use_diff=False))),
        "processor": _plain(json.loads(processor.to_json_string())),
    }
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", "utf-8")


def read_kept(folder: Path) -> KeptSettings | None:
    """What an export of ours kept, or None for a checkpoint of somebody else's.

    Raises:
        ValueError: when the weights are no longer those that were exported, or the format is unknown.
    """
    file = folder / SETTINGS
    if not file.is_file():
        return None
    settings = read_json(file)
    if settings.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{file} has format {settings.get('format_version')}, this version reads {FORMAT_VERSION}. "
            "Update lara-tokenizer."
        )
    if settings["weights_sha256"] != _sha256(folder / PICKLE):
        raise ValueError(
            f"{folder / PICKLE} is not the file that {SETTINGS} was written for. Delete {SETTINGS} to convert it as "
            "a checkpoint of Moto's, or restore the weights."
        )
    config = LatentActionConfig.from_dict(settings["config"])
    return KeptSettings(config, LatentActionProcessor.from_dict(settings["processor"]), load_file(folder / TENSORS))


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in _OF_THE_SAVE}


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
