"""Features of an episode's steps and their storage, from the features.json of a TFDS dataset.

steps: Dataset            The key "steps/observation/image_0" of a record holds all steps of that feature:
    action: Tensor (7,)       images, texts and encoded tensors as one bytes value per step,
    observation               other tensors as numbers, flattened: steps x shape.
        image_0: Image
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lara_tokenizer.data.columns import natural_key

_NUMBERS = frozenset(("bool", "bfloat16", *(f"float{n}" for n in (16, 32, 64))))
_NUMBERS |= {f"{sign}int{n}" for sign in ("", "u") for n in (8, 16, 32, 64)}
_TEXTS = ("string", "object", "str")
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Feature:
    """One leaf of the tree of features."""

    path: str  # name below `steps`, or below the episode
    key: str  # name in the record
    kind: str  # "image", "numbers" or "text"
    dtype: str
    shape: tuple[int, ...]  # shape of one step; of numbers, without unknown dimensions
    encoding: str = "none"  # of numbers "none", "bytes" or "zlib"; of images "jpeg", "png" or "none" (any)

    @property
    def is_camera(self) -> bool:
        """Whether it holds 8-bit colour images. Depth has one channel, or more bits."""
        in_colour = len(self.shape) == 3 and self.shape[2] == 3 and self.dtype == "uint8"
        return in_colour or (self.kind == "image" and self.shape[-1:] == (4,) and self.dtype == "uint8")

    @property
    def is_compressed(self) -> bool:
        """Whether its images are stored as JPEG or PNG; else they are stored as numbers."""
        return self.kind == "image"

    @property
    def in_bytes(self) -> bool:
        """Whether the record holds one bytes value per step."""
        return self.kind != "numbers" or self.encoding != "none"


@dataclass(frozen=True, slots=True)
class EpisodeFeatures:
    """Features of a step and of an episode, sorted by path."""

    steps: tuple[Feature, ...]
    episode: tuple[Feature, ...]
    skipped: tuple[str, ...] = ()  # paths of features of an unsupported kind

    def cameras(self) -> dict[str, Feature]:
        """The cameras of a step by name: the path without a leading "observation/"."""
        return {each.path.removeprefix("observation/"): each for each in self.steps if each.is_camera}


def read_features(path: Path) -> EpisodeFeatures:
    """Read a features.json of any TFDS version. Raises ValueError for other content, and for datasets without steps.

    >>> read_features(Path("demo/1.0.0/features.json")).cameras()  # doctest: +SKIP
    {'image_0': Feature(path='observation/image_0', key='steps/observation/image_0', kind='image', ...)}
    """
    try:
        root = json.loads(path.read_text(encoding="utf-8"))
        _, _, content = _open(root)
        top = _children(content)
        steps = next((name for name in ("steps", *top) if _is_steps(top.get(name))), None)
        if steps is None:
            raise ValueError(
                f"no 'steps' among {', '.join(top) or 'its features'}: episodes are read, not single examples"
            )
        inside = _open(top.pop(steps))[2]["feature"]
        step_leaves = list(_leaves(inside, "", f"{steps}/"))
        episode_leaves = [leaf for name, node in top.items() for leaf in _leaves(node, name, "")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not the features of an RLDS dataset ({error!r})") from error
    return EpisodeFeatures(
        _sorted(step_leaves),
        _sorted(episode_leaves),
        tuple(leaf for leaf in (*step_leaves, *episode_leaves) if isinstance(leaf, str)),
    )


def _open(node: Json) -> tuple[str, str, Json]:
    """Class of a node (the last part of its name), the name of its content field, and the content.

    Current files hold {"pythonClassName", "tensor" | "image" | ...: content}, older ones {"type", "content"}.
    """
    if "type" in node:
        name, field, content = node["type"], "", node["content"]
    else:
        name = node.get("pythonClassName", "")
        field = next((key for key in node if key not in ("pythonClassName", "description", "valueRange")), "")
        content = node.get(field, {})
    if isinstance(content, dict) and "json" in content:
        content = content["json"]
    return name.rpartition(".")[2], field, json.loads(content) if isinstance(content, str) else content


def _children(content: Json) -> dict[str, Json]:
    return content.get("features", content)


def _is_steps(node: Json | None) -> bool:
    return node is not None and "feature" in _open(node)[2] and _open(node)[0] in ("Dataset", "Sequence")


def _leaves(node: Json, path: str, prefix: str) -> Iterator[Feature | str]:
    """All leaves below a node; of an unsupported one only its path."""
    name, field, content = _open(node)
    if name == "FeaturesDict" or field == "featuresDict":
        for child, inner in _children(content).items():
            yield from _leaves(inner, f"{path}/{child}".lstrip("/"), prefix)
        return
    shape, dtype = _shape(content), content.get("dtype", "")
    encoding = content.get("encoding") or "none"
    key = prefix + path
    if name in ("Image", "LabeledImage") or field == "image":
        form = content.get("encodingFormat") or content.get("encoding_format") or "none"
        yield Feature(path, key, "image", dtype or "uint8", shape or (-1, -1, 3), form)
    elif name == "Text" or (field in ("tensor", "") and dtype in _TEXTS and shape == ()):
        yield Feature(path, key, "text", "string", ())
    elif name == "ClassLabel" or field == "classLabel":
        yield Feature(path, key, "numbers", "int64", ())
    elif "shape" in content and dtype in _NUMBERS and -1 not in shape and encoding in ("none", "bytes", "zlib"):
        yield Feature(path, key, "numbers", dtype, shape, encoding)
    else:
        yield path


def _shape(content: Json) -> tuple[int, ...]:
    """Shape from {"dimensions": ["7", "-1"]}, or [7, None] in older files; -1 is an unknown dimension."""
    shape = content.get("shape") or ()
    dimensions = shape.get("dimensions", ()) if isinstance(shape, dict) else shape
    return tuple(-1 if each is None else int(each) for each in dimensions)


def _sorted(leaves: list[Feature | str]) -> tuple[Feature, ...]:
    features = [leaf for leaf in leaves if isinstance(leaf, Feature)]
    return tuple(sorted(features, key=lambda feature: natural_key(feature.path)))
