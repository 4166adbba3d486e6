"""The figures of an evaluation as dataclasses, and their bootstrap intervals; `Report.to_dict` is report.json.

Shape suffixes: P pairs, E episodes, R bootstrap resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np

from lara_tokenizer.verdict.findings import CodeFigures
from lara_tokenizer.verdict.grades import Finding, Verdict

FORMAT_VERSION = 2  # of report.json
DIGITS = 4  # after the decimal point, of every figure in a report
RESAMPLES = 2000  # of the episodes, for the percentile bootstrap

Interval = list[float | None]  # [2.5 % quantile, 97.5 % quantile]


class Figures:
    """Base of all figures: one way from a dataclass to JSON."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, with the fields' names as keys and in their order."""
        return {each.name: _to_json(getattr(self, each.name)) for each in fields(self)}  # type: ignore[arg-type]


def _to_json(value: Any) -> Any:
    if isinstance(value, Figures):
        return value.to_dict()
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _rounded(each) for name, each in asdict(value).items()}
    if isinstance(value, Mapping):
        return {key: _to_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(each) for each in value]
    return value


def _rounded(value: Any) -> Any:
    """Figures of the verdict's rules, which round nothing."""
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return rounded(value) if isinstance(value, float) else value


@dataclass(frozen=True, slots=True)
class Estimate(Figures):
    """A figure with its 95 % bootstrap interval over episodes."""

    value: float | None  # None: not measured
    interval: Interval | None = None  # None: it has none

    @property
    def known(self) -> float:
        """The value of a figure that was measured."""
        assert self.value is not None
        return self.value

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The interval, or None where an end of it could not be computed."""
        low, high = self.interval or (None, None)
        return None if low is None or high is None else (low, high)

    @property
    def low(self) -> float:
        """The lower end of the interval; minus infinity where it is unknown."""
        return -math.inf if self.bounds is None else self.bounds[0]


UNMEASURED = Estimate(None)


def resamples(count: int, seed: int) -> np.ndarray:
    """Occurrences of each episode in each resample, float (1 + R, E); row 0 has each episode once.

    The same arguments give the same resamples, so that differences between figures are paired.
    """
    once = np.ones((1, count))
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    return np.concatenate([once, drawn])


def estimate(values_R: np.ndarray) -> Estimate:
    """The value (row 0) with the 95 % percentile interval of its resamples (the other rows).

    >>> estimate(np.array([0.5, 0.4, 0.6]))
    Estimate(value=0.5, interval=[0.405, 0.595])
    """
    return Estimate(rounded(values_R[0]), interval(values_R[1:]))


def interval(values_R: np.ndarray) -> Interval:
    """The 2.5 % and 97.5 % quantiles, rounded."""
    return [rounded(value) for value in np.quantile(values_R, [0.025, 0.975])]


def rounded(value: float) -> float | None:
    """Round to the digits of a report; None for NaN and infinity, which JSON cannot express."""
    # Adding 0.0 turns -0.0 into 0.0.
    return round(float(value), DIGITS) + 0.0 if np.isfinite(value) else None


def sums_by_episode(values_P: np.ndarray, episode_P: np.ndarray, episodes: np.ndarray) -> np.ndarray:
    """Sum (P, ...) over the pairs of each episode: (E, ...), in the order of `episodes`."""
    row_P = np.searchsorted(episodes, episode_P)
    out = np.zeros((len(episodes), *values_P.shape[1:]))
    np.add.at(out, row_P, values_P)
    return out


@dataclass(frozen=True, slots=True)
class ModelInfo(Figures):
    """The evaluated checkpoint."""

    id: str
    weights_sha256: dict[str, str] | None
    codes: str  # positions and codebook size, "8 x 128", or "8 continuous"
    latent_dim: int  # length of flattened z


@dataclass(frozen=True, slots=True)
class TargetInfo(Figures):
    """The target of the action probes, and why it is the one."""

    rule: str  # one of `data.actions.motion.RULES`, as asked for
    sentence: str  # for people
    numbers: dict[str, dict[str, list[str]]]  # by dataset and kind of target: names of an action's numbers, or places
    names: list[str] = field(
        default_factory=list
    )  # of the target's columns, or places; [] where a column is no number of an action


@dataclass(frozen=True, slots=True)
class DataInfo(Figures):
    """The pairs that were evaluated."""

    name: str
    episodes: int
    cameras: list[str]
    masks: list[str]  # the cameras with masks of the arm
    frames: int
    pairs: int
    stride: str
    nuisance_families: list[str]
    seed: int
    left_out: dict[str, str]  # episodes that could not be read, each with the reason
    target: TargetInfo | None = None  # of the action probes; None without actions
    date: str | None = None  # of its newest local file, "2026-11-30"; None where it names no files
    idle_pairs: dict[str, list[int]] = field(default_factory=dict)  # by camera: [idle pairs, pairs]


@dataclass(frozen=True, slots=True)
class CodebookFigures(Figures):
    """Use of the codebook: K codes, N positions."""

    counts: list[list[int]]  # (N, K): occurrences of each code at each position
    perplexity: float
    perplexity_per_position: list[float]
    dead_codes: int  # codes that never occur, of all positions pooled
    dead_codes_per_position: list[int]
    dead_positions: int  # positions whose most frequent code has a share of at least `thresholds.DEAD_POSITION_SHARE`
    used_share: float
    size: int
    possible: int  # the highest pooled perplexity that so many codes can have: min(K, P N)
    moving_pairs: int = 0
    moving: CodeFigures | None = None  # of the pairs that move, by which the codebook is judged


@dataclass(frozen=True, slots=True)
class LatentFigures(Figures):
    """Collapse measures of z, flattened to one vector per pair; formulas in `metrics`."""

    spread: float
    effective_rank: float | None
    mean_cosine: float | None
    norm: float | None
    random_init_spread: float  # the spread of z of a random-init model


@dataclass(frozen=True, slots=True)
class DecoderFigures(Figures):
    """Gains 1 - error / baseline error of the decoded frames; `_moving` counts moving pixels only."""

    z_gain: Estimate  # baseline: the codes of another pair
    z_gain_moving: Estimate
    gain_over_copying: Estimate  # baseline: frame t
    gain_over_copying_moving: Estimate
    gain_over_random_init: dict[str, float | None]  # baseline: a random-init model; {"all", "moving"}


@dataclass(frozen=True, slots=True)
class ProbeRow(Figures):
    """Scores of the probes of one set of features (z, its codes, or a control); None: not probed.

    `r2` and `conditional_r2` are of the actions; `families` are the R2 of each nuisance family, `nuisance_r2` their
    mean; `over_family_intervals` are the intervals of R2 of the actions minus R2 of the family.
    """

    nuisance_r2: Estimate | None = None
    families: dict[str, Estimate] = field(default_factory=dict)
    r2: Estimate | None = None
    conditional_r2: Estimate | None = None
    selectivity: Estimate | None = None
    over_family_intervals: dict[str, Interval] = field(default_factory=dict)
    lambdas: list[float | None] | None = None  # the ridge penalty chosen in each fold

    def to_dict(self) -> dict[str, Any]:
        """Keys of what was probed alone, each figure with its interval in a key of its own."""
        row: dict[str, Any] = {}
        for name, interval_name in INTERVAL_KEYS.items():
            if (figure := getattr(self, name)) is not None:
                row[name] = figure.value
                row |= {} if figure.interval is None else {interval_name: figure.interval}
            if name == "nuisance_r2" and self.families:
                row["families"] = {family: each.value for family, each in self.families.items()}
                row["family_intervals"] = {family: each.interval for family, each in self.families.items()}
        row |= {"over_family_intervals": self.over_family_intervals} if self.over_family_intervals else {}
        return row if self.lambdas is None else {**row, "lambdas": self.lambdas}


# The keys of report.json, in their order; fixed on disk.
INTERVAL_KEYS = {
    "nuisance_r2": "nuisance_interval",
    "r2": "r2_interval",
    "conditional_r2": "interval",
    "selectivity": "selectivity_interval",
}


@dataclass(frozen=True, slots=True)
class BestControl(Figures):
    """The control with the highest conditional R2, beside a row of the tokenizer."""

    name: str | None = None  # its row; None: not probed
    value: float | None = None
    interval: Interval | None = None
    difference: float | None = None  # the tokenizer's row minus this one, on the same pairs
    difference_interval: Interval | None = None
    is_beaten: bool = False  # the difference is above 0 by its interval, and the two rows' intervals do not touch

    @property
    def is_certain(self) -> bool:
        """Above 0 by its own interval."""
        low, _ = self.interval or (None, None)
        return low is not None and low > 0

    @property
    def is_better(self) -> bool:
        """Above the tokenizer's row by the interval of the difference."""
        _, high = self.difference_interval or (None, None)
        return high is not None and high < 0


@dataclass(frozen=True, slots=True)
class ControlInfo(Figures):
    """The controls of the probe tables, as far as their rows do not say it."""

    closed_form_bits: float | None = None  # of the row `closed_form_codes`
    encoder: str | None = None  # of the row `control_encoder`
    left_out: dict[str, str] = field(default_factory=dict)  # rows that could not be measured, each with the reason


@dataclass(frozen=True, slots=True)
class ProbeTable(Figures):
    """Probes of the first camera's pairs: rows of z and of all controls.

    `reason` is the reason for having no rows, None where there are rows. `margins` has, for "conditional_r2" and under
    nuisances also "selectivity", the first row minus each other row.
    """

    camera: str = ""
    reason: str | None = None
    test_episodes: int = 0
    pairs: int = 0
    frame_r2: float | None = None  # R2 of the actions from frame t alone
    rows: dict[str, ProbeRow] = field(default_factory=dict)
    margins: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    families: list[str] | None = None  # the nuisance families, or None for pairs without nuisance
    best_controls: dict[str, BestControl] = field(default_factory=dict)  # by row of the tokenizer, "z" and "quantized"

    def to_dict(self) -> dict[str, Any]:
        """The part "probe" or "nuisance" of report.json."""
        counts = {"test_episodes": self.test_episodes, "pairs": self.pairs, "frame_r2": self.frame_r2}
        margins: dict[str, Any] = {
            name: {row: {"difference": each.value, "interval": each.interval} for row, each in of_rows.items()}
            for name, of_rows in self.margins.items()
        }
        return {
            "camera": self.camera,
            **({} if self.families is None else {"families": self.families}),
            "reason": self.reason,
            **(counts if self.rows else {}),
            "rows": _to_json(self.rows),
            "margins": margins.get("conditional_r2", {}) if self.families is None else margins,
        }

    def row(self, name: str) -> ProbeRow:
        """The row of that name; one without scores where it was not probed."""
        return self.rows.get(name, ProbeRow())


# The rows of a probe table, in the order in which they are shown: those of the tokenizer, then the controls.
ROW_NAMES = {
    "z": "z of this model",
    "quantized": "its quantized z",
    "codes": "its codes, one-hot",
    "optical_flow": "dense optical flow",
    "normal_flow": "normal flow",
    "closed_form": "closed-form tokenizer",
    "closed_form_codes": "closed-form codes",
    "encoder_change": "change of encoder features",
    "control_encoder": "change of control encoder features",
    "pixel_difference": "pixel difference",
    "pixel_difference_stabilized": "pixel difference, stabilized",
    "random_init": "random-init model",
    "shuffled": "shuffled z",
    "frame": "frame t alone",
    "mean": "predicting the mean",
}
# Headline figures of probes, by the table, its row and the row's figure; then those of the decoder and of the codes.
HEADLINE_PROBES = {
    "conditional_r2": ("probe", "z", "conditional_r2"),
    "conditional_r2_codes": ("probe", "quantized", "conditional_r2"),
    "conditional_r2_nuisance": ("nuisance", "z", "conditional_r2"),
    "nuisance_r2": ("nuisance", "z", "nuisance_r2"),
    "selectivity": ("nuisance", "z", "selectivity"),
}
# The figures that are shown with the best control, and the name of that in report.json.
BEST_CONTROLS = {
    "conditional_r2": "best_control",
    "conditional_r2_codes": "best_control_codes",
    "conditional_r2_nuisance": "best_control_nuisance",
}
HEADLINE_GAINS = ("gain_over_copying", "gain_over_copying_moving", "z_gain", "z_gain_moving")
HEADLINE_CODES = ("perplexity", "perplexity_per_position", "dead_codes", "dead_positions")


@dataclass(frozen=True, slots=True)
class Report(Figures):
    """All figures of a checkpoint on a dataset."""

    model: ModelInfo
    data: DataInfo
    codebook: CodebookFigures | None
    latents: LatentFigures
    decoder: DecoderFigures
    probe: ProbeTable
    nuisance: ProbeTable
    controls: ControlInfo = ControlInfo()
    extra: dict[str, Any] | None = None  # the slower figures of `--all`, by name; None: not asked for
    alarms: list[Finding] = field(default_factory=list)
    verdict: Verdict | None = None

    @property
    def headline(self) -> dict[str, Estimate]:
        """The figures shown first; a code figure of a continuous bottleneck is unmeasured."""
        probed = {
            name: getattr(getattr(self, table).row(row), figure) or UNMEASURED
            for name, (table, row, figure) in HEADLINE_PROBES.items()
        }
        gains = {name: getattr(self.decoder, name) for name in HEADLINE_GAINS}
        codes = dict.fromkeys(HEADLINE_CODES, UNMEASURED)
        if (codebook := self.codebook) is not None:
            mean = round(float(np.mean(codebook.perplexity_per_position)), DIGITS)
            values = (codebook.perplexity, mean, codebook.dead_codes, codebook.dead_positions)
            codes = {name: Estimate(value) for name, value in zip(HEADLINE_CODES, values, strict=True)}
        latents = {name: Estimate(getattr(self.latents, name)) for name in ("spread", "effective_rank")}
        return probed | gains | codes | latents

    def best_control(self, figure: str) -> BestControl:
        """The best control beside a headline figure of `BEST_CONTROLS`; one without a name where none was probed."""
        table, row, _ = HEADLINE_PROBES[figure]
        return getattr(self, table).best_controls.get(row, BestControl())

    def to_dict(self) -> dict[str, Any]:
        """The content of report.json; `extra` only where it was asked for."""
        body = super(Report, self).to_dict()
        model, data = body.pop("model"), body.pop("data")
        if self.extra is None:
            del body["extra"]
        best = {name: self.best_control(figure) for figure, name in BEST_CONTROLS.items()}
        return {
            "format_version": FORMAT_VERSION,
            "model": model,
            "data": data,
            "headline": _to_json(self.headline | best),
            **body,
        }
