"""The configuration of AdaWorld's and DreamDojo's model: flat, JSON-serializable, validated on construction."""

from collections.abc import Sequence
from typing import Any

from .configuration_base import LatentActionBaseConfig, check_types
from .strides import checked_strides


class SpaceTimeVaeConfig(LatentActionBaseConfig):
    """Sizes of a `SpaceTimeVaeModel`. The defaults are those of published AdaWorld; `dreamdojo()` gives DreamDojo's.

    >>> SpaceTimeVaeConfig(image_size=[240, 320]).num_patches
    300
    >>> SpaceTimeVaeConfig(image_size=[240, 328])
    Traceback (most recent call last):
    ValueError: patch_size (16) must divide the width of image_size (328).

    Args:
        image_size: side of square frames, or [height, width], in pixels.
        patch_size: side of the patches, in pixels.
        hidden_size, num_attention_heads: sizes of encoder and decoder; feed-forward layers are 4 times as wide.
        num_encoder_layers: layers over space and time. num_decoder_layers: layers within a frame.
        codebook_dim: width of z, the one continuous latent of a pair. There is no codebook: `codebook_size` is None.
        strides: of the training pairs, e.g. ["2f"]; the first is the default of `lara-tok encode`.

    Raises:
        ValueError: naming the fields that do not fit together.
    """

    model_type = "latent_action_space_time_vae"
    num_latents = 1
    codebook_size = None

    def __init__(
        self,
        image_size: int | Sequence[int] = 256,
        patch_size: int = 16,
        hidden_size: int = 1024,
        num_attention_heads: int = 16,
        num_encoder_layers: int = 16,
        num_decoder_layers: int = 16,
        codebook_dim: int = 32,
        layer_norm_eps: float = 1e-5,
        initializer_range: float = 0.02,
        strides: Sequence[str] = ("2f", "1f", "4f"),
        **kwargs: Any,
    ) -> None:
        for name in ("num_latents", "codebook_size"):
            if kwargs.get(name, getattr(type(self), name)) != getattr(type(self), name):
                raise ValueError(
                    f"{name} is {kwargs[name]}; this model has one continuous latent and no codebook. Leave it out."
                )
        given: list[Any] = list(image_size) if isinstance(image_size, (list, tuple)) else [image_size, image_size]
        if not all(isinstance(side, int) for side in given):
            raise ValueError("image_size takes one side in pixels, or [height, width].")
        sides: list[int] = given
        self.image_size = sides[0] if len(set(sides)) == 1 else sides
        self.patch_size = patch_size
        self.hidden_size = hidden_size
        self.num_attention_heads = num_attention_heads
        self.num_encoder_layers = num_encoder_layers
        self.num_decoder_layers = num_decoder_layers
        self.codebook_dim = codebook_dim
        self.layer_norm_eps = layer_norm_eps
        self.initializer_range = initializer_range
        self.strides = checked_strides(strides)
        self._check(sides)
        super().__init__(**kwargs)

    @classmethod
    def adaworld(cls, **overrides: Any) -> "SpaceTimeVaeConfig":
        """The configuration published by AdaWorld (arXiv 2503.18938)."""
        return cls(**overrides)

    @classmethod
    def dreamdojo(cls, **overrides: Any) -> "SpaceTimeVaeConfig":
        """The configuration published by DreamDojo: deeper, on frames of 240 x 320."""
        sizes = {"image_size": [240, 320], "num_encoder_layers": 24, "num_decoder_layers": 24}
        return cls(**{**sizes, "strides": ["1f", "2f", "3f", "4f"], **overrides})

    @property
    def image_height(self) -> int:
        """Height of the frames in pixels."""
        return self.image_size if isinstance(self.image_size, int) else self.image_size[0]

    @property
    def image_width(self) -> int:
        """Width of the frames in pixels."""
        return self.image_size if isinstance(self.image_size, int) else self.image_size[1]

    @property
    def num_patches(self) -> int:
        """P, the number of patches of a frame."""
        return (self.image_height // self.patch_size) * (self.image_width // self.patch_size)

    def _check(self, sides: Sequence[int]) -> None:
        check_types(self, "image_size")
        if len(sides) != 2:
            raise ValueError(f"image_size is {list(sides)}; it takes one side in pixels, or [height, width].")
        positive = ("patch_size", "hidden_size", "num_attention_heads", "num_encoder_layers", "num_decoder_layers")
        self._check_positive(*positive)
        self._check_positive("image_height", "image_width")
        if self.codebook_dim < 1:
            raise ValueError(f"codebook_dim ({self.codebook_dim}) must be at least 1: it is the width of z.")
        for name, side in zip(("height", "width"), sides, strict=True):
            if side < 1 or side % self.patch_size:
                raise ValueError(f"patch_size ({self.patch_size}) must divide the {name} of image_size ({side}).")
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be an even number of times num_attention_heads "
                f"({self.num_attention_heads}): positions in time rotate the components of a head in pairs."
            )
