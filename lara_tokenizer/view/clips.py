"""`Clip`: the moments of one episode and camera that a view shows, and its pictures.

Shape suffixes: M moments, N latent tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import PIL.Image

from lara_tokenizer.data import Episode
from lara_tokenizer.export.images import frame_chunks
from lara_tokenizer.table.reader import TokenSequence


@dataclass(frozen=True, slots=True)
class Clip:
    """One episode as one camera saw it. A moment is a pair of frames, t and t+C, and its codes.

    Attributes:
        text: the instruction, where there is one.
        frames, futures: int (M,), the frames of each moment.
        times, future_times: float64 (M,), in seconds.
        codes: int16 (M, N).
        margins, motions: float32 (M,), `code_margin` and `motion` of the table.
        pictures: int (P,), the frames of all moments, sorted.
        picture_times: float64 (P,), in seconds.
        of_all: count of moments in the table; more than M where not all fit.
    """

    episode: Episode
    camera: str
    text: str | None
    frames: np.ndarray
    futures: np.ndarray
    times: np.ndarray
    future_times: np.ndarray
    codes: np.ndarray
    margins: np.ndarray
    motions: np.ndarray
    pictures: np.ndarray
    picture_times: np.ndarray
    of_all: int

    @classmethod
    def of(cls, episode: Episode, sequence: TokenSequence, rows: np.ndarray) -> Clip:
        """The rows of a sequence, read with its codes."""
        assert sequence.codes is not None
        texts = [text for text in sequence.texts or () if text]
        frames, futures = sequence.frames[rows], sequence.futures[rows]
        times, future_times = sequence.timestamps[rows], sequence.future_timestamps[rows]
        pictures, first = np.unique(np.concatenate([frames, futures]), return_index=True)
        return cls(
            episode=episode,
            camera=sequence.camera,
            text=texts[0] if texts else episode.text,
            frames=frames,
            futures=futures,
            times=times,
            future_times=future_times,
            codes=sequence.codes[rows],
            margins=sequence.margins[rows],
            motions=sequence.motions[rows],
            pictures=pictures,
            picture_times=np.concatenate([times, future_times])[first],
            of_all=int(sequence.selected.sum()),
        )

    @property
    def name(self) -> str:
        """The episode's id, and the camera where it has a name."""
        return f"{self.episode.id} {self.camera}".rstrip()

    def images(self, longest_side: int, file_format: str, **options: Any) -> Iterator[bytes]:
        """The pictures, encoded by Pillow; frames with a longer side are scaled down. Raises EpisodeReadError."""
        try:
            for _, frames in frame_chunks(self.episode, self.camera, self.pictures):
                for frame in frames:
                    image, stream = PIL.Image.fromarray(frame), BytesIO()
                    image.thumbnail((longest_side, longest_side), PIL.Image.Resampling.LANCZOS, reducing_gap=3.0)
                    image.save(stream, file_format, **options)
                    yield stream.getvalue()
        finally:
            self.episode.close()
