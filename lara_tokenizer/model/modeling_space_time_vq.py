"""UniVLA's task-centric latent action model (arXiv 2505.06111, second stage): two frames to a few task codes.

Its parts (github OpenDriveLab/UniVLA, latent_action_model/, commit 0ab9e9d):

  features   patch tokens of a frozen DINOv2 with registers, after its last norm
  encoder    [task tokens | nuisance tokens | patches] of each frame; alternating within frames and back in time
  codes      the task tokens of the second frame -> z -> nearest of K codes. The nuisance tokens have codes of their
             own, which are not part of the action
  decoder    [task codes | nuisance codes | patches of frame t] -> the DINOv2 features of frame t+C. It predicts
             features, not pixels: call `predict_features`; `decode` raises

Shape suffixes: B batch, P patches of a frame, V width of DINOv2, H width, N task tokens, M nuisance tokens,
D codebook dimension.
"""

import torch
from torch import Tensor, nn
from transformers import AutoModel

from .bottleneck_vq import VectorQuantizer

# Imported so that save_pretrained copies these files too: transformers 4 copies direct imports only.
from .bundled import resolve_checkpoint  # noqa: F401
from .configuration_base import LatentActionBaseConfig  # noqa: F401
from .configuration_space_time_vq import SpaceTimeVqConfig
from .loading import load_complete  # noqa: F401
from .modeling_base import LatentActionEncoderOutput, LatentActionPreTrainedModel
from .space_time_transformer import SpaceTimeTransformer
from .strides import checked_strides  # noqa: F401


class SpaceTimeVqModel(LatentActionPreTrainedModel):
    """Frame pairs to task codes, and codes to the predicted features of frame t+C.

    >>> model = SpaceTimeVqModel.from_pretrained("univla-lam").eval()  # doctest: +SKIP
    >>> model.encode(**processor(frames[:-9], frames[9:])).codes.shape  # doctest: +SKIP
    torch.Size([40, 4])
    """

    config: SpaceTimeVqConfig
    config_class = SpaceTimeVqConfig
    predicts_frames = False

    def __init__(self, config: SpaceTimeVqConfig) -> None:
        super().__init__(config)
        width, heads, eps = config.hidden_size, config.num_attention_heads, config.layer_norm_eps
        features, dim = config.vision_config.hidden_size, config.codebook_dim
        self.vision_encoder = AutoModel.from_config(config.vision_config)
        self.task_tokens = nn.Parameter(torch.empty(config.num_latents, features))
        self.nuisance_tokens = nn.Parameter(torch.empty(config.num_nuisance_latents, features))
        self.encoder = SpaceTimeTransformer(features, width, heads, config.num_encoder_layers, "causal", eps)
        self.to_latents = nn.Linear(width, dim)
        self.to_nuisance = nn.Linear(width, dim)
        self.bottleneck = VectorQuantizer(config.codebook_size, dim)
        self.nuisance_bottleneck = VectorQuantizer(config.nuisance_codebook_size, dim)
        self.embed_features = nn.Linear(features, width)
        self.embed_latents = nn.Linear(dim, width)
        self.embed_nuisance = nn.Linear(dim, width)
        self.decoder = SpaceTimeTransformer(width, width, heads, config.num_decoder_layers, None, eps)
        self.to_features = nn.Linear(width, features)
        self.freeze()
        self.post_init()

    def freeze(self) -> None:
        """Disable gradients of DINOv2."""
        self.vision_encoder.requires_grad_(False)

    @torch.no_grad()
    def get_frame_features(self, pixel_values: Tensor) -> Tensor:
        """Frames (B, 3, S, S) from the processor -> DINOv2's normed patch tokens (B, P, V), row by row.

        Raises ValueError for frames of another size.
        """
        self._check_frames(pixel_values, self.config.image_size, self.config.image_size)
        tokens = self.vision_encoder(pixel_values=pixel_values).last_hidden_state
        return tokens[:, -self.config.num_patches :]  # after the class token and the registers

    def infer_latents(
        self, frame_features: Tensor, future_frame_features: Tensor, output_attentions: bool = False
    ) -> tuple[Tensor, None]:
        """Features of frame t and of frame t+C, each (B, P, V) -> z of the task (B, N, D), and no attention maps.

        Raises ValueError for output_attentions: attention within frames and over time has no single map.
        """
        self._refuse_attentions(output_attentions)
        tokens_BLH = self._encode(frame_features, future_frame_features)
        return self.to_latents(tokens_BLH[:, : self.config.num_latents]), None

    def encode_nuisance(self, frame_features: Tensor, future_frame_features: Tensor) -> LatentActionEncoderOutput:
        """Encode the nuisance tokens: changes between the frames (B, P, V) that are not the task."""
        tokens_BLH = self._encode(frame_features, future_frame_features)
        latents = self.to_nuisance(tokens_BLH[:, self.config.num_latents :])
        return self._quantized(latents, self.nuisance_bottleneck)

    def _decode(self, pixel_values: Tensor, codes: Tensor | None, quantized_latents: Tensor | None) -> Tensor:
        """Raise ValueError: this decoder predicts features, not frames."""
        raise ValueError(
            f"{type(self).__name__} predicts the DINOv2 features of the later frame, not its pixels: there is no frame "
            "to show or to measure. predict_features gives the features."
        )

    def predict_features(
        self,
        frame_features: Tensor,
        *,
        codes: Tensor | None = None,
        quantized_latents: Tensor | None = None,
        nuisance_codes: Tensor,
    ) -> Tensor:
        """Features of frame t (B, P, V) and a latent action -> features of frame t+C (B, P, V).

        Args:
            codes, quantized_latents: of the task, (B, N) or (B, N, D); one of the two.
            nuisance_codes: (B, M) from `encode_nuisance`: the decoder was trained with them and has no default.
        """
        task_BND = self._quantized_latents("predict_features", codes, quantized_latents)
        self._check_frame_features(frame_features)
        nuisance_BMD = self.nuisance_bottleneck.lookup(nuisance_codes)
        self._check_latents(task_BND, self.config.num_latents)
        self._check_latents(nuisance_BMD, self.config.num_nuisance_latents)
        tokens = [
            self.embed_latents(task_BND),
            self.embed_nuisance(nuisance_BMD),
            self.embed_features(frame_features),
        ]
        hidden_BLH = self.decoder(torch.cat(tokens, 1).unsqueeze(1)).squeeze(1)
        return self.to_features(hidden_BLH[:, -frame_features.shape[1] :])

    def _check_frame_features(self, *features: Tensor) -> None:
        self._check_features(self.config.num_patches, self.config.vision_config.hidden_size, *features)

    def _encode(self, frame_BPV: Tensor, future_BPV: Tensor) -> Tensor:
        """Task and nuisance tokens of the second frame, (B, N + M, H)."""
        self._check_frame_features(frame_BPV, future_BPV)
        frames_B2PV = torch.stack([frame_BPV, future_BPV], 1)
        tokens = torch.cat([self.task_tokens, self.nuisance_tokens]).to(frames_B2PV.dtype)
        sequence_B2LV = torch.cat([tokens.expand(len(frames_B2PV), 2, -1, -1), frames_B2PV], 2)
        return self.encoder(sequence_B2LV)[:, 1, : len(tokens)]

    def _init_weights(self, module: nn.Module) -> None:
        """Initialize the tensors of one module as the base class does, and the tokens uniformly in +-1."""
        super()._init_weights(module)
        if isinstance(module, SpaceTimeVqModel):
            nn.init.uniform_(module.task_tokens, -1, 1)
            nn.init.uniform_(module.nuisance_tokens, -1, 1)


__all__ = ["SpaceTimeVqModel"]
