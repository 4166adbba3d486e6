"""Checks of an ONNX export that need no torch, so that a mistake is told at once."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from lara_tokenizer._files import is_empty_folder
from lara_tokenizer.errors import missing_extra


def check_export(out: str | Path) -> None:
    """Raise ImportError unless the packages of the extra are installed, and ValueError unless `out` is a new folder."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise missing_extra(package, "onnx")
    if Path(out).exists() and not is_empty_folder(Path(out)):
        raise ValueError(f"{out} exists already and is not an empty folder: OUT takes the name of a new one.")
