"""Success rates with Wilson intervals, and conditional success rates of stages.

The paper's Eq. S.8 and S.9 combine rates of stages in a way that can give negative numbers or more than 100 %. Here a
conditional rate is P(success | stage reached): of the episodes that reached the stage, the share that succeeded. Both
counts are reported, so that results can be pooled.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist
from typing import Any

from lara_policy.rollout.episode import EpisodeResult

CONFIDENCE = 0.95


def wilson_interval(successes: int, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a proportion: all p whose score test does not reject `successes` of `trials`.

    With z the normal quantile and p = successes / trials, its center is (p + z^2 / 2n) / (1 + z^2 / n). It stays
    within 0..1 and is wide for few trials: 0 of 10 gives (0, 0.28), no trial gives (0, 1).

    >>> [round(bound, 3) for bound in wilson_interval(31, 50)]
    [0.482, 0.741]

    Raises:
        ValueError: impossible counts.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials: takes 0 to all of them.")
    if trials == 0:
        return 0.0, 1.0
    z, p = NormalDist().inv_cdf((1 + confidence) / 2), successes / trials
    shrink = 1 + z * z / trials
    center = (p + z * z / (2 * trials)) / shrink
    half = z / shrink * sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    # Exactly 0 and 1 at the ends, where rounding may miss them by 1e-17.
    low = 0.0 if successes == 0 else max(0.0, center - half)
    high = 1.0 if successes == trials else min(1.0, center + half)
    return low, high


def rate(successes: int, trials: int) -> dict[str, Any]:
    """A proportion as numbers and as text. `rate` is None without trials.

    >>> rate(31, 50)["text"]
    '31 of 50, 62 % (48 to 74)'
    >>> rate(0, 0)["text"]
    '0 of 0'
    """
    low, high = wilson_interval(successes, trials)
    text = f"{successes} of {trials}"
    if trials:
        text += f", {100 * successes / trials:.0f} % ({100 * low:.0f} to {100 * high:.0f})"
    return {
        "successes": successes,
        "trials": trials,
        "rate": successes / trials if trials else None,
        "interval": [low, high],
        "text": text,
    }


def summarize(episodes: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Success statistics of some episodes.

    Returns:
        success: the rate of success. stages: for each stage, `reached`, the rate of episodes that reached it, and
        `success_given_reached`, the success rate among those. mean_success_step: mean over successful episodes of the
        step of success, counted from 1; None without any.
    """
    steps = [result.success_step for result in episodes if result.success_step is not None]
    stages = dict.fromkeys(name for result in episodes for name in result.stages)
    return {
        "success": rate(len(steps), len(episodes)),
        "stages": {name: _stage(name, episodes) for name in stages},
        "mean_success_step": sum(steps) / len(steps) if steps else None,
    }


def _stage(name: str, episodes: Sequence[EpisodeResult]) -> dict[str, Any]:
    reporting = [result for result in episodes if name in result.stages]
    reached = [result for result in reporting if result.stages[name] is not None]
    return {
        "reached": rate(len(reached), len(reporting)),
        "success_given_reached": rate(sum(result.success_step is not None for result in reached), len(reached)),
    }
