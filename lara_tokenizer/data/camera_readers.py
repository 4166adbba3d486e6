"""An episode whose cameras are read each in its own way: a video here, a sequence of images there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from lara_tokenizer.data.episode import FrameIndex, FrameReader


class CameraReaders(ABC):
    """A `FrameReader` made of one for each camera. A subclass says how a camera is opened.

    Readers are made when they are first asked, and travel to other processes with what they have counted.
    """

    def __init__(self) -> None:
        self._readers: dict[str, FrameReader] = {}

    @abstractmethod
    def open_camera(self, camera: str) -> FrameReader:
        """The reader of one camera, called "" in it. Raises EpisodeReadError."""

    def index(self, camera: str) -> FrameIndex:
        """Count and time the camera's frames. Raises EpisodeReadError."""
        return self._reader(camera).index("")

    def frames(self, camera: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, 3) in RGB, in the order asked. Raises EpisodeReadError, and IndexError for one outside."""
        return self._reader(camera).frames("", indices)

    def close(self) -> None:
        """Let go of open files; the next call opens them again."""
        for reader in self._readers.values():
            reader.close()

    def _reader(self, camera: str) -> FrameReader:
        if camera not in self._readers:
            self._readers[camera] = self.open_camera(camera)
        return self._readers[camera]
