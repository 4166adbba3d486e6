"""What a conversion did, and the folder that it leaves only when done."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class ConversionSummary:
    """
    Fields:
        source, out: as given.
        layout: what `source` is: "moto", "lara-stage1", "lara-policy", "openpi", "lapa", "adaworld", "dreamdojo",
            "univla" or "lara-tokenizer".
        target: what `out` is: "lara-tokenizer" or "moto".
        tensors, parameters: converted, without the vision encoder.
        vision_encoder: the folder or Hub id that it came from, or the folder it was written to.
        sizes: the model's main sizes by their config names.
        notes: sentences on what was assumed or cannot be said in the target's layout.
    """

    source: str
    out: str
    layout: str
    target: str
    tensors: int
    parameters: int
    vision_encoder: str
    sizes: dict[str, int]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-native values."""
        return asdict(self)


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


@contextmanager
def new_folder(out: str | Path) -> Iterator[Path]:
    """A scratch folder beside `out` that takes its name once the block ends well, and vanishes otherwise.

    Raises:
        ValueError: when `out` is a file or holds files.
    """
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"{out} exists already and is not an empty folder. Name a new one with --out.")
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = out.parent / f".{out.name}.{os.getpid()}.partial"
    scratch.mkdir()
    try:
        yield scratch
        if out.exists():
            out.rmdir()
        scratch.replace(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
