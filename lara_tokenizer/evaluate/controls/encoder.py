"""Controls from a vision encoder: the change of its features between frame t and frame t+C.

Shape suffixes: P pairs, B pairs of a batch, S side of a frame in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lara_tokenizer.evaluate.dataset import PairSet
from lara_tokenizer.evaluate.encoding import EncodedSet, batches, few_tokens
from lara_tokenizer.evaluate.ridge import Wide

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionProcessor

COMPONENTS = 128  # of the PCA of the change of features
SIDE = 224  # of the frames of an encoder whose configuration names none


def encoder_change(encoded: EncodedSet) -> Wide:
    """The row of the tokenizer's own vision encoder, from pairs encoded with `feature_change`."""
    assert encoded.feature_change is not None
    return Wide.of(encoded.feature_change.numpy(), COMPONENTS)


@dataclass(frozen=True, slots=True)
class ControlEncoder:
    """Any vision model of transformers as a control, at the image size of its processor or else its configuration."""

    name: str  # without the path of a folder, which reports do not hold
    model: Any
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def load(cls, name: str, device: torch.device) -> ControlEncoder:
        """Open a folder or a Hub id. Raises ValueError for a model that is none of vision, or cannot be loaded."""
        from lara_tokenizer.vision_encoder import load_vision_encoder

        encoder = load_vision_encoder(name, "control encoder")
        prepared = encoder.prepared
        side = prepared.get("crop_size") or prepared.get("size") or getattr(encoder.config, "image_size", SIDE)
        model = encoder.model.to(device)
        return cls(Path(name).name if Path(name).is_dir() else name, model, _one_side(side), encoder.mean, encoder.std)

    @torch.no_grad()
    def change(self, processor: LatentActionProcessor, pairs: PairSet) -> Wide:
        """The change of its last tokens within each pair; frame t+C is stabilized as the tokenizer's is."""
        changes = []
        for rows in batches(len(pairs)):
            frames, future_frames = pairs.tensors(rows)
            now, future = map(self._tokens, (frames, processor.steady_future(frames, future_frames)))
            changes.append(few_tokens(future - now).cpu())
        return Wide.of(torch.cat(changes).numpy(), COMPONENTS)

    def _tokens(self, frames_B3SS: Tensor) -> Tensor:
        frames = F.interpolate(
            frames_B3SS.to(self.model.device).float(), size=(self.side,) * 2, mode="bicubic", align_corners=False
        )
        mean, std = (torch.tensor(each, device=frames.device).view(3, 1, 1) for each in (self.mean, self.std))
        features = self.model(pixel_values=(frames.clamp(0, 255) / 255 - mean) / std).last_hidden_state
        # A convolutional network's maps (B, V, H, W) become tokens.
        return features.flatten(2).transpose(1, 2) if features.ndim == 4 else features


def _one_side(size: Any) -> int:
    """The side of square frames from a size as configurations write it.

    >>> _one_side(224), _one_side({"height": 96, "width": 96}), _one_side({"shortest_edge": 256}), _one_side([64, 64])
    (224, 96, 256, 64)
    """
    if isinstance(size, Mapping):
        return int(next(iter(size.values())))
    return int(size[0]) if isinstance(size, Sequence) else int(size)
