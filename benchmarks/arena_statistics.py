"""The arena's statistics: figures of runs for any weights of their episodes, and intervals of differences.

The interval is a hierarchical bootstrap: seeds are drawn with replacement, and for each of them the episodes of the
test set. The runs of a seed saw the same pairs, and all were tested on the same episodes, so differences are paired.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lara_tokenizer.evaluate.figures import resamples
from lara_tokenizer.evaluate.probes import pooled_r2

SEED_RESAMPLES = np.random.SeedSequence(0)
NO_EVIDENCE = ("frame", "mean")  # rows that add nothing to frame t by definition
OWN = ("z", "quantized", "codes")  # rows of the contender; all others are controls
LEAST_Z_GAIN = 0.01  # below it the decoder does not use z
OWN_CODES, OTHER_CODES, COPY = range(3)  # columns of `decoder_errors`

Run = dict[str, Any]
Value = Callable[[Run, str, np.ndarray], np.ndarray]


def load(folder: Path, kind: str) -> list[Run]:
    """The results of a kind, "run" or "rate"."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(f"{kind}-*.json"))]


def conditional_r2(run: Run, part: str, row: str, weights_RE: np.ndarray) -> np.ndarray:
    """R2 of the actions that a row adds to frame t, (R,)."""
    errors = run["sets"][part]["errors"]
    if row in NO_EVIDENCE:
        return np.zeros(len(weights_RE))
    mean = np.array(errors[""])
    frame, both = (pooled_r2(np.array(errors[key]), mean, weights_RE) for key in ("frame", f"frame+{row}"))
    return both - frame


def decoder_gain(run: Run, part: str, baseline: int, weights_RE: np.ndarray) -> np.ndarray:
    """1 - error with the pair's own codes / error of a baseline, (R,)."""
    sums_R3 = weights_RE @ np.array(run["sets"][part]["decoder_errors"])
    return 1 - sums_R3[:, OWN_CODES] / sums_R3[:, baseline]


def weights(run: Run, part: str) -> np.ndarray:
    """Occurrences of each episode of a test set in each resample, (1 + R, E); the same for all runs."""
    return _resamples(len(run["sets"][part]["decoder_errors"]))


_resamples = cache(lambda count: resamples(count, 0))  # for two sets of episodes, and hundreds of figures


def interval(values_SR: np.ndarray) -> list[float]:
    """[mean over seeds, low, high] from the value (column 0) and the resamples of each seed."""
    # Seeds are few, so they are drawn again for each resample of the episodes.
    seeds, columns = values_SR.shape
    drawn_RS = np.random.default_rng(SEED_RESAMPLES).integers(seeds, size=(columns - 1, seeds))
    resampled_R = np.take_along_axis(values_SR[:, 1:].T, drawn_RS, 1).mean(1)
    return [float(values_SR[:, 0].mean()), *(float(x) for x in np.quantile(resampled_R, [0.025, 0.975]))]


def of_runs(runs: Mapping[int, Run], part: str, value: Value) -> list[float]:
    """A figure of a contender, by seed in `runs`, with its interval."""
    weights_RE = weights(next(iter(runs.values())), part)
    return interval(np.stack([value(run, part, weights_RE) for run in runs.values()]))


def difference(
    runs: Mapping[int, Run], others: Mapping[int, Run], part: str, value: Value, other: Value
) -> list[float]:
    """A figure of a contender minus one of another, over the seeds that both have; [] without any."""
    seeds = sorted(set(runs) & set(others))
    if not seeds:
        return []
    weights_RE = weights(runs[seeds[0]], part)
    return interval(
        np.stack([value(runs[seed], part, weights_RE) - other(others[seed], part, weights_RE) for seed in seeds])
    )


def of_row(row: str) -> Value:
    """`conditional_r2` of a row."""
    return lambda run, part, weights_RE: conditional_r2(run, part, row, weights_RE)


def z_gain(run: Run, part: str, weights_RE: np.ndarray) -> np.ndarray:
    """Use of z by the decoder, on frames as recorded."""
    return decoder_gain(run, part, OTHER_CODES, weights_RE)


def copying_gain(run: Run, part: str, weights_RE: np.ndarray) -> np.ndarray:
    """Gain over copying frame t."""
    return decoder_gain(run, part, COPY, weights_RE)


def control_names(run: Run, part: str) -> list[str]:
    """Rows of the controls that the errors of a run hold."""
    keys = (key.partition("+") for key in run["sets"][part]["errors"])
    return [row for first, _, row in keys if first == "frame" and row and row not in OWN]


def best_control(runs: Mapping[int, Run], part: str) -> str:
    """The control with the highest conditional R2, by the mean over seeds; the mean predictor where none is above 0."""
    names = ["mean", *control_names(next(iter(runs.values())), part)]
    return max(names, key=lambda name: of_runs(runs, part, of_row(name))[0])


def uses_z(runs: Mapping[int, Run], part: str) -> bool:
    """Whether the decoder uses z on a test set: its gain is at least 0.01, and above 0 by its interval."""
    value, low, _ = of_runs(runs, part, z_gain)
    return value >= LEAST_Z_GAIN and low > 0


def keep(run: Run) -> Run:
    """A small copy of a run, of which the page is the same: without figures that it does not show."""
    small = {**run, "sets": {}}
    for part, measured in run["sets"].items():
        errors = {key: error for key, error in measured["errors"].items() if not key or key.startswith("frame")}
        errors.pop("frame+codes", None)
        small["sets"][part] = {
            "headline": measured["headline"],
            "rows": {"nuisance": {name: _shown(row) for name, row in measured["rows"]["nuisance"].items()}},
            "errors": {key: _rounded(error) for key, error in errors.items()},
            "decoder_errors": _rounded(measured["decoder_errors"]),
        }
    return small


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("conditional_r2", "nuisance_r2") if key in row}


def _rounded(values: Any) -> list[Any]:
    """To four significant digits: more would change no printed figure, and make committed files larger."""
    return [[float(f"{x:.4g}") for x in row] for row in values]
