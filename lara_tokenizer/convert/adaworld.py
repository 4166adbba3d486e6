"""AdaWorld's and DreamDojo's latent action autoencoders -> a `SpaceTimeVaeModel`.

Both are published as Lightning checkpoints of one class (github Little-Podi/AdaWorld, lam/, commit fe3701e;
NVIDIA/DreamDojo, external/lam_project/, commit 02f119b): `lam.ckpt` with 16 + 16 layers, `LAM_400k.ckpt` with 24 + 24
and 839 tensors. The depth tells them apart; what frames they read stands only in their training code.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from math import isqrt
from pathlib import Path

import torch
from torch import Tensor

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
from lara_tokenizer.model import LatentActionProcessor, SpaceTimeVaeConfig, SpaceTimeVaeModel
from lara_tokenizer.model.space_time_transformer import rotary_frequencies

_ADVICE = "Convert the file as the trainer of AdaWorld or DreamDojo saved it: its latent action autoencoder alone."
_BLOCKS = "encoder.transformer_blocks"
_FREQUENCIES = "temporal_attn.rotary_embedding.freqs"


@dataclass(frozen=True, slots=True)
class _Frames:
    """What a project's training code says of its frames, and its files do not."""

    layout: str
    title: str
    height: int
    width: int
    resample: str
    shape: str  # what its centre crop keeps
    strides: tuple[str, ...]
    gaps: str


_ADAWORLD = _Frames(
    layout="adaworld",
    title="AdaWorld",
    height=256,
    width=256,
    resample="bicubic",
    shape="a square",
    strides=("2f", "1f", "4f"),
    gaps="1 frame for Procgen and Something-Something, 4 for Retro, 2 for all other video",
)
_DREAMDOJO = _Frames(
    layout="dreamdojo",
    title="DreamDojo",
    height=240,
    width=320,
    resample="bilinear",
    shape="4 : 3",
    strides=("1f", "2f", "3f", "4f"),
    gaps="1 to 4 frames, each as often",
)
_DREAMDOJO_LAYERS = 24


def _recognises(names: Collection[str]) -> bool:
    return {"action_prompt", "fc.weight"} <= set(names)


def _convert(state: StateFile, given: Given) -> Converted:
    given.refuse(state.file, "vision_encoder", "AdaWorld and DreamDojo read pixels and have no vision encoder")
    given.refuse(state.file, "image_size", "the size of frames is that of AdaWorld's or DreamDojo's training code")
    tensors = state.tensors
    frames = _DREAMDOJO if depth_of(tensors, _BLOCKS) == _DREAMDOJO_LAYERS else _ADAWORLD
    config = _read_config(tensors, frames, state.file)
    with torch.device("meta"):
        model = SpaceTimeVaeModel(config)
    names, frequencies = _names(config), _frequencies(config)
    check_tensors(tensors, their_shapes(names, model) | frequencies, state.file, _ADVICE)
    _check_rotation(tensors, frequencies, state.file)
    model.load_state_dict(to_ours(names, tensors, model), assign=True)
    return Converted(
        layout=frames.layout,
        model=model.eval(),
        processor=LatentActionProcessor(
            size={"height": frames.height, "width": frames.width},
            resample=frames.resample,
            image_mean=(0.0, 0.0, 0.0),
            image_std=(1.0, 1.0, 1.0),
            crop="center",
            antialias=False,
        ),
        tensors=len(tensors),
        sizes={name: getattr(config, name) for name in _SIZES},
        notes=_notes(config, frames),
    )


def adaworld_shapes(config: SpaceTimeVaeConfig) -> dict[str, tuple[int, ...]]:
    """Every name and shape of such a file, and nothing else: 839 tensors at DreamDojo's size."""
    with torch.device("meta"):
        model = SpaceTimeVaeModel(config)
    return their_shapes(_names(config), model) | _frequencies(config)


_SIZES = (
    "image_height",
    "image_width",
    "patch_size",
    "hidden_size",
    "num_attention_heads",
    "num_encoder_layers",
    "num_decoder_layers",
    "num_latents",
    "codebook_dim",
)

ADAWORLD = Family(
    "AdaWorld's (lam.ckpt) and DreamDojo's (LAM_400k.ckpt) latent action autoencoders", _recognises, _convert
)


def _read_config(tensors: Mapping[str, Tensor], frames: _Frames, file: Path) -> SpaceTimeVaeConfig:
    """What the shapes say. Raises ValueError where they are none of this class."""
    shape = partial(shape_of, tensors, file=file, advice=_ADVICE)
    (numbers,) = shape("encoder.ffn.0.weight", 1)
    patch_size = isqrt(numbers // 3)
    if 3 * patch_size**2 != numbers:
        raise ValueError(f"{file}: a patch has {numbers} numbers, which is no square of RGB pixels. {_ADVICE}")
    hidden_size = shape("encoder.ffn.1.weight", 2)[0]
    head_width = 2 * shape(f"{_BLOCKS}.0.{_FREQUENCIES}", 1)[0]
    try:
        return SpaceTimeVaeConfig(
            image_size=[frames.height, frames.width],
            patch_size=patch_size,
            hidden_size=hidden_size,
            num_attention_heads=hidden_size // head_width,
            num_encoder_layers=depth_of(tensors, _BLOCKS),
            num_decoder_layers=depth_of(tensors, "decoder.transformer_blocks"),
            codebook_dim=shape("fc.weight", 2)[0] // 2,
            strides=frames.strides,
        )
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _names(config: SpaceTimeVaeConfig) -> Names:
    return {
        "action_token": ("action_prompt",),
        **transformer_names("encoder", "encoder", config.num_encoder_layers, over_time=True),
        **named("encoder_output", "encoder.out"),
        **named("to_moments", "fc"),
        **named("embed_patches", "patch_up"),
        **named("embed_latents", "action_up"),
        **transformer_names("decoder", "decoder", config.num_decoder_layers, over_time=False),
        **named("to_pixels", "decoder.out"),
    }


def _frequencies(config: SpaceTimeVaeConfig) -> dict[str, tuple[int, ...]]:
    """Constants that they store, and ours makes anew."""
    shape = (config.hidden_size // config.num_attention_heads // 2,)
    return {f"{_BLOCKS}.{index}.{_FREQUENCIES}": shape for index in range(config.num_encoder_layers)}


def _check_rotation(tensors: Mapping[str, Tensor], frequencies: Mapping[str, tuple[int, ...]], file: Path) -> None:
    for name, (half,) in frequencies.items():
        usual = rotary_frequencies(2 * half).to(tensors[name].dtype)
        if not torch.allclose(tensors[name].float(), usual.float(), rtol=1e-5, atol=0):
            raise ValueError(
                f"{file}: {name} is not 10000^(-2i/{2 * half}), the rotation that AdaWorld and DreamDojo have and this "
                "model computes: its latents would be others."
            )


def _notes(config: SpaceTimeVaeConfig, frames: _Frames) -> list[str]:
    depth = f"{config.num_encoder_layers} layers"
    resize = (
        "Frames are kept as uint8, rounded and cut off at 0 and 255 after the resize, where AdaWorld keeps its bicubic "
        "filter's fractions and overshoots: at sharp edges pixels are up to a quarter of the range apart, and z by "
        "some 10 % of its spread in a clip. Label all data the same way; give frames of 256 px to have none of it."
        if frames.resample == "bicubic"
        else "Frames are kept as uint8, rounded after the resize, where DreamDojo keeps its filter's fractions."
    )
    return [
        f"The file does not say how large frames are: {frames.height} x {frames.width} px are taken, cut to "
        f"{frames.shape} around the centre, as in {frames.title}'s training code ({depth}; {_DREAMDOJO_LAYERS} are "
        "DreamDojo's, any other number is taken for AdaWorld's).",
        f"strides are those of {frames.title}'s training code: {frames.gaps}; of its videos' own rates, which the file "
        "does not say.",
        resize,
    ]
