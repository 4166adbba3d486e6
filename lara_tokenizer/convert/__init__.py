"""Conversion of checkpoints: from other projects to this package's format, and from there to Moto's layout."""

from lara_tokenizer.convert.base import ConversionSummary
from lara_tokenizer.convert.convert import convert_checkpoint
from lara_tokenizer.convert.moto.write import export_to_moto

__all__ = ["ConversionSummary", "convert_checkpoint", "export_to_moto"]
