"""Health of a table's labels, judged from its rows alone: collapsed, idle, or driven by the camera.

All checks but the idle one look at the moving pairs only: in an idle pair a constant code is correct. `lara-tok eval`
runs the model and checks more. The limits are in `lara_tokenizer/thresholds.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lara_tokenizer.table.statistics import MotionCounts, TokenCounts, perplexity
from lara_tokenizer.thresholds import (
    CAMERA_MOTION_SHARE,
    DEAD_POSITION_SHARE,
    DOMINANT_SHARE,
    ENOUGH_PAIRS,
    MOSTLY_IDLE_SHARE,
    POOLED_LOG_USE,
    POSITION_LOG_USE,
    SPREAD_ALARM,
)


@dataclass(frozen=True, slots=True)
class CodeFigures:
    """Use of the codes in the moving pairs. Field names are keys of `--json`.

    Attributes:
        perplexity: of all positions pooled.
        perplexity_per_position, commonest_share_per_position: one entry per position.
        dead_positions: positions whose most frequent code has a share of at least `DEAD_POSITION_SHARE`.
        commonest, commonest_share: the most frequent tuple of N codes, and its share of the pairs.
    """

    perplexity: float
    perplexity_per_position: list[float]
    commonest_share_per_position: list[float]
    dead_positions: list[int]
    commonest: list[int]
    commonest_share: float


@dataclass(frozen=True, slots=True)
class HealthFigures:
    """Figures that the checks are based on; shares are 0 to 1. Field names are keys of `--json`.

    Attributes:
        moving_pairs: valid pairs that are not idle.
        idle_share, idle_share_by_camera: of the valid pairs.
        codes: of the moving pairs; None without codes, or without such pairs.
        spread: of the z of the moving pairs; None where there are codes.
        whole_picture_share, whole_picture_share_by_camera: of the moving pairs, those with camera motion; None for a
            table of an earlier release, which did not count them.
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
    """A warning about a table's labels.

    Attributes:
        name: "idle", "collapsed" or "camera-driven".
        sentence: the symptom with its figure, and what to do.
        camera: the camera concerned; None for the whole table.
    """

    name: str
    sentence: str
    camera: str | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """Figures, warnings, and a verdict in words."""

    figures: HealthFigures
    warnings: list[HealthWarning]
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-native values: figures, health (the warnings), verdict."""
        return {
            "figures": asdict(self.figures),
            "health": [asdict(warning) for warning in self.warnings],
            "verdict": self.verdict,
        }


def health_of(counts: TokenCounts) -> Health:
    """Judge the labels of a table by its counts.

    >>> health_of(TokenCounts(num_latents=8, codebook_size=128)).verdict
    'too few moving pairs to judge the labels (0; it takes 30)'
    """
    figures = _figures(counts)
    warnings = [*_idle(counts), *_collapsed(figures, counts.codebook_size), *_camera_driven(counts)]
    return Health(figures, warnings, _verdict(figures, warnings))


def _figures(counts: TokenCounts) -> HealthFigures:
    idle = {camera: counts.idle_of_camera[camera] / pairs for camera, pairs in sorted(counts.cameras.items())}
    camera_motion, camera_motion_by_camera = _camera_motion(counts.moving_by_camera)
    return HealthFigures(
        moving_pairs=counts.num_moving,
        idle_share=counts.idle_share,
        idle_share_by_camera=idle,
        codes=_code_figures(counts),
        spread=None if counts.directions is None else counts.directions.spread,
        whole_picture_share=camera_motion,
        whole_picture_share_by_camera=camera_motion_by_camera,
    )


def _code_figures(counts: TokenCounts) -> CodeFigures | None:
    histogram, moving = counts.moving_histogram, counts.num_moving
    if histogram is None or counts.samples is None or not moving:
        return None
    shares = (histogram.max(1) / moving).tolist()
    most_common, share_of_most_common = counts.samples.most_common()
    return CodeFigures(
        perplexity=perplexity(histogram.sum(0)),
        perplexity_per_position=[perplexity(row) for row in histogram],
        commonest_share_per_position=shares,
        dead_positions=[position for position, share in enumerate(shares) if share >= DEAD_POSITION_SHARE],
        commonest=most_common,
        commonest_share=share_of_most_common,
    )


def _camera_motion(by_camera: Mapping[str, MotionCounts] | None) -> tuple[float | None, dict[str, float] | None]:
    if by_camera is None:
        return None, None
    # Cameras without a moving pair have no share.
    total = sum(by_camera.values(), MotionCounts())
    shares = {camera: moving.camera_motion_share for camera, moving in sorted(by_camera.items()) if moving.pairs}
    return total.camera_motion_share if total.pairs else None, shares


def _idle(counts: TokenCounts) -> Iterator[HealthWarning]:
    for camera, pairs in sorted(counts.cameras.items()):
        share = counts.idle_of_camera[camera] / pairs
        if pairs >= ENOUGH_PAIRS and share >= MOSTLY_IDLE_SHARE:
            yield HealthWarning(
                "idle",
                f"{share:.0%} of the pairs{_of(camera)} are idle: nothing moves between their frames, so their codes "
                "encode noise. Leave them out (--min-motion 0.01), or take a longer --stride.",
                camera or None,
            )


def _collapsed(figures: HealthFigures, codebook_size: int | None) -> Iterator[HealthWarning]:
    """At most one warning, the most specific: a collapsed codebook shows in most of these figures at once."""
    symptom = None
    if figures.moving_pairs >= ENOUGH_PAIRS and figures.codes is not None and codebook_size is not None:
        symptom = _collapsed_codes(figures.codes, codebook_size, figures.moving_pairs)
    elif figures.moving_pairs >= ENOUGH_PAIRS and figures.spread is not None and figures.spread < SPREAD_ALARM:
        symptom = f"z points one way in nearly every moving pair (spread {figures.spread:.2f}, healthy is about 1)"
    if symptom is not None:
        yield HealthWarning(
            "collapsed",
            f"{symptom}: the labels hardly distinguish one motion from another. Run `lara-tok eval`; use a stride and "
            "video closer to what the model was trained on, or train it on yours (`lara-tok train`).",
        )


def _collapsed_codes(codes: CodeFigures, codebook_size: int, pairs: int) -> str | None:
    per_position = codes.perplexity_per_position
    positions = len(per_position)
    # A position has one code per pair, so with few pairs it cannot use the whole codebook.
    uses = [_log_use(perplexity_there, codebook_size, pairs) for perplexity_there in per_position]
    # From the most to the least specific symptom.
    if codes.commonest_share >= DOMINANT_SHARE:
        tuple_ = " ".join(map(str, codes.commonest))
        return f"{codes.commonest_share:.0%} of the moving pairs have the codes [{tuple_}]"
    if dead := codes.dead_positions:
        named = f"position{'s' if len(dead) > 1 else ''} {', '.join(map(str, dead))}"
        return f"{named} of {positions} hold one code in at least {DEAD_POSITION_SHARE:.0%} of the moving pairs"
    if _log_use(codes.perplexity, codebook_size, pairs * positions) < POOLED_LOG_USE:
        return f"few of the {codebook_size} codes are in use (perplexity {codes.perplexity:.1f} in the moving pairs)"
    if sum(uses) / positions < POSITION_LOG_USE:
        mean = sum(per_position) / positions
        return f"a position uses few of the {codebook_size} codes (mean perplexity {mean:.1f} in the moving pairs)"
    return None


def _log_use(perplexity_: float, codebook_size: int, num_codes: int) -> float:
    """log(perplexity) / log(K); of fewer than K codes, relative to the most that these could reach."""
    return math.log(perplexity_) / math.log(min(codebook_size, num_codes))


def _camera_driven(counts: TokenCounts) -> Iterator[HealthWarning]:
    for camera, moving in sorted((counts.moving_by_camera or {}).items()):
        if moving.pairs >= ENOUGH_PAIRS and moving.camera_motion_share >= CAMERA_MOTION_SHARE:
            yield HealthWarning(
                "camera-driven",
                f"camera motion in {moving.camera_motion_share:.0%} of the moving pairs{_of(camera)}: codes may encode "
                "the motion of the camera, or of the background, instead of the robot's (for a camera on its hand they "
                "are the same). Run `lara-tok eval`, use a fixed camera (--camera), or stabilise the video.",
                camera or None,
            )


def _of(camera: str) -> str:
    return f" of camera {camera}" if camera else ""


def _verdict(figures: HealthFigures, warnings: list[HealthWarning]) -> str:
    if warnings:
        cameras: dict[str, list[str]] = {}
        for warning in warnings:
            cameras.setdefault(warning.name, []).extend([warning.camera] if warning.camera else [])
        symptoms = [f"{name} ({', '.join(of)})" if of else name for name, of in cameras.items()]
        return f"labels look {' and '.join(symptoms)}"
    if figures.moving_pairs < ENOUGH_PAIRS:
        return f"too few moving pairs to judge the labels ({figures.moving_pairs}; it takes {ENOUGH_PAIRS})"
    if figures.whole_picture_share is None:
        return "labels look healthy: neither collapsed nor idle (whether the camera moves is not known)"
    return "labels look healthy: not collapsed, idle or camera-driven (`lara-tok eval` checks more)"
