"""Converter of LAPA's latent action quantizer (arXiv 2410.11758; its repository, laq/, commit 46aca51) to a `LaqModel`.

It is published as one plain state dict, `laq_openx.pt` or `laq_sthv2.pt`, of 493 tensors. Some are not used, not even
by LAPA's own code: in self-attention the norm of a context that it does not get, and its null tokens, 0 of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from lara_tokenizer.convert.base import ConversionOptions, ConvertedModel, Family
from lara_tokenizer.convert.state_dict import StateDictFile, check_tensors, depth_of, patch_size_of, shape_of
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

# Target name -> source name of modules; each has a weight and a bias.
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
# Missing in files of models with 64 or more codes per pair, which need one convolution only.
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
# Of cross-attention; self-attention has them in the file too, unused.
_CONTEXT_NORM = {"norm_context.weight": "context_norm.gamma", "norm_context.bias": "context_norm.beta"}
_NULL = "null_kv"
_FEED_FORWARD = {
    "norm.weight": "0.weight",
    "norm.bias": "0.bias",
    "mlp_in.weight": "1.weight",
    "mlp_out.weight": "4.weight",
}


def _recognises(names: Collection[str]) -> bool:
    return _CODEBOOK in names and any(name.startswith(f"{_TRANSFORMERS['temporal_encoder']}.") for name in names)


def _convert(state: StateDictFile, options: ConversionOptions) -> ConvertedModel:
    options.refuse(state.file, "vision_encoder", "LAPA's quantizer reads pixels and has no vision encoder")
    tensors = state.tensors
    config = _read_config(tensors, state.file, options.image_size)
    check_tensors(tensors, lapa_shapes(config), state.file, _ADVICE)
    names = _names(config)
    with torch.device("meta"):
        model = LaqModel(config)
    # A counter of code use, which LAPA does not have.
    loaded: dict[str, Any] = {"bottleneck.code_usage": torch.zeros(config.codebook_size, dtype=torch.long)}
    loaded |= {target: _from_source(source, tensors[source].float()) for target, source in names.items()}
    model.load_state_dict(loaded, assign=True)
    return ConvertedModel(
        layout="lapa",
        model=model.eval(),
        processor=_processor(config),
        tensors=len(names),
        sizes={name: value for name, value in config.to_dict().items() if name in _SIZES},
        notes=_notes(config, _possible_num_latents(tensors, state.file), options.image_size is not None),
    )


def lapa_shapes(config: LaqConfig) -> dict[str, tuple[int, ...]]:
    """All names and shapes of LAPA's file: 493 tensors at the published size."""
    with torch.device("meta"):
        state = LaqModel(config).state_dict()
    used = {source: tuple(_to_source(source, state[target]).shape) for target, source in _names(config).items()}
    return used | _unused_shapes(config)


LAPA = Family("LAPA's latent action quantizer (laq_openx.pt)", _recognises, _convert)


def _read_config(tensors: Mapping[str, Tensor], file: Path, image_size: int | None) -> LaqConfig:
    """Derive the config from the shapes and the size of frames, if given. Raises ValueError if they fit no model."""
    shape = partial(shape_of, tensors, file=file, advice=_ADVICE)
    patch_size = patch_size_of(tensors, "to_patch_emb_first_frame.1.weight", file, _ADVICE)
    # The position bias has one output per head.
    heads, hidden_size = shape("spatial_rel_pos_bias.net.2.weight", 2)
    codebook_size, codebook_dim = shape(_CODEBOOK, 2)
    spatial = f"{_TRANSFORMERS['spatial_encoder']}.layers.0"
    _, intermediate_size = shape(f"{spatial}.3.4.weight", 2)
    (head_size,) = shape(f"{spatial}.1.q_scale", 1)
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


def _possible_num_latents(tensors: Mapping[str, Tensor], file: Path) -> list[int]:
    """Counts of codes per pair that fit the second convolution: the file has its kernel, not its stride."""
    weight = f"{_SECOND_CONVOLUTION}.weight"
    kernel = shape_of(tensors, weight, 4, file, _ADVICE)[2:] if weight in tensors else None
    possible = [
        count for count, second in SECOND_CONVOLUTION.items() if (None if second is None else second[0]) == kernel
    ]
    if not possible:
        kernels = sorted({str(second[0]) for second in SECOND_CONVOLUTION.values() if second is not None})
        raise ValueError(
            f"{file}: {weight} has a kernel of {kernel}, LAPA's code_seq_len of 1, 2, 4 and 16 give "
            f"{', '.join(kernels)}: the number of codes per pair is unknown. {_ADVICE}"
        )
    return possible


def _num_latents(tensors: Mapping[str, Tensor], patch_size: int, file: Path, image_size: int | None) -> int:
    """The number of codes per pair that fits the image size, or, without one, frames of 256 px."""
    possible = _possible_num_latents(tensors, file)
    if image_size is None:
        return next((count for count in possible if USUAL_SIDE[count] * patch_size == _IMAGE_SIZE), possible[0])
    # The convolutions shrink the grid of patches to one position per code.
    side = image_size // patch_size
    for count in possible:
        rows, columns = latent_places(side, count)
        if image_size == side * patch_size and min(rows, columns) > 0 and rows * columns == count:
            return count
    usual = " or ".join(str(USUAL_SIDE[count] * patch_size) for count in possible)
    raise ValueError(
        f"{file}: frames of {image_size} px do not fit its patches of {patch_size} px and its convolutions; {usual} px "
        "do. Give the size that it was trained on."
    )


def _names(config: LaqConfig) -> dict[str, str]:
    """Target name -> source name of every tensor that is used."""
    modules = dict(_MODULES)
    if SECOND_CONVOLUTION[config.num_latents] is not None:
        modules["to_latents.second_convolution"] = _SECOND_CONVOLUTION
    names = {f"{to}.{kind}": f"{source}.{kind}" for to, source in modules.items() for kind in ("weight", "bias")}
    names["bottleneck.codebook.weight"] = _CODEBOOK
    for stack, source in _TRANSFORMERS.items():
        names |= {f"{stack}.norm.weight": f"{source}.norm_out.gamma", f"{stack}.norm.bias": f"{source}.norm_out.beta"}
        # Sublayers of the source: 0 position convolution, 1 self-attention, 2 cross-attention, 3 feed-forward.
        for index in range(_num_layers(config, stack)):
            parts = {
                "positions.convolution": ("0.dsconv", {"weight": "weight", "bias": "bias"}),
                "attention": ("1", _ATTENTION),
                "feed_forward": ("3", _FEED_FORWARD),
            }
            if stack == "decoder":
                parts["context_attention"] = ("2", {**_ATTENTION, **_CONTEXT_NORM, "null": _NULL})
            for part, (sublayer, tensors) in parts.items():
                target, prefix = f"{stack}.layers.{index}.{part}", f"{source}.layers.{index}.{sublayer}"
                names |= {f"{target}.{name}": f"{prefix}.{original}" for name, original in tensors.items()}
    return names


def _unused_shapes(config: LaqConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of self-attention that nobody uses."""
    shapes: dict[str, tuple[int, ...]] = {}
    for stack, source in _TRANSFORMERS.items():
        for index in range(_num_layers(config, stack)):
            attention = f"{source}.layers.{index}.1"
            shapes |= {f"{attention}.{name}": (config.hidden_size,) for name in _CONTEXT_NORM.values()}
            shapes[f"{attention}.{_NULL}"] = (config.num_attention_heads, 0, config.attention_head_size)
    return shapes


def _num_layers(config: LaqConfig, transformer: str) -> int:
    return config.num_temporal_layers if transformer == "temporal_encoder" else config.num_spatial_layers


def _from_source(source: str, tensor: Tensor) -> Tensor:
    """A tensor in our layout: null tokens are stored as alternating keys and values, we keep the two apart."""
    if not source.endswith(_NULL):
        return tensor
    return rearrange(tensor, "heads (tokens two) width -> two heads tokens width", two=2).contiguous()


def _to_source(source: str, tensor: Tensor) -> Tensor:
    if not source.endswith(_NULL):
        return tensor
    return rearrange(tensor, "two heads tokens width -> heads (tokens two) width")


def _processor(config: LaqConfig) -> LatentActionProcessor:
    """The frames of LAPA's labelling script: stretched to a square, in 0..1."""
    return LatentActionProcessor(
        size={"height": config.image_size, "width": config.image_size},
        resample="bilinear",
        image_mean=(0.0, 0.0, 0.0),
        image_std=(1.0, 1.0, 1.0),
    )


def _notes(config: LaqConfig, possible: list[int], is_size_given: bool) -> list[str]:
    notes = [
        f"The file does not record the gap of its pairs: strides is {_STRIDE}, as LAPA's authors recommend.",
        "Colours are in 0..1, without mean and deviation, as in LAPA's scripts.",
    ]
    return notes if is_size_given else [_size_note(config, possible), *notes]


def _size_note(config: LaqConfig, possible: list[int]) -> str:
    side, size, count = config.patches_per_side, config.image_size, config.num_latents
    why = "as in LAPA's scripts" if size == _IMAGE_SIZE else f"not the {_IMAGE_SIZE} px of LAPA's scripts"
    others = [f"{other} codes of {USUAL_SIDE[other] * config.patch_size} px" for other in possible if other != count]
    also = f" The file also fits {' and '.join(others)}." if others else ""
    return (
        f"The file does not record the size of frames: assumed {size} px, {side} x {side} patches of "
        f"{config.patch_size} ({why}), so {count} codes per pair.{also} If it was trained on another size, convert it "
        "again with that (--image-size)."
    )
