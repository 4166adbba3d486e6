"""What checkpoints of AdaWorld, DreamDojo and UniVLA have in common: one kind of transformer, by one set of names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# Ours -> theirs: several of theirs are joined along the first dimension.
Names = dict[str, tuple[str, ...]]

# Learned tokens, which they keep with leading dimensions of 1.
TOKENS = ("action_prompt", "action_latent", "action_latent_controllable")

_QUERY_KEY_VALUE = ("to_q", "to_k", "to_v")


def named(ours: str, theirs: str) -> Names:
    """A weight and a bias."""
    return {f"{ours}.{kind}": (f"{theirs}.{kind}",) for kind in ("weight", "bias")}


def transformer_names(ours: str, theirs: str, layers: int, over_time: bool) -> Names:
    """A `SpaceTimeTransformer`, with attention over time or without."""
    names: Names = {}
    for index in range(3):
        names |= named(f"{ours}.embed.{index}", f"{theirs}.ffn.{index}")
    for index in range(layers):
        mine, block = f"{ours}.layers.{index}", f"{theirs}.transformer_blocks.{index}"
        attentions = {"space": "spatial_attn"} | ({"time": "temporal_attn"} if over_time else {})
        for our, their in attentions.items():
            names[f"{mine}.{our}.qkv.weight"] = tuple(f"{block}.{their}.{part}.weight" for part in _QUERY_KEY_VALUE)
            names |= named(f"{mine}.{our}.output", f"{block}.{their}.to_out.0")
        for number, norm in enumerate([*(f"norm_{part}" for part in attentions), "norm_mlp"], start=1):
            names |= named(f"{mine}.{norm}", f"{block}.norm{number}")
        names |= named(f"{mine}.mlp_in", f"{block}.ffn.0") | named(f"{mine}.mlp_out", f"{block}.ffn.3")
    return names


def their_shapes(names: Names, model: nn.Module) -> dict[str, tuple[int, ...]]:
    """What a file of these sizes must hold; the model may lie on the meta device."""
    ours = model.state_dict()
    shapes: dict[str, tuple[int, ...]] = {}
    for our, theirs in names.items():
        for their, part in zip(theirs, ours[our].chunk(len(theirs)), strict=True):
            leading = 4 - part.ndim if their in TOKENS else 0
            shapes[their] = (1,) * leading + tuple(part.shape)
    return shapes


def to_ours(names: Names, tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, Any]:
    """Their tensors in float32 by our names, and the model's counters at 0."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in shapes and not _is_vision(name)}
    state = {name: torch.zeros_like(buffer, device="cpu") for name, buffer in buffers.items()}
    return state | {
        our: torch.cat([tensors[their].float() for their in theirs]).reshape(shapes[our])
        if len(theirs) > 1
        else tensors[theirs[0]].float().reshape(shapes[our])
        for our, theirs in names.items()
    }


def _is_vision(name: str) -> bool:
    return name.startswith("vision_encoder.")


def shape_of(tensors: Mapping[str, Tensor], name: str, dimensions: int, file: Path, advice: str) -> tuple[int, ...]:
    """The shape of a tensor that says how large the model is. Raises ValueError where it says nothing."""
    if name not in tensors or tensors[name].ndim != dimensions or not tensors[name].numel():
        found = f"{name} is {tuple(tensors[name].shape)}" if name in tensors else f"{name} is missing"
        raise ValueError(f"{file}: {found}, a tensor of {dimensions} dimensions, not empty, is needed. {advice}")
    return tuple(tensors[name].shape)


def depth_of(names: Collection[str], stack: str) -> int:
    """Layers by the highest number; one that lacks is named as missing later."""
    start = f"{stack}."
    numbers = [name.removeprefix(start).split(".")[0] for name in names if name.startswith(start)]
    return 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)
