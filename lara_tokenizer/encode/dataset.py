"""From a source of video to a table of tokens: the driver, which alone writes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Unpack

from lara_tokenizer.data import LoadOptions
from lara_tokenizer.encode.engines import running
from lara_tokenizer.encode.plan import Job
from lara_tokenizer.encode.prepare import Preparation, prepared
from lara_tokenizer.encode.rows import ordered_rows
from lara_tokenizer.encode.store import Store
from lara_tokenizer.encode.summary import EncodeSummary, Progress, summarize
from lara_tokenizer.encode.tasks import Failed, TaskQueue
from lara_tokenizer.errors import EpisodeReadError
from lara_tokenizer.table.metadata import FRAMES, episodes_digest, read_metadata
from lara_tokenizer.table.reader import iter_tables
from lara_tokenizer.table.schema import token_schema
from lara_tokenizer.table.source import Source
from lara_tokenizer.table.statistics import (
    TokenCounts,
    motion_counts_by_camera,
    motion_counts_from_metadata,
    motion_counts_of,
    motion_counts_to_metadata,
)
from lara_tokenizer.table.write import OutputPath, write_text_atomically, write_tokens

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionPreTrainedModel, LatentActionProcessor


def encode_dataset(
    source: Source,
    model: LatentActionPreTrainedModel | str | os.PathLike[str] = "lara-lam",
    processor: LatentActionProcessor | None = None,
    *,
    out: str | os.PathLike[str],
    strides: str | Sequence[str] | None = None,
    every: str = "1f",
    columns: str | Sequence[str] = (),
    keep_tail: bool = False,
    min_motion: float = 0.0,
    dtype: str | None = None,
    device: str | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    on_error: str = "skip",
    progress: Callable[[Progress], object] | None = None,
    **load: Unpack[LoadOptions],
) -> EncodeSummary:
    """Encode a source of video into a table of tokens (`lara-tok encode`).

    A run that was stopped, however rudely, goes on where it was when the same call is made again. Equal calls give
    equal bytes, for any number of workers and kills. Episodes that fail are listed in `<out>.failed.jsonl`; the next
    run tries them again.

    Args:
        source: what `load_episodes` takes, or episodes.
        model: "lara-lam" (bundled), a folder or a Hub id; or a model in memory, which needs its `processor`.
        processor: None takes the one saved with the model.
        out: "tokens.parquet" for one file, "tokens/" for a folder of shards.
        strides: gaps of a pair, "0.6s" or "5f", one or several; default: the first that the model was trained on.
        every: which frames start a pair: "1f" all of them, "0.5s" two a second.
        columns: extra columns: "latents", "actions" (action_chunk and action_sum), "text".
        keep_tail: keep rows whose future frame lies past the end, with `valid` false and codes -1.
        min_motion: leave out pairs whose pixels change by less on average, 0 to 1 (the column `motion`).
        dtype: "float32" (default), "bfloat16" or "float16".
        device: default: a GPU where there is one. A model in memory stays where it is.
        batch_size: frames, and pairs, a call of the model.
        workers: processes; default: by cores and memory. 0 works in this process: a crashing decoder ends the job.
        on_error: "skip" lists an episode that fails and goes on, "fail" stops.
        progress: called with the state of the run after each event.
        load: the keywords of `load_episodes`: fps, decoder, limit, cameras, segment, ...

    Raises:
        ValueError: an option is out of range, or there is nothing to encode.
        JobMismatchError: the target was made, or begun, by another job.
        EpisodeReadError: an episode failed and `on_error` is "fail".
        OSError: the target cannot be written; what is done is kept.

    >>> encode_dataset("videos/", "lara-lam", out="tokens.parquet", strides="0.6s").pairs  # doctest: +SKIP
    {'0.6s': 1204}
    """
    started = time.monotonic()
    target = OutputPath.parse(out)
    if on_error not in ("skip", "fail"):
        raise ValueError(f"on_error {on_error!r}: takes 'skip' or 'fail'")
    with prepared(
        source,
        model,
        processor,
        load=load,
        dtype=dtype,
        device=device,
        strides=strides,
        every=every,
        columns=columns,
        keep_tail=keep_tail,
        min_motion=min_motion,
        batch_size=batch_size,
    ) as preparation:
        if target.is_complete(preparation.fingerprint, preparation.episodes):
            return _summary_of_target(target, preparation.job, len(preparation.episodes))
        target.make_parent()
        with Store(target.job_folder, preparation.fingerprint, preparation.episodes) as store:
            state = Progress.begin(len(preparation.episodes), store.plans(), store.done_units())
            if progress is not None:
                progress(state)
            for _ in _run(store, preparation, workers, state, stop_on_failure=on_error == "fail"):
                if progress is not None:
                    progress(state)
            counts = _finalise(store, preparation, target)
            seconds = store.seconds()
            summary = summarize(
                os.fspath(out),
                len(preparation.episodes),
                store.plans(),
                store.failures(),
                counts,
                resumed=state.episodes_resumed,
                decode_seconds=seconds.decode,
                model_seconds=seconds.model,
                wall_seconds=time.monotonic() - started,
            )
            if not summary.failed:
                store.discard()
        return summary


def _run(
    store: Store, preparation: Preparation, workers: int | None, state: Progress, *, stop_on_failure: bool
) -> Iterator[None]:
    """Do what is pending, result by result. Each is on disk before the next is looked at."""
    pending = store.pending()
    if not pending:
        return
    tasks = TaskQueue(pending)
    with running(preparation.engine(workers, len(pending))) as engine:
        for event in engine.run(tasks):
            tasks.add(store.commit(event))
            state.follow(event)
            if isinstance(event, Failed):
                tasks.drop(event.episode)
                if stop_on_failure:
                    raise EpisodeReadError(event.episode, event.reason)
            yield


def _finalise(store: Store, preparation: Preparation, target: OutputPath) -> TokenCounts:
    """Write the table, and the list of failures."""
    job, failures = preparation.job, store.failures()
    counts = TokenCounts(job.num_latents, job.codebook_size)
    plans = store.plans()
    if failures:
        lines = [json.dumps({"episode": episode, "reason": reason}) for episode, reason in failures.items()]
        write_text_atomically(target.failed_file, "\n".join(lines) + "\n")
    else:
        target.failed_file.unlink(missing_ok=True)
    if not plans:
        return counts
    pieces = (rows for plan in plans.values() for rows in ordered_rows(plan.units, store.rows, job.strides))
    episodes = {**episodes_digest(preparation.episodes), "failed": len(failures)}
    units = (unit for plan in plans.values() for unit in plan.units)
    counts.moving_by_camera = motion_counts_by_camera(
        (unit.camera, motion_counts_of(store.rows(unit))) for unit in units
    )
    schema = token_schema(job.num_latents, job.codebook_dim, job.codebook_size, job.columns)
    try:
        write_tokens(
            counts.watch(pieces),
            schema,
            {
                **preparation.fingerprint,
                "episodes": episodes,
                FRAMES: preparation.checkpoint.frames,
                **motion_counts_to_metadata(counts.moving_by_camera),
            },
            target,
            store.folder,
            store.num_rows(),
        )
    except OSError as error:
        raise OSError(
            f"{target.path} cannot be written ({error.strerror or error}). All that is encoded is kept in "
            f"{store.folder}: make room and run the same command again."
        ) from error
    return counts


def _summary_of_target(target: OutputPath, job: Job, num_episodes: int) -> EncodeSummary:
    """What is known of a table that was complete before."""
    counts = TokenCounts(
        job.num_latents,
        job.codebook_size,
        moving_by_camera=motion_counts_from_metadata(read_metadata(target.path)),
    )
    names: set[str] = set()
    for table in counts.watch(iter_tables(target.path)):
        names |= set(table["episode"].unique().to_pylist())
    summary = summarize(
        str(target.path), num_episodes, {}, {}, counts, resumed=num_episodes, decode_seconds=0.0, model_seconds=0.0,
        wall_seconds=0.0,
    )  # fmt: skip
    return replace(summary, encoded=len(names), already_complete=True)
