"""One call for a model card: a checkpoint on a dataset that it was not trained on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lara_tokenizer import metrics
from lara_tokenizer.data import Episode, Stride, load_episodes
from lara_tokenizer.errors import LaraTokenizerError
from lara_tokenizer.evaluate.probe import probe_actions
from lara_tokenizer.model import LatentActionModel, LatentActionProcessor

logger = logging.getLogger(__name__)

BATCH = 64  # pairs through the model at a time


@dataclass(frozen=True, slots=True)
class PairSet:
    """Pairs of one camera: uint8 frames (F, 3, S, S), each once; of each pair the rows of its frames `now` and
    `future` (P,), the sum of its actions (P, A) and the number of its episode (P,)."""

    frames: np.ndarray
    now: np.ndarray
    future: np.ndarray
    actions: np.ndarray
    episodes: np.ndarray


@dataclass(frozen=True, slots=True)
class EncodedSet:
    """z (P, N, D), codes (P, N) and quantized z (P, N, D) of a PairSet."""

    latents: torch.Tensor
    codes: torch.Tensor
    quantized_latents: torch.Tensor


def evaluate_lam(
    model: LatentActionModel,
    processor: LatentActionProcessor,
    folders: str | Path | Sequence[str | Path],
    *,
    pairs_per_episode: int = 32,
    limit: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Codebook health, use of z by the decoder, and action probes, on datasets with actions.

    >>> evaluate_lam(model, processor, "mw-heldout")["gain_over_copying"]  # doctest: +SKIP
    0.51

    Pairs are spread evenly over each episode, with the model's first stride. All cameras count for the codebook and
    the decoder; the probes read the first camera alone. The seed decides which codes are swapped, the folds, the
    resamples and the random model. `progress(episodes read, episodes)` is called while frames are read.

    Returns one flat dict: episodes, cameras, frames, pairs, stride, seed, z_gain, z_gain_moving, gain_over_copying,
    gain_over_copying_moving (errors pooled over all pixels of all pairs), perplexity, perplexity_per_position,
    dead_codes, used_codes_share, spread, effective_rank, and `probe` (see `probe_actions`). Raises ValueError for a
    folder that cannot be read, has no pair, or has too few episodes to probe.
    """
    folders = [folders] if isinstance(folders, str | Path) else list(folders)
    episodes = [episode for folder in folders for episode in load_episodes(folder, cameras="all", limit=limit)]
    if without := [episode.id for episode in episodes if "actions" not in episode.offers]:
        raise ValueError(
            f"{without[0]} has no actions to probe: takes datasets with actions, as LeRobotDataset or RLDS."
        )
    stride = Stride.parse(model.config.strides[0])
    by_camera = _read_pairs(episodes, processor, stride, pairs_per_episode, progress)
    model = model.eval()
    encoded = {camera: _encode(model, processor, pairs) for camera, pairs in by_camera.items()}
    camera, pairs = next(iter(by_camera.items()))
    return {
        "episodes": len(episodes),
        "cameras": list(by_camera),
        "frames": sum(len(pairs.frames) for pairs in by_camera.values()),
        "pairs": sum(len(pairs.now) for pairs in by_camera.values()),
        "stride": stride.text,
        "seed": seed,
        **_reconstruction(model, processor, list(by_camera.values()), list(encoded.values()), seed),
        **_codebook(model, list(encoded.values())),
        "probe": {"camera": camera, **_probe(model, processor, pairs, encoded[camera], episodes, seed)},
    }


def _read_pairs(
    episodes: Sequence[Episode],
    processor: LatentActionProcessor,
    stride: Stride,
    pairs_per_episode: int,
    progress: Callable[[int, int], None] | None,
) -> dict[str, PairSet]:
    """Decode the frames of the chosen pairs, and only those."""
    found: dict[str, list[PairSet]] = {}
    for number, episode in enumerate(episodes):
        for camera in episode.cameras:
            try:
                pairs = _pairs_of(episode, number, camera, processor, stride, pairs_per_episode)
            except LaraTokenizerError as error:
                logger.warning("left out: %s", error)
                continue
            if pairs is not None:
                found.setdefault(camera, []).append(pairs)
        if progress is not None:
            progress(number + 1, len(episodes))
    if not found:
        raise ValueError(f"no episode is long enough for a pair {stride.text} apart.")
    return {camera: _joined(parts) for camera, parts in found.items()}


def _joined(parts: Sequence[PairSet]) -> PairSet:
    first = np.cumsum([0] + [len(part.frames) for part in parts[:-1]])
    return PairSet(
        np.concatenate([part.frames for part in parts]),
        np.concatenate([part.now + offset for part, offset in zip(parts, first, strict=True)]),
        np.concatenate([part.future + offset for part, offset in zip(parts, first, strict=True)]),
        np.concatenate([part.actions for part in parts]),
        np.concatenate([part.episodes for part in parts]),
    )


def _pairs_of(
    episode: Episode, number: int, camera: str, processor: LatentActionProcessor, stride: Stride, count: int
) -> PairSet | None:
    timestamps, signals = episode.timestamps(camera), episode.signals()
    signals.check_length(len(timestamps), episode.id)
    assert signals.actions is not None
    actions = signals.actions.astype(np.float64)
    anchors = np.arange(len(timestamps))
    future = stride.future_indices(timestamps, anchors)
    anchors, future = anchors[future >= 0], future[future >= 0]
    if not len(anchors):
        return None
    chosen = np.unique(np.linspace(0, len(anchors) - 1, min(count, len(anchors))).round().astype(int))
    anchors, future = anchors[chosen], future[chosen]
    wanted = np.unique(np.concatenate([anchors, future]))
    frames = processor.resize_frames(episode.frames(camera, wanted)).numpy()
    episode.close()
    # a_t .. a_{t+C-1}: what was done between the two frames.
    before = np.concatenate([np.zeros((1, actions.shape[1])), actions.cumsum(0)])
    return PairSet(
        frames,
        np.searchsorted(wanted, anchors),
        np.searchsorted(wanted, future),
        before[future] - before[anchors],
        np.full(len(anchors), number),
    )


def _batches(count: int) -> Iterator[slice]:
    return (slice(first, first + BATCH) for first in range(0, count, BATCH))


@torch.no_grad()
def _encode(model: LatentActionModel, processor: LatentActionProcessor, pairs: PairSet) -> EncodedSet:
    parts = []
    for rows in _batches(len(pairs.now)):
        # Neighbouring pairs share frames: each goes through the vision encoder once.
        wanted, where = np.unique(np.stack([pairs.now[rows], pairs.future[rows]]), return_inverse=True)
        pixel_values = processor.normalize_frames(torch.from_numpy(pairs.frames[wanted])).to(model.device)
        features = model.get_frame_features(pixel_values)
        now, future = (features[torch.from_numpy(side)] for side in where.reshape(2, -1))
        out = model.encode(frame_features=now, future_frame_features=future)
        parts.append((out.latents, out.codes, out.quantized_latents))
    return EncodedSet(*(torch.cat(part) for part in zip(*parts, strict=True)))


@torch.no_grad()
def _reconstruction(
    model: LatentActionModel,
    processor: LatentActionProcessor,
    sets: Sequence[PairSet],
    encoded: Sequence[EncodedSet],
    seed: int,
) -> dict[str, float]:
    """What z tells the decoder: squared errors with each pair's own codes, another pair's, and of showing frame t."""
    quantized = torch.cat([part.quantized_latents for part in encoded])
    order = metrics.derangement(len(quantized), torch.Generator().manual_seed(seed)).to(quantized.device)
    others = quantized[order].split([len(pairs.now) for pairs in sets])
    errors = torch.zeros(3, 2, dtype=torch.float64)  # (own, shuffled, copy) x (all pixels, moving ones): sums
    for pairs, own, other in zip(sets, encoded, others, strict=True):
        for rows in _batches(len(pairs.now)):
            now, future = (
                torch.from_numpy(pairs.frames[side[rows]]).to(model.device) for side in (pairs.now, pairs.future)
            )
            pixel_values = processor.normalize_frames(now)
            now, future = now.float() / 255, future.float() / 255
            moving = metrics.moving_mask(now, future)
            decoded = (
                _unit_range(model.decode(pixel_values, quantized_latents=z[rows]), processor)
                for z in (own.quantized_latents, other)
            )
            for number, prediction in enumerate((*decoded, now)):
                squared = (prediction - future).square()
                errors[number, 0] += squared.sum().double().cpu()
                errors[number, 1] += (squared * moving).sum().double().cpu()
    own_error, shuffled_error, copy_error = errors
    return {
        "z_gain": float(metrics.gain(own_error[0], shuffled_error[0])),
        "z_gain_moving": float(metrics.gain(own_error[1], shuffled_error[1])),
        "gain_over_copying": float(metrics.gain(own_error[0], copy_error[0])),
        "gain_over_copying_moving": float(metrics.gain(own_error[1], copy_error[1])),
    }


def _codebook(model: LatentActionModel, encoded: Sequence[EncodedSet]) -> dict[str, float]:
    codes, latents = (torch.cat([getattr(part, name) for part in encoded]) for name in ("codes", "latents"))
    size = model.config.codebook_size
    dead = int(metrics.dead_codes(codes, size))
    return {
        "perplexity": float(metrics.perplexity(codes, size)),
        "perplexity_per_position": float(metrics.perplexity_per_position(codes, size).mean()),
        "dead_codes": dead,
        "used_codes_share": 1 - dead / size,
        "spread": float(metrics.spread(latents)),
        "effective_rank": float(metrics.effective_rank(latents)),
    }


def _unit_range(pixel_values: torch.Tensor, processor: LatentActionProcessor) -> torch.Tensor:
    mean = torch.tensor(processor.image_mean, device=pixel_values.device).view(-1, 1, 1)
    std = torch.tensor(processor.image_std, device=pixel_values.device).view(-1, 1, 1)
    return pixel_values.float() * std + mean


def _probe(
    model: LatentActionModel,
    processor: LatentActionProcessor,
    pairs: PairSet,
    encoded: EncodedSet,
    episodes: Sequence[Episode],
    seed: int,
) -> dict[str, Any]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        random_model: Any = LatentActionModel(model.config)
    random_model.to(model.device).eval()
    features = {
        "z": encoded.latents,
        "quantized": encoded.quantized_latents,
        "random_init": _encode(random_model, processor, pairs).latents,
    }
    return probe_actions(
        {name: value.float().cpu().numpy() for name, value in features.items()},
        pairs.frames[pairs.now],
        pairs.frames[pairs.future],
        pairs.actions,
        pairs.episodes,
        task_E=[episodes[number].text or "" for number in np.unique(pairs.episodes)],
        seed=seed,
    )
