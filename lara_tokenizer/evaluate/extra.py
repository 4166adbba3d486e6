"""The slower figures, of `--all`: each is a function of its own; here they are collected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lara_tokenizer.evaluate.bootstrap import rounded
from lara_tokenizer.evaluate.chains import chain_report
from lara_tokenizer.evaluate.equivariance import invariance_report, response_report
from lara_tokenizer.evaluate.image_quality import image_quality
from lara_tokenizer.evaluate.information import code_action_information
from lara_tokenizer.evaluate.label_efficiency import few_label_r2
from lara_tokenizer.evaluate.learned_probes import fit_l1, fit_mlp, learned_probe
from lara_tokenizer.evaluate.pairs import EncodedSet, PairSet
from lara_tokenizer.evaluate.probes import Key
from lara_tokenizer.evaluate.shortcut import shortcut_leakage
from lara_tokenizer.evaluate.transfer import transfer_report

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionProcessor

MOST_PAIRS = 1024  # that go through the model once more, evenly spread


def extra_report(
    model: Any,
    processor: LatentActionProcessor,
    pairs: PairSet,
    encoded: EncodedSet,
    under_nuisance: EncodedSet,
    action_errors: dict[Key, np.ndarray],
    texts: list[str],
    seed: int,
) -> dict[str, Any]:
    """Figures of one camera's pairs, beside the headline's; those of actions are None where actions cannot be probed.

    `action_errors` are the ridge probes' squared errors, {} where there was no probe; docs/evaluation.md says what each
    figure is.
    """
    chosen = np.unique(np.linspace(0, len(pairs) - 1, min(MOST_PAIRS, len(pairs))).round().astype(int))
    some, some_encoded = _rows(pairs, chosen), _encoded_rows(encoded, chosen)
    names = ("linear_mse", "l1_probe", "mlp_probe", "few_labels", "code_action_information", "shortcut_leakage")
    found: dict[str, Any] = dict.fromkeys(names)
    if action_errors:
        found |= _of_actions(pairs, encoded, some, some_encoded, action_errors, texts, seed)
    return {
        **found,
        **image_quality(model, processor, some, some_encoded, seed),
        **transfer_report(model, processor, some, some_encoded, seed),
        **response_report(model, processor, some, some_encoded.latents),
        **invariance_report(encoded, under_nuisance),
        **chain_report(model, processor, pairs, MOST_PAIRS),
    }


def _of_actions(
    pairs: PairSet,
    encoded: EncodedSet,
    some: PairSet,
    some_encoded: EncodedSet,
    action_errors: dict[Key, np.ndarray],
    texts: list[str],
    seed: int,
) -> dict[str, Any]:
    assert pairs.actions is not None
    assert some.actions is not None
    z, errors = encoded.latents.numpy(), action_errors[("z",)]
    tasks = [texts[number] for number in np.unique(pairs.episodes)]
    information = None
    if encoded.codes is not None:
        information = code_action_information(encoded.codes.numpy(), pairs.actions, seed)
    return {
        "linear_mse": rounded(float(errors.sum() / (len(pairs) * errors.shape[1]))),
        "l1_probe": learned_probe(fit_l1, z, pairs.actions, pairs.episodes, task_E=tasks, seed=seed),
        "mlp_probe": learned_probe(fit_mlp, z, pairs.actions, pairs.episodes, task_E=tasks, seed=seed),
        "few_labels": few_label_r2(z, pairs.actions, pairs.episodes, seed),
        "code_action_information": information,
        "shortcut_leakage": shortcut_leakage(some_encoded.latents, some.actions, some.episodes),
    }


def _rows(pairs: PairSet, rows: np.ndarray) -> PairSet:
    actions = None if pairs.actions is None else pairs.actions[rows]
    return PairSet(pairs.frames, pairs.now[rows], pairs.future[rows], actions, pairs.episodes[rows])


def _encoded_rows(encoded: EncodedSet, rows: np.ndarray) -> EncodedSet:
    codes = None if encoded.codes is None else encoded.codes[rows]
    return EncodedSet(encoded.latents[rows], codes, encoded.quantized_latents[rows])
