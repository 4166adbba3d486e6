"""The configuration of the small convolutional frame encoder."""

from collections.abc import Sequence
from typing import Any

from transformers import PretrainedConfig

CELL = 16  # pixels of a cell's side: the product of the strides of all stages
FINE, COARSE = 4, 2  # positions along a cell's side in the two maps that are matched between frames


class FrameEncoderConfig(PretrainedConfig):
    """Sizes of a `FrameEncoder`; `hidden_size` and `patch_size` follow from them.

    Args:
        image_size: side of the square frames in pixels, a multiple of 16.
        channels: widths of the three stages, at 1/4, 1/8 and 1/16 of the frame's side.
        blocks: inverted residual blocks in each stage.
        match_channels: width of the two maps, at 1/4 and 1/8, that are matched between the frames of a pair.

    Raises:
        ValueError: naming the field.
    """

    model_type = "latent_action_frames"

    def __init__(
        self,
        image_size: int = 128,
        channels: Sequence[int] = (24, 56, 112),
        blocks: Sequence[int] = (1, 2, 2),
        match_channels: int = 16,
        **kwargs: Any,
    ) -> None:
        if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < CELL or image_size % CELL:
            raise ValueError(f"vision_config.image_size is {str(image_size)[:40]}; it takes a multiple of {CELL}.")
        for name, values in (("channels", channels), ("blocks", blocks)):
            whole = isinstance(values, list | tuple) and all(type(each) is int and 0 < each <= 8192 for each in values)
            if not whole or len(values) != 3:
                raise ValueError(f"vision_config.{name} is {str(values)[:80]}; it takes three whole numbers above 0.")
        if type(match_channels) is not int or not 0 < match_channels <= 8192:
            raise ValueError(f"vision_config.match_channels is {str(match_channels)[:40]}; it takes 1 or more.")
        self.image_size = image_size
        self.channels = list(channels)
        self.blocks = list(blocks)
        self.match_channels = match_channels
        # Derived, and present under the names that all code about vision encoders reads.
        self.patch_size = CELL
        self.hidden_size = channels[-1] + match_channels * (FINE**2 + COARSE**2)
        super().__init__(**{name: value for name, value in kwargs.items() if name not in ("patch_size", "hidden_size")})
