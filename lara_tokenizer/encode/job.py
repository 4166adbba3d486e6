"""`EncodeJob`: everything that a run needs, from a source, a model and options. Opens no video.

This is not the on-disk state of a job: that is `store.py`. The job's fingerprint is part of the table's metadata, and a
resumed run must agree with it.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import psutil

from lara_tokenizer._files import available_cores, scratch_folder, summarize_names
from lara_tokenizer.checkpoint import Checkpoint
from lara_tokenizer.checkpoint.settings import check_dtype
from lara_tokenizer.data import Episode, SignalReader, SourceInfo
from lara_tokenizer.encode.device import resolve_device
from lara_tokenizer.encode.engines import Engine, InProcessEngine, LocalEngine, running
from lara_tokenizer.encode.options import (
    EncodeKeywords,
    EncodeOptions,
    check_options,
    resolve_options,
    split_keywords,
)
from lara_tokenizer.encode.plan import EpisodePlan, check_strides, content_of
from lara_tokenizer.encode.tasks import Failure, PlanTask, TaskQueue, WorkerSetup
from lara_tokenizer.errors import JobMismatchError
from lara_tokenizer.table.metadata import CONTENT, read_metadata
from lara_tokenizer.table.parquet import token_files
from lara_tokenizer.table.provenance import newer_files
from lara_tokenizer.table.schema import ACTION_COLUMNS, FORMAT_VERSION
from lara_tokenizer.table.source import Source, check_revisions, find_episodes

if TYPE_CHECKING:
    from lara_tokenizer.encode.model_runner import Runner
    from lara_tokenizer.model import LatentActionPreTrainedModel, LatentActionProcessor

logger = logging.getLogger(__name__)

# A worker needs its weights and about this much more: Python, torch, frames.
_WORKER_BYTES = 1_000_000_000
# An episode rarely has work for more processes than this; more would only load models.
_WORKERS_PER_EPISODE = 4
# Packages whose version may change rows.
_VERSIONS = ("av", "numpy", "pyarrow", "torch")


@dataclass(frozen=True, slots=True)
class EncodeJob:
    """One job: episodes, checkpoint and checked options.

    Attributes:
        options: on which the rows depend.
        checkpoint: on disk, also for a model in memory.
        episodes: by id.
        sources: information about the sources.
        fingerprint: everything that decides the rows, as JSON-native values.
        device: "cpu", "cuda", "cuda:1".
        processor: given by the caller; None for the checkpoint's.
        model: one in memory, on a GPU; None if it is loaded from the checkpoint.
        workers: number of processes as given by the caller.
    """

    options: EncodeOptions
    checkpoint: Checkpoint
    episodes: dict[str, Episode]
    sources: tuple[SourceInfo, ...]
    fingerprint: dict[str, Any]
    device: str
    processor: LatentActionProcessor | None
    model: LatentActionPreTrainedModel | None
    workers: int | None

    def engine(self, num_tasks: int) -> Engine:
        """An engine for this many tasks."""
        setup, workers = self._setup, self.workers
        if workers is None:
            workers = self._fitting_workers(num_tasks)
        if workers == 0:
            return InProcessEngine(setup, self._load_runner)
        if self.device == "cpu":
            return LocalEngine(setup, workers)
        # One model on the GPU, fed by workers that only decode.
        return LocalEngine(replace(setup, encodes=False), workers, self._load_runner)

    def check_made(self, table: Path, recorded: Mapping[str, Any]) -> None:
        """Raise JobMismatchError if a table, by its metadata, is of another revision of the source or other weights."""
        check_revisions(recorded, self.sources)
        made_by, weights = recorded["model"]["weights_sha256"], self.checkpoint.weights_sha256
        if made_by != weights:
            raise JobMismatchError(
                f"{table} was made by weights {_short(made_by)}, {self.checkpoint.id!r} has {_short(weights)}: "
                "codes of one mean nothing to the other. Pass the right checkpoint with --model."
            )

    def check_content(self, table: Path) -> None:
        """Raise JobMismatchError if files of the source are not what they were when this job made a table.

        Only where one is newer than the table is anything read: its packets, not its frames.
        """
        recorded = read_metadata(table)["episodes"].get(CONTENT)
        written = min(file.stat().st_mtime_ns for file in token_files(table))
        if recorded is None or not (newer := newer_files(self.episodes.values(), written)):
            return
        logger.warning("files of %s are newer than %s; comparing their content", summarize_names(newer), table)
        plans, reasons = [], {}
        with running(self.engine(len(self.episodes))) as engine:
            for event in engine.run(TaskQueue(PlanTask(episode) for episode in self.episodes.values())):
                match event:
                    case EpisodePlan():
                        plans.append(event)
                    case Failure(name, reason):
                        reasons[name] = reason
        if reasons or content_of(plans).get(CONTENT) != recorded:
            changed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items()) or summarize_names(newer)
            raise JobMismatchError(
                f"{table} was made from other files; changed since: {changed}. Name another --out, or delete the table "
                "to encode the files as they are now."
            )

    @property
    def _setup(self) -> WorkerSetup:
        return WorkerSetup(self.checkpoint.folder, self.options, self.processor)

    def _fitting_workers(self, num_tasks: int) -> int:
        weights = self.checkpoint.weights_bytes if self.device == "cpu" else 0
        # A GPU's memory does not limit the workers: they hold no weights then.
        fitting = int(0.8 * psutil.virtual_memory().total / (_WORKER_BYTES + weights))
        return max(1, min(available_cores(), fitting, _WORKERS_PER_EPISODE * num_tasks))

    def _load_runner(self) -> Runner:
        from lara_tokenizer.encode.model_runner import ModelRunner
        from lara_tokenizer.encode.pool.worker import load_processor, load_runner

        if self.model is not None:
            return ModelRunner(self.model, load_processor(self._setup))
        return load_runner(self._setup, self.device)


@contextmanager
def open_job(
    source: Source,
    model: LatentActionPreTrainedModel | str | os.PathLike[str],
    processor: LatentActionProcessor | None = None,
    **keywords: Unpack[EncodeKeywords],
) -> Iterator[EncodeJob]:
    """Check all options and open a job. While it is open, a model in memory is on disk too, for the workers.

    Arguments and errors are those of `encode_dataset`.
    """
    check_options(model, **keywords)
    rows, load = split_keywords(keywords)
    loaded, episodes = find_episodes(source, load)
    given = rows.get("strides") or ()
    check_strides([given] if isinstance(given, str) else given, episodes.values())
    dtype, device = keywords.get("dtype"), keywords.get("device")
    with ExitStack() as stack:
        in_memory = None
        if isinstance(model, (str, os.PathLike)):
            checkpoint = Checkpoint.open(model, processor)
            dtype, device = dtype or "float32", resolve_device(device)
        else:
            if processor is None:
                raise ValueError("a model in memory needs its processor: pass both, or the name of a checkpoint")
            scratch = stack.enter_context(scratch_folder(Path(tempfile.gettempdir()), "lara-tokenizer"))
            scratch.chmod(0o700)
            checkpoint = Checkpoint.from_model(model, processor, scratch)
            own_dtype, own_device = str(model.dtype).removeprefix("torch."), str(model.device)
            dtype, device = dtype or own_dtype, resolve_device(device or own_device)
            # On the CPU the workers load a copy each, and the model itself is not used.
            in_memory = model if (dtype, device) == (own_dtype, own_device) and device != "cpu" else None
        options = resolve_options(checkpoint, dtype=dtype, **rows)
        check_strides(options.strides, episodes.values())  # the model's own, if none was given
        check_dtype(checkpoint.model_type, options.dtype)
        _check_columns(options.columns, episodes.values())
        if in_memory is not None:
            from lara_tokenizer.encode.model_runner import in_eval_mode

            stack.enter_context(in_eval_mode(in_memory))
        yield EncodeJob(
            options=options,
            checkpoint=checkpoint,
            episodes=episodes,
            sources=loaded.sources,
            fingerprint=job_fingerprint(options, checkpoint, loaded.sources, loaded.options, device.partition(":")[0]),
            device=device,
            processor=processor,
            model=in_memory,
            workers=keywords.get("workers"),
        )


def job_fingerprint(
    options: EncodeOptions,
    checkpoint: Checkpoint,
    sources: Sequence[SourceInfo],
    load: Mapping[str, Any],
    device: str,
) -> dict[str, Any]:
    """Everything that decides the rows, and nothing else: no time, host, number of workers or path.

    Args:
        sources: of folders only the last path component counts, not where they are.
        load: the options of `load_episodes` that decide frames and times, as given; "decoder" is always one of "pyav",
            "decord", "torchcodec", or a custom reader's own name.
        device: its type, "cpu" or "cuda".
    """
    decoder = load["decoder"]
    packages = _VERSIONS if decoder in ("pyav", *_VERSIONS) else (*_VERSIONS, decoder)
    return {
        "format_version": FORMAT_VERSION,
        "model": checkpoint.identity(),
        "strides": list(options.strides),
        "every": options.every,
        "columns": list(options.columns),
        # Absent in jobs and tables of early releases, which have fewer: those are not mixed with rows that have all.
        **({"action_columns": list(ACTION_COLUMNS)} if "actions" in options.columns else {}),
        "keep_tail": options.keep_tail,
        "min_motion": options.min_motion,
        "batch_size": options.batch_size,
        "dtype": options.dtype,
        "device": device,
        "source": [{"name": each.name, "format": each.format, "revision": each.revision} for each in sources],
        # Without defaults, so that a new option of a later release does not change the fingerprint of older jobs.
        "load": {name: value for name, value in load.items() if value not in (None, [])},
        "versions": {name: _version(name) for name in packages},
    }


def _check_columns(columns: Sequence[str], episodes: Iterable[Episode]) -> None:
    """Raise ValueError for a column that would be empty throughout."""
    available = {signal for episode in episodes for signal in episode.available_signals}
    # Custom readers need not declare their signals.
    is_declared = all(episode.available_signals or not isinstance(episode.reader, SignalReader) for episode in episodes)
    if is_declared and (missing := sorted({"actions", "text"} & set(columns) - available)):
        has = f"it has {', '.join(sorted(available))}" if available else "it has frames only"
        raise ValueError(f"column {missing[0]!r}: no episode of the source has {missing[0]}; {has}")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _short(weights: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {digest[:12]}" for name, digest in sorted(weights.items()))
