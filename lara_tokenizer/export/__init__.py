"""A table of tokens to the formats of others. No torch: labels are copied, not computed.

>>> from lara_tokenizer.export import export_lapa
>>> export_lapa("tokens.parquet", "videos/", "for-lapa", min_motion=0.01).pairs  # doctest: +SKIP
1204

The names below load on first use.
"""

from __future__ import annotations

from importlib import import_module

_HOME = {
    "ExportSummary": "manifest",
}

__all__ = ["ExportSummary"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"lara_tokenizer.export has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(f"lara_tokenizer.export.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
