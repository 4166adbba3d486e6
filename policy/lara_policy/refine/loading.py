"""`LoadedBatch`: work on a batch that loader processes take from the training process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lara_policy.context import shift_samples
from lara_tokenizer.model import LatentActionProcessor


@dataclass(frozen=True, slots=True)
class LoadedBatch:
    """`prepare` of a `PolicyDataset`: adds the step's unlabeled pairs, then shifts and stabilizes.

    With `processor` the frames are shifted, which takes "shift" out of the batch, and the later frames of all pairs are
    stabilized, which the entry "steady" says: the model does neither again.

    Args:
        batch_size: samples of a batch; its first index tells which batch it is.
        shift: the largest random shift, in pixels.
        processor: the tokenizer's; None leaves shift and motion compensation to the model, on its device.
        unlabeled: makes the unlabeled pairs of batch k.
    """

    batch_size: int
    shift: int
    processor: LatentActionProcessor | None
    unlabeled: Callable[[int], dict[str, Any]] | None

    def __call__(self, batch: dict[str, Any], indices: np.ndarray) -> dict[str, Any]:
        if self.unlabeled is not None:
            # A batch of its own for every step and process: a loader's indices are consecutive.
            batch = {**batch, **self.unlabeled(int(indices[0]) // self.batch_size)}
        if self.processor is None:
            return batch
        shift = batch.pop("shift")
        if self.shift:
            moved = ("images", "pair")
            batch |= {name: shift_samples(batch[name], shift, self.shift) for name in moved if name in batch}
        batch |= {name: self._steady(batch[name]) for name in ("pair", "unlabeled") if name in batch}
        return {**batch, "steady": True}

    def _steady(self, pairs: Tensor) -> Tensor:
        """uint8 (B, 2, 3, S, S), the later frames as the tokenizer sees them."""
        assert self.processor is not None
        now, future = pairs.unbind(1)
        return torch.stack([now, self.processor.steady_future(now, future)], 1)
