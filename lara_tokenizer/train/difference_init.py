"""Starting values with which z tells the change between the frames from the first step on.

A plain start makes z a random function of two pictures, of which nearly all is what the scene looks like; the decoder
learns to read it only when it tells the motion, and it learns that only from a decoder that reads it. Here the first
step has what the first thousands would look for. Only starting values: the architecture, and so the layout of
checkpoints, is the same, and all of it is trained.

    vision encoder     patches as the numbers in which pictures change most (PCA); layers that add little yet
    M-Former, layer 1  each patch minus the patch of the same place in the other frame
    M-Former, layer 2  each query asks for places of its own, each head for one. What layer 1 adds to the queries drowns
                       that: at first they hardly look there. `lara-lam` was trained so; louder names are untried
    layers after that  add little yet

Shape suffixes: B pairs, C channels, S side, P patches, Q numbers of a patch, H width, E width of a head.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from lara_tokenizer.model import LatentActionModel
from lara_tokenizer.model.transformer import Attention, TransformerLayer

SHARPNESS = 1.5  # of queries and keys in layer 1: patches of one place find each other among all
LOOK = 3.0  # the same in layer 2, where features have grown beside the places
OTHER_FRAME = 4.8  # of what reads which frame it is: each patch looks at the other frame's
NOTHING = 0.1  # what is left of the weights of a layer that adds nothing yet


@torch.no_grad()
def start_at_change(model: LatentActionModel, now: Tensor, future: Tensor, seed: int = 0) -> None:
    """Set the weights as above, from some normalised pairs (B, 3, S, S) each.

    Of the M-Former's width the first numbers, one less than a head's width, hold the place (the same random code for a
    patch of either frame), the next one which frame, the others the features.

    Raises ValueError for a vision encoder other than ViT-MAE, fewer than two M-Former layers, or heads too narrow to
    hold a place.
    """
    config = model.config
    m_former = model.inverse_dynamics.m_former
    layers = [cast(TransformerLayer, layer) for layer in m_former.transformer.layers]
    head = config.hidden_size // config.num_attention_heads
    if config.vision_config.model_type != "vit_mae" or len(layers) < 2 or head < 8:
        raise ValueError(
            "start_at_change is made for a ViT-MAE encoder and an M-Former of at least 2 layers with heads at least 8 "
            f"wide; this model has {config.vision_config.model_type}, {len(layers)} layers, heads {head} wide."
        )
    generator = torch.Generator().manual_seed(seed)
    _start_patches(model, now, future)
    places_PE = torch.randn(m_former.num_frame_tokens, head - 1, generator=generator)
    _lay_out_width(model, places_PE)
    _subtract_other_frame(layers[0].attention, head)
    _look_at_places(model, layers[1].attention, places_PE, generator)
    for layer in layers:
        layer.mlp_out.weight.mul_(NOTHING)
    for layer in layers[2:]:
        layer.attention.output.weight.mul_(NOTHING)


def _start_patches(model: LatentActionModel, now: Tensor, future: Tensor) -> None:
    encoder = model.vision_encoder
    embedding = encoder.embeddings.patch_embeddings.projection
    size, width = embedding.kernel_size[0], embedding.out_channels
    change_MQ = F.unfold(future - now, size, stride=size).transpose(1, 2).flatten(0, 1)
    _, vectors_QQ = torch.linalg.eigh(change_MQ.T @ change_MQ)
    directions_QH = vectors_QQ.flip(1)[:, :width]
    patches_MQ = F.unfold(now, size, stride=size).transpose(1, 2).flatten(0, 1)
    # A patch's numbers shall be of the size of the fixed positions that ViT-MAE adds to them.
    scale = (patches_MQ @ directions_QH).square().mean().rsqrt()
    embedding.weight.zero_()
    embedding.weight[: directions_QH.shape[1]] = scale * directions_QH.T.unflatten(1, embedding.weight.shape[1:])
    for name, parameter in encoder.named_parameters():
        if name.endswith(("o_proj.weight", "fc2.weight", "output.dense.weight")):
            parameter.mul_(NOTHING)


def _lay_out_width(model: LatentActionModel, places_PE: Tensor) -> None:
    m_former = model.inverse_dynamics.m_former
    tokens, frame = places_PE.shape
    first_future = m_former.num_latents + tokens + 1
    # In the positions, not in the segments: row 0 of those is the queries' too, and patches would look at them.
    for first, which in ((m_former.num_latents, -1.0), (first_future, 1.0)):
        m_former.positions[0, first : first + tokens, :frame] = places_PE
        m_former.positions[0, first : first + tokens, frame] = which
    m_former.segments[:, : frame + 1] = 0
    m_former.separator[..., : frame + 1] = 0
    features = m_former.projection.out_features - frame - 1
    m_former.projection.weight.zero_()
    m_former.projection.weight[frame + 1 :] = torch.eye(features, m_former.projection.in_features)


def _subtract_other_frame(attention: Attention, head: int) -> None:
    """All heads compare places with the sign of the frame turned; W_v = 1 and W_o = -1 on the features."""
    width, frame = attention.output.in_features, head - 1
    reading_EH = torch.zeros(head, width)
    reading_EH[:frame, :frame] = SHARPNESS * torch.eye(frame)
    reading_EH[frame, frame] = OTHER_FRAME
    turned_EH = reading_EH.clone()
    turned_EH[frame, frame] = -OTHER_FRAME
    features_HH = _features_only(width, head)
    heads = attention.num_heads
    attention.qkv.weight.copy_(torch.cat([reading_EH.repeat(heads, 1), turned_EH.repeat(heads, 1), features_HH]))
    attention.output.weight.copy_(-features_HH)


def _look_at_places(
    model: LatentActionModel, attention: Attention, places_PE: Tensor, generator: torch.Generator
) -> None:
    """Query n looks with head h at one place of frame t+C; queries and heads go through the places in turn."""
    m_former = model.inverse_dynamics.m_former
    heads, width = attention.num_heads, attention.output.in_features
    head = width // heads
    patches = places_PE[1:]  # not CLS
    queries = m_former.num_latents
    names_NH = torch.linalg.qr(torch.randn(width, queries, generator=generator)).Q.T.clone()
    names_NH[:, :head] = 0
    m_former.queries[0] = names_NH
    m_former.positions[0, :queries] = 0
    seen_NH = F.layer_norm(names_NH + m_former.segments[0], (width,))
    back_HN = torch.linalg.pinv(seen_NH)
    keys_EH = torch.zeros(head, width)
    keys_EH[:, :head] = LOOK * torch.eye(head)
    asking = []
    for h in range(heads):
        slots = torch.arange(queries) * heads + h
        wanted_NE = torch.ones(queries, head)  # the last number: of frame t+C
        wanted_NE[:, -1] *= OTHER_FRAME
        wanted_NE[:, :-1] = patches[slots * len(patches) // (queries * heads)]
        asking.append(LOOK * (back_HN @ wanted_NE).T)
    mixing_HH = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
    mixing_HH[:, :head] = 0
    attention.qkv.weight.copy_(torch.cat([*asking, keys_EH.repeat(heads, 1), mixing_HH]))
    attention.output.weight.copy_(torch.linalg.qr(torch.randn(width, width, generator=generator)).Q)


def _features_only(width: int, first: int) -> Tensor:
    diagonal = torch.ones(width)
    diagonal[:first] = 0
    return torch.diag(diagonal)
