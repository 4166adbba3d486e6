"""Contents of the report's section on attention: maps of each query, and its share outside the arm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from lara_tokenizer.evaluate.encoding import AttentionMaps, attention_maps, background_share, has_attention_maps
from lara_tokenizer.evaluate.report.examples import EvaluatedModel, moving_pairs, spread_over
from lara_tokenizer.evaluate.report.images import Image, attended, outlined, still, to_frame

EXAMPLES = 4
MEASURED = 64  # pairs over which the background share is averaged, evenly spaced
FRAMES = ("t", "t+C")


@dataclass(frozen=True, slots=True)
class ModelMaps:
    """The attention maps of a checkpoint on the shown pairs."""

    model: EvaluatedModel
    maps: AttentionMaps
    background_shares: list[float]  # the share of each query outside the arm; [] without masks

    @property
    def mean_background_share(self) -> float:
        """The mean over queries."""
        return float(np.mean(self.background_shares))

    @property
    def queries(self) -> int:
        """The number of queries."""
        return self.maps.maps.shape[1]


@dataclass(frozen=True, slots=True)
class PairMaps:
    """A shown pair: its frames, and for each model the maps of each query, frame t above frame t+C."""

    label: str
    frames: list[Image]
    maps: list[list[list[Image]]]


@dataclass(frozen=True, slots=True)
class Attention:
    """Contents of the section."""

    models: list[ModelMaps]
    without_maps: list[EvaluatedModel]
    pairs: list[PairMaps]
    queries: int
    measured: int
    background_area: float | None  # the share of the frames outside the arm; None without masks


def attention(model: EvaluatedModel, compared: EvaluatedModel | None) -> Attention:
    """Maps of both checkpoints on the same pairs, those of `model`."""
    chosen = spread_over(moving_pairs(model.pairs), EXAMPLES)
    measured = spread_over(np.arange(len(model.pairs)), MEASURED)
    both = [each for each in (model, compared) if each is not None]
    models = [
        ModelMaps(each, _maps(each, model, chosen), _background_shares(each, model, measured))
        for each in both
        if has_attention_maps(each.model)
    ]
    area = None
    if model.pairs.masks is not None:
        area = 1 - _masks(model, measured, model.pairs.frames.shape[-1]).float().mean().item()
    return Attention(
        models,
        [each for each in both if not has_attention_maps(each.model)],
        [_pair_maps(model, models, row, int(pair)) for row, pair in enumerate(chosen)] if models else [],
        max((each.queries for each in models), default=0),
        len(measured),
        area,
    )


def _maps(each: EvaluatedModel, model: EvaluatedModel, rows: np.ndarray) -> AttentionMaps:
    """The maps of `each` on pairs of `model`, through its own processor."""
    inputs = each.processor(*model.pairs.tensors(rows)).to(each.model.device)
    return attention_maps(each.model, inputs["pixel_values"], inputs["future_pixel_values"])


def _background_shares(each: EvaluatedModel, model: EvaluatedModel, rows: np.ndarray) -> list[float]:
    if model.pairs.masks is None:
        return []
    masks = _masks(model, rows, each.processor.size["height"])
    return background_share(_maps(each, model, rows).maps.cpu(), masks).mean(0).tolist()


def _masks(model: EvaluatedModel, rows: np.ndarray, size: int) -> torch.Tensor:
    """bool (B, 2, size, size): true on the arm."""
    pairs = model.pairs
    assert pairs.masks is not None
    masks = torch.from_numpy(np.stack([pairs.masks[pairs.now[rows]], pairs.masks[pairs.future[rows]]], 1))
    return torch.nn.functional.interpolate(masks.float(), size=(size, size)) > 0.5


def _pair_maps(model: EvaluatedModel, models: list[ModelMaps], row: int, pair: int) -> PairMaps:
    pairs = model.pairs
    frames: list[np.ndarray] = list(model.frames(pair))
    if pairs.masks is not None:
        rows = (pairs.now[pair], pairs.future[pair])
        frames = [outlined(frame, pairs.masks[index]) for frame, index in zip(frames, rows, strict=True)]
    stills = [still(frame, f"Frame {when}") for frame, when in zip(frames, FRAMES, strict=True)]
    return PairMaps(model.describe(pair), stills, [_query_images(each, model, row, pair) for each in models])


def _query_images(each: ModelMaps, model: EvaluatedModel, row: int, pair: int) -> list[list[Image]]:
    pairs, maps_N2GG = model.pairs, each.maps.maps[row].cpu().numpy()
    frames = torch.from_numpy(pairs.frames[[pairs.now[pair], pairs.future[pair]]])
    resized = [to_frame(frame) for frame in each.model.processor.resize_frames(frames).numpy()]
    return [
        [
            still(attended(frame, map_GG, 1 / maps_2GG.size, float(maps_2GG.max())), f"Query {query} over frame {when}")
            for frame, map_GG, when in zip(resized, maps_2GG, FRAMES, strict=True)
        ]
        for query, maps_2GG in enumerate(maps_N2GG)
    ]
