"""lara-tokenizer: latent actions from video.

>>> from lara_tokenizer import LatentActionModel, LatentActionProcessor
>>> model = LatentActionModel.from_pretrained("lara-lam")  # doctest: +SKIP

The names below load on first use, so that importing the package costs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from lara_tokenizer.version import __version__

if TYPE_CHECKING:
    from lara_tokenizer.data import Episode, Episodes, Signals, load_episodes
    from lara_tokenizer.encode import EncodeSummary, encode_dataset, encode_episode
    from lara_tokenizer.errors import EpisodeReadError
    from lara_tokenizer.model import LatentActionConfig, LatentActionModel, LatentActionProcessor, load_model
    from lara_tokenizer.table import TokenTable, read_tokens

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
    "load_model": "model",
    "TokenTable": "table",
    "read_tokens": "table",
}

__all__ = [
    "EncodeSummary",
    "Episode",
    "EpisodeReadError",
    "Episodes",
    "LatentActionConfig",
    "LatentActionModel",
    "LatentActionProcessor",
    "Signals",
    "TokenTable",
    "__version__",
    "encode_dataset",
    "encode_episode",
    "load_episodes",
    "load_model",
    "read_tokens",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"lara_tokenizer has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(f"lara_tokenizer.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
