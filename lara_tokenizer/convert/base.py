"""Types that all converters share: what a model family implements, and the summary that a conversion returns."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lara_tokenizer.convert.state_dict import StateDictFile
from lara_tokenizer.model import LatentActionPreTrainedModel, LatentActionProcessor


@dataclass(slots=True)
class ConvertedModel:
    """A model in this package's format, before it is saved.

    Attributes:
        layout: the kind of the source, as in the summary ("lapa", "adaworld", ...).
        model: in float32.
        processor: resize, crop and normalisation of the frames that the model was trained on.
        tensors: number of the file's tensors that were converted, without the vision encoder.
        vision_encoder: folder, Hub id or file of the vision encoder; "" for a family without one.
        sizes: the model's main sizes by their config names.
        notes: sentences on assumptions about what the file does not record.
    """

    layout: str
    model: LatentActionPreTrainedModel
    processor: LatentActionProcessor
    tensors: int
    vision_encoder: str = ""
    sizes: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ConversionOptions:
    """User options for what a file does not record.

    Attributes:
        vision_encoder: transformers folder or Hub id of the frozen encoder.
        image_size: side of the square frames in pixels.
    """

    vision_encoder: str | Path | None = None
    image_size: int | None = None

    def refuse(self, file: Path, name: str, reason: str) -> None:
        """Raise ValueError if option `name` is set, for a family that does not take it."""
        if getattr(self, name) is not None:
            raise ValueError(f"{file}: {reason}. Leave the {name.replace('_', ' ')} out.")


@dataclass(frozen=True, slots=True)
class Family:
    """Converter of one family of models that is published as a single file of weights.

    Attributes:
        example: name of the family and its file, for error messages.
        recognises: whether a state dict with these tensor names belongs to the family.
        convert: builds the model. Raises ValueError, naming tensors.
    """

    example: str
    recognises: Callable[[Collection[str]], bool]
    convert: Callable[[StateDictFile, ConversionOptions], ConvertedModel]


@dataclass(slots=True)
class ConversionSummary:
    """Result of a conversion.

    Attributes:
        source: as given.
        out: as given.
        layout: kind of `source`: "moto", "lara-stage1", "lara-policy", "openpi", "lapa", "adaworld", "dreamdojo",
            "univla" or "lara-tokenizer".
        target: kind of `out`: "lara-tokenizer" or "moto".
        tensors: number of converted tensors, without the vision encoder.
        parameters: number of their elements.
        vision_encoder: folder or Hub id it was loaded from, or the folder it was written to.
        sizes: the model's main sizes by their config names.
        notes: sentences on assumptions, and on what the target's layout cannot represent.
    """

    source: str
    out: str
    layout: str
    target: str
    tensors: int
    parameters: int
    vision_encoder: str
    sizes: dict[str, int]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON-serializable values."""
        return asdict(self)


def refuse_villa_x(names: Collection[str], file: Path) -> None:
    """Raise ValueError if tensor names are those of villa-X's model (github microsoft/villa-X, lam/).

    It pools learned tokens over a window of frames with time embeddings of its own, so there is no converter.
    """
    if "encoder.pe_temporal" in names and any(name.startswith("encoder.map_block.") for name in names):
        raise ValueError(
            f"{file} is villa-X's latent action model: its codes depend on 8-frame windows; frame pairs cannot "
            "reproduce them: not supported. Label with villa-X's own code, or with another model."
        )
