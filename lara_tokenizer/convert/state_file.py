"""One file of PyTorch weights, as projects without a Hub layout publish them; nothing in it is executed."""

from __future__ import annotations

import json
import pickle
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
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
        if file.suffix == ".safetensors":
            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} holds more than tensors and is refused: loading it could run code. Save its weights alone, and "
            "convert that file. Of a file that you trust as you trust a program (this loads it whole, and runs what it "
            f"holds): {_resave(file)}"
        ) from error
    except (RuntimeError, EOFError, ValueError, SafetensorError) as error:
        kind = "safetensors" if file.suffix == ".safetensors" else "PyTorch"
        raise ValueError(f"{file} is damaged or no {kind} file. Download it again.") from error


def _resave(file: Path) -> str:
    """A command that writes a checkpoint's weights beside it, and those of its settings that are numbers or words."""
    code = (
        f'import torch; c = torch.load({json.dumps(str(file))}, map_location="cpu", weights_only=False); '
        'kept = {k: v for k, v in c.get("hyper_parameters", {}).items() if isinstance(v, (int, float, str))}; '
        'torch.save({"state_dict": c.get("state_dict", c), "hyper_parameters": kept}, '
        f"{json.dumps(str(file.with_name(f'{file.stem}-weights.pt')))})"
    )
    return f"python -c {shlex.quote(code)}"


def _checked(loaded: Any, file: Path) -> dict[str, Tensor]:
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError(f"{file} is no plain state dict: expected a dict of names and tensors, and nothing else.")
    return loaded
