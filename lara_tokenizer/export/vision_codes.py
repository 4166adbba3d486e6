"""Codes of the pictures that lines name, for readers that want those stored too; made a piece at a time, each once.

codes/images/<episode>/00000064.npy      int16 (up to 64, number of codes): of the wanted pairs from the 64th on

They are of a picture as a reader of its JPEG file sees it, not of the frame before: so they are those that the reader
would compute, and the same whether the pictures are kept or not. The folder codes/ goes when the lines are written.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from lara_tokenizer.export.folder import ExportFolder
from lara_tokenizer.export.matching import Matched
from lara_tokenizer.export.pictures import JPEG_QUALITY, frame_file, picture_folder
from lara_tokenizer.table.reader import TokenSequence

_PIECE = 64  # pictures; at most so many are coded again after a kill
_AT_ONCE = 16  # pictures in memory
_READERS = 4  # threads that decode JPEG, of which a GPU eats more than one gives

# Given numbers of frames: where their pictures lie, or themselves.
_Source = Callable[[np.ndarray], Iterable[Path | np.ndarray]]


class VisionTokenizer(Protocol):
    """What makes codes of pictures.

    Fields:
        identity: what decides the codes, as plain JSON.
        codebook_size: codes are 0 to codebook_size - 1.
        num_codes: of a picture.
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
    """The codes of an export in progress.

    Args:
        folder: remembers which pieces are done.
        tokenizer: called in this process.
    """

    def __init__(self, folder: ExportFolder, tokenizer: VisionTokenizer) -> None:
        self._folder, self._tokenizer = folder, tokenizer
        self._path = folder.path / "codes"

    def write(self, matched: Matched, images: bool, show: Callable[[int], object] | None) -> None:
        """Make what is missing.

        Args:
            images: the pictures are in the folder already; else frames are decoded, and go through JPEG in memory.
            show: called with the number of pictures of each piece.

        Raises:
            ValueError: the tokenizer gives other codes than it says. EpisodeReadError: an episode cannot be read.
        """
        with ThreadPoolExecutor(_READERS) as pool:
            for episode, track in matched.sequences():
                source = partial(self._pictures, track) if images else partial(episode.frames, track.camera)
                for start, frames in _pieces(track):
                    name = json.dumps(["codes", track.episode, track.camera, start])
                    if not self._folder.is_done(name):
                        self._write_piece(self._file(track, start), frames, source, pool)
                        self._folder.mark_done(name)
                    if show is not None:
                        show(len(frames))
                episode.close()

    def of(self, track: TokenSequence) -> Iterator[list[int]]:
        """Of each wanted pair, in the order of frames."""
        for start, _ in _pieces(track):
            yield from np.load(self._file(track, start)).tolist()

    def remove(self) -> None:
        """What was kept for a restart."""
        shutil.rmtree(self._path, ignore_errors=True)

    def _write_piece(self, file: Path, frames: np.ndarray, source: _Source, pool: ThreadPoolExecutor) -> None:
        codes = []
        for first in range(0, len(frames), _AT_ONCE):
            pictures = pool.map(_as_read, source(frames[first : first + _AT_ONCE]))
            codes.append(self._codes(np.stack(list(pictures))))
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, np.concatenate(codes).astype(np.int16))

    def _codes(self, pictures: np.ndarray) -> np.ndarray:
        codes = self._tokenizer(pictures)
        wanted, size = (len(pictures), self._tokenizer.num_codes), self._tokenizer.codebook_size
        if codes.shape != wanted or codes.dtype.kind not in "iu" or codes.min() < 0 or codes.max() >= size:
            raise ValueError(
                f"the vision tokenizer gave {codes.dtype} {codes.shape}, from {codes.min()} to {codes.max()}: takes "
                f"integers {wanted}, 0 to {size - 1}"
            )
        return codes

    def _pictures(self, track: TokenSequence, frames: np.ndarray) -> list[Path]:
        """The files of frames that were written."""
        path = self._folder.path / picture_folder(track.episode, track.camera)
        return [path / frame_file(frame) for frame in frames.tolist()]

    def _file(self, track: TokenSequence, start: int) -> Path:
        return self._path / picture_folder(track.episode, track.camera) / f"{start:08d}.npy"


def _as_read(picture: Path | np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) of a JPEG file, or of a frame that could have become one."""
    if isinstance(picture, Path):
        with Image.open(picture) as opened:
            return np.asarray(opened)
    file = BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=JPEG_QUALITY)
    with Image.open(file) as opened:
        return np.asarray(opened)


def _pieces(track: TokenSequence) -> Iterator[tuple[int, np.ndarray]]:
    """Where each piece starts, and the numbers of its frames."""
    frames = track.frames[track.selected]
    for start in range(0, len(frames), _PIECE):
        yield start, frames[start : start + _PIECE]
