"""Published layouts of latent motion tokenizers: detection, and reading of tensors and settings.

Nothing in a checkpoint is executed: weights are loaded with `weights_only=True` or as safetensors, YAML as plain data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from lara_tokenizer._files import summarize_names
from lara_tokenizer._parse import read_json as read_any_json
from lara_tokenizer._parse import read_yaml, shown
from lara_tokenizer.convert.base import refuse_villa_x
from lara_tokenizer.convert.state_dict import read_state_dict

# Mean and standard deviation.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
RAW_PIXELS = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

SAFETENSORS, SAFETENSORS_INDEX, PICKLE = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
POLICY_FOLDER = "latent_motion_tokenizer"


@dataclass(frozen=True, slots=True)
class Layout:
    """A published layout, with the training settings that its files do not record; by default those of LARA's policies.

    Attributes:
        name: as in the summary.
        prefix: of the tokenizer's tensors in the file.
        statistics: mean and standard deviation of the normalisation in training.
        resample: filter of the resize in training.
        strides: gap of the training pairs.
        note: a difference that users must know, or "".
    """

    name: str
    prefix: str = ""
    statistics: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    resample: str = "bilinear"
    strides: tuple[str, ...] = ("15f",)
    note: str = ""


MOTO = Layout("moto", resample="bicubic", strides=("5f",))
LARA_STAGE_1 = Layout(
    "lara-stage1",
    statistics=RAW_PIXELS,
    note="LARA's stage 1 feeds pixels in 0..1; if a policy trained this tokenizer further, it used ImageNet "
    f"statistics: convert the folder {POLICY_FOLDER}/ of that policy's checkpoint.",
)
LARA_POLICY_FOLDER = Layout("lara-policy")
LARA_POLICY = Layout("lara-policy", prefix="action_head.latent_motion_tokenizer.")
OPENPI = Layout(
    "openpi",
    prefix="latent_motion_tokenizer.",
    strides=("9f",),
    note="openpi resizes with padding, which the processor does not do: it stretches frames to a square. Pad frames "
    "that are not square before the processor.",
)


@dataclass(frozen=True, slots=True)
class ReferenceCheckpoint:
    """A checkpoint of Moto or LARA, read.

    Attributes:
        folder: of the weights.
        layout: the detected one.
        tensors: by the reference's names, without the layout's prefix.
        settings: the Hydra tree as plain data, or None if no file contains it.
        settings_file: the name of that file, or "".
    """

    folder: Path
    layout: Layout
    tensors: dict[str, Tensor]
    settings: dict[str, Any] | None
    settings_file: str


def read_checkpoint(source: str | Path) -> ReferenceCheckpoint:
    """Detect the layout of a folder and read the tokenizer in it.

    Raises:
        ValueError: for a folder of no known layout, damaged weights, or a file that wants to run code.
    """
    folder = Path(source)
    if not folder.is_dir():
        raise ValueError(
            f"{source} is not a folder. Download a published checkpoint first, e.g. "
            "hf download TencentARC/Moto --local-dir moto, and name the folder with its weights."
        )
    # A LARA policy may hold its tokenizer in a folder of its own, beside the copy in the policy's weights.
    if _weights_file(folder / POLICY_FOLDER):
        folder /= POLICY_FOLDER
    weights = _weights_file(folder)
    if weights is None:
        raise ValueError(
            f"{folder} holds no weights: looked for {SAFETENSORS}, {SAFETENSORS_INDEX} and {PICKLE}. "
            "Name the folder of one checkpoint."
        )
    settings, settings_file = _read_settings(folder)
    prefix, tensors = _read_tensors(weights)
    layout = _layout(folder, prefix, settings, weights)
    return ReferenceCheckpoint(folder, layout, tensors, settings, settings_file)


def settings_section(settings: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
    """A part of the Hydra tree, {} if absent: Moto calls it for example `m_former`, LARA `m_former_config`."""
    settings = settings or {}
    found = settings.get(name) or settings.get(f"{name}_config") or {}
    if not isinstance(found, dict):
        raise ValueError(f"{name} is {shown(found)} in the checkpoint's settings, expected a table of settings.")
    return found


def _weights_file(folder: Path) -> Path | None:
    files = (folder / name for name in (SAFETENSORS_INDEX, SAFETENSORS, PICKLE))
    return next((file for file in files if file.is_file()), None)


def _layout(folder: Path, prefix: str, settings: Mapping[str, Any] | None, weights: Path) -> Layout:
    if prefix:
        return LARA_POLICY if prefix == LARA_POLICY.prefix else OPENPI
    if settings and "m_former" in settings:
        return MOTO
    # LARA's stage 1 and its policies save the same files, but normalise differently: only the folder's name differs.
    if folder.resolve().name == POLICY_FOLDER:
        return LARA_POLICY_FOLDER
    return MOTO if settings is None and weights.name == PICKLE else LARA_STAGE_1


def _read_tensors(weights: Path) -> tuple[str, dict[str, Tensor]]:
    """(prefix, tensors) of the tokenizer in a file, or in the shards of an index; other tensors are not loaded."""
    if weights.name == PICKLE:
        loaded = read_state_dict(weights)
        prefix = _prefix(loaded, weights)
        return prefix, {name.removeprefix(prefix): loaded[name] for name in loaded if name.startswith(prefix)}
    files = _shards(weights) if weights.name == SAFETENSORS_INDEX else [weights]
    try:
        # Lazily: a whole policy holds many GB of other tensors.
        opened = [safe_open(file, "pt") for file in files]
        prefix = _prefix([name for file in opened for name in file.keys()], weights)  # noqa: SIM118 (not a dict)
        return prefix, {
            name.removeprefix(prefix): file.get_tensor(name)
            for file in opened
            for name in file.keys()  # noqa: SIM118
            if name.startswith(prefix)
        }
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{weights} is damaged or not a safetensors file ({error}). Download it again.") from error


def _shards(index: Path) -> list[Path]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict):
        raise ValueError(f"{index} has no weight_map: it does not list the shards of a checkpoint.")
    for name in names.values():
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"{index} names {shown(name)}, expected a file beside it.")
    files = [index.parent / name for name in sorted(set(names.values()))]
    if absent := [file.name for file in files if not file.is_file()]:
        raise ValueError(f"{index.parent} lacks {summarize_names(absent)}, named in {index.name}. Download all shards.")
    return files


def _prefix(names: Any, weights: Path) -> str:
    """The prefix of the tokenizer's tensor names; a whole policy holds other tensors too."""
    for prefix in ("", LARA_POLICY.prefix, OPENPI.prefix):
        if any(name.startswith(f"{prefix}m_former.") for name in names):
            return prefix
    refuse_villa_x(names, weights)
    found = summarize_names(sorted(names)) or "nothing"
    raise ValueError(
        f"{weights} holds no latent motion tokenizer: no name starts with m_former., {LARA_POLICY.prefix} or "
        f"{OPENPI.prefix} (it holds {found}). Convert a checkpoint of Moto, or of LARA."
    )


def _read_settings(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """The Hydra tree and its file name. A policy's own config.json does not describe the tokenizer."""
    settings, name = None, ""
    if (folder / "config.yaml").is_file():
        settings, name = _read_yaml(folder / "config.yaml"), "config.yaml"
    elif (folder / "config.json").is_file():
        settings, name = read_json(folder / "config.json"), "config.json"
    if settings and isinstance(settings.get("config"), dict):
        settings = settings["config"]  # LARA's own YAML wraps the tree
    if not settings_section(settings, "m_former"):
        return None, ""
    return settings, name


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        return _checked_table(file, read_yaml(file))
    except ValueError as error:
        raise ValueError(f"{error}. It is read as data, never run.") from error


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON file that holds a table. Raises ValueError, naming the file, for anything else."""
    return _checked_table(file, read_any_json(file))


def _checked_table(file: Path, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds {type(content).__name__}, expected a table of settings.")
    return content
