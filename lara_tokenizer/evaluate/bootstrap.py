"""Percentile bootstrap over episodes, and the rounding of figures."""

from __future__ import annotations

import numpy as np

from lara_tokenizer.evaluate.figures import DIGITS, Estimate, Interval

RESAMPLES = 2000


def resamples(count: int, seed: int) -> np.ndarray:
    """Occurrences of each episode in each resample, float (1 + R, E); row 0 has each episode once.

    The same arguments give the same resamples, so that differences between figures are paired.
    """
    once = np.ones((1, count))
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    return np.concatenate([once, drawn])


def estimate(values_R: np.ndarray) -> Estimate:
    """The value (row 0) with the 95 % percentile interval of its resamples (the other rows).

    >>> estimate(np.array([0.5, 0.4, 0.6]))
    Estimate(value=0.5, interval=[0.405, 0.595])
    """
    return Estimate(rounded(values_R[0]), interval(values_R[1:]))


def interval(values_R: np.ndarray) -> Interval:
    """The 2.5 % and 97.5 % quantiles, rounded."""
    return [rounded(value) for value in np.quantile(values_R, [0.025, 0.975])]


def rounded(value: float) -> float | None:
    """Round to the digits of a report; None for NaN and infinity, which JSON cannot express."""
    # Adding 0.0 turns -0.0 into 0.0.
    return round(float(value), DIGITS) + 0.0 if np.isfinite(value) else None


def sums_by_episode(values_P: np.ndarray, episode_P: np.ndarray, episodes: np.ndarray) -> np.ndarray:
    """Sum (P, ...) over the pairs of each episode: (E, ...), in the order of `episodes`."""
    row_P = np.searchsorted(episodes, episode_P)
    out = np.zeros((len(episodes), *values_P.shape[1:]))
    np.add.at(out, row_P, values_P)
    return out
