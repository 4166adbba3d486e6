"""Health of a table's labels, judged from its rows and its checkpoint's card: `lara_tokenizer/verdict/` has the rules.

Rows alone can warn, never praise: `lara-tok eval` runs the model beside controls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lara_tokenizer.table.statistics import MotionCounts, TokenCounts
from lara_tokenizer.thresholds import ENOUGH_PAIRS
from lara_tokenizer.verdict.card import Seen
from lara_tokenizer.verdict.findings import (
    CodeFigures,
    camera_motion_findings,
    code_findings,
    idle_findings,
    spread_findings,
)
from lara_tokenizer.verdict.grades import Finding, Verdict, decide


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
class Health:
    """Figures, findings, and the verdict: the two lower grades alone, since rows cannot tell what z encodes."""

    figures: HealthFigures
    findings: list[Finding]
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        """JSON-native values: figures, health (the findings), verdict."""
        return {
            "figures": asdict(self.figures),
            "health": [asdict(each) for each in self.findings],
            "verdict": asdict(self.verdict),
        }


def health_of(counts: TokenCounts) -> Health:
    """Judge the labels of a table by its counts, and by the card of the checkpoint that made them.

    >>> health_of(TokenCounts(num_latents=8, codebook_size=128)).verdict.reason
    'code statistics: 0 moving pairs, too few to judge (it takes 30); not probed'
    """
    figures = _figures(counts)
    findings = [*_code_findings(figures, counts.codebook_size), *_source_findings(counts)]
    if figures.moving_pairs < ENOUGH_PAIRS:
        few = f"{figures.moving_pairs} moving pairs, too few to judge (it takes {ENOUGH_PAIRS})"
        return Health(figures, findings, decide(findings, checked="code statistics", instead=few))
    return Health(figures, findings, decide(findings, checked="code statistics"))


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
    if counts.moving_histogram is None or counts.samples is None or not counts.num_moving:
        return None
    return CodeFigures.of(counts.moving_histogram, *counts.samples.most_common())


def _camera_motion(by_camera: Mapping[str, MotionCounts] | None) -> tuple[float | None, dict[str, float] | None]:
    if by_camera is None:
        return None, None
    # Cameras without a moving pair have no share.
    total = sum(by_camera.values(), MotionCounts())
    shares = {camera: moving.camera_motion_share for camera, moving in sorted(by_camera.items()) if moving.pairs}
    return total.camera_motion_share if total.pairs else None, shares


def _code_findings(figures: HealthFigures, codebook_size: int | None) -> list[Finding]:
    if figures.moving_pairs < ENOUGH_PAIRS:
        return []
    if figures.codes is not None and codebook_size is not None:
        return code_findings(figures.codes, codebook_size, figures.moving_pairs)
    return [] if figures.spread is None else spread_findings(figures.spread)


def _source_findings(counts: TokenCounts) -> Iterator[Finding]:
    """On idle pairs, moving cameras, and a source that is not like the checkpoint's training data."""
    moving = counts.moving_by_camera or {}
    yield from idle_findings({name: (counts.idle_of_camera[name], pairs) for name, pairs in counts.cameras.items()})
    yield from camera_motion_findings({name: (each.whole_picture, each.pairs) for name, each in moving.items()})
    if counts.card is not None:
        yield from counts.card.findings(counts.model, _seen(counts), sorted(counts.pairs))


def _seen(counts: TokenCounts) -> dict[str, Seen]:
    """Pixels and motion of each camera with enough pairs."""
    seen = {}
    for camera, pairs in counts.cameras.items():
        moving = pairs - counts.idle_of_camera[camera]
        pixels = (counts.moving_by_camera or {}).get(camera, MotionCounts())
        seen[camera] = Seen(
            brightness=pixels.brightness / 1e6 / pixels.frames if pixels.frames else None,
            contrast=pixels.contrast / 1e6 / pixels.frames if pixels.frames else None,
            motion=counts.motion_of_camera[camera] / 1e6 / moving if moving >= ENOUGH_PAIRS else None,
        )
    return seen
