"""One file of PyTorch weights, as projects without a Hub layout publish them; nothing in it is executed."""

from __future__ import annotations

import json
import pickle
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors", ".bin")
# What trainers put around a model, and so before the names of its tensors.
WRAPPERS = ("module.", "lam.", "_orig_mod.")

_PYTORCH_STARTS = (b"PK\x03\x04", b"\x80")  # a zip file as torch writes it, or a pickle as it did once
_GIT_LFS = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class StateFile:
    """
    Fields:
        file: where it lies.
        tensors: the state dict, by the names that the model itself has: what WRAPPERS says is taken off.
        settings: what a Lightning checkpoint says of the model's sizes (`hyper_parameters`); {} for a plain state dict.
    """

    file: Path
    tensors: dict[str, Tensor]
    settings: dict[str, Any]


def read_state_file(file: Path) -> StateFile:
    """A plain state dict, or the `state_dict` of a Lightning checkpoint. Raises ValueError for anything else."""
    loaded = _load(file)
    settings: Any = {}
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        settings = loaded.get("hyper_parameters", {})
        loaded = loaded["state_dict"]
    tensors = _unwrapped(_checked(loaded, file), file)
    return StateFile(file, tensors, dict(settings) if isinstance(settings, dict) else {})


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """A plain state dict and nothing else. Raises ValueError."""
    return _checked(_load(file), file)


def safetensors_names(file: Path) -> list[str]:
    """Names as `read_state_file` gives them, without reading the tensors: a whole policy has many GB of them."""
    _check_start(file, "safetensors")
    try:
        with safe_open(file, "pt") as opened:
            return [plain_name(name) for name in opened.keys()]  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise _damaged(file, "safetensors") from error


def plain_name(name: str) -> str:
    """A name without the wrappers before it.

    >>> plain_name("lam._orig_mod.fc.bias")
    'fc.bias'
    """
    while wrapper := next((each for each in WRAPPERS if name.startswith(each)), None):
        name = name.removeprefix(wrapper)
    return name


def _unwrapped(tensors: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    plain: dict[str, str] = {}
    for name in tensors:
        if (other := plain.setdefault(plain_name(name), name)) != name:
            raise ValueError(
                f"{file} holds one tensor twice, as {other} and as {name}: which of them counts is not known. Save one "
                "model alone."
            )
    return {ours: tensors[name] for ours, name in plain.items()}


def _load(file: Path) -> Any:
    kind = "safetensors" if file.suffix == ".safetensors" else "PyTorch"
    _check_start(file, kind)
    try:
        if kind == "safetensors":
            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):  # no refusal: no program at all, or none that torch writes
            raise _damaged(file, kind) from error
        raise ValueError(
            f"{file} holds more than tensors and is refused: loading it could run code. Save its weights alone, and "
            "convert that file. Of a file that you trust as you trust a program (this loads it whole, and runs what it "
            f"holds): {_resave(file)}"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # a reader of damaged bytes raises what it likes
        raise _damaged(file, kind) from error


def _check_start(file: Path, kind: str) -> None:
    """Raise ValueError for a file that is of another kind by its first bytes."""
    with file.open("rb") as opened:
        start = opened.read(len(_GIT_LFS))
    if start == _GIT_LFS:
        raise ValueError(
            f"{file} is a Git LFS pointer, a note where the weights lie: download the file itself (git lfs pull, or "
            "hf download)."
        )
    if kind == "PyTorch" and not start.startswith(_PYTORCH_STARTS):
        raise _damaged(file, kind)


def _damaged(file: Path, kind: str) -> ValueError:
    return ValueError(f"{file} is damaged or no {kind} file. Download it again.")


def _resave(file: Path) -> str:
    """A command that writes a checkpoint's weights beside it, and those of its settings that are numbers or words."""
    code = (
        f'import torch; c = torch.load({json.dumps(str(file))}, map_location="cpu", weights_only=False); '
        'c = c if isinstance(c, dict) else {"state_dict": c.state_dict()}; '
        'h = c.get("hyper_parameters") or {}; h = dict(h) if hasattr(h, "keys") else vars(h); '
        "kept = {k: v for k, v in h.items() if isinstance(v, (int, float, str))}; "
        'w = {k: v for k, v in c.get("state_dict", c).items() if isinstance(v, torch.Tensor)}; '
        'torch.save({"state_dict": w, "hyper_parameters": kept}, '
        f"{json.dumps(str(file.with_name(f'{file.stem}-weights.pt')))})"
    )
    return f"python -c {shlex.quote(code)}"


def _checked(loaded: Any, file: Path) -> dict[str, Tensor]:
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items()
    ):
        raise ValueError(f"{file} is no plain state dict: expected a dict of names and tensors, and nothing else.")
    return loaded
