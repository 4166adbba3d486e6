"""How much there is to do, and how long it will take (`lara-tok encode --dry-run`)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

from lara_tokenizer.data import LoadOptions
from lara_tokenizer.encode.engines import Engine, running
from lara_tokenizer.encode.plan import EpisodePlan
from lara_tokenizer.encode.prepare import Preparation, prepared
from lara_tokenizer.encode.tasks import Beat, Encoded, Failed, Planned, PlanTask, TaskQueue, UnitTask
from lara_tokenizer.table.source import Source

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionPreTrainedModel, LatentActionProcessor

# The probe encodes so many frames of one unit for each worker.
_PROBE_FRAMES = 128


@dataclass(frozen=True, slots=True)
class EncodeEstimate:
    """What `encode_dataset` would do. `seconds` is None where nothing can be encoded."""

    episodes: int
    too_short: list[str]
    failed: dict[str, str]
    pairs: dict[str, int]
    frames: int
    workers: int
    seconds: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def estimate_dataset(
    source: Source,
    model: LatentActionPreTrainedModel | str | os.PathLike[str] = "lara-lam",
    processor: LatentActionProcessor | None = None,
    *,
    strides: str | Sequence[str] | None = None,
    every: str = "1f",
    columns: str | Sequence[str] = (),
    keep_tail: bool = False,
    min_motion: float = 0.0,
    dtype: str | None = None,
    device: str | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    **load: Unpack[LoadOptions],
) -> EncodeEstimate:
    """Count episodes and pairs, and estimate the time from a short measured probe; writes nothing.

    Arguments and errors are those of `encode_dataset`.
    """
    with (
        prepared(
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
        ) as preparation,
        running(preparation.engine(workers, len(preparation.episodes))) as engine,
    ):
        plans: dict[str, EpisodePlan] = {}
        failed: dict[str, str] = {}
        for event in engine.run(TaskQueue(PlanTask(episode) for episode in preparation.episodes.values())):
            match event:
                case Planned(plan):
                    plans[plan.episode] = plan
                case Failed(episode, reason):
                    failed[episode] = reason
        frames = sum(plan.frames for plan in plans.values())
        seconds_a_frame = _probe(engine, preparation, plans)
        pairs: Counter[str] = Counter(dict.fromkeys(preparation.job.strides, 0))
        for plan in plans.values():
            pairs.update(plan.pairs)
        return EncodeEstimate(
            episodes=len(preparation.episodes),
            too_short=sorted(name for name, plan in plans.items() if not plan.units),
            failed=dict(sorted(failed.items())),
            pairs=dict(pairs),
            frames=frames,
            workers=engine.workers,
            seconds=None if seconds_a_frame is None else frames * seconds_a_frame / engine.workers,
        )


def _probe(engine: Engine, preparation: Preparation, plans: dict[str, EpisodePlan]) -> float | None:
    """Worker seconds a frame, measured with all workers busy; None where there is no unit."""
    units = [unit for plan in plans.values() for unit in plan.units][: engine.workers]
    tasks = TaskQueue(
        UnitTask(preparation.episodes[unit.episode], replace(unit, last=min(unit.last, unit.first + _PROBE_FRAMES - 1)))
        for unit in units
    )
    frames, seconds = 0, 0.0
    for event in engine.run(tasks):
        match event:
            case Beat(count):
                frames += count
            case Encoded(decode_seconds=decode, model_seconds=model):
                seconds += decode + model
    return seconds / frames if seconds and frames else None
