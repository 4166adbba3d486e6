"""Convert published checkpoints (LAPA, Moto, ...) to this package's format."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from lara_tokenizer._files import new_folder, summarize_names
from lara_tokenizer.convert.adaworld import ADAWORLD
from lara_tokenizer.convert.base import ConversionOptions, ConversionSummary, ConvertedModel, Family, refuse_villa_x
from lara_tokenizer.convert.checks import check_conversion
from lara_tokenizer.convert.lapa import LAPA
from lara_tokenizer.convert.moto.layouts import PICKLE, POLICY_FOLDER, SAFETENSORS, SAFETENSORS_INDEX
from lara_tokenizer.convert.moto.read import convert_moto
from lara_tokenizer.convert.state_dict import SUFFIXES, StateDictFile, read_state_dict_file, safetensors_names
from lara_tokenizer.convert.univla import UNIVLA
from lara_tokenizer.errors import first_line

# Published as one file of weights each; Moto and LARA publish folders.
FAMILIES: tuple[Family, ...] = (LAPA, ADAWORLD, UNIVLA)


def convert_checkpoint(
    source: str | Path,
    *,
    out: str | Path,
    vision_encoder: str | Path | None = None,
    image_size: int | None = None,
) -> ConversionSummary:
    """Convert a checkpoint of another project and write model and processor to `out`.

    The model family is detected from tensor names. `lara_tokenizer.load_model(out)` loads the result, and
    `lara-tok encode --model out` encodes with it.

    Args:
        source: a folder of Moto or LARA (see `convert_moto`), or one file of weights of LAPA, AdaWorld, DreamDojo or
            UniVLA, or the folder that holds it.
        out: a new folder.
        vision_encoder: transformers folder or Hub id of the frozen encoder, for checkpoints without it.
        image_size: side of LAPA's frames in pixels, which its files do not record; None takes that of its scripts.

    Raises:
        ValueError: naming the file, the tensors or the sizes that do not fit, and what to do.

    >>> convert_checkpoint("lapa/laq_openx.pt", out="lapa-laq")  # doctest: +SKIP
    """
    check_conversion(source, out)
    options = ConversionOptions(vision_encoder, image_size)
    state = _find_state_dict(Path(source))
    if state is None:
        options.refuse(Path(source), "image_size", "checkpoints of Moto and LARA record the size of frames")
        return convert_moto(source, out=out, vision_encoder=vision_encoder)
    converted = _convert(state, options)
    with new_folder(out) as scratch:
        converted.model.save_pretrained(scratch)
        converted.processor.save_pretrained(scratch)
    return _summary(converted, source, out)


def _find_state_dict(source: Path) -> StateDictFile | None:
    """The file of weights at `source`; None for a folder of Moto or LARA, or without weights.

    Raises ValueError for a folder with several files, none of them named as in a Hub checkpoint.
    """
    if source.is_file():
        return read_state_dict_file(source)
    if not source.is_dir() or (source / SAFETENSORS_INDEX).is_file() or (source / POLICY_FOLDER).is_dir():
        return None
    files = sorted(file for file in source.iterdir() if file.suffix in SUFFIXES and file.is_file())
    usual = [file for file in files if file.name in (SAFETENSORS, PICKLE)]
    if len(files) > 1 and not usual:
        names = summarize_names(file.name for file in files)
        raise ValueError(f"{source} holds {names}: several files of weights. Name one.")
    if not files:
        return None
    file = (usual or files)[0]
    # Names alone first: the folder may hold a whole policy of LARA, with many GB of other tensors.
    if file.name == SAFETENSORS and _family_of(safetensors_names(file)) is None:
        return None
    state = read_state_dict_file(file)
    # Moto's and LARA's own file names are left to their reader, which also looks for settings beside them.
    return None if usual and _family_of(state.tensors) is None else state


def _convert(state: StateDictFile, options: ConversionOptions) -> ConvertedModel:
    family = _family_of(state.tensors)
    if family is None:
        raise _unknown(state)
    try:
        return family.convert(state, options)
    except ValueError as error:
        if str(state.file) in str(error):
            raise
        raise ValueError(f"{state.file}: {error}") from error
    # Sizes that no check foresaw end up as errors of torch or Python; users need the file and what to do.
    except (ArithmeticError, LookupError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"{state.file}: its tensors have names of {family.example}, but shapes that do not fit any such model "
            f"({type(error).__name__}: {first_line(error)}). Download it again."
        ) from error


def _family_of(names: Collection[str]) -> Family | None:
    return next((family for family in FAMILIES if family.recognises(names)), None)


def _unknown(state: StateDictFile) -> ValueError:
    refuse_villa_x(state.tensors, state.file)
    known = ", ".join(family.example for family in FAMILIES)
    return ValueError(
        f"{state.file} is not a known checkpoint. Known are {known}, and folders of Moto and LARA. It holds "
        f"{summarize_names(sorted(state.tensors)) or 'nothing'}."
    )


def _summary(converted: ConvertedModel, source: str | Path, out: str | Path) -> ConversionSummary:
    return ConversionSummary(
        source=str(source),
        out=str(out),
        layout=converted.layout,
        target="lara-tokenizer",
        tensors=converted.tensors,
        parameters=sum(
            parameter.numel()
            for name, parameter in converted.model.named_parameters()
            if not name.startswith("vision_encoder.")
        ),
        vision_encoder=converted.vision_encoder,
        sizes=converted.sizes,
        notes=converted.notes,
    )
