"""One call for a model card: a checkpoint on a dataset that it was not trained on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lara_tokenizer import metrics
from lara_tokenizer.data import Stride
from lara_tokenizer.errors import LaraTokenizerError
from lara_tokenizer.evaluate.dataset import ActionEpisode, load_action_episodes
from lara_tokenizer.evaluate.probe import probe_actions
from lara_tokenizer.model import LatentActionModel, LatentActionProcessor

logger = logging.getLogger(__name__)

BATCH = 64


@dataclass(frozen=True, slots=True)
class PairSet:
    """Pairs of one camera: uint8 frames (P, 3, S, S), the sum of each pair's actions (P, A), its episode (P,)."""

    frames: np.ndarray
    future_frames: np.ndarray
    actions: np.ndarray
    episodes: np.ndarray


def evaluate_lam(
    model: LatentActionModel,
    processor: LatentActionProcessor,
    folders: str | Path | Sequence[str | Path],
    *,
    pairs_per_episode: int = 16,
    limit: int | None = None,
    min_test_episodes: int = 60,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Codebook health, use of z by the decoder, and action probes, on LeRobotDataset folders.

    >>> evaluate_lam(model, processor, "mw-heldout")["gain_over_copying"]  # doctest: +SKIP
    0.51

    Pairs are spread evenly over each episode, all cameras, with the model's first stride. The probe takes the first
    camera alone; it is left out, with the reason in `probe_note`, where under `min_test_episodes` would test it.
    `progress(episodes read, episodes)` is called while frames are read.

    Returns one flat dict: pairs, episodes, cameras, stride, z_gain, z_gain_moving, gain_over_copying,
    gain_over_copying_moving, perplexity, perplexity_per_position, dead_codes, used_codes_share, spread, effective_rank,
    and `probe` (see `probe_actions`). Raises ValueError for a folder that cannot be read or has no pair.
    """
    folders = [folders] if isinstance(folders, str | Path) else list(folders)
    episodes = [episode for folder in folders for episode in load_action_episodes(folder, limit)]
    stride = Stride.parse(model.config.strides[0])
    by_camera = _read_pairs(episodes, processor, stride, pairs_per_episode, progress)
    model = model.eval()
    result: dict[str, Any] = {
        "episodes": len(episodes),
        "cameras": list(by_camera),
        "pairs": sum(len(pairs.frames) for pairs in by_camera.values()),
        "stride": stride.text,
        **_reconstruction_and_codes(model, processor, list(by_camera.values()), seed),
    }
    camera, pairs = next(iter(by_camera.items()))
    tests = round(0.2 * len(np.unique(pairs.episodes)))
    if tests < min_test_episodes:
        note = f"{tests} test episodes; the probe asks for {min_test_episodes}, that is {5 * min_test_episodes} in all."
        return {**result, "probe": None, "probe_note": note}
    return {**result, "probe": {"camera": camera, **_probe(model, processor, pairs, seed)}}


def _read_pairs(
    episodes: Sequence[ActionEpisode],
    processor: LatentActionProcessor,
    stride: Stride,
    pairs_per_episode: int,
    progress: Callable[[int, int], None] | None,
) -> dict[str, PairSet]:
    """Decode the frames of the chosen pairs, and only those."""
    found: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray, int]]] = {}
    for done, (number, episode) in enumerate(enumerate(episodes), 1):
        for camera in episode.cameras:
            try:
                pairs = _pairs_of(episode, camera, processor, stride, pairs_per_episode)
            except LaraTokenizerError as error:
                logger.warning("left out: %s", error)
                continue
            if pairs is not None:
                found.setdefault(camera, []).append((*pairs, number))
        if progress is not None:
            progress(done, len(episodes))
    if not found:
        raise ValueError(f"no episode is long enough for a pair {stride.text} apart.")
    return {
        camera: PairSet(
            np.concatenate([now for now, _, _, _ in parts]),
            np.concatenate([future for _, future, _, _ in parts]),
            np.concatenate([actions for _, _, actions, _ in parts]),
            np.concatenate([np.full(len(now), number) for now, _, _, number in parts]),
        )
        for camera, parts in found.items()
    }


def _pairs_of(
    episode: ActionEpisode, camera: str, processor: LatentActionProcessor, stride: Stride, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    video = episode.cameras[camera]
    timestamps = video.timestamps()
    if len(timestamps) != len(episode.actions):
        raise ValueError(f"{video.id}: {len(timestamps)} frames but {len(episode.actions)} actions.")
    anchors = np.arange(len(timestamps))
    future = stride.future_indices(timestamps, anchors)
    anchors, future = anchors[future >= 0], future[future >= 0]
    if not len(anchors):
        return None
    chosen = np.unique(np.linspace(0, len(anchors) - 1, min(count, len(anchors))).round().astype(int))
    anchors, future = anchors[chosen], future[chosen]
    wanted = np.unique(np.concatenate([anchors, future]))
    frames = processor.resize_frames(video.frames("", wanted)).numpy()
    video.close()
    # a_t .. a_{t+C-1}: what was done between the two frames.
    before = np.concatenate([np.zeros((1, episode.actions.shape[1])), episode.actions.cumsum(0)])
    return (
        frames[np.searchsorted(wanted, anchors)],
        frames[np.searchsorted(wanted, future)],
        before[future] - before[anchors],
    )


@torch.no_grad()
def _latents(
    model: LatentActionModel, processor: LatentActionProcessor, pairs: PairSet
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """z, codes and quantized latents of all pairs."""
    parts = []
    for first in range(0, len(pairs.frames), BATCH):
        now, future = (
            processor.normalize_frames(torch.from_numpy(frames[first : first + BATCH])).to(model.device)
            for frames in (pairs.frames, pairs.future_frames)
        )
        out = model.encode(now, future)
        parts.append((out.latents, out.codes, out.quantized_latents))
    latents, codes, quantized = (torch.cat(part) for part in zip(*parts, strict=True))
    return latents, codes, quantized


@torch.no_grad()
def _reconstruction_and_codes(
    model: LatentActionModel, processor: LatentActionProcessor, sets: Sequence[PairSet], seed: int
) -> dict[str, Any]:
    frames = np.concatenate([pairs.frames for pairs in sets])
    future_frames = np.concatenate([pairs.future_frames for pairs in sets])
    latents, codes, quantized = (
        torch.cat(part) for part in zip(*(_latents(model, processor, s) for s in sets), strict=True)
    )
    order = metrics.derangement(len(frames), torch.Generator().manual_seed(seed)).to(quantized.device)
    errors = torch.zeros(3, 2, dtype=torch.float64)  # (own, shuffled, copy) x (all, moving): sums of squared errors
    for first in range(0, len(frames), BATCH):
        rows = slice(first, first + BATCH)
        now, future = (torch.from_numpy(part[rows]).to(model.device) for part in (frames, future_frames))
        pixel_values = processor.normalize_frames(now)
        now, future = now.float() / 255, future.float() / 255
        moving = metrics.moving_mask(now, future)
        own = _unit_range(model.decode(pixel_values, quantized_latents=quantized[rows]), processor)
        shuffled = _unit_range(model.decode(pixel_values, quantized_latents=quantized[order[rows]]), processor)
        for number, prediction in enumerate((own, shuffled, now)):
            squared = (prediction - future).square()
            errors[number, 0] += squared.sum().double().cpu()
            errors[number, 1] += (squared * moving).sum().double().cpu()
    size = model.config.codebook_size
    own_error, shuffled_error, copy_error = errors
    dead = int(metrics.dead_codes(codes, size))
    return {
        "z_gain": float(metrics.gain(own_error[0], shuffled_error[0])),
        "z_gain_moving": float(metrics.gain(own_error[1], shuffled_error[1])),
        "gain_over_copying": float(metrics.gain(own_error[0], copy_error[0])),
        "gain_over_copying_moving": float(metrics.gain(own_error[1], copy_error[1])),
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


def _probe(model: LatentActionModel, processor: LatentActionProcessor, pairs: PairSet, seed: int) -> dict[str, Any]:
    latents, _, quantized = _latents(model, processor, pairs)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        random_model: Any = LatentActionModel(model.config)
    random_model.to(model.device).eval()
    features = {"z": latents, "quantized": quantized, "random_init": _latents(random_model, processor, pairs)[0]}
    return probe_actions(
        {name: value.float().cpu().numpy() for name, value in features.items()},
        pairs.frames,
        pairs.future_frames,
        pairs.actions,
        pairs.episodes,
        seed=seed,
    )
