"""Video to a table of tokens: decode once, label many, lose nothing.

>>> from lara_tokenizer.encode import encode_dataset
>>> encode_dataset("videos/", "lara-lam", out="tokens.parquet", strides="0.6s")  # doctest: +SKIP

The names below load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lara_tokenizer.encode.dataset import encode_dataset
    from lara_tokenizer.encode.encode import encode_episode
    from lara_tokenizer.encode.estimate import EncodeEstimate, estimate_dataset
    from lara_tokenizer.encode.picture import draw_predictions
    from lara_tokenizer.encode.summary import EncodeSummary, Progress
    from lara_tokenizer.encode.verify import VerifyReport, verify_tokens

_HOME = {
    "EncodeEstimate": "estimate",
    "EncodeSummary": "summary",
    "Progress": "summary",
    "VerifyReport": "verify",
    "draw_predictions": "picture",
    "encode_dataset": "dataset",
    "encode_episode": "encode",
    "estimate_dataset": "estimate",
    "verify_tokens": "verify",
}

__all__ = [
    "EncodeEstimate",
    "EncodeSummary",
    "Progress",
    "VerifyReport",
    "draw_predictions",
    "encode_dataset",
    "encode_episode",
    "estimate_dataset",
    "verify_tokens",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"lara_tokenizer.encode has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(f"lara_tokenizer.encode.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
