"""The figures at the top of the card: what each means in a line, which way is better, and what to compare it with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lara_tokenizer.evaluate.card_html import Html, grid, interval, join, note, number, section, tag, with_interval
from lara_tokenizer.evaluate.report.charts import Bar, bars
from lara_tokenizer.evaluate.report.examples import Subject

HIGHER, LOWER = "higher is better", "lower is better"
Report = dict[str, Any]

# What rows of probes are called on the card.
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


@dataclass(frozen=True, slots=True)
class Figure:
    """A headline figure; `beside` gives the bars that it is to be compared with."""

    key: str
    label: str
    meaning: str
    direction: str
    beside: Callable[[Report], Sequence[Bar]] = lambda report: ()
    digits: int = 3


def _row_of(part: str, value: str, bounds: str, names: Sequence[str]) -> Callable[[Report], Sequence[Bar]]:
    def beside(report: Report) -> Sequence[Bar]:
        rows = report[part]["rows"]
        return [
            Bar(ROWS[name], rows[name].get(value), _known(rows[name].get(bounds))) for name in names if name in rows
        ]

    return beside


def _fixed(*rows: tuple[str, float]) -> Callable[[Report], Sequence[Bar]]:
    return lambda report: [Bar(*row) for row in rows]


def _codes(share: float, label: str) -> Callable[[Report], Sequence[Bar]]:
    return lambda report: [Bar(label, share * report["codebook"]["size"])]


CONTROLS = ("random_init", "pixel_difference", "shuffled")
GROUPS: dict[str, tuple[Figure, ...]] = {
    "Does z hold the action?": (
        Figure(
            "conditional_r2",
            "Conditional R²",
            "How much of the actions z tells beyond what frame t tells alone.",
            HIGHER,
            _row_of("probe", "conditional_r2", "interval", CONTROLS),
        ),
        Figure(
            "conditional_r2_nuisance",
            "Conditional R², disturbed",
            "The same while the camera shakes and the light changes.",
            HIGHER,
            _row_of("nuisance", "conditional_r2", "interval", CONTROLS),
        ),
        Figure(
            "nuisance_r2",
            "Nuisance R²",
            "How much of the shake, the light and the background z tells: what a label should not hold.",
            LOWER,
            _row_of("nuisance", "nuisance_r2", "nuisance_interval", CONTROLS),
        ),
        Figure(
            "selectivity",
            "Selectivity",
            "R² of the actions minus nuisance R²: does z prefer the action?",
            HIGHER,
            _row_of("nuisance", "selectivity", "selectivity_interval", CONTROLS),
        ),
    ),
    "Does the decoder use z?": (
        Figure(
            "z_gain",
            "z gain",
            "Error saved by a pair's own codes over another pair's. 0: the decoder ignores z.",
            HIGHER,
            _fixed(("another pair's codes", 0.0), ("no error left", 1.0)),
        ),
        Figure(
            "z_gain_moving",
            "z gain, moving pixels",
            "The same, counting only pixels that change.",
            HIGHER,
            _fixed(("another pair's codes", 0.0), ("no error left", 1.0)),
        ),
        Figure(
            "gain_over_copying",
            "Gain over copying",
            "Error saved over showing frame t again. Alone no evidence for z: motion can be guessed from frame t.",
            HIGHER,
            _fixed(("showing frame t again", 0.0), ("no error left", 1.0)),
        ),
        Figure(
            "gain_over_copying_moving",
            "Gain over copying, moving pixels",
            "The same, counting only pixels that change.",
            HIGHER,
            _fixed(("showing frame t again", 0.0), ("no error left", 1.0)),
        ),
    ),
    "Are the codes in use?": (
        Figure(
            "perplexity",
            "Perplexity",
            "Codes in effective use, all positions pooled.",
            HIGHER,
            _codes(1, "all codes equally often"),
            1,
        ),
        Figure(
            "perplexity_per_position",
            "Perplexity per position",
            "The mean over positions: does each token say something?",
            HIGHER,
            _codes(1, "all codes equally often"),
            1,
        ),
        Figure("dead_codes", "Dead codes", "Codes that never occur.", LOWER, _codes(1, "codes there are"), 0),
        Figure("dead_positions", "Dead positions", "Tokens that nearly always say the same.", LOWER, digits=0),
    ),
    "Is z alive?": (
        Figure(
            "spread",
            "Spread of z",
            "About 1 where z points all ways, 0 where every z points the same way.",
            HIGHER,
            lambda report: [
                Bar(ROWS["random_init"], report["latents"].get("random_init_spread")),
                Bar("all directions alike", 1.0),
            ],
        ),
        Figure(
            "effective_rank",
            "Effective rank of z",
            "Directions of z in effective use.",
            HIGHER,
            lambda report: [Bar("numbers in z", report["model"]["latent_dim"])],
            1,
        ),
    ),
}
CODE_FIGURES = "Are the codes in use?"


def figures_section(subject: Subject) -> Html:
    """The headline figures as tiles."""
    report = subject.report
    groups = []
    for title, figures in GROUPS.items():
        if title == CODE_FIGURES and report["codebook"] is None:
            groups.append(_absent(title, "The bottleneck is continuous: there are no codes to count."))
            continue
        tiles = [_tile(figure, report) for figure in figures]
        groups.append(tag("div", tag("h3", title), tag("div", *tiles, class_="tiles"), class_="group"))
    caption = note(
        "Large: the figure; in brackets its 95 % interval over episodes. Bars: this model in blue, beside what it has "
        "to be compared with in grey; a thin line is an interval. A figure that a control reaches too says nothing."
    )
    return section("figures", "Headline figures", caption, *groups)


def _absent(title: str, why: str) -> Html:
    return tag("div", tag("h3", title), tag("p", why, class_="absent"), class_="group")


def _tile(figure: Figure, report: Report) -> Html:
    found = report["headline"][figure.key]
    value, bounds = found["value"], _known(found["interval"])
    if value is None:
        chart = tag("p", "Not measured on this dataset.", class_="absent")
    else:
        value = int(value) if figure.digits == 0 else value
        chart = bars([Bar("this model", value, bounds), *figure.beside(report)], figure.digits)
    return tag(
        "div",
        tag("h4", figure.label),
        tag("p", number(value, figure.digits), " ", tag("small", interval(bounds, figure.digits)), class_="value"),
        tag("p", figure.meaning, " ", tag("em", f"{figure.direction.capitalize()}."), class_="meaning"),
        chart,
        class_="tile",
    )


def comparison_section(subject: Subject, other: Subject) -> Html:
    """Headline figures of both checkpoints."""
    rows = [
        [join([figure.label, " ", tag("small", figure.direction)]), *(_cell(figure, each) for each in (subject, other))]
        for figures in GROUPS.values()
        for figure in figures
    ]
    caption = note(
        "Intervals are over episodes and of each checkpoint alone; where they overlap, the difference may still be "
        "sure, for the episodes are the same."
    )
    head = ["", subject.name, other.name]
    return section("comparison", "Both checkpoints", grid(head, rows, "figures"), caption)


def _cell(figure: Figure, subject: Subject) -> Html:
    found = subject.report["headline"][figure.key]
    value = found["value"]
    value = int(value) if figure.digits == 0 and value is not None else value
    return with_interval(value, _known(found["interval"]), figure.digits)


def _known(bounds: Sequence[float | None] | None) -> Sequence[float] | None:
    """An interval, or None where its ends are no numbers."""
    if bounds is None or bounds[0] is None or bounds[1] is None:
        return None
    return [bounds[0], bounds[1]]
