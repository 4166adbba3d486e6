"""From options to everything a run needs: episodes, job, checkpoint, fingerprint, engine. Opens no video."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from lara_tokenizer.data import Episode, load_episodes
from lara_tokenizer.encode.checkpoint import Checkpoint
from lara_tokenizer.encode.engines import Engine, InProcessEngine, LocalEngine
from lara_tokenizer.encode.fingerprint import job_fingerprint
from lara_tokenizer.encode.plan import Job, make_job
from lara_tokenizer.encode.tasks import WorkerSetup

if TYPE_CHECKING:
    from lara_tokenizer.encode.encode import Runner
    from lara_tokenizer.model import LatentActionModel, LatentActionProcessor

Source = str | Path | Sequence[str | Path] | Sequence[Episode]
Fps = float | Mapping[str, float] | None

# A worker holds its weights and, beside them, about this much: Python, torch, frames.
_WORKER_BYTES = 1_000_000_000
# An episode rarely has work for more processes than this; more would only load models.
_WORKERS_AN_EPISODE = 4
_NAMES_LISTED = 16


@dataclass(frozen=True, slots=True)
class Preparation:
    """What is settled before the first video is opened."""

    job: Job
    checkpoint: Checkpoint
    episodes: dict[str, Episode]
    fingerprint: dict[str, Any]
    device: str
    processor: LatentActionProcessor | None
    model: LatentActionModel | None  # one in memory, on a GPU

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
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        weights = self.checkpoint.weights_bytes if self.device == "cpu" else 0
        fitting = int(0.8 * psutil.virtual_memory().total / (_WORKER_BYTES + weights))
        return max(1, min(cores, fitting, _WORKERS_AN_EPISODE * num_tasks))

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
    model: LatentActionModel | str | os.PathLike[str],
    processor: LatentActionProcessor | None,
    *,
    fps: Fps = None,
    decoder: str = "pyav",
    limit: int | None = None,
    dtype: str | None = None,
    device: str | None = None,
    **job_options: Any,
) -> Iterator[Preparation]:
    """Check all options and settle the job. Within the context a model that is only in memory lies on disk too.

    Arguments are those of `encode_dataset`; `job_options` are those of `make_job`.
    """
    names, episodes, fps, decoder = _episodes(source, fps, decoder, limit)
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
        fingerprint = job_fingerprint(
            job, checkpoint, source=names, fps=fps, decoder=decoder, device=device.partition(":")[0]
        )
        with nullcontext() if in_memory is None else _in_eval_mode(in_memory):
            yield Preparation(job, checkpoint, episodes, fingerprint, device, processor, in_memory)


def _in_eval_mode(model: LatentActionModel) -> AbstractContextManager[None]:
    from lara_tokenizer.encode.encode import in_eval_mode

    return in_eval_mode(model)


def _episodes(
    source: Source, fps: Fps, decoder: str, limit: int | None
) -> tuple[list[str], dict[str, Episode], Fps, str]:
    """Names of the source for the metadata, episodes by id, overrides of the rate, and the decoder's name."""
    sources = [source] if isinstance(source, (str, Path)) else list(source)
    given = [item for item in sources if isinstance(item, Episode)]
    if not given:
        paths = [item for item in sources if isinstance(item, (str, Path))]
        return _names(paths), _by_id(load_episodes(paths, fps=fps, decoder=decoder, limit=limit)), fps, decoder
    if len(given) < len(sources):
        raise ValueError("the source mixes episodes and paths: pass either")
    if fps is not None:
        raise ValueError("fps: these episodes are loaded already. Give it to load_episodes, or set episode.fps")
    rates = {episode.id: episode.fps for episode in given[:limit] if episode.fps is not None}
    readers = sorted({type(episode.reader).__name__ for episode in given[:limit]})
    return [], _by_id(sorted(given, key=lambda episode: episode.id)[:limit]), rates or None, ", ".join(readers)


def _names(paths: Sequence[str | Path]) -> list[str]:
    """What to call a source in the metadata: last path components, never where they lie on this machine."""
    resolved = sorted({os.path.abspath(path) for path in paths})
    if len(resolved) > _NAMES_LISTED:
        resolved = [os.path.commonpath(resolved)]
    return sorted({os.path.basename(path) for path in resolved})


def _by_id(episodes: Sequence[Episode]) -> dict[str, Episode]:
    by_id: dict[str, Episode] = {}
    for episode in episodes:
        # File names may hold bytes that are no text; tables and databases hold text only.
        episode.id = episode.id.encode("utf-8", "backslashreplace").decode()
        if episode.id in by_id:
            raise ValueError(f"two episodes are called {episode.id!r}: ids must be unique within a source")
        by_id[episode.id] = episode
    return by_id


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
