"""`LatentActionConfig` and vision encoder of a reference checkpoint.

Sizes and loss weights come from its settings file or, without one, from the shapes of the tensors, which determine all
but the number of attention heads. The frozen vision encoder is not in the checkpoint and is loaded separately.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from lara_tokenizer._files import summarize_names
from lara_tokenizer._parse import read_json_object, shown
from lara_tokenizer.convert.moto.layouts import MOTO, ReferenceCheckpoint, settings_section
from lara_tokenizer.convert.moto.names import ADVICE, DECODER_LAYERS, M_FORMER_LAYERS
from lara_tokenizer.convert.state_dict import check_tensors
from lara_tokenizer.model import LatentActionConfig
from lara_tokenizer.model.loading import quiet_loading

VISION_FOLDER = "vision_encoder"

SIZES = (
    "image_size",
    "patch_size",
    "hidden_size",
    "num_attention_heads",
    "num_m_former_layers",
    "num_latents",
    "codebook_size",
    "codebook_dim",
    "decoder_hidden_size",
    "num_decoder_layers",
)

_HEAD_WIDTH = 64  # of every published tokenizer, and of the ViTs that they are derived from
_LAYER_NORM_EPS = 1e-12

# Options of the reference's code that no published checkpoint uses and our model does not have.
_UNSUPPORTED = (
    ("m_former", "hidden_act", "gelu"),
    ("m_former", "qkv_bias", True),
    ("decoder", "hidden_act", "gelu"),
    ("decoder", "qkv_bias", True),
    ("decoder", "query_fusion_mode", "add"),
    ("decoder", "use_mask_token", False),
    ("decoder", "is_io_hidden_states", False),
)
# Gaps of Moto's training pairs: its OXE mixture has one gap per dataset, from fractal's to toto's.
_MOTO_OXE_STRIDES = ["3f", "6f", "21f", "30f"]


def frame_tokens(checkpoint: ReferenceCheckpoint) -> int:
    """P: tokens per frame, by the size of the M-Former's position table."""
    sizes = _Shapes(checkpoint)
    # Positions: the queries, the tokens of both frames, and a separator between these.
    queries = sizes("m_former.embeddings.latent_motion_token", 1)
    return (sizes("m_former.embeddings.position_embeddings", 1) - queries - 1) // 2


def vision_width(checkpoint: ReferenceCheckpoint) -> int:
    """V: width of the frame features that the M-Former projects."""
    return _Shapes(checkpoint)("m_former.embeddings.projection.weight", 1)


def read_config(
    checkpoint: ReferenceCheckpoint, vision_config: PretrainedConfig
) -> tuple[LatentActionConfig, list[str]]:
    """The config of the converted model, and notes on assumptions about what the files do not record.

    Raises:
        ValueError: an option that our model does not have, or settings that contradict each other.
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
        # `legacy` is Moto's name for one segment row for both frames; its default is true.
        segment_embedding="shared" if m_former.get("legacy", True) else "per_frame",
        strides=_strides(checkpoint, notes),
    )
    if layout.note:
        notes.append(layout.note)
    return config, notes


class _Shapes:
    """Sizes of a checkpoint's tensors as `shapes(name, axis)`; ValueError for a missing tensor."""

    def __init__(self, checkpoint: ReferenceCheckpoint) -> None:
        self.tensors: Mapping[str, Tensor] = checkpoint.tensors
        self.folder = checkpoint.folder

    def __call__(self, name: str, axis: int) -> int:
        if name not in self.tensors or self.tensors[name].ndim <= axis:
            check_tensors({}, {name: ()}, self.folder, ADVICE)
        return self.tensors[name].shape[axis]

    def layers(self, stack: str) -> int:
        return len({name.removeprefix(stack).split(".")[1] for name in self.tensors if name.startswith(f"{stack}.")})


def _m_former_sizes(checkpoint: ReferenceCheckpoint, recorded: dict[str, Any], notes: list[str]) -> dict[str, int]:
    shapes = _Shapes(checkpoint)
    quantizer = settings_section(checkpoint.settings, "vector_quantizer")
    width = shapes("m_former.embeddings.projection.weight", 0)
    hidden, heads, intermediate, layers = _transformer_sizes(
        recorded, shapes, M_FORMER_LAYERS, width, "M-Former", notes
    )
    return {
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
        "num_m_former_layers": layers,
        "num_latents": _number(recorded, "query_num", shapes("m_former.embeddings.latent_motion_token", 1)),
        "codebook_size": _number(quantizer, "n_e", shapes("vector_quantizer.embedding.weight", 0)),
        "codebook_dim": _number(quantizer, "e_dim", shapes("vector_quantizer.embedding.weight", 1)),
    }


def _decoder_sizes(checkpoint: ReferenceCheckpoint, recorded: dict[str, Any], notes: list[str]) -> dict[str, int]:
    shapes = _Shapes(checkpoint)
    patches = "decoder.transformer.embeddings.patch_embeddings.projection.weight"
    width = shapes(patches, 0)
    patch_size = _number(recorded, "patch_size", shapes(patches, 2))
    side = math.isqrt(shapes("decoder.transformer.embeddings.position_embeddings", 1))
    hidden, heads, intermediate, layers = _transformer_sizes(recorded, shapes, DECODER_LAYERS, width, "decoder", notes)
    return {
        "decoder_hidden_size": hidden,
        "decoder_num_attention_heads": heads,
        "decoder_intermediate_size": intermediate,
        "num_decoder_layers": layers,
        "patch_size": patch_size,
        "image_size": _number(recorded, "image_size", side * patch_size),
    }


def _transformer_sizes(
    recorded: dict[str, Any], shapes: _Shapes, stack: str, width: int, name: str, notes: list[str]
) -> tuple[int, int, int, int]:
    """(width, heads, width of the MLP, layers) of a stack of layers whose tensors are `width` wide."""
    hidden = _number(recorded, "hidden_size", width)
    heads = _heads(recorded, hidden, name, notes)
    intermediate = _number(recorded, "intermediate_size", shapes(f"{stack}.0.intermediate.dense.weight", 0))
    return hidden, heads, intermediate, _number(recorded, "num_hidden_layers", shapes.layers(stack))


def _heads(recorded: dict[str, Any], width: int, name: str, notes: list[str]) -> int:
    if "num_attention_heads" in recorded:
        return _number(recorded, "num_attention_heads", 0)
    heads = max(1, width // _HEAD_WIDTH)
    notes.append(
        f"No file records the {name}'s number of attention heads: assumed {heads} (width {width} / {_HEAD_WIDTH}). "
        "If that is wrong, put the trainer's config.yaml beside the weights and convert again."
    )
    return heads


def _loss_weights(settings: dict[str, Any] | None, notes: list[str]) -> dict[str, float]:
    """Weights of the loss terms. In the reference's `legacy` form (its default) beta weighs the codebook term."""
    # commit_loss_w scales both VQ terms, beta one of them.
    settings, quantizer = settings or {}, settings_section(settings, "vector_quantizer")
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
    # No file records the training mixture, but Moto's published folders are named after it (moto/oxe).
    if checkpoint.layout is MOTO and "oxe" in checkpoint.folder.resolve().name.lower():
        strides = _MOTO_OXE_STRIDES
    notes.append(
        f"No file records the gap of its training pairs: assumed {', '.join(strides)}, as in its project. "
        "Edit `strides` in config.json if yours differs."
    )
    return strides


def _refuse_unsupported(settings: dict[str, Any] | None) -> None:
    for part, name, supported in _UNSUPPORTED:
        value = settings_section(settings_section(settings, part), "config").get(name, supported)
        if value != supported:
            raise ValueError(f"{part}.config.{name} is {shown(value)}; only {supported!r} can be converted.")
    if (remap := settings_section(settings, "vector_quantizer").get("remap")) is not None:
        raise ValueError(f"vector_quantizer.remap is {shown(remap)}: remapped codes cannot be converted.")
    if settings_section(settings, "hidden_state_decoder"):
        raise ValueError("a hidden_state_decoder cannot be converted: this model reconstructs pixels only.")


def _layer_norm_eps(m_former: dict[str, Any], decoder: dict[str, Any]) -> float:
    eps = {_number(part, "layer_norm_eps", _LAYER_NORM_EPS) for part in (m_former, decoder)}
    if len(eps) > 1:
        raise ValueError(f"layer_norm_eps of the M-Former and the decoder differ ({sorted(eps)}); one is supported.")
    return eps.pop()


def _part(checkpoint: ReferenceCheckpoint, name: str) -> dict[str, Any]:
    return settings_section(settings_section(checkpoint.settings, name), "config")


def _number(recorded: Mapping[str, Any], name: str, otherwise: Any) -> Any:
    """A recorded number in the type of the default `otherwise`. YAML 1.1 reads 1e-12, without a dot, as a string."""
    value = recorded.get(name, otherwise)
    try:
        return type(otherwise)(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} is {shown(value)} in the checkpoint's settings, expected a number.") from error


def load_vision_config(name: str) -> PretrainedConfig:
    """The config of a vision model, or of the vision part of a two-tower model (folder or Hub id).

    Raises ValueError if there is no config, or one of another kind of model.
    """
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        # Without it transformers would guess a model type from the folder's name.
        raise _unreadable(name, "the folder has no config.json")
    try:
        if Path(name).is_dir():
            read_json_object(Path(name) / "config.json")
        config = AutoConfig.from_pretrained(name)
    except Exception as error:  # of wrong types and sizes: a config class raises nearly anything
        raise _unreadable(name, error) from error
    # Two-tower models (CLIP, SigLIP) hold the sizes in a config of their vision part.
    config = getattr(config, "vision_config", config)
    for size in ("hidden_size", "image_size", "patch_size"):
        if not isinstance(getattr(config, size, None), int):
            raise _unreadable(name, f"a {config.model_type} is not a vision transformer: it has no {size}")
    return config


def load_vision_encoder(name: str, config: PretrainedConfig) -> PreTrainedModel:
    """Load the encoder in float32.

    Raises ValueError if it cannot be loaded, or a parameter is not in the file (it would be random).
    """
    try:
        with quiet_loading():  # the error below says it in one line
            encoder, report = AutoModel.from_pretrained(
                name, config=config, dtype="float32", output_loading_info=True, ignore_mismatched_sizes=True
            )
    except Exception as error:  # damaged weights raise errors of safetensors, torch and Python
        raise _unreadable(name, error) from error
    misfits = (key if isinstance(key, str) else key[0] for key in report["mismatched_keys"])
    absent = sorted({*report["missing_keys"], *misfits})
    if absent:
        raise ValueError(
            f"vision encoder {name}: {len(absent)} parameters are not in its files, or of another shape "
            f"({summarize_names(absent)}); they would be random. Pass the complete encoder that the tokenizer was "
            "trained with."
        )
    return encoder.eval()


def check_vision_fits(config: PretrainedConfig, name: str, checkpoint: ReferenceCheckpoint) -> None:
    """Raise ValueError unless width and tokens per frame of the encoder fit the M-Former."""
    sizes = {"image_size": config.image_size, "patch_size": config.patch_size}
    tokens = LatentActionConfig(vision_config=config, **sizes).num_frame_tokens
    if config.hidden_size != vision_width(checkpoint):
        raise ValueError(
            f"vision encoder {name} has width {config.hidden_size}, but this tokenizer's M-Former reads "
            f"{vision_width(checkpoint)}. Pass the encoder it was trained with{_named_in(checkpoint)}."
        )
    if tokens != frame_tokens(checkpoint):
        raise ValueError(
            f"vision encoder {name} gives {tokens} tokens per frame ({config.image_size} px, patch "
            f"{config.patch_size}), but this tokenizer's M-Former has positions for {frame_tokens(checkpoint)}. Pass "
            f"the encoder it was trained with{_named_in(checkpoint)}."
        )


def named_encoder(checkpoint: ReferenceCheckpoint) -> str:
    """The encoder that the settings file names, or ""; often a path on the machine it was trained on."""
    named = settings_section(checkpoint.settings, "image_encoder").get("pretrained_model_name_or_path")
    return named if isinstance(named, str) else ""


def _named_in(checkpoint: ReferenceCheckpoint) -> str:
    named = named_encoder(checkpoint)
    return f" ({checkpoint.settings_file} names {named!r})" if named else ""


def _unreadable(name: str, error: Exception | str) -> ValueError:
    reason = " ".join(str(error).split())
    return ValueError(
        f"vision encoder {name} cannot be loaded ({reason[:200]}). Pass a transformers folder or a Hub id, e.g. "
        "--vision-encoder facebook/vit-mae-large."
    )
