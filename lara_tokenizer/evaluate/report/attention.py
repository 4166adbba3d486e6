"""The card on attention: where each query looks in both frames, and how much of it lies off the arm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from lara_tokenizer.evaluate.attention import AttentionMaps, attention_maps, background_share, has_attention_maps
from lara_tokenizer.evaluate.card_html import Html, grid, image, join, note, number, section, tag
from lara_tokenizer.evaluate.report.examples import Subject, moving_pairs, spread_over
from lara_tokenizer.evaluate.report.images import attended, outlined, still, to_frame

EXAMPLES = 4
MEASURED = 64  # pairs, evenly spread over all, over which the background share is a mean
NO_MAPS = "This model has no attention maps."


@dataclass(frozen=True, slots=True)
class Looked:
    """What a checkpoint looked at: maps of the shown pairs, and the background share of each query, if measured."""

    subject: Subject
    maps: AttentionMaps
    share_N: np.ndarray | None


def attention_section(subject: Subject, other: Subject | None = None) -> Html:
    """Each query over both frames of some pairs; with `other`, both checkpoints on the same pairs."""
    title = "Attention maps"
    pairs = subject.pairs
    chosen = spread_over(moving_pairs(pairs), EXAMPLES)
    asked = [each for each in (subject, other) if each is not None]
    looked = [_look(each, subject, chosen) for each in asked if has_attention_maps(each.model)]
    silent = [
        tag("p", f"{each.name}: {NO_MAPS}", class_="absent") for each in asked if not has_attention_maps(each.model)
    ]
    if not looked:
        return section("attention", title, tag("p", NO_MAPS, class_="absent"))
    parts = [_pair_figure(subject, looked, row, int(pair)) for row, pair in enumerate(chosen)]
    return section(
        "attention", title, _caption(looked, pairs.masks is not None), *silent, *_shares(subject, looked), *parts
    )


def _look(each: Subject, subject: Subject, chosen: np.ndarray) -> Looked:
    """The maps of one checkpoint on the pairs of `subject`, through its own processor."""
    maps = _maps(each, subject, chosen)
    pairs = subject.pairs
    if pairs.masks is None:
        return Looked(each, maps, None)
    measured = spread_over(np.arange(len(pairs.now)), MEASURED)
    masks = _masks(subject, measured, each.processor.size["height"])
    return Looked(each, maps, background_share(_maps(each, subject, measured).maps.cpu(), masks).mean(0).numpy())


def _maps(each: Subject, subject: Subject, rows: np.ndarray) -> AttentionMaps:
    pairs, processor = subject.pairs, each.processor
    now, future = (torch.from_numpy(pairs.frames[side[rows]]) for side in (pairs.now, pairs.future))
    inputs = processor(now, future).to(each.model.device)
    return attention_maps(each.model, inputs["pixel_values"], inputs["future_pixel_values"])


def _masks(subject: Subject, rows: np.ndarray, size: int) -> torch.Tensor:
    """bool (B, 2, size, size): true on the arm."""
    pairs = subject.pairs
    assert pairs.masks is not None
    masks = torch.from_numpy(np.stack([pairs.masks[pairs.now[rows]], pairs.masks[pairs.future[rows]]], 1))
    return torch.nn.functional.interpolate(masks.float(), size=(size, size)) > 0.5


def _caption(looked: list[Looked], masked: bool) -> Html:
    outline = " The blue line is the simulator's mask of the arm." if masked else ""
    on_patches = " and ".join(f"{100 * float(one.maps.on_patches.mean()):.0f} %" for one in looked)
    return note(
        "Each column is a query, its upper picture frame t, its lower one frame t+C; orange patches get more than an "
        "even share of the query's attention, grey ones less (attention rollout over all layers; the strongest patch "
        "of a query is brightest). Queries that look at the arm and at what it moves are what one hopes for; queries "
        f"that look at corners and walls encode the scene or the camera.{outline} {on_patches} of the attention is on "
        "patches at all. Pairs are spread evenly over those that move at least as much as the median pair."
    )


def _shares(subject: Subject, looked: list[Looked]) -> list[Html]:
    """A table of the background share of each query, or why there is none."""
    if subject.pairs.masks is None:
        return [tag("p", "No background share: the dataset has no masks of the arm.", class_="absent")]
    pairs = subject.pairs
    measured = spread_over(np.arange(len(pairs.now)), MEASURED)
    area = 1 - _masks(subject, measured, pairs.frames.shape[-1]).float().mean().item()
    count = max(len(one.share_N) for one in looked if one.share_N is not None)
    head = ["share of attention on the background", "mean", *(f"query {query}" for query in range(count))]
    rows = [["attention spread evenly", number(area), *[""] * count]]
    for one in looked:
        assert one.share_N is not None
        each = [number(float(share)) for share in one.share_N]
        rows.append([one.subject.name, tag("b", number(float(one.share_N.mean()))), *each, *[""] * (count - len(each))])
    return [
        grid(head, rows, "figures"),
        note(
            f"Lower is better; over {len(measured)} pairs spread evenly over the dataset, against the simulator's "
            "masks."
        ),
    ]


def _pair_figure(subject: Subject, looked: list[Looked], row: int, pair: int) -> Html:
    frames = subject.frames_of(pair)
    pairs = subject.pairs
    shown = list(frames)
    if pairs.masks is not None:
        sides = (pairs.now[pair], pairs.future[pair])
        shown = [outlined(frame, pairs.masks[side]) for frame, side in zip(frames, sides, strict=True)]
    first = join(image(still(frame), f"Frame {when}") for frame, when in zip(shown, ("t", "t+C"), strict=True))
    count = max(one.maps.maps.shape[1] for one in looked)
    rows = [[one.subject.name if len(looked) > 1 else "", first, *_queries(one, subject, row, pair)] for one in looked]
    head = ["", "frames", *(f"query {query}" for query in range(count))]
    where = subject.describe(pair)
    return tag("figure", tag("figcaption", where), grid(head, rows, "pictures attention"))


def _queries(one: Looked, subject: Subject, row: int, pair: int) -> list[Html]:
    """For each query its map over frame t above that over frame t+C."""
    pairs, maps_N2GG = subject.pairs, one.maps.maps[row].cpu().numpy()
    resized = one.subject.processor.resize_frames(torch.from_numpy(pairs.frames[[pairs.now[pair], pairs.future[pair]]]))
    frames = [to_frame(frame) for frame in resized.numpy()]
    return [
        join(
            image(
                still(attended(frame, map_GG, 1 / maps_2GG.size, float(maps_2GG.max()))),
                f"Query {query} over frame {when}",
            )
            for frame, map_GG, when in zip(frames, maps_2GG, ("t", "t+C"), strict=True)
        )
        for query, maps_2GG in enumerate(maps_N2GG)
    ]
