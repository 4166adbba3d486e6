"""Tensor names and shapes of Moto's and LARA's latent motion tokenizer, and their counterparts in our model.

Both projects use the same names. Their transformer layers are named as in transformers 4's ViT, with separate query,
key and value; ours hold the three in one `qkv`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor

from lara_tokenizer.convert.state_dict import join_tensors
from lara_tokenizer.model import LatentActionConfig, LatentActionModel

# Target name -> source name of single parameters.
_PARAMETERS = {
    "inverse_dynamics.m_former.queries": "m_former.embeddings.latent_motion_token",
    "inverse_dynamics.m_former.separator": "m_former.embeddings.sep_token",
    "inverse_dynamics.m_former.positions": "m_former.embeddings.position_embeddings",
    "inverse_dynamics.m_former.segments": "m_former.embeddings.token_type_embeddings",
    "bottleneck.codebook.weight": "vector_quantizer.embedding.weight",
    "forward_dynamics.decoder.positions": "decoder.transformer.embeddings.position_embeddings",
}
# The same of modules; each has a weight and a bias.
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
# The same of modules within a transformer layer.
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
    names: dict[str, tuple[str, ...]] = {target: (source,) for target, source in _PARAMETERS.items()}
    modules: dict[str, tuple[str, ...]] = {target: (source,) for target, source in _MODULES.items()}
    for stack, layers, count in (
        ("inverse_dynamics.m_former.transformer.layers", M_FORMER_LAYERS, config.num_m_former_layers),
        ("forward_dynamics.decoder.transformer.layers", DECODER_LAYERS, config.num_decoder_layers),
    ):
        for index in range(count):
            for target, sources in _LAYER_MODULES.items():
                modules[f"{stack}.{index}.{target}"] = tuple(f"{layers}.{index}.{source}" for source in sources)
    for target, sources in modules.items():
        for kind in ("weight", "bias"):
            names[f"{target}.{kind}"] = tuple(f"{source}.{kind}" for source in sources)
    return names


def to_reference(state: Mapping[str, Tensor], config: LatentActionConfig) -> OrderedDict[str, Tensor]:
    """Split our state dict into the reference's tensors, float32, each with its own storage."""
    tensors: OrderedDict[str, Tensor] = OrderedDict()
    for target, sources in reference_names(config).items():
        for source, part in zip(sources, state[target].detach().chunk(len(sources)), strict=True):
            # torch.save would write the whole storage of qkv for each of its three views.
            tensors[source] = part.float().clone()
    return tensors


def from_reference(tensors: Mapping[str, Tensor], config: LatentActionConfig) -> dict[str, Tensor]:
    """Join the reference's tensors to ours, float32; without vision encoder and buffers."""
    return {target: join_tensors(tensors, sources) for target, sources in reference_names(config).items()}


def reference_shapes(config: LatentActionConfig) -> dict[str, tuple[int, ...]]:
    """All names and shapes of a reference checkpoint of these sizes: 282 tensors at the paper's scale."""
    with torch.device("meta"):
        model = LatentActionModel(config)
    return {name: tuple(tensor.shape) for name, tensor in to_reference(model.state_dict(), config).items()}
