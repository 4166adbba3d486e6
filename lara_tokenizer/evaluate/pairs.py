"""Pairs of frames in memory, and what a model makes of them.

Shape suffixes, here and in the whole package: F frames, P pairs, S side of a frame in pixels, A action numbers,
N latent tokens, D numbers of each, K codes, E episodes, R bootstrap resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True, slots=True)
class PairSet:
    """Pairs of one camera.

    Fields:
        frames: uint8 (F, 3, S, S), each frame once.
        now, future: int (P,), the rows of a pair's two frames.
        actions: float64 (P, A), the sum of what was done between the two frames; None where there are none.
        episodes: int (P,), the number of each pair's episode.
        masks: bool (F, S, S), true on the arm; None where the source has none.
    """

    frames: np.ndarray
    now: np.ndarray
    future: np.ndarray
    actions: np.ndarray | None
    episodes: np.ndarray
    masks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.now)


@dataclass(frozen=True, slots=True)
class NuisancePairs:
    """The pairs of a PairSet as seen under a nuisance, and how much its parameters change within each pair.

    `changes` is float64 (P, 2) for each family, in standard deviations of the parameter.
    """

    pairs: PairSet
    changes: dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class EncodedSet:
    """On the CPU: z (P, N, D), codes (P, N) or None for a continuous bottleneck, and quantized z (P, N, D)."""

    latents: torch.Tensor
    codes: torch.Tensor | None
    quantized_latents: torch.Tensor
