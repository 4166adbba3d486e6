"""Findings on codes, latents, decoder and pairs: each rule once, whoever measured the figures.

Codes are judged in the moving pairs alone: in an idle pair a constant code is correct. Shape suffixes: N positions, K
codes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lara_tokenizer.thresholds import (
    CAMERA_MOTION_SHARE,
    CODE_USE_WARNING,
    DEAD_POSITION_SHARE,
    DEAD_POSITIONS_ALARM,
    DOMINANT_SHARE,
    ENOUGH_PAIRS,
    IDLE_SHARE_WARNING,
    POOLED_LOG_USE,
    POSITION_LOG_USE,
    SPREAD_ALARM,
    SPREAD_WARNING,
    STRIDE_TOLERANCE,
    Z_GAIN_ALARM,
    Z_GAIN_WARNING,
)
from lara_tokenizer.verdict.grades import ALARM, DOUBT, WARNING, Finding

GAP = re.compile(r"(?P<value>[0-9]{1,16}\.?[0-9]{0,16})(?P<unit>[sf])")


def number(value: float) -> str:
    """A figure in a sentence, with the digits that tables show.

    >>> number(0.0190), number(-0.0001)
    ('0.019', '0.000')
    """
    written = f"{value:.3f}"
    return written.removeprefix("-") if float(written) == 0 else written


def perplexity(counts: np.ndarray) -> float:
    """exp(entropy) of a histogram: 1 for a single code, K for K codes used alike.

    >>> round(perplexity(np.array([5, 5, 0, 5])), 6)
    3.0
    """
    # Codes that do not occur contribute lim p log p = 0.
    share = counts[counts > 0] / max(counts.sum(), 1)
    return float(np.exp(-(share * np.log(share)).sum()))


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

    @classmethod
    def of(cls, counts_NK: np.ndarray, commonest: list[int], commonest_share: float) -> CodeFigures:
        """From the occurrences of each code at each position of at least one pair, and the most frequent tuple."""
        shares = (counts_NK.max(1) / counts_NK[0].sum()).tolist()
        return cls(
            perplexity=perplexity(counts_NK.sum(0)),
            perplexity_per_position=[perplexity(row) for row in counts_NK],
            commonest_share_per_position=shares,
            dead_positions=[position for position, share in enumerate(shares) if share >= DEAD_POSITION_SHARE],
            commonest=commonest,
            commonest_share=commonest_share,
        )


def code_findings(codes: CodeFigures, codebook_size: int, pairs: int) -> list[Finding]:
    """At most one, the most specific: a collapsed codebook shows in most of these figures at once."""
    if pairs < ENOUGH_PAIRS:
        return []
    positions, dead = len(codes.perplexity_per_position), codes.dead_positions
    named = f"position{'s' * (len(dead) > 1)} {', '.join(map(str, dead))} of {positions}"
    dead_words = (
        f"{named} hold{'s' * (len(dead) == 1)} one code in at least {DEAD_POSITION_SHARE:.0%} of the moving pairs"
    )
    # A position has one code per pair, so with few pairs it cannot use the whole codebook.
    uses = [log_use(each, codebook_size, pairs) for each in codes.perplexity_per_position]
    symptom = None
    if codes.commonest_share >= DOMINANT_SHARE:
        tuple_ = " ".join(map(str, codes.commonest))
        symptom = f"{codes.commonest_share:.0%} of the moving pairs have the codes [{tuple_}]"
    elif len(dead) > DEAD_POSITIONS_ALARM * positions:
        symptom = dead_words
    elif log_use(codes.perplexity, codebook_size, pairs * positions) < POOLED_LOG_USE:
        symptom = f"few of the {codebook_size} codes are in use (perplexity {codes.perplexity:.1f} in the moving pairs)"
    elif sum(uses) / positions < POSITION_LOG_USE:
        mean = sum(codes.perplexity_per_position) / positions
        symptom = f"a position uses few of the {codebook_size} codes (mean perplexity {mean:.1f} in the moving pairs)"
    if symptom is not None:
        return [Finding("collapsed_codebook", ALARM, f"the codebook has collapsed: {symptom}")]
    if dead:
        return [Finding("dead_positions", WARNING, dead_words)]
    if codes.perplexity < CODE_USE_WARNING * min(codebook_size, pairs * positions):
        used = f"perplexity {codes.perplexity:.1f} of {codebook_size} in the moving pairs"
        return [Finding("low_use", WARNING, f"few codes are in effective use ({used})")]
    return []


def log_use(perplexity_: float, codebook_size: int, num_codes: int) -> float:
    """log(perplexity) / log(K); of fewer than K codes, relative to the most that these could reach."""
    return math.log(perplexity_) / math.log(min(codebook_size, num_codes))


def spread_findings(spread: float) -> list[Finding]:
    """On the spread of z."""
    told = f"(spread {number(spread)}, healthy is about 1)"
    # Negated, so that NaN counts as a fault.
    if not spread >= SPREAD_ALARM:
        return [Finding("constant_z", ALARM, f"z is nearly the same whatever happens between the two frames {told}")]
    if spread < SPREAD_WARNING:
        return [Finding("narrow_z", WARNING, f"z points mostly one way {told}")]
    return []


def decoder_findings(
    z_gain: float | None, moving: float | None, interval: tuple[float, float] | None = None
) -> list[Finding]:
    """On the use of z by the decoder, over all or over moving pixels, whichever is more.

    Args:
        z_gain, moving: the z gain over all and over moving pixels; None: not measured.
        interval: of the larger one; None: unknown.
    """
    known = {"": z_gain, ", of moving pixels ": moving}
    told = "".join(f"{words}{number(gain)}" for words, gain in known.items() if gain is not None)
    gains = [gain for gain in known.values() if gain is not None]
    if not gains:
        return []
    if not max(gains) >= Z_GAIN_ALARM:
        sentence = f"the decoder ignores z: with another pair's codes it predicts as well, or nearly (z gain {told})"
        return [Finding("ignored_z", ALARM, sentence)]
    if interval is not None and interval[0] <= 0:
        bounds = f"{number(interval[0])} to {number(interval[1])}"
        return [
            Finding("uncertain_z_use", DOUBT, f"it is not certain that the decoder uses z (z gain {told}; {bounds})")
        ]
    if max(gains) < Z_GAIN_WARNING:
        return [Finding("weak_z", WARNING, f"the decoder makes little use of z (z gain {told})")]
    return []


def idle_findings(pairs_of: Mapping[str, tuple[int, int]]) -> Iterator[Finding]:
    """On cameras in whose pairs nothing moves: (idle pairs, pairs) by camera."""
    for camera, (idle, pairs) in sorted(pairs_of.items()):
        if pairs >= ENOUGH_PAIRS and idle / pairs >= IDLE_SHARE_WARNING:
            yield Finding(
                "idle",
                WARNING,
                f"{idle / pairs:.1%} of the pairs{of_camera(camera)} are idle: nothing moves between their frames, so "
                "their codes encode noise. Leave them out (--min-motion 0.01), or take a longer --stride",
                camera or None,
            )


def camera_motion_findings(pairs_of: Mapping[str, tuple[int, int]]) -> Iterator[Finding]:
    """On moving cameras: (moving pairs with camera motion, moving pairs) by camera."""
    for camera, (whole, pairs) in sorted(pairs_of.items()):
        if pairs >= ENOUGH_PAIRS and whole / pairs >= CAMERA_MOTION_SHARE:
            yield Finding(
                "camera-driven",
                WARNING,
                f"camera motion in {whole / pairs:.1%} of the moving pairs{of_camera(camera)}: codes may encode the "
                "motion of the camera, or of the background, instead of the robot's (for a camera on its hand they are "
                "the same). Use a fixed camera (--camera), or stabilise the video",
                camera or None,
            )


def stride_findings(strides: Iterable[str], trained: Sequence[str]) -> Iterator[Finding]:
    """On strides outside the range that the model was trained on, as texts: "0.5s", "5f".

    Seconds are compared with seconds and frames with frames; units that differ are not compared.

    >>> next(stride_findings(["2s"], ["0.5s", "1.0s"])).sentence
    'stride 2s: the model was trained on 0.5s, 1.0s; its codes may mean little here'
    """
    for stride in strides:
        # What is no stride, in a table or a card that somebody edited, is compared with nothing.
        gaps = [GAP.fullmatch(text) for text in (stride, *trained)]
        if gaps[0] is None:
            continue
        value = float(gaps[0]["value"])
        values = [float(each["value"]) for each in gaps[1:] if each and each["unit"] == gaps[0]["unit"]]
        if values and not min(values) * (1 - STRIDE_TOLERANCE) <= value <= max(values) * (1 + STRIDE_TOLERANCE):
            known = ", ".join(trained)
            yield Finding(
                "untrained_stride",
                WARNING,
                f"stride {stride}: the model was trained on {known}; its codes may mean little here",
            )


def of_camera(camera: str) -> str:
    """The words " of camera NAME"; "" for plain video."""
    return f" of camera {camera}" if camera else ""
