"""How many labelled episodes does it take to read actions from z? (Metric 3 of LAOM, offline: no policy is run.)"""

from __future__ import annotations

from typing import Any

import numpy as np

from lara_tokenizer.evaluate.bootstrap import rounded
from lara_tokenizer.evaluate.probes import LAMBDAS, STD_FLOOR, Ridge, standardise

LABELLED = (2, 4, 8, 16, 32, 64)
DRAWS = 5  # of which episodes are labelled
LEAST_TEST_EPISODES = 3


def few_label_r2(
    features_P: np.ndarray, actions_PA: np.ndarray, episode_P: np.ndarray, seed: int = 0
) -> dict[str, Any]:
    """R2 of a ridge from z to actions that saw k episodes, on all others: {"2": {"mean", "low", "high"}, ...}.

    Lambda is chosen on the k episodes alone: each half predicts the other. R2 counts against the mean action of all
    tested pairs, and is averaged over action numbers and over five draws of the episodes; low and high are the worst
    and the best draw. A k that leaves fewer than three episodes to test is left out.
    """
    features = np.asarray(features_P, np.float64).reshape(len(features_P), -1)
    actions = np.asarray(actions_PA, np.float64)
    actions = actions[:, actions.std(0) > STD_FLOOR]
    episodes = np.unique(episode_P)
    rng = np.random.default_rng(seed)
    found = {}
    for count in LABELLED:
        if len(episodes) - count < LEAST_TEST_EPISODES:
            break
        scores = []
        for _ in range(DRAWS):
            chosen = rng.permutation(episodes)[:count]
            scores.append(_r2_from(features, actions, episode_P, chosen))
        found[str(count)] = {
            "mean": rounded(float(np.mean(scores))),
            "low": rounded(min(scores)),
            "high": rounded(max(scores)),
        }
    return found


def _r2_from(features: np.ndarray, actions: np.ndarray, episode_P: np.ndarray, labelled: np.ndarray) -> float:
    train = np.isin(episode_P, labelled)
    first_half = np.isin(episode_P, labelled[: len(labelled) // 2])
    x, y = standardise(features, train), standardise(actions, train)
    errors = np.zeros(len(LAMBDAS))
    for fit, check in ((first_half, train & ~first_half), (train & ~first_half, first_half)):
        errors += ((y[check] - _predictions(x, y, fit, check, LAMBDAS)) ** 2).sum((1, 2))
    penalty = LAMBDAS[[errors.argmin()]]
    residual = y[~train] - _predictions(x, y, train, ~train, penalty)[0]
    around = y[~train] - y[~train].mean(0)
    total = (around**2).sum(0)
    return float(1 - ((residual**2).sum(0)[total > 0] / total[total > 0]).mean())


def _predictions(x: np.ndarray, y: np.ndarray, fit: np.ndarray, check: np.ndarray, penalties: np.ndarray) -> np.ndarray:
    solver = Ridge(x[fit])
    return (x[check] @ solver.left) @ solver.rotated(y[fit], penalties)
