"""`LatentActionTokenizer`: a model and its processor as one object, for clips, videos and cameras.

`latent_actions.py` has the result, `stream.py` the stream of a camera, and `online_pairs.py` the pairs of frames that
keep coming, by the rule of `data/stride.py`.

The names below load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lara_tokenizer._lazy import lazy

if TYPE_CHECKING:
    from lara_tokenizer.tokenizer.latent_actions import LatentActions
    from lara_tokenizer.tokenizer.stream import LatentActionStream
    from lara_tokenizer.tokenizer.tokenizer import LatentActionTokenizer

__all__ = ["LatentActionStream", "LatentActionTokenizer", "LatentActions"]

_HOME = {
    "LatentActionStream": "stream",
    "LatentActionTokenizer": "tokenizer",
    "LatentActions": "latent_actions",
}

__getattr__, __dir__ = lazy(__name__, _HOME)
