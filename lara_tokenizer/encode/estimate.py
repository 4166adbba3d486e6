"""Expected time of a job (`estimate_dataset`, for `lara-tok encode --dry-run`), and `Progress` of one that runs."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Unpack

from lara_tokenizer.data import Episode
from lara_tokenizer.encode.engines import Engine, running
from lara_tokenizer.encode.job import open_job
from lara_tokenizer.encode.options import EncodeKeywords
from lara_tokenizer.encode.plan import EpisodePlan, Unit, check_some_pairs
from lara_tokenizer.encode.tasks import Encoded, Event, Failure, Heartbeat, PlanTask, TaskQueue, UnitTask
from lara_tokenizer.table.shards import SHARD
from lara_tokenizer.table.source import Source

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionPreTrainedModel, LatentActionProcessor

# Frames that each worker encodes in the probe at most, and as a share of its frames: it costs far less than the job.
_PROBE_FRAMES = 128
_PROBE_SHARE = 0.1


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
        if not job.fingerprint["load"].get(SHARD):
            check_some_pairs(plans, job.episodes)
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
    share = _PROBE_SHARE * sum(plan.frames for plan in plans.values()) / engine.workers
    length = max(1, min(_PROBE_FRAMES, int(share)))
    tasks = TaskQueue(
        UnitTask(episodes[unit.episode], replace(unit, last=min(unit.last, unit.first + length - 1))) for unit in units
    )
    frames, seconds = 0, 0.0
    for event in engine.run(tasks):
        match event:
            case Heartbeat(count):
                frames += count
            case Encoded(decode_seconds=decode, model_seconds=model):
                seconds += decode + model
    return seconds / frames if seconds and frames else None


@dataclass(slots=True)
class Progress:
    """State of a run, passed to the `progress` callback after each event.

    Episode counts include those of earlier runs of the same job; rates are of this run.
    """

    episodes: int
    """In the job."""
    episodes_planned: int = 0
    episodes_done: int = 0
    """Encoded, or too short for any pair."""
    episodes_too_short: int = 0
    """Of `episodes_done`."""
    episodes_resumed: int = 0
    """Of `episodes_done`: by earlier runs."""
    failed: dict[str, str] = field(default_factory=dict)
    """Reasons by episode."""
    frames: int = 0
    """Read in this run."""
    _frames_before: float = 0.0
    _planned_frames: int = 0
    _planned_pairs: int = 0
    _plans: dict[str, EpisodePlan] = field(default_factory=dict)  # of episodes that are not done
    _units_left: dict[str, int] = field(default_factory=dict)
    _started: float = field(default_factory=time.monotonic)

    @classmethod
    def begin(cls, episodes: int, plans: Mapping[str, EpisodePlan], done_units: set[Unit]) -> Progress:
        """The state at the start of a run, from the plans and results of earlier ones."""
        progress = cls(episodes)
        for plan in plans.values():
            # Units of an episode are of nearly equal size, so the share of units is the share of frames.
            done = sum(unit in done_units for unit in plan.units)
            progress._frames_before += plan.frames * done / max(len(plan.units), 1)
            progress._add(plan, len(plan.units) - done)
        progress.episodes_resumed = progress.episodes_done
        return progress

    def update(self, event: Event) -> None:
        """Count an event."""
        match event:
            case EpisodePlan(units=units):
                self._add(event, len(units))
            case Encoded(unit=unit) if unit.episode in self._units_left:
                self._units_left[unit.episode] -= 1
                self._finish_if_done(unit.episode)
            case Failure(episode, reason):
                self.failed.setdefault(episode, reason)
                if episode in self._plans:
                    plan = self._plans.pop(episode)
                    del self._units_left[episode]
                    self.episodes_planned -= 1
                    self._planned_frames -= plan.frames
                    self._planned_pairs -= sum(plan.pairs.values())
            case Heartbeat(frames):
                if not self.frames:
                    self._started = time.monotonic()  # the time to load the model is not part of the rate
                self.frames += frames

    def _add(self, plan: EpisodePlan, units_left: int) -> None:
        self.episodes_planned += 1
        self._planned_frames += plan.frames
        self._planned_pairs += sum(plan.pairs.values())
        self._plans[plan.episode] = plan
        self._units_left[plan.episode] = units_left
        self.episodes_too_short += not plan.units
        self._finish_if_done(plan.episode)

    def _finish_if_done(self, episode: str) -> None:
        if self._units_left[episode] == 0:
            self.episodes_done += 1
            del self._plans[episode], self._units_left[episode]

    @property
    def is_resumed(self) -> bool:
        """True if earlier runs left results."""
        return self.episodes_resumed > 0 or self._frames_before > 0

    @property
    def seconds(self) -> float:
        """Seconds since the first frame of this run."""
        return time.monotonic() - self._started

    @property
    def pairs_per_second(self) -> float:
        """Rate of this run: frames read, times the planned pairs per planned frame."""
        return self.frames * self._planned_pairs / max(self._planned_frames, 1) / max(self.seconds, 1e-9)

    @property
    def remaining_seconds(self) -> float | None:
        """Estimate from the episodes that are planned; None before the first frame."""
        if not self.frames or not self.episodes_planned:
            return None
        frames = self._planned_frames / self.episodes_planned * (self.episodes - len(self.failed))
        return max(frames - self._frames_before - self.frames, 0.0) * self.seconds / self.frames
