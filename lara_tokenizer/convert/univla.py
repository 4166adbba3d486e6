"""UniVLA's task-centric latent action model, its second stage -> a `SpaceTimeVqModel`.

Published as a Lightning checkpoint, `lam-stage-2.ckpt` (github OpenDriveLab/UniVLA, latent_action_model/, commit
0ab9e9d), with the frozen DINOv2 inside. The first stage reads the instruction beside the frames and is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import Dinov2WithRegistersConfig

from lara_tokenizer.convert.dinov2 import dinov2_config, dinov2_encoder, dinov2_shapes
from lara_tokenizer.convert.family import Converted, Family, Given
from lara_tokenizer.convert.names import check_tensors
from lara_tokenizer.convert.space_time import (
    Names,
    depth_of,
    named,
    shape_of,
    their_shapes,
    to_ours,
    transformer_names,
)
from lara_tokenizer.convert.state_file import StateFile
from lara_tokenizer.model import LatentActionProcessor, SpaceTimeVqConfig, SpaceTimeVqModel

_ADVICE = "Convert the file as UniVLA's trainer saved it: the latent action model of the second stage alone."
_BLOCKS = "encoder.transformer_blocks"
_TASK_TOKENS = "action_latent_controllable"
_VISION = "dino_encoder."
_OF_STAGE_ONE = ("lang_proj.", "text_encoder.")
_IMAGE_SIZE = 224  # in its settings of training, and in every script
_HEADS = "lam_num_heads"
_HEAD_WIDTH = 64  # 12 heads of width 768, as published
_STRIDES = ("9f", "1f", "19f")


def _recognises(names: Collection[str]) -> bool:
    return {"action_latent", "vq.codebook.weight"} <= set(names)


def _convert(state: StateFile, given: Given) -> Converted:
    given.refuse(state.file, "vision_encoder", "UniVLA's file holds its own DINOv2")
    given.refuse(state.file, "image_size", f"UniVLA's frames are of {_IMAGE_SIZE} px")
    tensors = state.tensors
    if any(name.startswith(_OF_STAGE_ONE) for name in tensors) or _TASK_TOKENS not in tensors:
        raise ValueError(
            f"{state.file} is UniVLA's first stage, which reads the instruction beside the frames (through T5): a pair "
            "of frames alone has no code there. Convert the second stage, lam-stage-2.ckpt, whose codes UniVLA uses."
        )
    vision = {name.removeprefix(_VISION): each for name, each in tensors.items() if name.startswith(_VISION)}
    vision_config = dinov2_config(vision, state.file, _ADVICE)
    config = _read_config(tensors, vision_config, state)
    check_tensors(tensors, univla_shapes(config), state.file, _ADVICE)
    with torch.device("meta"):
        model = SpaceTimeVqModel(config)
    loaded = to_ours(_names(config), tensors, model)
    model.vision_encoder = dinov2_encoder(vision, vision_config)
    loaded |= {f"vision_encoder.{name}": tensor for name, tensor in model.vision_encoder.state_dict().items()}
    model.load_state_dict(loaded, assign=True)
    model.freeze()
    side = {"height": config.image_size, "width": config.image_size}
    return Converted(
        layout="univla",
        model=model.eval(),
        processor=LatentActionProcessor(size=side, resample="bicubic"),
        tensors=len(tensors) - len(vision),
        vision_encoder=f"{state.file}, {_VISION}*",
        sizes={name: getattr(config, name) for name in _SIZES},
        notes=_notes(config, state),
    )


def univla_shapes(config: SpaceTimeVqConfig) -> dict[str, tuple[int, ...]]:
    """Every name and shape of UniVLA's file, and nothing else."""
    with torch.device("meta"):
        model = SpaceTimeVqModel(config)
    vision = {f"{_VISION}{name}": shape for name, shape in dinov2_shapes(config.vision_config).items()}
    return their_shapes(_names(config), model) | vision


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
    tensors: Mapping[str, Tensor], vision_config: Dinov2WithRegistersConfig, state: StateFile
) -> SpaceTimeVqConfig:
    """What the shapes say; the number of heads stands in the file's settings, or nowhere."""
    shape = partial(shape_of, tensors, file=state.file, advice=_ADVICE)
    hidden_size, stated_heads = shape("encoder.ffn.1.weight", 2)[0], _stated_heads(state)
    codebook_size, codebook_dim = shape("vq_action.codebook.weight", 2)
    try:
        return SpaceTimeVqConfig(
            vision_config=vision_config,
            image_size=_IMAGE_SIZE,
            hidden_size=hidden_size,
            num_attention_heads=stated_heads or max(1, hidden_size // _HEAD_WIDTH),
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


def _stated_heads(state: StateFile) -> int | None:
    """Raises ValueError for settings that name no number."""
    heads: Any = state.settings.get(_HEADS)
    if heads is not None and (type(heads) is not int or heads < 1):
        raise ValueError(f"{state.file}: {_HEADS} is {heads!r} in its settings, expected a number of attention heads.")
    return heads


def _names(config: SpaceTimeVqConfig) -> Names:
    """ "Uncontrolled" tokens are ours of the nuisance; `vq` is their codebook, `vq_action` the task's."""
    return {
        "task_tokens": (_TASK_TOKENS,),
        "nuisance_tokens": ("action_latent",),
        **transformer_names("encoder", "encoder", config.num_encoder_layers, over_time=True),
        **named("to_latents", "to_codebook"),
        **named("to_nuisance", "to_codebook_uncontrol"),
        "bottleneck.codebook.weight": ("vq_action.codebook.weight",),
        "nuisance_bottleneck.codebook.weight": ("vq.codebook.weight",),
        **named("embed_features", "patch_up"),
        **named("embed_latents", "action_up"),
        **named("embed_nuisance", "action_up_uncontrol"),
        **transformer_names("decoder", "decoder", config.num_decoder_layers, over_time=False),
        **named("to_features", "decoder.out"),
    }


def _notes(config: SpaceTimeVqConfig, state: StateFile) -> list[str]:
    notes = [
        "codes are those of the task tokens (<ACT_i> of UniVLA). The nuisance tokens have codes of their own, which "
        "encode_nuisance gives and tables leave out.",
        "The decoder predicts DINOv2 features, not frames: predict_features gives them; lara-tok decode and lara-tok "
        "eval, which show and measure frames, do not take this model.",
        f"Frames are stretched to {config.image_size} px as UniVLA stretches robot video, with a bicubic filter where "
        "it has Lanczos; its own recordings it cuts to a square and resizes bilinearly.",
        "strides are those of UniVLA's training code: 9 frames for most data, 1 for Ego4D, 2 to 4 where frames are "
        "few, 14 to 19 where they are many.",
    ]
    if _stated_heads(state) is None:
        notes.append(
            f"The file does not say how many attention heads there are: {config.num_attention_heads} are taken, "
            f"{_HEAD_WIDTH} wide as in UniVLA's settings."
        )
    return notes
