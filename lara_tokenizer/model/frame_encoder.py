"""A small convolutional frame encoder whose features can be matched between two frames.

Shape suffixes: B frames, S side in pixels, G cells along a side (S / 16), P = G * G cells, V features of a cell,
C channels of a map, Q positions along a cell's side in a map.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from .configuration_frame_encoder import COARSE, FINE, FrameEncoderConfig


class MapConv(nn.Conv2d):
    """Convolution of a feature map; a class of its own, so that initialization can tell it from the decoder's."""


class ConvNorm(nn.Module):
    """Convolution without bias, and batch norm; one convolution outside of training."""

    def __init__(self, width: int, out: int, kernel_size: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        # A kernel as large as its stride cuts the map into patches; any other is padded to keep the size.
        padding = 0 if kernel_size == stride else kernel_size // 2
        self.conv = MapConv(width, out, kernel_size, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out)

    def forward(self, map_BCHW: Tensor) -> Tensor:
        if self.training:
            return self.norm(self.conv(map_BCHW))
        conv, norm = self.conv, self.norm
        assert norm.running_mean is not None  # for type checkers: it tracks statistics
        assert norm.running_var is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        bias = norm.bias - norm.running_mean * scale
        weight = conv.weight * scale.view(-1, 1, 1, 1)
        return F.conv2d(map_BCHW, weight, bias, conv.stride, conv.padding, groups=conv.groups)


class ConvNormAct(ConvNorm):
    """The same, then hard swish."""

    def forward(self, map_BCHW: Tensor) -> Tensor:
        return F.hardswish(super().forward(map_BCHW), inplace=not torch.is_grad_enabled())


class InvertedResidual(nn.Module):
    """MobileNetV2's block: 1x1 convolution to a wider map, 3x3 per channel, 1x1 back, added to the input."""

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        wide = width * expansion
        self.layers = nn.Sequential(
            ConvNormAct(width, wide), ConvNormAct(wide, wide, 3, groups=wide), ConvNorm(wide, width)
        )

    def forward(self, map_BCHW: Tensor) -> Tensor:
        return map_BCHW + self.layers(map_BCHW)


class FrameEncoder(PreTrainedModel):
    """Frames (B, 3, S, S) to one token per cell of 16 x 16 pixels: (B, P, V), rows first.

    A token is [appearance of the cell | its 2 x 2 coarse match features | its 4 x 4 fine match features];
    `split_features` gives the three as maps.
    """

    config: FrameEncoderConfig
    config_class = FrameEncoderConfig
    base_model_prefix = "frame_encoder"
    main_input_name = "pixel_values"

    def __init__(self, config: FrameEncoderConfig) -> None:
        super().__init__(config)
        fine, coarse, wide = config.channels
        expansions, blocks = (2, 2, 3), config.blocks
        self.fine = nn.Sequential(ConvNormAct(3, fine, 4, 4), *_blocks(fine, blocks[0], expansions[0]))
        self.coarse = nn.Sequential(ConvNormAct(fine, coarse, 3, 2), *_blocks(coarse, blocks[1], expansions[1]))
        self.appearance = nn.Sequential(ConvNormAct(coarse, wide, 3, 2), *_blocks(wide, blocks[2], expansions[2]))
        self.match_fine = MapConv(fine, config.match_channels, 1)
        self.match_coarse = MapConv(coarse, config.match_channels, 1)
        self.post_init()

    def forward(self, pixel_values: Tensor) -> BaseModelOutput:
        size = self.config.image_size
        if pixel_values.ndim != 4 or pixel_values.shape[1:] != (3, size, size):
            raise ValueError(
                f"pixel_values are {tuple(pixel_values.shape)}, expected (batch, 3, {size}, {size}). Prepare frames "
                "with the model's own processor."
            )
        # Channels last: convolutions on a CPU are a third faster.
        fine = self.fine(pixel_values.contiguous(memory_format=torch.channels_last))
        coarse = self.coarse(fine)
        maps = self.appearance(coarse), self.match_coarse(coarse), self.match_fine(fine)
        return BaseModelOutput(last_hidden_state=torch.cat([_to_cells(each, size // 16) for each in maps], -1))

    def _init_weights(self, module: nn.Module) -> None:
        """Initialize one module: convolutions normal with variance 2 / fan-out, batch norms 1 and 0, biases 0."""
        init_frame_encoder(module)


def init_frame_encoder(module: nn.Module) -> None:
    """Initialize a convolution or batch norm as in `FrameEncoder`; other modules are left alone."""
    if isinstance(module, MapConv):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
        nn.init.zeros_(module.running_mean)  # type: ignore[arg-type]
        nn.init.ones_(module.running_var)  # type: ignore[arg-type]
        nn.init.zeros_(module.num_batches_tracked)  # type: ignore[arg-type]


def split_features(features_BPV: Tensor, config: FrameEncoderConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (B, P, V) of a `FrameEncoder` as maps (B, C, G * Q, G * Q): appearance, coarse and fine match features."""
    match = config.match_channels
    parts = features_BPV.split([config.channels[-1], match * COARSE**2, match * FINE**2], -1)
    return _to_map(parts[0], 1), _to_map(parts[1], COARSE), _to_map(parts[2], FINE)


def _blocks(width: int, count: int, expansion: int) -> list[nn.Module]:
    return [InvertedResidual(width, expansion) for _ in range(count)]


def _to_cells(map_BCHW: Tensor, cells: int) -> Tensor:
    """(B, C, G * Q, G * Q) -> (B, G * G, C * Q * Q)."""
    batch, channels, height, _ = map_BCHW.shape
    side = height // cells
    split = map_BCHW.reshape(batch, channels, cells, side, cells, side)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(batch, cells * cells, channels * side * side)


def _to_map(tokens_BPV: Tensor, side: int) -> Tensor:
    """Undo `_to_cells`."""
    batch, count, width = tokens_BPV.shape
    cells, channels = int(count**0.5), width // side**2
    split = tokens_BPV.reshape(batch, cells, cells, channels, side, side)
    return split.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, cells * side, cells * side)
