"""Synthetic episodes of one red square that moves by its actions, and hand-made models of it.

Each model is healthy or has exactly one known fault.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import torch

CAMERA = "observation.images.top"
SIZE, SQUARE, MARK = 32, 6, 4
GREY = 100
EPISODES, LENGTH = 12, 20
REACH = 8  # pixels: the farthest move of the square within a pair


def square_episode(seed: int, *, handheld: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (T, 32, 32, 3), and actions (T, 3): the move of the square until the next frame, (x, y), and a zero.

    A hand-held camera records it three times as large, and moves by up to one of those pixels.
    """
    rng = np.random.default_rng(seed)
    actions = rng.integers(-2, 3, (LENGTH, 2))
    position, frames = np.array([13, 13]), []
    for t in range(LENGTH):
        frame = np.full((SIZE, SIZE, 3), GREY, np.uint8)
        frame[2 : 2 + MARK, 2 : 2 + MARK] = (40, 200, 40)
        x, y = position
        frame[y : y + SQUARE, x : x + SQUARE] = (220, 60, 60)
        if handheld:
            frame = np.roll(frame.repeat(3, 0).repeat(3, 1), rng.integers(-1, 2, 2), (0, 1))
        frames.append(frame)
        actions[t] = (position + actions[t]).clip(7, 24) - position
        position = position + actions[t]
    return np.stack(frames), np.concatenate([actions, np.zeros((LENGTH, 1), int)], 1).astype(np.float32)


def _redness(frames: torch.Tensor) -> torch.Tensor:
    red, green, blue = frames.unbind(1)
    return (red - torch.maximum(green, blue)).clamp(min=0)


def _greenness(frames: torch.Tensor) -> torch.Tensor:
    red, green, blue = frames.unbind(1)
    return (green - torch.maximum(red, blue)).clamp(min=0)


def _centre(weights: torch.Tensor) -> torch.Tensor:
    """(B, 2): x and y of the centre of weight, in pixels."""
    total = weights.sum((1, 2)).clamp(min=1e-6)
    positions = torch.arange(weights.shape[-1], dtype=weights.dtype)
    return torch.stack([(weights.sum(1) * positions).sum(1) / total, (weights.sum(2) * positions).sum(1) / total], 1)


class SquareModel:
    """z (B, 2, 1) is the move of the square against the green mark, in pixels; codes round it, the decoder applies it.

    Built from its configuration alone it is untrained: random projections of pixels, and a grey future.
    """

    def __init__(self, config: SimpleNamespace) -> None:
        self.config = config
        self.device = torch.device("cpu")
        self.learned = False
        self.weights = torch.randn(3 * SIZE * SIZE, 4)

    @classmethod
    def trained(cls) -> SquareModel:
        model = cls(SimpleNamespace(strides=["0.2s"], codebook_size=2 * REACH + 1))
        model.learned = True
        return model

    def eval(self) -> SquareModel:
        return self

    def to(self, device: torch.device) -> SquareModel:
        return self

    def get_frame_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        # The pixels themselves: what finds the square is in `encode`, so that no frozen encoder has the answer.
        return pixel_values.flatten(1) if self.learned else pixel_values.flatten(1) @ self.weights / SIZE

    def locate(self, frames: torch.Tensor) -> torch.Tensor:
        """(B, 4): the centres of the square and of the mark."""
        return torch.cat([_centre(_redness(frames)), _centre(_greenness(frames))], 1)

    def encode(self, *, frame_features: torch.Tensor, future_frame_features: torch.Tensor) -> SimpleNamespace:
        if self.learned:
            now, future = (each.view(-1, 3, SIZE, SIZE) for each in (frame_features, future_frame_features))
            latents = self.measure(self.locate(future) - self.locate(now))
        else:
            latents = (future_frame_features - frame_features)[:, :2]
        codes = latents.round().clamp(-REACH, REACH)
        return self.output(latents[..., None], codes)

    def measure(self, moved: torch.Tensor) -> torch.Tensor:
        return moved[:, :2] - moved[:, 2:]

    def output(self, latents: torch.Tensor, codes: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(latents=latents, codes=(codes + REACH).long(), quantized_latents=codes[..., None])

    def decode(self, pixel_values: torch.Tensor, *, quantized_latents: torch.Tensor) -> torch.Tensor:
        if not self.learned:
            return torch.full_like(pixel_values, GREY / 255)
        return torch.stack([self.move(frame, z) for frame, z in zip(pixel_values, quantized_latents, strict=True)])

    def move(self, frame: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
        square = _redness(frame[None])[0] > 0.2
        grey = torch.where(square, torch.full_like(frame, GREY / 255), frame)
        x, y = (int(pixels) for pixels in moved.flatten()[:2])
        return torch.where(square.roll((y, x), (0, 1)), frame.roll((y, x), (1, 2)), grey)


class CollapsedCodebook(SquareModel):
    """z is right, every code is the same."""

    def output(self, latents, codes):
        return super().output(latents, torch.zeros_like(codes))


class ConstantZ(SquareModel):
    """z hardly varies."""

    def measure(self, moved):
        return 3 + 0.01 * super().measure(moved)


class IgnoresZ(SquareModel):
    """z and codes are right, the decoder copies frame t."""

    def move(self, frame, moved):
        return frame


class CameraModel(SquareModel):
    """z is the move of the whole image, measured at the mark, in twelfths of a pixel; the decoder moves all of it."""

    def measure(self, moved):
        return 12 * moved[:, 2:]

    def move(self, frame, moved):
        for axis, pixels in ((2, float(moved[0]) / 12), (1, float(moved[1]) / 12)):
            whole = math.floor(pixels)
            share = pixels - whole
            frame = (1 - share) * frame.roll(whole, axis) + share * frame.roll(whole + 1, axis)
        return frame


class FrameModel(SquareModel):
    """z is where the square is in frame t, whatever it does next."""

    def encode(self, *, frame_features, future_frame_features):
        if not self.learned:
            return super().encode(frame_features=frame_features, future_frame_features=future_frame_features)
        latents = self.locate(frame_features.view(-1, 3, SIZE, SIZE))[:, :2] - SIZE / 2
        return self.output(latents[..., None], latents.round().clamp(-REACH, REACH))


class ShuffledModel(SquareModel):
    """z is the move of another pair of the batch."""

    def measure(self, moved):
        return super().measure(moved).roll(len(moved) // 2 + 1, 0)
