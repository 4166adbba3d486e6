"""`FrameSequence`: one camera of one episode, the unit that training pairs are sampled from."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from lara_tokenizer.data.stride import Stride
from lara_tokenizer.errors import LaraTokenizerError

if TYPE_CHECKING:
    from lara_tokenizer.data import Episode

logger = logging.getLogger(__name__)

SLOWER = (
    0.02  # share by which a camera's median period may fall short of the grid's, and is still no faster: its jitter
)


@dataclass(frozen=True, slots=True)
class FrameSequence:
    """The frames of one camera of one episode, by their timestamps."""

    index: int
    """Position among the sequences of its frame source."""
    dataset: str
    episode: str
    camera: str
    timestamps: np.ndarray
    """float64 (n,), seconds from the first frame."""
    recorded: np.ndarray | None = None
    """int64 (n,), indices of these frames among the episode's own; None for all of them."""
    period: float | None = None
    """Seconds between the points of the grid that the frames were thinned to; None for all frames."""

    def thinned(self, frame_rate: float) -> FrameSequence:
        """The frames nearest to a regular grid of `frame_rate` points a second; itself if it is not recorded faster.

        >>> FrameSequence(0, "", "a", "", np.arange(30) / 30).thinned(10).recorded
        array([ 0,  3,  6,  9, 12, 15, 18, 21, 24, 27])
        """
        period = 1 / frame_rate
        if len(self.timestamps) < 2 or np.median(np.diff(self.timestamps)) > period * (1 - SLOWER):
            return self
        kept = Stride(f"{period:g}s", period, "s").anchors(self.timestamps)
        return replace(self, timestamps=self.timestamps[kept], recorded=kept, period=period)


def list_sequences(episodes: Sequence[Episode], frame_rate: float = 0.0) -> list[FrameSequence]:
    """List every camera of every episode, in order, without decoding a frame.

    A camera whose frames cannot be listed is logged and left out. Raises ValueError if two episodes of one dataset
    share an id, or no camera of a dataset can be read.

    Args:
        episodes: of one or several datasets.
        frame_rate: frames of each camera that are listed a second, at most (see `FrameSequence.thinned`); 0 lists all.
    """
    check_ids(episodes)
    sequences: list[FrameSequence] = []
    for episode in episodes:
        for camera in episode.cameras:
            try:
                timestamps = episode.timestamps(camera)
            except (LaraTokenizerError, OSError) as error:
                logger.warning("left out: %s", error)
                continue
            sequence = FrameSequence(len(sequences), episode.dataset, episode.id, camera, timestamps)
            sequences.append(sequence.thinned(frame_rate) if frame_rate else sequence)
        episode.close()
    check_datasets(episodes, sequences)
    return sequences


def check_ids(episodes: Sequence[Episode]) -> None:
    """Raise ValueError if two episodes of one dataset share an id."""
    seen: set[tuple[str, str]] = set()
    for episode in episodes:
        key = (episode.dataset, episode.id)
        if key in seen:
            of = f" in dataset {episode.dataset!r}" if episode.dataset else ""
            raise ValueError(
                f"two episodes are called {episode.id!r}{of}: load all sources in one call of load_episodes, or give "
                "each its own `dataset`."
            )
        seen.add(key)


def check_datasets(episodes: Sequence[Episode], readable: Sequence[FrameSequence]) -> None:
    """Raise ValueError if every episode of a dataset was left out: a run would go on without a part of its data."""
    missing = {episode.dataset for episode in episodes} - {sequence.dataset for sequence in readable}
    if missing or not readable:
        dataset = min(missing, default="")
        count = sum(episode.dataset == dataset for episode in episodes)
        of = f" of dataset {dataset!r}" if dataset else ""
        raise ValueError(f"none of the {count} episodes{of} could be read; the log above has the reason for each.")
