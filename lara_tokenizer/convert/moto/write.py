"""`export_to_moto`: write a model in Moto's layout, config.yaml, pytorch_model.bin and a folder vision_encoder/.

Unmodified Moto loads the folder, and converting it back gives the identical model.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from lara_tokenizer._files import new_folder
from lara_tokenizer.checkpoint import load_checkpoint
from lara_tokenizer.convert.base import ConversionSummary
from lara_tokenizer.convert.checks import check_export
from lara_tokenizer.convert.moto.config import SIZES, VISION_FOLDER
from lara_tokenizer.convert.moto.layouts import MOTO, PICKLE
from lara_tokenizer.convert.moto.names import to_reference
from lara_tokenizer.convert.moto.sidecar import write_sidecar
from lara_tokenizer.model import LatentActionConfig, LatentActionModel, LatentActionProcessor

_PACKAGE = "latent_motion_tokenizer.src.models"
_MOTO_IMAGE_SIZE = 224  # the only size that Moto's preprocessing produces


def export_to_moto(source: str | Path, *, out: str | Path) -> ConversionSummary:
    """Export a model for Moto's own loader (`hydra.utils.instantiate`, then `load_state_dict`).

    Codes and latents are those of the model; the summary's notes list what else Moto's code does differently.

    Args:
        source: "lara-lam", a folder or a Hub id of a latent action model.
        out: a new folder.

    Raises:
        ValueError: `source` is not a complete latent action model, or its vision encoder is not a ViT-MAE.
    """
    check_export(source, out)
    model, processor = _load(source)
    config = model.config
    if config.vision_config.model_type != "vit_mae":
        raise ValueError(
            f"{source} has a {config.vision_config.model_type} vision encoder; Moto's tokenizer reads a ViT-MAE "
            "(transformers.ViTMAEModel). Only models around a ViT-MAE can be exported."
        )
    tensors = to_reference(_folded_state(model), config)
    with new_folder(out) as scratch:
        torch.save(tensors, scratch / PICKLE)
        tree = yaml.safe_dump(moto_tree(config, str(Path(out) / VISION_FOLDER)), sort_keys=False)
        (scratch / "config.yaml").write_text(tree, "utf-8")
        # Before the encoder is saved on its own, since transformers then writes its class into the config.
        write_sidecar(scratch, model, processor, tensors)
        model.vision_encoder.save_pretrained(scratch / VISION_FOLDER)
    return ConversionSummary(
        source=str(source),
        out=str(out),
        layout="lara-tokenizer",
        target="moto",
        tensors=len(tensors),
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        vision_encoder=str(Path(out) / VISION_FOLDER),
        sizes={name: getattr(config, name) for name in SIZES},
        notes=_notes(config, processor),
    )


def _folded_state(model: LatentActionModel) -> dict[str, Tensor]:
    """The state dict with the batch norm on z folded into a linear layer; the model is not changed."""
    # Moto has no batch norm there; folding replaces modules, so it is done on a copy.
    folded = deepcopy(model.inverse_dynamics)
    folded.fold_standardization()
    changed = {f"inverse_dynamics.{name}": tensor for name, tensor in folded.state_dict().items()}
    return {**model.state_dict(), **changed}


def moto_tree(config: LatentActionConfig, vision_encoder: str) -> dict[str, Any]:
    """The Hydra tree of Moto's config.yaml, as plain data."""
    # Moto builds its own ViTs from transformers' config class, with some keys of its own.
    vit = {
        "_target_": "transformers.ViTConfig",
        "query_num": config.num_latents,
        "attention_probs_dropout_prob": 0.0,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "initializer_range": config.initializer_range,
        "layer_norm_eps": config.layer_norm_eps,
        "model_type": "vit",
        "qkv_bias": True,
    }
    commit_weight, quantizer = _vector_quantizer(config)
    m_former = {
        **vit,
        "input_hidden_size": config.vision_config.hidden_size,
        "num_patches": config.num_frame_tokens,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_m_former_layers,
    }
    if config.segment_embedding == "per_frame":
        m_former["legacy"] = False  # Moto's own switch for a segment row per frame
    decoder = {
        **vit,
        "hidden_size": config.decoder_hidden_size,
        "image_size": config.image_size,
        "intermediate_size": config.decoder_intermediate_size,
        "num_attention_heads": config.decoder_num_attention_heads,
        "num_channels": 3,
        "num_hidden_layers": config.num_decoder_layers,
        "patch_size": config.patch_size,
        "encoder_stride": config.patch_size,
        "num_patches": config.num_patches,
    }
    return {
        "_target_": f"{_PACKAGE}.latent_motion_tokenizer.LatentMotionTokenizer",
        "codebook_dim": config.codebook_dim,
        "commit_loss_w": commit_weight,
        "recon_loss_w": config.reconstruction_loss_weight,
        "perceptual_loss_w": 0.0,
        "image_encoder": {
            "_target_": "transformers.ViTMAEModel.from_pretrained",
            "pretrained_model_name_or_path": vision_encoder,
        },
        "m_former": {
            "_target_": f"{_PACKAGE}.m_former.MFormer",
            "add_pooling_layer": False,
            "config": m_former,
        },
        "vector_quantizer": quantizer,
        "decoder": {"_target_": f"{_PACKAGE}.latent_motion_decoder.LatentMotionDecoder", "config": decoder},
    }


def _vector_quantizer(config: LatentActionConfig) -> tuple[float, dict[str, Any]]:
    """(commit_loss_w, settings): the larger VQ weight is commit_loss_w, the ratio of the other to it is beta."""
    codebook, commitment = config.codebook_loss_weight, config.commitment_loss_weight
    legacy = commitment >= codebook  # in Moto's default form beta weighs the codebook term
    larger, smaller = (commitment, codebook) if legacy else (codebook, commitment)
    tree: dict[str, Any] = {
        "_target_": f"{_PACKAGE}.vector_quantizer.VectorQuantizer2",
        "n_e": config.codebook_size,
        "e_dim": config.codebook_dim,
        "beta": smaller / larger if larger else 0.0,
        "remap": None,
        "sane_index_shape": True,
    }
    if not legacy:
        tree["legacy"] = False
    return larger, tree


def _notes(config: LatentActionConfig, processor: LatentActionProcessor) -> list[str]:
    """One sentence for each difference between Moto's own code and this model."""
    notes = []
    if config.patch_order == "row_major":
        notes.append(
            "Moto lets ViT-MAE shuffle the patches on every call; this model reads them in order, and most codes of a "
            "shuffled frame differ. Pass the tokenizer that Moto loaded to "
            "lara_tokenizer.export.moto_wrapper.keep_patch_order, or give Moto stored codes (lara-tok export moto)."
        )
    if config.decoder_warp:
        notes.append(
            "Moto's decoder does not warp frames: the flow head is left out, so its reconstructions differ from this "
            "model's; codes and latents do not. Converting back restores the head."
        )
    elif config.decoder_residual:
        notes.append("Moto's decoder predicts the frame itself: add frame t to its reconstructions.")
    if (tuple(processor.image_mean), tuple(processor.image_std)) != MOTO.statistics:
        notes.append(
            f"Moto normalises with ImageNet statistics; this model expects mean {processor.image_mean}, "
            f"std {processor.image_std}: normalise its input so."
        )
    if processor.resample != MOTO.resample:
        notes.append(f"Moto resizes with a bicubic filter; this model was trained on {processor.resample} frames.")
    if config.image_size != _MOTO_IMAGE_SIZE:
        notes.append(
            f"Moto's preprocessing produces {_MOTO_IMAGE_SIZE} px frames only and this model takes {config.image_size} "
            "px: Moto cannot tokenize with it while it trains. Give it stored codes (lara-tok export moto)."
        )
    if processor.steady_pairs:
        notes.append(
            "Moto has no global motion compensation (steady_pairs): undo shifts of the camera and changes of light "
            "first, as this model's processor does."
        )
    if config.standardize_latents:
        notes.append("The batch norm on z is folded into the last linear layer, as in eval mode.")
    return notes


def _load(source: str | Path) -> tuple[LatentActionModel, LatentActionProcessor]:
    model, processor = load_checkpoint(source)
    assert isinstance(model, LatentActionModel)
    return model.float(), processor
