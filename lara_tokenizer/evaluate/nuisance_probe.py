"""Does z hold what it should not: camera shake, light, a moving background? Probes of known changes.

The pairs are seen under a nuisance whose parameters are known. With n the change of a parameter within a pair,

    nuisance R2 = R2(n from z),   selectivity = R2(actions from z) - nuisance R2,

both under the nuisance and both without frame t, R2 as in `probe.pooled_r2`: a mean over numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lara_tokenizer.evaluate.bootstrap import interval, resamples, rounded
from lara_tokenizer.evaluate.probes import FRAME, MEAN, CrossFit, Key, margins

ACTIONS = "actions"


def nuisance_report(fit: CrossFit, families: Sequence[str], seed: int) -> dict[str, Any]:
    """Rows of z and controls, and z minus each control, from probes whose targets are "actions" (or not) and families.

    Returns `test_episodes`, `pairs`, `frame_r2`, `rows` and `margins`. A row has, of the actions, `r2`, `r2_interval`,
    `conditional_r2` and `interval`, as a row of `probe_actions`; then `nuisance_r2`, `families` (R2 of each) and
    `selectivity`, each with its interval. Without actions only the nuisance is there. `margins` has, for
    "conditional_r2" and "selectivity", the first latents minus each other row.
    """
    weights_RE = resamples(len(fit.episodes), seed)
    family_r2 = {family: fit.r2(family, weights_RE) for family in families}
    action_r2 = fit.r2(ACTIONS, weights_RE) if ACTIONS in fit.errors else None
    keys: dict[str, Key] = {MEAN: (), FRAME: (FRAME,), **{name: (name,) for name in fit.rows}}
    rows: dict[str, Any] = {}
    conditional, selectivity = {}, {}
    for name, key in keys.items():
        nuisance = np.mean([r2[key] for r2 in family_r2.values()], 0)
        rows[name] = {
            "nuisance_r2": rounded(nuisance[0]),
            "nuisance_interval": interval(nuisance[1:]),
            "families": {family: rounded(r2[key][0]) for family, r2 in family_r2.items()},
            "family_intervals": {family: interval(r2[key][1:]) for family, r2 in family_r2.items()},
        }
        if action_r2 is None:
            continue
        selectivity[name] = action_r2[key] - nuisance
        beside = action_r2[FRAME, name] if name in fit.rows else action_r2[(FRAME,)]
        conditional[name] = beside - action_r2[(FRAME,)]
        rows[name] |= {
            "r2": rounded(action_r2[key][0]),
            "r2_interval": interval(action_r2[key][1:]),
            "conditional_r2": rounded(conditional[name][0]),
            "interval": interval(conditional[name][1:]),
            "selectivity": rounded(selectivity[name][0]),
            "selectivity_interval": interval(selectivity[name][1:]),
            # Above 0: the actions are told better than this family.
            "over_family_intervals": {
                family: interval((action_r2[key] - r2[key])[1:]) for family, r2 in family_r2.items()
            },
        }
    found = {"conditional_r2": conditional, "selectivity": selectivity}
    return {
        "test_episodes": len(fit.episodes),
        "pairs": fit.pairs,
        "frame_r2": None if action_r2 is None else rounded(action_r2[(FRAME,)][0]),
        "rows": rows,
        "margins": {name: margins(values, fit.rows[0]) for name, values in found.items() if values},
    }
