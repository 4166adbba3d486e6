"""How many bits of an action does a code tell? Mutual information of codes and binned actions."""

from __future__ import annotations

from typing import Any

import numpy as np

from lara_tokenizer.evaluate.bootstrap import rounded

BINS = 8  # of equal probability, for each action number


def mutual_information(first_P: np.ndarray, second_P: np.ndarray) -> float:
    """I = H(a) + H(b) - H(a, b) in bits, each entropy corrected by Miller and Madow: + (occupied cells - 1) / 2P nats.

    >>> round(mutual_information(np.array([0, 1] * 500), np.array([0, 1] * 500)), 2)
    1.0
    """
    _, joint = np.unique(np.stack([first_P, second_P]), axis=1, return_inverse=True)
    return entropy(first_P) + entropy(second_P) - entropy(joint.ravel())


def entropy(values_P: np.ndarray) -> float:
    """Of the values' frequencies, in bits, with the correction of Miller and Madow."""
    counts = np.unique(values_P, return_counts=True)[1]
    share = counts / counts.sum()
    return float(-(share * np.log2(share)).sum() + (len(counts) - 1) / (2 * counts.sum() * np.log(2)))


def binned(actions_P: np.ndarray) -> np.ndarray:
    """The number of each value's quantile bin; values that occur often share one."""
    edges = np.unique(np.quantile(actions_P, np.linspace(0, 1, BINS + 1)[1:-1]))
    return np.searchsorted(edges, actions_P, side="right")


def code_action_information(codes_PN: np.ndarray, actions_PA: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Bits that a code tells of an action number: of each position the mean over action numbers, and their mean.

    `of` is the mean entropy of the binned action numbers, the most there is to tell; `shuffled` the same with pairs
    mixed up, what is left of the bias after its correction.
    """
    actions = [binned(column) for column in actions_PA.T if column.std() > 0]
    order = np.random.default_rng(seed).permutation(len(codes_PN))
    bits, shuffled = (
        [float(np.mean([mutual_information(column, action) for action in actions])) for column in codes.T]
        for codes in (codes_PN, codes_PN[order])
    )
    return {
        "bits": rounded(float(np.mean(bits))),
        "bits_per_position": [rounded(value) for value in bits],
        "shuffled": rounded(float(np.mean(shuffled))),
        "of": rounded(float(np.mean([entropy(action) for action in actions]))),
    }
