"""Codes of single pictures, by the tokenizers that others' policies read them with.

Not latent actions: a policy that predicts those from what it sees wants the picture in tokens too, its own ones.

>>> from lara_tokenizer.vision_tokens import LwmVisionTokenizer
>>> LwmVisionTokenizer.from_pickle("vqgan")(frames).shape  # doctest: +SKIP
(8, 256)

The names below load on first use; they import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lara_tokenizer.vision_tokens.lwm_vqgan import LwmVqgan, VqganSizes
    from lara_tokenizer.vision_tokens.tokenizer import LwmVisionTokenizer

_HOME = {"LwmVisionTokenizer": "tokenizer", "LwmVqgan": "lwm_vqgan", "VqganSizes": "lwm_vqgan"}

__all__ = ["LwmVisionTokenizer", "LwmVqgan", "VqganSizes"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"lara_tokenizer.vision_tokens has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(f"lara_tokenizer.vision_tokens.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
