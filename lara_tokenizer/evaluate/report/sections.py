"""The card on codes: how often each is used, and what is seen in the pairs that hold it.

Shape suffixes: P pairs, N latent tokens, K codes.
"""

from __future__ import annotations

import numpy as np

from lara_tokenizer.evaluate.card_html import Html, counted, image, note, number, section, tag
from lara_tokenizer.evaluate.report.charts import histogram
from lara_tokenizer.evaluate.report.examples import Subject, spread_over
from lara_tokenizer.evaluate.report.images import clip

CODES = 6  # shown of the most used, and as many of the least used
CLIPS = 6  # of each code
CONTINUOUS = "The bottleneck of this model is continuous: it has no codes."


def histogram_section(subject: Subject) -> Html:
    """Use of all codes pooled, and of each position."""
    codebook = subject.report["codebook"]
    if codebook is None:
        return section("codes", "Use of the codes", tag("p", CONTINUOUS, class_="absent"))
    counts_NK = np.asarray(codebook["counts"])
    perplexity, dead = codebook["perplexity_per_position"], codebook["dead_codes_per_position"]
    size = counts_NK.shape[1]
    pooled = tag(
        "figure",
        histogram(counts_NK.sum(0), "Use of each code, all positions"),
        tag(
            "figcaption",
            tag("b", "All positions"),
            f" · perplexity {number(codebook['perplexity'], 1)} of {size} · "
            f"{codebook['dead_codes']} of {size} codes never used",
        ),
    )
    each = [
        tag(
            "figure",
            histogram(counts_K, f"Use of each code at position {position}"),
            tag(
                "figcaption",
                tag("b", f"Position {position}"),
                f" · perplexity {number(perplexity[position], 1)} · {dead[position]} unused",
            ),
        )
        for position, counts_K in enumerate(counts_NK)
    ]
    caption = note(
        f"From left to right code 0 to {size - 1}, height: the square root of how often, so that rare codes show; "
        "the dashed line is equal use. A healthy codebook is a lawn, a collapsed one a few poles. A position with one "
        "pole says nothing, however even the pooled use is."
    )
    return section("codes", "Use of the codes", caption, pooled, tag("div", *each, class_="positions"))


def clips_section(subject: Subject) -> Html:
    """The most and least used codes, each as looping clips of pairs that hold it."""
    title = "What does a code do?"
    if subject.encoded.codes is None:
        return section("clips", title, tag("p", CONTINUOUS, class_="absent"))
    codes_PN = subject.encoded.codes.cpu().numpy()
    most, least = most_and_least_used(codes_PN)
    example = most[0]
    caption = note(
        "Each clip goes from frame t to frame t+C and back. All clips of a row hold the same code at the same "
        "position, the one where the code is most frequent: the question is what they have in common. If the clips of "
        f"code {example} move alike, whatever the scene, code {example} means something. Clips are spread evenly over "
        "all pairs that hold the code, none left out by eye; the least used codes are the rarest that occur at all. "
        + subject.shown_camera
    )
    parts = [
        tag(
            "div",
            tag("h3", heading),
            tag("div", *(_code_clips(subject, codes_PN, code) for code in codes), class_="codes"),
        )
        for heading, codes in (("Most used", most), ("Least used", least))
        if codes
    ]
    return section("clips", title, caption, *parts)


def most_and_least_used(codes_PN: np.ndarray) -> tuple[list[int], list[int]]:
    """The most and the least used codes of those that occur, most used first; no code is in both."""
    used, counts = np.unique(codes_PN, return_counts=True)
    order = [int(code) for code in used[np.argsort(-counts, kind="stable")]]
    rest = order[CODES:]
    return order[:CODES], rest[-CODES:]


def _code_clips(subject: Subject, codes_PN: np.ndarray, code: int) -> Html:
    hits_PN = codes_PN == code
    position = int(hits_PN.sum(0).argmax())
    holders = np.flatnonzero(hits_PN[:, position])
    clips = [
        image(clip(subject.frames_of(pair)), f"Code {code}, {subject.describe(pair)}")
        for pair in map(int, spread_over(holders, CLIPS))
    ]
    where = f"position {position}, {counted(len(holders), 'pair')}"
    name = tag("p", tag("b", f"Code {code}"), tag("small", where), class_="name")
    return tag("div", name, tag("div", *clips, class_="strip"), class_="code")
