"""lara-tokenizer: latent actions from video.

>>> from lara_tokenizer import LatentActionTokenizer
>>> tokenizer = LatentActionTokenizer.from_pretrained("lara-lam")  # doctest: +SKIP
>>> tokenizer.encode_video("samples/hammer.mp4", stride="0.5s")  # doctest: +SKIP
LatentActions(67 pairs: 8 codes and z (8, 32) each)

The names below load on first use, so that importing the package costs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lara_tokenizer._lazy import lazy
from lara_tokenizer.version import __version__

if TYPE_CHECKING:
    from lara_tokenizer.data import Episode, Episodes, Signals, load_episodes
    from lara_tokenizer.encode import EncodeSummary, encode_dataset, encode_episode
    from lara_tokenizer.errors import EpisodeReadError
    from lara_tokenizer.model import LatentActionConfig, LatentActionModel, LatentActionProcessor, load_model
    from lara_tokenizer.table import TokenTable, read_tokens
    from lara_tokenizer.tokenizer import LatentActions, LatentActionTokenizer

_HOME = {
    "Episode": "data",
    "EpisodeReadError": "errors",
    "Episodes": "data",
    "Signals": "data",
    "load_episodes": "data",
    "EncodeSummary": "encode",
    "encode_dataset": "encode",
    "encode_episode": "encode",
    "LatentActionConfig": "model",
    "LatentActionModel": "model",
    "LatentActionProcessor": "model",
    "LatentActionTokenizer": "tokenizer",
    "LatentActions": "tokenizer",
    "load_model": "model",
    "TokenTable": "table",
    "read_tokens": "table",
    "__version__": "version",
}

__all__ = [
    "EncodeSummary",
    "Episode",
    "EpisodeReadError",
    "Episodes",
    "LatentActionConfig",
    "LatentActionModel",
    "LatentActionProcessor",
    "LatentActionTokenizer",
    "LatentActions",
    "Signals",
    "TokenTable",
    "__version__",
    "encode_dataset",
    "encode_episode",
    "load_episodes",
    "load_model",
    "read_tokens",
]


__getattr__, __dir__ = lazy(__name__, _HOME)
