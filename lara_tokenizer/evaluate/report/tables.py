"""Words of the report: headline figures with what they are compared with, names of probe rows, numbers for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from lara_tokenizer.evaluate.figures import UNMEASURED, Estimate, ProbeRow, ProbeTable, Report
from lara_tokenizer.evaluate.report.charts import Bar, Mark, bar_marks

# The rows of a probe table, in the order in which they are shown.
ROWS = {
    "z": "z of this model",
    "quantized": "its quantized z",
    "codes": "its codes, one-hot",
    "random_init": "random-init model",
    "shuffled": "shuffled z",
    "pixel_difference": "pixel difference",
    "frame": "frame t alone",
    "mean": "predicting the mean",
}
CONTROLS = ("random_init", "pixel_difference", "shuffled")
Comparison = Callable[[Report], list[Bar]]


@dataclass(frozen=True, slots=True)
class HeadlineFigure:
    """A headline figure in words; `compared_with` gives the bars beside it."""

    key: str
    label: str
    meaning: str
    compared_with: Comparison
    higher_is_better: bool = True
    digits: int = 3

    @property
    def direction(self) -> str:
        """The direction in words."""
        return "higher is better" if self.higher_is_better else "lower is better"

    def bars(self, report: Report) -> list[Bar]:
        """This model's bar, then those to compare it with."""
        return [Bar("this model", report.headline[self.key]), *self.compared_with(report)]

    def marks(self, report: Report) -> list[list[Mark]]:
        """The marks of each bar."""
        return bar_marks(self.bars(report))


def _probed(table: str, figure: str) -> Comparison:
    """The same figure of the controls."""

    def bars(report: Report) -> list[Bar]:
        rows = (report.probe if table == "probe" else report.nuisance).rows
        return [Bar(ROWS[name], getattr(rows[name], figure) or UNMEASURED) for name in CONTROLS if name in rows]

    return bars


def _gain(baseline: str) -> Comparison:
    return lambda report: [Bar(baseline, Estimate(0.0)), Bar("no error left", Estimate(1.0))]


def _of_all_codes(label: str) -> Comparison:
    return lambda report: [] if report.codebook is None else [Bar(label, Estimate(report.codebook.size))]


def _spread(report: Report) -> list[Bar]:
    random_init = Bar(ROWS["random_init"], Estimate(report.latents.random_init_spread))
    return [random_init, Bar("all directions alike", Estimate(1.0))]


CODE_GROUP = "Are the codes in use?"
GROUPS: dict[str, tuple[HeadlineFigure, ...]] = {
    "Does z encode the action?": (
        HeadlineFigure(
            "conditional_r2",
            "Conditional R²",
            "How well z predicts the actions beyond what frame t alone predicts.",
            _probed("probe", "conditional_r2"),
        ),
        HeadlineFigure(
            "conditional_r2_nuisance",
            "Conditional R², disturbed",
            "The same while the camera shakes and the light changes.",
            _probed("nuisance", "conditional_r2"),
        ),
        HeadlineFigure(
            "nuisance_r2",
            "Nuisance R²",
            "How well z predicts shake, light and background, which a label should not encode.",
            _probed("nuisance", "nuisance_r2"),
            higher_is_better=False,
        ),
        HeadlineFigure(
            "selectivity",
            "Selectivity",
            "R² of the actions minus nuisance R²: does z prefer the action?",
            _probed("nuisance", "selectivity"),
        ),
    ),
    "Does the decoder use z?": (
        HeadlineFigure(
            "z_gain",
            "z gain",
            "Error saved by a pair's own codes over another pair's. 0: the decoder ignores z.",
            _gain("another pair's codes"),
        ),
        HeadlineFigure(
            "z_gain_moving",
            "z gain, moving pixels",
            "The same, counting only pixels that change.",
            _gain("another pair's codes"),
        ),
        HeadlineFigure(
            "gain_over_copying",
            "Gain over copying",
            "Error saved over showing frame t again. Alone no evidence for z: motion can be guessed from frame t.",
            _gain("showing frame t again"),
        ),
        HeadlineFigure(
            "gain_over_copying_moving",
            "Gain over copying, moving pixels",
            "The same, counting only pixels that change.",
            _gain("showing frame t again"),
        ),
    ),
    CODE_GROUP: (
        HeadlineFigure(
            "perplexity",
            "Perplexity",
            "Codes in effective use, all positions pooled.",
            _of_all_codes("all codes equally often"),
            digits=1,
        ),
        HeadlineFigure(
            "perplexity_per_position",
            "Perplexity per position",
            "The mean over positions: is each token informative?",
            _of_all_codes("all codes equally often"),
            digits=1,
        ),
        HeadlineFigure(
            "dead_codes", "Dead codes", "Codes that never occur.", _of_all_codes("codes there are"), False, digits=0
        ),
        HeadlineFigure(
            "dead_positions", "Dead positions", "Tokens with nearly always the same code.", lambda _: [], False, 0
        ),
    ),
    "Is z alive?": (
        HeadlineFigure(
            "spread",
            "Spread of z",
            "About 1 where z points in all directions, 0 where it always points in one.",
            _spread,
        ),
        HeadlineFigure(
            "effective_rank",
            "Effective rank of z",
            "Directions of z in effective use.",
            lambda report: [Bar("numbers in z", Estimate(report.model.latent_dim))],
            digits=1,
        ),
    ),
}


def ordered_rows(table: ProbeTable) -> list[tuple[str, str, ProbeRow]]:
    """(key, label, row) of a probe table in the order of ROWS."""
    return [(name, label, table.rows[name]) for name, label in ROWS.items() if name in table.rows]


def flat_figures(values: dict[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """(name, written value) of nested figures."""
    for key, value in values.items():
        name = f"{before}{key.replace('_', ' ')}"
        if isinstance(value, dict):
            yield from flat_figures(value, f"{name} · ")
        elif isinstance(value, int | float):
            yield name, number(value)
        else:
            yield name, "–" if value is None else str(value)


def number(value: float | None, digits: int = 3) -> str:
    """A figure with a true minus, thin spaces in thousands, and a dash where nothing was measured.

    >>> number(-0.25), number(None), number(12345)
    ('−0.250', '–', '12\\u202f345')
    """
    if value is None:
        return "–"
    written = f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"
    # A minus before a zero would look like a finding.
    if float(written.replace(",", "")) == 0:
        written = written.lstrip("-")
    return written.replace("-", "−").replace(",", "\u202f")


def interval(estimate: Estimate, digits: int = 3) -> str:
    """The 95 % interval in brackets; "" where there is none."""
    bounds = estimate.bounds
    return "" if bounds is None else f"[{number(bounds[0], digits)}, {number(bounds[1], digits)}]"


def with_interval(estimate: Estimate | None, digits: int = 3) -> Markup | str:
    """The figure with its interval in small; a dash for None."""
    estimate = estimate or UNMEASURED
    if estimate.bounds is None:
        return number(estimate.value, digits)
    return Markup("{} <small>{}</small>").format(number(estimate.value, digits), interval(estimate, digits))
