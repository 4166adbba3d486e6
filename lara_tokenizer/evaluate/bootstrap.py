"""Intervals by episode: what a figure would have been, had other episodes been drawn."""

from __future__ import annotations

from typing import Any

import numpy as np

RESAMPLES = 2000
DIGITS = 4  # of every figure in a report


def resamples(count: int, seed: int) -> np.ndarray:
    """How often each episode occurs in each resample, float (1 + R, E); row 0 takes each once.

    The same arguments give the same resamples, so that differences between figures are paired.
    """
    once = np.ones((1, count))
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    return np.concatenate([once, drawn])


def figure(values_R: np.ndarray) -> dict[str, Any]:
    """`value` and its 95 % percentile `interval`, from the value (row 0) and its resamples.

    >>> figure(np.array([0.5, 0.4, 0.6]))
    {'value': 0.5, 'interval': [0.405, 0.595]}
    """
    return {"value": rounded(values_R[0]), "interval": interval(values_R[1:])}


def single(value: float | None) -> dict[str, Any]:
    """A figure without an interval, or, None, one that could not be measured; a count stays a whole number."""
    return {"value": value if value is None or isinstance(value, int) else rounded(value), "interval": None}


def interval(values_R: np.ndarray) -> list[float | None]:
    """The 2.5 % and 97.5 % quantiles."""
    return [rounded(value) for value in np.quantile(values_R, [0.025, 0.975])]


def rounded(value: float) -> float | None:
    """To four digits after the point; None for what is no number, for JSON knows none such."""
    return round(float(value), DIGITS) + 0.0 if np.isfinite(value) else None  # + 0.0: no minus before a zero


def sums_by_episode(values_P: np.ndarray, episode_P: np.ndarray, episodes: np.ndarray) -> np.ndarray:
    """Sum (P, ...) over the pairs of each episode: (E, ...), in the order of `episodes`."""
    row_P = np.searchsorted(episodes, episode_P)
    out = np.zeros((len(episodes), *values_P.shape[1:]))
    np.add.at(out, row_P, values_P)
    return out
