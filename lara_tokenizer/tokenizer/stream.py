"""`LatentActionStream`: latent actions of the frames of a camera, as they come.

Shape suffixes: S side of the model's frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lara_tokenizer.data import Stride
from lara_tokenizer.encode.camera_motion import image_cells
from lara_tokenizer.encode.model_runner import Frame, ModelRunner
from lara_tokenizer.tokenizer.latent_actions import LatentActions
from lara_tokenizer.tokenizer.online_pairs import OnlinePairs

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionPreTrainedModel, LatentActionProcessor
    from lara_tokenizer.model.image_processing_latent_action import Frames


class LatentActionStream:
    """Latent actions of frames as they come, the same that `encode` gives a file of these frames.

    Each frame passes the vision encoder once, and is dropped after its last pair: memory is bounded by the frames
    within one stride. A pair is known when the first frame at or after its target is there.

    >>> stream = tokenizer.stream(stride="0.5s")  # doctest: +SKIP
    >>> for frame, seconds in camera:  # doctest: +SKIP
    ...     for codes in stream.push(frame, seconds).codes:
    ...         print(codes)
    """

    def __init__(self, model: LatentActionPreTrainedModel, processor: LatentActionProcessor, stride: str) -> None:
        self._runner = ModelRunner(model, processor)
        self._stride = Stride.parse(stride)
        self._sizes = model.config
        self._begin()

    def push(self, frame: Frames, timestamp: float | None = None) -> LatentActions:
        """Take the next frame, and return the pairs that it decides: mostly one, none at the start.

        Args:
            frame: one frame in a form that the processor takes.
            timestamp: seconds, on any clock that does not go back; may be left out for a stride in frames.

        Raises:
            ValueError: the time is missing, or not after the last frame's; then the frame does not count. Or the stride
                cannot be met at the rate of the frames.
        """
        if timestamp is None and self._stride.unit == "s":
            raise ValueError(
                f"stride {self._stride.text!r} needs the time of each frame: push(frame, timestamp), in seconds. "
                "A stride in frames, such as '5f', does not."
            )
        pixels_13SS = self._runner.processor.resize_frames(frame)
        if len(pixels_13SS) != 1:
            raise ValueError(f"push takes one frame at a time; these are {len(pixels_13SS)}.")
        index, time = self._pairs.count, np.nan if timestamp is None else float(timestamp)
        pairs = self._pairs.push(time)
        features = self._runner.frame_features(pixels_13SS)[0]
        self._frames[index] = Frame(pixels_13SS[0], features, image_cells(pixels_13SS)[0])
        self._times[index] = time
        return self._encoded(pairs)

    def finish(self) -> LatentActions:
        """End the episode: the pairs whose target is about the time of the last frame. The next frame begins another.

        Raises ValueError for a stride that cannot be met at the rate of the frames.
        """
        try:
            return self._encoded(self._pairs.finish())
        finally:
            self._begin()

    def _begin(self) -> None:
        self._pairs = OnlinePairs(self._stride)
        self._frames: dict[int, Frame] = {}
        self._times: dict[int, float] = {}

    def _encoded(self, pairs: list[tuple[int, int]]) -> LatentActions:
        """The latent actions of pairs; frames without further pairs are dropped."""
        anchors, futures = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
        count, dim = self._sizes.num_latents, self._sizes.codebook_dim
        has_codes = self._sizes.codebook_size is not None
        codes, margin = np.empty((0, count), np.int64), np.empty(0, np.float32)
        latents = np.empty((0, count * dim), np.float16)
        if pairs:
            now, future = ([self._frames[index] for index in side.tolist()] for side in (anchors, futures))
            encoded = self._runner.encode([frame.features for frame in now], self._runner.future_features(now, future))
            latents = encoded.latents
            if encoded.codes is not None and encoded.margin is not None:
                codes, margin = encoded.codes.astype(np.int64), encoded.margin
        timestamp, future_timestamp = (
            np.array([self._times[index] for index in side.tolist()]) for side in (anchors, futures)
        )
        actions = LatentActions(
            anchors,
            futures,
            timestamp,
            future_timestamp,
            codes=codes if has_codes else None,
            latents=latents.reshape(len(pairs), count, dim),
            code_margin=margin if has_codes else None,
        )
        # The last frame waits, and may become the later frame of one before it.
        for index in [index for index in self._frames if not self._pairs.waiting or index < self._pairs.waiting[0]]:
            del self._frames[index], self._times[index]
        return actions
