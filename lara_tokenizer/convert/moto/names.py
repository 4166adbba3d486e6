"""Tensor names and shapes of Moto's and LARA's latent motion tokenizer, and which tensor of ours each one is.

Both projects store the same names. Their transformer layers carry the names of transformers 4's ViT, with query,
key and value apart; ours hold the three in one `qkv`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from lara_tokenizer.model import LatentActionConfig, LatentActionModel

_PARAMETERS = {
    "inverse_dynamics.m_former.queries": "m_former.embeddings.latent_motion_token",
    "inverse_dynamics.m_former.separator": "m_former.embeddings.sep_token",
    "inverse_dynamics.m_former.positions": "m_former.embeddings.position_embeddings",
    "inverse_dynamics.m_former.segments": "m_former.embeddings.token_type_embeddings",
    "bottleneck.codebook.weight": "vector_quantizer.embedding.weight",
    "forward_dynamics.decoder.positions": "decoder.transformer.embeddings.position_embeddings",
}
# Each has a weight and a bias.
_MODULES = {
    "inverse_dynamics.m_former.projection": "m_former.embeddings.projection",
    "inverse_dynamics.m_former.transformer.norm": "m_former.layernorm",
    "inverse_dynamics.to_latents.0": "vq_down_resampler.0",
    "inverse_dynamics.to_latents.2": "vq_down_resampler.2",
    "forward_dynamics.from_latents.0": "vq_up_resampler.0",
    "forward_dynamics.from_latents.2": "vq_up_resampler.2",
    "forward_dynamics.decoder.patches": "decoder.transformer.embeddings.patch_embeddings.projection",
    "forward_dynamics.decoder.fuse_latents": "decoder.transformer.embeddings.query_pooling_layer",
    "forward_dynamics.decoder.transformer.norm": "decoder.transformer.layernorm",
    "forward_dynamics.decoder.to_pixels": "decoder.decoder.0",
}
_LAYER_MODULES = {
    "norm_attention": ("layernorm_before",),
    "attention.qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "attention.output": ("attention.output.dense",),
    "norm_mlp": ("layernorm_after",),
    "mlp_in": ("intermediate.dense",),
    "mlp_out": ("output.dense",),
}
M_FORMER_LAYERS = "m_former.encoder.layer"
DECODER_LAYERS = "decoder.transformer.encoder.layer"

_LISTED = 4  # names in an error message, of each kind
_ADVICE = (
    "Convert the checkpoint as its trainer saved it: a latent motion tokenizer of Moto or LARA with 'add' fusion, "
    "beside the config.yaml or config.json (if any) of its own."
)


def reference_names(config: LatentActionConfig) -> dict[str, tuple[str, ...]]:
    """Our name of each tensor -> its one name in the reference, or three that we hold concatenated.

    >>> reference_names(LatentActionConfig())["bottleneck.codebook.weight"]
    ('vector_quantizer.embedding.weight',)
    """
    names: dict[str, tuple[str, ...]] = {ours: (theirs,) for ours, theirs in _PARAMETERS.items()}
    modules: dict[str, tuple[str, ...]] = {ours: (theirs,) for ours, theirs in _MODULES.items()}
    for stack, layers, count in (
        ("inverse_dynamics.m_former.transformer.layers", M_FORMER_LAYERS, config.num_m_former_layers),
        ("forward_dynamics.decoder.transformer.layers", DECODER_LAYERS, config.num_decoder_layers),
    ):
        for index in range(count):
            for ours, theirs in _LAYER_MODULES.items():
                modules[f"{stack}.{index}.{ours}"] = tuple(f"{layers}.{index}.{name}" for name in theirs)
    for ours, theirs in modules.items():
        for kind in ("weight", "bias"):
            names[f"{ours}.{kind}"] = tuple(f"{name}.{kind}" for name in theirs)
    return names


def to_reference(state: Mapping[str, Tensor], config: LatentActionConfig) -> OrderedDict[str, Tensor]:
    """Our state dict -> the reference's tensors, float32, each with storage of its own."""
    tensors: OrderedDict[str, Tensor] = OrderedDict()
    for ours, theirs in reference_names(config).items():
        for name, part in zip(theirs, state[ours].detach().chunk(len(theirs)), strict=True):
            tensors[name] = part.float().clone()
    return tensors


def from_reference(tensors: Mapping[str, Tensor], config: LatentActionConfig) -> dict[str, Tensor]:
    """The reference's tensors -> ours, float32; without the vision encoder and the buffers."""
    return {
        ours: torch.cat([tensors[name].float() for name in theirs]) if len(theirs) > 1 else tensors[theirs[0]].float()
        for ours, theirs in reference_names(config).items()
    }


def reference_shapes(config: LatentActionConfig) -> dict[str, tuple[int, ...]]:
    """What a reference checkpoint of these sizes must hold, and nothing else: 282 tensors at the paper's scale."""
    with torch.device("meta"):
        model = LatentActionModel(config)
    return {name: tuple(tensor.shape) for name, tensor in to_reference(model.state_dict(), config).items()}


def check_tensors(
    tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], where: object, advice: str = _ADVICE
) -> None:
    """Raise ValueError unless names and shapes are exactly the expected ones, and all numbers finite; a handful of each
    fault is named."""
    faults = []
    if missing := [name for name in expected if name not in tensors]:
        faults.append(f"{len(missing)} of {len(expected)} tensors are missing ({listed(missing)})")
    if unexpected := [name for name in tensors if name not in expected]:
        faults.append(f"{len(unexpected)} unexpected ({listed(unexpected)})")
    if wrong := [name for name in expected if name in tensors and tuple(tensors[name].shape) != expected[name]]:
        shapes = [f"{name} is {tuple(tensors[name].shape)}, expected {expected[name]}" for name in wrong]
        faults.append(f"{len(wrong)} of another shape ({listed(shapes)})")
    if integers := [name for name in expected if name in tensors and not tensors[name].is_floating_point()]:
        faults.append(f"{len(integers)} not floating point ({listed(integers)})")
    if not faults and (broken := [name for name in expected if not tensors[name].isfinite().all()]):
        faults.append(f"{len(broken)} hold numbers that are not finite ({listed(broken)})")
    if faults:
        raise ValueError(f"{where}: {'; '.join(faults)}. {advice}")


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
