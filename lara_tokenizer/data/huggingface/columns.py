"""Which columns of a Hugging Face dataset hold pictures, which actions, states, texts and rates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lara_tokenizer.data.names import ACTIONS, STATES, TEXTS, first_of

_LEROBOT = {"episode_index", "frame_index"}


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of columns: all the `cameras`, `signals` (actions and states), and `text` and `fps`, read for all rows."""

    cameras: tuple[str, ...]
    signals: Mapping[str, str]
    text: str | None
    fps: str | None
    labels: tuple[str, ...] = ()  # what the numbers stand for, where `text` is a column of classes


def find_columns(features: Mapping[str, Any], schema: pa.Schema, source: str) -> Columns:
    """Go by `datasets`' features for pictures, by Arrow's types for numbers.

    Raises ValueError, listing the columns, where none holds a video or a sequence of images.
    """
    cameras = tuple(name for name, feature in features.items() if _is_camera(feature))
    if not cameras:
        raise ValueError(f"{source}: {_no_camera(features)}")
    types = {field.name: field.type for field in schema}
    numbers = [name for name, kind in types.items() if _depth(kind) >= 2]
    texts = [name for name in features if _is_text(features[name], types.get(name))]
    rates = [name for name, kind in types.items() if pa.types.is_integer(kind) or pa.types.is_floating(kind)]
    found = {"actions": first_of(ACTIONS, numbers), "states": first_of(STATES, numbers)}
    text = first_of(TEXTS, texts)
    return Columns(
        cameras,
        {signal: name for signal, name in found.items() if name is not None},
        text,
        first_of(["fps"], rates),
        tuple(getattr(features[text], "names", None) or ()) if text else (),
    )


def is_video(feature: Any) -> bool:
    """Whether a column holds videos, which have a rate of their own."""
    from datasets import Video

    return isinstance(feature, Video)


def _is_camera(feature: Any) -> bool:
    from datasets import Image

    return is_video(feature) or isinstance(_item(feature), Image)


def _item(feature: Any) -> Any:
    """The type of a list's items; None for what is no list."""
    return feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", None)


def _is_text(feature: Any, kind: pa.DataType | None) -> bool:
    is_string = kind is not None and (pa.types.is_string(kind) or pa.types.is_large_string(kind))
    return is_string or bool(getattr(feature, "names", None))


def _depth(kind: pa.DataType) -> int:
    """How many lists deep numbers lie: 0 for a number, -1 where there are none."""
    depth = 0
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            kind, depth = kind.value_type, depth + 1
        else:
            return depth if pa.types.is_integer(kind) or pa.types.is_floating(kind) else -1


def _no_camera(features: Mapping[str, Any]) -> str:
    there = ", ".join(f"{name} ({_described(feature)})" for name, feature in features.items())
    hint = ""
    if set(features) >= _LEROBOT:
        hint = ". Its rows are frames of a LeRobotDataset: write 'lerobot:' in place of 'datasets:'"
    elif any(type(feature).__name__ == "Image" for feature in features.values()):
        hint = ". A row with one image is no episode: save the images as files, a folder an episode"
    return (
        f"no column holds a video or a sequence of images. Its columns: {there}. "
        f"Looked for the types Video and List(Image){hint}"
    )


def _described(feature: Any) -> str:
    item = _item(feature)
    if item is not None:
        return f"List({_described(item)})"
    kind = type(feature).__name__
    return str(feature.dtype) if kind == "Value" else kind
