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
    "act_text": "act_words",
    "act_tokens": "act_words",
    "add_act_tokens": "act_words",
    "export_groot": "groot",
    "export_lapa": "lapa",
    "export_lerobot": "lerobot",
    "export_moto": "moto",
    "export_univla": "univla",
    "export_webdataset": "webdataset",
    "parse_act_text": "act_words",
    "undo_lerobot": "lerobot",
}

__all__ = [
    "ExportSummary",
    "act_text",
    "act_tokens",
    "add_act_tokens",
    "export_groot",
    "export_lapa",
    "export_lerobot",
    "export_moto",
    "export_univla",
    "export_webdataset",
    "parse_act_text",
    "undo_lerobot",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"lara_tokenizer.export has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(f"lara_tokenizer.export.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
