"""The card on z: its two main directions, coloured by what was done.

Shape suffixes: P pairs, F numbers of z, A action numbers.
"""

from __future__ import annotations

import numpy as np

from lara_tokenizer.evaluate.card_html import Html, note, section, tag
from lara_tokenizer.evaluate.probes import STD_FLOOR
from lara_tokenizer.evaluate.report.charts import scatter
from lara_tokenizer.evaluate.report.examples import Subject, spread_over

POINTS = 600
PANELS = 6


def pca_section(subject: Subject) -> Html:
    """z on its first two principal components, one panel for each of some action numbers."""
    title, pairs = "z and the actions", subject.pairs
    actions = pairs.actions
    changing = np.flatnonzero(actions.std(0) > STD_FLOOR) if actions is not None else np.array([], int)
    if actions is None or not len(changing):
        why = "The dataset has no actions, or they never change: nothing to colour z by."
        return section("pca", title, tag("p", why, class_="absent"))
    points_P2, explained = two_components(subject.encoded.latents.cpu().numpy().reshape(len(actions), -1))
    shown = spread_over(np.arange(len(actions)), POINTS)
    numbers = spread_over(changing, PANELS)
    panels = [
        tag(
            "figure",
            scatter(points_P2[shown], ranks(actions[shown, number]), f"z by action number {number}"),
            tag("figcaption", tag("b", f"Action number {number}")),
        )
        for number in map(int, numbers)
    ]
    caption = note(
        f"{len(shown)} pairs, spread evenly over the dataset; each point is one z on its first two principal "
        f"components, which hold {100 * explained[0]:.0f} % and {100 * explained[1]:.0f} % of its variance. Colour: "
        "the rank of what was done between the frames, from low (violet) to high (yellow). Colours in order, along any "
        "direction, show that the main directions of z follow this number; mixed colours show only that these two do "
        "not. "
        f"Panels: {len(numbers)} of {len(changing)} action numbers that change, evenly spread."
    )
    legend = tag("div", "low", tag("i"), "high", class_="legend")
    return section("pca", title, caption, legend, tag("div", *panels, class_="panels"))


def two_components(values_PF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two principal components (P, 2) and their shares of the variance; signs are fixed.

    >>> two_components(np.array([[0.0, 0], [1, 0], [2, 0]]))[1]
    array([1., 0.])
    """
    centred = values_PF.astype(np.float64) - values_PF.mean(0)
    variances, directions = np.linalg.eigh(centred.T @ centred)
    directions, shares = directions[:, :-3:-1], variances[:-3:-1].clip(0) / max(variances.sum(), 1e-30)
    # Either sign is right: the largest number of a direction is made positive.
    largest = directions[np.abs(directions).argmax(0), [0, 1]]
    return centred @ (directions * np.where(largest < 0, -1, 1)), shares


def ranks(values_P: np.ndarray) -> np.ndarray:
    """The share of values below each, in (0, 1); equal values share the middle of their ranks."""
    ordered = np.sort(values_P)
    return (np.searchsorted(ordered, values_P) + np.searchsorted(ordered, values_P, "right")) / (2 * len(values_P))
