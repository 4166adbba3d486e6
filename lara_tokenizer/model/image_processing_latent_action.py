"""The image processor of all latent action models: frames to `pixel_values` and back.

Frames are resized and normalized nowhere else.

Shape suffixes: B frames, H height, W width, S sides of the model's frames (most are square).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from .bundled import resolve_checkpoint
from .steady_pairs import steady_future

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_FILTERS = ("bicubic", "bilinear")
_CROPS = ("none", "center")
_LARGEST_SIDE = 8192
Frames = Image.Image | np.ndarray | Tensor
"""A picture, or in an array or tensor a batch of them, in a form that `LatentActionProcessor.preprocess` lists."""
# Options added after the first tables were written, with the behaviour of processors before them.
_YOUNGER = {"crop": "none", "antialias": True}


class LatentActionProcessor(BaseImageProcessor):
    """Resize frames to `size`, then normalize: (x / 255 - mean) / std.

    The aspect ratio is kept only with `crop`. Frames are resized as uint8, so that a frame cached after the resize
    gives the same values as the original.

    >>> processor = LatentActionProcessor(size={"height": 64, "width": 64})
    >>> clip = np.zeros((5, 240, 320, 3), np.uint8)
    >>> processor(clip[:-1], clip[1:])["future_pixel_values"].shape
    torch.Size([4, 3, 64, 64])

    Args:
        size: {"height": S, "width": S} in pixels, config.image_size.
        resample: "bicubic" or "bilinear".
        image_mean, image_std: per RGB channel, for pixels in 0..1.
        steady_pairs: compensate the later frame of a pair for camera motion and lighting (see steady_pairs.py), so that
            latents do not encode them.
        crop: "none", or "center": crop frames to the aspect ratio of `size` before the resize, evenly on both sides.
        antialias: low-pass filter a frame before it is reduced; False for models that were trained without.
    """

    model_input_names = ["pixel_values", "future_pixel_values"]  # noqa: RUF012 (transformers reads this attribute)

    def __init__(
        self,
        size: dict[str, int] | None = None,
        resample: str = "bicubic",
        image_mean: Sequence[float] = _IMAGENET_MEAN,
        image_std: Sequence[float] = _IMAGENET_STD,
        steady_pairs: bool = False,
        crop: str = "none",
        antialias: bool = True,
        **kwargs: Any,
    ) -> None:
        # transformers sets every further field as an attribute.
        if methods := [name for name in kwargs if callable(getattr(type(self), name, None))]:
            raise ValueError(f"{methods[0]} is no field of a processor. Leave it out.")
        super().__init__(**kwargs)
        if resample not in _FILTERS:
            raise ValueError(f"resample is {str(resample)[:40]!r}; it takes {' or '.join(map(repr, _FILTERS))}.")
        if crop not in _CROPS:
            raise ValueError(f"crop is {str(crop)[:40]!r}; it takes {' or '.join(map(repr, _CROPS))}.")
        if not _are_colours(image_mean) or not _are_colours(image_std) or min(image_std) <= 0:
            raise ValueError(
                f"image_mean {str(image_mean)[:80]} and image_std {str(image_std)[:80]} need 3 numbers each, std above "
                "0."
            )
        for name, flag in (("steady_pairs", steady_pairs), ("antialias", antialias)):
            if not isinstance(flag, bool):
                raise ValueError(f"{name} is {str(flag)[:40]!r}; it takes true or false.")
        if size and not _is_size(size):
            raise ValueError(
                f'size is {str(size)[:80]}; it takes {{"height": ..., "width": ...}} in pixels, 1 to 8,192.'
            )
        self.size = dict(size) if size else {"height": 64, "width": 64}
        if steady_pairs and self.size["height"] != self.size["width"]:
            raise ValueError(f"steady_pairs takes square frames, and size is {self.size}. Leave it off.")
        self.resample = resample
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        self.steady_pairs = steady_pairs
        self.crop = crop
        self.antialias = antialias

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """Load from "lara-lam" (bundled), a folder or a Hub id."""
        return super().from_pretrained(resolve_checkpoint(pretrained_model_name_or_path), *args, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """The fields as saved, without those of `_YOUNGER` at their defaults.

        Token tables contain a hash of these fields, which must not change when an option is added.
        """
        fields = super().to_dict()
        return {name: value for name, value in fields.items() if name not in _YOUNGER or value != _YOUNGER[name]}

    # transformers 4 would not accept the second argument by position, and declares no types.
    def __call__(  # type: ignore[override]
        self,
        images: Frames | Sequence[Frames],
        future_images: Frames | Sequence[Frames] | None = None,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """Prepare frames, or pairs of frames, for the model: see `preprocess`.

        >>> model.encode(**processor(frames[:-5], frames[5:])).codes.shape  # doctest: +SKIP
        torch.Size([15, 8])
        """
        return self.preprocess(images, future_images, return_tensors)

    def preprocess(
        self,
        images: Frames | Sequence[Frames],
        future_images: Frames | Sequence[Frames] | None = None,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """Convert frames, and the later frames of pairs, to normalized tensors.

        A frame is a PIL image of any mode, or an array or tensor: uint8, or floats in 0..1. Its shape is (H, W, 3),
        grey (H, W) or (H, W, 1), RGBA (H, W, 4), or with channels first (3, H, W) or (1, H, W). A batch is (B, H, W, C)
        or (B, C, H, W) with 3, 4 or 1 colours C. Grey becomes RGB, and alpha is dropped.

        Args:
            images: a frame, a batch, or a list of those; sizes may differ in a list.
            future_images: the later frame of each pair, in the same form, as many as `images`.
            return_tensors: "pt" or "np".

        Returns:
            `pixel_values` and, for pairs, `future_pixel_values`: float32 (B, 3, S, S).

        Raises:
            ValueError: for frames of another type, or if the two counts of frames differ.
        """
        frames = self.resize_frames(images)
        data = {"pixel_values": self.normalize_frames(frames)}
        if future_images is not None:
            future_frames = self.resize_frames(future_images)
            if len(frames) != len(future_frames):
                raise ValueError(
                    f"{len(frames)} frames but {len(future_frames)} future frames: a pair needs one of each."
                )
            data["future_pixel_values"] = self.normalize_frames(self.steady_future(frames, future_frames))
        return BatchFeature(data, tensor_type=return_tensors)

    def resize_frames(self, images: Frames | Sequence[Frames]) -> Tensor:
        """Resize frames of any accepted form to uint8 (B, 3, S, S), without normalization, e.g. to cache them."""
        size = (self.size["height"], self.size["width"])
        parts = [_as_frames(part) for part in (images if isinstance(images, (list, tuple)) else [images])]
        if self.crop == "center":
            parts = [_crop_center(part, *size) for part in parts]
        if not any(part.shape[0] for part in parts):
            raise ValueError("empty input: give at least one image.")
        if len({part.shape for part in parts}) == 1:
            parts = [torch.cat(parts)]  # one call of the resize kernel
        resized = [part if part.shape[-2:] == size else self._resize(part, size) for part in parts]
        return torch.cat(resized)

    def _resize(self, frames_B3HW: Tensor, size: tuple[int, int]) -> Tensor:
        if self.antialias:
            return F.interpolate(frames_B3HW, size=size, mode=self.resample, antialias=True, align_corners=False)
        # On uint8 without antialiasing torch truncates, and bicubic overshoots wrap around: resize in float32.
        exact = F.interpolate(frames_B3HW.float(), size=size, mode=self.resample, align_corners=False)
        return exact.round_().clamp_(0, 255).to(torch.uint8)

    def steady_future(self, frames_B3SS: Tensor, future_frames_B3SS: Tensor) -> Tensor:
        """Stabilize the later frames of pairs if `steady_pairs` is set; uint8 in and out."""
        return steady_future(frames_B3SS, future_frames_B3SS) if self.steady_pairs else future_frames_B3SS

    def normalize_frames(self, frames_B3SS: Tensor) -> Tensor:
        """Normalize uint8 (B, 3, S, S), on any device, to (x / 255 - mean) / std in float32."""
        mean = torch.tensor(self.image_mean, device=frames_B3SS.device).view(3, 1, 1)
        std = torch.tensor(self.image_std, device=frames_B3SS.device).view(3, 1, 1)
        # One multiplication and one addition per pixel; contiguous whatever the memory format of the frames.
        scaled = frames_B3SS.to(torch.float32, memory_format=torch.contiguous_format)
        return scaled.mul_(1 / (255 * std)).sub_(mean / std)

    def postprocess(self, reconstruction: Tensor) -> np.ndarray:
        """Convert normalized frames (B, 3, S, S) to uint8 (B, S, S, 3), clamped to 0..255."""
        mean = torch.tensor(self.image_mean, device=reconstruction.device).view(3, 1, 1)
        std = torch.tensor(self.image_std, device=reconstruction.device).view(3, 1, 1)
        pixels = (reconstruction.detach().float() * std + mean).clamp(0, 1).mul(255).round()
        return pixels.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def _are_colours(values: Any) -> bool:
    """Whether these are three finite numbers."""
    return (
        isinstance(values, (list, tuple))
        and len(values) == 3
        and all(isinstance(each, (int, float)) and math.isfinite(each) for each in values)
    )


def _is_size(size: Any) -> bool:
    sides = [size.get(name) for name in ("height", "width")] if isinstance(size, Mapping) else [None]
    return all(isinstance(side, int) and not isinstance(side, bool) and 1 <= side <= _LARGEST_SIDE for side in sides)


def _as_frames(image: Any) -> Tensor:
    """Convert one image or one batch to uint8 (B, 3, H, W) on the CPU."""
    if isinstance(image, Image.Image):
        image = np.array(image.convert("RGB"))
    if isinstance(image, np.ndarray):
        usable = image.flags.writeable and min(image.strides, default=0) >= 0  # torch does not support mirrored views
        image = torch.from_numpy(image if usable else image.copy())
    if not isinstance(image, Tensor) or image.ndim not in (2, 3, 4):
        shape = f" of shape {tuple(image.shape)}" if isinstance(image, Tensor) else ""
        raise ValueError(
            f"a frame is {type(image).__name__}{shape}; it takes a PIL image, or an array or tensor "
            "(H, W, 3), (3, H, W), grey (H, W), or a batch of those."
        )
    frames = _as_rgb(image.detach().cpu())
    if frames.dtype == torch.uint8:
        return frames
    # The condition is negated so that NaN, which compares false with everything, is refused too.
    if not frames.is_floating_point() or (frames.numel() and not (frames.min() >= 0 and frames.max() <= 1)):
        raise ValueError(
            f"frames of type {frames.dtype} run from {frames.min():g} to {frames.max():g}; they take uint8 in 0..255, "
            "or floats in 0..1. Undo any normalization first: the processor applies its own."
        )
    return frames.mul(255).round().to(torch.uint8)


def _as_rgb(image: Tensor) -> Tensor:
    """A frame or a batch with its colours on some axis -> (B, 3, H, W): grey is repeated, alpha dropped."""
    if image.ndim == 2:
        image = image.unsqueeze(-1)
    batch = image.unsqueeze(0) if image.ndim == 3 else image
    # 3 colours before 4 and 1: a frame may be as narrow. (4, H, W) could be four grey frames.
    for colours, first_too in ((3, True), (4, image.ndim == 4), (1, True)):
        if batch.shape[-1] == colours:
            batch = batch.permute(0, 3, 1, 2)
        elif batch.shape[1] != colours or not first_too:
            continue
        return batch.expand(-1, 3, -1, -1) if colours == 1 else batch[:, :3]
    raise ValueError(
        f"frames of shape {tuple(image.shape)} have no axis of 3, 4 or 1 colours, last or before the size. Give "
        "several grey frames as a list, or as (B, H, W, 1)."
    )


def _crop_center(frames_B3HW: Tensor, height: int, width: int) -> Tensor:
    """Crop to the largest centered region with the aspect ratio height : width, in whole pixels."""
    down, across = frames_B3HW.shape[-2:]
    rows, columns = min(down, across * height // width), min(across, down * width // height)
    # Tiny frames with another aspect ratio would otherwise become empty.
    rows, columns = max(1, rows), max(1, columns)
    top, left = (down - rows) // 2, (across - columns) // 2
    return frames_B3HW[..., top : top + rows, left : left + columns]
