"""Frames as a decoder gives them to the codes that LAPA's loader would make of them."""

from __future__ import annotations

import hashlib
import os
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lara_tokenizer.vision_tokens.lwm_vqgan import LwmVqgan, VqganSizes
from lara_tokenizer.vision_tokens.lwm_weights import load_lwm
from lara_tokenizer.vision_tokens.resize import square

_BATCH = 4  # takes 0.8 GB at the first level; more is no quicker on a CPU
_SCALED = torch.from_numpy((np.arange(256) / 127.5 - 1).astype(np.float32))  # of a byte, rounded as they round


class LwmVisionTokenizer:
    """LWM's VQGAN with LAPA's preparation of pictures: resize to a square, scale to -1 to 1.

    Codes are computed in float32 on any device. Two devices round differently, so that a code in thousands, for which
    two entries of the codebook are equally near, may differ.

    Fields:
        identity: what decides the codes, as plain JSON.
        codebook_size: codes are below.
        num_codes: of a frame.
    """

    def __init__(self, model: LwmVqgan, weights_sha256: str, device: str | torch.device = "cpu") -> None:
        self._device = torch.device(device)
        # Not channels last, though an eighth quicker on a CPU: of flat pictures torch's group norm loses digits there.
        self._model = model.to(self._device).eval()
        self._scaled = _SCALED.to(self._device)
        self.identity = {"model": "lwm-vqgan", "weights_sha256": weights_sha256, "device": self._device.type}
        self.codebook_size = model.sizes.codebook_size
        self.num_codes = model.sizes.num_codes

    @classmethod
    def from_pickle(
        cls, path: str | os.PathLike[str], *, device: str | None = None, sizes: VqganSizes | None = None
    ) -> LwmVisionTokenizer:
        """With the weights of LWM's file `vqgan` (585 MB), of which nothing is run.

        Args:
            path: the file.
            device: cpu or cuda; none given takes a GPU where there is one.
            sizes: where they are not the published ones.

        Raises:
            ValueError: no such file, one that names anything but arrays, or other tensors than sizes ask for; a device
                that is not here.
        """
        path, device = Path(path), _device(device)
        model = load_lwm(path, sizes or VqganSizes())
        with path.open("rb") as stream:
            weights_sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        return cls(model, weights_sha256, device)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Codes int64 (n, num_codes), row by row of the picture, of RGB frames uint8 (n, H, W, 3)."""
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
            raise ValueError(f"frames are {frames.dtype} {frames.shape}: takes uint8 (n, H, W, 3)")
        codes = [self._codes(frames[start : start + _BATCH]) for start in range(0, len(frames), _BATCH)]
        return np.concatenate(codes) if codes else np.empty((0, self.num_codes), np.int64)

    @torch.inference_mode()
    def latents(self, frames: np.ndarray) -> Tensor:
        """What the codebook is searched for: float32 (n, D, h, w), of a few frames at once."""
        with _whole_floats():
            return self._model.latents(self._pixels(frames)).cpu()

    @torch.inference_mode()
    def _codes(self, frames: np.ndarray) -> np.ndarray:
        with _whole_floats():
            return self._model(self._pixels(frames)).cpu().numpy()

    def _pixels(self, frames: np.ndarray) -> Tensor:
        """float32 (n, 3, side, side) in -1 to 1."""
        frames_BHWC = square(torch.from_numpy(frames).to(self._device), self._model.sizes.image_size)
        return self._scaled[frames_BHWC.int()].permute(0, 3, 1, 2).contiguous()


def _device(name: str | None) -> str:
    """The device to run on; ValueError where it cannot be used."""
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here ({reason}). Take cpu, or leave it out.") from None
    return name


def _whole_floats() -> AbstractContextManager[None]:
    """Convolutions on a GPU without TF32, torch's default, which keeps 10 bits of 23 and moves codes."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
