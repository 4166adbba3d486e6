"""The probes of a checkpoint: which features and controls are asked, of what, and why where nothing can be asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lara_tokenizer.evaluate.dataset import ReadPairs
from lara_tokenizer.evaluate.nuisance_probe import ACTIONS, nuisance_report
from lara_tokenizer.evaluate.pairs import EncodedSet, PairSet
from lara_tokenizer.evaluate.probes import FOLDS, STD_FLOOR, CrossFit, Key, action_report, cross_fit


@dataclass(frozen=True, slots=True)
class Probed:
    """A part of the report, and the squared errors behind it: {target: {features: (E, A)}}."""

    report: dict[str, Any]
    errors: dict[str, dict[Key, np.ndarray]] = field(default_factory=dict)


def probe_features(encoded: EncodedSet, fresh: EncodedSet, codebook_size: int) -> dict[str, np.ndarray]:
    """The rows of a probe table: z, and with codes its quantized form and one-hot codes; z of a random-init model."""
    features = {"z": encoded.latents.numpy()}
    if encoded.codes is not None:
        features["quantized"] = encoded.quantized_latents.numpy()
        features["codes"] = one_hot(encoded.codes, codebook_size)
    return features | {"random_init": fresh.latents.numpy()}


def one_hot(codes_PN: torch.Tensor, codebook_size: int) -> np.ndarray:
    """float32 (P, N K) without the columns of codes that never occur."""
    hot = torch.nn.functional.one_hot(codes_PN, codebook_size).flatten(1)
    return hot[:, hot.any(0)].float().numpy()


def probe_plain(read: ReadPairs, features: dict[str, np.ndarray], seed: int) -> Probed:
    """The actions of the first camera's pairs as they are; `reason` says why there are no rows."""
    pairs = next(iter(read.pairs.values()))
    if reason := why_not(pairs, read.without_actions):
        return Probed({"reason": reason, "rows": {}, "margins": {}})
    assert pairs.actions is not None
    fit = _fit(pairs, read.texts, features, {ACTIONS: pairs.actions}, seed)
    return Probed({"reason": None, **action_report(fit, seed)}, fit.errors)


def probe_nuisance(read: ReadPairs, features: dict[str, np.ndarray], seed: int) -> Probed:
    """The changes of nuisance parameters, and the actions where there are any, of the pairs under the nuisance."""
    pairs, changes = read.nuisance.pairs, read.nuisance.changes
    if reason := too_few(pairs):
        return Probed({"reason": reason, "rows": {}, "margins": {}})
    targets = dict(changes)
    if not why_not(pairs, read.without_actions):
        assert pairs.actions is not None
        targets = {ACTIONS: pairs.actions, **changes}
    fit = _fit(pairs, read.texts, features, targets, seed)
    return Probed({"reason": None, **nuisance_report(fit, list(changes), seed)}, fit.errors)


def why_not(pairs: PairSet, without_actions: str) -> str:
    """Why actions cannot be probed; "" where they can."""
    if pairs.actions is None:
        return f"no action probe: {without_actions}"
    if not (pairs.actions.std(0) > STD_FLOOR).any():
        return "no action probe: the actions never change"
    return too_few(pairs)


def too_few(pairs: PairSet) -> str:
    """Why nothing can be probed; "" where there are episodes enough."""
    count = len(np.unique(pairs.episodes))
    return f"no probe: {count} episode(s) give pairs, probes need {FOLDS}" if count < FOLDS else ""


def _fit(
    pairs: PairSet, texts: list[str], features: dict[str, np.ndarray], targets: dict[str, np.ndarray], seed: int
) -> CrossFit:
    return cross_fit(
        features,
        pairs.frames[pairs.now],
        pairs.frames[pairs.future],
        targets,
        pairs.episodes,
        task_E=[texts[number] for number in np.unique(pairs.episodes)],
        seed=seed,
    )
