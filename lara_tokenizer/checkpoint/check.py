"""Loading a checkpoint, after checks that its config, weights and processor are sound and fit together."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lara_tokenizer._files import summarize_names
from lara_tokenizer._parse import shown
from lara_tokenizer.checkpoint.checkpoint import checkpoint_folder
from lara_tokenizer.checkpoint.settings import (
    ADVICE,
    CONFIG_FIELDS,
    FAMILIES,
    check_size,
    processor_file,
    read_fields,
    read_processor_settings,
    read_weights,
)
from lara_tokenizer.errors import first_line

if TYPE_CHECKING:
    from torch import nn

    from lara_tokenizer.model import LatentActionPreTrainedModel, LatentActionProcessor

_VISION = "vision_encoder."  # its tensors have the names of the published encoder
# Fields by which transformers loads kernels or quantizers of other packages.
_REFUSED_FIELDS = ("quantization_config", "attn_implementation", "_attn_implementation", "experts_implementation")


def load_checkpoint(
    name: str | os.PathLike[str], processor: LatentActionProcessor | None = None
) -> tuple[LatentActionPreTrainedModel, LatentActionProcessor]:
    """The model, in eval mode, and the processor of a checkpoint. Arguments are those of `Checkpoint.open`.

    Raises ValueError as that does, and for a config, weights or a processor that cannot be used.

    >>> load_checkpoint("lara-lam")[0].config.num_latents  # doctest: +SKIP
    8
    """
    from transformers import AutoConfig, AutoModel

    from lara_tokenizer.model import load_model

    folder = checkpoint_folder(name)
    config = read_config(folder, AutoConfig, FAMILIES, ADVICE, CONFIG_FIELDS)
    check_weights(folder, config, AutoModel.from_config)
    processor = processor or read_processor(folder)
    check_size(folder, config.image_size, processor.size)
    return load_model(folder).eval(), processor


def read_config(
    folder: Path, config_class: Any, model_types: Collection[str], advice: str, required: Collection[str] = ()
) -> Any:
    """The config of a model in a folder, by a class with `from_pretrained`.

    Raises ValueError, with `advice` for a model of another type, as `read_fields` does.
    """
    from transformers import PretrainedConfig
    from transformers.utils import logging

    fields = read_fields(folder, model_types, advice, required)
    for name in fields:
        # Some would replace a method of the config, others make transformers download and run code.
        if callable(getattr(PretrainedConfig, name, None)) or name in _REFUSED_FIELDS:
            raise ValueError(f"model {folder.name!r}: config.json sets {name!r}, which is not taken. Remove it.")
    for name in ("dtype", "torch_dtype"):
        if fields.get(name) not in (None, "float32", "float16", "bfloat16", "float64"):
            raise ValueError(
                f"model {folder.name!r}: config.json says {name} {shown(fields[name])}, no type of weights"
            )
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # it logs the whole config beside its error
    try:
        return config_class.from_pretrained(folder)
    except Exception as error:  # of wrong types and sizes: a config class raises nearly anything
        raise ValueError(
            f"model {folder.name!r}: its config.json cannot be used: {_reason(error)} Take the file as it was "
            "published or saved."
        ) from error
    finally:
        logging.set_verbosity(verbosity)


def check_weights(folder: Path, config: Any, build: Callable[[Any], nn.Module]) -> list[Path]:
    """The safetensors files of a folder, in order, if they are whole and hold the numbers that the config asks for.

    Nothing of the size that a config claims is allocated: a wrong digit in it must not take all memory. Whether each
    weight is there is known when the model is loaded (`load_complete`).

    Args:
        folder, config: of `read_config`.
        build: makes the model from its config.

    Raises ValueError, naming the file.
    """
    import torch

    weights, entries = read_weights(folder)
    numbers = sum(prod(entry["shape"]) for entry in entries.values())
    # First the number of layers, since each is built; then all sizes, on a device without memory.
    for name, value in _numbers_of(config.to_dict()):
        if ("layer" in name and value > len(entries)) or value > max(numbers, 2**16):
            raise ValueError(
                f"model {folder.name!r}: config.json says {name} {shown(value)}, more than its weights have room for "
                f"({len(entries)} tensors, {numbers:,} numbers). Take both files from one place."
            )
    try:
        with torch.device("meta"):
            model = build(config)
    except Exception as error:  # of sizes that fit no model
        raise ValueError(f"model {folder.name!r}: its config.json fits no model: {_reason(error)}") from error
    needed = sum(parameter.numel() for parameter in model.parameters())
    if needed > numbers:
        has_vision = any(name.startswith(_VISION) for name in entries)
        names = (name for name, _ in model.named_parameters() if not (has_vision and name.startswith(_VISION)))
        absent = summarize_names(name for name in names if name not in entries)
        raise ValueError(
            f"model {folder.name!r}: config.json describes a model of {needed:,} numbers, its weights hold "
            f"{numbers:,}{f' (without {absent})' if absent else ''}. Take both files from one place."
        )
    # By the last part of their names: transformers renames some parts of published vision encoders.
    whole = {name.rpartition(".")[2] for name, tensor in model.state_dict().items() if not tensor.is_floating_point()}
    if wrong := [name for name, entry in entries.items() if _is_whole(entry) and name.rpartition(".")[2] not in whole]:
        raise ValueError(
            f"model {folder.name!r}: its weights hold integers as {summarize_names(wrong)}. Quantized weights are not "
            "read: take those of the original."
        )
    return weights


def read_processor(folder: Path) -> LatentActionProcessor:
    """The image processor saved with a model. Raises ValueError if there is none, or it cannot be used."""
    from lara_tokenizer.model import LatentActionProcessor

    read_processor_settings(folder)
    try:
        return LatentActionProcessor.from_pretrained(folder)
    except Exception as error:  # as for a config
        raise ValueError(
            f"model {folder.name!r}: its {processor_file(folder)} cannot be used: {_reason(error)} Take the file as it "
            "was published or saved."
        ) from error


def _is_whole(entry: Mapping[str, Any]) -> bool:
    return entry["dtype"].startswith(("I", "U", "BOOL"))


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:300] if isinstance(error, (ValueError, OSError)) else ""
    return f"{(text or f'{type(error).__name__} {first_line(error)[:200]}').rstrip('.')}."


def _numbers_of(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int]]:
    """Names and values of the sizes in a config: integers that are no token ids and no steps of training."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _numbers_of(value, f"{prefix}{name}.")
        elif isinstance(value, int) and not name.endswith(("_steps", "_id", "_ids")):
            yield f"{prefix}{name}", value
