"""Base class of all latent action models: loading, and encoding of frame pairs to latents and codes.

A family is a model type of its own: a config with `num_latents`, `codebook_dim`, `codebook_size` (None: continuous) and
`strides`, and a subclass of `LatentActionPreTrainedModel` with `get_frame_features`, `infer_latents`, `_decode` and a
`bottleneck`, or a `_quantize` of its own. Code that uses models (encode, evaluate, the command line) depends only on
`get_frame_features`, `infer_latents`, `encode`, `quantize` and `decode`.

Shape suffixes: B batch, P tokens of a frame, V their width, N latent tokens, D codebook dimension.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .bottleneck_vq import Codebook, VectorQuantizer, VectorQuantizerOutput
from .bundled import resolve_checkpoint
from .configuration_base import LatentActionBaseConfig
from .loading import load_complete


@dataclass
class LatentActionEncoderOutput(ModelOutput):
    """Latent actions of a batch of pairs, from `encode` or `quantize`.

    Attributes:
        latents (B, N, D): z, before quantization; the target of the LARA alignment loss.
        codes (B, N): int64 in [0, K). None for a continuous bottleneck.
        quantized_latents (B, N, D): the vectors of the codes; the latents themselves for a continuous bottleneck.
        code_margin (B, N): squared distance to the second-best code minus that to the best. None without codes.
        attentions: maps (B, heads, T, T) of each layer with `output_attentions=True`; None otherwise.
    """

    latents: Tensor | None = None
    codes: Tensor | None = None
    quantized_latents: Tensor | None = None
    code_margin: Tensor | None = None
    attentions: tuple[Tensor, ...] | None = None


class LatentActionPreTrainedModel(PreTrainedModel):
    """Loading and encoding shared by the families of latent action models."""

    base_model_prefix = "latent_action"
    main_input_name = "pixel_values"
    _supports_sdpa = True
    config_class: type[LatentActionBaseConfig]
    bottleneck: VectorQuantizer  # absent for a continuous bottleneck
    predicts_frames = True  # False: `decode` raises, because the decoder predicts features, not frames
    needs_float32 = False  # True: 16-bit inference gives different codes

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """Load from "lara-lam" (bundled, offline), a folder or a Hub id.

        Raises ValueError for a checkpoint of another family, and one that lacks weights, or holds others, of other
        shapes or not finite; with output_loading_info=True the caller gets that report instead.
        """
        name = resolve_checkpoint(pretrained_model_name_or_path)
        loaded = load_complete(super().from_pretrained, name, *args, **kwargs)
        # transformers 5 makes every loaded parameter trainable. With output_loading_info a tuple comes back.
        (loaded[0] if isinstance(loaded, tuple) else loaded).freeze()
        return loaded

    def freeze(self) -> None:
        """Disable gradients of the parts that the config keeps frozen."""

    def get_frame_features(self, pixel_values: Tensor) -> Tensor:
        """Frames (B, 3, H, W) from the processor -> (B, P, V): the part of the encoder that sees a single frame."""
        raise NotImplementedError

    def infer_latents(
        self, frame_features: Tensor, future_frame_features: Tensor, output_attentions: bool = False
    ) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """Features of frame t and of frame t+C, each (B, P, V) -> z (B, N, D), and attention maps where requested."""
        raise NotImplementedError

    def quantize(self, latents: Tensor, *, requires_grad: bool = False) -> LatentActionEncoderOutput:
        """z (B, N, D) -> the nearest codes and their vectors. Raises ValueError for another shape.

        Without gradients, unless `requires_grad`: see `encode`.
        """
        with _gradients(requires_grad):
            return self._quantize(self._prepared("latents", latents))

    def decode(
        self,
        pixel_values: Tensor,
        *,
        codes: Tensor | None = None,
        quantized_latents: Tensor | None = None,
        requires_grad: bool = False,
    ) -> Tensor:
        """Frame t (B, 3, H, W) and a latent action, as codes (B, N) or vectors (B, N, D) -> frame t+C.

        The processor's `postprocess` makes it a picture again. Without gradients, unless `requires_grad`: see `encode`.
        """
        pixel_values = self._prepared("pixel_values", pixel_values)
        if quantized_latents is not None:
            quantized_latents = self._prepared("quantized_latents", quantized_latents)
        with _gradients(requires_grad):
            return self._decode(pixel_values, codes, quantized_latents)

    def _quantize(self, latents: Tensor) -> LatentActionEncoderOutput:
        self._check_latents(latents, self.config.num_latents)
        return self._quantized(latents, self.bottleneck)

    def _decode(self, pixel_values: Tensor, codes: Tensor | None, quantized_latents: Tensor | None) -> Tensor:
        """`decode`, in the dtype of the model: the part that a family implements."""
        raise NotImplementedError

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the training loss. Raises NotImplementedError for all families but `LatentActionModel`."""
        raise NotImplementedError(
            f"{type(self).__name__} is for inference: use encode and "
            f"{'decode' if self.predicts_frames else 'predict_features'}; only LatentActionModel can be trained."
        )

    def encode(
        self,
        pixel_values: Tensor | None = None,
        future_pixel_values: Tensor | None = None,
        *,
        frame_features: Tensor | None = None,
        future_frame_features: Tensor | None = None,
        output_attentions: bool = False,
        requires_grad: bool = False,
    ) -> LatentActionEncoderOutput:
        """Encode pairs to latent actions, without running the decoder.

        Args:
            pixel_values, future_pixel_values: (B, 3, H, W) from the processor, in any float dtype: frame t and t+C.
            frame_features, future_frame_features: (B, P, V) from `get_frame_features`, instead of pixels.
            output_attentions: also return attention maps (slower: eager attention).
            requires_grad: keep the graph, for a loss on z; by default the output has no gradient.

        Raises:
            ValueError: for a frame that is given in neither form, or in both; for frames that no processor prepared.
        """
        with _gradients(requires_grad):
            frame_BPV = self._features("pixel_values", pixel_values, frame_features)
            future_BPV = self._features("future_pixel_values", future_pixel_values, future_frame_features)
            latents_BND, attentions = self.infer_latents(frame_BPV, future_BPV, output_attentions)
            out = self._quantize(latents_BND)
        out.attentions = attentions
        return out

    def _prepared(self, name: str, values: Tensor) -> Tensor:
        """Values in the dtype of the model. Raises ValueError unless they are a tensor of floats."""
        if not isinstance(values, Tensor) or not values.is_floating_point():
            kind = values.dtype if isinstance(values, Tensor) else f"of type {type(values).__name__}"
            made = (
                "quantize and encode" if "latents" in name else "the processor: model.encode(**processor(now, later))"
            )
            raise ValueError(f"{name} are {kind}: takes a tensor of floats, as made by {made}.")
        return values.to(self.dtype)

    def _check_frames(self, pixel_values: Tensor, height: int, width: int) -> None:
        """Raise ValueError unless they are (B, 3, height, width)."""
        if pixel_values.ndim != 4 or pixel_values.shape[1:] != (3, height, width):
            raise ValueError(
                f"pixel_values are {tuple(pixel_values.shape)}, expected (batch, 3, {height}, {width}). Prepare frames "
                "with the model's own processor."
            )

    def _check_features(self, tokens: int, width: int, *features: Tensor) -> None:
        """Raise ValueError unless each is (B, tokens, width)."""
        for each in features:
            if each.ndim != 3 or each.shape[1:] != (tokens, width):
                raise ValueError(
                    f"frame features are {tuple(each.shape)}, expected (batch, {tokens}, {width}) from "
                    "get_frame_features."
                )

    def _check_latents(self, latents: Tensor, count: int) -> None:
        """Raise ValueError unless they are (B, count, D)."""
        expected = (count, self.config.codebook_dim)
        if latents.ndim != 3 or latents.shape[1:] != expected:
            raise ValueError(
                f"the latent action is {tuple(latents.shape)}, expected (batch, {expected[0]}, {expected[1]}) from "
                "encode."
            )

    def _refuse_attentions(self, output_attentions: bool) -> None:
        """Raise ValueError if attention maps are requested of a model that attends within frames and over time."""
        if output_attentions:
            raise ValueError(f"{type(self).__name__} gives no attention maps: it attends within frames and over time.")

    def _quantized_latents(self, caller: str, codes: Tensor | None, quantized_latents: Tensor | None) -> Tensor:
        """The vectors (B, N, D) of a latent action in either form. Raises ValueError for neither and for both."""
        if codes is not None and quantized_latents is None:
            return self.bottleneck.lookup(torch.as_tensor(codes, device=self.device))
        if codes is None and quantized_latents is not None:
            return quantized_latents
        raise ValueError(f"{caller} takes either codes or quantized_latents, one of the two.")

    def _quantized(self, latents: Tensor, bottleneck: VectorQuantizer) -> LatentActionEncoderOutput:
        quantized: VectorQuantizerOutput = bottleneck(latents)
        return LatentActionEncoderOutput(
            latents=latents,
            codes=quantized.codes,
            quantized_latents=quantized.quantized_latents,
            code_margin=quantized.code_margin,
        )

    def _features(self, name: str, pixels: Tensor | None, features: Tensor | None) -> Tensor:
        if pixels is not None and features is None:
            return self.get_frame_features(self._prepared(name, pixels))
        if pixels is None and features is not None:
            return self._prepared("frame features", features)
        raise ValueError(f"encode takes either {name} or the matching frame features, one of the two.")

    def _init_weights(self, module: nn.Module) -> None:
        """Initialize the tensors of one module; families override this for modules of their own.

        | tensor         | start                               |
        | linear weights | truncated normal, initializer_range |
        | biases         | 0                                   |
        | layer norms    | 1 and 0                             |
        | codebooks      | uniform in +-1 / K                  |
        | counters       | 0                                   |
        """
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, Codebook):
            bound = 1 / module.num_embeddings
            nn.init.uniform_(module.weight, -bound, bound)
        elif isinstance(module, VectorQuantizer):
            nn.init.zeros_(module.code_usage)


def _gradients(requires_grad: bool) -> torch.set_grad_enabled:
    """Gradients where they are asked for, and the caller has not turned them off."""
    return torch.set_grad_enabled(requires_grad and torch.is_grad_enabled())
