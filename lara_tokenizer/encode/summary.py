"""What a run tells its caller: while it goes on, and at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lara_tokenizer.encode.plan import EpisodePlan, Unit
from lara_tokenizer.encode.tasks import Beat, Encoded, Event, Failed, Planned
from lara_tokenizer.table.health import HealthFigures, HealthWarning, health_of
from lara_tokenizer.table.statistics import TokenCounts


@dataclass(slots=True)
class Progress:
    """The state of a run, handed to the `progress` callback after each event.

    Episode counts include what earlier runs of the same job did; the rate is this run's.
    """

    episodes: int  # in the job
    episodes_planned: int = 0
    episodes_done: int = 0  # encoded, or too short for any pair
    episodes_resumed: int = 0  # of those: done by earlier runs
    failed: dict[str, str] = field(default_factory=dict)
    frames: int = 0  # read in this run
    _frames_before: float = 0.0
    _planned_frames: int = 0
    _planned_pairs: int = 0
    _plans: dict[str, EpisodePlan] = field(default_factory=dict)  # of episodes not done
    _units_left: dict[str, int] = field(default_factory=dict)
    _started: float = field(default_factory=time.monotonic)

    @classmethod
    def begin(cls, episodes: int, plans: Mapping[str, EpisodePlan], done_units: set[Unit]) -> Progress:
        """At the start of a run, with what earlier runs left."""
        progress = cls(episodes)
        for plan in plans.values():
            done = sum(unit in done_units for unit in plan.units)
            progress._frames_before += plan.frames * done / max(len(plan.units), 1)
            progress._add(plan, len(plan.units) - done)
        progress.episodes_resumed = progress.episodes_done
        return progress

    def follow(self, event: Event) -> None:
        """Take note of an event."""
        match event:
            case Planned(plan):
                self._add(plan, len(plan.units))
            case Encoded(unit=unit) if unit.episode in self._units_left:
                self._units_left[unit.episode] -= 1
                self._settle(unit.episode)
            case Failed(episode, reason):
                self.failed.setdefault(episode, reason)
                if episode in self._plans:
                    plan = self._plans.pop(episode)
                    del self._units_left[episode]
                    self.episodes_planned -= 1
                    self._planned_frames -= plan.frames
                    self._planned_pairs -= sum(plan.pairs.values())
            case Beat(frames):
                if not self.frames:
                    self._started = time.monotonic()  # loading the model is no part of the rate
                self.frames += frames

    def _add(self, plan: EpisodePlan, units_left: int) -> None:
        self.episodes_planned += 1
        self._planned_frames += plan.frames
        self._planned_pairs += sum(plan.pairs.values())
        self._plans[plan.episode], self._units_left[plan.episode] = plan, units_left
        self._settle(plan.episode)

    def _settle(self, episode: str) -> None:
        if self._units_left[episode] == 0:
            self.episodes_done += 1
            del self._plans[episode], self._units_left[episode]

    @property
    def is_resumed(self) -> bool:
        """Earlier runs left something."""
        return self.episodes_resumed > 0 or self._frames_before > 0

    @property
    def seconds(self) -> float:
        """Since the first frame of this run."""
        return time.monotonic() - self._started

    @property
    def pairs_per_second(self) -> float:
        """In this run: the frames read, times the pairs that the plans have to a frame."""
        return self.frames * self._planned_pairs / max(self._planned_frames, 1) / max(self.seconds, 1e-9)

    @property
    def remaining_seconds(self) -> float | None:
        """Estimated from the episodes that are planned; None while there is nothing to go by."""
        if not self.frames or not self.episodes_planned:
            return None
        frames = self._planned_frames / self.episodes_planned * (self.episodes - len(self.failed))
        return max(frames - self._frames_before - self.frames, 0.0) * self.seconds / self.frames


@dataclass(frozen=True, slots=True)
class EncodeSummary:
    """What a run of `encode_dataset` did.

    `episodes` were asked for; `encoded` are in the table, `too_short` have no pair at any stride, `failed` gives the
    reason for the rest. `pairs` counts valid rows by stride, `idle_left_out` those that `min_motion` left out. `short`
    says how many episodes are shorter than each stride. Perplexities and `codes_used` are None for a continuous
    bottleneck. `health` are the warnings for labels that look collapsed, idle or camera-driven, `figures` what they
    are of, `verdict` says it in a few words. Seconds are summed over workers.
    """

    out: str
    episodes: int
    encoded: int
    resumed: int  # of `encoded`: done by earlier runs
    too_short: list[str]
    failed: dict[str, str]
    short: dict[str, int]
    notes: dict[str, list[str]]
    rows: int
    pairs: dict[str, int]
    idle_left_out: int | None  # None where an earlier run made the table
    codebook_size: int | None
    codes_used: int | None
    perplexity: float | None
    perplexity_per_position: list[float] | None
    idle_share: float
    figures: HealthFigures
    health: list[HealthWarning]
    verdict: str
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
        """Plain JSON."""
        return {**asdict(self), "mean_position_perplexity": self.mean_position_perplexity}


def summarize(
    out: str,
    episodes: int,
    plans: Mapping[str, EpisodePlan],
    failed: Mapping[str, str],
    counts: TokenCounts,
    **others: Any,
) -> EncodeSummary:
    """Put together what the plans and the counts say; `others` are the remaining fields."""
    health = health_of(counts)
    too_short = [name for name, plan in plans.items() if not plan.units]
    short: dict[str, int] = {}
    for plan in plans.values():
        for stride in plan.short_of:
            short[stride] = short.get(stride, 0) + 1
    return EncodeSummary(
        out=out,
        episodes=episodes,
        encoded=len(plans) - len(too_short),
        too_short=too_short,
        failed=dict(failed),
        short=short,
        notes={name: list(plan.notes) for name, plan in plans.items() if plan.notes},
        rows=counts.rows,
        pairs=dict(sorted(counts.pairs.items())),
        idle_left_out=sum(sum(plan.pairs.values()) for plan in plans.values()) - counts.num_pairs if plans else None,
        codebook_size=counts.codebook_size,
        codes_used=counts.codes_used,
        perplexity=counts.perplexity,
        perplexity_per_position=counts.perplexity_per_position,
        idle_share=counts.idle_share,
        figures=health.figures,
        health=health.warnings,
        verdict=health.verdict,
        **others,
    )
