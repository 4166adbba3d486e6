"""Contents of the report's sections on codes, decoded frames, and z; `page.html.j2` draws them.

Shape suffixes: P pairs, N positions, F width of flattened z, B pairs of a batch, D width of a latent token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange

from lara_tokenizer.evaluate.encoding import decode_frames
from lara_tokenizer.evaluate.report.charts import Scatter, scatter
from lara_tokenizer.evaluate.report.examples import EvaluatedModel, moving_pairs, spread_over, transfer_pairs
from lara_tokenizer.evaluate.report.images import Image, difference, still, to_frame
from lara_tokenizer.evaluate.ridge import STD_FLOOR

CODES = 6  # shown of the most used, and as many of the least used
CLIPS = 6  # of each code
EXAMPLES = 8  # reconstructions
SOURCES, SCENES = 6, 5  # rows and columns of the table of transfers
BRIGHTEST = 99.5  # percentile of the change that has the brightest colour
POINTS = 600  # of a scatter plot
PANELS = 6  # scatter plots


@dataclass(frozen=True, slots=True)
class ImageRow:
    """A row of a table of images."""

    label: str
    images: Sequence[Image | str]


@dataclass(frozen=True, slots=True)
class CodeClips:
    """Clips of pairs with the same code at the same position."""

    code: int
    position: int
    pairs: int
    clips: list[Image]


def code_clips(model: EvaluatedModel) -> dict[str, list[CodeClips]]:
    """Clips of the most and of the least used codes, by heading; {} for a continuous bottleneck."""
    if model.encoded.codes is None:
        return {}
    codes_PN = model.encoded.codes.cpu().numpy()
    most, least = most_and_least_used(codes_PN)
    headings = {"Most used": most, "Least used": least}
    return {title: [_clips_of(model, codes_PN, code) for code in codes] for title, codes in headings.items() if codes}


def most_and_least_used(codes_PN: np.ndarray) -> tuple[list[int], list[int]]:
    """The most and the least used codes of those that occur, most used first; no code is in both."""
    used, counts = np.unique(codes_PN, return_counts=True)
    order = [int(code) for code in used[np.argsort(-counts, kind="stable")]]
    rest = order[CODES:]
    return order[:CODES], rest[-CODES:]


def _clips_of(model: EvaluatedModel, codes_PN: np.ndarray, code: int) -> CodeClips:
    hits_PN = codes_PN == code
    position = int(hits_PN.sum(0).argmax())
    pairs = np.flatnonzero(hits_PN[:, position])
    shown = [int(pair) for pair in spread_over(pairs, CLIPS)]
    clips = [Image(model.frames(pair), f"Code {code}, {model.describe(pair)}") for pair in shown]
    return CodeClips(code, position, len(pairs), clips)


def decode_pairs(model: EvaluatedModel, frames: np.ndarray, latents: torch.Tensor) -> list[np.ndarray]:
    """Decoded frames, uint8 (S, S, 3) each, from rows of the pairs' frames and quantized z (B, N, D)."""
    now = torch.from_numpy(model.pairs.frames[frames])
    return [to_frame(frame) for frame in decode_frames(model.model, model.processor, now, latents).cpu().numpy()]


@dataclass(frozen=True, slots=True)
class Reconstructions:
    """Decoded frames beside true ones, and their errors."""

    rows: list[ImageRow]
    brightest: float  # the change with the brightest colour, as a share of the full range


def reconstructions(model: EvaluatedModel) -> Reconstructions:
    """Frame t, the true frame t+C, decoded with the pair's own and with another pair's codes, change, and error."""
    pairs, latents = model.pairs, model.encoded.quantized_latents
    chosen = spread_over(moving_pairs(pairs), EXAMPLES)
    # Half the dataset away: another episode, unless there is only one.
    others = (chosen + len(pairs) // 2) % len(pairs)
    with_own, with_other = (decode_pairs(model, pairs.now[chosen], latents[rows]) for rows in (chosen, others))
    frames = [model.frames(int(pair)) for pair in chosen]
    changes = [np.abs(future.astype(np.float32) - now).mean(-1) for now, future in frames]
    brightest = max(float(np.percentile(changes, BRIGHTEST)), 1.0)
    rows = []
    for pair, (now, future), own, other in zip(chosen, frames, with_own, with_other, strict=True):
        label = model.describe(int(pair))
        images = [
            still(now, f"Frame t, {label}"),
            still(future, f"Frame t+C, {label}"),
            still(own, f"Decoded with its own codes, {label}"),
            still(other, f"Decoded with another pair's codes, {label}"),
            still(difference(future, now, brightest), f"What changes, {label}"),
            still(difference(future, own, brightest), f"Where the error is, {label}"),
        ]
        rows.append(ImageRow(label, images))
    return Reconstructions(rows, brightest / 255)


def transfers(model: EvaluatedModel) -> list[ImageRow]:
    """The codes of pairs A applied to frames B of other episodes; the first row is B itself."""
    pairs, latents = model.pairs, model.encoded.quantized_latents
    sources, targets = (indices.tolist() for indices in transfer_pairs(pairs, SOURCES, SCENES))
    scenes = [model.frames(pair)[0] for pair in targets]
    top = [still(scene, f"B(t), {model.describe(pair)}") for scene, pair in zip(scenes, targets, strict=True)]
    rows = [ImageRow("B(t)", ["", "", *top])]
    for pair in sources:
        now, future = model.frames(pair)
        decoded = decode_pairs(model, pairs.now[targets], latents[[pair] * len(targets)])
        label = model.describe(pair)
        # Decoded first, so that a page on paper shows it.
        clips = [
            Image([after, before], f"B decoded with the codes of A, {label}")
            for before, after in zip(scenes, decoded, strict=True)
        ]
        rows.append(ImageRow(label, [still(now, f"A(t), {label}"), still(future, f"A(t+C), {label}"), *clips]))
    return rows


@dataclass(frozen=True, slots=True)
class Panel:
    """A scatter plot coloured by one number of the action."""

    name: str  # as the dataset names the number, or its place
    chart: Scatter


@dataclass(frozen=True, slots=True)
class LatentPlots:
    """Scatter plots of z on its first two principal components, one for each of some numbers of the action."""

    panels: list[Panel]
    changing: int  # numbers of the action that change
    points: int
    explained: list[float]  # the share of the variance of both components


def latent_plots(model: EvaluatedModel) -> LatentPlots | None:
    """The plots, or None without actions that change."""
    actions = model.pairs.actions
    changing = np.flatnonzero(actions.std(0) > STD_FLOOR) if actions is not None else np.array([], int)
    if actions is None or not len(changing):
        return None
    points_P2, explained = two_components(rearrange(model.encoded.latents.cpu().numpy(), "p n d -> p (n d)"))
    shown = spread_over(np.arange(len(actions)), POINTS)
    target = model.figures.data.target
    names = [] if target is None else target.names
    panels = []
    for dimension in spread_over(changing, PANELS).tolist():
        name = names[dimension] if len(names) == actions.shape[1] else f"Action dimension {dimension}"
        panels.append(Panel(name, scatter(points_P2[shown], ranks(actions[shown, dimension]), f"z by {name}")))
    return LatentPlots(panels, len(changing), len(shown), explained.tolist())


def two_components(values_PF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two principal components (P, 2) and their shares of the variance; signs are fixed.

    >>> two_components(np.array([[0.0, 0], [1, 0], [2, 0]]))[1]
    array([1., 0.])
    """
    centered = values_PF.astype(np.float64) - values_PF.mean(0)
    variances, directions = np.linalg.eigh(centered.T @ centered)
    directions, shares = directions[:, :-3:-1], variances[:-3:-1].clip(0) / max(variances.sum(), 1e-30)
    # The sign of a component is arbitrary: the largest component of a direction is made positive.
    largest = directions[np.abs(directions).argmax(0), [0, 1]]
    return centered @ (directions * np.where(largest < 0, -1, 1)), shares


def ranks(values_P: np.ndarray) -> np.ndarray:
    """The rank of each value, in (0, 1); equal values share the middle of their ranks."""
    ordered = np.sort(values_P)
    return (np.searchsorted(ordered, values_P) + np.searchsorted(ordered, values_P, "right")) / (2 * len(values_P))
