"""LAPA's latent action quantizer, for labels and reconstructions (LAPA, arXiv 2410.11758, Sec. 3.1).

Written from its description and the published weights' names; checked against the original on random weights
(benchmarks/peer_parity/lapa.py).

Shape suffixes: B batch, T frames, P patches of a frame, H width, N latent tokens, D codebook dimension, S side of a
frame in pixels, G patches along it.
"""

import torch
from torch import Tensor, nn

from .bottleneck_vq import Codebook, VectorQuantizer

# Imported so that save_pretrained copies these files too: transformers 4 copies direct imports only.
from .bundled import resolve_checkpoint  # noqa: F401
from .configuration_base import LatentActionBaseConfig  # noqa: F401
from .configuration_laq import SECOND_CONVOLUTION, LaqConfig
from .laq_transformer import LaqTransformer, RelativePositionBias, UnitAttention
from .loading import load_complete  # noqa: F401
from .modeling_base import LatentActionPreTrainedModel
from .strides import checked_strides  # noqa: F401


class LatentConvolutions(nn.Module):
    """Tokens of frames (B, T, P, H) -> (B, T, N, D): projection to D, then convolutions reduce the grid to N cells."""

    def __init__(self, config: LaqConfig) -> None:
        super().__init__()
        dim, second = config.codebook_dim, SECOND_CONVOLUTION[config.num_latents]
        self.side = config.patches_per_side
        self.project = nn.Linear(config.hidden_size, dim)
        self.convolution = nn.Conv2d(dim, dim, 3, stride=2, padding=1)
        self.second_convolution = None if second is None else nn.Conv2d(dim, dim, *second)

    def forward(self, tokens_BTPH: Tensor) -> Tensor:
        batch, frames = tokens_BTPH.shape[:2]
        grid = self.project(tokens_BTPH).flatten(0, 1).transpose(1, 2).unflatten(2, (self.side, self.side))
        reduced = self.convolution(grid)
        if self.second_convolution is not None:
            reduced = self.second_convolution(reduced.relu())
        return reduced.flatten(2).transpose(1, 2).unflatten(0, (batch, frames))


class PatchEmbedding(nn.Module):
    """Frames (B, 3, S, S) -> (B, P, H): layer norm of a patch's pixels, linear, layer norm."""

    def __init__(self, config: LaqConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        values = 3 * config.patch_size**2
        self.norm_pixels = nn.LayerNorm(values)
        self.project = nn.Linear(values, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, pixel_values: Tensor) -> Tensor:
        size = self.patch_size
        patches_B3GGpp = pixel_values.unfold(2, size, size).unfold(3, size, size)
        pixels_BPp = patches_B3GGpp.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
        return self.norm(self.project(self.norm_pixels(pixels_BPp)))


class LaqModel(LatentActionPreTrainedModel):
    """Frame pairs to the codes and latents of LAPA, and codes to predicted frames, from published weights.

    z is the output of two convolutions on the later frame minus their output on the earlier one. There are no queries,
    and so no attention maps. The model is not trained here. Load it in float32: 16 bits round away much of a small
    difference of large values.

    >>> model = load_model("lapa-laq").eval()  # what lara-tok convert wrote  # doctest: +SKIP
    >>> out = model.encode(**processor(frames[:-5], frames[5:]))  # doctest: +SKIP
    >>> out.latents.shape, out.codes.shape  # doctest: +SKIP
    (torch.Size([40, 4, 32]), torch.Size([40, 4]))
    """

    config: LaqConfig
    config_class = LaqConfig
    needs_float32 = True

    def __init__(self, config: LaqConfig) -> None:
        super().__init__(config)
        self.patches = PatchEmbedding(config)
        self.position_bias = RelativePositionBias(config)
        self.spatial_encoder = LaqTransformer(config, config.num_spatial_layers, "frames")
        self.temporal_encoder = LaqTransformer(config, config.num_temporal_layers, config.temporal_layout)
        self.to_latents = LatentConvolutions(config)
        # LAPA's NSVQ, without its training noise.
        self.bottleneck = VectorQuantizer(config.codebook_size, config.codebook_dim)
        self.from_latents = nn.Linear(config.codebook_dim, config.hidden_size)
        self.decoder = LaqTransformer(config, config.num_spatial_layers, "frames", reads_context=True)
        self.to_pixels = nn.Linear(config.hidden_size, 3 * config.patch_size**2)
        self.post_init()

    def get_frame_features(self, pixel_values: Tensor) -> Tensor:
        """Frames (B, 3, S, S) -> patch embeddings (B, P, H).

        Later layers see the previous frame, so nothing more can be computed of a single frame.
        """
        self._check_frames(pixel_values, self.config.image_size, self.config.image_size)
        return self.patches(pixel_values)

    def infer_latents(
        self, frame_features: Tensor, future_frame_features: Tensor, output_attentions: bool = False
    ) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """Patch embeddings of frame t and of frame t+C, each (B, P, H) -> z (B, N, D), and None."""
        if output_attentions:
            raise ValueError("LaqModel has no queries whose attention could be shown. Leave out output_attentions.")
        self._check_features(self.config.num_patches, self.config.hidden_size, frame_features, future_frame_features)
        tokens_BTPH = torch.stack([frame_features, future_frame_features], 1)
        tokens_BTPH = self.spatial_encoder(tokens_BTPH, self.position_bias())
        tokens_BTPH = self.temporal_encoder(tokens_BTPH.transpose(1, 2)).transpose(1, 2)
        # Autocast would round away much of this difference of similar values. More is lost in the layers before, which
        # only float32 weights avoid (`needs_float32`).
        with torch.autocast(tokens_BTPH.device.type, enabled=False):
            now_BND, future_BND = self.to_latents(tokens_BTPH.to(self.from_latents.weight.dtype)).unbind(1)
        return future_BND - now_BND, None

    def _decode(self, pixel_values: Tensor, codes: Tensor | None, quantized_latents: Tensor | None) -> Tensor:
        quantized_BND = self._quantized_latents("decode", codes, quantized_latents)
        self._check_latents(quantized_BND, self.config.num_latents)
        frame_B1PH = self.get_frame_features(pixel_values).unsqueeze(1)
        action_BNH = self.from_latents(self._action_tokens(quantized_BND))
        tokens_BPH = self.decoder(frame_B1PH, self.position_bias(), action_BNH).squeeze(1)
        return self._frames(self.to_pixels(tokens_BPH))

    def _action_tokens(self, quantized_BND: Tensor) -> Tensor:
        if self.config.latent_layout == "per_code":
            return quantized_BND
        # LAPA's published reshape: it distributes every code vector over all tokens.
        return quantized_BND.reshape(len(quantized_BND), self.config.codebook_dim, -1).transpose(1, 2)

    def _frames(self, pixels_BPp: Tensor) -> Tensor:
        """The pixels of patches (B, P, 3 * patch^2) -> (B, 3, S, S)."""
        side, size = self.config.patches_per_side, self.config.patch_size
        patches = pixels_BPp.unflatten(2, (3, size, size)).unflatten(1, (side, side))
        return patches.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)

    def _init_weights(self, module: nn.Module) -> None:
        """Initialize the tensors of one module, as in the original.

        | tensor                                                    | start                                |
        | weights and biases of linear layers and of convolutions   | PyTorch's: uniform, 1 / sqrt(inputs) |
        | layer norms                                               | 1 and 0                              |
        | scales of queries and keys                                | 1                                    |
        | null tokens, codebook                                     | normal, 1                            |
        | counters                                                  | 0                                    |
        """
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)):
            bound = module.weight[0].numel() ** -0.5
            nn.init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                nn.init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, UnitAttention):
            nn.init.ones_(module.query_scale)
            nn.init.ones_(module.key_scale)
            if module.null is not None:
                nn.init.normal_(module.null)
        elif isinstance(module, Codebook):
            nn.init.normal_(module.weight)
        else:
            super()._init_weights(module)


__all__ = ["LaqModel"]
