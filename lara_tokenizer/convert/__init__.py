"""Checkpoints of other projects -> ours, and ours -> Moto's layout."""

from lara_tokenizer.convert.convert import convert_checkpoint
from lara_tokenizer.convert.summary import ConversionSummary
from lara_tokenizer.convert.to_moto import export_to_moto

__all__ = ["ConversionSummary", "convert_checkpoint", "export_to_moto"]
