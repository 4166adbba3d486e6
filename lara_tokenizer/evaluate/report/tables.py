"""Words and numbers of the report: headline figures with their comparisons, names of probe rows, formats."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lara_tokenizer.evaluate.figures import (
    BEST_CONTROLS,
    HEADLINE_PROBES,
    ROW_NAMES,
    UNMEASURED,
    BestControl,
    Estimate,
    ProbeRow,
    ProbeTable,
    Report,
)
from lara_tokenizer.evaluate.report.charts import Bar
from lara_tokenizer.model import resolve_checkpoint
from lara_tokenizer.verdict.card import Card
from lara_tokenizer.verdict.grades import ALARM, SEVERITIES

BUNDLED = "lara-lam"
OTHERS = ("random_init", "shuffled")  # shown beside the best control
HIGHER, LOWER = "higher is better", "lower is better"
CODE_GROUP = "Are the codes in use?"
MOVING = "The same, counting only pixels that change."


@dataclass(frozen=True, slots=True)
class HeadlineFigure:
    """A headline figure in words."""

    key: str
    label: str
    meaning: str
    direction: str = HIGHER
    digits: int = 3

    def bars(self, report: Report) -> list[Bar]:
        """This model's bar, then those to compare it with."""
        return [Bar("this model", report.headline[self.key]), *_compared_with(self.key, report)]

    def state(self, report: Report) -> str:
        """The severity of the worst finding about it; "fine" where it was judged, and nothing is wrong with the model.

        The colour of a tile, which so never says other than the verdict.
        """
        about = [each.severity for each in report.alarms if self.key in _tiles_of(each.name)]
        if about:
            return min(about, key=SEVERITIES.index)
        is_sick = any(each.severity == ALARM for each in report.alarms)
        if is_sick or self.key not in JUDGED or report.headline[self.key].value is None:
            return ""
        best = self.best(report)
        return "fine" if best is None or best.is_beaten else ""

    def reference(self, card: Card | None) -> str:
        """The figure of the bundled model, by its card; "" where it has none."""
        values = [] if card is None else [each[self.key] for each in card.headline.values() if self.key in each]
        if not values:
            return ""
        low, high = (format_number(each, self.digits) for each in (min(values), max(values)))
        over = (
            f"{low} to {high} on the {len(values)} sets of its card"
            if low != high
            else f"{low} on every set of its card"
        )
        return f"{BUNDLED}: {over}"

    def best(self, report: Report) -> BestControl | None:
        """The best control beside this figure; None where there is none."""
        best = report.best_control(self.key) if self.key in BEST_CONTROLS else BestControl()
        return None if best.name is None else best


GROUPS: dict[str, tuple[HeadlineFigure, ...]] = {
    "Does z encode the action?": (
        HeadlineFigure(
            "conditional_r2", "Conditional R²", "How well z predicts the actions beyond what frame t alone predicts."
        ),
        HeadlineFigure(
            "conditional_r2_codes",
            "Conditional R², codes",
            "The same from quantized z; the control is the closed-form tokenizer with as many bits.",
        ),
        HeadlineFigure(
            "conditional_r2_nuisance",
            "Conditional R², disturbed",
            "The same while the camera shakes and the light changes.",
        ),
        HeadlineFigure(
            "nuisance_r2",
            "Nuisance R²",
            "How well z predicts shake, light and background, which a label should not encode.",
            LOWER,
        ),
        HeadlineFigure("selectivity", "Selectivity", "R² of the actions minus nuisance R²: does z prefer the action?"),
    ),
    "Does the decoder use z?": (
        HeadlineFigure(
            "z_gain", "z gain", "Error saved by a pair's own codes over another pair's. 0: the decoder ignores z."
        ),
        HeadlineFigure("z_gain_moving", "z gain, moving pixels", MOVING),
        HeadlineFigure(
            "gain_over_copying",
            "Gain over copying",
            "Error saved over showing frame t again. Alone no evidence for z: motion can be guessed from frame t.",
        ),
        HeadlineFigure("gain_over_copying_moving", "Gain over copying, moving pixels", MOVING),
    ),
    CODE_GROUP: (
        HeadlineFigure("perplexity", "Perplexity", "Codes in effective use, all positions pooled.", digits=1),
        HeadlineFigure(
            "perplexity_per_position",
            "Perplexity per position",
            "The mean over positions: is each token informative?",
            digits=1,
        ),
        HeadlineFigure("dead_codes", "Dead codes", "Codes that never occur.", LOWER, 0),
        HeadlineFigure("dead_positions", "Dead positions", "Tokens with nearly always the same code.", LOWER, 0),
    ),
    "Is z alive?": (
        HeadlineFigure(
            "spread", "Spread of z", "About 1 where z points in all directions, 0 where it always points in one."
        ),
        HeadlineFigure("effective_rank", "Effective rank of z", "Directions of z in effective use.", digits=1),
    ),
}
# Headline gains: the baseline, which scores 0.
BASELINES = {
    "z_gain": "another pair's codes",
    "z_gain_moving": "another pair's codes",
    "gain_over_copying": "showing frame t again",
    "gain_over_copying_moving": "showing frame t again",
}


# The figures about which a finding is, by its name; a nuisance's name continues.
TILES = {
    "untrained": ("z_gain", "z_gain_moving", "conditional_r2"),
    "constant_z": ("spread",),
    "narrow_z": ("spread",),
    "collapsed_codebook": ("perplexity", "perplexity_per_position"),
    "low_use": ("perplexity",),
    "dead_positions": ("dead_positions",),
    "ignored_z": ("z_gain", "z_gain_moving"),
    "weak_z": ("z_gain", "z_gain_moving"),
    "uncertain_z_use": ("z_gain", "z_gain_moving"),
    "worse_than_copying": ("gain_over_copying",),
    "no_actions": ("conditional_r2",),
    "no_better_than_control": ("conditional_r2",),
    "codes_no_better_than_control": ("conditional_r2_codes",),
    "encodes": ("nuisance_r2", "selectivity"),
    "holds": ("nuisance_r2",),
}
JUDGED = {key for keys in TILES.values() for key in keys} - {"selectivity"}


def _tiles_of(finding: str) -> tuple[str, ...]:
    verb = finding.partition("_")[0]
    return TILES.get(finding) or TILES.get(verb, ())


def bundled_card() -> Card | None:
    """The card of the bundled model, whose figures are shown for reference."""
    return Card.read(Path(resolve_checkpoint(BUNDLED)))


def _compared_with(key: str, report: Report) -> list[Bar]:
    """The bars beside a headline figure: its controls, its baseline, or its range."""
    if key in HEADLINE_PROBES:
        table, _, figure = HEADLINE_PROBES[key]
        rows = getattr(report, table).rows
        best = report.best_control(key).name if key in BEST_CONTROLS else None
        shown = dict.fromkeys(name for name in (best, *OTHERS) if name is not None and name in rows)
        return [Bar(ROW_NAMES[name], getattr(rows[name], figure) or UNMEASURED) for name in shown]
    if key in BASELINES:
        return [Bar(BASELINES[key], Estimate(0.0)), Bar("no error left", Estimate(1.0))]
    size = Estimate(None if report.codebook is None else report.codebook.size)
    random_init_spread = Estimate(report.latents.random_init_spread)
    ranges = {
        "perplexity": [Bar("all codes equally often", size)],
        "perplexity_per_position": [Bar("all codes equally often", size)],
        "dead_codes": [Bar("codes there are", size)],
        "spread": [Bar(ROW_NAMES["random_init"], random_init_spread), Bar("all directions alike", Estimate(1.0))],
        "effective_rank": [Bar("size of z", Estimate(report.model.latent_dim))],
    }
    return ranges.get(key, [])


def against(best: BestControl) -> str:
    """A line on the best control beside a figure.

    >>> against(BestControl("optical_flow", 0.15, [0.1, 0.2], -0.03, [-0.05, 0.01]))
    'dense optical flow reaches 0.150 [0.100, 0.200]; this model minus it: −0.030 [−0.050, 0.010]. No evidence'
    """
    assert best.name is not None
    value, ahead = Estimate(best.value, best.interval), Estimate(best.difference, best.difference_interval)
    reached, lead = (f"{format_number(each.value)} {format_interval(each)}" for each in (value, ahead))
    conclusion = "Above every control" if best.is_beaten else "No evidence"
    return f"{ROW_NAMES[best.name]} reaches {reached}; this model minus it: {lead}. {conclusion}"


def ordered_rows(table: ProbeTable) -> list[tuple[str, str, ProbeRow]]:
    """(key, label, row) of a probe table in the order of ROW_NAMES."""
    return [(name, label, table.rows[name]) for name, label in ROW_NAMES.items() if name in table.rows]


def flat_figures(values: dict[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """(name, formatted value) of nested figures."""
    for key, value in values.items():
        name = f"{before}{key.replace('_', ' ')}"
        if isinstance(value, dict):
            yield from flat_figures(value, f"{name} · ")
        elif isinstance(value, int | float):
            yield name, format_number(value)
        else:
            yield name, "–" if value is None else str(value)


def capital(sentence: str) -> str:
    """A sentence with a capital; "z" is a symbol and stays as it is.

    >>> capital("few codes are in use"), capital("z points one way")
    ('Few codes are in use', 'z points one way')
    """
    return sentence if sentence.startswith("z ") else sentence[:1].upper() + sentence[1:]


def column_title(index: int, noun: str) -> str:
    """A column's heading.

    >>> column_title(3, "query")
    'query 3'
    """
    return f"{noun} {index}"


def format_number(value: float | None, digits: int = 3) -> str:
    """A figure with a true minus, thin spaces in thousands, and a dash where nothing was measured.

    >>> format_number(-0.25), format_number(None), format_number(12345)
    ('−0.250', '–', '12\\u202f345')
    """
    if value is None:
        return "–"
    written = f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"
    # A minus before a zero would look like a finding.
    if float(written.replace(",", "")) == 0:
        written = written.lstrip("-")
    return written.replace("-", "−").replace(",", "\u202f")


def format_interval(estimate: Estimate, digits: int = 3) -> str:
    """The 95 % interval in brackets; "" where there is none."""
    bounds = estimate.bounds
    return "" if bounds is None else f"[{format_number(bounds[0], digits)}, {format_number(bounds[1], digits)}]"


def format_estimate(estimate: Estimate | None, digits: int = 3) -> Markup | str:
    """The figure with its interval in small; a dash for None."""
    estimate = estimate or UNMEASURED
    if estimate.bounds is None:
        return format_number(estimate.value, digits)
    return Markup("{} <small>{}</small>").format(
        format_number(estimate.value, digits), format_interval(estimate, digits)
    )
