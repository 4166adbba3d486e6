"""Run a model over pairs: encode them, decode frames, and read the M-Former's attention maps (the paper's Fig. 5).

Shape suffixes: P pairs, B pairs of a batch, S side of a frame in pixels, N latent tokens (queries), D width of each,
A attention heads, T = N + F + 1 + F tokens of the M-Former with F tokens per frame, G patches along a frame's side.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from lara_tokenizer.evaluate.dataset import PairSet

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionProcessor

BATCH = 64  # pairs per forward pass
TOKENS = 64  # of a frame, whose change is a control: more would cost time and memory, and say little more


@dataclass(frozen=True, slots=True)
class EncodedSet:
    """Latents of a PairSet, on the CPU."""

    latents: Tensor  # z, (P, N, D)
    codes: Tensor | None  # (P, N); None for a continuous bottleneck
    quantized_latents: Tensor  # (P, N, D); z itself for a continuous bottleneck
    feature_change: Tensor | None = None  # (P, .), that of the vision encoder's tokens; None where not asked for

    def __getitem__(self, rows: Any) -> EncodedSet:
        """The pairs of these rows."""
        codes, change = (None if each is None else each[rows] for each in (self.codes, self.feature_change))
        return EncodedSet(self.latents[rows], codes, self.quantized_latents[rows], change)


def batches(count: int) -> Iterator[slice]:
    """The rows of each batch of at most BATCH pairs."""
    return (slice(first, first + BATCH) for first in range(0, count, BATCH))


@torch.no_grad()
def encode_pairs(
    model: Any, processor: LatentActionProcessor, pairs: PairSet, feature_change: bool = False
) -> EncodedSet:
    """Encode all pairs; with `feature_change`, also the change of the vision encoder's features within each."""
    outputs, changes = [], []
    for rows in batches(len(pairs)):
        now, future = pair_features(model, processor, *pairs.tensors(rows))
        out = model.encode(frame_features=now, future_frame_features=future)
        codes = None if out.codes is None else out.codes.cpu()
        outputs.append((out.latents.float().cpu(), codes, out.quantized_latents.float().cpu()))
        changes += [few_tokens(future - now).cpu()] if feature_change else []
    latents, codes, quantized = zip(*outputs, strict=True)
    return EncodedSet(
        torch.cat(latents),
        None if codes[0] is None else torch.cat(codes),
        torch.cat(quantized),
        torch.cat(changes) if changes else None,
    )


@torch.no_grad()
def encode_frames(model: Any, processor: LatentActionProcessor, frames_B3SS: Tensor, future_frames_B3SS: Tensor) -> Any:
    """The model's `encode` output for pairs of uint8 frames, prepared as the processor prepares pairs."""
    now, future = pair_features(model, processor, frames_B3SS, future_frames_B3SS)
    return model.encode(frame_features=now, future_frame_features=future)


def pair_features(
    model: Any, processor: LatentActionProcessor, frames_B3SS: Tensor, future_frames_B3SS: Tensor
) -> tuple[Tensor, Tensor]:
    """The vision encoder's features of both frames of pairs, prepared as the processor prepares pairs."""
    steady = processor.steady_future(frames_B3SS, future_frames_B3SS)
    pixel_values = processor.normalize_frames(torch.cat([frames_B3SS, steady])).to(model.device)
    now, future = model.get_frame_features(pixel_values).chunk(2)
    return now, future


def few_tokens(features: Tensor) -> Tensor:
    """Features of frames, (B, tokens, V) or (B, V), flattened; more than 64 tokens are averaged in 64 runs of them.

    >>> few_tokens(torch.zeros(2, 256, 3)).shape
    torch.Size([2, 192])
    """
    if features.ndim == 3 and features.shape[1] > TOKENS:
        features = F.adaptive_avg_pool1d(features.transpose(1, 2), TOKENS)
    return features.float().flatten(1)


@torch.no_grad()
def decode_frames(model: Any, processor: LatentActionProcessor, frames_B3SS: Tensor, latents_BND: Tensor) -> Tensor:
    """Predict frames t+C, float (B, 3, S, S) in about 0..1, from uint8 frames t and quantized z."""
    frames = processor.normalize_frames(frames_B3SS.to(model.device))
    decoded = model.decode(frames, quantized_latents=latents_BND.to(model.device)).float()
    mean, std = (
        rearrange(torch.tensor(values, device=decoded.device), "c -> c 1 1")
        for values in (processor.image_mean, processor.image_std)
    )
    return decoded * std + mean


def random_init(model: Any, seed: int) -> Any:
    """A model of the same configuration with random weights, as a control."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = type(model)(model.config)
    return fresh.to(model.device).eval()


@dataclass(frozen=True, slots=True)
class AttentionMaps:
    """Attention of each query over the patches of both frames, float32."""

    maps: Tensor  # (B, N, 2, G, G), over the patches of frame t and of frame t+C; a query's two maps sum to 1
    on_patches: Tensor
    """(B, N), the share of attention on patches before that normalization; the rest is on special tokens (CLS,
    registers), on the separator and on the queries."""


def has_attention_maps(model: Any) -> bool:
    """True for an M-Former over the patches of a vision encoder: only then does `encode` return attentions."""
    takes_option = "output_attentions" in inspect.signature(model.encode).parameters
    # An inverse model that matches features has no queries.
    return takes_option and hasattr(model.config, "num_frame_tokens") and not _matches_features(model.config)


def _matches_features(config: Any) -> bool:
    return getattr(config, "inverse_model", None) == "matching"


@torch.no_grad()
def attention_maps(model: Any, pixel_values: Tensor, future_pixel_values: Tensor) -> AttentionMaps:
    """Attention of each query over the patches of frame t and frame t+C, by attention rollout (arXiv 2005.00928).

    >>> attention_maps(model, **processor(frames[:-5], frames[5:])).maps.shape  # doctest: +SKIP
    torch.Size([40, 8, 2, 8, 8])

    Heads are averaged; layers are multiplied, each with half of the residual stream: R = prod_l (A_l + I) / 2, the last
    layer leftmost. The last layer alone would mislead: by then a token is a mixture of others, and its position says
    little about its content. With the bundled model, greying out a patch moves z more where the rollout is high; the
    last layer's attention does not predict it. Mixing inside the vision encoder is not covered.

    Args:
        pixel_values, future_pixel_values: (B, 3, S, S) from the processor.

    Raises:
        ValueError: for a model without attentions, see `has_attention_maps`.
    """
    if not has_attention_maps(model):
        raise ValueError(f"{type(model).__name__} has no attention maps: they are those of an M-Former.")
    attentions = model.encode(pixel_values, future_pixel_values, output_attentions=True).attentions
    mixing = [
        (layer_BATT.float().mean(1) + torch.eye(layer_BATT.shape[-1]).to(layer_BATT)) / 2 for layer_BATT in attentions
    ]
    rollout_BTT = reduce(lambda below, layer: layer @ below, mixing)
    tokens = model.config.num_frame_tokens
    queries = rollout_BTT.shape[-1] - 2 * tokens - 1
    rows_BNT = rollout_BTT[:, :queries]
    vision = model.config.vision_config
    side = vision.image_size // vision.patch_size
    # Special tokens come first, so a frame's patches are the last of its tokens.
    ends = (queries + tokens, queries + 2 * tokens + 1)
    patches = torch.stack([rows_BNT[..., end - side**2 : end] for end in ends], 2)
    on_patches = patches.sum((2, 3))
    maps = rearrange(patches / on_patches[..., None, None], "b n frame (h w) -> b n frame h w", h=side)
    return AttentionMaps(maps, on_patches)


def background_share(maps: Tensor, masks: Tensor) -> Tensor:
    """The share of each query's attention outside the arm: (B, N).

    >>> background_share(torch.full((1, 8, 2, 4, 4), 1 / 32), torch.zeros(1, 2, 64, 64, dtype=torch.bool))[0, 0]
    tensor(1.)

    A patch that the arm covers in part counts by area, so evenly spread attention scores the background's share of the
    area.

    Args:
        maps: (B, N, 2, G, G) of `attention_maps`.
        masks: bool (B, 2, S, S), true on the arm, S a multiple of G.

    Raises:
        ValueError: for masks of another shape.
    """
    side = maps.shape[-1]
    if masks.shape[:2] != (len(maps), 2) or masks.shape[-1] != masks.shape[-2] or masks.shape[-1] % side:
        raise ValueError(
            f"masks are {tuple(masks.shape)}, expected ({len(maps)}, 2, S, S) with S a multiple of {side}, "
            "one mask for each frame."
        )
    arm_B2GG = F.avg_pool2d(masks.to(maps), masks.shape[-1] // side)
    return 1 - (maps * arm_B2GG.unsqueeze(1)).sum((2, 3, 4))
