"""The frozen vision encoder that a reference checkpoint leaves out: loaded whole, and only if it fits."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from lara_tokenizer.convert.layouts import ReferenceCheckpoint, section
from lara_tokenizer.convert.names import listed
from lara_tokenizer.convert.settings import frame_tokens, vision_width
from lara_tokenizer.model import LatentActionConfig


def load_vision_config(name: str) -> PretrainedConfig:
    """The config of a vision model, or of the vision half of a two-tower model (folder or Hub id).

    Raises:
        ValueError: where there is no config, or one of another kind of model.
    """
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        # transformers would guess a model from the folder's name.
        raise _unreadable(name, "the folder has no config.json")
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from error
    config = getattr(config, "vision_config", config)
    for size in ("hidden_size", "image_size", "patch_size"):
        if not isinstance(getattr(config, size, None), int):
            raise _unreadable(name, f"a {config.model_type} is no vision transformer: it has no {size}")
    return config


def load_vision_encoder(name: str, config: PretrainedConfig) -> PreTrainedModel:
    """The encoder in float32, every parameter from the file.

    Raises:
        ValueError: where nothing can be loaded, or a parameter is not in the file (it would be random).
    """
    try:
        encoder, report = AutoModel.from_pretrained(name, config=config, dtype="float32", output_loading_info=True)
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from error
    absent = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if absent:
        raise ValueError(
            f"vision encoder {name}: {len(absent)} parameters are not in its files ({listed(absent)}) and would be "
            "random. Pass the complete encoder that the tokenizer was trained with."
        )
    return encoder.eval()


def check_vision_fits(config: PretrainedConfig, name: str, checkpoint: ReferenceCheckpoint) -> None:
    """Raise ValueError unless the M-Former can read this encoder: same width, same number of tokens a frame."""
    sizes = {"image_size": config.image_size, "patch_size": config.patch_size}
    tokens = LatentActionConfig(vision_config=config, **sizes).num_frame_tokens
    if config.hidden_size != vision_width(checkpoint):
        raise ValueError(
            f"vision encoder {name} has width {config.hidden_size}, but this tokenizer's M-Former reads "
            f"{vision_width(checkpoint)}. Pass the encoder it was trained with{_named_in(checkpoint)}."
        )
    if tokens != frame_tokens(checkpoint):
        raise ValueError(
            f"vision encoder {name} gives {tokens} tokens a frame ({config.image_size} px, patch {config.patch_size}), "
            f"but this tokenizer's M-Former has positions for {frame_tokens(checkpoint)}. Pass the encoder it was "
            f"trained with{_named_in(checkpoint)}."
        )


def named_encoder(checkpoint: ReferenceCheckpoint) -> str:
    """The encoder that the settings file names, or "": often a path on the trainer's machine."""
    named = section(checkpoint.settings, "image_encoder").get("pretrained_model_name_or_path")
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
