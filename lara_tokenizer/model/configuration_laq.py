"""The configuration of LAPA's latent action quantizer: flat, JSON-serializable, validated on construction."""

from collections.abc import Sequence
from typing import Any

from .configuration_base import LatentActionBaseConfig, check_types
from .strides import checked_strides

# The grid of patches is reduced to one cell per latent token by a 3 x 3 convolution of stride 2, then by this one
# (kernel, stride, padding), if any. LAPA publishes weights with 4 tokens; its code supports these counts.
SECOND_CONVOLUTION: dict[int, tuple[tuple[int, int], int, int] | None] = {
    1: ((4, 4), 1, 0),
    2: ((3, 4), 1, 0),
    4: ((3, 3), 1, 0),
    16: ((3, 3), 2, 1),
    64: None,
    256: None,
}
# Patches per side of the frame for which LAPA designed each number of tokens.
USUAL_SIDE = {1: 8, 2: 8, 4: 8, 16: 16, 64: 16, 256: 32}

_CHOICES = {
    "key_value_input": ("raw", "normalized"),
    "temporal_layout": ("folded", "grid"),
    "latent_layout": ("interleaved", "per_code"),
}


class LaqConfig(LatentActionBaseConfig):
    """Sizes and layout options of a `LaqModel` (LAPA, arXiv 2410.11758). Defaults are those of the published weights.

    >>> LaqConfig(image_size=224, patch_size=16)
    Traceback (most recent call last):
    ValueError: num_latents (4) does not fit 14 x 14 patches (image_size 224, patch_size 16): the convolutions leave \
5 x 5 places. 8 x 8 patches fit.

    Args:
        image_size, patch_size: side of the square frames and of their patches, in pixels.
        hidden_size, intermediate_size: width of the transformers, and of the gated half of their feed-forward.
        num_attention_heads, attention_head_size: number and width of the heads.
        num_spatial_layers: layers of the encoder within a frame, and of the decoder.
        num_temporal_layers: layers of the encoder over both frames.
        num_latents: N, the number of codes per pair: 1, 2, 4, 16, 64 or 256.
        codebook_size, codebook_dim: K, the number of codes, and D, their width.
        key_value_input: input of the keys and values of self-attention: "raw", the hidden states before the layer norm,
            as in published weights; or "normalized", like the queries.
        temporal_layout: token order in the position convolution of temporal layers. "folded", as in published weights:
            tokens ordered by (patch, frame) are reshaped as (frame, patch), so that its neighbours are neighbours
            neither in space nor in time. "grid": true neighbours.
        latent_layout: arrangement of the N code vectors for the decoder. "interleaved", as in published weights: token
            n contains every N-th component of the concatenated vectors. "per_code": one vector per token. Codes are
            the same.
        strides: of the training pairs, e.g. ["0.6s"]; the first is the default of `lara-tok encode`.

    Raises:
        ValueError: naming the fields that do not fit together.
    """

    model_type = "latent_action_laq"

    def __init__(
        self,
        image_size: int = 256,
        patch_size: int = 32,
        hidden_size: int = 1024,
        intermediate_size: int = 2730,
        num_attention_heads: int = 16,
        attention_head_size: int = 64,
        num_spatial_layers: int = 8,
        num_temporal_layers: int = 8,
        num_latents: int = 4,
        codebook_size: int = 8,
        codebook_dim: int = 32,
        key_value_input: str = "raw",
        temporal_layout: str = "folded",
        latent_layout: str = "interleaved",
        strides: Sequence[str] = ("0.6s",),
        **kwargs: Any,
    ) -> None:
        self.image_size = image_size
        self.patch_size = patch_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_attention_heads = num_attention_heads
        self.attention_head_size = attention_head_size
        self.num_spatial_layers = num_spatial_layers
        self.num_temporal_layers = num_temporal_layers
        self.num_latents = num_latents
        self.codebook_size = codebook_size
        self.codebook_dim = codebook_dim
        self.key_value_input = key_value_input
        self.temporal_layout = temporal_layout
        self.latent_layout = latent_layout
        self.strides = checked_strides(strides)
        self._check()
        super().__init__(**kwargs)

    @property
    def patches_per_side(self) -> int:
        """Patches along one side of the square frame."""
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        """P, the number of tokens of a frame."""
        return self.patches_per_side**2

    def _check(self) -> None:
        check_types(self)
        positive: tuple[str, ...] = ("image_size", "patch_size", "hidden_size", "intermediate_size")
        positive += ("num_attention_heads", "attention_head_size", "num_spatial_layers", "num_temporal_layers")
        self._check_positive(*positive, "codebook_dim")
        self._check_codebook_sizes("codebook_size")
        self._check_divides("patch_size", "image_size")
        self._check_choices(_CHOICES)
        self._check_latents()

    def _check_latents(self) -> None:
        if self.num_latents not in SECOND_CONVOLUTION:
            known = ", ".join(map(str, SECOND_CONVOLUTION))
            raise ValueError(f"num_latents ({self.num_latents}) is one of {known}.")
        side = self.patches_per_side
        rows, columns = latent_places(side, self.num_latents)
        if min(rows, columns) < 1 or rows * columns != self.num_latents:
            left = f"{rows} x {columns} places" if min(rows, columns) > 0 else "nothing"
            usual = USUAL_SIDE[self.num_latents]
            raise ValueError(
                f"num_latents ({self.num_latents}) does not fit {side} x {side} patches (image_size {self.image_size}, "
                f"patch_size {self.patch_size}): the convolutions leave {left}. {usual} x {usual} patches fit."
            )


def latent_places(side: int, num_latents: int) -> tuple[int, int]:
    """Output (rows, columns) of the convolutions for `num_latents` on side x side patches; below 1 for too few patches.

    >>> latent_places(8, 4)
    (2, 2)
    """
    first = (side - 1) // 2 + 1
    second = SECOND_CONVOLUTION[num_latents]
    if second is None:
        return first, first
    kernel, stride, padding = second
    rows, columns = ((first + 2 * padding - size) // stride + 1 for size in kernel)
    return rows, columns
