"""Do the labels of a table look alive? What can be said from its rows alone: collapsed, idle, or driven by the camera.

`lara-tok eval` asks the model, and knows more. All checks but the idle one are of the moving pairs: in an idle pair
the same code again and again is right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lara_tokenizer.table.statistics import MotionCounts, TokenCounts, perplexity

ENOUGH_PAIRS = 30  # fewer say nothing about a codebook, or a camera
# Use of the codebook, log(perplexity) / log(K): 1 for K codes alike, 0 for a single one.
LOW_USE = 0.5  # of all positions pooled: 11 codes of 128
LOW_POSITION_USE = 0.3  # mean over positions: 4 codes of 128
DEAD_POSITION = 0.9  # share of its commonest code at which a position says nothing
DOMINANT = 0.5  # share of the pairs in which all N codes are the same
LOW_SPREAD = 0.25  # of z, where there are no codes; healthy is about 1
MOSTLY_IDLE = 0.5  # share of the pairs of a camera
CAMERA_DRIVEN = 0.3  # share of the moving pairs of a camera; a fixed one in front of a robot stays below 0.1


@dataclass(frozen=True, slots=True)
class CodeFigures:
    """How the codes of the moving pairs are used. Lists have one entry a position; `dead_positions` names some.

    `commonest` are the N codes that most often occur together, in `commonest_share` of the pairs.
    """

    perplexity: float
    perplexity_per_position: list[float]
    commonest_share_per_position: list[float]
    dead_positions: list[int]
    commonest: list[int]
    commonest_share: float


@dataclass(frozen=True, slots=True)
class HealthFigures:
    """What the checks look at; shares are 0 to 1.

    `codes` and `whole_picture_share` are of the moving pairs, and so is `spread` (of z, where there are no codes).
    None: not there, or not known (`whole_picture_share` of a table of an earlier release).
    """

    moving_pairs: int
    idle_share: float
    idle_share_by_camera: dict[str, float]
    codes: CodeFigures | None
    spread: float | None
    whole_picture_share: float | None
    whole_picture_share_by_camera: dict[str, float] | None


@dataclass(frozen=True, slots=True)
class HealthWarning:
    """`name`: "idle", "collapsed" or "camera-driven"; `sentence`: what it looks like, the figure, what to do.

    `camera` is the one it is of; None where it is of the whole table.
    """

    name: str
    sentence: str
    camera: str | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """The short form of the health card: figures, warnings, and a verdict in words."""

    figures: HealthFigures
    warnings: list[HealthWarning]
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON: figures, health (the warnings), verdict."""
        return {
            "figures": asdict(self.figures),
            "health": [asdict(warning) for warning in self.warnings],
            "verdict": self.verdict,
        }


def health_of(counts: TokenCounts) -> Health:
    """What the counts of a table say about its labels.

    >>> health_of(TokenCounts(num_latents=8, codebook_size=128)).verdict
    'too few moving pairs to judge the labels (0; it takes 30)'
    """
    figures = _figures(counts)
    warnings = [*_idle(counts), *_collapsed(figures, counts.codebook_size), *_camera_driven(counts)]
    return Health(figures, warnings, _verdict(figures, warnings))


def _figures(counts: TokenCounts) -> HealthFigures:
    idle = {camera: counts.idle_of_camera[camera] / pairs for camera, pairs in sorted(counts.cameras.items())}
    whole, whole_by_camera = _whole_picture(counts.moving_by_camera)
    return HealthFigures(
        moving_pairs=counts.num_pairs - counts.idle,
        idle_share=counts.idle_share,
        idle_share_by_camera=idle,
        codes=_code_figures(counts),
        spread=None if counts.directions is None else counts.directions.spread,
        whole_picture_share=whole,
        whole_picture_share_by_camera=whole_by_camera,
    )


def _code_figures(counts: TokenCounts) -> CodeFigures | None:
    histogram, moving = counts.moving_histogram, counts.num_pairs - counts.idle
    if histogram is None or counts.samples is None or not moving:
        return None
    shares = (histogram.max(1) / moving).tolist()
    commonest, commonest_share = counts.samples.commonest()
    return CodeFigures(
        perplexity=perplexity(histogram.sum(0)),
        perplexity_per_position=[perplexity(row) for row in histogram],
        commonest_share_per_position=shares,
        dead_positions=[position for position, share in enumerate(shares) if share >= DEAD_POSITION],
        commonest=commonest,
        commonest_share=commonest_share,
    )


def _whole_picture(by_camera: Mapping[str, MotionCounts] | None) -> tuple[float | None, dict[str, float] | None]:
    if by_camera is None:
        return None, None
    together = sum(by_camera.values(), MotionCounts())
    shares = {camera: moving.whole_picture_share for camera, moving in sorted(by_camera.items()) if moving.pairs}
    return together.whole_picture_share if together.pairs else None, shares


def _idle(counts: TokenCounts) -> Iterator[HealthWarning]:
    for camera, pairs in sorted(counts.cameras.items()):
        share = counts.idle_of_camera[camera] / pairs
        if pairs >= ENOUGH_PAIRS and share >= MOSTLY_IDLE:
            yield HealthWarning(
                "idle",
                f"{share:.0%} of the pairs{_of(camera)} are idle: nothing moves between their frames, and their codes "
                "name noise. Leave them out (--min-motion 0.01), or take a longer --stride.",
                camera or None,
            )


def _collapsed(figures: HealthFigures, codebook_size: int | None) -> Iterator[HealthWarning]:
    """At most one, the plainest: a codebook that has died shows in most of these figures at once."""
    what = None
    if figures.moving_pairs >= ENOUGH_PAIRS and figures.codes is not None and codebook_size is not None:
        what = _collapsed_codes(figures.codes, codebook_size, figures.moving_pairs)
    elif figures.moving_pairs >= ENOUGH_PAIRS and figures.spread is not None and figures.spread < LOW_SPREAD:
        what = f"z points one way in nearly every moving pair (spread {figures.spread:.2f}, healthy is about 1)"
    if what is not None:
        yield HealthWarning(
            "collapsed",
            f"{what}: the labels hardly tell one motion from another. Look at `lara-tok eval`; take a stride and video "
            "nearer to what the model was trained on, or train it on yours (`lara-tok train`).",
        )


def _collapsed_codes(codes: CodeFigures, codebook_size: int, pairs: int) -> str | None:
    per_position = codes.perplexity_per_position
    positions, mean = len(per_position), sum(per_position) / len(per_position)
    uses = [_use(effective, codebook_size, pairs) for effective in per_position]
    if codes.commonest_share >= DOMINANT:
        tuple_ = " ".join(map(str, codes.commonest))
        return f"{codes.commonest_share:.0%} of the moving pairs have the codes [{tuple_}]"
    if dead := codes.dead_positions:
        named = f"position{'s' if len(dead) > 1 else ''} {', '.join(map(str, dead))}"
        return f"{named} of {positions} hold one code in at least {DEAD_POSITION:.0%} of the moving pairs"
    if _use(codes.perplexity, codebook_size, pairs * positions) < LOW_USE:
        return f"few of the {codebook_size} codes are in use (perplexity {codes.perplexity:.1f} in the moving pairs)"
    if sum(uses) / positions < LOW_POSITION_USE:
        return f"a position uses few of the {codebook_size} codes (mean perplexity {mean:.1f} in the moving pairs)"
    return None


def _use(effective: float, codebook_size: int, codes: int) -> float:
    """Of the codebook, or of what so few codes could reach."""
    return math.log(effective) / math.log(min(codebook_size, codes))


def _camera_driven(counts: TokenCounts) -> Iterator[HealthWarning]:
    for camera, moving in sorted((counts.moving_by_camera or {}).items()):
        if moving.pairs >= ENOUGH_PAIRS and moving.whole_picture_share >= CAMERA_DRIVEN:
            yield HealthWarning(
                "camera-driven",
                f"{moving.whole_picture_share:.0%} of the moving pairs{_of(camera)} move as a whole picture: codes may "
                "name the motion of the camera, or of the background, not the robot's (for a camera on its hand they "
                "are one). Look at `lara-tok eval`, use a fixed camera (--camera), or stabilise the video.",
                camera or None,
            )


def _of(camera: str) -> str:
    return f" of camera {camera}" if camera else ""


def _verdict(figures: HealthFigures, warnings: list[HealthWarning]) -> str:
    if warnings:
        cameras: dict[str, list[str]] = {}
        for warning in warnings:
            cameras.setdefault(warning.name, []).extend([warning.camera] if warning.camera else [])
        looks = [f"{name} ({', '.join(of)})" if of else name for name, of in cameras.items()]
        return f"labels look {' and '.join(looks)}"
    if figures.moving_pairs < ENOUGH_PAIRS:
        return f"too few moving pairs to judge the labels ({figures.moving_pairs}; it takes {ENOUGH_PAIRS})"
    if figures.whole_picture_share is None:
        return "labels look healthy: neither collapsed nor idle (whether the camera moves is not known)"
    return "labels look healthy: not collapsed, idle or camera-driven (`lara-tok eval` checks more)"
