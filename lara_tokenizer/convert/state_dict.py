"""Reading and checking of state dicts: single files of PyTorch weights, of which nothing is executed."""

from __future__ import annotations

import json
import pickle
import shlex
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from lara_tokenizer._files import summarize_names

SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors", ".bin")
# Prefixes of tensor names that come from the modules trainers wrap a model in.
WRAPPERS = ("module.", "lam.", "_orig_mod.")

_PYTORCH_STARTS = (b"PK\x03\x04", b"\x80")  # a zip file as torch writes it, or a pickle as older versions did
_GIT_LFS = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class StateDictFile:
    """A file of weights, read.

    Attributes:
        file: its path.
        tensors: the state dict by the model's own tensor names, without the prefixes in WRAPPERS.
        settings: `hyper_parameters` of a Lightning checkpoint; {} for a plain state dict.
    """

    file: Path
    tensors: dict[str, Tensor]
    settings: dict[str, Any]


def read_state_dict_file(file: Path) -> StateDictFile:
    """Read a plain state dict, or the `state_dict` of a Lightning checkpoint. Raises ValueError for anything else."""
    loaded = _load(file)
    settings: Any = {}
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        settings = loaded.get("hyper_parameters", {})
        loaded = loaded["state_dict"]
    tensors = _unwrapped(_checked(loaded, file), file)
    return StateDictFile(file, tensors, dict(settings) if isinstance(settings, dict) else {})


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """Read a plain state dict. Raises ValueError for anything else."""
    return _checked(_load(file), file)


def safetensors_names(file: Path) -> list[str]:
    """Tensor names as in `read_state_dict_file`, without reading the tensors: a whole policy has many GB of them."""
    _check_start(file, "safetensors")
    try:
        with safe_open(file, "pt") as opened:
            return [plain_name(name) for name in opened.keys()]  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise _damaged(file, "safetensors") from error


def check_tensors(
    tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], where: object, advice: str
) -> None:
    """Raise ValueError unless names and shapes are exactly the expected ones and all numbers are finite floats.

    The message names the first few tensors of each fault and ends with `advice`.
    """
    faults = []
    if missing := [name for name in expected if name not in tensors]:
        faults.append(f"{len(missing)} of {len(expected)} tensors are missing ({summarize_names(missing)})")
    if unexpected := [name for name in tensors if name not in expected]:
        faults.append(f"{len(unexpected)} unexpected ({summarize_names(unexpected)})")
    if wrong := [name for name in expected if name in tensors and tuple(tensors[name].shape) != expected[name]]:
        shapes = [f"{name} is {tuple(tensors[name].shape)}, expected {expected[name]}" for name in wrong]
        faults.append(f"{len(wrong)} of another shape ({summarize_names(shapes)})")
    if integers := [name for name in expected if name in tensors and not tensors[name].is_floating_point()]:
        faults.append(f"{len(integers)} not floating point ({summarize_names(integers)})")
    if not faults and (broken := [name for name in expected if not tensors[name].isfinite().all()]):
        faults.append(f"{len(broken)} hold numbers that are not finite ({summarize_names(broken)})")
    if faults:
        raise ValueError(f"{where}: {'; '.join(faults)}. {advice}")


def shape_of(tensors: Mapping[str, Tensor], name: str, dimensions: int, file: Path, advice: str) -> tuple[int, ...]:
    """Shape of a tensor that determines sizes of the model. Raises ValueError if it is missing or unusable."""
    if name not in tensors or tensors[name].ndim != dimensions or not tensors[name].numel():
        found = f"{name} is {tuple(tensors[name].shape)}" if name in tensors else f"{name} is missing"
        raise ValueError(f"{file}: {found}, a tensor of {dimensions} dimensions, not empty, is needed. {advice}")
    return tuple(tensors[name].shape)


def patch_size_of(tensors: Mapping[str, Tensor], name: str, file: Path, advice: str) -> int:
    """Side of the RGB patches that a vector of their values belongs to. Raises ValueError if it fits no square."""
    (values,) = shape_of(tensors, name, 1, file, advice)
    side = isqrt(values // 3)
    if 3 * side**2 != values:
        raise ValueError(f"{file}: a patch has {values} values, which is not a square of RGB pixels. {advice}")
    return side


def depth_of(names: Collection[str], stack: str) -> int:
    """Number of layers of a stack, by the highest index; missing ones in between are found by `check_tensors`."""
    start = f"{stack}."
    indices = [name.removeprefix(start).split(".")[0] for name in names if name.startswith(start)]
    depth = 1 + max((int(index) for index in indices if index.isdecimal()), default=-1)
    if depth > len(names):  # each layer of a model is built before its tensors are compared
        raise ValueError(f"a layer {depth - 1} of {stack} among {len(names)} tensors: its names were edited.")
    return depth


def join_tensors(tensors: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """Concatenate tensors along the first dimension, in float32."""
    parts = [tensors[name].float() for name in names]
    # A single one is not copied: weights of several GB stay as they were read.
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def zero_buffers(model: nn.Module) -> dict[str, Any]:
    """Saved buffers of a model on the meta device, as zeros: counters of code use, which other projects do not have."""
    saved = model.state_dict()
    return {
        name: torch.zeros_like(buffer, device="cpu")
        for name, buffer in model.named_buffers()
        if name in saved and not name.startswith("vision_encoder.")
    }


def plain_name(name: str) -> str:
    """Strip the prefixes in WRAPPERS from a tensor name.

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
                f"{file} holds one tensor twice, as {other} and as {name}: it is not known which of them counts. Save "
                "one model alone."
            )
    return {ours: tensors[name] for ours, name in plain.items()}


def _load(file: Path) -> Any:
    kind = "safetensors" if file.suffix == ".safetensors" else "PyTorch"
    # Common mistakes are named before a reader fails on them with a message of its own.
    _check_start(file, kind)
    try:
        if kind == "safetensors":
            return load_file(file)
        if zipfile.is_zipfile(file):
            _check_stored(file)
        # weights_only: a pickle from the internet can otherwise run any program.
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):  # damaged bytes, not a refused program
            raise _damaged(file, kind) from error
        raise ValueError(
            f"{file} holds more than tensors and is refused: loading it could run code. Save its weights alone, and "
            "convert that file. For a file that you trust like a program, this command does it (it loads the file "
            f"whole and runs what it contains): {_resave(file)}"
        ) from error
    except _Compressed:
        raise ValueError(f"{file} is a compressed archive, which torch does not write. Download it again.") from None
    except MemoryError as error:  # the machine is too small; the file may be fine
        raise ValueError(f"{file} needs more memory than there is ({file.stat().st_size:,} bytes on disk).") from error
    except Exception as error:  # readers raise all kinds of errors on damaged bytes
        raise _damaged(file, kind) from error


class _Compressed(Exception):
    """An archive whose entries may unpack to any size."""


def _check_stored(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise _Compressed


def _check_start(file: Path, kind: str) -> None:
    """Raise ValueError if the first bytes are those of another kind of file."""
    with file.open("rb") as opened:
        start = opened.read(len(_GIT_LFS))
    if start == _GIT_LFS:
        raise ValueError(
            f"{file} is a Git LFS pointer, not the weights: download the file itself (git lfs pull, or hf download)."
        )
    if kind == "PyTorch" and not start.startswith(_PYTORCH_STARTS):
        raise _damaged(file, kind)


def _damaged(file: Path, kind: str) -> ValueError:
    return ValueError(f"{file} is damaged or no {kind} file. Download it again.")


def _resave(file: Path) -> str:
    """A shell command that saves a checkpoint's weights beside it, with those settings that are numbers or strings."""
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
        raise ValueError(f"{file} is not a plain state dict: expected a dict of names and tensors, and nothing else.")
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in loaded.items()}
    # A view can repeat one number a billion times; whoever copies it allocates that.
    if larger := [name for name, size in sizes.items() if size > loaded[name].untyped_storage().nbytes()]:
        raise ValueError(f"{file} holds tensors that are larger than their data ({summarize_names(larger)}).")
    if sum(sizes.values()) > 4 * file.stat().st_size + 2**20:
        raise ValueError(f"{file} holds tensors that together are larger than the file: they share their data.")
    return loaded
