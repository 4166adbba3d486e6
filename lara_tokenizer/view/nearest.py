"""Moments with like codes: for each moment those that differ from it in the fewest positions.

Shape suffixes: M moments, N latent tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

NEIGHBOURS = 6


class Neighbour(NamedTuple):
    """Another moment, and the number of positions at which its code is the same."""

    moment: int
    equal: int


def nearest_moments(
    codes_MN: np.ndarray, clips_M: np.ndarray, frames_M: np.ndarray, futures_M: np.ndarray, count: int = NEIGHBOURS
) -> list[list[Neighbour]]:
    """The `count` nearest moments of each by the Hamming distance of codes; of equally near ones, other clips first.

    Pairs of one clip that overlap in time show the same motion: no neighbour overlaps with the moment, or with another
    neighbour. Moments without a code in common are no neighbours.

    Args:
        clips_M: which clip a moment is of.
        frames_M, futures_M: its frames.

    >>> codes, clips = np.array([[1, 2], [1, 2], [1, 3]]), np.array([0, 1, 1])
    >>> nearest_moments(codes, clips, np.array([0, 0, 9]), np.array([5, 5, 14]))[0]
    [Neighbour(moment=1, equal=2), Neighbour(moment=2, equal=1)]
    """
    neighbours = []
    for moment, codes in enumerate(codes_MN):
        equal_M = (codes_MN == codes).sum(1)
        free_M = (equal_M > 0) & ~_overlaps(moment, clips_M, frames_M, futures_M)
        order = np.lexsort((clips_M == clips_M[moment], -equal_M))
        found: list[Neighbour] = []
        for candidate in order[free_M[order]]:
            if len(found) == count:
                break
            if free_M[candidate]:
                found.append(Neighbour(int(candidate), int(equal_M[candidate])))
                free_M &= ~_overlaps(candidate, clips_M, frames_M, futures_M)
        neighbours.append(found)
    return neighbours


def equal_by_chance(codes_MN: np.ndarray) -> float:
    """The number of positions at which two moments, drawn at random with replacement, have the same code: its mean.

    >>> equal_by_chance(np.array([[7, 1], [7, 2]]))
    1.5
    """
    counts = (np.unique(codes_N, return_counts=True)[1] for codes_N in codes_MN.T)
    return float(sum(np.square(each / len(codes_MN)).sum() for each in counts))


def _overlaps(moment: int, clips_M: np.ndarray, frames_M: np.ndarray, futures_M: np.ndarray) -> np.ndarray:
    """bool (M,): moments of the same clip that share a part of their time with this one."""
    return (clips_M == clips_M[moment]) & (frames_M < futures_M[moment]) & (futures_M > frames_M[moment])
