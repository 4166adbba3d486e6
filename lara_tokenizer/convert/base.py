"""What the converter of one family of latent action models offers to `convert_checkpoint`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from lara_tokenizer.convert.state_file import StateFile
from lara_tokenizer.model import LatentActionPreTrainedModel, LatentActionProcessor


@dataclass(slots=True)
class Converted:
    """
    Fields:
        layout: whose it was found to be, as the summary gives it ("lapa", "adaworld", ...).
        model, processor: whole, in float32, ready to be saved.
        tensors: how many of the file's the model took, without a vision encoder.
        vision_encoder: the folder, Hub id or file that it came from; "" for a family without one.
        sizes: the model's main sizes by their config names.
        notes: sentences on what was assumed, because the file does not say it.
    """

    layout: str
    model: LatentActionPreTrainedModel
    processor: LatentActionProcessor
    tensors: int
    vision_encoder: str = ""
    sizes: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Given:
    """What the user says beside the file.

    Fields:
        vision_encoder: transformers folder or Hub id of the frozen encoder.
        image_size: side of the square frames, in pixels, where the file does not say it.
    """

    vision_encoder: str | Path | None = None
    image_size: int | None = None

    def refuse(self, file: Path, name: str, reason: str) -> None:
        """Raise ValueError where `name` was given to a family that does not take it."""
        if getattr(self, name) is not None:
            raise ValueError(f"{file}: {reason}. Leave the {name.replace('_', ' ')} out.")


@dataclass(frozen=True, slots=True)
class Family:
    """
    Fields:
        example: names this family for people in the error that lists what is known.
        recognises: whether a state dict with these names is one of this family.
        convert: the file, and what was said beside it, to the model. Raises ValueError, naming tensors.
    """

    example: str
    recognises: Callable[[Collection[str]], bool]
    convert: Callable[[StateFile, Given], Converted]
