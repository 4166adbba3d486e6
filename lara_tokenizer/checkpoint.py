"""`Checkpoint`: folder, sizes and hashes of a model on disk. Worker processes load it, a table's metadata names it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lara_tokenizer._files import file_sha256

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionPreTrainedModel, LatentActionProcessor

logger = logging.getLogger(__name__)

_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
# transformers adds these to a saved processor, or config. They change with its version, the results do not.
_PROCESSOR_BOOKKEEPING = (
    "_processor_class",
    "auto_map",
    "image_processor_type",
    "processor_class",
    "transformers_version",
)
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
        """Find a checkpoint and hash its files; no weights are loaded.

        Args:
            name: "lara-lam" (bundled), a local folder or a Hub id.
            processor: used instead of the one saved in the checkpoint.

        Raises:
            ValueError: there is none, it is incomplete, or it is not a latent action model.
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
            "Convert checkpoints of other projects first: lara-tok convert"
        )
    if not weights:
        raise ValueError(f"model {folder.name!r}: the folder has no *.safetensors")
    if not has_processor and not any((folder / name).is_file() for name in _PROCESSOR_FILES):
        raise ValueError(f"model {folder.name!r}: the folder has no {_PROCESSOR_FILES[0]}")


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
