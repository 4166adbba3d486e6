"""Tensor names and shapes of Moto's and LARA's latent motion tokenizer, and their counterparts in our model.

Both projects use the same names. Their transformer layers are named as in transformers 4's ViT, with separate query,
key and value; ours hold the three in one `qkv`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

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

ADVICE = (
    "Convert the checkpoint as its trainer saved it: a latent motion tokenizer of Moto or LARA with 'add' fusion, "
    "beside its own config.yaml or config.json, if any."
)


def reference_names(config: LatentActionConfig) -> dict[str, tuple[str, ...]]:
    """Our name of each tensor -> its names in the reference: one, or three that we hold concatenated.

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
    """Split our state dict into the reference's tensors, float32, each with its own storage."""
    tensors: OrderedDict[str, Tensor] = OrderedDict()
    for ours, theirs in reference_names(config).items():
        for name, part in zip(theirs, state[ours].detach().chunk(len(theirs)), strict=True):
            tensors[name] = part.float().clone()
    return tensors


def from_reference(tensors: Mapping[str, Tensor], config: LatentActionConfig) -> dict[str, Tensor]:
    """Join the reference's tensors to ours, float32; without vision encoder and buffers."""
    return {
        ours: torch.cat([tensors[name].float() for name in theirs]) if len(theirs) > 1 else tensors[theirs[0]].float()
        for ours, theirs in reference_names(config).items()
    }


def reference_shapes(config: LatentActionConfig) -> dict[str, tuple[int, ...]]:
    """All names and shapes of a reference checkpoint of these sizes: 282 tensors at the paper's scale."""
    with torch.device("meta"):
        model = LatentActionModel(config)
    return {name: tuple(tensor.shape) for name, tensor in to_reference(model.state_dict(), config).items()}
