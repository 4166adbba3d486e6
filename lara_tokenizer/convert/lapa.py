"""LAPA's latent action quantizer (LAPA, arXiv 2410.11758; its repository, laq/, commit 46aca51) -> a `LaqModel`.

Published as one plain state dict, `laq_openx.pt` or `laq_sthv2.pt`; 493 tensors. Some are there and never read, not by
LAPA's own code either: of self-attention the norm of a context that it is not given, and null tokens of which it has 0.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lara_tokenizer.convert.family import Converted, Family, Given
from lara_tokenizer.convert.names import check_tensors
from lara_tokenizer.convert.space_time import depth_of, shape_of
from lara_tokenizer.convert.state_file import StateFile
from lara_tokenizer.model import LaqConfig, LaqModel, LatentActionProcessor
from lara_tokenizer.model.configuration_laq import SECOND_CONVOLUTION, USUAL_SIDE, latent_places

_IMAGE_SIZE = 256  # in LAPA's scripts
_STRIDE = "0.6s"
_ADVICE = "Convert the file as LAPA's trainer saved it: the state dict of the latent action quantizer alone."

_SIZES = (
    "image_size",
    "patch_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_spatial_layers",
    "num_temporal_layers",
    "num_latents",
    "codebook_size",
    "codebook_dim",
)

# Ours -> theirs; each has a weight and a bias.
_MODULES = {
    "patches.norm_pixels": "to_patch_emb_first_frame.1",
    "patches.project": "to_patch_emb_first_frame.2",
    "patches.norm": "to_patch_emb_first_frame.3",
    "position_bias.hidden_in": "spatial_rel_pos_bias.net.0.0",
    "position_bias.hidden": "spatial_rel_pos_bias.net.1.0",
    "position_bias.output": "spatial_rel_pos_bias.net.2",
    "to_latents.project": "vq.project_in",
    "to_latents.convolution": "vq.cnn_encoder.0",
    "from_latents": "vq.project_out",
    "to_pixels": "to_pixels_first_frame.0",
}
_SECOND_CONVOLUTION = "vq.cnn_encoder.2"
_CODEBOOK = "vq.codebooks"
_TRANSFORMERS = {
    "spatial_encoder": "enc_spatial_transformer",
    "temporal_encoder": "enc_temporal_transformer",
    "decoder": "dec_spatial_transformer",
}
_ATTENTION = {
    "norm.weight": "norm.gamma",
    "norm.bias": "norm.beta",
    "to_query.weight": "to_q.weight",
    "to_key_value.weight": "to_kv.weight",
    "query_scale": "q_scale",
    "key_scale": "k_scale",
    "output.weight": "to_out.weight",
}
_OF_THE_CONTEXT = {"norm_context.weight": "context_norm.gamma", "norm_context.bias": "context_norm.beta"}
_NULL = "null_kv"
_FEED_FORWARD = {
    "norm.weight": "0.weight",
    "norm.bias": "0.bias",
    "mlp_in.weight": "1.weight",
    "mlp_out.weight": "4.weight",
}


def _recognises(names: Collection[str]) -> bool:
    return _CODEBOOK in names and any(name.startswith(f"{_TRANSFORMERS['temporal_encoder']}.") for name in names)


def _convert(state: StateFile, given: Given) -> Converted:
    given.refuse(state.file, "vision_encoder", "LAPA's quantizer reads pixels and has no vision encoder")
    tensors = state.tensors
    config = _read_config(tensors, state.file, given.image_size)
    check_tensors(tensors, lapa_shapes(config), state.file, _ADVICE)
    names = _names(config)
    with torch.device("meta"):
        model = LaqModel(config)
    loaded: dict[str, Any] = {"bottleneck.code_usage": torch.zeros(config.codebook_size, dtype=torch.long)}
    loaded |= {name: _to_ours(theirs, tensors[theirs].float()) for name, theirs in names.items()}
    model.load_state_dict(loaded, assign=True)
    return Converted(
        layout="lapa",
        model=model.eval(),
        processor=_processor(config),
        tensors=len(names),
        sizes={name: value for name, value in config.to_dict().items() if name in _SIZES},
        notes=_notes(config, _fitting(tensors, state.file), given.image_size is not None),
    )


def lapa_shapes(config: LaqConfig) -> dict[str, tuple[int, ...]]:
    """Every name and shape of LAPA's file, and nothing else: 493 tensors at the published size."""
    with torch.device("meta"):
        ours = LaqModel(config).state_dict()
    read = {theirs: tuple(_to_theirs(theirs, ours[name]).shape) for name, theirs in _names(config).items()}
    return read | _unread_shapes(config)


LAPA = Family("LAPA's latent action quantizer (laq_openx.pt)", _recognises, _convert)


def _read_config(tensors: Mapping[str, Tensor], file: Path, image_size: int | None) -> LaqConfig:
    """What the shapes say, and the size of frames where it was given. Raises ValueError where that fits no model."""
    shape = partial(shape_of, tensors, file=file, advice=_ADVICE)
    (numbers,) = shape("to_patch_emb_first_frame.1.weight", 1)
    patch_size = isqrt(numbers // 3)
    if 3 * patch_size**2 != numbers:
        raise ValueError(f"{file}: a patch has {numbers} numbers, which is no square of RGB pixels. {_ADVICE}")
    heads, hidden_size = shape("spatial_rel_pos_bias.net.2.weight", 2)
    codebook_size, codebook_dim = shape(_CODEBOOK, 2)
    spatial = f"{_TRANSFORMERS['spatial_encoder']}.layers.0"
    (_, intermediate_size), (head_size,) = shape(f"{spatial}.3.4.weight", 2), shape(f"{spatial}.1.q_scale", 1)
    num_latents = _num_latents(tensors, patch_size, file, image_size)
    try:
        return LaqConfig(
            image_size=image_size or USUAL_SIDE[num_latents] * patch_size,
            patch_size=patch_size,
            hidden_size=hidden_size,
            intermediate_size=intermediate_size,
            num_attention_heads=heads,
            attention_head_size=head_size,
            num_spatial_layers=depth_of(tensors, f"{_TRANSFORMERS['spatial_encoder']}.layers"),
            num_temporal_layers=depth_of(tensors, f"{_TRANSFORMERS['temporal_encoder']}.layers"),
            num_latents=num_latents,
            codebook_size=codebook_size,
            codebook_dim=codebook_dim,
            strides=[_STRIDE],
        )
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _fitting(tensors: Mapping[str, Tensor], file: Path) -> list[int]:
    """The numbers of codes a pair that the second convolution leaves open: its kernel is known, its stride is not."""
    weight = f"{_SECOND_CONVOLUTION}.weight"
    kernel = shape_of(tensors, weight, 4, file, _ADVICE)[2:] if weight in tensors else None
    fitting = [
        number for number, second in SECOND_CONVOLUTION.items() if (None if second is None else second[0]) == kernel
    ]
    if not fitting:
        kernels = sorted({str(second[0]) for second in SECOND_CONVOLUTION.values() if second is not None})
        raise ValueError(
            f"{file}: {weight} has a kernel of {kernel}, LAPA's code_seq_len of 1, 2, 4 and 16 give "
            f"{', '.join(kernels)}: how many codes a pair has is not known. {_ADVICE}"
        )
    return fitting


def _num_latents(tensors: Mapping[str, Tensor], patch_size: int, file: Path, image_size: int | None) -> int:
    """Of several that fit, that of the image size; where none was given, that which makes frames of 256 px."""
    fitting = _fitting(tensors, file)
    if image_size is None:
        return next((number for number in fitting if USUAL_SIDE[number] * patch_size == _IMAGE_SIZE), fitting[0])
    side = image_size // patch_size
    for number in fitting:
        rows, columns = latent_places(side, number)
        if image_size == side * patch_size and min(rows, columns) > 0 and rows * columns == number:
            return number
    usual = " or ".join(str(USUAL_SIDE[number] * patch_size) for number in fitting)
    raise ValueError(
        f"{file}: frames of {image_size} px do not fit its patches of {patch_size} px and its convolutions; {usual} px "
        "do. Name the size that it was trained on."
    )


def _names(config: LaqConfig) -> dict[str, str]:
    """Our name of each tensor -> its name in LAPA's file."""
    modules = dict(_MODULES)
    if SECOND_CONVOLUTION[config.num_latents] is not None:
        modules["to_latents.second_convolution"] = _SECOND_CONVOLUTION
    names = {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in modules.items() for kind in ("weight", "bias")}
    names["bottleneck.codebook.weight"] = _CODEBOOK
    for ours, theirs in _TRANSFORMERS.items():
        names |= {f"{ours}.norm.weight": f"{theirs}.norm_out.gamma", f"{ours}.norm.bias": f"{theirs}.norm_out.beta"}
        for index in range(_layers(config, ours)):
            mine, layer = f"{ours}.layers.{index}", f"{theirs}.layers.{index}"
            for kind in ("weight", "bias"):
                names[f"{mine}.positions.convolution.{kind}"] = f"{layer}.0.dsconv.{kind}"
            names |= {f"{mine}.attention.{our}": f"{layer}.1.{their}" for our, their in _ATTENTION.items()}
            if ours == "decoder":
                context = {**_ATTENTION, **_OF_THE_CONTEXT, "null": _NULL}
                names |= {f"{mine}.context_attention.{our}": f"{layer}.2.{their}" for our, their in context.items()}
            names |= {f"{mine}.feed_forward.{our}": f"{layer}.3.{their}" for our, their in _FEED_FORWARD.items()}
    return names


def _unread_shapes(config: LaqConfig) -> dict[str, tuple[int, ...]]:
    """What self-attention has in LAPA's file and nobody reads."""
    shapes: dict[str, tuple[int, ...]] = {}
    for ours, theirs in _TRANSFORMERS.items():
        for index in range(_layers(config, ours)):
            attention = f"{theirs}.layers.{index}.1"
            shapes |= {f"{attention}.{name}": (config.hidden_size,) for name in _OF_THE_CONTEXT.values()}
            shapes[f"{attention}.{_NULL}"] = (config.num_attention_heads, 0, config.attention_head_size)
    return shapes


def _layers(config: LaqConfig, transformer: str) -> int:
    return config.num_temporal_layers if transformer == "temporal_encoder" else config.num_spatial_layers


def _to_ours(theirs: str, tensor: Tensor) -> Tensor:
    """Null tokens: theirs (heads, key and value by turns, E), ours (key or value, heads, tokens, E)."""
    return tensor.unflatten(1, (-1, 2)).permute(2, 0, 1, 3).contiguous() if theirs.endswith(_NULL) else tensor


def _to_theirs(theirs: str, tensor: Tensor) -> Tensor:
    return tensor.permute(1, 2, 0, 3).flatten(1, 2) if theirs.endswith(_NULL) else tensor


def _processor(config: LaqConfig) -> LatentActionProcessor:
    """Frames as LAPA's labelling script feeds them: stretched to a square, in 0..1."""
    return LatentActionProcessor(
        size={"height": config.image_size, "width": config.image_size},
        resample="bilinear",
        image_mean=(0.0, 0.0, 0.0),
        image_std=(1.0, 1.0, 1.0),
    )


def _notes(config: LaqConfig, fitting: list[int], is_size_given: bool) -> list[str]:
    notes = [
        f"The file does not say which gap its pairs had: strides is {_STRIDE}, which LAPA's authors advise.",
        "Colours are in 0..1, without mean and deviation, as in LAPA's scripts.",
    ]
    return notes if is_size_given else [_size_note(config, fitting), *notes]


def _size_note(config: LaqConfig, fitting: list[int]) -> str:
    side, size, number = config.patches_per_side, config.image_size, config.num_latents
    why = "as in LAPA's scripts" if size == _IMAGE_SIZE else f"not the {_IMAGE_SIZE} px of LAPA's scripts"
    others = [f"{other} codes of {USUAL_SIDE[other] * config.patch_size} px" for other in fitting if other != number]
    also = f" The file fits {' and '.join(others)} as well." if others else ""
    return (
        f"The file does not say how large frames are: {size} px are taken, {side} x {side} patches of "
        f"{config.patch_size} ({why}), which makes {number} codes a pair.{also} If it was trained on another size, "
        "convert it again with that (--image-size)."
    )
