"""Ridge probes of actions and nuisances from latents and controls, cross-fitted by episode.

Shape suffixes: P pairs, F features, A target dimensions, E episodes, L penalties, R bootstrap resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from einops import rearrange

from lara_tokenizer.evaluate.figures import (
    BestControl,
    Estimate,
    ProbeRow,
    ProbeTable,
    estimate,
    interval,
    resamples,
    rounded,
    sums_by_episode,
)
from lara_tokenizer.evaluate.ridge import STD_FLOOR, Block, Fitted, Sides, Wide, scalings, standardize

FOLDS = 5  # in each, one fifth of the episodes tests, the next chooses lambda, the other three train: 60/20/20
COMPONENTS = 256  # of the pixel PCAs

ACTIONS = "actions"  # the name of the target; all others are nuisance families
MEAN = "mean"  # the row of the mean predictor, a probe without features
FRAME = "frame"  # the row of frame t alone, phi(o_t)
OWN_ROWS = ("z", "quantized", "codes")  # of the tokenizer; all others are controls
CONTROLS_OF_CODES = (MEAN, "shuffled", "closed_form_codes")  # of quantized z: those that hold no more bits
Key = tuple[str, ...]  # the names of the features that a probe reads; () is the mean predictor
Features = dict[str, np.ndarray | Wide]  # by row


@dataclass(frozen=True)
class Split:
    """A fold: the episodes that choose lambda, those that test, and all others, which train.

    Pairs are selected by their episode alone, so that no episode is on two sides.
    """

    episode_P: np.ndarray
    validation_episodes: np.ndarray
    test_episodes: np.ndarray

    @cached_property
    def test(self) -> np.ndarray:
        """The pairs that test, bool (P,)."""
        return np.isin(self.episode_P, self.test_episodes)

    @cached_property
    def validation(self) -> np.ndarray:
        """The pairs that choose lambda, bool (P,)."""
        return np.isin(self.episode_P, self.validation_episodes) & ~self.test

    @cached_property
    def train(self) -> np.ndarray:
        """The pairs that train, bool (P,)."""
        return ~(self.test | self.validation)

    def sides(self, values_PF: np.ndarray) -> Sides:
        """The rows of each side."""
        return Sides(values_PF[self.train], values_PF[self.validation], values_PF[self.test])

    def standardized(self, targets_PA: np.ndarray) -> Sides:
        """Targets in standard deviations of the training pairs, around their mean."""
        return self.sides(standardize(targets_PA, self.train))

    def in_units(self, predictions: np.ndarray, targets_PA: np.ndarray) -> np.ndarray:
        """Predictions of standardized targets in the units of the targets."""
        return targets_PA[self.train].mean(0) + targets_PA[self.train].std(0) * predictions


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


def reason_against_probes(episode_P: np.ndarray) -> str:
    """The reason why nothing can be probed, too few episodes; "" where there are enough."""
    count = len(np.unique(episode_P))
    return f"no probe: {count} episode(s) give pairs, probes need {FOLDS}" if count < FOLDS else ""


class Probe:
    """A ridge probe of some features in one fold: scaled and decomposed once, then fitted to several targets."""

    def __init__(self, features_PF: np.ndarray, split: Split) -> None:
        self.split = split
        scaled = scalings(features_PF, split.train)
        self.block = Block({scaling: split.sides(values) for scaling, values in scaled.items()})

    def fit(self, targets_PA: np.ndarray) -> Fitted:
        """A ridge of the standardized targets, its scaling and lambda chosen on the validation pairs."""
        return self.block.fit(self.split.standardized(targets_PA))

    def predict(self, targets_PA: np.ndarray) -> tuple[np.ndarray, float]:
        """The predictions of the test pairs (., A) in the units of the targets, and lambda."""
        fitted = self.fit(targets_PA)
        return self.split.in_units(fitted.predictions.test, targets_PA), fitted.penalty

    def predict_beside(self, other: Fitted, targets_PA: np.ndarray) -> tuple[np.ndarray, float]:
        """The same from these features together with others, which were fitted to the same targets alone.

        Each block of features has its own scaling and lambda; the others keep those that they have alone.
        """
        fitted = self.block.beside(other).fit(other.without(self.split.standardized(targets_PA)))
        predictions = other.predictions.test + fitted.predictions.test
        return self.split.in_units(predictions, targets_PA), fitted.penalty


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

    def add(
        self, key: Key, target: str, targets_PA: np.ndarray, split: Split, predicted: tuple[np.ndarray, float]
    ) -> None:
        """Add the errors of a probe on the test pairs of a fold, and its lambda."""
        predictions, penalty = predicted
        errors = (targets_PA[split.test] - predictions) ** 2
        summed = sums_by_episode(errors, split.episode_P[split.test], self.episodes)
        self.errors[target][key] = self.errors[target].get(key, 0) + summed
        self.penalties[target].setdefault(key, []).append(penalty)

    @property
    def rows(self) -> list[str]:
        """The names of latents and controls, each of which is probed alone and, for actions, beside frame t."""
        return [key[0] for key in next(iter(self.errors.values())) if len(key) == 1 and key != (FRAME,)]

    def r2(self, target: str, weights_RE: np.ndarray | None = None) -> dict[Key, np.ndarray]:
        """`pooled_r2` of each probe of a target, (R,), by key."""
        errors = self.errors[target]
        return {key: pooled_r2(error, errors[()], weights_RE) for key, error in errors.items()}


def cross_fit(
    latents: Mapping[str, np.ndarray | Wide],
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
    features: Features = dict(latents)
    first = next(iter(features.values()))
    assert not isinstance(first, Wide)
    features["shuffled"] = first[np.random.default_rng(seed).permutation(len(episode_P))]
    y = {target: np.asarray(value, np.float64) for target, value in targets.items()}
    # A dimension that never changes has no R2.
    y = {target: value[:, value.std(0) > STD_FLOOR] for target, value in y.items()}
    now = _unit_rows(frames_P)
    features["pixel_difference"] = Wide.of(_unit_rows(future_frames_P) - now, COMPONENTS)
    frame = Wide.of(now, COMPONENTS)
    fit = CrossFit(np.unique(episode_P), len(episode_P), {target: {} for target in y}, {target: {} for target in y})
    for split in cross_fit_splits(episode_P, task_E, seed):
        nothing, phi = (Probe(each, split) for each in (np.empty((len(episode_P), 0)), frame.reduced(split.train)))
        for target, values in y.items():
            fit.add((), target, values, split, nothing.predict(values))
            fit.add((FRAME,), target, values, split, phi.predict(values))
        of_frame = phi.fit(y[ACTIONS]) if ACTIONS in y else None
        for name, value in features.items():
            # Decomposing the features is the cost, so all targets share it.
            probe = Probe(_matrix(value, split.train), split)
            for target, values in y.items():
                fit.add((name,), target, values, split, probe.predict(values))
            if of_frame is not None:
                fit.add((FRAME, name), ACTIONS, y[ACTIONS], split, probe.predict_beside(of_frame, y[ACTIONS]))
    return fit


def _matrix(value: np.ndarray | Wide, train: np.ndarray) -> np.ndarray:
    return value.reduced(train) if isinstance(value, Wide) else rearrange(np.asarray(value), "p ... -> p (...)")


def probe_actions(
    latents: Mapping[str, np.ndarray | Wide],
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
        best_controls=best_controls(conditional, fit.rows[0]),
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
        best_controls=best_controls(conditional, fit.rows[0]) if conditional else {},
    )


def best_controls(conditional_R: Mapping[str, np.ndarray], first: str) -> dict[str, BestControl]:
    """The best control beside the row `first`, and the best of as many bits beside quantized z.

    Args:
        conditional_R: conditional R2 of each row, its value and its resamples (1 + R,).
        first: the row in question.
    """
    controls = [name for name in conditional_R if name not in (first, FRAME, *OWN_ROWS)]
    found = {first: _best_control(conditional_R, first, controls)}
    if "quantized" in conditional_R and "closed_form_codes" in conditional_R:
        equal = [name for name in CONTROLS_OF_CODES if name in conditional_R]
        found["quantized"] = _best_control(conditional_R, "quantized", equal)
    return found


def _best_control(conditional_R: Mapping[str, np.ndarray], own: str, controls: Sequence[str]) -> BestControl:
    name = max(controls, key=lambda control: conditional_R[control][0])
    of_own, control, difference = (
        estimate(values_R)
        for values_R in (conditional_R[own], conditional_R[name], conditional_R[own] - conditional_R[name])
    )
    is_beaten = difference.low > 0 and control.bounds is not None and of_own.low > control.bounds[1]
    return BestControl(name, control.value, control.interval, difference.value, difference.interval, is_beaten)


def margins(values_R: Mapping[str, np.ndarray], name: str) -> dict[str, Estimate]:
    """The row `name` minus each other row, from the value and the resamples (1 + R,) of each."""
    return {row: estimate(values_R[name] - value) for row, value in values_R.items() if row != name}


def _unit_rows(frames: np.ndarray) -> np.ndarray:
    """Each frame flattened to a row of values in 0..1."""
    return rearrange(frames, "p ... -> p (...)").astype(np.float32) / 255
