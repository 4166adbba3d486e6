"""The page of the report: `write_report` renders all figures of an evaluation as HTML."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment
from markupsafe import Markup

from lara_tokenizer._templates import resource, template_environment
from lara_tokenizer.evaluate.figures import CodebookFigures
from lara_tokenizer.evaluate.report import tables
from lara_tokenizer.evaluate.report.attention import attention
from lara_tokenizer.evaluate.report.charts import Histogram, bar_marks, histogram
from lara_tokenizer.evaluate.report.examples import EvaluatedModel
from lara_tokenizer.evaluate.report.sections import code_clips, latent_plots, reconstructions, transfers
from lara_tokenizer.verdict.grades import DO_NOT_TRAIN, EVIDENCE, NO_EVIDENCE, besides
from lara_tokenizer.version import __version__

if TYPE_CHECKING:
    from lara_tokenizer.evaluate.evaluate import Evaluation
    from lara_tokenizer.model import LatentActionProcessor

# Class and sign of each grade: never colour alone.
MARKS = {
    DO_NOT_TRAIN: {"kind": "alarm", "sign": "✖"},
    NO_EVIDENCE: {"kind": "doubt", "sign": "?"},
    EVIDENCE: {"kind": "fine", "sign": "✔"},
}


def write_report(
    evaluation: Evaluation,
    model: Any,
    processor: LatentActionProcessor,
    path: str | Path,
    other: tuple[Evaluation, Any, LatentActionProcessor] | None = None,
    command: str = "",
) -> None:
    """Write the health card, one self-contained HTML file; equal evaluations give equal bytes.

    >>> write_report(evaluate_checkpoint(model, processor, data), model, processor, "index.html")  # doctest: +SKIP

    Args:
        evaluation: the result of `evaluate_checkpoint`.
        model, processor: its arguments; the model decodes and attends to the pairs that are shown.
        path: of the file.
        other: the same three of a second checkpoint, evaluated on the same source: its headline figures are shown
            beside the first's, and its attention maps on the same pairs.
        command: the one that reproduces the page; "" for one that is made of the figures.
    """
    page = render(_evaluated(evaluation, model, processor), None if other is None else _evaluated(*other), command)
    # The name of an episode may hold bytes that are no text.
    Path(path).write_text(page, encoding="utf-8", errors="backslashreplace", newline="\n")


def _evaluated(evaluation: Evaluation, model: Any, processor: LatentActionProcessor) -> EvaluatedModel:
    camera = next(iter(evaluation.pairs))
    return EvaluatedModel(
        evaluation.figures,
        evaluation.pairs[camera],
        evaluation.encoded[camera],
        evaluation.instructions,
        model.eval(),
        processor,
    )


def render(model: EvaluatedModel, compared: EvaluatedModel | None = None, command: str = "") -> str:
    """The report as HTML."""
    codebook = model.figures.codebook
    contents = {
        "histograms": [] if codebook is None else _histograms(codebook),
        "code_clips": code_clips(model),
        "reconstructions": reconstructions(model),
        "transfers": transfers(model),
        "attention": attention(model, compared),
        "plots": latent_plots(model),
    }
    # The style sheet is ours, so it is not escaped; all other text is.
    style = Markup(resource(__package__, "report.css"))
    page = _environment().get_template("page.html.j2")
    return page.render(
        model=model,
        compared=compared,
        report=model.figures,
        card=tables.bundled_card(),
        command=command,
        **contents,
        tables=tables,
        style=style,
        version=__version__,
    )


def _histograms(codebook: CodebookFigures) -> list[Histogram]:
    """Use of the codes, all positions pooled, then of each position."""
    counts_NK = np.asarray(codebook.counts)
    of_positions = [
        histogram(counts_K, f"Use of each code at position {position}") for position, counts_K in enumerate(counts_NK)
    ]
    return [histogram(counts_NK.sum(0), "Use of each code, all positions"), *of_positions]


def _environment() -> Environment:
    environment = template_environment(__package__)
    environment.globals |= {"bar_marks": bar_marks, "besides": besides, "marks": MARKS}
    environment.filters |= {
        "capital": tables.capital,
        "format_number": tables.format_number,
        "format_interval": tables.format_interval,
        "format_estimate": tables.format_estimate,
        "column_title": tables.column_title,
    }
    return environment
