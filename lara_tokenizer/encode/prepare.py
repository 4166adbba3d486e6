"""From options to everything a run needs: episodes, job, checkpoint, fingerprint, engine. Opens no video."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from lara_tokenizer.checkpoint import Checkpoint
from lara_tokenizer.data import Episode, LoadOptions, SignalReader, SourceFacts
from lara_tokenizer.encode.engines import Engine, InProcessEngine, LocalEngine
from lara_tokenizer.encode.fingerprint import job_fingerprint
from lara_tokenizer.encode.plan import Job, make_job
from lara_tokenizer.encode.pool import available_cores
from lara_tokenizer.encode.tasks import WorkerSetup
from lara_tokenizer.table.source import Source, find_episodes

if TYPE_CHECKING:
    from lara_tokenizer.encode.encode import Runner
    from lara_tokenizer.model import LatentActionPreTrainedModel, LatentActionProcessor

# A worker holds its weights and, beside them, about this much: Python, torch, frames.
_WORKER_BYTES = 1_000_000_000
# An episode rarely has work for more processes than this; more would only load models.
_WORKERS_AN_EPISODE = 4


@dataclass(frozen=True, slots=True)
class Preparation:
    """What is settled before the first video is opened."""

    job: Job
    checkpoint: Checkpoint
    episodes: dict[str, Episode]
    sources: tuple[SourceFacts, ...]
    fingerprint: dict[str, Any]
    device: str
    processor: LatentActionProcessor | None
    model: LatentActionPreTrainedModel | None  # one in memory, on a GPU

    def engine(self, workers: int | None, num_tasks: int) -> Engine:
        """An engine for so many tasks; `workers` None: by cores and memory, 0: no child process."""
        setup = WorkerSetup(self.checkpoint.folder, self.job, self.processor)
        if workers is not None and workers < 0:
            raise ValueError(f"workers {workers}: takes a number of processes, or 0 for none but this one")
        if workers is None:
            workers = self._fitting_workers(num_tasks)
        if workers == 0:
            return InProcessEngine(setup, self._load_runner)
        if self.device == "cpu":
            return LocalEngine(setup, workers)
        return LocalEngine(replace(setup, encodes=False), workers, self._load_runner)

    def _fitting_workers(self, num_tasks: int) -> int:
        weights = self.checkpoint.weights_bytes if self.device == "cpu" else 0
        fitting = int(0.8 * psutil.virtual_memory().total / (_WORKER_BYTES + weights))
        return max(1, min(available_cores(), fitting, _WORKERS_AN_EPISODE * num_tasks))

    def _load_runner(self) -> Runner:
        from lara_tokenizer.encode.encode import ModelRunner
        from lara_tokenizer.encode.worker import load_processor, load_runner

        setup = WorkerSetup(self.checkpoint.folder, self.job, self.processor)
        if self.model is not None:
            return ModelRunner(self.model, load_processor(setup))
        return load_runner(setup, self.device)


@contextmanager
def prepared(
    source: Source,
    model: LatentActionPreTrainedModel | str | os.PathLike[str],
    processor: LatentActionProcessor | None,
    *,
    load: LoadOptions,
    dtype: str | None = None,
    device: str | None = None,
    **job_options: Any,
) -> Iterator[Preparation]:
    """Check all options and settle the job. Within the context a model that is only in memory lies on disk too.

    Arguments are those of `encode_dataset`; `load` are the keywords of `load_episodes`, `job_options` of `make_job`.
    """
    loaded, episodes = find_episodes(source, load)
    with tempfile.TemporaryDirectory(prefix="lara-tokenizer-") as scratch:
        in_memory = None
        if isinstance(model, (str, os.PathLike)):
            checkpoint = Checkpoint.open(model, processor)
            dtype, device = dtype or "float32", _device(device)
        else:
            if processor is None:
                raise ValueError("a model in memory needs its processor: pass both, or the name of a checkpoint")
            checkpoint = Checkpoint.of(model, processor, Path(scratch))
            own_dtype, own_device = str(model.dtype).removeprefix("torch."), str(model.device)
            dtype, device = dtype or own_dtype, _device(device or own_device)
            in_memory = model if (dtype, device) == (own_dtype, own_device) and device != "cpu" else None
        job = make_job(checkpoint, dtype=dtype, **job_options)
        _check_dtype(checkpoint, job.dtype)
        _check_offers(job.columns, episodes.values())
        fingerprint = job_fingerprint(
            job, checkpoint, sources=loaded.sources, load=loaded.options, device=device.partition(":")[0]
        )
        with nullcontext() if in_memory is None else _in_eval_mode(in_memory):
            yield Preparation(job, checkpoint, episodes, loaded.sources, fingerprint, device, processor, in_memory)


def _check_dtype(checkpoint: Checkpoint, dtype: str) -> None:
    """Raise ValueError, while nothing is written, for a dtype that the model's family does not label in."""
    from transformers import AutoConfig

    from lara_tokenizer.encode.encode import check_dtype
    from lara_tokenizer.model import FAMILIES

    check_dtype(FAMILIES[type(AutoConfig.from_pretrained(checkpoint.folder))], dtype)


def _in_eval_mode(model: LatentActionPreTrainedModel) -> AbstractContextManager[None]:
    from lara_tokenizer.encode.encode import in_eval_mode

    return in_eval_mode(model)


def _check_offers(columns: Sequence[str], episodes: Iterable[Episode]) -> None:
    """A column that would be empty throughout is a mistake to be told at once."""
    offered = {signal for episode in episodes for signal in episode.offers}
    # Readers of one's own need not say what they offer.
    says = all(episode.offers or not isinstance(episode.reader, SignalReader) for episode in episodes)
    if says and (missing := sorted({"actions", "text"} & set(columns) - offered)):
        has = f"it has {', '.join(sorted(offered))}" if offered else "it has nothing but frames"
        raise ValueError(f"column {missing[0]!r}: no episode of the source has {missing[0]}; {has}")


def _device(name: str | None) -> str:
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here ({reason}). Take 'cpu', or leave it out") from None
    return name
