"""`Checkpoint`: folder, sizes and hashes of a model on disk. Worker processes load it, a table's metadata names it."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lara_tokenizer._files import file_sha256
from lara_tokenizer.checkpoint.settings import (
    check_size,
    processor_frame_settings,
    processor_sha256,
    read_model_settings,
    read_processor_settings,
    read_weights,
)
from lara_tokenizer.model.bundled import resolve_checkpoint

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionPreTrainedModel, LatentActionProcessor

logger = logging.getLogger(__name__)

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")  # "user/name"; some old repositories have no user
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
    model_type: str
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
        """Find a checkpoint, check that its files are whole, and hash them. No weights are loaded, nor torch.

        Whether a model can be made of it is known when it is loaded: `load_checkpoint`.

        Args:
            name: "lara-lam" (bundled), a local folder or a Hub id.
            processor: used instead of the one saved in the checkpoint.

        Raises:
            ValueError: there is none, it is incomplete or damaged, or it is not a latent action model.
        """
        folder, revision = local_folder(name)
        settings = read_model_settings(folder)
        weights, _ = read_weights(folder)
        frames = read_processor_settings(folder) if processor is None else processor
        check_size(folder, settings.image_size, processor_frame_settings(frames)["size"])
        return cls(
            folder=folder,
            id=folder.resolve().name if revision is None else str(name),
            revision=revision,
            weights_sha256={file.name: file_sha256(file) for file in weights},
            config_sha256=file_sha256(folder / "config.json"),
            processor_sha256=processor_sha256(frames),
            model_type=settings.model_type,
            num_latents=settings.num_latents,
            codebook_dim=settings.codebook_dim,
            codebook_size=settings.codebook_size,
            strides=settings.strides,
            frame_settings=processor_frame_settings(frames),
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
    return local_folder(name)[0]


def folder_on_disk(name: str | os.PathLike[str]) -> Path | None:
    """The folder of a bundled or local checkpoint; None for a Hub id. Raises ValueError for what is neither."""
    found = resolve_checkpoint(name)
    if os.path.isdir(found):
        return Path(found)
    if not _HUB_ID.fullmatch(str(name)):
        raise _nowhere(name, "no such folder")
    return None


def local_folder(name: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """The folder of a checkpoint, downloaded if it is not local, and its commit on the Hub."""
    if (found := folder_on_disk(name)) is not None:
        return found, None
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(str(name), allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # the hub's errors share no base class, and each means that there is none
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise _nowhere(name, reason) from error
    return folder, folder.name


def _nowhere(name: str | os.PathLike[str], reason: str) -> ValueError:
    return ValueError(
        f"model {str(name)!r}: neither a local folder nor a Hub repository ({reason}). "
        "Pass lara-lam, a folder with config.json and weights, or a Hub id."
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
