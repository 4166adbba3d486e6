"""Sidecar files of an export: what Moto's layout cannot represent, so that converting back is lossless.

Moto ignores both files. `lara_tokenizer.json` holds the full configs of model and processor,
`lara_tokenizer.safetensors` the tensors that the export folded or left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lara_tokenizer._files import file_sha256
from lara_tokenizer._parse import shown
from lara_tokenizer.convert.moto.layouts import PICKLE, read_json
from lara_tokenizer.convert.moto.names import from_reference
from lara_tokenizer.errors import first_line
from lara_tokenizer.model import LatentActionConfig, LatentActionModel, LatentActionProcessor

SETTINGS, TENSORS = "lara_tokenizer.json", "lara_tokenizer.safetensors"
FORMAT_VERSION = 1

# transformers writes these on every save; they do not describe the model.
_SAVE_KEYS = ("_name_or_path", "architectures", "auto_map", "transformers_version")


@dataclass(frozen=True, slots=True)
class Sidecar:
    """Contents of the sidecar files.

    Attributes:
        config: of the model before its export.
        processor: of the model before its export.
        tensors: by our names; they override those converted back from Moto's layout.
    """

    config: LatentActionConfig
    processor: LatentActionProcessor
    tensors: dict[str, Tensor]


def write_sidecar(
    folder: Path, model: LatentActionModel, processor: LatentActionProcessor, exported: Mapping[str, Tensor]
) -> None:
    """Write both files for `exported`, the reference's tensors, already saved in `folder`."""
    restored = from_reference(exported, model.config)
    tensors = {
        name: tensor.detach().contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith("vision_encoder.")
        and not (name in restored and torch.equal(restored[name], tensor.float()))
    }
    save_file(tensors, folder / TENSORS)
    settings = {
        "format_version": FORMAT_VERSION,
        "weights_sha256": file_sha256(folder / PICKLE),
        "config": _model_settings(json.loads(model.config.to_json_string(use_diff=False))),
        "processor": _model_settings(json.loads(processor.to_json_string())),
    }
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", "utf-8")


def read_sidecar(folder: Path) -> Sidecar | None:
    """Read the sidecar of an export, or None for a checkpoint of another project.

    Raises ValueError if the weights are no longer those that were exported, or the format is unknown.
    """
    file = folder / SETTINGS
    if not file.is_file():
        return None
    settings = read_json(file)
    if settings.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{file} has format {shown(settings.get('format_version'))}, this version reads {FORMAT_VERSION}. "
            "Update lara-tokenizer."
        )
    # Weights that were trained further must not be mixed with the old tensors and config.
    if settings.get("weights_sha256") != file_sha256(folder / PICKLE):
        raise ValueError(
            f"{folder / PICKLE} is not the file that {SETTINGS} was written for. Delete {SETTINGS} to convert it as "
            "a checkpoint of Moto's, or restore the weights."
        )
    try:
        config = LatentActionConfig.from_dict(settings["config"])
        processor = LatentActionProcessor.from_dict(settings["processor"])
        return Sidecar(config, processor, load_file(folder / TENSORS))
    # Wrong types and sizes, and a damaged file of tensors.
    except (ValueError, TypeError, LookupError, AttributeError, OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"{file} or {TENSORS} beside it is damaged ({first_line(error)}). Delete both to convert the weights as a "
            "checkpoint of Moto's."
        ) from error


def _model_settings(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in _SAVE_KEYS}
