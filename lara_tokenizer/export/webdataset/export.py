"""`export_webdataset`: shards with one sample per pair, in plain tars that webdataset reads and decodes.

The format is that of github.com/webdataset/webdataset: neighbouring members whose names agree up to the first dot of
their last component are a sample; the text after that dot is the name of a field, and its suffix decides the decoder.

<out>/
    train-000000.tar        see `shard`
    export_manifest.json
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Unpack

from lara_tokenizer.data import Episode
from lara_tokenizer.export.job import ExportJob, ExportSummary, Progress, counter
from lara_tokenizer.export.source_match import MatchedSource
from lara_tokenizer.export.webdataset.plan import Slice, plan_shards, shard_name, shard_urls, write_rows
from lara_tokenizer.export.webdataset.shard import UNFINISHED, ShardTask, write_shard
from lara_tokenizer.table.reader import SelectOptions, TokenTable
from lara_tokenizer.table.source import Source

# Pairs of 640 x 480 images for a shard of about 1 GB, as is customary. Of smaller images take more.
SHARD_SIZE = 5_000
_ROWS = "rows.arrow"  # exists while shards are written
# For the manifest; a change of this text changes the bytes of exports.
_NOTES = [
    "Samples of a shard are neighbours in time: shuffle shards and samples (shardshuffle, shuffle) as above, or more.",
]


def export_webdataset(
    tokens: str | os.PathLike[str],
    source: Source,
    out: str | os.PathLike[str],
    *,
    shard_size: int = SHARD_SIZE,
    images: bool = True,
    seed: int = 0,
    from_list: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    **select: Unpack[SelectOptions],
) -> ExportSummary:
    """Write shards and a manifest that webdataset reads.

    Pairs of an episode are in one shard, in the order of frames, and episodes in an order drawn from the seed: readers
    shuffle shards, and samples in a buffer.

    Args:
        tokens: the table, file or folder.
        source: the video it was made from, as given to `encode_dataset`.
        out: a new folder.
        shard_size: largest count of pairs in a shard; an episode that has more is cut.
        images: include the two frames of each pair; else only codes, latents and metadata.
        seed: of the order of episodes.
        from_list: the list of clips, if the table was made from one.
        workers: processes that write shards; None uses one per core, 0 none but this one.
        progress: called with (pairs in finished shards, all pairs).
        select: stride, cameras and thresholds, see `TokenTable.open`.

    Raises:
        ValueError: before anything is written, for a source that is not the table's, invalid options, and if `out`
            exists.
        JobMismatchError: there is an unfinished export of something else.
        EpisodeReadError: an episode cannot be decoded; finished shards are kept.

    >>> export_webdataset("tokens.parquet", "videos/", "shards").settings["urls"]  # doctest: +SKIP
    '<this folder>/train-{000000..000011}.tar'
    """
    if shard_size < 1:
        raise ValueError(f"shard_size {shard_size}: takes 1 pair or more")
    if seed < 0:
        raise ValueError(f"seed {seed}: takes 0 or more")
    table = TokenTable.open(tokens, **select)
    job = ExportJob("webdataset", table, out, {"shard_size": shard_size, "seed": seed, "images": images})

    def plan(matched: MatchedSource) -> list[list[Slice]]:
        return plan_shards(matched.selected, shard_size, seed)

    if (
        finished := job.finished(source, from_list, lambda matched: map(shard_name, range(len(plan(matched)))))
    ) is not None:
        return finished
    matched = job.match(source, from_list)
    shards = plan(matched)
    summary = job.summarize(matched, _settings(table, len(shards), shard_size, images), _NOTES)
    show = counter(progress, matched.num_pairs)
    with job.folder(summary) as folder:
        rows = folder.path / _ROWS
        if not folder.is_done(_ROWS, [rows]):
            write_rows(matched.sequences("codes", "latents", "text"), rows)
            folder.mark_done(_ROWS, [rows])
        tasks = _tasks(folder.path, table, shards, matched.episodes if images else None)
        folder.run_tasks(write_shard, tasks, workers, lambda task: show(task.pairs))
        rows.unlink(missing_ok=True)
        for leftover in folder.path.glob(f"*{UNFINISHED}"):  # of runs that were killed
            leftover.unlink()
    return summary


def _tasks(
    path: Path, table: TokenTable, shards: list[list[Slice]], episodes: Mapping[str, Episode] | None
) -> Iterator[ShardTask]:
    """One task per shard below `path`; without `episodes`, shards have no images."""
    for index, slices in enumerate(shards):
        yield ShardTask(
            file=path / shard_name(index),
            rows=path / _ROWS,
            slices=tuple(slices),
            episodes=() if episodes is None else tuple(episodes[each.episode] for each in slices),
            stride=table.stride,
            codebook_dim=table.codebook_dim,
        )


def _settings(table: TokenTable, shards: int, shard_size: int, images: bool) -> dict[str, Any]:
    """Arguments of `webdataset.WebDataset` and its methods, by their names."""
    fields = ["jpg", "future.jpg"] if images else []
    fields += [f"{name}.npy" for name in ("codes", "latents") if name in table.columns]
    return {
        "urls": f"<this folder>/{shard_urls(shards)}",
        "shardshuffle": shards,
        "shuffle": shard_size,
        "decode": "rgb8",
        "to_tuple": " ".join([*fields, "json"]),
    }
