"""`encode_dataset`: from a source of video to a token table. Only this driver writes to disk."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

from lara_tokenizer._database import DatabaseError
from lara_tokenizer._files import write_atomically
from lara_tokenizer.data import Episodes
from lara_tokenizer.data.shard import Shard
from lara_tokenizer.encode.engines import running
from lara_tokenizer.encode.estimate import Progress
from lara_tokenizer.encode.job import EncodeJob, open_job
from lara_tokenizer.encode.options import EncodeKeywords
from lara_tokenizer.encode.plan import EpisodePlan, check_some_pairs, content_of, ordered_rows
from lara_tokenizer.encode.store import DamagedUnitError, Store
from lara_tokenizer.encode.tasks import Failure, TaskQueue
from lara_tokenizer.errors import EpisodeReadError
from lara_tokenizer.table.health import HealthFigures, health_of
from lara_tokenizer.table.metadata import FRAMES, episodes_digest, read_metadata
from lara_tokenizer.table.reader import iter_tables
from lara_tokenizer.table.shards import SHARD, shard_contents
from lara_tokenizer.table.source import Source
from lara_tokenizer.table.statistics import (
    TokenCounts,
    card_to_metadata,
    motion_counts_by_camera,
    motion_counts_of,
    motion_counts_to_metadata,
)
from lara_tokenizer.table.write import OutputPath, write_tokens
from lara_tokenizer.verdict.card import Card
from lara_tokenizer.verdict.grades import Finding, Verdict

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionPreTrainedModel, LatentActionProcessor


def encode_dataset(
    source: Source,
    model: LatentActionPreTrainedModel | str | os.PathLike[str] = "lara-lam",
    processor: LatentActionProcessor | None = None,
    *,
    out: str | os.PathLike[str],
    on_error: str = "skip",
    progress: Callable[[Progress], object] | None = None,
    **options: Unpack[EncodeKeywords],
) -> EncodeSummary:
    """Encode a source of video into a token table (`lara-tok encode`).

    A run that was stopped, in whatever way, is continued by the same call. Equal calls give equal bytes, for any number
    of workers and kills. Episodes that fail are listed in `<out>.failed.jsonl`; the next run tries them again.

    Args:
        source: what `load_episodes` takes, or episodes.
        model: "lara-lam" (bundled), a folder or a Hub id; or a model in memory, which needs its `processor`.
        processor: default: the one saved with the model.
        out: "tokens.parquet" for one file, "tokens/" for a folder of files. A shard's table is beside it,
            "tokens-00003-of-00008.parquet"; `merge_tokens` of all gives the table that one job would have made.
        on_error: "skip" lists an episode that fails and goes on, "fail" stops.
        progress: called with the state of the run after each event.
        options: of the rows, of the run, and of `load_episodes` (fps, decoder, limit, cameras, segment, ...):

            strides: of the pairs, "0.6s" or "5f", one or several; default: the first that the model was trained on.
            every: distance of the frames that start a pair: "1f" every frame, "0.5s" two per second.
            columns: extra columns: "latents", "actions" (action_chunk, action_sum, state_change), "text".
            keep_tail: keep rows whose future frame is past the end, with `valid` false and codes -1.
            min_motion: leave out pairs whose pixels change by less on average, 0 to 1 (the column `motion`).
            batch_size: frames, and pairs, per call of the model; default 64.
            dtype: "float32" (default), "bfloat16" or "float16".
            device: default: a GPU if there is one. A model in memory stays where it is.
            workers: processes; default: by cores and memory. 0 uses this process only: a crashing decoder ends the job.

    Raises:
        ValueError: an option is out of range, or there is no pair to encode: then no table is written.
        JobMismatchError: `out` was made, or begun, by another job.
        EpisodeReadError: an episode failed and `on_error` is "fail".
        OSError: `out` cannot be written; what is encoded is kept.

    >>> encode_dataset("videos/", "lara-lam", out="tokens.parquet", strides="0.6s").pairs  # doctest: +SKIP
    {'0.6s': 1204}
    """
    started = time.monotonic()
    output = OutputPath.parse(out)
    if on_error not in ("skip", "fail"):
        raise ValueError(f"on_error {on_error!r}: takes 'skip' or 'fail'")
    if shard := source.options.get(SHARD) if isinstance(source, Episodes) else options.get("shard"):
        output = output.of_shard(Shard.parse(shard))
    output.check_free()
    with open_job(source, model, processor, **options) as job:
        output.sweep()
        # Before the store is opened: a complete or foreign table leaves no job folder behind.
        if output.is_complete(job.fingerprint, job.episodes):
            job.check_content(output.path)
            return _summary_of_table(output, len(job.episodes))
        output.make_parent()
        with Store(output.job_folder, job.fingerprint, job.episodes) as store:
            state = Progress.begin(len(job.episodes), store.plans(), store.done_units())
            counts: TokenCounts | None = None
            # Once, unless stored rows turn out to be damaged, or a file changes, while the table is written.
            while counts is None:
                if progress is not None:
                    progress(state)
                for _ in _run(store, job, state, stop_on_failure=on_error == "fail"):
                    if progress is not None:
                        progress(state)
                counts = _write_results(store, job, output, stop_on_failure=on_error == "fail")
            seconds = store.seconds()
            summary = _summarize(
                counts,
                store.plans(),
                out=str(output.path) if shard else os.fspath(out),
                episodes=len(job.episodes) + store.vanished,
                failed=store.failures(),
                resumed=state.episodes_resumed,
                decode_seconds=seconds.decode,
                model_seconds=seconds.model,
                wall_seconds=time.monotonic() - started,
            )
            # With failures the store stays, so that the next run only retries the failed episodes.
            if not summary.failed:
                store.discard()
        return summary


def _run(store: Store, job: EncodeJob, state: Progress, *, stop_on_failure: bool) -> Iterator[None]:
    """Run the pending tasks, one event at a time, and commit each event's result before the next one is handled.

    What is committed is safe from a kill; after a power cut the last units are encoded again.
    """
    pending = store.pending()
    if not pending:
        return
    tasks = TaskQueue(pending)
    with running(job.engine(len(pending))) as engine:
        for event in engine.run(tasks):
            # First of all: a kill after this line loses nothing of the result.
            tasks.add(store.commit(event))
            state.update(event)
            if isinstance(event, Failure):
                tasks.cancel(event.episode)
                if stop_on_failure:
                    raise EpisodeReadError(event.episode, event.reason)
            yield


def _write_results(store: Store, job: EncodeJob, output: OutputPath, *, stop_on_failure: bool) -> TokenCounts | None:
    """Write the table and the list of failures; None if there is more to do, or to leave out, before that."""
    changed = store.fail_changed()
    if changed and stop_on_failure:
        raise EpisodeReadError(changed[0], store.failures()[changed[0]])
    options, plans = job.options, store.plans()
    checkpoint = job.checkpoint
    card = Card.read(checkpoint.folder)
    counts = TokenCounts(options.num_latents, options.codebook_size, model=checkpoint.id, card=card)
    try:
        _write_failures(store.failures(), output)
        # An empty table would hide that nothing was encoded; but without its shard the others could not be merged.
        if not plans and not job.fingerprint["load"].get(SHARD):
            return counts
        if not job.fingerprint["load"].get(SHARD):
            _check_not_empty(store, job)
        tables = (table for plan in plans.values() for table in ordered_rows(plan.units, store.rows, options.strides))
        # A first pass for the metadata, which a parquet writer needs before the first row.
        units = (unit for plan in plans.values() for unit in plan.units)
        counts.moving_by_camera = motion_counts_by_camera(
            (unit.camera, motion_counts_of(store.rows(unit))) for unit in units
        )
        metadata = {
            **job.fingerprint,
            "episodes": {
                **episodes_digest(job.episodes),
                "failed": len(store.failures()),
                **content_of(plans.values()),
                **shard_contents(job.fingerprint["load"], job.episodes, {k: v.content for k, v in plans.items()}),
            },
            FRAMES: checkpoint.frame_settings,
            **card_to_metadata(card),
            **motion_counts_to_metadata(counts.moving_by_camera),
        }

        def is_current() -> bool:
            # A file that changes after this is newer than the table, by which the next run notices.
            assert counts.rows == store.num_rows(), f"{counts.rows} rows were written, {store.num_rows()} are stored"
            return not store.fail_changed()

        rows = counts.count_through(tables)
        is_written = write_tokens(
            rows, options.schema, metadata, output, store.folder, store.num_rows(), is_current=is_current
        )
        return counts if is_written else None
    except DamagedUnitError:
        return None
    except DatabaseError:
        raise
    except OSError as error:
        raise OSError(
            f"{output.path} cannot be written ({error.strerror or error}). All that is encoded is kept in "
            f"{store.folder}: make room and run the same command again."
        ) from error


def _check_not_empty(store: Store, job: EncodeJob) -> None:
    """Raise ValueError, and forget the job, if its table would have no pair."""
    plans = store.plans()
    try:
        check_some_pairs(plans, job.episodes)
        if not store.num_rows():
            planned = sum(sum(plan.pairs.values()) for plan in plans.values())
            raise ValueError(
                f"0 pairs: all {planned:,} move less than min_motion {job.options.min_motion:g}. Pass a smaller "
                "--min-motion; the noise of a sensor is about 0.004"
            )
    except ValueError:
        store.discard()
        raise


def _write_failures(failures: Mapping[str, str], output: OutputPath) -> None:
    if not failures:
        output.failed_file.unlink(missing_ok=True)
        return
    lines = [json.dumps({"episode": episode, "reason": reason}) for episode, reason in failures.items()]
    write_atomically(output.failed_file, "\n".join(lines) + "\n")


@dataclass(frozen=True, slots=True)
class EncodeSummary:
    """Result of `encode_dataset`.

    Attributes:
        out: the table.
        episodes, encoded, resumed: requested; in the table; of these, encoded by earlier runs.
        too_short, failed: episodes without a pair at any stride; reasons by episode for those that failed.
        short: for each stride, the number of episodes that are shorter.
        notes: remarks of readers, by episode.
        rows, pairs: all rows; valid rows by stride.
        idle_left_out: pairs that `min_motion` left out; None if an earlier run made the table.
        codebook_size, codes_used, perplexity, perplexity_per_position: None for a continuous bottleneck.
        idle_share, figures, health, verdict: see `table.health`.
        decode_seconds, model_seconds, wall_seconds: the first two summed over workers and runs.
        already_complete: the table was there, nothing was done.
    """

    out: str
    episodes: int
    encoded: int
    resumed: int
    too_short: list[str]
    failed: dict[str, str]
    short: dict[str, int]
    notes: dict[str, list[str]]
    rows: int
    pairs: dict[str, int]
    idle_left_out: int | None
    codebook_size: int | None
    codes_used: int | None
    perplexity: float | None
    perplexity_per_position: list[float] | None
    idle_share: float
    figures: HealthFigures
    health: list[Finding]
    verdict: Verdict
    decode_seconds: float
    model_seconds: float
    wall_seconds: float
    already_complete: bool = False

    @property
    def mean_position_perplexity(self) -> float | None:
        """Mean of `perplexity_per_position`."""
        values = self.perplexity_per_position
        return None if values is None else sum(values) / len(values)

    def to_dict(self) -> dict[str, Any]:
        """JSON-native values."""
        return {**asdict(self), "mean_position_perplexity": self.mean_position_perplexity}


def _summarize(counts: TokenCounts, plans: Mapping[str, EpisodePlan], **fields: Any) -> EncodeSummary:
    """The summary of a job from its counts and plans; `fields` are those that follow from neither."""
    # Without plans an earlier run made the table: then what it left out is not known.
    planned = sum(sum(plan.pairs.values()) for plan in plans.values()) if plans else None
    health = health_of(counts)
    too_short = [name for name, plan in plans.items() if not plan.units]
    short: dict[str, int] = {}
    for plan in plans.values():
        for stride in plan.short_of:
            short[stride] = short.get(stride, 0) + 1
    return EncodeSummary(
        encoded=len(plans) - len(too_short),
        too_short=too_short,
        short=short,
        notes={name: list(plan.notes) for name, plan in plans.items() if plan.notes},
        rows=counts.rows,
        pairs=dict(sorted(counts.pairs.items())),
        idle_left_out=None if planned is None else planned - counts.num_pairs,
        codebook_size=counts.codebook_size,
        codes_used=counts.codes_used,
        perplexity=counts.perplexity,
        perplexity_per_position=counts.perplexity_per_position,
        idle_share=counts.idle_share,
        figures=health.figures,
        health=health.findings,
        verdict=health.verdict,
        **fields,
    )


def _summary_of_table(output: OutputPath, num_episodes: int) -> EncodeSummary:
    """The summary of a table that was complete before."""
    counts = TokenCounts.of_metadata(read_metadata(output.path))
    names: set[str] = set()
    for table in counts.count_through(iter_tables(output.path)):
        names |= set(table["episode"].unique().to_pylist())
    summary = _summarize(
        counts,
        {},
        out=str(output.path),
        episodes=num_episodes,
        failed={},
        resumed=num_episodes,
        decode_seconds=0.0,
        model_seconds=0.0,
        wall_seconds=0.0,
        already_complete=True,
    )
    return replace(summary, encoded=len(names))
