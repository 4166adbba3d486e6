"""Initial weights with which z encodes the difference of the two frames from the first step on.

With random weights z is a random function of both frames, dominated by appearance. The decoder learns to read z only
if z encodes motion, and z learns motion only through a decoder that reads it, which takes thousands of steps. This
initialization provides what those steps would find. It sets values only: the architecture, and so the layout of
checkpoints, is unchanged, and all weights are trained.

    vision encoder     patches projected onto the principal components of frame differences (PCA); layers add little
    M-Former, layer 1  each patch minus the patch at the same position of the other frame
    M-Former, layer 2  each query attends to positions of its own, one per head. At first the queries hardly do, because
                       what layer 1 adds to them is larger. `lara-lam` was trained so; larger scales are untried
    later layers       add little

Shape suffixes: B pairs, C channels, S side, P patches, M patches of all pairs, Q numbers of a patch, H width,
E width of a head, N queries.
"""

from __future__ import annotations

from typing import cast

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from lara_tokenizer.model import InverseDynamicsModel, LatentActionModel
from lara_tokenizer.model.m_former import MFormer
from lara_tokenizer.model.transformer import Attention, TransformerLayer

SHARPNESS = 1.5  # scale of queries and keys in layer 1, so that equal positions find each other among all
SHARPNESS_LAYER_2 = 3.0  # larger, since features have grown in comparison with positions
OTHER_FRAME = 4.8  # weight of the frame indicator: each patch attends to the other frame
RESIDUAL = 0.1  # remaining weight of a layer that is to add little at first


@torch.no_grad()
def initialize_from_difference(model: LatentActionModel, now: Tensor, future: Tensor, seed: int = 0) -> None:
    """Set the weights of vision encoder and M-Former in place.

    Of the M-Former's width H the first E - 1 dimensions (E: a head's width) hold the position, as a random code that
    patches of both frames share, the next one indicates the frame, and the others hold features.

    Args:
        model: with a ViT-MAE encoder.
        now: normalized frames t (B, 3, S, S) of some pairs, for the principal components.
        future: their frames t + C.
        seed: of the random codes.

    Raises:
        ValueError: another vision encoder, fewer than two M-Former layers, or heads too narrow to hold a position.
    """
    config = model.config
    if config.inverse_model != "m_former":
        raise ValueError(
            f"start_at_change is made for an M-Former; this model has inverse_model {config.inverse_model!r}."
        )
    m_former = _m_former(model)
    layers = [cast(TransformerLayer, layer) for layer in m_former.transformer.layers]
    head = config.hidden_size // config.num_attention_heads
    if config.vision_config.model_type != "vit_mae" or len(layers) < 2 or head < 8:
        raise ValueError(
            "start_at_change is made for a ViT-MAE encoder and an M-Former of at least 2 layers with heads at least 8 "
            f"wide; this model has {config.vision_config.model_type}, {len(layers)} layers, heads {head} wide."
        )
    generator = torch.Generator().manual_seed(seed)
    _init_patches(model, now, future)
    positions_PE = torch.randn(m_former.num_frame_tokens, head - 1, generator=generator)
    _init_embeddings(model, positions_PE)
    _init_difference_layer(layers[0].attention, head)
    _init_query_layer(model, layers[1].attention, positions_PE, generator)
    for layer in layers:
        layer.mlp_out.weight.mul_(RESIDUAL)
    for layer in layers[2:]:
        layer.attention.output.weight.mul_(RESIDUAL)


def _m_former(model: LatentActionModel) -> MFormer:
    assert isinstance(model.inverse_dynamics, InverseDynamicsModel)
    return model.inverse_dynamics.m_former


def _init_patches(model: LatentActionModel, now: Tensor, future: Tensor) -> None:
    """Project patches onto the principal components of frame differences."""
    encoder = model.vision_encoder
    embedding = encoder.embeddings.patch_embeddings.projection
    size, width = embedding.kernel_size[0], embedding.out_channels
    difference_MQ = rearrange(F.unfold(future - now, size, stride=size), "b q p -> (b p) q")
    _, vectors_QQ = torch.linalg.eigh(difference_MQ.T @ difference_MQ)
    components_QH = vectors_QQ.flip(1)[:, :width]  # eigh sorts eigenvalues in ascending order
    patches_MQ = rearrange(F.unfold(now, size, stride=size), "b q p -> (b p) q")
    # Patch features get the magnitude of the fixed position embeddings that ViT-MAE adds to them.
    scale = (patches_MQ @ components_QH).square().mean().rsqrt()
    embedding.weight.zero_()
    embedding.weight[: components_QH.shape[1]] = scale * components_QH.T.unflatten(1, embedding.weight.shape[1:])
    for name, parameter in encoder.named_parameters():
        if name.endswith(("o_proj.weight", "fc2.weight", "output.dense.weight")):
            parameter.mul_(RESIDUAL)


def _init_embeddings(model: LatentActionModel, positions_PE: Tensor) -> None:
    """Divide the M-Former's width into position code, frame indicator and features."""
    m_former = _m_former(model)
    tokens, frame = positions_PE.shape
    first_future = m_former.num_latents + tokens + 1
    # The indicator is in the positions, not in the segments: the queries share row 0 of those, and patches would
    # attend to them.
    for first, indicator in ((m_former.num_latents, -1.0), (first_future, 1.0)):
        m_former.positions[0, first : first + tokens, :frame] = positions_PE
        m_former.positions[0, first : first + tokens, frame] = indicator
    m_former.segments[:, : frame + 1] = 0
    m_former.separator[..., : frame + 1] = 0
    features = m_former.projection.out_features - frame - 1
    m_former.projection.weight.zero_()
    m_former.projection.weight[frame + 1 :] = torch.eye(features, m_former.projection.in_features)


def _init_difference_layer(attention: Attention, head: int) -> None:
    """Subtract the other frame's patch: all heads match positions across frames; W_v = 1, W_o = -1 on the features."""
    width, frame = attention.output.in_features, head - 1
    query_EH = torch.zeros(head, width)
    query_EH[:frame, :frame] = SHARPNESS * torch.eye(frame)
    query_EH[frame, frame] = OTHER_FRAME
    # Keys with the opposite sign of the indicator: a patch matches the other frame, not its own.
    key_EH = query_EH.clone()
    key_EH[frame, frame] = -OTHER_FRAME
    features_HH = torch.diag((torch.arange(width) >= head).float())
    heads = attention.num_heads
    attention.qkv.weight.copy_(torch.cat([query_EH.repeat(heads, 1), key_EH.repeat(heads, 1), features_HH]))
    attention.output.weight.copy_(-features_HH)


def _init_query_layer(
    model: LatentActionModel, attention: Attention, positions_PE: Tensor, generator: torch.Generator
) -> None:
    """Let head h of query n attend to one position of frame t + C; together they cover all positions evenly."""
    m_former = _m_former(model)
    heads, width = attention.num_heads, attention.output.in_features
    head = width // heads
    patches_PE = positions_PE[1:]  # without CLS
    queries = m_former.num_latents
    queries_NH = torch.linalg.qr(torch.randn(width, queries, generator=generator)).Q.T.clone()
    queries_NH[:, :head] = 0
    m_former.queries[0] = queries_NH
    m_former.positions[0, :queries] = 0
    normed_NH = F.layer_norm(queries_NH + m_former.segments[0], (width,))
    # The pseudo-inverse maps each query, as the layer norm leaves it, exactly to its target.
    inverse_HN = torch.linalg.pinv(normed_NH)
    keys_EH = torch.zeros(head, width)
    keys_EH[:, :head] = SHARPNESS_LAYER_2 * torch.eye(head)
    query_weights = []
    for h in range(heads):
        slots = torch.arange(queries) * heads + h
        target_NE = torch.ones(queries, head)  # the last dimension: frame t + C
        target_NE[:, -1] *= OTHER_FRAME
        target_NE[:, :-1] = patches_PE[slots * len(patches_PE) // (queries * heads)]
        query_weights.append(SHARPNESS_LAYER_2 * (inverse_HN @ target_NE).T)
    mixing_HH = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
    mixing_HH[:, :head] = 0
    attention.qkv.weight.copy_(torch.cat([*query_weights, keys_EH.repeat(heads, 1), mixing_HH]))
    attention.output.weight.copy_(torch.linalg.qr(torch.randn(width, width, generator=generator)).Q)
