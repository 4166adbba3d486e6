"""DINOv2 with registers, by the names of its own repository (torch.hub `dinov2_vitb14_reg`) -> transformers' model."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from lara_tokenizer.convert.space_time import depth_of, shape_of

HEAD_WIDTH = 64  # in every published size

# Theirs -> the names that transformers saves; its own conversion brings those to the modules of this version.
_WHOLE = {
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "register_tokens": "embeddings.register_tokens",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
_OF_A_BLOCK = {
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "attn.proj.weight": "attention.output.dense.weight",
    "attn.proj.bias": "attention.output.dense.bias",
    "ls1.gamma": "layer_scale1.lambda1",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "mlp.fc1.weight": "mlp.fc1.weight",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.weight": "mlp.fc2.weight",
    "mlp.fc2.bias": "mlp.fc2.bias",
    "ls2.gamma": "layer_scale2.lambda1",
}
_QUERY_KEY_VALUE = tuple(f"attention.attention.{part}" for part in ("query", "key", "value"))


def dinov2_config(tensors: Mapping[str, Tensor], file: Path, advice: str) -> Dinov2WithRegistersConfig:
    """What the shapes say. Raises ValueError where they are none of DINOv2's."""
    _, positions, width = shape_of(tensors, "pos_embed", 3, file, advice)
    patch_size = shape_of(tensors, "patch_embed.proj.weight", 4, file, advice)[-1]
    side = isqrt(positions - 1)
    if width % HEAD_WIDTH or side**2 != positions - 1:
        raise ValueError(
            f"{file}: pos_embed is of {positions} tokens of width {width}; DINOv2 has 1 + a square of them, and heads "
            f"{HEAD_WIDTH} wide. {advice}"
        )
    return Dinov2WithRegistersConfig(
        hidden_size=width,
        num_hidden_layers=depth_of(tensors, "blocks"),
        num_attention_heads=width // HEAD_WIDTH,
        mlp_ratio=shape_of(tensors, "blocks.0.mlp.fc1.weight", 2, file, advice)[0] // width,
        image_size=side * patch_size,
        patch_size=patch_size,
        num_register_tokens=shape_of(tensors, "register_tokens", 3, file, advice)[1],
    )


def dinov2_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Every name and shape of such a state dict; `config` is a Dinov2WithRegistersConfig."""
    width, inner, patch = config.hidden_size, config.mlp_ratio * config.hidden_size, config.patch_size
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "mask_token": (1, width),
        "register_tokens": (1, config.num_register_tokens, width),
        "pos_embed": (1, 1 + (config.image_size // patch) ** 2, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
    }
    linear = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    linear |= {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
    for index in range(config.num_hidden_layers):
        block = f"blocks.{index}"
        for name, (out, into) in linear.items():
            shapes |= {f"{block}.{name}.weight": (out, into), f"{block}.{name}.bias": (out,)}
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma"):
            shapes[f"{block}.{name}"] = (width,)
    return shapes | {"norm.weight": (width,), "norm.bias": (width,)}


def dinov2_encoder(tensors: Mapping[str, Tensor], config: Dinov2WithRegistersConfig) -> Dinov2WithRegistersModel:
    """The model in float32, every parameter from `tensors`, which have the names and shapes of `dinov2_shapes`.

    Frames of another size than the positions' are read alike on both sides: positions are interpolated to the size of
    the grid by an antialiased bicubic filter (of the models without registers DINOv2's own code does it otherwise).
    """
    state = {ours: tensors[theirs].float() for theirs, ours in _WHOLE.items()}
    for index in range(config.num_hidden_layers):
        block, layer = f"blocks.{index}", f"encoder.layer.{index}"
        state |= {f"{layer}.{ours}": tensors[f"{block}.{theirs}"].float() for theirs, ours in _OF_A_BLOCK.items()}
        for kind in ("weight", "bias"):
            parts = tensors[f"{block}.attn.qkv.{kind}"].float().chunk(3)
            state |= {
                f"{layer}.{ours}.{kind}": part.clone() for ours, part in zip(_QUERY_KEY_VALUE, parts, strict=True)
            }
    loaded: Any = Dinov2WithRegistersModel.from_pretrained(
        None, config=config, state_dict=state, dtype=torch.float32, output_loading_info=True
    )
    encoder, report = loaded
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return encoder.eval()
