"""Codes as tokens of a language model, <ACT_0> to <ACT_K-1>, for any Hugging Face tokenizer.

The spelling is that of `prismatic/vla/datasets/datasets.py` in github.com/OpenDriveLab/UniVLA: one token per code,
nothing in between. Imports neither torch nor transformers: their objects are passed in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_TOKEN = re.compile(r"<ACT_(\d+)>")
# Tokenizers may put spaces between special tokens when they decode.
_RUN = re.compile(r"<ACT_\d+>(?:\s*<ACT_\d+>)*")
_SHOWN = 80  # characters of a text in an error


def act_tokens(codebook_size: int) -> list[str]:
    """The tokens of codes 0 to K - 1.

    >>> act_tokens(3)
    ['<ACT_0>', '<ACT_1>', '<ACT_2>']
    """
    if codebook_size < 1:
        raise ValueError(f"codebook_size {codebook_size}: takes the number of codes, 1 or more")
    return [f"<ACT_{code}>" for code in range(codebook_size)]


def act_text(codes: Iterable[int]) -> str:
    """The codes of one pair as text.

    >>> act_text([3, 15, 0, 7])
    '<ACT_3><ACT_15><ACT_0><ACT_7>'
    """
    return "".join([f"<ACT_{code}>" for code in codes])


def parse_act_text(text: str, num_latents: int, codebook_size: int) -> list[int]:
    """The codes of one pair in a decoded answer; text before and after them is ignored.

    Args:
        text: decoded with skip_special_tokens=False, since the codes are special tokens.
        num_latents: N, codes per pair.
        codebook_size: K.

    Raises:
        ValueError: no codes, or codes in several separate runs, another count than N, or one outside 0 .. K - 1.

    >>> parse_act_text("<ACT_3><ACT_15></s>", num_latents=2, codebook_size=16)
    [3, 15]
    """
    runs = _RUN.findall(text)
    shown = repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
    if len(runs) != 1:
        found = "no <ACT_...>" if not runs else f"<ACT_...> in {len(runs)} places"
        hint = "Decode with skip_special_tokens=False" if not runs else "Pass the answer without its prompt"
        raise ValueError(f"{shown} has {found}, the codes of a pair are one run of them. {hint}.")
    codes = [int(digits) for digits in _TOKEN.findall(runs[0])]
    if len(codes) != num_latents:
        raise ValueError(f"{shown} has {len(codes)} codes, a pair has {num_latents}")
    if max(codes) >= codebook_size:
        raise ValueError(f"{shown} has code {max(codes)}, the codebook has 0 to {codebook_size - 1}")
    return codes


def add_act_tokens(tokenizer: Any, model: Any = None, *, codebook_size: int) -> list[int]:
    """Add the tokens of all codes to a tokenizer, and rows to a model's embedding; returns the id of each code.

    A second call adds nothing. The new rows of the embedding need training.

    Args:
        tokenizer: of transformers, changed in place.
        model: of transformers, whose embedding grows if it has fewer rows than the tokenizer has tokens; one that was
            padded to more stays as it is.
        codebook_size: K of the token table (`settings` in the export's manifest).

    Raises:
        ValueError: the tokenizer splits one of the tokens, or gives two the same id.

    >>> ids = add_act_tokens(tokenizer, model, codebook_size=128)  # doctest: +SKIP
    """
    tokens = act_tokens(codebook_size)
    # The second argument is positional, as its name differs between transformers 4 and 5: False keeps the special
    # tokens that the tokenizer has already.
    tokenizer.add_special_tokens({"additional_special_tokens": tokens}, False)
    ids = [tokenizer.convert_tokens_to_ids(token) for token in tokens]
    if len({*ids, tokenizer.unk_token_id}) != len(tokens) + 1:
        raise ValueError(f"{type(tokenizer).__name__} does not take <ACT_0> to {tokens[-1]} as single tokens")
    if model is not None and len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer))
    return ids
