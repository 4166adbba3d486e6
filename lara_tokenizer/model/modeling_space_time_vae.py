"""The latent action model of AdaWorld (arXiv 2503.18938) and DreamDojo: two frames to one continuous z, and back.

The two differ only in depth (github Little-Podi/AdaWorld, lam/; NVIDIA/DreamDojo, external/lam_project/):

  encoder   patches of both frames, in pixels, after a learned token for each frame; alternating over space and time
  z         the second frame's token -> mean and log variance. z is the mean: there is no sampling here
  decoder   patches of frame t, plus z at every patch, through layers within the frame; a sigmoid gives pixels in 0..1

Shape suffixes: B batch, P patches of a frame, Q values of a patch, H width, N = 1 latent token, D its width.
"""

import torch
from torch import Tensor, nn

# Imported so that save_pretrained copies these files too: transformers 4 copies direct imports only.
from .bottleneck_vq import VectorQuantizerOutput  # noqa: F401
from .bundled import resolve_checkpoint  # noqa: F401
from .configuration_base import LatentActionBaseConfig  # noqa: F401
from .configuration_space_time_vae import SpaceTimeVaeConfig
from .loading import load_complete  # noqa: F401
from .modeling_base import LatentActionEncoderOutput, LatentActionPreTrainedModel
from .space_time_transformer import SpaceTimeTransformer
from .strides import checked_strides  # noqa: F401


class SpaceTimeVaeModel(LatentActionPreTrainedModel):
    """Frame pairs to a continuous latent action, and latent actions to predicted frames.

    >>> model = SpaceTimeVaeModel.from_pretrained("adaworld-lam").eval()  # doctest: +SKIP
    >>> out = model.encode(**processor(frames[:-2], frames[2:]))  # doctest: +SKIP
    >>> out.latents.shape, out.codes  # doctest: +SKIP
    (torch.Size([40, 1, 32]), None)
    """

    config: SpaceTimeVaeConfig
    config_class = SpaceTimeVaeConfig

    def __init__(self, config: SpaceTimeVaeConfig) -> None:
        super().__init__(config)
        width, heads, eps = config.hidden_size, config.num_attention_heads, config.layer_norm_eps
        values = 3 * config.patch_size**2
        self.action_token = nn.Parameter(torch.empty(values))
        self.encoder = SpaceTimeTransformer(values, width, heads, config.num_encoder_layers, "rotary", eps)
        self.encoder_output = nn.Linear(width, width)
        self.to_moments = nn.Linear(width, 2 * config.codebook_dim)
        self.embed_patches = nn.Linear(values, width)
        self.embed_latents = nn.Linear(config.codebook_dim, width)
        self.decoder = SpaceTimeTransformer(width, width, heads, config.num_decoder_layers, None, eps)
        self.to_pixels = nn.Linear(width, values)
        self.post_init()

    def get_frame_features(self, pixel_values: Tensor) -> Tensor:
        """Frames (B, 3, height, width), pixels in 0..1 -> patches (B, P, Q), row by row.

        The values of a patch are in the order row, column, colour.

        Raises ValueError for frames of another size.
        """
        self._check_frames(pixel_values, self.config.image_height, self.config.image_width)
        patch = self.config.patch_size
        grid = pixel_values.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # B, 3, down, row, across, column
        return grid.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)

    def infer_latents(
        self, frame_features: Tensor, future_frame_features: Tensor, output_attentions: bool = False
    ) -> tuple[Tensor, None]:
        """Patches of frame t and of frame t+C, each (B, P, Q) -> z (B, 1, D), and no attention maps.

        Raises ValueError for output_attentions: attention within frames and over time has no single map.
        """
        self._refuse_attentions(output_attentions)
        self._check_features(self.config.num_patches, len(self.action_token), frame_features, future_frame_features)
        patches_B2PQ = torch.stack([frame_features, future_frame_features], 1)
        token = self.action_token.to(patches_B2PQ.dtype).expand(len(patches_B2PQ), 2, 1, -1)
        hidden_B2LH = self.encoder(torch.cat([token, patches_B2PQ], 2))
        # As in AdaWorld, z comes from the second frame's token; log variances, the second half, are not used here.
        moments_BD = self.to_moments(self.encoder_output(hidden_B2LH[:, 1, 0]))
        return moments_BD[:, : self.config.codebook_dim].unsqueeze(1), None

    def _quantize(self, latents: Tensor) -> LatentActionEncoderOutput:
        """Return z (B, 1, D) unchanged: there are no codes."""
        self._check_latents(latents, 1)
        return LatentActionEncoderOutput(latents=latents, quantized_latents=latents)

    def _decode(self, pixel_values: Tensor, codes: Tensor | None, quantized_latents: Tensor | None) -> Tensor:
        """Frame t (B, 3, height, width) and z (B, 1, D) -> frame t+C (B, 3, height, width), pixels in 0..1."""
        if codes is not None or quantized_latents is None:
            raise ValueError(
                f"{type(self).__name__} is continuous and has no codes: decode takes quantized_latents, which are "
                "the latents themselves."
            )
        self._check_latents(quantized_latents, 1)
        patches_BPH = self.embed_patches(self.get_frame_features(pixel_values)) + self.embed_latents(quantized_latents)
        decoded_BPQ = self.to_pixels(self.decoder(patches_BPH.unsqueeze(1)).squeeze(1)).sigmoid()
        patch, across = self.config.patch_size, self.config.image_width // self.config.patch_size
        grid = decoded_BPQ.unflatten(2, (patch, patch, 3)).unflatten(1, (-1, across))
        return grid.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)

    def _init_weights(self, module: nn.Module) -> None:
        """Initialize the tensors of one module as the base class does, and the action token uniformly in +-1."""
        super()._init_weights(module)
        if isinstance(module, SpaceTimeVaeModel):
            nn.init.uniform_(module.action_token, -1, 1)


__all__ = ["SpaceTimeVaeModel"]
