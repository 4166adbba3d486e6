"""Converter of UniVLA's task-centric latent action model, stage 2, to a `SpaceTimeVqModel`.

It is published as a Lightning checkpoint, `lam-stage-2.ckpt` (github OpenDriveLab/UniVLA, latent_action_model/, commit
0ab9e9d), with the frozen DINOv2 inside. Stage 1 also reads the instruction and is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from lara_tokenizer._parse import shown
from lara_tokenizer.convert.base import ConversionOptions, ConvertedModel, Family
from lara_tokenizer.convert.space_time import Names, module_names, source_shapes, target_state, transformer_names
from lara_tokenizer.convert.state_dict import StateDictFile, check_tensors, depth_of, shape_of
from lara_tokenizer.model import LatentActionProcessor, SpaceTimeVqConfig, SpaceTimeVqModel

_ADVICE = "Convert the file as UniVLA's trainer saved it: the latent action model of stage 2 alone."
_BLOCKS = "encoder.transformer_blocks"
_TASK_TOKENS = "action_latent_controllable"
_VISION = "dino_encoder."
_STAGE_ONE = ("lang_proj.", "text_encoder.")
_IMAGE_SIZE = 224  # in its training settings and every script
_HEADS = "lam_num_heads"
_HEAD_WIDTH = 64  # 12 heads of width 768, as published
_DINOV2_HEAD_WIDTH = 64  # in every published size
_STRIDES = ("9f", "1f", "19f")


def _recognises(names: Collection[str]) -> bool:
    return {"action_latent", "vq.codebook.weight"} <= set(names)


def _convert(state: StateDictFile, options: ConversionOptions) -> ConvertedModel:
    options.refuse(state.file, "vision_encoder", "UniVLA's file holds its own DINOv2")
    options.refuse(state.file, "image_size", f"UniVLA's frames have {_IMAGE_SIZE} px")
    tensors = state.tensors
    if any(name.startswith(_STAGE_ONE) for name in tensors) or _TASK_TOKENS not in tensors:
        raise ValueError(
            f"{state.file} is UniVLA's stage 1, which also reads the instruction (through T5): a pair of frames alone "
            "has no code there. Convert stage 2, lam-stage-2.ckpt, whose codes UniVLA uses."
        )
    # The frozen DINOv2 is in the file, by the names of DINOv2's own repository.
    vision = {name.removeprefix(_VISION): each for name, each in tensors.items() if name.startswith(_VISION)}
    vision_config = dinov2_config(vision, state.file, _ADVICE)
    config = _read_config(tensors, vision_config, state)
    check_tensors(tensors, univla_shapes(config), state.file, _ADVICE)
    with torch.device("meta"):
        model = SpaceTimeVqModel(config)
    loaded = target_state(_names(config), tensors, model)
    model.vision_encoder = dinov2_encoder(vision, vision_config)
    loaded |= {f"vision_encoder.{name}": tensor for name, tensor in model.vision_encoder.state_dict().items()}
    model.load_state_dict(loaded, assign=True)
    model.freeze()  # as in UniVLA's training; loading has replaced the parameters
    side = {"height": config.image_size, "width": config.image_size}
    return ConvertedModel(
        layout="univla",
        model=model.eval(),
        processor=LatentActionProcessor(size=side, resample="bicubic"),
        tensors=len(tensors) - len(vision),
        vision_encoder=f"{state.file}, {_VISION}*",
        sizes={name: getattr(config, name) for name in _SIZES},
        notes=_notes(config, state),
    )


def univla_shapes(config: SpaceTimeVqConfig) -> dict[str, tuple[int, ...]]:
    """All names and shapes of UniVLA's file."""
    with torch.device("meta"):
        model = SpaceTimeVqModel(config)
    vision = {f"{_VISION}{name}": shape for name, shape in dinov2_shapes(config.vision_config).items()}
    return source_shapes(_names(config), model) | vision


_SIZES = (
    "image_size",
    "hidden_size",
    "num_attention_heads",
    "num_encoder_layers",
    "num_decoder_layers",
    "num_latents",
    "codebook_size",
    "codebook_dim",
    "num_nuisance_latents",
    "nuisance_codebook_size",
)

UNIVLA = Family("UniVLA's latent action model (lam-stage-2.ckpt)", _recognises, _convert)


def _read_config(
    tensors: Mapping[str, Tensor], vision_config: Dinov2WithRegistersConfig, state: StateDictFile
) -> SpaceTimeVqConfig:
    """Derive the config from the shapes; the number of heads is in the file's settings, if anywhere."""
    shape = partial(shape_of, tensors, file=state.file, advice=_ADVICE)
    hidden_size = shape("encoder.ffn.1.weight", 2)[0]
    codebook_size, codebook_dim = shape("vq_action.codebook.weight", 2)
    try:
        return SpaceTimeVqConfig(
            vision_config=vision_config,
            image_size=_IMAGE_SIZE,
            hidden_size=hidden_size,
            num_attention_heads=_recorded_heads(state) or max(1, hidden_size // _HEAD_WIDTH),
            num_encoder_layers=depth_of(tensors, _BLOCKS),
            num_decoder_layers=depth_of(tensors, "decoder.transformer_blocks"),
            num_latents=shape(_TASK_TOKENS, 4)[2],
            codebook_size=codebook_size,
            codebook_dim=codebook_dim,
            num_nuisance_latents=shape("action_latent", 4)[2],
            nuisance_codebook_size=shape("vq.codebook.weight", 2)[0],
            strides=_STRIDES,
        )
    except ValueError as error:
        raise ValueError(f"{state.file}: {error}") from error


def _recorded_heads(state: StateDictFile) -> int | None:
    """Number of heads in the settings, if recorded. Raises ValueError for an invalid one."""
    heads: Any = state.settings.get(_HEADS)
    if heads is not None and (type(heads) is not int or heads < 1):
        raise ValueError(
            f"{state.file}: {_HEADS} is {shown(heads)} in its settings, expected a number of attention heads."
        )
    return heads


def _names(config: SpaceTimeVqConfig) -> Names:
    """Target name -> source names; "uncontrol" means nuisance, `vq` is its codebook, `vq_action` that of the task."""
    return {
        "task_tokens": (_TASK_TOKENS,),
        "nuisance_tokens": ("action_latent",),
        **transformer_names("encoder", "encoder", config.num_encoder_layers, over_time=True),
        **module_names("to_latents", "to_codebook"),
        **module_names("to_nuisance", "to_codebook_uncontrol"),
        "bottleneck.codebook.weight": ("vq_action.codebook.weight",),
        "nuisance_bottleneck.codebook.weight": ("vq.codebook.weight",),
        **module_names("embed_features", "patch_up"),
        **module_names("embed_latents", "action_up"),
        **module_names("embed_nuisance", "action_up_uncontrol"),
        **transformer_names("decoder", "decoder", config.num_decoder_layers, over_time=False),
        **module_names("to_features", "decoder.out"),
    }


def _notes(config: SpaceTimeVqConfig, state: StateDictFile) -> list[str]:
    notes = [
        "codes are those of the task tokens (<ACT_i> of UniVLA). The nuisance tokens have codes of their own, which "
        "encode_nuisance returns and tables leave out.",
        "The decoder predicts DINOv2 features, not frames: predict_features returns them; lara-tok decode and lara-tok "
        "eval, which show and measure frames, do not accept this model.",
        f"Frames are stretched to {config.image_size} px as UniVLA stretches robot video, with a bicubic filter "
        "instead of its Lanczos; UniVLA crops its own recordings to a square and resizes them bilinearly.",
        "strides are those of UniVLA's training code: 9 frames for most data, 1 for Ego4D, 2 to 4 where frames are "
        "few, 14 to 19 where they are many.",
    ]
    if _recorded_heads(state) is None:
        notes.append(
            f"The file does not record the number of attention heads: assumed {config.num_attention_heads}, each "
            f"{_HEAD_WIDTH} wide as in UniVLA's settings."
        )
    return notes


# DINOv2's own names (torch.hub `dinov2_vitb14_reg`) -> the names that transformers saves; its loader maps those to the
# modules of the installed version.
_DINOV2 = {
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "register_tokens": "embeddings.register_tokens",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
_DINOV2_BLOCK = {
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
    """Derive the config of DINOv2 with registers from the shapes. Raises ValueError if they are not DINOv2's."""
    _, positions, width = shape_of(tensors, "pos_embed", 3, file, advice)
    patch_size = shape_of(tensors, "patch_embed.proj.weight", 4, file, advice)[-1]
    side = isqrt(positions - 1)
    if width % _DINOV2_HEAD_WIDTH or side**2 != positions - 1:
        raise ValueError(
            f"{file}: pos_embed has {positions} tokens of width {width}; DINOv2 has 1 + a square of them, and heads "
            f"{_DINOV2_HEAD_WIDTH} wide. {advice}"
        )
    return Dinov2WithRegistersConfig(
        hidden_size=width,
        num_hidden_layers=depth_of(tensors, "blocks"),
        num_attention_heads=width // _DINOV2_HEAD_WIDTH,
        mlp_ratio=shape_of(tensors, "blocks.0.mlp.fc1.weight", 2, file, advice)[0] // width,
        image_size=side * patch_size,
        patch_size=patch_size,
        num_register_tokens=shape_of(tensors, "register_tokens", 3, file, advice)[1],
    )


def dinov2_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """All names and shapes of such a state dict; `config` is a Dinov2WithRegistersConfig."""
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
    """Build transformers' model in float32 from `tensors`, which have the names and shapes of `dinov2_shapes`.

    Both implementations treat frames of another size than the positions' alike: positions are interpolated to the
    grid by an antialiased bicubic filter (for models without registers DINOv2's own code differs).
    """
    state = {name: tensors[original].float() for original, name in _DINOV2.items()}
    for index in range(config.num_hidden_layers):
        block, layer = f"blocks.{index}", f"encoder.layer.{index}"
        state |= {f"{layer}.{name}": tensors[f"{block}.{original}"].float() for original, name in _DINOV2_BLOCK.items()}
        for kind in ("weight", "bias"):
            # Query, key and value are one matrix there and three here.
            parts = tensors[f"{block}.attn.qkv.{kind}"].float().chunk(3)
            state |= {
                f"{layer}.{name}.{kind}": part.clone() for name, part in zip(_QUERY_KEY_VALUE, parts, strict=True)
            }
    loaded: Any = Dinov2WithRegistersModel.from_pretrained(
        None, config=config, state_dict=state, dtype=torch.float32, output_loading_info=True
    )
    encoder, report = loaded
    # transformers would leave missing parameters random and only log it.
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return encoder.eval()
