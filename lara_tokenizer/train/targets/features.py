"""`TargetFeatures`: features of a frozen vision encoder for every cached frame, computed once and kept beside them.

They are maps of G x G cells, reduced to the principal components of their change within pairs. All depends on the
encoder's weights and the cached frames alone:

    <frame cache>/features-<fingerprint>/components.npy  float32 (V, C), the components; V channels of the encoder
    <frame cache>/features-<fingerprint>/features.f16    float16 (frames, C, G, G), in the order of frames.u8
    <frame cache>/features-<fingerprint>/done.u8         uint8 (frames,): 1 for rows that are computed

Shape suffixes: B frames, S side in pixels, V channels of the encoder, C components, G cells per side.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lara_tokenizer._files import replace
from lara_tokenizer.train.frames import DONE, FrameCache
from lara_tokenizer.train.mixture import Mixture, PairedSequence, StridePairs
from lara_tokenizer.train.sequences import FrameSequence
from lara_tokenizer.train.targets.encoder import TargetEncoder
from lara_tokenizer.train.targets.motion_targets import FEATURE_CHANNELS

logger = logging.getLogger(__name__)

CHUNK = 64  # rows computed together. Its bounds are fixed: the sums of a batch depend on what is in it
SAMPLED_PAIRS = 1024  # for the principal components: 65,536 changes of a cell, with 8 x 8 of them
SAMPLED_GAP = 0.5  # seconds from frame to frame of these pairs
VERSION = 2  # of what is computed: part of the fingerprint


class TargetFeatures:
    """Random access to the features of cached frames; opened lazily, as a `FrameCache` is.

    >>> features = TargetFeatures.build(cache, "facebook/dinov2-small", cells=8)  # doctest: +SKIP
    >>> features.read(np.array([0]), np.array([[3, 8]])).shape                    # doctest: +SKIP
    torch.Size([1, 2, 32, 8, 8])
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int, int], offsets: np.ndarray) -> None:
        self.folder = folder
        self.shape = shape
        self.offsets = offsets
        self._features: np.memmap | None = None

    @property
    def features(self) -> np.memmap:
        """All features: float16 (frames, C, G, G), read only."""
        if self._features is None:
            self._features = np.memmap(self.folder / "features.f16", np.float16, "r", shape=self.shape)
        return self._features

    def read(self, sequences: np.ndarray, frames: np.ndarray) -> Tensor:
        """Read features of frames (B, F) of `sequences` (B,): float16 (B, F, C, G, G)."""
        return torch.from_numpy(np.take(self.features, self.offsets[sequences][:, None] + frames, axis=0))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_features": None}

    @classmethod
    def build(
        cls, cache: FrameCache, encoder: str, cells: int, progress: Callable[[int, int], None] | None = None
    ) -> TargetFeatures:
        """Compute the features that are not there yet; a call after a kill continues where it stopped.

        Args:
            cache: of the frames; several runs may share it, and the features too.
            encoder: folder or Hub id of a vision model that `AutoModel` loads.
            cells: G.
            progress: called as progress(frames done, frames) after each chunk.

        Raises:
            ValueError: a model that gives no map of features.
        """
        network = TargetEncoder.load(encoder, cells)
        content = f"{VERSION} {network.fingerprint()} {cache.fingerprint} {cells}"
        folder = cache.folder / f"features-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
        folder.mkdir(exist_ok=True)
        shape = (cache.shape[0], FEATURE_CHANNELS, cells, cells)
        components_VC = _components(folder, cache, network)
        if not _holds(folder / "features.f16", 2 * int(np.prod(shape))):
            (folder / "done.u8").unlink(missing_ok=True)  # its marks are those of a file that was cut short
        out = _open(folder / "features.f16", np.float16, shape)
        done = _open(folder / "done.u8", np.uint8, shape[:1])
        readable = _readable_rows(cache)
        for first in range(0, len(readable), CHUNK):
            rows = first + np.flatnonzero(readable[first : first + CHUNK])
            if len(rows) and not (done[rows] == DONE).all():
                maps_BVGG = network(torch.from_numpy(cache.frames[rows]))
                out[rows] = torch.einsum("bvij,vc->bcij", maps_BVGG, components_VC).numpy().astype(np.float16)
                out.flush()  # before the mark: marked rows are on the disk
                done[rows] = DONE
                if progress is not None:
                    progress(first + len(rows), len(readable))
        done.flush()
        return cls(folder, shape, cache.offsets)


def _components(folder: Path, cache: FrameCache, network: TargetEncoder) -> Tensor:
    """Principal components (V, C) of the change of features; computed once."""
    file = folder / "components.npy"
    if not file.exists():
        pairs = _sampled_pairs(cache.sequences)
        rows = cache.offsets[pairs.sequence][:, None] + np.stack([pairs.now, pairs.future], 1)
        moments_VV: Tensor | float = 0.0
        for chunk in np.split(rows, range(CHUNK, len(rows), CHUNK)):
            now, future = (network(torch.from_numpy(cache.frames[chunk[:, i]])) for i in range(2))
            changes = (future - now).movedim(1, -1).flatten(0, 2)
            moments_VV = moments_VV + changes.T @ changes
        assert isinstance(moments_VV, Tensor)
        if len(moments_VV) < FEATURE_CHANNELS:
            raise ValueError(
                f"target_encoder: its features have {len(moments_VV)} channels, fewer than the {FEATURE_CHANNELS} that "
                "are kept. Take a larger model."
            )
        variances, directions = torch.linalg.eigh(moments_VV)
        kept = float(variances[-FEATURE_CHANNELS:].sum() / variances.sum())
        logger.info("%s: %d components hold %.2f of the change of features", folder, FEATURE_CHANNELS, kept)
        buffer = io.BytesIO()
        np.save(buffer, directions.flip(1)[:, :FEATURE_CHANNELS].contiguous().numpy())
        unfinished = file.with_suffix(".tmp")
        unfinished.write_bytes(buffer.getvalue())
        replace(unfinished, file)
    return torch.from_numpy(np.load(file))


def _sampled_pairs(sequences: list[FrameSequence]) -> Any:
    """Pairs about half a second apart, every dataset and sequence equally often, whatever the strides of a run."""
    paired = []
    for sequence in sequences:
        if len(sequence.timestamps) > 1:
            period = max(float(np.median(np.diff(sequence.timestamps))), 1e-3)
            gap = min(max(1, round(SAMPLED_GAP / period)), len(sequence.timestamps) - 1)
            paired.append(PairedSequence(sequence, (StridePairs(0, len(sequence.timestamps) - gap, gap),)))
    return Mixture(paired).draw(np.arange(SAMPLED_PAIRS))


def _readable_rows(cache: FrameCache) -> np.ndarray:
    """bool (frames,): rows of the cache that hold a frame; those of a sequence that could not be read do not."""
    readable = np.zeros(cache.shape[0], bool)
    for sequence, offset in zip(cache.sequences, cache.offsets, strict=True):
        readable[offset : offset + len(sequence.timestamps)] = True
    return readable


def _holds(file: Path, size: int) -> bool:
    return file.is_file() and file.stat().st_size == size


def _open(file: Path, kind: Any, shape: tuple[int, ...]) -> np.memmap:
    """The file's array, to write to; zeros where a file is new, or was cut short."""
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    with open(file, "ab") as opened:
        opened.truncate(size)
    return np.memmap(file, kind, "r+", shape=shape)
