"""`convert_moto`: convert a checkpoint of Moto or LARA, in any published layout, to this package's format."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel

from lara_tokenizer._files import new_folder
from lara_tokenizer.convert.base import ConversionSummary
from lara_tokenizer.convert.moto.config import (
    SIZES,
    VISION_FOLDER,
    check_vision_fits,
    load_vision_config,
    load_vision_encoder,
    named_encoder,
    read_config,
)
from lara_tokenizer.convert.moto.layouts import ReferenceCheckpoint, read_checkpoint
from lara_tokenizer.convert.moto.names import ADVICE, from_reference, reference_shapes
from lara_tokenizer.convert.moto.sidecar import TENSORS, Sidecar, read_sidecar
from lara_tokenizer.convert.state_dict import check_tensors, zero_buffers
from lara_tokenizer.model import LatentActionConfig, LatentActionModel, LatentActionProcessor


def convert_moto(source: str | Path, *, out: str | Path, vision_encoder: str | Path | None = None) -> ConversionSummary:
    """Convert a checkpoint and write model, vision encoder and processor to `out`.

    Args:
        source: folder of a Moto tokenizer, a LARA stage-1 checkpoint, a LARA policy (whole, or its folder
            `latent_motion_tokenizer/`) or an openpi checkpoint with the tokenizer inside.
        out: a new folder.
        vision_encoder: transformers folder or Hub id of the frozen encoder, which those files do not contain. None
            takes the folder `vision_encoder/` beside the weights, as `export_to_moto` writes it.

    Raises:
        ValueError: naming the file, the tensors or the sizes that do not fit, and what to do.

    >>> convert_moto("moto/oxe", vision_encoder="facebook/vit-mae-large", out="moto-lam")  # doctest: +SKIP
    """
    checkpoint = read_checkpoint(source)
    encoder_name = _encoder_name(checkpoint, vision_encoder)
    # Its config alone first: the weights are large, and often the wrong ones are named.
    vision_config = load_vision_config(encoder_name)
    check_vision_fits(vision_config, encoder_name, checkpoint)
    sidecar = read_sidecar(checkpoint.folder)
    if sidecar is None:
        config, notes = read_config(checkpoint, vision_config)
        processor = _processor(checkpoint, config)
    else:
        config, notes, processor = sidecar.config, [], sidecar.processor
    check_tensors(checkpoint.tensors, reference_shapes(config), checkpoint.folder, ADVICE)
    with new_folder(out) as scratch:
        encoder = load_vision_encoder(encoder_name, vision_config)
        model = _assemble(checkpoint, config, encoder, sidecar)
        model.save_pretrained(scratch)
        processor.save_pretrained(scratch)
    return ConversionSummary(
        source=str(source),
        out=str(out),
        layout=checkpoint.layout.name,
        target="lara-tokenizer",
        tensors=len(checkpoint.tensors),
        parameters=sum(tensor.numel() for tensor in checkpoint.tensors.values()),
        vision_encoder=encoder_name,
        sizes={name: getattr(config, name) for name in SIZES},
        notes=notes,
    )


def _encoder_name(checkpoint: ReferenceCheckpoint, vision_encoder: str | Path | None) -> str:
    if vision_encoder is not None:
        return str(vision_encoder)
    beside = checkpoint.folder / VISION_FOLDER
    if beside.is_dir():
        return str(beside)
    named = named_encoder(checkpoint)
    hint = f"{checkpoint.settings_file} names {named!r}" if named else "published ones use facebook/vit-mae-large"
    raise ValueError(
        f"{checkpoint.folder} holds no vision encoder. Pass the one it was trained with as a transformers folder or a "
        f"Hub id: --vision-encoder ... ({hint})."
    )


def _processor(checkpoint: ReferenceCheckpoint, config: LatentActionConfig) -> LatentActionProcessor:
    mean, std = checkpoint.layout.statistics
    return LatentActionProcessor(
        size={"height": config.image_size, "width": config.image_size},
        resample=checkpoint.layout.resample,
        image_mean=mean,
        image_std=std,
    )


def _assemble(
    checkpoint: ReferenceCheckpoint, config: LatentActionConfig, encoder: PreTrainedModel, sidecar: Sidecar | None
) -> LatentActionModel:
    """Build the model on the meta device, without drawing random weights that would be overwritten."""
    with torch.device("meta"):
        model = LatentActionModel(config)
    model.vision_encoder = encoder
    state = zero_buffers(model) | from_reference(checkpoint.tensors, config)
    # After the reference's: what the export folded or left out takes precedence.
    state |= sidecar.tensors if sidecar else {}
    state |= {f"vision_encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:  # with a sidecar alone: all other tensors were compared before
        raise ValueError(f"{checkpoint.folder}: its {TENSORS} does not fit its weights. Export it again.") from error
    assert not any(tensor.is_meta for tensor in model.state_dict().values())
    return model.eval()
