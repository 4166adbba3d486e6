"""The token table: its format, reader and writer, statistics, diff and merge, without torch and without encoding.

`docs/table.md` specifies the format. From the bottom up: `schema` (columns and key), `metadata` (the JSON in the
parquet schema), `reader` (`TokenTable`), `statistics`, `health`, `write`, then `description`, `diff`, `merge`, and
`source`, which reopens the videos that a table was made from.

>>> from lara_tokenizer.table import read_tokens
>>> read_tokens("tokens.parquet", ["codes"]).num_rows  # doctest: +SKIP
1204

The names below load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lara_tokenizer._lazy import lazy

if TYPE_CHECKING:
    from lara_tokenizer.table.description import describe
    from lara_tokenizer.table.diff import TokensDiff, diff_tokens
    from lara_tokenizer.table.merge import MergeSummary, merge_tokens
    from lara_tokenizer.table.metadata import read_metadata
    from lara_tokenizer.table.reader import TokenSequence, TokenTable, read_tokens

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

__getattr__, __dir__ = lazy(__name__, _HOME)
