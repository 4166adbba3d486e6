"""Tensor names of the space-time transformer that checkpoints of AdaWorld, DreamDojo and UniVLA share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lara_tokenizer.convert.state_dict import join_tensors, zero_buffers

# Target name -> source names; several are concatenated along the first dimension.
Names = dict[str, tuple[str, ...]]

# Learned tokens, stored with leading dimensions of 1.
TOKENS = ("action_prompt", "action_latent", "action_latent_controllable")

_QUERY_KEY_VALUE = ("to_q", "to_k", "to_v")


def module_names(target: str, source: str) -> Names:
    """Names of a module's weight and bias."""
    return {f"{target}.{kind}": (f"{source}.{kind}",) for kind in ("weight", "bias")}


def transformer_names(target: str, source: str, layers: int, over_time: bool) -> Names:
    """Names of a `SpaceTimeTransformer`, with or without attention over time."""
    names: Names = {}
    # LayerNorm, Linear, LayerNorm
    for index in range(3):
        names |= module_names(f"{target}.embed.{index}", f"{source}.ffn.{index}")
    # Norms are numbered by position, so that without attention over time norm2 is the one before the MLP.
    attentions = {"space": "spatial_attn"} | ({"time": "temporal_attn"} if over_time else {})
    norms = [*(f"norm_{name}" for name in attentions), "norm_mlp"]
    for index in range(layers):
        layer, block = f"{target}.layers.{index}", f"{source}.transformer_blocks.{index}"
        for name, attention in attentions.items():
            query_key_value = tuple(f"{block}.{attention}.{part}.weight" for part in _QUERY_KEY_VALUE)
            names[f"{layer}.{name}.qkv.weight"] = query_key_value
            names |= module_names(f"{layer}.{name}.output", f"{block}.{attention}.to_out.0")
        for position, norm in enumerate(norms, start=1):
            names |= module_names(f"{layer}.{norm}", f"{block}.norm{position}")
        names |= module_names(f"{layer}.mlp_in", f"{block}.ffn.0") | module_names(f"{layer}.mlp_out", f"{block}.ffn.3")
    return names


def source_shapes(names: Names, model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes that a file of these sizes must hold, by source names; the model may be on the meta device."""
    state = model.state_dict()
    shapes: dict[str, tuple[int, ...]] = {}
    for target, sources in names.items():
        for source, part in zip(sources, state[target].chunk(len(sources)), strict=True):
            leading = 4 - part.ndim if source in TOKENS else 0
            shapes[source] = (1,) * leading + tuple(part.shape)
    return shapes


def target_state(names: Names, tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, Any]:
    """The model's state dict in float32 from a file's tensors; its counters are 0, the vision encoder is left out."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    return zero_buffers(model) | {
        # The reshape drops leading dimensions of learned tokens.
        target: join_tensors(tensors, sources).reshape(shapes[target])
        for target, sources in names.items()
    }
