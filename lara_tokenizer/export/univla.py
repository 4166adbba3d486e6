"""UniVLA's conversations as jsonl: a line a pair, with the codes as words <ACT_0>, <ACT_1>, ... for any language model.

UniVLA makes them while it trains (`prismatic/vla/datasets/datasets.py` of github.com/OpenDriveLab/UniVLA,
`RLDSBatchTransformLatentAction`, with history `RLDSBatchTransformLIBERO_withHis`) and stores none; a line holds what is
made there of one sample:

{"image": "images/a.mp4/img_00012.jpg",
 "conversations": [{"from": "human", "value": "What action should the robot take to open the drawer?"},
                   {"from": "gpt", "value": "<ACT_3><ACT_15><ACT_0><ACT_7>"}]}
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from itertools import compress
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from lara_tokenizer.export.act_words import act_text, act_tokens
from lara_tokenizer.export.folder import export_folder
from lara_tokenizer.export.manifest import ExportSummary, export_job, finished_export, summary_of, write_manifest
from lara_tokenizer.export.matching import Matched, Source, match_source
from lara_tokenizer.export.pair_lines import Progress, check_pair_lines, write_pair_lines
from lara_tokenizer.export.pictures import frame_file, picture_folder
from lara_tokenizer.table.reader import SelectOptions, TokenSequence, TokenTable

QUESTION = "What action should the robot take to {instruction}?"
HISTORY = " History action "


def export_univla(
    tokens: str | os.PathLike[str],
    source: Source,
    out: str | os.PathLike[str],
    *,
    instruction: str | None = None,
    history: float = 0.5,
    seed: int = 0,
    images: bool = True,
    from_list: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    **select: Unpack[SelectOptions],
) -> ExportSummary:
    """Write train.jsonl, images/ and a manifest: conversations as UniVLA's own training makes them.

    A pair's history is the codes of the pair that starts one frame earlier, with the same gap.

    Args:
        tokens: the table, file or folder.
        source: the video it was made from, as given to `encode_dataset`.
        out: a new folder.
        instruction: for episodes without one; none given refuses them.
        history: share of pairs that name their history, of those which have one in the table; 0 for none.
        seed: of the order of lines, and of which pairs name their history.
        images: write the pictures; else they are there already under these names, or come later.
        from_list: the list of clips, where the table was made from one.
        workers: processes that write pictures; None takes one a core, 0 none but this one.
        progress: called with how much is done and how much there is to do.
        select: which pairs, see `TokenTable.open`.

    Raises:
        ValueError: before anything is written, for a table without codes, a source that is not the table's, episodes
            without instruction, bad options, and where `out` exists. JobMismatchError: an unfinished export of
            something else waits there.

    >>> export_univla("tokens.parquet", "videos/", "for-univla").settings["codebook_size"]  # doctest: +SKIP
    128
    """
    out = Path(out)
    if not 0 <= history <= 1:
        raise ValueError(f"history {history}: takes a share, 0 (never) to 1 (wherever there is one)")
    opened = TokenTable.open(tokens, **select)
    opened.require("codes", "<ACT_...> words")
    job = export_job("univla", opened, instruction=instruction, history=float(history), seed=seed, images=images)
    if (finished := finished_export(out, job)) is not None:
        return finished
    matched = match_source(opened, source, from_list, out)
    check_pair_lines(matched, instruction, seed)
    summary = summary_of("univla", out, matched, _settings(opened), _notes(matched, history, images))
    with export_folder(out, job) as folder:
        write_pair_lines(
            folder,
            matched,
            _Lines(history, seed),
            instruction=instruction,
            seed=seed,
            images=images,
            workers=workers,
            progress=progress,
        )
        write_manifest(folder.path, job, summary)
    return summary


class _Lines:
    """Lines of one track after the other; which of them name their history follows from the seed."""

    def __init__(self, history: float, seed: int) -> None:
        self._history = history
        self._rng = np.random.default_rng((seed, 1))  # not the draws that shuffle the lines

    def __call__(self, track: TokenSequence, texts: Sequence[str]) -> Iterator[bytes]:
        assert track.codes is not None
        folder = json.dumps(picture_folder(track.episode, track.camera))[1:-1]
        questions = {text: json.dumps(QUESTION.format(instruction=text.lower()))[1:-1] for text in set(texts)}
        drawn = self._rng.random(len(track.frames)) < self._history
        named = (earlier_pairs(track) & drawn)[track.selected].tolist()
        words = list(map(act_text, track.codes.tolist()))
        rows = track.selected.nonzero()[0].tolist()
        for row, is_named, text in zip(rows, named, compress(texts, track.selected), strict=True):
            past = HISTORY + words[row - 1] if is_named else ""
            yield (
                f'{{"image": "{folder}/{frame_file(int(track.frames[row]))}", "conversations": '
                f'[{{"from": "human", "value": "{questions[text]}{past}"}}, '
                f'{{"from": "gpt", "value": "{words[row]}"}}]}}\n'
            ).encode()


def earlier_pairs(track: TokenSequence) -> np.ndarray:
    """bool (R,): whether the row before is of the frame before, valid, and with the same gap in frames."""
    follows = np.diff(track.frames, prepend=track.frames[0]) == 1
    follows[1:] &= (track.futures[:-1] >= 0) & (np.diff(track.futures - track.frames) == 0)
    return follows


def _settings(tokens: TokenTable) -> dict[str, Any]:
    """What a reader must know; codebook_size is the name of UniVLA's own scripts (whose num_latents is K as well)."""
    assert tokens.codebook_size is not None
    words = act_tokens(tokens.codebook_size)
    return {
        "codebook_size": tokens.codebook_size,
        "codes_per_pair": tokens.num_latents,
        "act_tokens": f"{words[0]} to {words[-1]}",
    }


def _notes(matched: Matched, history: float, images: bool) -> list[str]:
    notes = [
        "Add the words to your tokenizer and model: lara_tokenizer.export.add_act_tokens(tokenizer, model, "
        f"codebook_size={matched.tokens.codebook_size}).",
        f"Loss on the last {matched.tokens.num_latents + 1} tokens only: the codes and the end of sequence.",
    ]
    if history and not any(earlier_pairs(track).any() for _, track in matched.sequences()):
        notes.append("No pair names its history: no two pairs start one frame apart. Encode with --every 1f.")
    if not images:
        notes.append("No pictures were written: put them where the field image says, or link images/ to them.")
    return notes
