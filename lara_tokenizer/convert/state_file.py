"""One file of PyTorch weights, as projects without a Hub layout publish them; nothing in it is executed."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SUFFIXES = (".pt", ".pth", ".ckpt")


@dataclass(frozen=True, slots=True)
class StateFile:
    """
    Fields:
        file: where it lies.
        tensors: the state dict, by the names in the file.
        settings: what a Lightning checkpoint says of the model's sizes (`hyper_parameters`); {} for a plain state dict.
    """

    file: Path
    tensors: dict[str, Tensor]
    settings: dict[str, Any]


def find_state_file(source: str | Path) -> Path | None:
    """`source` itself, or the only file of weights in a folder. None for a folder with none, or with several."""
    path = Path(source)
    if path.is_file():
        return path
    files = [file for file in path.glob("*") if file.suffix in SUFFIXES] if path.is_dir() else []
    return files[0] if len(files) == 1 else None


def read_state_file(file: Path) -> StateFile:
    """A plain state dict, or the `state_dict` of a Lightning checkpoint. Raises ValueError for anything else."""
    loaded = _load(file)
    settings: Any = {}
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        settings = loaded.get("hyper_parameters", {})
        loaded = loaded["state_dict"]
    return StateFile(file, _checked(loaded, file), dict(settings) if isinstance(settings, dict) else {})


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """A plain state dict and nothing else. Raises ValueError."""
    return _checked(_load(file), file)


def _load(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} holds more than tensors and is refused: loading it could run code. A published checkpoint is a "
            "plain state dict; save the weights alone, with torch.save(model.state_dict(), ...)."
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"{file} is damaged or no PyTorch file. Download it again.") from error


def _checked(loaded: Any, file: Path) -> dict[str, Tensor]:
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError(f"{file} is no plain state dict: expected a dict of names and tensors, and nothing else.")
    return loaded
