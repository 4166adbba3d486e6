"""A model as `encode_unit` calls it: features of frames, latents and codes of pairs; and the frames of an episode.

Shape suffixes: B batch, P tokens of a frame, V width of the vision encoder, N latent tokens, D codebook dimension,
S side of the model's frames.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from lara_tokenizer.checkpoint.settings import check_dtype
from lara_tokenizer.data import Episode, Signals

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionPreTrainedModel, LatentActionProcessor

# Full-size frames decoded per call, in bytes: small enough to stay near the cache, large enough to amortise calls.
_CHUNK_BYTES = 8 * 2**20
# The size of a frame is unknown before the first call.
_FIRST_CHUNK = 4


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that is kept until the last of its pairs is done."""

    pixels_3SS: Tensor
    """uint8."""
    features: Tensor
    """(P, V)."""
    cells: Tensor
    """Of `camera_motion.image_cells`."""


@dataclass(frozen=True, slots=True)
class EncodedPairs:
    """The model's output for B pairs."""

    latents: np.ndarray
    """float16 (B, N*D)."""
    codes: np.ndarray | None
    """int16 (B, N); None for a continuous bottleneck."""
    margin: np.ndarray | None
    """float32 (B,); None for a continuous bottleneck."""


class UnitFrames(Protocol):
    """The pixels of a unit's episode and camera."""

    timestamps: np.ndarray  # float64 (n,), seconds, of all frames
    signals: Signals  # of all frames; empty unless the options need them

    def read(self, indices: np.ndarray) -> Iterator[Tensor]:
        """The requested frames, in order, resized by the processor: chunks of uint8 (any number, 3, S, S)."""


class EpisodeFrames:
    """`UnitFrames` of an episode in this process, with the seconds spent on reading and resizing them.

    Raises EpisodeReadError if the episode has not as many signals as frames.
    """

    def __init__(
        self,
        episode: Episode,
        camera: str,
        processor: LatentActionProcessor,
        *,
        with_signals: bool = False,
        on_chunk: Callable[[int], object] | None = None,
    ) -> None:
        self.timestamps = episode.timestamps(camera)
        self.signals = episode.signals() if with_signals else Signals()
        self.signals.check_length(len(self.timestamps), episode.id)
        self.decode_seconds = 0.0
        self._episode = episode
        self._camera = camera
        self._processor = processor
        self._on_chunk = on_chunk

    def read(self, indices: np.ndarray) -> Iterator[Tensor]:
        """As in `UnitFrames`; `on_chunk` is called with the length of each chunk."""
        start, count = 0, _FIRST_CHUNK
        while start < len(indices):
            began = time.perf_counter()
            frames = self._episode.frames(self._camera, indices[start : start + count])
            resized = self._processor.resize_frames(frames)
            self.decode_seconds += time.perf_counter() - began
            if self._on_chunk is not None:
                self._on_chunk(len(resized))
            yield resized
            start += len(frames)
            count = max(1, _CHUNK_BYTES // frames[0].nbytes)


class Runner(Protocol):
    """The interface of a model for `encode_unit`; `ModelRunner` is the plain implementation."""

    def frame_features(self, frames_B3SS: Tensor) -> Tensor:
        """uint8 (B, 3, S, S) -> (B, P, V)."""

    def future_features(self, now: Sequence[Frame], future: Sequence[Frame]) -> list[Tensor]:
        """Features of the future frames of B pairs, each (P, V), as the model expects them beside the current ones."""

    def encode(self, features: Sequence[Tensor], future_features: Sequence[Tensor]) -> EncodedPairs:
        """Features of B pairs, each (P, V), to latents, codes and margins."""


class ModelRunner:
    """A model in eval mode with its processor's normalisation, on the model's device and without gradients.

    Raises ValueError for a dtype in which the model's codes would differ.
    """

    def __init__(self, model: LatentActionPreTrainedModel, processor: LatentActionProcessor) -> None:
        assert not model.training, "in training mode rows would depend on their batch"
        check_dtype(model.config.model_type, dtype_name(model.dtype))
        self.model = model
        self.processor = processor

    @torch.inference_mode()
    def frame_features(self, frames_B3SS: Tensor) -> Tensor:
        """uint8 (B, 3, S, S) -> (B, P, V)."""
        pixel_values = self.processor.normalize_frames(frames_B3SS.to(self.model.device))
        return self.model.get_frame_features(pixel_values.to(self.model.dtype))

    @torch.inference_mode()
    def future_features(self, now: Sequence[Frame], future: Sequence[Frame]) -> list[Tensor]:
        """The features that the frames have; new ones for pairs whose global motion the processor compensates."""
        features = [frame.features for frame in future]
        if not self.processor.steady_pairs:
            return features
        before, after = (torch.stack([frame.pixels_3SS for frame in frames]) for frames in (now, future))
        stabilized = self.processor.steady_future(before, after)
        changed = (stabilized != after).flatten(1).any(1).nonzero().flatten().tolist()
        # The same batch ladder as elsewhere, so that features do not depend on how many pairs of a batch are changed.
        batches = stabilized[changed].split(batch_sizes(len(changed), len(after)))
        new = (feature for batch in batches for feature in self.frame_features(batch))
        for row, feature in zip(changed, new, strict=True):
            features[row] = feature
        return features

    @torch.inference_mode()
    def encode(self, features: Sequence[Tensor], future_features: Sequence[Tensor]) -> EncodedPairs:
        """Features of B pairs, each (P, V), to latents, codes and margins.

        Raises ValueError if a latent is not finite: its nearest code would be 0, and look valid.
        """
        out = self.model.encode(
            frame_features=torch.stack(list(features)), future_frame_features=torch.stack(list(future_features))
        )
        assert out.latents is not None
        if not out.latents.isfinite().all():
            raise ValueError(_not_finite(self.model.dtype))
        latents = out.latents.flatten(1).to("cpu", torch.float16).numpy()
        if out.codes is None or out.code_margin is None:
            return EncodedPairs(latents, None, None)
        # The mean in float32, also where the model runs in 16 bits.
        margin = out.code_margin.float().mean(1).cpu().numpy()
        return EncodedPairs(latents, out.codes.to("cpu", torch.int16).numpy(), margin)


def _not_finite(dtype: torch.dtype) -> str:
    hint = "The weights are damaged, or of another model." if dtype == torch.float32 else "Use dtype float32."
    return f"latents are not finite in {dtype_name(dtype)}: there is no code for them. {hint}"


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype, "float32"."""
    return str(dtype).removeprefix("torch.")


def batch_sizes(count: int, largest: int) -> list[int]:
    """Sizes of the batches that `count` items are cut into: full ones, then the remainder on a ladder of halves.

    A kernel may round differently at another batch size, so all jobs use the same few sizes.

    >>> batch_sizes(100, 64)
    [64, 32, 4]
    """
    sizes = []
    while count:
        while largest > count:
            largest //= 2
        sizes.append(largest)
        count -= largest
    return sizes


@contextmanager
def in_eval_mode(model: LatentActionPreTrainedModel) -> Iterator[None]:
    """Put a model into eval mode for the block; each module then returns to the mode that it was in."""
    # Per module: a frozen part may be in eval mode while the rest trains.
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
