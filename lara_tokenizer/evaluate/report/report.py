"""The health card: all that an evaluation found, on one page that needs no server and no network."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lara_tokenizer.evaluate.card_decoder import reconstruction_section, transfer_section
from lara_tokenizer.evaluate.card_html import Html, join, number, tag
from lara_tokenizer.evaluate.card_latents import pca_section
from lara_tokenizer.evaluate.report.attention import attention_section
from lara_tokenizer.evaluate.report.examples import Subject
from lara_tokenizer.evaluate.report.headline import comparison_section, figures_section
from lara_tokenizer.evaluate.report.sections import clips_section, histogram_section
from lara_tokenizer.evaluate.report.tables import extra_section, monitors_section, probes_section, protocol_section
from lara_tokenizer.version import __version__

if TYPE_CHECKING:
    from lara_tokenizer.evaluate.evaluate import Evaluation
    from lara_tokenizer.model import LatentActionProcessor

# Shape and word say it too, for those who do not tell the colours apart.
SIGNS = {"alarm": ("✖", "Alarm"), "warning": ("▲", "Warning"), "fine": ("✔", "No alarm")}
CONTENTS = {
    "figures": "Figures",
    "comparison": "Both checkpoints",
    "codes": "Codes",
    "clips": "Clips",
    "reconstructions": "Reconstructions",
    "transfer": "Transfer",
    "attention": "Attention",
    "pca": "z and actions",
    "probes": "Probes",
    "monitors": "Monitors",
    "extra": "More",
    "protocol": "Method",
}


def write_card(
    evaluation: Evaluation,
    model: Any,
    processor: LatentActionProcessor,
    path: str | Path,
    other: tuple[Evaluation, Any, LatentActionProcessor] | None = None,
) -> None:
    """Write the health card, one self-contained HTML file; equal evaluations give equal bytes.

    >>> write_card(evaluate_checkpoint(model, processor, data), model, processor, "index.html")  # doctest: +SKIP

    evaluation, model, processor: what `evaluate_checkpoint` returned, and what it was given; the model decodes and
    attends to the pairs that are shown. other: the same three of a second checkpoint, evaluated on the same source: its
    headline figures stand beside the first's, and its attention maps are of the same pairs.
    """
    subject = Subject(evaluation, model.eval(), processor)
    rival = None if other is None else Subject(other[0], other[1].eval(), other[2])
    Path(path).write_text(page(subject, rival), encoding="utf-8", newline="\n")


def page(subject: Subject, other: Subject | None = None) -> str:
    """The card as HTML."""
    sections = [
        figures_section(subject),
        comparison_section(subject, other) if other is not None else None,
        histogram_section(subject),
        clips_section(subject),
        reconstruction_section(subject),
        transfer_section(subject),
        attention_section(subject, other),
        pca_section(subject),
        probes_section(subject),
        monitors_section(subject),
        extra_section(subject),
        protocol_section(subject, other),
    ]
    footer = tag("footer", f"Written by lara-tokenizer {__version__}.")
    body = [_header(subject), _verdict(subject, other), *(part for part in sections if part), footer]
    style = files("lara_tokenizer.evaluate.report").joinpath("report.css").read_text(encoding="utf-8")
    head = join(
        [
            Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
            # An icon of its own, so that no browser asks for one.
            Html('<link rel="icon" href="data:,">'),
            tag("title", f"Health card of {subject.name}"),
            Html(f"<style>\n{style}</style>"),
        ]
    )
    written = tag("html", tag("head", head), "\n", tag("body", tag("main", join(_lines(body)))), lang="en")
    return f"<!doctype html>\n{written}\n"


def _lines(parts: list[Html]) -> list[Html]:
    """Each part on a line of its own."""
    return [Html(f"{part}\n") for part in parts]


def _header(subject: Subject) -> Html:
    model, data = subject.report["model"], subject.report["data"]
    facts = [
        ("codes", model["codes"]),
        ("numbers in z", number(model["latent_dim"])),
        ("dataset", data["name"]),
        ("episodes", number(data["episodes"])),
        ("pairs", number(data["pairs"])),
        ("from t to t+C", data["stride"]),
    ]
    listed = tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in facts))
    return tag(
        "header", tag("p", "Health card of a latent action model", class_="eyebrow"), tag("h1", subject.name), listed
    )


def _verdict(subject: Subject, other: Subject | None) -> Html:
    boxes = [_verdict_box(subject, named=other is not None)]
    if other is not None:
        boxes.append(_verdict_box(other, named=True))
    absent = {"comparison"} if other is None else set()
    absent |= set() if subject.report.get("extra") else {"extra"}
    links = [tag("a", name, href=f"#{key}") for key, name in CONTENTS.items() if key not in absent]
    return join([tag("div", *boxes, class_="verdicts"), tag("nav", *links, aria_label="Contents")])


def _verdict_box(subject: Subject, named: bool) -> Html:
    alarms = subject.report["alarms"]
    severities = [alarm["severity"] for alarm in alarms]
    worst = next((severity for severity in ("alarm", "warning") if severity in severities), "fine")
    sign, word = SIGNS[worst]
    listed = [
        tag("li", tag("b", f"{SIGNS[alarm['severity']][0]} {SIGNS[alarm['severity']][1]}"), " ", alarm["sentence"])
        for alarm in alarms
    ]
    title = f"{word}: {subject.name}" if named else word
    return tag(
        "section",
        tag("p", tag("span", sign, class_="sign", aria_hidden="true"), title, class_="word"),
        tag("p", subject.report["verdict"], class_="sentence"),
        *([tag("ul", *listed)] if listed else []),
        class_=f"verdict {worst}",
    )
