"""Which model: a checkpoint's folder, sizes and hashes. Worker processes load it, the table's metadata names it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionPreTrainedModel, LatentActionProcessor

logger = logging.getLogger(__name__)

_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
# What transformers adds to a saved processor; it changes with the version, the pixels do not.
_BOOKKEEPING = ("_processor_class", "auto_map", "image_processor_type", "processor_class", "transformers_version")
_CONFIG_BOOKKEEPING = ("_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on disk, known by its contents. `codebook_size` is None for a continuous bottleneck.

    >>> Checkpoint.open("lara-lam").num_latents  # doctest: +SKIP
    8
    """

    folder: Path
    id: str  # a Hub id, or the last component of a folder
    revision: str | None  # of the Hub
    weights_sha256: dict[str, str]  # by file name
    config_sha256: str
    processor_sha256: str
    num_latents: int
    codebook_dim: int
    codebook_size: int | None
    strides: tuple[str, ...]
    frames: dict[str, Any]  # what the processor makes of a frame's shape: see `frames_of`

    @classmethod
    def open(cls, name: str | os.PathLike[str], processor: LatentActionProcessor | None = None) -> Checkpoint:
        """Find a checkpoint: "lara-lam" (bundled), a local folder or a Hub id. Only hashes the weights.

        Args:
            name: where it is.
            processor: used instead of the one saved in the checkpoint.

        Raises ValueError where there is none, or it is no latent action model.
        """
        from transformers import AutoConfig

        from lara_tokenizer.model import LatentActionProcessor, resolve_checkpoint

        folder, revision = _local_folder(resolve_checkpoint(name))
        weights = sorted(folder.glob("*.safetensors"))
        _check_complete(folder, weights, processor is not None)
        config = AutoConfig.from_pretrained(folder)
        processor = processor or LatentActionProcessor.from_pretrained(folder)
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
            frames=frames_of(processor),
        )

    @classmethod
    def of(cls, model: LatentActionPreTrainedModel, processor: LatentActionProcessor, scratch: Path) -> Checkpoint:
        """The checkpoint that a model in memory was loaded from; where it differs by now, it is saved in `scratch`."""
        if model.name_or_path:
            checkpoint = cls.open(model.name_or_path, processor)
            if _is_unchanged(model, checkpoint.folder):
                return checkpoint
        logger.info("the model is not the one on disk: saving it for the worker processes")
        folder = scratch / "model-in-memory"
        model.save_pretrained(folder)
        return cls.open(folder, processor)

    @property
    def weights_bytes(self) -> int:
        """Size of the weights on disk, in bytes."""
        return sum((self.folder / name).stat().st_size for name in self.weights_sha256)

    def identity(self) -> dict[str, Any]:
        """What the table's metadata says of the model; no path in it."""
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


def checkpoint_folder(name: str | os.PathLike[str]) -> Path:
    """Where a checkpoint's files lie: "lara-lam" (bundled), a local folder or a Hub id, fetched.

    Raises ValueError where there is none.
    """
    if os.path.isdir(name):  # spares the import of torch
        return Path(name)
    from lara_tokenizer.model import resolve_checkpoint

    return _local_folder(resolve_checkpoint(name))[0]


def file_sha256(file: Path) -> str:
    """Hex digest of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def processor_sha256(processor: LatentActionProcessor) -> str:
    """Hex digest of what a processor does to pixels: size, filter, statistics."""
    fields = {name: value for name, value in processor.to_dict().items() if name not in _BOOKKEEPING}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def frames_of(processor: LatentActionProcessor) -> dict[str, Any]:
    """Size, filter and crop of the frames that a processor makes: enough to compare pictures with the column motion."""
    return {name: getattr(processor, name) for name in ("size", "resample", "crop", "antialias")}


def _local_folder(name: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """The folder of a checkpoint, fetched from the Hub where it is not here, and the Hub's revision."""
    if os.path.isdir(name):
        return Path(name), None
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(str(name), allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # the hub's errors share no base, and each means: not to be had
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"model {str(name)!r}: no such folder, and not to be had from the Hub ({reason}). "
            "Pass lara-lam, a folder with config.json and weights, or a Hub id."
        ) from error
    return folder, folder.name


def _check_complete(folder: Path, weights: list[Path], has_processor: bool) -> None:
    from lara_tokenizer.model import MODEL_TYPES

    config = folder / "config.json"
    try:
        model_type = json.loads(config.read_text()).get("model_type")
    except FileNotFoundError:
        raise ValueError(f"model {folder.name!r}: the folder has no config.json") from None
    except ValueError as error:
        raise ValueError(f"model {folder.name!r}: config.json is not JSON ({error})") from None
    if model_type not in MODEL_TYPES:
        raise ValueError(
            f"model {folder.name!r}: its model_type is {model_type!r}, this takes {', '.join(map(repr, MODEL_TYPES))}. "
            "Checkpoints of other projects go through lara-tok convert first"
        )
    if not weights:
        raise ValueError(f"model {folder.name!r}: the folder has no *.safetensors")
    if not has_processor and not any((folder / name).is_file() for name in _PROCESSOR_FILES):
        raise ValueError(f"model {folder.name!r}: the folder has no {_PROCESSOR_FILES[0]}")


def _is_unchanged(model: LatentActionPreTrainedModel, folder: Path) -> bool:
    # By loading it, as files may name tensors otherwise than the model does.
    saved = type(model).from_pretrained(folder)
    now, before = model.state_dict(), saved.state_dict()
    return (
        _plain(model.config.to_dict()) == _plain(saved.config.to_dict())
        and now.keys() == before.keys()
        and all(bool((now[name].cpu() == before[name].to(now[name].dtype)).all()) for name in now)
    )


def _plain(config: Any) -> Any:
    """A config without what loading and saving write into it, at any depth."""
    if not isinstance(config, dict):
        return config
    return {name: _plain(value) for name, value in config.items() if name not in _CONFIG_BOOKKEEPING}
