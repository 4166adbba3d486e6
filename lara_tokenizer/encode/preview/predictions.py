"""Predicted futures of a table's pairs: decoded from frame t and the codes, with their gain over copying.

Shape suffixes: B pairs, S side of a frame in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lara_tokenizer.encode.job import EncodeJob

_BATCH = 16  # pairs whose frames are in memory at full size


@dataclass(frozen=True, slots=True)
class Prediction:
    """One pair as the model sees it.

    Attributes:
        now, future, predicted: uint8 (S, S, 3): frame t, the true future frame, and the decoded one.
        error, copy_error: mean squared error of the decoded frame, and of frame t shown again, pixels in 0..1.
    """

    now: np.ndarray
    future: np.ndarray
    predicted: np.ndarray
    error: float
    copy_error: float


def gain_over_copying(predictions: Sequence[Prediction]) -> float | None:
    """1 - error / error of copying, errors pooled before dividing, as in the report; None where nothing changes."""
    copied = sum(each.copy_error for each in predictions)
    return 1 - sum(each.error for each in predictions) / copied if copied else None


def predict(job: EncodeJob, rows: Sequence[Mapping[str, Any]]) -> Iterator[Prediction]:
    """The predictions of rows of one episode and camera.

    Raises ValueError for an episode that the source does not have.
    """
    from lara_tokenizer.model import LatentActionProcessor, load_model

    name, camera = rows[0]["episode"], rows[0]["camera"]
    if name not in job.episodes:
        raise ValueError(f"episode {name!r} is not in the source")
    model = load_model(job.checkpoint.folder).eval().to(job.device)
    processor = LatentActionProcessor.from_pretrained(job.checkpoint.folder)
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        columns = ([row[column] for row in batch] for column in ("frame_index", "future_frame_index"))
        now, future = (processor.resize_frames(job.episodes[name].frames(camera, frames)) for frames in columns)
        # The decoder predicts the stabilized future frame, so that is the one to compare with.
        future = processor.steady_future(now, future)
        yield from predict_pairs(model, processor, now, future, [row["codes"] for row in batch])


def predict_pairs(
    model: Any, processor: Any, now: Any, future: Any, codes: Sequence[Sequence[int]]
) -> Iterator[Prediction]:
    """The predictions from uint8 frames t (B, 3, S, S), with the true future frames beside them."""
    import torch

    with torch.inference_mode():
        decoded = model.decode(
            processor.normalize_frames(now).to(model.device), codes=torch.tensor(codes, device=model.device)
        )
    decoded = decoded.float().cpu()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    target = future.float() / 255
    errors = ((decoded * std + mean) - target).square().flatten(1).mean(1)
    copy_errors = (now.float() / 255 - target).square().flatten(1).mean(1)
    return map(
        Prediction,
        now.permute(0, 2, 3, 1).numpy(),
        future.permute(0, 2, 3, 1).numpy(),
        processor.postprocess(decoded),
        errors.tolist(),
        copy_errors.tolist(),
    )
