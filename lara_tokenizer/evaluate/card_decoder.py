"""The card on the decoder: what it makes of its own codes, of another pair's, and of codes moved to another scene."""

from __future__ import annotations

import numpy as np
import torch

from lara_tokenizer.evaluate.card_html import Html, grid, image, note, number, section
from lara_tokenizer.evaluate.encoding import decode_frames
from lara_tokenizer.evaluate.report.examples import Subject, moving_pairs, spread_over, transfer_pairs
from lara_tokenizer.evaluate.report.images import clip, difference, still, to_frame

EXAMPLES = 8
CLIPS, TARGETS = 6, 5  # of the table of transfers
CHOSEN = "Pairs are spread evenly over those that move at least as much as the median pair; nobody picked."
BRIGHTEST = 99.5  # percentile of the change that is shown brightest


def decoded(subject: Subject, frames: np.ndarray, latents: torch.Tensor) -> list[np.ndarray]:
    """What the decoder predicts for frames t, the rows `frames` of the pairs' frames, with quantized z (B, N, D)."""
    now = torch.from_numpy(subject.pairs.frames[frames])
    return [to_frame(frame) for frame in decode_frames(subject.model, subject.processor, now, latents).cpu().numpy()]


def reconstruction_section(subject: Subject) -> Html:
    """Frame t, the true frame t+C, decoded with own and with another pair's codes, and where the error is."""
    pairs, latents = subject.pairs, subject.encoded.quantized_latents
    chosen = spread_over(moving_pairs(pairs), EXAMPLES)
    # Half the dataset away: another episode, unless there is only one.
    others = (chosen + len(pairs.now) // 2) % len(pairs.now)
    own, foreign = (decoded(subject, pairs.now[chosen], latents[rows]) for rows in (chosen, others))
    true = [subject.frames_of(int(pair)) for pair in chosen]
    changes = [np.abs(future.astype(np.float32) - now).mean(-1) for now, future in true]
    full = max(float(np.percentile(changes, BRIGHTEST)), 1.0)
    rows = []
    for pair, (now, future), mine, theirs in zip(map(int, chosen), true, own, foreign, strict=True):
        where = subject.describe(pair)
        rows.append(
            [
                where,
                image(still(now), f"Frame t, {where}"),
                image(still(future), f"Frame t+C, {where}"),
                image(still(mine), f"Decoded with its own codes, {where}"),
                image(still(theirs), f"Decoded with another pair's codes, {where}"),
                image(still(difference(future, now, full)), f"What changes, {where}"),
                image(still(difference(future, mine, full)), f"Where the error is, {where}"),
            ]
        )
    head = [
        "",
        "frame t",
        "true t+C",
        "decoded, own codes",
        "decoded, another pair's",
        "what changes",
        "error, own codes",
    ]
    caption = note(
        "If the frames decoded with another pair's codes look like those with its own, the decoder ignores z. If both "
        "look like frame t, it copies. The last two columns have one scale, from black to pale yellow at "
        f"{number(full / 255)} of the full range: an error as bright as the change means that nothing was "
        f"predicted. {CHOSEN} The other pair is the one half the dataset away."
    )
    return section("reconstructions", "Reconstructions", caption, grid(head, rows, "pictures"))


def transfer_section(subject: Subject) -> Html:
    """z of clip A applied to frame B of another episode."""
    pairs, latents = subject.pairs, subject.encoded.quantized_latents
    sources, targets = transfer_pairs(pairs, CLIPS, TARGETS)
    scenes = [subject.frames_of(int(pair))[0] for pair in targets]
    head = ["clip A", "A(t)", "A(t+C)"]
    top = [
        image(still(scene), f"B(t), {subject.describe(int(pair))}") for scene, pair in zip(scenes, targets, strict=True)
    ]
    rows = [["B(t)", "", "", *top]]
    for pair in map(int, sources):
        now, future = subject.frames_of(pair)
        moved = decoded(subject, pairs.now[targets], latents[[pair] * len(targets)])
        where = subject.describe(pair)
        rows.append(
            [
                where,
                image(still(now), f"A(t), {where}"),
                image(still(future), f"A(t+C), {where}"),
                # Decoded first, so that a page on paper shows it.
                *(
                    image(clip([after, before]), f"B decoded with the codes of A, {where}")
                    for before, after in zip(scenes, moved, strict=True)
                ),
            ]
        )
    head += [f"B {number + 1}" for number in range(len(targets))]
    caption = note(
        "Each row takes the codes of a clip A and applies them to frames B of other episodes; these clips go from B as "
        "decoded to B(t) and back. Codes that name an action move every B as A moves; codes that describe the scene "
        f"paint A into B, and codes without meaning move nothing. {CHOSEN} A from the first half of the episodes, "
        "B from the second."
    )
    return section("transfer", "Latent transfer", caption, grid(head, rows, "pictures"))
