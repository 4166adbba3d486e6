"""A table of tokens to look at: its video with the codes beside it, as an HTML page or a recording for Rerun. No torch.

`view.py` is the course of both: `selection.py` chooses the episodes that fit, the source is proved to be the table's,
and `clips.py` holds each episode's moments, the pairs with their codes. `page.py` writes the page, with the moments of
like codes from `nearest.py`, and `recording.py` the .rrd.

>>> from lara_tokenizer.view import view_tokens
>>> view_tokens("tokens.parquet", "videos/", "view.html").moments  # doctest: +SKIP
89

The names below load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lara_tokenizer._lazy import lazy

if TYPE_CHECKING:
    from lara_tokenizer.view.view import ViewSummary, view_tokens

__all__ = ["ViewSummary", "view_tokens"]

_HOME = {"ViewSummary": "view", "view_tokens": "view"}

__getattr__, __dir__ = lazy(__name__, _HOME)
