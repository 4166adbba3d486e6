"""Conversion of checkpoints: from other projects to this package's format, and from there to Moto's layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lara_tokenizer._lazy import lazy

if TYPE_CHECKING:
    from lara_tokenizer.convert.base import ConversionSummary
    from lara_tokenizer.convert.convert import convert_checkpoint
    from lara_tokenizer.convert.moto.write import export_to_moto

__all__ = ["ConversionSummary", "convert_checkpoint", "export_to_moto"]

_HOME = {
    "ConversionSummary": "base",
    "convert_checkpoint": "convert",
    "export_to_moto": "moto.write",
}

__getattr__, __dir__ = lazy(__name__, _HOME)
