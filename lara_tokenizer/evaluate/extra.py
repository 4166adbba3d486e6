"""The slower figures of `eval --all`, with label efficiency and episode leakage, which need actions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import rearrange

from lara_tokenizer.evaluate.codebook import code_action_information
from lara_tokenizer.evaluate.dataset import PairSet, evenly_spaced
from lara_tokenizer.evaluate.decoder import image_quality, transfer_figures
from lara_tokenizer.evaluate.encoding import EncodedSet
from lara_tokenizer.evaluate.equivariance import composition, nuisance_invariance, shift_responses
from lara_tokenizer.evaluate.figures import rounded
from lara_tokenizer.evaluate.learned_probes import fit_l1, fit_mlp, learned_probe
from lara_tokenizer.evaluate.probes import Key
from lara_tokenizer.evaluate.ridge import LAMBDAS, STD_FLOOR, Ridge, standardize

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionProcessor

MAX_PAIRS = 1024  # pairs that go through the model once more, evenly spaced
LABELLED = (2, 4, 8, 16, 32, 64)  # counts of labelled episodes
DRAWS = 5  # of the labelled episodes
MIN_TEST_EPISODES = 3
# The keys of report.json that need actions; fixed on disk.
ACTION_FIGURES = ("linear_mse", "l1_probe", "mlp_probe", "few_labels", "code_action_information", "shortcut_leakage")


def extra_figures(
    model: Any,
    processor: LatentActionProcessor,
    pairs: PairSet,
    encoded: EncodedSet,
    under_nuisance: EncodedSet,
    action_errors: dict[Key, np.ndarray],
    tasks: list[str],
    seed: int,
) -> dict[str, Any]:
    """The slower figures of one camera's pairs, by name; docs/evaluation.md defines each.

    Args:
        model, processor: the checkpoint.
        pairs, encoded, under_nuisance: pairs of one camera, encoded plain and under the nuisance.
        action_errors: squared errors of the ridge probes; {} where none was fitted, then figures of actions are None.
        tasks: the instruction of each episode of `pairs`.
        seed: of shuffles, folds and draws.
    """
    chosen = evenly_spaced(len(pairs), MAX_PAIRS)
    some, some_encoded = pairs[chosen], encoded[chosen]
    of_actions: dict[str, Any] = dict.fromkeys(ACTION_FIGURES)
    if action_errors:
        of_actions = _action_figures(pairs, encoded, action_errors[("z",)], tasks, seed)
        assert some.actions is not None
        of_actions["shortcut_leakage"] = episode_leakage(some_encoded.latents, some.actions, some.episodes)
    return {
        **of_actions,
        **image_quality(model, processor, some, some_encoded, seed),
        **transfer_figures(model, processor, some, some_encoded, seed),
        **shift_responses(model, processor, some, some_encoded.latents),
        **nuisance_invariance(encoded, under_nuisance),
        **composition(model, processor, pairs, MAX_PAIRS),
    }


def _action_figures(
    pairs: PairSet, encoded: EncodedSet, errors_EA: np.ndarray, tasks: list[str], seed: int
) -> dict[str, Any]:
    assert pairs.actions is not None
    z = encoded.latents.numpy()
    information = None
    if encoded.codes is not None:
        information = code_action_information(encoded.codes.numpy(), pairs.actions, seed)
    return {
        "linear_mse": rounded(float(errors_EA.sum() / (len(pairs) * errors_EA.shape[1]))),
        "l1_probe": learned_probe(fit_l1, z, pairs.actions, pairs.episodes, task_E=tasks, seed=seed),
        "mlp_probe": learned_probe(fit_mlp, z, pairs.actions, pairs.episodes, task_E=tasks, seed=seed),
        "few_labels": label_efficiency(z, pairs.actions, pairs.episodes, seed),
        "code_action_information": information,
    }


def label_efficiency(
    features_P: np.ndarray, actions_PA: np.ndarray, episode_P: np.ndarray, seed: int = 0
) -> dict[str, Any]:
    """R2 of a ridge from z to actions, trained on k labelled episodes and tested on all others, for several k.

    Metric 3 of LAOM, offline. Lambda is chosen on the k episodes alone: each half predicts the other. R2 is against the
    mean action of all tested pairs, averaged over action dimensions and over five draws of the episodes. A k that
    leaves fewer than three episodes to test is left out.

    Returns {"2": {"mean", "low", "high"}, ...}, where low and high are the worst and the best draw.
    """
    features = rearrange(np.asarray(features_P, np.float64), "p ... -> p (...)")
    actions = np.asarray(actions_PA, np.float64)
    actions = actions[:, actions.std(0) > STD_FLOOR]
    episodes = np.unique(episode_P)
    rng = np.random.default_rng(seed)
    curve = {}
    for count in LABELLED:
        if len(episodes) - count < MIN_TEST_EPISODES:
            break
        scores = [_r2_from(features, actions, episode_P, rng.permutation(episodes)[:count]) for _ in range(DRAWS)]
        curve[str(count)] = {
            "mean": rounded(float(np.mean(scores))),
            "low": rounded(min(scores)),
            "high": rounded(max(scores)),
        }
    return curve


def _r2_from(features: np.ndarray, actions: np.ndarray, episode_P: np.ndarray, labelled: np.ndarray) -> float:
    """R2 on all episodes but the labelled ones, of a ridge that was fitted to those."""
    train = np.isin(episode_P, labelled)
    first_half = np.isin(episode_P, labelled[: len(labelled) // 2])
    x, y = standardize(features, train), standardize(actions, train)
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


def episode_leakage(latents_PND: torch.Tensor, actions_PA: np.ndarray, episode_P: np.ndarray) -> float | None:
    """E cos(same episode, different primitive) - E cos(different episode, same primitive), of z less its mean.

    Above 0, z encodes the episode rather than the action (after arXiv 2607.09185, whose primitives are annotated; here
    they are read from the actions, see `primitives`). None where there are no such two pairs.
    """
    z = latents_PND.flatten(1).float()
    directions = torch.nn.functional.normalize(z - z.mean(0), dim=1)
    cosine = directions @ directions.T
    primitive = torch.from_numpy(primitives(actions_PA))
    same_primitive = primitive[:, None] == primitive
    episodes = torch.from_numpy(np.asarray(episode_P))
    same_episode = episodes[:, None] == episodes
    within, across = same_episode & ~same_primitive, ~same_episode & same_primitive
    if not (within.any() and across.any()):
        return None
    return rounded(float(cosine[within].mean() - cosine[across].mean()))


def primitives(actions_PA: np.ndarray) -> np.ndarray:
    """A rough class of each action: the dimension farthest from its mean, and its sign: int (P,), 0 .. 2 A - 1.

    >>> primitives(np.array([[3.0, 0.0], [0.0, 0.1], [-3.0, 0.0], [0.0, -0.1]])).tolist()
    [0, 1, 2, 3]
    """
    std = actions_PA.std(0)
    scaled = (actions_PA - actions_PA.mean(0)) / np.where(std > 0, std, 1)
    dimension = np.abs(scaled).argmax(1)
    return dimension + actions_PA.shape[1] * (scaled[np.arange(len(scaled)), dimension] < 0)
