"""Codes of the exported images, for readers that want these stored too: made in batches, each batch once.

codes/images/<episode>/00000064.npy      int16 (up to 64, number of codes): selected pairs from the 64th on

Codes are of an image as a reader of its JPEG file decodes it, not of the frame before compression: so they are those
that the reader itself would compute, and the same whether the images are written or not.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from lara_tokenizer.data import Episode
from lara_tokenizer.export.folder import ExportFolder
from lara_tokenizer.export.images import encode_jpeg, frame_file, image_folder
from lara_tokenizer.table.reader import TokenSequence

_BATCH = 64  # images; at most so many are encoded again after a kill
_AT_ONCE = 16  # images in memory
_READERS = 4  # threads that decode JPEG: one cannot keep a GPU busy

# Given frame indices: the files of their images, or their pixels.
_ImageSource = Callable[[np.ndarray], Iterable[Path | np.ndarray]]


class VisionTokenizer(Protocol):
    """A model that turns images into codes.

    Attributes:
        identity: everything that decides the codes, as plain JSON.
        codebook_size: codes are 0 to codebook_size - 1.
        num_codes: count of codes per image.
    """

    @property
    def identity(self) -> Mapping[str, Any]: ...

    @property
    def codebook_size(self) -> int: ...

    @property
    def num_codes(self) -> int: ...

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Integers (n, num_codes) of RGB frames uint8 (n, H, W, 3)."""
        ...


class VisionCodes:
    """The codes of the images of an export in progress.

    Args:
        folder: records which batches are done.
        tokenizer: called in this process.
    """

    def __init__(self, folder: ExportFolder, tokenizer: VisionTokenizer) -> None:
        self._folder = folder
        self._tokenizer = tokenizer
        self._path = folder.path / "codes"

    def write(
        self, sequences: Iterable[tuple[Episode, TokenSequence]], images: bool, show: Callable[[int], object]
    ) -> None:
        """Make the codes that are missing.

        Args:
            sequences: with the episodes to read frames from.
            images: whether the folder contains the images; else frames are decoded, and compressed in memory.
            show: called with the count of images of each batch.

        Raises:
            ValueError: the tokenizer returns other codes than it declares.
            EpisodeReadError: an episode cannot be read.
        """
        with ThreadPoolExecutor(_READERS) as pool:
            for episode, sequence in sequences:
                source = partial(self._image_files, sequence) if images else partial(episode.frames, sequence.camera)
                for start, frames in _batches(sequence):
                    part = json.dumps(["codes", sequence.episode, sequence.camera, start])
                    file = self._file(sequence, start)
                    if not self._folder.is_done(part, [file]):
                        self._write_batch(file, frames, source, pool)
                        self._folder.mark_done(part, [file])
                    show(len(frames))
                episode.close()

    def of(self, sequence: TokenSequence) -> Iterator[list[int]]:
        """The codes of each selected pair, in the order of frames."""
        for start, _ in _batches(sequence):
            yield from np.load(self._file(sequence, start)).tolist()

    def remove(self) -> None:
        """Remove the files that were written for a restart."""
        shutil.rmtree(self._path, ignore_errors=True)

    def _write_batch(self, file: Path, frames: np.ndarray, source: _ImageSource, pool: ThreadPoolExecutor) -> None:
        codes = []
        for first in range(0, len(frames), _AT_ONCE):
            images = pool.map(_as_read, source(frames[first : first + _AT_ONCE]))
            codes.append(self._codes(np.stack(list(images))))
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, np.concatenate(codes).astype(np.int16))

    def _codes(self, images: np.ndarray) -> np.ndarray:
        codes = self._tokenizer(images)
        shape, size = (len(images), self._tokenizer.num_codes), self._tokenizer.codebook_size
        if codes.shape != shape or codes.dtype.kind not in "iu" or codes.min() < 0 or codes.max() >= size:
            raise ValueError(
                f"the vision tokenizer gave {codes.dtype} {codes.shape}, from {codes.min()} to {codes.max()}: takes "
                f"integers {shape}, 0 to {size - 1}"
            )
        return codes

    def _image_files(self, sequence: TokenSequence, frames: np.ndarray) -> list[Path]:
        """The files of frames that were written."""
        path = self._folder.path / image_folder(sequence.episode, sequence.camera)
        return [path / frame_file(frame) for frame in frames.tolist()]

    def _file(self, sequence: TokenSequence, start: int) -> Path:
        return self._path / image_folder(sequence.episode, sequence.camera) / f"{start:08d}.npy"


def _as_read(image: Path | np.ndarray) -> np.ndarray:
    """The pixels uint8 (H, W, 3) that a reader decodes, of a JPEG file or of a frame that could have become one."""
    with Image.open(image if isinstance(image, Path) else io.BytesIO(encode_jpeg(image))) as opened:
        return np.asarray(opened)


def _batches(sequence: TokenSequence) -> Iterator[tuple[int, np.ndarray]]:
    """The start of each batch among the selected pairs, and its frame indices."""
    frames = sequence.frames[sequence.selected]
    for start in range(0, len(frames), _BATCH):
        yield start, frames[start : start + _BATCH]
