"""Do the latents hold the actions, beyond what frame t tells? Ridge probes, split by episode, with intervals.

Shape suffixes: P pairs, F features, A action numbers, E episodes, R bootstrap resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

LAMBDAS = np.logspace(-4, 3, 15)
SHARES = (0.6, 0.2, 0.2)  # of the episodes: train, validation (chooses lambda), test
RESAMPLES = 2000
COMPONENTS = 256  # of the pixel PCAs
STD_FLOOR = 1e-6


@dataclass(frozen=True, slots=True)
class Split:
    """Which pairs train, choose and test; bool (P,) each. No episode is on two sides."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split_by_episode(episode_P: np.ndarray, seed: int = 0) -> Split:
    """60/20/20 of the episodes. Raises ValueError for fewer than 5 episodes."""
    episodes = np.unique(episode_P)
    if len(episodes) < 5:
        raise ValueError(f"{len(episodes)} episode(s) cannot be split 60/20/20; give at least 5.")
    shuffled = np.random.default_rng(seed).permutation(episodes)
    first, second = round(SHARES[0] * len(episodes)), round((SHARES[0] + SHARES[1]) * len(episodes))
    parts = np.split(shuffled, [first, second])
    return Split(*(np.isin(episode_P, part) for part in parts))


def standardise(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    """(x - mean) / std by the training rows' statistics; a constant column becomes 0."""
    mean, std = values[train].mean(0), values[train].std(0)
    return (values - mean) / np.where(std > STD_FLOOR, std, 1)


def ridge(features_PF: np.ndarray, targets_PA: np.ndarray, penalty: float) -> np.ndarray:
    """argmin_W mean |X W - Y|^2 + penalty |W|^2 = (X'X / P + penalty I)^-1 X'Y / P, as (F, A)."""
    count, width = features_PF.shape
    gram = features_PF.T @ features_PF / count + penalty * np.eye(width)
    return np.linalg.solve(gram, features_PF.T @ targets_PA / count)


def principal_components(values_PF: np.ndarray, train: np.ndarray, components: int = COMPONENTS) -> np.ndarray:
    """PCA fitted on the training rows, applied to all: (P, <= components). Randomised, with a fixed seed."""
    import torch

    centred = torch.from_numpy(np.asarray(values_PF, np.float32) - values_PF[train].mean(0, dtype=np.float32))
    fitted = centred[torch.from_numpy(train)]
    components = min(components, *fitted.shape)
    generator = torch.Generator().manual_seed(0)
    # Halko et al. 2011: a random projection, two power iterations, then the exact SVD of what is left.
    basis = fitted @ torch.randn(fitted.shape[1], components + min(16, components), generator=generator)
    for _ in range(2):
        basis = fitted @ (fitted.T @ torch.linalg.qr(basis).Q)
    directions = torch.linalg.svd(torch.linalg.qr(basis).Q.T @ fitted, full_matrices=False).Vh[:components]
    return (centred @ directions.T).numpy()


@dataclass(frozen=True, slots=True)
class ProbeErrors:
    """What a bootstrap needs of one probe: squared errors and squared targets of each test episode, (E, A) each."""

    residual_EA: np.ndarray
    total_EA: np.ndarray
    penalty: float

    def r2(self, weights_RE: np.ndarray | None = None) -> np.ndarray:
        """1 - mean_a(sum of squared errors / sum of squared targets), for each resample of episodes (R,)."""
        weights_RE = np.ones((1, len(self.total_EA))) if weights_RE is None else weights_RE
        return 1 - (weights_RE @ self.residual_EA / (weights_RE @ self.total_EA)).mean(1)


def fit_probe(features_PF: np.ndarray, targets_PA: np.ndarray, episode_P: np.ndarray, split: Split) -> ProbeErrors:
    """Ridge on standardised features; lambda chosen on validation, errors on test. Targets are standardised already."""
    x = standardise(np.asarray(features_PF, np.float64), split.train)

    def error(penalty: float) -> float:
        weights = ridge(x[split.train], targets_PA[split.train], penalty)
        residual = targets_PA[split.validation] - x[split.validation] @ weights
        return float((residual**2).sum(0) @ (1 / (targets_PA[split.validation] ** 2).sum(0)))

    penalty = float(min(LAMBDAS, key=error))
    predicted = x[split.test] @ ridge(x[split.train], targets_PA[split.train], penalty)
    return _errors(predicted, targets_PA[split.test], episode_P[split.test], penalty)


def _errors(predicted_PA: np.ndarray, targets_PA: np.ndarray, episode_P: np.ndarray, penalty: float) -> ProbeErrors:
    _, number_P = np.unique(episode_P, return_inverse=True)
    member_EP = (np.arange(number_P.max() + 1)[:, None] == number_P).astype(np.float64)
    return ProbeErrors(member_EP @ (targets_PA - predicted_PA) ** 2, member_EP @ targets_PA**2, penalty)


def probe_actions(
    latents: Mapping[str, np.ndarray],
    frames_P: np.ndarray,
    future_frames_P: np.ndarray,
    actions_PA: np.ndarray,
    episode_P: np.ndarray,
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Conditional R2 of actions: R2(y from [phi(o_t), f]) - R2(y from phi(o_t)), for latents and controls.

    >>> probe_actions({"z": z}, now, future, actions, episodes)["rows"]["z"]["conditional_r2"]  # doctest: +SKIP
    0.21

    latents: features (P, F) by name; the first is the one in question, the others are rows beside it. frames_P,
    future_frames_P: uint8 (P, 3, S, S). actions_PA: the sum of the pair's actions. episode_P: each pair's episode.
    phi is a 256-d PCA of frame t. Controls: the mean predictor, the first latents shuffled across pairs, and a 256-d
    PCA of the pixel difference.

    Returns `rows` (name -> r2 alone, conditional_r2, its 95 % interval, lambda) and `margins` (first latents minus each
    other row, on the same resamples of test episodes, with 95 % interval). Raises ValueError for under 5 episodes.
    """
    split = split_by_episode(episode_P, seed)
    y = standardise(np.asarray(actions_PA, np.float64), split.train)
    # A number that never changes in training cannot be scored.
    y = y[:, np.asarray(actions_PA)[split.train].std(0) > STD_FLOOR]
    phi = principal_components(_flat(frames_P), split.train)
    name = next(iter(latents))
    features = {key: value.reshape(len(value), -1) for key, value in latents.items()}
    features["shuffled"] = features[name][np.random.default_rng(seed).permutation(len(y))]
    features["pixel_difference"] = principal_components(_flat(future_frames_P) - _flat(frames_P), split.train)

    baseline = fit_probe(phi, y, episode_P, split)
    mean = _errors(np.zeros_like(y[split.test]), y[split.test], episode_P[split.test], 0.0)
    tests = len(mean.total_EA)
    weights_RE = np.random.default_rng(seed).multinomial(tests, np.full(tests, 1 / tests), RESAMPLES).astype(float)

    def score(probe: ProbeErrors) -> tuple[float, np.ndarray]:
        return float(probe.r2()[0] - baseline.r2()[0]), probe.r2(weights_RE) - baseline.r2(weights_RE)

    rows: dict[str, Any] = {}
    scores = {"mean": (0.0 * mean.r2()[0], np.zeros(RESAMPLES))}
    rows["mean"] = {"r2": _round(mean.r2()[0]), "conditional_r2": 0.0, "interval": [0.0, 0.0]}
    for key, value in features.items():
        joint = fit_probe(np.concatenate([phi, value], 1), y, episode_P, split)
        scores[key] = score(joint)
        rows[key] = {
            "r2": _round(fit_probe(value, y, episode_P, split).r2()[0]),
            "conditional_r2": _round(scores[key][0]),
            "interval": _interval(scores[key][1]),
            "lambda": joint.penalty,
        }
    margins = {
        key: {"difference": _round(scores[name][0] - value), "interval": _interval(scores[name][1] - resampled)}
        for key, (value, resampled) in scores.items()
        if key != name
    }
    return {
        "episodes": {side: len(np.unique(episode_P[getattr(split, side)])) for side in Split.__slots__},
        "pairs": len(y),
        "frame_r2": _round(baseline.r2()[0]),
        "rows": rows,
        "margins": margins,
    }


def _flat(frames: np.ndarray) -> np.ndarray:
    return frames.reshape(len(frames), -1).astype(np.float32) / 255


def _interval(values_R: np.ndarray) -> list[float]:
    return [_round(value) for value in np.quantile(values_R, [0.025, 0.975])]


def _round(value: float) -> float:
    return round(float(value), 4)
