"""`Checkpoint`: folder, sizes and hashes of a model on disk. Worker processes load it, a table's metadata names it."""

from __future__ import annotations

import codecs
import hashlib
import json
import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lara_tokenizer._files import file_sha256, summarize_names
from lara_tokenizer._parse import read_json_object, safetensors_header, shown
from lara_tokenizer.errors import first_line

if TYPE_CHECKING:
    from torch import nn

    from lara_tokenizer.model import LatentActionPreTrainedModel, LatentActionProcessor

logger = logging.getLogger(__name__)

_INDEX = "model.safetensors.index.json"
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_VISION = "vision_encoder."  # its tensors have the names of the published encoder
_PROCESSOR_FIELDS = ("size", "resample", "image_mean", "image_std")
_CONFIG_FIELDS = ("image_size", "hidden_size", "num_attention_heads", "codebook_dim", "strides")
# transformers adds these to a saved processor, or config. They change with its version, the results do not.
_PROCESSOR_BOOKKEEPING = (
    "_processor_class",
    "auto_map",
    "image_processor_type",
    "processor_class",
    "transformers_version",
)
# Fields by which transformers loads kernels or quantizers of other packages.
_REFUSED_FIELDS = ("quantization_config", "attn_implementation", "_attn_implementation", "experts_implementation")
_CONFIG_BOOKKEEPING = ("_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on disk, identified by its contents.

    >>> Checkpoint.open("lara-lam").num_latents  # doctest: +SKIP
    8
    """

    folder: Path
    id: str
    """Hub id, or the last component of a folder."""
    revision: str | None
    """Commit on the Hub; None for a local folder."""
    weights_sha256: dict[str, str]
    """By file name."""
    config_sha256: str
    processor_sha256: str
    num_latents: int
    codebook_dim: int
    codebook_size: int | None
    """None for a continuous bottleneck."""
    strides: tuple[str, ...]
    """That the model was trained on."""
    frame_settings: dict[str, Any]
    """Size, filter and crop of the processor: see `processor_frame_settings`."""

    @classmethod
    def open(cls, name: str | os.PathLike[str], processor: LatentActionProcessor | None = None) -> Checkpoint:
        """Find a checkpoint, check that its files are whole and fit together, and hash them; no weights are loaded.

        Args:
            name: "lara-lam" (bundled), a local folder or a Hub id.
            processor: used instead of the one saved in the checkpoint.

        Raises:
            ValueError: there is none, it is incomplete or damaged, or it is not a latent action model.
        """
        from transformers import AutoConfig, AutoModel

        from lara_tokenizer.model import MODEL_TYPES, resolve_checkpoint

        folder, revision = _local_folder(resolve_checkpoint(name))
        advice = "Convert checkpoints of other projects first: lara-tok convert"
        config = read_config(folder, AutoConfig, MODEL_TYPES, advice, required=_CONFIG_FIELDS)
        weights = check_weights(folder, config, AutoModel.from_config)
        processor = processor or read_processor(folder)
        _check_size(folder, config, processor)
        return cls(
            folder=folder,
            id=folder.resolve().name if revision is None else str(name),
            revision=revision,
            weights_sha256={file.name: file_sha256(file) for file in weights},
            config_sha256=file_sha256(folder / "config.json"),
            processor_sha256=processor_sha256(processor),
            num_latents=config.num_latents,
            codebook_dim=config.codebook_dim,
            codebook_size=config.codebook_size,
            strides=tuple(config.strides),
            frame_settings=processor_frame_settings(processor),
        )

    @classmethod
    def from_model(
        cls, model: LatentActionPreTrainedModel, processor: LatentActionProcessor, scratch: Path
    ) -> Checkpoint:
        """The checkpoint that a model in memory was loaded from; if it was changed since, it is saved in `scratch`."""
        if model.name_or_path:
            checkpoint = cls.open(model.name_or_path, processor)
            if _is_unchanged(model, checkpoint.folder):
                return checkpoint
        logger.info("the model differs from the one on disk: saving it for the worker processes")
        folder = scratch / "model-in-memory"
        model.save_pretrained(folder)
        return cls.open(folder, processor)

    @property
    def weights_bytes(self) -> int:
        """Size of the weights on disk, in bytes."""
        return sum((self.folder / name).stat().st_size for name in self.weights_sha256)

    def identity(self) -> dict[str, Any]:
        """The entry "model" of a table's metadata; it contains no path."""
        return {
            "id": self.id,
            "revision": self.revision,
            "weights_sha256": self.weights_sha256,
            "config_sha256": self.config_sha256,
            "processor_sha256": self.processor_sha256,
            "num_latents": self.num_latents,
            "codebook_size": self.codebook_size,
            "codebook_dim": self.codebook_dim,
        }


def load_checkpoint(
    name: str | os.PathLike[str], processor: LatentActionProcessor | None = None
) -> tuple[LatentActionPreTrainedModel, LatentActionProcessor]:
    """The model, in eval mode, and the processor of a checkpoint. Arguments and errors are those of `Checkpoint.open`.

    >>> load_checkpoint("lara-lam")[0].config.num_latents  # doctest: +SKIP
    8
    """
    from lara_tokenizer.model import load_model

    folder = Checkpoint.open(name, processor).folder
    return load_model(folder).eval(), processor or read_processor(folder)


def checkpoint_folder(name: str | os.PathLike[str]) -> Path:
    """Local folder of a checkpoint: "lara-lam" (bundled), a folder or a Hub id, which is downloaded.

    Raises ValueError if there is none.
    """
    if os.path.isdir(name):  # spares the import of torch
        return Path(name)
    from lara_tokenizer.model import resolve_checkpoint

    return _local_folder(resolve_checkpoint(name))[0]


def processor_sha256(processor: LatentActionProcessor) -> str:
    """Hex SHA-256 of a processor's settings: size, filter, statistics."""
    settings = {name: value for name, value in processor.to_dict().items() if name not in _PROCESSOR_BOOKKEEPING}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def processor_frame_settings(processor: LatentActionProcessor) -> dict[str, Any]:
    """Size, filter and crop of a processor's frames: enough to compare other frames with the column `motion`."""
    return {name: getattr(processor, name) for name in ("size", "resample", "crop", "antialias")}


def _local_folder(name: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """The folder of a checkpoint, downloaded if it is not local, and its commit on the Hub."""
    if os.path.isdir(name):
        return Path(name), None
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(str(name), allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # the hub's errors share no base class, and each means that there is none
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"model {str(name)!r}: neither a local folder nor a Hub repository ({reason}). "
            "Pass lara-lam, a folder with config.json and weights, or a Hub id."
        ) from error
    return folder, folder.name


def read_config(
    folder: Path, config_class: Any, model_types: Collection[str], advice: str, required: Collection[str] = ()
) -> Any:
    """The config of a model in a folder, by a class with `from_pretrained`.

    Raises ValueError, with `advice` for a model of another type. Fields that are `required` must be in the file: their
    defaults need not be what the model was trained with.
    """
    from transformers import PretrainedConfig
    from transformers.utils import logging

    try:
        fields = _read_object(folder, "config.json")
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

    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ValueError(f"model {folder.name!r}: the folder has no *.safetensors")
    entries: dict[str, Any] = {}
    for file in weights:
        entries |= safetensors_header(file, f"model {folder.name!r}: {file.name}")[0]
    _check_shards(folder)
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

    found = [name for name in _PROCESSOR_FILES if (folder / name).is_file()]
    if not found:
        raise ValueError(f"model {folder.name!r}: the folder has no {_PROCESSOR_FILES[0]}")
    files = [_read_object(folder, name) for name in found]
    settings = files[0]["image_processor"] if isinstance(files[0].get("image_processor"), dict) else files[0]
    if absent := [name for name in _PROCESSOR_FIELDS if name not in settings]:
        # Its default need not be what the model was trained with.
        raise ValueError(f"model {folder.name!r}: {found[0]} has no {absent[0]!r}. Take the file as it was saved.")
    try:
        return LatentActionProcessor.from_pretrained(folder)
    except Exception as error:  # as for a config
        raise ValueError(
            f"model {folder.name!r}: its {found[0]} cannot be used: {_reason(error)} Take the file as it was "
            "published or saved."
        ) from error


def _read_object(folder: Path, name: str) -> dict[str, Any]:
    """The dictionary in a JSON file of a checkpoint. Raises OSError, and ValueError for one not readable as it is."""
    fields = read_json_object(folder / name, f"model {folder.name!r}: {name}")
    with (folder / name).open("rb") as stream:
        if stream.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8:
            raise ValueError(
                f"model {folder.name!r}: {name} begins with a byte order mark, which transformers does not read. Save "
                "it without one, as UTF-8 and not as 'UTF-8 with BOM'."
            )
    return fields


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


def _check_shards(folder: Path) -> None:
    """Raise ValueError for an index of shards that names other files than those beside it."""
    index = folder / _INDEX
    if not index.is_file():
        return
    name = f"model {folder.name!r}: {_INDEX}"
    shards = _read_object(folder, _INDEX).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        raise ValueError(f"{name}: weight_map is {shown(shards, 40)}, expected the file of each tensor")
    for shard in sorted(set(shards.values())):
        if Path(shard).name != shard or not shard.endswith(".safetensors") or not (folder / shard).is_file():
            raise ValueError(f"{name}: it names {shown(shard)}, which is no *.safetensors in the folder")


def _check_size(folder: Path, config: Any, processor: LatentActionProcessor) -> None:
    """Raise ValueError if the processor makes frames of another size than the model reads."""
    size = config.image_size
    expected = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    made = (processor.size["height"], processor.size["width"])
    if made != expected:
        raise ValueError(
            f"model {folder.name!r}: its processor makes frames of {made[0]} x {made[1]} px, and its config.json says "
            f"{expected[0]} x {expected[1]}. Take both files from one place."
        )


def _is_unchanged(model: LatentActionPreTrainedModel, folder: Path) -> bool:
    # The saved model is loaded, not compared by file: a file may name its tensors differently from the model.
    saved = type(model).from_pretrained(folder)
    now, before = model.state_dict(), saved.state_dict()
    return (
        _without_bookkeeping(model.config.to_dict()) == _without_bookkeeping(saved.config.to_dict())
        and now.keys() == before.keys()
        and all(bool((now[name].cpu() == before[name].to(now[name].dtype)).all()) for name in now)
    )


def _without_bookkeeping(config: Any) -> Any:
    """A config, at any depth, without what loading and saving write into it."""
    if not isinstance(config, dict):
        return config
    return {name: _without_bookkeeping(value) for name, value in config.items() if name not in _CONFIG_BOOKKEEPING}
