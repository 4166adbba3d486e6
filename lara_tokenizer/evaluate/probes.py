"""Do the latents hold the actions, beyond what frame t tells? Ridge probes, cross-fitted by episode, with intervals.

Shape suffixes: P pairs, F features, A action numbers, E episodes, L penalties, R bootstrap resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lara_tokenizer.evaluate.bootstrap import interval, resamples, rounded, sums_by_episode

LAMBDAS = np.logspace(-4, 3, 15)
FOLDS = 5  # in each, one fifth of the episodes tests, the next chooses lambda, the other three train: 60/20/20
COMPONENTS = 256  # of the pixel PCAs
STD_FLOOR = 1e-6
NOISE = 1e-7  # of the largest variance: a smaller one is rounding

MEAN = "mean"  # a probe without features
FRAME = "frame"  # the features of frame t alone, phi(o_t)
Key = tuple[str, ...]  # which features a probe reads; () is the mean predictor


@dataclass(frozen=True, slots=True)
class Split:
    """Which episodes choose lambda and which test; all others train. A pair goes where its episode goes."""

    episode_P: np.ndarray
    validation_episodes: np.ndarray
    test_episodes: np.ndarray

    @property
    def test(self) -> np.ndarray:
        """bool (P,)."""
        return np.isin(self.episode_P, self.test_episodes)

    @property
    def validation(self) -> np.ndarray:
        """bool (P,)."""
        return np.isin(self.episode_P, self.validation_episodes) & ~self.test

    @property
    def train(self) -> np.ndarray:
        """bool (P,)."""
        return ~(self.test | self.validation)


def cross_fit_splits(episode_P: np.ndarray, task_E: Sequence[Any] | None = None, seed: int = 0) -> list[Split]:
    """Five splits by episode, such that every episode tests once, chooses lambda once and trains three times.

    >>> [int(split.test.sum()) for split in cross_fit_splits(np.arange(12))]
    [3, 3, 2, 2, 2]

    episode_P: the episode of each pair. task_E: the task of each episode, in the order of `np.unique(episode_P)`;
    the episodes of a task are dealt to the folds in turn. The same arguments give the same folds. Raises ValueError
    for fewer than 5 episodes.
    """
    episodes = np.unique(episode_P)
    if len(episodes) < FOLDS:
        raise ValueError(f"{len(episodes)} episode(s) cannot be probed in {FOLDS} folds; give at least {FOLDS}.")
    shuffled = np.random.default_rng(seed).permutation(len(episodes))
    if task_E is not None:
        task_number_E = np.unique(np.asarray(task_E), return_inverse=True)[1]
        shuffled = shuffled[np.argsort(task_number_E[shuffled], kind="stable")]
    fold_E = np.empty(len(episodes), int)
    fold_E[shuffled] = np.arange(len(episodes)) % FOLDS
    return [
        Split(np.asarray(episode_P), episodes[fold_E == (fold + 1) % FOLDS], episodes[fold_E == fold])
        for fold in range(FOLDS)
    ]


def standardise(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    """(x - mean) / std by the training rows' statistics; a column that is constant there becomes 0 there."""
    mean, std = values[train].mean(0), values[train].std(0)
    return (values - mean) / np.where(std > STD_FLOOR, std, 1)


class Ridge:
    """argmin_W mean |X W - Y|^2 + penalty |W|^2, for many penalties and many Y at the price of one decomposition.

    With X'X / P = V diag(s) V' it is W = V diag(1 / (s + penalty)) V'X'Y / P; where there are more features than
    pairs, with XX' / P = U diag(s) U' the same W is X'U diag(1 / (s + penalty)) U'Y / P.
    """

    def __init__(self, features_PF: np.ndarray) -> None:
        count, width = features_PF.shape
        if width <= count:
            self.values, self.left = np.linalg.eigh(features_PF.T @ features_PF / count)
            self.right = (features_PF @ self.left).T / count
        else:
            self.values, vectors = np.linalg.eigh(features_PF @ features_PF.T / count)
            self.left, self.right = features_PF.T @ vectors, vectors.T / count

    def rotated(self, targets_PA: np.ndarray, penalties: np.ndarray) -> np.ndarray:
        """(L, ., A), the weights before `left` is applied to them."""
        shrunk = self.values.clip(0) + np.asarray(penalties, np.float64)[:, None]
        return (self.right @ targets_PA) / np.maximum(shrunk, np.finfo(np.float64).tiny)[..., None]


def ridge(features_PF: np.ndarray, targets_PA: np.ndarray, penalties: np.ndarray) -> np.ndarray:
    """The weights (L, F, A) of `Ridge` for each penalty."""
    solver = Ridge(features_PF)
    return solver.left @ solver.rotated(targets_PA, penalties)


def principal_components(values_PF: np.ndarray, train: np.ndarray, components: int = COMPONENTS) -> np.ndarray:
    """PCA fitted on the training rows, applied to all: (P, <= components). Randomised, with a fixed seed."""
    import torch

    values = torch.from_numpy(np.asarray(values_PF, np.float32))
    fitted = values[torch.from_numpy(train)]
    mean = fitted.mean(0)
    fitted -= mean  # indexing copied it
    components = min(components, *fitted.shape)
    generator = torch.Generator().manual_seed(0)
    # Halko et al. 2011: a random projection, two power iterations, then what is left exactly: B = U S V'.
    basis = fitted @ torch.randn(fitted.shape[1], components + min(16, components), generator=generator)
    for _ in range(2):
        basis = fitted @ (fitted.T @ torch.linalg.qr(basis).Q)
    left = torch.linalg.qr(basis).Q.T @ fitted
    # B B' = U S^2 U' is small, so V' = U'B / S is cheap; what lies below float32's noise is no direction.
    squares, vectors = torch.linalg.eigh((left @ left.T).double())
    squares, vectors = squares.flip(0)[:components], vectors.flip(1)[:, :components]
    scale = torch.where(squares > NOISE * squares[0], squares.clamp(min=0).rsqrt(), 0)
    directions = (vectors * scale).T.float() @ left
    return (values @ directions.T - directions @ mean).numpy()


class Probe:
    """Features standardised by the training pairs and decomposed once, to be fitted to several targets."""

    def __init__(self, features_PF: np.ndarray, split: Split) -> None:
        self.train, self.validation, self.test = split.train, split.validation, split.test
        x = standardise(np.asarray(features_PF, np.float64), self.train)
        self.solver = Ridge(x[self.train])
        self.validation_x = x[self.validation] @ self.solver.left
        self.test_x = x[self.test] @ self.solver.left

    def predict(self, targets_PA: np.ndarray) -> tuple[np.ndarray, float]:
        """What a ridge fitted on training pairs alone says of the test pairs, with the lambda best on validation.

        Targets are standardised by the training pairs; predictions (test pairs, A) are in their own units again.
        Returns them and lambda.
        """
        y = standardise(targets_PA, self.train)
        weights_LFA = self.solver.rotated(y[self.train], LAMBDAS)
        residual_LPA = y[self.validation] - self.validation_x @ weights_LFA
        best = int((residual_LPA**2).sum(1).mean(1).argmin())
        mean, std = targets_PA[self.train].mean(0), targets_PA[self.train].std(0)
        return mean + std * (self.test_x @ weights_LFA[best]), float(LAMBDAS[best])


def fit_probe(features_PF: np.ndarray, targets_PA: np.ndarray, split: Split) -> tuple[np.ndarray, float]:
    """`Probe` for one target."""
    return Probe(features_PF, split).predict(targets_PA)


def pooled_r2(errors_EA: np.ndarray, mean_errors_EA: np.ndarray, weights_RE: np.ndarray | None = None) -> np.ndarray:
    """R2 = 1 - mean_a(sum_e errors[e, a] / sum_e mean_errors[e, a]), for each resample of the episodes, as (R,).

    errors_EA: a probe's squared errors, summed over the test pairs of each episode. mean_errors_EA: the same of
    predicting the mean of the training pairs of the fold that tested the episode. weights_RE: how often each
    episode occurs in a resample; None takes each once. A number that never changes in a resample counts as 0.
    """
    weights_RE = np.ones((1, len(errors_EA))) if weights_RE is None else weights_RE
    errors_RA, mean_errors_RA = weights_RE @ errors_EA, weights_RE @ mean_errors_EA
    changes = mean_errors_RA > 0
    return 1 - np.where(changes, errors_RA / np.where(changes, mean_errors_RA, 1), 1).mean(1)


@dataclass(slots=True)
class CrossFit:
    """Squared errors of all probes, summed over the test pairs of each episode.

    `errors[target][features]` is (E, A), in the order of `episodes`; `features` are the names of what the probe read:
    () nothing, ("frame",) frame t, ("z",), ("frame", "z") both. `penalties` has the lambda of each fold likewise.
    """

    episodes: np.ndarray
    pairs: int
    errors: dict[str, dict[Key, np.ndarray]] = field(default_factory=dict)
    penalties: dict[str, dict[Key, list[float]]] = field(default_factory=dict)

    @property
    def rows(self) -> list[str]:
        """The names of latents and controls that stand beside frame t."""
        return [probe[1] for probe in next(iter(self.errors.values())) if len(probe) == 2]

    def r2(self, target: str, weights_RE: np.ndarray | None = None) -> dict[Key, np.ndarray]:
        """`pooled_r2` of each probe, (R,)."""
        errors = self.errors[target]
        return {probe: pooled_r2(error, errors[()], weights_RE) for probe, error in errors.items()}


def cross_fit(
    latents: Mapping[str, np.ndarray],
    frames_P: np.ndarray,
    future_frames_P: np.ndarray,
    targets: Mapping[str, np.ndarray],
    episode_P: np.ndarray,
    *,
    task_E: Sequence[Any] | None = None,
    seed: int = 0,
) -> CrossFit:
    """Ridge probes of latents and controls, alone and beside frame t, for each of `targets` (P, A).

    The other arguments are those of `probe_actions`, which says what is done.
    """
    features = {key: np.asarray(value).reshape(len(value), -1) for key, value in latents.items()}
    name = next(iter(features))
    features["shuffled"] = features[name][np.random.default_rng(seed).permutation(len(episode_P))]
    y = {key: np.asarray(value, np.float64) for key, value in targets.items()}
    y = {key: value[:, value.std(0) > STD_FLOOR] for key, value in y.items()}
    now = _unit_rows(frames_P)
    difference = _unit_rows(future_frames_P) - now
    fit = CrossFit(np.unique(episode_P), len(episode_P), {key: {} for key in y}, {key: {} for key in y})
    for split in cross_fit_splits(episode_P, task_E, seed):
        phi = principal_components(now, split.train)
        of_fold = {**features, "pixel_difference": principal_components(difference, split.train)}
        inputs: dict[Key, np.ndarray] = {(): np.empty((len(episode_P), 0)), (FRAME,): phi}
        inputs |= {(key,): value for key, value in of_fold.items()}
        inputs |= {(FRAME, key): np.concatenate([phi, value], 1) for key, value in of_fold.items()}
        for key, value in inputs.items():
            probe = Probe(value, split)
            for target, actions in y.items():
                predictions, penalty = probe.predict(actions)
                errors = (actions[split.test] - predictions) ** 2
                summed = sums_by_episode(errors, episode_P[split.test], fit.episodes)
                fit.errors[target][key] = fit.errors[target].get(key, 0) + summed
                fit.penalties[target].setdefault(key, []).append(penalty)
    return fit


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
    targets = {"actions": actions_PA}
    fit = cross_fit(latents, frames_P, future_frames_P, targets, episode_P, task_E=task_E, seed=seed)
    return action_report(fit, seed)


def action_report(fit: CrossFit, seed: int) -> dict[str, Any]:
    """What `probe_actions` returns, from the errors of its probes."""
    r2 = fit.r2("actions", resamples(len(fit.episodes), seed))
    rows: dict[str, Any] = {MEAN: {"r2": 0.0, "conditional_r2": 0.0, "interval": [0.0, 0.0]}}
    conditional = {MEAN: np.zeros_like(r2[()])}
    for key in fit.rows:
        conditional[key] = r2[FRAME, key] - r2[(FRAME,)]
        rows[key] = {
            "r2": rounded(r2[(key,)][0]),
            "r2_interval": interval(r2[(key,)][1:]),
            "conditional_r2": rounded(conditional[key][0]),
            "interval": interval(conditional[key][1:]),
            "lambdas": [rounded(penalty) for penalty in fit.penalties["actions"][FRAME, key]],
        }
    return {
        "test_episodes": len(fit.episodes),
        "pairs": fit.pairs,
        "frame_r2": rounded(r2[(FRAME,)][0]),
        "rows": rows,
        "margins": margins(conditional, fit.rows[0]),
    }


def margins(values_R: Mapping[str, np.ndarray], name: str) -> dict[str, Any]:
    """The row `name` minus each other row, with intervals, from values and resamples (1 + R,) of each."""
    differences = {key: values_R[name] - value for key, value in values_R.items() if key != name}
    return {
        key: {"difference": rounded(value[0]), "interval": interval(value[1:])} for key, value in differences.items()
    }


def _unit_rows(frames: np.ndarray) -> np.ndarray:
    return frames.reshape(len(frames), -1).astype(np.float32) / 255
