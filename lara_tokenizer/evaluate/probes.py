"""Ridge probes of actions and nuisances from latents and controls, cross-fitted by episode.

Shape suffixes: P pairs, F features, A target dimensions, E episodes, L penalties, R bootstrap resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from einops import rearrange

from lara_tokenizer.evaluate.figures import (
    Estimate,
    ProbeRow,
    ProbeTable,
    estimate,
    interval,
    resamples,
    rounded,
    sums_by_episode,
)

LAMBDAS = np.logspace(-4, 3, 15)
FOLDS = 5  # in each, one fifth of the episodes tests, the next chooses lambda, the other three train: 60/20/20
COMPONENTS = 256  # of the pixel PCAs
STD_FLOOR = 1e-6  # a dimension with a smaller standard deviation counts as constant
NOISE = 1e-7  # share of the largest variance below which a variance is rounding error

ACTIONS = "actions"  # the name of the target; all others are nuisance families
MEAN = "mean"  # the row of the mean predictor, a probe without features
FRAME = "frame"  # the row of frame t alone, phi(o_t)
Key = tuple[str, ...]  # the names of the features that a probe reads; () is the mean predictor


@dataclass(frozen=True, slots=True)
class Split:
    """A fold: the episodes that choose lambda, those that test, and all others, which train.

    Pairs are selected by their episode alone, so that no episode is on two sides.
    """

    episode_P: np.ndarray
    validation_episodes: np.ndarray
    test_episodes: np.ndarray

    @property
    def test(self) -> np.ndarray:
        """The pairs that test, bool (P,)."""
        return np.isin(self.episode_P, self.test_episodes)

    @property
    def validation(self) -> np.ndarray:
        """The pairs that choose lambda, bool (P,)."""
        return np.isin(self.episode_P, self.validation_episodes) & ~self.test

    @property
    def train(self) -> np.ndarray:
        """The pairs that train, bool (P,)."""
        return ~(self.test | self.validation)


def cross_fit_splits(episode_P: np.ndarray, task_E: Sequence[Any] | None = None, seed: int = 0) -> list[Split]:
    """Five splits by episode: every episode tests once, chooses lambda once and trains three times.

    >>> [int(split.test.sum()) for split in cross_fit_splits(np.arange(12))]
    [3, 3, 2, 2, 2]

    The same arguments give the same folds.

    Args:
        episode_P: the episode of each pair.
        task_E: the task of each episode, in the order of `np.unique(episode_P)`; the episodes of a task are dealt to
            the folds in turn.
        seed: of the shuffle of the episodes.

    Raises:
        ValueError: for fewer than 5 episodes.
    """
    episodes = np.unique(episode_P)
    if len(episodes) < FOLDS:
        raise ValueError(f"{len(episodes)} episode(s) cannot be probed in {FOLDS} folds; give at least {FOLDS}.")
    shuffled = np.random.default_rng(seed).permutation(len(episodes))
    if task_E is not None:
        task_index_E = np.unique(np.asarray(task_E), return_inverse=True)[1]
        # Stable: within a task the episodes stay shuffled.
        shuffled = shuffled[np.argsort(task_index_E[shuffled], kind="stable")]
    fold_E = np.empty(len(episodes), int)
    fold_E[shuffled] = np.arange(len(episodes)) % FOLDS
    return [
        Split(np.asarray(episode_P), episodes[fold_E == (fold + 1) % FOLDS], episodes[fold_E == fold])
        for fold in range(FOLDS)
    ]


def standardize(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    """(x - mean) / std with the statistics of the training rows; a constant column becomes 0."""
    mean, std = values[train].mean(0), values[train].std(0)
    return (values - mean) / np.where(std > STD_FLOOR, std, 1)


class Ridge:
    """Ridge regression, argmin_W mean |X W - Y|^2 + penalty |W|^2, for many penalties and targets by one decomposition.

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
            self.left = features_PF.T @ vectors
            self.right = vectors.T / count

    def rotated(self, targets_PA: np.ndarray, penalties: np.ndarray) -> np.ndarray:
        """(L, ., A), the weights before `left` is applied to them."""
        shrunk = self.values.clip(0) + np.asarray(penalties, np.float64)[:, None]
        return (self.right @ targets_PA) / np.maximum(shrunk, np.finfo(np.float64).tiny)[..., None]


def principal_components(values_PF: np.ndarray, train: np.ndarray, components: int = COMPONENTS) -> np.ndarray:
    """Randomized PCA (fixed seed), fitted on the training rows and applied to all: (P, <= components)."""
    import torch

    values = torch.from_numpy(np.asarray(values_PF, np.float32))
    fitted = values[torch.from_numpy(train)]
    mean = fitted.mean(0)
    fitted -= mean  # indexing copied it
    components = min(components, *fitted.shape)
    generator = torch.Generator().manual_seed(0)
    # Halko et al. 2011: a random projection, two power iterations, then an exact decomposition of B = U S V'.
    basis = fitted @ torch.randn(fitted.shape[1], components + min(16, components), generator=generator)
    for _ in range(2):
        basis = fitted @ (fitted.T @ torch.linalg.qr(basis).Q)
    left = torch.linalg.qr(basis).Q.T @ fitted
    # B B' = U S^2 U' is small, so V' = U'B / S is cheap; directions below the noise of float32 become 0.
    squares, vectors = torch.linalg.eigh((left @ left.T).double())
    squares, vectors = squares.flip(0)[:components], vectors.flip(1)[:, :components]
    scale = torch.where(squares > NOISE * squares[0], squares.clamp(min=0).rsqrt(), 0)
    directions = (vectors * scale).T.float() @ left
    return (values @ directions.T - directions @ mean).numpy()


class Probe:
    """A ridge probe of some features in one fold: standardized and decomposed once, then fitted to several targets."""

    def __init__(self, features_PF: np.ndarray, split: Split) -> None:
        self.train = split.train
        self.validation = split.validation
        self.test = split.test
        x = standardize(np.asarray(features_PF, np.float64), self.train)
        self.solver = Ridge(x[self.train])
        self.validation_x = x[self.validation] @ self.solver.left
        self.test_x = x[self.test] @ self.solver.left

    def predict(self, targets_PA: np.ndarray) -> tuple[np.ndarray, float]:
        """Predict the test pairs with a ridge fitted on the training pairs, and lambda chosen on the validation pairs.

        Returns the predictions (test pairs, A) in the units of the targets, and lambda.
        """
        y = standardize(targets_PA, self.train)
        weights_LFA = self.solver.rotated(y[self.train], LAMBDAS)
        residual_LPA = y[self.validation] - self.validation_x @ weights_LFA
        best = int((residual_LPA**2).sum(1).mean(1).argmin())
        mean, std = targets_PA[self.train].mean(0), targets_PA[self.train].std(0)
        return mean + std * (self.test_x @ weights_LFA[best]), float(LAMBDAS[best])


def pooled_r2(errors_EA: np.ndarray, mean_errors_EA: np.ndarray, weights_RE: np.ndarray | None = None) -> np.ndarray:
    """R2 = 1 - mean_a(sum_e errors[e, a] / sum_e mean_errors[e, a]), for each resample of the episodes, as (R,).

    A dimension that never changes in a resample counts as 0.

    Args:
        errors_EA: squared errors of a probe, summed over the test pairs of each episode.
        mean_errors_EA: the same of predicting the mean of the training pairs in the fold that tested the episode.
        weights_RE: occurrences of each episode in each resample; None: each once.
    """
    weights_RE = np.ones((1, len(errors_EA))) if weights_RE is None else weights_RE
    errors_RA, mean_errors_RA = weights_RE @ errors_EA, weights_RE @ mean_errors_EA
    changes = mean_errors_RA > 0
    return 1 - np.where(changes, errors_RA / np.where(changes, mean_errors_RA, 1), 1).mean(1)


@dataclass(slots=True)
class CrossFit:
    """Squared errors of all probes, summed over the test pairs of each episode.

    A key names the features that a probe read: () none, ("frame",) frame t, ("z",), ("frame", "z") both.
    """

    episodes: np.ndarray
    pairs: int
    errors: dict[str, dict[Key, np.ndarray]] = field(default_factory=dict)
    """(E, A) by target and key, in the order of `episodes`."""
    penalties: dict[str, dict[Key, list[float]]] = field(default_factory=dict)
    """Lambda of each fold, by target and key."""

    @property
    def rows(self) -> list[str]:
        """The names of latents and controls, each of which is probed alone and together with frame t."""
        return [key[1] for key in next(iter(self.errors.values())) if len(key) == 2]

    def r2(self, target: str, weights_RE: np.ndarray | None = None) -> dict[Key, np.ndarray]:
        """`pooled_r2` of each probe of a target, (R,), by key."""
        errors = self.errors[target]
        return {key: pooled_r2(error, errors[()], weights_RE) for key, error in errors.items()}


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
    """Fit ridge probes of latents and controls, alone and together with frame t, for each of `targets` (P, A).

    The other arguments are those of `probe_actions`.
    """
    features = {name: rearrange(np.asarray(value), "p ... -> p (...)") for name, value in latents.items()}
    first = next(iter(features))
    features["shuffled"] = features[first][np.random.default_rng(seed).permutation(len(episode_P))]
    y = {target: np.asarray(value, np.float64) for target, value in targets.items()}
    # A dimension that never changes has no R2.
    y = {target: value[:, value.std(0) > STD_FLOOR] for target, value in y.items()}
    now = _unit_rows(frames_P)
    difference = _unit_rows(future_frames_P) - now
    fit = CrossFit(np.unique(episode_P), len(episode_P), {target: {} for target in y}, {target: {} for target in y})
    for split in cross_fit_splits(episode_P, task_E, seed):
        phi = principal_components(now, split.train)
        of_fold = {**features, "pixel_difference": principal_components(difference, split.train)}
        inputs: dict[Key, np.ndarray] = {(): np.empty((len(episode_P), 0)), (FRAME,): phi}
        inputs |= {(name,): value for name, value in of_fold.items()}
        inputs |= {(FRAME, name): np.concatenate([phi, value], 1) for name, value in of_fold.items()}
        # Decomposing the features is the cost, so all targets share it.
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
) -> ProbeTable:
    """Conditional R2 of actions: R2(y from [phi(o_t), f]) - R2(y from phi(o_t)), for latents and controls.

    >>> probe_actions({"z": z}, now, future, actions, episodes).rows["z"].conditional_r2.value  # doctest: +SKIP
    0.21

    Cross-fitted: in each of five folds the probes are trained on three fifths of the episodes (PCA, standardization,
    ridge), lambda is chosen on one fifth, and the last fifth is predicted, so that every episode is a test episode
    once. With y_ia dimension a of the action of pair i, yhat_ia its prediction in the fold that tests i, and ybar_ia
    the mean of that fold's training pairs, over all pairs i

        R2 = 1 - 1/A sum_a [ sum_i (y_ia - yhat_ia)^2 / sum_i (y_ia - ybar_ia)^2 ].

    Controls are the mean predictor, the first latents shuffled across pairs, and a 256-d PCA of the pixel difference.
    Intervals are a percentile bootstrap over the test episodes, with the same resamples for all; the probes are not
    refitted.

    Args:
        latents: features (P, ...) by name; the first is the one in question, the others are further rows.
        frames_P, future_frames_P: uint8 (P, 3, S, S); phi is a 256-d PCA of the former.
        actions_PA: the motion of each pair, see `targets`; a dimension that never changes is left out.
        episode_P: the episode of each pair.
        task_E: the task of each episode, see `cross_fit_splits`.
        seed: of folds, resamples and the shuffled control.

    Raises:
        ValueError: for fewer than 5 episodes.
    """
    targets = {ACTIONS: actions_PA}
    return action_table(
        cross_fit(latents, frames_P, future_frames_P, targets, episode_P, task_E=task_E, seed=seed), seed
    )


def action_table(fit: CrossFit, seed: int) -> ProbeTable:
    """The result of `probe_actions`, from the errors of its probes."""
    r2 = fit.r2(ACTIONS, resamples(len(fit.episodes), seed))
    rows = {MEAN: ProbeRow(r2=Estimate(0.0), conditional_r2=Estimate(0.0, [0.0, 0.0]))}
    conditional = {MEAN: np.zeros_like(r2[()])}
    for name in fit.rows:
        conditional[name] = r2[FRAME, name] - r2[(FRAME,)]
        rows[name] = ProbeRow(
            r2=estimate(r2[(name,)]),
            conditional_r2=estimate(conditional[name]),
            lambdas=[rounded(penalty) for penalty in fit.penalties[ACTIONS][FRAME, name]],
        )
    return ProbeTable(
        test_episodes=len(fit.episodes),
        pairs=fit.pairs,
        frame_r2=rounded(r2[(FRAME,)][0]),
        rows=rows,
        margins={"conditional_r2": margins(conditional, fit.rows[0])},
    )


def nuisance_table(fit: CrossFit, families: Sequence[str], seed: int) -> ProbeTable:
    """Rows of z and controls for pairs under a nuisance whose parameters are known.

    With n the change of a nuisance parameter within a pair,

        nuisance R2 = R2(n from z),   selectivity = R2(actions from z) - nuisance R2,

    both under the nuisance and both without frame t. Without actions among the targets, only the nuisance is scored.
    """
    weights_RE = resamples(len(fit.episodes), seed)
    family_r2 = {family: fit.r2(family, weights_RE) for family in families}
    action_r2 = fit.r2(ACTIONS, weights_RE) if ACTIONS in fit.errors else None
    keys: dict[str, Key] = {MEAN: (), FRAME: (FRAME,), **{name: (name,) for name in fit.rows}}
    rows: dict[str, ProbeRow] = {}
    conditional, selectivity = {}, {}
    for name, key in keys.items():
        of_families = {family: r2[key] for family, r2 in family_r2.items()}
        nuisance = np.mean(list(of_families.values()), 0)
        rows[name] = ProbeRow(
            nuisance_r2=estimate(nuisance),
            families={family: estimate(r2) for family, r2 in of_families.items()},
        )
        if action_r2 is None:
            continue
        selectivity[name] = action_r2[key] - nuisance
        with_frame = action_r2[FRAME, name] if name in fit.rows else action_r2[(FRAME,)]
        conditional[name] = with_frame - action_r2[(FRAME,)]
        rows[name] = replace(
            rows[name],
            r2=estimate(action_r2[key]),
            conditional_r2=estimate(conditional[name]),
            selectivity=estimate(selectivity[name]),
            over_family_intervals={family: interval((action_r2[key] - r2)[1:]) for family, r2 in of_families.items()},
        )
    values = {"conditional_r2": conditional, "selectivity": selectivity}
    return ProbeTable(
        test_episodes=len(fit.episodes),
        pairs=fit.pairs,
        frame_r2=None if action_r2 is None else rounded(action_r2[(FRAME,)][0]),
        rows=rows,
        margins={name: margins(of_rows, fit.rows[0]) for name, of_rows in values.items() if of_rows},
        families=list(families),
    )


def margins(values_R: Mapping[str, np.ndarray], name: str) -> dict[str, Estimate]:
    """The row `name` minus each other row, from the value and the resamples (1 + R,) of each."""
    return {row: estimate(values_R[name] - value) for row, value in values_R.items() if row != name}


def _unit_rows(frames: np.ndarray) -> np.ndarray:
    """Each frame flattened to a row of values in 0..1."""
    return rearrange(frames, "p ... -> p (...)").astype(np.float32) / 255
