"""`TargetEncoder`: a frozen vision model of transformers as maps of G x G features.

Shape suffixes: B frames, S side in pixels, V channels, G cells per side.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lara_tokenizer.model.frame_features import frame_features
from lara_tokenizer.vision_encoder import load_vision_encoder

CELL = 16  # pixels of a cell's side: the stride of the map that is taken from a convolutional network


@dataclass(frozen=True, slots=True)
class TargetEncoder:
    """Features of frames: of a convolutional network the last map at stride 16, of a transformer its patch tokens."""

    model: Any
    cells: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def load(cls, name: str, cells: int) -> TargetEncoder:
        """Open a folder or a Hub id. Raises ValueError for one that is no vision model, or cannot be loaded."""
        encoder = load_vision_encoder(name, "target_encoder")
        model = encoder.model
        if torch.accelerator.is_available():
            model = model.to(torch.accelerator.current_accelerator())
        model = model.to(memory_format=torch.channels_last)
        return cls(model, cells, encoder.mean, encoder.std)

    def fingerprint(self) -> str:
        """SHA-256 of weights and normalization."""
        digest = hashlib.sha256(repr((self.mean, self.std)).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    @torch.no_grad()
    def __call__(self, frames_B3SS: Tensor) -> Tensor:
        """Maps float32 (B, V, G, G) of frames, uint8, on a CPU."""
        frames = frames_B3SS.to(self.model.device).float() / 255
        mean, std = (torch.tensor(each, device=frames.device).view(3, 1, 1) for each in (self.mean, self.std))
        pixels = (frames - mean) / std
        # `depths` is that of networks in stages, of which some call their first stride a patch.
        config = self.model.config
        has_stages = hasattr(config, "depths") or not hasattr(config, "patch_size")
        maps = self._map(pixels) if has_stages else self._tokens(pixels)
        return F.adaptive_avg_pool2d(maps.float(), self.cells).cpu()

    def _map(self, pixels_B3SS: Tensor) -> Tensor:
        """The last map of a convolutional network with a side of S / 16."""
        # In bfloat16 and channels last, a convolutional network takes a quarter of the time on a CPU.
        pixels_B3SS = pixels_B3SS.contiguous(memory_format=torch.channels_last)
        with torch.autocast(pixels_B3SS.device.type, torch.bfloat16):
            states = self.model(pixel_values=pixels_B3SS, output_hidden_states=True).hidden_states
        side = pixels_B3SS.shape[-1] // CELL
        maps = [state for state in states if state.ndim == 4 and state.shape[-1] == side]
        if not maps:
            sides = ", ".join(str(state.shape[-1]) for state in states)
            raise ValueError(
                f"target_encoder: of {pixels_B3SS.shape[-1]} px its maps have sides {sides}, none {side} (stride 16)."
            )
        return maps[-1]

    def _tokens(self, pixels_B3SS: Tensor) -> Tensor:
        """Patch tokens of a transformer at its own image size, as a map."""
        size, patch = self.model.config.image_size, self.model.config.patch_size
        side = size // patch
        resized = F.interpolate(pixels_B3SS, size=(size, size), mode="bicubic", antialias=True, align_corners=False)
        tokens = frame_features(self.model, resized, "row_major")
        # CLS and registers come first.
        return tokens[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))
