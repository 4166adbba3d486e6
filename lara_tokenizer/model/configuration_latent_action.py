"""The configuration of a latent action model: flat, JSON-serializable, validated on construction."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from .bundled import resolve_checkpoint
from .configuration_base import LatentActionBaseConfig, check_types, vision_config_of
from .configuration_frame_encoder import CELL, FrameEncoderConfig
from .strides import checked_strides

# Number of special tokens before the patches, for encoders without exactly one CLS token. Registers are counted apart.
_SPECIAL_TOKENS = {"siglip_vision_model": 0, "ijepa": 0, "deit": 2, "latent_action_frames": 0}

_SMALL_VIT_MAE = {
    "model_type": "vit_mae",
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "initializer_range": 0.08,
}
_VIT_MAE_LARGE = {
    "model_type": "vit_mae",
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "image_size": 224,
    "patch_size": 16,
}
_PAPER_SCALE = {
    "vision_config": _VIT_MAE_LARGE,
    "freeze_vision_encoder": True,
    "image_size": 224,
    "patch_size": 16,
    "hidden_size": 768,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "num_m_former_layers": 4,
    "num_decoder_layers": 12,
    # Eq. 3 as printed and as released: beta = 0.25 weights the codebook term, not the commitment term of VQ-VAE.
    "codebook_loss_weight": 0.25,
    "commitment_loss_weight": 1.0,
    "reconstruction_loss_weight": 1.0,
    "initializer_range": 0.02,
    "standardize_latents": False,
    "continuous_steps": 0,
    "dead_code_steps": 0,
    "decoder_residual": False,
    "motion_weight": 0.0,
}


class LatentActionConfig(LatentActionBaseConfig):
    """Sizes, loss weights and training schedule of a `LatentActionModel`.

    The defaults are the sizes of the bundled `lara-lam`, except the vision patch (8, not 16); its other settings are
    in `hub_configs/training/lam_sim.yaml`. `paper_exact()` and `moto()` are the paper's architecture.

    >>> LatentActionConfig(hidden_size=768, num_attention_heads=5)
    Traceback (most recent call last):
    ValueError: num_attention_heads (5) must divide hidden_size (768).

    Args:
        vision_config: config (or its dict, with `model_type`) of any transformers vision model, or of our own small
            convolutional encoder, "latent_action_frames" (`FrameEncoderConfig`).
        inverse_model: "m_former", or "matching": the two frames' features are compared in windows, see matching.py;
            needs the "latent_action_frames" encoder.
        motion_channels: numbers for each cell of 16 x 16 pixels from which the matching inverse model makes z.
        freeze_vision_encoder: train without gradients into the vision encoder, and without a graph through it.
        patch_order: "row_major", or "shuffled" as in transformers' ViT-MAE on every call. Published weights were
            trained with shuffled patches; codes then change from call to call.
        image_size, patch_size: side of the square frames and of the decoder's patches, in pixels.
        hidden_size, num_attention_heads, intermediate_size, num_m_former_layers: sizes of the M-Former; the matching
            inverse model has hidden_size channels and num_m_former_layers blocks.
        segment_embedding: "per_frame", or "shared": both frames get row 0, as in published Moto and LARA weights.
        num_latents: N, the number of query tokens, and of codes per pair.
        codebook_size, codebook_dim: K, the number of codes, and D, their width.
        separate_codebooks: a codebook for each of the N positions, not one for all.
        standardize_latents: apply batch norm without affine to z in training; folded into a linear layer on export.
        continuous_steps: VQ warm-up: training steps without quantization, after which k-means initializes the
            codebook. 0: no warm-up.
        dead_code_steps: interval of the code reset, which moves unused codes onto latents. 0: never.
        dead_code_share: a code counts as unused up to this share of uniform use. 0: only codes that were never used.
        decoder_hidden_size, decoder_num_attention_heads, decoder_intermediate_size: None for those of the M-Former.
        num_decoder_layers: transformer layers of the frame decoder.
        decoder_residual: predict the change from frame t to frame t+C, not frame t+C itself.
        decoder_warp: warp frame t by a predicted flow before the change is added (needs decoder_residual).
        decoder_motion_map: give each patch of the decoder what z says of its cell (needs the matching inverse model and
            patches of 16 pixels).
        motion_weight: weight the squared error by 1 + motion_weight * |change of the pixel|.
        reconstruction_loss_weight, codebook_loss_weight, commitment_loss_weight: the weights of Eq. 3.
        strides: of the training pairs, e.g. ["0.5s"]; the first is the default of `lara-tok encode`.

    Raises:
        ValueError: naming the fields that do not fit together.
    """

    model_type = "latent_action"
    sub_configs = {"vision_config": AutoConfig}  # noqa: RUF012 (transformers reads this class attribute)
    keys_to_ignore_at_inference = ("frame_features", "future_frame_features", "attentions", "losses")

    def __init__(
        self,
        vision_config: Mapping[str, Any] | PretrainedConfig | None = None,
        freeze_vision_encoder: bool = False,
        patch_order: str = "row_major",
        inverse_model: str = "m_former",
        motion_channels: int = 40,
        image_size: int = 64,
        patch_size: int = 8,
        hidden_size: int = 128,
        num_attention_heads: int = 4,
        intermediate_size: int = 512,
        num_m_former_layers: int = 3,
        segment_embedding: str = "per_frame",
        num_latents: int = 8,
        codebook_size: int = 128,
        codebook_dim: int = 32,
        separate_codebooks: bool = False,
        standardize_latents: bool = True,
        continuous_steps: int = 400,
        dead_code_steps: int = 50,
        dead_code_share: float = 0.0,
        decoder_hidden_size: int | None = None,
        decoder_num_attention_heads: int | None = None,
        decoder_intermediate_size: int | None = None,
        num_decoder_layers: int = 3,
        decoder_residual: bool = True,
        decoder_warp: bool = False,
        decoder_motion_map: bool = False,
        motion_weight: float = 1.0,
        reconstruction_loss_weight: float = 4.0,
        codebook_loss_weight: float = 1.0,
        commitment_loss_weight: float = 0.25,
        layer_norm_eps: float = 1e-12,
        initializer_range: float = 0.08,
        strides: Sequence[str] = ("0.5s",),
        **kwargs: Any,
    ) -> None:
        self.vision_config = _vision_config(vision_config, image_size, patch_size)
        self.freeze_vision_encoder = freeze_vision_encoder
        self.patch_order = patch_order
        self.inverse_model = inverse_model
        self.motion_channels = motion_channels
        self.image_size = image_size
        self.patch_size = patch_size
        self.hidden_size = hidden_size
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.num_m_former_layers = num_m_former_layers
        self.segment_embedding = segment_embedding
        self.num_latents = num_latents
        self.codebook_size = codebook_size
        self.codebook_dim = codebook_dim
        self.separate_codebooks = separate_codebooks
        self.standardize_latents = standardize_latents
        self.continuous_steps = continuous_steps
        self.dead_code_steps = dead_code_steps
        self.dead_code_share = dead_code_share
        self.decoder_hidden_size = decoder_hidden_size or hidden_size
        self.decoder_num_attention_heads = decoder_num_attention_heads or num_attention_heads
        self.decoder_intermediate_size = decoder_intermediate_size or intermediate_size
        self.num_decoder_layers = num_decoder_layers
        self.decoder_residual = decoder_residual
        self.decoder_warp = decoder_warp
        self.decoder_motion_map = decoder_motion_map
        self.motion_weight = motion_weight
        self.reconstruction_loss_weight = reconstruction_loss_weight
        self.codebook_loss_weight = codebook_loss_weight
        self.commitment_loss_weight = commitment_loss_weight
        self.layer_norm_eps = layer_norm_eps
        self.initializer_range = initializer_range
        self.strides = checked_strides(strides)
        self._check()
        super().__init__(**kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """Load from "lara-lam" (bundled), a folder or a Hub id."""
        return super().from_pretrained(resolve_checkpoint(pretrained_model_name_or_path), *args, **kwargs)

    @classmethod
    def paper_exact(cls, **overrides: Any) -> "LatentActionConfig":
        """The paper's model and Eq. 3 as printed: codebook 0.25, commitment 1.0, no perceptual term, no code reset."""
        return cls(**{**_PAPER_SCALE, "strides": ["5f"], **overrides})

    @classmethod
    def moto(cls, **overrides: Any) -> "LatentActionConfig":
        """The configuration of published Moto and LARA weights: `paper_exact` with one segment row for both frames."""
        return cls(**{**_PAPER_SCALE, "segment_embedding": "shared", "strides": ["5f"], **overrides})

    @property
    def num_patches(self) -> int:
        """Patches of the frame decoder."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_frame_tokens(self) -> int:
        """P, the number of tokens of one frame from the vision encoder, CLS and registers included."""
        vision = self.vision_config
        special = _SPECIAL_TOKENS.get(vision.model_type, 1) + getattr(vision, "num_register_tokens", 0)
        return (vision.image_size // vision.patch_size) ** 2 + special

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weight of each named loss term; `sum(weight * losses[name])` is the loss."""
        return {
            "reconstruction": self.reconstruction_loss_weight,
            "codebook": self.codebook_loss_weight,
            "commitment": self.commitment_loss_weight,
        }

    def _check(self) -> None:
        check_types(self)
        positive: tuple[str, ...] = ("image_size", "patch_size", "hidden_size", "num_attention_heads")
        positive += ("intermediate_size", "num_m_former_layers", "num_decoder_layers", "num_latents", "codebook_dim")
        positive += ("decoder_hidden_size", "decoder_num_attention_heads", "decoder_intermediate_size")
        self._check_positive(*positive)
        if self.decoder_warp and not self.decoder_residual:
            raise ValueError("decoder_warp needs decoder_residual: the warp applies to frame t. Set both, or neither.")
        self._check_codebook_sizes("codebook_size")
        self._check_divides("num_attention_heads", "hidden_size")
        self._check_divides("decoder_num_attention_heads", "decoder_hidden_size")
        self._check_divides("patch_size", "image_size")
        self._check_choices(
            {
                "patch_order": ("row_major", "shuffled"),
                "segment_embedding": ("per_frame", "shared"),
                "inverse_model": ("m_former", "matching"),
            }
        )
        self._check_positive("motion_channels")
        if self.inverse_model == "matching" and self.vision_config.model_type != FrameEncoderConfig.model_type:
            raise ValueError(
                "inverse_model 'matching' compares the features of a 'latent_action_frames' encoder, and vision_config "
                f"is a {self.vision_config.model_type!r}. Set vision_config.model_type, or take 'm_former'."
            )
        if self.inverse_model == "matching" and self.standardize_latents:
            raise ValueError("standardize_latents belongs to the M-Former; set it to false for 'matching'.")
        for name in ("continuous_steps", "dead_code_steps", "dead_code_share", "motion_weight", *_WEIGHTS):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} ({getattr(self, name)}) must not be negative.")
        if self.reconstruction_loss_weight == 0 and not self.freeze_vision_encoder:
            raise ValueError(
                "reconstruction_loss_weight is 0 and the vision encoder is trained: nothing would keep the latents "
                "from collapsing. Give it a weight, or freeze_vision_encoder=True."
            )
        self._check_vision()
        if self.decoder_motion_map and (self.inverse_model != "matching" or self.patch_size != CELL):
            raise ValueError(
                f"decoder_motion_map needs inverse_model 'matching' and patch_size {CELL}, the cells of its motion "
                f"map; they are {self.inverse_model!r} and {self.patch_size}."
            )

    def _check_vision(self) -> None:
        vision = self.vision_config
        for name in ("hidden_size", "image_size", "patch_size"):
            if not isinstance(getattr(vision, name, None), int):
                raise ValueError(
                    f"vision_config ({vision.model_type}) has no integer {name}. "
                    "Take the config of a vision transformer, e.g. vit_mae, dinov2 or siglip_vision_model."
                )
        self._check_positive(*(f"vision_config.{name}" for name in ("hidden_size", "image_size", "patch_size")))
        if getattr(vision, "num_hidden_layers", None):
            self._check_positive("vision_config.num_hidden_layers")
        if vision.image_size != self.image_size:
            raise ValueError(
                f"vision_config.image_size ({vision.image_size}) and image_size ({self.image_size}) differ: both "
                "see the same frames. Set them alike."
            )
        self._check_divides("vision_config.patch_size", "image_size")
        if self.patch_order == "shuffled" and vision.model_type != "vit_mae":
            raise ValueError(f"patch_order 'shuffled' exists for vit_mae only, not for {vision.model_type}.")


_WEIGHTS = ("reconstruction_loss_weight", "codebook_loss_weight", "commitment_loss_weight")


def _vision_config(given: Mapping[str, Any] | PretrainedConfig | None, image_size: int, patch_size: int) -> Any:
    if given is None:
        given = {**_SMALL_VIT_MAE, "image_size": image_size, "patch_size": patch_size}
    if isinstance(given, Mapping):
        given = dict(given)
        if "model_type" not in given:
            raise ValueError("vision_config needs a model_type, e.g. 'vit_mae' or 'dinov2'.")
        model_type = given.pop("model_type")
        # By its class, since AutoConfig does not know it where only these files are installed.
        is_own = model_type == FrameEncoderConfig.model_type
        given = FrameEncoderConfig(**given) if is_own else vision_config_of(given, model_type)
    if not isinstance(given, PretrainedConfig):
        raise ValueError(f"vision_config is a {type(given).__name__}; it takes the fields of a config.")
    if given.model_type == "vit_mae":
        # Published ViT-MAE configs store the pre-training ratio 0.75; a tokenizer needs every patch.
        given.mask_ratio = 0.0
    return given
