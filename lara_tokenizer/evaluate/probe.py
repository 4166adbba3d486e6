"""Do the latents hold the actions, beyond what frame t tells? Ridge probes, cross-fitted by episode, with intervals.

Shape suffixes: P pairs, F features, A action numbers, E episodes, L penalties, R bootstrap resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LAMBDAS = np.logspace(-4, 3, 15)
FOLDS = 5  # in each, one fifth of the episodes tests, the next chooses lambda, the other three train: 60/20/20
RESAMPLES = 2000
COMPONENTS = 256  # of the pixel PCAs
STD_FLOOR = 1e-6

FRAME = "frame"  # the features of frame t alone, phi(o_t)
Key = tuple[str, ...]  # which features a probe reads; () is the mean predictor


@dataclass(frozen=True, slots=True)
class Split:
    """Which pairs train, choose lambda and test; bool (P,) each. No episode is on two sides."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def cross_fit_splits(episode_P: np.ndarray, task_E: Sequence[Any] | None = None, seed: int = 0) -> list[Split]:
    """Five splits by episode, such that every episode tests once, chooses lambda once and trains three times.

    >>> [int(split.test.sum()) for split in cross_fit_splits(np.arange(12))]
    [3, 3, 2, 2, 2]

    episode_P: the episode of each pair. task_E: the task of each episode, in the order of `np.unique(episode_P)`;
    the episodes of a task are dealt to the folds in turn. The same arguments give the same folds. Raises ValueError
    for fewer than 5 episodes.
    """
    episodes, number_P = np.unique(episode_P, return_inverse=True)
    if len(episodes) < FOLDS:
        raise ValueError(f"{len(episodes)} episode(s) cannot be probed in {FOLDS} folds; give at least {FOLDS}.")
    shuffled = np.random.default_rng(seed).permutation(len(episodes))
    if task_E is not None:
        task_number_E = np.unique(np.asarray(task_E), return_inverse=True)[1]
        shuffled = shuffled[np.argsort(task_number_E[shuffled], kind="stable")]
    fold_E = np.empty(len(episodes), int)
    fold_E[shuffled] = np.arange(len(episodes)) % FOLDS
    fold_P = fold_E[number_P]
    splits = []
    for fold in range(FOLDS):
        test, validation = fold_P == fold, fold_P == (fold + 1) % FOLDS
        splits.append(Split(~(test | validation), validation, test))
    return splits


def standardise(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    """(x - mean) / std by the training rows' statistics; a column that is constant there becomes 0 there."""
    mean, std = values[train].mean(0), values[train].std(0)
    return (values - mean) / np.where(std > STD_FLOOR, std, 1)


def ridge(features_PF: np.ndarray, targets_PA: np.ndarray, penalties: np.ndarray) -> np.ndarray:
    """argmin_W mean |X W - Y|^2 + penalty |W|^2 = (X'X / P + penalty I)^-1 X'Y / P for each penalty, as (L, F, A).

    One eigendecomposition X'X / P = V diag(s) V' serves all: W = V diag(1 / (s + penalty)) V'X'Y / P.
    """
    count = len(features_PF)
    values_F, vectors_FF = np.linalg.eigh(features_PF.T @ features_PF / count)
    rotated_FA = vectors_FF.T @ (features_PF.T @ targets_PA) / count
    shrunk_LFA = rotated_FA / (values_F + np.asarray(penalties, np.float64)[:, None])[..., None]
    return vectors_FF @ shrunk_LFA


def principal_components(values_PF: np.ndarray, train: np.ndarray, components: int = COMPONENTS) -> np.ndarray:
    """PCA fitted on the training rows, applied to all: (P, <= components). Randomised, with a fixed seed."""
    import torch

    values = torch.from_numpy(np.asarray(values_PF, np.float32))
    fitted = values[torch.from_numpy(train)]
    mean = fitted.mean(0)
    fitted -= mean  # indexing copied it
    components = min(components, *fitted.shape)
    generator = torch.Generator().manual_seed(0)
    # Halko et al. 2011: a random projection, two power iterations, then the exact SVD of what is left.
    basis = fitted @ torch.randn(fitted.shape[1], components + min(16, components), generator=generator)
    for _ in range(2):
        basis = fitted @ (fitted.T @ torch.linalg.qr(basis).Q)
    directions = torch.linalg.svd(torch.linalg.qr(basis).Q.T @ fitted, full_matrices=False).Vh[:components]
    return (values @ directions.T - directions @ mean).numpy()


def fit_probe(features_PF: np.ndarray, targets_PA: np.ndarray, split: Split) -> tuple[np.ndarray, float]:
    """Ridge from training pairs alone, with the lambda that does best on validation; what it says of the test pairs.

    Features and targets are standardised by the training pairs; predictions (test pairs, A) are in the targets'
    own units again. Returns them and lambda.
    """
    x = standardise(np.asarray(features_PF, np.float64), split.train)
    y = standardise(targets_PA, split.train)
    weights_LFA = ridge(x[split.train], y[split.train], LAMBDAS)
    residual_LPA = y[split.validation] - x[split.validation] @ weights_LFA
    best = int((residual_LPA**2).sum(1).mean(1).argmin())
    mean, std = targets_PA[split.train].mean(0), targets_PA[split.train].std(0)
    return mean + std * (x[split.test] @ weights_LFA[best]), float(LAMBDAS[best])


def pooled_r2(errors_EA: np.ndarray, mean_errors_EA: np.ndarray, weights_RE: np.ndarray | None = None) -> np.ndarray:
    """R2 = 1 - mean_a(sum_e errors[e, a] / sum_e mean_errors[e, a]), for each resample of the episodes, as (R,).

    errors_EA: a probe's squared errors, summed over the test pairs of each episode. mean_errors_EA: the same of
    predicting the mean of the training pairs of the fold that tested the episode. weights_RE: how often each
    episode occurs in a resample; None takes each once.
    """
    weights_RE = np.ones((1, len(errors_EA))) if weights_RE is None else weights_RE
    return 1 - (weights_RE @ errors_EA / (weights_RE @ mean_errors_EA)).mean(1)


def probe_actions(
    latents: Mapping[str, np.ndarray],
    frames_P: np.ndarray,
    future_frames_P: np.ndarray,
    actions_PA: np.ndarray,
    episode_P: np.ndarray,
    *,
    task_E: Sequence[Any] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Conditional R2 of actions: R2(y from [phi(o_t), f]) - R2(y from phi(o_t)), for latents and controls.

    >>> probe_actions({"z": z}, now, future, actions, episodes)["rows"]["z"]["conditional_r2"]  # doctest: +SKIP
    0.21

    Cross-fitted: in each of five folds the probes are trained on three fifths of the episodes (PCA, standardisation,
    ridge), lambda is chosen on one fifth, and the last fifth is predicted, so that every episode is a test episode
    once. With y_ia the action number a of pair i, yhat_ia what the fold that tests i predicts, and ybar_ia the mean
    of that fold's training pairs, over all pairs i

        R2 = 1 - 1/A sum_a [ sum_i (y_ia - yhat_ia)^2 / sum_i (y_ia - ybar_ia)^2 ].

    latents: features (P, ...) by name; the first is the one in question, the others are rows beside it. frames_P,
    future_frames_P: uint8 (P, 3, S, S). actions_PA: the sum of the pair's actions; a number that never changes is
    left out. episode_P: each pair's episode. task_E: each episode's task, see `cross_fit_splits`. phi is a 256-d PCA
    of frame t. Controls: the mean predictor, the first latents shuffled across pairs, and a 256-d PCA of the pixel
    difference.

    Returns `test_episodes`, `pairs`, `frame_r2` (phi alone), `rows` (name -> r2 alone, conditional_r2, its 95 %
    interval, the lambda of each fold) and `margins` (first latents minus each other row, with 95 % interval).
    Intervals: percentile bootstrap over the test episodes, with the same resamples for all; the probes are not
    fitted anew. Raises ValueError for under 5 episodes.
    """
    y = np.asarray(actions_PA, np.float64)
    y = y[:, y.std(0) > STD_FLOOR]
    name = next(iter(latents))
    features = {key: np.asarray(value).reshape(len(value), -1) for key, value in latents.items()}
    features["shuffled"] = features[name][np.random.default_rng(seed).permutation(len(y))]
    now = _unit_rows(frames_P)
    difference = _unit_rows(future_frames_P) - now
    splits = cross_fit_splits(episode_P, task_E, seed)
    predicted: dict[Key, np.ndarray] = {}
    penalties: dict[Key, list[float]] = {}
    for split in splits:
        phi = principal_components(now, split.train)
        of_fold = {**features, "pixel_difference": principal_components(difference, split.train)}
        inputs: dict[Key, np.ndarray] = {(): np.empty((len(y), 0)), (FRAME,): phi}
        inputs |= {(key,): value for key, value in of_fold.items()}
        inputs |= {(FRAME, key): np.concatenate([phi, value], 1) for key, value in of_fold.items()}
        for probe, value in inputs.items():
            predictions, penalty = fit_probe(value, y, split)
            predicted.setdefault(probe, np.full_like(y, np.nan))[split.test] = predictions
            penalties.setdefault(probe, []).append(penalty)
    return {
        "test_episodes": len(np.unique(episode_P[np.any([split.test for split in splits], 0)])),
        "pairs": len(y),
        **_report(predicted, penalties, y, episode_P, name, seed),
    }


def _report(
    predicted: Mapping[Key, np.ndarray],
    penalties: Mapping[Key, list[float]],
    y: np.ndarray,
    episode_P: np.ndarray,
    name: str,
    seed: int,
) -> dict[str, Any]:
    """`frame_r2`, `rows` and `margins` of `probe_actions`, from the test predictions of each probe."""
    _, number_P = np.unique(episode_P, return_inverse=True)
    member_EP = (np.arange(number_P.max() + 1)[:, None] == number_P).astype(np.float64)
    errors = {probe: member_EP @ (y - value) ** 2 for probe, value in predicted.items()}
    count = len(member_EP)
    once_RE = np.ones((1, count))
    weights_RE = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(float)
    # r2[probe][0] is measured, the others are its resamples.
    weights_RE = np.concatenate([once_RE, weights_RE])
    r2 = {probe: pooled_r2(error, errors[()], weights_RE) for probe, error in errors.items()}
    conditional = {"mean": np.zeros(len(weights_RE))}
    rows = {"mean": {"r2": 0.0, "conditional_r2": 0.0, "interval": [0.0, 0.0]}}
    for key in (probe[1] for probe in predicted if len(probe) == 2):
        conditional[key] = r2[FRAME, key] - r2[(FRAME,)]
        rows[key] = {
            "r2": _round(r2[(key,)][0]),
            "r2_interval": _interval(r2[(key,)][1:]),
            "conditional_r2": _round(conditional[key][0]),
            "interval": _interval(conditional[key][1:]),
            "lambdas": penalties[FRAME, key],
        }
    margins = {key: conditional[name] - value for key, value in conditional.items() if key != name}
    return {
        "frame_r2": _round(r2[(FRAME,)][0]),
        "rows": rows,
        "margins": {
            key: {"difference": _round(value[0]), "interval": _interval(value[1:])} for key, value in margins.items()
        },
    }


def _unit_rows(frames: np.ndarray) -> np.ndarray:
    return frames.reshape(len(frames), -1).astype(np.float32) / 255


def _interval(values_R: np.ndarray) -> list[float]:
    return [_round(value) for value in np.quantile(values_R, [0.025, 0.975])]


def _round(value: float) -> float:
    return round(float(value), 4)
