"""LWM's image tokenizer with LAPA's preprocessing: decoded frames to the codes of LAPA's own loader."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lara_tokenizer._files import file_sha256
from lara_tokenizer.vision_tokens.lwm_vqgan import LwmVqgan, VqganSizes
from lara_tokenizer.vision_tokens.lwm_weights import load_lwm
from lara_tokenizer.vision_tokens.resize import square

_BATCH = 4  # needs 0.8 GB at the first level; larger batches are not faster on a CPU
_SCALED = torch.from_numpy((np.arange(256) / 127.5 - 1).astype(np.float32))  # value of each byte, rounded as in LAPA


class LwmVisionTokenizer:
    """LWM's VQGAN with LAPA's preprocessing: resize to a square, scale to -1 to 1.

    Codes are computed in float32 on any device. Devices round differently, so that one code in thousands, with two
    codebook entries at almost equal distance, may differ.

    Attributes:
        identity: JSON-serializable description of everything that determines the codes.
        codebook_size: number of codes.
        num_codes: codes per frame.
    """

    def __init__(self, model: LwmVqgan, weights_sha256: str, device: str | torch.device = "cpu") -> None:
        self._device = torch.device(device)
        # Channels last would be an eighth faster on a CPU, but torch's group norm then loses digits on flat images.
        self._model = model.to(self._device).eval()
        self._scaled = _SCALED.to(self._device)
        self.identity = {"model": "lwm-vqgan", "weights_sha256": weights_sha256, "device": self._device.type}
        self.codebook_size = model.sizes.codebook_size
        self.num_codes = model.sizes.num_codes

    @classmethod
    def from_pickle(
        cls, path: str | os.PathLike[str], *, device: str | None = None, sizes: VqganSizes | None = None
    ) -> LwmVisionTokenizer:
        """Load the weights from LWM's file `vqgan` (585 MB) without running any code in it.

        Args:
            path: the file.
            device: cpu or cuda; None for a GPU if there is one.
            sizes: None for the published ones.

        Raises:
            ValueError: for a missing file, one with anything but arrays, tensors that do not fit `sizes`, or a device
                that is not available.
        """
        path, device = Path(path), _device(device)
        model = load_lwm(path, sizes or VqganSizes())
        return cls(model, file_sha256(path), device)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Codes int64 (n, num_codes), row by row, of RGB frames uint8 (n, H, W, 3)."""
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
            raise ValueError(f"frames are {frames.dtype} {frames.shape}: takes uint8 (n, H, W, 3)")
        codes = [self._codes(frames[start : start + _BATCH]) for start in range(0, len(frames), _BATCH)]
        return np.concatenate(codes) if codes else np.empty((0, self.num_codes), np.int64)

    @torch.inference_mode()
    def latents(self, frames: np.ndarray) -> Tensor:
        """Latents before quantization, float32 (n, D, h, w), of a few frames at once."""
        with _whole_floats():
            return self._model.latents(self._pixels(frames)).cpu()

    @torch.inference_mode()
    def _codes(self, frames: np.ndarray) -> np.ndarray:
        with _whole_floats():
            return self._model(self._pixels(frames)).cpu().numpy()

    def _pixels(self, frames: np.ndarray) -> Tensor:
        """Resized and scaled frames, float32 (n, 3, side, side) in -1 to 1."""
        frames_BHWC = square(torch.from_numpy(frames).to(self._device), self._model.sizes.image_size)
        return self._scaled[frames_BHWC.int()].permute(0, 3, 1, 2).contiguous()


def _device(name: str | None) -> str:
    """The device to run on. Raises ValueError for one that cannot be used."""
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here ({reason}). Take cpu, or leave it out.") from None
    return name


def _whole_floats() -> AbstractContextManager[None]:
    """Context that disables TF32 convolutions: torch's default on GPUs keeps 10 of 23 bits, which changes codes."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
