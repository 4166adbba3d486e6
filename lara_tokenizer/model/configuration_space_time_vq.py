"""The configuration of UniVLA's latent action model: flat, JSON-serializable, validated on construction."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from .configuration_base import LatentActionBaseConfig, check_types, vision_config_of
from .strides import checked_strides

VISION_TYPE = "dinov2_with_registers"

_VIT_BASE_14 = {
    "model_type": VISION_TYPE,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 518,
    "patch_size": 14,
    "num_register_tokens": 4,
}


class SpaceTimeVqConfig(LatentActionBaseConfig):
    """Sizes of a `SpaceTimeVqModel`; the defaults are UniVLA's second stage as published (arXiv 2505.06111).

    >>> SpaceTimeVqConfig(image_size=100)
    Traceback (most recent call last):
    ValueError: vision_config.patch_size (14) must divide image_size (100).

    Args:
        vision_config: config (or its dict, with `model_type`) of a DINOv2 with registers. Its image_size is that of the
            stored position embeddings, which are interpolated to `image_size`.
        image_size: side of the square frames, in pixels.
        hidden_size, num_attention_heads: sizes of encoder and decoder; feed-forward layers are 4 times as wide.
        num_encoder_layers: layers over space and, causally, over time. num_decoder_layers: layers within a frame.
        num_latents: N, the number of task tokens, and of codes per pair.
        codebook_size, codebook_dim: K, the number of task codes, and D, their width.
        num_nuisance_latents: number of tokens for changes other than the task. They are in the encoder's sequence with
            the task tokens and so influence their codes; the decoder gets both.
        nuisance_codebook_size: number of codes of the nuisance tokens.
        strides: of the training pairs, e.g. ["9f"]; the first is the default of `lara-tok encode`.

    Raises:
        ValueError: naming the fields that do not fit together.
    """

    model_type = "latent_action_space_time_vq"
    sub_configs = {"vision_config": AutoConfig}  # noqa: RUF012 (transformers reads this class attribute)

    def __init__(
        self,
        vision_config: Mapping[str, Any] | PretrainedConfig | None = None,
        image_size: int = 224,
        hidden_size: int = 768,
        num_attention_heads: int = 12,
        num_encoder_layers: int = 12,
        num_decoder_layers: int = 12,
        num_latents: int = 4,
        codebook_size: int = 16,
        codebook_dim: int = 128,
        num_nuisance_latents: int = 4,
        nuisance_codebook_size: int = 16,
        layer_norm_eps: float = 1e-5,
        initializer_range: float = 0.02,
        strides: Sequence[str] = ("9f", "1f", "19f"),
        **kwargs: Any,
    ) -> None:
        self.vision_config = _vision_config(vision_config)
        self.image_size = image_size
        self.hidden_size = hidden_size
        self.num_attention_heads = num_attention_heads
        self.num_encoder_layers = num_encoder_layers
        self.num_decoder_layers = num_decoder_layers
        self.num_latents = num_latents
        self.codebook_size = codebook_size
        self.codebook_dim = codebook_dim
        self.num_nuisance_latents = num_nuisance_latents
        self.nuisance_codebook_size = nuisance_codebook_size
        self.layer_norm_eps = layer_norm_eps
        self.initializer_range = initializer_range
        self.strides = checked_strides(strides)
        self._check()
        super().__init__(**kwargs)

    @property
    def num_patches(self) -> int:
        """P, the number of patches of a frame, with one DINOv2 feature each."""
        return (self.image_size // self.vision_config.patch_size) ** 2

    def _check(self) -> None:
        check_types(self)
        positive = ("image_size", "hidden_size", "num_attention_heads", "num_encoder_layers", "num_decoder_layers")
        self._check_positive(*positive, "num_latents", "codebook_dim", "num_nuisance_latents")
        self._check_positive("vision_config.hidden_size", "vision_config.image_size", "vision_config.patch_size")
        self._check_codebook_sizes("codebook_size", "nuisance_codebook_size")
        if self.hidden_size % 2 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) must divide hidden_size ({self.hidden_size}), "
                "which must be even."
            )
        self._check_divides("vision_config.patch_size", "image_size")


def _vision_config(given: Mapping[str, Any] | PretrainedConfig | None) -> Any:
    if given is None:
        given = _VIT_BASE_14
    if isinstance(given, Mapping):
        given = dict(given)
        given = vision_config_of(given, given.pop("model_type", VISION_TYPE))
    if not isinstance(given, PretrainedConfig):
        raise ValueError(f"vision_config is a {type(given).__name__}; it takes the fields of a config.")
    if given.model_type != VISION_TYPE:
        raise ValueError(f"vision_config is a {given.model_type}; this model reads a {VISION_TYPE}.")
    return given
