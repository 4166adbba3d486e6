"""A reference checkpoint's sizes and loss weights -> a `LatentActionConfig`.

Its settings file states them; where there is none, the shapes of the tensors do. Only the number of attention heads
is in no tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PretrainedConfig

from lara_tokenizer.convert.layouts import MOTO, ReferenceCheckpoint, section
from lara_tokenizer.convert.names import DECODER_LAYERS, M_FORMER_LAYERS, check_tensors
from lara_tokenizer.model import LatentActionConfig

_HEAD_WIDTH = 64  # of every published tokenizer and of the ViTs they were cut from
_LAYER_NORM_EPS = 1e-12

# What the reference's code offers and no published checkpoint uses: the model here has no place for it.
_UNSUPPORTED = (
    ("m_former", "hidden_act", "gelu"),
    ("m_former", "qkv_bias", True),
    ("decoder", "hidden_act", "gelu"),
    ("decoder", "qkv_bias", True),
    ("decoder", "query_fusion_mode", "add"),
    ("decoder", "use_mask_token", False),
    ("decoder", "is_io_hidden_states", False),
)
# Gaps of Moto's training pairs: its OXE mixture has one gap a data set, from fractal's to toto's.
_MOTO_OXE_STRIDES = ["3f", "6f", "21f", "30f"]


def frame_tokens(checkpoint: ReferenceCheckpoint) -> int:
    """P: how many tokens of one frame the M-Former's position table has room for."""
    sizes = _Shapes(checkpoint)
    queries = sizes("m_former.embeddings.latent_motion_token", 1)
    return (sizes("m_former.embeddings.position_embeddings", 1) - queries - 1) // 2


def vision_width(checkpoint: ReferenceCheckpoint) -> int:
    """V: the width of frame features that the M-Former projects."""
    return _Shapes(checkpoint)("m_former.embeddings.projection.weight", 1)


def read_config(
    checkpoint: ReferenceCheckpoint, vision_config: PretrainedConfig
) -> tuple[LatentActionConfig, list[str]]:
    """The config of the converted model, and notes on what the files did not state.

    Raises:
        ValueError: for a feature that the model does not have, or settings that contradict each other.
    """
    _refuse_unsupported(checkpoint.settings)
    notes: list[str] = []
    layout, m_former, decoder = checkpoint.layout, _part(checkpoint, "m_former"), _part(checkpoint, "decoder")
    config = LatentActionConfig.moto(
        vision_config=vision_config,
        **_m_former_sizes(checkpoint, m_former, notes),
        **_decoder_sizes(checkpoint, decoder, notes),
        **_loss_weights(checkpoint.settings, notes),
        layer_norm_eps=_layer_norm_eps(m_former, decoder),
        initializer_range=_number(m_former, "initializer_range", 0.02),
        segment_embedding="shared" if m_former.get("legacy", True) else "per_frame",
        strides=_strides(checkpoint, notes),
    )
    if layout.note:
        notes.append(layout.note)
    return config, notes


class _Shapes:
    """`shapes(name, axis)`: the size of a tensor; ValueError, as for all missing tensors, where it is absent."""

    def __init__(self, checkpoint: ReferenceCheckpoint) -> None:
        self.tensors: Mapping[str, Tensor] = checkpoint.tensors
        self.folder = checkpoint.folder

    def __call__(self, name: str, axis: int) -> int:
        if name not in self.tensors or self.tensors[name].ndim <= axis:
            check_tensors({}, {name: ()}, self.folder)
        return self.tensors[name].shape[axis]

    def layers(self, stack: str) -> int:
        return len({name.removeprefix(stack).split(".")[1] for name in self.tensors if name.startswith(f"{stack}.")})


def _m_former_sizes(checkpoint: ReferenceCheckpoint, stated: dict[str, Any], notes: list[str]) -> dict[str, int]:
    shapes = _Shapes(checkpoint)
    quantizer = section(checkpoint.settings, "vector_quantizer")
    width = _number(stated, "hidden_size", shapes("m_former.embeddings.projection.weight", 0))
    return {
        "hidden_size": width,
        "num_attention_heads": _heads(stated, width, "M-Former", notes),
        "intermediate_size": _number(
            stated, "intermediate_size", shapes(f"{M_FORMER_LAYERS}.0.intermediate.dense.weight", 0)
        ),
        "num_m_former_layers": _number(stated, "num_hidden_layers", shapes.layers(M_FORMER_LAYERS)),
        "num_latents": _number(stated, "query_num", shapes("m_former.embeddings.latent_motion_token", 1)),
        "codebook_size": _number(quantizer, "n_e", shapes("vector_quantizer.embedding.weight", 0)),
        "codebook_dim": _number(quantizer, "e_dim", shapes("vector_quantizer.embedding.weight", 1)),
    }


def _decoder_sizes(checkpoint: ReferenceCheckpoint, stated: dict[str, Any], notes: list[str]) -> dict[str, int]:
    shapes = _Shapes(checkpoint)
    patches = "decoder.transformer.embeddings.patch_embeddings.projection.weight"
    width = _number(stated, "hidden_size", shapes(patches, 0))
    patch_size = _number(stated, "patch_size", shapes(patches, 2))
    side = math.isqrt(shapes("decoder.transformer.embeddings.position_embeddings", 1))
    return {
        "decoder_hidden_size": width,
        "decoder_num_attention_heads": _heads(stated, width, "decoder", notes),
        "decoder_intermediate_size": _number(
            stated, "intermediate_size", shapes(f"{DECODER_LAYERS}.0.intermediate.dense.weight", 0)
        ),
        "num_decoder_layers": _number(stated, "num_hidden_layers", shapes.layers(DECODER_LAYERS)),
        "patch_size": patch_size,
        "image_size": _number(stated, "image_size", side * patch_size),
    }


def _heads(stated: dict[str, Any], width: int, name: str, notes: list[str]) -> int:
    if "num_attention_heads" in stated:
        return _number(stated, "num_attention_heads", 0)
    heads = max(1, width // _HEAD_WIDTH)
    notes.append(
        f"No file states the {name}'s number of attention heads: took {heads} (width {width} / {_HEAD_WIDTH}). "
        "If that is wrong, put the trainer's config.yaml beside the weights and convert again."
    )
    return heads


def _loss_weights(settings: dict[str, Any] | None, notes: list[str]) -> dict[str, float]:
    """Both VQ terms by name. In the reference's `legacy` form (its default) beta stands on the codebook term."""
    settings, quantizer = settings or {}, section(settings, "vector_quantizer")
    weight, beta = _number(settings, "commit_loss_w", 1.0), _number(quantizer, "beta", 0.25)
    codebook, commitment = (beta, 1.0) if quantizer.get("legacy", True) else (1.0, beta)
    if perceptual := _number(settings, "perceptual_loss_w", 0.0):
        notes.append(f"The perceptual term of its training (weight {perceptual:g}) is not carried over.")
    if settings.get("use_abs_recons_loss"):
        notes.append("It was trained on the absolute error; the reconstruction loss here is the squared error.")
    return {
        "reconstruction_loss_weight": _number(settings, "recon_loss_w", 1.0),
        "codebook_loss_weight": weight * codebook,
        "commitment_loss_weight": weight * commitment,
    }


def _strides(checkpoint: ReferenceCheckpoint, notes: list[str]) -> list[str]:
    strides = list(checkpoint.layout.strides)
    if checkpoint.layout is MOTO and "oxe" in checkpoint.folder.resolve().name.lower():
        strides = _MOTO_OXE_STRIDES
    notes.append(
        f"No file states the gap of its training pairs: took {', '.join(strides)}, its project's. "
        "Edit `strides` in config.json if yours differs."
    )
    return strides


def _refuse_unsupported(settings: dict[str, Any] | None) -> None:
    for part, name, supported in _UNSUPPORTED:
        value = section(section(settings, part), "config").get(name, supported)
        if value != supported:
            raise ValueError(f"{part}.config.{name} is {value!r}; only {supported!r} can be converted.")
    if (remap := section(settings, "vector_quantizer").get("remap")) is not None:
        raise ValueError(f"vector_quantizer.remap is {remap!r}: remapped codes cannot be converted.")
    if section(settings, "hidden_state_decoder"):
        raise ValueError("a hidden_state_decoder cannot be converted: this model reconstructs pixels only.")


def _layer_norm_eps(m_former: dict[str, Any], decoder: dict[str, Any]) -> float:
    eps = {_number(part, "layer_norm_eps", _LAYER_NORM_EPS) for part in (m_former, decoder)}
    if len(eps) > 1:
        raise ValueError(f"layer_norm_eps of the M-Former and the decoder differ ({sorted(eps)}); one is supported.")
    return eps.pop()


def _part(checkpoint: ReferenceCheckpoint, name: str) -> dict[str, Any]:
    return section(section(checkpoint.settings, name), "config")


def _number(stated: Mapping[str, Any], name: str, otherwise: Any) -> Any:
    """A stated number in the type of `otherwise`. YAML 1.1 reads 1e-12, without a dot, as text."""
    value = stated.get(name, otherwise)
    try:
        return type(otherwise)(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {value!r} in the checkpoint's settings, expected a number.") from error
