"""`LatentActionTokenizer`: a model and its processor as one object.

Shape suffixes: B batch, S side of the model's frames.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from lara_tokenizer.checkpoint import load_checkpoint
from lara_tokenizer.data import Signals, Stride, load_episodes
from lara_tokenizer.encode.encode import encode_episode, encode_unit
from lara_tokenizer.encode.model_runner import ModelRunner, check_dtype, dtype_name
from lara_tokenizer.encode.options import DTYPES, resolve_options
from lara_tokenizer.encode.plan import split_units
from lara_tokenizer.errors import first_line
from lara_tokenizer.tokenizer.latent_actions import LatentActions
from lara_tokenizer.tokenizer.stream import LatentActionStream

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionPreTrainedModel, LatentActionProcessor
    from lara_tokenizer.model.image_processing_latent_action import Frames


class LatentActionTokenizer:
    """A model and its processor as one object: frames, a video or a camera in, latent actions out.

    >>> tokenizer = LatentActionTokenizer.from_pretrained("lara-lam")  # doctest: +SKIP
    >>> tokenizer.encode_video("samples/hammer.mp4", stride="0.5s")  # doctest: +SKIP
    LatentActions(67 pairs: 8 codes and z (8, 32) each)

    Args:
        model, processor: of one checkpoint. The model is put into eval mode, and stays where and in the dtype it is.
    """

    def __init__(self, model: LatentActionPreTrainedModel, processor: LatentActionProcessor) -> None:
        if not hasattr(model, "get_frame_features") or not hasattr(processor, "resize_frames"):
            raise ValueError(
                "LatentActionTokenizer takes a model and its processor, in this order; these are a "
                f"{type(model).__name__} and a {type(processor).__name__}. from_pretrained loads both."
            )
        self.model = model.eval()
        self.processor = processor

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike[str] = "lara-lam", *, device: str = "cpu", dtype: str = "float32"
    ) -> LatentActionTokenizer:
        """Load "lara-lam" (bundled), a folder or a Hub id.

        Args:
            device: "cpu" or "cuda".
            dtype: "float32", "bfloat16" or "float16".

        Raises ValueError for a checkpoint that is incomplete or no latent action model, and for another dtype.
        """
        if dtype not in DTYPES:
            raise ValueError(f"dtype {dtype!r}: takes {', '.join(DTYPES)}.")
        model, processor = load_checkpoint(name)
        check_dtype(model.config.model_type, dtype)
        model.to(device=device, dtype=getattr(torch, dtype))  # type: ignore[call-arg]  # transformers' wrapper loses self
        return cls(model, processor)

    def __call__(
        self,
        frames: Frames | Sequence[Frames],
        stride: str | None = None,
        *,
        fps: float | None = None,
        timestamps: Sequence[float] | np.ndarray | None = None,
    ) -> LatentActions:
        """Encode the pairs of a clip, each frame with the one that is a stride later.

        Args:
            frames: of one clip, in a form that the processor takes.
            stride: "5f" or "0.5s"; default: the model's own where times are given, else "1f", each frame with the next.
            fps, timestamps: the rate of the frames, or the seconds of each; one of the two for a stride in seconds.

        Raises:
            ValueError: there is no pair, or the stride needs times, or cannot be met.
        """
        pixels_B3SS = self.processor.resize_frames(frames)
        times, timed = _times(len(pixels_B3SS), fps, timestamps), fps is not None or timestamps is not None
        if stride is None and not timed:
            stride = "1f"
        options = self._options(stride)
        if not timed and Stride.parse(options.strides[0]).unit == "s":
            raise ValueError(
                f"stride {stride!r} needs the times of the frames: give fps, or timestamps in seconds, or a stride in "
                "frames such as '5f'."
            )
        runner, clip = ModelRunner(self.model, self.processor), _Clip(times, pixels_B3SS, Signals())
        units = split_units("", "", np.arange(len(times)))
        rows = pa.concat_tables(encode_unit(unit, clip, runner, options) for unit in units)
        return self._actions(rows, options.strides[0], f"{len(times)} frames", timed=timed)

    def encode_video(
        self,
        path: str | os.PathLike[str],
        stride: str | None = None,
        *,
        camera: str | None = None,
        fps: float | None = None,
    ) -> LatentActions:
        """Encode a video, decoded as it is needed; `encode_dataset` labels many, and resumes.

        Args:
            path: a file, or any source that holds one episode.
            stride: "0.5s" or "5f"; default: the model's own.
            camera: of an episode that has several.
            fps: instead of the rate that the file states.

        Raises:
            ValueError: not one episode and camera; there is no pair, or the stride cannot be met.
            EpisodeReadError: the video cannot be read.
        """
        options = self._options(stride)
        episodes = load_episodes(os.fspath(path), fps=fps)
        if len(episodes) != 1:
            raise ValueError(f"{path} holds {len(episodes)} episodes: encode_video takes one, encode_dataset all.")
        episode, cameras = episodes[0], episodes[0].cameras
        if camera is None and len(cameras) == 1:
            camera = cameras[0]
        if camera not in cameras:
            given = "which camera" if camera is None else f"camera {camera!r}: not there"
            raise ValueError(f"{given}: {path} has {', '.join(cameras)}. Give camera=...")
        episode = replace(episode, cameras=(camera,))
        try:
            rows = encode_episode(episode, self.model, self.processor, strides=options.strides[0], columns="latents")
        finally:
            episode.close()
        return self._actions(rows, options.strides[0], str(path), timed=True)

    def stream(self, stride: str | None = None) -> LatentActionStream:
        """A stream for the frames of a camera: `push(frame, timestamp)` returns the latent actions that it decides.

        `stride` is "0.5s" or "5f"; default: the model's own.
        """
        return LatentActionStream(self.model, self.processor, self._options(stride).strides[0])

    def decode(
        self,
        frames: Frames | Sequence[Frames],
        codes: Any = None,
        *,
        latents: Any = None,
    ) -> np.ndarray:
        """Predict the frames a stride after B frames: uint8 (B, S, S, 3).

        Args:
            frames: B of them, or one for all latent actions.
            codes: integers (B, N) or (N,).
            latents: z (B, N, D) or (N, D) instead, which is quantized first.

        Raises:
            ValueError: neither or both forms, counts that differ, or a model that predicts features, not frames.
        """
        pixel_values = self.processor(frames)["pixel_values"].to(self.model.device)
        if (codes is None) == (latents is None):
            raise ValueError("decode takes either codes or latents, one of the two.")
        given = latents if codes is None else codes
        action = torch.as_tensor(given if isinstance(given, Tensor) else np.array(given), device=self.model.device)
        action = action.unsqueeze(0) if action.ndim == (2 if codes is None else 1) else action
        if len(pixel_values) == 1:
            pixel_values = pixel_values.expand(len(action), -1, -1, -1)
        if len(pixel_values) != len(action):
            raise ValueError(f"{len(pixel_values)} frames and {len(action)} latent actions: each frame needs one.")
        if codes is None:
            quantized = self.model.quantize(action).quantized_latents
            return self.processor.postprocess(self.model.decode(pixel_values, quantized_latents=quantized))
        return self.processor.postprocess(self.model.decode(pixel_values, codes=action))

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Save model and processor in a folder, with the code by which transformers loads them without this package."""
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
        """Upload what `save_pretrained` saves to the Hub, as one commit; returns its address.

        `private` is for a repository that does not exist yet. Raises ValueError where the Hub refuses it.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            try:
                api.create_repo(repo_id, private=private, exist_ok=True)
                commit = api.upload_folder(
                    repo_id=repo_id, folder_path=folder, commit_message="Latent action tokenizer"
                )
            except Exception as error:  # the Hub's errors share no base class, and each means: not pushed
                raise ValueError(
                    f"{repo_id} was not pushed ({first_line(error)}). It takes user/name, and an account: `hf auth "
                    "login`, or HF_TOKEN."
                ) from error
        return str(commit.commit_url)

    def _options(self, stride: str | None) -> Any:
        return resolve_options(self.model.config, strides=stride, columns="latents", dtype=dtype_name(self.model.dtype))

    def _actions(self, rows: pa.Table, stride: str, source: str, *, timed: bool) -> LatentActions:
        if not rows.num_rows:
            raise ValueError(f"{source}: no pair of frames is {stride} apart. Give more frames, or a shorter stride.")
        return LatentActions.from_rows(rows, self.model.config.num_latents, timed=timed)


@dataclass(slots=True)
class _Clip:
    """`UnitFrames` of frames in memory."""

    timestamps: np.ndarray
    pixels_B3SS: Tensor
    signals: Signals

    def read(self, indices: np.ndarray) -> Iterator[Tensor]:
        yield self.pixels_B3SS[torch.from_numpy(indices)]


def _times(count: int, fps: float | None, timestamps: Sequence[float] | np.ndarray | None) -> np.ndarray:
    """Seconds of `count` frames; their numbers where neither is given. Raises ValueError for times that do not fit."""
    if timestamps is None:
        if fps is not None and not 0 < fps < np.inf:
            raise ValueError(f"fps {fps!r}: must be above 0 frames per second.")
        return np.arange(count) / (1 if fps is None else fps)
    if fps is not None:
        raise ValueError("fps and timestamps both tell the times: give one of the two.")
    times = np.asarray(timestamps, np.float64)
    if times.shape != (count,):
        raise ValueError(f"timestamps of shape {times.shape} for {count} frames: one number of seconds for each.")
    if not np.isfinite(times).all() or not (np.diff(times) > 0).all():
        raise ValueError("timestamps must increase from frame to frame, in seconds.")
    return times
