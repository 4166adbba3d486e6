"""A published checkpoint of another project -> a whole checkpoint of ours, whosever it is."""

from __future__ import annotations

from pathlib import Path

from lara_tokenizer.convert.adaworld import ADAWORLD
from lara_tokenizer.convert.family import Converted, Family
from lara_tokenizer.convert.lapa import LAPA
from lara_tokenizer.convert.moto import convert_moto
from lara_tokenizer.convert.names import listed
from lara_tokenizer.convert.state_file import find_state_file, read_state_file
from lara_tokenizer.convert.summary import ConversionSummary, new_folder
from lara_tokenizer.convert.univla import UNIVLA
from lara_tokenizer.convert.villa_x import is_villa_x, refuse_villa_x

# Those that are published as one file of weights; Moto and LARA publish folders.
FAMILIES: tuple[Family, ...] = (LAPA, ADAWORLD, UNIVLA)


def convert_checkpoint(
    source: str | Path, *, out: str | Path, vision_encoder: str | Path | None = None
) -> ConversionSummary:
    """Write `out`: model and processor, ready for `lara_tokenizer.load_model(out)` and `lara-tok encode --model out`.

    Args:
        source: a folder of Moto or LARA (see `convert_moto`), or one file of weights of LAPA, AdaWorld, DreamDojo or
            UniVLA, or the folder that holds it.
        out: a new folder.
        vision_encoder: transformers folder or Hub id of the frozen encoder, where the files leave it out.

    Raises:
        ValueError: naming the file, the tensors or the sizes that do not fit, and what to do.

    >>> convert_checkpoint("lapa/laq_openx.pt", out="lapa-laq")  # doctest: +SKIP
    """
    file = None if (Path(source) / "config.yaml").is_file() else find_state_file(source)
    if file is None:
        return convert_moto(source, out=out, vision_encoder=vision_encoder)
    state = read_state_file(file)
    converted = _family(state.tensors, file).convert(state, vision_encoder)
    with new_folder(out) as scratch:
        converted.model.save_pretrained(scratch)
        converted.processor.save_pretrained(scratch)
    return _summary(converted, source, out)


def _family(names: dict[str, object] | dict, file: Path) -> Family:
    for family in FAMILIES:
        if family.recognises(names):
            return family
    if is_villa_x(names):
        refuse_villa_x(file)
    known = ", ".join(family.example for family in FAMILIES)
    raise ValueError(
        f"{file} is no checkpoint that is known here: {known} are, and folders of Moto and LARA. It holds "
        f"{listed(sorted(names)) or 'nothing'}."
    )


def _summary(converted: Converted, source: str | Path, out: str | Path) -> ConversionSummary:
    return ConversionSummary(
        source=str(source),
        out=str(out),
        layout=converted.layout,
        target="lara-tokenizer",
        tensors=converted.tensors,
        parameters=sum(parameter.numel() for parameter in converted.model.parameters()),
        vision_encoder=converted.vision_encoder,
        sizes=converted.sizes,
        notes=converted.notes,
    )
