"""Image tokenizers of other projects' policies: codes of single frames.

These are not latent actions: a policy that predicts latent actions from images needs the image as its own tokens, too.

>>> from lara_tokenizer.vision_tokens import LwmVisionTokenizer
>>> LwmVisionTokenizer.from_pickle("vqgan")(frames).shape  # doctest: +SKIP
(8, 256)

The names below load on first use; they import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lara_tokenizer._lazy import lazy

if TYPE_CHECKING:
    from lara_tokenizer.vision_tokens.lwm_vqgan import LwmVqgan, VqganSizes
    from lara_tokenizer.vision_tokens.tokenizer import LwmVisionTokenizer

_HOME = {"LwmVisionTokenizer": "tokenizer", "LwmVqgan": "lwm_vqgan", "VqganSizes": "lwm_vqgan"}

__all__ = ["LwmVisionTokenizer", "LwmVqgan", "VqganSizes"]


__getattr__, __dir__ = lazy(__name__, _HOME)
