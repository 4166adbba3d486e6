"""Pictures of a tokenizer on real clips: decoded futures, and what single codes do.

Nothing in them is chosen by hand: `chosen_pairs` and `chosen_codes` say by which rule. Shape suffixes: P pairs, S side
of a frame in pixels, N positions of codes, G cells along a side of a flow field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lara_lam.drawing import arrows, grid, on_canvas, save
from lara_lam.training import origin
from lara_tokenizer.data import Stride, load_episodes
from lara_tokenizer.evaluate.dataset import PairSet, read_pairs
from lara_tokenizer.evaluate.encoding import EncodedSet, decode_frames, encode_frames, encode_pairs
from lara_tokenizer.motion import CELLS, optical_flow

PAIRS = 16  # of a clip
CODES = 8  # shown
LEAST = 0.01  # share of the pairs that a shown code has
ALIKE = 0.7  # cosine of two codes' flow, above which one is not shown
FUTURES, CODES_SHEET = "lara-lam-futures.png", "lara-lam-codes.png"


@dataclass(frozen=True, slots=True)
class Clips:
    """Pairs of clips, encoded."""

    origins: list[dict[str, str]]  # by episode index: the row of the clip in the manifest
    pairs: PairSet
    encoded: EncodedSet
    flow_PGG2: np.ndarray  # dense flow, in pixels of a frame of 128

    @property
    def motion_P(self) -> np.ndarray:
        """Mean length of the flow."""
        return np.linalg.norm(self.flow_PGG2, axis=-1).mean((1, 2))


def draw(model: Any, processor: Any, sources: Sequence[str], folder: Path) -> list[dict[str, str]]:
    """Write `FUTURES` and `CODES_SHEET` into a folder; returns origin and licence of the clips that they show."""
    clips = read_clips(model, processor, sources)
    shown = chosen_pairs(model, processor, clips)
    codes = chosen_codes(clips)
    examples = [example(clips, *each) for each in codes]
    folder.mkdir(parents=True, exist_ok=True)
    save(futures(model, processor, clips, shown), folder / FUTURES)
    save(single_codes(model, processor, clips, codes, examples), folder / CODES_SHEET)
    rows = [clips.origins[clips.pairs.episodes[pair]] for pair in (*shown, *examples)]
    found = {row["repo"]: {"repository": row["repo"], "licence": row["licence"]} for row in rows}
    return list(found.values())


@torch.no_grad()
def read_clips(model: Any, processor: Any, sources: Sequence[str]) -> Clips:
    """The pairs of all clips, at the model's first stride."""
    episodes = load_episodes(list(sources))
    dataset = read_pairs(episodes, processor, Stride.parse(model.config.strides[0]), PAIRS)
    pairs = dataset.pairs[dataset.camera]
    assert pairs.grey is not None
    flow = optical_flow(pairs.grey[pairs.now], pairs.grey[pairs.future]).reshape(-1, CELLS, CELLS, 2)
    origins = [origin(Path(episode.files()[0])) for episode in episodes]
    return Clips(origins, pairs, encode_pairs(model, processor, pairs), flow)


@torch.no_grad()
def chosen_pairs(model: Any, processor: Any, clips: Clips) -> list[int]:
    """A typical pair of each folder of clips: of its quarter with most motion, the one of median gain over copying."""
    folders = np.array([clips.origins[episode]["clip"].partition("/")[0] for episode in clips.pairs.episodes])
    chosen = []
    for folder in dict.fromkeys(folders):
        rows = np.flatnonzero(folders == folder)
        rows = rows[clips.motion_P[rows] >= np.quantile(clips.motion_P[rows], 0.75)]
        now, future = clips.pairs.tensors(rows)
        steady = processor.steady_future(now, future).float() / 255
        decoded = decode_frames(model, processor, now, clips.encoded.quantized_latents[rows]).cpu()
        errors, copying = ((each - steady).square().mean((1, 2, 3)) for each in (decoded, now.float() / 255))
        gain = 1 - errors / copying.clamp(min=1e-6)
        chosen.append(int(rows[gain.argsort()[len(rows) // 2]]))
    return chosen


def chosen_codes(clips: Clips) -> list[tuple[int, int]]:
    """(position, code): those with the most motion in sum over their pairs, each of another direction."""
    codes_PN = clips.encoded.codes.numpy()
    typical = clips.flow_PGG2.mean(0)
    candidates = []
    for position in range(codes_PN.shape[1]):
        values, counts = np.unique(codes_PN[:, position], return_counts=True)
        for code in values[counts >= LEAST * len(codes_PN)]:
            flow = clips.flow_PGG2[codes_PN[:, position] == code]
            candidates.append((len(flow) * np.linalg.norm(flow.mean(0) - typical), position, int(code)))
    chosen: list[tuple[int, int]] = []
    fields: list[np.ndarray] = []
    for _, position, code in sorted(candidates, reverse=True):
        field = mean_flow(clips, position, code).flatten()
        field = field / max(float(np.linalg.norm(field)), 1e-6)
        if len(chosen) < CODES and all(field @ other < ALIKE for other in fields):
            chosen.append((position, code))
            fields.append(field)
    return sorted(chosen, key=lambda each: _direction(mean_flow(clips, *each)))


def _direction(field_GG2: np.ndarray) -> float:
    """The angle of the mean flow, so that codes of similar directions stand side by side."""
    x, y = field_GG2.mean((0, 1))
    return float(np.arctan2(y, x))


def mean_flow(clips: Clips, position: int, code: int) -> np.ndarray:
    """Mean flow of the pairs with a code, (G, G, 2)."""
    return clips.flow_PGG2[clips.encoded.codes.numpy()[:, position] == code].mean(0)


def example(clips: Clips, position: int, code: int) -> int:
    """The pair with a code that moves most as all its pairs do in the mean, and least otherwise."""
    own = np.flatnonzero(clips.encoded.codes.numpy()[:, position] == code)
    flows, field = clips.flow_PGG2[own].reshape(len(own), -1), mean_flow(clips, position, code).flatten()
    return int(own[np.argmax(flows @ field / (np.linalg.norm(flows, axis=1) + np.linalg.norm(field)))])


def futures(model: Any, processor: Any, clips: Clips, shown: Sequence[int]) -> Image.Image:
    """Frame t, its true and its decoded future, and the codes between them, two clips a row."""
    now, future = clips.pairs.tensors(list(shown))
    steady = processor.steady_future(now, future)
    decoded = _uint8(decode_frames(model, processor, now, clips.encoded.quantized_latents[list(shown)]))
    images, captions = [], []
    for index, pair in enumerate(shown):
        images += [_image(each[index]) for each in (now, steady, decoded)]
        codes = " ".join(map(str, clips.encoded.codes[pair].tolist()))
        captions += [f"{_robot(clips, pair)}: codes {codes}", "", ""]
    stride = model.config.strides[0].removesuffix("s")
    return grid(images, captions, ["frame t", f"{stride} s later", "decoded from the codes"] * 2, every=3)


@torch.no_grad()
def single_codes(
    model: Any, processor: Any, clips: Clips, codes: Sequence[tuple[int, int]], examples: Sequence[int]
) -> Image.Image:
    """For each code: mean flow of its pairs, one of these pairs, and its frame t decoded with this code alone.

    All other positions then have the codes of a pair that stands still. Arrows are of one scale.
    """
    codes_PN = clips.encoded.codes.numpy()
    fields = np.stack([mean_flow(clips, *each) for each in codes])
    now, future = clips.pairs.tensors(list(examples))
    still_BN = encode_frames(model, processor, now, now).codes
    alone_BN = still_BN.clone()
    for row, (position, code) in enumerate(codes):
        alone_BN[row, position] = code
    pixels = processor.normalize_frames(now).to(model.device)
    before, after = (processor.postprocess(model.decode(pixels, codes=each)) for each in (still_BN, alone_BN))
    moved = optical_flow(_grey(before), _grey(after)).reshape(-1, CELLS, CELLS, 2)
    scale = float(np.linalg.norm(fields, axis=-1).max())
    images, captions = [], []
    for row, (position, code) in enumerate(codes):
        share = (codes_PN[:, position] == code).mean()
        images += [arrows(on_canvas(now.shape[-1]), fields[row], scale), _image(now[row]), _image(future[row])]
        images.append(arrows(Image.fromarray(after[row]), moved[row], scale))
        robot = _robot(clips, examples[row])
        captions += [f"position {position}, code {code} ({100 * share:.1f} % of pairs); here {robot}", "", "", ""]
    heads = ["mean motion of its pairs", "one of these: frame t", "its true future", "by this code alone"]
    return grid(images, captions, heads * 2, every=len(heads))


def _robot(clips: Clips, pair: int) -> str:
    """The first words on the robot of a pair's clip."""
    return clips.origins[clips.pairs.episodes[pair]]["robot"].partition(",")[0]


def _uint8(frames: torch.Tensor) -> torch.Tensor:
    return (frames.clamp(0, 1) * 255).round().byte().cpu()


def _image(frame_3SS: torch.Tensor) -> Image.Image:
    return Image.fromarray(frame_3SS.permute(1, 2, 0).numpy())


def _grey(images: Any) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(each).convert("L")) for each in np.asarray(images)])
