"""LARA's latent action model: two frames to a few codes and a continuous z, and back (arXiv 2606.07100, Eq. 3).

Shape suffixes: B batch, P tokens of a frame, V width of the vision encoder, N latent tokens, D codebook dimension,
H width of the decoder.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import ModelOutput

from .bottleneck_vq import VectorQuantizer, VectorQuantizerOutput, perplexity

# Imported so that save_pretrained copies these files too: transformers 4 copies direct imports only.
from .bundled import resolve_checkpoint  # noqa: F401
from .configuration_base import LatentActionBaseConfig  # noqa: F401
from .configuration_frame_encoder import FrameEncoderConfig
from .configuration_latent_action import LatentActionConfig
from .frame_decoder import FlowHead, FrameDecoder, MotionOfLatents, PixelHead
from .frame_encoder import FrameEncoder, MapConv, init_frame_encoder
from .frame_features import frame_features
from .loading import load_complete  # noqa: F401
from .m_former import MFormer
from .matching import SHARPNESS, MatchingInverseModel, ToLatents
from .modeling_base import LatentActionEncoderOutput, LatentActionPreTrainedModel
from .strides import checked_strides  # noqa: F401
from .transformer import Transformer, TransformerLayer  # noqa: F401


@dataclass
class LatentActionOutput(ModelOutput):
    """Output of `forward`: the loss, its named terms, and the outputs of encoder and decoder.

    Attributes:
        loss (): the weighted sum of `losses`.
        losses: scalars "reconstruction", "codebook" and "commitment", unweighted.
        perplexity (): of the codes of this batch, pooled over positions.
        reconstruction (B, 3, S, S): the predicted frame t+C, in the space of `pixel_values`.
        latents, codes, quantized_latents, code_margin: as in `LatentActionEncoderOutput`.
        motion_map (B, M, G, G): of the matching inverse model, which z is a linear function of; None for the M-Former.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    perplexity: Tensor | None = None
    reconstruction: Tensor | None = None
    latents: Tensor | None = None
    codes: Tensor | None = None
    quantized_latents: Tensor | None = None
    code_margin: Tensor | None = None
    motion_map: Tensor | None = None


class ResamplerLinear(nn.Linear):
    """A linear layer with PyTorch's own initialization, around the codebook.

    Named after these layers' tensors in Moto's checkpoints, `vq_down_resampler` and `vq_up_resampler`.
    """


class Standardizer(nn.BatchNorm1d):
    """Batch norm without affine over the D components of every latent, (M, D) -> (M, D)."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__(dim, affine=False)


class InverseDynamicsModel(nn.Module):
    """Features of two frames -> z (B, N, D): M-Former, then H -> H -> tanh -> D (LARA A.1)."""

    def __init__(self, config: LatentActionConfig) -> None:
        super().__init__()
        width, dim = config.hidden_size, config.codebook_dim
        # The reference implementation uses the decoder's width here; at the paper's scale all three are 768.
        middle = config.decoder_hidden_size
        self.m_former = MFormer(config)
        self.to_latents = nn.Sequential(ResamplerLinear(width, middle), nn.Tanh(), ResamplerLinear(middle, dim))
        # Without batch norm z starts nearly constant, and the decoder never learns to use it, unless z has a target of
        # its own (`flow_weight`).
        self.standardize = Standardizer(dim) if config.standardize_latents else None

    def forward(
        self, frame_BPV: Tensor, future_BPV: Tensor, output_attentions: bool = False
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        queries_BNH, attentions = self.m_former(frame_BPV, future_BPV, output_attentions)
        # Early in training z varies by a thousandth of its mean, which bfloat16 autocast would round away.
        with torch.autocast(queries_BNH.device.type, enabled=False):
            latents_BND = self.to_latents(queries_BNH.to(self.to_latents[0].weight.dtype))
        if self.standardize is not None:
            latents_BND = self.standardize(latents_BND.flatten(0, 1)).view_as(latents_BND)
        return latents_BND, attentions

    @torch.no_grad()
    def fold_standardization(self) -> None:
        """Move the batch norm's running statistics into the last linear layer; eval outputs stay the same."""
        if self.standardize is None:
            return
        last, norm = self.to_latents[-1], self.standardize
        assert isinstance(last, ResamplerLinear)
        # (W x + b - mean) * scale is again a linear layer: W * scale, (b - mean) * scale.
        scale_D = (norm.running_var + norm.eps).rsqrt()
        last.weight.mul_(scale_D.unsqueeze(1))
        last.bias.sub_(norm.running_mean).mul_(scale_D)
        self.standardize = None


class ForwardDynamicsModel(nn.Module):
    """Frame t and quantized latents -> frame t+C: D -> D -> tanh -> H, then the frame decoder.

    With `decoder_motion_map` the decoder reads the latents as they are.
    """

    def __init__(self, config: LatentActionConfig) -> None:
        super().__init__()
        dim, width = config.codebook_dim, config.decoder_hidden_size
        self.from_latents: nn.Module = nn.Identity()
        if not config.decoder_motion_map:
            self.from_latents = nn.Sequential(ResamplerLinear(dim, dim), nn.Tanh(), ResamplerLinear(dim, width))
        self.decoder = FrameDecoder(config)

    def forward(self, pixel_values: Tensor, quantized_BND: Tensor) -> Tensor:
        return self.decoder(pixel_values, self.from_latents(quantized_BND))


class LatentActionModel(LatentActionPreTrainedModel):
    """Frame pairs to continuous and quantized latent actions, and latent actions to predicted frames.

    >>> model = LatentActionModel.from_pretrained("lara-lam").eval()  # doctest: +SKIP
    >>> out = model.encode(**processor(frames[:-5], frames[5:]))  # doctest: +SKIP
    >>> out.latents.shape, out.codes.shape  # doctest: +SKIP
    (torch.Size([40, 8, 32]), torch.Size([40, 8]))
    """

    config: LatentActionConfig
    config_class = LatentActionConfig

    def __init__(self, config: LatentActionConfig) -> None:
        super().__init__(config)
        self.vision_encoder: Any = _vision_encoder(config.vision_config)
        matching = config.inverse_model == "matching"
        self.inverse_dynamics: Any = MatchingInverseModel(config) if matching else InverseDynamicsModel(config)
        positions = config.num_latents if config.separate_codebooks else 1
        self.bottleneck = VectorQuantizer(config.codebook_size, config.codebook_dim, positions)
        self.forward_dynamics = ForwardDynamicsModel(config)
        self.freeze()
        self.post_init()

    def freeze(self) -> None:
        """Disable gradients of the vision encoder where the config keeps it frozen."""
        if self.config.freeze_vision_encoder:
            self.vision_encoder.requires_grad_(False)

    @classmethod
    def from_vision_pretrained(cls, vision_encoder: str, **config_overrides: Any) -> "LatentActionModel":
        """Build a new latent action model around a pretrained vision encoder, or that of a two-tower model.

        >>> LatentActionModel.from_vision_pretrained("facebook/dinov2-base", image_size=224)  # doctest: +SKIP
        """
        vision_config = AutoConfig.from_pretrained(vision_encoder)
        vision_config = getattr(vision_config, "vision_config", vision_config)
        encoder = AutoModel.from_pretrained(vision_encoder, config=vision_config)
        # The constructor initializes all weights, so the pretrained ones are loaded afterwards.
        model = cls(LatentActionConfig(vision_config=vision_config, **config_overrides))
        model.vision_encoder.load_state_dict(encoder.state_dict())
        return model

    def get_frame_features(self, pixel_values: Tensor) -> Tensor:
        """Frames (B, 3, S, S) -> tokens (B, P, V) of the vision encoder, in a fixed patch order."""
        # A frozen encoder needs no graph: without it training takes much less memory.
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_vision_encoder):
            return frame_features(self.vision_encoder, pixel_values, self.config.patch_order)

    def infer_latents(
        self, frame_features: Tensor, future_frame_features: Tensor, output_attentions: bool = False
    ) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        latents_BND, attentions = self.inverse_dynamics(frame_features, future_frame_features, output_attentions)
        return latents_BND, attentions if output_attentions else None

    def _decode(self, pixel_values: Tensor, codes: Tensor | None, quantized_latents: Tensor | None) -> Tensor:
        return self.forward_dynamics(pixel_values, self._quantized_latents("decode", codes, quantized_latents))

    def forward(
        self,
        pixel_values: Tensor,
        future_pixel_values: Tensor,
        *,
        views: tuple[Tensor, Tensor] | None = None,
        features: tuple[Tensor, Tensor] | None = None,
        pair_mask: Tensor | None = None,
        detach_latents: bool = False,
    ) -> LatentActionOutput:
        """Eq. 3: reconstruct frame t+C from frame t and the quantized latent action.

        Args:
            pixel_values, future_pixel_values: (B, 3, S, S) from the processor.
            views: the two frames for the inverse model, where they differ from the decoder's input and target (cross
                augmentation); each (B, 3, S, S).
            features: of the two frames, if already computed; each (B, P, V) from `get_frame_features`.
            pair_mask: bool (B,); pairs that are False (e.g. without a real future frame) are left out of the losses.
            detach_latents: give decoder and codebook z without its gradient: z then learns from losses of its own only.
        """
        if features is None:
            seen = (pixel_values, future_pixel_values) if views is None else views
            # Both frames as one batch: one pass of the vision encoder.
            frame_BPV, future_BPV = self.get_frame_features(torch.cat(seen)).chunk(2)
        else:
            frame_BPV, future_BPV = features
        motion_map = None
        if isinstance(self.inverse_dynamics, MatchingInverseModel):
            motion_map = self.inverse_dynamics.motion_map(frame_BPV, future_BPV)
            latents_BND = self.inverse_dynamics.read_latents(motion_map)
        else:
            latents_BND, _ = self.inverse_dynamics(frame_BPV, future_BPV)
        read_BND = latents_BND.detach() if detach_latents else latents_BND
        quantized: VectorQuantizerOutput = self.bottleneck(read_BND)
        reconstruction = self.forward_dynamics(pixel_values, quantized.quantized_latents)
        per_pair = {
            "reconstruction": self._reconstruction_loss(reconstruction, pixel_values, future_pixel_values, pair_mask),
            "codebook": quantized.codebook_loss,
            "commitment": quantized.commitment_loss,
        }
        losses = {name: _masked_mean(loss_B, pair_mask) for name, loss_B in per_pair.items()}
        weights = self.config.loss_weights
        return LatentActionOutput(
            loss=torch.stack([weights[name] * value for name, value in losses.items()]).sum(),
            losses=losses,
            perplexity=perplexity(quantized.codes, self.config.codebook_size),
            reconstruction=reconstruction,
            latents=latents_BND,
            codes=quantized.codes,
            quantized_latents=quantized.quantized_latents,
            code_margin=quantized.code_margin,
            motion_map=motion_map,
        )

    def fold_standardization(self) -> None:
        """Fold the batch norm of training into the last linear layer, for saving; eval outputs stay the same."""
        self.inverse_dynamics.fold_standardization()
        self.config.standardize_latents = False

    def _init_weights(self, module: nn.Module) -> None:
        """Initialize the tensors of one module; tensors that are missing in a checkpoint get the same values.

        | tensor                                             | start                               |
        | linear and convolution weights                     | truncated normal, initializer_range |
        | queries, separator, segments, positions            | truncated normal, initializer_range |
        | biases                                             | 0                                   |
        | resamplers (`ResamplerLinear`), weight and bias    | PyTorch's: uniform, 1 / sqrt(in)    |
        | layer norms                                        | 1 and 0                             |
        | codebook                                           | uniform in +-1 / K                  |
        | heads of a residual decoder                        | 0: it initially copies frame t      |
        | counters, batch norm statistics                    | 0; mean 0, variance 1               |
        | matching inverse model: convolutions; sharpness    | as in `FrameEncoder`; 12            |
        | ... from the motion map to z, and back             | normal, 1 / sqrt(in)                |
        """
        std = self.config.initializer_range
        if isinstance(module, MatchingInverseModel):
            nn.init.constant_(module.sharpness, SHARPNESS)
        elif isinstance(module, (ToLatents, MotionOfLatents)):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            nn.init.zeros_(module.bias)
        elif isinstance(module, (MapConv, nn.BatchNorm2d)):
            init_frame_encoder(module)
        elif isinstance(module, ResamplerLinear):
            bound = module.in_features**-0.5
            nn.init.uniform_(module.weight, -bound, bound)
            nn.init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, (nn.Linear, nn.Conv2d)):
            # A residual decoder starts as the identity, and learns the change from there.
            if isinstance(module, FlowHead) or (isinstance(module, PixelHead) and module.residual):
                nn.init.zeros_(module.weight)
            else:
                nn.init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, MFormer):
            for parameter in (module.queries, module.separator, module.positions, module.segments):
                nn.init.trunc_normal_(parameter, std=std)
        elif isinstance(module, FrameDecoder):
            nn.init.trunc_normal_(module.positions, std=std)
        elif isinstance(module, Standardizer):
            nn.init.zeros_(module.running_mean)
            nn.init.ones_(module.running_var)
            nn.init.zeros_(module.num_batches_tracked)
        else:
            super()._init_weights(module)

    def _reconstruction_loss(
        self, reconstruction: Tensor, now: Tensor, future: Tensor, pair_mask: Tensor | None
    ) -> Tensor:
        """Squared error per pair (B,), weighted by pixel change; weights average 1 over pixels of unmasked pairs."""
        # Squares of bfloat16 differences would lose small errors.
        error = (reconstruction.float() - future.float()).square()
        if self.config.motion_weight:
            # Most pixels of a robot video do not move: unweighted, the decoder would learn to copy frame t.
            change = (future - now).abs().mean(1, keepdim=True).float()
            weight = 1 + self.config.motion_weight * change
            # Every weight is at least 1; the clamp matters only where all pairs are masked.
            average = _mean_over_processes(_masked_mean(weight.mean((1, 2, 3)), pair_mask))
            error = error * (weight / average.clamp(min=1))
        return error.mean((1, 2, 3))


def _vision_encoder(config: Any) -> PreTrainedModel:
    """A vision encoder with random weights; ours by its class, which AutoModel knows only where we are installed."""
    # Not by isinstance: remote code may be imported twice, and each time has classes of its own.
    return FrameEncoder(config) if config.model_type == FrameEncoderConfig.model_type else AutoModel.from_config(config)


def _mean_over_processes(value: Tensor) -> Tensor:
    """Mean of a value without gradient over the processes of distributed training."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(value)
        value = value / dist.get_world_size()
    return value


def _masked_mean(values_B: Tensor, mask_B: Tensor | None) -> Tensor:
    """Mean over unmasked pairs; with several processes scaled so that their average is the mean over all pairs.

    Processes may hold unequal counts of masked pairs, so an average of their means would weight pairs unevenly.
    """
    if mask_B is None:
        return values_B.mean()
    used_B = mask_B.to(values_B.dtype)
    processes = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    count = used_B.sum()
    if processes > 1:
        dist.all_reduce(count)
    return (values_B * used_B).sum() * processes / count.clamp(min=1)


__all__ = [
    "ForwardDynamicsModel",
    "InverseDynamicsModel",
    "LatentActionEncoderOutput",
    "LatentActionModel",
    "LatentActionOutput",
]
