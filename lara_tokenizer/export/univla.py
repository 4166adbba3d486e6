"""UniVLA's conversations as JSON lines, one per pair, with the codes as tokens <ACT_0>, <ACT_1>, ...

UniVLA builds them during training (`prismatic/vla/datasets/datasets.py` of github.com/OpenDriveLab/UniVLA,
`RLDSBatchTransformLatentAction`, with history `RLDSBatchTransformLIBERO_withHis`) and stores none; a line contains what
it builds for one sample:

{"image": "images/a.mp4/img_00012.jpg",
 "conversations": [{"from": "human", "value": "What action should the robot take to open the drawer?"},
                   {"from": "gpt", "value": "<ACT_3><ACT_15><ACT_0><ACT_7>"}]}
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from typing import Any, Unpack

import numpy as np

from lara_tokenizer.export.action_tokens import act_text, act_tokens
from lara_tokenizer.export.job import ExportJob, ExportSummary, Progress
from lara_tokenizer.export.jsonl import check_jsonl, jsonl_files, write_jsonl
from lara_tokenizer.table.reader import SelectOptions, TokenSequence, TokenTable
from lara_tokenizer.table.source import Source

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
    """Write train.jsonl, images/ and a manifest: conversations as UniVLA's own training builds them.

    A pair's history is the codes of the pair that starts one frame earlier, with the same gap.

    Args:
        tokens: the table, file or folder.
        source: the video it was made from, as given to `encode_dataset`.
        out: a new folder.
        instruction: for episodes without one; None refuses them.
        history: share of the pairs with a history that mention it; 0 for none.
        seed: of the order of lines, and of the choice of pairs that mention their history.
        images: write the images; else they must exist under these names when the lines are read.
        from_list: the list of clips, if the table was made from one.
        workers: processes that write images; None uses one per core, 0 none but this one.
        progress: called with (done, total) items.
        select: stride, cameras and thresholds, see `TokenTable.open`.

    Raises:
        ValueError: as `export_lapa`; a history outside 0 to 1.
        JobMismatchError: there is an unfinished export of something else.

    >>> export_univla("tokens.parquet", "videos/", "for-univla").settings["codebook_size"]  # doctest: +SKIP
    128
    """
    if not 0 <= history <= 1:
        raise ValueError(f"history {history}: takes a share, 0 (never) to 1 (wherever there is one)")
    table = TokenTable.open(tokens, **select)
    table.require("codes", "<ACT_...> words")
    options = {"instruction": instruction, "history": float(history), "seed": seed, "images": images}
    job = ExportJob("univla", table, out, options)
    if (finished := job.finished(source, from_list, partial(jsonl_files, images=images))) is not None:
        return finished
    matched = job.match(source, from_list)
    check_jsonl(matched, instruction, seed)
    summary = job.summarize(matched, _settings(table), _notes(table, history, images))
    with job.folder(summary) as folder:
        write_jsonl(
            folder,
            matched,
            _Lines(history, seed),
            instruction=instruction,
            seed=seed,
            images=images,
            workers=workers,
            progress=progress,
        )
    return summary


class _Lines:
    """The lines of one sequence after the other; the seed decides which of them mention their history."""

    def __init__(self, history: float, seed: int) -> None:
        self._history = history
        # A stream of its own: the seed alone gives the draws that shuffle the lines.
        self._rng = np.random.default_rng((seed, 1))

    def __call__(self, sequence: TokenSequence, images: list[str], texts: list[str]) -> Iterator[bytes]:
        assert sequence.codes is not None
        questions = {text: json.dumps(QUESTION.format(instruction=text.lower()))[1:-1] for text in set(texts)}
        # One draw per row, selected or not: a threshold leaves the draws of other rows as they are.
        drawn = self._rng.random(len(sequence.frames)) < self._history
        mentions = (has_history(sequence) & drawn)[sequence.selected].tolist()
        answers = list(map(act_text, sequence.codes.tolist()))
        rows = sequence.selected.nonzero()[0].tolist()
        for row, image, mentions_history, text in zip(rows, images, mentions, texts, strict=True):
            past = HISTORY + answers[row - 1] if mentions_history else ""
            yield (
                f'{{"image": "{image}", "conversations": '
                f'[{{"from": "human", "value": "{questions[text]}{past}"}}, '
                f'{{"from": "gpt", "value": "{answers[row]}"}}]}}\n'
            ).encode()


def has_history(sequence: TokenSequence) -> np.ndarray:
    """bool (R,): the row before is of the frame before, valid, and has the same gap in frames."""
    follows = np.diff(sequence.frames, prepend=sequence.frames[0]) == 1
    follows[1:] &= (sequence.futures[:-1] >= 0) & (np.diff(sequence.futures - sequence.frames) == 0)
    return follows


def _settings(table: TokenTable) -> dict[str, Any]:
    """Sizes that a reader needs; codebook_size is named as in UniVLA's own scripts (whose num_latents is K as well)."""
    assert table.codebook_size is not None
    tokens = act_tokens(table.codebook_size)
    return {
        "codebook_size": table.codebook_size,
        "codes_per_pair": table.num_latents,
        "act_tokens": f"{tokens[0]} to {tokens[-1]}",
    }


def _notes(table: TokenTable, history: float, images: bool) -> list[str]:
    """Sentences for the manifest; a change of their text changes the bytes of exports."""
    notes = [
        "Add the words to your tokenizer and model: lara_tokenizer.export.add_act_tokens(tokenizer, model, "
        f"codebook_size={table.codebook_size}).",
        f"Loss on the last {table.num_latents + 1} tokens only: the codes and the end of sequence.",
    ]
    if history and not any(has_history(sequence).any() for sequence in table.sequences()):
        notes.append("No pair names its history: no two pairs start one frame apart. Encode with --every 1f.")
    if not images:
        notes.append("No pictures were written: put them where the field image says, or link images/ to them.")
    return notes
