"""`estimate_dataset`: number of pairs and expected time of a job (`lara-tok encode --dry-run`)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

from lara_tokenizer.data import Episode
from lara_tokenizer.encode.engines import Engine, running
from lara_tokenizer.encode.job import open_job
from lara_tokenizer.encode.plan import EncodeKeywords, EpisodePlan
from lara_tokenizer.encode.tasks import Encoded, Failure, Heartbeat, PlanTask, TaskQueue, UnitTask
from lara_tokenizer.table.source import Source

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionPreTrainedModel, LatentActionProcessor

# Frames that each worker encodes in the probe.
_PROBE_FRAMES = 128


@dataclass(frozen=True, slots=True)
class EncodeEstimate:
    """Expected size and time of an `encode_dataset`.

    Attributes:
        episodes, too_short, failed, pairs: as in `EncodeSummary`.
        frames: to decode.
        workers: number of processes that the time is for.
        seconds: None if there is nothing to encode.
    """

    episodes: int
    too_short: list[str]
    failed: dict[str, str]
    pairs: dict[str, int]
    frames: int
    workers: int
    seconds: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-native values."""
        return asdict(self)


def estimate_dataset(
    source: Source,
    model: LatentActionPreTrainedModel | str | os.PathLike[str] = "lara-lam",
    processor: LatentActionProcessor | None = None,
    **options: Unpack[EncodeKeywords],
) -> EncodeEstimate:
    """Count episodes and pairs, and estimate the time from a short measured probe; writes nothing.

    Arguments and errors are those of `encode_dataset`.
    """
    with open_job(source, model, processor, **options) as job, running(job.engine(len(job.episodes))) as engine:
        plans: dict[str, EpisodePlan] = {}
        failed: dict[str, str] = {}
        for event in engine.run(TaskQueue(PlanTask(episode) for episode in job.episodes.values())):
            match event:
                case EpisodePlan(episode=name):
                    plans[name] = event
                case Failure(episode, reason):
                    failed[episode] = reason
        frames = sum(plan.frames for plan in plans.values())
        seconds_per_frame = _probe(engine, job.episodes, plans)
        pairs: Counter[str] = Counter(dict.fromkeys(job.options.strides, 0))
        for plan in plans.values():
            pairs.update(plan.pairs)
        return EncodeEstimate(
            episodes=len(job.episodes),
            too_short=sorted(name for name, plan in plans.items() if not plan.units),
            failed=dict(sorted(failed.items())),
            pairs=dict(pairs),
            frames=frames,
            workers=engine.workers,
            seconds=None if seconds_per_frame is None else frames * seconds_per_frame / engine.workers,
        )


def _probe(engine: Engine, episodes: Mapping[str, Episode], plans: Mapping[str, EpisodePlan]) -> float | None:
    """Worker seconds per frame, measured with all workers busy; None if there is no unit."""
    # One unit per worker, cut short: workers share memory bandwidth, so the probe must keep all of them busy.
    units = [unit for plan in plans.values() for unit in plan.units][: engine.workers]
    tasks = TaskQueue(
        UnitTask(episodes[unit.episode], replace(unit, last=min(unit.last, unit.first + _PROBE_FRAMES - 1)))
        for unit in units
    )
    frames, seconds = 0, 0.0
    for event in engine.run(tasks):
        match event:
            case Heartbeat(count):
                frames += count
            case Encoded(decode_seconds=decode, model_seconds=model):
                seconds += decode + model
    return seconds / frames if seconds and frames else None
