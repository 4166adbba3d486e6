"""Features of an episode's steps, their storage, and which of them are actions, states and text.

They are listed in the features.json of a TFDS dataset:

steps: Dataset            The key "steps/observation/image_0" of a record holds all steps of that feature:
    action: Tensor (7,)       images, texts and encoded tensors as one bytes value per step,
    observation               other tensors as numbers, flattened: steps x shape.
        image_0: Image
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from lara_tokenizer._parse import load_json, read_json
from lara_tokenizer.data.episode import ACTIONS, NO_NAMES, SignalNames, natural_key
from lara_tokenizer.data.rlds.open_x import OpenXSet
from lara_tokenizer.errors import first_line

_NUMBERS = frozenset(("bool", "bfloat16", *(f"float{n}" for n in (16, 32, 64))))
_NUMBERS |= {f"{sign}int{n}" for sign in ("", "u") for n in (8, 16, 32, 64)}
_TEXT_DTYPES = ("string", "object", "str")
Json = dict[str, Any]

# Usual names of states and instructions, most specific first; a step's actions are called as elsewhere (`ACTIONS`).
_STATE_NAMES = (
    *(f"observation/{name}" for name in ("state", "proprio", "robot_state", "eef_state", "EEF_state", "ee_state")),
    *(f"observation/{name}" for name in ("cartesian_position", "joint_state", "joint_states", "joint_position")),
    "state",
)
_TEXT_NAMES = ("language_instruction", "natural_language_instruction", "instruction", "language_annotation", "task")
_SLICE = re.compile(r"(.+?)(?:\[(\d+):(\d+)\])?")


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
        if 0 in self.shape:
            return False
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
        root = read_json(path)
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
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path}: not the features of an RLDS dataset ({_shown(error)})") from error
    return EpisodeFeatures(
        _sorted(step_leaves),
        _sorted(episode_leaves),
        tuple(leaf for leaf in (*step_leaves, *episode_leaves) if isinstance(leaf, str)),
    )


def _shown(error: Exception) -> str:
    return first_line(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"


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
    return name.rpartition(".")[2], field, load_json(content, name) if isinstance(content, str) else content


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
    is_fixed = "shape" in content and all(size >= 0 for size in shape)
    encoding = content.get("encoding") or "none"
    key = prefix + path
    if name in ("Image", "LabeledImage") or field == "image":
        form = content.get("encodingFormat") or content.get("encoding_format") or "none"
        yield Feature(path, key, "image", dtype or "uint8", shape or (-1, -1, 3), form)
    elif name == "Text" or (field in ("tensor", "") and dtype in _TEXT_DTYPES and shape == ()):
        yield Feature(path, key, "text", "string", ())
    elif name == "ClassLabel" or field == "classLabel":
        yield Feature(path, key, "numbers", "int64", ())
    elif is_fixed and dtype in _NUMBERS and encoding in ("none", "bytes", "zlib"):
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


@dataclass(frozen=True, slots=True)
class FeatureSlice:
    """Numbers `start` to `stop - 1` of a step's feature, flattened."""

    feature: Feature
    start: int
    stop: int

    @classmethod
    def of(cls, feature: Feature, start: int = 0, stop: int | None = None) -> FeatureSlice:
        """All numbers of a feature from `start` on, or those up to `stop`.

        >>> FeatureSlice.of(Feature("action", "steps/action", "numbers", "float32", (15,)), 7).stop
        15
        """
        return cls(feature, start, prod(feature.shape) if stop is None else stop)


@dataclass(frozen=True, slots=True)
class RldsSignals:
    """Features that are concatenated to an action and to a state, and the feature of the text."""

    actions: tuple[FeatureSlice, ...] = ()
    states: tuple[FeatureSlice, ...] = ()
    text: Feature | None = None  # one text per step, or one of the whole episode
    notes: tuple[str, ...] = ()  # remarks for the user where several features were combined, or the table did not apply
    names: SignalNames = NO_NAMES

    @property
    def available(self) -> tuple[str, ...]:
        """Names of the signals, as in `Episode.available_signals`."""
        signals = {"actions": self.actions, "states": self.states, "text": self.text}
        return tuple(name for name, value in signals.items() if value)


def choose_signals(features: EpisodeFeatures, known: OpenXSet | None) -> RldsSignals:
    """Choose actions, states and text by the table of `known`, or else by name."""
    numbers = {each.path: each for each in features.steps if each.kind == "numbers" and not each.is_camera}
    notes: list[str] = []
    published = _from_table(numbers, known.action if known else (), notes)
    actions = published or _actions_by_name(numbers, notes)
    states = _from_table(numbers, known.state if known else (), notes)
    states = states or next(((FeatureSlice.of(numbers[name]),) for name in _STATE_NAMES if name in numbers), ())
    return RldsSignals(
        actions, states, _text(features), tuple(notes), _names(actions, states, known if published else None)
    )


def _names(actions: Sequence[FeatureSlice], states: Sequence[FeatureSlice], known: OpenXSet | None) -> SignalNames:
    """Names by the table, or else by the features that several numbers were combined of."""
    width = sum(each.stop - each.start for each in actions)
    if known is not None and width == len(known.layout):
        return SignalNames(known.layout, _feature_names(states), known.kinds_of_numbers)
    return SignalNames(_feature_names(actions), _feature_names(states))


def _feature_names(slices: Sequence[FeatureSlice]) -> tuple[str, ...]:
    """The feature and place of each number; none for a single feature of several numbers, whose name says nothing."""
    if len(slices) == 1 and slices[0].stop - slices[0].start > 1:
        return ()
    return tuple(
        f"{each.feature.path.rpartition('/')[2]}[{place}]" for each in slices for place in range(each.start, each.stop)
    )


def _from_table(numbers: Mapping[str, Feature], slices: Sequence[str], notes: list[str]) -> tuple[FeatureSlice, ...]:
    """The slices of the table if the dataset has all of them; another version of it may not."""
    parts = []
    for name in slices:
        path, start, stop = _SLICE.fullmatch(name).groups()  # type: ignore[union-attr]
        feature = numbers.get(path)
        if feature is None or int(stop or 0) > prod(feature.shape):
            notes.append(f"no {name!r} in it, which its published version has")
            return ()
        parts.append(FeatureSlice.of(feature, int(start or 0), int(stop) if stop else None))
    return tuple(parts)


def _actions_by_name(numbers: Mapping[str, Feature], notes: list[str]) -> tuple[FeatureSlice, ...]:
    for name in ACTIONS:
        if name in numbers:
            return (FeatureSlice.of(numbers[name]),)
        if inside := [path for path in sorted(numbers) if path.startswith(f"{name}/")]:
            notes.append(f"an action is {', '.join(inside)}, side by side")
            return tuple(FeatureSlice.of(numbers[path]) for path in inside)
    return ()


def _text(features: EpisodeFeatures) -> Feature | None:
    """The instruction: of each step, or of the episode. Some sets store it as an array of character codes."""
    candidates = {
        each.path: each
        for each in features.steps
        if each.kind == "text" or (len(each.shape) == 1 and "int" in each.dtype and each.kind == "numbers")
    }
    for name in _TEXT_NAMES:
        for path in (name, f"observation/{name}"):
            if path in candidates and (candidates[path].kind == "text" or name == "instruction"):
                return candidates[path]
    texts = [each for each in features.episode if each.kind == "text"]
    return next((each for name in _TEXT_NAMES for each in texts if each.path.rpartition("/")[2].endswith(name)), None)
