"""The token table: schema, metadata, reader, writer, statistics, diff and merge. Imports no torch.

>>> from lara_tokenizer.table import read_tokens
>>> read_tokens("tokens.parquet", ["codes"]).num_rows  # doctest: +SKIP
1204

The names below load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lara_tokenizer.table.description import describe
    from lara_tokenizer.table.diff import TokensDiff, diff_tokens
    from lara_tokenizer.table.merge import MergeSummary, merge_tokens
    from lara_tokenizer.table.metadata import read_metadata
    from lara_tokenizer.table.reader import TokenSequence, TokenTable, read_tokens

_HOME = {
    "MergeSummary": "merge",
    "TokenSequence": "reader",
    "TokenTable": "reader",
    "TokensDiff": "diff",
    "describe": "description",
    "diff_tokens": "diff",
    "merge_tokens": "merge",
    "read_metadata": "metadata",
    "read_tokens": "reader",
}

__all__ = [
    "MergeSummary",
    "TokenSequence",
    "TokenTable",
    "TokensDiff",
    "describe",
    "diff_tokens",
    "merge_tokens",
    "read_metadata",
    "read_tokens",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"lara_tokenizer.table has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(f"lara_tokenizer.table.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
