"""WebDataset shards: a sample a pair, in plain tars that `webdataset.WebDataset(...).decode("rgb8")` reads.

The format is that of github.com/webdataset/webdataset: neighbouring members whose names agree up to the first dot of
their last component are a sample, what follows that dot is the name of a field, and its ending says how to decode it.

<out>/
    train-000000.tar        see `webdataset_shard`
    export_manifest.json
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Unpack

from lara_tokenizer.export.folder import ExportFolder, export_folder
from lara_tokenizer.export.manifest import ExportSummary, export_job, finished_export, summary_of, write_manifest
from lara_tokenizer.export.matching import Matched, Source, match_source
from lara_tokenizer.export.names import check_distinct
from lara_tokenizer.export.parallel import run_tasks
from lara_tokenizer.export.webdataset_plan import Slice, plan_shards, sample_folder, shard_name, shard_urls
from lara_tokenizer.export.webdataset_rows import write_rows
from lara_tokenizer.export.webdataset_shard import UNFINISHED, ShardTask, write_shard
from lara_tokenizer.table.reader import SelectOptions, TokenTable

# A shard of about 1 GB is the custom: so many pairs of 640 x 480 pictures. Of smaller ones more fit.
SHARD_SIZE = 5_000
_ROWS = "rows.arrow"  # while shards are made


def export_webdataset(
    tokens: str | os.PathLike[str],
    source: Source,
    out: str | os.PathLike[str],
    *,
    shard_size: int = SHARD_SIZE,
    seed: int = 0,
    images: bool = True,
    from_list: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], object] | None = None,
    **select: Unpack[SelectOptions],
) -> ExportSummary:
    """Write shards and a manifest that WebDataset reads.

    Pairs of an episode lie in one shard, in the order of frames, and episodes in an order drawn from the seed: readers
    shuffle shards, and samples in a buffer.

    Args:
        tokens: the table, file or folder.
        source: the video it was made from, as given to `encode_dataset`.
        out: a new folder.
        shard_size: pairs in a shard at most; an episode that has more is cut.
        seed: of the order of episodes.
        images: with the two frames of each pair; else codes, latents and facts alone.
        from_list: the list of clips, where the table was made from one.
        workers: processes that make shards; None takes one a core, 0 none but this one.
        progress: called with the number of pairs in finished shards, and of all pairs.
        select: which pairs, see `TokenTable.open`.

    Raises:
        ValueError: before anything is written, for a source that is not the table's, bad options, and where `out`
            exists. JobMismatchError: an unfinished export of something else waits there. EpisodeReadError: the first
            episode that cannot be decoded; finished shards are kept.

    >>> export_webdataset("tokens.parquet", "videos/", "shards").settings["urls"]  # doctest: +SKIP
    '<this folder>/train-{000000..000011}.tar'
    """
    out = Path(out)
    if shard_size < 1:
        raise ValueError(f"shard_size {shard_size}: takes 1 pair or more")
    if seed < 0:
        raise ValueError(f"seed {seed}: takes 0 or more")
    opened = TokenTable.open(tokens, **select)
    job = export_job("webdataset", opened, shard_size=shard_size, seed=seed, images=images)
    if (finished := finished_export(out, job)) is not None:
        return finished
    matched = match_source(opened, source, from_list, out)
    check_distinct(matched.wanted, sample_folder, "samples")
    shards = plan_shards(matched, shard_size, seed)
    summary = summary_of("webdataset", out, matched, _settings(opened, len(shards), shard_size, images), _NOTES)
    with export_folder(out, job) as folder:
        _write_shards(folder, matched, shards, images, workers, progress)
        write_manifest(folder.path, job, summary)
    return summary


_NOTES = [
    "Samples of a shard are neighbours in time: shuffle shards and samples (shardshuffle, shuffle) as above, or more.",
]


def _write_shards(
    folder: ExportFolder,
    matched: Matched,
    shards: list[list[Slice]],
    images: bool,
    workers: int | None,
    progress: Callable[[int, int], object] | None,
) -> None:
    rows = folder.path / _ROWS
    if not folder.is_done(_ROWS):
        write_rows(matched, rows)
        folder.mark_done(_ROWS)
    tasks = [_task(folder, matched, number, slices, images) for number, slices in enumerate(shards)]
    waiting = [task for task in tasks if not folder.is_done(task.file.name)]
    show = progress or (lambda done, total: None)
    total = matched.total_wanted
    done = total - sum(task.pairs for task in waiting)
    show(done, total)
    for task, _ in run_tasks(write_shard, waiting, workers):
        folder.mark_done(task.file.name)
        done += task.pairs
        show(done, total)
    rows.unlink(missing_ok=True)
    for left in folder.path.glob(f"*{UNFINISHED}"):  # by runs that were killed
        left.unlink()


def _task(folder: ExportFolder, matched: Matched, number: int, slices: list[Slice], images: bool) -> ShardTask:
    episodes = tuple(matched.episodes[each.episode] for each in slices)
    return ShardTask(
        file=folder.path / shard_name(number),
        rows=folder.path / _ROWS,
        slices=tuple(slices),
        episodes=episodes if images else (),
        stride=matched.tokens.stride,
        codebook_dim=matched.tokens.codebook_dim,
    )


def _settings(tokens: TokenTable, shards: int, shard_size: int, images: bool) -> dict[str, Any]:
    """By the names in which `webdataset.WebDataset` and its methods take them."""
    fields = ["jpg", "future.jpg"] if images else []
    fields += [f"{name}.npy" for name in ("codes", "latents") if name in tokens.columns]
    return {
        "urls": f"<this folder>/{shard_urls(shards)}",
        "shardshuffle": shards,
        "shuffle": shard_size,
        "decode": "rgb8",
        "to_tuple": " ".join([*fields, "json"]),
    }
