"""Contents of a checkpoint's files, read without torch: sizes of the model, settings of the processor, weights."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lara_tokenizer._parse import read_json_object, safetensors_header, shown

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionProcessor

_INDEX = "model.safetensors.index.json"
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_PROCESSOR_FIELDS = ("size", "resample", "image_mean", "image_std")
# transformers adds these to a saved processor. They change with its version, the results do not.
_PROCESSOR_BOOKKEEPING = (
    "_processor_class",
    "auto_map",
    "image_processor_type",
    "processor_class",
    "transformers_version",
)
# Of `LatentActionProcessor`; the first is written where it applies, and the others are not (see its `to_dict`).
_STEADY = {"steady_pairs": False}
_YOUNGER = {"crop": "none", "antialias": True}


@dataclass(frozen=True, slots=True)
class Family:
    """Facts on the models of one `model_type` that their config files need not hold."""

    constants: Mapping[str, int | None]
    """Sizes that all of them share, and their files need not hold."""
    float32_only: str = ""
    """The name of the class, if its codes differ in 16 bits."""


FAMILIES = {
    "latent_action": Family({}),
    "latent_action_laq": Family({}, float32_only="LaqModel"),
    "latent_action_space_time_vae": Family({"num_latents": 1, "codebook_size": None}),
    "latent_action_space_time_vq": Family({}),
}
CONFIG_FIELDS = ("image_size", "hidden_size", "num_attention_heads", "codebook_dim", "strides")
ADVICE = "Convert checkpoints of other projects first: lara-tok convert"


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """The fields of a config.json that others than the model need. Attributes are those of a `LatentActionConfig`."""

    model_type: str
    image_size: Any
    num_latents: int
    codebook_dim: int
    codebook_size: int | None
    """None for a continuous bottleneck."""
    strides: tuple[str, ...]


def read_model_settings(folder: Path) -> ModelSettings:
    """The settings in a folder's config.json, which is checked as far as they go (`check.py` checks the rest).

    Raises ValueError, naming the field.
    """
    fields = read_fields(folder, FAMILIES, ADVICE, CONFIG_FIELDS)
    name = f"model {folder.name!r}: config.json"
    family = FAMILIES[fields["model_type"]]
    sizes: dict[str, Any] = {key: fields.get(key) for key in ("num_latents", "codebook_dim", "codebook_size")}
    sizes |= family.constants
    for key, size in sizes.items():
        if key not in family.constants and (type(size) is not int or size < 1):
            if key not in fields:
                raise ValueError(f"{name} has no {key!r}. Take the file as it was saved.")
            raise ValueError(f"{name}: {key} is {shown(size, 40)}; it takes a whole number, at least 1.")
    strides = fields["strides"]
    if not isinstance(strides, list) or not strides or not all(isinstance(each, str) for each in strides):
        raise ValueError(f'{name}: strides is {shown(strides, 40)}; it takes the gaps of pairs, e.g. ["0.5s"].')
    return ModelSettings(fields["model_type"], fields["image_size"], **sizes, strides=tuple(strides))


def check_dtype(model_type: str, dtype: str) -> None:
    """Raise ValueError for a dtype in which the codes of a model family would differ."""
    name = FAMILIES[model_type].float32_only if model_type in FAMILIES else ""
    if name and dtype != "float32":
        raise ValueError(
            f"{name} labels in float32 only, and this is {dtype}: its z is a small difference of large numbers, so "
            "that 16 bits change many codes (a fifth of them in bfloat16, on video of robots). Use dtype float32."
        )


def read_fields(folder: Path, model_types: Collection[str], advice: str, required: Collection[str]) -> dict[str, Any]:
    """The fields of a folder's config.json.

    Raises ValueError, with `advice` for a model of another type. Fields that are `required` must be in the file: their
    defaults need not be what the model was trained with.
    """
    try:
        fields = read_object(folder, "config.json")
    except FileNotFoundError:
        raise ValueError(f"model {folder.name!r}: the folder has no config.json") from None
    model_type = fields.get("model_type")
    if not isinstance(model_type, str) or model_type not in model_types:
        raise ValueError(
            f"model {folder.name!r}: its model_type is {shown(model_type)}, this takes "
            f"{', '.join(map(repr, model_types))}. {advice}"
        )
    if absent := [name for name in required if name not in fields]:
        raise ValueError(f"model {folder.name!r}: config.json has no {absent[0]!r}. Take the file as it was saved.")
    return fields


def read_processor_settings(folder: Path) -> dict[str, Any]:
    """The settings of the processor saved with a model, as its `to_dict` gives them, without transformers' own fields.

    Raises ValueError if there is no processor, or it lacks a field whose default need not be what the model was trained
    with.
    """
    found = processor_file(folder)
    fields = read_object(folder, found)
    settings = fields["image_processor"] if isinstance(fields.get("image_processor"), dict) else fields
    if absent := [name for name in _PROCESSOR_FIELDS if name not in settings]:
        raise ValueError(f"model {folder.name!r}: {found} has no {absent[0]!r}. Take the file as it was saved.")
    size = settings["size"]
    if not isinstance(size, dict) or not all(type(size.get(side)) is int for side in ("height", "width")):
        raise ValueError(
            f"model {folder.name!r}: {found}: size is {shown(size)}; it takes "
            '{"height": ..., "width": ...} in pixels.'
        )
    return _without_bookkeeping({**_STEADY, **settings})


def processor_file(folder: Path) -> str:
    """The name of the file with the settings of a folder's processor. Raises ValueError if there is none."""
    for name in _PROCESSOR_FILES:
        if (folder / name).is_file():
            return name
    raise ValueError(f"model {folder.name!r}: the folder has no {_PROCESSOR_FILES[0]}")


def processor_sha256(processor: LatentActionProcessor | Mapping[str, Any]) -> str:
    """Hex SHA-256 of a processor's settings (size, filter, statistics), or of those of `read_processor_settings`."""
    settings = processor if isinstance(processor, Mapping) else _without_bookkeeping(processor.to_dict())
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def processor_frame_settings(processor: LatentActionProcessor | Mapping[str, Any]) -> dict[str, Any]:
    """Size, filter and crop of a processor's frames: enough to compare other frames with the column `motion`."""
    settings = {**_YOUNGER, **(processor if isinstance(processor, Mapping) else processor.to_dict())}
    return {name: settings[name] for name in ("size", "resample", "crop", "antialias")}


def read_weights(folder: Path) -> tuple[list[Path], dict[str, Any]]:
    """The safetensors files of a folder, in order, if they are whole, and the entries of all their headers.

    Raises ValueError, naming the file.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ValueError(f"model {folder.name!r}: the folder has no *.safetensors")
    entries: dict[str, Any] = {}
    for file in weights:
        entries |= safetensors_header(file, f"model {folder.name!r}: {file.name}")[0]
    _check_shards(folder)
    return weights, entries


def check_size(folder: Path, image_size: Any, processor_size: Any) -> None:
    """Raise ValueError if the processor makes frames of another size than the model reads."""
    expected = tuple(image_size) if isinstance(image_size, (list, tuple)) else (image_size, image_size)
    made = (processor_size["height"], processor_size["width"])
    if made != expected:
        raise ValueError(
            f"model {folder.name!r}: its processor makes frames of {made[0]} x {made[1]} px, and its config.json says "
            f"{expected[0]} x {expected[1]}. Take both files from one place."
        )


def read_object(folder: Path, name: str) -> dict[str, Any]:
    """The dictionary in a JSON file of a checkpoint. Raises OSError, and ValueError for one not readable as it is."""
    fields = read_json_object(folder / name, f"model {folder.name!r}: {name}")
    with (folder / name).open("rb") as stream:
        if stream.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8:
            raise ValueError(
                f"model {folder.name!r}: {name} begins with a byte order mark, which transformers does not read. Save "
                "it without one, as UTF-8 and not as 'UTF-8 with BOM'."
            )
    return fields


def _check_shards(folder: Path) -> None:
    """Raise ValueError for an index of shards that names other files than those beside it."""
    index = folder / _INDEX
    if not index.is_file():
        return
    name = f"model {folder.name!r}: {_INDEX}"
    shards = read_object(folder, _INDEX).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        raise ValueError(f"{name}: weight_map is {shown(shards, 40)}, expected the file of each tensor")
    for shard in sorted(set(shards.values())):
        if Path(shard).name != shard or not shard.endswith(".safetensors") or not (folder / shard).is_file():
            raise ValueError(f"{name}: it names {shown(shard)}, which is no *.safetensors in the folder")


def _without_bookkeeping(settings: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in settings.items() if name not in _PROCESSOR_BOOKKEEPING}
    return {name: value for name, value in kept.items() if name not in _YOUNGER or value != _YOUNGER[name]}
