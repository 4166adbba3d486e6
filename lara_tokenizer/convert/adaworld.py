"""Converter of AdaWorld's and DreamDojo's latent action autoencoders to a `SpaceTimeVaeModel`.

Both are published as Lightning checkpoints of one class (github Little-Podi/AdaWorld, lam/, commit fe3701e;
NVIDIA/DreamDojo, external/lam_project/, commit 02f119b): `lam.ckpt` with 16 + 16 layers, `LAM_400k.ckpt` with 24 + 24
and 839 tensors. They differ in depth; size and crop of the frames are only in their training code.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lara_tokenizer.convert.base import ConversionOptions, ConvertedModel, Family
from lara_tokenizer.convert.space_time import Names, module_names, source_shapes, target_state, transformer_names
from lara_tokenizer.convert.state_dict import StateDictFile, check_tensors, depth_of, patch_size_of, shape_of
from lara_tokenizer.model import LatentActionProcessor, SpaceTimeVaeConfig, SpaceTimeVaeModel
from lara_tokenizer.model.space_time_transformer import rotary_frequencies

_ADVICE = "Convert the file as the trainer of AdaWorld or DreamDojo saved it: its latent action autoencoder alone."
_BLOCKS = "encoder.transformer_blocks"
_FREQUENCIES = "temporal_attn.rotary_embedding.freqs"


@dataclass(frozen=True, slots=True)
class _FrameSettings:
    """Frames of a project's training code, which its files do not record."""

    project: str
    size: tuple[int, int]  # (height, width)
    crop: str  # shape of the centre crop
    resample: str
    strides: tuple[str, ...]
    gaps: str  # of the training pairs, in words


_ADAWORLD = _FrameSettings(
    "AdaWorld",
    (256, 256),
    "a square",
    "bicubic",
    strides=("2f", "1f", "4f"),
    gaps="1 frame for Procgen and Something-Something, 4 for Retro, 2 for all other video",
)
_DREAMDOJO = _FrameSettings(
    "DreamDojo",
    (240, 320),
    "4 : 3",
    "bilinear",
    strides=("1f", "2f", "3f", "4f"),
    gaps="1 to 4 frames, with equal probability",
)
_DREAMDOJO_LAYERS = 24


def _recognises(names: Collection[str]) -> bool:
    return {"action_prompt", "fc.weight"} <= set(names)


def _convert(state: StateDictFile, options: ConversionOptions) -> ConvertedModel:
    options.refuse(state.file, "vision_encoder", "AdaWorld and DreamDojo read pixels and have no vision encoder")
    options.refuse(state.file, "image_size", "the size of frames is that of AdaWorld's or DreamDojo's training code")
    tensors = state.tensors
    frames = _DREAMDOJO if depth_of(tensors, _BLOCKS) == _DREAMDOJO_LAYERS else _ADAWORLD
    config = _read_config(tensors, frames, state.file)
    # On the meta device, since random weights would be overwritten.
    with torch.device("meta"):
        model = SpaceTimeVaeModel(config)
    names, frequencies = _names(config), _frequencies(config)
    check_tensors(tensors, source_shapes(names, model) | frequencies, state.file, _ADVICE)
    _check_rotation(tensors, frequencies, state.file)
    model.load_state_dict(target_state(names, tensors, model), assign=True)
    height, width = frames.size
    return ConvertedModel(
        layout=frames.project.lower(),
        model=model.eval(),
        processor=LatentActionProcessor(
            size={"height": height, "width": width},
            resample=frames.resample,
            image_mean=(0.0, 0.0, 0.0),
            image_std=(1.0, 1.0, 1.0),
            crop="center",
            antialias=False,  # their resize does not smooth
        ),
        tensors=len(tensors),
        sizes={name: getattr(config, name) for name in _SIZES},
        notes=_notes(config, frames),
    )


def adaworld_shapes(config: SpaceTimeVaeConfig) -> dict[str, tuple[int, ...]]:
    """All names and shapes of such a file: 839 tensors at DreamDojo's size."""
    with torch.device("meta"):
        model = SpaceTimeVaeModel(config)
    return source_shapes(_names(config), model) | _frequencies(config)


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


def _read_config(tensors: Mapping[str, Tensor], frames: _FrameSettings, file: Path) -> SpaceTimeVaeConfig:
    """Derive the config from the shapes. Raises ValueError if they do not fit this class."""
    shape = partial(shape_of, tensors, file=file, advice=_ADVICE)
    hidden_size = shape("encoder.ffn.1.weight", 2)[0]
    # A frequency rotates a pair of dimensions.
    head_width = 2 * shape(f"{_BLOCKS}.0.{_FREQUENCIES}", 1)[0]
    try:
        return SpaceTimeVaeConfig(
            image_size=list(frames.size),
            patch_size=patch_size_of(tensors, "encoder.ffn.0.weight", file, _ADVICE),
            hidden_size=hidden_size,
            num_attention_heads=hidden_size // head_width,
            num_encoder_layers=depth_of(tensors, _BLOCKS),
            num_decoder_layers=depth_of(tensors, "decoder.transformer_blocks"),
            codebook_dim=shape("fc.weight", 2)[0] // 2,  # means and log variances
            strides=frames.strides,
        )
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _names(config: SpaceTimeVaeConfig) -> Names:
    return {
        "action_token": ("action_prompt",),
        **transformer_names("encoder", "encoder", config.num_encoder_layers, over_time=True),
        **module_names("encoder_output", "encoder.out"),
        **module_names("to_moments", "fc"),
        **module_names("embed_patches", "patch_up"),
        **module_names("embed_latents", "action_up"),
        **transformer_names("decoder", "decoder", config.num_decoder_layers, over_time=False),
        **module_names("to_pixels", "decoder.out"),
    }


def _frequencies(config: SpaceTimeVaeConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of constants that files store and our model computes."""
    shape = (config.hidden_size // config.num_attention_heads // 2,)
    return {f"{_BLOCKS}.{index}.{_FREQUENCIES}": shape for index in range(config.num_encoder_layers)}


def _check_rotation(tensors: Mapping[str, Tensor], frequencies: Mapping[str, tuple[int, ...]], file: Path) -> None:
    # Stored frequencies are not loaded, so they must be the usual ones.
    for name, (half,) in frequencies.items():
        usual = rotary_frequencies(2 * half).to(tensors[name].dtype)
        if not torch.allclose(tensors[name].float(), usual.float(), rtol=1e-5, atol=0):
            raise ValueError(
                f"{file}: {name} is not 10000^(-2i/{2 * half}), the rotation that AdaWorld and DreamDojo use and this "
                "model computes: its latents would differ."
            )


def _notes(config: SpaceTimeVaeConfig, frames: _FrameSettings) -> list[str]:
    depth = f"{config.num_encoder_layers} layers"
    resize = (
        "Frames are uint8, rounded and clipped to 0..255 after the resize, while AdaWorld keeps its bicubic filter's "
        "fractions and overshoots: at sharp edges pixels differ by up to a quarter of the range, and z by some 10 % of "
        "its spread in a clip. Label all data the same way; frames of 256 px are not affected."
        if frames.resample == "bicubic"
        else "Frames are uint8, rounded after the resize, while DreamDojo keeps its filter's fractions."
    )
    height, width = frames.size
    return [
        f"The file does not record the size of frames: assumed {height} x {width} px, cropped to {frames.crop} around "
        f"the centre, as in {frames.project}'s training code ({depth}; {_DREAMDOJO_LAYERS} are DreamDojo's, any other "
        "number AdaWorld's).",
        f"strides are those of {frames.project}'s training code: {frames.gaps}, at its videos' own frame rates, which "
        "the file does not record.",
        resize,
    ]
